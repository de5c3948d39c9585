"""Retention against a slow implementation of Mixpanel's rules, and against the examples in its documentation."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mpnb
from mpnb.analysis import retention
from tests.analysis._events import Row, a_step, at, by_user, fits, name_of, relation, rows_of

LENGTHS = {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(days=7), "month": timedelta(days=30)}


def trunc(time: datetime, unit: str) -> datetime:
    """Return the beginning of the calendar unit that a time is in."""
    if unit == "hour":
        return time.replace(minute=0, second=0, microsecond=0)
    day = time.replace(hour=0, minute=0, second=0, microsecond=0)
    return {
        "day": day,
        "week": day - timedelta(days=day.weekday()),
        "month": day.replace(day=1),
        "quarter": day.replace(day=1, month=(day.month - 1) // 3 * 3 + 1),
    }[unit]


def following(begin: datetime, unit: str, count: int = 1) -> datetime:
    """Return the beginning of a later calendar unit."""
    for _ in range(count):
        # 32 days are more than a month and less than two; 95 the same for quarters.
        step = {"month": timedelta(days=32), "quarter": timedelta(days=95)}.get(unit)
        begin = trunc(begin + (step or LENGTHS[unit]), unit)
    return begin


def expected(
    rows: list[Row],
    born: Any,
    returned: Any,
    unit: str,
    mode: str,
    alignment: str,
    brackets: Any,
    split: bool,
    value: bool,
) -> dict[Any, Any]:
    """Return size, users, completeness and value by segment, cohort and first period, and the averages."""
    if not rows:
        return {}
    usable = [row for row in rows if row.user]
    last = trunc(max(row.time for row in rows), "day") + timedelta(days=1)
    births: dict[Any, dict[str, datetime]] = {}
    for user, mine in by_user(usable).items():
        for row in mine:
            if fits(row, born):
                births.setdefault((row.plan if split else None, trunc(row.time, unit)), {}).setdefault(user, row.time)
    found: dict[Any, Any] = {}
    for (segment, cohort), members in births.items():

        def begin(birth: datetime, period: int, cohort: datetime = cohort) -> datetime:
            return birth + LENGTHS[unit] * period if alignment == "rolling" else following(cohort, unit, period)

        periods = [n for n in range(600) if begin(min(members.values()), n) < last] if alignment == "rolling" else []
        if alignment == "calendar":
            while following(cohort, unit, len(periods)) < last:
                periods.append(len(periods))
        for first, final in brackets or [(n, n) for n in periods]:
            if first not in periods:
                continue
            users, total = 0, 0
            for user, birth in members.items():
                back = [
                    row
                    for row in usable
                    if row.user == user
                    and (returned is None or fits(row, returned))
                    and (row.time > birth or (row.time == birth and row.name != name_of(born)))
                    and row.time >= begin(birth, first)
                    and (mode == "on or after" or row.time < begin(birth, final + 1))
                ]
                users += bool(back)
                total += sum(row.amount or 0 for row in back)
            ended = all(begin(birth, final + 1) <= last for birth in members.values())
            ended = ended and following(cohort, unit) <= last
            average = (total / users if users else None) if value else None
            found[segment, cohort, first] = (len(members), users, ended, average)
    for segment, first in {(segment, first) for segment, _, first in found}:
        cells = [cell for key, cell in found.items() if (key[0], key[2]) == (segment, first) and cell[2]]
        if cells:
            size = sum(cell[0] for cell in cells)
            weights = [cell[0] / size for cell in cells]
            retained = sum(cell[1] * w for cell, w in zip(cells, weights, strict=True))
            share = retained / sum(cell[0] * w for cell, w in zip(cells, weights, strict=True))
            valued = [cell for cell in cells if cell[3] is not None]
            mean = sum(cell[3] * cell[0] for cell in valued) / sum(cell[0] for cell in valued) if valued else None
            found[segment, None, first] = (size, sum(cell[1] for cell in cells), True, mean, share)
    return found


@pytest.mark.filterwarnings("ignore:events has no")
@given(
    rows_of,
    a_step,
    st.none() | a_step,
    st.sampled_from(["day", "week", "month"]),
    st.sampled_from(["on or after", "on"]),
    st.sampled_from(["rolling", "calendar"]),
    st.sampled_from([None, None, [(0, 0), (1, 3), (5, 9)]]),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_retention_counts_as_the_rules_say(
    con: Any,
    rows: list[Row],
    born: Any,
    returned: Any,
    unit: str,
    mode: str,
    alignment: str,
    brackets: Any,
    split: bool,
    value: bool,
) -> None:
    """Every mode with every other: cohorts, periods, zeros, what is complete, and the average."""
    found = retention(
        relation(con, rows),
        born,
        returned,
        unit=unit,
        mode=mode,
        alignment=alignment,
        brackets=brackets,
        by="plan" if split else None,
        measure="average(amount)" if value else "users",
    )
    columns = [each for each in found.columns if each not in ("segment", "last_period")]
    assert columns == ["cohort", "size", "period", "users", "share", "complete", *(["value"] if value else [])]
    wanted = expected(rows, born, returned, unit, mode, alignment, brackets, split, value)
    got = {}
    for row in found.project(", ".join(['"segment"' if split else "NULL", *columns])).fetchall():
        segment, cohort, size, period, users, share, complete, *rest = row
        key = (segment, cohort, period)
        assert key not in got
        mean = None if not rest or rest[0] is None else pytest.approx(rest[0])
        got[key] = (size, users, complete, mean, *([pytest.approx(share)] if cohort is None else []))
        assert cohort is None or share == users / size
    assert got == wanted


def of(con: Any, *given: tuple[str, datetime, str]) -> Any:
    """Return a relation of events, each a name, a time and a user."""
    return relation(con, [Row(name, time, user, 1) for name, time, user in given])


def test_rolling_periods_begin_with_the_own_birth(con: Any) -> None:
    """Day 1 is 24 to 48 hours, week 1 is 7 to 14 days, month 1 is 30 to 60 days, to the second."""
    birth = datetime(2026, 1, 5, 20, 0)
    for unit, days in (("day", 1), ("week", 7), ("month", 30)):
        for seconds, period in (
            (days * 86400 - 1, 0),
            (days * 86400, 1),
            (2 * days * 86400 - 1, 1),
            (2 * days * 86400, 2),
        ):
            events = of(con, ("A", birth, "u"), ("B", birth + timedelta(seconds=seconds), "u"))
            found = retention(events, "A", "B", unit=unit, mode="on").filter("users > 0 AND cohort IS NOT NULL")
            assert found.project("period").fetchall() == [(period,)]


def test_calendar_periods_are_those_of_the_calendar(con: Any) -> None:
    """From Monday 20:00 to Tuesday 06:00 is day 1, from Friday to Monday week 1, from 25 Feb. to 3 March month 1."""
    for unit, first, second in (
        ("day", datetime(2026, 1, 5, 20), datetime(2026, 1, 6, 6)),
        ("week", datetime(2026, 1, 9), datetime(2026, 1, 12)),
        ("month", datetime(2026, 2, 25), datetime(2026, 3, 3)),
    ):
        events = of(con, ("A", first, "u"), ("B", second, "u"))
        for alignment, period in (("calendar", 1), ("rolling", 0)):
            found = retention(events, "A", "B", unit=unit, mode="on", alignment=alignment)
            assert found.filter("users > 0 AND cohort IS NOT NULL").project("period").fetchall() == [(period,)]


def test_the_default_is_on_or_after_by_day(con: Any) -> None:
    """Who comes back on day 3 alone is retained on days 0 to 3."""
    birth = datetime(2026, 1, 5, 20, 0)
    events = of(con, ("A", birth, "u"), ("B", birth + timedelta(days=3), "u"), ("C", birth + timedelta(days=5), "v"))
    found = retention(events, "A", "B").filter("cohort IS NOT NULL").project("period, users").fetchall()
    assert found == [(0, 1), (1, 1), (2, 1), (3, 1), (4, 0), (5, 0)]


def test_a_user_is_in_several_cohorts_once_each(con: Any) -> None:
    """Who buys each week is in every cohort, whose clock starts with the first purchase in it."""
    monday = datetime(2026, 1, 5)
    events = of(con, *(("A", monday + timedelta(days=7 * week + day), "u") for week in range(3) for day in (0, 2)))
    found = retention(events, "A", "A", unit="week", mode="on").filter("cohort IS NOT NULL")
    assert found.project("cohort, size, period, users").fetchall() == [
        (monday, 1, 0, 1),
        (monday, 1, 1, 1),
        (monday, 1, 2, 1),
        (monday + timedelta(days=7), 1, 0, 1),
        (monday + timedelta(days=7), 1, 1, 1),
        (monday + timedelta(days=14), 1, 0, 1),
    ]


def test_the_average_is_that_of_mixpanel_s_example(con: Any) -> None:
    """1,000 users with 500 retained, 500 with 400, and 700 that are incomplete: 56 %, weighted twice by size."""
    march = datetime(2026, 3, 1, 12)
    births = ", ".join(f"({day}, {size}, {back})" for day, size, back in ((0, 1000, 500), (1, 500, 400), (2, 700, 10)))
    events = con.sql(
        f"SELECT unnest(['A', 'B'][:1 + (u < back)::INTEGER]) AS event_name, day || '-' || u AS distinct_id,"
        f" TIMESTAMP '{march}' + to_days(day) + to_hours(CASE WHEN event_name = 'B' THEN 25 ELSE 0 END)"
        f" AS time FROM (SELECT *, unnest(range(size)) AS u FROM (VALUES {births}) AS v(day, size, back))"
    )
    found = retention(events, "A", "B", mode="on").filter("period = 1").project("cohort, size, users, complete, share")
    *_, third, average = found.fetchall()
    assert third[1:4] == (700, 10, False)
    assert average[:4] == (None, 1500, 900, True)
    assert average[4] == pytest.approx((500 * 1000 + 400 * 500) / (1000**2 + 500**2))
    assert round(average[4], 2) == 0.56


def test_brackets_count_anywhere_in_them(con: Any) -> None:
    """Day 15 and day 30 are both in the bracket of days 15 to 30, and not in the one before."""
    birth = datetime(2026, 1, 5, 20, 0)
    rows = [("A", birth, user) for user in "uvw"] + [("A", birth + timedelta(days=60), "x")]
    rows += [("B", birth + timedelta(days=days), user) for user, days in (("u", 15), ("v", 30), ("w", 31))]
    found = retention(of(con, *rows), "A", "B", brackets=[(0, 0), (1, 14), (15, 30)]).limit(3)
    assert found.project("period, last_period, users, complete").fetchall() == [
        (0, 0, 0, True),
        (1, 14, 0, True),
        (15, 30, 2, True),
    ]


def test_a_sum_is_of_the_period_or_of_it_and_later(con: Any) -> None:
    """As the mode says."""
    birth = datetime(2026, 1, 5)
    rows = [
        Row("A", birth, "u", 100),
        *(Row("B", birth + timedelta(days=day, hours=1), "u", day + 1) for day in range(3)),
    ]
    for mode, values in (("on", [1.0, 2.0, 3.0]), ("on or after", [6.0, 5.0, 3.0])):
        found = retention(relation(con, rows), "A", "B", mode=mode, measure="sum(amount)").filter("cohort IS NOT NULL")
        assert [row[0] for row in found.project("value").fetchall()] == values


def test_segments_beyond_the_most_frequent_are_one(con: Any) -> None:
    """Whose users count once each."""
    rows = [Row("A", at("10:00"), user, 1, plan) for user, plan in [("u", "x"), ("v", "x"), ("w", "y"), ("w", "z")]]
    rows.append(Row("B", at("11:00"), "w", 1, "x"))
    found = retention(relation(con, rows), "A", "B", by="plan", top=1).filter("cohort IS NOT NULL")
    assert found.project("segment, size, users").fetchall() == [("x", 2, 0), ("$other", 1, 1)]


def test_old_names_of_arguments_name_the_new(con: Any) -> None:
    """In one line."""
    events = of(con, ("A", at("10:00"), "u"), ("B", at("10:00"), "u"))
    with pytest.raises(TypeError, match=re.escape("retention() has no argument 'first' any more: it is 'born' now")):
        retention(events, first="A", again="B")
    with pytest.raises(
        TypeError, match=re.escape("retention() has no argument 'again' any more: it is 'returned' now")
    ):
        retention(events, "A", again="B")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unit": "year"}, "unit must be 'hour', 'day', 'week' or 'month', not 'year'"),
        ({"mode": "before"}, "mode must be 'on or after' or 'on', not 'before'"),
        ({"alignment": "fixed"}, "alignment must be 'rolling' or 'calendar', not 'fixed'"),
        ({"brackets": [1, 3]}, r"brackets must be a list of first and last periods, such as \[\(0, 0\), \(1, 3\)\]"),
        ({"brackets": [(0, 3), (3, 5)]}, "brackets must be a whole number"),
        ({"measure": "median(amount)"}, r"measure must be 'users', 'sum\(amount\)' or 'average\(amount\)', not"),
        ({"measure": "sum(amuont)"}, "no column 'amuont'; did you mean 'amount'"),
        ({"zone": "Mars"}, "there is no time zone 'Mars'"),
    ],
)
def test_what_retention_refuses(con: Any, options: dict[str, Any], message: str) -> None:
    """With what it takes instead."""
    with pytest.raises(mpnb.PlanError, match=message):
        retention(of(con, ("A", at("10:00"), "u")), "A", **options)
