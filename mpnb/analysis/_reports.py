"""
Which report made a relation, and from what: what its picture and its chart are made of.

A relation is DuckDB's own and has no room for more, so this is kept beside it, as long as it lives.
"""

from __future__ import annotations

import functools
import inspect
import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec

from duckdb import DuckDBPyRelation

from mpnb._base.interrupt import as_keyboard_interrupt
from mpnb._base.scalars import brief
from mpnb._errors import PlanError

P = ParamSpec("P")

# Of sessions, up to how many seconds, and what they are called.
LENGTHS = (
    (0, "one moment"), (10, "up to 10 s"), (60, "up to 1 min"), (300, "up to 5 min"), (900, "up to 15 min"),
    (1800, "up to 30 min"), (3600, "up to 1 h"), (math.inf, "longer"),
)  # fmt: skip


# Of a catalog, types of numbers, and what stands between the ends of a range of them.
NUMBERS = ("BIGINT", "HUGEINT", "DOUBLE")
BETWEEN = " – "


@dataclass(frozen=True, slots=True)
class Report:
    """
    What was asked for.

    Attributes:
        name: of the function.
        options: its arguments, without the events.
    """

    name: str
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Read:
    """The rows of a report, or some figures of them."""

    report: Report
    columns: Sequence[str]
    rows: Sequence[tuple[Any, ...]]

    @property
    def options(self) -> Mapping[str, Any]:
        """Return the arguments of the report."""
        return self.report.options

    @property
    def title(self) -> str:
        """Return what the report shows, in words."""
        return TITLES[self.report.name](self.options)

    def column(self, name: str) -> list[Any]:
        """Return the values of a column."""
        place = self.columns.index(name)
        return [row[place] for row in self.rows]

    def __contains__(self, name: str) -> bool:
        """Whether there is a column of that name."""
        return name in self.columns


_reports: weakref.WeakKeyDictionary[DuckDBPyRelation, Report] = weakref.WeakKeyDictionary()


def pictured(function: Callable[P, DuckDBPyRelation]) -> Callable[P, DuckDBPyRelation]:
    """Make a report remember which of its relations it made, and from what arguments."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: P.args, **options: P.kwargs) -> DuckDBPyRelation:
        relation = function(*args, **options)
        bound = signature.bind(*args, **options)
        bound.apply_defaults()
        _reports[relation] = Report(
            function.__name__, {name: value for name, value in bound.arguments.items() if name != "events"}
        )
        return relation

    return call


def remember(relation: DuckDBPyRelation, name: str, **options: Any) -> None:
    """Remember what made a relation that is pictured as a report is."""
    _reports[relation] = Report(name, options)


def report_of(relation: object) -> Report | None:
    """Return the report that made a relation, ``None`` for any other object."""
    return _reports.get(relation) if isinstance(relation, DuckDBPyRelation) else None


def value_of(found: Read) -> str:
    """Return the column of a segmentation that is drawn."""
    value = next((name for name in ("cumulative", "rolling", "value") if name in found), None)
    return value or ("users" if found.options["measure"] == "users" else "events")


def read(relation: DuckDBPyRelation, most: int) -> Read:
    """
    Read what a report returned, or what a picture needs of it: one row more than ``most`` where there are more.

    Raises:
        PlanError: no report returned it.
    """
    report = report_of(relation)
    if report is None:
        names = ", ".join(f"{name}()" for name in TITLES)
        what = "another relation" if isinstance(relation, DuckDBPyRelation) else brief(relation)
        raise PlanError(f"only what {names} return has a picture, not {what}")
    query = _QUERIES.get(report.name, "SELECT * FROM mpnb_report")
    # Another relation, so that what was half read of this one is read on from there.
    found = relation.query("mpnb_report", f"{query} LIMIT {most + 1}")
    assert found is not None  # as it is for statements that give no rows
    return Read(report, list(found.columns), as_keyboard_interrupt(found.fetchall))


_LENGTH = " ".join(
    f"WHEN seconds <= {most} THEN {place}" for place, (most, _) in enumerate(LENGTHS) if most != math.inf
)
# What is read of a relation that has a row for each of very many.
_QUERIES = {
    "sessions": f"""SELECT length, count(*) AS sessions, count(DISTINCT person) AS people, median(seconds) AS median
        FROM (SELECT person, seconds, CASE {_LENGTH} ELSE {len(LENGTHS) - 1} END AS length FROM mpnb_report)
        GROUP BY GROUPING SETS ((length), ()) ORDER BY length ASC NULLS FIRST""",
}


# --- in words --------------------------------------------------------------------------------------------------------


def _event(step: Any) -> str:
    """Return the name of an event, and that it has a condition."""
    if step is None:
        return "any event"
    return step if isinstance(step, str) else f"{step[0]} where {step[1]}"


def _by(options: Mapping[str, Any]) -> str:
    given = options.get("by")
    names = [given] if isinstance(given, str) else list(given or [])
    return f" by {', '.join(map(str, names))}" if names else ""


def _measure(options: Mapping[str, Any]) -> str:
    return "" if options["measure"] in ("events", "users") else f"{options['measure']} of "


TITLES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "funnel": lambda o: f"Funnel: {' → '.join(map(_event, o['steps']))}{_by(o)}",
    "retention": lambda o: f"Retention: {_event(o['born'])}, then {_event(o['returned'])}, by {o['unit']}{_by(o)}",
    "segmentation": lambda o: f"{_upper(_measure(o) + _event(o['event']))}{_by(o)}, each {o['unit']}",
    "sessions": lambda o: "Length of sessions",
    "flows": lambda o: f"Flows {o['direction']} {_event(o['start'])}",
    "catalog": lambda o: "Properties",
    "lifecycle": lambda o: f"Lifecycle of users, {_event(o['event'])} each {o['unit']}",
}


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:] if text.startswith("any event") else text
