"""The catalog: the properties of events, the column of each, and what is in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from duckdb import DuckDBPyConnection, DuckDBPyRelation

from mpnb._base.names import EVENTS, event_names
from mpnb._base.relation import relation
from mpnb._base.scalars import check_flags
from mpnb._base.sql import exact, interruptible, quoted, run
from mpnb._reading import rules
from mpnb._reading.events import rows_condition
from mpnb._reading.properties import REPEATED, Column, Seen, drift_of, merged, sql_type
from mpnb._reading.reader import Reader
from mpnb._reading.selection import Selection
from mpnb._reading.typed import Typed, scan_event, typed
from mpnb._storing.database import LEDGER

EXAMPLES = 3
# More at once make a plan that takes longer than the query.
AT_ONCE = 100
# Of these, a least and a greatest value say something.
ORDERED = ("BIGINT", "HUGEINT", "DOUBLE", "VARCHAR", "TIMESTAMP", "BOOLEAN")


def catalog(reader: Reader, events: str | Iterable[str] | None = None, *, materialize: bool = True) -> DuckDBPyRelation:
    """Return one row per property of an event, as ``ExportResult.catalog()`` describes."""
    import pyarrow as pa

    check_flags(materialize=materialize)
    if events is not None:
        names = event_names(events, EVENTS)
    else:
        with interruptible():
            names = [name for name, *_ in rules.event_names(reader).fetchall()]
    rows: list[tuple[Any, ...]] = []
    condition = rows_condition(reader)
    for name in names:
        found = typed(reader, name, materialize=materialize, kinds=True)
        with reader.store.reading() as cursor:
            rows += _rows(cursor, found, condition, _seen_here(cursor, reader.selection, found))
    schema = pa.schema(
        [
            ("event_name", pa.string()),
            ("property", pa.string()),
            ("column_name", pa.string()),
            ("type", pa.string()),
            ("share", pa.float64()),
            ("nulls", pa.int64()),
            ("distinct_values", pa.int64()),
            ("minimum", pa.string()),
            ("maximum", pa.string()),
            ("examples", pa.list_(pa.string())),
            ("drift", pa.string()),
            ("repeated", pa.int64()),
        ]
    )
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    table = pa.table([list(column) for column in columns], schema=schema)
    return relation(reader.store.database, lambda connection: connection.from_arrow(table))


def _seen_here(cursor: DuckDBPyConnection, selection: Selection, found: Typed) -> list[Seen]:
    """Return what occurs in the events of this result alone, which has only some rows of some batches."""
    inside = dict(run(cursor, f"SELECT batch_id, rows FROM {LEDGER} WHERE {selection.inside}"))
    across = dict(run(cursor, f"SELECT batch_id, rows FROM {LEDGER} WHERE {selection.across} AND rows > 0"))
    some, _ = scan_event(cursor, selection.table, found.event, across, rows=selection.in_days)
    # Typed tables of an older mpnb do not know what is repeated.
    known = {each.batch_id for each in found.seen if not each.path}
    unknown = {each.batch_id for each in found.seen} - known
    again = {batch_id: rows for batch_id, rows in inside.items() if batch_id in unknown}
    more, _ = scan_event(cursor, selection.table, found.event, again)
    return [each for each in found.seen if each.batch_id in inside.keys() - again.keys()] + some + more


def _rows(cursor: DuckDBPyConnection, found: Typed, condition: str, seen: list[Seen]) -> list[tuple[Any, ...]]:
    everywhere, here = merged(found.seen), merged(seen)
    repeated = Counter[str]()
    for each in seen:
        if each.kind == REPEATED and each.path:
            repeated[str(each.path[0])] += each.rows
    rows: list[tuple[Any, ...]] = []
    for start in range(0, len(found.columns), AT_ONCE):
        columns = found.columns[start : start + AT_ONCE]
        query = f"SELECT count(*), {', '.join(map(figures_of, columns))} FROM {found.rows} WHERE {condition}"
        [(events, *figures)] = run(cursor, query)
        for column, figure in zip(columns, figures, strict=True):
            kinds = here.get((column.property,), {})
            rows.append(
                (
                    found.event,
                    column.property,
                    column.name,
                    sql_type(column.type),
                    sum(kinds.values()) / events if events else 0.0,
                    kinds.get(("null", None), 0),
                    figure["values"],
                    figure["least"],
                    figure["most"],
                    [example for example in figure["examples"] or [] if example is not None],
                    drift_of(everywhere, column),
                    repeated[column.property],
                )
            )
    return rows


def figures_of(column: Column) -> str:
    """Return the expression for what is known of a column's values: how many differ, least, most, and examples."""
    name = exact(quoted(column.name)) if column.type == "VARCHAR" else quoted(column.name)
    ordered = column.type in ORDERED
    least, most = (f"min({name})::VARCHAR", f"max({name})::VARCHAR") if ordered else ("NULL", "NULL")
    return (
        f"{{'values': approx_count_distinct({name}), 'least': {least}, 'most': {most},"
        f" 'examples': approx_top_k({name}, {EXAMPLES})::VARCHAR[]}}"
    )
