"""Relations that a report returned, shown as pictures by IPython and marimo."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

import duckdb
from duckdb import DuckDBPyRelation

from mpnb._base.relation import _Relation
from mpnb._base.text import safe_text
from mpnb._errors import ClosedError
from mpnb.analysis._pictures import picture
from mpnb.analysis._reports import report_of

log = logging.getLogger("mpnb")

KINDS = (DuckDBPyRelation, _Relation)


def register() -> None:
    """Show reports as pictures from now on, in the session of IPython or marimo that this is, if it is one."""
    if (ipython := sys.modules.get("IPython")) is not None and (shell := ipython.get_ipython()) is not None:
        _in_ipython(shell)
    if (marimo := sys.modules.get("marimo")) is not None and marimo.running_in_notebook():
        _in_marimo()


def html_of(relation: Any) -> str | None:
    """Return the picture of what a report returned, ``None`` for any other relation, which shows itself as before."""
    if report_of(relation) is None:
        return None
    try:
        return picture(relation).html
    except (duckdb.Error, ClosedError) as error:
        # DuckDB's own display meets the same, and says so where the reader looks.
        log.info("a report could not be drawn: %s", safe_text(str(error)))
        return None


def _in_ipython(shell: Any) -> None:
    formatter = shell.display_formatter.formatters["text/html"]
    for kind in KINDS:
        before = formatter.for_type(kind)
        if before is None or before.__module__ != __name__:
            formatter.for_type(kind, _shown_or(before))


def _shown_or(before: Callable[[Any], Any] | None) -> Callable[[Any], Any]:
    """Return a formatter that draws reports, and leaves other relations to whoever showed them before."""

    def shown(relation: Any) -> Any:
        found = html_of(relation)
        return found if found is not None or before is None else before(relation)

    return shown


def _in_marimo() -> None:
    try:
        from marimo._output.formatters.repr_formatters import maybe_get_repr_formatter
        from marimo._output.formatting import FORMATTERS
    except ImportError:  # not a public part of marimo: without it, relations show as text
        return

    def shown(relation: Any) -> tuple[Any, Any]:
        found = html_of(relation)
        if found is not None:
            return "text/html", found
        usual = maybe_get_repr_formatter(relation)
        return ("text/plain", repr(relation)) if usual is None else usual(relation)

    for kind in KINDS:
        FORMATTERS.add_formatter(kind, shown)
