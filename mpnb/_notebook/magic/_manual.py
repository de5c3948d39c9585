"""The options of ``%mpexport``, its manual, and what the manuals of magics have in common."""

from __future__ import annotations

import argparse
import textwrap
from typing import NoReturn

from IPython.core.error import UsageError

from mpnb._base.text import safe_text
from mpnb._command import options as _options

NAME = "mpexport"
WIDTH, COLUMN = 100, 24

SYNOPSIS = f"""\
%{NAME} FROM TO [options]          fetch the events of these days, wait, return the ExportResult
%{NAME} last N days [options]
%{NAME} --status | --cancel | --retry
%%{NAME} FROM TO [options]         the same, then run the SQL that follows and show its relation
SELECT ... FROM events"""

NOTES = f"""\
$name and {{expression}} stand for values of the notebook where they are a word of their own, not in
quotes. A semicolon at the end of the line only hides the display. The service account comes from
the environment, never from an option: MP_USERNAME, MP_SECRET, MP_PROJECT_ID, and if set MP_REGION
(us, eu, in) and MP_API_BASE_URL.

Wrong arguments are a UsageError. An export that brings nothing is an error of one line. Where some
batches fail, the result comes with a warning, and %{NAME} --retry fetches what is missing.

Examples:
  %load_ext mpnb
  jan = %{NAME} 2026-01-01 2026-01-31
  %{NAME} last 30 days --database mixpanel.duckdb --table events --as recent
  %{NAME} last 7 days -e "Sign Up" -e Purchase --where 'properties["$os"] == "iOS"' --table ios
  %{NAME} $first {{first + timedelta(days=6)}} --table week;
  %{NAME} 2026-01-01 2026-06-30 --chunk-days auto --plan
  %{NAME} last 90 days --table quarter --bg

  %%{NAME} last 30 days --as recent
  SELECT event_name, count(*) AS events FROM events GROUP BY ALL ORDER BY events DESC"""


class Parser(_options.Parser):
    """The parser of a line's words."""

    def error(self, message: str) -> NoReturn:
        """Raise IPython's own error, which is shown as one line."""
        raise UsageError(f"{safe_text(message)} ({self.prog} --help shows what there is)")


def make_parser() -> Parser:
    """Return the parser. Options that are not typed are not set."""
    parser = Parser(prog=f"%{NAME}", add_help=False, argument_default=argparse.SUPPRESS)
    _options.add_export_options(parser)
    parser.set_defaults(days=[])
    parser.add_argument(
        "--as", dest="name", metavar="NAME", help="also assign the ExportResult (with --bg the job) to this name"
    )
    parser.add_argument("--bg", action="store_true", help="return at once, with the ExportJob; the grid goes on")
    parser.add_argument("--strict", action="store_true", help="raise an error if a batch failed")
    actions = parser.add_mutually_exclusive_group()
    actions.add_argument("--plan", action="store_true", help="show what it would take, and send nothing")
    actions.add_argument("--status", action="store_true", help="show how far the latest export is, or what it brought")
    actions.add_argument(
        "--cancel", action="store_true", help="stop the export that --bg started; finished batches are kept"
    )
    actions.add_argument("--retry", action="store_true", help="fetch what failed of the latest export again")
    parser.add_argument("-h", "--help", action="store_true", help="show this")
    return parser


def option_names(parser: Parser) -> dict[str, str]:
    """Return what is typed for each argument, by the name that it is parsed to."""
    return {action.dest: (action.option_strings or ["FROM TO"])[-1] for action in parser._actions}


def manual(parser: Parser, synopsis: str = SYNOPSIS, notes: str = NOTES) -> str:
    """Return the manual, the same on every Python: argparse's own varies."""
    options = []
    for action in parser._actions:
        names = ", ".join(action.option_strings)
        words = " ".join(filter(None, [names, str(action.metavar or ("|".join(action.choices or ())))]))
        help = textwrap.wrap(action.help or "", WIDTH - COLUMN - 2)
        if len(words) >= COLUMN:
            options.append(f"  {words}")
        else:
            options.append(f"  {words:<{COLUMN}}{help.pop(0)}")
        options += [" " * (COLUMN + 2) + line for line in help]
    return "\n".join([synopsis, "", "Options:", *options, "", notes])
