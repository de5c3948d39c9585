"""Ctrl-C and its like: heard while DuckDB works, and held back while an export starts or ends."""

from __future__ import annotations

import _thread
import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TypeVar

from duckdb import DuckDBPyConnection

Value = TypeVar("Value")

# How often, in seconds, a query is told to stop after a Ctrl-C: it may not have begun at the first time. And how often
# Windows listens, where a wait cannot be interrupted.
_TURN = 0.2

# What people and other programs stop a process by, where it has handlers for that.
_STOPS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)]


@contextlib.contextmanager
def interrupts_later() -> Iterator[None]:
    """
    Delay a Ctrl-C, or another signal that stops and is handled, to the end of the block; drop it if the block raises.

    Half a start would leave threads that nobody ends, and half an end a file that stays locked. Python runs the
    handlers of signals in the main thread alone: elsewhere there is nothing to do.
    """
    handlers: dict[int, Callable[[int, FrameType | None], object]] = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {number: handler for number in _STOPS if callable(handler := signal.getsignal(number))}
    came: list[tuple[int, FrameType | None]] = []
    for number in handlers:
        signal.signal(number, lambda number, frame: came.append((number, frame)))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if came:
        number, frame = came[-1]
        handlers[number](number, frame)


def wait_in_turns(wait: Callable[[float], object], is_over: Callable[[], bool], seconds: float | None = None) -> None:
    """
    Wait until something is over, or the time is, so that Ctrl-C ends it on Windows, too.

    There a wait goes on until its own end, whatever signal comes, and then the signal is heard.

    Args:
        wait: waits for it, so many seconds at most.
        seconds: how long in all, ``None`` for as long as it takes.
    """
    end = math.inf if seconds is None else time.monotonic() + seconds
    while not is_over() and (left := end - time.monotonic()) > 0:
        wait(min(_TURN, left))


def interruptible(connection: DuckDBPyConnection, call: Callable[[], Value]) -> Value:
    """
    Call DuckDB so that Ctrl-C ends the query, with the exception that the signal's handler raises.

    DuckDB 2.0 looks for signals only while its calling thread waits. Where that thread works on the query itself, which
    is a matter of chance, Ctrl-C is not heard before the end. So the main thread waits here, and another one calls.

    Args:
        connection: what the call runs on.
    """
    if threading.get_ident() != threading.main_thread().ident:
        return call()
    # All that the other thread knows of it is in these lists, and gone from them when this function returns: it ends
    # a little later, and would keep a file open that is closed meanwhile.
    calls = [call]
    values: list[Value] = []
    errors: list[BaseException] = []
    ended = threading.Lock()
    ended.acquire()

    def work() -> None:
        try:
            values.append(calls.pop()())
        except BaseException as error:
            errors.append(error)
        finally:
            ended.release()

    stop: BaseException | None = None
    works = False
    try:
        with interrupts_later():
            _thread.start_new_thread(work, ())  # a ``Thread`` takes 0.4 ms more, twice as long as a small query
            works = True
    except BaseException as error:
        stop = error
    while works and not (values or errors):
        try:
            if stop is not None:
                connection.interrupt()
            ended.acquire(timeout=_TURN)
        except BaseException as error:
            stop = error
    try:
        if stop is not None:
            raise stop
        if errors:
            raise errors.pop()
        return values.pop()
    finally:
        del stop  # its traceback has this frame


def as_keyboard_interrupt(call: Callable[[], Value]) -> Value:
    """Call DuckDB on a connection that is not ours; a Ctrl-C that it hears is ``KeyboardInterrupt``, as elsewhere."""
    try:
        return call()
    except RuntimeError as error:
        if str(error) == "Query interrupted":
            raise KeyboardInterrupt from None
        raise
