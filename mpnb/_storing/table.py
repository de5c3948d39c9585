"""
A DuckDB table as the place where batches land: each in one transaction with its ledger row.

Only the writer's cursor writes rows. Everything else uses cursors that are borrowed for a moment.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import duckdb
from duckdb import DuckDBPyConnection

from mpnb._base.sql import run
from mpnb._base.text import safe_text
from mpnb._errors import DatabaseError, MpnbError
from mpnb._fetching.fetched import Fetched, Group, Lost, Task
from mpnb._fetching.verify import BodyError
from mpnb._message import SAME_CALL
from mpnb._mixpanel.failures import FEWER_DAYS, HINTS, SPOOL_ELSEWHERE, Failure, failure, hint_of
from mpnb._planning.batches import Batch, HeldBatch
from mpnb._planning.resource import Resource
from mpnb._storing import forgotten, ledger, leftovers, tables
from mpnb._storing.database import Store
from mpnb._storing.destination import Landed, Unfit, WriteError
from mpnb._storing.insert import NotAllRecords, blocks, insert_files, insert_lines, table_of
from mpnb._storing.ledger import Arrival, LedgerError
from mpnb._storing.running import entering, registration, running

FREE_DISK = hint_of("Free some disk space, then run ", SAME_CALL, " again: all finished batches are in the file.")
SPOOL_CHANGED = hint_of(
    "The batch's spool file changed before it was written, and nothing of it was kept: retry, with ",
    SPOOL_ELSEWHERE,
    " on another disk if it happens again.",
)
SMALLER_BATCHES = hint_of("Retry with a smaller ", FEWER_DAYS, ".")


@dataclass(slots=True)
class _Entering:
    """A transaction in which batches are admitted, into one table or several."""

    cursor: DuckDBPyConnection
    admitted: list[Table] = field(default_factory=list)


class Course(Protocol):
    """
    What becomes of batches besides rows, within the transactions that admit and write them.

    Attributes:
        hides: whether nobody can read their rows before the last one has landed.
    """

    @property
    def hides(self) -> bool: ...

    def admitted(self, cursor: DuckDBPyConnection, batches: Sequence[tuple[Batch, int]]) -> None:
        """Note batches that are admitted, with their ids. In the caller's thread."""

    def after(
        self, cursor: DuckDBPyConnection, items: Sequence[Fetched], arrivals: Sequence[Arrival]
    ) -> Sequence[tuple[Batch, int]]:
        """
        Do what else is to be done where batches land, given what they brought.

        Returns:
            Batches that they call for, with the ids that they were admitted with.

        Raises:
            Unfit: nothing of this may land.
        """

    def anew(self, cursor: DuckDBPyConnection) -> Sequence[tuple[Batch, int]]:
        """Forget all that the export has stored, and admit what it begins with; without any, it cannot begin again."""


class Rows(Protocol):
    """
    Where the rows of batches go, besides what the ledger has of them.

    ``enter`` and ``admitted`` are for the caller's thread, ``put`` to ``publish`` for the writer's, within its
    transaction, ``settled`` for the coordinator's.

    Attributes:
        lands_together: whether batches can land together or not at all.
    """

    @property
    def lands_together(self) -> bool: ...

    def enter(self, cursor: DuckDBPyConnection) -> None:
        """
        Bring the ledger up to date with what is there, and keep others from changing that.

        Raises:
            TableError: somebody else is changing it, or it does not accept these rows.
        """

    def admitted(self, cursor: DuckDBPyConnection) -> None:
        """Do what is to be done before the first batch, when all are in the ledger."""

    def put(self, cursor: DuckDBPyConnection, files: Sequence[Fetched]) -> None:
        """Take files, each line as one row. Raises ``NotAllRecords``."""

    def put_lines(
        self, cursor: DuckDBPyConnection, batch_id: int, lines: Sequence[tuple[int, bytes]]
    ) -> tuple[int, int]:
        """Take those of some numbered lines that are records, and return how many are and how many are not."""

    def publish(self, cursor: DuckDBPyConnection, items: Sequence[Fetched], arrivals: Sequence[Arrival]) -> None:
        """Let others read what was put. Raises ``Unfit``."""

    def settled(self, cursor: DuckDBPyConnection) -> None:
        """Do what is to be done when the end of every batch is in the ledger. Raises ``DatabaseError``."""

    def leave(self) -> None:
        """Let others change what is there again. Any thread."""


