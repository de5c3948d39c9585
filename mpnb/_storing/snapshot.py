"""
Snapshots: records without days, which are in a table whole or not at all.

Pages land in a staging table as they come. When the last one is there, the first is read once more; if all fits
together, the staging table takes the place of the one before, in the transaction in which that page lands.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from duckdb import DuckDBPyConnection

from mpnb._base.clock import utc_now
from mpnb._base.sql import columns_of, quoted, run
from mpnb._fetching.fetched import Fetched
from mpnb._mixpanel.engage_api import inconsistent
from mpnb._planning.batches import Batch, Page, Session
from mpnb._planning.profiles import Profiles, ProfileSource, first_again, further_pages, page_of, session_of
from mpnb._storing import ledger, tables, versions
from mpnb._storing.database import LEDGER, PAGES, REJECTED, SNAPSHOTS
from mpnb._storing.destination import Unfit
from mpnb._storing.ledger import HELD, UNMET, Arrival, of_table

# How long pages wait for somebody to go on with them. Nobody says how long Mixpanel keeps a session; what is older
# shows people as they were a day ago.
STAGED_FOR = timedelta(days=1)
_STAGED = "mpnb_staged_"


def staging(table: str) -> str:
    """Return the name of the table in which the pages of the next snapshot land."""
    return f"{_STAGED}{table}"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """
    A snapshot of a table, as the database knows it.

    Attributes:
        id: of the export that began it.
        table: which it is of.
        source: as text.
        session: the query that its pages belong to.
        asked_size: profiles a page that was asked for.
        is_published: whether it is what the table has; else its pages are still being fetched.
        rows, rejected: profiles in the table, and those that are no valid JSON and were rejected.
        requested_at: when its first page was asked for, in UTC.
    """

    id: str
    table: str
    source: str
    session: Session
    asked_size: int | None
    is_published: bool
    rows: int
    rejected: int
    requested_at: datetime


def snapshots(cursor: DuckDBPyConnection, table: str) -> list[Snapshot]:
    """Return the snapshots of a table: the published one, and one whose pages are being fetched."""
    if columns_of(cursor, SNAPSHOTS) is None:
        return []
    found = run(
        cursor,
        "SELECT snapshot_id, table_name, source, session_id, total, page_size, asked_size, published_at IS NOT NULL,"
        f" rows, rejected, requested_at FROM {SNAPSHOTS} WHERE {of_table(table)} ORDER BY requested_at ASC",
    )
    return [
        Snapshot(name, of, source, Session(session, total, size), asked, *rest)
        for name, of, source, session, total, size, asked, *rest in found
    ]


def requests_of(cursor: DuckDBPyConnection, project_id: str) -> list[tuple[float, int]]:
    """Return when the first page of each snapshot of a project was asked for, the one that counts for an hour, once."""
    if columns_of(cursor, SNAPSHOTS) is None:
        return []
    rows = run(cursor, f"SELECT source, epoch(requested_at) FROM {SNAPSHOTS} WHERE requested_at IS NOT NULL")
    return [(float(at), 1) for source, at in rows if ProfileSource.from_text(source).project_id == project_id]


def published(cursor: DuckDBPyConnection, table: str) -> Snapshot | None:
    """Return the snapshot that a table has, ``None`` if it has none or somebody has dropped or emptied the table."""
    found = next((each for each in snapshots(cursor, table) if each.is_published), None)
    if found is None or columns_of(cursor, table) is None:
        return None
    is_empty = found.rows > 0 and not run(cursor, f"SELECT 1 FROM {quoted(table)} LIMIT 1")
    return None if is_empty else found


def tables_of(cursor: DuckDBPyConnection) -> list[str]:
    """Return the names of the tables of profiles that have a snapshot or pages of one, in order."""
    if columns_of(cursor, SNAPSHOTS) is None:
        return []
    rows = run(
        cursor,
        f"SELECT table_name FROM {SNAPSHOTS} UNION SELECT substr(table_name, {len(_STAGED) + 1}) FROM {LEDGER}"
        f" WHERE starts_with(table_name, '{_STAGED}') ORDER BY 1 ASC",
    )
    return [name for (name,) in rows]


def named(cursor: DuckDBPyConnection, table: str) -> str | None:
    """Return the table of profiles of a name, whatever its case, that has a snapshot or pages of one."""
    return next((name for name in tables_of(cursor) if name.lower() == table.lower()), None)


def tables_of_people(cursor: DuckDBPyConnection) -> dict[str, str]:
    """Return the tables of profiles, published and staged, with the names that were asked for; those of groups not."""
    rows = run(cursor, f"SELECT table_name, source, published_at IS NOT NULL FROM {SNAPSHOTS} ORDER BY table_name ASC")
    mine = [(name, is_there) for name, source, is_there in rows if not ProfileSource.from_text(source).group]
    return {name if is_there else staging(name): name for name, is_there in mine}


def given_up(cursor: DuckDBPyConnection) -> list[str]:
    """Return the tables for which pages have waited too long; exports that run now are none of these."""
    rows = run(
        cursor,
        f"SELECT substr(min(table_name), {len(_STAGED) + 1}) FROM {LEDGER} WHERE starts_with(table_name, '{_STAGED}')"
        f" GROUP BY lower(table_name) HAVING min(created_at) < ? AND bool_and(status IN {HELD} OR status IN {UNMET})",
        [utc_now() - STAGED_FOR],
    )
    return [table for (table,) in rows]


def drop_staged(cursor: DuckDBPyConnection, table: str) -> None:
    """Delete the pages of a snapshot that was not published. Within a transaction of the caller."""
    staged = staging(table)
    run(cursor, f"DROP TABLE IF EXISTS {quoted(staged)}")
    if columns_of(cursor, PAGES) is None:
        return
    run(cursor, f"DELETE FROM {PAGES} WHERE batch_id IN (SELECT batch_id FROM {LEDGER} WHERE {of_table(staged)})")
    for ours in (LEDGER, REJECTED):
        run(cursor, f"DELETE FROM {ours} WHERE {of_table(staged)}")
    run(cursor, f"DELETE FROM {SNAPSHOTS} WHERE {of_table(table)} AND published_at IS NULL")


def pages_left(cursor: DuckDBPyConnection, table: str, snapshot: Snapshot) -> list[Batch] | None:
    """Return the pages of a staged snapshot that have not landed, ``None`` if it cannot go on."""
    rows = run(
        cursor,
        f"SELECT p.page FROM {PAGES} AS p JOIN {LEDGER} AS l USING (batch_id) WHERE {of_table(staging(table))}"
        f" AND l.status IN {HELD} AND NOT p.is_again AND p.snapshot_id = ?",
        [snapshot.id],
    )
    there = {page for (page,) in rows}
    day = snapshot.requested_at.date()
    first = Batch(day, day, page=Page(0, snapshot.asked_size))
    if 0 not in there:
        return None
    left = [page for page in further_pages(first, snapshot.session) if page_of(page).number not in there]
    return left or [first_again(first, snapshot.session)]


class Publishing:
    """
    The course of the pages of a snapshot, as ``Table`` runs it: they call for further pages, and are published at last.

    Args:
        table: which the snapshot is for.
        snapshot_id: of the export that began it.
        first: the page that begins it again, once, where the pages turn out not to fit together.
    """

    hides = True

    def __init__(self, table: str, resource: Profiles, export_id: str, snapshot_id: str, first: Batch) -> None:
        self._first: Batch | None = first
        self._table = table
        self._staged = staging(table)
        self._resource = resource
        self._export_id = export_id
        self._snapshot_id = snapshot_id

    def admitted(self, cursor: DuckDBPyConnection, batches: Sequence[tuple[Batch, int]]) -> None:
        """Note which pages batches are."""
        note_pages(cursor, self._snapshot_id, batches)

    def after(
        self, cursor: DuckDBPyConnection, items: Sequence[Fetched], arrivals: Sequence[Arrival]
    ) -> Sequence[tuple[Batch, int]]:
        """Note what landed, and return the pages that follow, with their ids. Raises ``Unfit``."""
        for item in items:
            if page_of(item.task.batch).session is None:
                return self._begin(cursor, item)
            if page_of(item.task.batch).is_again:
                self._publish(cursor, item)
                return []
        left = run(cursor, f"SELECT 1 FROM {LEDGER} WHERE {of_table(self._staged)} AND status NOT IN {HELD} LIMIT 1")
        return [] if left else self._register(cursor, [self._again(items[-1].task.batch)])

    def anew(self, cursor: DuckDBPyConnection) -> Sequence[tuple[Batch, int]]:
        """Drop the pages, and return the first of a new session with its id; the second time, return none."""
        first, self._first = self._first, None
        if first is None:
            return []
        drop_staged(cursor, self._table)
        tables.create(cursor, self._staged, self._resource.columns)
        ids = ledger.register(
            cursor, export_id=self._export_id, table=self._staged, source=self._resource.source, batches=[first]
        )
        begun = list(zip([first], ids, strict=True))
        note_pages(cursor, self._snapshot_id, begun)
        return begun

    def _begin(self, cursor: DuckDBPyConnection, item: Fetched) -> Sequence[tuple[Batch, int]]:
        task = item.task
        assert item.body.envelope is not None
        session = session_of(item.body.envelope)
        run(
            cursor,
            f"INSERT INTO {SNAPSHOTS} BY NAME SELECT ? AS snapshot_id, ? AS table_name, ? AS source, ? AS session_id,"
            " ?::BIGINT AS total, ?::BIGINT AS page_size, ?::BIGINT AS asked_size, 0 AS rows, 0 AS rejected,"
            " ?::TIMESTAMP AS requested_at",
            [
                self._snapshot_id,
                self._table,
                self._resource.source.as_text,
                session.id,
                session.total,
                session.page_size,
                page_of(task.batch).asked_size,
                task.started_at or utc_now(),
            ],
        )
        further = further_pages(task.batch, session) or [first_again(task.batch, session)]
        return self._register(cursor, further)

    def _again(self, batch: Batch) -> Batch:
        session = page_of(batch).session
        assert session is not None
        return first_again(batch, session)

    def _register(self, cursor: DuckDBPyConnection, batches: Sequence[Batch]) -> Sequence[tuple[Batch, int]]:
        ids = ledger.register(
            cursor, export_id=self._export_id, table=self._staged, source=self._resource.source, batches=batches
        )
        further = list(zip(batches, ids, strict=True))
        note_pages(cursor, self._snapshot_id, further)
        return further

    def _publish(self, cursor: DuckDBPyConnection, item: Fetched) -> None:
        """Put the staged pages in the place of the table, if they prove to be whole. Raises ``Unfit``."""
        again = item.task.batch_id
        rows, rejected = self._proven(cursor, page_of(item.task.batch).session, again)
        staged, table = quoted(self._staged), quoted(self._table)
        run(cursor, f"DELETE FROM {staged} WHERE batch_id = ?", [again])
        run(cursor, f"DELETE FROM {REJECTED} WHERE {of_table(self._staged)} AND batch_id = ?", [again])
        run(
            cursor,
            f"UPDATE {LEDGER} SET rows = 0, rejected = 0 WHERE {of_table(self._staged)} AND batch_id = ?",
            [again],
        )
        if versions.exists(cursor, self._table):
            [(at,)] = run(cursor, f"SELECT requested_at FROM {SNAPSHOTS} WHERE snapshot_id = ?", [self._snapshot_id])
            versions.add(cursor, self._table, self._staged, at)
        forget(cursor, self._table)
        run(cursor, f"DROP TABLE IF EXISTS {table}")
        run(cursor, f"ALTER TABLE {staged} RENAME TO {table}")
        for ours in (LEDGER, REJECTED):
            run(cursor, f"UPDATE {ours} SET table_name = ? WHERE {of_table(self._staged)}", [self._table])
        run(
            cursor,
            f"UPDATE {SNAPSHOTS} SET rows = ?, rejected = ?, published_at = ? WHERE snapshot_id = ?",
            [rows, rejected, utc_now(), self._snapshot_id],
        )

    def _proven(self, cursor: DuckDBPyConnection, session: Session | None, again: int) -> tuple[int, int]:
        """Return how many profiles there are, and how many were rejected. Raises ``Unfit``."""
        assert session is not None
        staged, mine = quoted(self._staged), f"{of_table(self._staged)} AND batch_id <> {again}"
        [(rows, ids)] = run(
            cursor, f"SELECT count(*), count(DISTINCT distinct_id) FROM {staged} WHERE batch_id <> ?", [again]
        )
        [(rejected,)] = run(cursor, f"SELECT coalesce(sum(rejected), 0)::BIGINT FROM {LEDGER} WHERE {mine}")
        if rows + rejected != session.total:
            raise Unfit(inconsistent(f"there are {rows + rejected:,} profiles in place of {session.total:,}"))
        if ids != rows:
            raise Unfit(inconsistent(f"{rows - ids:,} of {rows:,} profiles came twice, so others may be missing"))
        first = f"SELECT batch_id FROM {PAGES} WHERE snapshot_id = $snapshot AND page = 0 AND NOT is_again"
        before = f"SELECT distinct_id FROM {staged} WHERE batch_id IN ({first})"
        now = f"SELECT distinct_id FROM {staged} WHERE batch_id = $again"
        differing = run(
            cursor,
            f"SELECT count(*) FROM (({before} EXCEPT {now}) UNION ALL ({now} EXCEPT {before}))",
            {"snapshot": self._snapshot_id, "again": again},
        )
        if differing != [(0,)]:
            raise Unfit(inconsistent("the first page had other profiles when it was read again at the end"))
        return rows, rejected


def note_pages(cursor: DuckDBPyConnection, snapshot_id: str, pages: Iterable[tuple[Batch, int]]) -> None:
    """Enter which page each batch is, within a transaction of the caller."""
    noted = list(pages)
    run(
        cursor,
        f"INSERT OR REPLACE INTO {PAGES} SELECT unnest(?::BIGINT[]), ?, unnest(?::BIGINT[]), unnest(?::BOOLEAN[])",
        [
            [batch_id for _, batch_id in noted],
            snapshot_id,
            [page_of(batch).number for batch, _ in noted],
            [page_of(batch).is_again for batch, _ in noted],
        ],
    )


def forget(cursor: DuckDBPyConnection, table: str) -> None:
    """Delete what the database knows of the snapshot that a table has, within a transaction of the caller."""
    run(cursor, f"DELETE FROM {PAGES} WHERE batch_id IN (SELECT batch_id FROM {LEDGER} WHERE {of_table(table)})")
    for ours in (LEDGER, REJECTED):
        run(cursor, f"DELETE FROM {ours} WHERE {of_table(table)}")
    run(cursor, f"DELETE FROM {SNAPSHOTS} WHERE {of_table(table)} AND published_at IS NOT NULL")


def check_source(cursor: DuckDBPyConnection, table: str, source: ProfileSource) -> str:
    """Return why a table does not accept profiles of this source, or ``""``."""
    there = published(cursor, table)
    if there is None and versions.exists(cursor, table):
        # Its own rows are gone, and the earlier versions are still those of one source.
        there = next((each for each in snapshots(cursor, table) if each.is_published), None)
    if there is None:
        rows = run(cursor, f"SELECT count(*) FROM {quoted(table)}")[0][0] if columns_of(cursor, table) else 0
        return f"table {table!r} has {rows:,} rows that mpnb did not write" if rows else ""
    if there.source == source.as_text or not there.rows:
        return ""
    return f"table {table!r} holds {ProfileSource.from_text(there.source)}, but this call asks for {source}"
