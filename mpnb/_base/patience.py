"""Patience: a call that is made again while another process has the database open."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from time import sleep
from typing import TypeVar

from mpnb._base.clock import epoch_seconds
from mpnb._base.text import clock
from mpnb._errors import DatabaseBusyError

# How often a database that is in use is tried again, in seconds.
TRY_EVERY = 1.0
NONE = timedelta(0)

Value = TypeVar("Value")


def waiting(call: Callable[[], Value], patience: timedelta, say: Callable[[str], object]) -> Value:
    """
    Call something, and again while the database is open in another process and there is time left.

    Args:
        call: opens the database before it does anything else.
        patience: how long to wait at most.
        say: told once what is waited for, and until when.

    Raises:
        DatabaseBusyError: the other process has it open still.
    """
    until = epoch_seconds() + patience.total_seconds()
    is_said = False
    while True:
        try:
            return call()
        except DatabaseBusyError as error:
            left = until - epoch_seconds()
            if left <= 0:
                raise
            if not is_said:
                say(f"{str(error).partition(': ')[0]}: waiting for it, until {clock(until)} at the latest")
                is_said = True
        sleep(min(TRY_EVERY, left))
