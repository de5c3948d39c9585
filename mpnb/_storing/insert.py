"""From spool files to rows: events go into the table, all other lines, complete, among the rejected ones."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import duckdb
from duckdb import DuckDBPyConnection
from isal import igzip

from mpnb._base.sql import literal, quoted, run
from mpnb._fetching.fetched import Fetched
from mpnb._fetching.framed import Frame, first_line
from mpnb._fetching.verify import BLANK, GZIP_ERROR, BodyError, ended_early
from mpnb._planning.resource import Resource
from mpnb._storing.database import REJECTED

# What the slow way reads into memory at once.
BLOCK_BYTES = 8 << 20
BLOCK_LINES = 20_000
# The longest line that DuckDB takes: above what the verifier lets through.
MAX_OBJECT = 16 << 20
# Files up to this size are joined to one, up to that size together: each by itself would cost DuckDB some milliseconds,
# and larger ones are not worth a copy.
SMALL_BYTES = 4 << 20
JOINED_BYTES = 64 << 20
COPY_BYTES = 1 << 20
# DuckDB 1.5 ends the process where the first line is nested by ten thousands. Mixpanel takes three levels.
MAX_BRACKETS = 5_000

# What DuckDB's own reader leaves out around a line, and at the beginning of a file.
_TRIMMED = """trim(CASE n WHEN 1 THEN ltrim(line, chr(65279)) ELSE line END,
    chr(9) || chr(10) || chr(11) || chr(12) || chr(13) || ' ')"""


# Makes of a query for rows the statement that takes them, and that returns how many they were.
Into = Callable[[str], str]
# Gives a statement the rows of some files, and returns how many they were.
Way = Callable[[DuckDBPyConnection, Into, Resource, Sequence[Fetched]], int]


class NotAllRecords(Exception):
    """A line needs a check of its own, or DuckDB cannot read a file."""


def table_of(name: str) -> Into:
    """Return what makes the statement that inserts rows into a table."""
    return lambda rows: f"INSERT INTO {quoted(name)} {rows}"


def insert_files(cursor: DuckDBPyConnection, into: Into, resource: Resource, files: Sequence[Fetched]) -> None:
    """
    Insert spool files, each line as one row.

    Raises:
        NotAllRecords: a line is no record, or has keys that the table has no column for, or DuckDB cannot read a file.
            Nothing is told of which.
    """
    try:
        if not all(_is_as_verified(file) for file in files):
            raise NotAllRecords
        for way, some in _ways(files):
            rows = way(cursor, into, resource, some)
            # No file gives more rows than it has lines: where the sums are equal, so is each.
            if rows != sum(file.body.lines for file in some):
                raise NotAllRecords
    except (duckdb.InterruptException, duckdb.OutOfMemoryException, duckdb.FatalException):
        raise
    except (duckdb.Error, OSError, EOFError, GZIP_ERROR) as error:
        # It does not say whether the file or the database is at fault. To write line by line tells them apart, since
        # Python reads the file then; so it does where the user's DuckDB must not (enable_external_access).
        raise NotAllRecords from error


def _is_as_verified(file: Fetched) -> bool:
    return file.path.stat().st_size == (file.body.size if file.body.gzip else file.body.json_size)


def _ways(files: Sequence[Fetched]) -> Iterator[tuple[Way, list[Fetched]]]:
    """Divide files into those that are inserted one by one, and those that are joined to one before."""
    small = [file for file in files if not file.body.gzip and file.body.json_size <= SMALL_BYTES]
    if len(small) == 1:
        small = []
    yield from ((_insert_framed if file.body.framed else _insert_file, [file]) for file in files if file not in small)
    joined: list[Fetched] = []
    size = 0
    for file in small:
        if joined and size + file.body.json_size > JOINED_BYTES:
            yield _insert_joined, joined
            joined, size = [], 0
        joined.append(file)
        size += file.body.json_size
    if joined:
        yield _insert_joined, joined


def _insert_file(cursor: DuckDBPyConnection, into: Into, resource: Resource, files: Sequence[Fetched]) -> int:
    """Insert one file. Several in one statement would take no less CPU, and a third more memory."""
    [file] = files
    with _opened(file) as text:
        first = text.readline()
    if len(first) > MAX_BRACKETS and first.count(b"[") + first.count(b"{") > MAX_BRACKETS:
        raise NotAllRecords
    compression = "gzip" if file.body.gzip else "uncompressed"
    values = {"path": str(file.path), "compression": compression, "batch_id": file.task.batch_id}
    head, body = resource.keys
    # DuckDB takes the names of the columns from the first line, and raises where another line has a key besides, or a
    # key twice. Where the first line has one more, the union has not as many columns on both sides, and DuckDB raises,
    # too; and so it does where the first line has "Event" for "event", which other queries would take for the same.
    # With `columns` in place of `auto_detect` it would leave such keys out without a word, as DuckDB 2 does in all
    # files of a list but the first; read_ndjson_objects, which keeps them, parses each line once more to take it apart,
    # and takes 1.2 times the CPU; a column of type MAP, which keeps them too, 1.13 times.
    lines = f"""SELECT *, $batch_id AS batch_id FROM (
        SELECT {_column(head)} AS head, {_column(body)} AS body, * EXCLUDE ({quoted(head)}, {quoted(body)})
        FROM {_read(depth=1)} UNION ALL SELECT NULL::JSON, NULL::JSON WHERE false)"""
    [(rows,)] = run(cursor, into(_rows(resource, lines)), values)
    return int(rows)


def _read(*, depth: int) -> str:
    """Return the call that reads a file, whose path and compression are parameters."""
    return f"""read_json($path, format = 'newline_delimited', records = true, compression = $compression,
        auto_detect = true, sample_size = 1, maximum_object_size = {MAX_OBJECT}, maximum_depth = {depth})"""


def _column(name: str) -> str:
    """Return a column by its exact, case-sensitive name."""
    return f"COLUMNS({literal(f'^{re.escape(name)}$')})"


def _insert_joined(cursor: DuckDBPyConnection, into: Into, resource: Resource, files: Sequence[Fetched]) -> int:
    """Insert plain files together."""
    path = files[0].path.with_name("joined")
    try:
        # With the usual small buffer: what is larger than one is not copied there.
        with open(path, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as joined:
            joined.write(first_line(resource.keys))
            for file in files:
                with file.path.open("rb", 0) as plain:
                    if file.body.framed:
                        shutil.copyfileobj(plain, joined, COPY_BYTES)
                    else:
                        _frame(plain, joined, Frame(file.task.batch_id))
        return _insert_lines_of(path, cursor, into, resource)
    finally:
        path.unlink(missing_ok=True)


def _frame(plain: BinaryIO, joined: BinaryIO, frame: Frame) -> None:
    """Copy lines, each with the id of its batch."""
    joined.write(frame.before)
    last = b""
    while block := plain.read(COPY_BYTES):
        joined.write(last.replace(b"\n", frame.between))
        last = block
    joined.write(last.removesuffix(b"\n").replace(b"\n", frame.between))
    joined.write(frame.after)


def _insert_framed(cursor: DuckDBPyConnection, into: Into, resource: Resource, files: Sequence[Fetched]) -> int:
    """Insert one file that is framed."""
    [file] = files
    return _insert_lines_of(file.path, cursor, into, resource)


def _insert_lines_of(path: Path, cursor: DuckDBPyConnection, into: Into, resource: Resource) -> int:
    """Insert the lines of a framed file, each of which has the id of its batch."""
    head, body = resource.keys
    lines = f"""SELECT line.{quoted(head)} AS head, line.{quoted(body)} AS body, batch_id::BIGINT AS batch_id
        FROM {_read(depth=2)}"""
    values = {"path": str(path), "compression": "uncompressed"}
    [(rows,)] = run(cursor, into(_rows(resource, lines)), values)
    return int(rows)


def insert_lines(
    cursor: DuckDBPyConnection,
    into: Into,
    table: str,
    resource: Resource,
    batch_id: int,
    lines: Sequence[tuple[int, bytes]],
) -> tuple[int, int]:
    """
    Insert the lines of one batch that are records, and keep every other line, complete, among the rejected ones.

    Args:
        table: its name in the ledger.
        lines: with their numbers in the batch, from 1.

    Returns:
        How many are in the table, and how many are not.
    """
    texts: list[tuple[int, str]] = []
    broken: list[tuple[int, bytes]] = []
    for number, line in lines:
        try:
            texts.append((number, line.decode()))
        except UnicodeDecodeError:
            broken.append((number, line))
    # As values, not by the name of a variable: a table of that name would be read in its place.
    mine = {"batch_id": batch_id, "numbers": [n for n, _ in texts], "lines": [text for _, text in texts]}
    head, body = resource.keys
    paths = ", ".join(literal(f'$."{key}"') for key in resource.keys)
    parsed = f"""(SELECT *, k[1] AS head, k[2] AS body
                 FROM (SELECT *, json->[{paths}] AS k
                       FROM (SELECT *, TRY_CAST({_TRIMMED} AS JSON) AS json FROM (
                           SELECT unnest($numbers::BIGINT[]) AS n, unnest($lines::VARCHAR[]) AS line))))"""
    source = f"SELECT head, body, $batch_id AS batch_id FROM {parsed}"
    [(rows,)] = run(cursor, into(_rows(resource, source)), mine)
    [(kept,)] = run(
        cursor,
        f"""INSERT INTO {REJECTED}
        SELECT $table, $batch_id, n, CASE
            WHEN json IS NULL THEN 'no valid JSON'
            WHEN json_type(json) <> 'OBJECT' THEN 'no JSON object'
            WHEN NOT is_record AND NOT coalesce(starts_with(head, '"'), false)
                THEN {literal(f"{head} is missing or no text")}
            WHEN NOT is_record THEN {literal(f"{body} is missing or no object")}
            ELSE {literal(f"keys besides {head} and {body}")} END, encode(line), is_record
        FROM (SELECT *, coalesce({resource.is_record}, false) AS is_record FROM {parsed})
        WHERE NOT is_record OR len(json_keys(json)) <> 2""",
        {**mine, "table": table},
    )
    run(
        cursor,
        f"INSERT INTO {REJECTED} SELECT $table, $batch_id, unnest($numbers::BIGINT[]), 'no valid UTF-8',"
        " unnest($lines::BLOB[]), false",
        {
            "table": table,
            "batch_id": batch_id,
            "numbers": [n for n, _ in broken],
            "lines": [line for _, line in broken],
        },
    )
    rejected = len(lines) - rows
    if kept + len(broken) < rejected:
        raise duckdb.InternalError("a line is neither in the table nor among the rejected")
    return rows, rejected


def blocks(file: Fetched) -> Iterator[list[tuple[int, bytes]]]:
    """
    Read a spool file as blocks of numbered lines, without line ends and blank lines.

    Raises:
        BodyError: the file is not what was verified (kind ``"decode"``), is gone (kind ``"write"``), or one of its
            lines ended the export early (kind ``"truncated"``).
    """
    block: list[tuple[int, bytes]] = []
    lines = size = held = 0
    try:
        with _opened(file) as raw_lines:
            frame = Frame(file.task.batch_id) if file.body.framed else None
            size += len(raw_lines.readline()) if frame else 0
            for raw in raw_lines:
                size += len(raw)
                line = (frame.bare(raw) if frame else raw).rstrip(b"\n")
                is_blank = not line.strip(BLANK)
                lines += not is_blank or raw.endswith(b"\n")  # as the verifier counts
                if is_blank:
                    continue
                if why := ended_early(line):
                    raise BodyError("truncated", f"line {lines:,}: {why}")
                block.append((lines, line))
                held += len(line)
                if held >= BLOCK_BYTES or len(block) >= BLOCK_LINES:
                    yield block
                    block, held = [], 0
    except FileNotFoundError as error:  # somebody has deleted it: nothing is damaged
        raise BodyError("write", f"its spool file is gone: {error}") from None
    except (OSError, EOFError, GZIP_ERROR) as error:
        raise BodyError("decode", f"its spool file cannot be read any more: {error}") from None
    if (size, lines) != (file.body.json_size, file.body.lines):
        raise BodyError(
            "decode",
            f"its spool file has {lines:,} lines of {size:,} bytes, and had {file.body.lines:,} of"
            f" {file.body.json_size:,} when it was verified",
        )
    if block:
        yield block


def _opened(file: Fetched) -> Any:
    # By what verified it: DuckDB refuses gzip headers that are rare and right.
    if file.body.gzip:
        return igzip.IGzipFile(file.path, "rb")  # type: ignore[no-untyped-call]
    return file.path.open("rb")


def _rows(resource: Resource, lines: str) -> str:
    """Return the rows of those lines that are records, from a query for ``head``, ``body`` and ``batch_id``."""
    return resource.rows(f"SELECT * FROM ({lines}) WHERE {resource.is_record}")
