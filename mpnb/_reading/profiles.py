"""The profiles of a table: as served, with typed columns, what is in them, and whether all are there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import date
from typing import Any

from duckdb import DuckDBPyConnection, DuckDBPyRelation

from mpnb._base.constants import constants
from mpnb._base.names import closest
from mpnb._base.relation import Database
from mpnb._base.scalars import brief, listed
from mpnb._base.sql import columns_of, exact, quoted, run
from mpnb._errors import PlanError, TableError
from mpnb._planning.dates import parse_date
from mpnb._reading import properties
from mpnb._reading.catalog import COLUMNS as CATALOG
from mpnb._reading.catalog import EXAMPLES, ORDERED
from mpnb._reading.check import Finding
from mpnb._reading.properties import Column, Kinds, drift_of, merged, names_query, scan, sql_type, typed_query
from mpnb._reading.reader import Reader
from mpnb._storing import versions
from mpnb._storing.database import LEDGER, PAGES, REJECTED
from mpnb._storing.ledger import HELD, UNMET, ended_exports, of_table
from mpnb._storing.snapshot import published, staging

ID = "distinct_id"
# More at once make a plan that takes longer than the query.
AT_ONCE = 100
# Of the catalog of events, those that profiles have: neither several events nor days.
COLUMNS = {name: CATALOG[name] for name in list(CATALOG)[1:11]}


def failures_query(cursor: DuckDBPyConnection, table: str) -> str:
    """Return the query for the pages of a table that failed or were cancelled, in order."""
    mine = f"{of_table(staging(table))} AND (l.status IN {UNMET}"
    if ended := ended_exports(cursor, staging(table)):
        names = ", ".join(f"'{each}'" for each in ended)
        mine += f" OR l.status NOT IN {HELD} AND l.export_id IN ({names})"
    return (
        "SELECT coalesce(p.page, 0) AS page, l.status, l.kind, l.http_status, l.message, l.attempts, l.retryable,"
        f" l.hint, l.started_at, l.finished_at, l.batch_id FROM {LEDGER} AS l LEFT JOIN {PAGES} AS p USING (batch_id)"
        f" WHERE {mine}) ORDER BY page ASC, batch_id ASC"
    )


def pages_query(table: str) -> str:
    """Return the query for the pages of the snapshot that a table has, in order; the first stands twice."""
    return (
        "SELECT p.page, p.is_again, l.rows, l.rejected, l.bytes, l.attempts, l.started_at, l.finished_at, l.batch_id"
        f" FROM {LEDGER} AS l JOIN {PAGES} AS p USING (batch_id) WHERE {of_table(table)}"
        " ORDER BY p.is_again ASC, p.page ASC"
    )


def rejected_query(table: str) -> str:
    """Return the query for what Mixpanel served as profiles and is none, whole."""
    return (
        f"SELECT p.page, r.line_number, r.reason, r.line, r.batch_id FROM {REJECTED} AS r JOIN {PAGES} AS p"
        f" USING (batch_id) WHERE {of_table(table)} AND NOT r.in_events"
        " ORDER BY p.page ASC, r.line_number ASC NULLS LAST"
    )


def as_of_query(cursor: DuckDBPyConnection, table: str, day: date | str) -> str:
    """Return the query for profiles as they were at the end of a day, as ``ProfilesResult.as_of()`` describes."""
    asked = parse_date(day, name="day")
    if not versions.exists(cursor, table):
        raise TableError(f"table {table!r} has no history: export_profiles(history=True) begins one")
    history = quoted(versions.history_of(table))
    [(first,)] = run(cursor, f"SELECT min(valid_from) FROM {history}")
    if first is None or first.date() > asked:
        since = "is empty" if first is None else f"begins on {first:%Y-%m-%d}: pass that day, or a later one"
        raise PlanError(f"the history of table {table!r} {since}", argument="day")
    then = f"(TIMESTAMP '{asked}' + INTERVAL 1 DAY)"
    return (
        f"SELECT * FROM {history} WHERE valid_from < {then} AND (valid_to IS NULL OR valid_to >= {then})"
        f" ORDER BY {exact('distinct_id')} ASC"
    )


def history_line(cursor: DuckDBPyConnection, table: str) -> str:
    """Return what a display says of a table's history, ``""`` if there is none."""
    if not versions.exists(cursor, table):
        return ""
    history = versions.history_of(table)
    [(rows, first)] = run(cursor, f"SELECT count(*), min(valid_from) FROM {quoted(history)}")
    since = f" since {first:%Y-%m-%d}" if first else ""
    return f"{rows:,} versions{since} in table {history!r}; deletions in Mixpanel do not reach it"


