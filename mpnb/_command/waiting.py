"""``--wait``: wait for a database that another process has open."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from datetime import timedelta
from time import sleep

from mpnb._base.clock import epoch_seconds
from mpnb._base.text import clock
from mpnb._errors import DatabaseBusyError

# How often a database that is in use is tried again, in seconds.
TRY_EVERY = 1.0
UNITS = {"s": "seconds", "m": "minutes", "h": "hours"}


def add_wait(parser: argparse.ArgumentParser) -> None:
    """Add ``--wait`` to a parser."""
    parser.add_argument(
        "--wait",
        type=_span,
        default=timedelta(0),
        metavar="TIME",
        help="how long to wait for a database that another process has open, such as 30s, 10m or 1h (default: not)",
    )


def waiting(run: Callable[[], int], patience: timedelta, say: Callable[[str], None]) -> int:
    """
    Run a command, and again while the database is open in another process and there is time left.

    Args:
        run: the command, which opens the database before it does anything else.
        say: told once what is waited for, and until when.

    Raises:
        DatabaseBusyError: the other process has it open still.
    """
    until = epoch_seconds() + patience.total_seconds()
    is_said = False
    while True:
        try:
            return run()
        except DatabaseBusyError as error:
            left = until - epoch_seconds()
            if left <= 0:
                raise
            if not is_said:
                say(f"{str(error).partition(': ')[0]}: waiting for it, until {clock(until)} at the latest")
                is_said = True
        sleep(min(TRY_EVERY, left))


def _span(text: str) -> timedelta:
    match = re.fullmatch(r"(\d{1,6})([smh])", text.strip().lower())
    if not match:
        raise argparse.ArgumentTypeError(f"a time such as 30s, 10m or 1h, not {text!r}")
    return timedelta(**{UNITS[match[2]]: int(match[1])})
