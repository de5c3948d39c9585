"""Sessions: what a person did without a long pause."""

from __future__ import annotations

from datetime import timedelta

from duckdb import DuckDBPyRelation

from mpnb._base.scalars import check_flags
from mpnb.analysis._events import NAME, asked, microseconds
from mpnb.analysis._reports import pictured

TIMEOUT = timedelta(minutes=30)


@pictured
def sessions(
    events: DuckDBPyRelation,
    timeout: timedelta = TIMEOUT,
    reset_at_midnight: bool = True,
    *,
    user: str | None = None,
    zone: str | None = None,
) -> DuckDBPyRelation:
    """
    Return the sessions of each person: what somebody did without a pause of ``timeout``.

    Any event starts a session if there is none. It ends with the last event before a pause of ``timeout`` or longer,
    and at midnight: https://docs.mixpanel.com/docs/features/sessions

    Not here, because they are settings of a project that an export does not show: sessions by a start and an end event
    or by a property, and events that are hidden or excluded from sessions. Leave the latter out with
    ``events.filter()``.

    Args:
        events: see the module.
        timeout: the pause that ends a session, from a minute to 24 hours as in Mixpanel, or any other above 0.
        reset_at_midnight: whether an event after midnight begins a new session.
        user: the column that identifies people; default: ``person`` if there is one, else ``distinct_id``.
        zone: the time zone of midnight, such as ``"Europe/Berlin"``; default: that of ``events``, else UTC.

    Returns:
        One row per session: ``person``, ``session`` (from 1, by person), ``started``, ``ended`` (TIMESTAMP, of the
        first and the last event), ``seconds`` (DOUBLE, between these), ``events``, ``first_event``, ``last_event``. In
        the order of ``person`` and ``session``.

    Raises:
        PlanError: the timeout is not a ``timedelta`` above 0, a column is missing, or there is no such zone.
    """
    span = microseconds("timeout", timeout, least=timedelta(microseconds=1), such_as="minutes=30")
    check_flags(reset_at_midnight=reset_at_midnight)
    ask = asked(events, user=user, zone=zone, days=bool(reset_at_midnight))
    return ask.relation(
        f"""WITH mpnb_people AS ({ask.people()}),
        mpnb_numbered AS ({numbered("mpnb_people", "mpnb_person, time, event_name", span, bool(reset_at_midnight))})
        SELECT mpnb_person AS "person", mpnb_session AS "session", min(time) AS "started", max(time) AS "ended",
            epoch(max(time) - min(time))::DOUBLE AS "seconds", count(*) AS "events",
            min({NAME}) FILTER (mpnb_first) AS "first_event", min({NAME}) FILTER (mpnb_last) AS "last_event"
        FROM (SELECT *, time = min(time) OVER mpnb_w AS mpnb_first, time = max(time) OVER mpnb_w AS mpnb_last
            FROM mpnb_numbered WINDOW mpnb_w AS (PARTITION BY mpnb_person, mpnb_session))
        GROUP BY mpnb_person, mpnb_session ORDER BY mpnb_person ASC, mpnb_session ASC"""
    )


def numbered(people: str, columns: str, timeout: int, reset_at_midnight: bool) -> str:
    """
    Return the query for events with ``mpnb_session``, a number from 1 for each person.

    Args:
        people: a table with ``mpnb_person``, ``time`` and ``mpnb_local``.
        columns: of it, to be kept.
        timeout: in microseconds.
    """
    begins = f"time - lag(time) OVER mpnb_w >= to_microseconds({timeout})"
    if reset_at_midnight:
        begins += " OR mpnb_local::DATE <> lag(mpnb_local::DATE) OVER mpnb_w"
    return (
        f"SELECT {columns}, 1 + sum(mpnb_begins) OVER (PARTITION BY mpnb_person ORDER BY time ASC)::BIGINT AS"
        f" mpnb_session FROM (SELECT *, CASE WHEN {begins} THEN 1 ELSE 0 END AS mpnb_begins FROM {people}"
        " WINDOW mpnb_w AS (PARTITION BY mpnb_person ORDER BY time ASC))"
    )
