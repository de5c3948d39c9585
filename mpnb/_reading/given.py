"""The names of columns that were given to properties: ``mpnb_columns``, beside the ledger, one row a property."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from duckdb import DuckDBPyConnection

from mpnb._base.sql import columns_of, exact, run
from mpnb._storing import ledger
from mpnb._storing.database import COLUMNS


@dataclass(frozen=True, slots=True)
class Given:
    """
    What a property of an event was given.

    Attributes:
        column: the name of its column, ``None`` if it is one of the five of every event.
        since: the first batch that had the property when it got the name.
    """

    column: str | None
    since: int


def given_names(cursor: DuckDBPyConnection, table: str, event: str) -> dict[str, Given]:
    """Return what the properties of an event were given so far."""
    if columns_of(cursor, COLUMNS) is None:
        return {}
    query = (
        f"SELECT property, column_name, since FROM {COLUMNS}"
        f" WHERE {ledger.of_table(table)} AND {exact('event_name')} = ?"
    )
    return {name: Given(column, since) for name, column, since in run(cursor, query, [event])}


def give(cursor: DuckDBPyConnection, table: str, event: str, names: Mapping[str, Given]) -> None:
    """Add what properties are given, within a transaction of the caller."""
    if names and columns_of(cursor, COLUMNS) is not None:
        run(
            cursor,
            f"DELETE FROM {COLUMNS} WHERE {ledger.of_table(table)} AND {exact('event_name')} = ?"
            f" AND list_contains(?, {exact('property')})",
            [event, list(names)],
        )
        run(
            cursor,
            f"INSERT INTO {COLUMNS} BY NAME SELECT ? AS table_name, ? AS event_name,"
            " unnest(?::VARCHAR[]) AS property, unnest(?::VARCHAR[]) AS column_name, unnest(?::BIGINT[]) AS since",
            [table, event, list(names), [g.column for g in names.values()], [g.since for g in names.values()]],
        )


def forget_names(cursor: DuckDBPyConnection, table: str) -> None:
    """Delete what was given to a table's properties, within a transaction of the caller."""
    if columns_of(cursor, COLUMNS) is not None:
        run(cursor, f"DELETE FROM {COLUMNS} WHERE {ledger.of_table(table)}")
