"""From a range of days to batches: what to fetch, what is in the table already, and how much quota it takes."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from types import MappingProxyType
from typing import Literal

from mpnb._message import Argument, Face, Message, said
from mpnb._planning.batches import MAX_CHUNK_DAYS, Batch, HeldBatch, Lateness, Mode, _has, make_batches
from mpnb._planning.dates import _days, _days_in


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """
    What an export would do. Making a plan sends nothing.

    Attributes:
        from_date, to_date: the range, both inclusive, not after today.
        batches: the batches that would be fetched, in date order.
        held: batches of the ledger that overlap the range and would be kept.
        days_held: days of the range that are in the table and would not be fetched.
        days_provisional: those of them that will be fetched once more when their late days are over.
        widened: days outside the range, or not needed, that would be fetched again because a batch of the ledger is
            replaced as a whole.
        quota_left: requests that are left in the rolling hour.
        per_hour: requests that the quota allows per hour.
        notes: what else there is to say.
        projects: the plan of each project by its number, where there are several. Then the plan has the batches of all,
            ``days_held`` are those that each project has, and other days are those of any.
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
    projects: Mapping[str, ExportPlan] = field(default_factory=dict, repr=False, hash=False)

    @property
    def requests(self) -> int:
        """Return the number of requests, if none has to be repeated."""
        return len(self.batches)

    @property
    def hours_waiting(self) -> int:
        """
        Return the full hours of waiting for the quota; 0 if the requests fit the rest of this hour.

        Of several projects, it is the longest wait of any, since each has a quota of its own.
        """
        if self.projects:
            return max(plan.hours_waiting for plan in self.projects.values())
        over = self.requests - self.quota_left
        return 0 if over <= 0 else -(-over // self.per_hour)

    def __str__(self) -> str:
        """Return the plan as a few lines of text."""
        return text(self, str)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        rows = "".join(
            f"<tr><th style='text-align:left'>{name}</th><td style='text-align:left'>{html.escape(line)}</td></tr>"
            for name, line in _lines(self)
        )
        return {"text/plain": str(self), "text/html": f"<table>{rows}</table>"}


def text(plan: ExportPlan, face: Face) -> str:
    """Return the plan as a few lines of text, in the words of a face."""
    return "\n".join(f"{name:<9} {said(line, face)}" for name, line in _lines(plan))


def combined(plans: Mapping[str, ExportPlan]) -> ExportPlan:
    """Return the plan for several projects, given those of each."""
    each = list(plans.values())
    held_by_all = set(each[0].days_held).intersection(*(plan.days_held for plan in each))
    return ExportPlan(
        from_date=each[0].from_date,
        to_date=each[0].to_date,
        batches=tuple(batch for plan in each for batch in plan.batches),
        held=tuple(batch for plan in each for batch in plan.held),
        days_held=tuple(sorted(held_by_all)),
        days_provisional=tuple(sorted({day for plan in each for day in plan.days_provisional})),
        widened=tuple(sorted({day for plan in each for day in plan.widened})),
        quota_left=sum(plan.quota_left for plan in each),
        per_hour=sum(plan.per_hour for plan in each),
        notes=tuple(dict.fromkeys(note for plan in each for note in plan.notes)),
        projects=MappingProxyType(dict(plans)),
    )


def _lines(plan: ExportPlan) -> list[tuple[str, str]]:
    sizes = sorted({batch.days for batch in plan.batches}, reverse=True)
    shape = f" of {sizes[0]} days" if sizes and sizes[0] > 1 else " of 1 day" if sizes else ""
    if len(sizes) > 1:
        shape += f" (the shortest {sizes[-1]})"
    total = (plan.to_date - plan.from_date).days + 1
    lines = [
        ("range", f"{plan.from_date} – {plan.to_date}, {total:,} day{'s'[: total != 1]}"),
        ("batches", f"{len(plan.batches):,}{shape}"),
        ("requests", f"{plan.requests:,} of {plan.quota_left:,} left this hour"),
    ]
    if plan.hours_waiting:
        hours = plan.hours_waiting
        left = f"{plan.requests:,}, and none is left this hour" if not plan.quota_left else lines[-1][1]
        lines[-1] = ("requests", f"{left}: it will wait for the quota, about {hours} hour{'s'[: hours != 1]}")
        if sizes[0] < MAX_CHUNK_DAYS:
            larger, auto = Argument("chunk_days"), Argument("chunk_days", "auto")
            lines[-1] = ("requests", Message(lines[-1][1], "; a larger ", larger, ", or ", auto, ", takes fewer"))
    for project_id, one in plan.projects.items():
        waits = f", about {one.hours_waiting} hour{'s'[: one.hours_waiting != 1]}" if one.hours_waiting else ""
        lines.append((project_id, f"{one.requests:,} requests of {one.quota_left:,} left this hour{waits}"))
    if plan.days_held:
        lines.append(("held", f"{len(plan.days_held):,} of these days are in the table and are not fetched again"))
    if plan.days_provisional:
        count = len(plan.days_provisional)
        lines.append(("late", f"{count:,} of those held may lack late events, and are fetched once more later"))
    if plan.widened:
        lines.append(("widened", f"{len(plan.widened):,} more days are fetched: batches are replaced as a whole"))
    return lines + [("note", note) for note in plan.notes]


def make_plan(
    from_date: date,
    to_date: date,
    held: Sequence[HeldBatch],
    *,
    unmet: Sequence[tuple[date, date]] = (),
    mode: Mode,
    lateness: Lateness,
    chunk_days: int | Literal["auto"],
    quota_left: int,
    per_hour: int,
    notes: tuple[str, ...] = (),
) -> ExportPlan:
    """
    Plan the export of a range of days, both inclusive.

    Args:
        held: the table's batches in the ledger, which do not overlap each other.
        unmet: first and last days of batches that failed or were cancelled and have not been fetched since.
        quota_left, per_hour: requests that are left in the rolling hour, and requests per hour.
    """

    failed = {day for day in _days_in(unmet) if from_date <= day <= to_date}

    def is_wanted(batch: HeldBatch) -> bool:
        return mode == "refresh" or _has(batch, failed)

    def is_stale(batch: HeldBatch) -> bool:
        return is_wanted(batch) or lateness.is_due(batch)

    def cut(days: int) -> tuple[list[Batch], list[HeldBatch]]:
        return make_batches([(from_date, to_date)], held, is_stale, days, lateness.are_apart)

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
        if not from_date <= day <= to_date or not (is_wanted(h) or lateness.is_provisional(h, day))
    ]
    days_held = [(h, day) for h in kept for day in _days(max(h.from_date, from_date), min(h.to_date, to_date))]
    return ExportPlan(
        from_date=from_date,
        to_date=to_date,
        batches=tuple(batches),
        held=tuple(kept),
        days_held=tuple(day for _, day in days_held),
        days_provisional=tuple(day for h, day in days_held if lateness.is_provisional(h, day)),
        widened=tuple(sorted(widened)),
        quota_left=quota_left,
        per_hour=per_hour,
        notes=notes,
    )


def plan_again(unmet: Sequence[tuple[date, date]], held: Sequence[HeldBatch]) -> tuple[list[Batch], list[HeldBatch]]:
    """
    Plan another attempt at what failed, each range of days by itself.

    Args:
        unmet: first and last days of batches that failed and have not been fetched since, in date order, without
            overlaps. Batches of the ledger with these days will be replaced.
        held: as for ``make_plan``.

    Returns:
        The batches to fetch, and the held ones to keep.
    """
    longest = max(((last - first).days + 1 for first, last in unmet), default=1)
    failed = _days_in(unmet)
    return make_batches(unmet, held, lambda h: _has(h, failed), longest)


def smallest_chunk(count_requests: Iterable[tuple[int, int]], quota_left: int) -> int:
    """
    Return the smallest chunk whose requests fit the quota.

    Args:
        count_requests: pairs of chunk length in days and number of requests, shortest first.
        quota_left: requests that are left.

    Returns:
        The first chunk length that fits, or the last one if none does.
    """
    chunk = MAX_CHUNK_DAYS
    for chunk, requests in count_requests:  # noqa: B007 (the last one is the answer where none fits)
        if requests <= quota_left:
            break
    return chunk
