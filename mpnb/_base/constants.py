"""Relations of rows that this package has computed, which are in no table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from duckdb import DuckDBPyRelation

from mpnb._base.relation import Database, relation
from mpnb._base.sql import literal, quoted


def constants(database: Database, columns: Mapping[str, str], rows: Iterable[Sequence[object]]) -> DuckDBPyRelation:
    """
    Return a relation of some rows, in their order.

    Args:
        columns: types by name, as DuckDB writes them.
        rows: one value per column: text, numbers, days, lists and dictionaries of these, or ``None``.
    """
    # As JSON: it is the one form for lists and maps that needs no library besides DuckDB.
    names = list(columns)
    text = json.dumps([dict(zip(names, row, strict=True)) for row in rows], default=str)
    kinds = json.dumps([columns])
    shown = ", ".join(quoted(name) for name in names)
    query = f"SELECT {shown} FROM (SELECT unnest(from_json({literal(text)}, {literal(kinds)}), max_depth := 2))"
    return relation(database, lambda connection: connection.sql(query))
