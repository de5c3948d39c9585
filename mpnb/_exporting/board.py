"""
The state of every batch of an export, in one place.

Workers and the writer update it; the callback, the text line and the panel read it. It knows nothing of its readers.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from mpnb._planning.batches import Batch, Page
from mpnb._planning.states import ENDED, FOR_THE_QUOTA, BatchProgress, JobProgress


class BatchBoard:
    """
    The state of every batch of one export. Any thread may call any method.

    Args:
        listener: gets a ``BatchProgress`` for every change of status, in order, while the board's lock is held: it
            must only put it somewhere.
        names_projects: whether labels name the project, where there are several.
    """

    def __init__(self, listener: Callable[[BatchProgress], object], *, names_projects: bool = False) -> None:
        self._lock = threading.Lock()
        self._names_projects = names_projects
        self._listener = listener
        self._cells: list[BatchProgress] = []
        # Kept up at each change, not counted anew at each look: the cost of a look must not grow with the batches.
        self._counts: Counter[str] = Counter()
        self._rows = 0
        self._began: dict[int, float] = {}  # of those under way, which are few
        self._started = time.monotonic()
        self._finished: float | None = None
        self._received: Counter[str] = Counter()  # by project
        self._arrived: dict[int, int] = {}  # bytes of batches, by index, that came since their last change of state
        self.version = 0

    def add(self, batches: Sequence[tuple[Batch, str, int]], project_id: str = "") -> range:
        """
        Add batches with their first status and rows, and return their indexes.

        A status of ``"skipped"`` comes with the rows that are in the table.
        """
        with self._lock:
            first, total = len(self._cells), len(self._cells) + len(batches)
            self._cells = [replace(cell, total=total) for cell in self._cells]
            for index, (batch, status, rows) in enumerate(batches, first):
                named = _named(batch) | {"label": self._label(batch, project_id), "project_id": project_id}
                cell = BatchProgress(index, total, status=status, rows=rows, **named)
                self._cells.append(cell)
                self._count(cell, 1)
                self._listener(cell)
            self.version += 1
            return range(first, total)

    def set(self, index: int, status: str, **changes: object) -> None:
        """Set the status of a batch, and other fields of ``BatchProgress``."""
        with self._lock:
            if status in ("waiting", "fetching"):
                self._began.setdefault(index, time.monotonic())
            until = changes.pop("until", None)
            seconds = self._seconds(index)
            if status in ENDED:
                self._began.pop(index, None)
            before = self._cells[index]
            changes = {"bytes": self._arrived.pop(index, before.bytes)} | changes
            cell = replace(before, status=status, until=until, seconds=seconds, **changes)  # type: ignore[arg-type]
            self._count(before, -1)
            self._count(cell, 1)
            self._cells[index] = cell
            self.version += 1
            self._listener(cell)

    def become(self, index: int, batch: Batch, error: str) -> None:
        """Replace a batch by another that waits for its first request; ``error`` says why."""
        named = _named(batch) | {"label": self._label(batch, self._cells[index].project_id)}
        self.set(index, "queued", **named, attempt=0, bytes=0, error=error)

    def received(self, index: int, size: int) -> None:
        """Record how many bytes of a batch have arrived in this attempt."""
        with self._lock:
            cell = self._cells[index]
            before = self._arrived.get(index, cell.bytes)
            self._received[cell.project_id] += size - before if size >= before else size
            self._arrived[index] = size  # pieces come by thousands: a new cell for each would cost as much as HTTP
            self.version += 1

    def _label(self, batch: Batch, project_id: str) -> str:
        return f"{project_id} {batch.label}" if self._names_projects else batch.label

    def finish(self) -> None:
        """Stop the clock."""
        with self._lock:
            self._finished = time.monotonic()
            self.version += 1

    def _count(self, cell: BatchProgress, sign: int) -> None:
        self._counts[cell.status] += sign
        self._rows += sign * cell.rows if cell.status == "done" else 0

    def _seconds(self, index: int) -> float:
        return time.monotonic() - self._began[index] if index in self._began else 0.0

    def cells(self, *, clock: bool = True) -> list[BatchProgress]:
        """Return every batch as it is now, ordered by index; without ``clock``, as of its last change."""
        with self._lock:
            cells = list(self._cells)
            for index, size in self._arrived.items():
                cells[index] = replace(cells[index], bytes=size)
            for index in self._began if clock else ():
                cells[index] = replace(cells[index], seconds=self._seconds(index))
            return cells

    def received_of(self, project_id: str) -> int:
        """Return how many bytes of a project have arrived, over all attempts."""
        with self._lock:
            return self._received[project_id]

    def progress(self) -> JobProgress:
        """Return the totals of all batches as they are now."""
        with self._lock:
            under_way = (self._cells[index] for index in self._began)
            waits = ((c.until, c.error or FOR_THE_QUOTA) for c in under_way if c.status == "waiting" and c.until)
            until, why = min(waits, default=(None, ""))
            return JobProgress(
                total=len(self._cells),
                counts=dict(+self._counts),
                rows=self._rows,
                bytes=self._received.total(),
                elapsed=(self._finished or time.monotonic()) - self._started,
                in_flight=self._counts["fetching"],
                waiting_until=until,
                finished=self._finished is not None,
                waiting_for=why,
            )


def _named(batch: Batch) -> dict[str, Any]:
    """Return by what displays know a batch, besides its label."""
    page = batch.page if isinstance(batch.page, Page) else None
    of_page = {"page": page.number, "is_again": page.is_again} if page else {}
    return {"from_date": batch.from_date, "to_date": batch.to_date, **of_page}
