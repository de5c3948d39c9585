"""
The one thread that writes: spool files in, and with each batch its ledger row in the same transaction.

It owns the only cursor that writes while the export runs. What it is handed waits in a bounded queue.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import duckdb

from mpnb._base.handover import Handover
from mpnb._base.sql import run
from mpnb._base.text import safe_text
from mpnb._fetching.fetched import Fetched, Group, Lost, Split
from mpnb._fetching.verify import BodyError
from mpnb._mixpanel.failures import HINTS, Failure, failure
from mpnb._planning.batches import Batch, make_batches
from mpnb._planning.dates import DAY
from mpnb._planning.request import Source
from mpnb._storing import ledger
from mpnb._storing.database import Store
from mpnb._storing.insert import NotAllEvents, blocks, insert_files, insert_lines
from mpnb._storing.ledger import Arrival, LedgerError

QUEUED_SPOOLS = 20
# Batches that wait are written together, in one transaction, until they have this many lines.
TOGETHER_LINES = 400_000
# DuckDB's row group. What has fewer rows goes to its log first and to the table at a checkpoint: 1.4 times the CPU.
ROW_GROUP = 122_880
# So fewer lines wait for others to come, while others are under way, for so long at most.
LINGER_SECONDS = 0.25
# Between two looks at whether they still are.
LOOK_SECONDS = 0.02
SPOOL_CHANGED = (
    "Its spool file changed before it was written, and nothing of it was kept: retry, with spool=mpnb.Spool(folder) on"
    " another disk if it happens again."
)


class WriteError(Exception):
    """A batch could not be written; nothing of it is in the table."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(str(failure))
        self.failure = failure


@dataclass(frozen=True, slots=True)
class Landed:
    """Tell what a batch has become."""

    status: str
    rows: int
    rejected: int


