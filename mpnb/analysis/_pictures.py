"""The picture of what a report returned, drawn from its rows."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from duckdb import DuckDBPyRelation

from mpnb._base import pictures
from mpnb._base.pictures import Line, Link, Picture, Property, Step, day_in_words, number, span_in_words
from mpnb.analysis._events import REST
from mpnb.analysis._reports import BETWEEN, LENGTHS, NUMBERS, Read, read, value_of

# More rows than these are not read for a picture.
MOST_ROWS = 100_000
NONE = "(none)"
AVERAGE = "average"
ENDED = "(nothing more)"
MOST_PATHS = 15


def picture(relation: DuckDBPyRelation) -> Picture:
    """
    Draw what a report returned.

    A notebook shows such a relation as this picture by itself; anywhere else, this returns it. It reads the relation
    once. A relation that was made of another, such as by ``filter()``, has none.

    Args:
        relation: what ``funnel()``, ``retention()``, ``segmentation()``, ``sessions()``, ``flows()`` or ``lifecycle()``
            returned, or a result's ``catalog()``.

    Returns:
        A picture, which a notebook shows: ``.svg`` is a file, ``.html`` a part of a page, with its values as a table.

    Raises:
        PlanError: it is no such relation.
    """
    found = read(relation, MOST_ROWS)
    if len(found.rows) > MOST_ROWS:
        words = f"There are more than {MOST_ROWS:,} rows, too many to draw. The relation has them: limit(), or top=…"
        return pictures.bars([], title=found.title, words=words)
    return _DRAWN[found.report.name](found)


def _moment(value: object, unit: str) -> object:
    """Return a period's beginning: a moment for hours, else a day."""
    return value.date() if isinstance(value, datetime) and unit != "hour" else value


# --- drawn -----------------------------------------------------------------------------------------------------------


def _funnel(found: Read) -> Picture:
    counted = next(name for name in ("users", "totals", "sessions") if name in found)
    segments: dict[str, list[Step]] = {}
    names = found.column("segment") if "segment" in found else [""] * len(found.rows)
    columns = map(found.column, ("event_name", counted, "of_first", "of_previous", "median_seconds"))
    for name, *step in zip(names, *columns, strict=True):
        segments.setdefault(NONE if name is None else name, []).append(Step(*step))
    return pictures.funnel(list(segments.items()), title=found.title, measure=counted)


def _retention(found: Read) -> Picture:
    """Draw the cohorts, after the average of all; with segments, the average of each."""
    unit, by_segment = found.options["unit"], "segment" in found
    value = "value" if "value" in found else "share"
    cells: dict[object, dict[int, float | None]] = {}
    sizes: dict[object, str] = {}
    columns: dict[int, str] = {}
    segments = found.column("segment") if by_segment else [AVERAGE] * len(found.rows)
    lasts = found.column("last_period" if "last_period" in found else "period")
    rest = map(found.column, ("cohort", "size", "period", "complete", value))
    for segment, last, cohort, size, period, complete, each in zip(segments, lasts, *rest, strict=True):
        if by_segment and cohort is not None:
            continue
        row = (NONE if segment is None else segment) if cohort is None else cohort
        sizes.setdefault(row, number(size))
        columns[period] = f"{period}" if last == period else f"{period}–{last}"
        cells.setdefault(row, {})[period] = each if complete is not False else None
    rows = sorted(cells, key=lambda row: isinstance(row, datetime))
    words = f"Across: {unit}s since. Beside each: its users. Empty: periods that have not ended for all of them."
    return pictures.heatmap(
        [(_cohort(row, unit), sizes[row]) for row in rows],
        [columns[period] for period in sorted(columns)],
        [[cells[row].get(period) for period in sorted(columns)] for row in rows],
        title=found.title,
        measure="users",
        words=words if rows else "There are no users.",
        shares=value == "share",
    )


def _cohort(row: object, unit: str) -> str:
    if not isinstance(row, datetime):
        return str(row)
    return day_in_words(row) + (f", {row:%H:%M}" if unit == "hour" else "")


