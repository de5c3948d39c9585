"""Profiles: what the calls return and raise, and what they say."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import date, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any

from duckdb import DuckDBPyRelation

from mpnb._base.sql import columns_of, quoted, run
from mpnb._base.text import duration, size
from mpnb._exporting.handles import Job, RetryOptions, WithResult, variable_of
from mpnb._exporting.run import Run
from mpnb._message import SAME_CALL, Argument, Message
from mpnb._mixpanel.credentials import Credentials
from mpnb._mixpanel.failures import HINTS, Failure, known_hint
from mpnb._mixpanel.quota import Quota
from mpnb._planning.options import Spool
from mpnb._planning.request import OnBatch
from mpnb._planning.states import PROFILES, Outcome
from mpnb._reading import frames
from mpnb._reading import profiles as reading
from mpnb._reading.check import Check, make_check
from mpnb._reading.connected import Connected
from mpnb._reading.reader import Reader
from mpnb._showing import summary
from mpnb._showing.live import show_result_once
from mpnb._storing.snapshot import published

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow


class ProfilesError(WithResult["ProfilesResult"]):
    """The profiles could not be fetched whole, and the table is as it was. ``result`` holds the failure table."""


class ProfilesCancelled(WithResult["ProfilesResult"]):
    """The job was cancelled, and the table is as it was. The same call goes on from the pages that are there."""


# Fetches the profiles of a result again: returns a ProfilesJob, or a ProfilesResult.
Retry = Callable[["ProfilesResult", RetryOptions, bool], Any]


class ProfilesResult(Connected):
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
        self._connect(reader.store)
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
        memory: int | str | None = None,
    ) -> ProfilesResult:
        """
        Fetch what is missing of the profiles, or all of them if nothing is. Blocks like ``mpnb.export_profiles()``.

        Pages that are there are not fetched again as long as Mixpanel takes their session.

        Args:
            workers, on_batch, credentials, quota, spool, memory: override those of the call that made this result.

        Raises:
            ProfilesError: it failed again.
            PlanError: an option is invalid, or credentials are missing.
            ClosedError: this result was closed.
        """
        options = RetryOptions(workers, on_batch, credentials, quota, spool, memory)
        result: ProfilesResult = self._retry(self, options, False)
        return result

    def start_retry(
        self,
        *,
        workers: int | None = None,
        on_batch: OnBatch | None = None,
        credentials: Credentials | None = None,
        quota: Quota | None = None,
        spool: Spool | None = None,
    ) -> ProfilesJob:
        """
        Start ``retry()`` in the background and return at once, like ``mpnb.start_profiles()``.

        It takes the options of ``retry()`` and raises the same errors, except ``ProfilesError``, which ``job.result()``
        raises.
        """
        job: ProfilesJob = self._retry(self, RetryOptions(workers, on_batch, credentials, quota, spool), True)
        return job

    def raise_for_failures(self) -> None:
        """Raise ``ProfilesError``, which carries this result, if ``has_failures``."""
        if self.has_failures:
            raise ProfilesError(failed_line(self), self)

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
        return summary.text(self._summary())

    def _ipython_display_(self) -> None:
        # The grid of a call that blocks its cell ends as a picture of its result: one is enough.
        show_result_once(self)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return summary.bundle(self._summary())

    def _summary(self) -> summary.Summary:
        facts = dict(facts_of(self))
        missing, rows = facts.pop("missing", ""), []
        if missing:
            rows = [
                summary.FailedRow(f"{page:,}", kind or "", str(http or ""), message or "", attempts)
                for page, _, kind, http, message, attempts, *_ in self.failures.fetchall()
            ]
        name = variable_of(self)
        return summary.Summary(
            title="Mixpanel profiles",
            facts=tuple(facts.items()),
            kinds=(),
            failures=tuple(rows[: summary.SHOWN_FAILURES]),
            unmet=len(rows),
            retry=f"{name} = {name}.retry()" if name else "",
            terms=PROFILES,
            missing=missing,
        )


class ProfilesJob(Job[ProfilesResult]):
    """
    An export of profiles that runs in the background, returned by ``mpnb.start_profiles()``.

    Any thread may call any method. ``await job`` is ``job.result()`` without blocking the event loop. The interpreter
    does not exit before the job has ended.
    """

    _terms = PROFILES

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


# --- made where an export begins or ends ----------------------------------------------------------------------------


def make_profiles_result(
    reader: Reader, outcome: Outcome, retry: Retry, *, wanted: str, since: datetime
) -> ProfilesResult:
    """
    Return the result of what became of an export of profiles.

    Args:
        wanted: the snapshot that it was to publish, or that was young enough.
        since: when the call began: any later snapshot will do as well.
    """
    return ProfilesResult.__new__(ProfilesResult)._hold(reader, outcome, retry, wanted=wanted, since=since)


def make_profiles_job(run: Run[ProfilesResult]) -> ProfilesJob:
    """Return what callers hold of an export of profiles that runs."""
    return ProfilesJob.__new__(ProfilesJob)._hold(run)
