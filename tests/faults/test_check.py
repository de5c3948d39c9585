"""The integrity report finds what was put wrong, and nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import mpnb
from mpnb._reading.check import Check, Finding
from mpnb.sandbox import BAD_LINES, Fault, serve
from tests.campaign._clients import QUOTA

DAY = timedelta(days=1)
FIRST, LAST = date(2025, 10, 1), date(2025, 10, 6)
NAMES = [
    "days held",
    "days missing",
    "days provisional",
    "days without events",
    "duplicates",
    "rejected lines",
    "ledger against table",
    "unusable times",
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
            more = {"faults": options.pop("faults", ()), "project_id": options.pop("project_id", None)}
            server = stack.enter_context(serve(lines=lines, **more))
            result = mpnb.export(
                options.pop("first", FIRST),
                last,
                chunk_days=options.pop("chunk_days", 1),
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


def test_times_that_cannot_be_meant_are_counted(table: Callable[..., mpnb.ExportResult]) -> None:
    """No analysis by time has them, or has them in the wrong place: missing, before 1970, and after tomorrow."""
    now = datetime.now(UTC).timestamp()

    def lines(day: date) -> list[bytes]:
        missing = [line(day, time=time) for time in (None, "2026-01-01T00:00:00", "", [1], 1e300)]
        out = [line(day, time=time) for time in (-1, -1e12, 1767225600 * 10**6, now + 90_000)]
        usable = [line(day, time=time) for time in (0, "1767225600", 1767225600000, now + 80_000)]
        return [*quiet(day), *missing, *out, *usable]

    check = table(lines).check()
    finding = found(check, "unusable times")
    assert (finding.status, finding.count) == ("note", 54)
    assert "30 have none, or one that is not a number, in 24 it lies before 1970 or after tomorrow" in finding.detail
    # The usable ones are of other days, but of days that there are.
    assert found(check, "outside their days").count == 24


@pytest.mark.parametrize("chunk_days", [2, 7])
def test_days_without_events_beside_others_are_noted(
    table: Callable[..., mpnb.ExportResult], tmp_path: Path, chunk_days: int
) -> None:
    """A batch that has some and lacks a day may have been answered in part; a batch without any is empty."""
    empty = {FIRST, FIRST + DAY, FIRST + DAY * 3}
    result = table(lambda day: [] if day in empty else quiet(day), chunk_days=chunk_days, project_id=1)
    finding = found(result.check(), "days without events")
    if chunk_days == 2:  # the first two days are a batch
        assert (finding.status, finding.count) == ("note", 1)
        assert finding.detail.endswith("2025-10-04")
    else:
        assert finding.count == 3
        assert finding.detail.endswith("2025-10-01 – 2025-10-02, 2025-10-04")
    result.close()
    with mpnb.open(tmp_path / "a.duckdb") as db:
        assert found(db.check(), "days without events") == finding
    # Those that were not asked for are nothing to this report.
    some = table(quiet, first=FIRST + DAY * 2, project_id=1).check()
    assert (found(some, "days without events").count, found(some, "days held").count) == (1, 4)


def test_events_of_other_days_do_not_make_up_for_a_day_without(table: Callable[..., mpnb.ExportResult]) -> None:
    """A batch of a day whose events all lie elsewhere is noted as well."""
    assert found(table(lambda day: [line(day, hour=30)]).check(), "days without events").count == 6


# --- the time offset ---------------------------------------------------------------------------------------------


def test_times_in_the_zone_of_the_project_are_revealed(table: Callable[..., mpnb.ExportResult]) -> None:
    """A constant offset against Mixpanel's own clock tells a project older than 2023, and its zone."""
    for number, (hours, zone) in enumerate([(-8, "UTC−8"), (5.75, "UTC+5:45"), (1, "UTC+1"), (-1, "UTC−1")]):

        def lines(day: date, hours: float = hours) -> list[bytes]:
            late = line(day, hour=1, received=40.123)
            return [late, *(line(day, hour=h, received=-hours + 0.002) for h in range(1, 20))]

        result = table(lines, table=f"t{number}")
        finding = found(result.check(), "time offset")
        assert (finding.status, finding.count) == ("note", 114)
        assert f"{zone} in 100%" in finding.detail
        asks(result, f"{hours:+g} h off from UTC in 100%")


