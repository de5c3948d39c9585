"""``mpnb profiles``: the arguments of ``export_profiles`` as options, and the command."""

from __future__ import annotations

import argparse
import inspect
import re
from datetime import timedelta
from typing import Any

from mpnb import _api as api
from mpnb._base.scalars import brief
from mpnb._command.options import MEMORY_HELP, PARTS, in_shell
from mpnb._command.text import text_table
from mpnb._errors import PlanError
from mpnb._exporting.profiles import ProfilesError, ProfilesResult, facts_of
from mpnb._message import Argument, Phrase, Word, said
from mpnb._planning.request import MODES

PARAMETERS = inspect.signature(api.export_profiles).parameters
EXAMPLES = """\
examples:
  mpnb profiles
  mpnb profiles --where 'properties["plan"] == "pro"' --table pro
  mpnb profiles --properties plan --properties '$city' --mode refresh
  mpnb profiles --plan

MP_USERNAME, MP_SECRET and MP_PROJECT_ID of a service account come from the
environment, and if set MP_REGION (us, eu, in) and MP_API_BASE_URL.

The table has all profiles of one time, or stays as it was: then the same
command again goes on. Exit status: 0 all is there, 2 wrong arguments or the
profiles could not be fetched whole, 75 another process has the database open,
130 interrupted, 143 terminated."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``export_profiles`` to a parser, except those that a command line cannot pass."""

    def add(name: str, help: str, **more: Any) -> None:
        parameter = PARAMETERS.get(name.removeprefix("--").replace("-", "_"))
        usual = None if parameter is None or isinstance(parameter.default, timedelta) else parameter.default
        text = help if usual is None else f"{help} (default: {usual})"
        parser.add_argument(name, default=argparse.SUPPRESS, help=text, **more)

    add("--where", 'Mixpanel\'s filter expression, such as \'properties["plan"] == "pro"\'', metavar="EXPRESSION")
    add("--properties", "fetch this property only; repeat it for more than one", action="append", metavar="NAME")
    add("--cohort", "number of a cohort whose people's profiles to fetch", type=int, metavar="N")
    add("--group", "number of a group key, for the profiles of its groups", metavar="N")
    add("--workspace", "number of the Data View to see the project through", metavar="N")
    add("--database", "the DuckDB file", metavar="FILE")
    add("--table", "the table of profiles in it", metavar="NAME")
    add("--workers", "requests at once, 1 to 100; Mixpanel allows 5", type=int, metavar="N")
    add("--page-size", "profiles per request, 1 to 1000000, or auto", type=_page_size, metavar="N")
    add("--mode", "resume fetches what is old or missing, refresh all again, new needs an empty table", choices=MODES)
    add(
        "--max-age",
        "hours that profiles may be old before they are fetched again (default: 12)",
        type=float,
        metavar="H",
    )
    add("--history", "keep earlier versions, in a table of the same name with _history", action="store_true")
    add("--per-hour", "queries an hour that the project was granted (usual: 60)", type=int, metavar="N")
    add("--per-second", "queries a second that it was granted (usual: 3)", type=int, metavar="N")
    add("--concurrent", "queries at once that it was granted (usual: 5)", type=int, metavar="N")
    add("--spool-folder", "where downloads wait to be written (default: beside the database)", metavar="FOLDER")
    add("--spool-bytes", "how many bytes of them (default: half the free disk, to 10 GB)", type=int, metavar="N")
    add("--memory", MEMORY_HELP, metavar="SIZE")
    parser.add_argument("--plan", action="store_true", help="show what it would do, without a request")


def arguments_of(options: argparse.Namespace) -> dict[str, Any]:
    """
    Convert parsed options to arguments of ``export_profiles``.

    Raises:
        PlanError: a number is out of its range.
    """
    typed = vars(options)
    arguments = {name: value for name, value in typed.items() if name in PARAMETERS}
    if "max_age" in typed:
        try:
            arguments["max_age"] = timedelta(hours=typed["max_age"])
        except (ValueError, OverflowError):
            raise PlanError(Argument("max_age"), f" must be a number of hours, not {brief(typed['max_age'])}") from None
    for name, (kind, parts) in PARTS.items():
        given = {parts[option]: typed[option] for option in parts if option in typed}
        if given:
            usual = {"concurrent": 5} if name == "quota" else {}
            arguments[name] = kind(**{**usual, **given})
    return arguments


def export(options: argparse.Namespace) -> tuple[str, str]:
    """
    Run the command.

    Returns:
        What it prints, and why the profiles could not be fetched whole, ``""`` if they could.
    """
    arguments = arguments_of(options)
    if options.plan:
        return str(api.plan_profiles(**arguments)), ""
    if arguments.get("database") == ":memory:":
        raise PlanError(Argument("database"), " must be a file: what is in memory ends with the command")
    try:
        with api.export_profiles(**arguments) as result:
            return _text(result), ""
    except ProfilesError as error:
        with error.result as result:
            return _text(result), said(error, in_people_shell)


def _text(result: ProfilesResult) -> str:
    """Return a result as text, with its failure table."""
    lines = ["Mixpanel profiles", *(f"  {name:<9} {said(fact, in_people_shell)}" for name, fact in facts_of(result))]
    columns = "page, kind, http_status, attempts, message"
    rows = [[str("" if each is None else each) for each in row] for row in result.failures.project(columns).fetchall()]
    table = text_table(("page", "kind", "HTTP", "attempts", "message"), rows) if rows else ""
    return "\n".join([*lines, "", table]) if rows else "\n".join(lines)


def in_people_shell(word: Word) -> str:
    """Name an argument as it is typed in a shell."""
    if isinstance(word, Phrase) and word.key == "larger pages":
        return "a larger --page-size"
    if isinstance(word, Argument) and word.name in PARAMETERS:
        option = f"--{word.name.replace('_', '-')}"
        return f"{option} {word.value}" if word.value else option
    return in_shell(word)


def _page_size(text: str) -> int | str:
    if text != "auto" and not re.fullmatch("[0-9]{1,9}", text):
        raise argparse.ArgumentTypeError(f"a number of profiles or auto, not {brief(text)}")
    return text if text == "auto" else int(text)
