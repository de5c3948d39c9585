"""
The history of a table of profiles: every version that a snapshot has shown, and from when to when.

A version is valid from the snapshot that showed it first to the one that no longer did. Versions without an end are
those of the latest snapshot. Once a table has a history, each snapshot goes on with it.
"""

from __future__ import annotations

from datetime import datetime

from duckdb import DuckDBPyConnection

from mpnb._base.sql import columns_of, quoted, run
from mpnb._mixpanel.export_api import Columns
from mpnb._storing import tables
from mpnb._storing.database import SNAPSHOTS
from mpnb._storing.ledger import of_table

COLUMNS: Columns = (
    ("distinct_id", "VARCHAR"),
    ("properties", "JSON"),
    ("valid_from", "TIMESTAMP"),
    ("valid_to", "TIMESTAMP"),
)


def history_of(table: str) -> str:
    """Return the name of the table with the history of another."""
    return f"{table}_history"


def exists(cursor: DuckDBPyConnection, table: str) -> bool:
    """Whether a table has a history."""
    return columns_of(cursor, history_of(table)) == list(COLUMNS)


def begin(cursor: DuckDBPyConnection, table: str) -> None:
    """Begin a history with the snapshot that the table has, if there is one; within a transaction of the caller."""
    if exists(cursor, table):
        return
    tables.create(cursor, history_of(table), COLUMNS)
    taken = run(cursor, f"SELECT requested_at FROM {SNAPSHOTS} WHERE {of_table(table)} AND published_at IS NOT NULL")
    if taken and columns_of(cursor, table) is not None:
        add(cursor, table, table, taken[0][0])


def add(cursor: DuckDBPyConnection, table: str, snapshot: str, at: datetime) -> None:
    """
    Add a snapshot to a history, within a transaction of the caller.

    Args:
        snapshot: the table that has it, each id once.
        at: when it was taken.
    """
    history, new = quoted(history_of(table)), quoted(snapshot)
    # Where the clock was set back, a version would end before it begins.
    [(at,)] = run(cursor, f"SELECT greatest(?::TIMESTAMP, max(valid_from), max(valid_to)) FROM {history}", [at])
    # Of texts: the sums of two versions are compared, so that no join holds all profiles in memory.
    same = "n.distinct_id = h.distinct_id AND md5_number(n.properties::VARCHAR) = md5_number(h.properties::VARCHAR)"
    run(
        cursor,
        f"UPDATE {history} AS h SET valid_to = ? WHERE valid_to IS NULL"
        f" AND NOT EXISTS (SELECT 1 FROM {new} AS n WHERE {same})",
        [at],
    )
    there = f"SELECT 1 FROM {history} AS h WHERE h.valid_to IS NULL AND h.distinct_id = n.distinct_id"
    run(
        cursor,
        f"INSERT INTO {history} SELECT distinct_id, properties, ?, NULL FROM {new} AS n WHERE NOT EXISTS ({there})",
        [at],
    )


def forget(cursor: DuckDBPyConnection, table: str, condition: str) -> int:
    """Delete versions for good, within a transaction of the caller. Return how many those were."""
    if not exists(cursor, table):
        return 0
    history = quoted(history_of(table))
    [(count,)] = run(cursor, f"SELECT count(*) FROM {history} WHERE {condition}")
    run(cursor, f"DELETE FROM {history} WHERE {condition}")
    return int(count)


def drop(cursor: DuckDBPyConnection, table: str) -> None:
    """Delete the history of a table, within a transaction of the caller."""
    if exists(cursor, table):
        run(cursor, f"DROP TABLE {quoted(history_of(table))}")
