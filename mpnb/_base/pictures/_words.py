"""Numbers and dates as people write them, and texts made safe for HTML."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from datetime import date, datetime, timedelta

# What a value is called that is not there, or is not a number.
NOTHING = "–"
DAY = timedelta(days=1)
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
# Larger numbers are all the same to a picture, and their differences are still finite.
LARGEST = 1e300

Value = float | int | None


def finite(value: Value) -> float | None:
    """Return a value as a number to draw with, or ``None`` where there is none."""
    if value is None:
        return None
    try:
        found = float(value)
    except OverflowError:  # a whole number of more than 308 digits
        return LARGEST if value > 0 else -LARGEST
    if not math.isfinite(found):
        return None
    return max(-LARGEST, min(LARGEST, found))


def total(values: Iterable[Value]) -> Value:
    """Return the sum of those that are numbers, ``None`` if there is none: exact, as long as they are whole."""
    there = [value for value in values if value is not None and finite(value) is not None]
    if not there:
        return None
    return (
        sum(there) if all(isinstance(value, int) for value in there) else sum(finite(value) or 0.0 for value in there)
    )


def number(value: Value) -> str:
    """Return a number with separators, to four digits where it is not whole."""
    if finite(value) is None or value is None:
        return NOTHING
    if isinstance(value, int) and not isinstance(value, bool):
        return signed(f"{value:,}" if abs(value) < 10**18 else exponent(value))
    if abs(value) >= 1e15 or 0 < abs(value) < 1e-4:
        return signed(f"{value:.3g}")
    if float(value).is_integer() or abs(value) >= 1000:
        return signed(f"{value:,.0f}")
    return signed(f"{value:.4g}")


def exponent(value: int) -> str:
    """Return a whole number of any length with three digits and a power of ten."""
    sign, size = "-" if value < 0 else "", abs(value)
    if size >= 10**4000:  # Python writes no more than 4,300 digits
        return f"{sign}more than 1e+4000"
    digits = str(size)
    return f"{sign}{digits[0]}.{digits[1:3]}e+{len(digits) - 1}"


def signed(text: str) -> str:
    """Return a number's text with the sign that print has."""
    return text.replace("-", "−", 1) if text.startswith("-") else text


def short(value: float) -> str:
    """Return a number for an axis: 1.2M."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if size <= abs(value) < 1e15:
            return signed(f"{value / size:.3g}{letter}")
    return number(value)


def percent(value: Value) -> str:
    """Return a share as a percentage: whole from ten percent on."""
    found = finite(value)
    if found is None:
        return NOTHING
    hundredths = found * 100
    if abs(hundredths) >= 1e6:
        return f"{number(hundredths)}%"
    return signed(f"{hundredths:,.0f}%" if abs(hundredths) >= 10 or hundredths == 0 else f"{hundredths:.2g}%")


def day_in_words(day: date, *, weekday: bool = False) -> str:
    """Return a day as ``3 Feb 2026``."""
    name = f"{WEEKDAYS[day.weekday()]} " if weekday else ""
    return f"{name}{day.day} {MONTHS[day.month - 1]} {day.year}"


def days_in_words(days: Iterable[date], most: int = 4) -> str:
    """Return days as the ranges that they make, the first few of them: ``1 Jan, 10–14 Feb 2026``."""
    ranges: list[list[date]] = []
    for day in sorted(days):
        if ranges and day - ranges[-1][1] == DAY:
            ranges[-1][1] = day
        else:
            ranges.append([day, day])
    shown = ranges[:most]
    words = []
    for place, (first, last) in enumerate(shown):
        following = shown[place + 1][0] if place + 1 < len(shown) else None
        words.append(_range(first, last, following is None or following.year != last.year))
    more = len(ranges) - len(shown)
    return ", ".join(words) + (f" and {more:,} more" if more else "")


def _range(first: date, last: date, with_year: bool) -> str:
    year = f" {last.year}" if with_year else ""
    end = f"{last.day} {MONTHS[last.month - 1]}{year}"
    if first == last:
        return end
    if first.year != last.year:
        return f"{day_in_words(first)} – {day_in_words(last)}"
    if first.month != last.month:
        return f"{first.day} {MONTHS[first.month - 1]} – {end}"
    return f"{first.day}–{end}"


def moment(value: object) -> str:
    """Return what a picture has along its axis: a day, a time of day, or any other text."""
    if isinstance(value, datetime):
        return day_in_words(value) + (f", {value:%H:%M}" if value.time() != datetime.min.time() else "")
    if isinstance(value, date):
        return day_in_words(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return number(value)
    return NOTHING if value is None else str(value)


def short_moments(values: Sequence[object]) -> list[str]:
    """Return the same, as short as an axis wants it: without what all of them share."""
    if not values or not all(isinstance(value, date) for value in values):
        return [moment(value) for value in values]
    shown: list[str] = []
    before: date | None = None
    for value in values:
        assert isinstance(value, date)
        year = "" if before is not None and before.year == value.year else f" {value.year}"
        text = f"{value.day} {MONTHS[value.month - 1]}{year}"
        if isinstance(value, datetime) and value.time() != datetime.min.time():
            text = f"{value:%H:%M}" if before and _day_of(before) == value.date() else f"{text}, {value:%H:%M}"
        shown.append(text)
        before = value
    return shown


def _day_of(value: date) -> date:
    return value.date() if isinstance(value, datetime) else value


def span_in_words(seconds: Value) -> str:
    """Return a time span in the one unit that suits it, or two: ``2 min 5 s``."""
    found = finite(seconds)
    if found is None:
        return NOTHING
    if abs(found) < 60:
        return f"{found:.3g} s"
    if abs(found) >= 1e12:
        return f"{number(found / 86400)} days"
    minutes, rest = divmod(round(abs(found)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [f"{n:,} {unit}" for n, unit in ((days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")) if n]
    return ("−" if found < 0 else "") + " ".join(parts[:2])


def safe(text: object) -> str:
    """Return a text for HTML and XML: marks escaped, and what XML cannot have, or a page would obey, made visible."""
    shown = str(text)
    if not shown.isprintable():
        shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in shown)
    return html.escape(shown)


def clipped(text: object, width: float, size: float = 12) -> str:
    """Return a text cut so that it takes no more than so many pixels, about, in letters of some size."""
    room, shown = width, ""
    for letter in str(text)[:400]:
        room -= size if ord(letter) > 0x2E7F else size * 0.6
        if room < 0:
            return f"{shown[:-1].rstrip()}…"
        shown += letter
    return shown + ("…" if len(str(text)) > 400 else "")
