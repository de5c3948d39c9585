"""
Mutants: mpnb with one of its own precautions taken out, which the campaign has to catch.

Each changes the modules of the process that it is called in, for good.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import duckdb
import httpcore

import mpnb._storing.ledger
import mpnb._storing.snapshot
import mpnb._storing.table
from mpnb._base.sql import quoted
from mpnb._fetching.verify import Body, Verifier
from mpnb._planning.profiles import Profiles
from mpnb._storing.snapshot import Publishing


def believe_every_end() -> None:
    """Take a body for whole wherever it ends."""
    whole = httpcore.Response.iter_stream

    def iter_stream(self: httpcore.Response) -> Iterator[bytes]:
        try:
            yield from whole(self)
        except httpcore.RemoteProtocolError:
            return

    httpcore.Response.iter_stream = iter_stream  # type: ignore[method-assign]
    Verifier.finish = lambda self: Body(  # type: ignore[method-assign]
        self._gzip, self._size, self._json_size, self._newlines
    )


def drop_what_is_no_event() -> None:
    """Leave lines out without a word."""
    insert = mpnb._storing.table.insert_lines

    def insert_lines(cursor: Any, into: Any, table: str, resource: Any, batch_id: int, lines: Any) -> tuple[int, int]:
        rows, _ = insert(cursor, into, table, resource, batch_id, lines)
        cursor.execute("DELETE FROM mpnb_rejected WHERE batch_id = ?", [batch_id]).fetchall()
        return rows, 0

    mpnb._storing.table.insert_lines = insert_lines


def keep_what_is_replaced() -> None:
    """Add a refreshed batch to the old one."""
    mpnb._storing.ledger.forget = lambda *_: None


def commit_in_two() -> None:
    """Commit the rows of a batch before its ledger row."""
    landed: Any = mpnb._storing.ledger.landed

    def landed_apart(cursor: Any, table: str, arrivals: Any) -> Any:
        mpnb._storing.table.run(cursor, "COMMIT")  # type: ignore[attr-defined]
        mpnb._storing.table.run(cursor, "BEGIN")  # type: ignore[attr-defined]
        if any(arrival.rows % 7 == 3 for arrival in arrivals):
            raise duckdb.IOException("made up")
        return landed(cursor, table, arrivals)

    mpnb._storing.ledger.landed = landed_apart


def believe_every_page() -> None:
    """Take each page for whole, and publish what has come."""
    Profiles.fault = lambda self, batch, lines, envelope: None  # type: ignore[method-assign]

    def proven(self: Publishing, cursor: Any, session: Any, again: int) -> tuple[int, int]:
        rows = f"SELECT count(*) FROM {quoted(self._staged)} WHERE batch_id <> {again}"
        return cursor.execute(rows).fetchall()[0][0], 0

    Publishing._proven = proven  # type: ignore[method-assign]


def keep_what_is_staged() -> None:
    """Leave the pages of a session in place where another begins."""
    mpnb._storing.snapshot.drop_staged = lambda *_: None


# Of exports of profiles alone.
PEOPLE = {each.__name__: each for each in (believe_every_page, keep_what_is_staged)}
MUTANTS: dict[str, Callable[[], None]] = {
    each.__name__: each for each in (believe_every_end, drop_what_is_no_event, keep_what_is_replaced, commit_in_two)
} | PEOPLE
