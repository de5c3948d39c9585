"""
Batches that workers of an executor fetch and store, as the engine sees them: one task for each request.

The engine's worker takes a slot of the quota, submits an ``Errand`` and waits for its future, so that everything else
is as it is where the request is sent from here: attempts, board, stop, ledger.
"""

from __future__ import annotations

import contextlib
import pickle
import threading
import time
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from mpnb._base.clock import Cancelled
from mpnb._base.text import safe_text
from mpnb._fetching.client import FetchError
from mpnb._fetching.fetched import Stored, Task
from mpnb._fetching.spool import SpoolFolder
from mpnb._fetching.verify import Body
from mpnb._message import SAME_CALL
from mpnb._mixpanel.credentials import Credentials
from mpnb._mixpanel.failures import Failure, failure, hint_of
from mpnb._planning.address import Address
from mpnb._planning.options import Spool
from mpnb._planning.resource import Events, Request
from mpnb._storing import errand as errands
from mpnb._storing.errand import MEND_WORKERS, Arrived, Errand, Missed, greet, objects_of, run_errand
from mpnb._storing.lake import Lake
from mpnb._storing.mirror import beat_key
from mpnb._storing.objects import ObjectsError
from mpnb._version import __version__

# Without a sign of a task: no executor that has workers takes so long to begin it.
STALLED_SECONDS = 300.0
# Between two looks at a future, and at whether the export is to end.
LOOK_SECONDS = 1.0

ANOTHER = hint_of("Make another executor, then run ", SAME_CALL, " again: all finished batches are in the lake.")
NO_WORKERS = hint_of(
    "See that the executor has workers and that they start, then run ",
    SAME_CALL,
    " again: all finished batches are in the lake.",
)
WORKER_ENDED = (
    "The worker ended, perhaps since its machine has too little memory: retry, with fewer days if it repeats."
)

T = TypeVar("T")


class Agency:
    """
    What the errands of one project have in common. Any thread.

    Args:
        executor: whose workers run them.
        lake: what is known of the objects.
    """

    def __init__(
        self,
        executor: Executor,
        address: Address,
        resource: Events,
        credentials: Credentials,
        lake: Lake,
        export_id: str,
        spool: Spool,
        memory: int | None,
    ) -> None:
        self.executor = executor
        self.project_id = credentials.project_id
        self.address = address
        self.export_id = export_id
        self._host = credentials.host
        self._resource = resource
        # In this process as they are; elsewhere as what a worker can fail to read, and say so.
        is_here = isinstance(executor, ThreadPoolExecutor)
        self._credentials = credentials if is_here else pickle.dumps(credentials)
        self._lake = lake
        self._spool = spool
        self._memory = memory
        self._greeted = threading.local()

    def connect(self, task: Task) -> Away:
        """Return the way of a batch's requests."""
        return Away(self, task)

    def errand(self, task: Task) -> Errand:
        """Return what a worker is to do for a batch, now that the quota allows it."""
        assert task.started_at is not None
        return Errand(
            self.address,
            self._resource,
            self._credentials,
            self.export_id,
            task.batch_id,
            task.batch,
            task.attempts,
            task.started_at,
            tuple(self._lake.seen(task.batch).items()),
            self._spool,
            self._memory,
            errands.BEAT_SECONDS,
        )

    @property
    def greeted(self) -> bool:
        """Whether a worker has answered this thread's greeting. Each thread sends one, so that each worker gets one."""
        return getattr(self._greeted, "once", False)

    @greeted.setter
    def greeted(self, once: bool) -> None:
        self._greeted.once = once

    def greeting(self) -> Future[str]:
        """Submit a greeting."""
        return self.executor.submit(greet, __version__, self.address, self.project_id, self._host, self._credentials)

    def beat_of(self, task: Task) -> str | None:
        """Return what tells one sign of a worker's from the one before, ``None`` for no sign."""
        with contextlib.suppress(ObjectsError):
            found = objects_of(self.address).look(beat_key(self.project_id, self.export_id, task.batch_id))
            return found.etag if found else None
        return None

    def drop_beat(self, task: Task) -> None:
        """Delete what a worker has left that ended."""
        with contextlib.suppress(ObjectsError):
            objects_of(self.address).delete(beat_key(self.project_id, self.export_id, task.batch_id))


