"""A stop comes back in under two seconds from every state, keeps what is done, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import mpnb
import mpnb._exporting.engine
import mpnb._fetching.client
import mpnb._fetching.limiter
from mpnb.sandbox import Fault, Sandbox
from tests._helpers import WIDE, all_or_nothing, child, day, joined, query, statuses, until

BACK_IN = 2.0  # seconds, from a stop to its end


@dataclass
class State:
    """
    Describe a state to be stopped in.

    Attributes:
        serve: how the sandbox is served.
        options: of the export.
        is_reached: whether the export is in it now.
        done: batches that are done by then.
    """

    serve: dict[str, Any]
    options: dict[str, Any]
    is_reached: Callable[[Sandbox, list[mpnb.BatchProgress]], object]
    done: int = 0


def now(seen: list[mpnb.BatchProgress]) -> Counter[str]:
    """Count the batches by their status now."""
    return Counter({p.index: p.status for p in list(seen)}.values())


def are(**wanted: int) -> Callable[[Sandbox, list[mpnb.BatchProgress]], bool]:
    """Say whether so many batches have each status now."""
    return lambda mp, seen: all(now(seen)[status] == count for status, count in wanted.items())


def have_struck(count: int, done: int = 2) -> Callable[[Sandbox, list[mpnb.BatchProgress]], bool]:
    """Say whether so many faults struck, and so many batches are done."""
    return lambda mp, seen: mp.injected.total() >= count and now(seen)["done"] == done


def stuck(kind: str, **how: Any) -> list[Fault]:
    return [Fault(kind, day(n), times=None, **how) for n in (3, 4, 5)]


HANGS = {"faults": stuck("hang")}
STATES: dict[str, State] = {
    "before the first byte": State({"faults": stuck("hang_start")}, {}, have_struck(3), 2),
    "within a body": State(HANGS, {}, have_struck(3), 2),
    "at the end of a body": State({"faults": stuck("hang", at=1.0)}, {}, have_struck(3), 2),
    "in a slow body": State(
        {"bytes_per_second": 500, "events_per_day": 300}, {}, lambda mp, seen: sum(r.bytes for r in mp.requests) > 100
    ),
    "waiting for the hour": State({}, {"quota": mpnb.Quota(per_hour=2)}, are(done=2, waiting=3), 2),
    "waiting for a place": State(
        {"faults": [Fault("hang", times=None)]}, {"quota": mpnb.Quota(10**6, 1000, concurrent=1)}, are(waiting=4)
    ),
    "waiting for the next attempt": State(
        {"faults": stuck("status", status=503, retry_after=600)}, {}, are(done=2, waiting=3), 2
    ),
    "waiting after a 429": State(
        {"faults": [Fault("status", day(3), status=429, retry_after=600)]}, {"workers": 1}, are(done=2, waiting=1), 2
    ),
    "waiting for room": State(HANGS, {"spool": mpnb.Spool(max_bytes=1), "workers": 2}, have_struck(1), 2),
}


def stopped_as_it_should(mp: Sandbox, database: Path, done: int, total: int = 5) -> None:
    """See that the file holds what was done and nothing else, and that the same call goes on from there."""
    by_status = dict(query(database, "SELECT status, count(*) FROM mpnb_batches GROUP BY ALL"))
    assert set(by_status) <= {"done", "cancelled"}
    assert by_status.get("done", 0) >= done
    assert by_status["cancelled"] >= 1
    assert sum(by_status.values()) == total
    mp.clear_faults()
    mp._world.bytes_per_second = None  # its pace was part of what was stopped
    mpnb._fetching.limiter._limiters.clear()  # and so was a cool-down
    with mpnb.export(
        day(1), day(total), credentials=mp.credentials, quota=WIDE, database=database, chunk_days=1
    ) as result:
        assert statuses(result) == {"done": total}
        assert result.skipped_batches == by_status.get("done", 0)
        assert result.total_rows == mp.count(day(1), day(total))
        all_or_nothing(result, mp)


@contextlib.contextmanager
def in_time() -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < BACK_IN


@pytest.mark.parametrize("name", STATES)
def test_cancel_comes_back_at_once(sandbox, start, database, name: str) -> None:
    """Whatever it waits for: ``result()`` raises ``ExportCancelled`` with what was done until then."""
    state = STATES[name]
    mp = sandbox(**state.serve)
    seen: list[mpnb.BatchProgress] = []
    job = start(mp, day(1), day(5), on_batch=seen.append, **state.options)
    until(lambda: state.is_reached(mp, seen))
    with in_time():
        job.cancel()
        with pytest.raises(mpnb.ExportCancelled, match=r"of 5 batches are in .*; run the same call again") as error:
            job.result(30)
    with error.value.result as result:
        assert result.successful_batches >= state.done
        assert result.successful_batches + result.cancelled_batches == 5
        assert result.failed_batches == 0
        assert result.failures.select("status, kind").distinct().fetchall() == [("cancelled", "cancelled")]
        all_or_nothing(result, mp)
    assert job.cancelled()
    assert job.done()
    stopped_as_it_should(mp, database, state.done)


class Interrupt:
    """Press Ctrl-C once the export has reached a state, and measure how long the main thread takes to come back."""

    def __init__(
        self, is_reached: Callable[[], object], times: int = 1, number: signal.Signals = signal.SIGINT
    ) -> None:
        self._is_reached = is_reached
        self._times = times
        self._number = number
        self.at = 0.0

    def _press(self) -> None:
        until(self._is_reached, 10)
        self.at = time.monotonic()
        main = threading.main_thread().ident
        assert main is not None
        for _ in range(self._times):
            signal.pthread_kill(main, self._number)

    @contextlib.contextmanager
    def expected(
        self, kind: type[BaseException] = KeyboardInterrupt, words: str = "of 5 batches are in"
    ) -> Iterator[None]:
        thread = threading.Thread(target=self._press, daemon=True)
        thread.start()
        try:
            with pytest.raises(kind, match=words):
                yield
            assert self.at
            assert time.monotonic() - self.at < BACK_IN
        finally:
            joined(thread)


@pytest.mark.parametrize("name", STATES)
def test_ctrl_c_comes_back_at_once(sandbox, export, database, name: str) -> None:
    """``export`` raises ``KeyboardInterrupt``, which says what is kept; the file is closed and valid."""
    state = STATES[name]
    mp = sandbox(**state.serve)
    seen: list[mpnb.BatchProgress] = []
    with Interrupt(lambda: state.is_reached(mp, seen)).expected():
        export(mp, day(1), day(5), on_batch=seen.append, **state.options)
    stopped_as_it_should(mp, database, state.done)


def test_ctrl_c_again_and_again_changes_nothing(sandbox, export, database) -> None:
    """An impatient user gets the same orderly end."""
    mp = sandbox(**HANGS)
    seen: list[mpnb.BatchProgress] = []
    with Interrupt(lambda: have_struck(3)(mp, seen), times=20).expected():
        export(mp, day(1), day(5), on_batch=seen.append)
    stopped_as_it_should(mp, database, 2)


@pytest.mark.parametrize("status", ["queued", "fetching", "writing", "done"])
def test_ctrl_c_within_a_callback(sandbox, export, database, status: str) -> None:
    """The user's own code is where an interrupt may come, too."""
    mp = sandbox(faults=[Fault("hang", day(8), times=None)])  # so that it cannot be done before

    def press(progress: mpnb.BatchProgress) -> None:
        if progress.status == status:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        export(mp, day(1), day(8), workers=1, on_batch=press)
    stopped_as_it_should(mp, database, 0, total=8)


