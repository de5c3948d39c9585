"""
People who were forgotten: their ids as hashes, and their records as a number.

A record of theirs is left out of its table, and stands among the rejected lines without its content, so that all that
was served is accounted for.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Mapping, Sequence

from duckdb import DuckDBPyConnection

from mpnb._base.clock import utc_now
from mpnb._base.sql import columns_of, in_batches, literal, quoted, run
from mpnb._planning.resource import Resource
from mpnb._storing.database import FORGOTTEN, LEDGER, META, REJECTED, SNAPSHOTS
from mpnb._storing.ledger import of_table

REASON = "of a person who was forgotten"
_SALT = "salt of forgotten ids"


def remember(cursor: DuckDBPyConnection, ids: Sequence[str]) -> None:
    """Keep ids as hashes, within a transaction of the caller. The salt is the file's."""
    run(cursor, f"INSERT OR IGNORE INTO {META} VALUES (?, ?)", [_SALT, secrets.token_hex(16)])
    run(
        cursor,
        f"INSERT OR IGNORE INTO {FORGOTTEN} SELECT DISTINCT sha256(salt || id), ?::TIMESTAMP"
        f" FROM (SELECT unnest(?::VARCHAR[]) AS id), (SELECT value AS salt FROM {META} WHERE name = ?)",
        [utc_now(), list(ids), _SALT],
    )


def leave_out(cursor: DuckDBPyConnection, table: str, resource: Resource, batch_ids: Sequence[int]) -> dict[int, int]:
    """
    Delete what batches have just brought of people who were forgotten, within the transaction that wrote it.

    Returns:
        How many records those were, by batch.
    """
    if not resource.ids or not run(cursor, f"SELECT 1 FROM {FORGOTTEN} LIMIT 1"):
        return {}
    [(salt,)] = run(cursor, f"SELECT value FROM {META} WHERE name = ?", [_SALT])
    known = f"IN (SELECT id_hash FROM {FORGOTTEN})"
    theirs = " OR ".join(f"sha256({literal(salt)} || {quoted(column)}) {known}" for column in resource.ids)
    mine = in_batches(batch_ids, "batch_id")
    counts = delete(cursor, table, f"({theirs}) AND {mine}")
    if counts:
        _delete_copies(cursor, table, resource, theirs, mine)
    return counts


def delete(cursor: DuckDBPyConnection, table: str, condition: str) -> dict[int, int]:
    """Delete records, and enter each as one that is left out. Return how many those were, by batch."""
    rows = run(cursor, f"SELECT batch_id, count(*) FROM {quoted(table)} WHERE {condition} GROUP BY batch_id")
    counts = dict(rows)
    if counts:
        run(cursor, f"DELETE FROM {quoted(table)} WHERE {condition}")
        run(
            cursor,
            f"INSERT INTO {REJECTED} BY NAME SELECT ? AS table_name, batch_id, ? AS reason, ''::BLOB AS line,"
            " false AS in_events FROM (SELECT batch_id, unnest(range(n)) FROM (SELECT"
            " unnest(?::BIGINT[]) AS batch_id, unnest(?::BIGINT[]) AS n))",
            [table, REASON, list(counts.keys()), list(counts.values())],
        )
    return counts


def _delete_copies(cursor: DuckDBPyConnection, table: str, resource: Resource, theirs: str, mine: str) -> None:
    """Delete the lines that were kept besides their rows, for keys that the table has no column for."""
    head, body = (literal(f'$."{key}"') for key in resource.keys)
    lines = (
        f"SELECT json_extract(json, {head}) AS head, json_extract(json, {body}) AS body, batch_id FROM ("
        f"SELECT decode(line)::JSON AS json, rowid AS batch_id FROM {REJECTED}"
        f" WHERE {of_table(table)} AND in_events AND {mine})"
    )
    names = ", ".join(quoted(name) for name, _ in resource.columns)
    rows = f"SELECT batch_id FROM ({resource.rows(lines)}) AS copies({names}) WHERE {theirs}"
    run(cursor, f"DELETE FROM {REJECTED} WHERE rowid IN ({rows})")


def of(ids: Sequence[str], columns: Iterable[str]) -> str:
    """Return the condition for rows that have one of some ids in one of some columns."""
    theirs = ", ".join(map(literal, ids))
    return " OR ".join(f"{quoted(column)} IN ({theirs})" for column in columns)


def forget(cursor: DuckDBPyConnection, table: str, columns: Iterable[str], ids: Sequence[str]) -> int:
    """
    Delete what a table of the ledger has of some ids, within a transaction of the caller, and correct its counts.

    Args:
        columns: of ids.

    Returns:
        How many records those were.
    """
    counts: Mapping[int, int] = {}
    if columns_of(cursor, table) is not None:
        counts = delete(cursor, table, of(ids, columns))
    if counts:
        run(
            cursor,
            f"UPDATE {LEDGER} AS l SET rows = l.rows - n, rejected = l.rejected + n FROM ("
            "SELECT unnest(?::BIGINT[]) AS batch_id, unnest(?::BIGINT[]) AS n) AS gone"
            f" WHERE {of_table(table)} AND l.batch_id = gone.batch_id",
            [list(counts.keys()), list(counts.values())],
        )
        gone = sum(counts.values())
        run(
            cursor,
            f"UPDATE {SNAPSHOTS} SET rows = rows - {gone}, rejected = rejected + {gone}"
            f" WHERE {of_table(table)} AND published_at IS NOT NULL",
        )
    _forget_lines(cursor, table, ids)
    return sum(counts.values())


def _forget_lines(cursor: DuckDBPyConnection, table: str, ids: Sequence[str]) -> None:
    """Delete the content of rejected lines that name an id as JSON does, and copies of rows."""
    named = [json.dumps(each, ensure_ascii=is_ascii) for each in ids for is_ascii in (True, False)]
    named += [f":{each}{end}" for each in ids if each.lstrip("-").isdecimal() for end in ",}"]
    # As text in which each byte is written in one way: a line may not be UTF-8.
    found = " OR ".join(f"contains(line::VARCHAR, encode({literal(each)})::VARCHAR)" for each in dict.fromkeys(named))
    mine = f"{of_table(table)} AND ({found})"
    run(cursor, f"DELETE FROM {REJECTED} WHERE {mine} AND in_events")
    run(cursor, f"UPDATE {REJECTED} SET line = ''::BLOB, reason = ? WHERE {mine}", [REASON])
