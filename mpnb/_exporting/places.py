"""Where the events of a call are kept: in a table of a database, or in a lake."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from duckdb import DuckDBPyConnection

from mpnb._base.scalars import brief
from mpnb._errors import PlanError, TableError
from mpnb._message import Argument
from mpnb._mixpanel.export_api import COLUMNS
from mpnb._planning.address import Address, address_of, is_url
from mpnb._planning.request import Asked, Database
from mpnb._planning.resource import Events
from mpnb._storing import ledger, tables
from mpnb._storing.database import MEMORY, Store, check_database, check_path
from mpnb._storing.lake import Lake, check_source, refusing
from mpnb._storing.mirror import check_own, lake_of, mirror, mirror_store, objects_at, renew_views
from mpnb._storing.objects import Objects
from mpnb._storing.running import registration
from mpnb._storing.table import Rows


class Place(Protocol):
    """What a kind of place does in its own way."""

    def open(self) -> Store:
        """Open the database of an export, made if it is missing."""

    def existing(self) -> AbstractContextManager[Store | None]:
        """Open the database of a plan, which writes nothing; ``None`` where there is nothing yet."""

    def check(self, cursor: DuckDBPyConnection, asked: Asked, store: Store, rows: int) -> None:
        """Check that the place accepts what is asked for, where it has so many rows. Raises ``TableError``."""

    def rows(self, resource: Events, export_id: str) -> Rows | None:
        """Return where rows go; ``None`` for the table itself."""

    def refresh(self, store: Store) -> None:
        """Let a result read what has landed by now."""


def place_of(asked: Asked) -> Place:
    """Return the place that a call asks for."""
    if asked.destination is None:
        return InDatabase(asked.database)
    return InLake(asked.destination, is_elsewhere=asked.executor is not None)


def opened(place: Database, kept_in: Database | None = None) -> Store:
    """
    Open what is there: a database, or a mirror of a lake, also by the database that it is kept in.

    Args:
        kept_in: the database of a lake's mirror; without, a temporary one.

    Raises:
        DatabaseError: there is no database.
        PlanError: a lake cannot be read, or there is none to be mirrored.
        TableError: ``kept_in`` has something else.
    """
    if not isinstance(place, DuckDBPyConnection) and _is_lake(place):
        return InLake(address_of(place, "database"), kept_in).opened()
    if kept_in is not None:
        shown = "the given connection" if isinstance(place, DuckDBPyConnection) else brief(os.fspath(place))
        raise PlanError(Argument("database"), f" is for what is made of a lake, and {shown} is no lake that is there")
    store = Store(place, create=False)
    try:
        with store.reading() as cursor:
            lake = lake_of(cursor)
        if lake is None:
            return store
    except BaseException:
        store.close()
        raise
    store.close()
    return InLake(address_of(lake, "database"), place).opened()


def _is_lake(database: str | os.PathLike[str]) -> bool:
    """Whether it is a URL, or a folder that has the objects of a project."""
    if is_url(database):
        return True
    with contextlib.suppress(OSError, ValueError, TypeError, RuntimeError):
        return any(Path(database).expanduser().glob("project_id=*/date=*"))
    return False


class InDatabase:
    """A table of a DuckDB database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def open(self) -> Store:
        """Open the database."""
        return Store(self._database)

    def existing(self) -> AbstractContextManager[Store | None]:
        """Open the database where there is one, and see that one could be made where there is none."""
        return existing(self._database)

    def check(self, cursor: DuckDBPyConnection, asked: Asked, store: Store, rows: int) -> None:
        """Check that it is no lake's, the source and the columns of the table, and that a new one is empty."""
        check_own(cursor, store.label)
        if asked.source is not None:
            ledger.check_source(cursor, asked.table, asked.source)
        tables.check_records(cursor, store.label, asked.table, COLUMNS)
        check_empty(asked.table, asked.mode, rows, "events")

    def rows(self, resource: Events, export_id: str) -> Rows | None:
        """Return ``None``: rows go into the table."""
        return None

    def refresh(self, store: Store) -> None:
        """Do nothing: a table shows what has been committed."""


class InLake:
    """
    The objects of a lake, and a mirror of them.

    Args:
        kept_in: the database that has the mirror; without, a temporary one for the time of a call or a result.
        is_elsewhere: whether workers of an executor put the objects.
    """

    def __init__(self, address: Address, kept_in: Database | None = None, *, is_elsewhere: bool = False) -> None:
        self._address = address
        self._kept_in = kept_in
        self._is_elsewhere = is_elsewhere

    def _objects(self) -> Objects:
        with refusing():
            return objects_at(self._address)

    def open(self) -> Store:
        """Make a mirror, which an export fills when nobody else may change the lake."""
        return mirror_store(self._address, self._objects(), self._kept_in)

    def opened(self) -> Store:
        """Make a mirror of all that is there, or bring it up to date."""
        store = self.open()
        try:
            with registration, store.committing(), store.reading() as cursor:
                self._fill(cursor, None)
        except BaseException:
            store.close()
            raise
        return store

    @contextlib.contextmanager
    def existing(self) -> Iterator[Store | None]:
        """Make a mirror of all that is there, for a plan."""
        with contextlib.closing(self.opened()) as store:
            yield store

    def _fill(self, cursor: DuckDBPyConnection, project: str | None) -> None:
        with refusing(), tempfile.TemporaryDirectory(prefix="mpnb-lake-") as scratch:
            mirror(cursor, self._objects(), Path(scratch), project)

    def check(self, cursor: DuckDBPyConnection, asked: Asked, store: Store, rows: int) -> None:
        """Check the source of the project, and that a new one has no object."""
        assert asked.source is not None
        with refusing():
            check_source(self._objects(), asked.source)
        days = ledger.held_batches(cursor, asked.table)
        if asked.mode == "new" and days:
            raise TableError(
                f"{store.label} has {len(days):,} days of project {asked.source.project_id} or more, and ",
                Argument("mode", "new"),
                " needs none: pass another ",
                Argument("destination", ""),
                ", or ",
                Argument("mode", "resume"),
                " or ",
                Argument("mode", "refresh"),
                argument="destination",
            )

    def rows(self, resource: Events, export_id: str) -> Rows | None:
        """Return the lake's objects."""
        return Lake(self._objects(), resource, export_id, lands_together=not self._is_elsewhere)

    def refresh(self, store: Store) -> None:
        """Make the views anew: each names the objects that it reads."""
        if not store.closed:
            with store.committing(), store.reading() as cursor:
                renew_views(cursor, self._objects())


def check_empty(table: str, mode: str, rows: int, records: str) -> None:
    """Raise ``TableError`` if a table has rows, and is to be a new one."""
    if mode == "new" and rows:
        raise TableError(
            f"table {table!r} has {rows:,} {records}, and ",
            Argument("mode", "new"),
            " needs an empty one: pass another ",
            Argument("table", ""),
            ", or ",
            Argument("mode", "resume"),
            " or ",
            Argument("mode", "refresh"),
        )


@contextlib.contextmanager
def existing(database: Database) -> Iterator[Store | None]:
    """Open a database for reading where there is one, and see that one could be made where there is none."""
    if not isinstance(database, DuckDBPyConnection) and (name := check_database(database)) != MEMORY:
        path = Path(name).absolute()
        if not path.exists():
            check_path(path, create=True)
            yield None
            return
    with contextlib.closing(Store(database)) as store:
        yield store
