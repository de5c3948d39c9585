"""Funnels, retention and segmentation, each against a slow implementation that follows its definition word by word."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime, timedelta
from statistics import median
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mpnb
from mpnb.analysis import funnel, retention, segmentation

EPOCH = datetime(2026, 1, 28)  # four days before the end of a month and of a week
Row = tuple[str, datetime, str | None, int]

# Few names, few users and few seconds, so that ties, repetitions and gaps are common.
rows_of = st.lists(
    st.tuples(
        st.sampled_from("ABC"),
        st.one_of(st.integers(0, 6), st.integers(0, 20 * 86400)).map(lambda s: EPOCH + timedelta(seconds=s)),
        st.sampled_from(["u", "v", "w", "", None]),
        st.integers(0, 2),
    ),
    max_size=25,
)
a_step = st.one_of(st.sampled_from("ABC"), st.tuples(st.sampled_from("ABC"), st.sampled_from(["amount > 0"])))


@pytest.fixture(scope="module")
def con() -> Any:
    """Give a connection with one thread: the data is small, the examples many."""
    with duckdb.connect(config={"threads": 1}) as con:
        yield con


def relation(con: Any, rows: list[Row]) -> Any:
    """Make a relation of events, which has columns with names that the queries use themselves."""
    values = [
        f"('{name}', TIMESTAMP '{time}', {user!r}, {amount})".replace("None", "NULL")
        for name, time, user, amount in rows
    ]
    return con.sql(
        "SELECT event_name, time::TIMESTAMP AS time, distinct_id::VARCHAR AS distinct_id, amount::INTEGER AS amount,"
        " 1 AS person, 1 AS step, 1 AS period, 1 AS t1"
        f" FROM (VALUES {', '.join([*values, '(NULL, NULL, NULL, NULL)'])}) AS v(event_name, time, distinct_id, amount)"
        " WHERE event_name IS NOT NULL"
    )


def fits(row: Row, step: Any) -> bool:
    """Say whether an event is of a step."""
    return row[0] == step if isinstance(step, str) else row[0] == step[0] and row[3] > 0


def name_of(step: Any) -> str:
    """Give the event's name of a step."""
    return step if isinstance(step, str) else step[0]


def ways(rows: list[Row], steps: list[Any], window: timedelta, way: list[datetime]) -> list[list[datetime]]:
    """List every way through the steps that goes on from here, cut where it ends."""
    found = [way]
    if len(way) < len(steps):
        step = steps[len(way)]
        for row in rows:
            before = [t for t, s in zip(way, steps, strict=False) if name_of(s) == name_of(step)]
            if (
                fits(row, step)
                and (not way or way[-1] <= row[1] <= way[0] + window)
                and all(t < row[1] for t in before)
            ):
                found += ways(rows, steps, window, [*way, row[1]])
    return found


@given(rows_of, st.lists(a_step, min_size=2, max_size=4), st.sampled_from([1, 3, 86400, 10**6]))
@settings(max_examples=50)
def test_a_funnel_counts_who_has_a_way(con: Any, rows: list[Row], steps: list[Any], seconds: int) -> None:
    """A funnel counts, at each step, the users for whom any way through all events leads there."""
    people: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row[2]:
            people[row[2]].append(row)
    window = timedelta(seconds=seconds)
    reached = [0] * len(steps)
    lasted: list[list[float]] = [[] for _ in steps]
    for mine in people.values():
        every = ways(mine, steps, window, [])
        deepest = max(map(len, every))
        for number in range(deepest):
            reached[number] += 1
        if deepest:
            start = min(way[0] for way in every if len(way) == deepest)
            # Each step as early as it can be, after the one before.
            way = min(way for way in every if len(way) == deepest and way[0] == start)
            for number in range(deepest):
                lasted[number].append((way[number] - start).total_seconds())
    found = funnel(relation(con, rows), steps, window).fetchall()
    assert [row[:3] for row in found] == [
        (n, name_of(s), c) for n, (s, c) in enumerate(zip(steps, reached, strict=True), 1)
    ]
    for number, (_, _, users, of_first, of_previous, seconds_in) in enumerate(found):
        assert of_first == (users / reached[0] if reached[0] else None)
        assert of_previous == (users / reached[number - 1] if number and reached[number - 1] else None)
        assert seconds_in == (median(lasted[number]) if lasted[number] else None)


