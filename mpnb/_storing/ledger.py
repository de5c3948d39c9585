"""
The ledger: one row per batch, in the database itself, so that any state or failure can be queried.

The days of a table's batches that are ``done`` or ``empty`` never overlap. A batch is identified by its table and its
id: in older files, batches of two tables may have the same id. Within a table ids grow: a later request has a greater
id, whatever the clock says. Every function takes a cursor of the calling thread; functions that write must be called
within a transaction.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta

from duckdb import DuckDBPyConnection

from mpnb._base.clock import utc_now
from mpnb._base.scalars import brief
from mpnb._base.sql import columns_of, exact, in_batches, quoted, run
from mpnb._errors import TableError
from mpnb._fetching.fetched import Lost, Task
from mpnb._message import Argument, Phrase
from mpnb._mixpanel.failures import HINTS, Failure
from mpnb._planning.batches import Batch, HeldBatch
from mpnb._planning.dates import DAY
from mpnb._planning.request import Source
from mpnb._planning.resource import Owner, Resource
from mpnb._storing import tables
from mpnb._storing.database import BATCH_IDS, COUNTS, LEDGER, LEDGER_COLUMNS, OBJECTS, REJECTED
from mpnb._storing.running import entering, running

HELD = "('done', 'empty')"
UNMET = "('failed', 'cancelled')"
# When the request began that brought a batch, which is never null for what mpnb wrote.
REQUESTED_AT = "coalesce(started_at, finished_at)"
_DAYS = "SELECT batch_id, CAST(from_date + unnest(range(to_date - from_date + 1))::INTEGER AS DATE) AS day"


class LedgerError(Exception):
    """The ledger lacks batches that this export had entered: it was changed from outside."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """The content of a batch that landed: rows, rejected lines, compressed bytes."""

    task: Task
    rows: int
    rejected: int
    size: int

    @property
    def status(self) -> str:
        """Return the batch's new status."""
        return "done" if self.rows or self.rejected else "empty"


def exists(cursor: DuckDBPyConnection) -> bool:
    """Whether the database has a ledger. Raises ``TableError`` if a table of its name is something else."""
    found = columns_of(cursor, LEDGER)
    if found is not None and found != list(LEDGER_COLUMNS):
        raise TableError(
            f"table {LEDGER!r} does not have the columns that mpnb gives it: pass another ", Argument("database", "")
        )
    return found is not None


def tables_of(cursor: DuckDBPyConnection) -> list[str]:
    """Return the names of the events tables in the ledger, in order. Records without days are others."""
    query = f"SELECT DISTINCT table_name FROM {LEDGER} WHERE from_date IS NOT NULL ORDER BY table_name ASC"
    return [name for (name,) in run(cursor, query)]


def table_named(cursor: DuckDBPyConnection, table: str | None, label: str) -> str:
    """
    Return the events table of a name, whatever its case, or the only one.

    Args:
        label: the name of the database, for messages.

    Raises:
        TableError: there is no such table of events, or there are several to choose from.
    """
    there = tables_of(cursor) if exists(cursor) else []
    if not there:
        raise TableError(f"{label} has no events yet: fetch some with ", Phrase("export", "mpnb.export()"))
    if table is None and len(there) > 1:
        names = ", ".join(map(repr, there))
        raise TableError(f"{label} has several tables of events ({names}): pass one of them as ", Argument("table", ""))
    name = {name.lower(): name for name in there}.get((table or there[0]).lower())
    if name is None:
        raise TableError(f"{label} has no table {brief(table)} of events; it has {', '.join(map(repr, there))}")
    return name


def source_of(cursor: DuckDBPyConnection, table: str) -> Source | None:
    """Return the source of a table, or ``None`` if the ledger has no batch of it."""
    rows = run(
        cursor,
        f"SELECT project_id, event_filter, where_filter FROM {LEDGER} WHERE lower(table_name) = lower(?) LIMIT 1",
        [table],
    )
    if not rows:
        return None
    project_id, events, where = rows[0]
    return Source(project_id, None if events is None else tuple(json.loads(events)), where)


