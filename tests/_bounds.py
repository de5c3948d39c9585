"""
A pytest plugin by which no test waits for ever.

pytest-timeout ends a test that waits, by an exception in the main thread; but once a test, and not after the test has
failed. So nothing would end a fixture that waits, after a failure, for threads that do not come back; nor a main
thread that hears no signal, since it waits in C; nor an interpreter that waits at its end for threads that a failed
test has left. Here teardowns get a limit of their own, and a watchdog that needs neither the main thread nor the GIL
ends the process, with the place of each thread, where all else is in vain. Ctrl-C is another signal, and stays the
tests' own.
"""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Generator

import pytest
import pytest_timeout

# The watchdog comes after the limit of a test, by this factor.
LAST_RESORT = 2.0
# At most, in seconds: for a teardown, and for the end of the run.
ENDING = 60.0


class Bounds:
    """
    Bound each phase of each test, and the end of the run.

    Args:
        limit: seconds that a test may take, where it says nothing else.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        # What pytest puts in its place while a test runs goes with the process.
        self._screen = os.dup(2)

    def _limit_of(self, item: pytest.Item) -> float:
        marker = item.get_closest_marker("timeout")
        return float(marker.args[0]) if marker and marker.args else self._limit

    def _watch(self, limit: float) -> None:
        faulthandler.dump_traceback_later(LAST_RESORT * limit, exit=True, file=self._screen)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, None, None]:
        """Watch a test from its beginning."""
        self._watch(self._limit_of(item))
        return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, None, None]:
        """Begin anew: a failure has ended both clocks."""
        limit = min(ENDING, self._limit_of(item))
        self._watch(limit)
        settings = pytest_timeout.Settings(limit, "signal", False, False)
        item.ihook.pytest_timeout_set_timer(item=item, settings=settings)
        return (yield)

    def pytest_unconfigure(self, config: pytest.Config) -> None:
        """Watch the interpreter end. A worker of xdist waits for the others first; whoever started it ends it."""
        if hasattr(config, "workerinput"):
            faulthandler.cancel_dump_traceback_later()
        else:
            self._watch(min(ENDING, self._limit))


def pytest_configure(config: pytest.Config) -> None:
    """Take the limit from where pytest-timeout has it; without one, as under a debugger, nothing is bounded."""
    given = config.getoption("timeout")
    limit = float(config.getini("timeout") or 0) if given is None else given
    if limit > 0:
        config.pluginmanager.register(Bounds(limit))
