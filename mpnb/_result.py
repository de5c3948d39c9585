"""What an export gives back: counts, relations over what is in the table, the failure table, and the way to retry."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import date
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from duckdb import DuckDBPyConnection, DuckDBPyRelation

from mpnb import _catalog, _events, _frames, _queries, _typed
from mpnb import _display as display
from mpnb._check import Check, check
from mpnb._errors import ExportError
from mpnb._failures import Failure
from mpnb._ledger import HELD, UNMET
from mpnb._plan import MAX_LATE_DAYS, whole_number
from mpnb._store import LEDGER, REJECTED, Store, quoted, run

if TYPE_CHECKING:
    from mpnb._job import ExportJob


@dataclass(frozen=True, slots=True)
class Outcome:
    """Sum up what one call did. All zero for ``mpnb.open()``."""

    successful_batches: int = 0
    failed_batches: int = 0
    cancelled_batches: int = 0
    skipped_batches: int = 0
    fetched_rows: int = 0
    rejected_lines: int = 0
    bytes: int = 0
    duration_seconds: float = 0.0


class Retry(Protocol):
    """Fetch again what of a range failed. What ``retry`` and ``start_retry`` of a result call."""

    def __call__(self, result: ExportResult, options: dict[str, Any], background: bool) -> Any: ...


class ExportResult:
    """
    Read what is in a table, and what is not.

    Made by ``mpnb.export()``, ``job.result()``, ``retry()`` and ``mpnb.open()``. It keeps the database open, and its
    file locked against other processes, until ``close()``; a context manager does so by itself.

    Relations run again at each read, and each has a cursor of its own. Any thread may call any method; a relation is
    for one thread at a time.

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
        table: str,
        from_date: date | None,
        to_date: date | None,
        outcome: Outcome,
        retry: Retry,
        call: str,
    ) -> None:
        self._store = store
        self._retry = retry
        self._call = call
        self._con: DuckDBPyConnection | None = None
        self._lock = threading.Lock()
        self.table = table
        self.from_date = from_date
        self.to_date = to_date
        self.successful_batches = outcome.successful_batches
        self.failed_batches = outcome.failed_batches
        self.cancelled_batches = outcome.cancelled_batches
        self.skipped_batches = outcome.skipped_batches
        self.fetched_rows = outcome.fetched_rows
        self.rejected_lines = outcome.rejected_lines
        self.duration_seconds = outcome.duration_seconds
        self.bytes = outcome.bytes
        self._last = {"total": 0, "unmet": 0}
        _ = self.total_rows, self.has_failures

    # --- counts that follow the ledger -----------------------------------------------------------------------------

    @property
    def total_rows(self) -> int:
        """Count the ``events``, those that were there before included."""
        return self._known("total", f"SELECT coalesce(sum(rows), 0)::BIGINT FROM {LEDGER} WHERE {self._mine(HELD)}")

    @property
    def has_failures(self) -> bool:
        """Say whether a batch that was asked for failed or was cancelled, and has not been made up for since."""
        return self._known("unmet", f"SELECT count(*) FROM {LEDGER} WHERE {self._mine(UNMET)}") > 0

    @property
    def failed_date_ranges(self) -> list[tuple[date, date]]:
        """Give first and last day, both inclusive, of each row of ``failures``, in date order."""
        with self._store.reading() as cursor:
            query = f"SELECT from_date, to_date FROM {LEDGER} WHERE {self._mine(UNMET)} ORDER BY from_date, to_date"
            return [(first, last) for first, last in run(cursor, query)]

    # --- relations -------------------------------------------------------------------------------------------------

    @property
    def events(self) -> DuckDBPyRelation:
        """
        Give the events of all batches with a day that was asked for, as they were exported, duplicates included.

        Batches are whole: where the table had longer ones, their other days are there as well, which the result's text
        says. By ``time`` they could not be left out: it may lie outside the day in projects older than 2023.

        Columns: ``event_name``, ``time`` (TIMESTAMP, as exported), ``distinct_id``, ``device_id``, ``user_id``,
        ``insert_id`` (VARCHAR, null where the event has none), ``properties`` (JSON, all of them), ``batch_id``.

        Raises:
            ClosedError: the result was closed.
        """
        return self._relation(self._events_query())

    @property
    def failures(self) -> DuckDBPyRelation:
        """
        Give one row a batch that failed or was cancelled, in date order.

        Columns: ``from_date``, ``to_date``, ``status``, ``kind`` (``rate_limit``, ``timeout``, ``connection``,
        ``truncated``, ``http``, ``decode``, ``write``, ``auth``, ``cancelled``), ``http_status``, ``message``,
        ``attempts``, ``retryable`` (whether the same request may succeed later), ``hint``, ``started_at``,
        ``finished_at`` (UTC), ``batch_id``.

        Raises:
            ClosedError: the result was closed.
        """
        return self._relation(
            "SELECT from_date, to_date, status, kind, http_status, message, attempts, retryable, hint, started_at,"
            f" finished_at, batch_id FROM {LEDGER} WHERE {self._mine(UNMET)} ORDER BY from_date, to_date"
        )

    @property
    def batches(self) -> DuckDBPyRelation:
        """
        Give the ledger's rows of the days that were asked for, in date order.

        Raises:
            ClosedError: the result was closed.
        """
        return self._relation(f"SELECT * FROM {LEDGER} WHERE {self._mine()} ORDER BY from_date, to_date, batch_id")

    @property
    def rejected(self) -> DuckDBPyRelation:
        """
        Give the lines that are no events, whole, in order.

        Columns: ``from_date``, ``to_date``, ``line_number`` (from 1, in the body of the batch), ``reason``, ``line``
        (BLOB), ``in_events`` (true where the line is an event all the same, with keys that the table has no column
        for), ``batch_id``.

        Raises:
            ClosedError: the result was closed.
        """
        return self._relation(
            "SELECT b.from_date, b.to_date, r.line_number, r.reason, r.line, r.in_events, r.batch_id"
            f" FROM {REJECTED} AS r JOIN (SELECT * FROM {LEDGER} WHERE {self._mine(HELD)}) AS b USING (batch_id)"
            " ORDER BY b.from_date, r.line_number"
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
        Give a connection for your own SQL, always the same one. It is closed with the result.

        Raises:
            ClosedError: the result was closed.
        """
        with self._lock:
            if self._con is None or self._store.closed:
                self._con = self._store.cursor()
            return self._con

    def sql(self, query: str) -> DuckDBPyRelation:
        """
        Run SQL on the database and give a relation. The tables have the names that they were exported to.

        Raises:
            ClosedError: the result was closed.
            duckdb.Error: the query is at fault.
        """
        return self._relation(query)

    # --- the events in other forms -----------------------------------------------------------------------------------

    df = _frames.df
    pl = _frames.pl
    arrow = _frames.arrow
    to_parquet = _frames.to_parquet

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Stream the events to whatever reads Arrow's C interface, such as ``polars.from_arrow`` and pyarrow."""
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

    def check(self, *, late_days: int = 5) -> Check:
        """
        Check the table against its ledger: days, duplicates, rejected lines, counts, times. It reads all events.

        Args:
            late_days: for how long after a day events of it may still arrive: days fetched sooner are provisional.

        Returns:
            The report: its text shows by itself, ``.relation`` has one row a check, ``.ok`` says whether no check
            found a problem.

        Raises:
            PlanError: ``late_days`` is no whole number of 0 or more.
            ClosedError: the result was closed.
        """
        late_days = whole_number("late_days", late_days, 0, MAX_LATE_DAYS)
        asked = (self.from_date, self.to_date) if self.from_date and self.to_date else None
        with self._store.reading() as cursor:
            return check(
                cursor, table=self.table, mine=self._mine(), days=asked, late_days=late_days, relate=self._relation
            )

    def close(self) -> None:
        """Close the database. Every relation ends with it; ``mpnb.open()`` reads it again."""
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
        with self._store.reading() as cursor:
            rows = run(
                cursor,
                "SELECT kind, first(message ORDER BY from_date), first(http_status ORDER BY from_date),"
                f" first(hint ORDER BY from_date), count(*) FROM {LEDGER} WHERE {self._mine(UNMET)}"
                " GROUP BY kind ORDER BY count(*) DESC, kind LIMIT 1",
            )
            [(count,)] = run(cursor, f"SELECT count(*) FROM {LEDGER} WHERE {self._mine(UNMET)}")
        if not rows:
            return "nothing failed"
        kind, message, status, hint, most = rows[0]
        why = Failure(kind, message, http_status=status)
        return (
            f"{count:,} {'batch' if count == 1 else 'batches'} failed, {most:,} of them by {kind}: {why}. {hint} "
            f"What landed is kept in {self._store.label}; {self._call}.failures lists the rest"
        )

    def stopped_line(self) -> str:
        """Say in one line what a cancel left."""
        done = self.successful_batches + self.skipped_batches
        return (
            f"cancelled: {done:,} of {done + self.failed_batches + self.cancelled_batches:,} batches are in "
            f"{self._store.label}; the same call again fetches the rest"
        )

    def known_as(self, name: str) -> None:
        """Take the name of the variable that holds it, for the calls that its displays suggest."""
        self._call = name

    def share_store(self) -> Store:
        """Give another hold on the database, to be closed by itself. Raises ``ClosedError``."""
        return self._store.share()

    def summary(self) -> display.Summary:
        """Gather what a display shows. Works after ``close()`` as well, then without what only the database knows."""
        return display.gather(self, self._store, self._call, unmet=self._mine(UNMET), held=self._mine(HELD))

    def __repr__(self) -> str:
        """Say it in a few lines."""
        return display.text(self.summary())

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        summary = self.summary()
        return {"text/plain": display.text(summary), "text/html": display.html(summary)}

    # --- within ----------------------------------------------------------------------------------------------------

    def _mine(self, statuses: str | None = None) -> str:
        """Give the condition for the ledger's rows of this table and these days."""
        literal = "'" + self.table.replace("'", "''") + "'"
        parts = [f"lower(table_name) = lower({literal})"]
        if self.from_date is not None and self.to_date is not None:
            parts.append(f"from_date <= DATE '{self.to_date}' AND to_date >= DATE '{self.from_date}'")
        if statuses is not None:
            parts.append(f"status IN {statuses}")
        return " AND ".join(parts)

    def _events_query(self) -> str:
        # By batch, not by time: events lie outside their days in projects older than 2023.
        return (
            f"SELECT * FROM {quoted(self.table)}"
            f" WHERE batch_id IN (SELECT batch_id FROM {LEDGER} WHERE {self._mine(HELD)})"
        )

    def _relation(self, query: str) -> DuckDBPyRelation:
        return self._store.cursor().sql(query)

    def _known(self, name: str, query: str) -> int:
        """Ask for a count, or give the last answer where the result was closed since."""
        if not self._store.closed:
            with self._store.reading() as cursor:
                self._last[name] = run(cursor, query)[0][0]
        return self._last[name]


def outcome_of(counts: dict[str, int], *, rows: int, rejected: int, size: int, seconds: float) -> Outcome:
    """Sum up a call from its batches by status."""
    return Outcome(
        successful_batches=counts.get("done", 0) + counts.get("empty", 0),
        failed_batches=counts.get("failed", 0),
        cancelled_batches=counts.get("cancelled", 0),
        skipped_batches=counts.get("skipped", 0),
        fetched_rows=rows,
        rejected_lines=rejected,
        bytes=size,
        duration_seconds=seconds,
    )
