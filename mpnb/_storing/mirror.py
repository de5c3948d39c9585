"""
The mirror of a lake: a DuckDB database with a ledger of what the lake's objects say, and with views of their rows.

    mpnb_objects   one row for each object of a day: the batch that it belongs to, its ETag when it was mirrored
    mpnb_runs      one row for each object that says what an export has not brought
    mpnb_counts    the rows of each event in a batch, once an event was asked for: no object is read for it again

The view of a project has the columns of an events table, then ``project_id``, ``date``, and ``rowid``, which tells rows
apart as a table's does.

A mirror is in a temporary file, or in a database that is kept: opened again, it reads what has changed since, and says
the same as a new one would. What is made of events is kept by batch, and an object that was replaced is of another one.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import weakref
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import duckdb
from duckdb import DuckDBPyConnection

from mpnb._base.sql import columns_of, literal, quoted, run, transaction
from mpnb._base.text import safe_text
from mpnb._errors import DatabaseError, TableError
from mpnb._message import Argument
from mpnb._mixpanel.export_api import COLUMNS
from mpnb._mixpanel.failures import HINTS
from mpnb._planning.address import Address
from mpnb._planning.dates import DAY
from mpnb._planning.request import Database, Source
from mpnb._storing import ledger, tables
from mpnb._storing.bucket import Bucket
from mpnb._storing.database import (
    BATCH_IDS,
    COUNTS,
    LEDGER,
    LEDGER_COLUMNS,
    META,
    META_COLUMNS,
    OBJECTS,
    REJECTED,
    RUNS,
    Store,
)
from mpnb._storing.folder import Folder
from mpnb._storing.objects import Found, Objects, ObjectsError
from mpnb._storing.parquet import Note, notes_of
from mpnb._storing.running import running

_OBJECT = re.compile(r"project_id=(\d{1,20})/date=(\d{4}-\d\d-\d\d)/events\.parquet")
_RUN = re.compile(r"_mpnb/runs/project_id=(\d{1,20})/([0-9a-z]+)/batches\.parquet")
OBJECTS_COLUMNS = (
    ("table_name", "VARCHAR"),
    ("batch_id", "BIGINT"),
    ("key", "VARCHAR"),
    ("etag", "VARCHAR"),
    ("fetch_id", "VARCHAR"),
    ("project_id", "VARCHAR"),
    ("date", "DATE"),
    ("rows", "BIGINT"),
)
_COUNTS_COLUMNS = (
    ("table_name", "VARCHAR"),
    ("batch_id", "BIGINT"),
    ("event_name", "VARCHAR"),
    ("rows", "BIGINT"),
)
_RUNS_COLUMNS = (("table_name", "VARCHAR"), ("export_id", "VARCHAR"), ("etag", "VARCHAR"))
# The name of the lake's address in META.
_LAKE = "lake"
_OWN = ((OBJECTS, OBJECTS_COLUMNS), (RUNS, _RUNS_COLUMNS), (COUNTS, _COUNTS_COLUMNS))
# Rows of one object, at most: those of the next have greater ids.
_ROW_BITS = 40


def table_for(project: str) -> str:
    """Return the name of the view of a project's events."""
    return f"events_{project}"


def object_key(project: str, day: date) -> str:
    """Return the key of the events of a day."""
    return f"project_id={project}/date={day}/events.parquet"


def source_key(project: str) -> str:
    """Return the key of what says which events of a project are there."""
    return f"_mpnb/sources/{project}.json"


def run_key(project: str, export_id: str) -> str:
    """Return the key of what an export has not brought."""
    return f"_mpnb/runs/project_id={project}/{export_id}/batches.parquet"


def lines_key(project: str, fetch: str) -> str:
    """Return the key of the lines of a batch that are not events."""
    export_id, _, batch_id = fetch.partition("/")
    return f"_mpnb/runs/project_id={project}/{export_id}/lines-{batch_id}.parquet"


