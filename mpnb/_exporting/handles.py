"""What callers hold: a running export, its result, and the errors that carry one."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, fields
from types import TracebackType
from typing import Any

from mpnb._base.warn import warn
from mpnb._errors import MpnbError
from mpnb._exporting.run import Run
from mpnb._mixpanel.credentials import Credentials
from mpnb._mixpanel.failures import Failure
from mpnb._mixpanel.quota import Quota
from mpnb._planning.options import LATE_DAYS, Spool
from mpnb._planning.request import OnBatch
from mpnb._planning.states import BatchProgress, JobProgress, Outcome
from mpnb._reading.answers import Answers
from mpnb._reading.reader import Reader
from mpnb._showing import sentences, summary
from mpnb._showing.live import panel_of


class _WithResult(MpnbError):
    def __init__(self, message: str, result: ExportResult) -> None:
        super().__init__(message)
        self.result = result


class ExportError(_WithResult):
    """No batch of the call is done, empty or skipped. ``result`` holds the failure table."""


class ExportCancelled(_WithResult):
    """The job was cancelled. ``result`` holds what had landed until then."""


@dataclass(frozen=True, slots=True)
class RetryOptions:
    """Hold what ``retry()`` takes in place of what the call said, ``None`` for as it was."""

    workers: int | None = None
    on_batch: OnBatch | None = None
    credentials: Credentials | None = None
    quota: Quota | None = None
    spool: Spool | None = None

    def given(self) -> dict[str, Any]:
        """Return those that are given, by name."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in named.items() if value is not None}


# Fetches again what failed of a result's days, in the background or not: returns an ExportJob, or an ExportResult.
Retry = Callable[["ExportResult", RetryOptions, bool], Any]


