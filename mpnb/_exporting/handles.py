"""What the public calls return and raise: a job, a result, and the errors that carry a result."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date
from types import MappingProxyType, TracebackType
from typing import Any, Generic, Protocol, TypeVar

from mpnb._base.warn import warn
from mpnb._errors import ClosedError, MpnbError
from mpnb._exporting.run import Run
from mpnb._message import SAME_CALL, Message
from mpnb._mixpanel.credentials import Credentials
from mpnb._mixpanel.failures import Failure
from mpnb._mixpanel.quota import Quota
from mpnb._planning.options import DATABASE, LATE_DAYS, TABLE, Spool
from mpnb._planning.request import OnBatch
from mpnb._planning.states import EVENTS, BatchProgress, JobProgress, Outcome, Terms
from mpnb._reading.answers import Answers
from mpnb._reading.calendar import Calendar
from mpnb._reading.reader import Reader
from mpnb._showing import sentences, summary
from mpnb._showing.live import panel_of, show_job, show_result_once
from mpnb._showing.progress import RowsLine
from mpnb._storing.database import MEMORY


class Closable(Protocol):
    """What comes of a job: it keeps a database open."""

    def close(self) -> None:
        """Close the database."""


R = TypeVar("R", bound=Closable)


class WithResult(MpnbError, Generic[R]):
    """An error that carries a result, but not to another process: the result has a database open in this one."""

    def __init__(self, message: str, result: R | None) -> None:
        super().__init__(message)
        self._result = result

    @property
    def result(self) -> R:
        """
        What came of the export.

        Raises:
            ClosedError: the error came from another process, and the result stayed there.
        """
        if self._result is None:
            raise ClosedError("the result stayed in the process that raised this error: read its table there")
        return self._result

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how another process makes it again, without the result."""
        return type(self), (self.args[0], None)


class ExportError(WithResult["ExportResult"]):
    """No batch of the call is done, empty or skipped. ``result`` holds the failure table."""


class ExportCancelled(WithResult["ExportResult"]):
    """The job was cancelled. ``result`` has the batches that were written before."""


@dataclass(frozen=True, slots=True)
class RetryOptions:
    """
    The options of ``retry()``, which override those of the original call; ``None`` keeps the original.

    ``days`` are the first and the last day to fetch again, and ``project_id`` the project of which, where that is not
    all that failed.
    """

    workers: int | None = None
    on_batch: OnBatch | None = None
    credentials: Credentials | Iterable[Credentials] | None = None
    quota: Quota | None = None
    spool: Spool | None = None
    memory: int | str | None = None
    days: tuple[date, date] | None = None
    project_id: str | None = None

    def given(self) -> dict[str, Any]:
        """Return the options that were given, by name."""
        named = {
            field.name: getattr(self, field.name) for field in fields(self) if field.name not in ("days", "project_id")
        }
        return {name: value for name, value in named.items() if value is not None}


# Fetches again what failed of a result's days, in the background or not: returns an ExportJob, or an ExportResult.
Retry = Callable[["ExportResult", RetryOptions, bool], Any]