def beat_key(project: str, export_id: str, batch_id: int) -> str:
    """Return the key of what says that a worker is at work on a batch."""
    return f"_mpnb/runs/project_id={project}/{export_id}/at-work-{batch_id}"


def objects_at(address: Address) -> Objects:
    """Return the objects of a lake. Raises ``MissingPackageError`` or ``ObjectsError``."""
    return Folder(address.path, address.label) if address.path else Bucket(address.text)


class _Scratch:
    """A folder that goes with the last one who keeps it, or with the process."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="mpnb-mirror-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def mirror_store(address: Address, objects: Objects, database: Database | None = None) -> Store:
    """
    Open a database for a mirror of a lake, which is not brought up to date.

    Args:
        database: where it is kept, made if it is missing; without, in a temporary folder, which goes when it is closed.

    Raises:
        DatabaseError: the database cannot be opened.
        TableError: it has events of its own, or mirrors another lake.
    """
    scratch = None
    if database is None:
        scratch = _Scratch()
        database = scratch.path / "mirror.duckdb"
    store = Store(database)
    try:
        with store.committing(), store.reading() as cursor:
            tables.check(cursor, store.label)
            _check_free(cursor, store.label, address)
            objects.register(cursor)
            with transaction(cursor):
                tables.create(cursor)
                for name, columns in _OWN:
                    body = ", ".join(f"{quoted(column)} {kind}" for column, kind in columns)
                    run(cursor, f"CREATE TABLE IF NOT EXISTS {name} ({body})")
                run(cursor, f"INSERT OR REPLACE INTO {META} VALUES (?, ?)", [_LAKE, address.whole])
    except duckdb.Error as error:
        store.close()
        raise DatabaseError(f"{store.label} cannot be written: {safe_text(str(error))}") from None
    except BaseException:
        store.close()
        raise
    store.name, store.lake, store.keeps = address.text, address, scratch
    return store


def _check_free(cursor: DuckDBPyConnection, label: str, address: Address) -> None:
    there = lake_of(cursor)
    if there is None and ledger.exists(cursor) and (names := ledger.tables_of(cursor)):
        what = f"has events of its own, in {', '.join(map(repr, names))}"
    elif there not in (None, address.whole):
        what = f"has what was made of another lake, {safe_text(str(there))}"
    else:
        return
    raise TableError(f"{label} {what}: pass another ", Argument("database", ""), argument="database")


def lake_of(cursor: DuckDBPyConnection) -> str | None:
    """Return the address of the lake that a database mirrors, ``None`` if it mirrors none."""
    if columns_of(cursor, META) != list(META_COLUMNS):
        return None
    rows = run(cursor, f"SELECT value FROM {META} WHERE name = ?", [_LAKE])
    return rows[0][0] if rows else None


def check_own(cursor: DuckDBPyConnection, label: str) -> None:
    """Raise ``TableError`` if the events of a database are those of a lake that it mirrors."""
    if lake := lake_of(cursor):
        raise TableError(
            f"{label} has what was made of the lake {safe_text(lake)}, whose events are there: pass another ",
            Argument("database", ""),
            argument="database",
        )


def source_of(objects: Objects, project: str) -> Source | None:
    """Return the source of a project's events, ``None`` if it is not written down. Raises ``ObjectsError``."""
    text = objects.read(source_key(project))
    if text is None:
        return None
    try:
        values = json.loads(text)
        events = values["events"]
        return Source(project, None if events is None else tuple(events), values["where"])
    except (ValueError, KeyError, TypeError):
        what = f"{objects.label}/{source_key(project)} is damaged"
        raise ObjectsError(what, "Restore it, or delete it if you know that it says what you ask for.") from None


# --- from objects to a ledger -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Entry:
    """A row of the ledger to be, with the objects of the batch."""

    moment: datetime
    values: Mapping[str, Any]
    objects: Sequence[tuple[Found, Note]] = ()

    @property
    def days(self) -> list[date]:
        """Return its days."""
        return _days(self.values["from_date"], self.values["to_date"])

    def met_by(self, held: Mapping[date, tuple[datetime, int]]) -> list[int]:
        """Return the batches that brought days of it later, one for each such day."""
        return [held[day][1] for day in self.days if day in held and held[day][0] >= self.moment]