def asks(result: mpnb.ExportResult, why: str) -> None:
    """See that local times want the project's zone, and are there with it."""
    with pytest.raises(mpnb.PlanError, match=f"{re.escape(why)}.*project_timezone="):
        result.local_time("UTC")
    assert len(result.local_time("UTC", project_timezone="UTC").fetchall()) == result.total_rows


def tells(result: mpnb.ExportResult) -> None:
    """See that the events show that their time is UTC."""
    assert found(result.check(), "time offset") == Finding("time offset", "ok", 0, "")
    assert len(result.local_time("UTC").fetchall()) == result.total_rows


@pytest.mark.parametrize(
    ("zone", "first", "last", "offsets"),
    [
        ("America/New_York", "2026-03-04", "2026-03-11", ["UTC−5 in 50%", "UTC−4 in 50%"]),
        ("America/New_York", "2026-03-01", "2026-03-10", ["UTC−5 in 70%", "UTC−4 in 30%"]),
        # In winter, London's wall clock is UTC.
        ("Europe/London", "2026-03-22", "2026-03-30", ["UTC+1 in"]),
        ("Atlantic/Azores", "2026-10-22", "2026-10-27", ["UTC−1 in"]),
        ("Australia/Lord_Howe", "2026-04-02", "2026-04-07", ["UTC+11 in 50%", "UTC+10:30 in 50%"]),
    ],
)
def test_summer_time_makes_two_offsets_of_one_project(
    tmp_path: Path, zone: str, first: str, last: str, offsets: list[str]
) -> None:
    """Whatever share of the days either has, and also where one of them is 0."""
    with (
        serve(legacy_timezone=zone, events_per_day=300) as mp,
        mpnb.export(first, last, credentials=mp.credentials, quota=QUOTA, database=tmp_path / "a.duckdb") as result,
    ):
        finding = found(result.check(), "time offset")
        assert finding.status == "note"
        for offset in offsets:
            near = [f"{offset[:-3]}{int(offset[-3:-1]) + n}%" for n in range(-3, 4)] if "%" in offset else [offset]
            assert any(each in finding.detail for each in near), finding.detail
        asks(result, "h off from UTC in")


def stamped(*kinds: str) -> Callable[[date], list[bytes]]:
    """Make days of an old project 5 hours behind whose events have only these stamps of when they arrived."""

    def lines(day: date) -> list[bytes]:
        start = datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()
        stamps = [{kind: round((start + h * 3600 + 5 * 3600 + 9) * 1000) for kind in kinds} for h in range(24)]
        return [line(day, hour=h, **stamps[h]) for h in range(24)]

    return lines


def test_without_the_first_stamp_the_second_tells(table: Callable[..., mpnb.ExportResult]) -> None:
    """Exports of 2020–21 have no ``$mp_api_timestamp_ms``; they say when each event was processed."""
    result = table(stamped("mp_processing_time_ms"))
    assert "UTC−5 in 100%" in found(result.check(), "time offset").detail
    asks(result, "-5 h off from UTC in 100%")


def test_the_second_stamp_stands_in_event_by_event(table: Callable[..., mpnb.ExportResult]) -> None:
    """A table may hold both: the first stamp counts where it can be read."""

    def lines(day: date) -> list[bytes]:
        odd = [line(day, hour=h + 0.5, **{"$mp_api_timestamp_ms": "soon"}) for h in range(10)]
        # Processed anew, hours after they had arrived.
        again = round(datetime(day.year, day.month, day.day, 23, tzinfo=UTC).timestamp() * 1000)
        both = [line(day, hour=h, received=5, mp_processing_time_ms=again) for h in range(9)]
        return [*odd, *both, *stamped("mp_processing_time_ms")(day)]

    finding = found(table(lines).check(), "time offset")
    assert (finding.count, "UTC−5 in 100%" in finding.detail) == (33 * 6, True)


