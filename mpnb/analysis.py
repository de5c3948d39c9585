"""
Funnels, retention and segmentation in SQL, over any relation of events.

    events = result.event(["Sign Up", "Purchase"], deduplicated=True)
    mpnb.analysis.funnel(events, ["Sign Up", "Purchase"], timedelta(days=7))

``events`` is a relation with the columns ``event_name``, ``time`` and ``distinct_id``: ``result.events``,
``result.deduplicated()`` or ``result.event([…])``, filtered as needed. What is given back is a relation, too: it runs
at each read, and ``.df()`` of it draws a chart. Rows whose user is null or empty belong to nobody, and are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from duckdb import DuckDBPyRelation

from mpnb._errors import PlanError
from mpnb._properties import literal
from mpnb._store import quoted

UNITS = ("hour", "day", "week", "month")

# An event by name, or by name and a condition in SQL on its columns.
Step = str | tuple[str, str]


def funnel(
    events: DuckDBPyRelation, steps: Sequence[Step], window: timedelta, *, user: str = "distinct_id"
) -> DuckDBPyRelation:
    """
    Count the users who went through some steps in order.

    A user reaches a step if, from some event of the first step, each further one follows its predecessor, at the same
    second or later, and within ``window`` of the first. A step that names the same event as one before it needs a later
    one, so that no event counts twice.

    Args:
        steps: two or more: names of events, or ``(name, condition)``, such as ``("Purchase", "amount > 10")``.
        window: from the first step to the last, both ends included; more than 0.
        user: the column to count by.

    Returns:
        One row a step: ``step`` (from 1), ``event_name``, ``users``, ``of_first`` and ``of_previous`` (shares, null
        where there is nobody to share), ``median_seconds`` (from the first step, of users by the first of their ways
        that got as far as any).

    Raises:
        PlanError: there are fewer than two steps, the window is not positive, or a column is missing.
    """
    _check(events, user)
    if isinstance(steps, str) or len(steps) < 2:
        raise PlanError("a funnel has two steps or more")
    if window <= timedelta(0):
        raise PlanError(f"window is more than 0, not {window}")
    pairs = [_pair(step) for step in steps]
    microseconds = window // timedelta(microseconds=1)
    queries = [
        f"step_{number} AS (SELECT DISTINCT mpnb_person AS person, time FROM ({_people(user)})"
        f" WHERE event_name = {literal(name)} AND ({condition}))"
        for number, (name, condition) in enumerate(pairs, 1)
    ]
    queries.append("way_1 AS (SELECT person, time AS t1 FROM step_1)")
    for number in range(2, len(pairs) + 1):
        least = f"t{number - 1}"
        if before := [k for k in range(1, number) if pairs[k - 1][0] == pairs[number - 1][0]]:
            least = f"greatest({least}, t{before[-1]} + INTERVAL 1 MICROSECOND)"
        # The earliest event that fits leaves the most room for the next step, so that one join for each is enough.
        queries.append(
            f"way_{number} AS (SELECT way.* EXCLUDE (least),"
            f" CASE WHEN s.time <= t1 + to_microseconds({microseconds}) THEN s.time END AS t{number}"
            f" FROM (SELECT *, CASE WHEN t{number - 1} IS NOT NULL THEN {least} END AS least"
            f" FROM way_{number - 1}) AS way"
            f" ASOF LEFT JOIN step_{number} AS s ON way.person = s.person AND way.least <= s.time)"
        )
    times = [f"t{number}" for number in range(1, len(pairs) + 1)]
    queries.append(
        f"best AS (SELECT * FROM way_{len(pairs)} QUALIFY row_number() OVER ("
        f"PARTITION BY person ORDER BY {' + '.join(f'({time} IS NOT NULL)::INTEGER' for time in times)} DESC, t1) = 1)"
    )
    counts = " UNION ALL ".join(
        f"SELECT {number} AS step, {literal(name)} AS event_name, count(t{number}) AS users,"
        f" median(epoch(t{number} - t1))::DOUBLE AS median_seconds FROM best"
        for number, (name, _) in enumerate(pairs, 1)
    )
    return _query(
        events,
        f"WITH {', '.join(queries)} SELECT step, event_name, users,"
        " users / nullif(first_value(users) OVER (ORDER BY step), 0) AS of_first,"
        " users / nullif(lag(users) OVER (ORDER BY step), 0) AS of_previous,"
        f" median_seconds FROM ({counts}) ORDER BY step",
    )


def retention(
    events: DuckDBPyRelation, first: Step, again: Step, *, unit: str = "week", user: str = "distinct_id"
) -> DuckDBPyRelation:
    """
    Count, by when users did something for the first time, how many did something again later.

    Users belong to the cohort of the calendar ``unit`` of their ``first`` event in ``events``. They are retained in
    period *n* if they did ``again`` *n* units later by the calendar, and not before that first event; after it, where
    both are the same event. Weeks begin on Monday.

    Args:
        first, again: names of events, or ``(name, condition)``.
        unit: ``"hour"``, ``"day"``, ``"week"`` or ``"month"``, of ``time``.
        user: the column to count by.

    Returns:
        One row a cohort and period up to the last event of all: ``cohort`` (TIMESTAMP, when it begins), ``size``,
        ``period`` (from 0), ``users``, ``share``.

    Raises:
        PlanError: the unit is another, or a column is missing.
    """
    _check(events, user)
    _check_unit(unit)
    (first_name, first_if), (again_name, again_if) = _pair(first), _pair(again)
    later = ">" if first_name == again_name else ">="
    return _query(
        events,
        f"""WITH births AS (SELECT mpnb_person AS person, min(time) AS born, date_trunc('{unit}', min(time)) AS cohort
            FROM ({_people(user)}) WHERE event_name = {literal(first_name)} AND ({first_if}) GROUP BY ALL),
        returns AS (SELECT cohort, date_diff('{unit}', cohort, time) AS period, count(DISTINCT births.person) AS users
            FROM births JOIN (SELECT mpnb_person AS person, time FROM ({_people(user)})
                WHERE event_name = {literal(again_name)} AND ({again_if})) AS again
            ON births.person = again.person AND again.time {later} born GROUP BY ALL),
        periods AS (SELECT cohort, size, unnest(range(date_diff('{unit}', cohort, last) + 1)) AS period
            FROM (SELECT cohort, count(*) AS size FROM births GROUP BY cohort),
                 (SELECT max(time) AS last FROM mpnb_events))
        SELECT cohort, size, period, coalesce(users, 0) AS users, coalesce(users, 0) / size AS share
        FROM periods LEFT JOIN returns USING (cohort, period) ORDER BY cohort, period""",
    )


def segmentation(
    events: DuckDBPyRelation,
    event: Step | None = None,
    *,
    by: str | None = None,
    unit: str = "day",
    user: str = "distinct_id",
) -> DuckDBPyRelation:
    """
    Count events and users over time, by the values of a column.

    Args:
        event: the name of an event, or ``(name, condition)``; all events if not given.
        by: a column, or an expression of SQL, to split by; null is a segment like any other.
        unit: ``"hour"``, ``"day"``, ``"week"`` or ``"month"``, of ``time``.
        user: the column to count users by. Events of nobody count as events, not as users.

    Returns:
        One row a unit from the first event to the last, and segment: ``period`` (TIMESTAMP, when it begins),
        ``segment`` (only with ``by``), ``events``, ``users``; zeros where there were none.

    Raises:
        PlanError: the unit is another, or a column is missing.
    """
    _check(events, user)
    _check_unit(unit)
    name, condition = _pair(event) if event is not None else (None, "true")
    named = "" if name is None else f" AND event_name = {literal(name)}"
    segment = "NULL" if by is None else quoted(by) if by in events.columns else by
    shown = "" if by is None else "cells.segment, "
    return _query(
        events,
        f"""WITH chosen AS (SELECT date_trunc('{unit}', time) AS period, {segment} AS segment,
                nullif(CAST({quoted(user)} AS VARCHAR), '') AS person
            FROM mpnb_events WHERE time IS NOT NULL AND ({condition}){named}),
        counted AS (SELECT period, segment, count(*) AS events, count(DISTINCT person) AS users
            FROM chosen GROUP BY ALL),
        cells AS (SELECT period, segment FROM
            (SELECT unnest(generate_series(min(period), max(period), INTERVAL 1 {unit})) AS period FROM chosen),
            (SELECT DISTINCT segment FROM chosen))
        SELECT cells.period, {shown}coalesce(events, 0) AS events, coalesce(users, 0) AS users
        FROM cells LEFT JOIN counted
            ON counted.period = cells.period AND counted.segment IS NOT DISTINCT FROM cells.segment
        ORDER BY cells.period, coalesce(events, 0) DESC, cells.segment""",
    )


def _query(events: DuckDBPyRelation, query: str) -> DuckDBPyRelation:
    relation = events.query("mpnb_events", query)
    assert relation is not None  # as it is for statements that give no rows
    return relation


def _pair(step: Step) -> tuple[str, str]:
    return (step, "true") if isinstance(step, str) else step


def _people(user: str) -> str:
    person = f"nullif(CAST({quoted(user)} AS VARCHAR), '')"
    return f"SELECT *, {person} AS mpnb_person FROM mpnb_events WHERE {person} IS NOT NULL AND time IS NOT NULL"


def _check(events: DuckDBPyRelation, user: str) -> None:
    for name in ("event_name", "time", user):
        if name not in events.columns:
            raise PlanError(
                f"events has no column {name!r}: result.events, result.deduplicated() and result.event([…]),"
                " with a list of names, have one"
            )


def _check_unit(unit: str) -> None:
    if unit not in UNITS:
        raise PlanError(f"unit is one of {', '.join(map(repr, UNITS))}, not {unit!r}")
