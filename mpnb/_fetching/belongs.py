"""Whether an answer is for the days that were asked for, and not for another request."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from isal import igzip

from mpnb._base.clock import Cancelled

DAY = 86_400.0
# In projects made before 2023, days and times are the project's own, up to 14 hours off UTC. Single events may lie
# further off; that all of a batch do has another cause.
SLACK = DAY
# As where rows are made of lines: seconds reach this in the year 5138, milliseconds in 1973.
MILLISECONDS_FROM = 1e11
# Other times (of a clock that was never set, or in microseconds) say nothing: Mixpanel began in 2009.
USABLE = (1_230_768_000.0, 4_102_444_800.0)


def is_for_other_days(
    path: Path, last_line: bytes, from_date: str, to_date: str, *, gzip: bool, is_cancelled: Callable[[], bool]
) -> bool:
    """
    Whether the times of all events lie more than a day outside of the days that were asked for.

    Of an ordinary answer only the last event is looked at, of one whose last event lies outside all up to the first one
    that does not. Events without a usable time say nothing.

    Args:
        path: of the whole body.
        last_line: of it.
        from_date, to_date: the days, ``YYYY-MM-DD``.
        gzip: whether the file is compressed.

    Raises:
        Cancelled: the export ended first.
        OSError: the file cannot be read.
    """
    begin = datetime.fromisoformat(from_date).replace(tzinfo=UTC).timestamp() - SLACK
    end = datetime.fromisoformat(to_date).replace(tzinfo=UTC).timestamp() + DAY + SLACK
    last = _seconds(last_line)
    if not last_line or (last is not None and begin <= last < end):
        return False
    outside = 0
    opened: Any = igzip.IGzipFile(path, "rb") if gzip else path.open("rb")  # type: ignore[no-untyped-call]
    with opened as lines:
        for line in lines:
            if is_cancelled():
                raise Cancelled
            time = _seconds(line)
            if time is not None and begin <= time < end:
                return False
            outside += time is not None
    return outside > 0


def _seconds(line: bytes) -> float | None:
    """Return the time of an event in seconds since the epoch, or ``None`` if it has none."""
    try:
        time = float(json.loads(line)["properties"]["time"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    time = time / 1000 if time >= MILLISECONDS_FROM else time
    return time if USABLE[0] <= time < USABLE[1] else None
