"""Profiles from call to result: what the calls return and raise, and how a snapshot begins, goes on and ends."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import date, datetime, timedelta
from functools import partial
from html import escape
from types import TracebackType
from typing import TYPE_CHECKING, Any

from duckdb import DuckDBPyConnection, DuckDBPyRelation

from mpnb._base.clock import utc_now
from mpnb._base.relation import variables_in
from mpnb._base.sql import columns_of, quoted, run, transaction
from mpnb._base.text import duration, size
from mpnb._errors import MpnbError, TableError
from mpnb._exporting.board import BatchBoard
from mpnb._exporting.callbacks import Callbacks
from mpnb._exporting.handles import Job, RetryOptions
from mpnb._exporting.launch import Order, launched, ran, started
from mpnb._exporting.run import Run
from mpnb._fetching.fetched import Task
from mpnb._fetching.limiter import RateLimiter, limiter_for
from mpnb._message import SAME_CALL, Argument, Message
from mpnb._mixpanel.credentials import Credentials
from mpnb._mixpanel.engage_api import COLUMNS, FAMILY, PAGE_SIZE
from mpnb._mixpanel.failures import HINTS, Failure, known_hint
from mpnb._mixpanel.quota import Quota
from mpnb._planning.options import Spool
from mpnb._planning.people import USUAL, ProfilesAsked, ProfilesPlan
from mpnb._planning.profiles import Profiles, first_page
from mpnb._planning.request import OnBatch, check_helpers
from mpnb._planning.states import Outcome, outcome_of
from mpnb._reading import frames
from mpnb._reading import profiles as reading
from mpnb._reading.answers import sql_with
from mpnb._reading.check import Check, make_check
from mpnb._reading.reader import Reader
from mpnb._reading.selection import Selection
from mpnb._showing import progress as _progress
from mpnb._storing import snapshot as snapshots
from mpnb._storing import tables as layout
from mpnb._storing import versions
from mpnb._storing.database import Store
from mpnb._storing.snapshot import STAGED_FOR, Publishing, Snapshot, published, staging
from mpnb._storing.table import Table

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow


class ProfilesError(MpnbError):
    """The profiles could not be fetched whole, and the table is as it was. ``result`` holds the failure table."""

    def __init__(self, message: str, result: ProfilesResult) -> None:
        super().__init__(message)
        self.result: ProfilesResult = result


class ProfilesCancelled(MpnbError):
    """The job was cancelled, and the table is as it was. The same call goes on from the pages that are there."""

    def __init__(self, message: str, result: ProfilesResult) -> None:
        super().__init__(message)
        self.result: ProfilesResult = result


# Fetches the profiles of a result again: returns a ProfilesJob, or a ProfilesResult.
Retry = Callable[["ProfilesResult", RetryOptions, bool], Any]


class ProfilesResult:
    """
    The profiles of a project, whole as they were at one time, and what failed.

    ``profiles`` is a relation, ``typed()`` has a column for each property, ``df()``, ``pl()`` and ``arrow()`` make
    frames, ``sql()`` runs any query, ``check()`` tells whether all is there.

    Returned by ``mpnb.export_profiles()``, ``job.result()`` and ``retry()``. It keeps the database open, and its file
    locked against other processes, until ``close()`` or the end of a ``with`` block. Any thread may call any method and
    read any relation, except those that ``sql()`` made in a thread that uses ``con``.

    Attributes:
        table: name of the table.
        successful_batches, failed_batches, cancelled_batches: number of pages of this call, by how they ended.
        fetched_rows: profiles that this call fetched, the first page twice: it is read again at the end.
        bytes: compressed bytes received by this call, over all attempts.
        duration_seconds: from the start of this call to its end.
    """

    def __init__(self) -> None:
        """Raise ``TypeError``: calls return one."""
        raise TypeError("mpnb.export_profiles() returns a ProfilesResult")

    def _hold(self, reader: Reader, outcome: Outcome, retry: Retry, *, wanted: str, since: datetime) -> ProfilesResult:
        self._wanted, self._since = wanted, since
        self._reader = reader
        self._store = reader.store
        self._own = threading.local()  # the connection of each thread, as .con
        self._retry = retry
        self.table: str = reader.table
        self.successful_batches: int = outcome.successful_batches
        self.failed_batches: int = outcome.failed_batches
        self.cancelled_batches: int = outcome.cancelled_batches
        self.fetched_rows: int = outcome.fetched_rows
        self.bytes: int = outcome.bytes
        self.duration_seconds: float = outcome.duration_seconds
        self._last: tuple[int, datetime | None, bool] = (0, None, False)
        self._look()
        return self

    # --- the whole ---------------------------------------------------------------------------------------------------

    def _look(self) -> tuple[int, datetime | None, bool]:
        """Return rows, time and whether something is missing; after ``close()`` as they were last seen."""
        if not self._store.closed:
            with self._store.reading() as cursor:
                there = columns_of(cursor, self.table)
                rows = run(cursor, f"SELECT count(*) FROM {quoted(self.table)}")[0][0] if there else 0
                snapshot = published(cursor, self.table)
                is_here = snapshot and (snapshot.id == self._wanted or snapshot.requested_at > self._since)
                self._last = (rows, snapshot.requested_at if snapshot else None, not is_here)
        return self._last

    @property
    def total_rows(self) -> int:
        """Return the number of ``profiles``."""
        return self._look()[0]

    @property
    def taken_at(self) -> datetime | None:
        """Return when the first page of ``profiles`` was asked for, in UTC; ``None`` if the table has no snapshot."""
        return self._look()[1]

    @property
    def has_failures(self) -> bool:
        """Whether the profiles that were asked for are missing: the table has those of an earlier call, or none."""
        return self._look()[2]

    # --- relations ---------------------------------------------------------------------------------------------------

    @property
    def profiles(self) -> DuckDBPyRelation:
        """
        Return the profiles as they were served.

        Columns: ``distinct_id`` (VARCHAR, the canonical id), ``properties`` (JSON, all of them), ``batch_id``. In
        ``properties``, integers can have any length; a decimal is stored as the nearest double, in its shortest form.

        Raises:
            ClosedError: the result was closed.
        """
        return self._reader.relation(f"SELECT * FROM {quoted(self.table)}")

    def as_of(self, day: date | str) -> DuckDBPyRelation:
        """
        Return the profiles as they were at the end of a day in UTC, by the last snapshot that was taken until then.

        Columns: ``distinct_id``, ``properties``, ``valid_from`` (when the snapshot was taken that showed this version
        first, in UTC), ``valid_to`` (the first that did not; null for a version of the latest snapshot).

        Args:
            day: a ``date``, ``"YYYY-MM-DD"``, ``"today"``, ``"yesterday"`` or ``"30 days ago"``.

        Raises:
            PlanError: it is no day, or the history begins later.
            TableError: the table has no history: ``history=True`` begins one.
            ClosedError: the result was closed.
        """
        with self._store.reading() as cursor:
            query = reading.as_of_query(cursor, self.table, day)
        return self._reader.relation(query)

    def typed(self, columns: Iterable[str] | None = None) -> DuckDBPyRelation:
        """
        Return the profiles with a typed column for each property, after ``distinct_id``.

        Types and names are those of ``ExportResult.event()``: one that fits all values, else JSON. No value is rounded,
        truncated or made null. The project's own properties come first. All profiles are looked at, at each call.

        Args:
            columns: names of properties or columns to return besides ``distinct_id``; default: all.

        Raises:
            PlanError: there is no such property.
            ClosedError: the result was closed.
        """
        return reading.typed_relation(self._reader, columns)

    def catalog(self) -> DuckDBPyRelation:
        """
        Return one row per property, in the order of ``typed()``. It is computed at once.

        Columns: ``property``, ``column_name`` (in ``typed()``), ``type``, ``share`` (of the profiles that have it,
        nulls included), ``nulls`` (how many of them are a JSON null), ``distinct_values`` (approximate), ``minimum``,
        ``maximum`` (as text; null for JSON, lists and structs), ``examples`` (a list of texts, the most frequent
        values), ``drift`` (for JSON columns, why no other type fits).

        Raises:
            ClosedError: the result was closed.
        """
        return reading.catalog(self._reader)

    @property
    def failures(self) -> DuckDBPyRelation:
        """
        Return one row per page that failed or was cancelled, in order.

        Columns: ``page`` (from 0), ``status``, ``kind`` (as for events, and ``inconsistent``: pages do not fit
        together), ``http_status``, ``message``, ``attempts``, ``retryable``, ``hint``, ``started_at``,
        ``finished_at`` (both in UTC), ``batch_id``.

        Raises:
            ClosedError: the result was closed.
        """
        with self._store.reading() as cursor:
            query = reading.failures_query(cursor, self.table)
        return self._reader.relation(query)

    @property
    def pages(self) -> DuckDBPyRelation:
        """
        Return the pages of ``profiles``, in order. The first was read again at the end, and stands twice.

        Columns: ``page``, ``is_again``, ``rows``, ``rejected``, ``bytes``, ``attempts``, ``started_at``,
        ``finished_at`` (both in UTC), ``batch_id``.

        Raises:
            ClosedError: the result was closed.
        """
        return self._reader.relation(reading.pages_query(self.table))

    @property
    def rejected(self) -> DuckDBPyRelation:
        """
        Return what was served as a profile and is no valid JSON, unchanged, and without their content those that were
        left out, of people who were forgotten.

        Columns: ``page``, ``line_number`` (from 1, on the page; null if it was left out), ``reason``, ``line`` (BLOB),
        ``batch_id``.

        Raises:
            ClosedError: the result was closed.
        """
        return self._reader.relation(reading.rejected_query(self.table))

    @property
    def con(self) -> DuckDBPyConnection:
        """
        A connection for your own SQL, one per thread. It is closed with the result.

        Raises:
            ClosedError: the result was closed.
        """
        if self._store.closed or not hasattr(self._own, "con"):
            self._own.con = self._store.user_cursor()
        con: DuckDBPyConnection = self._own.con
        return con

    def sql(self, query: str) -> DuckDBPyRelation:
        """
        Run SQL on the database and return a relation. Tables have the names that they were given at export.

        SQL can name the caller's variables like tables. Statements that do more than read run once, at the call.

        Raises:
            ClosedError: the result was closed.
            duckdb.Error: the SQL is invalid.
        """
        return sql_with(self, query, variables_in(query, sys._getframe(1)))

    # --- frames ------------------------------------------------------------------------------------------------------

    def df(self, columns: Iterable[str] | None = None) -> pandas.DataFrame:
        """
        Return ``typed()`` as a pandas DataFrame, all in memory.

        Args:
            columns: names of properties or columns to return besides ``distinct_id``; default: all.

        Raises:
            PlanError: there is no such property.
            ClosedError: the result was closed.
        """
        return frames.df(self._reader, self._typed(columns))

    def pl(self, columns: Iterable[str] | None = None) -> polars.DataFrame:
        """
        Return ``typed()`` as a polars DataFrame, all in memory, with HUGEINT as ``Int128``.

        Args:
            columns: names of properties or columns to return besides ``distinct_id``; default: all.

        Raises:
            PlanError: there is no such property.
            ClosedError: the result was closed.
        """
        return frames.pl(self._reader, self._typed(columns))

    def arrow(self, columns: Iterable[str] | None = None) -> pyarrow.Table:
        """
        Return ``typed()`` as an Arrow table, all in memory, with HUGEINT as ``decimal128(38, 0)`` and JSON as text.

        Args:
            columns: names of properties or columns to return besides ``distinct_id``; default: all.

        Raises:
            PlanError: there is no such property.
            ClosedError: the result was closed.
        """
        return frames.arrow(self._reader, self._typed(columns))

    def _typed(self, columns: Iterable[str] | None) -> DuckDBPyRelation:
        return reading.typed_relation(self._reader, columns, self._store.own_database)

    # --- the whole ---------------------------------------------------------------------------------------------------

    def check(self) -> Check:
        """
        Check the table: as many profiles as Mixpanel said, each id once, every page as its ledger row says.

        Returns:
            A report. Its repr is a short text, ``.relation`` has one row per check, and ``.ok`` is true if no check
            found a problem. The checks: ``snapshot``, ``profiles``, ``duplicates``, ``rejected lines``,
            ``ledger against table``.

        Raises:
            ClosedError: the result was closed.
        """
        with self._store.reading() as cursor:
            return make_check(reading.findings(cursor, self.table), self._reader.relation)

    def retry(
        self,
        *,
        workers: int | None = None,
        on_batch: OnBatch | None = None,
        credentials: Credentials | None = None,
        quota: Quota | None = None,
        spool: Spool | None = None,
    ) -> ProfilesResult:
        """
        Fetch what is missing of the profiles, or all of them if nothing is. Blocks like ``mpnb.export_profiles()``.

        Pages that are there are not fetched again as long as Mixpanel takes their session.

        Args:
            workers, on_batch, credentials, quota, spool: override those of the call that made this result.

        Raises:
            ProfilesError: it failed again.
            PlanError: an option is invalid, or credentials are missing.
            ClosedError: this result was closed.
        """
        options = RetryOptions(workers, on_batch, credentials, quota, spool)
        result: ProfilesResult = self._retry(self, options, False)
        return result

    def raise_for_failures(self) -> None:
        """Raise ``ProfilesError``, which carries this result, if ``has_failures``."""
        if self.has_failures:
            raise ProfilesError(failed_line(self), self)

    def close(self) -> None:
        """Close the database and every relation."""
        self._store.close()

    def __enter__(self) -> ProfilesResult:
        """Return the result itself; it is closed at the end of the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the database."""
        self.close()

    def __repr__(self) -> str:
        """Return a few lines of text: how many profiles, from when, and what is missing."""
        return "\n".join(["Mixpanel profiles", *(f"  {name:<9} {value}" for name, value in facts_of(self))])

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        rows = "".join(
            f"<tr><th style='text-align:left'>{escape(name)}</th><td style='text-align:left'>{escape(value)}</td></tr>"
            for name, value in facts_of(self)
        )
        return {"text/plain": repr(self), "text/html": f"<b>Mixpanel profiles</b><table>{rows}</table>"}


class ProfilesJob(Job[ProfilesResult]):
    """
    An export of profiles that runs in the background, returned by ``mpnb.start_profiles()``.

    Any thread may call any method. ``await job`` is ``job.result()`` without blocking the event loop. The interpreter
    does not exit before the job has ended.
    """

    _records = "profiles"

    def __init__(self) -> None:
        """Raise ``TypeError``: a call returns one."""
        raise TypeError("mpnb.start_profiles() returns a ProfilesJob")

    def _hold(self, run: Run[ProfilesResult]) -> ProfilesJob:
        self._run = run
        return self

    def _judged(self, result: ProfilesResult) -> ProfilesResult:
        engine = self._run.engine
        if engine.lost_destination:
            raise ProfilesError(
                Message(
                    f"the database failed in mid-export, and cannot be read now: {engine.lost_destination}. The table",
                    " is as it was: when the disk is well again, run ",
                    SAME_CALL,
                    " once more",
                ),
                result,
            )
        if engine.cancelled and result.has_failures:
            raise ProfilesCancelled(stopped_line(result), result)
        if result.has_failures:
            raise ProfilesError(failed_line(result, engine.halted_by), result)
        return result


# --- what they say ---------------------------------------------------------------------------------------------------


def _kept(result: ProfilesResult) -> str:
    rows, taken, _ = result._look()
    if taken is None:
        return f"table {result.table!r} has no profiles yet"
    return f"table {result.table!r} keeps the {rows:,} profiles of {taken:%Y-%m-%d %H:%M} UTC"


def failed_line(result: ProfilesResult, halted_by: Failure | None = None) -> str:
    """Return a sentence on what failed, what the table has, and what to do."""
    kept = _kept(result)
    if result._store.closed:
        return f"the profiles could not be fetched whole: {kept}; {result._store.afterwards}"
    rows = result.failures.limit(1).fetchall()
    if halted_by is None and rows:
        _, _, kind, status, message, _, _, hint, *_ = rows[0]
        halted_by = Failure(kind, message or "", http_status=status, hint=hint or HINTS.get(kind, ""))
    if halted_by is None:
        return Message(f"the profiles could not be fetched whole: {kept}; run ", SAME_CALL, " again")
    why = f"the profiles could not be fetched whole, by {halted_by.kind}: {halted_by}. "
    return Message(why, known_hint(halted_by.hint), f" Nothing was changed: {kept}")


def stopped_line(result: ProfilesResult, *, closing: bool = False) -> str:
    """Return a sentence on what a stop left undone."""
    rest = (", if ", Argument("max_age"), " is less than the age of these") if result.taken_at else ()
    goes_on = " goes on with the pages that were fetched"
    return Message(f"cancelled: {_kept(result)}; ", Argument("mode", "resume"), goes_on, *rest)


def facts_of(result: ProfilesResult) -> list[tuple[str, str]]:
    """Return what a display of a result says, as pairs of a word and a sentence."""
    rows, taken, missing = result._look()
    when = f", as of {taken:%Y-%m-%d %H:%M:%S} UTC" if taken else ""
    facts = [("profiles", f"{rows:,} in table {result.table!r} of {result._store.label}{when}")]
    fetched = result.successful_batches
    if fetched or result.failed_batches or result.cancelled_batches:
        counts = ((fetched, "fetched"), (result.failed_batches, "failed"), (result.cancelled_batches, "cancelled"))
        facts.append(("pages", ", ".join(f"{n:,} {what}" for n, what in counts if n)))
        facts.append(("took", f"{duration(result.duration_seconds)}, {size(result.bytes)} received"))
    else:
        facts.append(("pages", "none fetched: the profiles were there already"))
    if not result._store.closed:
        with result._store.reading() as cursor:
            kept = reading.history_line(cursor, result.table)
        facts += [("history", kept)] if kept else []
    if result._store.closed:
        facts.append(("closed", result._store.afterwards))
    elif missing:
        facts.append(("missing", failed_line(result)))
    return facts


# --- from checked arguments to a job ---------------------------------------------------------------------------------


def profiles_limiter(asked: ProfilesAsked) -> RateLimiter:
    """Return the limiter of the project's queries, or one without a project if there are no credentials."""
    if asked.credentials is None:
        return RateLimiter(asked.quota or USUAL)
    host, project = asked.credentials.query_host, asked.credentials.project_id
    return limiter_for(host, project, asked.quota, family=FAMILY, usual=USUAL)


