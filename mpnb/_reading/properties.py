"""
What occurs in the properties of an event, the types that hold all of it, and the resulting columns.

A scan counts, for each property and batch, the kinds of values. The type of a property is a function of the set of
its kinds, so that batches are scanned once, and what they hold is merged by adding up. No type rounds, cuts or nulls a
value that occurs: where none holds all of them, it is JSON.
"""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from mpnb._base.sql import exact, in_batches, literal, quoted
from mpnb._reading.declared import fitting, misfits_of

# Mixpanel's own form of a date and time: https://docs.mixpanel.com/docs/data-structure/property-reference/data-type
TIMESTAMP_FORMAT = "%Y-%m-%dT%H:%M:%S"
# Deeper values are JSON. Mixpanel takes three levels.
MAX_DEPTH = 4

# The columns that every event has, and the properties that the writer filled them from.
FIXED = {
    "time": "time",
    "distinct_id": "distinct_id",
    "$device_id": "device_id",
    "$user_id": "user_id",
    "$insert_id": "insert_id",
}
BATCH_ID = "mpnb_batch_id"
# The properties of an event whose values do not fit the types that were declared for them, a list.
MISFITS = "mpnb_misfits"

TEXT = frozenset({"text", "timestamp"})
# Integers by how far they reach: the time of an event in seconds; what a DOUBLE holds; 64 bits; 38 digits.
SECONDS = frozenset({"int11"})
IN_DOUBLE = SECONDS | {"int15"}
IN_BIGINT = IN_DOUBLE | {"int64"}
# 38 digits fit HUGEINT, and the decimals of Arrow, Parquet and polars.
IN_HUGEINT = IN_BIGINT | {"int38"}

# Of the JSON text v, as DuckDB writes it: no spaces around, and no other way to write the same escape or number.
KIND = f"""CASE ascii(v)
    WHEN 34 THEN CASE WHEN strlen(v) = 21 AND substr(v, 12, 1) = 'T'
        AND strftime(TRY_CAST(substr(v, 2, 19) AS TIMESTAMP), '{TIMESTAMP_FORMAT}') = substr(v, 2, 19)
        THEN 'timestamp' ELSE 'text' END
    WHEN 116 THEN 'boolean' WHEN 102 THEN 'boolean' WHEN 110 THEN 'null' WHEN 91 THEN 'list' WHEN 123 THEN 'object'
    ELSE CASE
        WHEN contains(v, '.') OR contains(v, 'e') OR contains(v, 'E')
            THEN CASE WHEN isfinite(TRY_CAST(v AS DOUBLE)) THEN 'float' ELSE 'other' END
        WHEN contains(v, 'N') OR contains(v, 'I') THEN 'other'
        WHEN strlen(ltrim(v, '-')) <= 11 THEN 'int11'
        WHEN strlen(ltrim(v, '-')) <= 15 THEN 'int15'
        WHEN TRY_CAST(v AS BIGINT) IS NOT NULL THEN 'int64'
        WHEN strlen(ltrim(v, '-')) <= 38 THEN 'int38'
        ELSE 'integer' END END"""

# The type of a column that has values of one kind alone. Nulls have none.
KIND_TYPES = {
    **{"text": "VARCHAR", "timestamp": "TIMESTAMP", "boolean": "BOOLEAN", "float": "DOUBLE"},
    **dict.fromkeys(IN_BIGINT, "BIGINT"),
    **{"int38": "HUGEINT", "integer": "JSON", "list": "LIST", "object": "STRUCT", "other": "JSON"},
}

# A name of SQL, or one of these for lists ([type]) and objects ({key: type}): what json_transform takes.
Type = str | list[Any] | dict[str, Any]
# A property, then the way into its value: 0 for the elements of a list, or a key.
Path = tuple[str | int, ...]
Kinds = dict[Path, dict[tuple[str, str | None], int]]


