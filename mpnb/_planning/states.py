"""The states of a batch and of an export, for callbacks and displays."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import NamedTuple

# In the order in which the panel's bytes count them: a byte a batch is its place here.
STATUSES = ("queued", "waiting", "fetching", "writing", "done", "empty", "skipped", "failed", "cancelled")
ENDED = frozenset(STATUSES[4:])
# What a batch waits for if nothing failed before.
FOR_THE_QUOTA = "for the quota"


class Terms(NamedTuple):
    """How displays call records and their batches."""

    records: str
    batch: str
    batches: str


EVENTS = Terms("events", "batch", "batches")
PROFILES = Terms("profiles", "page", "pages")


@dataclass(frozen=True, slots=True)
class BatchProgress:
    """
    One batch at one moment. ``on_batch`` is called with one at every change of state.

    Attributes:
        index: position of the batch, from 0, by project and in date order (parts of a split batch come last).
        total: number of batches of the export, skipped ones included.
        from_date, to_date: first and last day, both inclusive.
        status: ``queued``, ``waiting`` (for the quota or after a fault), ``fetching``, ``writing``, ``done``,
            ``empty``, ``skipped`` (in the table already), ``failed`` or ``cancelled``.
        rows: events in the table, 0 until ``done``.
        bytes: compressed bytes received in this attempt.
        attempt: 0 before the first request, then 1–4.
        error: the latest error, or ``None``.
        until: end of a ``waiting`` in seconds since the epoch, ``None`` if unknown.
        http_status: HTTP status of the latest answer, or ``None``.
        kind: kind of failure if it failed or was cancelled, as in ``result.failures``, else ``None``.
        hint: what to do about the failure, one sentence, else empty.
        rejected: number of lines that are not events.
        seconds: from the batch's first request to its end, or to now.
        label: its name in displays: its days, or its page; where a call exports several projects, its project before.
        project_id: number of its project.
        page: number of the page, from 0; ``None`` for days.
        is_again: whether it is the first page, read once more at the end.
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
    label: str = ""
    project_id: str = ""
    page: int | None = None
    is_again: bool = False


@dataclass(frozen=True, slots=True)
class JobProgress:
    """
    A whole export at one moment.

    Attributes:
        total: number of batches, skipped ones included.
        counts: number of batches by status; a status without batches is left out.
        rows: events written by this call.
        bytes: compressed bytes received, over all attempts.
        elapsed: seconds from the start to now, or to the end.
        in_flight: batches whose request is being sent or answered.
        waiting_until: when the first waiting batch will continue, in seconds since the epoch, or ``None``.
        finished: whether every batch has ended.
        waiting_for: why that batch waits: ``"for the quota"``, or what failed before; empty if none waits.
    """

    total: int
    counts: dict[str, int]
    rows: int
    bytes: int
    elapsed: float
    in_flight: int
    waiting_until: float | None
    finished: bool
    waiting_for: str = ""

    @property
    def ended(self) -> int:
        """Return the number of batches that have ended, successfully or not."""
        return sum(n for status, n in self.counts.items() if status in ENDED)

    @property
    def seconds_left(self) -> float | None:
        """Return an estimate of the seconds left, from the batches that ended; ``None`` while too few have."""
        ended = sum(self.counts.get(status, 0) for status in ("done", "empty", "failed"))
        left = self.total - self.ended
        if self.finished or ended < 3 or not left:
            return None
        return self.elapsed / ended * left


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one call did. All zero for ``mpnb.open()``."""

    successful_batches: int = 0
    failed_batches: int = 0
    cancelled_batches: int = 0
    skipped_batches: int = 0
    fetched_rows: int = 0
    rejected_lines: int = 0
    bytes: int = 0
    duration_seconds: float = 0.0


def outcome_of(counts: dict[str, int], *, rows: int, rejected: int, size: int, seconds: float) -> Outcome:
    """Return the outcome of a call, from its number of batches by status."""
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