class Writer(threading.Thread):
    """
    Write queued batches until ``finish()`` was called and none is left. Not a daemon: the interpreter waits for a
    running query.

    Args:
        store: the database.
        table: the events table, which exists.
        export_id, source: what the ledger says of batches that are split.
        on_landed: called in this thread with what a ``Fetched`` became, or the failure of writing it.
        on_dropped: called in this thread with a ``Fetched`` that will not be written, since its group cannot be.
        on_broken: called in this thread with an exception that nobody expected.
        on_writing: called in this thread before a ``Fetched`` is written; false leaves it unwritten.
        more_to_come: says, called in this thread, whether other batches are under way to it.
    """

    def __init__(
        self,
        store: Store,
        table: str,
        export_id: str,
        source: Source,
        *,
        on_writing: Callable[[Fetched], bool],
        on_landed: Callable[[Fetched, Landed | WriteError], object],
        on_dropped: Callable[[Fetched], object],
        on_broken: Callable[[BaseException], object],
        more_to_come: Callable[[], bool],
    ) -> None:
        super().__init__(name=f"mpnb-writer-{export_id}", daemon=False)
        self._store = store
        self._table = table
        self._export_id = export_id
        self._source = source
        self._on_writing = on_writing
        self._on_landed = on_landed
        self._on_dropped = on_dropped
        self._on_broken = on_broken
        self._more_to_come = more_to_come
        self._queue: Handover[Fetched | Lost | Split] = Handover(QUEUED_SPOOLS)
        self._cursor = store.cursor()
        self.begun = threading.Event()  # let it write
        self._stopping = threading.Event()
        self._inserting = threading.Lock()  # held by interrupt() while it acts, and around the flag below
        self._in_insert = False
        self._ahead: list[Fetched | Lost | Split] = []  # taken from the queue, and its turn comes next
        self._parked: dict[Group, list[Fetched]] = {}  # until the last of each group is there
        self._may_join = True
        self.not_noted: list[Lost] = []

    def put(self, item: Fetched | Lost | Split) -> bool:
        """Hand something over, waiting while the queue is full. False where it ended too soon. Any thread."""
        return self._queue.put(item)

    def begin(self) -> None:
        """Let it write, once it was started. Any thread may call it."""
        self.begun.set()

    def release(self) -> None:
        """Close its cursor where it was never started."""
        self._store.release(self._cursor)

    def finish(self) -> None:
        """Let it end when it has written what it was handed. Any thread may call it."""
        self._queue.finish()
        self.begun.set()

    def interrupt(self) -> None:
        """
        Stop the insert that runs now, and begin no other. Any thread may call it.

        It must be called again until the writer has moved on: an interrupt between two statements is lost.
        """
        self._stopping.set()
        with self._inserting, contextlib.suppress(duckdb.Error):
            if self._in_insert:
                self._cursor.interrupt()

    def run(self) -> None:
        """Write until nothing is left and nothing more will come."""
        try:
            self.begun.wait()
            while (item := self._next()) is not None:
                try:
                    self._take(item)
                except Exception as error:
                    # The writer outlives whatever it meets: without it the workers would wait for ever.
                    self._on_broken(error)
        except BaseException as error:
            self._on_broken(error)
        finally:
            self._queue.end()
            with contextlib.suppress(duckdb.Error):
                self._store.release(self._cursor)

    def _next(self) -> Fetched | Lost | Split | None:
        return self._ahead.pop() if self._ahead else self._queue.get()

    def _take(self, item: Fetched | Lost | Split) -> None:
        if isinstance(item, Split):
            item.done(*self._split(item))
        elif isinstance(item, Lost):
            for parked in self._parked.pop(item.group, []) if item.group else ():
                self._on_dropped(parked)
            self.note(item)
        elif item.group is not None:
            parked_ones = self._parked.setdefault(item.group, [])
            parked_ones.append(item)
            if len(parked_ones) == item.group.size:
                self._land_group(self._parked.pop(item.group))
        else:
            self._land(self._with_those_behind(item))

    def _with_those_behind(self, first: Fetched) -> list[Fetched]:
        """Take what can be written with an item: what waits behind it, and if that is little, what comes soon."""
        items, lines = [first], first.body.lines
        until = time.monotonic() + LINGER_SECONDS
        while self._may_join and _can_join(first) and lines < TOGETHER_LINES:
            try:
                item = self._next_by(until if lines < ROW_GROUP else 0.0)
            except queue.Empty:
                break
            if not isinstance(item, Fetched) or item.group is not None or not _can_join(item):
                self._ahead.append(item)
                break
            items.append(item)
            lines += item.body.lines
        return items

    def _next_by(self, until: float) -> Fetched | Lost | Split:
        """Take what is next in the queue, or comes by then while more is to come. Raises ``queue.Empty``."""
        while time.monotonic() < until and self._more_to_come() and not self._stopping.is_set():
            with contextlib.suppress(queue.Empty):
                return self._taken(LOOK_SECONDS)
        return self._taken(0.0)

    def _taken(self, timeout: float) -> Fetched | Lost | Split:
        item = self._queue.get(timeout)
        if item is None:
            raise queue.Empty
        return item

    def _land(self, items: list[Fetched]) -> None:
        if len(items) > 1 and all(self._on_writing(item) for item in items):
            landed = self._write_together(items)
            if landed:
                for item, each in zip(items, landed, strict=True):
                    self._on_landed(item, each)
                return
        for item in items:
            if not self._on_writing(item):
                continue
            self._land_all([item])

    def _land_group(self, items: list[Fetched]) -> None:
        """Write all of a group in one transaction, or none."""
        if all([self._on_writing(item) for item in items]):
            self._land_all(items)

    def _land_all(self, items: list[Fetched]) -> None:
        """Write some in one transaction, and tell what became of each."""
        outcomes: Sequence[Landed | WriteError]
        try:
            outcomes = self._write(items)
        except WriteError as error:
            outcomes = [error] * len(items)
        for item, outcome in zip(items, outcomes, strict=True):
            self._on_landed(item, outcome)

    def _write_together(self, items: list[Fetched]) -> list[Landed] | None:
        """Write all or none: none where one of them needs to be looked at by itself, or fails."""
        try:
            return self._transaction(items, self._insert)
        except NotAllEvents:
            # Such a line seldom comes alone, and each would have them all written twice.
            self._may_join = False
        except Exception:
            # Whether the commit got through, the ledger says; else each fails, or not, by itself.
            landed = [self._ask_ledger(item) for item in items]
            return [each for each in landed if each] if all(landed) else None
        return None

    def _write(self, items: list[Fetched]) -> list[Landed]:
        try:
            try:
                return self._transaction_of(items)
            except duckdb.OutOfMemoryException:
                # A batch of very large events: what DuckDB takes by itself is better than to fail.
                with self._store.without_memory_limit():
                    return self._transaction_of(items)
        except duckdb.Error as error:
            # The exception does not say whether a commit got through; the ledger does.
            landed = [each for item in items if (each := self._ask_ledger(item))]
            if len(landed) == len(items):
                return landed
            raise self._write_error(error) from None
        except BodyError as error:
            is_ours = error.kind == "decode"
            hint, status = (SPOOL_CHANGED, None) if is_ours else (HINTS[error.kind], 200)
            raise WriteError(failure(error.kind, safe_text(str(error)), http_status=status, hint=hint)) from None
        except Exception as error:
            message = safe_text(f"unexpected {type(error).__name__}: {error}")
            raise WriteError(failure("write", message)) from error

    def _transaction_of(self, items: list[Fetched]) -> list[Landed]:
        try:
            return self._transaction(items, self._insert)
        except NotAllEvents:
            return self._transaction(items, self._insert_line_by_line)

    def _transaction(
        self, items: list[Fetched], insert: Callable[[list[Fetched]], list[tuple[int, int]]]
    ) -> list[Landed]:
        cursor = self._cursor
        try:
            run(cursor, "BEGIN")
            if replaced := [batch_id for item in items for batch_id in item.batch.replaces]:
                ledger.forget(cursor, self._table, replaced)
            arrivals = [
                Arrival(item.batch_id, item.batch, rows, rejected, item.body.size, item.attempts, item.started_at)
                for item, (rows, rejected) in zip(items, insert(items), strict=True)
            ]
            ledger.landed(cursor, self._table, arrivals)
            with self._store.committing():
                run(cursor, "COMMIT")
        except BaseException as error:
            # After an error COMMIT would say nothing and commit nothing.
            self._roll_back(error)
            raise
        return [Landed(arrival.status, arrival.rows, arrival.rejected) for arrival in arrivals]

    def _roll_back(self, error: BaseException) -> None:
        self._store.note(error)
        try:
            run(self._cursor, "ROLLBACK")
        except duckdb.TransactionException:
            pass  # there is no transaction: it did not begin, or ended with the error
        except duckdb.Error:
            # Whatever state it is in, closing it ends its transaction.
            with contextlib.suppress(duckdb.Error):
                self._store.release(self._cursor)
                self._cursor = self._store.cursor()

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

    def _insert(self, items: list[Fetched]) -> list[tuple[int, int]]:
        files = [item for item in items if item.body.lines]
        with self._interruptible():
            insert_files(self._cursor, self._table, files)
        return [(item.body.lines, 0) for item in items]

    def _insert_line_by_line(self, items: list[Fetched]) -> list[tuple[int, int]]:
        counts = []
        for item in items:
            rows = rejected = 0
            for block in blocks(item):
                with self._interruptible():
                    good, bad = insert_lines(self._cursor, self._table, item.batch_id, block)
                rows, rejected = rows + good, rejected + bad
            counts.append((rows, rejected))
        return counts

    def _ask_ledger(self, item: Fetched) -> Landed | None:
        try:
            with self._store.reading() as cursor:
                found = ledger.status_of(cursor, self._table, item.batch_id)
        except duckdb.Error:
            return None
        return Landed(*found) if found and found[0] in ("done", "empty") else None

    def _write_error(self, error: duckdb.Error) -> WriteError:
        text = safe_text(str(error))
        if isinstance(error, duckdb.InterruptException) or self._stopping.is_set():
            return WriteError(Failure("cancelled", "stopped while it was written", hint=HINTS["cancelled"]))
        if isinstance(error, duckdb.FatalException):
            hint = "Free some disk, then run the same call again: every batch that is done is in the file."
            return WriteError(failure("write", text, hits_all=True, hint=hint))
        if isinstance(error, duckdb.OutOfMemoryException):
            return WriteError(failure("write", text, hint="Retry with a smaller chunk_days."))
        # A commit that meets a full disk comes as an error of the transaction.
        if isinstance(error, duckdb.IOException) or "Could not write file" in text:
            hint = "Free some disk or mend the folder, then retry: every batch that is done is in the file."
            return WriteError(failure("write", text, hits_all=True, hint=hint))
        return WriteError(failure("write", text))

    def note(self, item: Lost) -> None:
        """
        Note a batch that failed. The writer's own thread.

        Where even that cannot be written, it is kept for another try at the end.
        """
        try:
            with self._store.committing():
                note(self._cursor, self._table, item, "failed")
        except (duckdb.Error, LedgerError) as error:
            self._roll_back(error)
            self.not_noted.append(item)

    def _split(self, item: Split) -> tuple[list[tuple[Batch, int]], Group | None]:
        cursor = self._cursor
        parts: list[tuple[Batch, int]] = []
        group: Group | None = None
        try:
            run(cursor, "BEGIN")
            # A batch of the ledger is replaced whole, so its days stay together.
            replaced = [h for h in ledger.held_batches(cursor, self._table) if h.batch_id in item.batch.replaces]
            days, _ = make_batches([(item.batch.from_date, item.batch.to_date)], replaced, lambda _: True, 1)
            if len(days) == 1 and days[0].days > 1:
                # One such batch is too large by itself: its days are fetched one by one, and replace it together.
                days = _days_of(days[0])
                group = Group(len(days))
            if len(days) > 1:
                ledger.forget(cursor, self._table, [item.batch_id])
                ids = ledger.register(
                    cursor, export_id=self._export_id, table=self._table, source=self._source, batches=days
                )
                parts = list(zip(days, ids, strict=True))
            with self._store.committing():
                run(cursor, "COMMIT")
        except duckdb.Error as error:
            self._roll_back(error)
            return [], None
        return parts, group


def note(cursor: duckdb.DuckDBPyConnection, table: str, item: Lost, status: str) -> None:
    """Note how a batch failed. Raises ``LedgerError`` where the ledger does not have it, or has it as landed."""
    ledger.unmet(
        cursor,
        table,
        [item.batch_id],
        status,
        item.failure,
        size=item.size,
        attempts=item.attempts,
        started_at=item.started_at,
    )


def _days_of(batch: Batch) -> list[Batch]:
    """Split a batch into its days, of which the first replaces what the batch does."""
    first = Batch(batch.from_date, batch.from_date, batch.replaces)
    rest = [batch.from_date + DAY * n for n in range(1, batch.days)]
    return [first, *(Batch(day, day) for day in rest)]


def _can_join(item: Fetched) -> bool:
    """Say whether it may be written together with others. A body that is still compressed is a large one."""
    return not item.body.gzip and item.body.lines > 0
