"""
Typed events: one table an event in the schema ``mpnb_typed``, made when it is first asked for and kept up by batch.

    mpnb_typed.events    one row a typed event: its table, the batches that it covers, its columns
    mpnb_typed.kinds     what occurs where, by batch: the types of a column follow from it alone
    mpnb_typed.event_N   the rows of one event

It is written by a cursor of the store, under the lock under which exports enter themselves, and never while one runs
on the same events. Where it cannot be written, the same rows come out of the JSON at each read.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import duckdb
from duckdb import DuckDBPyConnection, DuckDBPyRelation

from mpnb import _ledger as ledger
from mpnb._errors import PlanError, TableError
from mpnb._failures import safe_text
from mpnb._ledger import HELD
from mpnb._properties import (
    BATCH_ID,
    FIXED,
    Column,
    Seen,
    columns_of,
    converted,
    in_batches,
    literal,
    merged,
    names_query,
    scan,
    typed_query,
)
from mpnb._running import registration
from mpnb._store import LEDGER, Store, quoted, run

if TYPE_CHECKING:
    from mpnb._result import ExportResult

log = logging.getLogger("mpnb")

SCHEMA = "mpnb_typed"
STAGE = "temp.mpnb_stage"
# Of JSON, at 1 kB a row.
STAGED_ROWS = 250_000
PROCESSED = "mp_processing_time_ms"


@dataclass(frozen=True, slots=True)
class Typed:
    """
    Know one event's columns, and where its rows are.

    ``rows`` is a query or table with the columns of ``typed_query``, ``seen`` is empty unless it was asked for.
    """

    event: str
    columns: tuple[Column, ...]
    rows: str
    seen: list[Seen]


# --- what users call: methods of ExportResult ------------------------------------------------------------------------


def event(
    self: ExportResult,
    name: str | Sequence[str],
    *,
    columns: Sequence[str] | None = None,
    deduplicated: bool = False,
    materialize: bool = True,
) -> DuckDBPyRelation:
    """
    Give the events of one name, or of several, with a typed column for each property.

    Columns: ``time``, ``distinct_id``, ``device_id``, ``user_id``, ``insert_id``, then one a property, typed by all
    values that the table has of it: BOOLEAN, BIGINT, HUGEINT (to 38 digits), DOUBLE, TIMESTAMP (where all are
    date-times as Mixpanel writes them, ``2026-01-31T09:00:00``), VARCHAR, LIST and STRUCT (where all have the same
    shape), else JSON, which holds anything. No value is rounded, cut or made null; a JSON null is NULL, as is a
    property that an event lacks. ``catalog()`` tells which column holds which property: names that differ only by
    case, or are taken, get a number.

    The first call makes a table of it in the database, in the schema ``mpnb_typed``; later calls add and replace what
    exports changed. While an export runs on the events, or where the database cannot be written, the relation reads
    JSON instead: the same rows, slower.

    The relation has the rows of the batches that the result has at this moment. Once one of them was fetched again,
    reading it raises; call ``event()`` again.

    Args:
        name: of the event; several give all their rows, ``event_name`` first, with the columns of all, by property.
        columns: names of properties or columns to have besides the first five; all if not given.
        deduplicated: whether to leave out duplicates, as ``deduplicated()`` does; ``duplicates()`` counts them.
        materialize: false writes nothing: what no table has yet is read from JSON.

    Raises:
        PlanError: there is no such event or column.
        ClosedError: the result was closed.
    """
    query = event_query(self, name, columns=columns, deduplicated=deduplicated, materialize=materialize)
    return self._relation(query)


def forget_typed(self: ExportResult) -> None:
    """
    Drop the typed tables of this table's events. They are made anew when they are asked for.

    Raises:
        TableError: an export runs on these events.
        DatabaseError: the database cannot be written.
        ClosedError: the result was closed.
    """
    with registration, self._store.committing(), self._store.reading() as cursor:
        if not _exists(cursor):
            return
        if ledger.unfinished_exports(cursor, self.table):
            raise TableError(f"an export into table {self.table!r} is running: wait for it, or cancel it")
        with _transaction(cursor):
            mine = run(cursor, f"SELECT id FROM {SCHEMA}.events WHERE lower(table_name) = lower(?)", [self.table])
            for (number,) in mine:
                run(cursor, f"DROP TABLE {_table(number)}")
                run(cursor, f"DELETE FROM {SCHEMA}.kinds WHERE id = ?", [number])
                run(cursor, f"DELETE FROM {SCHEMA}.events WHERE id = ?", [number])
            if not run(cursor, f"SELECT 1 FROM {SCHEMA}.events LIMIT 1"):
                run(cursor, f"DROP SCHEMA {SCHEMA} CASCADE")


# --- queries -------------------------------------------------------------------------------------------------------


def event_query(
    result: ExportResult,
    name: str | Sequence[str],
    *,
    columns: Sequence[str] | None = None,
    deduplicated: bool = False,
    materialize: bool = True,
) -> str:
    """Give the query of ``event()``."""
    names = [name] if isinstance(name, str) else list(dict.fromkeys(name))
    if not names or not all(isinstance(each, str) for each in names):
        raise PlanError(f"name is the name of an event, or a list of them, not {name!r}")
    if isinstance(columns, str):
        raise PlanError(f"columns is a list of names, such as [{columns!r}]")
    # Before the tables are brought up to date: what lands meanwhile is in none of them for sure.
    condition = rows_condition(result)
    several = not isinstance(name, str)
    events = [typed(result, each, materialize=materialize, only=columns, kinds=several) for each in names]
    if not several:
        [one] = events
        wanted = [quoted(c.name) for c in _wanted(one.columns, columns) if not c.fixed]
        return f"SELECT {', '.join([*FIXED.values(), *wanted])} FROM {_rows(one, condition, deduplicated)}"
    kinds = merged(seen for each in events for seen in each.seen)
    everything = columns_of(kinds, {c.property for e in events for c in e.columns}, taken=["event_name"])
    chosen = [c for c in _wanted(everything, columns) if not c.fixed]
    parts = []
    for each in events:
        own = {c.property: c for c in each.columns}
        there = {seen.path[0] for seen in each.seen if seen.kind != "null"}
        values = [f"{literal(each.event)} AS event_name", *FIXED.values()]
        for column in chosen:
            value = "NULL"
            if column.property in own:
                empty = column.property not in there
                value = converted(own[column.property], column.type, empty=empty)
            values.append(f"{value} AS {quoted(column.name)}")
        parts.append(f"SELECT {', '.join(values)} FROM {_rows(each, condition, deduplicated)}")
    return " UNION ALL ".join(parts)


def rows_condition(result: ExportResult) -> str:
    """Give the condition for the rows that a result has now, which fails once one of their batches was replaced."""
    with result._store.reading() as cursor:
        query = f"SELECT batch_id FROM {LEDGER} WHERE {result._mine(HELD)} AND rows > 0"
        batch_ids = [batch_id for (batch_id,) in run(cursor, query)]
    again = literal("batches of this relation were fetched again since: call event() again")
    return (
        f"{in_batches(batch_ids, BATCH_ID)} AND (SELECT CASE WHEN count(*) = {len(batch_ids)} THEN true"
        f" ELSE error({again}) END FROM {LEDGER} WHERE status IN {HELD} AND {in_batches(batch_ids, 'batch_id')})"
    )


def _rows(each: Typed, condition: str, deduplicated: bool) -> str:
    rows = f"(SELECT * FROM {each.rows} WHERE {condition}"
    if deduplicated:
        processed = next((quoted(c.name) for c in each.columns if c.property == PROCESSED), "NULL")
        rows += (
            " QUALIFY insert_id IS NULL OR row_number() OVER (PARTITION BY distinct_id, time, insert_id"
            f" ORDER BY TRY_CAST(to_json({processed})->>'$' AS BIGINT) DESC NULLS LAST, {BATCH_ID} DESC) = 1"
        )
    return f"{rows})"


def _wanted(columns: Sequence[Column], asked: Sequence[str] | None) -> list[Column]:
    if asked is None:
        return list(columns)
    by_name = {c.name: c for c in columns} | {c.property: c for c in columns}
    for name in asked:
        if name not in by_name and name not in FIXED.values():
            raise PlanError(f"there is no property {name!r}{_closest(name, list(by_name))}")
    return [by_name[name] for name in dict.fromkeys(asked) if name in by_name]


def _closest(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f": is it {' or '.join(map(repr, close))}?" if close else ""


# --- one event -------------------------------------------------------------------------------------------------------


def typed(
    result: ExportResult,
    name: str,
    *,
    materialize: bool = True,
    only: Sequence[str] | None = None,
    kinds: bool = False,
) -> Typed:
    """
    Find out an event's columns, and bring its table up to date where it may be written.

    Args:
        only: what is asked of it, so that nothing else is scanned where nothing is materialized.
        kinds: whether to give what was seen, too.

    Raises:
        PlanError: there is no such event.
    """
    store, table = result._store, result.table
    with store.reading() as cursor:
        with _transaction(cursor):
            held = _held(cursor, table)
            known = _known(cursor, table, name, kinds=kinds)
        if known is not None and known.covers == held.keys():
            return known.typed(name)
        if not run(cursor, f"SELECT 1 FROM ({_events(table, name, held)}) LIMIT 1"):
            names = run(cursor, f"SELECT DISTINCT event_name FROM {quoted(table)}")
            raise PlanError(f"there is no event {name!r} in {store.label}{_closest(name, [n for (n,) in names])}")
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
    """Find out an event's columns without writing anything."""
    with store.reading() as cursor, _transaction(cursor):
        held = _held(cursor, table)
        known = _known(cursor, table, name)
        seen, there = known.of(held) if known else ([], frozenset[int]())
        found, names = _scanned(cursor, table, name, {b: held[b] for b in held.keys() - there}, only)
    seen += found
    columns = columns_of(merged(seen), names | _properties(seen))
    scanned = [c for c in columns if only is None or _may_be(c.property, only)]
    return Typed(name, columns, f"({typed_query(_events(table, name, held), scanned)})", seen)


