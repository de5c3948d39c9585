"""
The views of typed events for others, such as dbt and Metabase: which there are, and what each is.

A view has the rows of the event's table, and from the JSON those of batches that the table does not have yet, so that
it is right in rows whatever was exported since. It is made again whenever the table changes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from duckdb import DuckDBPyConnection

from mpnb._base.sql import exact, in_batches, literal, quoted, run
from mpnb._reading.facts import VIEWS, fact, store_fact
from mpnb._reading.properties import BATCH_ID, FIXED, Column, typed_query
from mpnb._storing import ledger
from mpnb._storing.database import LEDGER

# The views by schema and event.
Views = dict[str, dict[str, str]]

AGAIN = "events that came since do not fit this view: call create_views() again"


def views_of(cursor: DuckDBPyConnection, table: str) -> Views:
    """Return the names of the views of a table's events, by schema and event."""
    stored = fact(cursor, VIEWS, table)
    return {} if stored is None else dict(json.loads(stored))


def name_views(cursor: DuckDBPyConnection, table: str, schema: str, events: Iterable[str]) -> Views:
    """
    Name a view in a schema for each event, and record it. Within a transaction of the caller.

    Names that differ only in case, or are taken by something else there, get a number appended. One once given stays.
    """
    views = views_of(cursor, table)
    schema = next((each for each in views if each.casefold() == schema.casefold()), schema)
    mine = views.setdefault(schema, {})
    taken = run(
        cursor,
        "SELECT table_name FROM information_schema.tables WHERE table_catalog = current_database()"
        " AND lower(table_schema) = lower(?)",
        [schema],
    )
    used = {name.casefold() for (name,) in taken} | {name.casefold() for name in mine.values()}
    for event in events:
        if event not in mine:
            first = name = event.replace("\0", "_") or "_"
            number = 2
            while name.casefold() in used:
                name, number = f"{first}_{number}", number + 1
            used.add(name.casefold())
            mine[event] = name
    store_fact(cursor, VIEWS, table, json.dumps(views, ensure_ascii=False))
    return views


def renew(
    cursor: DuckDBPyConnection,
    table: str,
    event: str,
    rows: str,
    covers: Iterable[int],
    columns: Sequence[Column],
    views: Mapping[str, Mapping[str, str]],
) -> None:
    """
    Make the views of an event anew, within a transaction of the caller.

    Args:
        rows: the table of the typed event.
        covers: the batches whose rows it has.
        columns: its columns.
    """
    for schema, names in views.items():
        if event in names:
            run(cursor, f"CREATE SCHEMA IF NOT EXISTS {quoted(schema)}")
            query = _query(cursor, table, event, rows, frozenset(covers), columns)
            run(cursor, f"CREATE OR REPLACE VIEW {quoted(schema)}.{quoted(names[event])} AS {query}")


def drop_views(cursor: DuckDBPyConnection, table: str) -> None:
    """Drop the views of a table's events, and schemas that are empty then. Within a transaction of the caller."""
    views = views_of(cursor, table)
    for schema, names in views.items():
        for name in names.values():
            run(cursor, f"DROP VIEW IF EXISTS {quoted(schema)}.{quoted(name)}")
        rest = "SELECT 1 FROM information_schema.tables WHERE table_catalog = current_database() AND table_schema = ?"
        if schema != "main" and not run(cursor, f"{rest} LIMIT 1", [schema]):
            run(cursor, f"DROP SCHEMA IF EXISTS {quoted(schema)}")
    if views:
        store_fact(cursor, VIEWS, table, None)


def _query(
    cursor: DuckDBPyConnection, table: str, event: str, rows: str, covers: frozenset[int], columns: Sequence[Column]
) -> str:
    # By their schemas and not by the database, which another tool may call otherwise.
    [(here,)] = run(cursor, "SELECT current_schema()")
    held = f"SELECT batch_id FROM {quoted(here)}.{LEDGER} WHERE {ledger.of_table(table)} AND status IN {ledger.HELD}"
    new = (
        f"SELECT * FROM {quoted(here)}.{quoted(table)} WHERE {exact('event_name')} = {literal(event)}"
        f" AND {_besides(covers)} AND batch_id IN ({held})"
    )
    shown = ", ".join([*FIXED.values(), *(quoted(c.name) for c in columns if not c.fixed)])
    return (
        f"SELECT {shown} FROM {rows} WHERE {in_batches(covers, BATCH_ID)} AND {BATCH_ID} IN ({held})"
        f" UNION ALL SELECT {shown} FROM ({typed_query(new, columns, otherwise=AGAIN)})"
    )


def _besides(covers: frozenset[int]) -> str:
    """Return the condition for other batches, as ranges: DuckDB then skips what lies outside."""
    gaps, last = [], None
    for batch_id in sorted(covers):
        if last is None:
            gaps.append(f"batch_id < {batch_id}")
        elif batch_id > last + 1:
            gaps.append(f"batch_id BETWEEN {last + 1} AND {batch_id - 1}")
        last = batch_id
    return "(" + (" OR ".join([*gaps, f"batch_id > {last}"]) if last is not None else "true") + ")"
