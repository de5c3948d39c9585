"""``%mpprofiles``: the profiles of a project in one line of a notebook."""

from __future__ import annotations

import argparse
from typing import Any

from duckdb import DuckDBPyRelation
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import needs_local_scope, no_var_expand

from mpnb import _api as api
from mpnb._base.names import event_names
from mpnb._command import people as options_of
from mpnb._command.options import PARTS
from mpnb._command.people import in_people_shell
from mpnb._exporting.profiles import ProfilesCancelled, ProfilesError, ProfilesResult
from mpnb._notebook.magic._command import (
    check_name,
    errors_in_one_line,
    given_database,
    magical,
    parsed,
    warnings_in_one_line,
)
from mpnb._notebook.magic._manual import Parser, manual, option_names
from mpnb._notebook.magic._words import Value
from mpnb._planning.people import PROPERTIES, ProfilesPlan
from mpnb._reading.connected import sql_with

NAME = "mpprofiles"
SYNOPSIS = f"""\
%{NAME} [options]         fetch all profiles of the project, wait, return the ProfilesResult
%{NAME} --retry           fetch again what the latest %{NAME} of this kernel lacks
%%{NAME} [options]        the same, then run the SQL that follows and show its relation
SELECT ... FROM profiles"""
NOTES = f"""\
$name and {{expression}} stand for values of the notebook where they are a word of their own, not in
quotes. A semicolon at the end of the line only hides the display. The service account comes from
the environment, never from an option: MP_USERNAME, MP_SECRET, MP_PROJECT_ID, and if set MP_REGION
(us, eu, in) and MP_API_BASE_URL.

The table has all profiles of one time, or stays as it was: then it is an error of one line, and
%{NAME} --retry goes on with the pages that are there.

Examples:
  people = %{NAME}
  %{NAME} --where 'properties["plan"] == "pro"' --table pro --as pro
  %{NAME} --properties $names --mode refresh
  %{NAME} --plan

  %%{NAME}
  SELECT properties->>'plan' AS plan, count(*) AS people FROM profiles GROUP BY ALL"""
AGAIN = f"%{NAME} --retry"
IN_MAGIC = magical(in_people_shell)
# What goes together with --retry, and with none of the options of a call.
TAKES = {"workers", "memory", "name", *(part for _, parts in PARTS.values() for part in parts)}


def make_parser() -> Parser:
    """Return the parser. Options that are not typed are not set."""
    parser = Parser(prog=f"%{NAME}", add_help=False, argument_default=argparse.SUPPRESS)
    options_of.add_options(parser)
    parser.add_argument("--as", dest="name", metavar="NAME", help="also assign the ProfilesResult to this name")
    parser.add_argument("--retry", action="store_true", help="fetch again what the latest one of this kernel lacks")
    parser.add_argument("-h", "--help", action="store_true", help="show this")
    return parser


PARSER = make_parser()
OPTIONS = option_names(PARSER)


class PeopleCommand:
    """The magic in one shell. Called in the kernel's main thread. It remembers the latest result, for ``--retry``."""

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell = shell
        self._latest: ProfilesResult | None = None

    @no_var_expand
    @needs_local_scope
    def mpprofiles(
        self, line: str, cell: str | None = None, local_ns: dict[str, Any] | None = None
    ) -> ProfilesResult | ProfilesPlan | DuckDBPyRelation | None:
        # The manual is its docstring, see below.
        with errors_in_one_line(IN_MAGIC, (ProfilesError, ProfilesCancelled), f". {AGAIN} goes on"):
            names = {**self._shell.user_ns, **(local_ns or {})}
            options = parsed(PARSER, line, names)
            _check(options, cell)
            if "help" in options:
                print(manual(PARSER, SYNOPSIS, NOTES))
                return None
            if "properties" in options:
                options.properties = [name for each in options.properties for name in _names_of(each)]
            if "plan" in options:
                return api.plan_profiles(**options_of.arguments_of(given_database(options)))
            result = self._fetched(options)
            if "name" in options:
                self._shell.user_ns[options.name] = result
            return result if cell is None else sql_with(result, cell, names)

    mpprofiles.__doc__ = manual(PARSER, SYNOPSIS, NOTES)

    def _fetched(self, options: argparse.Namespace) -> ProfilesResult:
        arguments = options_of.arguments_of(given_database(options))
        try:
            with warnings_in_one_line(IN_MAGIC):
                if "retry" not in options:
                    self._latest = api.export_profiles(**arguments)
                elif self._latest is None:
                    raise UsageError(f"%{NAME} has fetched nothing in this kernel yet")
                else:
                    self._latest = self._latest.retry(**arguments)
        except (ProfilesError, ProfilesCancelled) as error:
            self._latest = error.result
            raise
        return self._latest


def _check(options: argparse.Namespace, cell: str | None) -> None:
    """Raise ``UsageError`` for options that exclude each other."""
    typed = {name for name, value in vars(options).items() if value}
    if "retry" in typed and (others := typed - {"retry"} - TAKES):
        raise UsageError(f"--retry cannot be combined with {OPTIONS[min(others)]}")
    if cell is not None and (early := typed & {"plan", "help"}):
        raise UsageError(f"SQL runs on profiles that are there: leave {OPTIONS[min(early)]} out")
    check_name(options)


def _names_of(word: str) -> list[str]:
    """Return the properties that a word stands for: one, or several from a list or a Series of the notebook."""
    return event_names(word.value if isinstance(word, Value) else str(word), PROPERTIES)