def _may_be(name: str, asked: Sequence[str]) -> bool:
    """Say whether a property matters where some properties or columns are asked for: a column may bear a number."""
    same = name.replace("\0", "_").casefold()
    return name in FIXED or name == PROCESSED or any(each == name or each.casefold().startswith(same) for each in asked)


def _properties(seen: Iterable[Seen]) -> set[str]:
    return {str(each.path[0]) for each in seen}


@dataclass(frozen=True, slots=True)
class _Known:
    """Hold what the database knows of a typed event."""

    number: int
    covers: frozenset[int]
    columns: tuple[Column, ...]
    seen: list[Seen]

    def of(self, batch_ids: Mapping[int, int]) -> tuple[list[Seen], frozenset[int]]:
        """Give what was seen in some batches, and which of them are known."""
        return [each for each in self.seen if each.batch_id in batch_ids], self.covers & frozenset(batch_ids)

    def typed(self, name: str) -> Typed:
        return Typed(name, self.columns, _table(self.number), self.seen)


def _materialize(store: Store, table: str, name: str) -> Typed | None:
    """Bring the table of an event up to date. ``None`` where an export runs on its events."""
    with registration, store.committing(), store.reading() as cursor:
        if ledger.unfinished_exports(cursor, table):
            return None
        held = _held(cursor, table)
        with _transaction(cursor):
            _create(cursor)
            known = _known(cursor, table, name)
            if known is None:
                [(number,)] = run(cursor, f"SELECT coalesce(max(id), 0) + 1 FROM {SCHEMA}.events")
                known = _Known(number, frozenset(), (), [])
            number = known.number
            seen, there = known.of(held)
            found, _ = _scanned(cursor, table, name, {b: held[b] for b in held.keys() - there})
            seen += found
            columns = columns_of(merged(seen), _properties(seen))
            if there and known.columns == columns:
                gone = in_batches(known.covers - held.keys(), BATCH_ID)
                run(cursor, f"DELETE FROM {_table(number)} WHERE {gone}")
                query = typed_query(_events(table, name, held.keys() - there), columns)
                run(cursor, f"INSERT INTO {_table(number)} BY NAME {query}")
            else:
                query = typed_query(_events(table, name, held), columns)
                run(cursor, f"CREATE OR REPLACE TABLE {_table(number)} AS {query}")
            _enter(cursor, _Known(number, frozenset(held), columns, found), table, name)
        return Typed(name, columns, _table(number), seen)