class ExportResult(Answers):
    """
    The result of an export: its events, its failures, and ``retry()``.

    ``events`` and ``failures`` are relations, ``event("Purchase")`` has a column for each property, ``df()``, ``pl()``
    and ``arrow()`` make frames, ``sql()`` runs any query, ``check()`` tells whether all is there.

    Returned by ``mpnb.export()``, ``job.result()``, ``retry()`` and ``mpnb.open()``. It keeps the database open, and
    its file locked against other processes, until ``close()`` or the end of a ``with`` block.

    Its relations are DuckDB relations. Each read runs the query again; relations can be combined with each other, and
    reading one does not affect another. Any thread may call any method and read any relation, except those that
    ``sql()`` made in a thread that uses ``con``.

    The result of a call with several ``credentials`` has the events of all their projects. Its relations have one more
    column, ``project_id``, before the others; ``deduplicated()``, ``duplicates()``, ``event_names()``,
    ``local_time()``, counts, ``calendar()``, ``df()`` and the other frames are of all projects as well, and SQL finds
    the table of each by its name. What belongs to one project is asked of ``result.projects["12345"]``: ``check()``,
    ``event()`` and everything else with typed columns, ``for_analysis()``, ``identities()``.

    Attributes:
        table: name of the events table; with several projects, what the names of their tables begin with.
        from_date, to_date: the days that were asked for, both inclusive; ``None`` for the whole ledger.
        successful_batches, failed_batches, cancelled_batches, skipped_batches: number of batches of this call, by how
            they ended; empty ones are successful.
        fetched_rows: events that this call added.
        rejected_lines: lines that this call put into ``rejected`` because they are not events.
        bytes: compressed bytes received by this call, over all attempts.
        duration_seconds: from the start of this call to its end.
    """

    def __init__(self) -> None:
        """Raise ``TypeError``: calls return one."""
        raise TypeError("mpnb.export() returns an ExportResult, mpnb.open() one of what is there already")

    def _hold(self, reader: Reader, outcome: Outcome, retry: Retry, *, call: str, late_days: int) -> ExportResult:
        self._read_by(reader, late_days=late_days, unmet=outcome.failed_batches + outcome.cancelled_batches)
        return self._did(outcome, retry, call)

    def _did(self, outcome: Outcome, retry: Retry, call: str) -> ExportResult:
        self._outcome = outcome
        self._retry = retry
        self._call = call
        self._name = self._retry_by = ""
        self.successful_batches: int = outcome.successful_batches
        self.failed_batches: int = outcome.failed_batches
        self.cancelled_batches: int = outcome.cancelled_batches
        self.skipped_batches: int = outcome.skipped_batches
        self.fetched_rows: int = outcome.fetched_rows
        self.rejected_lines: int = outcome.rejected_lines
        self.duration_seconds: float = outcome.duration_seconds
        self.bytes: int = outcome.bytes
        return self

    def _rows_ticked(self, what: str) -> Callable[[int, int], object]:
        return RowsLine(what)

    def _mend(self, days: Sequence[date], failed: bool) -> str:
        name = self._name or variable_of(self)
        retry = f"{name} = {name}.retry()" if name else self._retry_by
        # A retry fetches all that is missing of the days of a call; of a whole table, what failed.
        if retry and (failed or self._selection.days) and self.has_failures:
            return retry
        return export_call(self._reader, days[0], days[-1])

    @property
    def projects(self) -> Mapping[str, ExportResult]:
        """
        Return the result of each project by its number: with one, this result itself.

        Raises:
            ClosedError: the result was closed.
        """
        self._check_open()
        source = self._reader.source()
        return MappingProxyType({source.project_id: self} if source else {})

    def retry(
        self,
        *,
        workers: int | None = None,
        on_batch: OnBatch | None = None,
        credentials: Credentials | Iterable[Credentials] | None = None,
        quota: Quota | None = None,
        spool: Spool | None = None,
        memory: int | str | None = None,
    ) -> ExportResult:
        """
        Fetch the batches in ``failures`` again, and only those. Blocks like ``mpnb.export()``.

        Args:
            workers, on_batch, credentials, quota, spool, memory: override those of the call that made this result; for
                a result of ``mpnb.open()``, the defaults are those of ``mpnb.export()``. Where it has several projects,
                ``credentials`` are of the same ones.

        Returns:
            A result over the same days. If nothing had failed, no request is sent.

        Raises:
            ExportError: all of the batches failed again.
            PlanError: an option is invalid, or credentials are missing.
            ClosedError: this result was closed.
        """
        options = RetryOptions(workers, on_batch, credentials, quota, spool, memory)
        result: ExportResult = self._retry(self, options, False)
        return result

    def start_retry(
        self,
        *,
        workers: int | None = None,
        on_batch: OnBatch | None = None,
        credentials: Credentials | Iterable[Credentials] | None = None,
        quota: Quota | None = None,
        spool: Spool | None = None,
        memory: int | str | None = None,
    ) -> ExportJob:
        """
        Start ``retry()`` in the background and return at once, like ``mpnb.start()``.

        It takes the options of ``retry()`` and raises the same errors, except ``ExportError``, which ``job.result()``
        raises.
        """
        options = RetryOptions(workers, on_batch, credentials, quota, spool, memory)
        job: ExportJob = self._retry(self, options, True)
        return job

    def raise_for_failures(self) -> None:
        """Raise ``ExportError``, which carries this result, if ``has_failures``."""
        if self.has_failures:
            raise ExportError(failed_line(self), self)

    def __enter__(self) -> ExportResult:
        """Return the result itself; it is closed at the end of the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the database."""
        self.close()

    def __repr__(self) -> str:
        """Return a few lines of text: the days, the counts, and what is missing."""
        return summary.text(self._summary())

    # --- for the faces and jobs, within the package -------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._store.closed:
            raise ClosedError(f"this result was closed: {self._store.afterwards}")

    def _readers(self) -> Sequence[Reader]:
        return (self._reader,)

    def _summary(self) -> summary.Summary:
        name = self._name or variable_of(self)
        return summary.gather(
            self._reader,
            self._outcome,
            name or self._call,
            retry=f"{name} = {name}.retry()" if name else self._retry_by,
            total_rows=self.total_rows,
            rows_outside=self.rows_outside,
        )

    def _ipython_display_(self) -> None:
        # The grid of a call that blocks its cell ends as a picture of its result: one is enough.
        show_result_once(self)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return summary.bundle(self._summary())


