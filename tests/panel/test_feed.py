"""From the state of batches to what the grid shows."""

from __future__ import annotations

import struct
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import mpnb
from mpnb._exporting.handles import retry_days
from mpnb._notebook.panel._feed import (
    Track,
    detail,
    failures,
    packed_days,
    packed_state,
    plan_frame,
    rough,
    worth_a_retry,
)
from mpnb._notebook.panel._static import GLYPHS, grid
from mpnb._planning.states import STATUSES, BatchProgress
from mpnb.sandbox import Fault, Sandbox
from tests._helpers import day, until
from tests.panel.conftest import Gate


def test_days_are_packed_into_four_bytes() -> None:
    """A batch's first day and how many it has can be read back from its four bytes, little-endian."""
    ranges = [(date(1970, 1, 2), date(1970, 1, 2)), (date(2026, 1, 1), date(2026, 4, 10))]
    packed = struct.unpack("<2I", packed_days(ranges))
    read = [(date(1970, 1, 1) + timedelta(days=n & 0xFFFF), n >> 16) for n in packed]
    assert read == [(first, (last - first).days + 1) for first, last in ranges]


def test_days_that_two_bytes_cannot_count_show_as_the_nearest() -> None:
    """A ledger may have days from before 1970 and after 2149: the cells beside theirs stay what they are."""
    ranges = [(date(1890, 3, 1), date(1890, 3, 2)), (date(2026, 1, 1), date(2026, 1, 7)), (date(2400, 1, 1),) * 2]
    packed = struct.unpack("<3I", packed_days(ranges))
    assert [(n & 0xFFFF, n >> 16) for n in packed] == [
        (0, 2),
        ((date(2026, 1, 1) - date(1970, 1, 1)).days, 7),
        (0xFFFF, 1),
    ]


def test_a_state_is_a_byte() -> None:
    """Each status has the byte of its place, and a glyph."""
    assert packed_state([(status, 0) for status in STATUSES]) == bytes(range(len(STATUSES)))
    assert list(GLYPHS) == list(STATUSES)
    assert len(set(GLYPHS.values())) == len(STATUSES)


def test_failures_are_summed_up_by_kind() -> None:
    """Failures of one kind and hint are one line, the most frequent first, with one of their messages."""
    kinds = ["http", "timeout", "timeout"]
    cells = [
        BatchProgress(i, 4, day(i + 1), day(i + 1), "failed", error=f"e{i}", kind=kind, hint=f"do {kind}")
        for i, kind in enumerate(kinds)
    ]
    cells.append(BatchProgress(3, 4, day(4), day(4), "done"))
    assert failures(cells) == [
        {"kind": "timeout", "count": 2, "hint": "do timeout", "message": "e1", "cells": [1, 2]},
        {"kind": "http", "count": 1, "hint": "do http", "message": "e0", "cells": [0]},
    ]


def test_a_detail_says_what_is_known() -> None:
    """Of a batch that has not begun there is nothing to say; of one that failed, how."""
    assert detail(BatchProgress(0, 1, day(1), day(1)))["facts"] == []
    failed = BatchProgress(0, 1, day(1), day(1), "failed", attempt=4, error="no", http_status=500, seconds=2.0)
    assert detail(failed) == {
        "facts": [("attempt", "4"), ("HTTP", "500"), ("took", "2.0 s")],
        "message": "no",
        "until": None,
    }


def test_a_guess_is_rough() -> None:
    """The time that is left is said no more precisely than it is known."""
    assert [rough(s) for s in (0.2, 12, 58, 100, 3600, 9000)] == ["5 s", "10 s", "60 s", "2 min", "60 min", "2.5 h"]


def test_a_plan_shows_what_is_there_and_what_is_not(
    sandbox: Callable[..., Sandbox], export: Callable[..., mpnb.ExportResult], database: Any
) -> None:
    """A plan's cells are the batches to fetch and those that are held, in date order."""
    mp = sandbox()
    export(mp, day(2), day(3))
    plan = mpnb.plan(day(1), day(4), chunk_days=1, database=database, credentials=mp.credentials)
    frame = plan_frame(plan, [])
    assert [STATUSES[byte & 15] for byte in frame.state] == ["queued", "skipped", "skipped", "queued"]
    assert dict(frame.info["facts"])["days there already"] == "2"
    assert "quota left" in dict(frame.info["facts"])
    # Without credentials nobody knows whose quota it is.
    assert "quota left" not in dict(plan_frame(plan, [], project_known=False).info["facts"])


def test_a_retry_stands_in_for_what_it_fetches(
    sandbox: Callable[..., Sandbox], start: Callable[..., mpnb.ExportJob]
) -> None:
    """An export and its retry are one grid: the cells that failed are the retry's, all in date order."""
    mp = sandbox(faults=[Fault("status", day=day(n), status=400) for n in (2, 5)])
    track = Track(start(mp, day(1), day(6)))
    result = track.job.outcome(30)
    assert [cell.status for cell in track.cells()] == ["done", "failed", "done", "done", "failed", "done"]
    info = track.frame(track.cells(), []).info
    assert (info["phase"], dict(info["facts"])["batches"]) == ("failed", "4 of 6")
    job = result.start_retry()
    track.go_on(job)
    job.outcome(30).close()
    cells = track.cells()
    assert [(cell.from_date, cell.status) for cell in cells] == [(day(n), "done") for n in range(1, 7)]
    info = track.frame(cells, []).info
    assert (info["phase"], info["done"], info["failed"], info["total"]) == ("done", 6, 0, 6)
    assert dict(info["facts"])["events"] == f"{mp.count(day(1), day(6)):,}"