def check_source(cursor: DuckDBPyConnection, table: str, source: Source) -> None:
    """
    Check that a table accepts events of this source.

    Raises:
        TableError: it holds another source, or rows that are not in the ledger.
    """
    there = source_of(cursor, table) if exists(cursor) else None
    if there is None:
        if columns_of(cursor, table) is not None:
            [(rows,)] = run(cursor, f"SELECT count(*) FROM {quoted(table)}")
            if rows:
                found = f"table {table!r} has {rows:,} rows that mpnb did not write: pass another "
                raise TableError(found, Argument("table", ""))
    elif not there.is_same(source) and not is_free_for(cursor, table, source):
        raise TableError(
            f"table {table!r} holds {there}, but ",
            Phrase("this call", "this call"),
            f" asks for {source}: pass another ",
            Argument("table", ""),
            " or another ",
            Argument("database", ""),
        )


def is_free_for(cursor: DuckDBPyConnection, table: str, source: Owner) -> bool:
    """Whether a table has only batches of another source, all of them without rows and rejected lines."""
    there = source_of(cursor, table)
    if there is None or there.is_same(source):
        return False
    if columns_of(cursor, table) and run(cursor, f"SELECT 1 FROM {quoted(table)} LIMIT 1"):
        return False
    # The rejected lines of a batch whose rows are gone do not hold a table by themselves.
    query = f"SELECT count(*) FROM {LEDGER} WHERE {of_table(table)} AND rows = 0 AND rejected > 0"
    return run(cursor, query) == [(0,)]


def clear(cursor: DuckDBPyConnection, table: str) -> None:
    """Delete the batches of a table that may take another source."""
    for name in (LEDGER, REJECTED):
        run(cursor, f"DELETE FROM {name} WHERE {of_table(table)}")


def held_batches(cursor: DuckDBPyConnection, table: str) -> list[HeldBatch]:
    """Return the batches that the table has according to the ledger, in date order."""
    rows = run(
        cursor,
        f"SELECT batch_id, from_date, to_date, rows, {REQUESTED_AT} FROM {LEDGER}"
        f" WHERE {of_table(table)} AND status IN {HELD} ORDER BY from_date ASC",
    )
    return [HeldBatch(*row) for row in rows]


def compared_batches(cursor: DuckDBPyConnection, table: str) -> list[HeldBatch]:
    """
    Return the same batches, compared with the table: its rows may have been deleted, or the table dropped.

    It reads one column of the table, which has few distinct values: 5,000,000 rows take 20 ms. The objects of a lake
    are not read for it: what they have is known.
    """
    there = dict(run(cursor, rows_query(cursor, table))) if columns_of(cursor, table) else {}
    held = held_batches(cursor, table)
    return [replace(h, rows=there.get(h.batch_id, 0), lost=h.rows - there.get(h.batch_id, 0)) for h in held]


def rows_query(cursor: DuckDBPyConnection, table: str) -> str:
    """Return the query for ``batch_id`` and ``rows``, the number of rows of each batch that has a row or an object."""
    if is_mirrored(cursor):
        return f"SELECT batch_id, sum(rows)::BIGINT AS rows FROM {OBJECTS} WHERE {of_table(table)} GROUP BY batch_id"
    return f"SELECT batch_id, count(*) AS rows FROM {quoted(table)} GROUP BY batch_id"


def counts_query(cursor: DuckDBPyConnection, table: str) -> str:
    """
    Return the query for ``batch_id``, ``event_name`` and ``rows``, the number of rows of each event in each batch.

    Of a lake, only the objects are read that have not been counted.
    """
    name = exact("event_name")
    counted = f"SELECT batch_id, {name} AS event_name, count(*) AS rows FROM {quoted(table)}"
    if not is_mirrored(cursor):
        return f"{counted} GROUP BY ALL"
    known = f"SELECT batch_id, event_name, rows FROM {COUNTS} WHERE {of_table(table)}"
    new = uncounted(cursor, table)
    return f"{known} UNION ALL {counted} WHERE {in_batches(new, 'batch_id')} GROUP BY ALL" if new else known


def uncounted(cursor: DuckDBPyConnection, table: str) -> list[int]:
    """Return the batches of a lake that have rows, and have not been counted by event."""
    mine = of_table(table)
    query = f"SELECT batch_id FROM {LEDGER} WHERE {mine} AND status IN {HELD} AND rows > 0"
    return [i for (i,) in run(cursor, f"{query} EXCEPT SELECT batch_id FROM {COUNTS} WHERE {mine}")]