def check_profiles_table(cursor: DuckDBPyConnection, asked: ProfilesAsked, store: Store) -> None:
    """Check that the table accepts what is asked for. Raises ``TableError``."""
    layout.check_records(cursor, store.label, asked.table, COLUMNS)
    if asked.history:
        layout.check_records(cursor, store.label, versions.history_of(asked.table), versions.COLUMNS)
    if asked.source is not None and (why := snapshots.check_source(cursor, asked.table, asked.source)):
        raise TableError(f"{why}: pass another ", Argument("table", ""), " or another ", Argument("database", ""))
    there = published(cursor, asked.table)
    if asked.mode == "new" and there and there.rows:
        raise TableError(
            f"table {asked.table!r} has {there.rows:,} profiles, and ",
            Argument("mode", "new"),
            " needs an empty one: pass another ",
            Argument("table", ""),
            ", or ",
            Argument("mode", "resume"),
            " or ",
            Argument("mode", "refresh"),
        )


def _held(asked: ProfilesAsked, there: Snapshot | None) -> bool:
    """Whether the snapshot of a table is young enough."""
    if there is None or asked.mode != "resume" or (asked.source and there.source != asked.source.as_text):
        return False
    age = utc_now() - there.requested_at
    # One of the future was dated by a clock that was ahead: its age is unknown.
    return timedelta(0) <= age < asked.max_age


