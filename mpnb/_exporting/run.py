"""The threads around an engine, from its start until the result is available."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from typing import Generic, TypeVar

from mpnb._base.interrupt import wait_in_turns
from mpnb._base.scalars import real_number
from mpnb._exporting.beside import Works
from mpnb._exporting.board import BatchBoard
from mpnb._exporting.callbacks import Callbacks
from mpnb._storing.database import Store

R = TypeVar("R")
# Between two looks at whether it has ended.
LOOK_SECONDS = 1.0


class Run(Generic[R]):
    """
    An engine in a thread of its own. Any thread may call any method, unless it says otherwise.

    Args:
        engine: or several, which work side by side.
        store: the database, open while the engine runs, and closed where no result comes of it.
        memory: that the process may use meanwhile, in bytes, ``None`` for what suits the machine.
        make_result: called at the end, in the coordinator's thread.
        on_end: called once the engine has ended, well or not, before the result is made.
        in_background: whether a thread calls ``on_batch``; else the caller does, by ``callbacks.dispatch``.
    """

    def __init__(
        self,
        *,
        engine: Works,
        board: BatchBoard,
        callbacks: Callbacks,
        store: Store,
        memory: int | None,
        make_result: Callable[[], R],
        on_end: Callable[[], object],
        in_background: bool,
    ) -> None:
        self.engine = engine
        self.board = board
        self._callbacks = callbacks
        self._store = store
        self._memory = memory
        self._make_result = make_result
        self._on_end = on_end
        self._in_background = in_background
        self._future: Future[R] = Future()
        self._future.set_running_or_notify_cancel()
        self._go = threading.Event()
        self._abandoned = False
        self._coordinator = threading.Thread(target=self._coordinate, name="mpnb-coordinator", daemon=False)

    def start(self) -> None:
        """
        Start the threads, which wait for ``begin`` or ``abandon``. In the caller's thread, once.

        Raises:
            RuntimeError: the system has no more threads. ``abandon`` ends those that were made.
        """
        self.engine.start()
        self._coordinator.start()
        if self._in_background:
            threading.Thread(target=self._dispatch_all, name="mpnb-callbacks", daemon=True).start()

    def begin(self) -> None:
        """Begin the export. In the caller's thread, after ``start``."""
        self._go.set()

    def abandon(self) -> None:
        """End the threads that ``start`` has started, because the export does not begin. In the caller's thread."""
        self._abandoned = True
        self._callbacks.end()
        self._go.set()
        self.engine.abandon()
        if self._coordinator.ident is not None:
            self._coordinator.join()

    def _coordinate(self) -> None:
        self._go.wait()
        if self._abandoned:
            return
        try:
            try:
                with self._store.settings(self._memory):
                    self.engine.run()
            finally:
                try:
                    self._on_end()
                finally:
                    self.board.finish()
                    self._callbacks.end()
            self._future.set_result(self._make_result())
        except BaseException as error:
            self.engine.abandon()
            self._store.close()
            self._future.set_exception(error)

    def _dispatch_all(self) -> None:
        # It ends by a word of the coordinator's; where that could not be said, by a look.
        while self._callbacks.dispatch(LOOK_SECONDS) and not (self.done() and self._callbacks.is_empty()):
            pass

    def outcome(self, timeout: float | None = None) -> R:
        """
        Wait for the end and return the result, whether or not the export succeeded.

        Args:
            timeout: seconds, 0 or more; ``None`` for as long as it takes.

        Raises:
            PlanError: ``timeout`` is no such number.
            TimeoutError: it has not ended by then; it goes on.
            ClosedError: this process was forked from the one that runs it.
        """
        seconds = None if timeout is None else real_number("timeout", timeout, 0, math.inf)
        self._check_process()
        wait_in_turns(lambda turn: wait_for([self._future], turn), self._future.done, seconds)
        if not self._future.done():
            raise TimeoutError(f"the export has not ended within {seconds:,g} s: it goes on")
        return self._future.result()

    def so_far(self) -> R:
        """Return the result of what has landed by now, at the end the same as ``outcome``."""
        return self._future.result() if self._future.done() else self._make_result()

    def awaitable(self) -> asyncio.Future[R]:
        """Return an awaitable for the running event loop. Cancelling it leaves the export running."""
        self._check_process()
        return asyncio.shield(asyncio.wrap_future(self._future))

    def done(self) -> bool:
        """Whether it has ended, successfully or not."""
        return self._future.done()

    def cancel(self) -> None:
        """Stop it, if it has not ended. Returns at once. Raises ``ClosedError`` as ``outcome`` does."""
        self._check_process()
        if not self._future.done():
            self.engine.cancel()

    def _check_process(self) -> None:
        """Raise ``ClosedError`` in a process that was forked during the export: its threads are not there."""
        if not self._future.done():
            self._store.check_process()
