"""The front end: whether a kernel runs this code, and how to show an output and replace it later."""

from __future__ import annotations

import ast
import itertools
import os
import re
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
STYLE = (HERE / "grid.css").read_text(encoding="utf-8")
Bundle = dict[str, Any]
_numbers = itertools.count(1)


def module(name: str) -> str:
    """Return the code of a part of the panel, with what the parts share."""
    return "".join((HERE / file).read_text(encoding="utf-8") for file in ("common.js", name))


def has_kernel() -> bool:
    """Whether a Jupyter kernel runs this code, so that there may be a front end. Imports nothing."""
    if "ipykernel" not in sys.modules or "IPython" not in sys.modules:
        return False
    from IPython.core.getipython import get_ipython

    return getattr(get_ipython(), "kernel", None) is not None


def show(bundle: Bundle) -> str:
    """Show an output in the running cell, and return the id by which it can be replaced."""
    from IPython.display import display

    display_id = f"mpnb-{os.getpid()}-{next(_numbers)}"
    display(bundle, raw=True, display_id=display_id)  # type: ignore[no-untyped-call]
    return display_id


def swap(display_id: str, bundle: Bundle) -> None:
    """Replace an output that ``show`` has shown. Any thread."""
    from IPython.display import update_display

    update_display(bundle, raw=True, display_id=display_id)  # type: ignore[no-untyped-call]


def on_control(kind: str, hear: Callable[[dict[str, Any]], object]) -> None:
    """
    Hear messages of a kind on the kernel's control channel, in the thread of that, while a cell runs, too.

    A kernel without such handlers hears nothing.
    """
    if not has_kernel():
        return
    from IPython.core.getipython import get_ipython

    handlers = getattr(getattr(get_ipython(), "kernel", None), "control_handlers", {})
    handlers[kind] = lambda _stream, _ident, message: hear(message["content"])


def running_cell() -> str:
    """Return the code of the cell that runs, ``""`` where nobody knows it."""
    return str(_request().get("content", {}).get("code", ""))


# What the latest cell that showed something has shown: the cell by its request's id.
_shown: tuple[str, list[weakref.ref[object]]] = ("", [])


def remember_shown(thing: object) -> None:
    """Remember that the running cell shows a picture of something. In the cell's thread."""
    global _shown
    cell = _request_id()
    if _shown[0] != cell:
        _shown = (cell, [])
    _shown[1].append(weakref.ref(thing))


def has_shown(thing: object) -> bool:
    """Whether the running cell shows a picture of something already. In the cell's thread."""
    cell, things = _shown
    return cell != "" and cell == _request_id() and any(each() is thing for each in things)


def _request() -> dict[str, Any]:
    from IPython.core.getipython import get_ipython

    request: dict[str, Any] = getattr(get_ipython(), "get_parent", dict)()
    return request


def _request_id() -> str:
    return str(_request().get("header", {}).get("msg_id", "")) if has_kernel() else ""


def retry_of(cell: str) -> str:
    """Return the code that retries what a cell exports, ``""`` where the cell does not say where its result will be."""
    if magic := re.search(r"^[^#\n]*(%mpexport|%mpprofiles)\b", cell, re.MULTILINE):
        return f"{magic[1]} --retry"
    try:
        statements = ast.parse(cell).body
    except (SyntaxError, ValueError):
        return ""
    names = [name for each in statements if (name := _assigned(each))]
    return f"{names[0]} = {names[0]}.retry()" if len(names) == 1 else ""


def _assigned(statement: ast.stmt) -> str:
    """Return the name that a statement gives to the result of an export."""
    match statement:
        case (
            ast.Assign(targets=[ast.Name(name)], value=ast.Call(func=called))
            | ast.AnnAssign(target=ast.Name(name), value=ast.Call(func=called))
        ):
            word = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            return name if word in ("export", "export_profiles", "retry") else ""
    return ""
