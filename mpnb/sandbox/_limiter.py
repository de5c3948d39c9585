"""The server's side of a quota: counts requests as Mixpanel does, and refuses them with Mixpanel's texts."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from mpnb._mixpanel.quota import Quota

HOUR = 3600.0


class Limiter:
    """
    The quota of a server, enforced. Any thread may call any method.

    Args:
        quota: the quota, or ``None`` to let everything through.
        project_id: named in refusals.
        clock: seconds that only go up.

    A refused request does not count: else a client that retries too early would lock itself out for good.
    """

    def __init__(self, quota: Quota | None, project_id: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._quota = quota
        self._project_id = project_id
        self._clock = clock
        self._lock = threading.Lock()
        self._starts: deque[float] = deque()
        self._running = 0

    def enter(self, *, hourly: bool = True) -> tuple[str, float] | None:
        """
        Admit a request, or return why not.

        Args:
            hourly: whether it takes a place in the hour.

        Returns:
            ``None`` if it is let in, and then ``leave()`` is due at its end; else the text of the refusal and the
            seconds until another try can succeed.
        """
        with self._lock:
            now = self._clock()
            while self._starts and now - self._starts[0] >= HOUR:
                self._starts.popleft()
            if self._quota is None:
                self._running += 1
                return None
            second = [start for start in self._starts if now - start < 1.0]
            wait = 0.0
            if hourly and len(self._starts) >= self._quota.per_hour:
                wait = HOUR - (now - self._starts[-self._quota.per_hour])
            elif len(second) >= self._quota.per_second:
                wait = 1.0 - (now - second[-self._quota.per_second])
            elif self._running >= self._quota.concurrent:
                wait = 1.0
            if wait:
                return self._refusal(len(second)), wait
            if hourly:
                self._starts.append(now)
            self._running += 1
            return None

    def leave(self) -> None:
        """Record that an admitted request has ended."""
        with self._lock:
            self._running -= 1

    def _refusal(self, second: int) -> str:
        assert self._quota is not None
        running = self._running + (self._running >= self._quota.concurrent)
        hour = len(self._starts) + (len(self._starts) >= self._quota.per_hour)
        second += second >= self._quota.per_second
        return (
            f"Query rate limit exceeded for project_id: {self._project_id}. "
            f"{running}/{self._quota.concurrent} queries running concurrently and "
            f"{hour}/{self._quota.per_hour} queries running in the last hour. "
            f"{second}/{self._quota.per_second} queries started in the last second. "
            "Please space your queries out, or ask for fewer and longer ranges."
        )
