"""What all reports share: the relation that is asked, its events, people and days, and the query over it."""

from __future__ import annotations

import functools
import logging
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from types import FrameType
from typing import Any, ParamSpec, TypeVar

import duckdb
from duckdb import DuckDBPyRelation

from mpnb._base.interrupt import as_keyboard_interrupt
from mpnb._base.names import closest
from mpnb._base.origin import Origin, origin_of
from mpnb._base.relation import called_with, variables_in
from mpnb._base.scalars import brief, each_of, either, is_text
from mpnb._base.sql import exact, literal, quoted
from mpnb._base.text import safe_text
from mpnb._base.warn import warn
from mpnb._errors import PlanError
from mpnb._message import Argument

log = logging.getLogger("mpnb")

# An event by name, or by name and a condition in SQL on its columns.
Step = str | tuple[str, str]

UTC_NOTICE = "days in UTC: pass zone= to compare with Mixpanel"
# For a relation that the user made, from the first day to before the second: a time in milliseconds is far outside.
EVER = (date(1970, 1, 1), date(2100, 1, 1))
# The most that local time differs from UTC in any zone, for projects older than 2023.
SLACK = timedelta(days=1)
NAME = exact("CAST(event_name AS VARCHAR)")
# Of raw events, looked through for names that are like one that is not there.
SAMPLE = 10_000
# Segments besides the most frequent, as Mixpanel calls them.
REST = "$other"
MOST_TOP = 1_000_000

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Asked:
    """
    A relation of events that a report reads, with its parts as SQL on its columns.

    Attributes:
        person: who did it; null for nobody.
        local: the time that days and hours are taken from.
        usable: the condition for rows with a plausible time: one far off would add a row for every unit in between.
        frame: the caller's, whose variables its SQL may name.
    """

    events: DuckDBPyRelation
    origin: Origin | None
    person: str
    local: str
    usable: str
    frame: FrameType

    def people(self) -> str:
        """Return the query for the rows of somebody, with ``mpnb_person`` and ``mpnb_local``."""
        return (
            f"SELECT *, {self.person} AS mpnb_person, {self.local} AS mpnb_local FROM mpnb_events"
            f" WHERE {self.person} IS NOT NULL AND {self.usable}"
        )

    def relation(self, query: str) -> DuckDBPyRelation:
        """Return the relation of a query over the events, named ``mpnb_events``."""
        return related(self.events, query, self.frame)


def asked(
    events: DuckDBPyRelation,
    names: Iterable[str] = (),
    *,
    user: str | None = None,
    zone: str | None = None,
    days: bool = False,
    nameless: bool = False,
) -> Asked:
    """
    Check a relation of events, and the names of events that are looked for in it.

    Args:
        days: whether the report counts by days, which are those of a time zone.
        nameless: whether the report can do without the column ``event_name``.
    """
    names = list(dict.fromkeys(names))
    check_relation(events)
    if user is None:
        user = "person" if "person" in events.columns else "distinct_id"
    for column in ("time", user, *([] if nameless else ["event_name"])):
        if not isinstance(column, str) or column not in events.columns:
            raise PlanError(
                f"events has no column {brief(column)}: result.events, result.deduplicated() and result.event([…]),"
                " with a list of names, have it"
            )
    origin = origin_of(events)
    local = _local(events, origin, zone) if days or zone is not None else "time"
    if names:
        _check_names(events, names)
    person = exact(f"nullif(CAST({quoted(user)} AS VARCHAR), '')")
    return Asked(events, origin, person, local, _usable(origin), caller())