class Away:
    """
    One batch at a worker of an executor: a ``Way``.

    Args:
        agency: sends the errands.
    """

    def __init__(self, agency: Agency, task: Task) -> None:
        self._agency = agency
        self._task = task
        self._woken = threading.Event()
        self._aborted = False
        self.sent = False
        self.stored: Stored | None = None

    @property
    def connecting(self) -> bool:
        """Return ``False``: nothing keeps it from ending at once."""
        return False

    def prepare(self) -> None:
        """
        See that a worker is there that can do errands.

        Raises:
            FetchError: none is, or none can.
            Cancelled: the export ended first.
        """
        if self._agency.greeted:
            return
        try:
            fault = self._outcome(self._agency.greeting, lambda: None)
        except FetchError as error:
            if not error.failure.hits_all:
                return  # that one ended: the batch itself will tell
            raise
        if fault:
            raise FetchError(_unable(fault))
        self._agency.greeted = True

    def fetch(
        self,
        request: Request,
        spool: SpoolFolder,
        path: Path,
        *,
        is_cancelled: Callable[[], bool],
        on_answer: Callable[[int], object],
        on_bytes: Callable[[int], object],
    ) -> tuple[Path, Body]:
        """
        Let a worker fetch and store the batch.

        Returns:
            A file that is not there, and what the body was.

        Raises:
            FetchError: there is no whole body, it could not be stored, or the worker or the executor has ended.
            Cancelled: the export ended first. The worker may go on: what it stores is whole, and of use.
        """
        errand = self._agency.errand(self._task)
        self.sent = False
        try:
            outcome = self._outcome(
                lambda: self._agency.executor.submit(run_errand, errand), lambda: self._agency.beat_of(self._task)
            )
        except BaseException:
            self.sent = True  # as far as is known
            raise
        self.sent = not isinstance(outcome, Missed) or outcome.sent
        if isinstance(outcome, Arrived):
            on_answer(200)
            on_bytes(outcome.body.size)
            self.stored = outcome.stored
            return path, outcome.body
        if outcome.failure.http_status is not None:
            on_answer(outcome.failure.http_status)
        raise FetchError(outcome.failure, is_final=outcome.is_final)

    def _outcome(self, submit: Callable[[], Future[T]], beat: Callable[[], str | None]) -> T:
        """Submit a task, and return what comes of it. Raises ``FetchError`` or ``Cancelled``."""
        try:
            future = submit()
            future.add_done_callback(lambda _: self._woken.set())
            self._wait(future, beat)
            return future.result(0)
        except (Cancelled, FetchError):
            raise
        except BrokenExecutor as error:
            raise FetchError(_broken(error)) from None
        except Exception as error:
            if self._aborted:
                raise Cancelled from None
            self._agency.drop_beat(self._task)
            raise FetchError(_ended(error)) from None
        finally:
            self._woken.clear()

    def _wait(self, future: Future[T], beat: Callable[[], str | None]) -> None:
        """
        Wait until a future is done.

        Whether it runs, pools of this machine say, and see by themselves when a process ends. Of others' tasks, which
        all look as if they waited, a beat in the lake says that they run.
        """
        last, heard = None, time.monotonic()
        while not future.done():
            self._woken.wait(min(LOOK_SECONDS, STALLED_SECONDS))
            if self._aborted:
                future.cancel()
                raise Cancelled
            if future.running():
                heard = time.monotonic()
            elif not future.done() and time.monotonic() - heard >= STALLED_SECONDS:
                latest = beat()
                if latest is None or latest == last:
                    future.cancel()
                    raise FetchError(_stalled())
                last, heard = latest, time.monotonic()

    def abort(self) -> None:
        """Abandon the task: it does not begin, if it has not. Any thread may call it."""
        self._aborted = True
        self._woken.set()

    def close(self) -> None:
        """Do nothing."""


def _unable(fault: str) -> Failure:
    message = safe_text(f"the executor cannot do this: {fault}")
    return failure("connection", message, retryable=False, hits_all=True, hint=MEND_WORKERS)


def _broken(error: BaseException) -> Failure:
    message = safe_text(f"the executor is broken: {type(error).__name__}: {error}")
    return failure("connection", message, hits_all=True, hint=ANOTHER)


def _stalled() -> Failure:
    message = f"the executor has not begun a task within {STALLED_SECONDS / 60:,.3g} minutes"
    return failure("connection", message, hits_all=True, hint=NO_WORKERS)


def _ended(error: BaseException) -> Failure:
    """Return the failure for a task that ended with an exception: its worker did, or it could not even begin."""
    name, text = type(error).__name__, str(error)
    if isinstance(error, RuntimeError) and "shutdown" in text:
        return _broken(error)
    if isinstance(error, ImportError | AttributeError | TypeError | pickle.PickleError):
        return _unable(f"{name}: {text}")
    what = "was cancelled" if isinstance(error, CancelledError) else f"ended with {name}: {text}"
    return failure("connection", safe_text(f"the task of a worker {what}"), hint=WORKER_ENDED)
