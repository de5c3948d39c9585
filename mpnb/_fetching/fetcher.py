"""
From a batch to a verified file: wait for spool space and quota, send a request, try again if that may help.

``Fetcher.fetch`` reads from top to bottom. It returns a ``Fetched`` or raises; what that means for the export, the
engine decides.
"""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import tenacity

from mpnb._base.clock import Cancelled, epoch_seconds, utc_now
from mpnb._fetching.client import FetchError
from mpnb._fetching.fetched import Fetched, Stored, Task
from mpnb._fetching.limiter import HOUR, RateLimiter
from mpnb._fetching.spool import SpoolFolder
from mpnb._fetching.verify import Body
from mpnb._mixpanel.failures import TOO_MANY_PAGES, Failure, from_os_error
from mpnb._planning.resource import Request, Resource

MAX_ATTEMPTS = 4
# Before the second attempt; doubled before each further one, with jitter of as much again.
BACKOFF_SECONDS = 1.0
MAX_BACKOFF_SECONDS = 60.0
# A full hour may empty at its very end: three waits of 1, 5 and 25 times the first reach past it.
HOUR_FULL_FACTOR = 5.0
# Longer waits are for the hour, not for the second.
LONG_WAIT = 60.0


class Watch(Protocol):
    """An observer of fetching, called in the worker's thread."""

    def is_wanted(self, task: Task) -> bool:
        """Whether the batch is still to be fetched: others of its group may have failed meanwhile."""

    def waiting(self, task: Task, until: float | None, why: Failure | None = None) -> None:
        """Called when the batch waits until a time in seconds since the epoch, and after which failure."""

    def fetching(self, task: Task) -> None:
        """Called when a request begins."""

    def answered(self, task: Task, status: int) -> None:
        """Called with the HTTP status of the answer."""

    def received(self, task: Task) -> None:
        """Called when more bytes have arrived; ``task.size`` is the total so far."""

    def tried(self, task: Task, *, sent: bool, why: Failure | None) -> None:
        """Called when a request ends, with whether any of it left this machine, and how it failed."""


class Way(Protocol):
    """
    The way of one batch's requests: a connection of this process, or a worker of an executor.

    All methods are for the thread that has the batch, but for ``abort`` and the properties, which any thread may call.
    """

    @property
    def connecting(self) -> bool:
        """Whether it does something that nothing can interrupt."""

    @property
    def sent(self) -> bool:
        """Whether any byte of the latest request left its machine, as far as is known."""

    @property
    def stored(self) -> Stored | None:
        """Return what the batch became, if it was stored where it was fetched."""

    def prepare(self) -> None:
        """Get ready to send a request at once. Raises ``FetchError`` or ``Cancelled``."""

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
        """Send a request; as ``Connection.fetch``."""

    def abort(self) -> None:
        """End the request, and send no other."""

    def close(self) -> None:
        """Release what it has."""