@pytest.mark.parametrize("call", ["start", "export"])
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_while_it_starts(sandbox, start, export, database, monkeypatch, call: str, times: int) -> None:
    """Between the ledger, the threads and the job: what was started is ended, and the file is free."""
    mp = sandbox(**HANGS)
    launch = mpnb._exporting.launch._launch

    def press(*args: object, **options: object) -> mpnb.ExportJob:
        signal.raise_signal(signal.SIGINT)
        job = launch(*args, **options)  # type: ignore[arg-type]
        for _ in range(times):
            signal.raise_signal(signal.SIGINT)
        return job

    monkeypatch.setattr(mpnb._exporting.launch, "_launch", press)
    with pytest.raises(KeyboardInterrupt):
        {"start": start, "export": export}[call](mp, day(1), day(5))
    monkeypatch.undo()
    stopped_as_it_should(mp, database, 0)


def test_ctrl_c_while_a_relation_is_read(sandbox, export, database) -> None:
    """
    However it is read, it ends with ``KeyboardInterrupt``, and the relation reads on.

    DuckDB hears nothing in a ``repr``, and elsewhere by chance: so some ways, twice.
    """
    mp = sandbox()
    export(mp, day(1), day(1)).close()
    reads = [*("fetchall", "df", "fetchnumpy", "__repr__", "__len__", "show") * 2]
    code = f"""
import os, signal, threading, mpnb
result = mpnb.open({str(database)!r})
endless = result.sql("SELECT count(*) FROM range(10000000000000) t(i) WHERE hash(i) = 7")
def press():
    while not over.wait(0.2):  # once more where the query had not begun
        os.kill(os.getpid(), signal.SIGINT)
for read in {reads}:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    over = threading.Event()
    pressing = threading.Thread(target=press, daemon=True)
    try:
        pressing.start()
        getattr(endless, read)()
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        over.set()
        pressing.join()
        print(read, result.events.count("*").fetchall()[0][0])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    rows = mp.count(day(1), day(1))
    assert done.stdout.splitlines() == [f"{read} {rows}" for read in reads], done.stderr


def test_ctrl_c_while_a_retry_runs(sandbox, export, database) -> None:
    """``retry()`` is stopped as ``export()`` is, and the first result still reads."""
    mp = sandbox(faults=[Fault("status", day(n), status=400) for n in range(2, 6)])
    result = export(mp, day(1), day(5))
    for fault in HANGS["faults"]:
        mp.add_fault(fault)
    seen: list[mpnb.BatchProgress] = []
    with Interrupt(lambda: have_struck(4 + 3, done=1)(mp, seen)).expected(words="batches are in"):
        result.retry(on_batch=seen.append)
    assert result.total_rows == mp.count(day(1), day(2))
    result.close()
    stopped_as_it_should(mp, database, 2)


def test_another_exception_stops_it_as_well(sandbox, export, database) -> None:
    """An alarm whose handler raises, as time limits do: it passes, and nothing goes on behind the caller's back."""
    mp = sandbox(**HANGS)

    def expire(*_: object) -> None:
        raise TimeoutError("time is up")

    before = signal.signal(signal.SIGUSR1, expire)
    try:
        seen: list[mpnb.BatchProgress] = []
        with Interrupt(lambda: have_struck(3)(mp, seen), number=signal.SIGUSR1).expected(TimeoutError, "time is up"):
            export(mp, day(1), day(5), on_batch=seen.append)
    finally:
        signal.signal(signal.SIGUSR1, before)
    stopped_as_it_should(mp, database, 2)


