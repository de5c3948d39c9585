"""Retention: how many came back, by when they began."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from duckdb import DuckDBPyRelation

from mpnb._base.clock import utc_now
from mpnb._base.scalars import brief, each_of, whole_number
from mpnb._base.sql import literal
from mpnb._errors import PlanError
from mpnb._message import Argument
from mpnb.analysis._events import (
    MOST_TOP,
    NAME,
    Asked,
    Step,
    asked,
    check_relation,
    is_of,
    one_of,
    pair,
    renamed,
    text_of,
    with_rest,
)
from mpnb.analysis._measure import Measure, measured
from mpnb.analysis._reports import pictured

HOUR = 3_600_000_000
# Rolling periods, in microseconds: Mixpanel's month is 30 days.
UNITS = {"hour": HOUR, "day": 24 * HOUR, "week": 7 * 24 * HOUR, "month": 30 * 24 * HOUR}
MODES = ("on or after", "on")
ALIGNMENTS = ("rolling", "calendar")
SEGMENTS = 200


@renamed(first="born", again="returned")
@pictured
def retention(
    events: DuckDBPyRelation,
    born: Step,
    returned: Step | None = None,
    *,
    unit: str = "day",
    mode: str | None = None,
    alignment: str = "rolling",
    brackets: Sequence[tuple[int, int]] | None = None,
    by: str | None = None,
    top: int | None = SEGMENTS,
    measure: str = "users",
    user: str | None = None,
    zone: str | None = None,
) -> DuckDBPyRelation:
    """
    Count how many users came back, as Mixpanel's retention does.

    The cohort of a day, week or month has each user who did ``born`` in it, from the first such event on; a user may be
    in several cohorts. A user is retained in a period with an event ``returned`` after that, or at the same time if its
    name is another: https://docs.mixpanel.com/docs/reports/retention

    - ``alignment="rolling"``: periods begin with each user's own birth. Day 1 is 24 to 48 hours after it, week 1 is 7
      to 14 days, month 1 is 30 to 60 days. ``"calendar"``: period 0 is that of the cohort, period 1 the next, of the
      calendar; weeks begin on Monday.
    - ``mode="on or after"``: retained in a period is who came back in it or later. ``"on"``: in it.

    Not here, as they are variants that few use: streaks, "on or before", and the frequency of returns. Mixpanel shows
    60 days at most, this report as many as there are.

    Args:
        events: see the module.
        born, returned: event names, or pairs ``(name, condition)``; ``returned=None`` is any event.
        unit: ``"hour"``, ``"day"``, ``"week"`` or ``"month"``.
        mode: ``"on or after"`` or ``"on"``; default: the former, but ``"on"`` with ``brackets``, as a bracket counts
            who came back anywhere in it.
        alignment: ``"rolling"`` or ``"calendar"``.
        brackets: periods to be taken as one, each from its first to its last: ``[(0, 0), (1, 3), (4, 7), (8, 14)]``.
        by: a column, property or SQL expression of the event ``born`` to split by: each segment has its own cohorts.
        top: how many segments to keep, those with the most users; the others are one, ``$other``. ``None`` for all.
        measure: ``"users"``, or ``"sum(amount)"`` or ``"average(amount)"`` of a column, property or expression of the
            events ``returned``: their sum in the period (with "on or after": in it or later), or that sum divided by
            the users retained.
        user: the column that identifies people; default: ``person`` if there is one, else ``distinct_id``.
        zone: the time zone of days, such as ``"Europe/Berlin"``; default: that of ``events``, else UTC.

    Returns:
        One row per cohort and period that has begun, and per segment with ``by``: ``segment`` (VARCHAR, only with
        ``by``), ``cohort`` (TIMESTAMP, when it begins), ``size`` (users), ``period`` (from 0; with brackets, their
        first), ``last_period`` (only with brackets), ``users``, ``share`` (DOUBLE), ``complete`` (whether the period
        has ended for every user of the cohort), ``value`` (DOUBLE, only with a measure of a property).

        Last, with ``cohort`` null, the average of each period over the cohorts in which it is complete: ``size`` and
        ``users`` are sums, ``share`` and ``value`` are Mixpanel's averages, weighted by the size of the cohorts.

    Raises:
        PlanError: an argument is none of these, a column is missing, the table has no event of a name, or a condition
            is not valid SQL.
        TypeError: there is no such argument.
    """
    check_relation(events)
    one_of("unit", unit, UNITS)
    one_of("alignment", alignment, ALIGNMENTS)
    ranges = _brackets(brackets)
    if mode is None:
        mode = MODES[1] if ranges else MODES[0]
    one_of("mode", mode, MODES)
    first, again = pair(born), None if returned is None else pair(returned)
    names = [first[0], *([again[0]] if again else [])]
    ask = asked(events, names, user=user, zone=zone, days=True)
    what = measured(ask, measure, ("users",), ("sum", "average"))
    made = _Retention(
        ask=ask,
        born=first,
        returned=again,
        unit=unit,
        is_on=mode == "on",
        is_rolling=alignment == "rolling",
        brackets=ranges,
        segment=None if by is None else text_of(ask, by, "by"),
        top=None if top is None else whole_number("top", top, 1, MOST_TOP),
        measure=what,
    )
    return ask.relation(_query(made))


def _brackets(given: object) -> tuple[tuple[int, int], ...]:
    if given is None:
        return ()
    found: list[tuple[int, int]] = []
    pairs = [each_of(each) for each in each_of(given) or []]
    if not pairs or any(each is None or len(each) != 2 for each in pairs):
        raise PlanError(
            Argument("brackets"),
            f" must be a list of first and last periods, such as [(0, 0), (1, 3)], not {brief(given)}",
        )
    for each in pairs:
        assert each is not None
        least = found[-1][1] + 1 if found else 0
        first = whole_number("brackets", each[0], least, 10**6)
        found.append((first, whole_number("brackets", each[1], first, 10**6)))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Retention:
    """A retention report that was asked for, checked, with its parts as SQL."""

    ask: Asked
    born: tuple[str, str]
    returned: tuple[str, str] | None
    unit: str
    is_on: bool
    is_rolling: bool
    brackets: tuple[tuple[int, int], ...]
    segment: str | None
    top: int | None
    measure: Measure

    def period(self, time: str, local: str) -> str:
        """Return the number of the period of a time as SQL, in a row of a birth."""
        if self.is_rolling:
            return f"(epoch_us({time}) - epoch_us(born)) // {UNITS[self.unit]}"
        return f"date_diff('{self.unit}', cohort, {local})"


def _query(r: _Retention) -> str:
    now = f"TIMESTAMP '{utc_now()}'"
    days = r.ask.origin.days() if r.ask.origin else None
    asked_until = f"TIMESTAMP '{days[1] + timedelta(days=1)}'" if days else "NULL::TIMESTAMP"
    interval = f"INTERVAL 1 {r.unit}"
    segments = ["segment"] if r.segment else []
    # The day of the last event counts as complete, unless it is today.
    # The local time of one moment alone: that of all events would cost more than all else.
    last = f"""SELECT max(time) AS last, max({r.ask.local}) AS last_local FROM mpnb_events
        WHERE {r.ask.usable} AND time = (SELECT max(time) FROM mpnb_events WHERE {r.ask.usable})"""
    ends = f"""SELECT last, last_local - last AS off,
        greatest(date_trunc('day', last_local) + INTERVAL 1 DAY, {asked_until}) AS day_end FROM ({last})"""
    end = f"""SELECT end_utc, end_utc + off AS end_local FROM (SELECT off,
        CASE WHEN {now} > last AND {now} < day_end - off THEN {now} ELSE day_end - off END AS end_utc FROM ({ends}))"""
    births = f"""SELECT mpnb_person AS person, {r.segment or "NULL::VARCHAR"} AS segment,
        date_trunc('{r.unit}', mpnb_local)::TIMESTAMP AS cohort, min(time) AS born
        FROM mpnb_people WHERE {is_of(r.born)} GROUP BY ALL"""
    if r.is_rolling:
        periods = f"(epoch_us(end_utc) - 1 - epoch_us(first_born)) // {UNITS[r.unit]}"
        ended = f"epoch_us(last_born) + (last_period + 1) * {UNITS[r.unit]} <= epoch_us(end_utc)"
        ended += f" AND cohort + {interval} <= end_local"
    else:
        periods = f"date_diff('{r.unit}', cohort, end_local - INTERVAL 1 MICROSECOND)"
        ended = f"cohort + to_{r.unit}s((last_period + 1)::INTEGER) <= end_local"
    shown = {
        "segment": 'a.segment AS "segment"' if r.segment else None,
        "cohort": 'cohort AS "cohort"',
        "size": 'size AS "size"',
        "period": 'period AS "period"',
        "last_period": 'last_period AS "last_period"' if r.brackets else None,
        "users": 'users AS "users"',
        "share": 'share AS "share"',
        "complete": 'complete AS "complete"',
        "value": 'value AS "value"' if r.measure.value else None,
    }
    return f"""WITH mpnb_people AS ({r.ask.people()}),
        mpnb_all_births AS ({births}),
        mpnb_births AS MATERIALIZED ({_split(r)}),
        mpnb_end AS ({end}),
        mpnb_cohorts AS (SELECT is_rest, segment, cohort, count(*) AS size, min(born) AS first_born,
            max(born) AS last_born FROM mpnb_births GROUP BY ALL),
        mpnb_returns AS ({_returns(r)}),
        mpnb_periods AS (SELECT c.*, end_utc, end_local,
            unnest(range(greatest({periods}, 0)::BIGINT + 1)) AS period FROM mpnb_cohorts AS c, mpnb_end),
        mpnb_counted AS ({_counted(r)}),
        mpnb_cells AS (SELECT is_rest, segment, cohort, size, period, last_period, users,
            users::DOUBLE / size AS share, coalesce({ended}, false) AS complete, {r.measure.combined} AS value
            FROM mpnb_counted),
        mpnb_average AS (SELECT is_rest, segment, NULL::TIMESTAMP AS cohort, sum(size)::BIGINT AS size, period,
            last_period, sum(users)::BIGINT AS users,
            sum(users::DOUBLE * size) / sum(size::DOUBLE * size) AS share, true AS complete,
            sum(value * size) / sum(size) FILTER (value IS NOT NULL) AS value
            FROM mpnb_cells WHERE complete GROUP BY is_rest, segment, period, last_period),
        mpnb_weights AS (SELECT is_rest, segment, sum(size) AS weight FROM mpnb_cohorts GROUP BY is_rest, segment)
        SELECT {", ".join(each for each in shown.values() if each)}
        FROM (FROM mpnb_cells UNION ALL FROM mpnb_average) AS a JOIN mpnb_weights AS w
            ON a.is_rest = w.is_rest AND a.segment IS NOT DISTINCT FROM w.segment
        ORDER BY {"a.is_rest ASC, weight DESC, a.segment ASC NULLS LAST, " if segments else ""}cohort ASC NULLS LAST,
            period ASC"""


def _split(r: _Retention) -> str:
    """Return the query for births with the segments that stay."""
    if not r.segment or r.top is None:
        return "SELECT *, false AS is_rest FROM mpnb_all_births"
    kept = with_rest("mpnb_all_births", ["segment"], r.top, "count(*)")
    # Whoever is in several segments of the rest is one user of it.
    return f"SELECT person, segment, is_rest, cohort, min(born) AS born FROM ({kept}) GROUP BY ALL"


def _returns(r: _Retention) -> str:
    """
    Return the query for users by period, and the sum of what is measured.

    With "on or after", a user is in the last period with an event, and counts in all before.
    """
    later = f"time > born OR (time = born AND name <> {literal(r.born[0])})"
    back = f"""SELECT mpnb_person AS person, time, mpnb_local AS local, {NAME} AS name,
        {r.measure.value or "NULL"} AS value FROM mpnb_people
        WHERE {"true" if r.returned is None else is_of(r.returned)}"""
    groups = "is_rest, segment, cohort"
    if not r.is_on and not r.measure.value:
        # The last of a person's events is enough, so that the work grows with the events and not with their pairs.
        return f"""SELECT {groups}, period, count(*) AS users, NULL::DOUBLE AS value FROM (SELECT {groups}, CASE
                WHEN last > born THEN {r.period("last", "last_local")}
                WHEN last_other = born THEN {r.period("born", "other_local")} END AS period
            FROM mpnb_births AS b JOIN (SELECT person, max(time) AS last, arg_max(local, time) AS last_local,
                max(time) FILTER (name <> {literal(r.born[0])}) AS last_other,
                arg_max(local, time) FILTER (name <> {literal(r.born[0])}) AS other_local
                FROM ({back}) GROUP BY person) AS l ON b.person = l.person)
            WHERE period IS NOT NULL GROUP BY {groups}, period"""
    pairs = f"""SELECT {groups}, b.person, {r.period("time", "local")} AS period, value
        FROM mpnb_births AS b JOIN ({back}) AS e ON b.person = e.person AND ({later})"""
    if r.is_on and r.brackets:
        cases = "".join(f" WHEN period BETWEEN {first} AND {last} THEN {first}" for first, last in r.brackets)
        pairs = f"SELECT {groups}, person, CASE{cases} END AS period, value FROM ({pairs})"
    if r.is_on:
        return f"""SELECT {groups}, period, count(DISTINCT person) AS users, sum(value) AS value FROM ({pairs})
            WHERE period IS NOT NULL GROUP BY {groups}, period"""
    return f"""SELECT {groups}, period, sum(is_last) AS users, sum(value) AS value FROM (SELECT *, CASE WHEN
            row_number() OVER (PARTITION BY {groups}, person ORDER BY period DESC) = 1 THEN 1 ELSE 0 END AS is_last
        FROM (SELECT {groups}, person, period, sum(value) AS value FROM ({pairs}) GROUP BY ALL))
        GROUP BY {groups}, period"""


def _counted(r: _Retention) -> str:
    """Return the query for the users of every cohort and period, zeros included."""
    over = "OVER (PARTITION BY p.is_rest, p.segment, p.cohort ORDER BY p.period DESC ROWS UNBOUNDED PRECEDING)"
    summed = over if not r.is_on else ""
    users = f"sum(coalesce(t.users, 0)) {summed}" if summed else "coalesce(t.users, 0)"
    value = f"sum(t.value) {summed}" if summed else "t.value"
    query = f"""SELECT p.is_rest, p.segment, p.cohort, p.size, p.first_born, p.last_born, p.end_utc, p.end_local,
        p.period, ({users})::BIGINT AS users, {value} AS total FROM mpnb_periods AS p LEFT JOIN mpnb_returns AS t
        ON p.is_rest = t.is_rest AND p.segment IS NOT DISTINCT FROM t.segment AND p.cohort = t.cohort
        AND p.period = t.period"""
    if not r.brackets:
        return f"SELECT *, period AS last_period FROM ({query})"
    lasts = "".join(f" WHEN {first} THEN {last}" for first, last in r.brackets)
    firsts = ", ".join(str(first) for first, _ in r.brackets)
    return f"SELECT *, CASE period{lasts} END AS last_period FROM ({query}) WHERE period IN ({firsts})"