def caller() -> FrameType:
    """Return the frame that called a report."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("mpnb.analysis"):
        frame = frame.f_back
    return frame


def renamed(**names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a report answer calls with a parameter's old name by its new one."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **options: P.kwargs) -> R:
            for old, new in names.items():
                if old in options:
                    raise TypeError(f"{function.__name__}() has no argument {old!r} any more: it is {new!r} now")
            return function(*args, **options)

        return call

    return decorate


# --- queries -----------------------------------------------------------------------------------------------------


def related(events: DuckDBPyRelation, query: str, frame: FrameType | None = None) -> DuckDBPyRelation:
    """Run a query over events, named ``mpnb_events``. SQL from the user in it may name the variables of a frame."""
    variables = variables_in(query, frame) if frame else {}
    try:
        relation = called_with(variables, events.query, "mpnb_events", query)
    except (duckdb.BinderException, duckdb.ParserException, duckdb.InvalidInputException) as error:
        raise PlanError(
            f"a condition or by= is not valid SQL on the columns of events: {_first_line(error)}. A property of"
            " raw events is properties->>'/its name'"
        ) from None
    assert relation is not None  # as it is for statements that give no rows
    return relation


def _rows(events: DuckDBPyRelation, query: str) -> list[tuple[Any, ...]]:
    return as_keyboard_interrupt(related(events, query).fetchall)


def _first_line(error: duckdb.Error) -> str:
    return safe_text(str(error).partition("\n")[0])


# --- arguments ---------------------------------------------------------------------------------------------------


def check_relation(events: object) -> None:
    """Raise ``PlanError`` unless it is a relation."""
    if not isinstance(events, DuckDBPyRelation):
        raise PlanError(
            Argument("events"), f" must be a relation, such as result.events or result.event([…]), not {brief(events)}"
        )


def pair(step: object) -> tuple[str, str]:
    """Return an event as its name and a condition in SQL."""
    each = (step, "true") if isinstance(step, str) else step
    if isinstance(each, tuple | list) and len(each) == 2:
        name, condition = each
        if isinstance(name, str) and isinstance(condition, str) and is_text(name + condition):
            return name, condition
    raise PlanError(f"an event is a name, or (name, condition), such as ('Purchase', 'amount > 10'), not {brief(step)}")


def is_of(step: tuple[str, str]) -> str:
    """Return the condition for events of a step."""
    name, condition = step
    return f"({NAME} = {literal(name)} AND ({condition}))"


def microseconds(name: str, span: object, *, least: timedelta, such_as: str) -> int:
    """Return a time span in microseconds. Raises ``PlanError`` for anything but a ``timedelta`` of some length."""
    given: Any = span
    if getattr(span, "ndim", None) == 0:  # numpy's
        given = given.item()
    if not isinstance(given, timedelta):
        if isinstance(given, int) and 0 < given < 10_000 and such_as.startswith("days="):
            such_as = f"days={given:d}"
        raise PlanError(Argument(name), f" must be a timedelta, such as timedelta({such_as}), not {brief(span)}")
    if given < least:
        bound = "more than 0" if least == timedelta(microseconds=1) else f"at least {least}"
        raise PlanError(Argument(name), f" must be {bound}, not {given}")
    return given // timedelta(microseconds=1)


def one_of(name: str, value: object, choices: Iterable[object]) -> None:
    """Raise ``PlanError`` unless a value is one of some."""
    known = list(choices)
    if not isinstance(value, str | bool) or not any(type(each) is type(value) and each == value for each in known):
        texts = [each for each in known if isinstance(each, str)]
        others = [repr(each) for each in known if not isinstance(each, str)]
        wanted = ", ".join([*others, either(texts)]) if others else either(texts)
        raise PlanError(Argument(name), f" must be {wanted}, not {brief(value)}")


def several(name: str, value: object) -> list[object]:
    """Return one thing or a list of them as a list."""
    if isinstance(value, str) or (isinstance(value, tuple) and value):  # which is a name and a condition
        return [value]
    found = each_of(value)
    if found is None:
        raise PlanError(Argument(name), f" must be one or a list, not {brief(value)}")
    return found


def _local(events: DuckDBPyRelation, origin: Origin | None, zone: object) -> str:
    """Return the SQL for the time whose days count."""
    if zone is None and "local_time" in events.columns:
        return "local_time"
    if zone is None and origin is not None:
        zone = origin.zone()
        if zone is None:
            log.warning(UTC_NOTICE)
    if zone is None:
        return "time"
    if isinstance(zone, str) and zone == "UTC":
        return "time"  # which is UTC, or local time that stays as it is: converted twice, it takes three times as long
    known = isinstance(zone, str) and is_text(zone) and "\0" not in zone
    found = known and _rows(events, f"SELECT 1 FROM pg_timezone_names() WHERE name = {literal(str(zone))} LIMIT 1")
    if not found:
        raise PlanError(f"there is no time zone {brief(zone)}; names are like 'Europe/Berlin'", argument="zone")
    if origin is not None and "local_time" not in events.columns and origin.is_local():
        return "time"  # as in projects made before 2023
    return f"((time AT TIME ZONE 'UTC') AT TIME ZONE {literal(str(zone))})"


def _usable(origin: Origin | None) -> str:
    days = origin.days() if origin else None
    first, end = (days[0] - SLACK, days[1] + SLACK + timedelta(days=1)) if days else EVER
    return f"time >= TIMESTAMP '{first}' AND time < TIMESTAMP '{end}'"


def _check_names(events: DuckDBPyRelation, names: list[str]) -> None:
    """Raise for names that the relation's table lacks, if that is known; warn of names that only the relation lacks."""
    origin = origin_of(events)
    if origin is not None:
        lacking = origin.lacking(names)
        there, database = origin.names() if lacking else ([], "")
        for name in lacking:
            if name not in there:
                raise PlanError(f"there is no event {brief(name)} in {database}{closest(name, there)}")
        for name in lacking:
            warn(f"events has no {brief(name)}, although the table has: it counts as 0")
        return
    wanted = ", ".join(map(literal, names))
    found = {name for (name,) in _rows(events, f"SELECT DISTINCT {NAME} FROM mpnb_events WHERE {NAME} IN ({wanted})")}
    if lacking := [name for name in names if name not in found]:
        there = [name for (name,) in _rows(events, f"SELECT DISTINCT {NAME} FROM mpnb_events") if name]
        for name in lacking:
            warn(f"events has no {brief(name)}, which counts as 0{closest(name, there)}")