def of_table(table: str) -> str:
    """Return the condition for the ledger rows of a table."""
    literal = "'" + table.replace("'", "''") + "'"
    return f"lower(table_name) = lower({literal})"


def held_days(mine: str) -> str:
    """Return the query for ``batch_id``, ``day`` of all days that stored batches cover."""
    return f"{_DAYS} FROM {LEDGER} WHERE {mine} AND status IN {HELD}"


def failed_days(mine: str, ended: Sequence[str] = ()) -> str:
    """
    Return the query for ``batch_id``, ``day`` of the days of batches that failed or were cancelled.

    Args:
        mine: condition for the ledger rows that count: of one table, perhaps of some days.
        ended: exports whose batches have failed although the ledger has them as unfinished.
    """
    failed = f"status IN {UNMET}"
    if ended:
        exports = ", ".join(f"'{each}'" for each in ended)
        failed = f"({failed} OR status NOT IN {HELD} AND export_id IN ({exports}))"
    return f"{_DAYS} FROM {LEDGER} WHERE {mine} AND {failed}"


def unmet_days(mine: str, ended: Sequence[str] = ()) -> str:
    """Return the query for ``batch_id``, ``day`` of the failed days that no later batch has brought."""
    return (
        f"SELECT failed.batch_id, day FROM ({failed_days(mine, ended)}) AS failed"
        f" LEFT JOIN ({held_days(mine)}) AS held USING (day)"
        " WHERE held.batch_id IS NULL OR held.batch_id < failed.batch_id"
    )


def is_read_only(cursor: DuckDBPyConnection) -> bool:
    """Whether the database is open read-only."""
    query = "SELECT readonly FROM duckdb_databases() WHERE database_name = current_database()"
    return run(cursor, query) == [(True,)]


def settle_dead(cursor: DuckDBPyConnection, running: Iterable[str]) -> None:
    """Mark as cancelled what a dead process left unfinished. ``running`` are the exports of this process."""
    run(
        cursor,
        f"UPDATE {LEDGER} SET status = 'cancelled', kind = 'cancelled', retryable = true, hint = ?,"
        " message = 'the process that exported it ended', finished_at = ?"
        " WHERE status NOT IN ('done', 'empty', 'failed', 'cancelled') AND NOT list_contains(?, export_id)",
        [HINTS["cancelled"], utc_now(), list(running)],
    )


def requests_of(cursor: DuckDBPyConnection, project_id: str) -> list[tuple[float, int]]:
    """
    Return the requests for events of a project that count for the current hour, as far as the ledger knows of them.

    Returns:
        For each batch, when its last request began, in seconds since the epoch, and how many it took.
    """
    if not exists(cursor):
        return []
    rows = run(
        cursor,
        f"SELECT epoch(started_at), attempts FROM {LEDGER} WHERE project_id = ? AND from_date IS NOT NULL"
        " AND started_at > ? AND attempts > 0",
        [project_id, utc_now() - timedelta(hours=2)],
    )
    return [(float(began), attempts) for began, attempts in rows]


def unfinished_exports(cursor: DuckDBPyConnection, table: str) -> set[str]:
    """Return the ids of exports that are working on batches of this table."""
    rows = run(
        cursor,
        f"SELECT DISTINCT export_id FROM {LEDGER} WHERE lower(table_name) = lower(?)"
        " AND status NOT IN ('done', 'empty', 'failed', 'cancelled')",
        [table],
    )
    return {export_id for (export_id,) in rows}


def in_use(table: str) -> TableError:
    """Return the error for what an export into a table keeps from being done."""
    return TableError(f"an export into table {table!r} is running: wait for it or cancel it")


def check_unused(cursor: DuckDBPyConnection, table: str, shown: str | None = None) -> None:
    """
    Raise ``TableError`` if an export is working on batches of a table.

    Args:
        shown: the table that users know, if that is another.
    """
    if unfinished_exports(cursor, table):
        raise in_use(shown or table)


def running_exports(cursor: DuckDBPyConnection, table: str) -> set[str]:
    """Return the ids of exports of this process that are working on batches of this table."""
    with entering:
        return unfinished_exports(cursor, table) & running


