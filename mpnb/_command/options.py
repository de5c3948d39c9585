"""The arguments of an export as command-line options, shared by all commands that export."""

from __future__ import annotations

import argparse
import difflib
import inspect
import re
from pathlib import Path
from typing import Any

from mpnb._api import export
from mpnb._base.scalars import brief
from mpnb._message import Phrase, Word
from mpnb._mixpanel.credentials import Credentials
from mpnb._mixpanel.quota import Quota
from mpnb._planning.dates import parse_range
from mpnb._planning.options import Spool
from mpnb._planning.request import MODES
from mpnb._storing.database import REJECTED

# Options that are not an argument of export() themselves, by the argument that is made of them.
PARTS: dict[str, tuple[type[Quota] | type[Spool], dict[str, str]]] = {
    "quota": (Quota, {"per_hour": "per_hour", "per_second": "per_second", "concurrent": "concurrent"}),
    "spool": (Spool, {"spool_folder": "folder", "spool_bytes": "max_bytes"}),
}
PARAMETERS = inspect.signature(export).parameters
# The days are no options, and a callback, a secret or an executor cannot be one.
NOT_OPTIONS = frozenset({"from_date", "to_date", "on_batch", "credentials", "executor"})

# What is typed for each argument, and said for each phrase.
OPTIONS = {
    **{name: f"--{name.replace('_', '-')}" for name in PARAMETERS if name not in NOT_OPTIONS and name not in PARTS},
    **{part: f"--{name.replace('_', '-')}" for _, parts in PARTS.values() for name, part in parts.items()},
    "from_date": "FROM",
    "to_date": "TO",
    "credentials": "--project",
}
MEMORY_HELP = "memory to use, as 2GB (default: 600 MB, or a quarter if above 4 GB)"
PHRASES = {
    "the same call": "the same command",
    "this call": "this command",
    "export": "mpnb export",
    "pass credentials": "",
    "or region": "",
    "spool": "--spool-folder FOLDER",
    "rejected": f"the table {REJECTED}",
    "the rest": "",  # it stands below
    "wait": "pass --wait 10m to wait for it, or ",
}


class Parser(argparse.ArgumentParser):
    """A parser without abbreviated options, which suggests the closest one for a misspelled option."""

    def __init__(self, **more: Any) -> None:
        # An abbreviation that works today may be ambiguous tomorrow.
        super().__init__(allow_abbrev=False, **more)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Parse, and raise for an unknown option, with the closest known one."""
        namespace, rest = super().parse_known_args(args, namespace)
        if not rest:
            return namespace, rest
        word = next((word for word in rest if word.startswith("-")), rest[0]).partition("=")[0]
        options = [name for action in self._actions for name in action.option_strings]
        close = difflib.get_close_matches(word, options, n=1, cutoff=0.7)
        if word.startswith("-"):
            self.error(f"unknown option {word}" + (f"; did you mean {close[0]}?" if close else ""))
        self.error(self._surplus(word, options))

    def _surplus(self, word: str, options: list[str]) -> str:
        if any(not action.option_strings for action in self._actions):
            return f"{word} is out of place: put the words before the options"
        is_file = "--database" in options and Path(word).suffix in (".duckdb", ".db")
        meant = f"; did you mean --database {word}?" if is_file else ""
        return f"{word} is out of place: there are options only{meant}"


def add_export_options(parser: argparse.ArgumentParser) -> None:
    """
    Add the arguments of ``export`` to a parser, except those that a command line cannot pass.

    No option takes a secret: it would stay in the history. What is not typed is not set, so that the defaults are
    those of ``export`` itself.
    """

    def add(*names: str, help: str, **more: Any) -> None:
        name = names[-1].removeprefix("--").replace("-", "_")
        default = PARAMETERS[name].default if name in PARAMETERS else None
        text = help if default is None else f"{help} (default: {default})"
        parser.add_argument(*names, default=argparse.SUPPRESS, help=text, **more)

    parser.add_argument(
        "days",
        nargs="*",
        metavar="FROM TO",
        help="first and last day, both inclusive, in UTC: YYYY-MM-DD, today, yesterday or 'N days ago'; "
        "or in place of both: last N days, up to yesterday",
    )
    add("-e", "--events", action="append", metavar="NAME", help="fetch this event only; repeat it for more than one")
    add("--where", metavar="EXPRESSION", help='Mixpanel\'s filter expression, such as \'properties["$os"] == "iOS"\'')
    add("--database", metavar="FILE", help="the DuckDB file")
    add("--table", metavar="NAME", help="the table of events in it")
    add(
        "--project",
        action="append",
        metavar="NAME",
        help="the service account of that name in the environment, such as EU for MP_EU_USERNAME; repeat it for several"
        " projects at once, each into a table of its own: the name of the table, _ and the project's number",
    )
    add(
        "--destination",
        metavar="LAKE",
        help="a folder or s3://, gs://, az:// URL for Parquet, in place of the database",
    )
    add("--workers", type=int, metavar="N", help="requests at once, 1 to 100")
    add(
        "--chunk-days",
        type=_chunk_days,
        metavar="N",
        help="days per request, 1 to 100 (default: 7, in a lake 1), or auto: the fewest that the quota has room for",
    )
    add("--mode", choices=MODES, help="resume fetches what is missing, refresh all again, new needs an empty table")
    add("--late-days", type=int, metavar="N", help="for how many days after a day its events may still arrive")
    add("--per-hour", type=int, metavar="N", help="requests an hour that the project was granted (usual: 60)")
    add("--per-second", type=int, metavar="N", help="requests a second that it was granted (usual: 3)")
    add("--concurrent", type=int, metavar="N", help="requests at once that it was granted (usual: 100)")
    add("--spool-folder", metavar="FOLDER", help="where downloads wait to be written (default: beside the database)")
    add("--spool-bytes", type=int, metavar="N", help="how many bytes of them (default: half the free disk, to 10 GB)")
    add("--memory", metavar="SIZE", help=MEMORY_HELP)


def export_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """
    Convert parsed options to arguments of ``export``.

    Raises:
        PlanError: the days cannot be read, a number is out of its range, or a service account is not there.
    """
    first, last = parse_range(options.days)
    return option_arguments(options) | {"from_date": first, "to_date": last}


def option_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """
    Convert parsed options to arguments of ``export``, without the days.

    Raises:
        PlanError: a number is out of its range, or a service account is not there.
    """
    typed = vars(options)
    arguments = {name: value for name, value in typed.items() if name in PARAMETERS}
    for name, (kind, parts) in PARTS.items():
        given = {parts[option]: typed[option] for option in parts if option in typed}
        if given:
            arguments[name] = kind(**given)
    if projects := [Credentials.from_environment(name) for name in typed.get("project", [])]:
        arguments["credentials"] = projects if len(projects) > 1 else projects[0]
    return arguments


def in_shell(word: Word) -> str:
    """Name an argument as it is typed in a shell, and what to do next in the terms of a command."""
    if isinstance(word, Phrase):
        return PHRASES.get(word.key, word.python)
    option = OPTIONS.get(word.name, word.name)
    return f"{option} {word.value}" if word.value else option


def _chunk_days(text: str) -> int | str:
    if text != "auto" and not re.fullmatch("[0-9]{1,9}", text):
        raise argparse.ArgumentTypeError(f"a number of days or auto, not {brief(text)}")
    return text if text == "auto" else int(text)