# --- made where an export begins or ends, or a database is opened ---------------------------------------------------


def make_result(
    reader: Reader, outcome: Outcome, retry: Retry, *, call: str, late_days: int = LATE_DAYS
) -> ExportResult:
    """Return the result of what became of an export."""
    return ExportResult.__new__(ExportResult)._hold(reader, outcome, retry, call=call, late_days=late_days)


def make_job(run: Run[ExportResult]) -> ExportJob:
    """Return what callers hold of an export that runs."""
    return ExportJob.__new__(ExportJob)._hold(run)


# --- for the faces: what they show of a result, and how they name it -------------------------------------------------


class Summed(Protocol):
    """A result with a display."""

    def _summary(self) -> summary.Summary: ...


def summary_of(result: Summed) -> summary.Summary:
    """Return the contents of a result's display. After ``close()``, it lacks what only the database knows."""
    return result._summary()


def terms_of(job: Job[Any]) -> Terms:
    """Return how displays call what a job fetches."""
    return job._terms


def failed_line(result: ExportResult, halted_by: Failure | None = None) -> str:
    """Return a sentence on the batches that failed, and what to do."""
    return sentences.failed(result._readers(), result._outcome, result._call, halted_by)


def stopped_line(result: ExportResult, *, closing: bool = False) -> str:
    """
    Return a sentence on what a cancelled export left undone.

    Args:
        closing: whether the database is about to be closed.
    """
    return sentences.stopped(result._store, result._outcome, closing=closing)


def call_it(result: ExportResult, name: str) -> None:
    """Set the name of the variable that holds a result, which its displays use in the calls that they suggest."""
    result._name = result._call = name


def retry_it(result: ExportResult, code: str) -> None:
    """Set what a person types to retry a result that no variable holds."""
    result._retry_by = code


def retry_days(
    result: ExportResult, days: tuple[date, date], credentials: Credentials | None, project_id: str | None = None
) -> ExportJob:
    """Start to fetch again what failed of some days of a result, or of one of its projects, and no other."""
    options = RetryOptions(credentials=credentials, days=days, project_id=project_id)
    job: ExportJob = result._retry(result, options, True)
    return job


def variable_of(thing: object) -> str:
    """Return the variable of the session that holds an object, ``""`` where none does."""
    names = list(vars(sys.modules["__main__"]).items())
    return next((name for name, value in names if value is thing and not name.startswith("_")), "")


def export_call(reader: Reader, first: date, last: date) -> str:
    """Return the call that fetches some days into the table of a result; empty where no call reaches it."""
    store, source = reader.store, reader.source()
    if store.name == MEMORY:
        return ""
    words = [f'"{first}"', f'"{last}"']
    if source is not None and source.events is not None:
        words.append(f"events={_quoted(list(source.events))}")
    if source is not None and source.where is not None:
        words.append(f"where={_quoted(source.where)}")
    if store.lake is not None:
        return f"mpnb.export({', '.join([*words, f'destination={_quoted(store.name)}'])})"
    if store.path is None:
        words.append("database=con")
    elif store.name != DATABASE:
        words.append(f"database={_quoted(store.name)}")
    if reader.table != TABLE:
        words.append(f"table={_quoted(reader.table)}")
    return f"mpnb.export({', '.join(words)})"


