"""Days: parsed from user input, and shown as ranges."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime, timedelta

from mpnb._base.clock import today
from mpnb._base.scalars import as_day, as_moment, brief
from mpnb._errors import PlanError
from mpnb._message import Argument

DAY = timedelta(days=1)
SHOWN_RANGES = 8
# Mixpanel began in that year.
FIRST_DAY = date(2009, 1, 1)


def parse_date(value: date | str, *, name: str = "date", now: date | None = None) -> date:
    """
    Parse a day: a ``date``, ``"YYYY-MM-DD"``, ``"today"``, ``"yesterday"`` or ``"30 days ago"``, all in UTC.

    A ``datetime``, a pandas ``Timestamp`` and a ``numpy.datetime64`` at midnight, in UTC or without a zone, are days.

    Raises:
        PlanError: it is none of these.
    """
    if (day := as_day(value)) is not None:
        return day
    if (moment := as_moment(value)) is not None:
        raise PlanError(Argument(name), f" must be a day, not a moment: pass {moment.date().isoformat()!r}")
    now = now or today()
    if isinstance(value, str):
        text = value.strip().lower()
        if text == "today":
            return now
        if text == "yesterday":
            return now - DAY
        if match := re.fullmatch(r"(\d{1,5})\s+days?\s+ago", text):
            return now - timedelta(days=int(match[1]))
        if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
            try:
                return date.fromisoformat(text)
            except ValueError as error:
                raise PlanError(Argument(name), f" {value!r} is not a valid date: {error}") from None
    raise PlanError(
        Argument(name), f" must be a date, 'YYYY-MM-DD', 'today', 'yesterday' or 'N days ago', not {brief(value)}"
    )


def in_words(ranges: Sequence[tuple[date, date]]) -> str:
    """Return ranges of days as text, the first few of them."""
    shown = ", ".join(str(a) if a == b else f"{a} – {b}" for a, b in ranges[:SHOWN_RANGES])
    return shown + (f" and {len(ranges) - SHOWN_RANGES:,} more ranges" if len(ranges) > SHOWN_RANGES else "")


def _days_in(ranges: Iterable[tuple[date, date]]) -> set[date]:
    return {day for first, last in ranges for day in _days(first, last)}


def _midnight_after(day: date) -> datetime:
    return datetime.combine(day, datetime.min.time()) + DAY


def _days(first: date, last: date) -> Iterator[date]:
    return (first + DAY * i for i in range((last - first).days + 1))