# No kind of a value: how many events have a property twice or more, of which a value is the first. At the root it says
# that a batch was looked at, and how many events it had.
REPEATED = "repeated"
# Nor is this: how many events have a property whose values were not looked at.
NAMED = "named"


class Seen(NamedTuple):
    """The number of values of one kind in one place of one batch. ``keys`` are an object's, as JSON, in order."""

    batch_id: int
    path: Path
    kind: str
    keys: str | None
    rows: int


@dataclass(frozen=True, slots=True)
class Column:
    """
    The column of a property.

    Attributes:
        fixed: whether it exists whether or not the property does.
        declared: whether its type was declared and is not what the values have: some may not fit.
    """

    property: str
    name: str
    type: Type
    fixed: bool = False
    declared: bool = False


# --- what occurs -------------------------------------------------------------------------------------------------


def names_query(table: str) -> str:
    """Return the query for ``batch_id``, the names of all properties, and how often each occurs in a table of rows."""
    names = f"SELECT batch_id, unnest(json_keys(properties)) AS name FROM {table}"
    return f"SELECT batch_id, {exact('name')} AS name, count(*) FROM ({names}) GROUP BY ALL"


def scan(run: Callable[[str], list[Any]], rows: str, names: Iterable[str]) -> Iterator[Seen]:
    """
    Count the kinds of values of some properties, and of the items and fields in them.

    Args:
        run: runs a query.
        rows: a query with the columns ``batch_id`` and ``properties``.
    """
    return _scan(run, f"SELECT batch_id, properties AS value FROM ({rows})", (), list(names), MAX_DEPTH)


def _settled(
    run: Callable[[str], list[Any]], rows: str, path: Path, batches: Mapping[int, dict[str, int]], depth: int
) -> Iterator[Seen]:
    """
    Return what was seen in one place, and what is in its lists and objects where all values of a batch are such.

    Args:
        run: runs a query.
        rows: a query with the columns ``batch_id`` and ``value`` of the place, for its lists and objects at least.
        batches: how many values of each kind there are, by batch.
    """
    lists, objects = [], []
    for batch_id, kinds in batches.items():
        only = kinds.keys() - {"null"}
        if only == {"list"} and depth > 1:
            lists.append(batch_id)
        elif only == {"object"} and depth > 1:
            objects.append(batch_id)
        elif only & {"list", "object"}:
            kinds["other"] = sum(kinds.pop(kind, 0) for kind in ("list", "object", "other"))
        for kind, count in kinds.items():
            if kind != "object":
                yield Seen(batch_id, path, kind, None, count)
    if lists:
        inside = f"SELECT * FROM ({rows}) WHERE {in_batches(lists, 'batch_id')}"
        items = f"SELECT batch_id, unnest(value->'$[*]') AS value FROM ({inside})"
        yield from _scan(run, items, path, None, depth - 1)
    if objects:
        inside = f"SELECT * FROM ({rows}) WHERE {in_batches(objects, 'batch_id')}"
        yield from _scan_objects(run, inside, path, {b: batches[b]["object"] for b in objects}, depth)


def _scan(run: Callable[[str], list[Any]], rows: str, path: Path, keys: list[str] | None, depth: int) -> Iterator[Seen]:
    """Scan the fields of objects by their keys; without keys, scan the values themselves, the items of lists."""
    if keys == []:
        return
    values, steps = (f"value->{pointers(keys)}", keys) if keys is not None else ("[value]", [0])
    counts: dict[int, dict[int, dict[str, int]]] = defaultdict(lambda: defaultdict(dict))
    # Rows of (batch, place, value) are counted in half the time that an aggregate for each place and kind takes.
    for batch_id, place, kind, count in run(
        f"SELECT batch_id, place, {KIND} AS kind, count(*) FROM ("
        f"SELECT batch_id, unnest({values})::VARCHAR AS v, unnest(range({len(steps)})) AS place FROM ({rows}))"
        " WHERE v IS NOT NULL GROUP BY ALL"
    ):
        counts[place][batch_id][kind] = count
    for place, batches in counts.items():
        value = f"value->{_pointer(keys[place])}" if keys is not None else "value"
        inside = f"SELECT batch_id, {value} AS value FROM ({rows})"
        yield from _settled(run, inside, (*path, steps[place]), batches, depth)


