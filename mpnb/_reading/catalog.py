"""The catalog: the properties of events, the column of each, and what is in it."""

from __future__ import annotations

import contextlib
import json
import logging
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from itertools import pairwise
from typing import Any, NamedTuple

import duckdb
from duckdb import DuckDBPyConnection, DuckDBPyRelation

from mpnb._base.constants import constants
from mpnb._base.names import EVENTS, event_names
from mpnb._base.scalars import check_flags
from mpnb._base.sql import exact, literal, quoted, run, transaction
from mpnb._base.text import safe_text
from mpnb._reading import rules
from mpnb._reading.declared import declared_types
from mpnb._reading.first_seen import Lasted, days_by_type
from mpnb._reading.look import Figures, Found, look, shown
from mpnb._reading.properties import (
    FIXED,
    MISFITS,
    REPEATED,
    Column,
    Seen,
    drift_of,
    merged,
    sql_type,
    typed_query,
)
from mpnb._reading.reader import Reader
from mpnb._reading.typed import Event, check_names, create, enter, everything, known, there_of
from mpnb._storing import ledger
from mpnb._storing.database import LEDGER
from mpnb._storing.running import registration
from mpnb.analysis._events import REST
from mpnb.analysis._reports import BETWEEN, NUMBERS, remember

log = logging.getLogger("mpnb")

EXAMPLES = 3
COLUMNS = {
    "event_name": "VARCHAR",
    "property": "VARCHAR",
    "column_name": "VARCHAR",
    "type": "VARCHAR",
    "share": "DOUBLE",
    "nulls": "BIGINT",
    "distinct_values": "BIGINT",
    "minimum": "VARCHAR",
    "maximum": "VARCHAR",
    "examples": "VARCHAR[]",
    "drift": "VARCHAR",
    "repeated": "BIGINT",
    "first_seen": "MAP(VARCHAR, DATE)",
    "last_seen": "MAP(VARCHAR, DATE)",
    "note": "VARCHAR",
    "distribution": "MAP(VARCHAR, BIGINT)",
}
# Of values that are too many to list, the most frequent.
FREQUENT = 5
# Unless even the first of them is rarer than this.
WORTH_A_NAME = 0.01
# Of these, a least and a greatest value say something.
MOST_SECONDS = 2 * 10**11  # of a moment that Python can name
ORDERED = ("BIGINT", "HUGEINT", "DOUBLE", "VARCHAR", "TIMESTAMP", "BOOLEAN")

Ticked = Callable[[int, int], object]


def catalog(
    reader: Reader, events: str | Iterable[str] | None = None, *, materialize: bool = True, ticked: Ticked | None = None
) -> DuckDBPyRelation:
    """
    Return one row per property of an event, as ``ExportResult.catalog()`` describes.

    Args:
        ticked: called with the number of rows that were looked at, and that of all rows.
    """
    check_flags(materialize=materialize)
    if events is not None:
        names = event_names(events, EVENTS)
    else:
        names = [name for name, *_ in rules.event_names(reader).fetchall()]
    rows = _rows(reader, names, materialize, ticked or (lambda done, total: None)) if names else []
    relation = constants(reader.store.database, COLUMNS, rows)
    remember(relation, "catalog")
    return relation


def _rows(reader: Reader, names: list[str], materialize: bool, ticked: Ticked) -> list[tuple[Any, ...]]:
    store, table = reader.store, reader.table
    if materialize:
        try:
            with registration, store.committing(), store.reading() as cursor:
                if not ledger.unfinished_exports(cursor, table):
                    return _looked(reader, cursor, names, True, ticked)
        except duckdb.InterruptException:
            raise
        except duckdb.Error as error:
            log.warning("what the catalog found is not kept, since it cannot be written: %s", safe_text(str(error)))
    with store.reading() as cursor:
        return _looked(reader, cursor, names, False, ticked)


