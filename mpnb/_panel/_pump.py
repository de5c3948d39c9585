"""The one thread that touches widgets, ten times a second at most."""

from __future__ import annotations

import logging
import threading
import time
from typing import Protocol

TICK_SECONDS = 0.1
# An event cannot wait for ever and a day.
LONGEST_WAIT = 3600.0

log = logging.getLogger("mpnb")


class Shown(Protocol):
    """Be something on the screen."""

    def tick(self, now: float) -> float | None:
        """
        Bring the screen up to date. In the pump's thread.

        Args:
            now: seconds of ``time.monotonic()``.

        Returns:
            At which moment at the latest it wants the next tick: ``math.inf`` when it is woken, ``None`` for never.
        """


class Pump:
    """
    Tick whatever is on the screen. Any thread may call any method.

    Workers write plain state, clicks leave a word and wake the pump: everything that reaches a widget goes through
    its thread, since traits that are set from several threads lose updates or raise.

    Attributes:
        cpu_seconds: what its thread has used so far.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._woken = threading.Event()
        self._shown: list[Shown] = []
        self._thread: threading.Thread | None = None
        self.cpu_seconds = 0.0

    def add(self, shown: Shown) -> None:
        """Tick it from now on, until it says that it wants no more."""
        with self._lock:
            self._shown.append(shown)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="mpnb-pump", daemon=True)
                self._thread.start()
        self._woken.set()

    def wake(self) -> None:
        """Tick soon."""
        self._woken.set()

    def _run(self) -> None:
        before = self.cpu_seconds
        due: float | None = 0.0
        while due is not None:
            self._woken.wait(min(max(0.0, due - time.monotonic()), LONGEST_WAIT))
            self._woken.clear()
            due = self._tick_all()
            self.cpu_seconds = before + time.thread_time()
            time.sleep(TICK_SECONDS)

    def _tick_all(self) -> float | None:
        """Tick each, and give the moment of the next round, or ``None`` when nothing is left and the thread ends."""
        with self._lock:
            shown = list(self._shown)
        dues = []
        for each in shown:
            try:
                due = each.tick(time.monotonic())
            except Exception:
                # A screen that fails must harm neither the export nor the other screens.
                log.exception("a panel could not be brought up to date")
                due = None
            if due is None:
                with self._lock:
                    self._shown.remove(each)
            else:
                dues.append(due)
        with self._lock:
            if not self._shown:
                self._thread = None
                return None
        return min(dues, default=0.0)


pump = Pump()
