"""
The tables that mpnb keeps in a database besides the events: how they are created and migrated.

    mpnb_meta        one row a fact about the file: ``layout`` is the version of what follows
    mpnb_batches     the ledger: one row a batch
    mpnb_rejected    lines that are no events, whole
    mpnb_snapshots   one row for each table of records without days that is in the file whole, or being fetched
    mpnb_pages       which page of a snapshot a batch of the ledger is; such a batch has no days
    mpnb_columns     the columns that the properties of events were given: one row a property of an event
    mpnb_forgotten   hashes of the ids of people who were forgotten
    mpnb_batch_ids   the sequence that ids of batches come from: no two batches of a file ever have the same one

Layout 1 had neither ``mpnb_meta`` nor the sequence, and no key in the ledger; layout 2 had no snapshots, layout 3 no
``mpnb_columns``, layout 4 no ``mpnb_forgotten``. Each later layout comes with a migration, which runs in the first
transaction after the file is opened, and with a sample file in ``tests/files``.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from duckdb import DuckDBPyConnection

from mpnb._base.sql import columns_of, quoted, run
from mpnb._errors import DatabaseError, TableError
from mpnb._message import Argument
from mpnb._mixpanel.export_api import COLUMNS, Columns
from mpnb._storing.database import (
    BATCH_IDS,
    COLUMNS_COLUMNS,
    FORGOTTEN,
    FORGOTTEN_COLUMNS,
    LEDGER,
    LEDGER_COLUMNS,
    META,
    META_COLUMNS,
    PAGES,
    PAGES_COLUMNS,
    REJECTED,
    REJECTED_COLUMNS,
    SNAPSHOTS,
    SNAPSHOTS_COLUMNS,
)
from mpnb._storing.database import COLUMNS as GIVEN

LAYOUT = 5

_OURS = (
    (META, META_COLUMNS),
    (LEDGER, LEDGER_COLUMNS),
    (REJECTED, REJECTED_COLUMNS),
    (SNAPSHOTS, SNAPSHOTS_COLUMNS),
    (PAGES, PAGES_COLUMNS),
    (GIVEN, COLUMNS_COLUMNS),
    (FORGOTTEN, FORGOTTEN_COLUMNS),
)
_KEYS = {META: "name", LEDGER: "table_name, batch_id", PAGES: "batch_id", FORGOTTEN: "id_hash"}


def check(cursor: DuckDBPyConnection, label: str) -> None:
    """
    Check that mpnb's tables in a database are its own and readable by this version. Writes nothing.

    Args:
        label: the name of the database, for messages.

    Raises:
        DatabaseError: a newer mpnb wrote the file.
        TableError: a table of one of these names is there with other columns, or is a view.
    """
    found = _version(cursor)
    if found is not None and found > LAYOUT:
        raise DatabaseError(
            f"{label} was written by a newer mpnb (layout {found}, this one knows {LAYOUT}): upgrade mpnb, ",
            "or pass another ",
            Argument("database", ""),
        )
    for name, columns in _OURS:
        _check_columns(cursor, label, name, columns)


def check_records(cursor: DuckDBPyConnection, label: str, table: str, columns: Columns) -> None:
    """Check that a table of records has these columns or does not exist. Raises ``TableError``."""
    _check_columns(cursor, label, table, columns)


def _check_columns(cursor: DuckDBPyConnection, label: str, name: str, columns: Columns) -> None:
    there = columns_of(cursor, name)
    if there is not None and (there != list(columns) or _is_view(cursor, name)):
        raise TableError(
            f"table {name!r} in {label} does not have the columns that mpnb gives it: pass another ",
            Argument("table", ""),
            ", or another ",
            Argument("database", ""),
        )


def is_current(cursor: DuckDBPyConnection) -> bool:
    """Whether all tables exist in the current layout, or none at all."""
    found = _version(cursor)
    return found is None or (
        found == LAYOUT and _has_ids(cursor) and all(columns_of(cursor, name) for name, _ in _OURS)
    )


def create(cursor: DuckDBPyConnection, table: str | None = None, columns: Columns = COLUMNS) -> None:
    """
    Create what is missing, and migrate what is older. Within a transaction of the caller, after ``check()``.

    Args:
        table: a table of records to make as well.
        columns: of that; those of events if not given.
    """
    found = _version(cursor)
    for name, own in _OURS:
        if columns_of(cursor, name) is None:
            key = _KEYS.get(name)
            _create_table(cursor, name, own, f", PRIMARY KEY ({key})" if key else "")
    if not _has_ids(cursor):
        # Typed tables refer to batches by id, even to deleted ones: no id may be used twice.
        [(last,)] = run(cursor, f"SELECT coalesce(max(batch_id), 0) FROM {LEDGER}")
        run(cursor, f"CREATE SEQUENCE {BATCH_IDS} START {last + 1}")
    for version in range(found or LAYOUT, LAYOUT):
        _MIGRATIONS[version](cursor)
    if found != LAYOUT:
        run(cursor, f"INSERT OR REPLACE INTO {META} VALUES ('layout', ?)", [str(LAYOUT)])
    if table is not None and columns_of(cursor, table) is None:
        _create_table(cursor, table, columns)


def _version(cursor: DuckDBPyConnection) -> int | None:
    """Return the layout of the existing tables, ``None`` if there are none."""
    if columns_of(cursor, META) == list(META_COLUMNS):
        rows = run(cursor, f"SELECT value FROM {META} WHERE name = 'layout'")
        if rows and re.fullmatch(r"\d{1,9}", rows[0][0] or ""):
            return int(rows[0][0])
    return None if columns_of(cursor, LEDGER) is None else 1


def _create_table(cursor: DuckDBPyConnection, name: str, columns: tuple[tuple[str, str], ...], more: str = "") -> None:
    zstd = "USING COMPRESSION zstd" if _has_zstd(cursor) else ""
    body = ", ".join(f"{quoted(column)} {kind} {zstd if kind == 'JSON' else ''}" for column, kind in columns)
    run(cursor, f"CREATE TABLE {quoted(name)} ({body}{more})")


def _has_ids(cursor: DuckDBPyConnection) -> bool:
    query = (
        "SELECT count(*) FROM duckdb_sequences() WHERE database_name = current_database()"
        f" AND schema_name = current_schema() AND sequence_name = '{BATCH_IDS}'"
    )
    return run(cursor, query) != [(0,)]


def _from_1(cursor: DuckDBPyConnection) -> None:
    """Add the key of the ledger: exports into two tables of a file could take the same ids."""
    before = f"{LEDGER}_1"
    run(cursor, f"ALTER TABLE {LEDGER} RENAME TO {before}")
    _create_table(cursor, LEDGER, LEDGER_COLUMNS, ", PRIMARY KEY (table_name, batch_id)")
    rest = ", ".join(quoted(name) for name, _ in LEDGER_COLUMNS[1:])
    # If a table has an id twice, it is unknown which rows belong to which batch: the second batch gets a new id.
    run(
        cursor,
        f"INSERT INTO {LEDGER} SELECT CASE WHEN n = 1 THEN batch_id ELSE nextval('{BATCH_IDS}') END, {rest} FROM ("
        f"SELECT *, row_number() OVER (PARTITION BY lower(table_name), batch_id ORDER BY rowid ASC) AS n"
        f" FROM {before})",
    )
    run(cursor, f"DROP TABLE {before}")


def _from_2(cursor: DuckDBPyConnection) -> None:
    """Change nothing: the tables that layout 2 had not are there by now."""


def _from_3(cursor: DuckDBPyConnection) -> None:
    """Keep the names of columns that typed tables have given: later properties would have taken some of them over."""
    is_there = run(
        cursor,
        "SELECT 1 FROM duckdb_tables() WHERE database_name = current_database() AND schema_name = 'mpnb_typed'"
        " AND table_name = 'events'",
    )
    if not is_there:
        return
    mine = "CASE current_schema() WHEN 'main' THEN '' ELSE current_schema() || chr(31) END"
    run(
        cursor,
        f"INSERT INTO {GIVEN} BY NAME SELECT table_name, event_name, one->>'/0' AS property,"
        " CASE WHEN one->>'/3' = 'false' THEN one->>'/1' END AS column_name, 0 AS since FROM ("
        f"SELECT substr(table_name, length({mine}) + 1) AS table_name, event_name, unnest(columns::JSON->'$[*]') AS one"
        f" FROM mpnb_typed.events WHERE starts_with(table_name, {mine})"
        " AND contains(table_name, chr(31)) = (current_schema() <> 'main'))",
    )


def _from_4(cursor: DuckDBPyConnection) -> None:
    """Change nothing: ``mpnb_forgotten`` is there by now. An earlier version would fetch the forgotten again."""


_MIGRATIONS: dict[int, Callable[[DuckDBPyConnection], None]] = {1: _from_1, 2: _from_2, 3: _from_3, 4: _from_4}


def _is_view(cursor: DuckDBPyConnection, name: str) -> bool:
    query = (
        "SELECT count(*) FROM duckdb_views() WHERE database_name = current_database()"
        " AND schema_name = current_schema() AND lower(view_name) = lower(?)"
    )
    return run(cursor, query, [name]) != [(0,)]


def _has_zstd(cursor: DuckDBPyConnection) -> bool:
    """
    Whether the file can hold zstd columns: its storage version must be 1.2 or later.

    If it cannot, DuckDB accepts the setting, but leaves the column uncompressed.
    """
    [(tags,)] = run(cursor, "SELECT tags FROM duckdb_databases() WHERE database_name = current_database()")
    version = re.match(r"v(\d+)\.(\d+)", (tags or {}).get("storage_version", "v9.9"))
    return version is None or (int(version[1]), int(version[2])) >= (1, 2)
