"""
The writer thread: it passes batches to their destination in the order of arrival, small ones together.

Batches wait for it in a bounded queue.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Sequence
from typing import Protocol

from mpnb._base.handover import Handover
from mpnb._fetching.fetched import Anew, Fetched, Group, Lost, Split, Task
from mpnb._planning.batches import Batch
from mpnb._storing.destination import Destination, Landed, WriteError

QUEUED_SPOOLS = 20
# Batches that wait are written together, in one transaction, until they have this many lines.
TOGETHER_LINES = 400_000
# DuckDB's row group. What has fewer rows goes to its log first and to the table at a checkpoint: 1.4 times the CPU.
ROW_GROUP = 122_880
# So fewer lines wait for others to come, while others are under way, for so long at most.
LINGER_SECONDS = 0.25
# Or, where nobody can read them before the last batch has landed, while they come so fast that a row group is full
# after so long. What waits is fetched again after a kill.
HIDDEN_LINGER_SECONDS = 10.0
# Between two looks at whether they still are.
LOOK_SECONDS = 0.02

Item = Fetched | Lost | Split | Anew


class Sender(Protocol):
    """The side that queues batches, as the writer calls it, in the writer's thread."""

    def is_to_write(self, item: Fetched) -> bool:
        """Whether a batch is still to be written; called right before it is."""

    def landed(self, item: Fetched, outcome: Landed | WriteError) -> None:
        """Called with the result of writing a batch."""

    def dropped(self, item: Fetched) -> None:
        """Called when a batch is not written because its group failed."""

    def broken(self, error: BaseException) -> None:
        """Called with an unexpected exception."""

    def has_more(self) -> bool:
        """Whether other batches are being fetched."""


class Writer(threading.Thread):
    """
    A thread that writes queued batches until ``finish()`` was called and the queue is empty.

    It is not a daemon: the interpreter waits for a running query.

    Args:
        name: name of the thread.
        destination: where batches land.
        sender: the side that queues them.
    """

    def __init__(self, name: str, destination: Destination, sender: Sender) -> None:
        super().__init__(name=f"mpnb-writer-{name}", daemon=False)
        self._destination = destination
        self._sender = sender
        self._queue: Handover[Item] = Handover(QUEUED_SPOOLS)
        self.begun = threading.Event()
        self._stopping = threading.Event()
        self._ahead: list[Item] = []  # taken from the queue, and its turn comes next
        self._parked: dict[Group, list[Fetched]] = {}  # until the last of each group is there
        self._may_join = True
        self.not_noted: list[Lost] = []

    def put(self, item: Item) -> bool:
        """Queue an item, and wait while the queue is full. Return False if the writer has ended early. Any thread."""
        return self._queue.put(item)

    def begin(self) -> None:
        """Let the started thread begin to write. Any thread may call it."""
        self.begun.set()

    def finish(self) -> None:
        """Let the thread end once its queue is empty. Any thread may call it."""
        self._queue.finish()
        self.begun.set()

    def interrupt(self) -> None:
        """Stop the current write, and begin no other. Any thread may call it, repeatedly until the thread has ended."""
        self._stopping.set()
        self._destination.interrupt()

    def run(self) -> None:
        """Write until the queue is empty and finished."""
        try:
            self.begun.wait()
            while (item := self._next()) is not None:
                try:
                    self._take(item)
                except Exception as error:
                    # The writer outlives whatever it meets: without it the workers would wait for ever.
                    self._sender.broken(error)
        except BaseException as error:
            self._sender.broken(error)
        finally:
            self._queue.end()
            self._destination.release()

    def _next(self) -> Item | None:
        return self._ahead.pop() if self._ahead else self._queue.get()

    def _take(self, item: Item) -> None:
        if isinstance(item, Split):
            item.done(*self._destination.split(item.task))
        elif isinstance(item, Anew):
            item.done(self._destination.begin_anew(item.task))
        elif isinstance(item, Lost):
            for parked in self._parked.pop(item.task.group, []) if item.task.group else ():
                self._sender.dropped(parked)
            self.note(item)
        elif item.task.group is not None:
            parked_ones = self._parked.setdefault(item.task.group, [])
            parked_ones.append(item)
            if len(parked_ones) == item.task.group.size:
                self._land_group(self._parked.pop(item.task.group))
        else:
            self._land(self._with_those_behind(item))

    def _with_those_behind(self, first: Fetched) -> list[Fetched]:
        """Return an item with those that can be written with it: all that wait, and if few do, those that come soon."""
        items, lines = [first], first.body.lines
        begin, longest = time.monotonic(), HIDDEN_LINGER_SECONDS if self._destination.hides else 0.0
        while self._may_join and self._destination.can_join(first) and lines < TOGETHER_LINES:
            try:
                until = begin + max(LINGER_SECONDS, longest * lines / ROW_GROUP)
                item = self._next_by(until if lines < ROW_GROUP else 0.0)
            except queue.Empty:
                break
            if not (isinstance(item, Fetched) and item.task.group is None and self._destination.can_join(item)):
                self._ahead.append(item)
                break
            items.append(item)
            lines += item.body.lines
        return items

    def _next_by(self, until: float) -> Item:
        """Return the next item of the queue, or wait for one until a deadline. Raises ``queue.Empty``."""
        while time.monotonic() < until and self._sender.has_more() and not self._stopping.is_set():
            with contextlib.suppress(queue.Empty):
                return self._taken(LOOK_SECONDS)
        return self._taken(0.0)

    def _taken(self, timeout: float) -> Item:
        item = self._queue.get(timeout)
        if item is None:
            raise queue.Empty
        return item

    def _land(self, items: Sequence[Fetched]) -> None:
        if len(items) > 1 and all(self._sender.is_to_write(item) for item in items):
            landed = self._destination.land_joined(items)
            if landed is not None:
                for item, each in zip(items, landed, strict=True):
                    self._sender.landed(item, each)
                return
            # What needs a look seldom comes alone, and each would have them all written twice.
            self._may_join = False
        for item in items:
            if self._sender.is_to_write(item):
                self._land_all([item])

    def _land_group(self, items: Sequence[Fetched]) -> None:
        """Write a group in one transaction, or none of it."""
        if all([self._sender.is_to_write(item) for item in items]):
            self._land_all(items)

    def _land_all(self, items: Sequence[Fetched]) -> None:
        """Write several batches in one transaction, and report the result of each."""
        outcomes: Sequence[Landed | WriteError]
        try:
            outcomes = self._destination.land(items)
        except WriteError as error:
            outcomes = [error] * len(items)
        for item, outcome in zip(items, outcomes, strict=True):
            self._sender.landed(item, outcome)

    def begin_anew(self, task: Task) -> list[tuple[Batch, int]]:
        """Return what the export begins again with, if it can. In the writer's thread."""
        return self._destination.begin_anew(task)

    def note(self, lost: Lost) -> None:
        """Record a failed batch; if that fails, keep it for another try at the end. In the writer's thread."""
        if not self._destination.note(lost):
            self.not_noted.append(lost)
