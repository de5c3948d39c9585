"""
One export at work, from requests to rows: a pool of workers, a bounded queue, one writer.

    coordinator ──► ThreadPoolExecutor ── each worker: Fetcher.fetch ──► queue ──► Writer ──► Destination

The coordinator starts and ends everything, the workers fetch, the writer writes; each tells the board what it does.
``_fetch`` is where a batch begins, ``landed`` and ``_lose`` are where it ends. What a batch asks for and where it lands
is not known here.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from mpnb._base.clock import Cancelled
from mpnb._base.text import safe_text
from mpnb._errors import MpnbError
from mpnb._exporting.board import BatchBoard
from mpnb._fetching.client import FetchError
from mpnb._fetching.fetched import Anew, Fetched, Group, Lost, Split, Task
from mpnb._fetching.fetcher import MAX_ATTEMPTS, Fetcher, Way
from mpnb._fetching.limiter import RateLimiter
from mpnb._fetching.spool import SpoolFolder
from mpnb._mixpanel.credentials import Credentials, forms_of
from mpnb._mixpanel.failures import HINTS, Failure, failure
from mpnb._planning.batches import Batch, most_requests
from mpnb._planning.resource import Resource
from mpnb._storing.destination import Destination, Landed, WriteError
from mpnb._storing.writer import Writer

# How long a cancelled export waits for threads that should end at once, and for a write that may be nearly done.
CANCEL_SECONDS = 1.2
WRITE_GRACE_SECONDS = 0.4
# Between two looks at whether the threads that should end a batch are still there.
LOOK_SECONDS = 1.0

log = logging.getLogger("mpnb")


class Engine:
    """
    The engine of one export. Call ``start`` in the caller's thread, ``run`` in the coordinator's, ``cancel`` in any.

    It is the ``Watch`` of its workers and the ``Sender`` of its writer.

    Args:
        name: tells its threads from others.
        resource: what is asked for.
        destination: where it lands; the batches of ``tasks`` are admitted there.
        connect: makes the way of a batch's requests.
        may_close: returns when the destination may be closed out, with the writer at its end.
        folds: whether to fold the destination at the end, see ``Destination.finish``.
    """

    def __init__(
        self,
        *,
        name: str,
        resource: Resource,
        destination: Destination,
        credentials: Credentials,
        connect: Callable[[Task], Way],
        limiter: RateLimiter,
        spool: SpoolFolder,
        board: BatchBoard,
        workers: int,
        tasks: Sequence[Task],
        may_close: Callable[[], object] = lambda: None,
        folds: bool = True,
    ) -> None:
        self._destination = destination
        self._credentials = credentials
        self._connect = connect
        self._limiter = limiter
        self._spool = spool
        self._board = board
        self._workers = workers
        self._may_close = may_close
        self._folds = folds
        self._changed = threading.Condition()
        self._tasks = {task.index: task for task in tasks}
        self._ready = deque(tasks)  # those that no worker has taken yet
        self._active: set[Way] = set()
        self._cancelled_at: float | None = None
        self._stopping = threading.Event()  # no further request: it was cancelled, or a fault would hit every batch
        self._halted_by: Failure | None = None
        self._has_reached = False  # any request has left this machine
        self._trying: set[int] = set()  # batches with a request under way
        self._unreached: set[int] = set()  # batches whose request did not leave, since the last one that did
        self._has_fetched = False  # any body was whole
        self._strangers = 0  # batches that somebody else answered
        self._dropped: set[int] = set()  # ids of batches that were of no use any more
        self._keys = {task.index: task.batch.key for task in tasks}
        self._cells: dict[str, int] = {}  # places on the board that are free again, by the key of what was there
        self._aborting = False
        self._go = threading.Event()
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix=f"mpnb-worker-{name}")
        self._loops: list[Future[None]] = []
        self._fetcher = Fetcher(
            resource, limiter, spool, self, stopping=self._stopping, is_aborting=lambda: self._aborting
        )
        self._writer = Writer(name, destination, self)

    # --- the coordinator -----------------------------------------------------------------------------------------

    def start(self) -> None:
        """
        Start the threads, which wait for ``run`` or ``abandon``. In the caller's thread, before either.

        With fewer threads than requested, an export is only slower.

        Raises:
            RuntimeError: not even two threads can be started.
        """
        self._writer.start()
        for _ in range(int(min(self._workers, sum(most_requests(task.batch) for task in self._tasks.values()) or 1))):
            try:
                self._loops.append(self._pool.submit(self._work))
            except RuntimeError:
                if not self._loops:
                    raise
                log.warning("only %d of %d workers could be started", len(self._loops), self._workers)
                break

    def abandon(self) -> None:
        """End the threads of an export that does not begin. Call it instead of ``run``, also after half a ``start``."""
        self._stopping.set()
        self._go.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._writer.finish()
        if self._writer.ident is not None:
            self._writer.join()

    def run(self) -> None:
        """
        Run the export to its end, and write the final status of every batch to the ledger.

        Raises:
            Exception: an unexpected error, after everything was ended and closed.
        """
        self._writer.begin()
        self._go.set()
        first: BaseException | None = None
        for step in (
            self._wait_for_end,
            self._stop_all,
            self._wait_for_workers,
            self._end_writer,
            self._may_close,
            self._close_out,
            self._finish,
        ):
            try:
                step()
            except BaseException as error:
                log.error("unexpected error at the end of the export", exc_info=error)
                first = first or error
        # Whichever step failed, the writer must not wait for more.
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

    def _finish(self) -> None:
        self._destination.finish(fold=self._folds and not self.cancelled)

    def cancel(self) -> None:
        """Stop as soon as possible: keep finished batches, drop the rest. Any thread may call it; returns at once."""
        with self._changed:
            self._cancelled_at = self._cancelled_at or time.monotonic()
        self._stop(abort=True)

    @property
    def cancelled(self) -> bool:
        """Whether ``cancel()`` was called."""
        return self._cancelled_at is not None

    @property
    def quota_left(self) -> int:
        """Return how many requests are left in the project's rolling hour."""
        return self._limiter.left()

    @property
    def lost_destination(self) -> str | None:
        """Return why the rows that were written cannot be read any more, or ``None`` if they can."""
        return self._destination.lost

    @property
    def halted_by(self) -> Failure | None:
        """Return the failure that ended the export because it would have hit every batch, or ``None``."""
        return self._halted_by

    def _wait_for_workers(self) -> None:
        """Wait for the requests in flight. After a cancel, do not wait for those that are still connecting."""
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
        """Interrupt the writer if the export was cancelled and the writer has had its grace period."""
        if self._cancelled_at is not None and time.monotonic() > self._cancelled_at + WRITE_GRACE_SECONDS:
            self._writer.interrupt()

    def _end_writer(self) -> None:
        self._writer.finish()
        while self._writer.is_alive():
            self._writer.join(0.05)
            self._press_writer()

    def _close_out(self) -> None:
        """Record what became of the batches that did not finish."""
        with self._changed:
            left, self._tasks = self._tasks, {}
        not_noted = [lost for lost in self._writer.not_noted if lost.task.batch_id not in self._dropped]
        if self.cancelled:
            status, why = "cancelled", Failure("cancelled", "the export was cancelled", hint=HINTS["cancelled"])
        else:
            status = "failed"
            why = self._halted_by or failure("write", "the export ended before this batch did")
        ends = [(status, Lost(task, why)) for task in left.values() if task.attempts]
        ends += [("failed", lost) for lost in not_noted]
        landed: dict[int, Landed] = {}
        for is_last in (False, True):  # the disk may have had room again, or work again, a moment later
            try:
                landed = self._destination.settle(ends, status, why)
                break
            except MpnbError as error:
                if is_last:
                    log.warning("the ledger could not be written at the end: %s", safe_text(str(error)))
        for index in left:
            if index not in landed:
                self._show_unmet(index, status, why)
        for index in self._cells.values():
            # Pages that there were before the export began anew.
            if left or self._halted_by:
                self._show_unmet(index, status, why)
            else:
                self._board.set(index, "skipped", rows=0, error=None)
        for index, outcome in landed.items():
            self._show_landed(index, outcome)

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
        """End the export with one error that every other batch would meet as well."""
        with self._changed:
            self._halted_by = self._halted_by or why
        self._stop(abort=abort)

    # --- the workers ---------------------------------------------------------------------------------------------

    def _work(self) -> None:
        """Fetch one batch after another until none is left. An exception ends its batch or the whole export."""
        try:
            self._go.wait()
            while (task := self._next_ready()) is not None:
                self._fetch(task)
        except BaseException as error:
            self.broken(error)

    def _next_ready(self) -> Task | None:
        """Wait for a batch to fetch; ``None`` when all have ended. A split batch adds its parts to this queue."""
        with self._changed:
            self._changed.wait_for(lambda: self._ready or not self._tasks or self._stopping.is_set())
            return None if self._stopping.is_set() or not self._ready else self._ready.popleft()

    def _fetch(self, task: Task) -> None:
        """Fetch one batch and pass it to the writer. Batches that a cancel leaves unfinished are closed at the end."""
        if not self.is_wanted(task):
            return
        try:
            with self._connected(task) as connection:
                self._fetch_by(connection, task)
        except Cancelled:
            pass
        except Exception as error:
            log.exception("unexpected error in a worker")
            self._lose(task, self._unexpected(error))

    @contextlib.contextmanager
    def _connected(self, task: Task) -> Iterator[Way]:
        """
        Lend a connection that a cancel can abort. It is active until what came of it is in the writer's queue.

        Raises:
            Cancelled: no further request is to begin.
        """
        with contextlib.closing(self._connect(task)) as connection:
            with self._changed:
                if self._stopping.is_set():  # nobody would abort it any more
                    raise Cancelled
                self._active.add(connection)
            try:
                yield connection
            finally:
                with self._changed:
                    self._active.discard(connection)
                    self._changed.notify_all()

    def _fetch_by(self, connection: Way, task: Task) -> None:
        try:
            fetched = self._fetcher.fetch(task, connection)
        except FetchError as error:
            self._failed(task, error.failure)
            return
        self._has_fetched = True
        if not self.is_wanted(task):
            self._spool.remove(fetched.path)
            return
        self._board.set(task.index, "writing")
        self._hand_over(fetched)

    def _failed(self, task: Task, why: Failure) -> None:
        """
        Handle a failed batch: split it if it is too large, else lose it; end the export if all would fail alike, or let
        it begin anew where nothing is of use any more.
        """
        if not self.is_wanted(task):
            return
        if why.too_large and task.batch.most_parts > 1:
            self._hand_over(Split(task, lambda parts, group: self._on_split(task, why, parts, group)))
            return
        if why.begins_anew:
            self._hand_over(Anew(task, lambda begun: self._on_anew(task, why, begun)))
            return
        self._lose(task, why)
        if why.hits_all:
            self._halt(why, abort=why.kind == "write")
        elif why.unreached:
            self._count_unreached(task, why, is_last=True)
        elif why.stranger:
            self._count_stranger(why)

    def _hand_over(self, item: Fetched | Lost | Split | Anew) -> None:
        if not self._writer.put(item):
            raise RuntimeError("the writer has ended")

    # What the fetcher tells, in the worker's thread.

    def is_wanted(self, task: Task) -> bool:
        """Whether a batch has not ended yet; its group may have failed meanwhile. Any thread."""
        return self._tasks.get(task.index) is task

    def waiting(self, task: Task, until: float | None, why: Failure | None = None) -> None:
        """Show that a batch waits."""
        if not self.is_wanted(task):
            return
        if why is None:
            self._board.set(task.index, "waiting", until=until)
        else:
            self._board.set(task.index, "waiting", until=until, error=str(why), bytes=0)

    def fetching(self, task: Task) -> None:
        """Show that a request begins."""
        if not self.is_wanted(task):
            return
        self._board.set(task.index, "fetching", attempt=task.attempts, bytes=0)
        with self._changed:
            self._trying.add(task.index)

    def answered(self, task: Task, status: int) -> None:
        """Show the status of an answer."""
        if not self.is_wanted(task):
            return
        self._board.set(task.index, "fetching", http_status=status)

    def received(self, task: Task) -> None:
        """Show how many bytes have arrived."""
        if not self.is_wanted(task):
            return
        self._board.received(task.index, task.size)

    def tried(self, task: Task, *, sent: bool, why: Failure | None) -> None:
        """Note whether a request got through, to notice when none does."""
        if why is not None and why.unreached:
            self._count_unreached(task, why, is_last=False)
        with self._changed:
            self._trying.discard(task.index)
            if sent:
                self._has_reached = True
                self._unreached.clear()

    def _count_unreached(self, task: Task, why: Failure, *, is_last: bool) -> None:
        """
        End the export if two batches failed because nothing gets out of this machine.

        Before any request has got through, one attempt of each is enough: an address, a proxy or a certificate is
        wrong. But requests in flight are waited for, since one may get through. Later, only last attempts count, since
        networks come and go.
        """
        with self._changed:
            has_reached = self._has_reached or any(connection.sent for connection in self._active)
            if is_last or not has_reached:
                self._unreached.add(task.index)
            decided = len(self._unreached) > 1 and (has_reached or self._trying <= self._unreached)
        if decided:
            self._halt(replace(why, hits_all=True), abort=not has_reached)

    def _count_stranger(self, why: Failure) -> None:
        """End the export if two batches were answered by something other than Mixpanel and none succeeded."""
        with self._changed:
            self._strangers += 1
            is_every = self._strangers > 1 and not self._has_fetched
        if is_every:
            self._halt(replace(why, hits_all=True), abort=False)

    # --- how a batch ends ----------------------------------------------------------------------------------------

    def _lose(self, task: Task, why: Failure) -> None:
        """End a batch as failed, together with its group, which is written as a whole or not at all."""
        ended = [(task, why)]
        if task.group is not None:
            label = task.batch.label
            also = replace(why, message=f"kept as it was, since {label} failed, which replaces the same batch: {why}")
            ended += [(other, also) for other in self._tasks_of(task.group) if other is not task]
        for each, reason in ended:
            self._hand_over(Lost(each, reason))
            self._show_unmet(each.index, "failed", reason, http_status=reason.http_status)
            self._end(each)

    def _tasks_of(self, group: Group) -> list[Task]:
        with self._changed:
            return [task for task in self._tasks.values() if task.group is group]

    def _end(self, task: Task) -> None:
        with self._changed:
            self._tasks.pop(task.index, None)
            self._changed.notify_all()

    def _show_landed(self, index: int, outcome: Landed) -> None:
        self._board.set(
            index, outcome.status, rows=outcome.rows, rejected=outcome.rejected, error=None, http_status=200
        )

    def _show_unmet(self, index: int, status: str, why: Failure, **more: object) -> None:
        self._board.set(index, status, error=str(why), kind=why.kind, hint=why.hint, **more)

    def _unexpected(self, error: BaseException) -> Failure:
        secrets = forms_of(self._credentials.username, self._credentials.secret)
        return failure("write", f"unexpected {type(error).__name__}: {error}").without(secrets)

    # What the writer tells, in its thread.

    def _on_split(self, task: Task, why: Failure, parts: Sequence[tuple[Batch, int]], group: Group | None) -> None:
        """Continue with the parts of a batch that was too large."""
        if not parts:
            self._lose_here(task, why, http_status=why.http_status)
            return
        (first, first_id), *others = parts
        self._board.become(task.index, first, str(why))
        indexes = self._add([batch for batch, _ in others])
        tasks = [Task(task.index, first_id, first, group)]
        tasks += [Task(i, batch_id, batch, group) for i, (batch, batch_id) in zip(indexes, others, strict=True)]
        with self._changed:
            self._tasks.update((each.index, each) for each in tasks)
            self._ready.extend(tasks)
            self._changed.notify_all()

    def _add(self, batches: Sequence[Batch]) -> range:
        return self._board.add([(batch, "queued", 0) for batch in batches], self._credentials.project_id)

    def _go_on_with(self, further: Sequence[tuple[Batch, int]]) -> None:
        """Continue with batches that an answer calls for. Those that there were before have their place still."""
        places = [self._cells.pop(batch.key, None) for batch, _ in further]
        added = [batch for (batch, _), place in zip(further, places, strict=True) if place is None]
        new = iter(self._add(added) if added else ())
        tasks = []
        for (batch, batch_id), place in zip(further, places, strict=True):
            tasks.append(Task(next(new) if place is None else place, batch_id, batch))
        self._keys.update((task.index, task.batch.key) for task in tasks)
        with self._changed:
            self._tasks.update((task.index, task) for task in tasks)
            self._ready.extend(tasks)
            self._changed.notify_all()

    def _on_anew(self, task: Task, why: Failure, begun: Sequence[tuple[Batch, int]]) -> None:
        """Drop all batches, and begin again; where that is impossible, end the export."""
        if not self.is_wanted(task):
            return
        if not begun:
            self._lose_here(task, why, http_status=why.http_status)
            self._halt(why, abort=True)
            return
        with self._changed:
            self._dropped |= {each.batch_id for each in self._tasks.values()}
            self._tasks.clear()
            self._ready.clear()
        for index, key in self._keys.items():
            self._cells[key] = index
            self._board.set(index, "queued", rows=0, rejected=0, bytes=0, attempt=0, error=f"begun anew, since {why}")
        self._go_on_with(begun)

    def is_to_write(self, item: Fetched) -> bool:
        """Whether a batch is still to be written."""
        is_over = self.cancelled or (self._halted_by and self._halted_by.kind == "write")
        if (is_over and item.stored is None) or not self.is_wanted(item.task):
            self._spool.remove(item.path)
            return False
        return True

    def dropped(self, item: Fetched) -> None:
        """Delete the file of a batch that will not be written."""
        self._spool.remove(item.path)

    def has_more(self) -> bool:
        """Whether requests are in flight."""
        return bool(self._active)

    def landed(self, item: Fetched, outcome: Landed | WriteError) -> None:
        """Show the result of writing a batch."""
        self._spool.remove(item.path)
        if isinstance(outcome, Landed):
            self._show_landed(item.task.index, outcome)
            self._go_on_with(outcome.further)
            self._end(item.task)
            return
        why = outcome.failure
        if why.kind == "cancelled":
            return  # closed out with the others
        if why.kind == "truncated" and self._fetch_again(item.task, why):
            return
        if why.begins_anew:
            self._on_anew(item.task, why, self._writer.begin_anew(item.task))
            return
        self._lose_here(item.task, why, http_status=200)
        if why.hits_all:
            self._halt(why, abort=True)

    def _lose_here(self, task: Task, why: Failure, *, http_status: int | None) -> None:
        """End a batch as failed from the writer's own thread, without its queue: the writer would wait for itself."""
        self._writer.note(Lost(task, why))
        self._show_unmet(task.index, "failed", why, http_status=http_status)
        self._end(task)

    def _fetch_again(self, task: Task, why: Failure) -> bool:
        """
        Send a batch back to the workers, if its lines show that its answer ended early and an attempt is left.

        A batch of a group is not fetched again: the rest of its group would have to wait for it.
        """
        if task.attempts >= MAX_ATTEMPTS or task.group is not None or self._stopping.is_set():
            return False
        self._board.set(task.index, "waiting", error=str(why), bytes=0)
        with self._changed:
            self._ready.append(task)
            self._changed.notify_all()
        return True

    def broken(self, error: BaseException) -> None:
        """End the export because of an unexpected exception. Any thread."""
        log.error("unexpected error in the export", exc_info=error)
        self._halt(replace(self._unexpected(error), hits_all=True), abort=True)
