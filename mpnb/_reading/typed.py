"""
Typed events: one table an event in the schema ``mpnb_typed``, made when it is first asked for and kept up by batch.

    mpnb_typed.events    one row a typed event: its table, the batches that it covers, its columns
    mpnb_typed.kinds     what occurs where, by batch: the types of a column follow from it alone
    mpnb_typed.event_N   the rows of one event, with the columns that were asked for so far

The names of columns are in ``mpnb_columns``, beside the ledger: a name once given stays with its property.

All is written by a cursor of the store, under the lock under which exports enter themselves, and never while one runs
on the same events. Where it cannot be written, the same rows come out of the JSON at each read.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import duckdb
from duckdb import DuckDBPyConnection

from mpnb._base.names import closest
from mpnb._base.scalars import brief
from mpnb._base.sql import exact, in_batches, literal, quoted, run, transaction
from mpnb._base.text import safe_text
from mpnb._base.warn import warn
from mpnb._errors import PlanError
from mpnb._reading.declared import Types, declared_types
from mpnb._reading.given import Given, give, given_names
from mpnb._reading.look import groups, look
from mpnb._reading.properties import (
    BATCH_ID,
    FIXED,
    NAMED,
    Column,
    Seen,
    column_name,
    columns_of,
    merged,
    typed_query,
)
from mpnb._reading.reader import Reader
from mpnb._reading.view import drop_views, name_views, renew, views_of
from mpnb._storing import ledger
from mpnb._storing.database import COUNTS, LEDGER, Store
from mpnb._storing.running import registration

log = logging.getLogger("mpnb")

SCHEMA = "mpnb_typed"
ROWS = "temp.mpnb_rows"
# A table by its name, and by its schema where that is not the database's own: schemas share these tables.
KEY = "CASE current_schema() WHEN 'main' THEN '' ELSE current_schema() || chr(31) END || ?"
# A table with more takes minutes to fill, most of it with nulls.
MOST_COLUMNS = 2_000
# Of duplicates, the one with the most of it stays.
PROCESSED = "mp_processing_time_ms"

Asked = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Typed:
    """
    The columns of a typed event, and where its rows are.

    Attributes:
        columns: those that ``rows`` has, among them all that were asked for.
        others: the properties that it has no column for, with the names that theirs would have.
        rows: a query or table with the columns of ``typed_query``.
        seen: what occurs in the event, as far as it was looked at.
        since: the first batch with each property, for names that several events share.
        declared: the types that were declared for properties of the table.
    """

    event: str
    columns: tuple[Column, ...]
    others: Mapping[str, str]
    rows: str
    seen: list[Seen]
    since: Mapping[str, int]
    declared: Mapping[str, str]


def typed(
    reader: Reader,
    names: Sequence[str],
    *,
    materialize: bool = True,
    only: Sequence[str] | None = None,
    types: Types | None = None,
) -> list[Typed]:
    """
    Return the columns of events, and bring their tables up to date if they may be written.

    Args:
        only: names of the properties or columns that are asked for: of others, no value is read. Default: all.
        types: declared for properties, whether or not they are stored.

    Raises:
        PlanError: there is no such event.
    """
    store, table = reader.store, reader.table
    asked = _asked(only)
    with reader.needing_table(), store.reading() as cursor:
        _count(store, cursor, table)
        with transaction(cursor):
            there = there_of(cursor, table, names)
            declared = declared_types(cursor, table)
            unstored = {name: kind for name, kind in (types or {}).items() if declared.get(name) != kind}
            events = [known(cursor, table, name, declared, kinds=len(names) > 1) for name in names]
            if not unstored and all(event.is_up_to_date(cursor, there, asked) for event in events):
                return [event.typed(_placed(store, event.number)) for event in events]
        check_names(cursor, store, table, there)
    if materialize and not unstored:
        try:
            if (made := materialized(store, table, names, asked)) is not None:
                return made
        except duckdb.InterruptException:
            raise
        except duckdb.Error as error:
            which = ", ".join(map(repr, names))
            log.warning("%s is read from JSON, since it cannot be written: %s", which, safe_text(str(error)))
    kept = {name: kind for name, kind in {**declared, **unstored}.items() if kind is not None}
    return _from_json(store, table, names, asked, kept)


def _count(store: Store, cursor: DuckDBPyConnection, table: str) -> None:
    """Count what has come into a lake by event, and keep that."""
    if not ledger.is_mirrored(cursor) or not ledger.uncounted(cursor, table):
        return
    with registration, store.committing(), contextlib.suppress(duckdb.Error), transaction(cursor):
        if new := ledger.uncounted(cursor, table):
            mine = f"SELECT ?, * FROM ({ledger.counts_query(cursor, table)}) WHERE {in_batches(new, 'batch_id')}"
            run(cursor, f"INSERT INTO {COUNTS} {mine}", [table])


def check_names(cursor: DuckDBPyConnection, store: Store, table: str, there: There) -> None:
    """Raise ``PlanError`` if there is none of an event."""
    for name, batches in there.of_event.items():
        if not any(batches.values()):
            every = [n for (n,) in run(cursor, f"SELECT DISTINCT {exact('event_name')} FROM {quoted(table)}")]
            raise PlanError(f"there is no event {brief(name)} in {store.label}{closest(name, every)}")


def too_wide(what: str) -> str:
    """Return what to do where there are too many columns."""
    return (
        f"{what}, and a table has at most {MOST_COLUMNS:,} columns: name those that you need, as in"
        " columns=['amount', '$os']. catalog() lists all"
    )


def everything(name: str) -> bool:
    """Ask for every property."""
    return True


def nothing(name: str) -> bool:
    """Ask for no property."""
    return False


def _asked(only: Sequence[str] | None) -> Asked:
    """Return a function that says whether a property is asked for; a column's name may have a number appended."""
    if only is None:
        return everything
    folded = {column_name(each).casefold() for each in only}
    names = folded | {re.sub(r"_\d+$", "", each) for each in folded}

    def asked(name: str) -> bool:
        return column_name(name).casefold() in names

    return asked