def _going_on(asked: ProfilesAsked, known: Iterable[Snapshot]) -> Snapshot | None:
    """Return the snapshot whose pages are staged, if this call may go on with it."""
    if asked.mode != "resume" or asked.source is None:
        return None
    source, sizes = asked.source.as_text, (asked.asked_size, None)
    earliest = utc_now() - STAGED_FOR
    return next(
        (
            s
            for s in known
            if not s.is_published and s.source == source and s.asked_size in sizes and s.requested_at >= earliest
        ),
        None,
    )


def profiles_plan(asked: ProfilesAsked, cursor: DuckDBPyConnection | None, limiter: RateLimiter) -> ProfilesPlan:
    """Return the plan for what is asked, given the database if there is one."""
    known = snapshots.snapshots(cursor, asked.table) if cursor else []
    there = published(cursor, asked.table) if cursor else None
    staged = _going_on(asked, known)
    goes_on = 0
    if cursor and staged:
        left = snapshots.pages_left(cursor, asked.table, staged)
        goes_on = staged.session.pages - len(left) if left else 0
    latest = staged or there
    page_size = latest.session.page_size if latest else PAGE_SIZE
    pages = max(1, -(-latest.session.total // page_size)) if latest else None
    return ProfilesPlan(
        table=asked.table,
        age=utc_now() - there.requested_at if there else None,
        profiles=there.rows if there else None,
        is_held=_held(asked, there),
        pages=pages,
        goes_on=max(0, goes_on),
        quota_left=limiter.left(),
        per_hour=limiter.quota.per_hour,
    )


class _ProfilesLanding:
    """A snapshot of profiles, in a staging table until it is whole."""

    def __init__(self, asked: ProfilesAsked, resource: Profiles) -> None:
        self._asked = asked
        self._resource = resource
        self._snapshot_id = ""
        self._since = utc_now()

    def table(self, store: Store, export_id: str) -> Table:
        asked = self._asked
        with store.reading() as cursor:
            layout.check(cursor, store.label)
            going_on = _going_on(asked, snapshots.snapshots(cursor, asked.table))
        self._snapshot_id = going_on.id if going_on else export_id
        course = Publishing(asked.table, self._resource, export_id, self._snapshot_id, self._first)
        return Table(store, staging(asked.table), self._resource, export_id, course, shown=asked.table)

    @property
    def _first(self) -> Any:
        return first_page(utc_now().date(), self._asked.asked_size)

    def admitted(self, store: Store, table: Table, board: BatchBoard) -> list[Task]:
        asked = self._asked
        with store.reading() as cursor:
            check_profiles_table(cursor, asked, store)
            if asked.history:
                with transaction(cursor):
                    versions.begin(cursor, asked.table)
            there = published(cursor, asked.table)
            if there and _held(asked, there):
                self._snapshot_id = there.id
                return []
            staged = next((s for s in snapshots.snapshots(cursor, asked.table) if s.id == self._snapshot_id), None)
            batches = snapshots.pages_left(cursor, asked.table, staged) if staged else None
            if batches is None:
                batches = [self._first]
                with transaction(cursor):
                    snapshots.drop_staged(cursor, asked.table)
        ids = table.admit(batches, [])
        to_fetch = list(zip(batches, ids, strict=True))
        indexes = board.add([(batch, "queued", 0) for batch in batches])
        return [Task(index, batch_id, batch) for index, (batch, batch_id) in zip(indexes, to_fetch, strict=True)]

    def result(self, store: Store, board: BatchBoard) -> ProfilesResult:
        p = board.progress()
        outcome = outcome_of(p.counts, rows=p.rows, rejected=0, size=p.bytes, seconds=p.elapsed)
        return ProfilesResult.__new__(ProfilesResult)._hold(
            Reader(store, Selection(self._asked.table)),
            outcome,
            partial(_retry, self._asked),
            wanted=self._snapshot_id,
            since=self._since,
        )


def _launch(
    asked: ProfilesAsked, open_store: Callable[[], Store], callbacks: Callbacks, *, in_background: bool
) -> ProfilesJob:
    assert asked.credentials is not None
    assert asked.source is not None
    resource = Profiles(asked.source, may_resize=asked.page_size == "auto")
    order = Order(
        asked.credentials, asked.credentials.query_host, profiles_limiter(asked), asked.spool, asked.workers, resource
    )
    run = launched(order, open_store, callbacks, _ProfilesLanding(asked, resource), in_background=in_background)
    return ProfilesJob.__new__(ProfilesJob)._hold(run)


def start_profiles_export(asked: ProfilesAsked, open_store: Callable[[], Store]) -> ProfilesJob:
    """Start an export of profiles in the background."""
    return started(lambda callbacks, **how: _launch(asked, open_store, callbacks, **how), asked.on_batch)


def run_profiles_export(asked: ProfilesAsked, open_store: Callable[[], Store]) -> ProfilesResult:
    """Run an export of profiles in the caller's thread, which runs the callbacks; Ctrl-C stops it."""
    show = _progress.Silent(asked.on_batch) if asked.on_batch else _progress.lines(records="profiles")
    return ran(lambda callbacks, **how: _launch(asked, open_store, callbacks, **how), show, stopped_line)


def _retry(
    asked: ProfilesAsked, result: ProfilesResult, options: RetryOptions, background: bool
) -> ProfilesResult | ProfilesJob:
    """Fetch the profiles of a result again, into the same database."""
    given: Mapping[str, Any] = options.given()
    check_helpers(**{name: value for name, value in given.items() if name != "workers"})
    store = result._store.share()
    asked = replace(asked, mode="resume", max_age=timedelta(0), **given)
    way = start_profiles_export if background else run_profiles_export
    return way(asked, lambda: store)