def ended_exports(cursor: DuckDBPyConnection, table: str) -> list[str]:
    """Return the ids of exports that have ended but left batches of this table unfinished."""
    with entering:
        return sorted(unfinished_exports(cursor, table) - running)


def admit(
    cursor: DuckDBPyConnection,
    *,
    export_id: str,
    table: str,
    resource: Resource,
    batches: Sequence[Batch],
    gone: Sequence[int],
) -> list[int]:
    """
    Enter an export: create missing tables, forget batches whose rows are gone, and return the new ids.

    Args:
        gone: ids of batches.
    """
    tables.create(cursor, table, resource.columns)
    forget(cursor, table, gone)
    if is_free_for(cursor, table, resource.source):
        clear(cursor, table)
    return register(cursor, export_id=export_id, table=table, source=resource.source, batches=batches)


def register(
    cursor: DuckDBPyConnection, *, export_id: str, table: str, source: Owner, batches: Sequence[Batch]
) -> list[int]:
    """
    Add batches to be fetched, which replace failed ones if they land, and return their ids.

    Args:
        batches: no two of them with a day in common. Pages have none.
    """
    if not batches:
        return []
    ids = [i for (i,) in run(cursor, f"SELECT nextval('{BATCH_IDS}') FROM range(?)", [len(batches)])]
    # One statement for all: 5,000 of them one by one take seconds.
    run(
        cursor,
        f"DELETE FROM {LEDGER} WHERE {of_table(table)} AND status IN {UNMET}"
        f" AND batch_id NOT IN (SELECT batch_id FROM ({unmet_days(of_table(table))})"
        " WHERE day NOT IN (SELECT unnest($days::DATE[])))",
        {"days": [batch.from_date + DAY * n for batch in batches if not batch.page for n in range(batch.days)]},
    )
    run(
        cursor,
        f"INSERT INTO {LEDGER} BY NAME SELECT unnest(?::BIGINT[]) AS batch_id, ? AS export_id, ? AS table_name,"
        " ? AS project_id, ? AS event_filter, ? AS where_filter, unnest(?::DATE[]) AS from_date,"
        " unnest(?::DATE[]) AS to_date, 'queued' AS status, 0 AS rows, 0 AS rejected, 0 AS bytes, 0 AS attempts,"
        " ?::TIMESTAMP AS created_at",
        [
            ids,
            export_id,
            table,
            source.project_id,
            source.event_filter,
            source.where,
            [None if batch.page else batch.from_date for batch in batches],
            [None if batch.page else batch.to_date for batch in batches],
            utc_now(),
        ],
    )
    return ids


def is_mirrored(cursor: DuckDBPyConnection) -> bool:
    """Whether the database mirrors a lake: the rows of its tables are in objects, and these in ``OBJECTS``."""
    return columns_of(cursor, OBJECTS) is not None


def forget(cursor: DuckDBPyConnection, table: str, batch_ids: Sequence[int]) -> None:
    """Delete batches, with their rows and rejected lines."""
    rows = (OBJECTS, COUNTS) if is_mirrored(cursor) else (table,)
    for name in (*rows, REJECTED, LEDGER):
        mine = "" if name == table else " AND lower(table_name) = lower(?)"
        parameters: list[object] = [list(batch_ids)] + ([table] if mine else [])
        run(cursor, f"DELETE FROM {quoted(name)} WHERE list_contains(?, batch_id){mine}", parameters)


