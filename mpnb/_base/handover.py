"""A bounded queue between threads of which either may end: nobody waits for somebody who is gone."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Handover(Generic[T]):
    """
    Hand items from any number of threads to one that takes them, in order.

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
        """Count the items that wait. Any thread."""
        with self._changed:
            return len(self._items)

    def put(self, item: T) -> bool:
        """Hand an item over, waiting while the queue is full. False where nobody takes it any more. Any thread."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or len(self._items) < self._size)
            if not self._ended:
                self._items.append(item)
                self._changed.notify_all()
            return not self._ended

    def get(self, timeout: float | None = None) -> T | None:
        """
        Take the next item, ``None`` where none is left and none will come. The taker's thread.

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
        """Let the taker end when it has taken what is here. Any thread; it returns at once."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def end(self) -> None:
        """Take nothing any more: whoever waits in ``put`` goes on. The taker's thread, last of all."""
        with self._changed:
            self._ended = True
            self._items.clear()
            self._changed.notify_all()
