"""What an export gives back: counts, relations over what is in the table, the failure table, and the way to retry."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import duckdb
from duckdb import DuckDBPyConnection, DuckDBPyRelation

from mpnb._base.names import closest
from mpnb._base.origin import Origin, remember
from mpnb._base.relation import Database, only_reads, related, relation, variables_in
from mpnb._base.scalars import whole_number
from mpnb._base.sql import columns_of, exact, quoted, run
from mpnb._errors import ExportError, TableError
from mpnb._mixpanel.failures import Failure
from mpnb._planning.dates import in_words
from mpnb._planning.plan import LATE_DAYS, MAX_LATE_DAYS
from mpnb._planning.request import Source
from mpnb._reading import catalog as _catalog
from mpnb._reading import events as _events
from mpnb._reading import frames as _frames
from mpnb._reading import rules as _queries
from mpnb._reading import typed as _typed
from mpnb._reading.check import Check, check
from mpnb._reading.selection import Selection
from mpnb._showing import summary as display
from mpnb._storing.database import LEDGER, MEMORY, REJECTED, Store
from mpnb._storing.ledger import HELD, ended_exports, source_of

if TYPE_CHECKING:
    from mpnb._exporting.job import ExportJob
from mpnb._base.text import plural
from mpnb._planning.states import Outcome


class Retry(Protocol):
    """Fetch again what of a range failed. What ``retry`` and ``start_retry`` of a result call."""

    def __call__(self, result: ExportResult, options: dict[str, Any], background: bool) -> Any: ...


class ExportResult:
    """
    Read what is in a table, and what is not.

    Made by ``mpnb.export()``, ``job.result()``, ``retry()`` and ``mpnb.open()``. It keeps the database open, and its
    file locked against other processes, until ``close()``; a context manager does so by itself.

    Relations are DuckDB's own, run again at each read, and combine with each other; to read one is in no other's way.
    Any thread may call any method, and read any relation, but for those of ``sql()`` in a thread that uses ``con``.

    Attributes:
        table: name of the events table.
        from_date, to_date: the days that were asked for, both inclusive; ``None`` for the whole ledger.
        successful_batches, failed_batches, cancelled_batches, skipped_batches: batches of this call, by how they
            ended; empty ones are successful.
        fetched_rows: events that this call added.
        rejected_lines: lines that this call put into ``rejected`` because they are no events.
        bytes: received by this call, compressed, all attempts.
        duration_seconds: from the start of this call to its end.
    """

    def __init__(
        self,
        *,
        store: Store,
        selection: Selection,
        outcome: Outcome,
        retry: Retry,
        call: str,
        late_days: int = LATE_DAYS,
    ) -> None:
        self._store = store
        self._selection = selection
        self._retry = retry
        self._call = call
        self._late_days = late_days
        self._own = threading.local()  # the connection of each thread, as .con
        self.table = selection.table
        self.from_date: date | None
        self.to_date: date | None
        self.from_date, self.to_date = selection.days or (None, None)
        self.successful_batches = outcome.successful_batches
        self.failed_batches = outcome.failed_batches
        self.cancelled_batches = outcome.cancelled_batches
        self.skipped_batches = outcome.skipped_batches
        self.fetched_rows = outcome.fetched_rows
        self.rejected_lines = outcome.rejected_lines
        self.duration_seconds = outcome.duration_seconds
        self.bytes = outcome.bytes
        # What a result that never had a database to ask says.
        self._last = {"total": 0, "outside": 0, "unmet": outcome.failed_batches + outcome.cancelled_batches}
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
        return self._events(self._selection.events)

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
        return self._relation(self._failures())

    @property
    def batches(self) -> DuckDBPyRelation:
        """
        Return the ledger's rows of all batches with a day that was asked for, whole, in date order.

        Raises:
            ClosedError: the result was closed.
        """
        return self._relation(
            f"SELECT * FROM {LEDGER} WHERE {self._selection.batches()}"
            " ORDER BY from_date ASC, to_date ASC, batch_id ASC"
        )

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
        return self._relation(
            "SELECT b.from_date, b.to_date, r.line_number, r.reason, r.line, r.in_events, r.batch_id"
            f" FROM {REJECTED} AS r JOIN (SELECT * FROM {LEDGER} WHERE {self._selection.batches(HELD)}) AS b"
            " ON r.batch_id = b.batch_id AND lower(r.table_name) = lower(b.table_name)"
            " ORDER BY b.from_date ASC, r.line_number ASC"
        )

    # Each is described where it is written.
    deduplicated = _queries.deduplicated
    duplicates = _queries.duplicates
    event_names = _queries.event_names
    local_time = _queries.local_time
    event = _events.event
    forget_typed = _typed.forget_typed
    catalog = _catalog.catalog

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
        return self.sql_with(query, variables_in(query, sys._getframe(1)))

    def sql_with(self, query: str, variables: Mapping[str, Any]) -> DuckDBPyRelation:
        """Do what ``sql()`` does with variables that are not the caller's."""
        database = self._store.database
        named = {name: each for name, each in variables.items() if name in query}
        if not hasattr(self._own, "con") and only_reads(database.connect(), query):
            return relation(database, lambda connection: related(connection, database, query, named))
        made = related(self.con, database, query, named)
        # A statement without rows makes none.
        return made if made is None else relation(database, lambda _: made, self.con)

    # --- the events in other forms -----------------------------------------------------------------------------------

    df = _frames.df
    pl = _frames.pl
    arrow = _frames.arrow
    to_parquet = _frames.to_parquet

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Stream the events to whatever reads Arrow's C interface: ``polars.DataFrame(…)``, ``pyarrow.table(…)``."""
        return self.events.to_arrow_reader().__arrow_c_stream__(requested_schema)

    # --- what to do about failures -----------------------------------------------------------------------------------

    def retry(self, **options: Any) -> ExportResult:
        """
        Fetch the batches of ``failures`` again, and only those. It blocks as ``mpnb.export()`` does.

        Args:
            options: ``workers``, ``on_batch``, ``credentials``, ``quota`` or ``spool`` in place of those of the call
                that made this result; for ``mpnb.open()``, in place of the defaults.

        Returns:
            A result over the same days. Where nothing failed, it is made without a request.

        Raises:
            ExportError: none of the batches came through this time either.
            PlanError: an option cannot work, such as credentials that are missing.
            ClosedError: this result was closed.
        """
        result: ExportResult = self._retry(self, options, background=False)
        return result

    def start_retry(self, **options: Any) -> ExportJob:
        """
        Do what ``retry()`` does in the background and return at once, as ``mpnb.start()`` does.

        Options and errors are those of ``retry()``, but that ``ExportError`` comes from ``job.result()``.
        """
        job: ExportJob = self._retry(self, options, background=True)
        return job

    def raise_for_failures(self) -> None:
        """Raise ``ExportError``, which carries this result, where ``has_failures``."""
        if self.has_failures:
            raise ExportError(self.failed_line(None), self)

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
                relate=self._relation,
            )

    def close(self) -> None:
        """Close the database, and with it every relation. ``mpnb.open()`` reads it again, where it is a file."""
        self._store.close()

    def __enter__(self) -> ExportResult:
        """Give itself, to be closed at the end of the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the database."""
        self.close()

    # --- in words --------------------------------------------------------------------------------------------------

    def failed_line(self, halted_by: Failure | None) -> str:
        """Say in one line that batches failed, and what to do."""
        if halted_by is not None:
            return f"the export stopped, since every batch would fail: {halted_by}. {halted_by.hint}"
        if self._store.closed:
            count = self.failed_batches + self.cancelled_batches
            many = plural(count, "batch", "batches")
            return f"{count:,} {many} failed; this result was closed: {self._store.afterwards}"
        with self._store.reading() as cursor:
            rows = run(
                cursor,
                "SELECT kind, first(message ORDER BY from_date ASC), first(http_status ORDER BY from_date ASC),"
                " first(hint ORDER BY from_date ASC), count(*), sum(count(*)) OVER ()::BIGINT"
                f" FROM ({self._failures()}) GROUP BY kind ORDER BY count(*) DESC, kind ASC LIMIT 1",
            )
            landed = run(cursor, f"SELECT 1 FROM {LEDGER} WHERE {self._selection.batches(HELD)} LIMIT 1")
            unnoted = self._selection.unnoted_ranges(cursor)
        if not rows and unnoted:
            return f"{in_words(unnoted)}: not in {self._store.label}; the same call again fetches what is missing"
        if not rows:
            return "nothing failed"
        kind, message, status, hint, most, count = rows[0]
        why = Failure(kind, message, http_status=status)
        kept = f"What landed is kept in {self._store.label}" if landed else "Nothing has landed"
        return (
            f"{count:,} {'batch' if count == 1 else 'batches'} failed, {most:,} of them by {kind}: {why}. {hint} "
            f"{kept}; {self._call}.failures lists the rest"
        )

    def stopped_line(self, *, closing: bool = False) -> str:
        """
        Say in one line what a cancel left.

        Args:
            closing: whether the database is about to be closed.
        """
        done = self.successful_batches + self.skipped_batches
        line = f"cancelled: {done:,} of {done + self.failed_batches + self.cancelled_batches:,} batches "
        if closing and self._store.name == MEMORY:
            return f"{line}had landed in memory, which is gone: with database= a file, they are kept"
        return f"{line}are in {self._store.label}; the same call again fetches the rest"

    def known_as(self, name: str) -> None:
        """Take the name of the variable that holds it, for the calls that its displays suggest."""
        self._call = name

    def share_store(self) -> Store:
        """Give another hold on the database, to be closed by itself. Raises ``ClosedError``."""
        return self._store.share()

    def summary(self) -> display.Summary:
        """Gather what a display shows. Works after ``close()`` as well, then without what only the database knows."""
        if self._store.closed:
            return display.gather(self, self._store, self._call, None)
        with self._store.reading() as cursor:
            unnoted = self._selection.unnoted_ranges(cursor)
        return display.gather(self, self._store, self._call, self._failures(), in_words(unnoted))

    def __repr__(self) -> str:
        """Say it in a few lines."""
        return display.text(self.summary())

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        summary = self.summary()
        return {"text/plain": display.text(summary), "text/html": display.html(summary)}

    # --- within ----------------------------------------------------------------------------------------------------

    def _source(self) -> Source | None:
        """Return what the table has events of, ``None`` where the database does not know or is closed."""
        if self._store.closed:
            return None
        with self._store.reading() as cursor:
            return source_of(cursor, self.table)

    def _unheard(self) -> list[str]:
        """Say, for each event that was asked for by name and has come on no day of the table, which one is like it."""
        source = self._source()
        if source is None or source.events is None or self._store.closed:
            return []
        with self._store.reading() as cursor:
            held = run(cursor, f"SELECT 1 FROM {LEDGER} WHERE {self._selection.batches(HELD)} LIMIT 1")
            if not held or not columns_of(cursor, self.table):
                return []
            there = [name for (name,) in run(cursor, f"SELECT DISTINCT event_name FROM {quoted(self.table)}")]
        return [
            f"no event {name!r} came on any day{closest(name, there)}" for name in source.events if name not in there
        ]

    def _unmet(self, cursor: DuckDBPyConnection) -> str:
        return self._selection.unmet(ended_exports(cursor, self.table))

    def _failures(self) -> str:
        with self._store.reading() as cursor:
            return self._selection.failures(ended_exports(cursor, self.table))

    def _relation(self, query: str, database: Database | None = None) -> DuckDBPyRelation:
        """Make a relation of a query of this package, on connections with the user's settings if not said otherwise."""
        database = database or self._store.database
        # Combined with a relation of sql(), it is on a connection that may be elsewhere, or have tables of these names.
        ours = ", ".join(
            f"{quoted(name)} AS NOT MATERIALIZED (SELECT * FROM {self._store.place}.{quoted(name)})"
            for name in (LEDGER, REJECTED, self.table)
        )

        def make(connection: DuckDBPyConnection) -> DuckDBPyRelation:
            with self._needing_table():
                return related(connection, database, f"WITH {ours} {query}", {})

        return relation(database, make)

    def _events(self, query: str, names: Sequence[str] | None = None) -> DuckDBPyRelation:
        """
        Return a relation of events, of which analysis knows where they come from.

        Args:
            names: of the events that it has; without, any.
        """
        only = None if names is None else tuple(names)
        return remember(self._relation(query), Origin(only, self._days, partial(self._lacking, only), self._names))

    def _days(self) -> tuple[date, date] | None:
        """Return the first and the last day, ``None`` where there is none."""
        if self._selection.days:
            return self._selection.days
        with self._store.reading() as cursor:
            query = f"SELECT min(from_date), max(to_date) FROM {LEDGER} WHERE {self._selection.batches(HELD)}"
            [(first, last)] = run(cursor, query)
        return (first, last) if first else None

    def _lacking(self, only: Sequence[str] | None, names: Sequence[str]) -> list[str]:
        """Return those of some names that there is no event of."""
        there = names if only is None else [name for name in names if name in only]
        name = exact("event_name")
        query = f"SELECT DISTINCT {name} FROM ({self._selection.events}) WHERE list_contains(?, {name})"
        with self._needing_table(), self._store.reading() as cursor:
            found = {name for (name,) in run(cursor, query, [there])}
        return [name for name in names if name not in found]

    def _names(self) -> tuple[list[str], str]:
        """Return the names of all events that the table has, whatever their days, and how to call the database."""
        with self._needing_table(), self._store.reading() as cursor:
            rows = run(cursor, f"SELECT DISTINCT {exact('event_name')} FROM {quoted(self.table)} ORDER BY 1 ASC")
        return [name for (name,) in rows], self._store.label

    @contextlib.contextmanager
    def _needing_table(self) -> Iterator[None]:
        """Raise ``TableError`` where the table is not there any more that something within the block reads."""
        try:
            yield
        except duckdb.CatalogException:
            with self._store.reading() as cursor:
                if columns_of(cursor, self.table):
                    raise
            raise TableError(
                f"table {self.table!r} is gone from {self._store.label}: the same export again fetches its days"
            ) from None

    def _known(self, name: str, query: Callable[[DuckDBPyConnection], str]) -> int:
        """Ask for a count, or give the last answer where the result was closed since."""
        if not self._store.closed:
            with self._store.reading() as cursor:
                try:
                    self._last[name] = run(cursor, query(cursor))[0][0]
                except duckdb.CatalogException:  # somebody has dropped the table
                    self._last[name] = 0
        return self._last[name]