def mirror(cursor: DuckDBPyConnection, objects: Objects, scratch: Path, project: str | None = None) -> dict[str, str]:
    """
    Bring a mirror up to date with one project of a lake, or with all, and return the ETag of each object by its key.

    One that an export of this process is writing through the mirror is up to date, and left to it. Callers hold
    ``registration``.

    Raises:
        ObjectsError: the lake cannot be read.
        TableError: an object is not mpnb's.
    """
    found = {each.key: each for each in objects.found(f"project_id={project}" if project else "")}
    days = {key: each for key, each in found.items() if _OBJECT.fullmatch(key)}
    there = {project} if project else {_project(key) for key in days}
    known = {each for (each,) in run(cursor, f"SELECT DISTINCT project_id FROM {OBJECTS}")}
    for each in sorted(there if project else there | known):
        if _is_written(cursor, table_for(each)):
            continue
        if each in there:
            mine = {key: found for key, found in days.items() if _project(key) == each}
            _mirror(cursor, objects, scratch, each, mine)
        else:
            _forget(cursor, table_for(each))
    return {key: each.etag for key, each in days.items()}


def _forget(cursor: DuckDBPyConnection, table: str) -> None:
    """Forget a project of which no day is there any more."""
    with transaction(cursor):
        for name in (LEDGER, REJECTED, OBJECTS, RUNS, COUNTS):
            run(cursor, f"DELETE FROM {name} WHERE {ledger.of_table(table)}")
        run(cursor, f"DROP VIEW {quoted(table)}")


def _is_written(cursor: DuckDBPyConnection, table: str) -> bool:
    """Whether an export of this process writes through the mirror itself; of others, ``RUNS`` has what they lack."""
    query = f"SELECT export_id FROM {RUNS} WHERE {ledger.of_table(table)}"
    return bool(ledger.running_exports(cursor, table) - {each for (each,) in run(cursor, query)})


def _project(key: str) -> str:
    return key.partition("/")[0].removeprefix("project_id=")


def _mirror(
    cursor: DuckDBPyConnection, objects: Objects, scratch: Path, project: str, found: Mapping[str, Found]
) -> None:
    table = table_for(project)
    rows = run(cursor, f"SELECT key, etag, batch_id, fetch_id FROM {OBJECTS} WHERE {ledger.of_table(table)}")
    known = {key: (etag, batch_id, fetch) for key, etag, batch_id, fetch in rows}
    stale = {b for key, (etag, b, _) in known.items() if key not in found or found[key].etag != etag}
    # What had made up for a failure may be gone: all of them are looked at again.
    fresh_runs, old_runs = _runs(cursor, objects, table, project, again=bool(stale))
    unmet = [each for run_of in fresh_runs for each in _unmet(cursor, objects, scratch, run_of.key)]
    notes: dict[str, Note] = {}
    while True:
        fresh = [key for key in found if key not in notes and (key not in known or known[key][1] in stale)]
        notes.update(_notes(cursor, objects, scratch, fresh))
        fetches = {note.fetch for note in notes.values()}
        # More days of a batch that was there in part.
        grown = {batch_id for _, batch_id, fetch in known.values() if fetch in fetches} - stale
        if not grown:
            held = _held(cursor, table, stale, notes)
            missing = [each for each in unmet if len(each.met_by(held)) < len(each.days)]
            # Ids grow with the time of requests: what came after a failure that is new here has a greater one.
            grown = {batch_id for each in missing for batch_id in each.met_by(held) if batch_id}
        if not grown:
            break
        stale |= grown
    source = source_of(objects, project) or Source(project)
    entries = [*_batches([(found[key], note) for key, note in notes.items()]), *missing]
    lines = _lines(objects, scratch, project, entries)
    with transaction(cursor):
        _check_view(cursor, objects, table)
        ledger.forget(cursor, table, sorted(stale))
        _forget_runs(cursor, table, old_runs)
        _enter(cursor, table, source, sorted(entries, key=lambda each: (each.moment, bool(each.objects))), lines)
        run(
            cursor,
            f"INSERT INTO {RUNS} SELECT ?, unnest(?::VARCHAR[]), unnest(?::VARCHAR[])",
            [table, [_export_of(each) for each in fresh_runs], [each.etag for each in fresh_runs]],
        )
        ledger.drop_met(cursor, table, date.min, date.max)
        renew_view(cursor, objects, project)


