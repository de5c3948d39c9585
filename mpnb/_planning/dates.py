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


def parse_range(words: Sequence[str]) -> tuple[str, str]:
    """
    Parse a range of days: ``FROM TO``, each as ``export`` takes it, or ``last N days``, which ends yesterday.

    Raises:
        PlanError: it is neither.
    """
    text = " ".join(" ".join(words).split())
    if match := re.fullmatch(r"last ([1-9]\d{0,4}) days?", text, re.IGNORECASE):
        return f"{match[1]} days ago", "yesterday"
    # A shell takes the quotes of '30 days ago' away, and people forget them.
    day = r"\d+ days? ago|\S+"
    if match := re.fullmatch(f"({day}) ({day})", text, re.IGNORECASE):
        return match[1], match[2]
    asked = f", not {brief(text)}" if text else ""
    raise PlanError(f"days must be FROM TO, such as 2026-01-01 2026-01-31, or: last 30 days{asked}")


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
