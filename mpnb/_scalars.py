"""Whole numbers and days as callers have them: Python's own, and numpy's and pandas' without importing either."""

from __future__ import annotations

import operator
from datetime import date, datetime, timedelta
from typing import Any


def as_int(value: object) -> int | None:
    """Return a whole number as an ``int``, ``None`` for anything else, a bool among it."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def as_moment(value: object) -> datetime | None:
    """Return a ``datetime``, a pandas ``Timestamp`` or a ``numpy.datetime64`` as a ``datetime``, else ``None``."""
    if type(value).__name__ == "datetime64":
        known: Any = value
        value = known.astype("datetime64[us]").item()
    # pandas' NaT is a datetime, and equal to nothing.
    return value if isinstance(value, datetime) and value == value else None


def is_midnight(moment: datetime) -> bool:
    """Whether a moment stands for a day: midnight, in UTC or without a zone."""
    is_utc = moment.utcoffset() in (None, timedelta(0))
    return is_utc and moment == datetime.combine(moment.date(), datetime.min.time(), moment.tzinfo)


def as_day(value: object) -> date | None:
    """Return a ``date``, or a moment that stands for a day, as a ``date``; ``None`` for anything else."""
    moment = as_moment(value)
    if moment is not None:
        return moment.date() if is_midnight(moment) else None
    return value if isinstance(value, date) and not isinstance(value, datetime) else None
