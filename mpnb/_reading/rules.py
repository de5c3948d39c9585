"""Mixpanel's own rules as queries: duplicates, the names of events, the two kinds of time. Methods of a result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from duckdb import DuckDBPyConnection, DuckDBPyRelation

from mpnb._base.scalars import brief, is_text
from mpnb._base.sql import exact, literal, run
from mpnb._errors import PlanError
from mpnb._reading.offset import time_offset
from mpnb._reading.selection import Selection

if TYPE_CHECKING:
    from mpnb._exporting.result import ExportResult


def deduplicated(self: ExportResult) -> DuckDBPyRelation:
    """
    Give the events without duplicates, by Mixpanel's own rule. ``duplicates()`` counts what it leaves out.

    Of events with the same name, ``distinct_id``, ``time`` and ``insert_id``, the newest by
    ``mp_processing_time_ms`` stays; events without ``insert_id`` are never merged:
    https://docs.mixpanel.com/docs/data-structure/events-and-properties#event-deduplication

    Raises:
        ClosedError: the result was closed.
    """
    return self._events(deduplicated_query(self))


def deduplicated_query(result: ExportResult) -> str:
    """Return the query of ``deduplicated()``."""
    return (
        f"SELECT * FROM ({result._selection.events}) QUALIFY insert_id IS NULL OR row_number() OVER ("
        f" PARTITION BY {exact('event_name')}, {exact('distinct_id')}, time, {exact('insert_id')}"
        " ORDER BY TRY_CAST(properties->>'/mp_processing_time_ms' AS BIGINT) DESC NULLS LAST, batch_id DESC) = 1"
    )


def duplicates(self: ExportResult) -> DuckDBPyRelation:
    """
    Count what ``deduplicated()`` leaves out: one row an event name, most duplicates first.

    Columns: ``event_name``, ``events`` (as exported), ``duplicates`` (of these, left out).

    Raises:
        ClosedError: the result was closed.
    """
    return self._relation(
        'SELECT any_value(event_name) AS "event_name", sum(events)::BIGINT AS "events",'
        ' sum(CASE WHEN insert_id IS NULL THEN 0 ELSE events - 1 END)::BIGINT AS "duplicates"'
        " FROM (SELECT any_value(event_name) AS event_name, any_value(insert_id) AS insert_id, count(*) AS events"
        f" FROM ({self._selection.events})"
        f" GROUP BY {exact('event_name')}, {exact('distinct_id')}, time, {exact('insert_id')})"
        f" GROUP BY {exact('event_name')} ORDER BY duplicates DESC, {exact('any_value(event_name)')} ASC"
    )


def event_names(self: ExportResult) -> DuckDBPyRelation:
    """
    Give one row an event name, most frequent first.

    Columns: ``event_name``, ``events``, ``users`` (distinct ``distinct_id``; null and ``""`` are nobody), ``first``,
    ``last`` (of ``time``).

    Raises:
        ClosedError: the result was closed.
    """
    return self._relation(
        'SELECT any_value(event_name) AS "event_name", count(*) AS "events",'
        f" count(DISTINCT nullif({exact('distinct_id')}, '')) AS \"users\","
        f' min(time) AS "first", max(time) AS "last" FROM ({self._selection.events})'
        f" GROUP BY {exact('event_name')} ORDER BY events DESC, {exact('any_value(event_name)')} ASC"
    )


def local_time(self: ExportResult, zone: str, *, project_timezone: str | None = None) -> DuckDBPyRelation:
    """
    Give the events with two more columns: ``utc_time`` and ``local_time``, both TIMESTAMP. ``time`` stays as it is.
    Both are null where ``time`` is missing, or lies out of the years 1 to 9999.

    ``time`` is UTC in projects made since 2023, and the project's own wall clock in older ones; Mixpanel's answer does
    not say which. What says it is when events arrived, ``$mp_api_timestamp_ms`` or ``mp_processing_time_ms``, which is
    UTC in both: where that is off by whole quarter-hours, or is missing, this asks for ``project_timezone``, as
    ``check()`` finds it under ``time offset``. The hour that a wall clock shows twice in autumn cannot be told apart.

    Args:
        zone: whose wall clock ``local_time`` shows, such as ``"Europe/Berlin"``.
        project_timezone: of a project made before 2023; ``"UTC"`` for a newer one, without a look at the data.

    Raises:
        PlanError: there is no such zone; or no ``project_timezone`` is given, and ``time`` looks like a wall clock or
            does not show what it is.
        ClosedError: the result was closed.
    """
    events = self._selection.events
    with self._needing_table(), self._store.reading() as cursor:
        for each in (zone, "UTC" if project_timezone is None else project_timezone):
            known = "SELECT 1 FROM pg_timezone_names() WHERE name = ? LIMIT 1"
            if not isinstance(each, str) or not is_text(each) or not run(cursor, known, [each]):
                raise PlanError(f"no time zone is called {brief(each)}; their names are like 'Europe/Berlin'")
        if project_timezone is None:
            _check_is_utc(cursor, self._selection)
    # Near the ends of what a TIMESTAMP can be, some zone's time cannot, and DuckDB raises.
    meant = "time BETWEEN TIMESTAMP '0001-01-02' AND TIMESTAMP '9999-12-30'"
    utc = f"CASE WHEN {meant} THEN time END AT TIME ZONE {literal(project_timezone or 'UTC')}"
    return self._events(
        f"SELECT *, ({utc}) AT TIME ZONE 'UTC' AS \"utc_time\","
        f' ({utc}) AT TIME ZONE {literal(zone)} AS "local_time"'
        f" FROM ({events})"
    )


def _check_is_utc(cursor: DuckDBPyConnection, selection: Selection) -> None:
    """Raise ``PlanError`` where the events show that ``time`` is not UTC, or do not show that it is."""
    held = selection.held(cursor)
    offset = time_offset(cursor, selection.table, held)
    if offset.is_local:
        shares = ", ".join(f"{q / 4:+g} h off from UTC in {share:.0%}" for q, share in offset.shares if q)
        raise PlanError(
            f"time is {shares} of the events, as in projects made before 2023: pass project_timezone= as in the"
            " project's settings, or 'UTC' if it is UTC after all"
        )
    if not offset.is_known and any(batch.rows for batch in held):
        raise PlanError(
            f"whether time is UTC, these events do not tell: {offset.why_unknown()}. Pass project_timezone='UTC' for a"
            " project made since 2023, for an older one the time zone of its settings"
        )
