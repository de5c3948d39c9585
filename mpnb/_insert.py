"""From spool files to rows: the events into the table, and every other line, whole, among the rejected."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import duckdb
from duckdb import DuckDBPyConnection
from isal import igzip

from mpnb._store import REJECTED, quoted, run
from mpnb._verify import BLANK

if TYPE_CHECKING:
    from mpnb._writer import Fetched

# What the slow way reads into memory at once.
BLOCK_BYTES = 8 << 20
BLOCK_LINES = 20_000
# The longest line that read_ndjson_objects takes: above what the verifier lets through.
MAX_OBJECT = 16 << 20

# Two extractions instead of one for all paths: the type of event and properties shows in their first character, and
# the paths of properties are looked up in less text. Measured at 0.9 times the CPU of one list with json_type.
_SHAPE = "starts_with(k[1], '\"') AND starts_with(k[2], '{')"
# 24 characters are what {"event":…,"properties":…} has beside its values. Extraction may write a number longer than it
# came (1e20), so the length alone could hide a third key: the text must end as written, too. Everything else, such as
# spaces, is looked at by its keys, at an eighth more CPU.
_ONLY_KEYS = (
    "(strlen(json) - strlen(k[1]) - strlen(k[2]) = 24 AND ends_with(json, k[2] || '}') OR len(json_keys(json)) = 2)"
)


class NotAllEvents(Exception):
    """Some line needs to be looked at by itself."""


def insert_files(cursor: DuckDBPyConnection, table: str, files: Sequence[Fetched]) -> None:
    """
    Insert spool files in one statement, each line as one row.

    Args:
        files: all of them compressed, or none.

    Raises:
        NotAllEvents: a line is no event, or has keys that the table has no column for. Nothing is told of which.
    """
    source = f"read_ndjson_objects($paths, compression = $compression, maximum_object_size = {MAX_OBJECT})"
    batch_id = "$batch_ids[list_position($paths, filename)]" if len(files) > 1 else "$batch_ids[1]"
    query = _select(source, f"{_SHAPE} AND {_ONLY_KEYS} AND batch_id IS NOT NULL", batch_id)
    try:
        [(rows,)] = run(
            cursor,
            f"INSERT INTO {quoted(table)} {query}",
            {
                "paths": [str(file.path) for file in files],
                "compression": "gzip" if files[0].body.gzip else "uncompressed",
                "batch_ids": [file.batch_id for file in files],
            },
        )
    except (duckdb.InvalidInputException, duckdb.ConversionException) as error:
        raise NotAllEvents from error
    # No file gives more rows than it has lines: where the sums are equal, so is each.
    if rows != sum(file.body.lines for file in files):
        raise NotAllEvents


def insert_lines(
    cursor: DuckDBPyConnection, table: str, batch_id: int, lines: Sequence[tuple[int, bytes]]
) -> tuple[int, int]:
    """
    Insert the lines of one batch that are events, and keep every other one whole among the rejected.

    Args:
        lines: with their numbers in the batch, from 1.

    Returns:
        How many are in the table, and how many are not.
    """
    import pyarrow as pa

    texts: list[tuple[int, str]] = []
    broken: list[tuple[int, bytes]] = []
    for number, line in lines:
        try:
            texts.append((number, line.decode()))
        except UnicodeDecodeError:
            broken.append((number, line))
    # DuckDB finds these two by the names of this function's variables.
    block = pa.table(
        {"n": pa.array([n for n, _ in texts], pa.int64()), "line": pa.array([t for _, t in texts], pa.string())}
    )
    not_utf8 = pa.table(
        {"n": pa.array([n for n, _ in broken], pa.int64()), "line": pa.array([b for _, b in broken], pa.binary())}
    )
    assert block.num_rows + not_utf8.num_rows == len(lines)
    parsed = "(SELECT n, line, TRY_CAST(line AS JSON) AS json FROM block)"
    [(rows,)] = cursor.execute(
        f"INSERT INTO {quoted(table)} {_select(parsed, _SHAPE)}", {"batch_id": batch_id}
    ).fetchall()
    [(kept,)] = cursor.execute(
        f"""INSERT INTO {REJECTED}
        SELECT $table, $batch_id, n, CASE
            WHEN json IS NULL THEN 'no valid JSON'
            WHEN json_type(json) <> 'OBJECT' THEN 'no JSON object'
            WHEN NOT is_event AND NOT coalesce(starts_with(k[1], '"'), false) THEN 'event is missing or no text'
            WHEN NOT is_event THEN 'properties is missing or no object'
            ELSE 'keys besides event and properties' END, encode(line), is_event
        FROM (SELECT *, coalesce({_SHAPE}, false) AS is_event
              FROM (SELECT *, json->['$.event', '$.properties'] AS k FROM {parsed}))
        WHERE NOT is_event OR NOT {_ONLY_KEYS}""",
        {"batch_id": batch_id, "table": table},
    ).fetchall()
    cursor.execute(
        f"INSERT INTO {REJECTED} SELECT $table, $batch_id, n, 'no valid UTF-8', line, false FROM not_utf8",
        {"batch_id": batch_id, "table": table},
    ).fetchall()
    rejected = len(lines) - rows
    if kept + len(broken) < rejected:
        raise duckdb.InternalError("a line is neither in the table nor among the rejected")
    return rows, rejected


def blocks(file: Fetched) -> Iterator[list[tuple[int, bytes]]]:
    """Read a spool file as blocks of numbered lines without their line ends, blank ones left out."""
    # DuckDB reads the same file by itself; here Python does.
    opened: Any = (
        igzip.IGzipFile(file.path, "rb") if file.body.gzip else file.path.open("rb")  # type: ignore[no-untyped-call]
    )
    block: list[tuple[int, bytes]] = []
    size = 0
    with opened as lines:
        for number, raw in enumerate(lines, 1):
            line = raw.rstrip(b"\n")
            if not line.strip(BLANK):
                continue
            block.append((number, line))
            size += len(line)
            if size >= BLOCK_BYTES or len(block) >= BLOCK_LINES:
                yield block
                block, size = [], 0
    if block:
        yield block


def _select(source: str, condition: str, batch_id: str = "$batch_id") -> str:
    """
    Turn a column ``json`` into the columns of an events table.

    ``time`` comes in seconds, sometimes in milliseconds: seconds reach 1e11 in the year 5138, milliseconds in 1973.
    """
    return f"""
        SELECT k[1]->>'$', make_timestamp(TRY_CAST(t * CASE WHEN abs(t) >= 1e11 THEN 1e3 ELSE 1e6 END AS BIGINT)),
               p[2], p[3], p[4], p[5], k[2], batch_id
        FROM (SELECT k, p, TRY_CAST(p[1] AS DOUBLE) AS t, batch_id
              FROM (SELECT k, k[2]->>['/time', '/distinct_id', '/$device_id', '/$user_id', '/$insert_id'] AS p, batch_id
                    FROM (SELECT json, json->['$.event', '$.properties'] AS k, {batch_id} AS batch_id FROM {source})
                    WHERE {condition}))"""