def _from_json(
    store: Store, table: str, names: Sequence[str], asked: Asked, declared: Mapping[str, str]
) -> list[Typed]:
    """Return the columns of events without writing anything."""
    with store.reading() as cursor:
        with transaction(cursor):
            there = there_of(cursor, table, names)
            events = [known(cursor, table, name, declared) for name in names]
        _look(cursor, table, there, events, asked)
    for event in events:
        event.stored = ()
        event.settle()
        event.store(asked)
    return [event.typed(f"({typed_query(_events(table, event.name, there.rows), event.stored)})") for event in events]


def materialized(
    store: Store, table: str, names: Sequence[str], asked: Asked, *, schema: str | None = None
) -> list[Typed] | None:
    """
    Bring the tables of events up to date, and their views. ``None`` if an export is writing its events.

    Rows are added outside of a transaction: DuckDB keeps what is staged until the end of one. Nobody reads them before
    the last one, which says that they are there.

    Args:
        schema: where each event gets a view, if it has none there yet.
    """
    with registration, store.committing(), store.reading() as cursor:
        if ledger.unfinished_exports(cursor, table):
            return None
        with transaction(cursor):
            there = there_of(cursor, table, names)
            create(cursor)
            declared = declared_types(cursor, table)
            events = [known(cursor, table, name, declared) for name in names]
        _look(cursor, table, there, events, asked)
        targets, missing = {}, {}
        wide: list[Event] = []
        with transaction(cursor):
            for event in events:
                current = _current(cursor, event, there)
                before = event.stored
                event.settle()
                if schema is not None and event.is_too_wide(asked):
                    wide.append(event)
                    event.store(nothing)
                else:
                    event.store(asked)
                targets[event.name] = _table(event.number)
                if before == event.stored and current:
                    run(cursor, f"DELETE FROM {_table(event.number)} WHERE NOT {in_batches(current, BATCH_ID)}")
                else:
                    event.number = event.number or _new_number(cursor, events)
                    targets[event.name] = _next(event.number)
                    none = typed_query(_events(table, event.name, ()), event.stored)
                    run(cursor, f"CREATE OR REPLACE TABLE {targets[event.name]} AS {none}")
                    current = frozenset()
                missing[event.name] = {b: n for b, n in there.rows.items() if b not in current}
                event.covers = frozenset(there.rows)
        _insert(cursor, table, events, targets, missing)
        with transaction(cursor):
            views = views_of(cursor, table) if schema is None else name_views(cursor, table, schema, names)
            for event in events:
                mine = _table(event.number)
                if targets[event.name] != mine:
                    run(cursor, f"DROP TABLE IF EXISTS {mine}")
                    run(cursor, f"ALTER TABLE {targets[event.name]} RENAME TO {mine.partition('.')[2]}")
                enter(cursor, table, event, there)
                renew(cursor, table, event.name, mine, event.covers, event.stored, views)
    for event in wide:
        warn(
            f"{brief(event.name)} has {len(event.every):,} properties, more than a table has columns:"
            f" its view has those that event({event.name!r}, columns=[…]) asked for"
        )
    return [event.typed(_placed(store, event.number)) for event in events]


