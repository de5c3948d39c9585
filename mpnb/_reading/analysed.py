"""
One relation to analyse: events by name without duplicates, with persons, local time and some typed properties.

    mpnb_analysis.sets       one row a set of events and properties: its table, the batches that it covers, its columns
    mpnb_analysis.kinds      which kinds of values each of its properties has, by batch
    mpnb_analysis.events_N   the rows of one set
    mpnb_analysis.links      what links ids to each other, by batch, besides devices with users
    mpnb_analysis.persons    the ids that belong to a person of another id, in each system

Made when first asked for and kept up by batch, as typed events are. Where it cannot be written, as while an export
runs, the same rows come out of the JSON at each read.
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import duckdb
from duckdb import DuckDBPyConnection, DuckDBPyRelation

from mpnb._base.names import EVENTS, closest, event_names
from mpnb._base.optional import need
from mpnb._base.origin import remember
from mpnb._base.scalars import brief, listed
from mpnb._base.sql import exact, in_batches, literal, quoted, run, transaction
from mpnb._base.text import safe_text
from mpnb._base.warn import warn
from mpnb._errors import PlanError
from mpnb._planning.profiles import ProfileSource
from mpnb._reading import identities as ids
from mpnb._reading.declared import DRIFT, MISFITTING, declared_types, declaring, fitting, misfits_of, unsaid
from mpnb._reading.events import rows_condition
from mpnb._reading.offset import time_offset
from mpnb._reading.profiles import people_query
from mpnb._reading.properties import BATCH_ID, FIXED, MISFITS, TIMESTAMP_FORMAT
from mpnb._reading.reader import Reader
from mpnb._reading.selection import Selection
from mpnb._reading.typed import MOST_COLUMNS
from mpnb._reading.zone import check_zone, zone_of
from mpnb._storing import ledger, snapshot
from mpnb._storing.database import LEDGER
from mpnb._storing.running import registration
from mpnb._storing.snapshot import Snapshot

log = logging.getLogger("mpnb")

SCHEMA = "mpnb_analysis"
# Before the name of a property that is one of the person's, not of the event's.
PROFILE = "profile."
# A table by its name, and by its schema where that is not the database's own: schemas share these tables.
KEY = "CASE current_schema() WHEN 'main' THEN '' ELSE current_schema() || chr(31) END || ?"
LINKS = "links"
MAPPING = "mpnb_mapping"
MANY, PROCESSED = "mpnb_many", "mpnb_processed"
OWN = ("event_name", "time", "local_time", "person", *FIXED.values(), BATCH_ID, MANY, PROCESSED, MISFITS)
# Of raw events, looked through for names that are like one that is not there.
SAMPLE = 10_000

# The kind of the JSON text v, as DuckDB writes it: no spaces around. No type rounds, cuts or nulls what occurs.
_KIND = f"""CASE ascii(v)
    WHEN 34 THEN CASE WHEN strlen(v) = 21 AND substr(v, 12, 1) = 'T'
        AND strftime(TRY_CAST(substr(v, 2, 19) AS TIMESTAMP), '{TIMESTAMP_FORMAT}') = substr(v, 2, 19)
        THEN 'timestamp' ELSE 'text' END
    WHEN 116 THEN 'boolean' WHEN 102 THEN 'boolean' WHEN 110 THEN 'null' WHEN 91 THEN 'nested' WHEN 123 THEN 'nested'
    ELSE CASE WHEN contains(v, '.') OR contains(v, 'e') OR contains(v, 'E')
            THEN CASE WHEN isfinite(TRY_CAST(v AS DOUBLE)) THEN 'float' ELSE 'nested' END
        WHEN TRY_CAST(v AS BIGINT) IS NULL THEN 'nested'
        WHEN strlen(ltrim(v, '-')) <= 15 THEN 'int15' ELSE 'int64' END END"""


@dataclass(frozen=True, slots=True)
class Made:
    """
    Rows that are ready, and what is known of them.

    Attributes:
        rows: a table or a query, with the columns of ``OWN`` that are not computed, and the properties.
        columns: those of properties.
        persons: gives the ids that belong to another in a system, as a query, and a table that it may name.
        is_local: whether ``time`` is local time already; ``None`` if the events do not show it.
        has_verbs: whether the table has events that link ids, of the original system.
    """

    rows: str
    columns: tuple[_Column, ...]
    persons: Callable[[str], tuple[str, Any]]
    is_local: bool | None
    has_verbs: bool


def for_analysis(
    reader: Reader,
    events: str | Iterable[str] | None = None,
    properties: str | Iterable[str] | None = None,
    *,
    identities: str = "merged",
    zone: str | None = None,
) -> DuckDBPyRelation:
    """Return events to analyse, as ``ExportResult.for_analysis()`` describes."""
    names = None if events is None else event_names(events, EVENTS)
    given = [properties] if isinstance(properties, str) else properties
    asked = [] if given is None else list(dict.fromkeys(listed("properties", given)))
    if len(asked) > MOST_COLUMNS:
        raise PlanError(f"{len(asked):,} properties, and a table has at most {MOST_COLUMNS:,}", argument="properties")
    ids.chosen(identities, False)
    with reader.needing_table(), reader.store.reading() as cursor:
        profiles, asked = _of_profiles(cursor, reader.table, asked)
        if zone is not None:
            check_zone(cursor, zone)
        else:
            zone = zone_of(cursor, reader.table)
        if names is not None:
            _check_events(cursor, reader, names)
    # Before the tables are brought up to date: what lands meanwhile is in none of them for sure.
    condition = rows_condition(reader)
    made = _ready(reader, names, asked)
    system = ids.chosen(identities, made.has_verbs)
    persons, table = made.persons(system)
    if system != "exported":
        ids.announce(identities, system, reader.source())
    _notice(reader, made, condition)
    if zone is not None and made.is_local is None:
        warn("these events do not show whether their time is UTC, as it is in projects made since 2023: taken as UTC")
    found = reader.relation(
        _query(made, condition, zone, persons, profiles), variables={} if table is None else {MAPPING: table}
    )
    stays_local = bool(made.is_local) and zone is None
    origin = reader.origin(names)
    return remember(found, replace(origin, is_local=lambda: stays_local))


def _notice(reader: Reader, made: Made, condition: str) -> None:
    """Warn, once each, of columns that are JSON since values are of several types, and of values that do not fit."""
    rows = f"FROM {made.rows} WHERE {condition}"
    with reader.store.reading() as cursor:
        for column in made.columns:
            if column.type != "JSON" or column.declared:
                continue
            value = f"{quoted(column.name)}::VARCHAR"
            figures = (
                f"count({value}), count(*) FILTER (ascii({value}) = 34), count(*) FILTER (ascii({value}) IN (91, 123))"
            )
            figures += f", min({exact('event_name')}) FILTER ({value} IS NOT NULL)"
            [(every, texts, nested, event)] = run(cursor, f"SELECT {figures} {rows}")
            if every > nested and unsaid(reader, [("drift", column.property)]):
                kind = "VARCHAR" if texts + nested >= every / 2 else "DOUBLE"
                warn(f"{DRIFT} {column.property!r}. {declaring(event, {column.property: kind})}")
        declared = {c.property: c.type for c in made.columns if c.declared and c.type != "JSON"}
        if not declared:
            return
        some = f"SELECT unnest({MISFITS}) AS name {rows} AND {MISFITS} IS NOT NULL"
        counted = f"SELECT name, count(*) FROM ({some}) WHERE name IS NOT NULL GROUP BY name ORDER BY name ASC"
        for name, count in run(cursor, counted):
            if unsaid(reader, [("misfit", name, declared[name], count)]):
                warn(f"{name!r} is no {declared[name]} in {count:,} events, and null there: {MISFITTING}")


def identities(reader: Reader, system: str = "merged") -> DuckDBPyRelation:
    """Return the mapping of ids to persons, as ``ExportResult.identities()`` describes."""
    ids.chosen(system, False)
    with reader.needing_table():
        made = _ready(reader, None, None)
    follow = ids.chosen(system, made.has_verbs)
    persons, table = made.persons(follow)
    if follow != "exported":
        ids.announce(system, follow, reader.source())
    order = f"ORDER BY {exact('distinct_id')} ASC"
    shown = 'distinct_id AS "distinct_id", resolved_distinct_id AS "resolved_distinct_id"'
    return reader.relation(
        f"SELECT {shown} FROM {persons} {order}", variables={} if table is None else {MAPPING: table}
    )


def _arrow(mapping: Mapping[str, str]) -> Any:
    need("pyarrow", "identities() of a database that cannot be written")
    import pyarrow as pa

    columns = [list(mapping.keys()), list(mapping.values())]
    return pa.table([pa.array(each, pa.string()) for each in columns], names=["distinct_id", "resolved_distinct_id"])


def _of_profiles(
    cursor: DuckDBPyConnection, table: str, asked: Sequence[str]
) -> tuple[tuple[str, list[str]] | None, list[str]]:
    """
    Return the query for those properties that are asked of people, with its columns, and the properties of events.

    Where there are no profiles of the project, all are properties of events.
    """
    of_people = [name.removeprefix(PROFILE) for name in asked if name.startswith(PROFILE)]
    # First those with all properties, then the youngest.
    known = sorted(_profiles_of(cursor, table), key=lambda each: each.requested_at, reverse=True) if of_people else []
    known.sort(key=lambda each: ProfileSource.from_text(each.source).properties is not None)
    if not known:
        return None, list(asked)
    rest = [name for name in asked if not name.startswith(PROFILE)]
    taken = [name[len(PROFILE) :] for name in rest if name.casefold().startswith(PROFILE)]
    return people_query(cursor, [each.table for each in known], of_people, taken), rest


def _query(
    made: Made, condition: str, zone: str | None, persons: str, profiles: tuple[str, list[str]] | None = None
) -> str:
    """Return the query for the relation: no duplicates, a person for each row with the profile, the time in a zone."""
    same = f"{exact('event_name')}, {exact('distinct_id')}, time, {exact('insert_id')}"
    newest = f"PARTITION BY {same} ORDER BY {PROCESSED} DESC NULLS LAST, {BATCH_ID} DESC"
    rows = f"SELECT * FROM {made.rows} WHERE {condition} AND"
    time, local = "time", []
    # Near the ends of what a TIMESTAMP can be, some zone's time cannot, and DuckDB raises.
    safe = "CASE WHEN time BETWEEN TIMESTAMP '0001-01-02' AND TIMESTAMP '9999-12-30' THEN time END"
    if zone is not None and made.is_local:
        time, local = f"({safe} AT TIME ZONE {literal(zone)}) AT TIME ZONE 'UTC'", ['time AS "local_time"']
    elif zone is not None:
        local = [f"({safe} AT TIME ZONE 'UTC') AT TIME ZONE {literal(zone)} AS \"local_time\""]
    elif made.is_local:
        local = ['time AS "local_time"']
    person = "coalesce(mpnb_p.resolved_distinct_id, nullif(mpnb_e.distinct_id, ''))"
    of_people, columns = profiles or ("", [])
    joined = f" LEFT JOIN ({of_people}) AS mpnb_f ON {exact(person)} = {exact('mpnb_f.distinct_id')}" if columns else ""
    shown = [
        'event_name AS "event_name"',
        f'{time} AS "time"',
        *local,
        f'{person} AS "person"',
        *(f'mpnb_e.{name} AS "{name}"' for name in FIXED.values() if name != "time"),
        *(f"mpnb_e.{quoted(c.name)}" for c in made.columns),
        *(f"mpnb_f.{quoted(name)} AS {quoted(PROFILE + name)}" for name in columns),
    ]
    return (
        f"SELECT {', '.join(shown)} FROM ({rows} NOT {MANY} UNION ALL SELECT * FROM ({rows} {MANY})"
        f" QUALIFY row_number() OVER ({newest}) = 1) AS mpnb_e LEFT JOIN {persons} AS mpnb_p"
        f" ON {exact('mpnb_e.distinct_id')} = {exact('mpnb_p.distinct_id')}{joined}"
    )


def _check_events(cursor: DuckDBPyConnection, reader: Reader, names: Sequence[str]) -> None:
    there = {name for (name,) in run(cursor, f"SELECT DISTINCT {exact('event_name')} FROM {quoted(reader.table)}")}
    for name in names:
        if name not in there:
            raise PlanError(f"there is no event {brief(name)} in {reader.store.label}{closest(name, sorted(there))}")


# --- ready, in tables or not -------------------------------------------------------------------------------------


def _ready(reader: Reader, names: Sequence[str] | None, properties: Sequence[str] | None) -> Made:
    """
    Return rows and links, in tables that are brought up to date if they may be written.

    Args:
        properties: of the rows; ``None`` for links alone.
    """
    try:
        if (made := _materialized(reader, names, properties)) is not None:
            return made
    except duckdb.InterruptException:
        raise
    except duckdb.Error as error:
        log.warning("events are read from JSON, since their table cannot be written: %s", safe_text(str(error)))
    with reader.store.reading() as cursor, transaction(cursor):
        there = _there(cursor, reader.table)
        events = _events(reader.table, None, there)
        links = ids.read(cursor, f"{ids.users_query(events)} UNION ALL {ids.links_query(events)}")
        known = _with_profile(cursor, reader.table, links)
        found = lambda system: (MAPPING, _arrow(ids.resolved(links, system, known)))  # noqa: E731
        columns, rows = {}, ""
        if properties is not None:
            events = _events(reader.table, names, there)
            columns = _columns(cursor, reader, events, properties, _kinds(cursor, events, properties))
            rows = f"({_typed(events, columns)})"
        return Made(rows, tuple(columns.values()), found, *_facts(cursor, reader.table))


def _materialized(reader: Reader, names: Sequence[str] | None, properties: Sequence[str] | None) -> Made | None:
    """Bring the tables up to date. ``None`` if an export is writing these events."""
    store, table = reader.store, reader.table
    with registration, store.committing(), store.reading() as cursor:
        if ledger.unfinished_exports(cursor, table):
            return None
        with transaction(cursor):
            there = _there(cursor, table)
            if not _exists(cursor):
                _create(cursor)
            number, facts = _links_upto(cursor, table, there)
            columns: dict[str, _Column] = {}
            rows = ""
            if properties is not None:
                columns, rows = _rows_upto(cursor, reader, names, properties, there)
        here = quoted(store.place.database)
        mine = f"FROM {here}.{SCHEMA}.persons WHERE id = {number} AND system ="
        persons = lambda system: (f"(SELECT distinct_id, resolved_distinct_id {mine} {literal(system)})", None)  # noqa: E731
        return Made(f"{here}.{rows}" if rows else "", tuple(columns.values()), persons, *facts)


def _facts(cursor: DuckDBPyConnection, table: str) -> tuple[bool | None, bool]:
    """Return whether time is local, and whether there are events that link ids in the original system."""
    offset = time_offset(cursor, table, Selection(table).held(cursor))
    is_local = offset.is_local if offset.is_known else None
    verbs = run(cursor, f"SELECT 1 FROM {quoted(table)} WHERE {exact('event_name')} IN {ids.VERBS} LIMIT 1")
    return is_local, bool(verbs)


@dataclass(frozen=True, slots=True)
class _Column:
    """The column of a property. ``declared``: whether its type was declared and is not what the values have."""

    property: str
    name: str
    type: str
    declared: bool = False


@dataclass(frozen=True, slots=True)
class _Set:
    """
    What the database knows of a set, or of the links.

    Attributes:
        rows: of the events table by batch, when it was made.
        columns: of properties, each with its name and type; for links, the facts about the table.
    """

    number: int
    rows: dict[int, int]
    columns: list[Any]


def _there(cursor: DuckDBPyConnection, table: str) -> dict[int, int]:
    """Return the number of rows of each batch that the table holds."""
    return dict(
        run(
            cursor,
            f"SELECT batch_id, rows FROM ({ledger.rows_query(cursor, table)}) WHERE rows > 0 AND batch_id IN ("
            f"SELECT batch_id FROM {LEDGER} WHERE {ledger.of_table(table)} AND status IN {ledger.HELD})",
        )
    )


def _events(table: str, names: Sequence[str] | None, batches: Iterable[int]) -> str:
    named = "" if names is None else f" AND {exact('event_name')} IN ({', '.join(map(literal, names))})"
    return f"SELECT * FROM {quoted(table)} WHERE {in_batches(batches, 'batch_id')}{named}"


def _links_upto(cursor: DuckDBPyConnection, table: str, there: dict[int, int]) -> tuple[int, tuple[bool | None, bool]]:
    """Bring the links and persons up to date, and return their number and the facts about the whole table."""
    known = _known(cursor, table, LINKS)
    current = {b: n for b, n in known.rows.items() if there.get(b) == n}
    facts, people = known.columns, [each.id for each in _profiles_of(cursor, table)]
    if facts[2:] != [people] or current != there or known.rows != there:
        run(cursor, f"DELETE FROM {SCHEMA}.links WHERE id = {known.number} AND NOT {in_batches(current, 'batch_id')}")
        query = ids.links_query(_events(table, None, there.keys() - current.keys()))
        run(cursor, f"INSERT INTO {SCHEMA}.links SELECT {known.number}, * FROM ({query}) WHERE one IS NOT NULL")
        columns = "system, one, other, named, batch_id, time"
        kept = f"SELECT {columns} FROM {SCHEMA}.links WHERE id = {known.number}"
        links = ids.read(cursor, f"{ids.users_query(_events(table, None, there))} UNION ALL {kept}")
        with_profile = _with_profile(cursor, table, links)
        run(cursor, f"DELETE FROM {SCHEMA}.persons WHERE id = {known.number}")
        for system in (ids.SIMPLIFIED, ids.ORIGINAL):
            mapping = ids.resolved(links, system, with_profile)
            query = f"INSERT INTO {SCHEMA}.persons SELECT ?, ?, unnest(?::VARCHAR[]), unnest(?::VARCHAR[])"
            run(cursor, query, [known.number, system, list(mapping.keys()), list(mapping.values())])
        facts = [*_facts(cursor, table), people]
        _enter(cursor, table, LINKS, _Set(known.number, there, facts))
    is_local, has_verbs, _ = facts
    return known.number, (is_local, has_verbs)


def _profiles_of(cursor: DuckDBPyConnection, table: str) -> list[Snapshot]:
    """Return the snapshots of profiles of the project whose events a table has, those of groups left out."""
    source = ledger.source_of(cursor, table)
    found = [each for name in snapshot.tables_of(cursor) if (each := snapshot.published(cursor, name))]
    by_source = [(each, ProfileSource.from_text(each.source)) for each in found]
    return [each for each, of in by_source if source and of.project_id == source.project_id and not of.group]


def _with_profile(cursor: DuckDBPyConnection, table: str, links: Iterable[ids.Link]) -> set[str]:
    """Return those of the linked ids that have a profile."""
    tables = [each.table for each in _profiles_of(cursor, table)]
    linked = {each for link in links for each in (link.one, link.other, link.named) if each} if tables else ()
    found: set[str] = set()
    for name in tables:
        query = f"SELECT distinct_id FROM {quoted(name)} WHERE distinct_id IN (SELECT unnest(?::VARCHAR[]))"
        found |= {each for (each,) in run(cursor, query, [list(linked)])}
    return found


def _rows_upto(
    cursor: DuckDBPyConnection,
    reader: Reader,
    names: Sequence[str] | None,
    properties: Sequence[str],
    there: dict[int, int],
) -> tuple[dict[str, _Column], str]:
    """Bring the rows of a set up to date, and return its columns and its table."""
    table = reader.table
    key = json.dumps([None if names is None else sorted(names), list(properties)], ensure_ascii=False)
    known = _known(cursor, table, key)
    target = f"{SCHEMA}.events_{known.number}"
    current = {b: n for b, n in known.rows.items() if there.get(b) == n}
    declared = declared_types(cursor, table)
    as_declared = all(
        not c.declared if (kind := declared.get(c.property)) is None else c.type == kind
        for c in (_Column(*each) for each in known.columns)
    )
    if known.rows == there == current and as_declared:
        return {each[0]: _Column(*each) for each in known.columns}, target
    new = _events(table, names, there.keys() - current.keys())
    run(cursor, f"DELETE FROM {SCHEMA}.kinds WHERE id = {known.number} AND NOT {in_batches(current, 'batch_id')}")
    seen = _kinds(cursor, new, properties)
    run(
        cursor,
        f"INSERT INTO {SCHEMA}.kinds SELECT ?, unnest(?::BIGINT[]), unnest(?::VARCHAR[]), unnest(?::VARCHAR[])",
        [known.number, *([each[n] for each in seen] for n in range(3))],
    )
    seen = run(cursor, f"SELECT batch_id, property, kind FROM {SCHEMA}.kinds WHERE id = {known.number}")
    columns = _columns(cursor, reader, _events(table, names, there), properties, seen)
    as_listed = [[c.property, c.name, c.type, c.declared] for c in columns.values()]
    if current and as_listed == known.columns:
        run(cursor, f"DELETE FROM {target} WHERE NOT {in_batches(current, BATCH_ID)}")
        run(cursor, f"INSERT INTO {target} BY NAME {_typed(new, columns, many='false')}")
    else:
        query = _typed(_events(table, names, there), columns, many="false")
        run(cursor, f"CREATE OR REPLACE TABLE {target} AS {query}")
    # Rows that have the same hash as another may be duplicates; what is marked for nothing costs a look, no more.
    same = f"hash({exact('event_name')}, {exact('distinct_id')}, time, {exact('insert_id')})"
    twice = f"SELECT {same} FROM {target} WHERE insert_id IS NOT NULL GROUP BY ALL HAVING count(*) > 1"
    run(cursor, f"UPDATE {target} SET {MANY} = true WHERE NOT {MANY} AND insert_id IS NOT NULL AND {same} IN ({twice})")
    _enter(cursor, table, key, _Set(known.number, there, as_listed))
    return columns, target


# --- properties --------------------------------------------------------------------------------------------------


def _kinds(cursor: DuckDBPyConnection, events: str, properties: Sequence[str]) -> list[tuple[int, str, str]]:
    """Return which kinds of values the properties have, by batch."""
    if not properties:
        return []
    found = run(
        cursor,
        f"SELECT DISTINCT batch_id, place, {_KIND} AS kind FROM (SELECT batch_id, unnest(properties->"
        f"{_pointers(properties)})::VARCHAR AS v, unnest(range({len(properties)})) AS place FROM ({events}))"
        " WHERE v IS NOT NULL",
    )
    return [(batch_id, properties[place], kind) for batch_id, place, kind in found]


def _columns(
    cursor: DuckDBPyConnection,
    reader: Reader,
    events: str,
    properties: Sequence[str],
    seen: Iterable[Sequence[Any]],
) -> dict[str, _Column]:
    """
    Return the column of each property: its name, or with a number where that is taken, and the type that fits all.

    Raises:
        PlanError: none of the events has a property.
    """
    kinds: dict[str, set[str]] = defaultdict(set)
    for _, name, kind in seen:
        kinds[name].add(kind)
    used = {name.casefold() for name in OWN}
    declared = declared_types(cursor, reader.table)
    columns: dict[str, _Column] = {}
    for name in properties:
        if name not in kinds:
            keys = f"SELECT unnest(json_keys(properties)) AS key FROM ({events} LIMIT {SAMPLE})"
            like = [key for (key,) in run(cursor, f"SELECT DISTINCT {exact('key')} FROM ({keys})")]
            what = f"none of these events has a property {brief(name)}{closest(name, like)}"
            if name.startswith(PROFILE):
                what += f", and {reader.store.label} has no profiles of this project: export_profiles() fetches them"
            raise PlanError(what, argument="properties")
        first = free = name.replace("\0", "_") or "_"
        number = 2
        while free.casefold() in used:
            free, number = f"{first}_{number}", number + 1
        used.add(free.casefold())
        kind = _type(kinds[name] - {"null"})
        wanted = declared.get(name, kind)
        columns[name] = _Column(name, free, wanted, declared=wanted != kind)
    return columns


def _type(kinds: set[str]) -> str:
    if kinds <= {"text", "timestamp"}:
        return "TIMESTAMP" if kinds == {"timestamp"} else "VARCHAR"
    if kinds == {"boolean"}:
        return "BOOLEAN"
    if kinds <= {"int15", "int64"}:
        return "BIGINT"
    return "DOUBLE" if kinds <= {"int15", "float"} else "JSON"


def _typed(events: str, columns: Mapping[str, _Column], many: str = "insert_id IS NOT NULL") -> str:
    """
    Return the query for rows of a set. A value that does not fit raises; it never becomes null.

    But where a type was declared: what does not fit is null, and ``MISFITS`` has the names of these properties.
    """
    texts = [c for c in columns.values() if c.type != "JSON"]
    jsons = [c for c in columns.values() if c.type == "JSON"]
    pointers = _pointers(["mp_processing_time_ms", *(c.property for c in texts)])
    values, misfits = {}, {}
    for n, c in enumerate(texts, 2):
        values[c.property] = fitting(f"texts[{n}]", c.type) if c.declared else f"CAST(texts[{n}] AS {c.type})"
        if c.declared:
            misfits[c.property] = f"texts[{n}] IS NOT NULL AND {values[c.property]} IS NULL"
    values |= {c.property: f"NULLIF(jsons[{n}], 'null')" for n, c in enumerate(jsons, 1)}
    nested = f", properties->{_pointers([c.property for c in jsons])} AS jsons" if jsons else ""
    shown = "".join(f", {values[c.property]} AS {quoted(c.name)}" for c in columns.values())
    if misfits:
        shown += f", {misfits_of(misfits)} AS {MISFITS}"
    return (
        f"SELECT batch_id AS {BATCH_ID}, TRY_CAST(texts[1] AS BIGINT) AS {PROCESSED}, {many} AS {MANY}, event_name,"
        f" {', '.join(FIXED.values())}{shown} FROM (SELECT *, properties->>{pointers} AS texts{nested} FROM ({events}))"
    )


def _pointers(names: Sequence[str]) -> str:
    escaped = (name.replace("~", "~0").replace("/", "~1") for name in names)
    return "[" + ", ".join(literal(f"/{name}") for name in escaped) + "]"


# --- what is recorded --------------------------------------------------------------------------------------------


def _known(cursor: DuckDBPyConnection, table: str, key: str) -> _Set:
    rows = run(
        cursor,
        f"SELECT id, batches, counts, columns FROM {SCHEMA}.sets"
        f" WHERE table_name = lower({KEY}) AND {exact('key')} = ?",
        [table, key],
    )
    if rows:
        [(number, batches, counts, columns)] = rows
        return _Set(number, dict(zip(batches, counts, strict=True)), json.loads(columns))
    [(number,)] = run(cursor, f"SELECT coalesce(max(id), 0) + 1 FROM {SCHEMA}.sets")
    made = _Set(number, {}, [])
    _enter(cursor, table, key, made)
    return made


def _enter(cursor: DuckDBPyConnection, table: str, key: str, made: _Set) -> None:
    run(cursor, f"DELETE FROM {SCHEMA}.sets WHERE id = ?", [made.number])
    columns = json.dumps(made.columns, ensure_ascii=False)
    run(
        cursor,
        f"INSERT INTO {SCHEMA}.sets VALUES (?, lower({KEY}), ?, ?::BIGINT[], ?::BIGINT[], ?)",
        [made.number, table, key, list(made.rows.keys()), list(made.rows.values()), columns],
    )


def _create(cursor: DuckDBPyConnection) -> None:
    run(cursor, f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
    for name, columns in (
        ("sets", "id BIGINT, table_name VARCHAR, key VARCHAR, batches BIGINT[], counts BIGINT[], columns VARCHAR"),
        ("kinds", "id BIGINT, batch_id BIGINT, property VARCHAR, kind VARCHAR"),
        (
            "links",
            "id BIGINT, system VARCHAR, one VARCHAR, other VARCHAR, named VARCHAR, batch_id BIGINT, time TIMESTAMP",
        ),
        ("persons", "id BIGINT, system VARCHAR, distinct_id VARCHAR, resolved_distinct_id VARCHAR"),
    ):
        run(cursor, f"CREATE TABLE IF NOT EXISTS {SCHEMA}.{name} ({columns})")


def _exists(cursor: DuckDBPyConnection) -> bool:
    query = (
        "SELECT count(*) FROM duckdb_tables() WHERE database_name = current_database()"
        f" AND schema_name = '{SCHEMA}' AND table_name IN ('sets', 'kinds', 'links', 'persons')"
    )
    return bool(run(cursor, query)[0][0] == 4)


def forget(cursor: DuckDBPyConnection, table: str) -> None:
    """Drop what is stored for the analysis of a table, within a transaction of the caller."""
    if not _exists(cursor):
        return
    for (number,) in run(cursor, f"SELECT id FROM {SCHEMA}.sets WHERE table_name = lower({KEY})", [table]):
        run(cursor, f"DROP TABLE IF EXISTS {SCHEMA}.events_{number}")
        for name in ("sets", "kinds", "links", "persons"):
            run(cursor, f"DELETE FROM {SCHEMA}.{name} WHERE id = {number}")
    if not run(cursor, f"SELECT 1 FROM {SCHEMA}.sets LIMIT 1"):
        run(cursor, f"DROP SCHEMA {SCHEMA} CASCADE")