# --- connecting ----------------------------------------------------------------------------------------------------


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[mpnb.Credentials]:
    """Give credentials for a server that never answers a connect: its queue of connections is full."""
    monkeypatch.setattr(mpnb._fetching.client, "CONNECT_SECONDS", 2.5)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(100):  # until one is left hanging
            client = stack.enter_context(socket.socket())
            client.settimeout(0.2)
            try:
                client.connect(server.getsockname())
            except TimeoutError:
                break
        else:
            pytest.fail("the queue of connections is never full")
        yield mpnb.Credentials("u", "s", "123", base_url=f"http://127.0.0.1:{server.getsockname()[1]}")


def connecting() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("mpnb-worker")]


@pytest.mark.parametrize("workers", [1, 4])
def test_cancel_while_it_connects(sandbox, start, nowhere, database, workers: int) -> None:
    """A connect cannot be woken: it is left behind, ends by its own time-out, and writes nothing."""
    job = start(sandbox(), day(1), day(5), credentials=nowhere, workers=workers)
    until(lambda: job.progress().in_flight == workers)
    with in_time():
        job.cancel()
        with pytest.raises(mpnb.ExportCancelled) as error:
            job.result(30)
    error.value.result.close()
    assert len(connecting()) <= workers
    before = query(database, "FROM mpnb_batches ORDER BY ALL")
    assert {row[0] for row in query(database, "SELECT status FROM mpnb_batches")} == {"cancelled"}
    until(lambda: not connecting(), 2.5 + 1)
    assert query(database, "FROM mpnb_batches ORDER BY ALL") == before


def test_ctrl_c_while_it_connects(sandbox, export, nowhere, database) -> None:
    """The main thread does not wait for the connect."""
    seen: list[mpnb.BatchProgress] = []
    with Interrupt(lambda: now(seen)["fetching"] == 2).expected():
        export(sandbox(), day(1), day(5), credentials=nowhere, workers=2, on_batch=seen.append)
    assert query(database, "SELECT DISTINCT status FROM mpnb_batches") == [("cancelled",)]


# --- writing -------------------------------------------------------------------------------------------------------

LARGE = {"events_per_day": 60_000}


@pytest.fixture(scope="module")
def large() -> Iterator[Sandbox]:
    """Serve days whose writing takes a while."""
    with mpnb.sandbox.serve(**LARGE) as mp:
        mp.lines(day(1)), mp.lines(day(2))
        yield mp