def _insert(
    cursor: DuckDBPyConnection,
    table: str,
    events: Sequence[Event],
    targets: Mapping[str, str],
    missing: Mapping[str, Mapping[int, int]],
) -> None:
    """Add the rows of some batches to the tables of events; the JSON of all is unpacked once."""
    for some in groups({b: n for batches in missing.values() for b, n in batches.items()}):
        mine = {event.name: some.keys() & missing[event.name].keys() for event in events}
        which = " OR ".join(
            f"{exact('event_name')} = {literal(name)} AND {in_batches(batches, 'batch_id')}"
            for name, batches in mine.items()
        )
        columns = ", ".join(("event_name", "batch_id", *FIXED.values(), "properties"))
        run(cursor, f"CREATE OR REPLACE TEMP TABLE {ROWS} AS SELECT {columns} FROM {quoted(table)} WHERE {which}")
        for event in events:
            rows = f"SELECT * FROM {ROWS} WHERE {exact('event_name')} = {literal(event.name)}"
            run(cursor, f"INSERT INTO {targets[event.name]} BY NAME {typed_query(rows, event.stored)}")
        run(cursor, f"DROP TABLE {ROWS}")


def _look(cursor: DuckDBPyConnection, table: str, there: There, events: Sequence[Event], asked: Asked) -> None:
    """
    Look at the values of the properties that are asked for, or in the tables, where nobody has looked yet.

    Outside a transaction: DuckDB keeps what is staged, and dropped, until the end of one.
    """
    stored = {name for event in events for name in _names(event.stored)}

    def matters(name: str) -> bool:
        return asked(name) or name in stored

    wanted = {event.name: event.unknown(there, matters) for event in events}
    found = look(cursor, table, wanted, only=None if asked is everything else matters)
    for event in events:
        event.learn(found[event.name], there)


def forget(cursor: DuckDBPyConnection, table: str) -> None:
    """Drop the typed tables of an events table, within a transaction of the caller."""
    if not _exists(cursor):
        return
    drop_views(cursor, table)
    mine = run(cursor, f"SELECT id FROM {SCHEMA}.events WHERE lower(table_name) = lower({KEY})", [table])
    for (number,) in mine:
        for each in (_table(number), _next(number)):
            run(cursor, f"DROP TABLE IF EXISTS {each}")
        run(cursor, f"DELETE FROM {SCHEMA}.kinds WHERE id = ?", [number])
        run(cursor, f"DELETE FROM {SCHEMA}.events WHERE id = ?", [number])
    if not run(cursor, f"SELECT 1 FROM {SCHEMA}.events LIMIT 1"):
        run(cursor, f"DROP SCHEMA {SCHEMA} CASCADE")


# --- what is known of an event ----------------------------------------------------------------------------------------


