"""What ``%mpexport`` does: it calls a public function for a line and shows the result in the notebook."""

from __future__ import annotations

import argparse
import contextlib
import keyword
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import duckdb
from duckdb import DuckDBPyConnection, DuckDBPyRelation
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import needs_local_scope, no_var_expand
from IPython.display import display

from mpnb import _api as api
from mpnb._base.names import EVENTS, event_names
from mpnb._command import options as _options
from mpnb._command.options import in_shell
from mpnb._errors import DatabaseError, MpnbError, PlanError, TableError, in_one_line
from mpnb._exporting.handles import (
    ExportCancelled,
    ExportError,
    ExportJob,
    ExportResult,
    call_it,
    failed_line,
    retry_it,
    stopped_line,
)
from mpnb._message import WAIT, Face, said
from mpnb._notebook.magic._manual import NAME, make_parser, manual, option_names
from mpnb._notebook.magic._words import Value, WordError, expanded
from mpnb._planning.plan import ExportPlan
from mpnb._reading.connected import sql_with
from mpnb._showing.live import has_shown
from mpnb._showing.progress import summary_line

Shown = ExportResult | ExportJob | ExportPlan | DuckDBPyRelation | None

PARSER = make_parser()
OPTIONS = option_names(PARSER)
# What goes together: the other options that these take.
_FETCHING = {name for name in OPTIONS if name not in ("days", "plan", "status", "cancel", "retry", "help")}
TAKES = {
    "status": set[str](),
    "cancel": set[str](),
    "plan": _FETCHING | {"days"},
    "retry": {
        *("workers", "memory", "bg", "strict", "name"),
        *(part for _, parts in _options.PARTS.values() for part in parts),
    },
}
AGAIN = f"%{NAME} --retry"
AFTER = f". %{NAME} --status shows what failed, --retry fetches it again"


def magical(face: Face) -> Face:
    """Return a shell's words as a magic has them, which takes no ``--wait``."""
    return lambda word: "" if word == WAIT else face(word)


in_magic = magical(in_shell)


class Command:
    """
    The magic in one shell. Called in the kernel's main thread.

    It remembers the latest export, for ``--status`` and ``--retry``, and those in the background, for ``--cancel``.
    """

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell = shell
        self._latest: ExportJob | ExportResult | None = None
        self._jobs: list[ExportJob] = []

    @no_var_expand
    @needs_local_scope
    def mpexport(self, line: str, cell: str | None = None, local_ns: dict[str, Any] | None = None) -> Shown:
        # The manual is its docstring, see below.
        with errors_in_one_line(in_magic, (ExportError, ExportCancelled), AFTER):
            names = {**self._shell.user_ns, **(local_ns or {})}
            options = self._parse(line, names)
            _check(options, cell)
            if "help" in options:
                print(manual(PARSER))
                return None
            if "status" in options:
                return self._status()
            if "cancel" in options:
                self._cancel()
                return None
            made = self._retry(options) if "retry" in options else self._fetch(options)
            if "name" in options:
                self._shell.user_ns[options.name] = made
                if isinstance(made, ExportResult):
                    call_it(made, options.name)
            if cell is not None and isinstance(made, ExportResult):
                return sql_with(made, cell, names)
            return made

    mpexport.__doc__ = manual(PARSER)

    def _parse(self, line: str, names: dict[str, Any]) -> argparse.Namespace:
        options = parsed(PARSER, line, names)
        if "events" in options:
            options.events = [name for each in options.events for name in _names_of(each)]
        return given_database(options)

    def _fetch(self, options: argparse.Namespace) -> ExportResult | ExportJob | ExportPlan:
        arguments = _options.export_arguments(options)
        if "plan" in options:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # a plan shows its notes
                return api.plan(**arguments)
        with warnings_in_one_line(in_magic):
            if "bg" in options:
                return self._in_background(api.start(**arguments))
            return self._wait(options, lambda: api.export(**arguments))

    def _retry(self, options: argparse.Namespace) -> ExportResult | ExportJob:
        result = self._result()
        arguments = _options.option_arguments(options)
        if "bg" in options:
            return self._in_background(result.start_retry(**arguments))
        return self._wait(options, lambda: result.retry(**arguments))

    def _wait(self, options: argparse.Namespace, fetch: Callable[[], ExportResult]) -> ExportResult:
        try:
            result = fetch()
        except (ExportError, ExportCancelled) as error:
            self._latest = error.result
            raise
        self._latest = result
        retry_it(result, AGAIN)
        if result.has_failures:
            if "strict" in options:
                result.raise_for_failures()
            if has_shown(result):  # with what failed, and what to type
                return result
            name = getattr(options, "name", None)
            again = f"{name} = {name}.retry()" if name else AGAIN
            _say(f"{said(failed_line(result), in_magic)}. To fetch what is missing: {again}")
        return result

    def _in_background(self, job: ExportJob) -> ExportJob:
        self._latest = job
        self._jobs = [*self._running(), job]
        panel = job.panel()
        panel.retry = AGAIN
        display(panel)  # type: ignore[no-untyped-call]
        return job

    def _running(self) -> list[ExportJob]:
        return [job for job in self._jobs if not job.done()]

    def _status(self) -> ExportResult | None:
        running = self._running()
        for job in running:
            progress = job.progress()
            print(f"{progress.ended:,} of {progress.total:,} batches, {summary_line(progress)}")
        return None if running else self._result()

    def _cancel(self) -> None:
        running = self._running()
        for job in running:
            job.cancel()
        for job in running:
            print(said(stopped_line(job.outcome()), in_magic))
        if not running:
            print("no export runs in the background")

    def _result(self) -> ExportResult:
        if self._latest is None:
            raise UsageError(f"%{NAME} has exported nothing in this kernel yet")
        if isinstance(self._latest, ExportResult):
            return self._latest
        if not self._latest.done():
            raise UsageError(f"the latest export still runs: %{NAME} --status tells how far, --cancel stops it")
        return self._latest.outcome()


