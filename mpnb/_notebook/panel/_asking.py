"""What is asked in the explorer: choices out of lists, the calls that they stand for, and what these return."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any

from duckdb import DuckDBPyConnection, DuckDBPyRelation

from mpnb import analysis
from mpnb._base import pictures
from mpnb._base.origin import origin_of, remember
from mpnb._base.pictures import Picture, number
from mpnb._base.relation import made_on
from mpnb._base.sql import exact, literal, quoted, run
from mpnb._exporting.handles import ExportResult, reader_of

REPORTS = {
    "lines": "Lines", "bars": "Bars", "table": "Table", "funnel": "Funnel", "retention": "Retention",
    "flows": "Flows", "hours": "Hours of the week",
}  # fmt: skip
UNITS = ("hour", "day", "week", "month")
OVER_TIME = ("lines", "table")
SPLIT = ("lines", "table", "bars", "funnel", "retention")
COUNTS = ("events", "users", "sessions", "events per user")
AGGREGATES = ("sum", "average", "median")
# Of a report by hour, the hours of the week; of one by segment, its segments: what aggregate() and order() take.
HOURS = ("isodow(period) AS weekday, hour(period) AS hour, sum(events)::BIGINT AS events", "weekday, hour")
SEGMENTS = ("segment, sum(events)::BIGINT AS events", "events DESC, segment")
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
# Series besides which there is "$other".
TOP = 6
MOST_NAMES = 1000
MOST_BARS = 60
# Of some events, so many rows are looked at for their properties and values.
SAMPLE = 20_000
MOST_PROPERTIES = 200
MOST_VALUES = 100
# Columns of their own are worth their time from so many rows on; so many rows a second they are made of.
WORTH_TYPING = 200_000
ROWS_A_SECOND = 60_000
# The last day that another follows.
LAST_DAY = date.max - timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Choices:
    """
    What is chosen.

    Attributes:
        report: a key of ``REPORTS``.
        event: a name, or empty for any.
        then: the second step of a funnel, or who came back; empty for any.
        measure: as of ``segmentation()``.
        by: a property to split by, or empty.
        unit: of time.
        where, value: a property, and the value that it must have; empty for all events.
        first, last: days, both inclusive; ``None`` for all.
    """

    report: str = "lines"
    event: str = ""
    then: str = ""
    measure: str = "events"
    by: str = ""
    unit: str = "day"
    where: str = ""
    value: str = ""
    first: date | None = None
    last: date | None = None

    @property
    def names(self) -> list[str]:
        """Return the events that the report reads, none for any."""
        if not self.event or self.report == "flows" or (self.report == "retention" and not self.then):
            return []
        return [self.event, *([self.then] if self.then and self.report in ("funnel", "retention") else [])]

    @property
    def properties(self) -> list[str]:
        """Return the properties that the report reads."""
        aggregated = _aggregated(self.measure) if self.report in OVER_TIME else ""
        split = self.by if self.report in SPLIT else ""
        return list(dict.fromkeys(each for each in (aggregated, split, self.where if self.value else "") if each))


@dataclass(frozen=True, slots=True)
class Lists:
    """
    What can be chosen: everything else is refused.

    Attributes:
        events: names with their numbers, the most frequent first.
        properties: of the chosen event, the most frequent first.
        numbers: those of them that have numbers.
        values: of the property of the filter, with their numbers, ``None`` where not all events were looked at.
        days: with their numbers of events.
    """

    events: tuple[tuple[str, int], ...] = ()
    properties: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    values: tuple[tuple[str, int | None], ...] = ()
    days: tuple[tuple[date, int], ...] = ()

    @property
    def measures(self) -> list[str]:
        """Return the measures, as ``segmentation()`` takes them."""
        return [*COUNTS, *(f"{name}({each})" for each in self.numbers for name in AGGREGATES)]


TEXTS = ("report", "event", "then", "measure", "by", "unit", "where", "value")


def chosen(given: Mapping[str, Any], lists: Lists) -> Choices:
    """Return what a browser chose, as far as it is in the lists; anything else is as at first."""
    text = {name: str(given.get(name) or "") for name in TEXTS}
    names = {name for name, _ in lists.events}
    values = {value for value, _ in lists.values}
    first, last = _day(given.get("first")), _day(given.get("last"))
    if lists.days and (first or last):  # one alone is as far as there are days
        first, last = first or lists.days[0][0], last or lists.days[-1][0]
    if first and last and first > last:
        first, last = last, first
    if first and last and lists.days and first <= lists.days[0][0] and last >= lists.days[-1][0]:
        first = last = None
    made = Choices(
        report=text["report"] if text["report"] in REPORTS else "lines",
        event=text["event"] if text["event"] in names else "",
        then=text["then"] if text["then"] in names else "",
        measure=text["measure"] if text["measure"] in lists.measures else "events",
        by=text["by"] if text["by"] in lists.properties else "",
        unit=text["unit"] if text["unit"] in UNITS else "day",
        where=text["where"] if text["where"] in lists.properties else "",
        value=text["value"] if text["value"] in values else "",
        first=first,
        last=last,
    )
    if not made.event and lists.events and made.report in ("funnel", "retention", "flows"):
        made = replace(made, event=lists.events[0][0])
    if not made.then and made.report == "funnel":
        made = replace(made, then=next((name for name, _ in lists.events if name != made.event), made.event))
    return made


def _day(given: object) -> date | None:
    try:
        return min(date.fromisoformat(str(given or "")), LAST_DAY)
    except ValueError:
        return None


def _aggregated(measure: str) -> str:
    """Return the property that a measure is of."""
    return measure.partition("(")[2].removesuffix(")")


# --- what can be chosen ----------------------------------------------------------------------------------------------


def events_in(result: ExportResult) -> tuple[tuple[str, int], ...]:
    """Return the events of a result with their numbers, the most frequent first."""
    return tuple(result.event_names().project("event_name, events").limit(MOST_NAMES).fetchall())


def days_in(result: ExportResult) -> tuple[tuple[date, int], ...]:
    """Return the days of a result with their numbers of events."""
    return tuple((day.day, day.events) for day in result.calendar().days)


def properties_of(
    cursor: DuckDBPyConnection, result: ExportResult, event: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the properties of some of the events, the most frequent first, and those that have numbers."""
    kinds = "list_transform(json_keys(p), lambda k: json_type(p, '/' || replace(replace(k, '~', '~0'), '/', '~1')))"
    rows = run(
        cursor,
        "SELECT key, bool_or(kind IN ('BIGINT', 'UBIGINT', 'DOUBLE', 'HUGEINT')) FROM (SELECT unnest(json_keys(p)) AS"
        f" key, unnest({kinds}) AS kind FROM ({_sample(result, event)}) AS s(p)) GROUP BY key"
        f" ORDER BY count(*) DESC, key ASC LIMIT {MOST_PROPERTIES}",
    )
    plain = [(key, is_number) for key, is_number in rows if key not in ("time", "distinct_id") and "(" not in key]
    return tuple(key for key, _ in plain), tuple(key for key, is_number in plain if is_number)