class _InTable:
    """Rows that are inserted into a table of the database itself: the transaction does all else."""

    lands_together = True

    def __init__(self, table: str, resource: Resource) -> None:
        self._table = table
        self._resource = resource

    def enter(self, cursor: DuckDBPyConnection) -> None:
        """Do nothing: the database is open for this process alone."""

    def admitted(self, cursor: DuckDBPyConnection) -> None:
        """Do nothing."""

    def put(self, cursor: DuckDBPyConnection, files: Sequence[Fetched]) -> None:
        """Insert files. Raises ``NotAllRecords``."""
        insert_files(cursor, table_of(self._table), self._resource, files)

    def put_lines(
        self, cursor: DuckDBPyConnection, batch_id: int, lines: Sequence[tuple[int, bytes]]
    ) -> tuple[int, int]:
        """Insert lines."""
        return insert_lines(cursor, table_of(self._table), self._table, self._resource, batch_id, lines)

    def publish(self, cursor: DuckDBPyConnection, items: Sequence[Fetched], arrivals: Sequence[Arrival]) -> None:
        """Do nothing: the commit does it."""

    def settled(self, cursor: DuckDBPyConnection) -> None:
        """Do nothing."""

    def leave(self) -> None:
        """Do nothing."""


class _EachByItself:
    """The course of batches that call for no others."""

    hides = False

    def admitted(self, cursor: DuckDBPyConnection, batches: Sequence[tuple[Batch, int]]) -> None:
        """Do nothing: the ledger has all that there is to know."""

    def after(
        self, cursor: DuckDBPyConnection, items: Sequence[Fetched], arrivals: Sequence[Arrival]
    ) -> Sequence[tuple[Batch, int]]:
        """Do nothing."""
        return ()

    def anew(self, cursor: DuckDBPyConnection) -> Sequence[tuple[Batch, int]]:
        """Begin nothing again: what has landed stays of use."""
        return ()


EACH_BY_ITSELF = _EachByItself()


def write_error(error: Exception) -> WriteError:
    """Return what an exception means that was raised while a batch was written."""
    text = safe_text(str(error))
    if isinstance(error, Unfit):
        return WriteError(error.failure)
    if isinstance(error, BodyError):
        is_ours = error.kind in ("decode", "write")
        hint, status = (SPOOL_CHANGED, None) if is_ours else (HINTS[error.kind], 200)
        return WriteError(failure(error.kind, text, http_status=status, hint=hint))
    if isinstance(error, duckdb.FatalException):
        return WriteError(failure("write", text, hits_all=True, hint=FREE_DISK))
    if isinstance(error, duckdb.OutOfMemoryException):
        return WriteError(failure("write", text, hint=SMALLER_BATCHES))
    # A commit that meets a full disk comes as an error of the transaction.
    if isinstance(error, duckdb.IOException) or (isinstance(error, duckdb.Error) and "Could not write file" in text):
        hint = "Free some disk space or fix the folder, then retry: all finished batches are in the file."
        return WriteError(failure("write", text, hits_all=True, hint=hint))
    if isinstance(error, duckdb.Error):
        return WriteError(failure("write", text))
    return WriteError(failure("write", safe_text(f"unexpected {type(error).__name__}: {error}")))