def _check(options: argparse.Namespace, cell: str | None) -> None:
    """Raise ``UsageError`` for options that exclude each other."""
    typed = {name for name, value in vars(options).items() if value}
    for action in TAKES.keys() & typed:
        if others := typed - {action} - TAKES[action]:
            raise UsageError(f"{OPTIONS[action]} cannot be combined with {OPTIONS[min(others)]}")
    if "bg" in typed and (both := typed & {"plan", "strict"}):
        raise UsageError(f"{OPTIONS[min(both)]} cannot be combined with --bg")
    if cell is not None and (early := typed & {"bg", "plan", "status", "cancel", "help"}):
        raise UsageError(f"SQL runs on an export that is done: leave {OPTIONS[min(early)]} out")
    check_name(options)


def parsed(parser: argparse.ArgumentParser, line: str, names: dict[str, Any]) -> argparse.Namespace:
    """
    Parse a line.

    Args:
        names: what expressions in it may use.

    Raises:
        UsageError: it cannot be parsed.
    """
    try:
        words = expanded(line, names)
    except WordError as error:
        raise UsageError(str(error)) from None
    options: argparse.Namespace = parser.parse_args(words)
    return options


def given_database(options: argparse.Namespace) -> argparse.Namespace:
    """Put a database in its place that an expression stands for: a connection, or a path."""
    if "database" in options and isinstance(options.database, Value):
        given = options.database.value
        options.database = given if isinstance(given, DuckDBPyConnection) else str(given)
    return options


def check_name(options: argparse.Namespace) -> None:
    """Raise ``UsageError`` if ``--as`` is no name of Python's."""
    if "name" in options and (not options.name.isidentifier() or keyword.iskeyword(options.name)):
        raise UsageError(f"--as must be a Python name, not {options.name!r}")


def _names_of(word: str) -> list[str]:
    """Return the events that a word stands for: one, or several from a list, an array or a Series of the notebook."""
    given = word.value if isinstance(word, Value) else word
    return event_names(given if isinstance(given, Iterable) else str(given), EVENTS)


@contextlib.contextmanager
def errors_in_one_line(face: Face, carry: tuple[type[MpnbError], ...], after: str) -> Iterator[None]:
    """
    Show errors without a traceback.

    Arguments that cannot work become ``UsageError``. The others stay what they are, so that Run All, nbclient and
    nbval stop, with the hook by which IPython lets an exception show itself.

    Args:
        face: says messages in the words of the magic.
        carry: errors that carry a result, behind which ``after`` is said.
    """
    try:
        yield
    except (MpnbError, duckdb.Error, KeyboardInterrupt) as error:
        text = said(error, face)
        if isinstance(error, PlanError) and not isinstance(error, DatabaseError | TableError):
            raise UsageError(text) from None
        if isinstance(error, carry):
            text += after
        in_one_line(error, f"{type(error).__name__}: {text}" if text else type(error).__name__)
        raise


@contextlib.contextmanager
def warnings_in_one_line(face: Face) -> Iterator[None]:
    """Show the warnings of a call without the name and line of a file of ours."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def show_here(
            message: Warning | str, category: type[Warning], filename: str, lineno: int, *more: Any, **named: Any
        ) -> None:
            if Path(filename).parent == Path(__file__).parent:
                _say(said(message, face))
            else:
                show(message, category, filename, lineno, *more, **named)

        warnings.showwarning = show_here
        warnings.simplefilter("always", UserWarning)  # each export has warnings of its own
        yield


def _say(text: str) -> None:
    if sys.stderr is not None:
        print(f"mpnb: {text}", file=sys.stderr, flush=True)
