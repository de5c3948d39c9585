"""Events as pandas and polars frames, Arrow tables and Parquet files, of types that hold them."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
from duckdb import DuckDBPyConnection, DuckDBPyRelation

from mpnb._base.optional import need
from mpnb._base.paths import local_path, shown
from mpnb._base.scalars import brief, check_flags, listed
from mpnb._base.sql import exact, literal, quoted, run
from mpnb._base.text import printable, safe_text
from mpnb._errors import PlanError
from mpnb._reading.events import event_query
from mpnb._reading.reader import Reader
from mpnb._reading.rules import deduplicated_query

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow

# What neither Arrow nor Parquet have, by what holds it there: DuckDB itself would make HUGEINT a DOUBLE.
STAND_INS = {"HUGEINT": "DECIMAL(38, 0)", "JSON": "VARCHAR"}


@dataclass(frozen=True, slots=True)
class Options:
    """The options of ``event()``, shared by all functions that read typed events."""

    columns: Iterable[str] | None = None
    deduplicated: bool = False
    materialize: bool = True


NO_OPTIONS = Options()


@dataclass(frozen=True, slots=True)
class Query:
    """SQL in place of events, of all their columns."""

    sql: str


Events = str | Iterable[str] | DuckDBPyRelation | Query | None


def arrow(reader: Reader, events: Events = None, options: Options = NO_OPTIONS) -> pyarrow.Table:
    """Return events as an Arrow table, as ``ExportResult.arrow()`` describes."""
    need("pyarrow", "arrow()")
    table: pyarrow.Table = _arrow(_relation(reader, events, options))
    return table


def df(reader: Reader, events: Events = None, options: Options = NO_OPTIONS) -> pandas.DataFrame:
    """Return events as a pandas DataFrame, as ``ExportResult.df()`` describes."""
    need("pandas", "df()")
    need("pyarrow", "df()")
    import pandas

    relation = _relation(reader, events, options)
    huge = _huge(relation)
    table = _arrow(relation)
    series = {name: _series(table.column(name), name in huge) for name in table.column_names}
    return pandas.DataFrame(series, columns=table.column_names)


def pl(reader: Reader, events: Events = None, options: Options = NO_OPTIONS) -> polars.DataFrame:
    """Return events as a polars DataFrame, as ``ExportResult.pl()`` describes."""
    need("polars", "pl()")
    need("pyarrow", "pl()")
    import polars

    relation = _relation(reader, events, options)
    huge = _huge(relation)
    frame = polars.DataFrame(_arrow(relation))
    return frame.with_columns(polars.col(name).cast(polars.Int128) for name in huge)


def to_parquet(
    reader: Reader,
    folder: str | os.PathLike[str],
    events: Events = None,
    *,
    partition_by: str | Sequence[str] | None = None,
    options: Options = NO_OPTIONS,
) -> Path:
    """Write events as Parquet files, as ``ExportResult.to_parquet()`` describes."""
    path = local_path(folder, "folder", "pass one on this machine, and copy the files from there")
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise PlanError(f"{shown(path)} exists and is not empty: pass another folder", argument="folder")
    query = _query(reader, events, options)
    given = [] if partition_by is None else partition_by
    parts = [given] if isinstance(given, str) else listed("partition_by", given)
    with reader.needing_table(), reader.store.reading() as cursor:
        relation = cursor.sql(query)
        if unknown := [name for name in parts if name not in relation.columns]:
            there = printable(", ".join(relation.columns))
            why = f"there is no column {brief(unknown[0])} to partition by, but {there}"
            raise PlanError(why, argument="partition_by")
        query = f"SELECT {_stand_ins(relation)} FROM ({query})"
        by = ", ".join(map(quoted, parts))
        how = f", PARTITION_BY ({by}), WRITE_PARTITION_COLUMNS, HIVE_FILE_PATTERN false" if parts else ""
        with _private(path) as within:
            target = within if parts else within / "events.parquet"
            # Whole, since DuckDB has a home folder and a search path of its own.
            _may_write(cursor, f"COPY ({query}) TO {literal(str(target.absolute()))[1:-1]} (FORMAT parquet{how})")
    return path


def _may_write(cursor: DuckDBPyConnection, query: str) -> None:
    try:
        run(cursor, query)
    except duckdb.PermissionException as error:
        why = safe_text(str(error))
        raise PlanError(f"this DuckDB may not write files; use arrow() and pyarrow instead: {why}") from None


@contextlib.contextmanager
def _private(folder: Path) -> Iterator[Path]:
    """
    Lend a temporary folder within this one, and move its files into this one at the end.

    DuckDB makes files that all can read whom the umask lets: nobody else enters the folder in which it makes these, and
    they leave it as their owner's alone. What fails midway leaves none.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".mpnb-", dir=folder) as within:
        yield Path(within)
        for file in Path(within).iterdir():
            file.chmod(0o600)
            file.replace(folder / file.name)


