"""SQL that every room writes: names and texts quoted, statements run to their end, transactions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import duckdb
from duckdb import DuckDBPyConnection


def quoted(name: str) -> str:
    """Quote an identifier, whatever is in it."""
    return '"' + name.replace('"', '""') + '"'


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Raise ``KeyboardInterrupt`` where a Ctrl-C has ended a query within the block: DuckDB raises something else."""
    try:
        yield
    except RuntimeError as error:
        if str(error) == "Query interrupted":
            raise KeyboardInterrupt from None
        raise


def run(cursor: DuckDBPyConnection, query: str, parameters: Any = None) -> list[Any]:
    """Run a statement to its end: DuckDB 2.0 streams, and an unfinished result owns the connection."""
    with interruptible():
        return list(cursor.execute(query, parameters).fetchall())


@contextlib.contextmanager
def transaction(cursor: DuckDBPyConnection) -> Iterator[None]:
    """Commit what the block does at its end, or nothing of it where it raises."""
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
    """Return the columns of a table as ``(name, type)``, or ``None`` where there is none of that name."""
    rows = run(
        cursor,
        "SELECT column_name, data_type FROM duckdb_columns() WHERE database_name = current_database()"
        " AND schema_name = current_schema() AND lower(table_name) = lower(?) ORDER BY column_index ASC",
        [table],
    )
    return [(name, kind) for name, kind in rows] or None


def in_batches(batch_ids: Iterable[int], column: str) -> str:
    """Return the condition for some batches, as ranges of their ids: an export has consecutive ones."""
    runs: list[list[int]] = []
    for batch_id in sorted(batch_ids):
        if runs and batch_id == runs[-1][1] + 1:
            runs[-1][1] = batch_id
        else:
            runs.append([batch_id, batch_id])
    return "(" + (" OR ".join(f"{column} BETWEEN {first} AND {last}" for first, last in runs) or "false") + ")"


def literal(text: str) -> str:
    """Quote a text, whatever is in it. No statement can hold NUL."""
    return "(" + " || chr(0) || ".join("'" + part.replace("'", "''") + "'" for part in text.split("\0")) + ")"


def exact(text: str) -> str:
    """Return a text of SQL that equals no other, whatever collation the user's connection has by default."""
    return f"{text} COLLATE C"