@dataclass(slots=True)
class Event:
    """
    What is known of a typed event, as it is in the database or as it becomes.

    Attributes:
        number: of its table; 0 if it has none yet.
        covers: the batches whose rows the table has.
        stored: the columns of the table.
        others: the names of the columns of other properties.
        every: the columns of all properties, once they are settled.
        seen: what was seen in its batches.
        given: the names that its properties had before.
        declared: the types that were declared for properties of the table.
        named: those that are new.
        fresh: the batches that were looked at just now.
    """

    name: str
    number: int = 0
    covers: frozenset[int] = frozenset()
    stored: tuple[Column, ...] = ()
    others: dict[str, str] = field(default_factory=dict)
    every: tuple[Column, ...] = ()
    seen: list[Seen] = field(default_factory=list)
    given: dict[str, Given] = field(default_factory=dict)
    declared: Mapping[str, str] = field(default_factory=dict)
    named: dict[str, Given] = field(default_factory=dict)
    fresh: set[int] = field(default_factory=set)

    def is_up_to_date(self, cursor: DuckDBPyConnection, there: There, asked: Asked) -> bool:
        """Whether its table has the rows of all batches, and the columns that are asked for."""
        if not self.number or self.covers != there.rows.keys() or any(map(asked, self.others)):
            return False
        if not all(map(self._is_as_declared, self.stored)):
            return False
        return bool(there.rows.keys() == _current(cursor, self, there))

    def _is_as_declared(self, column: Column) -> bool:
        wanted = self.declared.get(column.property)
        return column.fixed or (not column.declared if wanted is None else column.type == wanted)

    def unknown(self, there: There, matters: Asked) -> dict[int, int]:
        """Return the batches where a property that matters was not looked at, with the number of all their rows."""
        mine = there.of_event[self.name]
        looked = {each.batch_id for each in self.seen if not each.path and each.rows == mine.get(each.batch_id)}
        passed = {each.batch_id for each in self.seen if each.kind == NAMED and matters(str(each.path[0]))}
        return {b: n for b, n in there.rows.items() if mine[b] and (b not in looked or b in passed)}

    def learn(self, found: Iterable[Seen], there: There) -> None:
        """Take over what was found in some batches, and forget what is no longer there."""
        found = list(found)
        fresh = {each.batch_id for each in found}
        self.fresh |= fresh
        self.seen = [s for s in self.seen if s.batch_id not in fresh and there.of_event[self.name].get(s.batch_id)]
        self.seen += found

    def settle(self) -> None:
        """Settle the names and types of the columns of all properties. Those of the table stay as they are."""
        since, stored = self.since(), _names(self.stored)
        given = {name: each.column for name, each in self.given.items() if each.column is not None}
        occurring = {name: since[name] for name in self.properties()}
        self.every = columns_of(merged(self.seen), occurring, given=given, declared=self.declared)
        self.others = {c.property: c.name for c in self.every if c.property not in stored}
        for column in self.every:
            name, before = None if column.fixed else column.name, self.given.get(column.property)
            if before is None or (before.column is None and name is not None):
                self.named[column.property] = Given(name, since[column.property])

    def is_too_wide(self, asked: Asked) -> bool:
        """Whether more columns are asked for than a table has at most."""
        return sum(map(asked, (c.property for c in self.every))) > MOST_COLUMNS

    def store(self, asked: Asked) -> None:
        """Let the table have what is asked for besides what it has. Raises ``PlanError`` if that is too much."""
        if self.is_too_wide(asked):
            raise PlanError(too_wide(f"{brief(self.name)} has {len(self.every):,} properties"), argument="columns")
        before = _names(self.stored)
        self.stored = tuple(c for c in self.every if asked(c.property) or c.property in before)
        stored = _names(self.stored)
        self.others = {c.property: c.name for c in self.every if c.property not in stored}

    def properties(self) -> set[str]:
        """Return the properties that occur."""
        return {str(each.path[0]) for each in self.seen if each.path}

    def since(self) -> dict[str, int]:
        """Return the first batch with each property, of those that have a name already, too."""
        first: dict[str, int] = {}
        for each in self.seen:
            if each.path:
                name = str(each.path[0])
                first[name] = min(first.get(name, each.batch_id), each.batch_id)
        return {**first, **{name: each.since for name, each in self.given.items()}}

    def typed(self, rows: str) -> Typed:
        """Return its columns, and where its rows are."""
        return Typed(self.name, self.stored, self.others, rows, self.seen, self.since(), self.declared)


def _names(columns: Iterable[Column]) -> set[str]:
    return {column.property for column in columns}


def known(
    cursor: DuckDBPyConnection, table: str, name: str, declared: Mapping[str, str], *, kinds: bool = True
) -> Event:
    """
    Return what the database knows of an event, within a transaction.

    Args:
        kinds: whether to return all that was seen, by batch; if not, the sums of JSON columns alone.
    """
    event = Event(name, given=given_names(cursor, table, name), declared=declared)
    if not _exists(cursor):
        return event
    found = run(
        cursor,
        f"SELECT id, batches, columns FROM {SCHEMA}.events"
        f" WHERE lower(table_name) = lower({KEY}) AND {exact('event_name')} = ?",
        [table, name],
    )
    if not found:
        return event
    [(event.number, batches, columns)] = found
    event.covers = frozenset(batches)
    every = json.loads(columns)
    event.stored = tuple(Column(*each) for each in every if each[2] is not None)
    event.others = {each[0]: each[1] for each in every if each[2] is None}
    query = f"SELECT batch_id, path, kind, keys, rows FROM {SCHEMA}.kinds WHERE id = {event.number}"
    if not kinds:
        jsons = ", ".join(literal(_path([c.property])) for c in event.stored if c.type == "JSON")
        query = f"SELECT 0, path, kind, keys, sum(rows)::BIGINT FROM ({query}) WHERE path IN ({jsons}) GROUP BY ALL"
        if not jsons:
            return event
    event.seen = [Seen(b, tuple(json.loads(path)), *rest) for b, path, *rest in run(cursor, query)]
    return event


