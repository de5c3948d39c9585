"""A running export, as its caller holds it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import queue
import threading
import warnings
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from mpnb._base.scalars import real_number
from mpnb._base.warn import warn
from mpnb._exporting.board import BatchBoard
from mpnb._exporting.engine import Engine
from mpnb._exporting.result import ExportCancelled, ExportError
from mpnb._planning.states import BatchProgress, JobProgress
from mpnb._showing.live import panel_of
from mpnb._storing.database import Store

if TYPE_CHECKING:
    from mpnb._exporting.result import ExportResult

log = logging.getLogger("mpnb")


class Events:
    """Carry changes of state from the engine's threads to the one thread that calls ``on_batch``."""

    def __init__(self, on_batch: Callable[[BatchProgress], object] | None) -> None:
        self._on_batch = on_batch
        self._queue: queue.SimpleQueue[BatchProgress | None] = queue.SimpleQueue()
        self._warned = False

    def put(self, progress: BatchProgress) -> None:
        """Take a change. Any thread may call it."""
        if self._on_batch is not None:
            self._queue.put(progress)

    def end(self) -> None:
        """Say that no change follows."""
        self._queue.put(None)

    def dispatch(self, timeout: float | None = None) -> bool:
        """
        Wait for a change and call ``on_batch`` with it.

        Returns:
            Whether more may follow. A time-out counts as such.
        """
        try:
            progress = self._queue.get(timeout=timeout)
        except queue.Empty:
            return True
        if progress is None:
            return False
        try:
            assert self._on_batch is not None
            self._on_batch(progress)
        except Exception as error:
            if not self._warned:
                self._warned = True
                log.warning("on_batch raised", exc_info=True)
                with contextlib.suppress(Exception):  # warnings may be errors here, and must harm nothing either
                    warnings.warn(
                        f"on_batch raised {type(error).__name__}: {error}; the export goes on, and this is said once",
                        RuntimeWarning,
                        stacklevel=2,
                    )
        return True


class ExportJob:
    """
    Hold an export that runs in the background. Made by ``mpnb.start()``.

    Any thread may call any method. ``await job`` is ``job.result()`` without blocking the event loop. The interpreter
    does not end before the job does.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        board: BatchBoard,
        events: Events,
        store: Store,
        make_result: Callable[[], ExportResult],
        on_end: Callable[[], object],
        in_background: bool,
    ) -> None:
        self._engine = engine
        self._board = board
        self._events = events
        self._store = store
        self._make_result = make_result
        self._on_end = on_end
        self._future: Future[ExportResult] = Future()
        self._heard = False  # whether it was said which names of events brought nothing
        self._future.set_running_or_notify_cancel()
        self._in_background = in_background
        self._go = threading.Event()
        self._abandoned = False
        self._coordinator = threading.Thread(target=self._run, name="mpnb-coordinator", daemon=False)

    def start(self) -> None:
        """
        Make the threads, which wait for ``begin`` or ``abandon``. In the caller's thread, once.

        Raises:
            RuntimeError: the system has no more threads. ``abandon`` ends those that were made.
        """
        self._engine.start()
        self._coordinator.start()
        if self._in_background:
            threading.Thread(target=self._dispatch_all, name="mpnb-callbacks", daemon=True).start()

    def begin(self) -> None:
        """Let it run. In the caller's thread, after ``start``."""
        self._go.set()

    def abandon(self) -> None:
        """End what ``start`` has made of an export that does not take place. In the caller's thread."""
        self._abandoned = True
        self._events.end()
        self._go.set()
        self._engine.abandon()
        if self._coordinator.ident is not None:
            self._coordinator.join()

    def _run(self) -> None:
        self._go.wait()
        if self._abandoned:
            return
        try:
            try:
                with self._store.settings():
                    self._engine.run()
            finally:
                try:
                    self._on_end()
                finally:
                    self._events.end()
            self._future.set_result(self._make_result())
        except BaseException as error:
            self._engine.abandon()
            self._store.close()
            self._future.set_exception(error)

    def _dispatch_all(self) -> None:
        while self._events.dispatch():
            pass

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
        """Wait for the end and give the result, however it ended. Raises ``TimeoutError``."""
        seconds = None if timeout is None else real_number("timeout", timeout, 0, math.inf)
        self._check_process()
        try:
            return self._future.result(None if seconds is None else min(seconds, threading.TIMEOUT_MAX))
        except TimeoutError:
            if self._future.done():
                raise
            raise TimeoutError(f"the export has not ended within {seconds:,g} s: it goes on") from None

    def _check_process(self) -> None:
        """Raise ``ClosedError`` in a process that was forked while it ran: it has none of its threads."""
        if not self._future.done():
            self._store.check_process()

    def _judged(self, result: ExportResult) -> ExportResult:
        if self._engine.lost_database:
            raise ExportError(
                f"the database failed in mid-export, and cannot be read now: {self._engine.lost_database}. What had "
                "landed is in the file: when the disk is well again, the same call goes on from there",
                result,
            )
        if self._engine.cancelled and result.cancelled_batches:
            raise ExportCancelled(result.stopped_line(), result)
        if result.failed_batches and not result.successful_batches and not result.skipped_batches:
            raise ExportError(result.failed_line(self._engine.halted_by), result)
        if not self._heard:
            self._heard = True
            for sentence in result.unheard():
                warn(sentence)
        return result

    def cancel(self) -> None:
        """
        Stop it: under two seconds later it has ended. Batches that are done stay, the others are ``cancelled``.

        Returns at once; ``result()`` then raises ``ExportCancelled``. After the end it does nothing.
        """
        self._check_process()
        if not self._future.done():
            self._engine.cancel()

    def done(self) -> bool:
        """Say whether it has ended, well or not."""
        return self._future.done()

    def cancelled(self) -> bool:
        """Say whether it was cancelled before its end."""
        return self._engine.cancelled

    def progress(self) -> JobProgress:
        """Sum up its batches as they are now."""
        return self._board.progress()

    def batches(self, *, clock: bool = True) -> list[BatchProgress]:
        """
        Give each batch as it is now.

        Args:
            clock: whether ``seconds`` of those under way run to now; else to their last change, which costs less.
        """
        return self._board.cells(clock=clock)

    @property
    def version(self) -> int:
        """Count the changes of its batches: where it is the same, nothing is new."""
        return self._board.version

    @property
    def quota_left(self) -> int:
        """Count the requests that the project's rolling hour still has."""
        return self._engine.quota_left

    def panel(self) -> Any:
        """
        Show its batches live in a notebook, and at its end what stays. As many panels as one likes, and they agree.

        ``job.panel().grid`` is the anywidget alone, for hosts that know only those, such as marimo.
        """
        return panel_of(self)

    def __await__(self) -> Generator[Any, None, ExportResult]:
        """Wait for the end without blocking the event loop. To cancel the wait leaves the export running."""
        self._check_process()
        future = asyncio.wrap_future(self._future)
        result = yield from asyncio.shield(future).__await__()
        return self._judged(result)

    def __repr__(self) -> str:
        """Say how far it is."""
        p = self.progress()
        state = "cancelled" if p.finished and self.cancelled() else "done" if p.finished else "running"
        return f"<ExportJob {state}: {p.ended:,} of {p.total:,} batches, {p.rows:,} events>"
