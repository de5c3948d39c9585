"""What is stored about a table as a whole, besides its rows: ``mpnb_meta``, beside the ledger, one row a fact."""

from __future__ import annotations

from duckdb import DuckDBPyConnection

from mpnb._base.sql import columns_of, run
from mpnb._storing import tables as layout
from mpnb._storing.database import META

ZONE, TYPES, VIEWS = "zone", "types", "views"
FACTS = (ZONE, TYPES, VIEWS)


def fact(cursor: DuckDBPyConnection, what: str, table: str) -> str | None:
    """Return a fact about a table, or ``None``."""
    if columns_of(cursor, META) is None:
        return None
    rows = run(cursor, f"SELECT value FROM {META} WHERE name = ?", [_key(what, table)])
    return rows[0][0] if rows else None


def store_fact(cursor: DuckDBPyConnection, what: str, table: str, value: str | None) -> None:
    """Store a fact about a table, or delete it, within a transaction of the caller."""
    layout.create(cursor)
    run(cursor, f"DELETE FROM {META} WHERE name = ?", [_key(what, table)])
    if value is not None:
        run(cursor, f"INSERT INTO {META} VALUES (?, ?)", [_key(what, table), value])


def forget_facts(cursor: DuckDBPyConnection, table: str) -> None:
    """Delete all facts about a table, within a transaction of the caller."""
    if columns_of(cursor, META) is not None:
        run(cursor, f"DELETE FROM {META} WHERE list_contains(?, name)", [[_key(what, table) for what in FACTS]])


def _key(what: str, table: str) -> str:
    return f"{what} of {table.lower()}"