def _scan_objects(
    run: Callable[[str], list[Any]], rows: str, path: Path, counts: dict[int, int], depth: int
) -> Iterator[Seen]:
    """Scan objects in batches where all have the same keys: only these can become a STRUCT without loss."""
    regular: dict[int, list[str]] = {}
    in_order = exact("to_json(list_sort(json_keys(value), 'ASC', 'NULLS LAST'))::VARCHAR")
    for batch_id, least, most in run(
        f"SELECT batch_id, min(keys), max(keys) FROM (SELECT batch_id, {in_order} AS keys"
        f" FROM ({rows}) WHERE json_type(value) = 'OBJECT') GROUP BY batch_id"
    ):
        keys = json.loads(least)
        if least == most and makes_struct(keys):
            regular[batch_id] = keys
            yield Seen(batch_id, path, "object", least, counts[batch_id])
        else:
            yield Seen(batch_id, path, "other", None, counts[batch_id])
    if regular:
        inside = f"SELECT * FROM ({rows}) WHERE {in_batches(regular, 'batch_id')}"
        yield from _scan(run, inside, path, sorted(set().union(*regular.values())), depth - 1)


def makes_struct(keys: list[str]) -> bool:
    """Whether these fields can form a STRUCT, whose field names are case-insensitive."""
    return (
        bool(keys) and len({key.casefold() for key in keys}) == len(keys) and not any("\0" in k or not k for k in keys)
    )


def merged(seen: Iterable[Seen]) -> Kinds:
    """Return the sums over several batches or events."""
    kinds: Kinds = defaultdict(lambda: defaultdict(int))
    for _, path, kind, keys, rows in seen:
        if kind not in (REPEATED, NAMED):
            kinds[path][kind, keys] += rows
    return kinds


# --- from kinds to types and columns --------------------------------------------------------------------------------


def type_of(kinds: Kinds, path: Path) -> Type:
    """Return the type that holds every value in a place; ``VARCHAR`` if all are null."""
    found = {(kind, keys) for kind, keys in kinds.get(path, ()) if kind != "null"}
    names = {kind for kind, _ in found}
    nested = len(path) > 1
    if names <= TEXT:
        return "TIMESTAMP" if names == {"timestamp"} and not nested else "VARCHAR"
    if names == {"boolean"}:
        return "BOOLEAN"
    if names <= IN_BIGINT:
        return "BIGINT"
    if names <= IN_HUGEINT and not nested:
        return "HUGEINT"
    if names <= IN_DOUBLE | {"float"}:
        return "DOUBLE"
    inner: Type = "JSON"
    if names == {"list"}:
        element = type_of(kinds, (*path, 0))
        inner = "JSON" if element == "JSON" else [element]
    elif names == {"object"} and len(found) == 1:
        [(_, keys)] = found
        fields = {key: type_of(kinds, (*path, key)) for key in json.loads(keys or "[]")}
        inner = "JSON" if "JSON" in fields.values() else dict(fields)
    return inner


def sql_type(kind: Type) -> str:
    """Return a type as SQL."""
    if isinstance(kind, list):
        return f"{sql_type(kind[0])}[]"
    if isinstance(kind, dict):
        return f"STRUCT({', '.join(f'{quoted(key)} {sql_type(each)}' for key, each in kind.items())})"
    return kind


