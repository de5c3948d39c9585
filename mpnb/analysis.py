"""
Funnels, retention and segmentation in SQL, over any relation of events.

    events = result.event(["Sign Up", "Purchase"], deduplicated=True)
    mpnb.analysis.funnel(events, ["Sign Up", "Purchase"], timedelta(days=7))

``events`` is a relation with the columns ``event_name``, ``time`` and ``distinct_id``: ``result.events``,
``result.deduplicated()`` or ``result.event([…])``, filtered as needed. The functions return relations too, which run at
each read; their ``.df()`` can be plotted. Rows whose user is null or empty are left out.

An event name that does not occur in ``events`` counts as zero, with a warning that suggests the closest name. If
``events`` comes unchanged from a result and the name does not occur in the whole table either, it is an error, as for
``result.event()``.

Rows with an implausible ``time`` are left out: null, or more than a day outside the days of the result that ``events``
comes from; for any other relation, before 1970 or after 2099. ``result.check()`` counts them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from types import FrameType
from typing import Any

import duckdb
from duckdb import DuckDBPyRelation

from mpnb._base.names import closest
from mpnb._base.origin import origin_of
from mpnb._base.relation import called_with, variables_in
from mpnb._base.scalars import brief, either, is_text
from mpnb._base.sql import exact, interruptible, literal, quoted
from mpnb._base.text import safe_text
from mpnb._base.warn import warn
from mpnb._errors import PlanError
from mpnb._message import Argument

UNITS = ("hour", "day", "week", "month")

# An event by name, or by name and a condition in SQL on its columns.
Step = str | tuple[str, str]

# For a relation that the user made, from the first day to before the second: a time in milliseconds is far outside.
EVER = (date(1970, 1, 1), date(2100, 1, 1))
# The most that local time differs from UTC in any zone, for projects older than 2023.
SLACK = timedelta(days=1)
_NAME = exact("CAST(event_name AS VARCHAR)")
# Of raw events, looked through for names that are like one that is not there.
SAMPLE = 10_000


def funnel(
    events: DuckDBPyRelation, steps: Sequence[Step], window: timedelta, *, user: str = "distinct_id"
) -> DuckDBPyRelation:
    """
    Count the users who went through some steps in order.

    A user reaches a step if, starting at some event of the first step, each further step follows the one before, in the
    same second or later, and within ``window`` of the first. If two steps name the same event, the later step needs a
    later event, so that no event counts twice.

    Args:
        steps: two or more event names, or pairs ``(name, condition)`` such as ``("Purchase", "amount > 10")``.
        window: the longest time from the first step to the last, inclusive; more than 0.
        user: the column that identifies users.

    Returns:
        One row per step: ``step`` (from 1), ``event_name``, ``users``, ``of_first`` and ``of_previous`` (shares, null
        if there are no users to divide by), ``median_seconds`` (from the first step; of a user's attempts, the earliest
        that got furthest counts).

    Raises:
        PlanError: there are fewer than two steps, the window is not a ``timedelta`` above 0, a column is missing, the
            table has no event of a name, or a condition is not valid SQL.
    """
    _check_relation(events)
    pairs = [_pair(step) for step in steps] if isinstance(steps, Iterable) and not isinstance(steps, str) else []
    if len(pairs) < 2:
        raise PlanError("a funnel has two steps or more", argument="steps")
    microseconds = _microseconds(window)
    _check(events, user, [name for name, _ in pairs])
    people = _people(events, user)
    # Materialized: DuckDB 1.5 loses the left side of an ASOF LEFT JOIN whose right side is seen to be empty while it is
    # planned, as where the relation is of one event and the step of another.
    queries = [
        f"mpnb_step_{number} AS MATERIALIZED (SELECT DISTINCT mpnb_person AS person, time FROM ({people})"
        f" WHERE {_is(name)} AND ({condition}))"
        for number, (name, condition) in enumerate(pairs, 1)
    ]
    queries.append("mpnb_way_1 AS (SELECT person, time AS t1 FROM mpnb_step_1)")
    for number in range(2, len(pairs) + 1):
        least = f"t{number - 1}"
        if before := [k for k in range(1, number) if pairs[k - 1][0] == pairs[number - 1][0]]:
            least = f"greatest({least}, t{before[-1]} + INTERVAL 1 MICROSECOND)"
        # The earliest event that fits leaves the most room for the next step, so that one join for each is enough.
        # A missing step continues at 'infinity', which matches nothing; after NULL, DuckDB 1.5 matches beyond 64 rows.
        queries.append(
            f"mpnb_way_{number} AS (SELECT w.* EXCLUDE (least),"
            f" CASE WHEN s.time <= t1 + to_microseconds({microseconds}) THEN s.time END AS t{number}"
            f" FROM (SELECT *, CASE WHEN t{number - 1} IS NULL THEN TIMESTAMP 'infinity' ELSE {least} END AS least"
            f" FROM mpnb_way_{number - 1}) AS w"
            f" ASOF LEFT JOIN mpnb_step_{number} AS s ON w.person = s.person AND w.least <= s.time)"
        )
    times = [f"t{number}" for number in range(1, len(pairs) + 1)]
    queries.append(
        f"mpnb_best AS (SELECT * FROM mpnb_way_{len(pairs)} QUALIFY row_number() OVER (PARTITION BY person"
        f" ORDER BY {' + '.join(f'({time} IS NOT NULL)::INTEGER' for time in times)} DESC, t1 ASC) = 1)"
    )
    counts = " UNION ALL ".join(
        f"SELECT {number} AS step, {literal(name)} AS event_name, count(t{number}) AS users,"
        f" median(epoch(t{number} - t1))::DOUBLE AS median_seconds FROM mpnb_best"
        for number, (name, _) in enumerate(pairs, 1)
    )
    return _query(
        events,
        f"WITH {', '.join(queries)}"
        ' SELECT step AS "step", event_name AS "event_name", users AS "users",'
        ' users::DOUBLE / nullif(first_value(users) OVER (ORDER BY step ASC), 0) AS "of_first",'
        ' users::DOUBLE / nullif(lag(users) OVER (ORDER BY step ASC), 0) AS "of_previous",'
        f' median_seconds AS "median_seconds" FROM ({counts}) ORDER BY step ASC',
        sys._getframe(1),
    )


def retention(
    events: DuckDBPyRelation, first: Step, again: Step, *, unit: str = "week", user: str = "distinct_id"
) -> DuckDBPyRelation:
    """
    Count how many users came back, by the time of their first event.

    A user's cohort is the calendar ``unit`` of the user's earliest ``first`` event in ``events``. The user is retained
    in period *n* with an ``again`` event *n* calendar units later, not before that first event; if both are the same
    event, after it. Weeks begin on Monday.

    Args:
        first, again: event names, or pairs ``(name, condition)``.
        unit: ``"hour"``, ``"day"``, ``"week"`` or ``"month"``, of ``time``.
        user: the column that identifies users.

    Returns:
        One row per cohort and period up to the last event of all: ``cohort`` (TIMESTAMP, when it begins), ``size``,
        ``period`` (from 0), ``users``, ``share``.

    Raises:
        PlanError: the unit is none of these, a column is missing, the table has no event of a name, or a condition is
            not valid SQL.
    """
    _check_relation(events)
    _check_unit(unit)
    (first_name, first_if), (again_name, again_if) = _pair(first), _pair(again)
    _check(events, user, [first_name, again_name])
    people = _people(events, user)
    later = ">" if first_name == again_name else ">="
    return _query(
        events,
        f"""WITH mpnb_births AS (
            SELECT mpnb_person AS person, min(time) AS born, date_trunc('{unit}', min(time)) AS cohort
            FROM ({people}) WHERE {_is(first_name)} AND ({first_if}) GROUP BY ALL),
        mpnb_again AS (SELECT mpnb_person AS person, time FROM ({people}) WHERE {_is(again_name)} AND ({again_if})),
        mpnb_returns AS (SELECT cohort, date_diff('{unit}', cohort, time) AS period, count(DISTINCT b.person) AS users
            FROM mpnb_births AS b JOIN mpnb_again AS a ON b.person = a.person AND a.time {later} born GROUP BY ALL),
        mpnb_periods AS (SELECT cohort, size, unnest(range(date_diff('{unit}', cohort, last) + 1)) AS period
            FROM (SELECT cohort, count(*) AS size FROM mpnb_births GROUP BY cohort),
                 (SELECT max(time) AS last FROM mpnb_events WHERE {_usable(events)}))
        SELECT cohort AS "cohort", size AS "size", period AS "period", coalesce(users, 0) AS "users",
            coalesce(users, 0)::DOUBLE / size AS "share"
        FROM mpnb_periods LEFT JOIN mpnb_returns USING (cohort, period) ORDER BY cohort ASC, period ASC""",
        sys._getframe(1),
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
        event: an event name, or a pair ``(name, condition)``; default: all events, for which ``events`` needs no
            column ``event_name``.
        by: what to split by: a column, a property of raw events such as ``"$os"``, or an SQL expression; null is a
            segment like any other.
        unit: ``"hour"``, ``"day"``, ``"week"`` or ``"month"``, of ``time``.
        user: the column that identifies users. Events without a user count as events only.

    Returns:
        One row per unit, from the first event to the last, and per segment: ``period`` (TIMESTAMP, when it begins),
        ``segment`` (only with ``by``), ``events``, ``users``; zeros if there were none.

    Raises:
        PlanError: the unit is none of these, there is no such column or property, the table has no event of that name,
            or a condition or expression is not valid SQL.
    """
    _check_relation(events)
    _check_unit(unit)
    name, condition = _pair(event) if event is not None else (None, "true")
    origin = origin_of(events)
    if origin is not None and origin.only == (name,) and "event_name" not in events.columns:
        name = None  # all events of the relation are of that name
    _check(events, user, [] if name is None else [name])
    named = "" if name is None else f" AND {_is(name)}"
    frame = sys._getframe(1)
    segment = "NULL" if by is None else _segment(events, by, frame)
    shown = "" if by is None else 's.segment AS "segment", '
    return _query(
        events,
        f"""WITH mpnb_chosen AS (
            SELECT date_trunc('{unit}', time) AS period, {segment} AS segment, {_person(user)} AS person
            FROM mpnb_events WHERE {_usable(events)} AND ({condition}){named}),
        mpnb_counted AS (SELECT period, segment, count(*) AS events, count(DISTINCT person) AS users
            FROM mpnb_chosen GROUP BY ALL),
        mpnb_cells AS (SELECT period, segment FROM
            (SELECT unnest(generate_series(min(period), max(period), INTERVAL 1 {unit})) AS period FROM mpnb_chosen),
            (SELECT DISTINCT segment FROM mpnb_chosen))
        SELECT s.period AS "period", {shown}coalesce(events, 0) AS "events", coalesce(users, 0) AS "users"
        FROM mpnb_cells AS s LEFT JOIN mpnb_counted AS c
            ON c.period = s.period AND c.segment IS NOT DISTINCT FROM s.segment
        ORDER BY s.period ASC, coalesce(events, 0) DESC, s.segment ASC NULLS LAST""",
        frame,
    )


