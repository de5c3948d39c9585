"""
The mirror of a lake: a DuckDB database with a ledger of what the lake's objects say, and with views of their rows.

``mpnb_objects`` has one row for each object of a day: the batch that it belongs to, and the ETag that it had when it
was mirrored. The view of a project has the columns of an events table, then ``project_id``, ``date``, and ``rowid``,
which tells rows apart as a table's does.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import duckdb
from duckdb import DuckDBPyConnection

from mpnb._base.sql import literal, quoted, run, transaction
from mpnb._errors import TableError
from mpnb._message import Argument
from mpnb._mixpanel.export_api import COLUMNS
from mpnb._mixpanel.failures import HINTS
from mpnb._planning.address import Address
from mpnb._planning.dates import DAY
from mpnb._planning.request import Source
from mpnb._storing import ledger, tables
from mpnb._storing.bucket import Bucket
from mpnb._storing.database import BATCH_IDS, LEDGER, LEDGER_COLUMNS, OBJECTS, REJECTED, Store
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


def mirror_store(address: Address, objects: Objects) -> Store:
    """Return a new, empty database in a temporary folder, for a mirror of a lake; it goes when it is closed."""
    scratch = _Scratch()
    store = Store(scratch.path / "mirror.duckdb")
    store.name, store.lake, store.keeps = address.text, address, scratch
    with store.committing(), store.reading() as cursor:
        objects.register(cursor)
        with transaction(cursor):
            tables.create(cursor)
            columns = ", ".join(f"{quoted(name)} {kind}" for name, kind in OBJECTS_COLUMNS)
            run(cursor, f"CREATE TABLE {OBJECTS} ({columns})")
    return store


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
    values: Mapping[str, object]
    objects: Sequence[tuple[Found, Note]] = ()


def mirror(cursor: DuckDBPyConnection, objects: Objects, scratch: Path, project: str | None = None) -> dict[str, str]:
    """
    Bring a mirror up to date with one project of a lake, or with all, and return the ETag of each object by its key.

    Raises:
        ObjectsError: the lake cannot be read.
        TableError: an object is not mpnb's.
    """
    found = {each.key: each for each in objects.found(f"project_id={project}" if project else "")}
    days = {key: each for key, each in found.items() if _OBJECT.fullmatch(key)}
    projects = [project] if project else sorted({_project(key) for key in days})
    for each in projects:
        mine = {key: found for key, found in days.items() if _project(key) == each}
        _mirror(cursor, objects, scratch, each, mine)
    return {key: each.etag for key, each in days.items()}


def _project(key: str) -> str:
    return key.partition("/")[0].removeprefix("project_id=")


def _mirror(
    cursor: DuckDBPyConnection, objects: Objects, scratch: Path, project: str, found: Mapping[str, Found]
) -> None:
    table = table_for(project)
    rows = run(cursor, f"SELECT key, etag, batch_id, fetch_id FROM {OBJECTS} WHERE {ledger.of_table(table)}")
    known = {key: (etag, batch_id, fetch) for key, etag, batch_id, fetch in rows}
    stale = {b for key, (etag, b, _) in known.items() if key not in found or found[key].etag != etag}
    notes: dict[str, Note] = {}
    while True:
        fresh = [key for key in found if key not in notes and (key not in known or known[key][1] in stale)]
        notes.update(_notes(cursor, objects, scratch, fresh))
        fetches = {note.fetch for note in notes.values()}
        # More days of a batch that was there in part.
        grown = {batch_id for _, batch_id, fetch in known.values() if fetch in fetches} - stale
        if not grown:
            break
        stale |= grown
    runs = _runs(cursor, objects, scratch, project)
    source = source_of(objects, project) or Source(project)
    entries = [*_batches([(found[key], note) for key, note in notes.items()]), *runs]
    lines = _lines(objects, scratch, project, entries)
    with transaction(cursor):
        ledger.forget(cursor, table, sorted(stale))
        _enter(cursor, table, source, sorted(entries, key=lambda each: (each.moment, bool(each.objects))), lines)
        ledger.drop_met(cursor, table, date.min, date.max)
        renew_view(cursor, objects, project)


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


def _runs(cursor: DuckDBPyConnection, objects: Objects, scratch: Path, project: str) -> list[_Entry]:
    """Return the batches that exports have not brought. Those of exports that the ledger knows are in it."""
    table = table_for(project)
    query = f"SELECT DISTINCT export_id FROM {LEDGER} WHERE {ledger.of_table(table)} AND status NOT IN {ledger.HELD}"
    known = {export_id for (export_id,) in run(cursor, query)}
    entries = []
    for each in objects.found(f"_mpnb/runs/project_id={project}"):
        match = _RUN.fullmatch(each.key)
        if match and match[2] not in known:
            names = [name for name, _ in LEDGER_COLUMNS if name not in ("table_name", "batch_id")]
            rows = _read(cursor, objects, scratch, each.key, ", ".join(names), "batch_id")
            entries += [_unmet(dict(zip(names, row, strict=True))) for row in rows]
    return entries


def _unmet(values: dict[str, Any]) -> _Entry:
    """Return a batch that has not come. Where nobody said why, its export was killed, or is fetching it elsewhere."""
    is_open = values["status"] not in ("failed", "cancelled")
    if is_open and values["export_id"] not in running:
        message = "the process that exported it has ended, or is not done with it yet"
        values |= {"status": "cancelled", "kind": "cancelled", "retryable": True}
        values |= {"message": message, "hint": HINTS["cancelled"]}
    return _Entry(values["created_at"], values)


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


def renew_view(cursor: DuckDBPyConnection, objects: Objects, project: str) -> None:
    """Make the view of a project's events anew, of the objects that the mirror has."""
    table = table_for(project)
    query = f"SELECT key FROM {OBJECTS} WHERE {ledger.of_table(table)} ORDER BY date ASC"
    files = [objects.address(key) for (key,) in run(cursor, query)]
    if not files:
        columns = ", ".join(f"NULL::{kind} AS {quoted(name)}" for name, kind in COLUMNS)
        body = f"SELECT {columns}, NULL::VARCHAR AS project_id, NULL::DATE AS date, NULL::BIGINT AS rowid WHERE false"
    else:
        columns = ", ".join(f"e.{quoted(name)}::{kind} AS {quoted(name)}" for name, kind in COLUMNS[:-1])
        [(database, schema)] = run(cursor, "SELECT current_database(), current_schema()")
        here = f"{quoted(database)}.{quoted(schema)}"
        address = f"{literal(objects.address(''))} || key"
        body = (
            f"SELECT {columns}, o.batch_id, o.project_id, o.date, o.number + e.file_row_number AS rowid"
            f" FROM read_parquet([{', '.join(map(literal, files))}], filename = true, file_row_number = true,"
            " hive_partitioning = false, union_by_name = false) AS e"
            f" JOIN (SELECT *, (row_number() OVER (ORDER BY date ASC)) << {_ROW_BITS} AS number, {address} AS path"
            f" FROM {here}.{OBJECTS} WHERE {ledger.of_table(table)}) AS o ON o.path = e.filename"
        )
    run(cursor, f"CREATE OR REPLACE VIEW {quoted(table)} AS {body}")
