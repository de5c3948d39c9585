"""Flows, lifecycle, first touch and features, each against a slow implementation of its definition."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mpnb
from mpnb.analysis import features, first_touch, flows, lifecycle
from tests.analysis._events import Row, a_step, at, by_user, fits, relation, rows_of
from tests.analysis.test_retention import following, trunc

# --- flows -----------------------------------------------------------------------------------------------------------


def paths_of(rows: list[Row], start: Any, steps: int, direction: str, hide: Any, expand: bool) -> list[tuple[str, Any]]:
    """Return the path of each entry, with whose it is."""

    def label(row: Row) -> str:
        return f"A: {row.plan}" if expand and row.name == "A" and row.plan is not None else row.name

    found = []
    for user, mine in by_user(rows).items():
        seen = sorted(
            (row for row in mine if fits(row, start) or row.name != hide), key=lambda row: (row.time, label(row))
        )
        seen = seen if direction == "after" else seen[::-1]
        for place, row in enumerate(seen):
            if fits(row, start):
                found.append((user, [label(each) for each in seen[place : place + steps + 1]]))
    return found


@pytest.mark.filterwarnings("ignore:events has no")
@given(
    rows_of,
    st.sampled_from("ABC"),
    st.integers(1, 3),
    st.sampled_from(["after", "before"]),
    st.sampled_from([None, "B"]),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=50, deadline=None)
def test_flows_are_what_came_next(
    con: Any, rows: list[Row], start: str, steps: int, direction: str, hide: Any, expand: bool, paths: bool
) -> None:
    """Each entry's steps, as links or as whole paths, with users and entries."""
    found = flows(
        relation(con, rows), start, steps, direction, hide=hide, expand={"A": "plan"} if expand else None, paths=paths
    ).fetchall()
    entries = paths_of(rows, start, steps, direction, hide, expand)
    users: dict[Any, set[str]] = defaultdict(set)
    counts: Counter[Any] = Counter()
    for user, path in entries:
        full = [*path, *[None] * (steps + 1 - len(path))]
        links = [(n + 1, full[n], full[n + 1]) for n in range(steps) if full[n] is not None]
        for key in [tuple(path)] if paths else links:
            users[key].add(user)
            counts[key] += 1
    everyone = len({user for user, _ in entries})
    got = {(tuple(row[0]) if paths else row[:3]): row[-3:] for row in found}
    assert len(got) == len(found)
    assert got == {key: (len(users[key]), counts[key], len(users[key]) / everyone) for key in counts}
    order = [(row[0] if not paths else 0, -row[-3]) for row in found]
    assert order == sorted(order)


def test_the_rest_of_a_step_is_one(con: Any) -> None:
    """As the end of a link, and as the beginning of the next."""
    rows = [
        Row(name, at(f"10:0{n}"), user)
        for user, done in (("u", "AXB"), ("v", "AXC"), ("w", "AYB"))
        for n, name in enumerate(done)
    ]
    found = flows(relation(con, rows), "A", 2, top=1).project("step, event_name, next_event, users").fetchall()
    assert found == [
        (1, "A", "X", 2),
        (1, "A", "$other", 1),
        (2, "$other", "B", 1),
        (2, "X", "$other", 1),
        (2, "X", "B", 1),
    ]


def test_totals_of_flows_are_entries(con: Any) -> None:
    """Who does it twice counts twice."""
    rows = [Row(name, at(f"10:0{n}"), "u") for n, name in enumerate("ABAC")]
    for counting, share in (("uniques", 1.0), ("totals", 0.5)):
        found = flows(relation(con, rows), "A", 1, counting=counting).project("next_event, share").fetchall()
        assert found == [("B", share), ("C", share)]


# --- lifecycle -------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:events has no")
@given(rows_of, st.none() | a_step, st.sampled_from(["day", "week", "month", "quarter"]))
@settings(max_examples=40, deadline=None)
def test_everybody_is_new_retained_returning_or_dormant(con: Any, rows: list[Row], event: Any, unit: str) -> None:
    """In each period, by when they were active before."""
    active: dict[str, set[datetime]] = defaultdict(set)
    for row in rows:
        if row.user and (event is None or fits(row, event)):
            active[row.user].add(trunc(row.time, unit))
    wanted = []
    if active:
        period, last = min(min(each) for each in active.values()), max(max(each) for each in active.values())
        before: datetime | None = None
        while period <= last:
            now = [each for each in active.values() if period in each]
            new = sum(min(each) == period for each in now)
            retained = sum(before in each for each in now)
            dormant = sum(before in each and period not in each for each in active.values())
            wanted.append((period, new, retained, len(now) - new - retained, dormant))
            before, period = period, following(period, unit)
    assert lifecycle(relation(con, rows), unit, event=event).fetchall() == wanted


