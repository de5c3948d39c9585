"""Types that a user declared for the properties of a table, and what it means that a value fits one."""

from __future__ import annotations

import json
import logging
import weakref
from collections.abc import Iterable, Mapping, Sequence

import duckdb
from duckdb import DuckDBPyConnection, DuckDBPyRelation

from mpnb._base.names import EVENTS, closest, event_names
from mpnb._base.scalars import brief, either, is_text
from mpnb._base.sql import exact, literal, quoted, run, transaction
from mpnb._base.text import safe_text
from mpnb._errors import PlanError
from mpnb._message import Argument
from mpnb._reading.facts import TYPES, fact, store_fact
from mpnb._reading.given import given_names
from mpnb._reading.reader import Reader
from mpnb._storing.database import Store
from mpnb._storing.running import registration

log = logging.getLogger("mpnb")

KINDS = ("BOOLEAN", "BIGINT", "HUGEINT", "DOUBLE", "TIMESTAMP", "VARCHAR", "JSON")
# Of raw events, looked through for names that are like one that is not there.
SAMPLE = 10_000

# How a text must be written to be one. Numbers are written as in JSON, so that "007" is none.
_WHOLE = r"-?(0|[1-9]\d*)(\.0+)?"
_NUMBER = r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?"
_MOMENT = r"\d{4}-\d\d-\d\d([T ]([01]\d|2[0-3]):\d\d(:\d\d(\.\d{1,6})?)?Z?)?"

# A type by property; ``None`` takes what was declared back.
Types = dict[str, str | None]


# What warnings say of columns that hold values of several types, and of values that do not fit.
DRIFT = "values of several types make a column JSON, which compares as text:"
MISFITTING = "misfits() lists the values, which properties keeps"
# Of each open database, what was warned of, once each.
_said: weakref.WeakKeyDictionary[Store, set[tuple[object, ...]]] = weakref.WeakKeyDictionary()


def declaring(name: object, types: Mapping[str, str]) -> str:
    """Return what to type for columns of one type."""
    return f"For one type, call event({name!r}, types={dict(types)!r}), once for the table"


def unsaid(reader: Reader, keys: Sequence[tuple[object, ...]]) -> list[tuple[object, ...]]:
    """Return what was not warned of yet, and record that it is now."""
    said = _said.setdefault(reader.store, set())
    fresh = [key for key in keys if (reader.table, *key) not in said]
    said.update((reader.table, *key) for key in fresh)
    return fresh


# --- what fits ---------------------------------------------------------------------------------------------------


def fitting(text: str, kind: str) -> str:
    """Return a value's text in a declared type, as SQL: null where it would be another value there."""
    match kind:
        case "BOOLEAN":
            return f"CASE WHEN {exact(text)} IN ('true', 'false') THEN CAST({text} AS BOOLEAN) END"
        case "BIGINT":
            return f"CASE WHEN regexp_full_match({text}, '{_WHOLE}') THEN {_digits(text, kind)} END"
        case "HUGEINT":  # to 38 digits, as elsewhere: DuckDB 1.5 and 2.0 differ on what has more
            few = f"strlen(ltrim(split_part({text}, '.', 1), '-')) <= 38"
            return f"CASE WHEN regexp_full_match({text}, '{_WHOLE}') AND {few} THEN {_digits(text, kind)} END"
        case "DOUBLE":
            number = f"TRY_CAST({text} AS DOUBLE)"
            same = f"strlen(ltrim({text}, '-')) <= 38 AND TRY_CAST({number} AS HUGEINT) = TRY_CAST({text} AS HUGEINT)"
            fits = (
                f"regexp_full_match({text}, '{_NUMBER}') AND isfinite({number})"
                f" AND (NOT regexp_full_match({text}, '-?\\d+') OR {same})"
            )
            return f"CASE WHEN {fits} THEN {number} END"
        case "TIMESTAMP":
            moment = f"TRY_CAST(rtrim({text}, 'Z') AS TIMESTAMP)"
            fits = f"regexp_full_match({text}, '{_MOMENT}') AND {moment} >= TIMESTAMP '0001-01-01'"
            return f"CASE WHEN {fits} THEN {moment} END"
    return text


def _digits(text: str, kind: str) -> str:
    return f"TRY_CAST(split_part({text}, '.', 1) AS {kind})"


def misfits_of(misfit: Mapping[str, str]) -> str:
    """
    Return the list of the properties that do not fit, as SQL: null where all do, else with a null for each that does.

    Args:
        misfit: the condition of each.
    """
    names = ", ".join(f"CASE WHEN {each} THEN {literal(name)} END" for name, each in misfit.items())
    return f"CASE WHEN {' OR '.join(f'({each})' for each in misfit.values())} THEN [{names}] END"


# --- what is declared --------------------------------------------------------------------------------------------


def declared_types(cursor: DuckDBPyConnection, table: str) -> dict[str, str]:
    """Return the types that were declared for properties of a table."""
    stored = fact(cursor, TYPES, table)
    return {} if stored is None else dict(json.loads(stored))


