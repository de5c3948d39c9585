"""What tests share: days, lines, and the one claim that every export must keep."""

from __future__ import annotations

import gzip
import json
import os
import random
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pytest

import mpnb
import mpnb._fetching.limiter
from mpnb import Quota
from mpnb._fetching.limiter import RateLimiter
from mpnb.sandbox import Sandbox

if TYPE_CHECKING:
    from pexpect.fdpexpect import fdspawn

# Long past, so that no batch is provisional unless a test makes it so.
START = date(2026, 1, 1)
# So wide that no test waits for it.
WIDE = mpnb.Quota(per_hour=10**6, per_second=1000)
# Seconds, and far more than anything takes that a test waits for.
PATIENCE = 60.0
# What DuckDB calls an events table's rows, in the form that as_served() gives.
Event = tuple[str, str]
# Runs a command; returns its status, standard output and standard error.
Run = Callable[..., tuple[int, str, str]]


def day(number: int) -> date:
    """Give a day by its number, 1 being the first of January 2026."""
    return START + timedelta(days=number - 1)


def until(is_true: Callable[[], object], seconds: float = 5.0) -> None:
    """Return when something has become true, and fail when it does not in time."""
    end = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < end, f"not true within {seconds} s"
        time.sleep(0.005)


def joined(*threads: threading.Thread, seconds: float = PATIENCE) -> None:
    """Wait until threads have ended, and fail when they do not in time."""
    end = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    assert [thread.name for thread in threads if thread.is_alive()] == [], f"not ended within {seconds} s"


def side_by_side(*works: Callable[[], object]) -> None:
    """Run functions, each in a thread of its own, and return when all have ended."""
    threads = [threading.Thread(target=work, daemon=True) for work in works]
    for thread in threads:
        thread.start()
    joined(*threads)


