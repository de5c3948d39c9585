"""The panel's export as Python code, to be copied into a cell."""

from __future__ import annotations

import inspect
import json
import os
from typing import Any

from mpnb._api import export
from mpnb._base.scalars import as_int
from mpnb._exporting.handles import variable_of
from mpnb._mixpanel.credentials import Credentials
from mpnb._mixpanel.quota import Quota
from mpnb._planning.options import CHUNK_DAYS, Spool

PARAMETERS = inspect.signature(export).parameters
DEFAULTS = {name: p.default for name, p in PARAMETERS.items() if p.default is not p.empty} | {"chunk_days": CHUNK_DAYS}


def code_of(asked: dict[str, Any], *, from_environment: bool) -> str:
    """
    Return a call of ``mpnb.export()`` with all arguments that differ from their defaults.

    It never holds a secret: comments say which variables it reads that the reader has to set.

    Args:
        asked: arguments of ``mpnb.export()``.
        from_environment: whether the call finds the credentials by itself.
    """
    lines, to_set = ["import mpnb"], []
    words = [_word("from_date", asked["from_date"]), _word("to_date", asked["to_date"])]
    for name, value in asked.items():
        if name in ("from_date", "to_date") or value == DEFAULTS[name] or value is None:
            continue
        if name == "credentials" and from_environment:
            continue
        words.append(f"{name}={_word(name, value)}")
        if isinstance(value, Credentials):
            lines.insert(0, "import os")
            to_set.append(f"# Set MP_SECRET in the environment to the secret of {_word('', value.username)} first:")
            to_set.append('# os.environ["MP_SECRET"] = …')
        elif not _is_known(value):
            to_set.append(f"# Set {_word(name, value)} to what you passed to the panel as {name} first.")
    call = f"result = mpnb.export({', '.join(words)})"
    if len(call) > 100:
        call = "result = mpnb.export(\n" + "".join(f"    {word},\n" for word in words) + ")"
    return "\n".join([*lines, "", *to_set, call])


def _is_known(value: object) -> bool:
    """Whether the word for a value can be read without what only the notebook has."""
    is_plain = isinstance(value, Quota | Spool | os.PathLike | str | list | tuple) or as_int(value) is not None
    return is_plain or variable_of(value) != ""


def _word(name: str, value: object) -> str:
    if isinstance(value, Credentials):
        words = [_word("", value.username), 'os.environ["MP_SECRET"]', _word("", value.project_id)]
        words += [f"region={_word('', value.region)}"] if value.region != "us" else []
        words += [f"base_url={_word('', value.base_url)}"] if value.base_url else []
        return f"mpnb.Credentials({', '.join(words)})"
    if isinstance(value, Quota):
        return f"mpnb.{value!r}"
    if isinstance(value, Spool):
        folder = None if value.folder is None else _word("", os.fspath(value.folder))
        return f"mpnb.Spool({folder}, {value.max_bytes})"
    if isinstance(value, os.PathLike):
        return _word(name, os.fspath(value))
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list | tuple):
        return f"[{', '.join(_word(name, each) for each in value)}]"
    if (number := as_int(value)) is not None:
        return repr(number)
    return variable_of(value) or ("con" if name == "database" else name)
