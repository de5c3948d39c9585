"""Batches: ranges of days that are fetched, kept and replaced as a whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Literal

from mpnb._base import text
from mpnb._base.scalars import whole_number
from mpnb._errors import PlanError
from mpnb._message import Argument, Message
from mpnb._planning.dates import DAY, _days, _days_in, _midnight_after, in_words, parse_date
from mpnb._planning.options import CHUNK_DAYS

Mode = Literal["resume", "refresh", "new"]
MAX_CHUNK_DAYS = 100


@dataclass(frozen=True, slots=True)
class Session:
    """
    The query that pages belong to, as its first page began it.

    Attributes:
        id: which the requests for further pages send.
        total: number of records on all pages.
        page_size: records on every page but the last.
    """

    id: str
    total: int
    page_size: int

    @property
    def pages(self) -> int:
        """Return the number of pages, 1 or more."""
        return max(1, -(-self.total // self.page_size))

    def rows(self, number: int) -> int:
        """Return the number of records on a page."""
        return max(0, min(self.page_size, self.total - number * self.page_size))


@dataclass(frozen=True, slots=True)
class Page:
    """
    A page of records that have no days.

    Attributes:
        number: from 0.
        asked_size: records a page that its request asks for; ``None`` leaves that to the server.
        session: the query; ``None`` for the page that begins one.
        is_again: whether it is read once more at the end, to see that nothing has changed.
    """

    number: int
    asked_size: int | None = None
    session: Session | None = None
    is_again: bool = False


@dataclass(frozen=True, slots=True)
class Batch:
    """
    One range of days of an export, or one page: one request and one ledger row. It is stored as a whole or not at all.

    Attributes:
        from_date, to_date: first and last day, both inclusive; of a page, the day on which its query began.
        replaces: ids of batches of the ledger whose rows are deleted in the transaction that writes this one.
        page: which page it is of records that have no days; ``None`` for days.
    """

    from_date: date
    to_date: date
    replaces: tuple[int, ...] = ()
    page: object | None = None

    @property
    def days(self) -> int:
        """Return the number of days, 1 or more."""
        return (self.to_date - self.from_date).days + 1

    @property
    def most_parts(self) -> int:
        """Return how many batches it can be split into at most, 1 if it cannot be split; a page, into another size."""
        if not isinstance(self.page, Page):
            return self.days
        return 1 + (self.page.session is None and self.page.asked_size is not None)

    @property
    def key(self) -> str:
        """Return what identifies it among the batches of its table; keys sort by time, or by page."""
        if isinstance(self.page, Page):
            return f"{self.page.number:012}{'/again' if self.page.is_again else ''}"
        return f"{self.from_date}/{self.to_date}"

    @property
    def label(self) -> str:
        """Return its name in displays: its day, its first and last day, or its page."""
        if isinstance(self.page, Page):
            return f"page {self.page.number:,}{' again' if self.page.is_again else ''}"
        return text.days(self.from_date, self.to_date)


def most_requests(batch: Batch) -> float:
    """Return how many batches may come of one at most: its parts, or the pages that follow the first."""
    page = batch.page
    return batch.most_parts if not isinstance(page, Page) or page.session else math.inf


@dataclass(frozen=True, slots=True)
class HeldBatch:
    """
    A batch that the ledger holds: its days are in the table, complete.

    Attributes:
        rows: number of its rows in the table.
        requested_at: when its request began, in UTC; events that arrived at Mixpanel later are not in it.
        lost: number of its rows that were written and are no longer in the table.
    """

    batch_id: int
    from_date: date
    to_date: date
    rows: int
    requested_at: datetime
    lost: int = 0

    @property
    def is_gone(self) -> bool:
        """Whether it had rows and none of them is left."""
        return self.lost > 0 and self.rows == 0


@dataclass(frozen=True, slots=True)
class Lateness:
    """
    Which days have ended, and which have all their events.

    Mobile events come up to five days late: https://docs.mixpanel.com/docs/tracking-best-practices/hot-shard-limits

    Attributes:
        now: the time in UTC.
        late_days: for how many days after a day events of it may still arrive.
        lag: how long after midnight in UTC the project's day ends; more than 0 in projects older than 2023 with a zone
            west of UTC.
    """

    now: datetime
    late_days: int
    lag: timedelta = timedelta(0)

    @property
    def today(self) -> date:
        """Return the current day in the project."""
        return (self.now - self.lag).date()

    def is_settled(self, day: date) -> bool:
        """Whether a day has all its events by now."""
        return self._settled_at(day) <= self.now

    def is_provisional(self, held: HeldBatch, day: date) -> bool:
        """Whether events of a day may have arrived after its batch was requested."""
        # A request in the future was dated by a clock that was ahead: its real time is unknown.
        return held.requested_at > self.now or held.requested_at < self._settled_at(day)

    def is_due(self, held: HeldBatch) -> bool:
        """
        Whether an export that covers a day of this batch fetches the batch again.

        A batch is replaced as a whole, so it is due once: when the late days of its last day are over. If its last day
        had not ended when it was requested, it is due at once; for this reason, such a day has a batch of its own.
        """
        last = held.to_date
        had_ended = held.requested_at >= (self._end_of(last) if held.from_date == last else _midnight_after(last))
        return self.is_provisional(held, last) and (
            not had_ended or held.requested_at > self.now or self.is_settled(last)
        )

    def are_apart(self, earlier: Batch, later: Batch) -> bool:
        """Whether two adjacent batches must not be merged: else one would be fetched again because of the other."""
        is_last_time = bool(earlier.replaces) and self.is_settled(earlier.to_date)
        return later.to_date >= self.today or (is_last_time and not self.is_settled(later.to_date))

    def _end_of(self, day: date) -> datetime:
        return _midnight_after(day) + self.lag

    def _settled_at(self, day: date) -> datetime:
        return self._end_of(day) + timedelta(days=self.late_days)


def check_chunk_days(chunk_days: object, *, otherwise: str = "") -> int:
    """Return a whole number from 1 to 100. Raises ``PlanError`` for anything else."""
    return whole_number("chunk_days", chunk_days, 1, MAX_CHUNK_DAYS, otherwise=otherwise)


def split_date_range(
    from_date: date | str, to_date: date | str, chunk_days: int = CHUNK_DAYS
) -> list[tuple[date, date]]:
    """
    Split a range of days into chunks without gaps or overlaps.

    Args:
        from_date, to_date: first and last day, both inclusive.
        chunk_days: days a chunk, 1–100; the last one may be shorter.

    Returns:
        ``(first, last)`` of each chunk, both inclusive, in date order: 8 days by 7 are 7 + 1, 90 days are 13 chunks.

    Raises:
        PlanError: a date cannot be read, the range runs backwards, or ``chunk_days`` is out of range.
    """
    chunk_days = check_chunk_days(chunk_days)
    first, last = parse_date(from_date, name="from_date"), parse_date(to_date, name="to_date")
    if first > last:
        raise PlanError(Argument("from_date"), f" {first} is after ", Argument("to_date"), f" {last}")
    step = timedelta(days=chunk_days)
    count = -(-((last - first).days + 1) // chunk_days)
    starts = [first + step * i for i in range(count)]
    # min() of offsets, not of dates: 9999-12-31 has no next day.
    return [(start, start + min(step - DAY, last - start)) for start in starts]


def make_batches(
    ranges: Sequence[tuple[date, date]],
    held: Sequence[HeldBatch],
    is_stale: Callable[[HeldBatch], bool],
    chunk_days: int,
    are_apart: Callable[[Batch, Batch], bool] = lambda earlier, later: False,
) -> tuple[list[Batch], list[HeldBatch]]:
    """
    Decide which days to fetch, in which batches, and which of the ledger's batches to keep.

    A batch of the ledger is replaced as a whole and by a single batch, so that no day is ever missing. So it is an atom
    here, like a day that the ledger does not hold. Adjacent atoms share a batch of up to ``chunk_days`` days.

    Args:
        ranges: first and last days to be covered, in date order, without overlaps. No batch spans two of them.
        held: the table's batches in the ledger, which do not overlap each other.
        is_stale: whether one of them is to be fetched again.
        are_apart: whether adjacent ones must not share a batch although there is room.

    Returns:
        The batches to fetch and the held ones to keep, both in date order.
    """
    asked = _days_in(ranges)
    overlapping = sorted((h for h in held if _has(h, asked)), key=lambda h: h.from_date)
    kept = [h for h in overlapping if not is_stale(h)]
    atoms = [Batch(h.from_date, h.to_date, (h.batch_id,)) for h in overlapping if is_stale(h)]
    taken = {day for h in overlapping for day in _days(h.from_date, h.to_date)}
    atoms += [Batch(day, day) for first, last in ranges for day in _days(first, last) if day not in taken]
    atoms.sort(key=lambda atom: atom.from_date)

    starts = {first for first, _ in ranges}
    batches: list[Batch] = []
    for atom in atoms:
        if batches and atom.from_date not in starts:
            last = batches[-1]
            joined = Batch(last.from_date, atom.to_date, last.replaces + atom.replaces)
            adjoins = last.to_date + DAY == atom.from_date and not are_apart(last, atom)
            if adjoins and joined.days <= chunk_days:
                batches[-1] = joined
                continue
        batches.append(atom)
    return batches, kept


def overlapping(held: Iterable[HeldBatch], batches: Iterable[Batch]) -> list[HeldBatch]:
    """Return the batches that share a day with a batch to be fetched."""
    days = _days_in((batch.from_date, batch.to_date) for batch in batches)
    return [h for h in held if _has(h, days)]


def losses(
    table: str, batches: Iterable[Batch], kept: Iterable[HeldBatch], gone: Iterable[HeldBatch]
) -> tuple[str, ...]:
    """Return sentences on vanished rows: of batches that are fetched again, and of batches that are kept."""
    found: list[str] = []
    if again := overlapping(gone, batches):
        found.append(
            f"table {table!r} has no row left of {sum(h.lost for h in again):,} that were exported for "
            f"{in_words(ranges_of(again))}: the days that were asked for are fetched again"
        )
    if fewer := [h for h in kept if h.lost > 0]:
        found.append(
            Message(
                f"table {table!r} has {sum(h.lost for h in fewer):,} rows fewer than were exported for "
                f"{in_words(ranges_of(fewer))}: they stay gone, unless ",
                Argument("mode", "refresh"),
                " fetches these days again",
            )
        )
    return tuple(found)


def ranges_of(batches: Iterable[Batch | HeldBatch]) -> tuple[tuple[date, date], ...]:
    """Return the days of batches, in date order, as ranges; adjacent ones are merged."""
    ranges: list[tuple[date, date]] = []
    for batch in batches:
        if ranges and ranges[-1][1] + DAY == batch.from_date:
            ranges[-1] = (ranges[-1][0], batch.to_date)
        else:
            ranges.append((batch.from_date, batch.to_date))
    return tuple(ranges)


def _has(h: HeldBatch, days: set[date]) -> bool:
    return not days.isdisjoint(_days(h.from_date, h.to_date))
