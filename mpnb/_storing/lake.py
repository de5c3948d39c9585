"""
A lake: one Parquet object for each day of a project, which any engine reads.

    project_id=P/date=D/events.parquet                        the events of a day, sorted by person and time
    _mpnb/sources/P.json                                      the source of the project's events
    _mpnb/runs/project_id=P/EXPORT/batches.parquet            rows of the ledger: what an export has not brought (yet)
    _mpnb/runs/project_id=P/EXPORT/lines-BATCH.parquet        lines of a batch that are not events, whole

A day's object is written with one PUT, which replaces only the object that was there when the export was planned. What
is there follows from the names of objects, and from the ``Note`` in each. A batch of several days is there if all its
objects are. ``mirror`` makes of all this a ledger in DuckDB, so that one engine reads tables and lakes.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from duckdb import DuckDBPyConnection

from mpnb._base.clock import utc_now
from mpnb._base.sql import literal, quoted, run
from mpnb._errors import DatabaseError, PlanError, TableError
from mpnb._fetching.fetched import Fetched, Stored
from mpnb._message import SAME_CALL, Argument, Phrase
from mpnb._mixpanel.failures import failure, hint_of
from mpnb._planning.batches import Batch
from mpnb._planning.dates import DAY
from mpnb._planning.request import Source
from mpnb._planning.resource import Events
from mpnb._storing.database import LEDGER, OBJECTS, REJECTED, RUNS
from mpnb._storing.destination import Unfit
from mpnb._storing.insert import Into, insert_files, insert_lines, table_of
from mpnb._storing.ledger import UNMET, Arrival, of_table
from mpnb._storing.mirror import day_of, lines_key, mirror, object_key, run_key, source_key, source_of, table_for
from mpnb._storing.objects import Objects, ObjectsError, Over, Taken
from mpnb._storing.parquet import Note, copy_of, copy_of_events, notes_of

# Rows of batches that are not one object as they are. In the database of temporary tables, where nothing is compressed.
_ROWS = "mpnb_rows"
TAKEN = hint_of("Run ", SAME_CALL, " again: it goes on from what is there by then.")


@dataclass(frozen=True, slots=True)
class _Placed:
    """An object that is in its place."""

    batch_id: int
    key: str
    etag: str
    rows: int


class Lake:
    """
    The objects of one project, for one export: ``Rows`` of a ``Table`` whose database mirrors the lake.

    Args:
        objects: where they are.
        resource: whose events they are.
        export_id: of the export.
        seen: the ETags of the objects that may be replaced, where somebody else has entered the export.
        scratch: a folder of ``objects.scratch`` then, which ``leave`` deletes.
        lands_together: whether it is here that batches are written, so that they can land together or not at all.
    """

    def __init__(
        self,
        objects: Objects,
        resource: Events,
        export_id: str,
        *,
        seen: Mapping[str, str] | None = None,
        scratch: Path | None = None,
        lands_together: bool = True,
    ) -> None:
        self.lands_together = lands_together
        self._objects = objects
        self._resource = resource
        self._export_id = export_id
        self._project = resource.source.project_id
        self._table = table_for(self._project)
        self._seen = dict(seen or {})
        self._scratch = scratch
        self._whole: dict[int, Path] = {}  # files of batches that are one object as they are
        self._let_go: Callable[[], None] | None = None

    # --- in the caller's thread --------------------------------------------------------------------------------------

    def enter(self, cursor: DuckDBPyConnection) -> None:
        """Take hold of the project, where that is possible, and mirror what is there. Raises ``PlanError``."""
        with refusing():
            self._let_go = self._objects.hold(self._project)
            if self._let_go is None:
                what = f"an export of project {self._project} into {self._objects.label}"
                raise TableError(f"{what} is running: wait for it or cancel it", argument="destination")
            self._scratch = self._objects.scratch(self._project)
            self._seen = mirror(cursor, self._objects, self._scratch, self._project)
            check_source(self._objects, self._resource.source)

    def admitted(self, cursor: DuckDBPyConnection) -> None:
        """Write down the source, and which batches are to come: if this process dies, they are known to be missing."""
        with refusing():
            source = self._resource.source
            text = json.dumps({"project_id": source.project_id, "events": source.events, "where": source.where})
            try:
                self._objects.put(source_key(self._project), text.encode(), Over(None))
            except Taken:
                check_source(self._objects, source)
            self._note_run(cursor, "true")

    def seen(self, batch: Batch) -> dict[str, str | None]:
        """Return the keys of a batch's objects, with the ETags of those that are there. Any thread."""
        keys = [object_key(self._project, batch.from_date + DAY * n) for n in range(batch.days)]
        return {key: self._seen.get(key) for key in keys}

    def leave(self) -> None:
        """Let go of the project, and delete what is left of files."""
        let_go, self._let_go = self._let_go, None
        scratch, self._scratch = self._scratch, None
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
        if let_go is not None:
            let_go()

    # --- in the writer's thread --------------------------------------------------------------------------------------

    def put(self, cursor: DuckDBPyConnection, files: Sequence[Fetched]) -> None:
        """Write what is one day as a file at once; for more days, take the rows first. Raises ``NotAllRecords``."""
        self._whole.clear()
        self._make_rows(cursor)
        for file in files:
            into = self._file_of(file) if file.task.batch.days == 1 else table_of(_ROWS)
            insert_files(cursor, into, self._resource, [file])

    def put_lines(
        self, cursor: DuckDBPyConnection, batch_id: int, lines: Sequence[tuple[int, bytes]]
    ) -> tuple[int, int]:
        """Take the rows of those lines that are events."""
        self._whole.clear()
        self._make_rows(cursor, more=True)
        return insert_lines(cursor, table_of(_ROWS), self._table, self._resource, batch_id, lines)

    def publish(self, cursor: DuckDBPyConnection, items: Sequence[Fetched], arrivals: Sequence[Arrival]) -> None:
        """
        Put each day's object in its place, once all files are written; enter those that are there. Raises ``Unfit``.
        """
        here = [arrival for item, arrival in zip(items, arrivals, strict=True) if item.stored is None]
        placed: list[_Placed] = []
        try:
            written = [each for arrival in here for each in self._written(cursor, arrival)]
            for arrival in here:
                self._keep_lines(cursor, arrival)
            for arrival, day, path in written:
                placed.append(self._publish(cursor, arrival, day, path))
            for item, arrival in zip(items, arrivals, strict=True):
                if item.stored is not None:
                    placed += self._take(cursor, arrival, item.stored)
        except ObjectsError as error:
            raise Unfit(failure("write", str(error), hits_all=True, hint=error.hint)) from None
        self._enter(cursor, placed)

    def _file_of(self, file: Fetched) -> Into:
        task = file.task
        path = self._path(task.batch_id, task.batch.from_date)
        note = self._note(Arrival(task, file.body.lines, 0, file.body.size), file.body.lines)
        self._whole[task.batch_id] = path
        return lambda rows: copy_of_events(rows, path, note)

    def _path(self, batch_id: int, day: date) -> Path:
        assert self._scratch is not None
        return self._scratch / f"{batch_id}-{day}.parquet"

    def _note(self, arrival: Arrival, rows: int, kept_lines: int = 0) -> Note:
        task, now = arrival.task, utc_now()
        batch = task.batch
        return Note(
            fetch=f"{self._export_id}/{task.batch_id}",
            from_date=batch.from_date,
            to_date=batch.to_date,
            requested_at=task.started_at or now,
            written_at=now,
            rows=rows,
            rejected=arrival.rejected,
            kept_lines=kept_lines,
            attempts=task.attempts,
            size=arrival.size,
        )

    def _make_rows(self, cursor: DuckDBPyConnection, *, more: bool = False) -> None:
        columns = ", ".join(f"{quoted(name)} {kind}" for name, kind in self._resource.columns)
        begin = "CREATE TEMP TABLE IF NOT EXISTS" if more else "CREATE OR REPLACE TEMP TABLE"
        run(cursor, f"{begin} {_ROWS} ({columns})")

    def _written(self, cursor: DuckDBPyConnection, arrival: Arrival) -> list[tuple[Arrival, date, Path]]:
        """Return the file of each day of a batch."""
        batch, batch_id = arrival.task.batch, arrival.task.batch_id
        if batch_id in self._whole:
            return [(arrival, batch.from_date, self._whole.pop(batch_id))]
        mine = f"SELECT * FROM {_ROWS} WHERE batch_id = {batch_id}"
        of_row = _day_within(batch)
        counts = dict(run(cursor, f"SELECT {of_row} AS day, count(*) FROM ({mine}) GROUP BY day"))
        [(kept,)] = run(cursor, f"SELECT count(*) FROM {REJECTED} WHERE {self._of(batch_id)}")
        made = []
        for day in (batch.from_date + DAY * n for n in range(batch.days)):
            path, note = self._path(batch_id, day), self._note(arrival, counts.get(day, 0), kept)
            run(cursor, copy_of_events(f"{mine} AND {of_row} = DATE '{day}'", path, note))
            made.append((arrival, day, path))
        run(cursor, f"DELETE FROM {_ROWS} WHERE batch_id = {batch_id}")
        return made

    def _of(self, batch_id: int) -> str:
        return f"{of_table(self._table)} AND batch_id = {batch_id}"

    def _keep_lines(self, cursor: DuckDBPyConnection, arrival: Arrival) -> None:
        """Store the lines that are not in the rows, before the rows: nothing of a batch is seen without them."""
        batch_id = arrival.task.batch_id
        query = f"SELECT line_number, reason, line, in_events FROM {REJECTED} WHERE {self._of(batch_id)}"
        if run(cursor, f"{query} LIMIT 1"):
            path = self._path(batch_id, arrival.task.batch.from_date).with_suffix(".lines")
            run(cursor, copy_of(f"{query} ORDER BY line_number ASC", path))
            self._objects.put(lines_key(self._project, f"{self._export_id}/{batch_id}"), path, None)

    def _publish(self, cursor: DuckDBPyConnection, arrival: Arrival, day: date, path: Path) -> _Placed:
        [note] = notes_of(cursor, [path])
        assert note is not None
        key = object_key(self._project, day)
        try:
            etag = self._objects.put(key, path, Over(self._seen.get(key)))
        except Taken:
            etag, note = self.ours(cursor, key, arrival.task.batch_id)
        return _Placed(arrival.task.batch_id, key, etag, note.rows)

    def _take(self, cursor: DuckDBPyConnection, arrival: Arrival, stored: Stored) -> list[_Placed]:
        """Take what was put elsewhere, with the lines that are kept beside."""
        batch_id = arrival.task.batch_id
        if stored.kept_lines:
            content = self._objects.read(lines_key(self._project, f"{self._export_id}/{batch_id}"))
            if content is None:
                raise Unfit(failure("write", "the lines that are no events were deleted from the lake", hint=TAKEN))
            path = self._path(batch_id, arrival.task.batch.from_date).with_suffix(".lines")
            path.write_bytes(content)
            kept = f"SELECT ?, ?, line_number, reason, line, in_events FROM read_parquet({literal(str(path))})"
            run(cursor, f"INSERT INTO {REJECTED} {kept}", [self._table, batch_id])
        return [_Placed(batch_id, *each) for each in stored.objects]

    def _enter(self, cursor: DuckDBPyConnection, placed: Sequence[_Placed]) -> None:
        """Enter objects into the mirror, in two statements for all: each takes as long as a small day does."""
        self._seen.update((each.key, each.etag) for each in placed)
        keys = [each.key for each in placed]
        # A batch that was there in part is not replaced as a batch: its days are fetched one by one.
        run(cursor, f"DELETE FROM {OBJECTS} WHERE {of_table(self._table)} AND list_contains(?, key)", [keys])
        values = {
            "ids": [each.batch_id for each in placed],
            "keys": keys,
            "etags": [each.etag for each in placed],
            "days": [day_of(key) for key in keys],
            "rows": [each.rows for each in placed],
        }
        fetch = literal(f"{self._export_id}/")
        run(
            cursor,
            f"INSERT INTO {OBJECTS} SELECT {literal(self._table)}, batch_id, key, etag, {fetch} || batch_id,"
            f" {literal(self._project)}, day, rows FROM (SELECT unnest($ids::BIGINT[]) AS batch_id,"
            " unnest($keys::VARCHAR[]) AS key, unnest($etags::VARCHAR[]) AS etag, unnest($days::DATE[]) AS day,"
            " unnest($rows::BIGINT[]) AS rows)",
            values,
        )

    def ours(self, cursor: DuckDBPyConnection, key: str, batch_id: int) -> tuple[str, Note]:
        """
        Return the ETag of an object that is there although it was not expected, with its note, if it is of this batch.

        The answer to a PUT may get lost, and the PUT that follows then meets the object of the first. So does a batch
        whose worker was given up, and came to its end all the same.

        Raises:
            Unfit: it is of another batch, or gone.
        """
        assert self._scratch is not None
        there = self._objects.look(key)
        if there is not None:
            [found] = notes_of(cursor, self._objects.footers([key], self._scratch))
            if found is not None and found.fetch == f"{self._export_id}/{batch_id}":
                return there.etag, found
        what = "is not as it was when this export began: another export has stored or deleted it, and that stays"
        raise Unfit(failure("write", f"{day_of(key)} {what}", hint=TAKEN))

    # --- at the end --------------------------------------------------------------------------------------------------

    def settled(self, cursor: DuckDBPyConnection) -> None:
        """Store which batches have not come, and why; nothing where all have. Raises ``DatabaseError``."""
        try:
            etag = self._note_run(cursor, f"status IN {UNMET}")
            if etag is not None:
                run(cursor, f"INSERT INTO {RUNS} VALUES (?, ?, ?)", [self._table, self._export_id, etag])
        except ObjectsError as error:
            raise DatabaseError(str(error)) from None

    def _note_run(self, cursor: DuckDBPyConnection, which: str) -> str | None:
        assert self._scratch is not None
        mine = f"FROM {LEDGER} WHERE {of_table(self._table)} AND export_id = {literal(self._export_id)} AND {which}"
        key, path = run_key(self._project, self._export_id), self._scratch / "batches.parquet"
        if run(cursor, f"SELECT 1 {mine} LIMIT 1"):
            run(cursor, copy_of(f"SELECT * EXCLUDE (table_name) {mine} ORDER BY batch_id ASC", path))
            return self._objects.put(key, path, None)
        self._objects.delete(key)
        return None


def check_source(objects: Objects, source: Source) -> None:
    """Check that a lake accepts events of this source. Raises ``TableError`` or ``ObjectsError``."""
    there = source_of(objects, source.project_id)
    if there is not None and not there.is_same(source):
        raise TableError(
            f"{objects.label} holds {there}, but ",
            Phrase("this call", "this call"),
            f" asks for {source}: pass another ",
            Argument("destination", ""),
            argument="destination",
        )


def _day_within(batch: Batch) -> str:
    """
    Return the day of a row as SQL: that of its time in UTC, within the days of its batch.

    In projects older than 2023, events may lie outside the days of their batch. A day of their own they have none: it
    would replace one of another batch. Those without a time are on the first.
    """
    first, last = f"DATE '{batch.from_date}'", f"DATE '{batch.to_date}'"
    return f"coalesce(least(greatest(time::DATE, {first}), {last}), {first})"


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """Raise as ``PlanError`` what objects cannot do before anything was sent."""
    try:
        yield
    except ObjectsError as error:
        raise PlanError(error.args[0], ": ", error.hint, argument="destination") from None
