"""The one thread that touches widgets: it ticks whatever was woken, and forgets no wake."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Iterator

import pytest

from mpnb._notebook.panel._pump import Pump
from tests._helpers import until


class Shown:
    """Be woken by somebody else while it is ticked for the first time, and say when it wants the next tick."""

    def __init__(self, pump: Pump, wants: float | None) -> None:
        self._pump = pump
        self._wants = wants
        self.ticks = 0
        self.ticked_again = threading.Event()

    def tick(self, now: float) -> float | None:
        """Wake itself once."""
        self.ticks += 1
        if self.ticks == 1:
            self._pump.wake(self)
        else:
            self.ticked_again.set()
        return None if self._wants is None else now + self._wants


@pytest.fixture
def pump() -> Iterator[Pump]:
    """Make a pump of its own."""
    pump = Pump()
    yield pump
    pump.stop()
    atexit.unregister(pump.stop)


@pytest.mark.parametrize("wants", [None, 3600.0], ids=["nothing more", "an hour later"])
def test_a_wake_while_it_is_ticked_is_not_forgotten(pump: Pump, wants: float | None) -> None:
    """A click that comes while a panel is brought up to date is seen at the next tick, whatever this one says."""
    shown = Shown(pump, wants)
    pump.wake(shown)
    assert shown.ticked_again.wait(5)


def test_what_wants_nothing_more_is_let_go(pump: Pump) -> None:
    """The pump keeps nothing alive that does not need it, and its thread ends with the last of them."""
    shown = Shown(pump, None)
    pump.wake(shown)
    assert shown.ticked_again.wait(5)
    until(lambda: not pump.shown())
    assert shown.ticks == 2


@pytest.mark.parametrize(("error", "lines"), [("cannot schedule new futures after interpreter shutdown", 0), ("x", 1)])
def test_a_tick_that_fails_is_logged_but_not_at_the_end_of_the_process(
    pump: Pump, error: str, lines: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Then Python starts no more threads, and a traceback on the way out of a kernel would alarm for nothing."""

    class Failing:
        def tick(self, now: float) -> float | None:
            raise RuntimeError(error)

    pump.wake(Failing())
    until(lambda: not pump.shown())
    assert caplog.messages == ["a panel could not be updated"] * lines