def _held(
    cursor: DuckDBPyConnection, table: str, stale: Collection[int], notes: Mapping[str, Note]
) -> dict[date, tuple[datetime, int]]:
    """Return when each day that is there was requested, and its batch: 0 where the ledger does not have it yet."""
    query = f"SELECT batch_id, from_date, to_date, {ledger.REQUESTED_AT} FROM {LEDGER}"
    rows = run(cursor, f"{query} WHERE {ledger.of_table(table)} AND status IN {ledger.HELD}")
    known = {
        day: (moment, batch_id)
        for batch_id, first, last, moment in rows
        if batch_id not in stale
        for day in _days(first, last)
    }
    return {**known, **{day_of(key): (note.requested_at, 0) for key, note in notes.items()}}


def _days(first: date, last: date) -> list[date]:
    return [first + DAY * n for n in range((last - first) // DAY + 1)]


def _notes(cursor: DuckDBPyConnection, objects: Objects, scratch: Path, keys: Sequence[str]) -> dict[str, Note]:
    files = objects.footers(keys, scratch)
    try:
        notes = notes_of(cursor, files)
    except duckdb.Error:
        notes = [_note_alone(cursor, file) for file in files]
    for key, note in zip(keys, notes, strict=True):
        day = _OBJECT.fullmatch(key)
        if note is None or day is None or not note.from_date <= date.fromisoformat(day[2]) <= note.to_date:
            raise TableError(
                f"{objects.label}/{key} is not as mpnb wrote it: restore it, or move it away, or pass another ",
                Argument("destination", ""),
                argument="destination",
            )
    return {key: note for key, note in zip(keys, notes, strict=True) if note}


def _note_alone(cursor: DuckDBPyConnection, file: Path) -> Note | None:
    try:
        return notes_of(cursor, [file])[0]
    except duckdb.Error:
        return None


def _batches(found: Iterable[tuple[Found, Note]]) -> Iterable[_Entry]:
    """Return the batches that some objects belong to."""
    by_fetch: dict[str, list[tuple[Found, Note]]] = {}
    for each in found:
        by_fetch.setdefault(each[1].fetch, []).append(each)
    for fetch, some in by_fetch.items():
        note, rows = some[0][1], sum(each.rows for _, each in some)
        values: dict[str, object] = {
            "export_id": fetch.partition("/")[0],
            "from_date": note.from_date,
            "to_date": note.to_date,
            "status": "done" if rows or note.rejected else "empty",
            "rows": rows,
            "rejected": note.rejected,
            "bytes": note.size,
            "attempts": note.attempts,
            "http_status": 200,
            "created_at": note.requested_at,
            "started_at": note.requested_at,
            "finished_at": note.written_at,
        }
        days = (note.to_date - note.from_date) // DAY + 1
        if len(some) < days:
            values |= {
                "status": "failed",
                "kind": "write",
                "message": f"only {len(some)} of its {days} days are there as it was written",
                "retryable": True,
                "hint": HINTS["cancelled"],
            }
        yield _Entry(note.requested_at, values, some)


def _runs(
    cursor: DuckDBPyConnection, objects: Objects, table: str, project: str, *, again: bool
) -> tuple[list[Found], list[str]]:
    """
    Return the objects of what exports have not brought that are to be read, and the exports of which all is forgotten.

    Args:
        again: whether those that have not changed are read as well.
    """
    rows = run(cursor, f"SELECT export_id, etag FROM {RUNS} WHERE {ledger.of_table(table)}")
    known: dict[str, str] = {} if again else dict(rows)
    found = [each for each in objects.found(f"_mpnb/runs/project_id={project}") if _RUN.fullmatch(each.key)]
    fresh = [each for each in found if known.get(_export_of(each)) != each.etag]
    there = {_export_of(each) for each in found}
    return fresh, [*map(_export_of, fresh), *(each for each, _ in rows if each not in there)]


def _export_of(run_of: Found) -> str:
    return run_of.key.split("/")[3]


def _forget_runs(cursor: DuckDBPyConnection, table: str, exports: Sequence[str]) -> None:
    """Forget what some exports have not brought."""
    for name, more in ((LEDGER, f" AND status NOT IN {ledger.HELD}"), (RUNS, "")):
        # Batches of which some days are there failed as well, by what their objects say.
        kept = f" AND batch_id NOT IN (SELECT batch_id FROM {OBJECTS})" if more else ""
        mine = f"WHERE {ledger.of_table(table)} AND list_contains(?, export_id){more}{kept}"
        run(cursor, f"DELETE FROM {name} {mine}", [list(exports)])


def _unmet(cursor: DuckDBPyConnection, objects: Objects, scratch: Path, key: str) -> list[_Entry]:
    """
    Return the batches that an export has not brought.

    Where nobody said why, the export was killed, or is fetching them elsewhere.
    """
    names = [name for name, _ in LEDGER_COLUMNS if name not in ("table_name", "batch_id")]
    entries = []
    for row in _read(cursor, objects, scratch, key, ", ".join(names), "batch_id"):
        values = dict(zip(names, row, strict=True))
        is_open = values["status"] not in ("failed", "cancelled")
        if is_open and values["export_id"] not in running:
            message = "the process that exported it has ended, or is not done with it yet"
            values |= {"status": "cancelled", "kind": "cancelled", "retryable": True}
            values |= {"message": message, "hint": HINTS["cancelled"]}
        entries.append(_Entry(values["created_at"], values))
    return entries


def _lines(objects: Objects, scratch: Path, project: str, entries: Iterable[_Entry]) -> dict[str, Path]:
    """Fetch the lines that are not events, for each batch that has some."""
    files: dict[str, Path] = {}
    for entry in entries:
        for _, note in entry.objects[:1]:
            if note.kept_lines:
                content = objects.read(lines_key(project, note.fetch))
                if content is None:
                    what = (
                        f"{objects.label}/{lines_key(project, note.fetch)} is missing: it has lines that are no events"
                    )
                    raise ObjectsError(what, "Restore it, or delete the day's object, and fetch the day again.")
                files[note.fetch] = scratch / f"{len(files)}.lines"
                files[note.fetch].write_bytes(content)
    return files


def _read(
    cursor: DuckDBPyConnection, objects: Objects, scratch: Path, key: str, columns: str, order: str
) -> list[tuple[Any, ...]]:
    """Return the rows of a small object; none if it has gone meanwhile."""
    content = objects.read(key)
    if content is None:
        return []
    path = scratch / "read.parquet"
    path.write_bytes(content)
    return run(cursor, f"SELECT {columns} FROM read_parquet({literal(str(path))}) ORDER BY {order} ASC")


def _enter(
    cursor: DuckDBPyConnection, table: str, source: Source, entries: Sequence[_Entry], lines: Mapping[str, Path]
) -> None:
    """Add batches to the ledger, with ids that grow with the time of their requests."""
    ids = [i for (i,) in run(cursor, f"SELECT nextval('{BATCH_IDS}') FROM range(?)", [len(entries)])]
    common: dict[str, object] = {"table_name": table, "project_id": source.project_id}
    common |= {"event_filter": source.event_filter, "where_filter": source.where}
    names = [name for name, _ in LEDGER_COLUMNS]
    rows = [{**entry.values, **common, "batch_id": i} for i, entry in zip(ids, entries, strict=True)]
    # One statement for all: thousands of them one by one take seconds.
    columns = ", ".join(f"unnest(${name}::{kind}[]) AS {name}" for name, kind in LEDGER_COLUMNS)
    if rows:
        values = {name: [row.get(name) for row in rows] for name in names}
        run(cursor, f"INSERT INTO {LEDGER} BY NAME SELECT {columns}", values)
    there = [
        (table, i, found.key, found.etag, note.fetch, source.project_id, day_of(found.key), note.rows)
        for i, entry in zip(ids, entries, strict=True)
        for found, note in entry.objects
    ]
    if there:
        columns = ", ".join(f"unnest(${name}::{kind}[]) AS {quoted(name)}" for name, kind in OBJECTS_COLUMNS)
        by_column = zip(*there, strict=True)
        values = {name: list(each) for (name, _), each in zip(OBJECTS_COLUMNS, by_column, strict=True)}
        run(cursor, f"INSERT INTO {OBJECTS} BY NAME SELECT {columns}", values)
    for i, entry in zip(ids, entries, strict=True):
        for _, note in entry.objects[:1]:
            if path := lines.get(note.fetch):
                kept = f"SELECT ?, ?, line_number, reason, line, in_events FROM read_parquet({literal(str(path))})"
                run(cursor, f"INSERT INTO {REJECTED} {kept}", [table, i])


def day_of(key: str) -> date:
    """Return the day of an object of events, by its key."""
    return date.fromisoformat(key.split("/")[1].removeprefix("date="))


def renew_views(cursor: DuckDBPyConnection, objects: Objects) -> None:
    """Make every view anew."""
    for (project,) in run(cursor, f"SELECT DISTINCT project_id FROM {LEDGER}"):
        renew_view(cursor, objects, project)


def _check_view(cursor: DuckDBPyConnection, objects: Objects, table: str) -> None:
    """Raise ``TableError`` if something has the name of a view that is to be made, and is none of the mirror's."""
    query = (
        "SELECT sql FROM duckdb_views() WHERE database_name = current_database() AND schema_name = current_schema()"
        " AND lower(view_name) = lower(?)"
    )
    views = run(cursor, query, [table])
    if columns_of(cursor, table) is not None and not (views and OBJECTS in views[0][0]):
        raise TableError(
            f"there is a table or view {table!r} already, which mpnb did not make of {objects.label}: pass another ",
            Argument("database", ""),
            argument="database",
        )


def renew_view(cursor: DuckDBPyConnection, objects: Objects, project: str) -> None:
    """Make the view of a project's events anew, of the objects that the mirror has."""
    table = table_for(project)
    query = f"SELECT key FROM {OBJECTS} WHERE {ledger.of_table(table)} ORDER BY date ASC"
    files = [objects.address(key) for (key,) in run(cursor, query)]
    [(database, schema)] = run(cursor, "SELECT current_database(), current_schema()")
    here = f"{quoted(database)}.{quoted(schema)}"
    if not files:
        columns = ", ".join(f"NULL::{kind} AS {quoted(name)}" for name, kind in COLUMNS)
        body = f"SELECT {columns}, NULL::VARCHAR AS project_id, NULL::DATE AS date, NULL::BIGINT AS rowid"
        body += f" FROM {here}.{OBJECTS} WHERE false"
    else:
        columns = ", ".join(f"e.{quoted(name)}::{kind} AS {quoted(name)}" for name, kind in COLUMNS[:-1])
        address = f"{literal(objects.address(''))} || key"
        body = (
            f"SELECT {columns}, o.batch_id, o.project_id, o.date, o.number + e.file_row_number AS rowid"
            f" FROM read_parquet([{', '.join(map(literal, files))}], filename = true, file_row_number = true,"
            " hive_partitioning = false, union_by_name = false) AS e"
            f" JOIN (SELECT *, (row_number() OVER (ORDER BY date ASC)) << {_ROW_BITS} AS number, {address} AS path"
            f" FROM {here}.{OBJECTS} WHERE {ledger.of_table(table)}) AS o ON o.path = e.filename"
        )
    run(cursor, f"CREATE OR REPLACE VIEW {quoted(table)} AS {body}")
