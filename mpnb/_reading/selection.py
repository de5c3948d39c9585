"""What a result covers, as conditions and queries: the days of a table, their batches and their rows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from duckdb import DuckDBPyConnection

from mpnb._base.sql import quoted, run
from mpnb._planning.batches import HeldBatch
from mpnb._planning.dates import DAY
from mpnb._storing import ledger
from mpnb._storing.database import LEDGER
from mpnb._storing.ledger import HELD, UNMET

# What the failure table says of batches whose export has ended and could not note how they did.
UNNOTED = "the export ended before it could record the result of this batch"
UNNOTED_HINT = "The ledger could not be written: free some disk space or fix the cause, then retry."

# All columns. What tells rows apart is a column like others in a view of a lake, and stays out as in a table.
EVERY = "* NOT LIKE 'rowid'"


@dataclass(frozen=True, slots=True)
class Selection:
    """
    The days and the table that a result is about.

    Attributes:
        table: the events table.
        days: first and last day, both inclusive; ``None`` for the whole ledger.
        fetched: ranges of days that the call had to fetch, whether or not the table held them.
        since: the first id of the batches for these days. Ids grow, so earlier batches have smaller ids.
    """

    table: str
    days: tuple[date, date] | None = None
    fetched: tuple[tuple[date, date], ...] = ()
    since: int = 0

    # --- batches -----------------------------------------------------------------------------------------------------

    def batches(self, statuses: str | None = None) -> str:
        """Return the condition for the ledger rows of batches with at least one of these days."""
        parts = [ledger.of_table(self.table)]
        if self.days:
            parts.append(f"from_date <= DATE '{self.days[1]}' AND to_date >= DATE '{self.days[0]}'")
        if statuses is not None:
            parts.append(f"status IN {statuses}")
        return " AND ".join(parts)

    def held(self, cursor: DuckDBPyConnection) -> list[HeldBatch]:
        """Return the batches that the table holds with at least one of these days, in date order."""
        batches = [batch for batch in ledger.compared_batches(cursor, self.table) if not batch.is_gone]
        if self.days is None:
            return batches
        first, last = self.days
        return [batch for batch in batches if batch.from_date <= last and batch.to_date >= first]

    @property
    def inside(self) -> str:
        """Return the condition for batches that the table holds and that have none but these days."""
        only = f" AND from_date >= DATE '{self.days[0]}' AND to_date <= DATE '{self.days[1]}'" if self.days else ""
        return self.batches(HELD) + only

    @property
    def across(self) -> str:
        """Return the condition for batches that the table holds and that have other days as well."""
        other = f"(from_date < DATE '{self.days[0]}' OR to_date > DATE '{self.days[1]}')" if self.days else "false"
        return f"{self.batches(HELD)} AND {other}"

    # --- rows --------------------------------------------------------------------------------------------------------

    @property
    def in_days(self) -> str:
        """Return the condition for rows whose ``time`` falls on these days."""
        if not self.days:
            return "true"
        return f"time >= TIMESTAMP '{self.days[0]}' AND time < TIMESTAMP '{self.days[1] + DAY}'"

    @property
    def events(self) -> str:
        """
        Return the query for the events of these days.

        They are selected by batch, since in projects older than 2023 events may lie outside their days; and by ``time``
        only if a batch has other days as well.
        """
        return self.rows_of(quoted(self.table))

    def rows_of(self, table: str, columns: str = EVERY) -> str:
        """Return the same query for other columns, or the table under another name. Both are SQL."""
        # Two scans: DuckDB skips the second where no batch reaches beyond, and an OR would take twice as long.
        rows = f"SELECT {columns} FROM {table} WHERE"
        inside = f"{rows} batch_id IN (SELECT batch_id FROM {LEDGER} WHERE {self.inside})"
        if not self.days:
            return inside
        across = f"batch_id IN (SELECT batch_id FROM {LEDGER} WHERE {self.across})"
        return f"{inside} UNION ALL {rows} {self.in_days} AND {across}"

    @property
    def outside(self) -> str:
        """Return the query for the rows of the same batches that ``events`` leaves out."""
        return (
            f"SELECT {EVERY} FROM {quoted(self.table)} WHERE ({self.in_days}) IS NOT TRUE"
            f" AND batch_id IN (SELECT batch_id FROM {LEDGER} WHERE {self.across})"
        )

    def count(self, cursor: DuckDBPyConnection) -> str:
        """Return the query for the number of ``events``. A lake's objects are read only where that is not known."""
        if not ledger.is_mirrored(cursor):
            return f"SELECT count(*) FROM ({self.events})"
        mine = f"batch_id IN (SELECT batch_id FROM {LEDGER} WHERE {self.inside})"
        inside = f"SELECT sum(rows) AS rows FROM ({ledger.rows_query(cursor, self.table)}) WHERE {mine}"
        if not self._reaches_beyond(cursor):
            return f"SELECT coalesce(rows, 0)::BIGINT FROM ({inside})"
        across = f"batch_id IN (SELECT batch_id FROM {LEDGER} WHERE {self.across})"
        rows = f"SELECT count(*) AS rows FROM {quoted(self.table)} WHERE {self.in_days} AND {across}"
        return f"SELECT coalesce(sum(rows), 0)::BIGINT FROM ({inside} UNION ALL {rows})"

    def count_outside(self, cursor: DuckDBPyConnection) -> str:
        """Return the query for the number of rows in ``outside``, of a lake likewise."""
        if ledger.is_mirrored(cursor) and not self._reaches_beyond(cursor):
            return "SELECT 0"
        return f"SELECT count(*) FROM ({self.outside})"

    def _reaches_beyond(self, cursor: DuckDBPyConnection) -> bool:
        """Whether a batch has other days as well."""
        return bool(run(cursor, f"SELECT 1 FROM {LEDGER} WHERE {self.across} LIMIT 1"))

    # --- what is missing ---------------------------------------------------------------------------------------------

    def unmet(self, ended: list[str]) -> str:
        """
        Return the query for ``batch_id``, ``day`` of the days that are missing, one row per failed batch.

        A day that was asked for is missing until the table holds it; a day that the call had to fetch is missing until
        it was fetched since. ``batch_id`` is null if no batch of the ledger accounts for the day, or if it is being
        fetched now. For the whole ledger, a day is missing if it failed and was not fetched since.

        Args:
            ended: exports that ended without a note in the ledger, see ``ledger.ended_exports``.
        """
        mine = self.batches()
        if not self.days:
            return ledger.unmet_days(mine, ended)
        first, last = self.days
        again = " OR ".join(f"day BETWEEN DATE '{a}' AND DATE '{b}'" for a, b in self.fetched)
        least = f"CASE WHEN {again} THEN {self.since} ELSE 0 END" if again else "0"
        days = f"SELECT CAST(DATE '{first}' + unnest(range({(last - first).days + 1}))::INTEGER AS DATE) AS day"
        return (
            f"SELECT failed.batch_id, day FROM ({days}) AS asked"
            f" LEFT JOIN ({ledger.held_days(mine)}) AS held USING (day)"
            f" LEFT JOIN ({ledger.failed_days(mine, ended)}) AS failed USING (day)"
            f" WHERE held.batch_id IS NULL OR held.batch_id < {least}"
        )

    def failures(self, ended: list[str]) -> str:
        """Return the query for the failure table, in date order."""
        rows = f"FROM {LEDGER} WHERE {self.batches()} AND status"
        return (
            "SELECT from_date, to_date, status, kind, http_status, message, attempts, retryable, hint, started_at,"
            f" finished_at, batch_id FROM (SELECT * {rows} IN {UNMET} UNION ALL SELECT * REPLACE ('failed' AS status,"
            f" 'write' AS kind, '{UNNOTED}' AS message, true AS retryable, '{UNNOTED_HINT}' AS hint)"
            f" {rows} NOT IN {HELD} AND status NOT IN {UNMET})"
            f" WHERE batch_id IN (SELECT batch_id FROM ({self.unmet(ended)}))"
            " ORDER BY from_date ASC, to_date ASC, batch_id ASC"
        )

    def unmet_ranges(self, cursor: DuckDBPyConnection) -> list[tuple[date, date]]:
        """Return the missing days as ranges, one or more per failed batch, in date order."""
        return [(first, last) for first, last, _ in self._unmet_ranges(cursor)]

    def unnoted_ranges(self, cursor: DuckDBPyConnection) -> list[tuple[date, date]]:
        """Return those of the missing ranges that no failed batch accounts for."""
        return [(first, last) for first, last, batch_id in self._unmet_ranges(cursor) if batch_id is None]

    def _unmet_ranges(self, cursor: DuckDBPyConnection) -> list[tuple[date, date, int | None]]:
        query = self.unmet(ledger.ended_exports(cursor, self.table))
        # Of failures that overlap, the latest says what the day waits for.
        days = run(cursor, f"SELECT max(batch_id), day FROM ({query}) GROUP BY day ORDER BY day ASC")
        ranges: list[tuple[date, date, int | None]] = []
        for batch_id, day in days:
            if ranges and ranges[-1][1:] == (day - DAY, batch_id):
                ranges[-1] = (ranges[-1][0], day, batch_id)
            else:
                ranges.append((day, day, batch_id))
        return ranges