class ExportResult(Answers):
    """
    The result of an export: its events, its failures, and ``retry()``.

    ``mpnb.export()``, ``job.result()``, ``retry()`` and ``mpnb.open()`` return one. It keeps the database open, and its
    file locked against other processes, until ``close()``; used in a ``with`` block, it is closed at the end of it.

    Relations are DuckDB's own, run again at each read, and combine with each other; reading one never disturbs
    another. Any thread may call any method and read any relation, except those that ``sql()`` made in a thread that
    uses ``con``.

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
        self, reader: Reader, outcome: Outcome, retry: Retry, *, call: str, late_days: int = LATE_DAYS
    ) -> None:
        super().__init__(reader, late_days=late_days, unmet=outcome.failed_batches + outcome.cancelled_batches)
        self._outcome = outcome
        self._retry = retry
        self._call = call
        self.successful_batches = outcome.successful_batches
        self.failed_batches = outcome.failed_batches
        self.cancelled_batches = outcome.cancelled_batches
        self.skipped_batches = outcome.skipped_batches
        self.fetched_rows = outcome.fetched_rows
        self.rejected_lines = outcome.rejected_lines
        self.duration_seconds = outcome.duration_seconds
        self.bytes = outcome.bytes

    def retry(
        self,
        *,
        workers: int | None = None,
        on_batch: OnBatch | None = None,
        credentials: Credentials | None = None,
        quota: Quota | None = None,
        spool: Spool | None = None,
    ) -> ExportResult:
        """
        Fetch the batches of ``failures`` again, and only those. It blocks as ``mpnb.export()`` does.

        Args:
            workers, on_batch, credentials, quota, spool: in place of those of the call that made this result; for
                ``mpnb.open()``, in place of the defaults of ``mpnb.export()``.

        Returns:
            A result over the same days. Where nothing failed, it is made without a request.

        Raises:
            ExportError: none of the batches came through this time either.
            PlanError: an option cannot work, such as credentials that are missing.
            ClosedError: this result was closed.
        """
        result: ExportResult = self._retry(self, RetryOptions(workers, on_batch, credentials, quota, spool), False)
        return result

    def start_retry(
        self,
        *,
        workers: int | None = None,
        on_batch: OnBatch | None = None,
        credentials: Credentials | None = None,
        quota: Quota | None = None,
        spool: Spool | None = None,
    ) -> ExportJob:
        """
        Do what ``retry()`` does in the background and return at once, as ``mpnb.start()`` does.

        Options and errors are those of ``retry()``, but that ``ExportError`` comes from ``job.result()``.
        """
        job: ExportJob = self._retry(self, RetryOptions(workers, on_batch, credentials, quota, spool), True)
        return job

    def raise_for_failures(self) -> None:
        """Raise ``ExportError``, which carries this result, where ``has_failures``."""
        if self.has_failures:
            raise ExportError(failed_line(self), self)

    def __enter__(self) -> ExportResult:
        """Return itself, to be closed at the end of the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the database."""
        self.close()

    def __repr__(self) -> str:
        """Return a few lines of text: days, counts, and what is missing."""
        return summary.text(summary_of(self))

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        shown = summary_of(self)
        return {"text/plain": summary.text(shown), "text/html": summary.html(shown)}


# --- for the faces: what they show of a result, and how they name it -------------------------------------------------


def summary_of(result: ExportResult) -> summary.Summary:
    """Return what a display shows. Works after ``close()`` as well, then without what only the database knows."""
    return summary.gather(
        result._reader,
        result._outcome,
        result._call,
        total_rows=result.total_rows,
        rows_outside=result.rows_outside,
    )


def failed_line(result: ExportResult, halted_by: Failure | None = None) -> str:
    """Return one sentence on which batches failed, and what to do."""
    return sentences.failed(result._reader, result._outcome, result._call, halted_by)


def stopped_line(result: ExportResult, *, closing: bool = False) -> str:
    """
    Return one sentence on what a cancelled export left.

    Args:
        closing: whether the database is about to be closed.
    """
    return sentences.stopped(result._reader, result._outcome, closing=closing)


def call_it(result: ExportResult, name: str) -> None:
    """Remember the variable that holds a result, for the calls that its displays suggest."""
    result._call = name


def reader_of(result: ExportResult) -> Reader:
    """Return what a result reads by."""
    return result._reader


class ExportJob:
    """
    An export that runs in the background, as ``mpnb.start()`` returns it.

    Any thread may call any method. ``await job`` is ``job.result()`` without blocking the event loop. The interpreter
    does not end before the job does.
    """

    def __init__(self, run: Run[ExportResult]) -> None:
        self._run = run
        self._heard = False  # whether it was said which names of events brought nothing

    def result(self, timeout: float | None = None) -> ExportResult:
        """
        Wait for the end and give the result.

        Args:
            timeout: seconds, 0 or more; ``None`` for as long as it takes.

        Raises:
            PlanError: ``timeout`` is no such number.
            TimeoutError: it has not ended by then; it goes on.
            ClosedError: this process was forked from the one that runs it.
            ExportCancelled: it was cancelled; the exception carries the result.
            ExportError: no batch is done, empty or skipped; the exception carries the result.
        """
        return self._judged(self.outcome(timeout))

    def outcome(self, timeout: float | None = None) -> ExportResult:
        """
        Wait for the end and return the result, however it ended: it raises neither of ``result()``'s last two.

        Args:
            timeout: seconds, 0 or more; ``None`` for as long as it takes.

        Raises:
            PlanError: ``timeout`` is no such number.
            TimeoutError: it has not ended by then; it goes on.
            ClosedError: this process was forked from the one that runs it.
        """
        return self._run.outcome(timeout)

    def cancel(self) -> None:
        """
        Stop it: it ends within two seconds. Batches that are done stay, the others are ``cancelled``.

        Returns at once; ``result()`` then raises ``ExportCancelled``. After the end it does nothing.

        Raises:
            ClosedError: this process was forked from the one that runs it.
        """
        self._run.cancel()

    def done(self) -> bool:
        """Return whether it has ended, well or not."""
        return self._run.done()

    def cancelled(self) -> bool:
        """Return whether it was cancelled before its end."""
        return self._run.engine.cancelled

    def progress(self) -> JobProgress:
        """Return the state of the whole, as it is now."""
        return self._run.board.progress()

    def batches(self, *, clock: bool = True) -> list[BatchProgress]:
        """
        Return the state of each batch, as it is now.

        Args:
            clock: whether ``seconds`` of those under way run to now; else to their last change, which costs less.
        """
        return self._run.board.cells(clock=clock)

    @property
    def version(self) -> int:
        """How often its batches have changed: while it is the same, nothing is new."""
        return self._run.board.version

    @property
    def quota_left(self) -> int:
        """How many requests the project may still send in the current rolling hour."""
        return self._run.engine.quota_left

    def panel(self) -> Any:
        """
        Show its batches live in a notebook, and at its end what stays: the same as ``mpnb.panel(job)``.

        As many panels as one likes, and they agree. ``job.panel().grid`` is the anywidget alone, for hosts that know
        only those, such as marimo.

        Raises:
            RuntimeError: nothing here shows widgets.
        """
        return panel_of(self)

    def __await__(self) -> Generator[Any, None, ExportResult]:
        """Wait for the end without blocking the event loop. Cancelling the wait leaves the export running."""
        result = yield from self._run.awaitable().__await__()
        return self._judged(result)

    def __repr__(self) -> str:
        """Return how far it is."""
        p = self.progress()
        state = "cancelled" if p.finished and self.cancelled() else "done" if p.finished else "running"
        return f"<ExportJob {state}: {p.ended:,} of {p.total:,} batches, {p.rows:,} events>"

    def _judged(self, result: ExportResult) -> ExportResult:
        engine = self._run.engine
        if engine.lost_destination:
            raise ExportError(
                f"the database failed in mid-export, and cannot be read now: {engine.lost_destination}. What had "
                "landed is in the file: when the disk is well again, the same call goes on from there",
                result,
            )
        if engine.cancelled and result.cancelled_batches:
            raise ExportCancelled(stopped_line(result), result)
        if result.failed_batches and not result.successful_batches and not result.skipped_batches:
            raise ExportError(failed_line(result, engine.halted_by), result)
        if not self._heard:
            self._heard = True
            for sentence in result._reader.unheard():
                warn(sentence)
        return result
