"""``drop``: delete a table of events or profiles with everything that mpnb stores about it."""

from __future__ import annotations

import contextlib
import os

import duckdb
from duckdb import DuckDBPyConnection

from mpnb._base.sql import columns_of, quoted, run, transaction
from mpnb._base.text import safe_text
from mpnb._errors import DatabaseError
from mpnb._mixpanel import engage_api
from mpnb._mixpanel.export_api import COLUMNS
from mpnb._planning.options import DATABASE
from mpnb._planning.request import check_table_name
from mpnb._reading import analysed, typed
from mpnb._reading.facts import forget_facts
from mpnb._reading.given import forget_names
from mpnb._reading.reader import Reader
from mpnb._storing import ledger, leftovers, snapshot, versions
from mpnb._storing import tables as layout
from mpnb._storing.database import LEDGER, REJECTED, Store
from mpnb._storing.mirror import check_own
from mpnb._storing.running import registration
from mpnb._storing.snapshot import staging


def drop(table: str, *, database: str | os.PathLike[str] | DuckDBPyConnection = DATABASE) -> int:
    """
    Delete a table of events or profiles with everything that mpnb stores about it, so that the next export starts anew.

    Its batches in the ledger, its rejected lines and its typed tables are deleted in the same transaction, and so are
    the history of profiles, and pages that were fetched and not published. The file does not shrink, but its free
    space is reused.

    Args:
        table: name of the table.
        database: a path, or an open DuckDB connection.

    Returns:
        The number of events or profiles that it had.

    Raises:
        TableError: there is no such table, an export into it is running, or the table of that name was not made
            by an export.
        DatabaseError: there is no database, another process has it open, or it cannot be written.
    """
    asked = check_table_name(table)
    with contextlib.closing(Store(database, create=False)) as store:
        try:
            return _drop(store, asked)
        except duckdb.Error as error:
            raise DatabaseError(f"{store.label} cannot be written: {safe_text(str(error))}") from None


def _drop(store: Store, asked: str) -> int:
    with registration, store.committing(), store.reading() as cursor:
        layout.check(cursor, store.label)
        check_own(cursor, store.label)
        leftovers.settle(cursor)
        name, people = _named(cursor, store, asked)
        ledger.check_unused(cursor, staging(name) if people else name, name)
        with transaction(cursor):
            rows = _rows(cursor, name)
            forget_made(cursor, name)
            forget_facts(cursor, name)
            forget_names(cursor, name)
            if people:
                snapshot.drop_staged(cursor, name)
                versions.drop(cursor, name)
                snapshot.forget(cursor, name)
            for ours in (LEDGER, REJECTED):
                run(cursor, f"DELETE FROM {ours} WHERE {ledger.of_table(name)}")
            run(cursor, f"DROP TABLE IF EXISTS {quoted(name)}")
    return rows


def counted(table: str, database: str | os.PathLike[str] | DuckDBPyConnection) -> tuple[int, str]:
    """Return what ``drop`` would delete: how many there are, and of what. Raises as ``drop`` does."""
    asked = check_table_name(table)
    with contextlib.closing(Store(database, create=False)) as store, store.reading() as cursor:
        layout.check(cursor, store.label)
        check_own(cursor, store.label)
        name, people = _named(cursor, store, asked)
        return _rows(cursor, name), "profiles" if people else "events"


def drop_made(reader: Reader) -> None:
    """Drop what was made of a table of events, as ``ExportResult.forget_typed()`` describes."""
    with registration, reader.store.committing(), reader.store.reading() as cursor:
        ledger.check_unused(cursor, reader.table)
        try:
            with transaction(cursor):
                forget_made(cursor, reader.table)
        except duckdb.Error as error:
            raise DatabaseError(f"{reader.store.label} cannot be written: {safe_text(str(error))}") from None


def forget_made(cursor: DuckDBPyConnection, table: str) -> None:
    """Drop the typed tables of a table of events and those for analysis, within a transaction of the caller."""
    typed.forget(cursor, table)
    analysed.forget(cursor, table)


def _named(cursor: DuckDBPyConnection, store: Store, asked: str) -> tuple[str, bool]:
    """Return the table of a name, whatever its case, and whether it is one of profiles. Raises ``TableError``."""
    people = snapshot.named(cursor, asked)
    name = people or ledger.table_named(cursor, asked, store.label)
    layout.check_records(cursor, store.label, name, engage_api.COLUMNS if people else COLUMNS)
    return name, people is not None


def _rows(cursor: DuckDBPyConnection, name: str) -> int:
    is_there = columns_of(cursor, name) is not None
    return int(run(cursor, f"SELECT count(*) FROM {quoted(name)}")[0][0]) if is_there else 0
