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
# The longest line that DuckDB takes: above what the verifier lets through.
MAX_OBJECT = 16 << 20

# Both are JSON: the type shows in the first character.
_IS_EVENT = "starts_with(event, '\"') AND starts_with(properties, '{')"
_READ = f"""read_json($paths, format = 'newline_delimited', records = true, compression = $compression,
    auto_detect = true, maximum_depth = 1, sample_size = 1, maximum_sample_files = 1,
    maximum_object_size = {MAX_OBJECT})"""
# DuckDB takes the names of the columns from the first line, and raises where another line has a key besides, or a key
# twice. Where the first line has one more, the union has not as many columns on both sides, and DuckDB raises, too.
# With `columns` in place of `auto_detect` it would leave such keys out without a word; read_ndjson_objects, which keeps
# them, parses each line once more to take it apart, and takes 1.2 times the CPU.
_TWO_KEYS = f"""(SELECT event, properties, filename, * EXCLUDE (event, properties) FROM {_READ}
    UNION ALL SELECT NULL::JSON, NULL::JSON, NULL::VARCHAR WHERE false)"""


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
    batch_id = "$batch_ids[list_position($paths, filename)]" if len(files) > 1 else "$batch_ids[1]"
    source = f"SELECT event, properties, {batch_id} AS batch_id FROM {_TWO_KEYS}"
    try:
        [(rows,)] = run(
            cursor,
            f"INSERT INTO {quoted(table)} {_select(source)} WHERE batch_id IS NOT NULL",
            {
                "paths": [str(file.path) for file in files],
                "compression": "gzip" if files[0].body.gzip else "uncompressed",
                "batch_ids": [file.batch_id for file in files],
            },
        )
    except (duckdb.InvalidInputException, duckdb.ConversionException, duckdb.BinderException) as error:
        raise NotAllEvents from error
    except duckdb.PermissionException as error:
        # The user's DuckDB must not read files (enable_external_access): Python reads them for it.
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
    texts: list[tuple[int, str]] = []
    broken: list[tuple[int, bytes]] = []
    for number, line in lines:
        try:
            texts.append((number, line.decode()))
        except UnicodeDecodeError:
            broken.append((number, line))
    # As values, not by the name of a variable: a table of that name would be read in its place.
    mine = {"batch_id": batch_id, "numbers": [n for n, _ in texts], "lines": [text for _, text in texts]}
    parsed = """(SELECT *, k[1] AS event, k[2] AS properties
                 FROM (SELECT *, json->['$.event', '$.properties'] AS k
                       FROM (SELECT *, TRY_CAST(line AS JSON) AS json FROM (
                           SELECT unnest($numbers::BIGINT[]) AS n, unnest($lines::VARCHAR[]) AS line))))"""
    source = f"SELECT event, properties, $batch_id AS batch_id FROM {parsed}"
    [(rows,)] = run(cursor, f"INSERT INTO {quoted(table)} {_select(source)}", mine)
    [(kept,)] = run(
        cursor,
        f"""INSERT INTO {REJECTED}
        SELECT $table, $batch_id, n, CASE
            WHEN json IS NULL THEN 'no valid JSON'
            WHEN json_type(json) <> 'OBJECT' THEN 'no JSON object'
            WHEN NOT is_event AND NOT coalesce(starts_with(event, '"'), false) THEN 'event is missing or no text'
            WHEN NOT is_event THEN 'properties is missing or no object'
            ELSE 'keys besides event and properties' END, encode(line), is_event
        FROM (SELECT *, coalesce({_IS_EVENT}, false) AS is_event FROM {parsed})
        WHERE NOT is_event OR len(json_keys(json)) <> 2""",
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


def _select(source: str) -> str:
    """
    Turn columns ``event``, ``properties`` (both JSON) and ``batch_id`` into those of an events table.

    ``time`` comes in seconds, sometimes in milliseconds: seconds reach 1e11 in the year 5138, milliseconds in 1973.
    """
    return f"""
        SELECT event->>'$', make_timestamp(TRY_CAST(t * CASE WHEN abs(t) >= 1e11 THEN 1e3 ELSE 1e6 END AS BIGINT)),
               p[2], p[3], p[4], p[5], properties, batch_id
        FROM (SELECT *, TRY_CAST(p[1] AS DOUBLE) AS t
              FROM (SELECT *, properties->>['/time', '/distinct_id', '/$device_id', '/$user_id', '/$insert_id'] AS p
                    FROM ({source}) WHERE {_IS_EVENT}))"""
