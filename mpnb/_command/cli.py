"""The command ``mpnb``: the public functions, in a shell."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TextIO

from mpnb import _api as api
from mpnb._base.patience import NONE, waiting
from mpnb._base.shell import command_line
from mpnb._base.text import printable, safe_text
from mpnb._command import demo as _demo
from mpnb._command import options as _options
from mpnb._command import people as _people
from mpnb._command import state as _state
from mpnb._command import sync as _sync
from mpnb._command.options import in_shell
from mpnb._command.stopping import Stop, stopping
from mpnb._command.streams import fill_streams, is_reader_gone, let_go, streams
from mpnb._command.text import result_text
from mpnb._command.waiting import add_wait
from mpnb._errors import DatabaseBusyError, PlanError
from mpnb._exporting.handles import ExportError, ExportResult
from mpnb._message import Argument, said
from mpnb._planning.options import DATABASE
from mpnb._planning.plan import text as plan_text
from mpnb._reading.drop import counted, drop
from mpnb._version import __version__
from mpnb.sandbox.__main__ import main as serve_sandbox

DONE, SOME_FAILED, NOTHING, BUSY = 0, 1, 2, 75
# By a signal, whose number is added: 130 is Ctrl-C, 143 SIGTERM, and 141 the end of tools that nobody reads any more.
STOPPED = 128
UNREAD = STOPPED + 13

# Commands that open a database, which another process may have open.
OPENING = ("export", "plan", "profiles", "sync", "check", "status", "sql", "drop")

EXPORT_EXAMPLES = """\
examples:
  mpnb export 2026-01-01 2026-03-31
  mpnb export last 30 days --database mixpanel.duckdb
  mpnb export 2026-01-01 yesterday -e "Sign Up" -e Purchase --table funnel
  mpnb export last 7 days --where 'properties["$os"] == "iOS"' --table ios

MP_USERNAME, MP_SECRET and MP_PROJECT_ID of a service account come from the
environment, and if set MP_REGION (us, eu, in) and MP_API_BASE_URL.

The same command again fetches what is missing, and the days of which late
events may still have arrived. Exit status: 0 all is there, 1 some batches
failed, 2 wrong arguments or nothing exported, 75 another process has the
database open, 130 interrupted, 143 terminated."""

PLAN_EXAMPLES = """\
examples:
  mpnb plan 2026-01-01 2026-03-31
  mpnb plan last 365 days --chunk-days auto"""


DROP_EXAMPLES = """\
examples:
  mpnb drop events
  mpnb drop test --database analysis.duckdb --yes

The next export into the table starts fresh. The file does not get smaller: its
space is used again."""


class Parser(_options.Parser):
    """A parser that prints an error as one line and exits with status 2."""

    def __init__(self, **more: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **more)

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with status 2."""
        self.exit(NOTHING, f"{self.prog}: {safe_text(message)} ({self.prog} --help shows what there is)\n")


def run() -> NoReturn:
    """Run the console script, and exit with its status."""
    fill_streams()
    status = main()
    if status > STOPPED:
        # A connect that is still pending takes ten seconds to give up and writes nothing: nobody waits for it.
        os._exit(status)
    sys.exit(status)


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run a command.

    Args:
        argv: words after ``mpnb``; those of the process without.

    Returns:
        The exit status: 0 all is there, 1 some batches failed or days are missing, 2 wrong arguments or nothing
        exported, 75 another process has the database open, 130 interrupted, 143 terminated, 141 the reader of standard
        output has left.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in streams():
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a Windows pipe has no dashes and boxes
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        warnings.simplefilter("always", UserWarning)
        try:
            status = _run(words)
        except OSError as error:
            if not is_reader_gone(error):
                raise
            status = UNREAD
        except SystemExit:  # after --help, or words that cannot be meant
            if let_go():
                raise
            return UNREAD
    return status if let_go() or status > STOPPED else UNREAD


def _run(words: list[str]) -> int:
    if words[:1] == ["sandbox"]:
        return serve_sandbox(words[1:], prog="mpnb sandbox")
    parser = _parser()
    if not words:  # somebody wants to know what there is
        parser.print_help(sys.stderr)
        return NOTHING
    options = parser.parse_args(words)
    with stopping() as stop:
        return _ended(options, words, stop)


def _ended(options: argparse.Namespace, words: list[str], stop: Stop) -> int:
    """Run a command, say what it raised, and return its exit status."""
    command: Callable[[argparse.Namespace, list[str]], int] = options.command
    try:
        patience = NONE if options.command is _sync_all else getattr(options, "wait", NONE)  # which waits by itself
        return waiting(lambda: command(options, words), patience, lambda text: _say(options.name, text))
    except DatabaseBusyError as error:
        _say(options.name, said(error, options.face))
        return BUSY
    except PlanError as error:
        _say(options.name, said(error, options.face))
        return NOTHING
    except KeyboardInterrupt as error:
        _say(options.name, said(error, options.face) or stop.word)
        return stop.status


def _export(options: argparse.Namespace, words: list[str]) -> int:
    arguments = _options.export_arguments(options)
    if arguments.get("database") == ":memory:":
        raise PlanError(Argument("database"), " must be a file: what is in memory ends with the command")
    try:
        result = api.export(**arguments)
    except ExportError as error:
        with error.result as result:
            print(result_text(result, _again(result, options, words)))
        _say(options.name, said(error, in_shell))
        return NOTHING
    with result:
        print(result_text(result, _again(result, options, words)))
        return SOME_FAILED if result.has_failures else DONE


