"""Typed events as one query: one name or several, some columns or all, with or without duplicates."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

from duckdb import DuckDBPyRelation

from mpnb._base.names import NAME, closest, event_names
from mpnb._base.scalars import brief, check_flags, listed
from mpnb._base.sql import exact, in_batches, literal, quoted, run
from mpnb._base.warn import warn
from mpnb._errors import PlanError
from mpnb._message import Argument
from mpnb._reading.declared import DRIFT, MISFITTING, declare, declaring, unsaid
from mpnb._reading.properties import (
    BATCH_ID,
    FIXED,
    MISFITS,
    NAMED,
    REPEATED,
    Column,
    columns_of,
    converted,
    drift_of,
    drifts,
    likely_type,
    merged,
)
from mpnb._reading.reader import Reader
from mpnb._reading.typed import MOST_COLUMNS, PROCESSED, Typed, too_wide, typed
from mpnb._storing.database import LEDGER
from mpnb._storing.ledger import HELD, of_table

# Of columns in one warning.
MOST_NAMED = 3


def event(
    reader: Reader,
    name: str | Iterable[str],
    *,
    columns: Iterable[str] | None = None,
    types: Mapping[str, str | None] | None = None,
    deduplicated: bool = False,
    materialize: bool = True,
) -> DuckDBPyRelation:
    """Return events by name with typed columns, as ``ExportResult.event()`` describes."""
    names = name if isinstance(name, str) else event_names(name, NAME)
    query = event_query(reader, names, columns=columns, types=types, deduplicated=deduplicated, materialize=materialize)
    return reader.events(query, [names] if isinstance(names, str) else names)


def event_query(
    reader: Reader,
    name: str | Iterable[str],
    *,
    columns: Iterable[str] | None = None,
    types: Mapping[str, str | None] | None = None,
    deduplicated: bool = False,
    materialize: bool = True,
) -> str:
    """Return the query of ``event()``."""
    names = event_names(name, NAME)
    if isinstance(columns, str):
        raise PlanError(Argument("columns"), f" must be a list of names, such as [{brief(columns)}]")
    columns = None if columns is None else listed("columns", columns)
    check_flags(deduplicated=deduplicated, materialize=materialize)
    # Before the tables are brought up to date: what lands meanwhile is in none of them for sure.
    condition = rows_condition(reader)
    several = not isinstance(name, str)
    only = columns if columns is None or not deduplicated else [*columns, PROCESSED]
    new = None if types is None else declare(reader, names, types, materialize=bool(materialize))
    events = typed(reader, names, materialize=materialize, only=only, types=new)
    if not several:
        [one] = events
        mine = [c for c in _wanted(one.columns, columns, one.others) if not c.fixed]
        notice(reader, names[0], events, mine, condition, new or {})
        wanted = [quoted(c.name) for c in mine]
        return f"SELECT {', '.join([*FIXED.values(), *wanted])} FROM {_rows(one, condition, deduplicated)}"
    chosen = [c for c in _wanted(shared_columns(events), columns) if not c.fixed]
    if len(chosen) > MOST_COLUMNS:
        raise PlanError(too_wide(f"these events have {len(chosen):,} properties"), argument="columns")
    notice(reader, names, events, chosen, condition, new or {})
    parts = []
    for each in events:
        own = {c.property: c for c in each.columns}
        there = {seen.path[0] for seen in each.seen if seen.path and seen.kind not in ("null", REPEATED, NAMED)}
        values = [f'{literal(each.event)} AS "event_name"', *FIXED.values()]
        for column in chosen:
            value = "NULL"
            if column.property in own:
                empty = column.property not in there
                value = converted(own[column.property], column.type, empty=empty)
            values.append(f"{value} AS {quoted(column.name)}")
        parts.append(f"SELECT {', '.join(values)} FROM {_rows(each, condition, deduplicated)}")
    return " UNION ALL ".join(parts)


def shared_columns(events: Sequence[Typed]) -> list[Column]:
    """Return the columns of several events together. Names go by who came first, so that they stay."""
    since: dict[str, int] = {}
    for each in events:
        for name, batch_id in each.since.items():
            since[name] = min(batch_id, since.get(name, batch_id))
    there = {name for each in events for name in (*each.others, *(c.property for c in each.columns))}
    kinds = merged(seen for each in events for seen in each.seen)
    declared = events[0].declared
    return [c for c in columns_of(kinds, since, taken=["event_name"], declared=declared) if c.property in there]


def notice(
    reader: Reader,
    name: str | Sequence[str],
    events: Sequence[Typed],
    columns: Sequence[Column],
    condition: str,
    settled: Container[str],
) -> None:
    """
    Warn, once each, of columns that are JSON since values are of several types, and of values that do not fit.

    Args:
        settled: properties of which the caller has just said that they may be JSON.
    """
    kinds = merged(seen for each in events for seen in each.seen)
    drifted = [c for c in columns if c.property not in events[0].declared and c.property not in settled]
    drifted = [c for c in drifted if drifts(kinds, c)]
    if fresh := unsaid(reader, [("drift", *sorted(each.event for each in events), c.property) for c in drifted]):
        drifted = [c for c in drifted if c.property in {key[-1] for key in fresh}]
        what = "; ".join(f"{c.property!r} ({drift_of(kinds, c)})" for c in drifted[:MOST_NAMED])
        more = f" and {len(drifted) - MOST_NAMED} more" if len(drifted) > MOST_NAMED else ""
        types = {c.property: likely_type(kinds, c) for c in drifted[:MOST_NAMED]}
        warn(f"{DRIFT} {what}{more}. {declaring(name, types)}")
    for event, prop, kind, rows in _misfits(reader, events, columns, condition):
        if unsaid(reader, [("misfit", event, prop, kind, rows)]):
            warn(f"{prop!r} of {event!r} is no {kind} in {rows:,} events, and null there: {MISFITTING}")


def _misfits(
    reader: Reader, events: Sequence[Typed], columns: Sequence[Column], condition: str
) -> Iterator[tuple[str, str, str, int]]:
    """Return events, properties, declared types, and how many values do not fit, of some columns."""
    asked = {c.property: str(c.type) for c in columns}
    for each in events:
        if not any(c.declared and c.type != "JSON" and c.property in asked for c in each.columns):
            continue
        some = f"SELECT unnest({MISFITS}) AS name FROM {each.rows} WHERE {condition} AND {MISFITS} IS NOT NULL"
        counted = f"SELECT name, count(*) FROM ({some}) WHERE name IS NOT NULL GROUP BY name ORDER BY name ASC"
        with reader.store.reading() as cursor:
            found = run(cursor, counted)
        yield from ((each.event, name, asked[name], rows) for name, rows in found if name in asked)


def rows_condition(reader: Reader) -> str:
    """Return the condition for the rows that a result has now; reading fails once one of their batches was replaced."""
    selection = reader.selection
    with reader.store.reading() as cursor:
        inside, across = (
            [batch_id for (batch_id,) in run(cursor, f"SELECT batch_id FROM {LEDGER} WHERE {which} AND rows > 0")]
            for which in (selection.inside, selection.across)
        )
    rows = in_batches(inside, BATCH_ID)
    if across:
        rows = f"({rows} OR {in_batches(across, BATCH_ID)} AND {selection.in_days})"
    again = literal("batches of this relation were fetched again since: call event() again")
    there = f"{of_table(reader.table)} AND status IN {HELD} AND {in_batches([*inside, *across], 'batch_id')}"
    return (
        f"{rows} AND (SELECT CASE WHEN count(*) = {len(inside) + len(across)} THEN true"
        f" ELSE error({again}) END FROM {LEDGER} WHERE {there})"
    )


def _rows(each: Typed, condition: str, deduplicated: bool) -> str:
    rows = f"(SELECT * FROM {each.rows} WHERE {condition}"
    if deduplicated:
        processed = next((quoted(c.name) for c in each.columns if c.property == PROCESSED), "NULL")
        rows += (
            " QUALIFY insert_id IS NULL OR row_number() OVER ("
            f"PARTITION BY {exact('distinct_id')}, time, {exact('insert_id')}"
            f" ORDER BY TRY_CAST(to_json({processed})->>'$' AS BIGINT) DESC NULLS LAST, {BATCH_ID} DESC) = 1"
        )
    return f"{rows})"


def _wanted(
    columns: Sequence[Column], asked: Sequence[str] | None, others: Mapping[str, str] = MappingProxyType({})
) -> list[Column]:
    if asked is None:
        return list(columns)
    by_name = {c.name: c for c in columns} | {c.property: c for c in columns}
    for name in asked:
        if name not in by_name and name not in FIXED.values():
            there = [*by_name, *others, *others.values()]
            raise PlanError(f"there is no property {brief(name)}{closest(name, there)}", argument="columns")
    return [by_name[name] for name in dict.fromkeys(asked) if name in by_name]