# --- one row a person ------------------------------------------------------------------------------------------------


@given(rows_of)
@settings(max_examples=40, deadline=None)
def test_the_first_touch_is_the_first_value(con: Any, rows: list[Row]) -> None:
    """Of the events that have the property."""
    wanted = []
    for user, mine in sorted(by_user(rows).items()):
        if having := [row for row in mine if row.plan is not None]:
            first = min(having, key=lambda row: (row.time, row.plan, row.name))
            wanted.append((user, first.plan, first.time, first.name))
    assert first_touch(relation(con, rows), "plan").fetchall() == wanted


def test_the_first_touch_has_the_type_of_the_property(con: Any) -> None:
    """And is of the event that is named."""
    rows = [Row("A", at("10:00"), "u", 1), Row("B", at("10:01"), "u", 2), Row("B", at("10:02"), "u", 3)]
    assert first_touch(relation(con, rows), "amount", event="B").project("person, value").fetchall() == [("u", 2)]


@given(rows_of, st.integers(0, 20 * 24))
@settings(max_examples=40, deadline=None)
def test_features_know_nothing_of_what_comes_after(con: Any, rows: list[Row], hours: int) -> None:
    """Those of all events are those of the events before the moment."""
    as_of = datetime(2026, 1, 28) + timedelta(hours=hours)
    wanted = []
    for user, mine in sorted(by_user([row for row in rows if row.time < as_of]).items()):
        plans = [row.plan for row in sorted(mine, key=lambda row: (row.time, row.plan or "")) if row.plan is not None]
        wanted.append(
            (
                user,
                len(mine),
                (as_of - mine[0].time) / timedelta(days=1),
                (as_of - mine[-1].time) / timedelta(days=1),
                len({row.time.date() for row in mine}),
                sum(row.name == "A" for row in mine),
                sum(row.name == "B" and (row.amount or 0) > 0 for row in mine),
                float(sum(row.amount or 0 for row in mine)),
                plans[-1] if plans else None,
            )
        )
    events = relation(con, [*rows, Row("A", datetime(2027, 1, 1), "z"), Row("B", datetime(2027, 1, 1), "z")])
    asked = features(events, as_of, counts=["A", ("B", "amount > 0")], sums=["amount"], last=["plan"])
    assert asked.columns[-4:] == ["count A", "count B", "sum amount", "last plan"]
    assert asked.fetchall() == wanted


def test_a_moment_is_a_day_or_a_datetime(con: Any) -> None:
    """In UTC; a name that comes twice gets a number."""
    events = relation(con, [Row("A", at("10:00"), "u", 1)])
    moments = ["2026-01-06", date(2026, 1, 6), datetime(2026, 1, 6), datetime(2026, 1, 6, tzinfo=UTC)]
    for as_of in moments:
        assert features(events, as_of).project("days_since_first").fetchall() == [(14 / 24,)]
    assert features(events, "2026-01-05 10:00").fetchall() == []
    twice = features(events, "2026-01-06", counts=["A", ("A", "amount > 1")])
    assert twice.project('"count A", "count A_2"').fetchall() == [(1, 0)]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e: flows(e, "A", 0), "steps must be a whole number from 1 to 20"),
        (lambda e: flows(e, "A", direction="up"), "direction must be 'after' or 'before', not 'up'"),
        (lambda e: flows(e, "A", expand="plan"), "expand must be a mapping"),
        (lambda e: lifecycle(e, "hour"), "unit must be 'day', 'week', 'month' or 'quarter', not 'hour'"),
        (lambda e: first_touch(e, "plam"), "no column 'plam'; did you mean 'plan'"),
        (lambda e: features(e, "tomorrow"), "as_of must be a datetime or a day, not 'tomorrow'"),
        (lambda e: features(e, "2026-13-01"), "as_of must be a datetime or a day"),
        (lambda e: features(e, "2026-01-01", sums=["amuont"]), "no column 'amuont'; did you mean 'amount'"),
    ],
)
def test_what_they_refuse(con: Any, call: Any, message: str) -> None:
    """With what they take instead."""
    with pytest.raises(mpnb.PlanError, match=message):
        call(relation(con, [Row("A", at("10:00"), "u", 1)]))
