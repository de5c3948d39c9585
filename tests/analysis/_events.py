"""Events for reports: made at random, and as a relation."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, NamedTuple

import duckdb
from hypothesis import strategies as st

EPOCH = datetime(2026, 1, 28)  # four days before the end of a month and of a week


class Row(NamedTuple):
    """An event."""

    name: str
    time: datetime
    user: str | None
    amount: int | None = None
    plan: str | None = None


# Few names, few users and few seconds, so that ties, repetitions and gaps are common.
rows_of = st.lists(
    st.builds(
        Row,
        st.sampled_from("ABC"),
        st.one_of(st.integers(0, 6), st.integers(0, 90).map(lambda n: n * 600), st.integers(0, 20 * 86400)).map(
            lambda s: EPOCH + timedelta(seconds=s)
        ),
        st.sampled_from(["u", "v", "w", "", None]),
        st.integers(0, 2),
        st.sampled_from(["x", "y", None]),
    ),
    max_size=25,
)
a_step = st.one_of(st.sampled_from("ABC"), st.tuples(st.sampled_from("ABC"), st.sampled_from(["amount > 0"])))


def relation(con: Any, rows: list[Row], more: str = "") -> duckdb.DuckDBPyRelation:
    """Return a relation of events, with columns of names that the queries use themselves."""
    values = [
        f"({row.name!r}, TIMESTAMP '{row.time}', {row.user!r}, {row.amount!r}, {row.plan!r})".replace("None", "NULL")
        for row in rows
    ]
    made: duckdb.DuckDBPyRelation = con.sql(
        "SELECT event_name::VARCHAR AS event_name, time::TIMESTAMP AS time, distinct_id::VARCHAR AS distinct_id,"
        " amount::INTEGER AS amount, plan::VARCHAR AS plan, 1 AS step, 1 AS period, 1 AS t1, 1 AS born, 1 AS segment"
        f"{more} FROM (VALUES {', '.join([*values, '(NULL, NULL, NULL, NULL, NULL)'])})"
        " AS v(event_name, time, distinct_id, amount, plan) WHERE event_name IS NOT NULL"
    )
    return made


def at(clock: str, day: int = 5) -> datetime:
    """Return a time of a day in January 2026, as ``"13:45"``."""
    return datetime(2026, 1, day) + timedelta(
        hours=int(clock[:2]), minutes=int(clock[3:5]), seconds=int(clock[6:] or 0)
    )


def fits(row: Row, step: Any) -> bool:
    """Say whether an event is of a step."""
    return row.name == step if isinstance(step, str) else row.name == step[0] and (row.amount or 0) > 0


def name_of(step: Any) -> str:
    """Return the event's name of a step."""
    return step if isinstance(step, str) else step[0]


def by_user(rows: list[Row]) -> dict[str, list[Row]]:
    """Return the events of each user, in order of time."""
    found: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda each: each.time):
        if row.user:
            found.setdefault(row.user, []).append(row)
    return found


def sessions_of(mine: list[Row], pause: timedelta = timedelta(minutes=30), midnight: bool = True) -> list[list[Row]]:
    """Return the sessions of somebody whose events are in order, in days of UTC."""
    found: list[list[Row]] = []
    for row in mine:
        before = found[-1][-1].time if found else None
        if before is None or row.time - before >= pause or (midnight and row.time.date() != before.date()):
            found.append([])
        found[-1].append(row)
    return found