def columns_of(
    kinds: Kinds,
    since: Mapping[str, int],
    *,
    given: Mapping[str, str] = MappingProxyType({}),
    taken: Sequence[str] = (),
    fixed: Mapping[str, str] = FIXED,
    declared: Mapping[str, str] = MappingProxyType({}),
) -> tuple[Column, ...]:
    """
    Return the columns of an event: the project's own properties first, then Mixpanel's, each in order.

    A property that is one of the five columns of every event has no column besides.

    Args:
        since: the properties, with the first batch that had each.
        given: the columns that properties were given before, which they keep.
        taken: further names that no property can have.
        fixed: the columns that every record has anyhow, by the properties that they were filled from.
        declared: types that were declared for properties.
    """
    own = [name for name in sorted(since) if name in fixed and _is_fixed(kinds, name)]
    rest = [name for name in since if name not in own]
    names = column_names({name: since[name] for name in rest}, given, [*fixed.values(), *taken])
    ordered = sorted(rest, key=lambda name: (name.startswith(("$", "mp_")), name))
    return (
        *(Column(name, fixed[name], "TIMESTAMP" if name == "time" else "VARCHAR", fixed=True) for name in own),
        *(_column(name, names[name], type_of(kinds, (name,)), declared.get(name)) for name in ordered),
    )


def _column(name: str, column: str, kind: Type, declared: str | None) -> Column:
    return Column(name, column, kind if declared is None else declared, declared=declared not in (None, kind))


def column_names(since: Mapping[str, int], given: Mapping[str, str], taken: Sequence[str] = ()) -> dict[str, str]:
    """
    Return the column of each property.

    If names differ only in case, or a name is taken, the one that came first keeps its name: with an earlier batch, and
    of those with the same one, the first in the order of code points. The next one becomes ``name_2``, or has the first
    number that gives a free name.
    """
    names = {name: given[name] for name in since if name in given}
    used = {name.casefold() for name in (BATCH_ID, MISFITS, *taken, *given.values())}
    own: set[str] = set()
    fresh = sorted((batch, name) for name, batch in since.items() if name not in given)
    for _, together in itertools.groupby(fresh, key=lambda each: each[0]):
        some = [name for _, name in together]
        own.update(column_name(name).casefold() for name in some)
        for name in some:
            first, number = column_name(name), 2
            column = first
            while column.casefold() in used or (column != first and column.casefold() in own):
                column, number = f"{first}_{number}", number + 1
            used.add(column.casefold())
            names[name] = column
    return names


def _is_fixed(kinds: Kinds, name: str) -> bool:
    found = {kind for kind, _ in kinds.get((name,), ())} - {"null"}
    return found <= (SECONDS if name == "time" else TEXT)


def column_name(name: str) -> str:
    """Return the column of a property whose name is free: not empty and without NUL."""
    return name.replace("\0", "_") or "_"


def drift_of(kinds: Kinds, column: Column) -> str | None:
    """Return why a column is JSON, or would be, with the number of values of each kind; ``None`` for any other."""
    if type_of(kinds, (column.property,)) != "JSON":
        return None
    sorts = _sorts_of(kinds, column)
    if len(sorts) > 1:
        return ", ".join(f"{sort}: {rows:,}" for sort, rows in sorts.items())
    if drifts(kinds, column):
        return "numbers that no type holds together"
    return "lists or objects that are not all alike"


def drifts(kinds: Kinds, column: Column) -> bool:
    """Whether a column is JSON although its values, or some of them, could be compared in a type of their own."""
    return column.type == "JSON" and any(sort != NESTED for sort in _sorts_of(kinds, column))


def likely_type(kinds: Kinds, column: Column) -> str:
    """Return the type that most values of a column have, or VARCHAR, which holds all."""
    most = next(iter(_sorts_of(kinds, column)), NESTED)
    return {"number": "DOUBLE", "boolean": "BOOLEAN"}.get(most, "VARCHAR")


def _sorts_of(kinds: Kinds, column: Column) -> dict[str, int]:
    """Return the number of values of each sort, the most frequent first."""
    sorts: dict[str, int] = defaultdict(int)
    for (kind, _), rows in kinds.get((column.property,), {}).items():
        if kind != "null":
            sorts[_SORTS.get(kind, NESTED)] += rows
    return dict(sorted(sorts.items(), key=lambda each: (-each[1], each[0])))


