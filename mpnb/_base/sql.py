"""SQL helpers for every room: quoted names and texts, statements that run to their end, transactions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import duckdb
from duckdb import DuckDBPyConnection

from mpnb._base.interrupt import interruptible


def quoted(name: str) -> str:
    """Quote an identifier, whatever characters it has."""
    return '"' + name.replace('"', '""') + '"'


def run(cursor: DuckDBPyConnection, query: str, parameters: Any = None) -> list[Any]:
    """
    Run a statement to its end, or to a Ctrl-C.

    DuckDB 2.0 streams results, and an unfinished one blocks its connection.
    """
    return interruptible(cursor, lambda: list(cursor.execute(query, parameters).fetchall()))


@contextlib.contextmanager
def transaction(cursor: DuckDBPyConnection) -> Iterator[None]:
    """Commit at the end of the block, or roll back if it raises."""
    run(cursor, "BEGIN")
    try:
        yield
        run(cursor, "COMMIT")
    except BaseException:
        # After an error COMMIT would say nothing and commit nothing.
        with contextlib.suppress(duckdb.Error):
            run(cursor, "ROLLBACK")
        raise


def columns_of(cursor: DuckDBPyConnection, table: str) -> list[tuple[str, str]] | None:
    """Return the columns of a table as ``(name, type)``, or ``None`` if there is no such table."""
    rows = run(
        cursor,
        "SELECT column_name, data_type FROM duckdb_columns() WHERE database_name = current_database()"
        " AND schema_name = current_schema() AND lower(table_name) = lower(?) ORDER BY column_index ASC",
        [table],
    )
    return [(name, kind) for name, kind in rows] or None


def in_batches(batch_ids: Iterable[int], column: str) -> str:
    """Return the condition that selects some batches, as ranges of ids: the ids of an export are consecutive."""
    runs: list[list[int]] = []
    for batch_id in sorted(batch_ids):
        if runs and batch_id == runs[-1][1] + 1:
            runs[-1][1] = batch_id
        else:
            runs.append([batch_id, batch_id])
    return "(" + (" OR ".join(f"{column} BETWEEN {first} AND {last}" for first, last in runs) or "false") + ")"


def literal(text: str) -> str:
    """Quote a string literal, whatever characters it has. SQL cannot contain NUL."""
    return "(" + " || chr(0) || ".join("'" + part.replace("'", "''") + "'" for part in text.split("\0")) + ")"


def exact(text: str) -> str:
    """Return SQL for a text that is compared byte by byte, whatever the default collation of the user's connection."""
    return f"{text} COLLATE C"
