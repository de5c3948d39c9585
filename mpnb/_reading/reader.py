"""The reader of a result: relations over some days of one table, on a database that several results share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from typing import Any

import duckdb
from duckdb import DuckDBPyConnection, DuckDBPyRelation

from mpnb._base.names import closest
from mpnb._base.origin import Origin, remember
from mpnb._base.relation import Database, related, relation
from mpnb._base.sql import columns_of, exact, quoted, run
from mpnb._errors import TableError
from mpnb._planning.request import Source
from mpnb._reading.offset import time_offset
from mpnb._reading.selection import Selection
from mpnb._reading.zone import zone_of
from mpnb._storing.database import LEDGER, REJECTED, Store
from mpnb._storing.ledger import HELD, ended_exports, source_of


@dataclass(frozen=True, slots=True)
class Reader:
    """
    A reader of some days of a table. Any thread may call any method.

    Attributes:
        store: the database.
        selection: which table, and which of its days.
    """

    store: Store
    selection: Selection

    @property
    def table(self) -> str:
        """Return the name of the events table."""
        return self.selection.table

    # --- relations ---------------------------------------------------------------------------------------------------

    def relation(
        self, query: str, database: Database | None = None, variables: Mapping[str, Any] | None = None
    ) -> DuckDBPyRelation:
        """
        Return a relation of a query of this package.

        Args:
            database: where it runs; by default on connections with the user's settings.
            variables: tables that the query names.
        """
        return relation_over([self], query, database, variables)

    def events(self, query: str, names: Sequence[str] | None = None) -> DuckDBPyRelation:
        """
        Return a relation of events whose table ``mpnb.analysis`` can look up.

        Args:
            names: of the events that it has; without, any.
        """
        return remember(self.relation(query), self.origin(names))

    def origin(self, names: Sequence[str] | None = None) -> Origin:
        """Return what ``mpnb.analysis`` can look up of a relation that has the events of some names."""
        only = None if names is None else tuple(names)
        return Origin(only, self._days, partial(self._lacking, only), self._names, self._zone, self._is_local)

    @contextlib.contextmanager
    def needing_table(self) -> Iterator[None]:
        """Raise ``TableError`` if the block reads a table that no longer exists."""
        try:
            yield
        except duckdb.CatalogException:
            with self.store.reading() as cursor:
                if columns_of(cursor, self.table):
                    raise
            raise TableError(
                f"table {self.table!r} is gone from {self.store.label}: run the same export again to fetch its days"
            ) from None

    # --- the ledger --------------------------------------------------------------------------------------------------

    def batches(self) -> str:
        """Return the query for the ledger rows of all batches with one of these days, in date order."""
        return (
            f"SELECT * FROM {LEDGER} WHERE {self.selection.batches()} ORDER BY from_date ASC, to_date ASC, batch_id ASC"
        )

    def rejected(self) -> str:
        """Return the query for the rejected lines of these batches, in order."""
        return (
            "SELECT b.from_date, b.to_date, r.line_number, r.reason, r.line, r.in_events, r.batch_id"
            f" FROM {REJECTED} AS r JOIN (SELECT * FROM {LEDGER} WHERE {self.selection.batches(HELD)}) AS b"
            " ON r.batch_id = b.batch_id AND lower(r.table_name) = lower(b.table_name)"
            " ORDER BY b.from_date ASC, r.line_number ASC NULLS LAST"
        )

    def has_landed(self) -> bool:
        """Whether the table holds a batch with one of these days."""
        with self.store.reading() as cursor:
            return bool(run(cursor, f"SELECT 1 FROM {LEDGER} WHERE {self.selection.batches(HELD)} LIMIT 1"))

    # --- what is missing ---------------------------------------------------------------------------------------------

    def failures(self) -> str:
        """Return the query for the failure table."""
        with self.store.reading() as cursor:
            return self.selection.failures(ended_exports(cursor, self.table))

    def source(self) -> Source | None:
        """Return the source of the table, or ``None`` if the database does not know it or is closed."""
        if self.store.closed:
            return None
        with self.store.reading() as cursor:
            return source_of(cursor, self.table)

    def unheard(self) -> list[str]:
        """Return a sentence for each event that was asked for and did not occur on any day, with similar names."""
        source = self.source()
        if source is None or source.events is None or self.store.closed:
            return []
        if not self.has_landed():
            return []
        with self.store.reading() as cursor:
            if not columns_of(cursor, self.table):
                return []
            there = [name for (name,) in run(cursor, f"SELECT DISTINCT event_name FROM {quoted(self.table)}")]
        return [
            f"no event {name!r} was on any day{closest(name, there)}" for name in source.events if name not in there
        ]

    # --- for analysis ------------------------------------------------------------------------------------------------

    def _days(self) -> tuple[date, date] | None:
        """Return the first and the last day, ``None`` if there is none."""
        if self.selection.days:
            return self.selection.days
        with self.store.reading() as cursor:
            query = f"SELECT min(from_date), max(to_date) FROM {LEDGER} WHERE {self.selection.batches(HELD)}"
            [(first, last)] = run(cursor, query)
        return (first, last) if first else None

    def _lacking(self, only: Sequence[str] | None, names: Sequence[str]) -> list[str]:
        """Return the names that no event has."""
        there = names if only is None else [name for name in names if name in only]
        name = exact("event_name")
        query = f"SELECT DISTINCT {name} FROM ({self.selection.events}) WHERE list_contains(?, {name})"
        with self.needing_table(), self.store.reading() as cursor:
            found = {name for (name,) in run(cursor, query, [there])}
        return [name for name in names if name not in found]

    def _zone(self) -> str | None:
        """Return the time zone that is stored for the table."""
        with self.store.reading() as cursor:
            return zone_of(cursor, self.table)

    def _is_local(self) -> bool:
        """Whether the events show that their time is local time."""
        with self.needing_table(), self.store.reading() as cursor:
            return time_offset(cursor, self.table, self.selection.held(cursor)).is_local

    def _names(self) -> tuple[list[str], str]:
        """Return the names of all events of the table, whatever their days, and the database's name for messages."""
        with self.needing_table(), self.store.reading() as cursor:
            rows = run(cursor, f"SELECT DISTINCT {exact('event_name')} FROM {quoted(self.table)} ORDER BY 1 ASC")
        return [name for (name,) in rows], self.store.label


def relation_over(
    readers: Sequence[Reader],
    query: str,
    database: Database | None = None,
    variables: Mapping[str, Any] | None = None,
) -> DuckDBPyRelation:
    """Return a relation as ``Reader.relation`` does, of a query over the tables of readers of one database."""
    store = readers[0].store
    on = database or store.database
    # Combined with a relation of sql(), it is on a connection that may be elsewhere, or have tables of these names.
    ours = ", ".join(
        f"{quoted(name)} AS NOT MATERIALIZED (SELECT * FROM {store.place}.{quoted(name)})"
        for name in (LEDGER, REJECTED, *(reader.table for reader in readers))
    )

    def make(connection: DuckDBPyConnection) -> DuckDBPyRelation:
        with contextlib.ExitStack() as stack:
            for reader in readers:
                stack.enter_context(reader.needing_table())
            return related(connection, on, f"WITH {ours} {query}", variables or {})

    return relation(on, make)
