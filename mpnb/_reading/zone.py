"""The time zone of a table's days, kept beside the ledger."""

from __future__ import annotations

import contextlib
import os

import duckdb
from duckdb import DuckDBPyConnection

from mpnb._base.scalars import brief, is_text
from mpnb._base.sql import run, transaction
from mpnb._base.text import safe_text
from mpnb._errors import DatabaseError, PlanError
from mpnb._planning.options import DATABASE
from mpnb._planning.request import check_table_name
from mpnb._reading.facts import ZONE, fact, store_fact
from mpnb._storing import ledger
from mpnb._storing import tables as layout
from mpnb._storing.database import Store
from mpnb._storing.running import registration


def set_zone(table: str, zone: str | None, *, database: str | os.PathLike[str] | DuckDBPyConnection = DATABASE) -> None:
    """
    Keep the time zone of a table's days, that of the project's settings, so that reports count by the same days.

    ``for_analysis()`` and the reports of ``mpnb.analysis`` take it where no ``zone=`` is passed.

    Args:
        table: name of the events table.
        zone: a time zone such as ``"Europe/Berlin"``; ``None`` forgets the stored one.
        database: a path, or an open DuckDB connection.

    Raises:
        PlanError: there is no such zone.
        TableError: there is no such events table.
        DatabaseError: there is no database, another process has it open, or it cannot be written.
    """
    asked = check_table_name(table)
    with contextlib.closing(Store(database, create=False)) as store:
        try:
            with registration, store.committing(), store.reading() as cursor:
                layout.check(cursor, store.label)
                name = ledger.table_named(cursor, asked, store.label)
                if zone is not None:
                    check_zone(cursor, zone)
                with transaction(cursor):
                    store_fact(cursor, ZONE, name, zone)
        except duckdb.Error as error:
            raise DatabaseError(f"{store.label} cannot be written: {safe_text(str(error))}") from None


def zone_of(cursor: DuckDBPyConnection, table: str) -> str | None:
    """Return the stored zone of a table, or ``None``."""
    return fact(cursor, ZONE, table)


def check_zone(cursor: DuckDBPyConnection, zone: object) -> None:
    """Raise ``PlanError`` unless there is such a time zone."""
    known = "SELECT 1 FROM pg_timezone_names() WHERE name = ? LIMIT 1"
    if not isinstance(zone, str) or not is_text(zone) or not run(cursor, known, [zone]):
        raise PlanError(f"there is no time zone {brief(zone)}; names are like 'Europe/Berlin'", argument="zone")
