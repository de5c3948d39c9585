"""Days that are fetched again: when each is due, how often it is asked for, and what counts as its time of fetching."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mpnb
from mpnb._planning.batches import HeldBatch, Lateness
from mpnb._planning.plan import make_plan
from mpnb.sandbox import Fault, Sandbox
from tests._helpers import MORNING, WIDE, WallClock, as_served, as_stored, days_of, event

DAY = timedelta(days=1)


def asked(mp: Sandbox, since: int = 0) -> list[tuple[date, date]]:
    """List the ranges of the requests, in date order."""
    return sorted((r.from_date, r.to_date) for r in mp.requests[since:] if r.from_date and r.to_date)


def day_counts(ranges: Sequence[tuple[date, date]]) -> Counter[date]:
    """Count how often each day is in one of the ranges."""
    return Counter(day for first, last in ranges for day in days_of(first, last))


# --- how often a day is fetched ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("last", "most", "requests"), [("yesterday", 2, 62), ("today", 3, 93)])
def test_in_a_month_of_mornings_no_day_is_fetched_more_than_twice(
    sandbox, export, clock: WallClock, last: str, most: int, requests: int
) -> None:
    """Once, and once more when its late days are over; a third time where it was asked for while it was today."""
    mp = sandbox(events_per_day=5)
    for _ in range(31):
        export(mp, "30 days ago", last, chunk_days=7).close()
        clock.now += DAY
    counts = day_counts(asked(mp))
    assert max(counts.values()) == most
    settled = [MORNING.date() + DAY * n for n in range(25)]
    assert {counts[day] for day in settled} == {most}
    assert len(mp.requests) == requests
    with export(mp, "30 days ago", "yesterday", chunk_days=7) as result:
        provisional = next(f for f in result.check().findings if f.name == "days provisional")
        assert provisional.count == 5


@given(
    mornings=st.lists(st.integers(1, 9), min_size=1, max_size=25),
    window=st.integers(1, 40),
    last=st.integers(0, 1),
    chunk_days=st.sampled_from([1, 2, 7, 30, "auto"]),
    late_days=st.integers(0, 9),
    hour=st.integers(0, 23),
    lag=st.integers(0, 12),
)
def test_however_often_it_is_called_no_day_is_fetched_more_than_it_must_be(
    mornings: list[int], window: int, last: int, chunk_days: Any, late_days: int, hour: int, lag: int
) -> None:
    """Twice at most, and once more for each time it was asked for before it had ended; what is due is fetched."""
    held: dict[int, HeldBatch] = {}
    fetched: Counter[date] = Counter()
    early: Counter[date] = Counter()
    now = datetime(2026, 7, 1, hour)
    for days in mornings:
        now += DAY * days
        lateness = Lateness(now, late_days, timedelta(hours=lag))
        first, end = now.date() - DAY * window, min(now.date() - DAY * last, lateness.today)
        plan = make_plan(
            first,
            end,
            sorted(held.values(), key=lambda h: h.from_date),
            mode="resume",
            lateness=lateness,
            chunk_days=chunk_days,
            quota_left=60,
            per_hour=60,
        )
        for batch in plan.batches:
            for batch_id in batch.replaces:
                del held[batch_id]
            number = max(held, default=0) + 1
            held[number] = HeldBatch(number, batch.from_date, batch.to_date, 1, now)
            for day in days_of(batch.from_date, batch.to_date):
                fetched[day] += 1
                early[day] += day >= lateness.today
            assert batch.to_date < lateness.today or batch.days == 1
        there = {day: h for h in held.values() for day in days_of(h.from_date, h.to_date)}
        assert set(days_of(first, end)) <= there.keys()
        for day in days_of(first, end):
            # Due is a batch when its last day is; until then its other days wait for that one.
            assert not lateness.is_provisional(there[day], day) or not lateness.is_settled(there[day].to_date)
    assert all(fetched[day] <= 2 + early[day] for day in fetched)


def test_today_has_a_batch_of_its_own(sandbox, export, clock: WallClock) -> None:
    """Today comes again next time, and the days before it do not come with it."""
    mp = sandbox(events_per_day=5)
    export(mp, "9 days ago", "today", chunk_days=7).close()
    today = clock.now.date()
    assert asked(mp) == [
        (today - DAY * 9, today - DAY * 3),
        (today - DAY * 2, today - DAY),
        (today, today),
    ]
    sent = len(mp.requests)
    clock.now += timedelta(hours=2)
    export(mp, "9 days ago", "today", chunk_days=7).close()
    assert asked(mp, sent) == [(today, today)]


def test_a_day_whose_late_days_are_over_does_not_come_again_with_a_new_one(sandbox, export, clock: WallClock) -> None:
    """A neighbour that will be due later has a batch of its own; one that is settled as well shares the batch."""
    mp = sandbox(events_per_day=5)
    yesterday = clock.now.date() - DAY
    export(mp, yesterday, yesterday).close()
    sent = len(mp.requests)
    clock.now += DAY * 7
    export(mp, yesterday - DAY, "yesterday", chunk_days=30).close()
    assert asked(mp, sent) == [(yesterday - DAY, yesterday + DAY * 2), (yesterday + DAY * 3, yesterday + DAY * 7)]


@pytest.mark.parametrize("mode", ["resume", "refresh"])
def test_a_day_is_settled_by_whatever_fetches_it_late_enough(sandbox, export, clock: WallClock, mode: str) -> None:
    """After ``late_days`` days, a resume and a refresh are the last that is needed."""
    mp = sandbox(events_per_day=5)
    day = clock.now.date() - DAY
    export(mp, day, day).close()
    clock.now += DAY * 5
    export(mp, day, day, mode=mode).close()
    sent = len(mp.requests)
    export(mp, day, day).close()
    assert (sent, len(mp.requests)) == (2, 2)


def test_a_day_that_leaves_the_window_stays_provisional_and_check_says_so(sandbox, export, clock: WallClock) -> None:
    """Nothing that is not asked for is fetched; the report says which days lack a last look, and how to have it."""
    mp = sandbox(events_per_day=5)
    day = clock.now.date() - DAY
    for _ in range(12):
        export(mp, "3 days ago", "yesterday").close()
        clock.now += DAY
    with mpnb.open(export(mp, "3 days ago", "yesterday").con) as db:
        finding = next(f for f in db.check().findings if f.name == "days provisional")
    assert finding.count == 15
    assert f"{day - DAY * 2} – {day + DAY * 12}" in finding.detail
    assert max(day_counts(asked(mp)).values()) == 1


def test_a_report_goes_by_the_late_days_of_its_call(sandbox, export, clock: WallClock, database: Path) -> None:
    """What an export takes for settled, its check does not call provisional, and the plan says the same of both."""
    mp = sandbox(events_per_day=5)
    asked: dict[str, Any] = {"chunk_days": 7, "credentials": mp.credentials, "database": database, "quota": WIDE}
    for late_days in (5, 0, 2, 7):
        result = export(mp, "9 days ago", "yesterday", chunk_days=7, late_days=late_days)
        found = next(f for f in result.check().findings if f.name == "days provisional")
        plan = mpnb.plan("9 days ago", "yesterday", late_days=late_days, **asked)
        assert (found.count, len(plan.days_provisional), plan.requests) == (late_days, late_days, 0)
        assert (f"{late_days} of those held may lack late events" in str(plan)) == (late_days > 0)
        result.close()


# --- projects whose days end later ------------------------------------------------------------------------------------


def in_los_angeles(clock: WallClock) -> Callable[[date], list[bytes]]:
    """Serve an event an hour, as a project made before 2023 does, from a day's beginning in its zone until now."""
    behind = timedelta(hours=7)

    def stamp(moment: datetime) -> int:
        return int(moment.replace(tzinfo=UTC).timestamp())

    def lines(day: date) -> list[bytes]:
        times = [datetime(day.year, day.month, day.day) + timedelta(hours=h, seconds=1) for h in range(24)]
        return [
            event("A", time=stamp(t), **{"$mp_api_timestamp_ms": stamp(t + behind) * 1000 + 2_000})
            for t in times
            if t + behind < clock.now
        ]

    return lines


