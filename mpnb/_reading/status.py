"""What a database has, table by table, and whether it has certain days: from the ledger, and from the events."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass
from datetime import date, datetime
from typing import Any

import duckdb
from duckdb import DuckDBPyConnection, DuckDBPyRelation

from mpnb._base.clock import utc_now
from mpnb._base.sql import columns_of, quoted, run
from mpnb._base.text import plural, printable, size
from mpnb._planning.batches import Lateness
from mpnb._planning.dates import DAY
from mpnb._reading import check as events_check
from mpnb._reading import profiles
from mpnb._reading.calendar import calendar
from mpnb._reading.check import Check, make_check
from mpnb._reading.reader import Reader
from mpnb._reading.selection import Selection
from mpnb._storing import ledger, snapshot
from mpnb._storing.database import LEDGER, Store
from mpnb._storing.ledger import of_table


@dataclass(frozen=True, slots=True)
class TableStatus:
    """
    What a database has of one table.

    Attributes:
        name: of the table.
        kind: ``"events"`` or ``"profiles"``.
        project_id: the Mixpanel project that it comes from.
        rows: its events or profiles.
        from_date, to_date: the first and the last day that an export asked for, both inclusive; for profiles both are
            the day of which they are, ``None`` where none are there yet.
        last_export: when the last request ended, in UTC, or ``None``.
        is_running: whether an export into it is running in this process.
        days_held: days that the table holds, of those. It and the three counts below are 0 for profiles.
        days_missing: days between the first and the last that it does not hold.
        days_failed: days that were fetched in vain, and not fetched since; they are missing, or have their old events.
        days_provisional: days held that were fetched before all their events could have arrived.
    """

    name: str
    kind: str
    project_id: str
    rows: int
    from_date: date | None
    to_date: date | None
    last_export: datetime | None
    is_running: bool
    days_held: int = 0
    days_missing: int = 0
    days_failed: int = 0
    days_provisional: int = 0


@dataclass(frozen=True, slots=True)
class Status:
    """
    What a database has, as ``mpnb.status()`` found it. Its repr is a short text.

    Attributes:
        database: its name.
        bytes: the size of the file, ``None`` for one in memory and for a lake.
        log_bytes: the size of its write-ahead log, which is part of the database, ``None`` likewise.
        tables: one for each table of events, then one for each of profiles, by name.
        quota_project: the project of the credentials in the environment, ``None`` without.
        quota_left: how many exports' requests it has left in this hour, as far as this machine knows, or ``None``.
        quota_per_hour: of how many, or ``None``.
    """

    database: str
    bytes: int | None
    log_bytes: int | None
    tables: tuple[TableStatus, ...]
    quota_project: str | None = None
    quota_left: int | None = None
    quota_per_hour: int | None = None

    @property
    def relation(self) -> DuckDBPyRelation:
        """Return one row per table; the columns are the attributes of ``TableStatus``. It needs no database."""
        kinds = {
            **{"name": "VARCHAR", "kind": "VARCHAR", "project_id": "VARCHAR", "rows": "BIGINT"},
            **{"from_date": "DATE", "to_date": "DATE", "last_export": "TIMESTAMP", "is_running": "BOOLEAN"},
            **{"days_held": "BIGINT", "days_missing": "BIGINT", "days_failed": "BIGINT", "days_provisional": "BIGINT"},
        }
        connection = duckdb.connect()
        columns = ", ".join(f"{name} {kind}" for name, kind in kinds.items())
        run(connection, f"CREATE TABLE status ({columns})")
        marks = ", ".join("?" for _ in kinds)
        for table in self.tables:
            run(connection, f"INSERT INTO status VALUES ({marks})", list(astuple(table)))
        return connection.sql("FROM status")

    def __repr__(self) -> str:
        """Return one line for the file, one per table, and one for the quota."""
        log = f", with a log of {size(self.log_bytes)}" if self.log_bytes else ""
        sizes = "" if self.bytes is None else f": {size(self.bytes)}{log}"
        width = max((len(printable(table.name)) for table in self.tables), default=0)
        lines = [f"{self.database}{sizes}"]
        lines += [f"  {printable(table.name):<{width}}  {_in_words(table)}" for table in self.tables]
        if not self.tables:
            lines.append("  no tables of mpnb's yet")
        if self.quota_project is not None:
            lines.append(
                f"project {self.quota_project}: {self.quota_left} of {self.quota_per_hour} requests left in this hour"
            )
        return "\n".join(lines)


def _in_words(table: TableStatus) -> str:
    is_events = table.kind == "events"
    parts = [f"{table.rows:,} {table.kind}"]
    if is_events and table.from_date:
        held = plural(table.days_held, "day", "days")
        parts.append(f"{table.days_held:,} {held} held of {table.from_date} – {table.to_date}")
    elif table.from_date:
        parts.append(f"of {table.from_date}")
    counts = {"missing": table.days_missing, "failed": table.days_failed, "provisional": table.days_provisional}
    parts += [f"{count:,} {word}" for word, count in counts.items() if count]
    if table.is_running:
        parts.append("an export is running")
    if table.last_export:
        parts.append(f"last export {table.last_export:%Y-%m-%d %H:%M} UTC")
    return ", ".join(parts)


def tables(cursor: DuckDBPyConnection, late_days: int) -> tuple[TableStatus, ...]:
    """Return what each table of events and of profiles has. Reads the ledger, and counts rows."""
    if not ledger.exists(cursor):
        return ()
    events = [_of_events(cursor, name, late_days) for name in ledger.tables_of(cursor)]
    return (*events, *(_of_profiles(cursor, name) for name in snapshot.tables_of(cursor)))


def _of_events(cursor: DuckDBPyConnection, name: str, late_days: int) -> TableStatus:
    selection = Selection(name)
    facts = "any_value(project_id), min(from_date), max(to_date), max(finished_at)"
    [(project, first, last, ended)] = run(cursor, f"SELECT {facts} FROM {LEDGER} WHERE {selection.batches()}")
    lateness = Lateness(utc_now(), late_days)
    held = {day: batch for batch in selection.held(cursor) for day in _days(batch.from_date, batch.to_date)}
    failed = {day for a, b in selection.unmet_ranges(cursor) for day in _days(a, b)}
    return TableStatus(
        name=name,
        kind="events",
        project_id=project,
        rows=_rows(cursor, name),
        from_date=first,
        to_date=last,
        days_held=len(held),
        days_missing=(last - first).days + 1 - len(held),
        days_failed=len(failed),
        days_provisional=sum(lateness.is_provisional(batch, day) for day, batch in held.items()),
        last_export=ended,
        is_running=bool(ledger.running_exports(cursor, name)),
    )


def _of_profiles(cursor: DuckDBPyConnection, name: str) -> TableStatus:
    there = snapshot.published(cursor, name)
    taken = there.requested_at.date() if there else None
    staged = snapshot.staging(name)
    query = f"SELECT any_value(project_id), max(finished_at) FROM {LEDGER} WHERE {of_table(name)} OR {of_table(staged)}"
    [(project, ended)] = run(cursor, query)
    return TableStatus(
        name=name,
        kind="profiles",
        project_id=project,
        rows=_rows(cursor, name),
        from_date=taken,
        to_date=taken,
        last_export=ended,
        is_running=bool(ledger.running_exports(cursor, staged)),
    )


def _rows(cursor: DuckDBPyConnection, table: str) -> int:
    if columns_of(cursor, table) is None:  # somebody has dropped it, or its first profiles are still on their way
        return 0
    return int(run(cursor, f"SELECT count(*) FROM {quoted(table)}")[0][0])


def _days(first: date, last: date) -> list[date]:
    return [first + DAY * n for n in range((last - first).days + 1)]


def checked(
    store: Store,
    table: str | None,
    days: tuple[date, date] | None,
    late_days: int,
    fetching: Callable[[Reader, date, date], str],
) -> Check:
    """
    Check a table of events or of profiles, or all of events, as ``mpnb.check()`` describes.

    Args:
        days: the first and the last day that must be held; ``None`` for those of the ledger. Profiles have none.
        fetching: returns the call that fetches some days of a table.

    Raises:
        TableError: there is no such table, or none of events at all.
    """

    def checked_one(name: str) -> Check:
        reader = Reader(store, Selection(name, days))
        asked: dict[str, Any] = {"selection": reader.selection, "late_days": late_days, "relate": _by_itself}
        days_of = calendar(cursor, **asked, mend=lambda days, failed: fetching(reader, days[0], days[-1]))
        return events_check.check(cursor, **asked, calendar=days_of)

    with store.reading() as cursor:
        if table is not None and (name := snapshot.named(cursor, table)):
            return make_check(profiles.findings(cursor, name), _by_itself)
        names = ledger.tables_of(cursor) if table is None and ledger.exists(cursor) else []
        if len(names) > 1:
            return events_check.combined({name: checked_one(name) for name in names}, _by_itself)
        return checked_one(ledger.table_named(cursor, table, store.label))


def _by_itself(query: str) -> DuckDBPyRelation:
    """Make a relation of constants, which outlives the database that was checked."""
    return duckdb.connect().sql(query)
