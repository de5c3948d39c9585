"""Sessions against a slow implementation of Mixpanel's rules, and against the examples in its documentation."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mpnb
from mpnb.analysis import sessions
from tests.analysis._events import Row, at, by_user, relation, rows_of, sessions_of


@given(rows_of, st.sampled_from([1, 5, 600, 1800]), st.booleans())
@settings(max_examples=50, deadline=None)
def test_sessions_are_as_the_rules_say(con: Any, rows: list[Row], pause: int, midnight: bool) -> None:
    """A row a session, with its ends, its length, its events."""
    wanted = []
    for user, mine in sorted(by_user(rows).items()):
        for number, session in enumerate(sessions_of(mine, timedelta(seconds=pause), midnight), 1):
            first, last = session[0].time, session[-1].time
            names = [min(row.name for row in session if row.time == end) for end in (first, last)]
            wanted.append((user, number, first, last, (last - first).total_seconds(), len(session), *names))
    assert sessions(relation(con, rows), timedelta(seconds=pause), midnight).fetchall() == wanted


def lengths(con: Any, *given: str, zone: str | None = None) -> list[float]:
    """Return the minutes of the sessions of somebody with events at some times, which may have a day before them."""
    rows = [Row("A", at(clock[-5:], int(clock[:-6] or 5)), "u") for clock in given]
    return [row[4] / 60 for row in sessions(relation(con, rows), zone=zone).fetchall()]


def test_a_pause_of_thirty_minutes_ends_a_session(con: Any) -> None:
    """13:00, 13:10, then 13:50, 14:10, 14:25: 10 and 35 minutes."""
    assert lengths(con, "13:00", "13:10", "13:50", "14:10", "14:25") == [10, 35]


def test_midnight_ends_a_session(con: Any) -> None:
    """23:30, 23:50, 00:05, 00:10: 20 and 5 minutes; it is midnight of the zone."""
    assert lengths(con, "5 23:30", "5 23:50", "6 00:05", "6 00:10") == [20, 5]
    assert lengths(con, "5 23:30", "5 23:50", "6 00:05", "6 00:10", zone="Europe/Berlin") == [40]
    assert lengths(con, "5 22:50", "5 23:05", zone="Europe/Berlin") == [0, 0]


def test_what_sessions_refuse(con: Any) -> None:
    """With what they take instead."""
    events = relation(con, [Row("A", datetime(2026, 1, 5), "u")])
    with pytest.raises(mpnb.PlanError, match=r"timeout must be a timedelta, such as timedelta\(minutes=30\), not 30"):
        sessions(events, 30)  # type: ignore[arg-type]
    with pytest.raises(mpnb.PlanError, match="timeout must be more than 0"):
        sessions(events, timedelta(0))
    with pytest.raises(mpnb.PlanError, match="reset_at_midnight must be True or False"):
        sessions(events, reset_at_midnight="no")  # type: ignore[arg-type]