def _looked(
    reader: Reader, cursor: DuckDBPyConnection, names: list[str], write: bool, ticked: Ticked
) -> list[tuple[Any, ...]]:
    """Return the rows of the catalog, and record what was found."""
    table, selection = reader.table, reader.selection
    # Where no export can enter itself, nothing changes meanwhile, and no transaction is needed to see one state of it:
    # DuckDB would keep what is staged, and dropped, until its end.
    with reader.needing_table(), contextlib.nullcontext() if write else transaction(cursor):
        there = there_of(cursor, table, names)
        check_names(cursor, reader.store, table, there)
        inside, across = (
            {
                b: there.rows[b]
                for (b,) in run(cursor, f"SELECT batch_id FROM {LEDGER} WHERE {which}")
                if b in there.rows
            }
            for which in (selection.inside, selection.across)
        )
        declared = declared_types(cursor, table)
        events = [known(cursor, table, name, declared) for name in names]
        rest = {
            each.name: {b: n for b, n in each.unknown(there, everything).items() if b not in inside} for each in events
        }
        total = sum(sum(each.values()) for each in (inside, across, *rest.values()))
        done = 0

        def counted(rows: int) -> None:
            nonlocal done
            done += rows
            ticked(done, total)

        figures: Found = {}
        mine = look(cursor, table, dict.fromkeys(names, inside), figures=figures, ticked=counted)
        partly = look(
            cursor, table, dict.fromkeys(names, across), rows=selection.in_days, figures=figures, ticked=counted
        )
        others = look(cursor, table, rest, ticked=counted)
        for event in events:
            event.learn([*mine[event.name], *others[event.name]], there)
            event.settle()
        if write:
            with transaction(cursor):
                create(cursor)
                for event in events:
                    enter(cursor, table, event, there)
        ledger_rows = f"SELECT batch_id, from_date, to_date FROM {LEDGER} WHERE {ledger.of_table(table)}"
        days = {batch_id: (first, last) for batch_id, first, last in run(cursor, ledger_rows)}
        by_type = days_by_type(cursor, table, {event.name: event.seen for event in events}, days)
        fitted = {event.name: _fitted(cursor, event, selection.events) for event in events}
    return [
        row
        for event in events
        for row in _of_event(
            event, mine[event.name] + partly[event.name], figures, by_type[event.name], fitted[event.name]
        )
    ]


class Fitted(NamedTuple):
    """What fits a declared type: the least and the greatest value as text, and how many values do not fit."""

    least: str | None
    most: str | None
    misfits: int


def _fitted(cursor: DuckDBPyConnection, event: Event, rows: str) -> dict[str, Fitted]:
    """Return what fits the types that were declared for properties of an event."""
    columns = [c for c in event.every if c.declared and c.type != "JSON"]
    if not columns:
        return {}
    figures = []
    for column in columns:
        name = exact(quoted(column.name)) if column.type == "VARCHAR" else quoted(column.name)
        figures += [f"min({name})::VARCHAR", f"max({name})::VARCHAR"]
        figures.append(f"count(*) FILTER (list_contains({MISFITS}, {literal(column.property)}))")
    mine = f"SELECT * FROM ({rows}) WHERE {exact('event_name')} = {literal(event.name)}"
    [found] = run(cursor, f"SELECT {', '.join(figures)} FROM ({typed_query(mine, columns)})")
    return {c.property: Fitted(*found[3 * n : 3 * n + 3]) for n, c in enumerate(columns)}


def _of_event(
    event: Event,
    seen: Sequence[Seen],
    figures: Found,
    by_type: Sequence[Lasted],
    fitted: Mapping[str, Fitted],
) -> Iterator[tuple[Any, ...]]:
    """
    Return the rows of one event.

    Args:
        seen: what occurs in the rows of this result.
        by_type: the first and the last day of each property and type.
        fitted: what fits declared types, by property.
    """
    everywhere, here = merged(event.seen), merged(seen)
    events = sum(each.rows for each in seen if not each.path)
    repeated = Counter[str]()
    for one in seen:
        if one.kind == REPEATED and one.path:
            repeated[str(one.path[0])] += one.rows
    first: dict[str, dict[str, date]] = defaultdict(dict)
    last: dict[str, dict[str, date]] = defaultdict(dict)
    for each in by_type:
        first[each.property][each.type] = each.first
        last[each.property][each.type] = each.last
    for column in event.every:
        name = column.property
        kinds = here.get((name,), {})
        of = figures.get((event.name, name), Figures())
        least, most, misfits = fitted.get(name) or Fitted(*_bounds(column, of), 0)
        yield (
            event.name,
            name,
            column.name,
            sql_type(column.type),
            sum(kinds.values()) / events if events else 0.0,
            kinds.get(("null", None), 0),
            of.distinct,
            least,
            most,
            _examples(column, of, [least, most]),
            drift_of(everywhere, column),
            repeated[name],
            first[name],
            last[name],
            _declared(name, event, misfits) or _note(name, event),
            _distribution(column, of, sum(kinds.values()) - kinds.get(("null", None), 0)),
        )