def test_days_before_one_that_had_not_ended_there_wait_for_its_late_days(sandbox, export, clock: WallClock) -> None:
    """The first export does not know the zone, and has yesterday in a batch with other days: it is due once."""
    mp = sandbox(lines=in_los_angeles(clock), legacy_timezone="America/Los_Angeles")
    first = clock.now.date() - DAY * 2
    for _ in range(8):
        export(mp, first, "yesterday", chunk_days=7).close()
        clock.now += DAY
    counts = day_counts(asked(mp))
    assert (counts[first], counts[first + DAY], counts[first + DAY * 2]) == (2, 2, 3)
    with export(mp, first, "yesterday") as result:
        assert result.sql(f"SELECT count(*) FROM events WHERE time::DATE = '{first + DAY}'").fetchall() == [(24,)]


@pytest.mark.parametrize(("late_days", "most"), [(5, 3), (0, 2)])
def test_a_day_of_an_older_project_ends_with_its_own_zone_s_day(
    sandbox, export, clock: WallClock, late_days: int, most: int
) -> None:
    """At 6 in the morning in UTC it is still yesterday in Los Angeles: that day is fetched again the next morning."""
    mp = sandbox(lines=in_los_angeles(clock), legacy_timezone="America/Los_Angeles")
    for _ in range(9):
        with export(mp, "8 days ago", "yesterday", chunk_days=7, late_days=late_days) as result:
            of_day = dict(result.sql("SELECT time::DATE, count(*) FROM events GROUP BY ALL").fetchall())
            yesterday = clock.now.date() - DAY
            assert of_day[yesterday] == 23
            assert all(count == 24 for day, count in of_day.items() if day < yesterday - DAY)
            assert of_day[yesterday - DAY] == 24
        clock.now += DAY
    assert max(day_counts(asked(mp)).values()) == most