def _relation(reader: Reader, events: Events, options: Options) -> DuckDBPyRelation:
    check_flags(deduplicated=options.deduplicated, materialize=options.materialize)
    if isinstance(events, DuckDBPyRelation):
        if options.columns is not None or options.deduplicated or not options.materialize:
            raise TypeError("columns, deduplicated and materialize are for events by name, or for all")
        return events
    # Frames do not take all forms of Arrow that DuckDB can be set to.
    return reader.relation(_query(reader, events, options), reader.store.own_database)


def _query(reader: Reader, events: Events, options: Options) -> str:
    """Return the query for typed events, or for all events as exported; a choice of their columns is typed too."""
    if isinstance(events, Query):
        return events.sql
    assert not isinstance(events, DuckDBPyRelation)
    given: dict[str, Any] = {
        "columns": options.columns,
        "deduplicated": options.deduplicated,
        "materialize": options.materialize,
    }
    if events is not None:
        return event_query(reader, events, **given)
    if options.columns is None:
        return deduplicated_query(reader) if options.deduplicated else reader.selection.events
    name = exact("event_name")
    with reader.needing_table(), reader.store.reading() as cursor:
        names = run(cursor, f"SELECT DISTINCT {name} FROM ({reader.selection.events}) ORDER BY 1 ASC")
    return event_query(reader, [name for (name,) in names], **given)


def _huge(relation: DuckDBPyRelation) -> list[str]:
    return [name for name, kind in zip(relation.columns, relation.types, strict=True) if str(kind) == "HUGEINT"]


def _stand_ins(relation: DuckDBPyRelation) -> str:
    parts = []
    for name, kind in zip(relation.columns, relation.types, strict=True):
        other = STAND_INS.get(str(kind))
        parts.append(f"CAST({quoted(name)} AS {other}) AS {quoted(name)}" if other else quoted(name))
    return ", ".join(parts)


def _arrow(relation: DuckDBPyRelation) -> Any:
    return relation.project(_stand_ins(relation)).to_arrow_table()


def _series(column: Any, huge: bool) -> Any:
    """Convert an Arrow column to what a pandas DataFrame takes, without a detour through floats."""
    import pandas
    import pyarrow

    if huge:
        try:
            column = column.cast(pyarrow.int64())
        except pyarrow.ArrowInvalid:
            return pandas.Series([None if v is None else int(v) for v in column.to_pylist()], dtype=object)
    if pyarrow.types.is_nested(column.type):
        return pandas.Series(column.to_pylist(), dtype=object)
    if column.null_count and (pyarrow.types.is_integer(column.type) or pyarrow.types.is_boolean(column.type)):
        # pandas names them by capital letters: int64 cannot be null, Int64 can.
        name = str(column.type).replace("uint", "UInt").replace("int", "Int").replace("bool", "boolean")
        return pandas.Series(pandas.array(column.to_pylist(), dtype=name))
    return column.to_pandas()
