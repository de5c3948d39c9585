"""``create_views()``: typed events under their own names, for dbt, Metabase and whatever else reads the file."""

from __future__ import annotations

import duckdb
from duckdb import DuckDBPyRelation

from mpnb._base.scalars import brief, is_text
from mpnb._base.sql import exact, literal, quoted, run
from mpnb._base.text import safe_text
from mpnb._errors import DatabaseError, PlanError
from mpnb._message import Argument
from mpnb._reading.reader import Reader
from mpnb._reading.typed import everything, materialized
from mpnb._reading.view import views_of
from mpnb._storing import ledger

_TAKEN = ("information_schema", "pg_catalog", "temp", "system")


def create_views(reader: Reader, schema: str = "typed") -> DuckDBPyRelation:
    """Create a view for each typed event, as ``ExportResult.create_views()`` describes."""
    _check(schema)
    store, table = reader.store, reader.table
    try:
        with reader.needing_table(), store.reading() as cursor:
            found = run(cursor, f"SELECT DISTINCT {exact('event_name')} AS name FROM {quoted(table)} ORDER BY name ASC")
        if materialized(store, table, [name for (name,) in found], everything, schema=schema) is None:
            raise ledger.in_use(table)
        with store.reading() as cursor:
            views = {each.casefold(): names for each, names in views_of(cursor, table).items()}
    except duckdb.InterruptException:
        raise
    except duckdb.Error as error:
        raise DatabaseError(f"{store.label} cannot be written: {safe_text(str(error))}") from None
    rows = [
        f"({literal(event)}, {literal(f'{quoted(schema)}.{quoted(view)}')})"
        for event, view in sorted(views.get(schema.casefold(), {}).items())
    ]
    listed = f"VALUES {', '.join(rows)}" if rows else "SELECT '', '' WHERE false"
    return reader.relation(f'SELECT * FROM ({listed}) AS mpnb_views("event_name", "view_name")')


def _check(schema: object) -> None:
    known = isinstance(schema, str) and schema and is_text(schema) and "\0" not in schema
    if not known or str(schema).casefold().startswith("mpnb_") or str(schema).casefold() in _TAKEN:
        raise PlanError(Argument("schema"), f" must be the name of a schema of your own, not {brief(schema)}")
