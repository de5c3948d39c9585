"""
The first and the last day on which a property of an event had a value of each type.

The batch with it is known; its day is looked for among the rows of that batch alone, and first where it is most likely:
among some rows of the batch's first or last day, then all of that day, then all of the batch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from datetime import date
from typing import NamedTuple

from duckdb import DuckDBPyConnection

from mpnb._base.sql import exact, literal, quoted, run
from mpnb._reading.properties import KIND, KIND_TYPES, Seen

SOME = 5_000

# An event, a property, and a type of its values.
Place = tuple[str, str, str]
Days = Mapping[int, tuple[date, date]]


class Lasted(NamedTuple):
    """The days on which a property had its first and its last value of a type."""

    property: str
    type: str
    first: date
    last: date


def days_by_type(
    cursor: DuckDBPyConnection, table: str, seen: Mapping[str, Iterable[Seen]], days: Days
) -> dict[str, list[Lasted]]:
    """
    Return the first and the last day of each property and type, by event, in the order of the first.

    Args:
        seen: what occurs in batches, by event.
        days: the first and the last day of each batch.
    """
    batches: dict[Place, set[int]] = defaultdict(set)
    for event, found in seen.items():
        for each in found:
            if len(each.path) == 1 and (kind := KIND_TYPES.get(each.kind)) and each.batch_id in days:
                batches[event, str(each.path[0]), kind].add(each.batch_id)
    edges = []
    for is_first in (True, False):
        wanted: dict[int, set[Place]] = defaultdict(set)
        for place, there in batches.items():
            wanted[min(there, key=days.__getitem__) if is_first else max(there, key=days.__getitem__)].add(place)
        edges.append({p: d for b, mine in wanted.items() for p, d in _in(cursor, table, b, days[b], mine, is_first)})
    firsts, lasts = edges
    lasted: dict[str, list[Lasted]] = defaultdict(list)
    for place in sorted(batches, key=lambda place: (firsts[place], lasts[place], place)):
        event, name, kind = place
        lasted[event].append(Lasted(name, kind, firsts[place], lasts[place]))
    return lasted


def _in(
    cursor: DuckDBPyConnection,
    table: str,
    batch_id: int,
    days: tuple[date, date],
    wanted: Collection[Place],
    is_first: bool,
) -> Iterable[tuple[Place, date]]:
    """Return the first or the last day in one batch; for values whose events have no time, that of the batch."""
    first, last = days
    found: dict[Place, date] = {}
    on_edge = f"day = DATE '{first if is_first else last}'"
    for rows in (f"{on_edge} LIMIT {SOME}", on_edge, "true") if first < last else ():
        missing = set(wanted) - found.keys()
        if not missing:
            break
        names = sorted({name for _, name, _ in missing})
        for event, name, kind, low, high in run(cursor, _query(table, batch_id, days, missing, rows), [names]):
            place = (event, name, KIND_TYPES.get(kind, ""))
            if place in missing and low is not None:
                found[place] = min(found.get(place, low), low) if is_first else max(found.get(place, high), high)
    return [(place, found.get(place, first if is_first else last)) for place in wanted]


def _query(table: str, batch_id: int, days: tuple[date, date], missing: Iterable[Place], rows: str) -> str:
    events = ", ".join(sorted({literal(event) for event, _, _ in missing}))
    first, last = days
    # An event outside of the days of its batch, as some are in old projects, is taken for one of the nearest day.
    day = f"least(greatest(time, TIMESTAMP '{first}'), TIMESTAMP '{last}')::DATE"
    mine = (
        f"SELECT {exact('event_name')} AS event_name, CASE WHEN time IS NOT NULL THEN {day} END AS day, properties"
        f" FROM {quoted(table)} WHERE batch_id = {batch_id} AND {exact('event_name')} IN ({events})"
    )
    values = (
        "SELECT event_name, day, unnest(json_keys(properties)) AS name, unnest(properties->'$.*')::VARCHAR AS v"
        f" FROM (SELECT * FROM ({mine}) WHERE {rows})"
    )
    kinds = (
        f"SELECT event_name, {exact('name')} AS name, day, {KIND} AS kind FROM ({values})"
        f" WHERE {exact('name')} IN (SELECT unnest(?::VARCHAR[]))"
    )
    return f"SELECT event_name, name, kind, min(day), max(day) FROM ({kinds}) GROUP BY event_name, name, kind"