def test_without_any_stamp_both_say_that_it_cannot_be_told(table: Callable[..., mpnb.ExportResult]) -> None:
    """The report has a note, and local times are not made up: they ask for the project's zone."""
    result = table(stamped())
    finding = found(result.check(), "time offset")
    assert finding.status == "note"
    assert "none of them says when it arrived" in finding.detail
    asks(result, "none of them says when it arrived")


def test_no_events_raise_no_question(table: Callable[..., mpnb.ExportResult]) -> None:
    """Where nothing is there, nothing can be wrong by hours."""
    tells(table(lambda day: []))


def live(day: date, number: int = 24) -> list[bytes]:
    """Make events of a project in UTC that arrive at once, some of them by a clock that is not exact."""
    return [line(day, hour=24 * n / number, received=0.01 * ((n % 5) - 1)) for n in range(number)]


def nightly(day: date) -> list[bytes]:
    # The day before, as it was on the hour, at two in the morning.
    return [line(day, hour=0, received=2.001, n=n) for n in range(400)]


def on_the_hour(day: date) -> list[bytes]:
    # Each hour's events at five past.
    return [line(day, hour=h + n / 60, received=(65 - n) / 60) for h in range(24) for n in range(60)]


def from_phones(day: date) -> list[bytes]:
    return [line(day, hour=h, received=3.0, n=h) for h in range(16)]


def mostly_from_phones(day: date) -> list[bytes]:
    return [line(day, hour=h / 2 + 0.3, received=3.0) for h in range(40)]


def from_the_past(day: date) -> list[bytes]:
    return [line(day, hour=h, received=24 * 500 - 0.02 * n) for h in range(24) for n in range(50)]


def wrong_by_two(day: date) -> list[bytes]:
    return [line(day, hour=h + 2, received=-2.0) for h in range(12)]


@pytest.mark.parametrize("others", [nightly, from_phones, mostly_from_phones, from_the_past, wrong_by_two, on_the_hour])
def test_what_is_sent_at_once_tells_utc_whatever_else_there_is(
    table: Callable[..., mpnb.ExportResult], others: Callable[[date], list[bytes]]
) -> None:
    """Imports of thousands, phones that were offline, a server whose clock is wrong: none of them is a time zone."""
    tells(table(lambda day: [*others(day), *live(day, 96 if others is on_the_hour else 24)]))


def behind(day: date) -> list[bytes]:
    # A queue that is three quarters of an hour behind, in which no time zone is.
    return [line(day, hour=h, received=0.75) for h in range(24)]


@pytest.mark.parametrize("others", [on_the_hour, from_the_past, behind])
def test_imports_alone_tell_nothing(
    table: Callable[..., mpnb.ExportResult], others: Callable[[date], list[bytes]]
) -> None:
    """Whatever delay they have: of some it is a whole number of hours by chance, of others it is that of no zone."""
    result = table(others)
    finding = found(result.check(), "time offset")
    assert (finding.status, finding.count) == ("note", 0)
    assert "arrived long after they happened" in finding.detail
    asks(result, "arrived long after they happened")


def test_imports_do_not_hide_the_zone_of_an_old_project(table: Callable[..., mpnb.ExportResult]) -> None:
    """What comes at once decides there, too."""

    def lines(day: date) -> list[bytes]:
        return [*from_the_past(day), *stamped("$mp_api_timestamp_ms")(day)]

    assert "UTC−5 in 100%" in found(table(lines).check(), "time offset").detail


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
