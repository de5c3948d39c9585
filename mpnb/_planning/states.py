"""The states of a batch and of an export, as callbacks and displays get them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

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


@dataclass(frozen=True, slots=True)
class Outcome:
    """Sum up what one call did. All zero for ``mpnb.open()``."""

    successful_batches: int = 0
    failed_batches: int = 0
    cancelled_batches: int = 0
    skipped_batches: int = 0
    fetched_rows: int = 0
    rejected_lines: int = 0
    bytes: int = 0
    duration_seconds: float = 0.0


def outcome_of(counts: dict[str, int], *, rows: int, rejected: int, size: int, seconds: float) -> Outcome:
    """Sum up a call from its batches by status."""
    return Outcome(
        successful_batches=counts.get("done", 0) + counts.get("empty", 0),
        failed_batches=counts.get("failed", 0),
        cancelled_batches=counts.get("cancelled", 0),
        skipped_batches=counts.get("skipped", 0),
        fetched_rows=rows,
        rejected_lines=rejected,
        bytes=size,
        duration_seconds=seconds,
    )