def test_cancel_while_workers_wait_for_the_writer(sandbox, start, monkeypatch) -> None:
    """A full queue holds them up while a long write goes on, which a cancel interrupts all the same."""
    monkeypatch.setattr(mpnb._storing.writer, "QUEUED_SPOOLS", 1)
    monkeypatch.setattr(mpnb._storing.writer, "TOGETHER_LINES", 1)
    land = mpnb._storing.table.Table.land

    def until_interrupted(self: Any, items: Any) -> Any:
        self._stopping.wait(30)
        return land(self, items)

    monkeypatch.setattr(mpnb._storing.table.Table, "land", until_interrupted)
    job = start(sandbox(), day(1), day(8), workers=8)
    until(lambda: [cell.status for cell in job.batches()] == ["writing"] * 8)
    began = time.monotonic()
    job.cancel()
    with job.outcome(30) as result:
        assert time.monotonic() - began < BACK_IN
        assert result.cancelled_batches == 8


@pytest.mark.parametrize(("grace", "rows"), [(0.0, False), (60.0, True)], ids=["interrupted", "let through"])
def test_cancel_while_it_writes(large, start, database, monkeypatch, grace: float, rows: bool) -> None:
    """A write gets a moment to be done; past it, it is interrupted, and nothing of the batch is in the table."""
    monkeypatch.setattr(mpnb._exporting.engine, "WRITE_GRACE_SECONDS", grace)
    job = start(large, day(1), day(2), chunk_days=2)
    table = job._run.engine._destination
    until(lambda: table._in_insert, 20)
    began = time.monotonic()
    job.cancel()
    result = job.outcome(60)
    if not rows:
        assert time.monotonic() - began < BACK_IN
    with result:
        assert result.total_rows == (large.count(day(1), day(2)) if rows else 0)
        assert result.sql("SELECT count(*) FROM events").fetchall() == [(result.total_rows,)]
        assert statuses(result) == {"done" if rows else "cancelled": 1}
    if rows:
        assert job.result(0) is result  # nothing was left to cancel
    with mpnb.export(day(1), day(2), credentials=large.credentials, quota=WIDE, database=database) as again:
        assert again.total_rows == large.count(day(1), day(2))
        assert again.sql("SELECT count(*) FROM events").fetchall() == [(again.total_rows,)]


def test_ctrl_c_while_it_writes(large, export, database) -> None:
    """Within its grace and the interrupt the main thread is back in time, whatever became of the batch."""
    writing = threading.Event()

    def on_batch(progress: mpnb.BatchProgress) -> None:
        if progress.status == "writing":
            writing.set()

    with Interrupt(writing.is_set).expected(words="batches are in"):
        export(large, day(1), day(2), on_batch=on_batch)
    rows = query(database, "SELECT from_date, status, rows FROM mpnb_batches ORDER BY 1")
    counts = {"done": lambda d: large.count(d, d), "cancelled": lambda d: 0}
    assert rows == [(d, status, counts[status](d)) for d, status, _ in rows]
    assert query(database, "SELECT count(*) FROM events") == [(sum(row[2] for row in rows),)]


# --- a process of its own ------------------------------------------------------------------------------------------

CHILD = """
import json, sys, time
from datetime import date
import mpnb

def show(progress):
    print(json.dumps([progress.index, progress.status]), flush=True)

try:
    mpnb.export("2026-01-01", "2026-01-05", database=sys.argv[1], chunk_days=1, on_batch=show,
                quota=mpnb.Quota(per_hour=int(sys.argv[2]), per_second=1000))
except KeyboardInterrupt as stop:
    print(json.dumps(["stopped", str(stop)]), flush=True)
"""


@pytest.mark.parametrize("state", ["reading", "quota"])
def test_sigint_from_outside(sandbox, database, tmp_path, state: str) -> None:
    """A real process that gets a real SIGINT: back in time, nothing left in its folder, and the file goes on."""
    mp = sandbox(**(HANGS if state == "reading" else {}))
    environment = {
        **os.environ,
        "MP_USERNAME": mp.credentials.username,
        "MP_SECRET": mp.credentials.secret,
        "MP_PROJECT_ID": mp.project_id,
        "MP_API_BASE_URL": mp.url,
    }
    command = [sys.executable, "-c", CHILD, str(database), str(10**6 if state == "reading" else 2)]
    with child(command, env=environment, stdout=subprocess.PIPE, text=True) as other:
        statuses_now: dict[int, str] = {}
        for line in other.stdout:
            index, status = json.loads(line)
            statuses_now[index] = status
            if Counter(statuses_now.values()) == {"done": 2, "fetching" if state == "reading" else "waiting": 3}:
                break
        until(lambda: mp.injected.total() == (3 if state == "reading" else 0))
        began = time.monotonic()
        other.send_signal(signal.SIGINT)
        *_, last = (json.loads(line) for line in other.stdout)
        assert time.monotonic() - began < BACK_IN
        assert last[0] == "stopped"
        assert "2 of 5 batches are in" in last[1]
        assert other.wait(5) == 0
    assert not list(tmp_path.glob("mpnb-spool-*"))
    stopped_as_it_should(mp, database, 2)