def _rows(reader: Reader) -> str:
    # All in one batch: what differs by page says nothing.
    return f"SELECT 0::BIGINT AS batch_id, distinct_id, properties FROM {quoted(reader.table)}"


def _scanned(cursor: DuckDBPyConnection, reader: Reader) -> tuple[tuple[Column, ...], Kinds]:
    """Return the columns of all properties, and the kinds of their values."""
    query: Callable[[str], list[Any]] = lambda text: run(cursor, text)  # noqa: E731
    names = sorted(name for _, name, _ in run(cursor, names_query(f"({_rows(reader)})")))
    kinds = merged(scan(query, _rows(reader), names))
    return properties.columns_of(kinds, dict.fromkeys(names, 0), fixed={}, taken=[ID]), kinds


def typed_relation(
    reader: Reader, columns: Iterable[str] | None = None, database: Database | None = None
) -> DuckDBPyRelation:
    """
    Return profiles with a typed column for each property, as ``ProfilesResult.typed()`` describes.

    Args:
        database: where the relation runs; by default on connections with the user's settings.
    """
    asked = None if columns is None else listed("columns", columns)
    with reader.needing_table(), reader.store.reading() as cursor:
        there, _ = _scanned(cursor, reader)
    wanted = list(there)
    if asked is not None:
        by_name = {c.name: c for c in there} | {c.property: c for c in there}
        if unknown := [name for name in asked if name not in by_name and name != ID]:
            why = f"there is no property {brief(unknown[0])}{closest(unknown[0], list(by_name))}"
            raise PlanError(why, argument="columns")
        wanted = [by_name[name] for name in dict.fromkeys(asked) if name in by_name]
    query = typed_query(_rows(reader), wanted, fixed=[ID])
    names = ", ".join([ID, *(quoted(column.name) for column in wanted)])
    return reader.relation(f"SELECT {names} FROM ({query})", database)


def people_query(
    cursor: DuckDBPyConnection, tables: Sequence[str], names: Sequence[str], taken: Iterable[str] = ()
) -> tuple[str, list[str]]:
    """
    Return the query for some properties of the people in tables of profiles, one row each, and the names of its columns
    after ``distinct_id``.

    Args:
        tables: who is in several is as the first of them says.
        taken: names that no column can have.

    Raises:
        PlanError: nobody has a property.
    """
    parts = [f"SELECT {n} AS place, distinct_id, properties FROM {quoted(name)}" for n, name in enumerate(tables)]
    one = f" QUALIFY row_number() OVER (PARTITION BY {exact(ID)} ORDER BY place ASC) = 1" if len(parts) > 1 else ""
    rows = f"SELECT 0::BIGINT AS batch_id, distinct_id, properties FROM ({' UNION ALL '.join(parts)}){one}"
    kinds = merged(scan(lambda text: run(cursor, text), rows, list(names)))
    for name in names:
        if (name,) not in kinds:
            there = [key for _, key, _ in run(cursor, names_query(f"({rows})"))]
            why = f"no profile in {', '.join(map(repr, tables))} has a property {brief(name)}{closest(name, there)}"
            raise PlanError(why, argument="properties")
    found = {c.property: c for c in properties.columns_of(kinds, dict.fromkeys(names, 0), fixed={}, taken=[ID, *taken])}
    columns = [found[name] for name in names]
    return typed_query(rows, columns, fixed=[ID]), [column.name for column in columns]