def values_of(cursor: DuckDBPyConnection, result: ExportResult, choices: Choices) -> tuple[tuple[str, int | None], ...]:
    """Return the values that a property has in some of the events, the most frequent first, as in ``Lists``."""
    if not choices.where:
        return ()
    value = f"({_value(choices.where, 'p')})"
    rows = run(
        cursor,
        f"WITH mpnb_sample(p) AS (SELECT * FROM ({_sample(result, choices.event)}))"
        f" SELECT {exact(value)} AS value,"
        f" CASE WHEN (SELECT count(*) FROM mpnb_sample) < {SAMPLE} THEN count(*) END FROM mpnb_sample"
        # The empty text stands for all of them where one is chosen.
        f" WHERE {exact(value)} <> '' GROUP BY value ORDER BY count(*) DESC, value ASC LIMIT {MOST_VALUES}",
    )
    return tuple(rows)


def _sample(result: ExportResult, event: str) -> str:
    only = f" WHERE {exact('event_name')} = {literal(event)}" if event else ""
    return f"SELECT properties FROM ({reader_of(result).selection.events}){only} LIMIT {SAMPLE}"


def _value(name: str, properties: str = "properties") -> str:
    pointer = "/" + name.replace("~", "~0").replace("/", "~1")
    return f"{properties}->>{literal(pointer)}"


# --- from choices to calls -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Calls:
    """
    What choices stand for: the same calls that are run, and shown as code.

    Attributes:
        columns: the properties of ``result.event(names, columns=…)``; ``None`` for ``result.events``.
        names: of those events.
        filters: conditions in SQL, one after another.
        report: the function of ``mpnb.analysis``.
        event: its first arguments after the events.
        options: its other arguments.
        then: what ``aggregate()`` and ``order()`` take of what it returned, or empty.
    """

    columns: list[str] | None
    names: list[str]
    filters: list[str]
    report: str
    event: list[Any]
    options: dict[str, Any]
    then: tuple[str, str] | tuple[()] = ()