def _enter(cursor: DuckDBPyConnection, known: _Known, table: str, name: str) -> None:
    """Note what a typed event covers, and what was seen in its new batches."""
    # One statement each: rows one by one take a millisecond each.
    run(
        cursor,
        f"DELETE FROM {SCHEMA}.kinds WHERE id = ? AND NOT list_contains(?::BIGINT[], batch_id)",
        [known.number, sorted(known.covers)],
    )
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
        f"INSERT INTO {SCHEMA}.events VALUES (?, ?, ?, ?::BIGINT[], ?)",
        [known.number, table, name, sorted(known.covers), columns],
    )


def _known(cursor: DuckDBPyConnection, table: str, name: str, *, kinds: bool = True) -> _Known | None:
    """Ask what the database knows of an event, within a transaction."""
    if not _exists(cursor):
        return None
    found = run(
        cursor,
        f"SELECT id, batches, columns FROM {SCHEMA}.events WHERE lower(table_name) = lower(?) AND event_name = ?",
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


@contextlib.contextmanager
def _transaction(cursor: DuckDBPyConnection) -> Iterator[None]:
    run(cursor, "BEGIN")
    try:
        yield
        run(cursor, "COMMIT")
    except BaseException:
        with contextlib.suppress(duckdb.Error):
            run(cursor, "ROLLBACK")
        raise


def _scanned(
    cursor: DuckDBPyConnection, table: str, name: str, batches: Mapping[int, int], only: Sequence[str] | None = None
) -> tuple[list[Seen], set[str]]:
    """Scan an event's rows of some batches, given with the number of all their rows; give all its properties, too."""
    seen: list[Seen] = []
    names: set[str] = set()
    for some in _groups(batches):
        # A scan reads its rows many times, and reading them from the events unpacks those of all other events as well.
        rows = f"SELECT batch_id, properties FROM ({_events(table, name, some)})"
        run(cursor, f"CREATE OR REPLACE TEMP TABLE {STAGE} AS {rows}")
        here = [each for (each,) in run(cursor, names_query(f"FROM {STAGE}"))]
        asked = [each for each in here if only is None or _may_be(each, only)]
        seen += scan(lambda query: run(cursor, query), f"FROM {STAGE}", asked)
        names.update(here)
        run(cursor, f"DROP TABLE {STAGE}")
    return seen, names


def _groups(batches: Mapping[int, int]) -> Iterator[set[int]]:
    """Take batches together as far as a stage holds them, so that no memory grows with the size of the table."""
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


def _held(cursor: DuckDBPyConnection, table: str) -> dict[int, int]:
    return {batch.batch_id: batch.rows for batch in ledger.held_batches(cursor, table) if batch.rows}


def _events(table: str, name: str, batch_ids: Iterable[int]) -> str:
    mine = in_batches(batch_ids, "batch_id")
    return f"SELECT * FROM {quoted(table)} WHERE event_name = {literal(name)} AND {mine}"


def _table(number: int) -> str:
    return f"{SCHEMA}.event_{int(number)}"