def trunc(time: datetime, unit: str) -> datetime:
    """Give the begin of the calendar unit that a time is in."""
    if unit == "hour":
        return time.replace(minute=0, second=0)
    day = time.replace(hour=0, minute=0, second=0)
    return {"day": day, "week": day - timedelta(days=day.weekday()), "month": day.replace(day=1)}[unit]


def units(first: datetime, last: datetime, unit: str) -> list[datetime]:
    """List the begins of all units of a range."""
    found = [first]
    while found[-1] < last:
        # 32 days are more than a month, and less than two.
        step = {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(days=7)}
        found.append(trunc(found[-1] + step.get(unit, timedelta(days=32)), unit))
    return found


@given(rows_of, a_step, a_step, st.sampled_from(["day", "week", "month"]))
@settings(max_examples=50)
def test_retention_counts_who_came_back(con: Any, rows: list[Row], first: Any, again: Any, unit: str) -> None:
    """Retention has a row a cohort and period, zeros included, with those who did it again in it."""
    born: dict[str, datetime] = {}
    for row in rows:
        if row[2] and fits(row, first):
            born[row[2]] = min(row[1], born.get(row[2], row[1]))
    wanted = []
    for cohort in sorted({trunc(time, unit) for time in born.values()}):
        members = {user for user, time in born.items() if trunc(time, unit) == cohort}
        for period, begin in enumerate(units(cohort, max(trunc(row[1], unit) for row in rows), unit)):
            back = {
                row[2]
                for row in rows
                if row[2] in members
                and fits(row, again)
                and trunc(row[1], unit) == begin
                and (row[1] > born[row[2]] or (row[1] == born[row[2]] and name_of(first) != name_of(again)))
            }
            wanted.append((cohort, len(members), period, len(back), len(back) / len(members)))
    assert retention(relation(con, rows), first, again, unit=unit).fetchall() == wanted


@given(rows_of, st.none() | a_step, st.booleans(), st.sampled_from(["hour", "day", "week", "month"]))
@settings(max_examples=50)
def test_segmentation_counts_every_cell(con: Any, rows: list[Row], event: Any, split: bool, unit: str) -> None:
    """Segmentation has a row a unit and segment, zeros included, with its events and users."""
    chosen = [row for row in rows if event is None or fits(row, event)]
    wanted = set()
    if chosen:
        begins = [trunc(row[1], unit) for row in chosen]
        for begin in units(min(begins), max(begins), unit):
            for segment in {row[3] for row in chosen} if split else {None}:
                cell = [r for r in chosen if trunc(r[1], unit) == begin and (not split or r[3] == segment)]
                key = (begin, segment) if split else (begin,)
                wanted.add((*key, len(cell), len({row[2] for row in cell if row[2]})))
    found = segmentation(relation(con, rows), event, by="amount" if split else None, unit=unit).fetchall()
    assert len(found) == len(wanted)
    assert set(found) == wanted


def test_a_relation_without_names_of_events_is_refused(con: Any) -> None:
    """Typed events of one name have no column event_name, and the error says which relation has one."""
    events = con.sql("SELECT now()::TIMESTAMP AS time, 'a' AS distinct_id")
    with pytest.raises(mpnb.PlanError, match=r"event_name.*result\.event\(\["):
        segmentation(events)
    with pytest.raises(mpnb.PlanError, match="two steps"):
        funnel(relation(con, []), ["A"], timedelta(days=1))
    with pytest.raises(mpnb.PlanError, match="unit is one of"):
        retention(relation(con, []), "A", "B", unit="year")
