"""The limiter that keeps every request of a project within its quota."""

from __future__ import annotations

import math
import threading
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress

from mpnb._base.clock import Cancelled, epoch_seconds
from mpnb._base.fork import free_in_child, in_child
from mpnb._fetching.history import History, Times
from mpnb._mixpanel.quota import Quota

HOUR = 3600.0
# Requests that leave a second apart may arrive less apart, where the first one had to connect and the other had not, or
# a busy machine held it up: stay clear of the edge of both windows.
SECOND_WINDOW = 1.3
HOUR_WINDOW = HOUR + 2.0
# A file that is written at every start would slow those who may ask this often, and they rarely meet the limit.
MOST_SHARED = 1000
# As long as the longest Retry-After that is believed: a moment later than that is of a clock that was set back.
MOST_COOL = 2 * HOUR + 1.0
# How long it is remembered that Mixpanel counts requests within a session, too.
SESSIONS_COUNT = 24 * HOUR
# How often those who wait look at the file again: another process may have given a start back.
LOOK_AGAIN = 60.0
# A request that a database tells of began so many seconds after its start here at most, on a busy machine.
SAME_REQUEST = 5.0
# A database keeps less of a moment than a float does.
ROUNDED = 0.001
# Waits shorter than this are the pace of three a second, not news.
WORTH_TELLING = 1.0