def catalog(reader: Reader) -> DuckDBPyRelation:
    """Return one row per property, as ``ProfilesResult.catalog()`` describes."""
    rows: list[tuple[Any, ...]] = []
    with reader.needing_table(), reader.store.reading() as cursor:
        columns, kinds = _scanned(cursor, reader)
        for start in range(0, len(columns), AT_ONCE):
            some = columns[start : start + AT_ONCE]
            typed = typed_query(_rows(reader), some, fixed=[ID])
            [(profiles, *figures)] = run(cursor, f"SELECT count(*), {', '.join(map(_figures, some))} FROM ({typed})")
            rows += [_row(column, figure, kinds, profiles) for column, figure in zip(some, figures, strict=True)]
    return constants(reader.store.database, COLUMNS, rows)


def _figures(column: Column) -> str:
    """Return the expression for what is known of a column's values: how many differ, least, most, and examples."""
    name = exact(quoted(column.name)) if column.type == "VARCHAR" else quoted(column.name)
    ordered = column.type in ORDERED
    least, most = (f"min({name})::VARCHAR", f"max({name})::VARCHAR") if ordered else ("NULL", "NULL")
    return (
        f"{{'values': approx_count_distinct({name}), 'least': {least}, 'most': {most},"
        f" 'examples': approx_top_k({name}, {EXAMPLES})::VARCHAR[]}}"
    )


def _row(column: Column, figure: dict[str, Any], kinds: Kinds, profiles: int) -> tuple[Any, ...]:
    found = kinds.get((column.property,), {})
    return (
        column.property,
        column.name,
        sql_type(column.type),
        sum(found.values()) / profiles if profiles else 0.0,
        found.get(("null", None), 0),
        figure["values"],
        figure["least"],
        figure["most"],
        [example for example in figure["examples"] or [] if example is not None],
        drift_of(kinds, column),
    )


def findings(cursor: DuckDBPyConnection, table: str) -> tuple[Finding, ...]:
    """Compare a table with its ledger, and with what Mixpanel said of the snapshot."""
    snapshot = published(cursor, table)
    there = columns_of(cursor, table) is not None
    if snapshot is None:
        detail = f"table {table!r} has no snapshot: export_profiles() fetches one"
        return (Finding("snapshot", "problem", 1, detail),)
    name = quoted(table)
    rows, ids = run(cursor, f"SELECT count(*), count(DISTINCT {ID}) FROM {name}")[0] if there else (0, 0)
    mine = of_table(table)
    [(rejected,)] = run(cursor, f"SELECT count(*) FROM {REJECTED} WHERE {mine} AND NOT in_events")
    counts = f"SELECT batch_id, count(*) AS rows FROM {name} GROUP BY batch_id" if there else "SELECT 0, 0"
    [(differing,)] = run(
        cursor,
        f"SELECT count(*) FROM (SELECT batch_id, rows FROM {LEDGER} WHERE {mine}) AS l"
        f" FULL JOIN ({counts}) AS t(batch_id, rows) USING (batch_id) WHERE coalesce(l.rows, 0) <> coalesce(t.rows, 0)",
    )
    missing = snapshot.session.total - rows - rejected
    again = "run the same call with mode='refresh'"
    lacking = f"{rows:,} profiles and {rejected:,} rejected, Mixpanel had {snapshot.session.total:,}: {again}"
    return (
        Finding("snapshot", "ok", 0, f"of {snapshot.requested_at:%Y-%m-%d %H:%M:%S} UTC"),
        _finding("profiles", abs(missing), "problem", lacking),
        _finding("duplicates", rows - ids, "problem", f"profiles whose distinct_id another has: {again}"),
        _finding("rejected lines", rejected, "note", "profiles that are not in the table: rejected says why"),
        _finding("ledger against table", differing, "problem", f"pages that differ: {again}"),
    )


def _finding(name: str, count: int, status: str, detail: str) -> Finding:
    return Finding(name, status, count, detail) if count else Finding(name, "ok", 0, "")
