"""The current time, from one clock: days, the times in the ledger and the rate limits all use it."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, date, datetime

# Seconds since the epoch. A test puts a clock of its own here, and nowhere else.
system: Callable[[], float] = time.time


def epoch_seconds() -> float:
    """Return the seconds since the epoch."""
    return system()


def utc_now() -> datetime:
    """Return the current time in UTC, without a zone, as DuckDB's ``TIMESTAMP`` stores it."""
    return datetime.fromtimestamp(epoch_seconds(), UTC).replace(tzinfo=None)


def today() -> date:
    """Return the current day in UTC."""
    return utc_now().date()


class Cancelled(Exception):
    """The wait ended because the export did."""