class RateLimiter:
    """
    The quota of a project, applied to every request: a semaphore, a window of a second, and one of an hour.

    Any thread may call any method. One object serves all exports of a project in this process, and a history what other
    processes of the user start.

    Args:
        quota: what the project may do.
        history: shares the times of requests with other processes; of no use, and not used, where the quota allows
            more than ``MOST_SHARED`` an hour.
        clock: gives the time in seconds since the epoch.
        wait: sleeps on the condition for some seconds, or until it is notified.
    """

    def __init__(
        self,
        quota: Quota,
        *,
        history: History | None = None,
        clock: Callable[[], float] = epoch_seconds,
        wait: Callable[[threading.Condition, float], object] = threading.Condition.wait,
    ) -> None:
        self.quota = quota
        self._history = history
        self._clock = clock
        self._wait = wait
        self._changed = threading.Condition()
        self._starts: list[float] = []  # in order
        self._uncounted: list[float] = []  # in order, of the last second: those that take no place in the hour
        self._withdrawn: set[float] = set()
        self._in_flight = 0
        self._cool_until = 0.0
        self._sessions_count_until = 0.0

    @contextmanager
    def slot(
        self,
        is_cancelled: Callable[[], bool],
        on_wait: Callable[[float | None], object] | None = None,
        *,
        hourly: bool = True,
    ) -> Iterator[float]:
        """
        Wait until all three limits allow a request, and count it as in flight within the block.

        Args:
            is_cancelled: looked at whenever ``wake()`` was called.
            on_wait: told until when (seconds since the epoch, ``None`` for a place among those in flight) if the
                wait is worth telling.
            hourly: whether the request takes a place in the hour. All do for a day after Mixpanel has said so.

        Returns:
            The start, for ``withdraw`` where no request followed.

        Raises:
            Cancelled: ``is_cancelled()`` became true before the request started.
        """
        start = self._start(is_cancelled, on_wait, hourly)
        try:
            yield start
        finally:
            with self._changed:
                self._in_flight -= 1
                self._changed.notify_all()

    def withdraw(self, start: float) -> None:
        """Return a slot to the hour: no request left this machine, so Mixpanel did not count it."""
        with self._changed, self._exclusive():
            if start in self._uncounted:
                return
            self._next_start(self._clock())
            self._withdrawn.add(start)
            with suppress(ValueError):  # it left the hour meanwhile
                self._starts.remove(start)
            self._note([])
            self._changed.notify_all()

    def _start(
        self, is_cancelled: Callable[[], bool], on_wait: Callable[[float | None], object] | None, hourly: bool
    ) -> float:
        told: float | None = 0.0
        with self._changed:
            while True:
                if is_cancelled():
                    raise Cancelled
                with self._exclusive():
                    now = self._clock()
                    until = self._next_start(now, hourly=hourly)
                    full = self._in_flight >= self.quota.concurrent
                    if until <= now and not full:
                        [start] = self._note([now]) if self._counts(hourly, now) else self._note_uncounted(now)
                        self._in_flight += 1
                        return start
                moment = until if until > now else None
                seconds = until - now if until > now else HOUR
                if on_wait and seconds >= WORTH_TELLING and moment != told:
                    on_wait(moment)
                    told = moment
                self._wait(self._changed, min(seconds, LOOK_AGAIN if self._shared else HOUR))

    @property
    def _shared(self) -> History | None:
        return self._history if self.quota.per_hour <= MOST_SHARED else None

    def _exclusive(self) -> AbstractContextManager[None]:
        return self._shared.exclusive() if self._shared else nullcontext()

    def _note(self, starts: list[float]) -> list[float]:
        """Record starts, share them with other processes, and return all known times. Within ``_exclusive()``."""
        noted = [self._add(start) for start in starts]
        if self._shared:
            withdrawn = tuple(sorted(self._withdrawn))
            self._shared.write(Times(tuple(self._starts), self._cool_until, withdrawn, self._sessions_count_until))
        return noted

    def _add(self, start: float) -> float:
        """Add a start, or the next moment: starts are identified by their time, in the file and when withdrawn."""
        while start in self._withdrawn or ((i := bisect_right(self._starts, start)) and self._starts[i - 1] == start):
            start = math.nextafter(start, math.inf)
        insort(self._starts, start)
        return start

    def _note_uncounted(self, start: float) -> list[float]:
        self._uncounted = [each for each in self._uncounted if start - SECOND_WINDOW < each <= start]
        while start in self._uncounted:
            start = math.nextafter(start, math.inf)
        self._uncounted.append(start)
        return [start]

    def _counts(self, hourly: bool, now: float) -> bool:
        # A moment later than that is of a clock that was set back.
        return hourly or now < self._sessions_count_until <= now + SESSIONS_COUNT

    def _next_start(self, now: float, *, hourly: bool = True) -> float:
        """Return the earliest time at which both windows and any cool-down allow a request."""
        if self._shared:
            theirs = self._shared.read()
            self._cool_until = max(self._cool_until, theirs.cool_until)
            self._sessions_count_until = max(self._sessions_count_until, theirs.sessions_count_until)
            self._withdrawn.update(theirs.withdrawn)
            self._starts = sorted({*self._starts, *theirs.starts} - self._withdrawn)
        # What lies in the future is of a clock that was set back: it would block for ever.
        first, last = bisect_right(self._starts, now - HOUR_WINDOW), bisect_right(self._starts, now + 1)
        self._starts = self._starts[first:last]
        self._withdrawn = {start for start in self._withdrawn if now - HOUR_WINDOW < start <= now + 1}
        if self._cool_until > now + MOST_COOL:
            self._cool_until = 0.0
        until = max(now, self._cool_until)
        second, hour = self.quota.per_second, self.quota.per_hour
        latest = self._starts[-second:]
        if self._uncounted:
            latest = sorted([*latest, *(start for start in self._uncounted if start <= now + 1)])[-second:]
        if len(latest) >= second:
            until = max(until, latest[0] + SECOND_WINDOW)
        if len(self._starts) >= hour and self._counts(hourly, now):
            until = max(until, self._starts[-hour] + HOUR_WINDOW)
        return until

    def cool_down(self, seconds: float, *, hour_is_full: bool = False, sessions_count: bool = False) -> float:
        """
        Let no request of the project start for some seconds, and return the time at which that ends.

        Args:
            hour_is_full: Mixpanel says that the hour's quota is used up. Others must have sent the requests that are
                not known here, at unknown times: they are assumed to be spread over the hour, so that requests become
                possible again one by one.
            sessions_count: the request that it said so of was one within a session: these take a place in the hour as
                well, for a day.
        """
        with self._changed, self._exclusive():
            now = self._clock()
            self._next_start(now)
            self._cool_until = max(self._cool_until, now + max(seconds, 0.0))
            if sessions_count:
                self._sessions_count_until = now + SESSIONS_COUNT
            others = self.quota.per_hour - len(self._starts)
            if hour_is_full and self._shared and others > 0:
                self._note([now - HOUR * i / others for i in range(others)])
            else:
                self._note([])
            self._changed.notify_all()
            return self._cool_until

    def learn(self, requests: Iterable[tuple[float, int]]) -> None:
        """
        Count requests that a database tells of, unless they are known: another machine may have sent them.

        It writes nothing. The next start shares them with other processes.

        Args:
            requests: when the last attempt of each began, in seconds since the epoch, and how many attempts it had.
                When the earlier ones began is not known: they count from then as well.
        """
        if not self._shared:
            return
        with self._changed:
            now = self._clock()
            self._next_start(now)
            known = sorted({*self._starts, *self._withdrawn})
            for began, attempts in sorted(requests):
                first = bisect_left(known, began - SAME_REQUEST)
                if first < len(known) and known[first] <= began + ROUNDED:
                    del known[first]
                elif now - HOUR_WINDOW < began <= now:
                    for _ in range(attempts):
                        self._add(began)

    def left(self) -> int:
        """Return how many requests are left in the rolling hour."""
        with self._changed:
            self._next_start(self._clock())
            return max(0, self.quota.per_hour - len(self._starts))

    def in_flight(self) -> int:
        """Return how many requests are in flight."""
        with self._changed:
            return self._in_flight

    def wake(self) -> None:
        """Make every waiting thread check its ``is_cancelled`` at once."""
        with self._changed:
            self._changed.notify_all()


_limiters: dict[tuple[str, str, str], RateLimiter] = {}
_limiters_lock = threading.Lock()
# A child learns what its parent asked as any other process does: a limiter may have been in use when it was forked.
free_in_child(_limiters_lock)
in_child(_limiters.clear)


def limiter_for(
    host: str, project_id: str, quota: Quota | None, *, family: str = "export", usual: Quota | None = None
) -> RateLimiter:
    """
    Return the limiter of a project and a family of APIs, one per process.

    Args:
        family: of APIs that share a quota: ``"export"`` or ``"query"``.
        usual: Mixpanel's default for them; ``None`` for that of exports.
        quota: what the project was granted; ``None`` keeps what an earlier call said, or takes Mixpanel's default.
    """
    with _limiters_lock:
        key = (host, project_id, family)
        limiter = _limiters.get(key)
        if limiter is None:
            history = History(host, project_id, family)
            limiter = _limiters[key] = RateLimiter(quota or usual or Quota(), history=history)
        if quota is not None:
            limiter.quota = quota
        return limiter
