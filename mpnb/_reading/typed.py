"""
Typed events: one table an event in the schema ``mpnb_typed``, made when it is first asked for and kept up by batch.

    mpnb_typed.events    one row a typed event: its table, the batches that it covers, its columns
    mpnb_typed.kinds     what occurs where, by batch: the types of a column follow from it alone
    mpnb_typed.event_N   the rows of one event

It is written by a cursor of the store, under the lock under which exports enter themselves, and never while one runs
on the same events. Where it cannot be written, the same rows come out of the JSON at each read.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import duckdb
from duckdb import DuckDBPyConnection

from mpnb._base.names import closest
from mpnb._base.scalars import brief
from mpnb._base.sql import exact, in_batches, literal, quoted, run, transaction
from mpnb._base.text import safe_text
from mpnb._errors import DatabaseError, PlanError, TableError
from mpnb._reading.properties import (
    BATCH_ID,
    FIXED,
    Column,
    Seen,
    columns_of,
    merged,
    names_query,
    repeated,
    scan,
    typed_query,
)
from mpnb._reading.reader import Reader
from mpnb._storing import ledger
from mpnb._storing.database import LEDGER, Store
from mpnb._storing.running import registration

log = logging.getLogger("mpnb")

SCHEMA = "mpnb_typed"
STAGE = "temp.mpnb_stage"
# A table by its name, and by its schema where that is not the database's own: schemas share these tables.
KEY = "CASE current_schema() WHEN 'main' THEN '' ELSE current_schema() || chr(31) END || ?"
# Of JSON, at 1 kB a row.
STAGED_ROWS = 250_000
# Of duplicates, the one with the most of it stays.
PROCESSED = "mp_processing_time_ms"


@dataclass(frozen=True, slots=True)
class Typed:
    """
    The columns of a typed event, and where its rows are.

    ``rows`` is a query or table with the columns of ``typed_query``, ``seen`` is empty unless it was asked for.
    """

    event: str
    columns: tuple[Column, ...]
    rows: str
    seen: list[Seen]


def typed(
    reader: Reader,
    name: str,
    *,
    materialize: bool = True,
    only: Sequence[str] | None = None,
    kinds: bool = False,
) -> Typed:
    """
    Return an event's columns, and bring its table up to date if it may be written.

    Args:
        only: what is asked of it, so that nothing else is scanned where nothing is materialized.
        kinds: whether to give what was seen, too.

    Raises:
        PlanError: there is no such event.
    """
    store, table = reader.store, reader.table
    with reader.needing_table(), store.reading() as cursor:
        with transaction(cursor):
            there = _there(cursor, table, name)
            known = _known(cursor, table, name, kinds=kinds)
            if known is not None and known.covers == there.rows.keys() == _current(cursor, known, there):
                return known.typed(store, name)
        if not any(there.of_event.values()):
            names = run(cursor, f"SELECT DISTINCT {exact('event_name')} FROM {quoted(table)}")
            raise PlanError(f"there is no event {brief(name)} in {store.label}{closest(name, [n for (n,) in names])}")
    if materialize:
        try:
            if (made := _materialize(store, table, name)) is not None:
                return made
        except duckdb.InterruptException:
            raise
        except duckdb.Error as error:
            log.warning("event %r is read from JSON, since it cannot be written: %s", name, safe_text(str(error)))
    return _from_json(store, table, name, only)


def _from_json(store: Store, table: str, name: str, only: Sequence[str] | None) -> Typed:
    """Return an event's columns without writing anything."""
    with store.reading() as cursor, transaction(cursor):
        there = _there(cursor, table, name)
        known = _known(cursor, table, name)
        current = _current(cursor, known, there) if known else frozenset[int]()
        seen = [each for each in known.seen if each.batch_id in current] if known else []
        found, names = scan_event(cursor, table, name, there.besides(current), only)
    seen += found
    columns = columns_of(merged(seen), names | _properties(seen))
    scanned = [c for c in columns if only is None or _may_be(c.property, only)]
    return Typed(name, columns, f"({typed_query(_events(table, name, there.rows), scanned)})", seen)


def _may_be(name: str, asked: Sequence[str]) -> bool:
    """Whether a property is among some properties or columns; a column's name may have a number appended."""
    same = name.replace("\0", "_").casefold()
    return name in FIXED or name == PROCESSED or any(each == name or each.casefold().startswith(same) for each in asked)


def _properties(seen: Iterable[Seen]) -> set[str]:
    return {str(each.path[0]) for each in seen if each.path}


def forget_typed(reader: Reader) -> None:
    """Drop the typed tables of a table of events. Raises ``TableError``, ``DatabaseError`` or ``ClosedError``."""
    with registration, reader.store.committing(), reader.store.reading() as cursor:
        if not _exists(cursor):
            return
        if ledger.unfinished_exports(cursor, reader.table):
            raise TableError(f"an export into table {reader.table!r} is running: wait for it or cancel it")
        try:
            with transaction(cursor):
                forget(cursor, reader.table)
        except duckdb.Error as error:
            raise DatabaseError(f"{reader.store.label} cannot be written: {safe_text(str(error))}") from None


