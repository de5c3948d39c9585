"""Every place where batches land, with records that can land there, and a look at it by other ways than its own."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import polars

from mpnb._planning.address import address_of
from mpnb._planning.batches import Batch, Page, Session
from mpnb._planning.profiles import Profiles, ProfileSource
from mpnb._planning.request import Source
from mpnb._planning.resource import Events, Resource
from mpnb._storing.database import Store
from mpnb._storing.destination import Destination
from mpnb._storing.lake import Lake
from mpnb._storing.mirror import mirror_store, objects_at, renew_view, table_for
from mpnb._storing.objects import Objects
from mpnb._storing.snapshot import Publishing, staging
from mpnb._storing.table import Table
from tests._helpers import day, query


@dataclass(frozen=True)
class Records:
    """
    What lands.

    Attributes:
        batches: some that cannot be split, in order.
        large: one that can.
        parts: the names of its parts.
        lines: makes so many lines of records that are of the batch of that number, from 1.
        envelope: of the first part of ``large``, where its answer says something besides its records.
    """

    resource: Resource
    batches: tuple[Batch, Batch, Batch]
    large: Batch
    parts: tuple[str, ...]
    lines: Callable[[int, int], list[bytes]]
    envelope: dict[str, Any] | None = None


def _events(count: int, number: int) -> list[bytes]:
    time = 1767225600 + 86400 * (number - 1)
    return [json.dumps({"event": "E", "properties": {"time": time + n}}).encode() for n in range(count)]


def _profiles(count: int, number: int) -> list[bytes]:
    return [json.dumps({"$distinct_id": f"{number}-{n}", "$properties": {}}).encode() for n in range(count)]


EVENTS = Records(
    Events(Source("7")),
    (Batch(day(1), day(1)), Batch(day(2), day(2)), Batch(day(3), day(3))),
    Batch(day(1), day(7)),
    tuple(str(day(n)) for n in range(1, 8)),
    _events,
)
SESSION = Session("s", 40, 10)
PROFILES = Records(
    Profiles(ProfileSource("7")),
    (
        Batch(day(1), day(1), page=Page(1, 10, SESSION)),
        Batch(day(1), day(1), page=Page(2, 10, SESSION)),
        Batch(day(1), day(1), page=Page(3, 10, SESSION)),
    ),
    Batch(day(1), day(1), page=Page(0, 10)),
    ("page 0",),
    _profiles,
    {"page": 0, "page_size": 2, "session_id": "s", "total": 2, "status": "ok"},
)


class Place(Protocol):
    """One implementation."""

    @property
    def records(self) -> Records:
        """Return what lands there."""

    def destination(self, export_id: str = "e") -> Destination:
        """Make a destination for one more export into the same place."""

    def rows(self) -> dict[int, int]:
        """Count the records by batch."""

    def states(self) -> list[tuple[str, str]]:
        """Return label and status of every batch that is known, in order."""

    def rows_afterwards(self) -> int:
        """Let go of the place, and count what anybody else reads in it."""


@dataclass
class InDuckDB:
    """A table of a file, of events, or of profiles that are staged."""

    store: Store
    path: Path
    records: Records

    @property
    def _table(self) -> str:
        return "events" if self.records is EVENTS else staging("profiles")

    def destination(self, export_id: str = "e") -> Destination:
        """Make a destination for one more export into the same table."""
        resource = self.records.resource
        if isinstance(resource, Profiles):
            course = Publishing("profiles", resource, export_id, "e", self.records.large)
            return Table(self.store, self._table, resource, export_id, course)
        return Table(self.store, self._table, resource, export_id)

    def rows(self) -> dict[int, int]:
        """Count the records by batch."""
        with self.store.reading() as cursor:
            return dict(cursor.execute(f"SELECT batch_id, count(*) FROM {self._table} GROUP BY ALL").fetchall())

    def states(self) -> list[tuple[str, str]]:
        """Return days, or page, and status of every row of the ledger."""
        page = "SELECT any_value(page) FROM mpnb_pages AS p WHERE p.batch_id = l.batch_id"
        with self.store.reading() as cursor:
            rows = cursor.execute(
                f"SELECT from_date, to_date, ({page}) AS page, status FROM mpnb_batches AS l ORDER BY ALL"
            ).fetchall()
        return [
            (Batch(first, last, page=None if number is None else Page(number)).label, status)
            for first, last, number, status in rows
        ]

    def rows_afterwards(self) -> int:
        """Close the database, and count in the file."""
        self.store.close()
        [(rows,)] = query(self.path, f"SELECT count(*) FROM {self._table}")
        return int(rows)


@contextlib.contextmanager
def _in_duckdb(folder: Path, records: Records) -> Iterator[Place]:
    with contextlib.closing(Store(folder / "x.duckdb")) as store:
        yield InDuckDB(store, folder / "x.duckdb", records)


@dataclass
class InLake:
    """The objects of a project."""

    objects: Objects
    store: Store
    records: Records = EVENTS

    def destination(self, export_id: str = "e") -> Destination:
        """Make a destination for one more export into the same lake."""
        resource = self.records.resource
        assert isinstance(resource, Events)
        rows = Lake(self.objects, resource, export_id)
        return Table(self.store, table_for("7"), resource, export_id, rows=rows)

    def rows(self) -> dict[int, int]:
        """Count the records by batch."""
        with self.store.reading() as cursor:
            renew_view(cursor, self.objects, "7")
            return dict(cursor.execute("SELECT batch_id, count(*) FROM events_7 GROUP BY ALL").fetchall())

    def states(self) -> list[tuple[str, str]]:
        """Return days and status of every row of the ledger."""
        with self.store.reading() as cursor:
            rows = cursor.execute("SELECT from_date, to_date, status FROM mpnb_batches ORDER BY ALL").fetchall()
        return [(Batch(first, last).label, status) for first, last, status in rows]

    def rows_afterwards(self) -> int:
        """Count in the objects."""
        self.store.close()
        contents = (self.objects.read(each.key) for each in self.objects.found("project_id=7"))
        return sum(len(polars.read_parquet(content)) for content in contents if content)


@contextlib.contextmanager
def _in_lake(address: str) -> Iterator[Place]:
    objects = objects_at(address_of(address))
    with contextlib.closing(mirror_store(address_of(address), objects)) as store:
        yield InLake(objects, store)


# How each is made, in a folder of its own, or at the URL of a bucket of its own.
PLACES: dict[str, Callable[[Path, Callable[[], str]], AbstractContextManager[Place]]] = {
    "duckdb": lambda folder, bucket: _in_duckdb(folder, EVENTS),
    "staged": lambda folder, bucket: _in_duckdb(folder, PROFILES),
    "folder": lambda folder, bucket: _in_lake(str(folder / "lake")),
    "bucket": lambda folder, bucket: _in_lake(f"{bucket()}/mixpanel"),
}
# Those whose batches can replace others: pages are published together, as another snapshot.
REPLACING: Sequence[str] = ("duckdb", "folder", "bucket")
