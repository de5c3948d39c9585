"""Values as callers pass them: whole numbers and days (numpy's and pandas' too), and any value shown in a message."""

from __future__ import annotations

import math
import operator
import reprlib
from collections.abc import Iterable, Mapping
from datetime import date, datetime, timedelta
from numbers import Real
from typing import Any

from mpnb._base.text import printable, safe_text
from mpnb._errors import PlanError
from mpnb._message import Argument

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 100


def brief(value: object) -> str:
    """Return any value as one short line for a message."""
    try:
        text = _SHORT.repr(value)
        # A frame has lines and columns; the blanks of a text are its own.
        return printable(text) if isinstance(value, str) else safe_text(text)
    except Exception:  # an integer of more digits than Python writes, or what cannot show itself
        return f"<{type(value).__name__}>"


def either(values: Iterable[str]) -> str:
    """Return what is to choose from: ``'us', 'eu' or 'in'``."""
    *others, last = map(repr, values)
    return f"{', '.join(others)} or {last}" if others else last


def whole_number(name: str, value: object, least: int, most: int | None = None, *, otherwise: str = "") -> int:
    """
    Return a whole number from ``least`` to ``most``, both included. Raises ``PlanError`` for anything else.

    Args:
        name: of the argument.
        otherwise: what else the argument may be, for the message.
    """
    number = as_int(value)
    if number is None or number < least or (most is not None and number > most):
        bounds = f"of at least {least}" if most is None else f"from {least} to {most:,}"
        raise PlanError(Argument(name), f" must be a whole number {bounds}{otherwise}, not {brief(value)}")
    return number


def check_flags(**flags: object) -> None:
    """Raise ``PlanError`` unless each value is True or False (numpy's too). The text ``"no"`` would count as true."""
    for name, value in flags.items():
        if not isinstance(value, bool) and type(value).__name__ not in ("bool", "bool_"):
            raise PlanError(Argument(name), f" must be True or False, not {brief(value)}")


def real_number(name: str, value: object, least: float, most: float) -> float:
    """Return a number from ``least`` to ``most``, both included. Raises ``PlanError`` for anything else, nan too."""
    try:
        number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    except OverflowError:
        number = math.inf
    if not least <= number <= most:
        raise PlanError(Argument(name), f" must be a number from {least:,} to {most:,}, not {brief(value)}")
    return number


def listed(name: str, value: object) -> list[str]:
    """Return column names as a list, however they are passed. Raises ``PlanError`` if one is not a name."""
    names = each_of(value)
    if names is None or not all(isinstance(each, str) and is_text(each) for each in names):
        raise PlanError(Argument(name), f" must be a list of names, not {brief(value)}")
    return list(map(str, names))


def each_of(value: object) -> list[object] | None:
    """Return the items of a list, set, generator, array or Series, or ``None`` for anything else."""
    if hasattr(value, "to_pylist"):  # Arrow's arrays give scalars of their own
        return list(value.to_pylist())
    # Iterating over a mapping or a frame returns its keys, which is never what the caller means.
    if isinstance(value, str | bytes | Mapping) or hasattr(value, "columns") or not isinstance(value, Iterable):
        return None
    try:
        return list(value)
    except TypeError:  # an array without a dimension
        return None


def is_text(value: str) -> bool:
    """Whether a text can be encoded as UTF-8; a lone surrogate cannot."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def as_int(value: object) -> int | None:
    """Return a whole number as an ``int``, or ``None`` for anything else, including a bool."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def as_moment(value: object) -> datetime | None:
    """Return a ``datetime``, a pandas ``Timestamp`` or a ``numpy.datetime64`` as a ``datetime``, or ``None``."""
    if type(value).__name__ == "datetime64":
        known: Any = value
        value = known.astype("datetime64[us]").item()
    # pandas' NaT is a datetime, and equal to nothing.
    return value if isinstance(value, datetime) and value == value else None


def is_midnight(moment: datetime) -> bool:
    """Whether a datetime stands for a day: midnight, in UTC or without a zone."""
    is_utc = moment.utcoffset() in (None, timedelta(0))
    return is_utc and moment == datetime.combine(moment.date(), datetime.min.time(), moment.tzinfo)


def as_day(value: object) -> date | None:
    """Return a ``date``, or a datetime that stands for a day, as a ``date``; ``None`` for anything else."""
    moment = as_moment(value)
    if moment is not None:
        return moment.date() if is_midnight(moment) else None
    return value if isinstance(value, date) and not isinstance(value, datetime) else None