def forget(cursor: DuckDBPyConnection, table: str) -> None:
    """Drop the typed tables of an events table, within a transaction of the caller."""
    if not _exists(cursor):
        return
    mine = run(cursor, f"SELECT id FROM {SCHEMA}.events WHERE lower(table_name) = lower({KEY})", [table])
    for (number,) in mine:
        run(cursor, f"DROP TABLE {_table(number)}")
        run(cursor, f"DELETE FROM {SCHEMA}.kinds WHERE id = ?", [number])
        run(cursor, f"DELETE FROM {SCHEMA}.events WHERE id = ?", [number])
    if not run(cursor, f"SELECT 1 FROM {SCHEMA}.events LIMIT 1"):
        run(cursor, f"DROP SCHEMA {SCHEMA} CASCADE")


# --- the tables -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Known:
    """What the database knows of a typed event."""

    number: int
    covers: frozenset[int]
    columns: tuple[Column, ...]
    seen: list[Seen]

    def typed(self, store: Store, name: str) -> Typed:
        return Typed(name, self.columns, _placed(store, self.number), self.seen)


def _materialize(store: Store, table: str, name: str) -> Typed | None:
    """Bring an event's table up to date. ``None`` if an export is writing its events."""
    with registration, store.committing(), store.reading() as cursor:
        if ledger.unfinished_exports(cursor, table):
            return None
        with transaction(cursor):
            there = _there(cursor, table, name)
            _create(cursor)
            known = _known(cursor, table, name)
            if known is None:
                [(number,)] = run(cursor, f"SELECT coalesce(max(id), 0) + 1 FROM {SCHEMA}.events")
                known = _Known(number, frozenset(), (), [])
            number = known.number
            current = _current(cursor, known, there)
            found, _ = scan_event(cursor, table, name, there.besides(current))
            seen = [each for each in known.seen if each.batch_id in current] + found
            columns = columns_of(merged(seen), _properties(seen))
            if current and known.columns == columns:
                run(cursor, f"DELETE FROM {_table(number)} WHERE NOT {in_batches(current, BATCH_ID)}")
                query = typed_query(_events(table, name, there.besides(current)), columns)
                run(cursor, f"INSERT INTO {_table(number)} BY NAME {query}")
            else:
                query = typed_query(_events(table, name, there.rows), columns)
                run(cursor, f"CREATE OR REPLACE TABLE {_table(number)} AS {query}")
            run(cursor, f"DELETE FROM {SCHEMA}.kinds WHERE id = {number} AND NOT {in_batches(current, 'batch_id')}")
            _enter(cursor, _Known(number, frozenset(there.rows), columns, found), table, name)
        return Typed(name, columns, _placed(store, number), seen)


def _enter(cursor: DuckDBPyConnection, known: _Known, table: str, name: str) -> None:
    """Record the batches that a typed event covers, and what was found in the new ones."""
    # One statement each: rows one by one take a millisecond each.
    run(
        cursor,
        f"INSERT INTO {SCHEMA}.kinds SELECT ?, unnest(?::BIGINT[]), unnest(?::VARCHAR[]), unnest(?::VARCHAR[]),"
        " unnest(?::VARCHAR[]), unnest(?::BIGINT[])",
        [
            known.number,
            [each.batch_id for each in known.seen],
            [json.dumps(each.path, ensure_ascii=False) for each in known.seen],
            [each.kind for each in known.seen],
            [each.keys for each in known.seen],
            [each.rows for each in known.seen],
        ],
    )
    run(cursor, f"DELETE FROM {SCHEMA}.events WHERE id = ?", [known.number])
    columns = json.dumps([[c.property, c.name, c.type, c.fixed] for c in known.columns], ensure_ascii=False)
    run(
        cursor,
        f"INSERT INTO {SCHEMA}.events VALUES (?, {KEY}, ?, ?::BIGINT[], ?)",
        [known.number, table, name, sorted(known.covers), columns],
    )


def _known(cursor: DuckDBPyConnection, table: str, name: str, *, kinds: bool = True) -> _Known | None:
    """Return what the database knows of an event, within a transaction."""
    if not _exists(cursor):
        return None
    found = run(
        cursor,
        f"SELECT id, batches, columns FROM {SCHEMA}.events"
        f" WHERE lower(table_name) = lower({KEY}) AND {exact('event_name')} = ?",
        [table, name],
    )
    if not found:
        return None
    [(number, batches, columns)] = found
    query = f"SELECT batch_id, path, kind, keys, rows FROM {SCHEMA}.kinds WHERE id = ?"
    rows = run(cursor, query, [number]) if kinds else []
    return _Known(
        number,
        frozenset(batches),
        tuple(Column(*each) for each in json.loads(columns)),
        [Seen(batch_id, tuple(json.loads(path)), *rest) for batch_id, path, *rest in rows],
    )