def _bounds(column: Column, figures: Figures) -> tuple[str | None, str | None]:
    """Return the least and the greatest value as text, of columns whose type has an order."""
    if column.type not in ORDERED:
        return None, None
    if column.type in ("BIGINT", "HUGEINT", "DOUBLE") or column.name == "time":
        bounds: list[tuple[Any, Any]] = list(figures.numbers.values())
    else:
        bounds = list(figures.texts.values())
    if not bounds:
        return None, None
    least, most = min(least for least, _ in bounds), max(most for _, most in bounds)
    return _text(column, least), _text(column, most)


def _text(column: Column, value: Any) -> str:
    """Return a value as DuckDB shows it in a column."""
    if _is_time(column) and isinstance(value, int):
        return str(datetime.fromtimestamp(value, UTC).replace(tzinfo=None))
    match "VARCHAR" if column.declared else column.type:  # what does not fit is shown as it is
        case "JSON":
            return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        case "DOUBLE":
            return repr(float(value))
        case "TIMESTAMP":
            return str(value).replace("T", " ")
        case "BOOLEAN":
            return str(value).lower()
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _examples(column: Column, figures: Figures, otherwise: Sequence[str | None]) -> list[str]:
    """Return the most frequent values; of a property so rare that no sample has it, its bounds."""
    frequent = sorted(figures.examples.items(), key=lambda each: (-each[1], each[0]))[:EXAMPLES]
    found = [_text(column, shown(value)) for value, _ in frequent]
    return found or list(dict.fromkeys(each for each in otherwise if each is not None))


def _distribution(column: Column, figures: Figures, total: int) -> dict[str, int]:
    """Return how many events have which value, or of numbers that are too many to list, a value of which range."""
    known = sorted(figures.frequent().items(), key=lambda each: (-each[1], each[0]))
    is_whole = sum(n for _, n in known) == total
    is_number = column.type in NUMBERS and not column.declared
    if not is_whole and figures.ranges.total() == total and (is_number or _is_time(column)):
        return _ranges(column, figures)
    if not is_whole and sum(n for _, n in known[:1]) < total * WORTH_A_NAME:
        return {}
    counts: Counter[str] = Counter()
    for value, n in known if is_whole else known[:FREQUENT]:
        counts[_text(column, shown(value))] += n
    if counts and (rest := total - counts.total()):
        counts[REST] += rest
    return dict(counts)


def _ranges(column: Column, figures: Figures) -> dict[str, int]:
    """Return how many numbers there are from each end to below the next."""
    if column.type != "DOUBLE":
        figures.add_ranges(0, {})  # none narrower than 1
    first, last = min(figures.ranges), max(figures.ranges)
    ends = [_end(column, place, figures.width) for place in range(first, last + 2)]
    return {BETWEEN.join(pair): figures.ranges[place] for place, pair in enumerate(pairwise(ends), first)}


def _end(column: Column, place: int, width: int) -> str:
    if column.type == "DOUBLE":
        try:
            end = math.ldexp(place, width)
        except OverflowError:  # of the last range
            return "inf"
        return str(int(end)) if end.is_integer() and abs(end) < 1e15 else repr(end)
    whole = place << width
    return _text(column, whole) if _is_time(column) and abs(whole) < MOST_SECONDS else str(whole)


def _is_time(column: Column) -> bool:
    return column.fixed and column.name == "time"


def _declared(name: str, event: Event, misfits: int) -> str | None:
    """Return which type was declared for a property, and how many values do not fit it."""
    if name not in event.declared:
        return None
    said = f": {misfits:,} values do not fit, and misfits() lists them" if misfits else ""
    return f"declared as {event.declared[name]}{said}"


def _note(name: str, event: Event) -> str | None:
    """Return what to know where a column of Mixpanel's own is null, and the project has a property of its name."""
    mixpanels = {column: own for own, column in FIXED.items() if own != column}.get(name)
    if mixpanels is None or any(kind != "null" for kind, _ in merged(event.seen).get((mixpanels,), ())):
        return None
    column = next(c.name for c in event.every if c.property == name)
    return f"column {name} is Mixpanel's {mixpanels}, which no event has: the project's own {name} is in {column}"
