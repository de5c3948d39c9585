"""What a report measures: a count, or an aggregate of a property."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mpnb._base.scalars import brief
from mpnb._errors import PlanError
from mpnb._message import Argument
from mpnb.analysis._events import Asked, number_of, text_of


@dataclass(frozen=True, slots=True)
class Measure:
    """
    A measure as it was asked for.

    Attributes:
        name: a count, such as ``"users"``, or the name of an aggregate, such as ``"sum"``.
        value: what is aggregated, as SQL on the columns of events; empty for a count.
        number: of a percentile, or of the days of active users.
    """

    name: str
    value: str = ""
    number: int = 0

    @property
    def combined(self) -> str:
        """Return the SQL for the value of a retention's cell from its sum and its users."""
        if self.name == "average":
            return "total / nullif(users, 0)"
        return "coalesce(total, 0)::DOUBLE" if self.value else "NULL::DOUBLE"


def measured(ask: Asked, given: object, counts: Sequence[str], aggregates: Sequence[str]) -> Measure:
    """
    Return a measure, which is a count or an aggregate with what it is of in parentheses.

    Raises:
        PlanError: it is neither, or there is no such column or property.
    """
    text = given.strip() if isinstance(given, str) else ""
    if text in counts:
        return Measure(text)
    found = re.fullmatch(r"([a-z]+?)(\d{0,3})\((.+)\)", text, re.DOTALL)
    if found:
        name, number, value = found[1], found[2], found[3].strip()
        if name == "avg":
            name = "average"
        if name == "mau" and name in counts and not number and value in ("28", "30"):
            return Measure("mau", number=int(value))
        if name == "p" and name in aggregates and number and 0 < int(number) < 100:
            return Measure("p", number_of(ask, value, "measure"), int(number))
        if name in aggregates and not number and name != "p":
            get = text_of if name == "distinct" else number_of
            return Measure(name, get(ask, value, "measure"))
    shown = [repr(each) for each in counts]
    shown += ["'p90(amount)'" if each == "p" else f"'{each}(amount)'" for each in aggregates]
    raise PlanError(Argument("measure"), f" must be {', '.join(shown[:-1])} or {shown[-1]}, not {brief(given)}")