def _quoted(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def reader_of(result: ExportResult) -> Reader:
    """Return the reader of a result. Raises ``PlanError`` if it has several projects."""
    return result._reader


def readers_of(result: ExportResult) -> Sequence[Reader]:
    """Return the reader of each project of a result."""
    return result._readers()


class Job(Generic[R]):
    """
    Something that runs in the background, and what comes of it.

    Any thread may call any method. ``await job`` is ``job.result()`` without blocking the event loop. The interpreter
    does not exit before the job has ended.
    """

    _terms = EVENTS

    def __init__(self) -> None:
        """Raise ``TypeError``: a call returns one."""
        raise TypeError(f"a call such as mpnb.start() returns this {type(self).__name__}")

    _run: Run[R]

    def result(self, timeout: float | None = None) -> R:
        """
        Wait for the end and return the result.

        Args:
            timeout: seconds, 0 or more; ``None`` for as long as it takes.

        Raises:
            PlanError: ``timeout`` is not a number of 0 or more.
            TimeoutError: the export has not ended by then; it continues.
            ClosedError: this process was forked from the one that runs the export.
            ExportCancelled: the export was cancelled; the exception carries the result.
            ExportError: no batch is done, empty or skipped; the exception carries the result.
        """
        return self._judged(self.outcome(timeout))

    def outcome(self, timeout: float | None = None) -> R:
        """
        Wait for the end and return the result, also of an export that failed or was cancelled.

        Like ``result()``, but without ``ExportCancelled`` and ``ExportError``.

        Args:
            timeout: seconds, 0 or more; ``None`` for as long as it takes.

        Raises:
            PlanError: ``timeout`` is not a number of 0 or more.
            TimeoutError: the export has not ended by then; it continues.
            ClosedError: this process was forked from the one that runs the export.
        """
        return self._run.outcome(timeout)

    def cancel(self) -> None:
        """
        Stop the export within two seconds. Batches that are done stay, the others become ``cancelled``.

        Returns at once; ``result()`` then raises ``ExportCancelled``. Does nothing once the export has ended.

        Raises:
            ClosedError: this process was forked from the one that runs the export.
        """
        self._run.cancel()

    def done(self) -> bool:
        """Whether the export has ended, successfully or not."""
        return self._run.done()

    def cancelled(self) -> bool:
        """Whether the export was cancelled before its end."""
        return self._run.engine.cancelled

    def progress(self) -> JobProgress:
        """Return the state of the export as a whole, as it is now."""
        return self._run.board.progress()

    def batches(self, *, clock: bool = True) -> list[BatchProgress]:
        """
        Return the state of each batch, as it is now.

        Args:
            clock: whether ``seconds`` of unfinished batches run up to now; else to their last change, which is cheaper.
        """
        return self._run.board.cells(clock=clock)

    @property
    def version(self) -> int:
        """How many changes its batches have had; an equal number means that nothing has changed."""
        return self._run.board.version

    @property
    def quota_left(self) -> int:
        """How many requests the project may still send in the current rolling hour."""
        return self._run.engine.quota_left

    def panel(self) -> Any:
        """
        Show the batches live in a notebook, and a static summary once the job has ended. Same as ``mpnb.panel(job)``.

        A cell that ends with the job itself shows the same. A job can have any number of panels, which show the same.
        ``job.panel().grid`` is the anywidget alone, for hosts that show only anywidgets.

        Raises:
            RuntimeError: there is no front end that shows widgets.
        """
        return panel_of(self)

    def _ipython_display_(self) -> None:
        show_job(self)

    def _display_(self) -> Any:  # marimo's hook
        return panel_of(self)._display_()

    def __await__(self) -> Generator[Any, None, R]:
        """Wait for the end without blocking the event loop. Cancelling the wait leaves the export running."""
        result = yield from self._run.awaitable().__await__()
        return self._judged(result)

    def __repr__(self) -> str:
        """Return the export's progress as text."""
        p = self.progress()
        state = "cancelled" if p.finished and self.cancelled() else "done" if p.finished else "running"
        return f"<{type(self).__name__} {state}: {p.ended:,} of {p.total:,} batches, {p.rows:,} {self._terms.records}>"

    def _judged(self, result: R) -> R:
        """Return a result, or raise the error that carries it."""
        raise NotImplementedError


class ExportJob(Job[ExportResult]):
    """
    An export that runs in the background, returned by ``mpnb.start()``.

    Any thread may call any method. ``await job`` is ``job.result()`` without blocking the event loop. The interpreter
    does not exit before the job has ended.
    """

    def __init__(self) -> None:
        """Raise ``TypeError``: a call returns one."""
        raise TypeError("mpnb.start() returns an ExportJob")

    def _hold(self, run: Run[ExportResult]) -> ExportJob:
        self._run = run
        self._heard = False  # whether it was said which names of events brought nothing
        return self

    def calendar(self, *, late_days: int | None = None) -> Calendar:
        """
        Show which days are there so far, and which are being fetched. Otherwise as ``ExportResult.calendar()``.

        Raises:
            PlanError: ``late_days`` is not a whole number of 0 or more.
            ClosedError: the database was closed.
        """
        return self._run.so_far().calendar(late_days=late_days)

    def _judged(self, result: ExportResult) -> ExportResult:
        engine = self._run.engine
        if engine.lost_destination:
            raise ExportError(
                Message(
                    f"the database failed in mid-export, and cannot be read now: {engine.lost_destination}. What had ",
                    "landed is in the file: when the disk is well again, ",
                    SAME_CALL,
                    " goes on from there",
                ),
                result,
            )
        if engine.cancelled and result.cancelled_batches:
            raise ExportCancelled(stopped_line(result), result)
        if result.failed_batches and not result.successful_batches and not result.skipped_batches:
            raise ExportError(failed_line(result, engine.halted_by), result)
        if not self._heard:
            self._heard = True
            for reader in result._readers():
                for sentence in reader.unheard():
                    warn(sentence)
        return result