def enter(cursor: DuckDBPyConnection, table: str, event: Event, there: There) -> None:
    """Record what has become known of an event, within a transaction of the caller."""
    event.number = event.number or _new_number(cursor)
    kept = in_batches({each.batch_id for each in event.seen} - event.fresh, "batch_id")
    run(cursor, f"DELETE FROM {SCHEMA}.kinds WHERE id = {event.number} AND NOT {kept}")
    fresh = [each for each in event.seen if each.batch_id in event.fresh]
    # One statement each: rows one by one take a millisecond each.
    run(
        cursor,
        f"INSERT INTO {SCHEMA}.kinds SELECT ?, unnest(?::BIGINT[]), unnest(?::VARCHAR[]), unnest(?::VARCHAR[]),"
        " unnest(?::VARCHAR[]), unnest(?::BIGINT[])",
        [
            event.number,
            [each.batch_id for each in fresh],
            [_path(each.path) for each in fresh],
            [each.kind for each in fresh],
            [each.keys for each in fresh],
            [each.rows for each in fresh],
        ],
    )
    run(cursor, f"DELETE FROM {SCHEMA}.events WHERE id = ?", [event.number])
    columns: list[list[object]] = [[c.property, c.name, c.type, c.fixed, c.declared] for c in event.stored]
    columns += [[name, column, None, False, False] for name, column in event.others.items()]
    run(
        cursor,
        f"INSERT INTO {SCHEMA}.events VALUES (?, {KEY}, ?, ?::BIGINT[], ?)",
        [event.number, table, event.name, sorted(event.covers), json.dumps(columns, ensure_ascii=False)],
    )
    give(cursor, table, event.name, event.named)


def _path(path: Sequence[str | int]) -> str:
    return json.dumps(path, ensure_ascii=False)


def _exists(cursor: DuckDBPyConnection) -> bool:
    query = (
        "SELECT count(*) FROM duckdb_tables() WHERE database_name = current_database()"
        f" AND schema_name = '{SCHEMA}' AND table_name IN ('events', 'kinds')"
    )
    return bool(run(cursor, query)[0][0] == 2)


def create(cursor: DuckDBPyConnection) -> None:
    """Create the tables about typed events, within a transaction of the caller."""
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


def _new_number(cursor: DuckDBPyConnection, others: Iterable[Event] = ()) -> int:
    """Return a number that no event has, nor one of some that are not entered yet."""
    [(number,)] = run(cursor, f"SELECT coalesce(max(id), 0) + 1 FROM {SCHEMA}.events")
    return max([int(number), *(event.number + 1 for event in others)])


@dataclass(frozen=True, slots=True)
class There:
    """The number of rows in the events table now, by batch: ``rows`` of all events, ``of_event`` of each of some."""

    rows: dict[int, int]
    of_event: dict[str, dict[int, int]]


def there_of(cursor: DuckDBPyConnection, table: str, names: Sequence[str]) -> There:
    """Count the rows of some events, within a transaction."""
    there = There({}, {name: {} for name in names})
    name = exact("event_name")
    for batch_id, event, rows in run(
        cursor,
        f"SELECT batch_id, CASE WHEN list_contains(?, {name}) THEN {name} END AS event, sum(rows)::BIGINT"
        f" FROM ({ledger.counts_query(cursor, table)}) WHERE batch_id IN ("
        f"SELECT batch_id FROM {LEDGER} WHERE {ledger.of_table(table)}"
        f" AND status IN {ledger.HELD}) GROUP BY ALL",
        [list(names)],
    ):
        there.rows[batch_id] = there.rows.get(batch_id, 0) + rows
        if event is not None:
            there.of_event[event][batch_id] = rows
    for batches in there.of_event.values():
        batches.update({batch_id: 0 for batch_id in there.rows if batch_id not in batches})
    return there


def _current(cursor: DuckDBPyConnection, event: Event, there: There) -> frozenset[int]:
    """Return the batches of which a typed table still has the right number of rows: users may delete some."""
    if not event.covers:
        return event.covers
    typed = dict(run(cursor, f"SELECT {BATCH_ID}, count(*) FROM {_table(event.number)} GROUP BY {BATCH_ID}"))
    mine = there.of_event[event.name]
    return frozenset(b for b in event.covers if b in there.rows and typed.get(b, 0) == mine[b])


def _events(table: str, name: str, batch_ids: Iterable[int]) -> str:
    mine = in_batches(batch_ids, "batch_id")
    return f"SELECT * FROM {quoted(table)} WHERE {exact('event_name')} = {literal(name)} AND {mine}"


def _table(number: int) -> str:
    return f"{SCHEMA}.event_{int(number)}"


def _next(number: int) -> str:
    """Return the table that takes the place of another once it has all rows."""
    return f"{_table(number)}_next"


def _placed(store: Store, number: int) -> str:
    """Return the table's qualified name, valid on any connection to the instance."""
    return f"{quoted(store.place.database)}.{_table(number)}"
