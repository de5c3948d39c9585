"""``mpnb check``, ``mpnb status`` and ``mpnb sql``: what is there, for people and for other programs."""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

import duckdb
from duckdb import DuckDBPyConnection

from mpnb import _api as api
from mpnb._base.interrupt import interruptible
from mpnb._base.paths import local_path, shown
from mpnb._base.relation import only_reads, relation
from mpnb._base.sql import literal, run
from mpnb._base.text import safe_text
from mpnb._errors import PlanError
from mpnb._planning.dates import parse_range
from mpnb._planning.options import DATABASE, LATE_DAYS

FORMATS = ("table", "csv", "json", "parquet")
ROWS_AT_ONCE = 10_000

CHECK_EXAMPLES = """\
examples:
  mpnb check                        # all days that the table was ever asked for
  mpnb check last 30 days
  mpnb check 2026-01-01 yesterday --table funnel --json

Days that are provisional, and duplicates, are notes. Exit status: 0 every day
is held and nothing is wrong, 1 not so, 2 wrong arguments or no such database
or table, 75 another process has it open, 130 interrupted, 143 terminated."""

STATUS_EXAMPLES = """\
examples:
  mpnb status
  mpnb status --database analysis.duckdb --json

The quota is that of MP_PROJECT_ID, if the environment has credentials, as far
as this machine knows. Exit status: 0, 2 no such database, 75 another process
has it open."""

SQL_EXAMPLES = """\
examples:
  mpnb sql "SELECT event_name, count(*) FROM events GROUP BY ALL"
  mpnb sql "FROM mpnb_batches" --format csv > batches.csv
  mpnb sql "FROM events WHERE event_name = 'Sign Up'" --format parquet --output signups.parquet
  echo "FROM events LIMIT 3" | mpnb sql -

It only reads. Exit status: 0, 2 invalid SQL or no such database, 75 another
process has it open, 130 interrupted, 143 terminated."""


def add_check(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``mpnb check``."""
    parser.add_argument(
        "days",
        nargs="*",
        metavar="FROM TO",
        help="first and last day that must be there, as for mpnb export, or: last N days (default: every day from the"
        " first to the last that an export asked for)",
    )
    _add_database(parser)
    parser.add_argument("--table", metavar="NAME", help="one table, of events or profiles (default: all of events)")
    parser.add_argument(
        "--late-days",
        type=int,
        default=LATE_DAYS,
        metavar="N",
        help=f"for how many days after a day its events may still arrive (default: {LATE_DAYS})",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def check(options: argparse.Namespace) -> int:
    """Run ``mpnb check``, and return its exit status."""
    first, last = parse_range(options.days) if options.days else (None, None)
    found = api.check(first, last, database=options.database, table=options.table, late_days=options.late_days)
    if options.json:
        findings = [asdict(finding) for finding in found.findings]
        print(json.dumps({"ok": found.ok, "findings": findings}, ensure_ascii=False))
    else:
        print(found)
    return 0 if found.ok else 1


def add_status(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``mpnb status``."""
    _add_database(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def status(options: argparse.Namespace) -> int:
    """Run ``mpnb status``, and return its exit status."""
    found = api.status(options.database)
    print(json.dumps(asdict(found), default=_plain, ensure_ascii=False) if options.json else found)
    return 0


def add_sql(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``mpnb sql``."""
    parser.add_argument("query", metavar="SQL", help="one query, or - to read it from standard input")
    _add_database(parser)
    parser.add_argument(
        "--format", choices=FORMATS, default="table", help="table shows the first and last rows (default: table)"
    )
    parser.add_argument("--output", metavar="FILE", help="a new file to write into (default: standard output)")


def sql(options: argparse.Namespace) -> int:
    """
    Run ``mpnb sql``, and return its exit status.

    Raises:
        PlanError: the SQL is invalid, does more than read, or the file is there already.
    """
    query = (sys.stdin.read() if options.query == "-" and sys.stdin is not None else options.query).strip().rstrip(";")
    path = _new_file(options)
    with api.up_to_date(options.database) as store:
        connection = store.user_cursor()
        try:
            if not only_reads(connection, query):
                raise PlanError("it only reads, and this is not one query that does: change tables with DuckDB itself")
            if options.format == "table":
                text = repr(relation(store.database, lambda connection: connection.sql(query)))
                _print(text.rstrip() + "\n", path)
            elif options.format == "parquet":
                run(connection, f"COPY ({query}) TO {literal(str(path))[1:-1]} (FORMAT parquet)")
            else:
                with _opened(path) as file:
                    WRITERS[options.format](connection, query, file)
        except duckdb.Error as error:
            raise PlanError(safe_text(str(error).strip())) from None
    return 0


def _new_file(options: argparse.Namespace) -> Path | None:
    if options.output is None:
        if options.format == "parquet":
            raise PlanError("parquet is no text: pass --output FILE")
        return None
    path = local_path(options.output, "--output", "pass a file on this machine").absolute()
    if path.exists():
        raise PlanError(f"{shown(path)} exists: pass another --output")
    if not path.parent.is_dir():
        raise PlanError(f"there is no folder {shown(path.parent)}: create it first")
    return path


@contextlib.contextmanager
def _opened(path: Path | None) -> Iterator[TextIO]:
    """Lend standard output, or a new file, which is deleted again if it is not written to its end."""
    if path is None:
        yield sys.stdout
        return
    try:
        with path.open("x", encoding="utf-8", newline="") as file:
            yield file
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _print(text: str, path: Path | None) -> None:
    with _opened(path) as file:
        file.write(text)


def _rows(connection: DuckDBPyConnection, query: str) -> Iterator[list[tuple[Any, ...]]]:
    """Yield the names of the columns, and then the rows, some at a time."""
    interruptible(connection, lambda: connection.execute(query))
    yield [tuple(name for name, *_ in connection.description or ())]
    while rows := interruptible(connection, lambda: connection.fetchmany(ROWS_AT_ONCE)):
        yield rows


def _write_csv(connection: DuckDBPyConnection, query: str, file: TextIO) -> None:
    writer = csv.writer(file, lineterminator="\n")
    for rows in _rows(connection, query):
        writer.writerows(rows)


def _write_json(connection: DuckDBPyConnection, query: str, file: TextIO) -> None:
    """Write an array with one object a row, each on a line of its own."""
    blocks = _rows(connection, query)
    [names] = next(blocks)
    between = "["
    for rows in blocks:
        for row in rows:
            file.write(between + json.dumps(dict(zip(names, row, strict=True)), default=_plain, ensure_ascii=False))
            between = ",\n "
    file.write(("[" if between == "[" else "") + "]\n")


WRITERS: dict[str, Callable[[DuckDBPyConnection, str, TextIO], None]] = {"csv": _write_csv, "json": _write_json}


def _plain(value: object) -> object:
    """Return what JSON has no type for as DuckDB writes it."""
    if isinstance(value, datetime):
        return value.isoformat(sep=" ")
    if isinstance(value, bytes):
        return value.hex()
    return str(value)


def _add_database(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--database", metavar="FILE", default=DATABASE, help=f"the DuckDB file (default: {DATABASE})")
