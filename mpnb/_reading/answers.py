"""What a table answers: counts, relations over some of its days, frames, checks."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
from duckdb import DuckDBPyConnection, DuckDBPyRelation

from mpnb._base.relation import only_reads, related, relation, variables_in
from mpnb._base.scalars import whole_number
from mpnb._base.sql import run
from mpnb._planning.options import MAX_LATE_DAYS
from mpnb._reading import events, frames, rules
from mpnb._reading.catalog import catalog
from mpnb._reading.check import Check, check
from mpnb._reading.frames import Events
from mpnb._reading.reader import Reader
from mpnb._reading.typed import forget_typed
from mpnb._storing.ledger import ended_exports

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow


class Answers:
    """
    The events of some days of a table, and what is asked of them.

    Relations are DuckDB's own, run again at each read, and combine with each other; reading one never disturbs
    another. Any thread may call any method and read any relation, except those that ``sql()`` made in a thread that
    uses ``con``.

    Attributes:
        table: name of the events table.
        from_date, to_date: the days that were asked for, both inclusive; ``None`` for all that the table has.
    """

    def __init__(self, reader: Reader, *, late_days: int, unmet: int) -> None:
        self._reader = reader
        self._store = reader.store
        self._selection = reader.selection
        self._late_days = late_days
        self._own = threading.local()  # the connection of each thread, as .con
        self.table = reader.table
        self.from_date: date | None
        self.to_date: date | None
        self.from_date, self.to_date = reader.selection.days or (None, None)
        # What is said where there never was a database to ask.
        self._last = {"total": 0, "outside": 0, "unmet": unmet}
        _ = self.total_rows, self.rows_outside, self.has_failures

    # --- counts that follow the database ----------------------------------------------------------------------------

    @property
    def total_rows(self) -> int:
        """Count the ``events``, those that were there before included."""
        return self._known("total", lambda _: f"SELECT count(*) FROM ({self._selection.events})")

    @property
    def rows_outside(self) -> int:
        """
        Count the rows that ``events`` leaves out of ``batches``.

        A batch is fetched whole, also where days were asked for that are not all of its own. Of such a batch
        ``events`` has the rows whose ``time`` falls on the days that were asked for, and not those without a ``time``.
        """
        return self._known("outside", lambda _: f"SELECT count(*) FROM ({self._selection.outside})")

    @property
    def has_failures(self) -> bool:
        """
        Whether a day is missing that this call asked for: its batch failed or was cancelled, and no other brought it.

        Those that it was to fetch again, such as all by ``mode="refresh"``, are missing until they came again, though
        the table has what it had before. Of ``mpnb.open()``, days are missing that failed and have not come since.
        """
        return self._known("unmet", lambda cursor: f"SELECT count(*) FROM ({self._unmet(cursor)})") > 0

    @property
    def failed_date_ranges(self) -> list[tuple[date, date]]:
        """Return first and last day, both inclusive, of the days that are missing, by failed batch, in date order."""
        with self._store.reading() as cursor:
            return self._selection.unmet_ranges(cursor)

    # --- relations -------------------------------------------------------------------------------------------------

    @property
    def events(self) -> DuckDBPyRelation:
        """
        Return the events of the days that were asked for, as they were exported, duplicates included.

        They are all rows of the batches that have no other days, whatever their ``time``: it may lie outside the day in
        projects older than 2023. Of batches that have other days as well, which the table had before, they are the rows
        whose ``time`` falls on the days that were asked for; ``rows_outside`` counts the others.

        Columns: ``event_name``, ``time`` (TIMESTAMP, as exported), ``distinct_id``, ``device_id``, ``user_id``,
        ``insert_id`` (VARCHAR, null where the event has none), ``properties`` (JSON, all of them), ``batch_id``.
        In ``properties``, integers have any length; of a decimal the nearest double is kept, in its shortest form.

        Raises:
            ClosedError: the result was closed.
        """
        return self._reader.events(self._selection.events)

    @property
    def failures(self) -> DuckDBPyRelation:
        """
        Return one row a batch that failed or was cancelled, in date order, while a day of it is missing.

        Columns: ``from_date``, ``to_date``, ``status``, ``kind`` (``rate_limit``, ``timeout``, ``connection``,
        ``truncated``, ``http``, ``decode``, ``write``, ``auth``, ``cancelled``), ``http_status``, ``message``,
        ``attempts``, ``retryable`` (whether the same request may succeed later), ``hint``, ``started_at``
        (when its last request began), ``finished_at`` (both in UTC), ``batch_id``.

        Raises:
            ClosedError: the result was closed.
        """
        return self._reader.relation(self._reader.failures())

    @property
    def batches(self) -> DuckDBPyRelation:
        """
        Return the ledger's rows of all batches with a day that was asked for, whole, in date order.

        Raises:
            ClosedError: the result was closed.
        """
        return self._reader.relation(self._reader.batches())

    @property
    def rejected(self) -> DuckDBPyRelation:
        """
        Return the lines of ``batches`` that are no events, whole, in order. They have no ``time`` to go by.

        Columns: ``from_date``, ``to_date``, ``line_number`` (from 1, in the body of the batch), ``reason``, ``line``
        (BLOB), ``in_events`` (true where the line is an event all the same, with keys that the table has no column
        for), ``batch_id``.

        Raises:
            ClosedError: the result was closed.
        """
        return self._reader.relation(self._reader.rejected())

    def deduplicated(self) -> DuckDBPyRelation:
        """
        Return the events without duplicates, by Mixpanel's own rule. ``duplicates()`` counts what it leaves out.

        Of events with the same name, ``distinct_id``, ``time`` and ``insert_id``, the newest by
        ``mp_processing_time_ms`` stays; events without ``insert_id`` are never merged:
        https://docs.mixpanel.com/docs/data-structure/events-and-properties#event-deduplication

        Raises:
            ClosedError: the result was closed.
        """
        return rules.deduplicated(self._reader)

    def duplicates(self) -> DuckDBPyRelation:
        """
        Count what ``deduplicated()`` leaves out: one row an event name, most duplicates first.

        Columns: ``event_name``, ``events`` (as exported), ``duplicates`` (of these, left out).

        Raises:
            ClosedError: the result was closed.
        """
        return rules.duplicates(self._reader)

    def event_names(self) -> DuckDBPyRelation:
        """
        Return one row an event name, most frequent first.

        Columns: ``event_name``, ``events``, ``users`` (distinct ``distinct_id``; null and ``""`` are nobody),
        ``first``, ``last`` (of ``time``).

        Raises:
            ClosedError: the result was closed.
        """
        return rules.event_names(self._reader)

    def local_time(self, zone: str, *, project_timezone: str | None = None) -> DuckDBPyRelation:
        """
        Return the events with two more columns: ``utc_time`` and ``local_time``, both TIMESTAMP.

        ``time`` stays as it is. Both are null where ``time`` is missing, or lies out of the years 1 to 9999.

        ``time`` is UTC in projects made since 2023, and the project's own wall clock in older ones; Mixpanel's answer
        does not say which. What says it is when events arrived, ``$mp_api_timestamp_ms`` or ``mp_processing_time_ms``,
        which is
        UTC in both: where that is off by whole quarter-hours, or is missing, this asks for ``project_timezone``, as
        ``check()`` finds it under ``time offset``. The hour that a wall clock shows twice in autumn cannot be told
        apart.

        Args:
            zone: whose wall clock ``local_time`` shows, such as ``"Europe/Berlin"``.
            project_timezone: of a project made before 2023; ``"UTC"`` for a newer one, without a look at the data.

        Raises:
            PlanError: there is no such zone; or no ``project_timezone`` is given, and ``time`` looks like a wall clock
                or does not show what it is.
            ClosedError: the result was closed.
        """
        return rules.local_time(self._reader, zone, project_timezone=project_timezone)

    def event(
        self,
        name: str | Iterable[str],
        *,
        columns: Iterable[str] | None = None,
        deduplicated: bool = False,
        materialize: bool = True,
    ) -> DuckDBPyRelation:
        """
        Return the events of one name, or of several, with a typed column for each property.

        Columns: ``time``, ``distinct_id``, ``device_id``, ``user_id``, ``insert_id``, then one a property, typed by all
        values that the table has of it: BOOLEAN, BIGINT, HUGEINT (to 38 digits), DOUBLE, TIMESTAMP (where all are
        date-times as Mixpanel writes them, ``2026-01-31T09:00:00``), VARCHAR, LIST and STRUCT (where all have the same
        shape), else JSON, which holds anything. No value is rounded, cut or made null; a JSON null is NULL, as is a
        property that an event lacks. ``catalog()`` tells which column holds which property: names that differ only by
        case, or are taken, get a number.

        The first call makes a table of it in the database, in the schema ``mpnb_typed``; later calls add and replace
        what exports changed. While an export runs on the events, or where the database cannot be written, the relation
        reads
        JSON instead: the same rows, slower.

        The relation has the rows of the batches that the result has at this moment. Once one of them was fetched again,
        reading it raises; call ``event()`` again.

        Args:
            name: of the event; several, as a list, set, array or Series, give all their rows, ``event_name`` first,
                with the columns of all, by property.
            columns: names of properties or columns to have besides the first five; all if not given.
            deduplicated: whether to leave out duplicates, as ``deduplicated()`` does; ``duplicates()`` counts them.
            materialize: false writes nothing: what no table has yet is read from JSON.

        Raises:
            PlanError: there is no such event or column.
            ClosedError: the result was closed.
        """
        return events.event(self._reader, name, columns=columns, deduplicated=deduplicated, materialize=materialize)

    def catalog(self, events: str | Iterable[str] | None = None, *, materialize: bool = True) -> DuckDBPyRelation:
        """
        Return one row a property of an event: the most frequent events first, properties in the order of ``event()``.

        Columns: ``event_name``, ``property``, ``column_name`` (in ``event()``), ``type`` (of the column, by all values
        that the table has), ``share`` (of the result's events that have it, nulls included), ``nulls`` (how many of
        them are a JSON null), ``distinct_values`` (approximate), ``minimum``, ``maximum`` (as text; null for JSON,
        lists and structs), ``examples`` (a list of texts, the most frequent ones), ``drift`` (for JSON columns, why no
        other type holds it), ``repeated`` (how many events have the key twice or more: the column has the first value,
        ``properties`` all).

        It is worked out now, and makes every event's table as ``event()`` does: the first time, about as long as it
        takes to read all JSON three times.

        Args:
            events: a name, or several; all if not given.
            materialize: false writes nothing: what no table has yet is read from JSON.

        Raises:
            PlanError: there is no such event.
            ClosedError: the result was closed.
        """
        return catalog(self._reader, events, materialize=materialize)

    def forget_typed(self) -> None:
        """
        Drop the typed tables of this table's events. They are made anew when they are asked for.

        Raises:
            TableError: an export runs on these events.
            DatabaseError: the database cannot be written.
            ClosedError: the result was closed.
        """
        forget_typed(self._reader)

    @property
    def con(self) -> DuckDBPyConnection:
        """
        Return a connection for your own SQL, in each thread always the same one. It is closed with the result.

        Once a thread has it, its ``sql()`` runs there, too, and sees its temporary tables and settings. As DuckDB has
        it, what is half read of a connection is in the way of its next query, or with DuckDB 1.5 ends there.

        Raises:
            ClosedError: the result was closed.
        """
        if self._store.closed or not hasattr(self._own, "con"):
            self._own.con = self._store.user_cursor()
        con: DuckDBPyConnection = self._own.con
        return con

    def sql(self, query: str) -> DuckDBPyRelation:
        """
        Run SQL on the database and return a relation. The tables have the names that they were exported to.

        The caller's variables can be named like tables, as for ``duckdb.sql``: pandas and polars frames, Arrow tables,
        and relations of this result. Statements that do more than read run once, at the call, on ``con``.

        Raises:
            ClosedError: the result was closed.
            duckdb.Error: the query is at fault.
        """
        return sql_with(self, query, variables_in(query, sys._getframe(1)))

    # --- the events in other forms -----------------------------------------------------------------------------------

    def df(
        self,
        events: Events = None,
        *,
        columns: Iterable[str] | None = None,
        deduplicated: bool = False,
        materialize: bool = True,
    ) -> pandas.DataFrame:
        """
        Return events as a pandas DataFrame. It holds them all in memory.

        Integers and booleans with nulls have pandas' nullable types. HUGEINT is Python's own integers where they need
        more than 64 bits; DuckDB's ``relation.df()`` rounds them. Lists and structs are Python's own, JSON is text.

        Args:
            events: a name or several for typed events, as ``event()`` gives them; any relation; all, as exported, if
                not given.
            columns: names of properties or columns to have besides the first five; all if not given. Of all events,
                they are typed as those of several names are.
            deduplicated: whether to leave out duplicates, as ``deduplicated()`` does.
            materialize: false writes nothing: what no table has yet is read from JSON.

        Raises:
            PlanError: there is no such event or column.
            TypeError: an option is given with a relation.
            ClosedError: the result was closed.
        """
        return frames.df(self._reader, events, frames.Options(columns, deduplicated, materialize))

    def pl(
        self,
        events: Events = None,
        *,
        columns: Iterable[str] | None = None,
        deduplicated: bool = False,
        materialize: bool = True,
    ) -> polars.DataFrame:
        """
        Return events as a polars DataFrame, HUGEINT as ``Int128``. It holds them all in memory.

        Args:
            events: a name or several for typed events, as ``event()`` gives them; any relation; all, as exported, if
                not given.
            columns: names of properties or columns to have besides the first five; all if not given. Of all events,
                they are typed as those of several names are.
            deduplicated: whether to leave out duplicates, as ``deduplicated()`` does.
            materialize: false writes nothing: what no table has yet is read from JSON.

        Raises:
            PlanError: there is no such event or column.
            TypeError: an option is given with a relation.
            ClosedError: the result was closed.
        """
        return frames.pl(self._reader, events, frames.Options(columns, deduplicated, materialize))

    def arrow(
        self,
        events: Events = None,
        *,
        columns: Iterable[str] | None = None,
        deduplicated: bool = False,
        materialize: bool = True,
    ) -> pyarrow.Table:
        """
        Return events as an Arrow table. It holds them all in memory.

        Args:
            events: a name or several for typed events, as ``event()`` gives them; any relation; all, as exported, if
                not given.
            columns: names of properties or columns to have besides the first five; all if not given. Of all events,
                they are typed as those of several names are.
            deduplicated: whether to leave out duplicates, as ``deduplicated()`` does.
            materialize: false writes nothing: what no table has yet is read from JSON.

        Returns:
            HUGEINT as ``decimal128(38, 0)``, JSON as text, all else as DuckDB gives it.

        Raises:
            PlanError: there is no such event or column.
            TypeError: an option is given with a relation.
            ClosedError: the result was closed.
        """
        return frames.arrow(self._reader, events, frames.Options(columns, deduplicated, materialize))

    def to_parquet(
        self,
        folder: str | os.PathLike[str],
        events: str | Iterable[str] | None = None,
        *,
        partition_by: str | Sequence[str] | None = None,
        columns: Iterable[str] | None = None,
        deduplicated: bool = False,
        materialize: bool = True,
    ) -> Path:
        """
        Write events as Parquet files into a folder, which pandas, polars and DuckDB read back equal.

        Args:
            folder: a new or empty one on this machine; ``~`` is the home folder. A new one, and all files in it, can be
                read by their owner alone.
            events: a name or several for typed events, as ``event()`` gives them; all, as exported, if not given.
            partition_by: columns, of which no file has more than one combination of values. They are in the files, not
                in the names of folders: there, no two readers agree on their types.
            columns: names of properties or columns to have besides the first five; all if not given. Of all events,
                they are typed as those of several names are.
            deduplicated: whether to leave out duplicates, as ``deduplicated()`` does.
            materialize: false writes nothing: what no table has yet is read from JSON.

        Returns:
            The folder. HUGEINT is ``DECIMAL(38, 0)`` there, JSON is text.

        Raises:
            PlanError: there is no such event or column, or the folder is not empty.
            ClosedError: the result was closed.
        """
        options = frames.Options(columns, deduplicated, materialize)
        return frames.to_parquet(self._reader, folder, events, partition_by=partition_by, options=options)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Stream the events to whatever reads Arrow's C interface: ``polars.DataFrame(…)``, ``pyarrow.table(…)``."""
        return self.events.to_arrow_reader().__arrow_c_stream__(requested_schema)

    # --- the whole ---------------------------------------------------------------------------------------------------

    def check(self, *, late_days: int | None = None) -> Check:
        """
        Check the table against its ledger: days, duplicates, rejected lines, counts, times. It reads all events.

        Args:
            late_days: for how many days after a day events of it may still arrive: days asked for sooner are
                provisional. Without it, as many as the call said that made this result, 5 for ``mpnb.open()``.

        Returns:
            The report: its text shows by itself, ``.relation`` has one row a check, ``.ok`` says whether no check
            found a problem.

        Raises:
            PlanError: ``late_days`` is no whole number of 0 or more.
            ClosedError: the result was closed.
        """
        given = self._late_days if late_days is None else late_days
        with self._store.reading() as cursor:
            return check(
                cursor,
                selection=self._selection,
                late_days=whole_number("late_days", given, 0, MAX_LATE_DAYS),
                relate=self._reader.relation,
            )

    def close(self) -> None:
        """Close the database, and with it every relation. ``mpnb.open()`` reads it again, where it is a file."""
        self._store.close()

    # --- within ----------------------------------------------------------------------------------------------------

    def _unmet(self, cursor: DuckDBPyConnection) -> str:
        return self._selection.unmet(ended_exports(cursor, self.table))

    def _known(self, name: str, query: Callable[[DuckDBPyConnection], str]) -> int:
        """Ask for a count, or give the last answer where the result was closed since."""
        if not self._store.closed:
            with self._store.reading() as cursor:
                try:
                    self._last[name] = run(cursor, query(cursor))[0][0]
                except duckdb.CatalogException:  # somebody has dropped the table
                    self._last[name] = 0
        return self._last[name]


def sql_with(answers: Answers, query: str, variables: Mapping[str, Any]) -> DuckDBPyRelation:
    """Run SQL as ``answers.sql()`` does, with these variables in place of the caller's."""
    database = answers._store.database
    named = {name: each for name, each in variables.items() if name in query}
    if not hasattr(answers._own, "con") and only_reads(database.connect(), query):
        return relation(database, lambda connection: related(connection, database, query, named))
    made = related(answers.con, database, query, named)
    # A statement without rows makes none.
    return made if made is None else relation(database, lambda _: made, answers.con)
