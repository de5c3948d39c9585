"""Segmentation: counts and aggregates over time, by the values of properties."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from duckdb import DuckDBPyRelation

from mpnb._base.scalars import check_flags, whole_number
from mpnb._errors import PlanError
from mpnb.analysis._events import (
    MOST_TOP,
    Asked,
    Step,
    asked,
    check_relation,
    is_of,
    one_of,
    pair,
    properties,
    text_of,
    with_rest,
)
from mpnb.analysis._measure import Measure, measured
from mpnb.analysis._reports import pictured
from mpnb.analysis._sessions import TIMEOUT, numbered

UNITS = ("hour", "day", "week", "month", "quarter")
EARLIER = ("day", "week", "month", "quarter", "year")
TOP = 10
MOST_SEGMENTS = 6
# Of active users, how many days count.
ACTIVE = {"dau": 1, "wau": 7, "mau": 30}
COUNTS = ("events", "users", "sessions", "events per user", *ACTIVE)
AGGREGATES = ("sum", "average", "median", "min", "max", "distinct", "p")


@pictured
def segmentation(
    events: DuckDBPyRelation,
    event: Step | None = None,
    *,
    measure: str = "events",
    by: str | Sequence[str] | None = None,
    top: int | None = TOP,
    unit: str = "day",
    rolling: int | None = None,
    cumulative: bool = False,
    compare: str | None = None,
    user: str | None = None,
    zone: str | None = None,
) -> DuckDBPyRelation:
    """
    Count events and users over time, by the values of properties, as Mixpanel's Insights do.

    Days, weeks (from Monday), months and quarters are those of a time zone:
    https://docs.mixpanel.com/docs/reports/insights

    Not here: formulas, which are arithmetic on two of these relations.

    Args:
        events: see the module.
        event: an event name, or a pair ``(name, condition)``; default: all events, for which ``events`` needs no
            column ``event_name``.
        measure: what makes the column ``value``:

            - ``"events"``, ``"users"`` (unique), ``"sessions"`` (as of ``sessions()``, that have the event),
              ``"events per user"``;
            - ``"dau"``, ``"wau"``, ``"mau"``: users active in the 1, 7 or 30 days that end with the day; ``"mau(28)"``
              for 28 days;
            - ``"sum(amount)"``, ``average``, ``median``, ``min``, ``max``, ``p90(amount)`` (any percentile from ``p1``
              to ``p99``) of a column, property or SQL expression, where what is no number does not count; and
              ``"distinct(plan)"``, how many values it has.
        by: what to split by: a column, a property of raw events such as ``"$os"``, or an SQL expression, or a list of
            up to 6; null is a segment like any other.
        top: how many segments to keep, those with the most events; the others are one, ``$other``. ``None`` for all.
        unit: ``"hour"``, ``"day"``, ``"week"``, ``"month"`` or ``"quarter"``.
        rolling: a number of units for a column ``rolling``, the average of ``value`` over so many units that end with
            this one.
        cumulative: whether to add a column ``cumulative``, the sum of ``value`` up to this unit.
        compare: ``"day"``, ``"week"``, ``"month"``, ``"quarter"`` or ``"year"``, for a column ``compared``: ``value``
            of the unit that began so much earlier; null before the first event.
        user: the column that identifies people; default: ``person`` if there is one, else ``distinct_id``. Events of
            nobody count as events only.
        zone: the time zone of days, such as ``"Europe/Berlin"``; default: that of ``events``, else UTC.

    Returns:
        One row per unit, from the first event to the last, and per segment: ``period`` (TIMESTAMP, when it begins),
        ``segment`` (VARCHAR, only with ``by``; ``segment_1`` and so on with several), ``events``, ``users`` (both 0 if
        there were none), ``value`` (DOUBLE, with any other measure than events and users, or with the arguments that
        use it; null if there is nothing to aggregate), and the columns asked for (DOUBLE). In the order of units, and
        the segments of each by their events, the most first.

    Raises:
        PlanError: an argument is none of these, there is no such column or property, the table has no event of that
            name, or a condition or expression is not valid SQL.
    """
    check_relation(events)
    one_of("unit", unit, UNITS)
    check_flags(cumulative=cumulative)
    if compare is not None:
        one_of("compare", compare, EARLIER)
    step = None if event is None else pair(event)
    ask = asked(events, user=user, zone=zone, days=True, nameless=True)
    if step is not None:
        only = ask.origin.only if ask.origin else None
        if only == (step[0],) and "event_name" not in events.columns:
            condition = f"({step[1]})"  # all events of the relation are of that name
        else:
            asked(events, [step[0]], user=user)
            condition = is_of(step)
    else:
        condition = "true"
    what = measured(ask, measure, COUNTS, AGGREGATES)
    if what.name in ACTIVE and unit != "day":
        raise PlanError("active users are counted by day: unit must be 'day'", argument="unit")
    split = properties("by", by, MOST_SEGMENTS)
    made = _Segmentation(
        ask=ask,
        condition=condition,
        measure=what,
        segments=tuple(text_of(ask, each, "by") for each in split),
        top=None if top is None else whole_number("top", top, 1, MOST_TOP),
        unit=unit,
        rolling=None if rolling is None else whole_number("rolling", rolling, 1, MOST_TOP),
        cumulative=bool(cumulative),
        compare=compare,
    )
    return ask.relation(_query(made))


@dataclass(frozen=True, slots=True)
class _Segmentation:
    """A segmentation that was asked for, checked, with its parts as SQL."""

    ask: Asked
    condition: str
    measure: Measure
    segments: tuple[str, ...]
    top: int | None
    unit: str
    rolling: int | None
    cumulative: bool
    compare: str | None

    @property
    def names(self) -> list[str]:
        """Return the columns of segments."""
        several = len(self.segments) > 1
        return [f"segment_{number}" if several else "segment" for number in range(1, len(self.segments) + 1)]

    @property
    def shows_value(self) -> bool:
        """Whether there is a column for the measure."""
        is_more = self.measure.name not in ("events", "users")
        return bool(is_more or self.rolling or self.cumulative or self.compare)


def _query(s: _Segmentation) -> str:
    keys = ["is_rest", *s.names]
    listed = ", ".join(keys)
    values = "".join(f", {value} AS {name}" for name, value in zip(s.names, s.segments, strict=True))
    rows, session = "mpnb_events", "NULL"
    tables = []
    if s.measure.name == "sessions":
        span = TIMEOUT // timedelta(microseconds=1)
        tables += [f"mpnb_people AS ({s.ask.people()})"]
        tables += [f"mpnb_numbered AS ({numbered('mpnb_people', '*', span, True)})"]
        nobody = f"SELECT *, NULL::BIGINT AS mpnb_session FROM mpnb_events WHERE {s.ask.person} IS NULL"
        people = "SELECT * EXCLUDE (mpnb_person, mpnb_local) FROM mpnb_numbered"
        tables += [f"mpnb_rows AS ({people} UNION ALL BY NAME {nobody})"]
        rows, session = "mpnb_rows", "mpnb_session"
    tables += [
        f"""mpnb_all AS (SELECT date_trunc('{s.unit}', {s.ask.local})::TIMESTAMP AS period{values},
            {s.ask.person} AS person, {session} AS session, {s.measure.value or "NULL"} AS value
            FROM {rows} WHERE {s.ask.usable} AND {s.condition})""",
        f"mpnb_chosen AS ({with_rest('mpnb_all', s.names, s.top, 'count(*)')})",
        f"""mpnb_counted AS (SELECT period, {listed}, count(*) AS events, count(DISTINCT person) AS users,
            {_aggregate(s.measure)} AS value FROM mpnb_chosen GROUP BY period, {listed})""",
        f"mpnb_sizes AS (SELECT {listed}, sum(events) AS size FROM mpnb_counted GROUP BY {listed})",
        f"""mpnb_cells AS (SELECT period, {", ".join(f"z.{key}" for key in keys)}
            FROM (SELECT unnest(generate_series(min(period), max(period), INTERVAL 1 {s.unit})) AS period
            FROM mpnb_counted), mpnb_sizes AS z)""",
    ]
    if s.measure.name in ACTIVE:
        tables += [f"mpnb_active AS ({_active(s, keys)})"]
    same = " AND ".join(f"z.{key} IS NOT DISTINCT FROM c.{key}" for key in keys)
    active = ", a.active" if s.measure.name in ACTIVE else ""
    join = f" LEFT JOIN mpnb_active AS a ON a.period = z.period AND {same.replace('c.', 'a.')}" if active else ""
    tables += [
        f"""mpnb_filled AS (SELECT z.*, coalesce(events, 0) AS events, coalesce(users, 0) AS users, c.value{active}
            FROM mpnb_cells AS z LEFT JOIN mpnb_counted AS c ON c.period = z.period AND {same}{join})""",
        f"mpnb_valued AS (SELECT * REPLACE (({_value(s.measure)})::DOUBLE AS value) FROM mpnb_filled)",
    ]
    shown = ['v.period AS "period"', *(f'v.{name} AS "{name}"' for name in s.names)]
    shown += ['v.events AS "events"', 'v.users AS "users"', *(['v.value AS "value"'] if s.shows_value else [])]
    window = f"PARTITION BY {', '.join(f'v.{key}' for key in keys)} ORDER BY v.period ASC ROWS"
    if s.rolling:
        shown.append(f'avg(v.value) OVER ({window} {s.rolling - 1} PRECEDING)::DOUBLE AS "rolling"')
    if s.cumulative:
        shown.append(f'sum(v.value) OVER ({window} UNBOUNDED PRECEDING)::DOUBLE AS "cumulative"')
    earlier = ""
    if s.compare:
        shown.append('c.value AS "compared"')
        on = " AND ".join(f"v.{key} IS NOT DISTINCT FROM c.{key}" for key in keys)
        begin = f"date_trunc('{s.unit}', v.period - INTERVAL 1 {s.compare})::TIMESTAMP"
        earlier = f" LEFT JOIN mpnb_valued AS c ON c.period = {begin} AND {on}"
    order = ["v.period ASC", "v.is_rest ASC", "v.events DESC", *(f"v.{name} ASC NULLS LAST" for name in s.names)]
    return (
        f"WITH {', '.join(tables)} SELECT {', '.join(shown)} FROM mpnb_valued AS v{earlier} ORDER BY {', '.join(order)}"
    )


def _aggregate(measure: Measure) -> str:
    """Return the aggregate of a group of events."""
    if measure.name == "sessions":
        return "count(DISTINCT CASE WHEN session IS NOT NULL THEN {'p': person, 's': session} END)"
    if measure.name == "p":
        return f"quantile_cont(value, {measure.number / 100})"
    if measure.name == "distinct":
        return "count(DISTINCT value)"
    name = "avg" if measure.name == "average" else measure.name
    return f"{name}(value)" if measure.value else "NULL"


def _value(measure: Measure) -> str:
    """Return the value of a cell, which may have had no event."""
    if measure.name in ACTIVE:
        return "coalesce(active, 0)"
    if measure.name in ("events", "users"):
        return measure.name
    if measure.name == "events per user":
        return "events::DOUBLE / nullif(users, 0)"
    return "coalesce(value, 0)" if measure.name in ("sum", "sessions", "distinct") else "value"


def _active(s: _Segmentation, keys: list[str]) -> str:
    """
    Return the query for the users of the last days, by day.

    Each day of a person adds one to as many days as no later one adds to, so that nobody counts twice.
    """
    days = s.measure.number or ACTIVE[s.measure.name]
    listed = ", ".join(keys)
    whose = f"PARTITION BY {listed}, person ORDER BY period ASC"
    spans = f"""SELECT {listed}, period AS begins, least(period + INTERVAL {days} DAY,
        coalesce(lead(period) OVER ({whose}), TIMESTAMP 'infinity')) AS ends
        FROM (SELECT DISTINCT {listed}, period, person FROM mpnb_chosen WHERE person IS NOT NULL)"""
    steps = f"""SELECT {listed}, begins AS period, 1 AS more FROM mpnb_spans
        UNION ALL SELECT {listed}, ends, -1 FROM mpnb_spans"""
    changes = f"""SELECT {listed}, period, sum(more) AS more FROM ({steps} UNION ALL
        SELECT {listed}, period, 0 FROM mpnb_cells) GROUP BY {listed}, period"""
    return f"""WITH mpnb_spans AS ({spans}) SELECT {listed}, period,
        sum(more) OVER (PARTITION BY {listed} ORDER BY period ASC)::BIGINT AS active FROM ({changes})"""