# --- columns, properties and expressions -------------------------------------------------------------------------


def value_of(ask: Asked, given: object, argument: str) -> str:
    """Return a column, a property or an expression as SQL. Raises ``PlanError`` if it is none of these."""
    if not isinstance(given, str) or not given.strip() or not is_text(given):
        raise PlanError(
            Argument(argument), f" must be a column, a property or an expression of SQL, not {brief(given)}"
        )
    return _column_or_expression(ask.events, given, ask.frame)


def text_of(ask: Asked, given: object, argument: str) -> str:
    """Return a value's text as SQL, compared exactly, so that no two texts count as one."""
    value = value_of(ask, given, argument)
    kind = str(related(ask.events, f"SELECT ({value}) FROM mpnb_events", ask.frame).types[0])
    return exact(f"(({value})->>'$')" if kind == "JSON" else f"CAST(({value}) AS VARCHAR)")


def number_of(ask: Asked, given: object, argument: str) -> str:
    """Return a value as a DOUBLE in SQL; what is no number is null."""
    value = value_of(ask, given, argument)
    kind = str(related(ask.events, f"SELECT ({value}) FROM mpnb_events", ask.frame).types[0])
    number = f"TRY_CAST({f'({value})->>' + chr(39) + '$' + chr(39) if kind == 'JSON' else f'({value})'} AS DOUBLE)"
    return f"CASE WHEN isfinite({number}) THEN {number} END"


def _column_or_expression(events: DuckDBPyRelation, by: str, frame: FrameType) -> str:
    """Return a name as a column if there is one, else as a property, else as an SQL expression."""
    if by in events.columns:
        return quoted(by)
    value = f"properties->>{literal('/' + by.replace('~', '~0').replace('/', '~1'))}"
    is_raw = "properties" in events.columns
    # What reads as a name is one, also where SQL has something of that name.
    if is_raw and re.fullmatch(r"[$\w]+", by) and _occurs(events, value):
        return value
    try:
        query = f"SELECT ({by}) FROM mpnb_events"
        called_with(variables_in(query, frame), events.query, "mpnb_events", query)
    except duckdb.Error as error:
        if is_raw and _occurs(events, value):
            return value
        known = list(events.columns)
        if is_raw:
            sample = f"SELECT properties FROM mpnb_events LIMIT {SAMPLE}"
            keys = f"SELECT unnest(json_keys(properties)) AS key FROM ({sample})"
            known += [name for (name,) in _rows(events, f"SELECT DISTINCT {exact('key')} FROM ({keys})")]
        hint = closest(by, known) or f", and it is not valid SQL: {_first_line(error)}"
        raise PlanError(f"events has no column{' or property' * is_raw} {brief(by)}{hint}") from None
    return by


def _occurs(events: DuckDBPyRelation, value: str) -> bool:
    there = value.replace("->>", "->")
    return bool(_rows(events, f"SELECT 1 FROM mpnb_events WHERE ({there}) IS NOT NULL LIMIT 1"))


def properties(name: str, given: object, most: int) -> list[object]:
    """Return no property, one, or a list of them, as a list. Raises ``PlanError`` for more than ``most``."""
    found: list[object] | None = [] if given is None else [given] if isinstance(given, str) else each_of(given)
    if found is None or len(found) > most:
        wanted = f" must be a column, a property or an expression of SQL, or a list of up to {most}"
        raise PlanError(Argument(name), f"{wanted}, not {brief(given)}")
    return found


def with_rest(rows: str, segments: Sequence[str], top: int | None, weight: str) -> str:
    """
    Return the query for rows with the segments besides the most frequent made one, and ``is_rest``.

    Args:
        segments: names of columns.
        weight: an aggregate; the segments with the most of it stay.
    """
    if not segments or top is None:
        return f"SELECT *, false AS is_rest FROM {rows}"
    listed = ", ".join(segments)
    order = ", ".join(f"{each} ASC NULLS LAST" for each in segments)
    best = f"SELECT {listed} FROM {rows} GROUP BY {listed} ORDER BY {weight} DESC, {order} LIMIT {top}"
    same = " AND ".join(f"r.{each} IS NOT DISTINCT FROM b.{each}" for each in segments)
    replaced = ", ".join(f"CASE WHEN b.kept THEN r.{each} ELSE {literal(REST)} END AS {each}" for each in segments)
    return (
        f"SELECT r.* REPLACE ({replaced}), b.kept IS NULL AS is_rest"
        f" FROM {rows} AS r LEFT JOIN (SELECT *, true AS kept FROM ({best})) AS b ON {same}"
    )


def mapping_or_list(name: str, given: object) -> list[tuple[object, object]]:
    """Return things with what each stands for, or ``None`` for each of a list."""
    if given is None:
        return []
    if isinstance(given, Mapping):
        return list(given.items())
    return [(each, None) for each in several(name, given)]