NESTED = "list or object"
_SORTS = {"text": "text", "timestamp": "text", "boolean": "boolean", "float": "number"}
_SORTS |= dict.fromkeys((*IN_HUGEINT, "integer"), "number")


# --- the columns as SQL ------------------------------------------------------------------------------------------


def typed_query(
    rows: str, columns: Sequence[Column], *, fixed: Iterable[str] = FIXED.values(), otherwise: str | None = None
) -> str:
    """
    Return the query that turns events into typed columns. A value that does not fit raises; it never becomes null.

    But where a type was declared: what does not fit is null, and ``MISFITS`` has the names of these properties.

    Args:
        rows: a query with the columns of an events table.
        columns: of the event; the five of every event and the batch come first, whatever is in there.
        fixed: the columns of every record, where these are no events.
        otherwise: what the error says where a value does not fit its type, for rows that nobody has looked at yet.
    """
    own = [column for column in columns if not column.fixed]
    # Text is cheaper to cast than JSON, but has lost the difference between "1" and 1.
    texts = [c for c in own if _has_text(c)]
    jsons = [c for c in own if not _has_text(c)]
    parts = [f"batch_id AS {BATCH_ID}", *fixed]
    misfits: dict[str, str] = {}
    for number, column in enumerate(texts, 1):
        text = f"texts[{number}]"
        value = text if column.type == "VARCHAR" else f"CAST({text} AS {column.type})"
        if column.declared:
            value = fitting(text, str(column.type))
            misfits[column.property] = f"{text} IS NOT NULL AND {value} IS NULL"
        elif otherwise is not None:
            value = fitting(text, str(column.type))
            value = f"CASE WHEN {text} IS NULL OR {value} IS NOT NULL THEN {value} ELSE error({literal(otherwise)}) END"
        parts.append(f"{value} AS {quoted(column.name)}")
    for number, column in enumerate(jsons, 1):
        value = f"NULLIF(jsons[{number}], 'null')"
        if column.type != "JSON":
            value = f"from_json_strict({value}, {literal(json.dumps(column.type))})"
        parts.append(f"{value} AS {quoted(column.name)}")
    if misfits:
        parts.append(f"{misfits_of(misfits)} AS {MISFITS}")
    lists = "".join(
        f", properties{arrow}{pointers([c.property for c in some])} AS {name}"
        for arrow, some, name in (("->>", texts, "texts"), ("->", jsons, "jsons"))
        if some
    )
    return f"SELECT {', '.join(parts)} FROM (SELECT *{lists} FROM ({rows}))"


def _has_text(column: Column) -> bool:
    """Whether the text of a value says all of it."""
    return isinstance(column.type, str) and column.type != "JSON"


def converted(column: Column, to: Type, *, empty: bool) -> str:
    """
    Return a column's values in the wider type that they share with those of other events.

    Args:
        empty: whether the column has nulls alone.
    """
    name = quoted(column.name)
    kind = column.type
    if column.fixed and column.name == "time":
        name, kind = "epoch(time)::BIGINT", "BIGINT"
    if kind == to:
        return name
    if empty:
        return f"CAST(NULL AS {sql_type(to)})"
    if kind == "TIMESTAMP":
        name = f"strftime({name}, '{TIMESTAMP_FORMAT}')"
    return f"to_json({name})" if to == "JSON" else f"CAST({name} AS {sql_type(to)})"


def _pointer(name: str) -> str:
    """Return a JSON pointer to a key: https://www.rfc-editor.org/rfc/rfc6901."""
    return literal("/" + name.replace("~", "~0").replace("/", "~1"))


def pointers(names: Sequence[str]) -> str:
    """Return a list of JSON pointers to keys."""
    return "[" + ", ".join(map(_pointer, names)) + "]"