def _query(events: DuckDBPyRelation, query: str, frame: FrameType | None = None) -> DuckDBPyRelation:
    """Run a query over events, named ``mpnb_events``. SQL from the user in it may name the variables of a frame."""
    variables = variables_in(query, frame) if frame else {}
    try:
        relation = called_with(variables, events.query, "mpnb_events", query)
    except (duckdb.BinderException, duckdb.ParserException, duckdb.InvalidInputException) as error:
        raise PlanError(
            f"a condition or by= is not valid SQL on the columns of events: {_first_line(error)}. A property of"
            " raw events is properties->>'/its name'"
        ) from None
    assert relation is not None  # as it is for statements that give no rows
    return relation


def _rows(events: DuckDBPyRelation, query: str) -> list[tuple[Any, ...]]:
    with interruptible():
        return _query(events, query).fetchall()


def _first_line(error: duckdb.Error) -> str:
    return safe_text(str(error).partition("\n")[0])


def _pair(step: object) -> tuple[str, str]:
    pair = (step, "true") if isinstance(step, str) else step
    if isinstance(pair, tuple | list) and len(pair) == 2:
        name, condition = pair
        if isinstance(name, str) and isinstance(condition, str) and is_text(name + condition):
            return name, condition
    raise PlanError(f"an event is a name, or (name, condition), such as ('Purchase', 'amount > 10'), not {brief(step)}")


