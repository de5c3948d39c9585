"""The judge: what a file holds after a step, against what was served and what the export said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import NamedTuple

import duckdb

from mpnb._base.sql import quoted
from mpnb._storing.database import LEDGER, REJECTED
from mpnb.sandbox import BAD_LINES, Request
from tests.campaign._clients import Said
from tests.campaign._events import comparable
from tests.campaign._figures import Figures
from tests.campaign._stage import copied
from tests.campaign._tables import Table

HELD = ("done", "empty")
ENDED = (*HELD, "failed", "cancelled")
# What breaks once often breaks for every day.
MOST_TOLD = 4
# The columns that are copies of properties.
COPIES = {"distinct_id": "distinct_id", "device_id": "$device_id", "user_id": "$user_id", "insert_id": "$insert_id"}


class Batch(NamedTuple):
    """Hold one row of the ledger."""

    batch_id: int
    table: str
    first: date
    last: date
    status: str
    rows: int
    rejected: int

    @property
    def days(self) -> list[date]:
        """Return its days."""
        return [self.first + timedelta(days=n) for n in range((self.last - self.first).days + 1)]


class Oracle:
    """Judge one database file, step by step. It must be closed by everybody else meanwhile."""

    def __init__(self, path: Path, tables: Sequence[Table], figures: Figures, name: str) -> None:
        self._path = path
        self._tables = tables
        self._figures = figures
        self._name = name
        self._step = ""
        self._told = 0  # violations of this step
        self._versions: dict[int, int] = {}  # by batch id: a batch keeps its data for as long as it keeps its id
        self._held: dict[str, set[date]] = {}  # by table: what is replaced is there until it is replaced

    def judge(
        self,
        step: str,
        *,
        said: Mapping[str, Said] | None = None,
        complete: bool = False,
        crashed: bool = False,
    ) -> None:
        """
        Look at everything.

        Args:
            said: by table, what the one export into it said at its end.
            complete: whether nothing may be missing.
            crashed: whether the exporter could not note what became of its batches: it was killed, or the disk failed.
        """
        self._step, self._told = step, 0
        try:
            with copied(self._path) as con:
                self._held = self._judge(con, said or {}, complete, crashed)
        except duckdb.Error as error:
            self._violation(f"the file does not read: {error}")

    def judge_image(self, step: str, acknowledged: Sequence[tuple[str, date]]) -> bool:
        """
        Look at what a crash would have left, which may refuse to open but never open with wrong rows.

        Args:
            acknowledged: tables and days that the export had reported as done before.

        Returns:
            Whether it opened.
        """
        self._step, self._told = step, 0
        try:
            with copied(self._path) as con:
                held = self._judge(con, {}, False, True)
        except duckdb.Error:
            return False
        for table, day in acknowledged:
            if day not in held.get(table, ()):
                self._figures.lost += 1
                self._violation(f"{table} had {day}, as the export had said, and has lost it")
        return True

    def at(self, path: Path) -> Oracle:
        """Return one for a copy of the file, which knows what this one does."""
        other = Oracle(path, self._tables, self._figures, self._name)
        other._versions, other._held = dict(self._versions), self._held
        return other

    def _violation(self, text: str) -> None:
        self._told += 1
        if self._told <= MOST_TOLD:
            self._figures.violations.append(f"{self._name}: {self._step}: {text}")

    def _judge(
        self, con: duckdb.DuckDBPyConnection, said: Mapping[str, Said], complete: bool, crashed: bool
    ) -> dict[str, set[date]]:
        """Judge all tables, and return the days that each holds."""
        there = {name for (name,) in con.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
        ours = {LEDGER, REJECTED}
        if LEDGER not in there and not complete:
            return {}  # nothing was begun, or it died before it had made its tables
        strange = {name for name in there - ours - {t.name for t in self._tables} if not name.startswith("mpnb_")}
        if strange or (ours - there and not (crashed and not complete)):
            self._violation(f"the tables are {sorted(there)}")
        batches = [
            Batch(*row)
            for row in con.execute(
                "SELECT batch_id, table_name, from_date, to_date, status, rows, rejected FROM mpnb_batches"
                " ORDER BY from_date, batch_id"
            ).fetchall()
        ]
        twice = [batch_id for batch_id, count in Counter(batch.batch_id for batch in batches).items() if count > 1]
        if twice:
            self._violation(f"ids stand for more than one batch: {twice[:5]}")
        held = {}
        for table in self._tables:
            mine = [batch for batch in batches if batch.table == table.name]
            if not mine and table.name not in there and not complete:
                continue  # no export into it has begun
            rows = self._rows(con, table) if table.name in there else {}
            rejected = self._rejected(con, table) if REJECTED in there else {}
            held[table.name] = self._days(table, mine, rows, rejected, complete, crashed)
            gone = self._held.get(table.name, set()) - held[table.name]
            if gone:
                self._figures.lost += 1
                self._violation(f"{table.name} held {', '.join(map(str, sorted(gone)))} before, and does not now")
            total = sum(rows.get(batch.batch_id, Counter()).total() for batch in mine if batch.status in HELD)
            if table.name in said:
                self._compare(said[table.name], table, held[table.name], total)
                there_now = {(batch.first, batch.last, batch.rows) for batch in mine if batch.status in HELD}
                for first, last, count in set(said[table.name].told) - there_now:
                    self._violation(f"{first} – {last} of {table.name} was told to be there with {count} rows")
        return held

    def _rows(self, con: duckdb.DuckDBPyConnection, table: Table) -> dict[int, Counter[str]]:
        rows: dict[int, Counter[str]] = {}
        query = f"SELECT batch_id, event_name, properties FROM {quoted(table.name)}"
        for batch_id, name, properties in con.execute(query).fetchall():
            rows.setdefault(batch_id, Counter())[comparable(name, properties or "{}")] += 1
        wrong = " OR ".join(f"{column} IS DISTINCT FROM (properties->>'/{key}')" for column, key in COPIES.items())
        [(copies,)] = con.execute(f"SELECT count(*) FROM {quoted(table.name)} WHERE {wrong}").fetchall()
        if copies:
            self._violation(f"{copies} rows of {table.name} have a column that differs from its property")
        return rows

    def _rejected(self, con: duckdb.DuckDBPyConnection, table: Table) -> dict[int, Counter[bytes]]:
        rejected: dict[int, Counter[bytes]] = {}
        query = "SELECT batch_id, line, in_events FROM mpnb_rejected WHERE table_name = ?"
        for batch_id, line, in_events in con.execute(query, [table.name]).fetchall():
            rejected.setdefault(batch_id, Counter())[bytes(line)] += not in_events
        return rejected

    def _days(
        self,
        table: Table,
        batches: list[Batch],
        rows: dict[int, Counter[str]],
        rejected: dict[int, Counter[bytes]],
        complete: bool,
        crashed: bool,
    ) -> set[date]:
        """Judge the days of one table, and return those that it holds."""
        done = {batch.batch_id for batch in batches if batch.status in HELD}
        for batch_id in (rows.keys() | rejected.keys()) - done:
            self._figures.duplicated += rows.get(batch_id, Counter()).total()
            self._violation(f"batch {batch_id} of {table.name} has rows or rejected lines, and is not done")
        held: Counter[date] = Counter()
        covered: set[date] = set()
        for batch in batches:
            if batch.status in HELD:
                held.update(batch.days)
                self._batch(table, batch, rows.get(batch.batch_id, Counter()), +rejected.get(batch.batch_id, Counter()))
                continue
            covered.update(batch.days)
            if batch.status not in ENDED and not crashed:
                self._violation(f"{batch.first} – {batch.last} of {table.name} is left {batch.status!r}")
        days = table.case.days
        for day in days:
            if held[day] > 1:
                self._violation(f"{day} of {table.name} is held by {held[day]} batches")
            if not held[day] and day not in covered and not crashed:
                self._violation(f"{day} of {table.name} is neither held nor among the failures")
        if complete and (covered or set(held) != set(days)):
            missing = sorted(set(days) - set(held) | covered)
            self._figures.stuck += 1
            self._violation(f"{table.name} is not complete without faults: {', '.join(map(str, missing))}")
        return set(held)

    def _batch(self, table: Table, batch: Batch, there: Counter[str], lines: Counter[bytes]) -> None:
        """Compare one batch with what was served when it was fetched."""
        where = f"{batch.first} – {batch.last} of {table.name}"
        is_new = batch.batch_id not in self._versions
        known = self._versions.setdefault(batch.batch_id, table.version)
        wanted = sum((table.served(day, known) for day in batch.days), Counter())
        self._figures.rows_compared += wanted.total()
        lost, more = (wanted - there).total(), (there - wanted).total()
        self._figures.lost += lost
        self._figures.duplicated += more
        if lost or more:
            self._violation(f"{where} lacks {lost} events and has {more} too many")
        if (batch.rows, batch.rejected) != (there.total(), lines.total()):
            self._violation(
                f"{where} has {there.total()} rows and {lines.total()} rejected lines, "
                f"the ledger says {batch.rows} and {batch.rejected}"
            )
        if is_new:
            fault = _fault_of(batch, table.server.requests)
            bad_lines = Counter(BAD_LINES) if "bad_lines" in fault.split("+") else Counter()
            if lines != bad_lines:
                self._violation(f"{where} has {lines.total()} rejected lines after {fault!r}")

    def _compare(self, said: Said, table: Table, held: set[date], rows: int) -> None:
        """Compare what an export said with what is there."""
        if not said.has_result:
            return
        if not said.total_rows == said.events == rows:
            self._violation(
                f"{table.name} has {rows} rows, total_rows is {said.total_rows}, and events has {said.events}"
            )
        silent = set(table.case.days) - held - set(said.failed_days)
        if silent:
            self._violation(f"{table.name} does not hold {min(silent)} and {len(silent) - 1} more, and nothing says so")
        if said.problems:
            self._violation(f"check() of {table.name} finds {', '.join(said.problems)}")


def _fault_of(batch: Batch, requests: Sequence[Request]) -> str:
    """Return what befell the answer that became a batch: that of the latest request for its days."""
    asked = (r.fault or "" for r in reversed(requests) if (r.from_date, r.to_date) == (batch.first, batch.last))
    return next(asked, "")