def _exists(cursor: DuckDBPyConnection) -> bool:
    query = (
        "SELECT count(*) FROM duckdb_tables() WHERE database_name = current_database()"
        f" AND schema_name = '{SCHEMA}' AND table_name IN ('events', 'kinds')"
    )
    return bool(run(cursor, query)[0][0] == 2)


def _create(cursor: DuckDBPyConnection) -> None:
    run(cursor, f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
    run(
        cursor,
        f"CREATE TABLE IF NOT EXISTS {SCHEMA}.events"
        " (id BIGINT, table_name VARCHAR, event_name VARCHAR, batches BIGINT[], columns VARCHAR)",
    )
    run(
        cursor,
        f"CREATE TABLE IF NOT EXISTS {SCHEMA}.kinds"
        " (id BIGINT, batch_id BIGINT, path VARCHAR, kind VARCHAR, keys VARCHAR, rows BIGINT)",
    )


def scan_event(
    cursor: DuckDBPyConnection,
    table: str,
    name: str,
    batches: Mapping[int, int],
    only: Sequence[str] | None = None,
    rows: str = "true",
) -> tuple[list[Seen], set[str]]:
    """
    Scan an event's rows of some batches, and return what was found and the names of all its properties.

    Args:
        batches: their ids, with the number of all their rows.
        only: properties or columns that matter; all if not given.
        rows: condition for the rows that count.
    """
    seen: list[Seen] = []
    names: set[str] = set()
    for some in _groups(batches):
        # A scan reads its rows many times, and reading them from the events unpacks those of all other events as well.
        staged = f"SELECT batch_id, properties FROM ({_events(table, name, some)}) WHERE {rows}"
        run(cursor, f"CREATE OR REPLACE TEMP TABLE {STAGE} AS {staged}")
        here = {(batch_id, each): count for batch_id, each, count in run(cursor, names_query(STAGE))}
        asked = {place: count for place, count in here.items() if only is None or _may_be(place[1], only)}
        query = lambda text: run(cursor, text)  # noqa: E731
        found = list(scan(query, f"FROM {STAGE}", sorted({each for _, each in asked})))
        seen += [*found, *repeated(query, STAGE, asked, found)]
        names.update(each for _, each in here)
        run(cursor, f"DROP TABLE {STAGE}")
    return seen, names


def _groups(batches: Mapping[int, int]) -> Iterator[set[int]]:
    """Group batches to the size of a stage, so that memory does not grow with the size of the table."""
    some: set[int] = set()
    rows = 0
    for batch_id in sorted(batches):
        if some and rows + batches[batch_id] > STAGED_ROWS:
            yield some
            some, rows = set(), 0
        some.add(batch_id)
        rows += batches[batch_id]
    if some:
        yield some


@dataclass(frozen=True, slots=True)
class _There:
    """The number of rows in the events table now, by batch: ``rows`` of all events, ``of_event`` of one."""

    rows: dict[int, int]
    of_event: dict[int, int]

    def besides(self, batch_ids: frozenset[int]) -> dict[int, int]:
        """Return the rows of all batches except some."""
        return {batch_id: rows for batch_id, rows in self.rows.items() if batch_id not in batch_ids}


def _there(cursor: DuckDBPyConnection, table: str, name: str) -> _There:
    counts = run(
        cursor,
        f"SELECT batch_id, count(*), count(*) FILTER ({exact('event_name')} = {literal(name)}) FROM {quoted(table)}"
        f" WHERE batch_id IN (SELECT batch_id FROM {LEDGER} WHERE {ledger.of_table(table)}"
        f" AND status IN {ledger.HELD}) GROUP BY batch_id",
    )
    return _There({b: rows for b, rows, _ in counts}, {b: n for b, _, n in counts})


def _current(cursor: DuckDBPyConnection, known: _Known, there: _There) -> frozenset[int]:
    """Return the batches of which a typed table still has the right number of rows: users may delete some."""
    if not known.covers:
        return known.covers
    typed = dict(run(cursor, f"SELECT {BATCH_ID}, count(*) FROM {_table(known.number)} GROUP BY {BATCH_ID}"))
    return frozenset(b for b in known.covers if b in there.rows and typed.get(b, 0) == there.of_event[b])


def _events(table: str, name: str, batch_ids: Iterable[int]) -> str:
    mine = in_batches(batch_ids, "batch_id")
    return f"SELECT * FROM {quoted(table)} WHERE {exact('event_name')} = {literal(name)} AND {mine}"


def _table(number: int) -> str:
    return f"{SCHEMA}.event_{int(number)}"


def _placed(store: Store, number: int) -> str:
    """Return the table's qualified name, valid on any connection to the instance."""
    return f"{quoted(store.place.database)}.{_table(number)}"
