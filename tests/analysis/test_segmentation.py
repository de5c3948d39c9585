"""Segmentation against a slow implementation of Mixpanel's rules."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from statistics import fmean, median
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mpnb
from mpnb.analysis import segmentation
from tests.analysis._events import Row, a_step, at, by_user, fits, relation, rows_of, sessions_of
from tests.analysis.test_retention import following, trunc


def percentile(values: list[int], part: float) -> float:
    """Return a percentile, between two values where it falls there."""
    place = part * (len(values) - 1)
    low = int(place)
    return values[low] + (values[min(low + 1, len(values) - 1)] - values[low]) * (place - low)


def figure(measure: str, cell: list[Row], every: list[Row], days: list[Row]) -> float | None:
    """
    Return the value of a measure.

    Args:
        cell: the events that count, in one unit and segment.
        every: all events, for sessions.
        days: the events of the days that active users are of.
    """
    users = {row.user for row in cell if row.user}
    amounts = sorted(row.amount for row in cell if row.amount is not None)
    if measure in ("dau", "wau", "mau", "mau(28)"):
        return len({row.user for row in days if row.user})
    if measure == "sessions":
        ids = {id(row) for row in cell}
        return sum(
            any(id(row) in ids for row in session) for mine in by_user(every).values() for session in sessions_of(mine)
        )
    return {
        "events": lambda: len(cell),
        "users": lambda: len(users),
        "events per user": lambda: len(cell) / len(users) if users else None,
        "sum(amount)": lambda: sum(amounts),
        "average(amount)": lambda: fmean(amounts) if amounts else None,
        "median(amount)": lambda: median(amounts) if amounts else None,
        "min(amount)": lambda: min(amounts, default=None),
        "max(amount)": lambda: max(amounts, default=None),
        "p90(amount)": lambda: percentile(amounts, 0.9) if amounts else None,
        "distinct(plan)": lambda: len({row.plan for row in cell} - {None}),
    }[measure]()


MEASURES = ["events", "users", "sessions", "events per user", "sum(amount)", "average(amount)", "median(amount)"]
MEASURES += ["min(amount)", "max(amount)", "p90(amount)", "distinct(plan)", "dau", "wau", "mau", "mau(28)"]
ACTIVE = {"dau": 1, "wau": 7, "mau": 30, "mau(28)": 28}


@pytest.mark.filterwarnings("ignore:events has no")
@given(
    rows_of,
    st.none() | a_step,
    st.sampled_from(MEASURES),
    st.booleans(),
    st.sampled_from([None, 1, 2]),
    st.sampled_from(["hour", "day", "week", "month", "quarter"]),
)
@settings(max_examples=60, deadline=None)
def test_segmentation_counts_every_cell(
    con: Any, rows: list[Row], event: Any, measure: str, split: bool, top: int | None, unit: str
) -> None:
    """A row a unit and segment, zeros included, with its events, users and value; the rest of the segments are one."""
    rows = [row._replace(time=row.time + timedelta(microseconds=n)) for n, row in enumerate(rows)]
    if measure in ACTIVE:
        unit = "day"
    chosen = [row for row in rows if event is None or fits(row, event)]
    wanted = {}
    if chosen:
        sizes = Counter(row.plan for row in chosen)
        order = sorted(sizes, key=lambda plan: (-sizes[plan], plan is None, plan or ""))
        kept = order if top is None or not split else order[:top]
        label = {plan: plan if plan in kept else "$other" for plan in order}
        begin = trunc(min(row.time for row in chosen), unit)
        last = trunc(max(row.time for row in chosen), unit)
        while begin <= last:
            end = following(begin, unit)
            for segment in set(label.values()) if split else {None}:
                mine = [row for row in chosen if not split or label[row.plan] == segment]
                cell = [row for row in mine if begin <= row.time < end]
                since = end - timedelta(days=ACTIVE.get(measure, 0))
                days = [row for row in mine if since <= row.time < end]
                value = figure(measure, cell, rows, days)
                key = (begin, segment) if split else (begin,)
                wanted[key] = (len(cell), len({row.user for row in cell if row.user}), value)
            begin = end
    found = segmentation(
        relation(con, rows), event, measure=measure, by="plan" if split else None, top=top, unit=unit, cumulative=True
    ).fetchall()
    keys = 1 + split
    got = {row[:keys]: (*row[keys : keys + 2], None if row[-2] is None else pytest.approx(row[-2])) for row in found}
    assert len(found) == len(wanted)
    assert got == wanted
    assert [row[0] for row in found] == sorted(row[0] for row in found)


def days_of(con: Any, counts: list[int]) -> Any:
    """Return so many events on each day from 5 January on, each of another user."""
    rows = [Row("A", at("10:00", 5 + day), f"u{n}", n) for day, count in enumerate(counts) for n in range(count)]
    return relation(con, rows)


def test_rolling_cumulative_and_an_earlier_period(con: Any) -> None:
    """The average of the last units, the sum so far, and the value of so much earlier."""
    found = segmentation(days_of(con, [1, 2, 6, 0, 4]), "A", rolling=2, cumulative=True, compare="day").fetchall()
    assert [row[3:] for row in found] == [
        (1.0, 1.0, 1.0, None),
        (2.0, 1.5, 3.0, 1.0),
        (6.0, 4.0, 9.0, 2.0),
        (0.0, 3.0, 9.0, 6.0),
        (4.0, 2.0, 13.0, 0.0),
    ]


def test_by_several_properties(con: Any) -> None:
    """A column for each."""
    rows = [Row("A", at("10:00"), "u", amount, plan) for amount, plan in [(1, "x"), (1, "x"), (2, "x"), (1, None)]]
    found = segmentation(relation(con, rows), by=["plan", "amount"], top=2)
    assert found.columns == ["period", "segment_1", "segment_2", "events", "users"]
    assert [row[1:] for row in found.fetchall()] == [("x", "1", 2, 1), ("x", "2", 1, 1), ("$other", "$other", 1, 1)]


def test_ten_segments_stay(con: Any) -> None:
    """And the rest is one row, last."""
    rows = [Row("A", at("10:00"), f"u{n % 3}", 1, f"p{n:02}") for n in range(14)]
    found = segmentation(relation(con, rows), by="plan").fetchall()
    assert [row[1:] for row in found][-2:] == [("p09", 1, 1), ("$other", 4, 3)]
    assert len(found) == 11
    assert len(segmentation(relation(con, rows), by="plan", top=None).fetchall()) == 14


def test_weeks_begin_on_monday_and_days_in_a_zone(con: Any) -> None:
    """Sunday 23:30 in UTC is Monday in Berlin."""
    events = relation(con, [Row("A", datetime(2026, 1, 11, 23, 30), "u")])
    for zone, week in ((None, datetime(2026, 1, 5)), ("Europe/Berlin", datetime(2026, 1, 12))):
        assert segmentation(events, unit="week", zone=zone).fetchall() == [(week, 1, 1)]
    local = relation(con, [Row("A", datetime(2026, 1, 11, 23, 30), "u")], ", time + INTERVAL 1 HOUR AS local_time")
    assert segmentation(local, unit="week").fetchall() == [(datetime(2026, 1, 12), 1, 1)]


def test_nobody_counts_in_events_alone(con: Any) -> None:
    """An event without a user, and one of nobody."""
    events = relation(con, [Row("A", at("10:00"), user) for user in ("u", "u", "", None)])
    assert segmentation(events).fetchall() == [(datetime(2026, 1, 5), 4, 1)]


def test_the_user_is_the_person_where_there_is_one(con: Any) -> None:
    """Else the distinct_id."""
    rows = [Row("A", at("10:00"), user) for user in ("u", "v")]
    assert segmentation(relation(con, rows, ", 'p' AS person")).fetchall()[0][1:] == (2, 1)
    assert segmentation(relation(con, rows, ", 'p' AS person"), user="distinct_id").fetchall()[0][1:] == (2, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"measure": "sum"}, r"measure must be 'events', 'users', .* or 'p90\(amount\)', not 'sum'"),
        ({"measure": "p0(amount)"}, "measure must be"),
        ({"measure": "sum(amuont)"}, "no column 'amuont'; did you mean 'amount'"),
        ({"measure": "wau", "unit": "week"}, "active users are counted by day"),
        ({"top": 0}, "top must be a whole number from 1"),
        ({"rolling": 0}, "rolling must be a whole number"),
        ({"compare": 7}, "compare must be 'day', 'week', 'month', 'quarter' or 'year', not 7"),
        ({"by": ["plan"] * 7}, "by must be a column, .*, or a list of up to 6"),
        ({"zone": "Mars"}, "there is no time zone 'Mars'"),
    ],
)
def test_what_segmentation_refuses(con: Any, options: dict[str, Any], message: str) -> None:
    """With what it takes instead."""
    with pytest.raises(mpnb.PlanError, match=message):
        segmentation(days_of(con, [1]), "A", **options)
