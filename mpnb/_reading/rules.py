"""Mixpanel's own rules as queries: duplicates, event names, the two kinds of time."""

from __future__ import annotations

from duckdb import DuckDBPyConnection, DuckDBPyRelation

from mpnb._base.scalars import brief, is_text
from mpnb._base.sql import exact, literal, quoted, run
from mpnb._errors import PlanError
from mpnb._reading.offset import time_offset
from mpnb._reading.reader import Reader
from mpnb._reading.selection import EVERY, Selection


def deduplicated(reader: Reader) -> DuckDBPyRelation:
    """Return the events without duplicates, as ``ExportResult.deduplicated()`` describes."""
    return reader.events(deduplicated_query(reader))


def deduplicated_query(reader: Reader) -> str:
    """
    Return the query for ``deduplicated()``.

    It sorts none but the rows that may be duplicates: those that have the same hash as another.
    """
    # By its full name, since the name alone may be that of a query, which has no row ids.
    table = f"{reader.store.place}.{quoted(reader.table)}"
    same = f"{exact('event_name')}, {exact('distinct_id')}, time, {exact('insert_id')}"
    hashed = f"CASE WHEN insert_id IS NOT NULL THEN hash({same}) END AS mpnb_hash, rowid AS mpnb_row"
    parts = {
        "mpnb_hashed": reader.selection.rows_of(table, hashed),
        "mpnb_twice": "SELECT mpnb_hash FROM mpnb_hashed GROUP BY mpnb_hash HAVING count(*) > 1",
        "mpnb_some": "SELECT mpnb_row FROM mpnb_hashed SEMI JOIN mpnb_twice USING (mpnb_hash)",
        "mpnb_left_out": (
            f"SELECT rowid AS mpnb_row FROM {table} AS e SEMI JOIN mpnb_some ON e.rowid = mpnb_row"
            f" QUALIFY row_number() OVER (PARTITION BY {same} ORDER BY"
            " TRY_CAST(properties->>'/mp_processing_time_ms' AS BIGINT) DESC NULLS LAST, batch_id DESC) > 1"
        ),
        "mpnb_rows": reader.selection.rows_of(table, f"{EVERY}, rowid AS mpnb_row"),
    }
    # Queries by name, not in each other, since users may limit how deep those go.
    named = ", ".join(f"{name} AS NOT MATERIALIZED ({query})" for name, query in parts.items())
    return (
        f"SELECT * FROM (WITH {named}"
        " SELECT * EXCLUDE (mpnb_row) FROM mpnb_rows ANTI JOIN mpnb_left_out USING (mpnb_row))"
    )


def duplicates(reader: Reader) -> DuckDBPyRelation:
    """Return the number of rows that ``deduplicated()`` leaves out, by event name."""
    return reader.relation(duplicates_query(reader))


def duplicates_query(reader: Reader) -> str:
    """Return the query for ``duplicates()``."""
    return (
        'SELECT any_value(event_name) AS "event_name", sum(events)::BIGINT AS "events",'
        ' sum(CASE WHEN insert_id IS NULL THEN 0 ELSE events - 1 END)::BIGINT AS "duplicates"'
        " FROM (SELECT any_value(event_name) AS event_name, any_value(insert_id) AS insert_id, count(*) AS events"
        f" FROM ({reader.selection.events})"
        f" GROUP BY {exact('event_name')}, {exact('distinct_id')}, time, {exact('insert_id')})"
        f" GROUP BY {exact('event_name')} ORDER BY duplicates DESC, {exact('any_value(event_name)')} ASC"
    )


def event_names(reader: Reader) -> DuckDBPyRelation:
    """Return one row per event name, most frequent first."""
    return reader.relation(event_names_query(reader))


def event_names_query(reader: Reader) -> str:
    """Return the query for ``event_names()``."""
    return (
        'SELECT any_value(event_name) AS "event_name", count(*) AS "events",'
        f" count(DISTINCT nullif({exact('distinct_id')}, '')) AS \"users\","
        f' min(time) AS "first", max(time) AS "last" FROM ({reader.selection.events})'
        f" GROUP BY {exact('event_name')} ORDER BY events DESC, {exact('any_value(event_name)')} ASC"
    )


def local_time(reader: Reader, zone: str, *, project_timezone: str | None = None) -> DuckDBPyRelation:
    """Return the events with ``utc_time`` and ``local_time``, as ``ExportResult.local_time()`` describes."""
    return reader.events(local_time_query(reader, zone, project_timezone))


def local_time_query(reader: Reader, zone: str, project_timezone: str | None) -> str:
    """Return the query for ``local_time()``. Raises ``PlanError`` as that does."""
    events = reader.selection.events
    with reader.needing_table(), reader.store.reading() as cursor:
        for each in (zone, "UTC" if project_timezone is None else project_timezone):
            known = "SELECT 1 FROM pg_timezone_names() WHERE name = ? LIMIT 1"
            if not isinstance(each, str) or not is_text(each) or not run(cursor, known, [each]):
                raise PlanError(f"there is no time zone {brief(each)}; names are like 'Europe/Berlin'")
        if project_timezone is None:
            _check_is_utc(cursor, reader.selection)
    # Near the ends of what a TIMESTAMP can be, some zone's time cannot, and DuckDB raises.
    meant = "time BETWEEN TIMESTAMP '0001-01-02' AND TIMESTAMP '9999-12-30'"
    utc = f"CASE WHEN {meant} THEN time END AT TIME ZONE {literal(project_timezone or 'UTC')}"
    return (
        f"SELECT *, ({utc}) AT TIME ZONE 'UTC' AS \"utc_time\","
        f' ({utc}) AT TIME ZONE {literal(zone)} AS "local_time"'
        f" FROM ({events})"
    )


def _check_is_utc(cursor: DuckDBPyConnection, selection: Selection) -> None:
    """Raise ``PlanError`` if the events show that ``time`` is not UTC, or do not show what it is."""
    held = selection.held(cursor)
    offset = time_offset(cursor, selection.table, held)
    if offset.is_local:
        shares = ", ".join(f"{q / 4:+g} h off from UTC in {share:.0%}" for q, share in offset.shares if q)
        raise PlanError(
            f"time is {shares} of the events, as in projects made before 2023: pass project_timezone= as in the"
            " project's settings, or 'UTC' if it is UTC after all",
            argument="project_timezone",
        )
    if not offset.is_known and any(batch.rows for batch in held):
        raise PlanError(
            f"these events do not show whether time is UTC: {offset.why_unknown()}. Pass project_timezone='UTC' for a"
            " project made since 2023, for an older one the time zone of its settings",
            argument="project_timezone",
        )