class Fetcher:
    """
    A fetcher of batches, one at a time in each worker's thread.

    Args:
        resource: what is asked for.
        stopping: set when no further request is to begin.
        is_aborting: whether the requests under way are to end as well.
        watch: is told what each batch goes through.
    """

    def __init__(
        self,
        resource: Resource,
        limiter: RateLimiter,
        spool: SpoolFolder,
        watch: Watch,
        *,
        stopping: threading.Event,
        is_aborting: Callable[[], bool],
    ) -> None:
        self._resource = resource
        self._limiter = limiter
        self._spool = spool
        self._watch = watch
        self._stopping = stopping
        self._is_aborting = is_aborting
        self._has_waited_for_hour = False  # a request within a session, which may have ended meanwhile

    def fetch(self, task: Task, connection: Way) -> Fetched:
        """
        Fetch a batch into a verified spool file, with as many attempts as may help.

        Raises:
            FetchError: it failed for good; nothing of it is left in the spool.
            Cancelled: the export ended first, or the batch is not wanted any more. The same.
        """
        path = self._spool.path / f"{task.batch_id}.jsonl"

        def before_sleep(state: tenacity.RetryCallState) -> None:
            # At once: others may wait for its bytes, and so would this batch's own next attempt.
            self._spool.remove(path)
            self._announce(task, state)

        retrying = tenacity.Retrying(
            # Not tenacity's own count: the writer may have sent the batch back.
            stop=lambda _: task.attempts >= MAX_ATTEMPTS,
            retry=lambda state: _is_worth_another(task, state),
            wait=lambda state: self._pause(task, _failure_of(state)),
            sleep=self._sleep,
            before_sleep=before_sleep,
            reraise=True,
        )
        if task.attempts:
            self._sleep(BACKOFF_SECONDS * 2.0 ** (task.attempts - 1))
        try:
            for attempt in retrying:
                with attempt, self._cooling_down(task):
                    kept, body = self._attempt(task, connection, path)
        except FetchError as error:
            self._spool.remove(path)
            raise FetchError(self._put_down_to_quota(error.failure), is_final=error.is_final) from None
        except BaseException:
            self._spool.remove(path)
            raise
        self._spool.finish(kept)
        return Fetched(task, kept, body, connection.stored)

    def _put_down_to_quota(self, why: Failure) -> Failure:
        """Return the failure for a session that ended while its requests waited for the quota: so would the next."""
        is_over = why.begins_anew and not why.once_more
        if not (is_over and self._has_waited_for_hour):
            return why
        message = f"the session ended while its pages waited for the quota: {why.message}"
        return replace(
            why,
            kind="rate_limit",
            message=message,
            begins_anew=False,
            hits_all=True,
            retryable=False,
            hint=TOO_MANY_PAGES,
        )

    def _attempt(self, task: Task, connection: Way, path: Path) -> tuple[Path, Body]:
        """Send one request, once spool and quota allow it."""
        if not self._watch.is_wanted(task):
            raise Cancelled
        try:
            # What is written together waits in the spool for the last of its group, which must not wait for it.
            self._spool.wait_for_room(self._stopping.is_set, at_once=task.group is not None)
        except OSError as error:
            raise FetchError(from_os_error(error)) from None
        request = self._resource.request(task.batch)
        connection.prepare()
        with self._limiter.slot(
            self._stopping.is_set,
            lambda until: self._wait_for_quota(task, until, request.is_in_session),
            hourly=not request.is_in_session,
        ) as slot:
            task.attempts, task.size = task.attempts + 1, 0
            task.started_at = utc_now()
            self._watch.fetching(task)

            def received(size: int) -> None:
                task.size = size
                self._watch.received(task)

            why: Failure | None = None
            try:
                kept, body = connection.fetch(
                    request,
                    self._spool,
                    path,
                    is_cancelled=self._is_aborting,
                    on_answer=lambda status: self._watch.answered(task, status),
                    on_bytes=received,
                )
                if (why := self._resource.fault(task.batch, body.lines, body.envelope)) is not None:
                    raise FetchError(why)
                return kept, body
            except FetchError as error:
                why = error.failure
                raise
            finally:
                self._watch.tried(task, sent=connection.sent, why=why)
                if not connection.sent:
                    self._limiter.withdraw(slot)

    def _wait_for_quota(self, task: Task, until: float | None, is_in_session: bool) -> None:
        if is_in_session and until is not None and until - epoch_seconds() > LONG_WAIT:
            self._has_waited_for_hour = True
        self._watch.waiting(task, until)

    def _sleep(self, seconds: float) -> None:
        self._stopping.wait(seconds)

    @contextlib.contextmanager
    def _cooling_down(self, task: Task) -> Iterator[None]:
        """After a 429, the batch's last one included, make all requests of the project wait."""
        try:
            yield
        except FetchError as error:
            why = error.failure
            if why.kind == "rate_limit":
                self._limiter.cool_down(
                    self._backoff(task, why),
                    hour_is_full=why.queries_over > 0,
                    sessions_count=why.queries_over > 0 and self._resource.request(task.batch).is_in_session,
                )
            raise

    def _pause(self, task: Task, why: Failure) -> float:
        """Return the seconds that this batch alone waits: none after a 429, when all requests of the project wait."""
        return 0.0 if why.kind == "rate_limit" else self._backoff(task, why)

    def _backoff(self, task: Task, why: Failure) -> float:
        """Return the seconds until the next attempt: what the server asks for, else a growing backoff."""
        if why.wait is not None:
            return why.wait
        first, factor, longest = BACKOFF_SECONDS, 2.0, MAX_BACKOFF_SECONDS
        if why.queries_over:
            first, factor, longest = why.queries_over * HOUR / self._limiter.quota.per_hour, HOUR_FULL_FACTOR, HOUR
        jitter = random.uniform(0.0, min(first, BACKOFF_SECONDS))  # noqa: S311 (no secret)
        return min(first * factor ** (task.attempts - 1), longest) + jitter

    def _announce(self, task: Task, state: tenacity.RetryCallState) -> None:
        """Report the wait before the next attempt."""
        seconds = state.next_action.sleep if state.next_action else 0.0
        self._watch.waiting(task, epoch_seconds() + seconds if seconds else None, _failure_of(state))


def _failure_of(state: tenacity.RetryCallState) -> Failure:
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, FetchError)
    return error.failure


def _is_worth_another(task: Task, state: tenacity.RetryCallState) -> bool:
    error = state.outcome.exception() if state.outcome else None
    if not isinstance(error, FetchError) or not error.failure.retryable or error.failure.hits_all or error.is_final:
        return False
    if error.failure.begins_anew and not error.failure.once_more:
        return False
    if error.failure.once_more:
        first, task.asked_once_more = not task.asked_once_more, True
        return first
    return True
