"""A bounded queue between threads that never waits for a thread which has ended."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Handover(Generic[T]):
    """
    A queue from any number of producer threads to one consumer thread, in order.

    Args:
        size: items that may wait, 1 or more.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._finished = False
        self._ended = False

    def __len__(self) -> int:
        """Return the number of items that wait. Any thread."""
        with self._changed:
            return len(self._items)

    def put(self, item: T) -> bool:
        """Add an item, and wait while the queue is full. Return False if the consumer has ended. Any thread."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or len(self._items) < self._size)
            if not self._ended:
                self._items.append(item)
                self._changed.notify_all()
            return not self._ended

    def get(self, timeout: float | None = None) -> T | None:
        """
        Return the next item, or ``None`` if the queue is empty and was finished. The consumer's thread.

        Args:
            timeout: seconds to wait for one, ``None`` for as long as it takes.

        Raises:
            queue.Empty: none came in time.
        """
        until = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while not self._items:
                if self._finished:
                    return None
                left = None if until is None else until - time.monotonic()
                if left is not None and left <= 0:
                    raise queue.Empty
                self._changed.wait(left)
            self._changed.notify_all()
            return self._items.popleft()

    def finish(self) -> None:
        """Let the consumer end once the queue is empty. Any thread; returns at once."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def end(self) -> None:
        """Accept no more items, and release every thread that waits in ``put``. The consumer's last call."""
        with self._changed:
            self._ended = True
            self._items.clear()
            self._changed.notify_all()