@contextmanager
def child(command: Sequence[Any], *, seconds: float = PATIENCE, **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """
    Run a command, and kill it at the end of the block.

    After so many seconds it is killed in any case: whoever reads from it, or waits for it, goes on then.
    """
    running = subprocess.Popen(command, **options)
    last_resort = threading.Timer(seconds, running.kill)
    last_resort.daemon = True
    last_resort.start()
    with running:
        try:
            yield running
        finally:
            last_resort.cancel()
            running.kill()


@contextmanager
def terminal(
    command: Sequence[str], *, rows: int = 50, columns: int = 100, timeout: float = 60, **options: Any
) -> Iterator[tuple[subprocess.Popen[bytes], fdspawn]]:
    """
    Run a command in a terminal of its own, and give its process and its screen.

    pexpect's own spawn forks, for which a system may refuse the memory where the tests' process has grown large.
    """
    import termios  # which Windows has not, and pexpect needs it

    from pexpect.fdpexpect import fdspawn

    ours, theirs = os.openpty()
    termios.tcsetwinsize(ours, (rows, columns))
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
    try:
        process = subprocess.Popen(command, start_new_session=True, **streams, **options)
    finally:
        os.close(theirs)
    with process, fdspawn(ours, encoding="utf-8", timeout=timeout) as screen:
        try:
            yield process, screen
        finally:
            if process.poll() is None:
                process.kill()


def event(name: object = "Sign Up", /, **properties: object) -> bytes:
    """Make a line as Mixpanel sends it."""
    return json.dumps({"event": name, "properties": {"time": 1767225600, "distinct_id": "a"} | properties}).encode()


def people(*ids: str) -> Callable[[], list[bytes]]:
    """Make a profile for each id."""
    return lambda: [json.dumps({"$distinct_id": each, "$properties": {"n": len(each)}}).encode() for each in ids]


def moved(line: bytes, to: date) -> bytes:
    """Move an event of the first of January 2026 to another day: an answer for other days is refused."""
    return line.replace(b"1767225600", b"%d" % datetime(to.year, to.month, to.day, tzinfo=UTC).timestamp())


def zipped(*members: bytes) -> bytes:
    """Compress each into a gzip member of its own."""
    return b"".join(gzip.compress(member, mtime=0) for member in members)


def canonical(properties: str | bytes) -> str:
    """Write JSON in one way, so that equal values are equal texts; integers of any length stay what they are."""
    return json.dumps(json.loads(properties), sort_keys=True)


def as_served(mp: Sandbox, days: Iterable[date]) -> Counter[Event]:
    """Count what the sandbox serves of these days."""
    values = (json.loads(line) for each in days for line in mp.lines(each))
    return Counter((v["event"], json.dumps(v["properties"], sort_keys=True)) for v in values)


def as_stored(rows: Iterable[Sequence[Any]]) -> Counter[Event]:
    """Count rows of ``event_name, properties`` in the same form."""
    return Counter((name, canonical(properties)) for name, properties in rows)


def days_of(first: date, last: date) -> list[date]:
    """List the days of a range, both ends included."""
    return [first + timedelta(days=n) for n in range((last - first).days + 1)]


def query(database: Path | str, sql: str) -> list[Any]:
    """Ask a database by a connection of its own, as a user would."""
    with duckdb.connect(str(database)) as con:
        return con.execute(sql).fetchall()


def statuses(result: mpnb.ExportResult) -> dict[str, int]:
    """Count the ledger's batches of a result by status."""
    return dict(result.sql("SELECT status, count(*) FROM mpnb_batches GROUP BY ALL").fetchall())


def all_or_nothing(result: mpnb.ExportResult, mp: Sandbox) -> None:
    """
    See that each batch is whole in the table, or has no row there.

    Every row belongs to a batch that is done; the rows of such a batch are just what the sandbox serves of its days,
    and the days of batches that are done or empty do not overlap.
    """
    rows = result.sql(f'SELECT batch_id, event_name, properties FROM "{result.table}"').fetchall()
    by_batch: dict[int, list[tuple[str, str]]] = {}
    for batch_id, name, properties in rows:
        by_batch.setdefault(batch_id, []).append((name, properties))
    seen: set[date] = set()
    for batch_id, status, first, last, count in result.sql(
        "SELECT batch_id, status, from_date, to_date, rows FROM mpnb_batches"
    ).fetchall():
        mine = by_batch.pop(batch_id, [])
        assert status in ("done", "empty", "failed", "cancelled")
        if status in ("failed", "cancelled"):
            assert not mine, f"batch {batch_id} is {status} and has rows"
            continue
        days = days_of(first, last)
        assert not seen & set(days), "a day is held twice"
        seen |= set(days)
        assert len(mine) == count
        assert as_stored(mine) == as_served(mp, days)
    assert not by_batch, "rows without a batch"


# When a job may run each morning, in UTC.
MORNING = datetime(2026, 7, 1, 6)


@dataclass
class WallClock:
    """The one clock of mpnb and its sandbox: it stands still until a test moves it."""

    now: datetime = MORNING

    def __call__(self) -> float:
        return self.now.replace(tzinfo=UTC).timestamp()


class Clock:
    """
    A clock of its own, which whoever waits moves on.

    A wait lasts as long as was asked or, as a real one may, less. ``seen`` is what each thread read last: the moment
    of its start, as the limiter sees it.
    """

    def __init__(self, now: float = 1e9, seed: int | None = None) -> None:
        self.now = now
        self.seen: dict[int, float] = {}
        self._random = random.Random(seed)
        self._early = seed is not None

    def __call__(self) -> float:
        self.seen[threading.get_ident()] = self.now
        return self.now

    def wait(self, condition: threading.Condition, seconds: float) -> None:
        self.now += seconds * (self._random.choice([0.1, 0.5, 1.0]) if self._early else 1.0)
        condition.wait(0)  # the others come in between

    @property
    def mine(self) -> float:
        return self.seen[threading.get_ident()]


class Recorded(RateLimiter):
    """A limiter with a clock of its own, which notes when each request started."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.starts: list[float] = []
        super().__init__(Quota(), clock=self.clock, wait=self.clock.wait)

    @classmethod
    def of(cls, mp: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Recorded:
        """Put one in the place of a sandbox's own limiter."""
        limiter = cls()
        monkeypatch.setitem(mpnb._fetching.limiter._limiters, (mp.url, mp.project_id, "export"), limiter)
        return limiter

    @contextmanager
    def slot(self, *args: Any, **options: Any) -> Iterator[float]:
        with super().slot(*args, **options) as start:
            self.starts.append(self.clock.mine)
            yield start