def declare(reader: Reader, names: Sequence[str], given: object, *, materialize: bool) -> Types:
    """
    Store types for properties of some events, for the whole table, and return them by property.

    Where they cannot be stored, they are for the relation alone that is asked for.

    Raises:
        PlanError: it is no mapping of properties to types, or none of the events has such a property.
    """
    types = _checked(given)
    with reader.needing_table(), reader.store.reading() as cursor:
        types = {_property(cursor, reader, names, name): kind for name, kind in types.items()}
    if materialize and types:
        store, table = reader.store, reader.table
        try:
            with registration, store.committing(), store.reading() as cursor, transaction(cursor):
                every = {**declared_types(cursor, table), **types}
                kept = {name: kind for name, kind in every.items() if kind is not None}
                store_fact(cursor, TYPES, table, json.dumps(kept, ensure_ascii=False) if kept else None)
        except duckdb.InterruptException:
            raise
        except duckdb.Error as error:
            log.warning("types= is for this relation alone, since it cannot be stored: %s", safe_text(str(error)))
    return types


def _checked(given: object) -> Types:
    if not isinstance(given, Mapping):
        such_as = "such as {'amount': 'DOUBLE'}"
        raise PlanError(
            Argument("types"), f" must be a mapping from properties to types, {such_as}, not {brief(given)}"
        )
    types: Types = {}
    for name, kind in given.items():
        if not isinstance(name, str) or not is_text(name):
            raise PlanError(Argument("types"), f" is by property, and {brief(name)} is not a name")
        known = None if kind is None else str(kind).strip().upper()
        if known is not None and known not in KINDS:
            wanted = f" must be {either(KINDS)}, or None to take a type back, not {brief(kind)} for {brief(name)}"
            raise PlanError(Argument("types"), wanted)
        types[name] = known
    return types


def _property(cursor: DuckDBPyConnection, reader: Reader, names: Sequence[str], name: str) -> str:
    """Return the property of a name, which may be that of its column."""
    mine = f"{exact('event_name')} IN ({', '.join(map(literal, names))})"
    given = {prop: each.column for event in names for prop, each in given_names(cursor, reader.table, event).items()}
    fixed = [prop for prop, column in given.items() if column is None]
    if name in fixed:
        raise PlanError(f"{brief(name)} is a column of every event, whose type is settled", argument="types")
    has_it = f"SELECT 1 FROM {quoted(reader.table)} WHERE {mine} AND (properties->{_pointer(name)}) IS NOT NULL LIMIT 1"
    if name in given or run(cursor, has_it):
        return name
    if by_column := [prop for prop, column in given.items() if column == name]:
        return by_column[0]
    sample = f"SELECT properties FROM {quoted(reader.table)} WHERE {mine} LIMIT {SAMPLE}"
    keys = f"SELECT DISTINCT {exact('key')} FROM (SELECT unnest(json_keys(properties)) AS key FROM ({sample}))"
    there = {key for (key,) in run(cursor, keys)} | given.keys()
    raise PlanError(f"there is no property {brief(name)}{closest(name, there)}", argument="types")


def misfits(reader: Reader, events: str | Iterable[str] | None = None) -> DuckDBPyRelation:
    """Return the values that do not fit the types declared for them, as ``ExportResult.misfits()`` describes."""
    names = None if events is None else event_names(events, EVENTS)
    with reader.store.reading() as cursor:
        types = {name: kind for name, kind in declared_types(cursor, reader.table).items() if kind != "JSON"}
    listed = "[" + ", ".join(map(_pointer, types)) + "]"
    found = []
    for place, (name, kind) in enumerate(types.items(), 1):
        text = f"texts[{place}]"
        value = f"{{'property': {literal(name)}, 'type': '{kind}', 'value': jsons[{place}]}}"
        found.append(f"CASE WHEN {text} IS NOT NULL AND {fitting(text, kind)} IS NULL THEN {value} END")
    only = "" if names is None else f" WHERE {exact('event_name')} IN ({', '.join(map(literal, names))})"
    none = "NULL::STRUCT(property VARCHAR, type VARCHAR, value JSON)"
    rows = f"SELECT event_name, time, unnest([{', '.join(found) or none}]) AS one FROM (SELECT event_name, time"
    rows += f", properties->>{listed} AS texts, properties->{listed} AS jsons" if types else ""
    rows += f" FROM ({reader.selection.events}){only})"
    same = f"{exact('event_name')}, {exact('one.property')}, {exact('one.value::VARCHAR')}"
    order = f"{exact('event_name')} ASC, {exact('property')} ASC, events DESC, {exact('value::VARCHAR')} ASC"
    return reader.relation(
        'SELECT any_value(event_name) AS "event_name", any_value(one.property) AS "property",'
        ' any_value(one.type) AS "type", any_value(one.value) AS "value", count(*) AS "events", min(time) AS "first",'
        f' max(time) AS "last" FROM ({rows}) WHERE one IS NOT NULL GROUP BY {same} ORDER BY {order}'
    )


def _pointer(name: str) -> str:
    return literal("/" + name.replace("~", "~0").replace("/", "~1"))
