"""
The way of a batch, from request to table: a pool of workers, a bounded queue, one writer.

    coordinator ──► ThreadPoolExecutor ── each worker: budget, quota, request, verified spool ──► queue ──► writer

The coordinator starts and ends everything, the workers fetch, the writer writes; each tells the board what it does.
``_fetch`` is where a batch begins, ``_on_landed`` and ``_lose`` are where it ends.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import duckdb
import tenacity

from mpnb._base.clock import Cancelled, epoch_seconds, utc_now
from mpnb._base.sql import run
from mpnb._base.text import safe_text
from mpnb._errors import MpnbError
from mpnb._exporting.board import BatchBoard
from mpnb._fetching.client import Connection, FetchError
from mpnb._fetching.fetched import Fetched, Group, Lost, Split
from mpnb._fetching.limiter import HOUR, RateLimiter
from mpnb._fetching.route import Route
from mpnb._fetching.spool import SpoolFolder
from mpnb._fetching.verify import Body
from mpnb._mixpanel.credentials import Credentials, forms_of
from mpnb._mixpanel.export_api import Request
from mpnb._mixpanel.failures import HINTS, Failure, failure, from_os_error
from mpnb._planning.batches import Batch
from mpnb._planning.request import Source
from mpnb._storing import ledger
from mpnb._storing.database import Store
from mpnb._storing.writer import Landed, WriteError, Writer, note

MAX_ATTEMPTS = 4
# Before the second attempt; doubled before each further one, with jitter of as much again.
BACKOFF_SECONDS = 1.0
MAX_BACKOFF_SECONDS = 60.0
# A full hour may empty at its very end: three waits of 1, 5 and 25 times the first reach past it.
HOUR_FULL_FACTOR = 5.0
# How long a cancelled export waits for threads that should end at once, and lets a write that is nearly done be done.
CANCEL_SECONDS = 1.2
WRITE_GRACE_SECONDS = 0.4
# Between two looks at whether the threads that should end a batch are still there.
LOOK_SECONDS = 1.0

log = logging.getLogger("mpnb")


@dataclass(slots=True)
class _Task:
    """Hold a batch that has not ended yet. Its worker owns it, then the writer."""

    batch: Batch
    batch_id: int
    attempts: int = 0
    size: int = 0
    started_at: datetime | None = None
    group: Group | None = None
    asked_once_more: bool = False


class Engine:
    """
    Run one export. ``start`` is for the caller's thread, ``run`` is the coordinator's; ``cancel`` is for any thread.

    Args:
        store: the database, with its tables made and the batches registered.
        tasks: of each batch its index on the board, itself, and its id in the ledger.
    """

    def __init__(
        self,
        *,
        export_id: str,
        store: Store,
        table: str,
        source: Source,
        credentials: Credentials,
        route: Route,
        limiter: RateLimiter,
        spool: SpoolFolder,
        board: BatchBoard,
        workers: int,
        tasks: list[tuple[int, Batch, int]],
    ) -> None:
        self._export_id = export_id
        self._store = store
        self._table = table
        self._source = source
        self._credentials = credentials
        self._limiter = limiter
        self._spool = spool
        self._board = board
        self._workers = workers
        self._changed = threading.Condition()
        self._tasks = {index: _Task(batch, batch_id) for index, batch, batch_id in tasks}
        self._ready = deque(self._tasks)  # indexes of those that no worker has taken yet
        self._active: set[Connection] = set()
        self._route = route
        self._cancelled_at: float | None = None
        self._stopping = threading.Event()  # no further request: it was cancelled, or a fault would hit every batch
        self._halted_by: Failure | None = None
        self._lost_database: str | None = None
        self._has_reached = False  # any request has left this machine
        self._trying: set[int] = set()  # batches with a request under way
        self._unreached: set[int] = set()  # batches whose request did not leave, since the last one that did
        self._has_fetched = False  # any body was whole
        self._strangers = 0  # batches that somebody else answered
        self._aborting = False
        self._go = threading.Event()
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix=f"mpnb-worker-{export_id}")
        self._loops: list[Future[None]] = []
        self._writer = Writer(
            store,
            table,
            export_id,
            source,
            on_writing=self._on_writing,
            on_landed=self._on_landed,
            on_dropped=lambda item: self._spool.remove(item.path),
            on_broken=self._break,
            more_to_come=self._is_fetching,
        )

    # --- the coordinator -----------------------------------------------------------------------------------------

    def start(self) -> None:
        """
        Make the threads, which wait for ``run`` or ``abandon``. In the caller's thread, before either.

        With fewer threads than it asked for an export is slower, and that is all.

        Raises:
            RuntimeError: not even two threads can be made.
        """
        self._writer.start()
        for _ in range(min(self._workers, sum(task.batch.days for task in self._tasks.values()) or 1)):
            try:
                self._loops.append(self._pool.submit(self._work))
            except RuntimeError:
                if not self._loops:
                    raise
                log.warning("only %d of %d workers could be started", len(self._loops), self._workers)
                break

    def abandon(self) -> None:
        """End the threads of an export that does not take place. In place of ``run``, whatever ``start`` has made."""
        self._stopping.set()
        self._go.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._writer.finish()
        if self._writer.ident is not None:
            self._writer.join()
        else:
            self._writer.release()
        self._spool.close()

    def run(self) -> None:
        """
        Run the export to its end, and leave every batch in the ledger as it ended.

        Raises:
            Exception: what nobody expected, once everything was ended and closed all the same.
        """
        self._writer.begin()
        self._go.set()
        first: BaseException | None = None
        for step in (
            self._wait_for_end,
            self._stop_all,
            self._wait_for_workers,
            self._end_writer,
            self._close_out,
            self._fold_log,
            self._revive,
            self._spool.close,
            self._board.finish,
        ):
            try:
                step()
            except BaseException as error:
                log.error("the end of the export met what it did not expect", exc_info=error)
                first = first or error
        # Whichever step failed: nobody waits for what does not come.
        self._writer.finish()
        if first is not None:
            raise first

    def _wait_for_end(self) -> None:
        with self._changed:
            while self._tasks and not self._stopping.is_set():
                # Each of them notifies of what it does; that one is gone is seen by looking.
                self._changed.wait(LOOK_SECONDS)
                if not self._writer.is_alive() or all(loop.done() for loop in self._loops):
                    break

    def _stop_all(self) -> None:
        with self._changed:
            self._stopping.set()
            self._changed.notify_all()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._wake()

    def _fold_log(self) -> None:
        if not self.cancelled:
            self._store.checkpoint()

    def cancel(self) -> None:
        """Stop as soon as possible: keep what is done, drop the rest. Any thread may call it; it returns at once."""
        with self._changed:
            self._cancelled_at = self._cancelled_at or time.monotonic()
        self._stop(abort=True)

    @property
    def cancelled(self) -> bool:
        """Say whether ``cancel()`` was called."""
        return self._cancelled_at is not None

    @property
    def quota_left(self) -> int:
        """Count the requests that the project's rolling hour still has."""
        return self._limiter.left()

    @property
    def lost_database(self) -> str | None:
        """Return why the database cannot be read any more, ``None`` where it can."""
        return self._lost_database

    @property
    def halted_by(self) -> Failure | None:
        """Give the fault that would have hit every batch, and so ended the export."""
        return self._halted_by

    def _wait_for_workers(self) -> None:
        """Wait for the requests under way. When they are aborted, leave those that still connect behind."""
        deadline = None
        while True:
            with self._changed:
                active = set(self._active)
                if not active:
                    break
                if self._aborting:
                    deadline = deadline or time.monotonic() + CANCEL_SECONDS
                    if all(connection.connecting for connection in active) or time.monotonic() > deadline:
                        return
                self._changed.wait(0.05 if self._aborting else None)
            if self._aborting:
                for connection in active:
                    connection.abort()
                self._press_writer()
        self._pool.shutdown(wait=True)

    def _press_writer(self) -> None:
        """Interrupt the writer when the export was cancelled and it had its moment to be done."""
        if self._cancelled_at is not None and time.monotonic() > self._cancelled_at + WRITE_GRACE_SECONDS:
            self._writer.interrupt()

    def _end_writer(self) -> None:
        self._writer.finish()
        while self._writer.is_alive():
            self._writer.join(0.05)
            self._press_writer()

    def _close_out(self) -> None:
        """Note in the ledger what became of the batches that did not come to their end."""
        with self._changed:
            left, self._tasks = self._tasks, {}
        not_noted = self._writer.not_noted
        if self.cancelled:
            status, why = "cancelled", Failure("cancelled", "the export was cancelled", hint=HINTS["cancelled"])
        else:
            status = "failed"
            why = self._halted_by or failure("write", "the export ended before this batch did")
        ends = [(status, self._lost(index, task, why)) for index, task in left.items() if task.attempts]
        ends += [("failed", lost) for lost in not_noted]
        landed: dict[int, Landed] = {}
        for is_last in (False, True):  # the disk may have had room again, or work again, a moment later
            try:
                landed = self._note_ends(ends, status, why)
                break
            except (duckdb.Error, MpnbError, ledger.LedgerError) as error:
                if is_last:
                    log.warning("the ledger could not be written at the end: %s", safe_text(str(error)))
        for index in left:
            if index not in landed:
                self._show_unmet(index, status, why)
        for index, outcome in landed.items():
            self._show_landed(index, outcome)

    def _note_ends(self, ends: list[tuple[str, Lost]], status: str, why: Failure) -> dict[int, Landed]:
        """
        Note in one transaction how batches ended.

        Returns:
            Those that have landed after all, by index: nobody could ask whether a commit got through while the database
            was invalid.
        """
        landed: dict[int, Landed] = {}
        with self._reopened_if_broken().reading() as cursor:
            run(cursor, "BEGIN")
            for status_of, lost in ends:
                found = ledger.status_of(cursor, self._table, lost.batch_id)
                if found is not None and found[0] in ("done", "empty"):
                    landed[lost.index] = Landed(*found)
                else:
                    note(cursor, self._table, lost, status_of)
            # Those that were tried say so, each for itself; all others in one statement.
            ledger.close(cursor, self._export_id, status, why)
            with self._store.committing():
                run(cursor, "COMMIT")
        return landed

    def _revive(self) -> None:
        """Let the result have a database that can be read, where one of the last statements ended the instance."""
        with contextlib.suppress(MpnbError):
            self._reopened_if_broken()

    def _reopened_if_broken(self) -> Store:
        if self._store.broken:
            try:
                self._store.reopen()
            except MpnbError as error:
                self._lost_database = str(error)
                raise
        return self._store

    def _show_landed(self, index: int, outcome: Landed) -> None:
        self._board.set(
            index, outcome.status, rows=outcome.rows, rejected=outcome.rejected, error=None, http_status=200
        )

    def _show_unmet(self, index: int, status: str, why: Failure, **more: object) -> None:
        self._board.set(index, status, error=str(why), kind=why.kind, hint=why.hint, **more)

    # --- what any thread may do ----------------------------------------------------------------------------------

    def _stop(self, *, abort: bool) -> None:
        with self._changed:
            self._aborting = self._aborting or abort
            self._stopping.set()
            active = set(self._active) if abort else set()
            self._changed.notify_all()
        for connection in active:
            connection.abort()
        self._wake()

    def _wake(self) -> None:
        self._limiter.wake()
        self._spool.wake()

    def _halt(self, why: Failure, *, abort: bool) -> None:
        """End the export with one error, where every other batch would meet the same."""
        with self._changed:
            self._halted_by = self._halted_by or why
        self._stop(abort=abort)

    def _is_fetching(self) -> bool:
        return bool(self._active)

    def _is_aborting(self) -> bool:
        return self._aborting

    def _end(self, index: int) -> None:
        with self._changed:
            self._tasks.pop(index, None)
            self._changed.notify_all()

    # --- the workers ---------------------------------------------------------------------------------------------

    def _work(self) -> None:
        """Fetch one batch after the other, until none is left. What it meets ends its batch, or the whole export."""
        connection: Connection | None = None
        try:
            self._go.wait()
            while (index := self._next_ready()) is not None:
                connection = self._fetch(index, connection)
        except BaseException as error:
            self._break(error)
        finally:
            if connection is not None:
                connection.close()

    def _next_ready(self) -> int | None:
        """Wait for a batch to fetch, ``None`` at the end: others may be split, and their days come here."""
        with self._changed:
            self._changed.wait_for(lambda: self._ready or not self._tasks or self._stopping.is_set())
            return None if self._stopping.is_set() or not self._ready else self._ready.popleft()

    def _fetch(self, index: int, connection: Connection | None) -> Connection | None:
        """
        Bring one batch to the writer, or to the ledger as failed. What a stop leaves is closed out at the end.

        Args:
            connection: of the batch before, ``None`` for the first.

        Returns:
            The connection for the next batch.
        """
        task = self._tasks.get(index)
        if task is None:  # its group has failed meanwhile
            return connection
        try:
            if connection is None:
                connection = Connection(self._credentials, self._route)
            with self._changed:
                if self._stopping.is_set():  # nobody would abort it any more
                    return connection
                self._active.add(connection)
            try:
                self._fetch_with(connection, index, task)
            finally:
                with self._changed:
                    self._active.discard(connection)
                    self._changed.notify_all()
        except Cancelled:
            pass
        except Exception as error:
            log.exception("a worker met what it did not expect")
            self._lose(index, task, self._unexpected(error))
        return connection

    def _fetch_with(self, connection: Connection, index: int, task: _Task) -> None:
        path = self._path(task)

        def before_sleep(state: tenacity.RetryCallState) -> None:
            # At once: others may wait for its bytes, and so would this batch's own next attempt.
            self._spool.remove(path)
            self._tell_wait(index, state)

        retrying = tenacity.Retrying(
            # Not tenacity's own count: the writer may have sent the batch back.
            stop=lambda _: task.attempts >= MAX_ATTEMPTS,
            retry=lambda state: _is_worth_another(task, state),
            wait=self._seconds_until_next,
            sleep=self._sleep,
            before_sleep=before_sleep,
            reraise=True,
        )
        if task.attempts:
            self._sleep(BACKOFF_SECONDS * 2.0 ** (task.attempts - 1))
        try:
            for attempt in retrying:
                with attempt:
                    kept, body = self._attempt(connection, index, task)
        except FetchError as error:
            self._spool.remove(path)
            why = error.failure
            if why.too_large and task.batch.days > 1:
                split = Split(task.batch_id, task.batch, lambda parts, group: self._on_split(index, why, parts, group))
                self._hand_over(split)
                return
            self._lose(index, task, why)
            if why.hits_all:
                self._halt(why, abort=why.kind == "write")
            elif why.unreached:
                self._count_unreached(index, why, is_last=True)
            elif why.stranger:
                self._count_stranger(why)
            return
        except BaseException:
            self._spool.remove(path)
            raise
        self._has_fetched = True
        self._spool.finish(kept)
        if index not in self._tasks:  # its group has failed meanwhile
            self._spool.remove(kept)
            return
        self._board.set(index, "writing")
        self._hand_over(
            Fetched(index, task.batch_id, task.batch, kept, body, task.attempts, task.started_at, task.group)
        )

    def _hand_over(self, item: Fetched | Lost | Split) -> None:
        if not self._writer.put(item):
            raise RuntimeError("the writer has ended")

    def _attempt(self, connection: Connection, index: int, task: _Task) -> tuple[Path, Body]:
        """Send one request, once the budget and the quota let it."""
        if index not in self._tasks:
            raise Cancelled  # its group has failed meanwhile
        try:
            # What is written together waits in the spool for the last of its group, which must not wait for it.
            self._spool.wait_for_room(self._stopping.is_set, at_once=task.group is not None)
        except OSError as error:
            raise FetchError(from_os_error(error)) from None
        tell = lambda until: self._board.set(index, "waiting", until=until)  # noqa: E731
        with self._limiter.slot(self._stopping.is_set, tell) as start:
            task.attempts += 1
            task.started_at = utc_now()
            self._board.set(index, "fetching", attempt=task.attempts, bytes=0)
            request = Request(
                task.batch.from_date.isoformat(),
                task.batch.to_date.isoformat(),
                self._credentials.project_id,
                self._source.events,
                self._source.where,
            )

            def received(size: int) -> None:
                task.size = size
                self._board.received(index, size)

            with self._changed:
                self._trying.add(index)
            try:
                return connection.fetch(
                    request,
                    self._spool,
                    self._path(task),
                    is_cancelled=self._is_aborting,
                    on_answer=lambda status: self._board.set(index, "fetching", http_status=status),
                    on_bytes=received,
                )
            except FetchError as error:
                if error.failure.unreached:
                    self._count_unreached(index, error.failure, is_last=False)
                raise
            finally:
                self._note_tried(index, connection.sent)
                if not connection.sent:
                    self._limiter.withdraw(start)

    def _note_tried(self, index: int, sent: bool) -> None:
        with self._changed:
            self._trying.discard(index)
            if sent:
                self._has_reached = True
                self._unreached.clear()

    def _count_unreached(self, index: int, why: Failure, *, is_last: bool) -> None:
        """
        End the export where two batches met what keeps every request here.

        Before the first request got through, one attempt of each is enough: an address, a proxy or a certificate is
        wrong. But batches that are about to get through, or not, have their say first. Later, last attempts alone
        count: networks come and go.
        """
        with self._changed:
            has_reached = self._has_reached or any(connection.sent for connection in self._active)
            if is_last or not has_reached:
                self._unreached.add(index)
            decided = len(self._unreached) > 1 and (has_reached or self._trying <= self._unreached)
        if decided:
            self._halt(replace(why, hits_all=True), abort=not has_reached)

    def _count_stranger(self, why: Failure) -> None:
        """End the export where two batches were answered by somebody else, and none came through."""
        with self._changed:
            self._strangers += 1
            is_every = self._strangers > 1 and not self._has_fetched
        if is_every:
            self._halt(replace(why, hits_all=True), abort=False)

    def _path(self, task: _Task) -> Path:
        return self._spool.path / f"{task.batch_id}.jsonl"

    def _sleep(self, seconds: float) -> None:
        self._stopping.wait(seconds)

    def _seconds_until_next(self, state: tenacity.RetryCallState) -> float:
        """Give the wait before the next attempt; after a 429 all requests of the project wait, at the limiter."""
        why = _failure_of(state)
        first, factor, longest = BACKOFF_SECONDS, 2.0, MAX_BACKOFF_SECONDS
        if why.queries_over:
            first, factor, longest = why.queries_over * HOUR / self._limiter.quota.per_hour, HOUR_FULL_FACTOR, HOUR
        # Not wait_exponential_jitter: the name of its first argument changes from one tenacity to the next.
        backoff = tenacity.wait_exponential(multiplier=first, exp_base=factor, max=longest)
        jitter = tenacity.wait_random(0, min(first, BACKOFF_SECONDS))
        seconds = backoff(state) + jitter(state) if why.wait is None else why.wait
        if why.kind == "rate_limit":
            self._limiter.cool_down(seconds, hour_is_full=why.queries_over > 0)
            return 0.0
        return seconds

    def _tell_wait(self, index: int, state: tenacity.RetryCallState) -> None:
        seconds = state.next_action.sleep if state.next_action else 0.0
        until = epoch_seconds() + seconds if seconds else None
        self._board.set(index, "waiting", until=until, error=str(_failure_of(state)), bytes=0)

    # --- how a batch ends ----------------------------------------------------------------------------------------

    def _lose(self, index: int, task: _Task, why: Failure) -> None:
        """End a batch as failed, and with it all that are written together or not at all."""
        ended = [(index, task, why)]
        if task.group is not None:
            day = task.batch.from_date
            also = replace(why, message=f"kept as it was, since {day} failed, which replaces the same batch: {why}")
            ended += [(i, t, also) for i, t in self._tasks_of(task.group) if i != index]
        for i, t, reason in ended:
            self._hand_over(self._lost(i, t, reason))
            self._show_unmet(i, "failed", reason, http_status=reason.http_status)
            self._end(i)

    def _tasks_of(self, group: Group) -> list[tuple[int, _Task]]:
        with self._changed:
            return [(index, task) for index, task in self._tasks.items() if task.group is group]

    def _lost(self, index: int, task: _Task, why: Failure) -> Lost:
        return Lost(index, task.batch_id, why, task.size, task.attempts, task.started_at, task.group)

    def _on_split(self, index: int, why: Failure, parts: list[tuple[Batch, int]], group: Group | None) -> None:
        """Go on with the days of a batch that was too large. In the writer's thread."""
        with self._changed:
            task = self._tasks[index]
        if not parts:
            # Not by the queue: the writer would wait for itself.
            self._writer.note(self._lost(index, task, why))
            self._show_unmet(index, "failed", why, http_status=why.http_status)
            self._end(index)
            return
        (first, first_id), *others = parts
        self._board.set(
            index, "queued", from_date=first.from_date, to_date=first.to_date, attempt=0, bytes=0, error=str(why)
        )
        indexes = self._board.add([(batch, "queued", 0) for batch, _ in others])
        with self._changed:
            self._tasks[index] = _Task(first, first_id, group=group)
            for i, (batch, batch_id) in zip(indexes, others, strict=True):
                self._tasks[i] = _Task(batch, batch_id, group=group)
            self._ready.extend((index, *indexes))
            self._changed.notify_all()

    def _break(self, error: BaseException) -> None:
        """End the export with what nobody expected. Any thread."""
        log.error("the export met what it did not expect", exc_info=error)
        self._halt(replace(self._unexpected(error), hits_all=True), abort=True)

    def _unexpected(self, error: BaseException) -> Failure:
        secrets = forms_of(self._credentials.username, self._credentials.secret)
        return failure("write", f"unexpected {type(error).__name__}: {error}").without(secrets)

    def _on_writing(self, item: Fetched) -> bool:
        if self.cancelled or (self._halted_by and self._halted_by.kind == "write"):
            self._spool.remove(item.path)
            return False
        return True

    def _on_landed(self, item: Fetched, outcome: Landed | WriteError) -> None:
        """Tell the board what became of a batch that was written. In the writer's thread."""
        self._spool.remove(item.path)
        if isinstance(outcome, Landed):
            self._show_landed(item.index, outcome)
            self._end(item.index)
            return
        why = outcome.failure
        if why.kind == "cancelled":
            return  # closed out with the others
        if why.kind == "truncated" and self._fetch_again(item.index, why):
            return
        with self._changed:
            task = self._tasks[item.index]
        self._writer.note(self._lost(item.index, task, why))
        self._show_unmet(item.index, "failed", why, http_status=200)
        self._end(item.index)
        if why.hits_all:
            self._halt(why, abort=True)

    def _fetch_again(self, index: int, why: Failure) -> bool:
        """
        Give a batch back to the workers whose lines say that its answer ended early, where it has an attempt left.

        One that is written together with others goes by its first answer: they would wait for it.
        """
        with self._changed:
            task = self._tasks[index]
            if task.attempts >= MAX_ATTEMPTS or task.group is not None or self._stopping.is_set():
                return False
        self._board.set(index, "waiting", error=str(why), bytes=0)
        with self._changed:
            self._ready.append(index)
            self._changed.notify_all()
        return True


def _failure_of(state: tenacity.RetryCallState) -> Failure:
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, FetchError)
    return error.failure


def _is_worth_another(task: _Task, state: tenacity.RetryCallState) -> bool:
    error = state.outcome.exception() if state.outcome else None
    if not isinstance(error, FetchError) or not error.failure.retryable or error.failure.hits_all:
        return False
    if error.failure.once_more:
        first, task.asked_once_more = not task.asked_once_more, True
        return first
    return True