def test_projects_stand_one_after_the_other_and_are_retried_by_themselves(
    sandbox: Callable[..., Sandbox], start: Callable[..., mpnb.ExportJob]
) -> None:
    """Each in date order; a day that failed in both is fetched for one, and the other project's stays failed."""
    broken = Fault("status", day=day(2), status=400)
    first, second = (sandbox(seed=n, faults=[broken]) for n in range(2))
    track = Track(start(first, day(1), day(3), credentials=[first.credentials, second.credentials]))
    result = track.job.outcome(30)
    job = retry_days(result, (day(2), day(2)), None, second.project_id)
    track.go_on(job)
    job.outcome(30).close()
    cells = [(cell.project_id, cell.from_date, cell.status) for cell in track.cells()]
    assert cells == [
        *((first.project_id, day(n), "failed" if n == 2 else "done") for n in (1, 2, 3)),
        *((second.project_id, day(n), "done") for n in (1, 2, 3)),
    ]
    info = track.frame(track.cells(), []).info
    assert info["title"] == "2026-01-01 – 2026-01-03"
    assert ("project", second.project_id) in detail(track.cells()[-1], of_several=True)["facts"]
    assert grid(track.cells()).count("<span") == 4
    result.close()


def test_what_is_wrong_with_one_project_keeps_no_other_from_a_retry() -> None:
    """Refused credentials make a retry useless for the project that has them, and for it alone."""
    refused = BatchProgress(0, 2, day(1), day(1), "failed", kind="auth", project_id="1")
    cut = BatchProgress(1, 2, day(1), day(1), "failed", kind="truncated", project_id="2")
    assert worth_a_retry([refused, cut], renewed=False) == [cut]
    assert worth_a_retry([refused, cut], renewed=True) == [refused, cut]


def test_what_a_later_call_skips_is_shown_once(
    sandbox: Callable[..., Sandbox], start: Callable[..., mpnb.ExportJob], export: Callable[..., mpnb.ExportResult]
) -> None:
    """A batch that is in the table already has its first cell; where that one had failed, the cell that skips it."""
    mp = sandbox(faults=[Fault("status", day=day(n), status=400) for n in (2, 5)])
    track = Track(start(mp, day(1), day(6)))
    track.job.outcome(30)
    export(mp, day(2), day(2))
    job = start(mp, day(1), day(6))
    track.go_on(job)
    job.outcome(30)
    shown = [(cell.from_date, cell.status) for cell in track.cells()]
    assert shown == [(day(n), "skipped" if n == 2 else "done") for n in range(1, 7)]


def test_split_batches_stand_in_date_order(
    sandbox: Callable[..., Sandbox], start: Callable[..., mpnb.ExportJob]
) -> None:
    """Batches that were split off later stand where their days belong, and the days are packed anew."""
    mp = sandbox(faults=[Fault("too_large", day=day(2))])
    job = start(mp, day(1), day(8), chunk_days=4)
    track = Track(job)
    before = track.frame(track.cells(), [])
    job.outcome(30)
    cells = track.cells()
    assert len(cells) > 2
    assert [cell.from_date for cell in cells] == sorted(cell.from_date for cell in cells)
    after = track.frame(cells, [])
    assert len(after.state) == len(after.days) // 4 == len(cells) != len(before.state)


def test_phases_of_an_export(sandbox: Callable[..., Sandbox], start: Callable[..., mpnb.ExportJob], gate: Gate) -> None:
    """It is running, then waiting for the quota with the moment until when, then cancelled."""
    mp = sandbox(lines=gate.lines)
    job = start(mp, quota=mpnb.Quota(per_hour=1, per_second=1))
    track = Track(job)
    info = lambda: track.frame(track.cells(), []).info  # noqa: E731
    with gate:
        until(lambda: any(cell.status == "fetching" for cell in track.cells()))
        assert info()["phase"] == "running"
    until(lambda: info()["phase"] == "waiting")
    assert info()["until"] is not None
    assert "left" not in dict(info()["facts"])
    job.cancel()
    job.outcome(10)
    assert info()["phase"] == "cancelled"
    assert info()["until"] is None


def test_what_stays_is_small_and_escaped() -> None:
    """Five thousand ended cells are well under 100 kB of HTML, in runs that name their days and state."""
    cells = [BatchProgress(i, 5000, day(i + 1), day(i + 1), "failed" if i == 9 else "done") for i in range(5000)]
    html = grid(cells)
    assert len(html) < 60_000
    assert 'title="2026-01-10: failed"' in html
    assert 'aria-label="Batches: 4,999 done, 1 failed"' in html
    assert "<script" not in html
