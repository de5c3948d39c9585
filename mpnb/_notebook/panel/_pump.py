"""The one thread that updates widgets, at most five times in two seconds."""

from __future__ import annotations

import atexit
import logging
import math
import threading
import time
from typing import Protocol

# Each tick is a message, a millisecond of CPU: with the picture of the end they are less than 2 % of an export's.
TICK_SECONDS = 0.4
# An event cannot wait for ever and a day.
LONGEST_WAIT = 3600.0
STOP_SECONDS = 5.0

log = logging.getLogger("mpnb")


class Shown(Protocol):
    """A display that the pump updates."""

    def tick(self, now: float) -> float | None:
        """
        Update the display. In the pump's thread.

        Args:
            now: seconds of ``time.monotonic()``.

        Returns:
            At which moment at the latest it wants the next tick, ``math.inf`` for when it is woken, and ``None`` where
            nothing needs it any more: it is let go, unless it is woken once more.
        """


class Pump:
    """
    The thread that updates displays. Any thread may call any method.

    Workers write plain state, clicks leave a word and wake the pump: everything that reaches a widget goes through
    its thread, since traits that are set from several threads lose updates or raise.

    Attributes:
        cpu_seconds: what its thread has used so far.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._woken = threading.Event()
        self._dues: dict[Shown, float] = {}
        self._thread: threading.Thread | None = None
        self._stopped = False
        self.cpu_seconds = 0.0
        atexit.register(self.stop)

    def stop(self) -> None:
        """
        End the thread, and wait for that. Also called when the interpreter exits.

        A daemon's thread that is in the middle of a query then would be unwound through DuckDB's frames, which aborts
        the process.
        """
        with self._lock:
            self._stopped = True
            thread = self._thread
        self._woken.set()
        if thread is not None:
            thread.join(STOP_SECONDS)

    def wake(self, shown: Shown) -> None:
        """Update a display soon, and again until its ``tick`` says that it is done. The pump keeps it alive."""
        with self._lock:
            self._dues[shown] = 0.0
            if self._thread is None and not self._stopped:
                self._thread = threading.Thread(target=self._run, name="mpnb-pump", daemon=True)
                self._thread.start()
        self._woken.set()

    def shown(self) -> list[Shown]:
        """Return the displays that the pump still updates."""
        with self._lock:
            return list(self._dues)

    def _run(self) -> None:
        before = self.cpu_seconds
        while True:
            with self._lock:
                if not self._dues or self._stopped:
                    self._thread = None
                    return
                due = min(self._dues.values())
            self._woken.wait(min(max(0.0, due - time.monotonic()), LONGEST_WAIT))
            self._woken.clear()
            self._tick_all(time.monotonic())
            self.cpu_seconds = before + time.thread_time()
            time.sleep(TICK_SECONDS)

    def _tick_all(self, now: float) -> None:
        with self._lock:
            ready = [shown for shown, due in self._dues.items() if due <= now]
            # Whoever wakes it from here on wakes it for the next round.
            self._dues |= dict.fromkeys(ready, math.inf)
        for shown in ready:
            try:
                due = shown.tick(now)
            except Exception as error:
                due = None
                # So say pools and threads that Python starts no more: nobody is there to tell.
                if "interpreter shutdown" not in str(error):
                    # A screen that fails must harm neither the export nor the other screens.
                    log.exception("a panel could not be updated")
            with self._lock:
                woken_meanwhile = self._dues[shown] == 0.0
                if due is not None:
                    self._dues[shown] = min(self._dues[shown], due)
                elif not woken_meanwhile:
                    del self._dues[shown]


pump = Pump()