def calls_of(choices: Choices, typed: bool, zone: str) -> Calls:
    """
    Return the calls that choices stand for.

    Args:
        typed: whether the events are read from columns of their own.
        zone: the time zone of days, which is said, since a filtered relation does not know it by itself.
    """
    c = choices
    filters = []
    if c.first and c.last:
        filters.append(f"time >= DATE '{c.first}' AND time < DATE '{c.last + timedelta(days=1)}'")
    if c.where and c.value:
        value = f"CAST({quoted(c.where)} AS VARCHAR)" if typed else _value(c.where)
        filters.append(f"{exact(value)} = {literal(c.value)}")
    event: list[Any] = [c.event or None]
    options: dict[str, Any] = {}
    then: tuple[str, str] | tuple[()] = ()
    if c.report == "funnel":
        report, event = "funnel", [[c.event, c.then]]
    elif c.report == "retention":
        report, event = "retention", [c.event, c.then or None]
        options["unit"] = c.unit
    elif c.report == "flows":
        report = "flows"
        options["top"] = 2 * TOP
    else:
        report = "segmentation"
        options["unit"] = {"hours": "hour"}.get(c.report, c.unit)
    if report == "segmentation" and c.report in OVER_TIME and c.measure != "events":
        options["measure"] = c.measure
    if c.by and c.report in SPLIT:
        options["by"], options["top"] = c.by, TOP
    if c.report == "hours":
        then = HOURS
    elif c.report == "bars" and c.by:
        then = SEGMENTS
    if report in ("segmentation", "retention"):
        options["zone"] = zone
    while event and event[-1] is None:
        event.pop()
    return Calls(c.properties if typed else None, c.names, filters, report, event, options, then)


def code_of(calls: Calls, result: str) -> str:
    """
    Return calls as code.

    Args:
        result: the variable that holds the result, or a call that returns one.
    """
    events = f"{result}.events"
    if calls.columns is not None:
        events = f"{result}.event({word(calls.names)}, columns={word(calls.columns)})"
    lines = ["import mpnb", "", f"events = {events}"]
    lines += [f"events = events.filter({word(each)})" for each in calls.filters]
    words = [word(each) for each in calls.event] + [f"{name}={word(each)}" for name, each in calls.options.items()]
    lines.append(f"report = mpnb.analysis.{calls.report}({', '.join(['events', *words])})")
    if calls.then:
        sums, order = calls.then
        lines.append(f"report = report.aggregate({word(sums)}).order({word(order)})")
    return "\n".join([*lines, "report"])


def word(value: object) -> str:
    """Return a value as code."""
    return json.dumps(value, ensure_ascii=False) if not isinstance(value, bool) and value is not None else repr(value)


def asked(result: ExportResult, calls: Calls) -> DuckDBPyRelation:
    """Return the relation that the code of some calls ends with."""
    return _report(_filtered(_events(result, calls), calls), calls)


def drawn(result: ExportResult, calls: Calls, choices: Choices, cursor: DuckDBPyConnection) -> Picture:
    """Return the picture of what is asked, which is read on a cursor."""
    events = _events(result, calls)
    here = made_on(events, cursor)
    if (origin := origin_of(events)) is not None and not calls.filters:  # as it is with the relation of the code
        remember(here, origin)
    report = _report(_filtered(here, calls), calls)
    if calls.then == HOURS:
        return _hours(report.fetchall(), choices)
    if calls.then == SEGMENTS:
        return _segments(report.fetchall(), choices)
    picture = analysis.picture(report)
    return _periods(report, choices, picture) if choices.report == "bars" else picture


def _events(result: ExportResult, calls: Calls) -> DuckDBPyRelation:
    return result.events if calls.columns is None else result.event(calls.names, columns=calls.columns)


def _filtered(events: DuckDBPyRelation, calls: Calls) -> DuckDBPyRelation:
    for condition in calls.filters:
        events = events.filter(condition)
    return events


def _report(events: DuckDBPyRelation, calls: Calls) -> DuckDBPyRelation:
    report: DuckDBPyRelation = getattr(analysis, calls.report)(events, *calls.event, **calls.options)
    if not calls.then:
        return report
    sums, order = calls.then
    return report.aggregate(sums).order(order)


def _hours(rows: Sequence[tuple[int, int, int]], choices: Choices) -> Picture:
    counts = {(weekday, hour): count for weekday, hour, count in rows}
    total = sum(counts.values())
    return pictures.heatmap(
        [(name, number(sum(counts.get((n, hour), 0) for hour in range(24)))) for n, name in enumerate(WEEKDAYS, 1)],
        [str(hour) for hour in range(24)],
        [[counts.get((n, hour), 0) for hour in range(24)] for n in range(1, 8)],
        title=f"{choices.event or 'Any event'}, by hour of the week",
        measure="events",
        words=f"{number(total)} events; beside each day, its own.",
        shares=False,
    )


def _segments(rows: Sequence[tuple[str | None, int]], choices: Choices) -> Picture:
    items = [("(none)" if name is None else name, count) for name, count in rows]
    return pictures.bars(items, title=f"{choices.event or 'Any event'} by {choices.by}")


def _periods(report: DuckDBPyRelation, choices: Choices, picture: Picture) -> Picture:
    """Draw a bar for each period, with the words of the picture of its lines."""
    items = [(row[0], count) for row, (count,) in zip(picture.rows, report.project("events").fetchall(), strict=False)]
    title = f"{choices.event or 'Any event'}, each {choices.unit}"
    cut = f" Drawn: the last {MOST_BARS:,} of {len(items):,}." if len(items) > MOST_BARS else ""
    return pictures.bars(items[-MOST_BARS:], title=title, words=picture.words + cut, ordered=True)