def _microseconds(window: object) -> int:
    given: Any = window
    if getattr(window, "ndim", None) == 0:  # numpy's
        given = given.item()
    if not isinstance(given, timedelta):
        days = given if isinstance(given, int) and 0 < given < 10_000 else 7
        raise PlanError(
            Argument("window"), f" must be a timedelta, such as timedelta(days={days:d}), not {brief(window)}"
        )
    if given <= timedelta(0):
        raise PlanError(Argument("window"), f" must be more than 0, not {given}")
    return given // timedelta(microseconds=1)


def _is(name: str) -> str:
    return f"{_NAME} = {literal(name)}"


def _person(user: str) -> str:
    return exact(f"nullif(CAST({quoted(user)} AS VARCHAR), '')")


def _people(events: DuckDBPyRelation, user: str) -> str:
    person = _person(user)
    return f"SELECT *, {person} AS mpnb_person FROM mpnb_events WHERE {person} IS NOT NULL AND {_usable(events)}"


def _usable(events: DuckDBPyRelation) -> str:
    """Return the condition for rows with a plausible time: one far off would add a row for every unit in between."""
    origin = origin_of(events)
    days = origin.days() if origin else None
    first, end = (days[0] - SLACK, days[1] + SLACK + timedelta(days=1)) if days else EVER
    return f"time >= TIMESTAMP '{first}' AND time < TIMESTAMP '{end}'"