class Table:
    """
    One table of records, for one export: a ``Destination``.

    Args:
        store: the database.
        table: name of the table, created if missing.
        course: what becomes of batches besides rows.
        shown: how messages name the table, if otherwise.
        rows: where rows go; without, into the table itself.
    """

    def __init__(
        self,
        store: Store,
        table: str,
        resource: Resource,
        export_id: str,
        course: Course = EACH_BY_ITSELF,
        *,
        shown: str | None = None,
        rows: Rows | None = None,
    ) -> None:
        self._course = course
        self._rows = rows or _InTable(table, resource)
        self._shown = table if shown is None else shown
        self._store = store
        self._table = table
        self._resource = resource
        self._export_id = export_id
        self._lost: str | None = None
        self._entering: _Entering | None = None
        self._turn = threading.Lock()
        self._writing: DuckDBPyConnection | None = None
        self._stopping = threading.Event()
        self._inserting = threading.Lock()  # held by interrupt() while it acts, and around the flag below
        self._in_insert = False

    # --- admission, in the caller's thread ---------------------------------------------------------------------------

    def held(self) -> Sequence[HeldBatch]:
        """Return the batches whose rows the table still has."""
        with self._store.reading() as cursor:
            return [h for h in ledger.compared_batches(cursor, self._table) if not h.is_gone]

    @contextlib.contextmanager
    def admission(self, others: Sequence[Table] = ()) -> Iterator[None]:
        """
        Keep other exports of this process out, and commit at the end of the block what was admitted in it.

        Args:
            others: tables of the same store, which are entered with this one, all or none. They take turns to write:
                DuckDB's memory limit has room for one at a time.

        Raises:
            TableError: another export into the same table is running, or a table was not made by mpnb.
            DatabaseError: the database cannot be written.
        """
        everyone = (self, *others)
        with registration, self._store.committing(), self._store.reading() as cursor:
            within = _Entering(cursor)
            for each in everyone:
                each._entering, each._turn = within, self._turn
            try:
                for each in everyone:
                    each._check_free(cursor)
                yield
                with entering:
                    running.update(each._export_id for each in everyone)
                    if within.admitted:
                        run(cursor, "COMMIT")
                for each in within.admitted:
                    each._rows.admitted(cursor)
            except duckdb.Error as error:
                raise DatabaseError(f"{self._store.label} cannot be written: {safe_text(str(error))}") from None
            finally:
                for each in everyone:
                    each._entering = None

    def _check_free(self, cursor: DuckDBPyConnection) -> None:
        tables.check(cursor, self._store.label)
        self._rows.enter(cursor)
        if not ledger.exists(cursor):
            return
        leftovers.settle(cursor)
        ledger.check_unused(cursor, self._table, self._shown)

    def admit(self, batches: Sequence[Batch], forget: Sequence[int]) -> list[int]:
        """Enter batches into the ledger, create missing tables, and forget batches whose rows are gone."""
        assert self._entering is not None
        cursor = self._entering.cursor
        if not self._entering.admitted:
            run(cursor, "BEGIN")
        self._entering.admitted.append(self)
        ids = ledger.admit(
            cursor, export_id=self._export_id, table=self._table, resource=self._resource, batches=batches, gone=forget
        )
        self._course.admitted(cursor, list(zip(batches, ids, strict=True)))
        return ids

    def leave(self) -> None:
        """Allow other exports again: this one is over or did not begin. Any thread may call it."""
        running.discard(self._export_id)
        self._rows.leave()

    # --- landing, in the writer's thread -----------------------------------------------------------------------------

    def land(self, items: Sequence[Fetched]) -> list[Landed]:
        """
        Write batches in one transaction.

        Raises:
            WriteError: the batches were not written; nothing of them is in the table.
        """
        try:
            try:
                return self._transaction_of(items)
            except duckdb.OutOfMemoryException:
                # A batch of very large events: what DuckDB takes by itself is better than to fail.
                with self._store.without_memory_limit():
                    return self._transaction_of(items)
        except duckdb.Error as error:
            # The exception does not say whether a commit got through; the ledger does.
            landed = [each for item in items if (each := self._ask_ledger(item.task))]
            if len(landed) == len(items):
                return landed
            if isinstance(error, duckdb.InterruptException) or self._stopping.is_set():
                stopped = Failure("cancelled", "stopped while the batch was written", hint=HINTS["cancelled"])
                raise WriteError(stopped) from None
            raise write_error(error) from None
        except Exception as error:
            raise write_error(error) from error

    @property
    def hides(self) -> bool:
        """Whether nobody can read what lands before the last batch has."""
        return self._course.hides

    def can_join(self, item: Fetched) -> bool:
        """Whether a batch may be written together with others. One with a compressed body is large, and may not."""
        return item.stored is not None or (not item.body.gzip and item.body.lines > 0)

    def land_joined(self, items: Sequence[Fetched]) -> list[Landed] | None:
        """Write batches in one transaction; ``None`` if a line needs a check of its own, or anything failed."""
        try:
            return self._transaction(items, self._insert)
        except NotAllRecords:
            return None
        except Exception:
            # Whether the commit got through, the ledger says; else each fails, or not, by itself.
            landed = [self._ask_ledger(item.task) for item in items]
            return [each for each in landed if each] if all(landed) else None

    def _transaction_of(self, items: Sequence[Fetched]) -> list[Landed]:
        try:
            return self._transaction(items, self._insert)
        except NotAllRecords:
            return self._transaction(items, self._insert_line_by_line)

    def _transaction(
        self, items: Sequence[Fetched], insert: Callable[[Sequence[Fetched]], list[tuple[int, int]]]
    ) -> list[Landed]:
        with self._turn:
            return self._in_turn(items, insert)

    def _in_turn(
        self, items: Sequence[Fetched], insert: Callable[[Sequence[Fetched]], list[tuple[int, int]]]
    ) -> list[Landed]:
        cursor = self._writer()
        try:
            run(cursor, "BEGIN")
            if replaced := [batch_id for item in items for batch_id in item.task.batch.replaces]:
                ledger.forget(cursor, self._table, replaced)
            counts = insert(items)
            ids = [item.task.batch_id for item in items]
            out = forgotten.leave_out(cursor, self._table, self._resource, ids)
            arrivals = [
                Arrival(item.task, rows - out.get(batch_id, 0), rejected + out.get(batch_id, 0), item.body.size)
                for item, batch_id, (rows, rejected) in zip(items, ids, counts, strict=True)
            ]
            ledger.landed(cursor, self._table, arrivals)
            further = tuple(self._course.after(cursor, items, arrivals))
            self._rows.publish(cursor, items, arrivals)
            with self._store.committing():
                run(cursor, "COMMIT")
        except BaseException as error:
            # After an error COMMIT would say nothing and commit nothing.
            self._roll_back(error)
            raise
        landed = [Landed(arrival.status, arrival.rows, arrival.rejected) for arrival in arrivals]
        return [*landed[:-1], replace(landed[-1], further=further)]

    def _writer(self) -> DuckDBPyConnection:
        """Return the cursor that writes. In the writer's thread."""
        self._writing = self._writing or self._store.cursor()
        return self._writing

    def _roll_back(self, error: BaseException) -> None:
        self._store.note(error)
        if self._writing is None:
            return
        try:
            run(self._writing, "ROLLBACK")
        except duckdb.TransactionException:
            pass  # there is no transaction: it did not begin, or ended with the error
        except duckdb.Error:
            self.release()  # whatever state it is in, closing it ends its transaction

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        with self._inserting:
            if self._stopping.is_set():
                raise duckdb.InterruptException("stopped")
            self._in_insert = True
        try:
            yield
        finally:
            with self._inserting:
                self._in_insert = False

    def _insert(self, items: Sequence[Fetched]) -> list[tuple[int, int]]:
        files = [item for item in items if item.body.lines and item.stored is None]
        if files or not all(item.stored for item in items):
            with self._interruptible():
                self._rows.put(self._writer(), files)
        return [(each.rows, each.rejected) if (each := item.stored) else (item.body.lines, 0) for item in items]

    def _insert_line_by_line(self, items: Sequence[Fetched]) -> list[tuple[int, int]]:
        counts = []
        for item in items:
            rows = rejected = 0
            for block in blocks(item):
                with self._interruptible():
                    good, bad = self._rows.put_lines(self._writer(), item.task.batch_id, block)
                rows, rejected = rows + good, rejected + bad
            counts.append((rows, rejected))
        return counts

    def _ask_ledger(self, task: Task) -> Landed | None:
        try:
            with self._store.reading() as cursor:
                return self._landed(cursor, task)
        except duckdb.Error:
            return None

    def _landed(self, cursor: DuckDBPyConnection, task: Task) -> Landed | None:
        found = ledger.status_of(cursor, self._table, task.batch_id)
        return Landed(*found) if found and found[0] in ("done", "empty") else None

    def note(self, lost: Lost) -> bool:
        """Record a failed batch in the ledger. Return whether that worked."""
        try:
            with self._store.committing():
                ledger.lost(self._writer(), self._table, lost, "failed")
        except (duckdb.Error, LedgerError, MpnbError) as error:
            self._roll_back(error)
            return False
        return True

    def split(self, task: Task) -> tuple[list[tuple[Batch, int]], Group | None]:
        """Replace a batch of the ledger by smaller ones; return none if that is impossible."""
        try:
            cursor = self._writer()
            run(cursor, "BEGIN")
            batches, together = self._resource.parts(task.batch, ledger.held_batches(cursor, self._table))
            if together and not self._rows.lands_together:
                # The first that lands replaces the whole: its other days are missing until they come.
                batches, together = [replace(each, replaces=task.batch.replaces) for each in batches], False
            ids: list[int] = []
            if batches:
                ledger.forget(cursor, self._table, [task.batch_id])
                ids = ledger.register(
                    cursor,
                    export_id=self._export_id,
                    table=self._table,
                    source=self._resource.source,
                    batches=batches,
                )
                self._course.admitted(cursor, list(zip(batches, ids, strict=True)))
            with self._store.committing():
                run(cursor, "COMMIT")
        except (duckdb.Error, MpnbError) as error:
            self._roll_back(error)
            return [], None
        return list(zip(batches, ids, strict=True)), Group(len(batches)) if together else None

    def begin_anew(self, task: Task) -> list[tuple[Batch, int]]:
        """Forget what the export has stored, and admit what it begins with; return none if that is impossible."""
        try:
            cursor = self._writer()
            run(cursor, "BEGIN")
            begun = list(self._course.anew(cursor))
            with self._store.committing():
                run(cursor, "COMMIT")
        except (duckdb.Error, MpnbError) as error:
            self._roll_back(error)
            return []
        return begun

    def interrupt(self) -> None:
        """
        Stop the current insert, and begin no other. Any thread may call it.

        It must be called again until the writer has moved on: an interrupt between two statements is lost.
        """
        self._stopping.set()
        with self._inserting, contextlib.suppress(duckdb.Error):
            if self._in_insert and self._writing is not None:
                self._writing.interrupt()

    def release(self) -> None:
        """Close the cursor that writes."""
        cursor, self._writing = self._writing, None
        if cursor is not None:
            with contextlib.suppress(duckdb.Error):
                self._store.release(cursor)

    # --- the end, in the coordinator's thread ------------------------------------------------------------------------

    @property
    def lost(self) -> str | None:
        """Return why the database cannot be read any more, or ``None`` if it can."""
        return self._lost

    def settle(self, ends: Sequence[tuple[str, Lost]], status: str, why: Failure) -> dict[int, Landed]:
        """
        Record in one transaction how batches ended, and close whatever else the export left open.

        Batches that were tried get a statement each, all others share one.

        Returns:
            Batches that have landed after all, by index: while the database was invalid, it was unknown whether a
            commit had succeeded.

        Raises:
            DatabaseError: it cannot be written.
        """
        landed: dict[int, Landed] = {}
        self._reopen_if_broken()
        try:
            with self._store.reading() as cursor:
                run(cursor, "BEGIN")
                for status_of, lost in ends:
                    found = self._landed(cursor, lost.task)
                    if found is not None:
                        landed[lost.task.index] = found
                    else:
                        ledger.lost(cursor, self._table, lost, status_of)
                ledger.close(cursor, self._export_id, status, why)
                with self._store.committing():
                    run(cursor, "COMMIT")
                self._rows.settled(cursor)
        except (duckdb.Error, LedgerError) as error:
            raise DatabaseError(safe_text(str(error))) from None
        return landed

    def finish(self, *, fold: bool) -> None:
        """Leave a readable database, even if one of the last statements invalidated the instance."""
        if fold:
            self._store.checkpoint()
        with contextlib.suppress(MpnbError):
            self._reopen_if_broken()

    def _reopen_if_broken(self) -> None:
        if self._store.broken:
            try:
                self._store.reopen()
            except MpnbError as error:
                self._lost = str(error)
                raise
