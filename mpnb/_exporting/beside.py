"""Several engines side by side, one a project, as one: each stops, fails and ends by itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from mpnb._exporting.engine import Engine
from mpnb._mixpanel.failures import Failure


class Works(Protocol):
    """What a run needs of its engine. Threads as for ``Engine``."""

    def start(self) -> None:
        """Start the threads, which wait for ``run`` or ``abandon``. Raises ``RuntimeError`` if there are too few."""

    def abandon(self) -> None:
        """End the threads of an export that does not begin."""

    def run(self) -> None:
        """Run the export to its end."""

    def cancel(self) -> None:
        """Stop as soon as possible."""

    @property
    def cancelled(self) -> bool:
        """Whether ``cancel()`` was called."""

    @property
    def quota_left(self) -> int:
        """Return how many requests are left in the rolling hour."""

    @property
    def lost_destination(self) -> str | None:
        """Return why the rows that were written cannot be read any more, or ``None`` if they can."""

    @property
    def halted_by(self) -> Failure | None:
        """Return the failure that ended the export because it would have hit every batch, or ``None``."""


class SideBySide:
    """
    Several engines as one. Threads as for ``Engine``.

    Args:
        engines: one or more.
        fold: makes what they wrote together smaller and faster, once all have ended.
    """

    def __init__(self, engines: Sequence[Engine], fold: Callable[[], object]) -> None:
        self._engines = engines
        self._fold = fold
        self._threads = [
            threading.Thread(target=self._run, args=(engine,), name="mpnb-coordinator-of-one") for engine in engines
        ]
        self._go = threading.Event()
        self._is_off = False
        self._errors: list[BaseException] = []

    def start(self) -> None:
        """Start the threads of all. Raises ``RuntimeError`` if one cannot be started."""
        for engine in self._engines:
            engine.start()
        for thread in self._threads:
            thread.start()

    def abandon(self) -> None:
        """End the threads of all."""
        self._is_off = True
        self._go.set()
        for engine in self._engines:
            engine.abandon()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def run(self) -> None:
        """Run all to their ends. Raises the first unexpected error of any, after that."""
        self._go.set()
        for thread in self._threads:
            thread.join()
        if not self.cancelled:
            self._fold()
        if self._errors:
            raise self._errors[0]

    def _run(self, engine: Engine) -> None:
        self._go.wait()
        if self._is_off:
            return
        try:
            engine.run()
        except BaseException as error:
            self._errors.append(error)

    def cancel(self) -> None:
        """Stop all."""
        for engine in self._engines:
            engine.cancel()

    @property
    def cancelled(self) -> bool:
        """Whether ``cancel()`` was called."""
        return self._engines[0].cancelled

    @property
    def quota_left(self) -> int:
        """Return how many requests the projects have left in the rolling hour, together."""
        return sum(engine.quota_left for engine in self._engines)

    @property
    def lost_destination(self) -> str | None:
        """Return why the rows that were written cannot be read any more, or ``None`` if they can."""
        return next((engine.lost_destination for engine in self._engines if engine.lost_destination), None)

    @property
    def halted_by(self) -> Failure | None:
        """Return the failure that ended all of them alike, or ``None``."""
        first, *others = [engine.halted_by for engine in self._engines]
        return first if first is not None and all(str(each) == str(first) for each in others) else None


class Together:
    """
    What waits until all are at a point, where that is needed. Any thread.

    While DuckDB holds the database for invalid, only who is alone may open it again. Every other engine comes to its
    end too, then, since it cannot write.

    Args:
        count: how many there are.
        is_needed: whether one must wait for the others.
    """

    def __init__(self, count: int, is_needed: Callable[[], bool]) -> None:
        self._missing = count
        self._is_needed = is_needed
        self._changed = threading.Condition()

    def __call__(self) -> None:
        """Return when all others are here, or have no need to be."""
        with self._changed:
            self._missing -= 1
            self._changed.notify_all()
            while self._missing > 0 and self._is_needed():
                self._changed.wait(1.0)
