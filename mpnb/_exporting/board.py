"""
The state of every batch, in one place.

Workers and the writer write it, the callback, the text line and the panel read it. It knows nothing of who reads.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date

from mpnb._planning.plan import Batch

# In the order in which the panel's bytes count them: a byte a batch is its place here.
STATUSES = ("queued", "waiting", "fetching", "writing", "done", "empty", "skipped", "failed", "cancelled")
ENDED = frozenset(STATUSES[4:])


@dataclass(frozen=True, slots=True)
class BatchProgress:
    """
    Show one batch at one moment: what ``on_batch`` gets at every change of state.

    Attributes:
        index: place of the batch, from 0, in date order (batches that were split off come last).
        total: number of batches of the export, skipped ones included.
        from_date, to_date: first and last day, both inclusive.
        status: ``queued``, ``waiting`` (for the quota or after a fault), ``fetching``, ``writing``, ``done``,
            ``empty``, ``skipped`` (in the table already), ``failed`` or ``cancelled``.
        rows: events in the table, 0 until ``done``.
        bytes: received in this attempt, compressed.
        attempt: 0 before the first request, then 1–4.
        error: what went wrong last, or ``None``.
        until: seconds since the epoch at which a ``waiting`` ends, ``None`` where that is not known.
        http_status: of the last answer, or ``None``.
        kind: of a batch that failed or was cancelled, as in ``result.failures``, else ``None``.
        hint: what to do about it, one sentence, else empty.
        rejected: lines that are not events.
        seconds: from the batch's first request to its end, or to now.
    """

    index: int
    total: int
    from_date: date
    to_date: date
    status: str = "queued"
    rows: int = 0
    bytes: int = 0
    attempt: int = 0
    error: str | None = None
    until: float | None = None
    http_status: int | None = None
    rejected: int = 0
    seconds: float = 0.0
    kind: str | None = None
    hint: str = ""


@dataclass(frozen=True, slots=True)
class JobProgress:
    """
    Show a whole export at one moment.

    Attributes:
        total: batches, skipped ones included.
        counts: batches by status; a status without batches is left out.
        rows: events written by this call.
        bytes: received, compressed, all attempts.
        elapsed: seconds since the start, to the end where it has ended.
        in_flight: batches whose request is under way.
        waiting_until: seconds since the epoch at which the first waiting batch goes on, or ``None``.
        finished: whether every batch has ended.
    """

    total: int
    counts: dict[str, int]
    rows: int
    bytes: int
    elapsed: float
    in_flight: int
    waiting_until: float | None
    finished: bool

    @property
    def ended(self) -> int:
        """Count the batches that have ended, well or not."""
        return sum(n for status, n in self.counts.items() if status in ENDED)

    @property
    def seconds_left(self) -> float | None:
        """Guess the time left from the batches that ended, ``None`` until that means something."""
        ended = sum(self.counts.get(status, 0) for status in ("done", "empty", "failed"))
        left = self.total - self.ended
        if self.finished or ended < 3 or not left:
            return None
        return self.elapsed / ended * left


class BatchBoard:
    """
    Own the state of every batch of one export. Any thread may call any method.

    Args:
        listener: gets a ``BatchProgress`` for every change of status, in order, while the board's lock is held: it
            must only put it somewhere.
    """

    def __init__(self, listener: Callable[[BatchProgress], object]) -> None:
        self._lock = threading.Lock()
        self._listener = listener
        self._cells: list[BatchProgress] = []
        # Kept up at each change, not counted anew at each look: the cost of a look must not grow with the batches.
        self._counts: Counter[str] = Counter()
        self._rows = 0
        self._began: dict[int, float] = {}  # of those under way, which are few
        self._started = time.monotonic()
        self._finished: float | None = None
        self._received = 0
        self.version = 0

    def add(self, batches: Sequence[tuple[Batch, str, int]]) -> range:
        """
        Add batches with their first status and rows, and give their indexes.

        A status of ``"skipped"`` comes with the rows that are in the table.
        """
        with self._lock:
            first, total = len(self._cells), len(self._cells) + len(batches)
            self._cells = [replace(cell, total=total) for cell in self._cells]
            for index, (batch, status, rows) in enumerate(batches, first):
                cell = BatchProgress(index, total, batch.from_date, batch.to_date, status, rows)
                self._cells.append(cell)
                self._count(cell, 1)
                self._listener(cell)
            self.version += 1
            return range(first, total)

    def set(self, index: int, status: str, **changes: object) -> None:
        """Give a batch a status, and whatever else of ``BatchProgress`` changes with it."""
        with self._lock:
            if status in ("waiting", "fetching"):
                self._began.setdefault(index, time.monotonic())
            until = changes.pop("until", None)
            seconds = self._seconds(index)
            if status in ENDED:
                self._began.pop(index, None)
            before = self._cells[index]
            cell = replace(before, status=status, until=until, seconds=seconds, **changes)  # type: ignore[arg-type]
            self._count(before, -1)
            self._count(cell, 1)
            self._cells[index] = cell
            self.version += 1
            self._listener(cell)

    def received(self, index: int, size: int) -> None:
        """Note how many bytes of a batch have arrived in this attempt."""
        with self._lock:
            cell = self._cells[index]
            self._received += size - cell.bytes if size >= cell.bytes else size
            self._cells[index] = replace(cell, bytes=size)
            self.version += 1

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
        """Give every batch as it is now, in the order of their indexes; without ``clock``, as it last changed."""
        with self._lock:
            cells = list(self._cells)
            for index in self._began if clock else ():
                cells[index] = replace(cells[index], seconds=self._seconds(index))
            return cells

    def progress(self) -> JobProgress:
        """Sum up all batches as they are now."""
        with self._lock:
            under_way = (self._cells[index] for index in self._began)
            untils = (cell.until for cell in under_way if cell.status == "waiting" and cell.until)
            return JobProgress(
                total=len(self._cells),
                counts=dict(+self._counts),
                rows=self._rows,
                bytes=self._received,
                elapsed=(self._finished or time.monotonic()) - self._started,
                in_flight=self._counts["fetching"],
                waiting_until=min(untils, default=None),
                finished=self._finished is not None,
            )