def _segmentation(found: Read) -> Picture:
    options = found.options
    measure, unit = options["measure"], options["unit"]
    value = value_of(found)
    along = [_moment(each, unit) for each in found.column("period")]
    places = list(dict.fromkeys(along))
    splits = [found.column(name) for name in found.columns if name.startswith("segment")]
    if splits:
        series: dict[str, dict[object, float | None]] = {}
        for period, each, *segment in zip(along, found.column(value), *splits, strict=True):
            name = " / ".join(NONE if part is None else part for part in segment)
            series.setdefault(name, {})[period] = each
        lines = [Line(name, [each.get(place) for place in places]) for name, each in series.items()]
    else:
        shown = ["value", "rolling"] if value == "rolling" else [value]
        shown += ["compared"] if "compared" in found else []
        lines = [Line(measure if name == "value" else name, found.column(name)) for name in shown]
    sums = measure == "events" or measure.replace(" ", "").startswith("sum(")
    return pictures.lines(
        places,
        lines,
        title=found.title,
        measure=f"cumulative {measure}" if value == "cumulative" else measure,
        adds=sums and value in ("events", "value") and "compared" not in found,
    )


def _lifecycle(found: Read) -> Picture:
    unit = found.options["unit"]
    periods = [_moment(each, unit) for each in found.column("period")]
    lines = [Line(name, found.column(name)) for name in ("new", "retained", "returning", "dormant")]
    return pictures.lines(periods, lines, title=found.title, measure="users", adds=False)


def _sessions(found: Read) -> Picture:
    """Draw how many sessions have which length; the first row is of all."""
    (_, every, people, median), *rows = found.rows
    counts = {length: count for length, count, *_ in rows}
    items = [(name, counts.get(place, 0)) for place, (_, name) in enumerate(LENGTHS)]
    words = "There are no sessions."
    if every:
        words = (
            f"{number(every)} sessions of {number(people)} people; half of them take"
            f" {span_in_words(median)} or less from their first event to their last."
        )
    return pictures.bars(items, title=found.title, measure="sessions", words=words, ordered=True)


def _flows(found: Read) -> Picture:
    options = found.options
    title = found.title
    if options["paths"]:
        weight = "users" if options["counting"] == "uniques" else "entries"
        items = [
            (" → ".join(path[1:]) or ENDED, n)
            for path, n in zip(found.column("path"), found.column(weight), strict=True)
        ]
        # A user may be on several paths, so that their numbers have no sum.
        shown = items[:MOST_PATHS]
        words = f"The first {len(shown):,} of {len(items):,} paths, by {weight}." if items else "There are no paths."
        return pictures.bars(shown, title=title, measure=weight, words=words, ordered=True)
    columns = map(found.column, ("step", "event_name", "next_event", "entries"))
    is_before = options["direction"] == "before"
    return pictures.flow(
        [Link(*each) for each in zip(*columns, strict=True)],
        title=title,
        ended="(nothing before)" if is_before else ENDED,
        backward=is_before,
    )


def _catalog(found: Read) -> Picture:
    names = ("event_name", "property", "type", "share", "distribution", "minimum", "maximum", "examples")
    more = ("column_name", "distinct_values", "drift")
    columns = [found.column(name) for name in (*names, *more)]
    made = []
    for event, name, kind, share, values, least, most, examples, column, distinct, drift in zip(*columns, strict=True):
        values = dict(values or {})
        has_order = least is not None and kind in (*NUMBERS, "TIMESTAMP")
        is_ranges = has_order and any(BETWEEN in each for each in values)
        words = f"{least} to {most}" if has_order else ", ".join(examples or [])
        told = (column, number(distinct), drift or "", words)
        made.append(Property(event, name, kind, share, values, is_ranges, REST, words, told))
    events = len(dict.fromkeys(each.event for each in made))
    of = f"{events:,} events" if events > 1 else "an event"
    words = f"{len(made):,} properties of {of}; beside each, the share of its events that have it."
    head = ("column", "distinct values", "drift", "examples")
    return pictures.properties(made, title=found.title, words=words if made else "There are none.", head=head)


_DRAWN: dict[str, Callable[[Read], Picture]] = {
    "funnel": _funnel,
    "retention": _retention,
    "segmentation": _segmentation,
    "sessions": _sessions,
    "flows": _flows,
    "lifecycle": _lifecycle,
    "catalog": _catalog,
}
