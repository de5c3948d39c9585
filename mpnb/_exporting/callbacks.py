"""A queue of state changes from the engine's threads to the one thread that calls ``on_batch``."""

from __future__ import annotations

import contextlib
import logging
import queue
import warnings
from collections.abc import Callable

from mpnb._planning.states import BatchProgress

log = logging.getLogger("mpnb")


class Callbacks:
    """Queued changes of state, delivered in the thread that calls ``dispatch``."""

    def __init__(self, on_batch: Callable[[BatchProgress], object] | None) -> None:
        self._on_batch = on_batch
        self._queue: queue.SimpleQueue[BatchProgress | None] = queue.SimpleQueue()
        self._warned = False

    def put(self, progress: BatchProgress) -> None:
        """Add a change. Any thread may call it."""
        if self._on_batch is not None:
            self._queue.put(progress)

    def end(self) -> None:
        """Let ``dispatch`` return: no more changes follow. Any thread may call it."""
        self._queue.put(None)

    def is_empty(self) -> bool:
        """Return whether no change waits for ``dispatch``. Any thread may call it."""
        return self._queue.empty()

    def dispatch(self, timeout: float | None = None) -> bool:
        """
        Wait for changes and call ``on_batch`` with each.

        Args:
            timeout: seconds; ``None`` for as long as it takes.

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