def landed(cursor: DuckDBPyConnection, table: str, arrivals: Sequence[Arrival]) -> None:
    """
    Mark batches as done or empty, and delete the failures that they make up for. ``arrivals`` has one or more.

    Raises:
        LedgerError: one of them is not there.
    """
    # Two statements for all: each takes milliseconds, which batches of few events would spend on nothing else.
    [(noted,)] = run(
        cursor,
        f"UPDATE {LEDGER} AS l SET status = a.status, rows = a.rows, rejected = a.rejected, bytes = a.bytes,"
        " attempts = a.attempts, http_status = 200, kind = NULL, message = NULL, retryable = NULL, hint = NULL,"
        " started_at = a.started_at, finished_at = $now FROM (SELECT unnest($ids::BIGINT[]) AS batch_id,"
        " unnest($statuses::VARCHAR[]) AS status, unnest($rows::BIGINT[]) AS rows,"
        " unnest($rejected::BIGINT[]) AS rejected, unnest($bytes::BIGINT[]) AS bytes,"
        " unnest($attempts::INTEGER[]) AS attempts, unnest($started::TIMESTAMP[]) AS started_at) AS a"
        " WHERE l.batch_id = a.batch_id AND lower(l.table_name) = lower($table)",
        {
            "table": table,
            "now": utc_now(),
            "ids": [a.task.batch_id for a in arrivals],
            "statuses": [a.status for a in arrivals],
            "rows": [a.rows for a in arrivals],
            "rejected": [a.rejected for a in arrivals],
            "bytes": [a.size for a in arrivals],
            "attempts": [a.task.attempts for a in arrivals],
            "started": [a.task.started_at for a in arrivals],
        },
    )
    _expect(noted, len(arrivals))
    # Only failures that overlap what has just landed can be made up for now.
    days = [day for a in arrivals for day in (a.task.batch.from_date, a.task.batch.to_date)]
    drop_met(cursor, table, min(days), max(days))


def drop_met(cursor: DuckDBPyConnection, table: str, first: date, last: date) -> None:
    """
    Delete failures between two days that are made up for: each of their days was fetched by a later request.

    Which is later, ids show whatever the clock did.
    """
    run(
        cursor,
        f"DELETE FROM {LEDGER} AS f WHERE lower(f.table_name) = lower($table) AND f.status IN {UNMET}"
        " AND f.from_date <= $last AND f.to_date >= $first AND f.to_date - f.from_date + 1 <= ("
        " SELECT coalesce(sum(least(h.to_date, f.to_date) - greatest(h.from_date, f.from_date) + 1), 0)"
        f" FROM {LEDGER} AS h WHERE lower(h.table_name) = lower($table) AND h.status IN {HELD}"
        " AND h.batch_id > f.batch_id AND h.from_date <= f.to_date AND h.to_date >= f.from_date)",
        {"table": table, "first": first, "last": last},
    )


def lost(cursor: DuckDBPyConnection, table: str, item: Lost, status: str) -> None:
    """
    Mark a batch as failed or cancelled, with the reason.

    Raises:
        LedgerError: it is not there, or has landed.
    """
    task, failure = item.task, item.failure
    [(noted,)] = run(
        cursor,
        f"UPDATE {LEDGER} SET status = ?, kind = ?, http_status = ?, message = ?, retryable = ?, hint = ?, bytes = ?,"
        " attempts = ?, started_at = ?, finished_at = ?"
        f" WHERE batch_id = ? AND lower(table_name) = lower(?) AND status NOT IN {HELD}",
        [
            status,
            failure.kind,
            failure.http_status,
            failure.message,
            failure.retryable,
            failure.hint,
            task.size,
            task.attempts,
            task.started_at,
            utc_now(),
            task.batch_id,
            table,
        ],
    )
    _expect(noted, 1)


def close(cursor: DuckDBPyConnection, export_id: str, status: str, failure: Failure) -> None:
    """Mark all unfinished batches of an export as failed or cancelled, with the reason."""
    run(
        cursor,
        f"UPDATE {LEDGER} SET status = ?, kind = ?, http_status = ?, message = ?, retryable = ?, hint = ?,"
        f" finished_at = ? WHERE export_id = ? AND status NOT IN {HELD} AND status NOT IN {UNMET}",
        [
            status,
            failure.kind,
            failure.http_status,
            failure.message,
            failure.retryable,
            failure.hint,
            utc_now(),
            export_id,
        ],
    )


def status_of(cursor: DuckDBPyConnection, table: str, batch_id: int) -> tuple[str, int, int] | None:
    """Return status, rows and rejected lines of a batch, ``None`` if the ledger has no batch of that id."""
    rows = run(
        cursor,
        f"SELECT status, rows, rejected FROM {LEDGER} WHERE batch_id = ? AND lower(table_name) = lower(?)",
        [batch_id, table],
    )
    return rows[0] if rows else None


def _expect(noted: int, batches: int) -> None:
    if noted != batches:
        raise LedgerError(f"the ledger has {noted:,} of {batches:,} batches that were to be recorded")
