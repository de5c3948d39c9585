"""What the grid shows of the state of batches: bytes, counters and words. No widgets here."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from operator import attrgetter
from sys import byteorder
from typing import Any
from weakref import WeakSet

from mpnb._base.clock import epoch_seconds
from mpnb._base.text import days, duration, plural, size
from mpnb._exporting.handles import Job, terms_of
from mpnb._message import Face, said
from mpnb._planning.people import ProfilesPlan
from mpnb._planning.plan import ExportPlan
from mpnb._planning.states import ENDED, EVENTS, PROFILES, STATUSES, BatchProgress, JobProgress, Terms

CODES = {status: code for code, status in enumerate(STATUSES)}
UNMET = frozenset({"failed", "cancelled"})
# Of the statuses that say that a request is wrong, those that are about something else: a proxy, or time.
MAY_PASS = frozenset({407, 408, 425, 429})
TOO_LARGE = 413
FIFTEENTHS = 15
# Failed batches of one kind whose days are listed: each change of the grid sends the list anew.
MOST_LISTED = 60
EPOCH = date(1970, 1, 1).toordinal()
AGAIN = 1 << 31
# Fewer events a second than this many seconds of work would give a number that jumps.
WORTH_A_RATE = 1.0

Info = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Frame:
    """
    What the grid shows at one moment.

    ``state`` has a byte a batch: its place in ``STATUSES``, and 16 times its share of the largest batch's events, in
    fifteenths. ``days`` has four: as ``packed_days`` or ``packed_pages`` makes them. ``info`` has ``phase`` and
    ``title``, ``terms`` (how records and batches are called), ``facts`` (pairs of a name and a text; the browser puts
    its clock into "elapsed"), ``done``, ``failed`` and ``total`` (batches that ended well, ended otherwise, and all),
    ``elapsed`` (seconds, where a clock runs) and ``at`` and ``until`` (seconds since the epoch), ``failures`` (by
    kind), ``notes``, ``keep`` (a note for pages that cannot keep the picture of the end), and what the buttons need:
    ``actions`` and ``code``.
    """

    state: bytes = b""
    days: bytes = b""
    info: Info = field(default_factory=dict)


class Track:
    """
    An export and its retries, followed as one. All panels of a job share one.

    Args:
        job: the export; ``go_on`` adds its retries.
    """

    def __init__(self, job: Job[Any]) -> None:
        self.jobs = [job]
        self._names: tuple[tuple[int, int], bytes, str] = ((0, 0), b"", "")

    def go_on(self, job: Job[Any]) -> None:
        """Add a retry."""
        self.jobs.append(job)

    @property
    def job(self) -> Job[Any]:
        """Return the latest job."""
        return self.jobs[-1]

    @property
    def version(self) -> tuple[int, int]:
        """Return a value that changes with every change of a batch."""
        return len(self.jobs), self.job.version

    def cells(self, *, clock: bool = False) -> list[BatchProgress]:
        """Return every batch by project and in order; those of a retry replace the ones that they fetch again."""
        cells = self.jobs[0].batches(clock=clock)
        projects = {project_id: place for place, project_id in enumerate(dict.fromkeys(map(_project, cells)))}
        for job in self.jobs[1:]:
            new = job.batches(clock=clock)
            cells = (_with_days if any(cell.page is None for cell in new) else _with_pages)(cells, new)
        return sorted(cells, key=lambda cell: (projects.get(cell.project_id, len(projects)), *_place(cell)))

    def frame(self, cells: Sequence[BatchProgress], actions: Sequence[Info], face: Face = str, **more: Any) -> Frame:
        """
        Return the batches as they are now, as a frame.

        Args:
            face: says hints in the words of who shows them.
        """
        # Batches change their days only where they are divided, which makes more of them.
        if self._names[0] != (len(self.jobs), len(cells)):
            self._names = ((len(self.jobs), len(cells)), packed_names(cells), title_of(cells, terms_of(self.job)))
        _, packed, title = self._names
        info = {"title": title} | self._info(cells, Counter(cell.status for cell in cells), face)
        state = packed_state([(cell.status, cell.rows) for cell in cells])
        return Frame(state, packed, info | {"actions": list(actions)} | more)

    def _info(self, cells: Sequence[BatchProgress], counts: Counter[str], face: Face) -> Info:
        progress = [job.progress() for job in self.jobs]
        now = progress[-1]
        unmet = sum(counts[status] for status in UNMET)
        ended = sum(counts[status] for status in ENDED)
        terms = terms_of(self.job)
        facts = [
            (terms.batches, f"{ended - unmet:,} of {len(cells):,}"),
            (terms.records, f"{sum(p.rows for p in progress):,}"),
            ("received", size(sum(p.bytes for p in progress))),
        ]
        if now.rows and now.elapsed >= WORTH_A_RATE:
            facts.append((f"{terms.records} a second", f"{now.rows / now.elapsed:,.0f}"))
        facts.append(("elapsed", ""))
        if not now.finished:
            if now.seconds_left is not None and not now.waiting_until:
                facts.append(("left", "about " + rough(now.seconds_left)))
            facts.append(("in flight", f"{now.in_flight:,}"))
            facts.append(("quota left", f"{self.job.quota_left:,} this hour"))
        return {
            "phase": phase(self.job, now, counts),
            "terms": terms._asdict(),
            "facts": facts,
            "done": ended - unmet,
            "failed": unmet,
            "total": len(cells),
            "elapsed": round(now.elapsed, 1),
            "at": round(epoch_seconds(), 1),
            "until": now.waiting_until if now.waiting_until and now.waiting_until > epoch_seconds() else None,
            "failures": failures(cells, face) if unmet else [],
        }


# Those that a panel holds: a track keeps its jobs, and those their databases.
_tracks: WeakSet[Track] = WeakSet()


def track_of(job: Job[Any]) -> Track:
    """Return the track of a job, the same for all of its panels, so that each shows the retries of the others."""
    track = next((track for track in list(_tracks) if job in track.jobs), None) or Track(job)
    _tracks.add(track)
    return track


_project = attrgetter("project_id")


def title_of(cells: Sequence[BatchProgress], terms: Terms) -> str:
    """Return what an export is of: its days, or its records where they have none."""
    if any(cell.page is None for cell in cells):
        return days(min(cell.from_date for cell in cells), max(cell.to_date for cell in cells))
    return "" if terms is EVENTS else terms.records


def _place(cell: BatchProgress) -> tuple[date, bool, int]:
    """Return by what batches are put in order: pages by number, and what is read again at the end last."""
    return (cell.from_date, False, 0) if cell.page is None else (date.min, cell.is_again, cell.page)


def _with_days(cells: Sequence[BatchProgress], new: Sequence[BatchProgress]) -> list[BatchProgress]:
    """Return batches of days with those of a retry."""
    there = _days_of(cell for cell in cells if cell.status not in UNMET)
    new = [cell for cell in new if cell.status != "skipped" or _first_day(cell) not in there]
    again = _days_of(new)
    return new + [cell for cell in cells if cell.status not in UNMET or _first_day(cell) not in again]


def _with_pages(cells: Sequence[BatchProgress], new: Sequence[BatchProgress]) -> list[BatchProgress]:
    """Return pages with those of a retry, or these alone where it began anew, with the first page."""
    if any((cell.page, cell.is_again) == (0, False) for cell in new):
        return list(new)
    return list({(cell.page, cell.is_again): cell for cell in (*cells, *new)}.values())


def _first_day(cell: BatchProgress) -> tuple[str, int]:
    return cell.project_id, cell.from_date.toordinal()


def _days_of(cells: Iterable[BatchProgress]) -> set[tuple[str, int]]:
    return {
        (cell.project_id, day)
        for cell in cells
        for day in range(cell.from_date.toordinal(), cell.to_date.toordinal() + 1)
    }


def phase(job: Job[Any], progress: JobProgress, counts: Counter[str]) -> str:
    """Return the name of the current phase. The export has ended when its result is available, after its last batch."""
    if not (progress.finished and job.done()):
        if job.cancelled():
            return "cancelling"
        return "waiting" if counts["waiting"] and not (counts["fetching"] or counts["writing"]) else "running"
    if counts["cancelled"]:
        return "cancelled"
    return "failed" if counts["failed"] else "done"


def plan_frame(
    plan: ExportPlan,
    actions: Sequence[Info],
    *,
    notes: Sequence[str] = (),
    face: Face = str,
    project_known: bool = True,
    **more: Any,
) -> Frame:
    """
    Return what would be fetched, and what is there already, as a frame.

    Args:
        project_known: whether there are credentials; without, nobody knows how much of a quota is left.
    """
    cells = sorted(
        [(b.from_date, b.to_date, "queued", 0) for b in plan.batches]
        + [(h.from_date, h.to_date, "skipped", h.rows) for h in plan.held]
    )
    facts = [
        ("batches", f"{len(plan.batches):,}"),
        ("requests", f"{plan.requests:,}"),
        *([("quota left", f"{plan.quota_left:,} this hour")] if project_known else []),
        ("days there already", f"{len(plan.days_held):,}"),
    ]
    notes = [*(said(note, face) for note in plan.notes), *notes]
    if plan.widened:
        notes.append(
            f"{len(plan.widened):,} more {plural(len(plan.widened), 'day is', 'days are')} fetched, "
            "since a batch is replaced whole."
        )
    if plan.hours_waiting:
        hours = plan.hours_waiting
        notes.append(
            f"It will wait for the quota, about {hours} {plural(hours, 'hour', 'hours')}: "
            "more days a batch, or “auto”, take fewer requests."
        )
    if not plan.batches:
        notes.append("All of these days are in the table already.")
    info = {
        "title": days(plan.from_date, plan.to_date),
        "terms": EVENTS._asdict(),
        "facts": facts,
        "total": len(cells),
        "done": 0,
        "failed": 0,
        "notes": notes,
        "actions": list(actions),
    }
    return Frame(
        packed_state([(status, rows) for *_, status, rows in cells]),
        packed_days([(first, last) for first, last, *_ in cells]),
        info | more,
    )


def profiles_plan_frame(
    plan: ProfilesPlan,
    actions: Sequence[Info],
    *,
    notes: Sequence[str] = (),
    face: Face = str,
    project_known: bool = True,
    **more: Any,
) -> Frame:
    """Return what would be fetched of profiles, as a frame: as many pages as there were before, if that is known."""
    pages = plan.pages or 1
    facts = [("pages", f"about {pages:,}" if plan.pages else "unknown")]
    if plan.is_held:
        facts = [("requests", "0")]
    if project_known:
        facts.append(("quota left", f"{plan.quota_left:,} this hour"))
    if plan.age is not None:
        facts += [("profiles there already", f"{plan.profiles:,}"), ("old", duration(plan.age.total_seconds()))]
    notes = list(notes)
    if plan.goes_on and not plan.is_held:
        many = plural(plan.goes_on, "page is", "pages are")
        notes.append(f"{plan.goes_on:,} {many} there already, of a snapshot that goes on.")
    if plan.is_held:
        notes.append("The profiles in the table are young enough: nothing is fetched.")
    elif plan.pages is None:
        notes.append("The first page tells how many profiles there are.")
    elif hours := plan.hours_if_pages_count:
        notes.append(
            "Should Mixpanel count each page, it will wait for the quota,"
            f" about {hours} {plural(hours, 'hour', 'hours')}: larger pages take fewer requests."
        )
    info = {
        "title": PROFILES.records, "terms": PROFILES._asdict(), "facts": facts, "total": pages, "done": 0, "failed": 0,
        "notes": notes, "actions": list(actions),
    }  # fmt: skip
    status = "skipped" if plan.is_held else "queued"
    return Frame(
        packed_state([(status, 0)] * pages), packed_pages([(page, False) for page in range(pages)]), info | more
    )


def packed_state(cells: Sequence[tuple[str, int]]) -> bytes:
    """Return states and numbers of events as one byte per batch."""
    most = max((rows for _, rows in cells), default=0) or 1
    # Rounded up: what has one event differs from what has none.
    return bytes(CODES[status] | (-(-FIFTEENTHS * rows // most)) << 4 for status, rows in cells)


def packed_days(ranges: Sequence[tuple[date, date]]) -> bytes:
    """Return the days as four bytes per batch: its first day and its number of days."""
    # A day that two bytes cannot count, before 1970 or after 2149, shows as the nearest that they can.
    return _bytes(
        min(max(first.toordinal() - EPOCH, 0), 0xFFFF) | (last.toordinal() - first.toordinal() + 1) << 16
        for first, last in ranges
    )


def packed_pages(pages: Sequence[tuple[int, bool]]) -> bytes:
    """Return pages as four bytes each: its number, and the highest bit where it is read again."""
    return _bytes(min(number, AGAIN - 1) | (AGAIN if is_again else 0) for number, is_again in pages)


def packed_names(cells: Sequence[BatchProgress]) -> bytes:
    """Return what the browser names batches by, as four bytes each: their days, or their pages."""
    if any(cell.page is None for cell in cells):
        return packed_days([(cell.from_date, cell.to_date) for cell in cells])
    return packed_pages([(cell.page or 0, cell.is_again) for cell in cells])


def _bytes(numbers: Iterable[int]) -> bytes:
    packed = array("I", numbers)
    if byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def failures(cells: Sequence[BatchProgress], face: Face = str) -> list[Info]:
    """
    Return failed and cancelled batches by kind, most frequent first.

    Each kind has one of its messages, and the places of its first batches.
    """
    unmet: dict[tuple[str, str], list[int]] = {}
    for place, cell in enumerate(cells):
        if cell.status in UNMET:
            unmet.setdefault((cell.kind or "", cell.hint), []).append(place)
    return [
        {
            "kind": kind,
            "count": len(places),
            "hint": said(hint, face),
            "message": cells[places[0]].error or "",
            "cells": places[:MOST_LISTED],
        }
        for (kind, hint), places in sorted(unmet.items(), key=lambda item: -len(item[1]))
    ]


def worth_a_retry(cells: Sequence[BatchProgress], *, renewed: bool) -> list[BatchProgress]:
    """
    Return the batches that failed and may come if they are requested once more.

    Args:
        renewed: whether there are other credentials than those that were refused.
    """
    found = []
    for project_id in dict.fromkeys(map(_project, cells)):
        found += _worth_a_retry([cell for cell in cells if cell.project_id == project_id], renewed=renewed)
    return found


def _worth_a_retry(cells: Sequence[BatchProgress], *, renewed: bool) -> list[BatchProgress]:
    unmet = [cell for cell in cells if cell.status in UNMET]
    if not renewed and any(cell.kind == "auth" for cell in unmet):
        return []
    refused = [
        cell.from_date
        for cell in unmet
        if cell.kind == "http" and 400 <= (cell.http_status or 0) < 500 and cell.http_status not in MAY_PASS
    ]
    if refused and all(cell.status in UNMET for cell in cells if cell.status in ENDED):
        return []  # what is wrong is wrong with every request: the others were not even sent
    return [cell for cell in unmet if cell.http_status != TOO_LARGE]


def detail(cell: BatchProgress, terms: Terms = EVENTS, *, of_several: bool = False) -> Info:
    """Return details of a batch that its dates and its state do not show; its project, if there are several."""
    facts = [("project", cell.project_id)] if of_several else []
    if cell.attempt:
        facts.append(("attempt", f"{cell.attempt}"))
    if cell.http_status:
        facts.append(("HTTP", f"{cell.http_status}"))
    if cell.status in ("done", "skipped"):
        facts.append((terms.records, f"{cell.rows:,}"))
    if cell.bytes:
        facts.append(("received", size(cell.bytes)))
    if cell.seconds:
        facts.append(("took" if cell.status in ENDED else "for", duration(cell.seconds)))
    if cell.rejected:
        facts.append(("rejected lines", f"{cell.rejected:,}"))
    return {"facts": facts, "message": cell.error or "", "until": cell.until}


def rough(seconds: float) -> str:
    """Return an estimated time span as text, rounded to its precision."""
    if seconds < 60:
        return f"{max(5, round(seconds / 5) * 5)} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
