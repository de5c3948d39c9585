"""From a range of days to batches: what to fetch, what is there already, and what of the quota it takes."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Literal

from mpnb._base.clock import today
from mpnb._base.scalars import as_day, as_moment, brief, whole_number
from mpnb._errors import PlanError

Mode = Literal["resume", "refresh", "new"]
DAY = timedelta(days=1)
MAX_CHUNK_DAYS = 100
SHOWN_RANGES = 8
LATE_DAYS, MAX_LATE_DAYS = 5, 36_500
# Mixpanel began in that year.
FIRST_DAY = date(2009, 1, 1)


@dataclass(frozen=True, slots=True)
class Batch:
    """
    Hold one date range of an export: one request, one ledger row, there whole or not at all.

    Attributes:
        from_date, to_date: first and last day, both inclusive.
        replaces: ids of the ledger's batches whose rows go in the transaction that brings these.
    """

    from_date: date
    to_date: date
    replaces: tuple[int, ...] = ()

    @property
    def days(self) -> int:
        """Count the days, 1 or more."""
        return (self.to_date - self.from_date).days + 1


@dataclass(frozen=True, slots=True)
class HeldBatch:
    """
    Hold a batch that the ledger has: its days are in the table, whole.

    Attributes:
        rows: as many as the table has of it.
        requested_at: when the request began that brought it, in UTC: what arrived later is not in it.
        lost: how many of the rows that came the table does not have any more.
    """

    batch_id: int
    from_date: date
    to_date: date
    rows: int
    requested_at: datetime
    lost: int = 0

    @property
    def is_gone(self) -> bool:
        """Whether it had rows, and none is left."""
        return self.lost > 0 and self.rows == 0


@dataclass(frozen=True, slots=True)
class Calendar:
    """
    Know which days have ended, and which have all their events.

    Mobile events come up to five days late: https://docs.mixpanel.com/docs/tracking-best-practices/hot-shard-limits

    Attributes:
        now: the time in UTC.
        late_days: for how many days after a day events of it may still arrive.
        lag: how long after midnight in UTC the project's day ends: more than 0 in projects older than 2023 whose zone
            is west of UTC.
    """

    now: datetime
    late_days: int
    lag: timedelta = timedelta(0)

    @property
    def today(self) -> date:
        """Return the day that it is in the project."""
        return (self.now - self.lag).date()

    def is_settled(self, day: date) -> bool:
        """Whether a day has all its events now."""
        return self._settled_at(day) <= self.now

    def is_provisional(self, held: HeldBatch, day: date) -> bool:
        """Whether events of a day may have arrived after its batch was requested."""
        # In the future lies what a clock dated that was ahead: when that was, nobody knows.
        return held.requested_at > self.now or held.requested_at < self._settled_at(day)

    def is_due(self, held: HeldBatch) -> bool:
        """
        Whether an export that asks for a day of a batch fetches the batch again.

        A batch is replaced whole, so it is due once: when the late days of its last day are over. It is due at once
        where its last day had not ended, for which that day has a batch of its own.
        """
        last = held.to_date
        had_ended = held.requested_at >= (self._end_of(last) if held.from_date == last else _midnight_after(last))
        return self.is_provisional(held, last) and (
            not had_ended or held.requested_at > self.now or self.is_settled(last)
        )

    def are_apart(self, earlier: Batch, later: Batch) -> bool:
        """Whether neighbours have a batch each: else one would be fetched again because of the other."""
        is_last_time = bool(earlier.replaces) and self.is_settled(earlier.to_date)
        return later.to_date >= self.today or (is_last_time and not self.is_settled(later.to_date))

    def _end_of(self, day: date) -> datetime:
        return _midnight_after(day) + self.lag

    def _settled_at(self, day: date) -> datetime:
        return self._end_of(day) + timedelta(days=self.late_days)


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """
    Show what an export would do. Nothing was sent to make it.

    Attributes:
        from_date, to_date: the range, both inclusive, after it was cut at today.
        batches: what would be fetched, in date order.
        held: the ledger's batches that overlap the range and would be left as they are.
        days_held: the days of the range that are in the table and would not be fetched.
        days_provisional: those of them that are fetched once more when their late days are over.
        widened: days outside the range, or outside what it needs, that are fetched again
            because a batch of the ledger is replaced whole.
        quota_left: requests that the rolling hour still has.
        per_hour: requests that an hour has.
    """

    from_date: date
    to_date: date
    batches: tuple[Batch, ...]
    held: tuple[HeldBatch, ...] = field(repr=False)
    days_held: tuple[date, ...] = field(repr=False)
    days_provisional: tuple[date, ...] = field(repr=False)
    widened: tuple[date, ...]
    quota_left: int
    per_hour: int
    notes: tuple[str, ...] = ()

    @property
    def requests(self) -> int:
        """Count the requests that it takes when none has to be repeated."""
        return len(self.batches)

    @property
    def hours_waiting(self) -> int:
        """Count the full hours that the quota makes it wait, 0 where it fits what is left."""
        over = self.requests - self.quota_left
        return 0 if over <= 0 else -(-over // self.per_hour)

    def _lines(self) -> list[tuple[str, str]]:
        sizes = sorted({batch.days for batch in self.batches}, reverse=True)
        shape = f" of {sizes[0]} days" if sizes and sizes[0] > 1 else " of 1 day" if sizes else ""
        if len(sizes) > 1:
            shape += f" (the shortest {sizes[-1]})"
        total = (self.to_date - self.from_date).days + 1
        lines = [
            ("range", f"{self.from_date} – {self.to_date}, {total:,} day{'s'[: total != 1]}"),
            ("batches", f"{len(self.batches):,}{shape}"),
            ("requests", f"{self.requests:,} of {self.quota_left:,} left this hour"),
        ]
        if self.hours_waiting:
            hours = self.hours_waiting
            left = f"{self.requests:,}, and none is left this hour" if not self.quota_left else lines[-1][1]
            fewer = "; a larger chunk_days, or chunk_days='auto', takes fewer" if sizes[0] < MAX_CHUNK_DAYS else ""
            lines[-1] = (
                "requests",
                f"{left}: it will wait for the quota, about {hours} hour{'s'[: hours != 1]}{fewer}",
            )
        if self.days_held:
            lines.append(("held", f"{len(self.days_held):,} of these days are in the table and are not fetched again"))
        if self.days_provisional:
            count = len(self.days_provisional)
            lines.append(("late", f"{count:,} of those held may lack late events, and are fetched once more later"))
        if self.widened:
            lines.append(("widened", f"{len(self.widened):,} more days are fetched, since a batch is replaced whole"))
        return lines + [("note", note) for note in self.notes]

    def __str__(self) -> str:
        """Say it in a few lines."""
        return "\n".join(f"{name:<9} {text}" for name, text in self._lines())

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        rows = "".join(
            f"<tr><th style='text-align:left'>{name}</th><td style='text-align:left'>{html.escape(text)}</td></tr>"
            for name, text in self._lines()
        )
        return {"text/plain": str(self), "text/html": f"<table>{rows}</table>"}


def parse_date(value: date | str, *, name: str = "date", now: date | None = None) -> date:
    """
    Read a day: a ``date``, ``"YYYY-MM-DD"``, ``"today"``, ``"yesterday"`` or ``"30 days ago"``, all in UTC.

    A ``datetime``, a pandas ``Timestamp`` and a ``numpy.datetime64`` at midnight, in UTC or without a zone, are days.

    Raises:
        PlanError: it is none of these.
    """
    if (day := as_day(value)) is not None:
        return day
    if (moment := as_moment(value)) is not None:
        raise PlanError(f"{name} is a day, not a moment: pass {moment.date().isoformat()!r}")
    now = now or today()
    if isinstance(value, str):
        text = value.strip().lower()
        if text == "today":
            return now
        if text == "yesterday":
            return now - DAY
        if match := re.fullmatch(r"(\d{1,5})\s+days?\s+ago", text):
            return now - timedelta(days=int(match[1]))
        if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
            try:
                return date.fromisoformat(text)
            except ValueError as error:
                raise PlanError(f"{name} {value!r} is no day of the calendar: {error}") from None
    raise PlanError(f"{name} is a date, 'YYYY-MM-DD', 'today', 'yesterday' or 'N days ago', not {brief(value)}")


def check_chunk_days(chunk_days: object) -> int:
    """Return a whole number from 1 to 100. Raises ``PlanError`` for anything else."""
    return whole_number("chunk_days", chunk_days, 1, MAX_CHUNK_DAYS)


def split_date_range(from_date: date | str, to_date: date | str, chunk_days: int = 7) -> list[tuple[date, date]]:
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
        raise PlanError(f"from_date {first} is after to_date {last}")
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
    Decide which days to fetch, in which batches, and which of the ledger's batches to leave.

    A batch of the ledger is replaced whole and by one batch alone, so that no day is ever gone: it is an atom here,
    as a day that the ledger does not hold is. Neighbouring atoms share a batch up to ``chunk_days`` days.

    Args:
        ranges: first and last days that are asked for, in date order, apart from each other. None of them shares a
            batch with the one before.
        held: the table's batches in the ledger, which do not overlap each other.
        is_stale: whether one of them is to be fetched again.
        are_apart: whether neighbours do not share a batch although there is room.

    Returns:
        The batches to fetch and the held ones that stay, both in date order.
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


def make_plan(
    from_date: date,
    to_date: date,
    held: Sequence[HeldBatch],
    *,
    unmet: Sequence[tuple[date, date]] = (),
    mode: Mode,
    calendar: Calendar,
    chunk_days: int | Literal["auto"],
    quota_left: int,
    per_hour: int,
    notes: tuple[str, ...] = (),
) -> ExportPlan:
    """
    Plan the export of a range of days, both inclusive.

    Args:
        held: the table's batches in the ledger, which do not overlap each other.
        unmet: first and last days of what failed or was cancelled and has not come since.
        quota_left, per_hour: requests that are left of the rolling hour, and that it has in all.
    """

    failed = {day for day in _days_in(unmet) if from_date <= day <= to_date}

    def is_wanted(batch: HeldBatch) -> bool:
        return mode == "refresh" or _has(batch, failed)

    def is_stale(batch: HeldBatch) -> bool:
        return is_wanted(batch) or calendar.is_due(batch)

    def cut(days: int) -> tuple[list[Batch], list[HeldBatch]]:
        return make_batches([(from_date, to_date)], held, is_stale, days, calendar.are_apart)

    if chunk_days == "auto":
        sizes = ((days, len(cut(days)[0])) for days in range(1, MAX_CHUNK_DAYS + 1))
        chunk_days = smallest_chunk(sizes, quota_left or per_hour)
    batches, kept = cut(chunk_days)
    replaced = {batch_id for batch in batches for batch_id in batch.replaces}
    widened = [
        day
        for h in held
        if h.batch_id in replaced
        for day in _days(h.from_date, h.to_date)
        if not from_date <= day <= to_date or not (is_wanted(h) or calendar.is_provisional(h, day))
    ]
    days_held = [(h, day) for h in kept for day in _days(max(h.from_date, from_date), min(h.to_date, to_date))]
    return ExportPlan(
        from_date=from_date,
        to_date=to_date,
        batches=tuple(batches),
        held=tuple(kept),
        days_held=tuple(day for _, day in days_held),
        days_provisional=tuple(day for h, day in days_held if calendar.is_provisional(h, day)),
        widened=tuple(sorted(widened)),
        quota_left=quota_left,
        per_hour=per_hour,
        notes=notes,
    )


def plan_again(unmet: Sequence[tuple[date, date]], held: Sequence[HeldBatch]) -> tuple[list[Batch], list[HeldBatch]]:
    """
    Plan what failed once more, each range of days by itself.

    Args:
        unmet: first and last days of what failed and has not come since, in date order, apart from each other. What
            the ledger has of these days was to be replaced.
        held: as for ``make_plan``.

    Returns:
        The batches to fetch, and the held ones that stay.
    """
    longest = max(((last - first).days + 1 for first, last in unmet), default=1)
    failed = _days_in(unmet)
    return make_batches(unmet, held, lambda h: _has(h, failed), longest)


def overlapping(held: Iterable[HeldBatch], batches: Iterable[Batch]) -> list[HeldBatch]:
    """Return those that have a day in common with a batch that is to be fetched."""
    days = _days_in((batch.from_date, batch.to_date) for batch in batches)
    return [h for h in held if _has(h, days)]


def losses(
    table: str, batches: Iterable[Batch], kept: Iterable[HeldBatch], gone: Iterable[HeldBatch]
) -> tuple[str, ...]:
    """Say which rows have vanished from a table of the batches that an export fetches again, and of those it leaves."""
    found = []
    if again := overlapping(gone, batches):
        found.append(
            f"table {table!r} has no row left of {sum(h.lost for h in again):,} that were exported for "
            f"{in_words(ranges_of(again))}: the days that were asked for are fetched again"
        )
    if fewer := [h for h in kept if h.lost > 0]:
        found.append(
            f"table {table!r} has {sum(h.lost for h in fewer):,} rows fewer than were exported for "
            f"{in_words(ranges_of(fewer))}: they stay gone, unless mode='refresh' fetches these days again"
        )
    return tuple(found)


def ranges_of(batches: Iterable[Batch | HeldBatch]) -> tuple[tuple[date, date], ...]:
    """Return the days of batches in date order as ranges, those of neighbours as one."""
    ranges: list[tuple[date, date]] = []
    for batch in batches:
        if ranges and ranges[-1][1] + DAY == batch.from_date:
            ranges[-1] = (ranges[-1][0], batch.to_date)
        else:
            ranges.append((batch.from_date, batch.to_date))
    return tuple(ranges)


def in_words(ranges: Sequence[tuple[date, date]]) -> str:
    """Write ranges of days, the first few of them."""
    shown = ", ".join(str(a) if a == b else f"{a} – {b}" for a, b in ranges[:SHOWN_RANGES])
    return shown + (f" and {len(ranges) - SHOWN_RANGES:,} more ranges" if len(ranges) > SHOWN_RANGES else "")


def smallest_chunk(count_requests: Iterable[tuple[int, int]], quota_left: int) -> int:
    """
    Pick the smallest chunk whose requests fit.

    Args:
        count_requests: pairs of chunk length in days and the requests that it takes, shortest first.
        quota_left: requests that are left.

    Returns:
        The first chunk length that fits, or the last one where none does.
    """
    chunk = MAX_CHUNK_DAYS
    for chunk, requests in count_requests:  # noqa: B007 (the last one is the answer where none fits)
        if requests <= quota_left:
            break
    return chunk


def _has(h: HeldBatch, days: set[date]) -> bool:
    return not days.isdisjoint(_days(h.from_date, h.to_date))


def _days_in(ranges: Iterable[tuple[date, date]]) -> set[date]:
    return {day for first, last in ranges for day in _days(first, last)}


def _midnight_after(day: date) -> datetime:
    return datetime.combine(day, datetime.min.time()) + DAY


def _days(first: date, last: date) -> Iterator[date]:
    return (first + DAY * i for i in range((last - first).days + 1))
