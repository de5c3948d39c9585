"""Tab completion of the magics: options, their values, and names in the database."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import re
from collections.abc import Iterable

import duckdb
from duckdb import DuckDBPyConnection
from IPython.core.completer import CompletionContext, SimpleCompletion, SimpleMatcherResult, context_matcher
from IPython.core.interactiveshell import InteractiveShell

from mpnb._base.sql import quoted as quoted_name
from mpnb._base.sql import run
from mpnb._command import options as _options
from mpnb._errors import MpnbError
from mpnb._notebook.magic._manual import NAME, make_parser
from mpnb._notebook.magic._people import NAME as PEOPLE
from mpnb._notebook.magic._people import make_parser as people_parser
from mpnb._notebook.magic._words import Word, quoted, words
from mpnb._storing import ledger, snapshot
from mpnb._storing.database import Store

_BEFORE = re.compile(rf"\s*(?:[^%=]+=\s*)?%%?({NAME}|{PEOPLE})\s")
# More names would not be looked through.
MOST = 1000


class Completion:
    """Tab completion in one shell. It reads the database and sends nothing."""

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell = shell
        self._magics = {NAME: _actions(make_parser()), PEOPLE: _actions(people_parser())}

    @context_matcher()  # type: ignore[untyped-decorator]
    def matches(self, context: CompletionContext) -> SimpleMatcherResult:
        """Return the matches at the cursor; none where IPython's own completion applies."""
        line = context.text_until_cursor
        magic = _BEFORE.match(line)
        if magic is None:
            return {"completions": []}
        actions = self._magics[magic[1]]
        typed = line[magic.end() :]
        known = list(words(typed))
        word = known.pop() if known and known[-1].end == len(typed) else Word(len(typed), len(typed), "")
        fragment = typed[word.start :]
        quote = fragment[0] if fragment[:1] in ("'", '"') else ""
        begins = fragment[1:] if quote else fragment
        option = actions.get(known[-1].text) if known else None
        if option is not None and option.nargs != 0:
            values = self._values(magic[1], option.dest, option.choices, known)
            found = [quoted(each, quote) for each in values if each.lower().startswith(begins.lower())]
            # Front ends close a quote as soon as it is opened.
            if quote and context.line_with_cursor[context.cursor_position :].startswith(quote):
                found = [each.removesuffix(quote) for each in found]
        else:
            found = [name for name in actions if name.startswith(fragment)] if not quote else []
        return {
            "completions": [SimpleCompletion(each, type="param") for each in found],
            "matched_fragment": fragment,
            "suppress": bool(found),
            "ordered": True,
        }

    def _values(self, magic: str, name: str, choices: Iterable[str] | None, known: list[Word]) -> list[str]:
        if choices:
            return list(choices)
        if name not in ("events", "table"):
            return []
        database = self._typed("database", known)
        table = self._typed("table", known)
        with contextlib.suppress(MpnbError, duckdb.Error, OSError):
            store = Store(database if isinstance(database, DuckDBPyConnection) else str(database), create=False)
            with contextlib.closing(store), store.reading() as cursor:
                if magic == PEOPLE:
                    return snapshot.tables_of(cursor)
                there = ledger.tables_of(cursor) if ledger.exists(cursor) else []
                if name == "table":
                    return there
                for each in there:
                    if each.lower() == str(table).lower():
                        query = (
                            f"SELECT DISTINCT event_name FROM {quoted_name(each)} ORDER BY event_name ASC LIMIT {MOST}"
                        )
                        return [event for (event,) in run(cursor, query)]
        return []

    def _typed(self, name: str, known: list[Word]) -> object:
        """Return the value of an option that was typed on the line, or its default. Evaluates no expression."""
        for before, word in itertools.pairwise(known):
            if before.text == f"--{name}":
                return self._shell.user_ns.get(word.code, word.text) if word.code else word.text
        return _options.PARAMETERS[name].default


def _actions(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    return {name: action for action in parser._actions for name in action.option_strings}