def _segment(events: DuckDBPyRelation, by: object, frame: FrameType) -> str:
    """Return what to split by as SQL, compared exactly, so that no two values count as one."""
    if not isinstance(by, str) or not is_text(by):
        raise PlanError(Argument("by"), f" must be a column, a property or an expression of SQL, not {brief(by)}")
    split = _column_or_expression(events, by, frame)
    kind = _query(events, f"SELECT {split} FROM mpnb_events", frame).types[0]
    return exact(f"({split})") if kind == "VARCHAR" else split


def _column_or_expression(events: DuckDBPyRelation, by: str, frame: FrameType) -> str:
    """Return a name as a column if there is one, else as a property, else as an SQL expression."""
    if by in events.columns:
        return quoted(by)
    value = f"properties->>{literal('/' + by.replace('~', '~0').replace('/', '~1'))}"
    is_raw = "properties" in events.columns
    # What reads as a name is one, also where SQL has something of that name.
    if is_raw and re.fullmatch(r"[$\w]+", by) and _occurs(events, value):
        return value
    try:
        query = f"SELECT ({by}) FROM mpnb_events"
        called_with(variables_in(query, frame), events.query, "mpnb_events", query)
    except duckdb.Error as error:
        if is_raw and _occurs(events, value):
            return value
        known = list(events.columns)
        if is_raw:
            sample = f"SELECT properties FROM mpnb_events LIMIT {SAMPLE}"
            keys = f"SELECT unnest(json_keys(properties)) AS key FROM ({sample})"
            known += [name for (name,) in _rows(events, f"SELECT DISTINCT {exact('key')} FROM ({keys})")]
        hint = closest(by, known) or f", and it is not valid SQL: {_first_line(error)}"
        raise PlanError(f"events has no column{' or property' * is_raw} {brief(by)}{hint}") from None
    return by


def _occurs(events: DuckDBPyRelation, value: str) -> bool:
    there = value.replace("->>", "->")
    return bool(_rows(events, f"SELECT 1 FROM mpnb_events WHERE ({there}) IS NOT NULL LIMIT 1"))


def _check_relation(events: object) -> None:
    if not isinstance(events, DuckDBPyRelation):
        raise PlanError(
            Argument("events"), f" must be a relation, such as result.events or result.event([…]), not {brief(events)}"
        )


def _check(events: DuckDBPyRelation, user: str, names: Sequence[str]) -> None:
    """Check that a relation has the required columns, and events of some names."""
    for name in ("time", user, *(["event_name"] if names else [])):
        if not isinstance(name, str) or name not in events.columns:
            raise PlanError(
                f"events has no column {brief(name)}: result.events, result.deduplicated() and result.event([…]),"
                " with a list of names, have it"
            )
    if names:
        _check_names(events, list(dict.fromkeys(names)))


def _check_names(events: DuckDBPyRelation, names: list[str]) -> None:
    """Raise for names that the relation's table lacks, if that is known; warn of names that only the relation lacks."""
    origin = origin_of(events)
    if origin is not None:
        lacking = origin.lacking(names)
        there, database = origin.names() if lacking else ([], "")
        for name in lacking:
            if name not in there:
                raise PlanError(f"there is no event {brief(name)} in {database}{closest(name, there)}")
        for name in lacking:
            warn(f"events has no {brief(name)}, although the table has: it counts as 0")
        return
    wanted = ", ".join(map(literal, names))
    found = {name for (name,) in _rows(events, f"SELECT DISTINCT {_NAME} FROM mpnb_events WHERE {_NAME} IN ({wanted})")}
    if lacking := [name for name in names if name not in found]:
        there = [name for (name,) in _rows(events, f"SELECT DISTINCT {_NAME} FROM mpnb_events") if name]
        for name in lacking:
            warn(f"events has no {brief(name)}, which counts as 0{closest(name, there)}")


def _check_unit(unit: str) -> None:
    if not isinstance(unit, str) or unit not in UNITS:
        raise PlanError(Argument("unit"), f" must be {either(UNITS)}, not {brief(unit)}")