def _profiles(options: argparse.Namespace, words: list[str]) -> int:
    text, why = _people.export(options)
    print(text)
    if why:
        _say(options.name, why)
    return NOTHING if why else DONE


def _again(result: ExportResult, options: argparse.Namespace, words: list[str]) -> str:
    """Return the command that fetches what failed: the same one, with another mode if that would start over."""
    typed = sys.argv[0]
    program = [sys.executable, "-m", "mpnb"] if typed.endswith("__main__.py") else [typed]
    more: list[str] = []
    if getattr(options, "mode", None) in ("new", "refresh"):
        more = ["--mode", "resume"]  # which fetches what failed, and nothing else
    return command_line(["mpnb"] if shutil.which("mpnb") else program) + " " + printable(command_line([*words, *more]))


def _plan(options: argparse.Namespace, words: list[str]) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a plan shows its notes
        plan = api.plan(**_options.export_arguments(options))
    print(plan_text(plan, in_shell))
    return DONE


def _sync_all(options: argparse.Namespace, words: list[str]) -> int:
    return _sync.run(options)


def _check(options: argparse.Namespace, words: list[str]) -> int:
    return _state.check(options)


def _status(options: argparse.Namespace, words: list[str]) -> int:
    return _state.status(options)


def _sql(options: argparse.Namespace, words: list[str]) -> int:
    return _state.sql(options)


def _drop(options: argparse.Namespace, words: list[str]) -> int:
    which = safe_text(f"table {options.table!r} of {options.database}")
    if not options.yes:
        if not sys.stdin or not sys.stdin.isatty():
            raise PlanError("it deletes a table for good, and there is no terminal to ask on: pass --yes")
        rows, records = counted(options.table, options.database)
        print(f"{rows:,} {records} in {which}. Delete them for good? [y/N] ", end="", flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            _say(options.name, "nothing was deleted")
            return NOTHING
    _, records = counted(options.table, options.database)
    rows = drop(options.table, database=options.database)
    print(f"{which} is gone, with {rows:,} {records}")
    return DONE


def _demonstrate(options: argparse.Namespace, words: list[str]) -> int:
    if options.lab:
        return _demo.open_lab()
    try:
        _demo.run(options.database)
    except KeyboardInterrupt:
        # Not what an export says: there is nothing to go on with.
        raise KeyboardInterrupt from None
    return DONE


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="mpnb",
        description="Export raw events and profiles from Mixpanel into a DuckDB file.",
        epilog="mpnb COMMAND --help says more about each. Nothing to try it on? mpnb demo needs no account.",
    )
    parser.add_argument("--version", action="version", version=f"mpnb {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, function: Callable[..., int], help: str, **more: Any) -> argparse.ArgumentParser:
        described = f"{help[0].upper()}{help[1:]}."
        sub: argparse.ArgumentParser = commands.add_parser(name, help=help, description=described, **more)
        sub.set_defaults(command=function, name=f"mpnb {name}", face=in_shell)
        if name in OPENING:
            add_wait(sub)
        return sub

    _options.add_export_options(
        command("export", _export, "fetch the events of a range of days into a DuckDB table", epilog=EXPORT_EXAMPLES)
    )
    _options.add_export_options(
        command("plan", _plan, "show what an export would do, without a request", epilog=PLAN_EXAMPLES)
    )
    profiles = command(
        "profiles", _profiles, "fetch the profiles of a project into a DuckDB table", epilog=_people.EXAMPLES
    )
    profiles.set_defaults(face=_people.in_people_shell)
    _people.add_options(profiles)
    _sync.add_options(
        command("sync", _sync_all, "bring every table up to date that a file names", epilog=_sync.EXAMPLES)
    )
    _state.add_check(
        command("check", _check, "say whether every day is there and nothing is wrong", epilog=_state.CHECK_EXAMPLES)
    )
    _state.add_status(
        command("status", _status, "show what a database has, table by table", epilog=_state.STATUS_EXAMPLES)
    )
    _state.add_sql(command("sql", _sql, "run one query, and print or write what it finds", epilog=_state.SQL_EXAMPLES))
    drop = command(
        "drop",
        _drop,
        "delete a table of events or profiles, with everything that mpnb stores about it",
        epilog=DROP_EXAMPLES,
    )
    drop.add_argument("table", metavar="TABLE", help="the table")
    drop.add_argument("--database", metavar="FILE", default=DATABASE, help=f"the DuckDB file (default: {DATABASE})")
    drop.add_argument("--yes", action="store_true", help="do not ask; needed where no terminal is there to answer")
    demo = command("demo", _demonstrate, "export made-up events, with faults on the way, without an account")
    one = demo.add_mutually_exclusive_group()
    one.add_argument(
        "--database", metavar="FILE", help="a new DuckDB file to keep (default: a temporary one, deleted at the end)"
    )
    one.add_argument("--lab", action="store_true", help="open the quickstart notebook in JupyterLab instead")
    # Only to be listed: it has a parser of its own, see _run().
    commands.add_parser("sandbox", help="serve made-up events as Mixpanel's export API does, until Ctrl-C")
    return parser


def _say(name: str, text: str) -> None:
    if sys.stderr is not None:  # print() would take standard output for none
        with contextlib.suppress(OSError):  # nobody reads it; the status says it as well
            print(f"{name}: {text}", file=sys.stderr, flush=True)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    _say("mpnb", said(message, in_shell))
