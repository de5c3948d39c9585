"""The integrity report finds what was put wrong, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import mpnb
from mpnb._check import Check, Finding
from mpnb.sandbox import BAD_LINES, Fault, serve
from tests.campaign._clients import QUOTA

FIRST, LAST = date(2025, 10, 1), date(2025, 10, 6)
NAMES = [
    "days held",
    "days missing",
    "days provisional",
    "duplicates",
    "rejected lines",
    "ledger against table",
    "outside their days",
    "time offset",
]


def line(day: date, *, hour: float = 12, received: float | None = None, **more: object) -> bytes:
    """Make an event of a day; ``received`` hours after its exported time it reached Mixpanel."""
    at = datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(hours=hour)
    known: dict[str, object] = {"time": int(at.timestamp()), "distinct_id": "a", **more}
    if received is not None:
        known["$mp_api_timestamp_ms"] = round((at.timestamp() + received * 3600) * 1000)
    return json.dumps({"event": "A", "properties": known}).encode()


@pytest.fixture
def table(tmp_path: Path) -> Iterator[Callable[..., mpnb.ExportResult]]:
    """Export days of given lines, a day a batch."""
    with ExitStack() as stack:

        def make(lines: Callable[[date], list[bytes]], *, last: date = LAST, **options: Any) -> mpnb.ExportResult:
            server = stack.enter_context(serve(lines=lines, faults=options.pop("faults", ())))
            result = mpnb.export(
                FIRST,
                last,
                chunk_days=1,
                credentials=server.credentials,
                quota=QUOTA,
                database=tmp_path / "a.duckdb",
                on_batch=lambda _: None,
                **options,
            )
            return stack.enter_context(result)

        yield make


def found(check: Check, name: str) -> Finding:
    """Give one finding."""
    return next(finding for finding in check.findings if finding.name == name)


def quiet(day: date) -> list[bytes]:
    """Give lines that no check has anything to say about."""
    return [line(day, hour=h, received=0.0003, **{"$insert_id": f"{day}-{h}"}) for h in range(0, 24, 3)]


def test_a_sound_table_has_no_remark(table: Callable[..., mpnb.ExportResult]) -> None:
    """All checks are there, in order, and all of them are ok."""
    check = table(quiet).check()
    assert [finding.name for finding in check.findings] == NAMES
    assert [finding.status for finding in check.findings] == ["ok"] * len(NAMES)
    assert check.ok
    assert found(check, "days held") == Finding("days held", "ok", 6, "2025-10-01 – 2025-10-06")


def test_the_text_and_the_relation_say_the_same(table: Callable[..., mpnb.ExportResult]) -> None:
    """The relation has a row a check, the text a line a check, and both are the same at each call."""
    result = table(quiet)
    check = result.check()
    assert check.relation.columns == ["check", "status", "count", "detail"]
    assert check.relation.fetchall() == [(f.name, f.status, f.count, f.detail) for f in check.findings]
    assert repr(check) == repr(result.check())
    assert [text.split()[0] for text in repr(check).splitlines()] == ["ok"] * len(NAMES)


def test_missing_days_are_a_problem(table: Callable[..., mpnb.ExportResult]) -> None:
    """Days whose batch failed are named as ranges."""
    faults = [Fault("status", day=day, status=418, times=None) for day in ("2025-10-02", "2025-10-03", "2025-10-05")]
    check = table(quiet, faults=faults).check()
    assert found(check, "days missing") == Finding("days missing", "problem", 3, "2025-10-02 – 2025-10-03, 2025-10-05")
    assert not check.ok


def test_the_whole_ledger_is_checked_after_open(table: Callable[..., mpnb.ExportResult], tmp_path: Path) -> None:
    """``mpnb.open()`` covers from the first to the last day that the ledger knows."""
    table(quiet, faults=[Fault("status", day="2025-10-06", status=418, times=None)]).close()
    with mpnb.open(tmp_path / "a.duckdb") as db:
        assert found(db.check(), "days held").count == 5
        assert found(db.check(), "days missing").detail == "2025-10-06"


def test_days_fetched_early_are_provisional(table: Callable[..., mpnb.ExportResult]) -> None:
    """A day that was fetched fewer than ``late_days`` days after its end may still get events."""
    result = table(quiet)
    assert found(result.check(late_days=36000), "days provisional").count == 6
    assert found(result.check(), "days provisional").count == 0


def test_duplicates_are_counted_by_mixpanels_rule(table: Callable[..., mpnb.ExportResult]) -> None:
    """Same name, distinct_id, time and insert_id; events without insert_id are never duplicates."""

    def lines(day: date) -> list[bytes]:
        same = line(day, **{"$insert_id": "x"})
        return [same, same, same, line(day), line(day), line(day, **{"$insert_id": "y"})]

    result = table(lines)
    count = found(result.check(), "duplicates").count
    assert count == 12
    assert result.deduplicated().count("*").fetchall() == [(result.total_rows - count,)]


def test_rejected_lines_are_noted(table: Callable[..., mpnb.ExportResult]) -> None:
    """Lines that are no events are counted, and those that are events with other keys besides."""
    other = b'{"event": "A", "properties": {"time": 1759320000}, "extra": 1}'
    finding = found(table(lambda day: [other, *quiet(day)], faults=[Fault("bad_lines")]).check(), "rejected lines")
    assert (finding.status, finding.count) == ("note", len(BAD_LINES))
    assert "6 more are events" in finding.detail


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM events WHERE batch_id = 2 AND hour(time) < 6",
        "INSERT INTO events SELECT * FROM events WHERE batch_id = 2",
        "UPDATE events SET batch_id = 99 WHERE batch_id = 2",
        "UPDATE mpnb_batches SET rows = 0, status = 'empty' WHERE batch_id = 2",
        "INSERT INTO mpnb_rejected VALUES ('events', 2, 1, 'made up', 'x'::BLOB, false)",
        "UPDATE mpnb_batches SET status = 'failed' WHERE batch_id = 2",
    ],
)
def test_a_table_that_differs_from_its_ledger_is_a_problem(
    change: str, table: Callable[..., mpnb.ExportResult]
) -> None:
    """Rows that went, came, or belong to no batch are found, and the text names the batch."""
    result = table(quiet)
    result.con.execute(change).fetchall()
    finding = found(result.check(), "ledger against table")
    assert finding.status == "problem"
    assert "batch 2 " in finding.detail or "batch 99 " in finding.detail


def test_events_outside_their_days_are_measured(table: Callable[..., mpnb.ExportResult]) -> None:
    """Times before and after the days of their batch are counted, with how far they lie."""

    def lines(day: date) -> list[bytes]:
        return [*quiet(day), line(day, hour=-8), line(day, hour=29.5)]

    finding = found(table(lines).check(), "outside their days")
    assert (finding.status, finding.count) == ("note", 12)
    assert finding.detail == "events whose time lies up to 8.0 h before and up to 5.5 h after their batch"


@pytest.mark.parametrize(("hours", "zone"), [(-8, "UTC−8"), (5.75, "UTC+5:45"), (1, "UTC+1")])
def test_local_times_are_revealed(hours: float, zone: str, table: Callable[..., mpnb.ExportResult]) -> None:
    """A constant offset against Mixpanel's own clock tells a project older than 2023, and its zone."""

    def lines(day: date) -> list[bytes]:
        late = line(day, hour=1, received=40.123)
        return [late, *(line(day, hour=h, received=-hours + 0.002) for h in range(1, 20))]

    finding = found(table(lines).check(), "time offset")
    assert finding.status == "note"
    assert f"{zone} in 100%" in finding.detail


def test_late_events_of_a_utc_project_reveal_nothing(table: Callable[..., mpnb.ExportResult]) -> None:
    """Where most events come at once, those that come hours late are no zone."""

    def lines(day: date) -> list[bytes]:
        return [*quiet(day), *(line(day, hour=h, received=2.0) for h in range(4))]

    assert found(table(lines).check(), "time offset").status == "ok"


def test_a_report_outlives_its_result(table: Callable[..., mpnb.ExportResult]) -> None:
    """After ``close()`` the text is there; the relation and a new check are not."""
    result = table(quiet)
    check = result.check()
    result.close()
    assert "days held" in repr(check)
    with pytest.raises(mpnb.ClosedError):
        check.relation.fetchall()
    with pytest.raises(mpnb.ClosedError):
        result.check()
