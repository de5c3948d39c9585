"""One row a person: the first value of a property, and features for a model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime

from duckdb import DuckDBPyRelation

from mpnb._base.scalars import as_day, as_moment, brief
from mpnb._base.sql import quoted
from mpnb._errors import PlanError
from mpnb._message import Argument
from mpnb.analysis._events import (
    NAME,
    Step,
    asked,
    check_relation,
    is_of,
    number_of,
    pair,
    properties,
    several,
    text_of,
    value_of,
)

MOST_FEATURES = 1_000


def first_touch(
    events: DuckDBPyRelation, property: str, *, event: Step | None = None, user: str | None = None
) -> DuckDBPyRelation:
    """
    Return the first value of a property that each person has, such as the campaign that brought them.

    It is that of the first event that has the property: https://docs.mixpanel.com/docs/features/attribution

    Not here, because they need a conversion to be attributed to: last touch, linear and other models.

    Args:
        events: see the module.
        property: a column, a property of raw events, or an SQL expression.
        event: the event whose property counts, a name or a pair ``(name, condition)``; default: any event.
        user: the column that identifies people; default: ``person`` if there is one, else ``distinct_id``.

    Returns:
        One row per person who has the property: ``person``, ``value`` (of the property's own type; the least of two at
        the same time), ``time`` (TIMESTAMP, of that event), ``event_name``. In the order of ``person``.

    Raises:
        PlanError: there is no such property, a column is missing, the table has no event of that name, or a condition
            is not valid SQL.
    """
    check_relation(events)
    step = None if event is None else pair(event)
    ask = asked(events, [step[0]] if step else [], user=user)
    value = value_of(ask, property, "property")
    text = text_of(ask, property, "property")
    return ask.relation(
        f"""WITH mpnb_people AS ({ask.people()}),
        mpnb_first AS (SELECT mpnb_person AS person, time, {value} AS value, {NAME} AS name, {text} AS text
            FROM mpnb_people WHERE ({value}) IS NOT NULL AND {is_of(step) if step else "true"}
            QUALIFY row_number() OVER (PARTITION BY person ORDER BY time ASC, text ASC, name ASC) = 1)
        SELECT person AS "person", value AS "value", time AS "time", name AS "event_name" FROM mpnb_first
        ORDER BY person ASC"""
    )


def features(
    events: DuckDBPyRelation,
    as_of: object,
    *,
    counts: Sequence[Step] = (),
    sums: Sequence[str] = (),
    last: Sequence[str] = (),
    user: str | None = None,
) -> DuckDBPyRelation:
    """
    Return one row per person from the events before a moment only, so that a model learns nothing of what comes after.

    Args:
        events: see the module.
        as_of: the moment, a ``datetime`` in UTC or a day, which means its beginning.
        counts: event names, or pairs ``(name, condition)``, to be counted.
        sums: columns, properties or SQL expressions to be added up; what is no number does not count.
        last: columns, properties or SQL expressions whose last value is wanted that is not null.
        user: the column that identifies people; default: ``person`` if there is one, else ``distinct_id``.

    Returns:
        One row per person with an event before ``as_of``: ``person``, ``events``, ``days_since_first`` and
        ``days_since_last`` (DOUBLE, from the first and the last event to ``as_of``), ``active_days`` (days in UTC with
        an event), and for what was asked ``count Purchase``, ``sum amount`` (DOUBLE, 0 if there is none) and
        ``last plan``; where a name would come twice, with a number appended. In the order of ``person``.

    Raises:
        PlanError: ``as_of`` is no moment, there is no such property, a column is missing, the table has no event of a
            name, or a condition is not valid SQL.
    """
    check_relation(events)
    day = as_day(as_of)
    moment = as_moment(as_of)
    if moment is not None and moment.tzinfo is not None:
        moment = moment.astimezone(UTC).replace(tzinfo=None)
    if isinstance(as_of, str):
        moment = _parsed(as_of)
    if moment is None and day is None:
        raise PlanError(Argument("as_of"), f" must be a datetime or a day, not {brief(as_of)}")
    steps = [pair(each) for each in several("counts", counts)]
    ask = asked(events, [name for name, _ in steps], user=user)
    before = f"TIMESTAMP '{moment if moment is not None else day}'"
    figures = [(f"count {name}", f"count(*) FILTER ({is_of((name, condition))})") for name, condition in steps]
    for each in properties("sums", sums, MOST_FEATURES):
        figures.append((f"sum {each}", f"coalesce(sum({number_of(ask, each, 'sums')}), 0)::DOUBLE"))
    for each in properties("last", last, MOST_FEATURES):
        value, shown = value_of(ask, each, "last"), text_of(ask, each, "last")
        figures.append((f"last {each}", f"arg_max({value}, (time, {shown})) FILTER (({value}) IS NOT NULL)"))
    taken = {"person", "events", "days_since_first", "days_since_last", "active_days"}
    columns = []
    for name, figure in figures:
        free, number = name, 1
        while free.casefold() in taken:
            number += 1
            free = f"{name}_{number}"
        taken.add(free.casefold())
        columns.append(f", {figure} AS {quoted(free)}")
    since = "(epoch_us({0}) - epoch_us({1}(time)))::DOUBLE / 86400000000"
    return ask.relation(
        f"""WITH mpnb_people AS ({ask.people()})
        SELECT mpnb_person AS "person", count(*) AS "events", {since.format(before, "min")} AS "days_since_first",
            {since.format(before, "max")} AS "days_since_last", count(DISTINCT time::DATE) AS "active_days"
            {"".join(columns)}
        FROM mpnb_people WHERE time < {before} GROUP BY mpnb_person ORDER BY mpnb_person ASC"""
    )


def _parsed(text: str) -> datetime | None:
    """Return a moment as people write it, ``"2026-01-31"`` or ``"2026-01-31 12:00"``, or ``None``."""
    if not re.fullmatch(r"\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d)?)?", text, re.ASCII):
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None