# --- the time of fetching ------------------------------------------------------------------------------------------


def growing(clock: WallClock, day: date, moves_to: datetime) -> Callable[[date], list[bytes] | None]:
    """Serve 40 of a day's 100 events until the clock is moved, which the first answer does when it is on its way."""

    def lines(each: date) -> list[bytes] | None:
        if each != day:
            return []
        count = 40 if clock.now < moves_to else 100
        clock.now = max(clock.now, moves_to)
        return [event("A", time=int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) + n, n=n)
                for n in range(count)]  # fmt: skip

    return lines


def test_a_day_is_judged_by_the_start_of_its_request(sandbox, export, clock: WallClock) -> None:
    """Asked for at 23:59:55 and there at 00:00:10, it had not ended, and is fetched again."""
    day = clock.now.date()
    clock.now = datetime(2026, 7, 1, 23, 59, 55)
    mp = sandbox(lines=growing(clock, day, datetime(2026, 7, 2, 0, 0, 10)))
    assert export(mp, day, day, late_days=0).total_rows == 40
    result = export(mp, day, day, late_days=0)
    assert (result.total_rows, result.skipped_batches) == (100, 0)
    assert as_stored(result.sql("SELECT event_name, properties FROM events").fetchall()) == as_served(mp, [day])
    assert export(mp, day, day, late_days=0).skipped_batches == 1


def test_of_several_attempts_the_one_that_brought_it_counts(sandbox, export, clock: WallClock) -> None:
    """The first one was cut short before midnight, the second began after it: the day is whole."""
    day = clock.now.date()
    clock.now = datetime(2026, 7, 1, 23, 59, 55)
    lines = growing(clock, day, datetime(2026, 7, 2, 0, 0, 10))
    mp = sandbox(lines=lines, faults=[Fault("reset")])
    result = export(mp, day, day, late_days=0)
    assert (result.total_rows, len(mp.requests)) == (100, 2)
    assert export(mp, day, day, late_days=0).skipped_batches == 1


def test_a_day_fetched_by_a_clock_that_was_ahead_is_provisional(sandbox, export, clock: WallClock) -> None:
    """Its time lies in the future: nobody knows whether it had ended. It is fetched again, once."""
    mp = sandbox(events_per_day=5)
    day = date(2026, 6, 1)
    clock.now += DAY * 400
    export(mp, day, day).close()
    clock.now -= DAY * 400
    with mpnb.open(export(mp, "1 day ago", "1 day ago").con) as db:
        finding = next(f for f in db.check().findings if f.name == "days provisional")
        assert str(day) in finding.detail
    sent = len(mp.requests)
    for _ in range(2):
        export(mp, day, day).close()
    assert asked(mp, sent) == [(day, day)]


def test_a_retry_sends_what_is_listed_although_the_clock_was_set_back(sandbox, export, clock: WallClock) -> None:
    """What failed after the rows came is wanted, whatever the two times say."""
    mp = sandbox(events_per_day=5)
    days = date(2026, 6, 1), date(2026, 6, 3)
    export(mp, *days).close()
    clock.now -= DAY * 10
    mp.add_fault(Fault("status", status=418, day="2026-06-02"))
    failed = export(mp, *days, mode="refresh")
    assert failed.failed_date_ranges == [(date(2026, 6, 2), date(2026, 6, 2))]
    sent = len(mp.requests)
    result = failed.retry()
    assert asked(mp, sent) == [(date(2026, 6, 2), date(2026, 6, 2))]
    assert not result.has_failures
