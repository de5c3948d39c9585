"""The lifecycle of users: new, retained, returning, dormant."""

from __future__ import annotations

from duckdb import DuckDBPyRelation

from mpnb.analysis._events import Step, asked, check_relation, is_of, one_of, pair
from mpnb.analysis._reports import pictured

UNITS = ("day", "week", "month", "quarter")


@pictured
def lifecycle(
    events: DuckDBPyRelation,
    unit: str = "week",
    *,
    event: Step | None = None,
    user: str | None = None,
    zone: str | None = None,
) -> DuckDBPyRelation:
    """
    Count in each period who is new, retained, returning, or dormant.

    New is who was never active before, retained who was active in the period before too, returning who was active
    earlier but not in the period before, and dormant who was active in the period before but is not in this one. Before
    the first day of ``events`` nobody is known to have been active.

    Args:
        events: see the module.
        unit: ``"day"``, ``"week"`` (from Monday), ``"month"`` or ``"quarter"``.
        event: what counts as active, an event name or a pair ``(name, condition)``; default: any event.
        user: the column that identifies people; default: ``person`` if there is one, else ``distinct_id``.
        zone: the time zone of days, such as ``"Europe/Berlin"``; default: that of ``events``, else UTC.

    Returns:
        One row per period, from the first event to the last: ``period`` (TIMESTAMP, when it begins), ``new``,
        ``retained``, ``returning`` (a word of SQL, to be quoted there), ``dormant`` (numbers of users).

    Raises:
        PlanError: the unit is none of these, a column is missing, the table has no event of that name, or a condition
            is not valid SQL.
    """
    check_relation(events)
    one_of("unit", unit, UNITS)
    step = None if event is None else pair(event)
    names = [step[0]] if step else []
    ask = asked(events, names, user=user, zone=zone, days=True, nameless=step is None)
    return ask.relation(
        f"""WITH mpnb_people AS ({ask.people()}),
        mpnb_active AS (SELECT DISTINCT mpnb_person AS person, date_trunc('{unit}', mpnb_local)::TIMESTAMP AS period
            FROM mpnb_people WHERE {is_of(step) if step else "true"}),
        mpnb_states AS (SELECT period, period + INTERVAL 1 {unit} AS next_period,
            lag(period) OVER mpnb_w AS before, lead(period) OVER mpnb_w AS after FROM mpnb_active
            WINDOW mpnb_w AS (PARTITION BY person ORDER BY period ASC)),
        mpnb_counts AS (SELECT period, count(*) FILTER (before IS NULL) AS new,
            count(*) FILTER (before + INTERVAL 1 {unit} = period) AS retained,
            count(*) FILTER (before + INTERVAL 1 {unit} < period) AS again FROM mpnb_states GROUP BY period),
        mpnb_dormant AS (SELECT next_period AS period, count(*) AS dormant FROM mpnb_states
            WHERE after IS NULL OR after > next_period GROUP BY next_period),
        mpnb_periods AS (SELECT unnest(generate_series(min(period), max(period), INTERVAL 1 {unit})) AS period
            FROM mpnb_active)
        SELECT p.period AS "period", coalesce(new, 0) AS "new", coalesce(retained, 0) AS "retained",
            coalesce(again, 0) AS "returning", coalesce(dormant, 0) AS "dormant"
        FROM mpnb_periods AS p LEFT JOIN mpnb_counts AS c ON c.period = p.period
            LEFT JOIN mpnb_dormant AS d ON d.period = p.period ORDER BY p.period ASC"""
    )
