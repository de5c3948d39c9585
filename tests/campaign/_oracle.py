"""The judge: what the file holds after a step, against what was served."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import duckdb

from mpnb._store import LEDGER, REJECTED
from mpnb.sandbox import BAD_LINES, Request
from tests.campaign._events import comparable
from tests.campaign._figures import Figures

TABLES = {"events", LEDGER, REJECTED}
# The columns that are copies of properties.
COPIES = {"distinct_id": "distinct_id", "device_id": "$device_id", "user_id": "$user_id", "insert_id": "$insert_id"}


class Oracle:
    """
    Judge one database file, step by step. It must be closed by everybody else meanwhile.

    Args:
        served: gives the events of a day in a version of the data, as ``multiset()`` counts them.
        days: the days that are asked for.
    """

    def __init__(
        self, path: Path, days: list[date], served: Callable[[date, int], Counter[str]], figures: Figures, name: str
    ) -> None:
        self._path = path
        self._days = days
        self._served = served
        self._figures = figures
        self._name = name
        self._versions: dict[int, int] = {}  # by batch id: a batch keeps its data for as long as it keeps its id

    def _violation(self, text: str) -> None:
        self._figures.violations.append(f"{self._name}: {text}")

    def judge(
        self,
        step: str,
        version: int,
        requests: tuple[Request, ...],
        *,
        complete: bool = False,
        crashed: bool = False,
    ) -> None:
        """
        Look at everything.

        Args:
            version: of the data that was served in this step.
            requests: all that came so far, for which answer became a batch.
            complete: whether nothing may be missing.
            crashed: whether the exporter was killed, and could not say what became of its batches.
        """
        try:
            with tempfile.TemporaryDirectory() as folder:
                # A copy: to open the file replays its log, and that is for the next export to do.
                for path in self._path.parent.glob(f"{self._path.name}*"):
                    shutil.copy(path, folder)
                with contextlib.closing(duckdb.connect(str(Path(folder) / self._path.name))) as con:
                    self._judge(con, step, version, requests, complete, crashed)
        except duckdb.Error as error:
            self._violation(f"{step}: the file does not read: {error}")

    def _judge(
        self,
        con: duckdb.DuckDBPyConnection,
        step: str,
        version: int,
        requests: tuple[Request, ...],
        complete: bool,
        crashed: bool,
    ) -> None:
        tables = {name for (name,) in con.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
        if crashed and LEDGER not in tables and not tables & {"events"}:
            return  # it died before it had made its tables
        if tables != TABLES:
            self._violation(f"{step}: the tables are {sorted(tables)}")
            return
        ledger = con.execute(
            "SELECT batch_id, from_date, to_date, status, rows, rejected FROM mpnb_batches ORDER BY from_date"
        ).fetchall()
        rows: dict[int, Counter[str]] = {}
        for batch_id, name, properties in con.execute("SELECT batch_id, event_name, properties FROM events").fetchall():
            rows.setdefault(batch_id, Counter())[comparable(name, properties or "{}")] += 1
        rejected: dict[int, Counter[bytes]] = {}
        for batch_id, line, in_events in con.execute("SELECT batch_id, line, in_events FROM mpnb_rejected").fetchall():
            rejected.setdefault(batch_id, Counter())[bytes(line)] += not in_events

        held_ids = {batch_id for batch_id, _, _, status, _, _ in ledger if status in ("done", "empty")}
        for batch_id in (rows.keys() | rejected.keys()) - held_ids:
            self._figures.duplicated += rows.get(batch_id, Counter()).total()
            self._violation(f"{step}: batch {batch_id} has rows or rejected lines, and is not done")
        held: Counter[date] = Counter()
        covered: set[date] = set()
        for batch_id, first, last, status, count, bad in ledger:
            days = [first + timedelta(days=n) for n in range((last - first).days + 1)]
            if status in ("failed", "cancelled") or (crashed and batch_id not in held_ids):
                covered.update(days)
                continue
            if batch_id not in held_ids:
                self._violation(f"{step}: {first} – {last} is left {status!r}")
                continue
            held.update(days)
            there = rows.get(batch_id, Counter())
            is_new = batch_id not in self._versions
            known = self._versions.setdefault(batch_id, version)
            wanted = sum((self._served(day, known) for day in days), Counter())
            self._figures.rows_compared += wanted.total()
            lost, more = (wanted - there).total(), (there - wanted).total()
            self._figures.lost += lost
            self._figures.duplicated += more
            if lost or more:
                self._violation(f"{step}: {first} – {last} lacks {lost} events and has {more} too many")
            lines = +rejected.get(batch_id, Counter())
            if (count, bad) != (there.total(), lines.total()):
                self._violation(
                    f"{step}: {first} – {last} has {there.total()} rows and {lines.total()} rejected lines, "
                    f"the ledger says {count} and {bad}"
                )
            if is_new:
                # The latest request for these days is the one that became the batch.
                asked = (r.fault or "" for r in reversed(requests) if (r.from_date, r.to_date) == (first, last))
                fault = next(asked, "")
                bad_lines = Counter(BAD_LINES) if "bad_lines" in fault.split("+") else Counter()
                if lines != bad_lines:
                    self._violation(f"{step}: {first} – {last} has {lines.total()} rejected lines after {fault!r}")
        for day in self._days:
            if held[day] > 1:
                self._violation(f"{step}: {day} is held by {held[day]} batches")
            if not held[day] and day not in covered:
                self._violation(f"{step}: {day} is neither held nor among the failures")
        if complete and (covered or set(held) != set(self._days)):
            missing = sorted(set(self._days) - set(held) | covered)
            self._violation(f"{step}: not complete without faults: {', '.join(map(str, missing))}")
        wrong = " OR ".join(f"{column} IS DISTINCT FROM (properties->>'/{key}')" for column, key in COPIES.items())
        [(copies,)] = con.execute(f"SELECT count(*) FROM events WHERE {wrong}").fetchall()
        if copies:
            self._violation(f"{step}: {copies} rows have a column that differs from its property")
