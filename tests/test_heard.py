"""No thread of an export loses an exception: what any of them meets ends a batch, or the export, and says so."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

import mpnb
from mpnb._base.handover import Handover
from mpnb._storing.running import running
from tests._helpers import WIDE, all_or_nothing, day, joined, statuses
from tests._injected import OWNERS

# Half of their time they wait; a test waits for the process of its owner alone.
SIDE_BY_SIDE = 3
SECONDS = 500


@pytest.fixture(scope="module")
def injected(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[subprocess.CompletedProcess[str]]]]:
    """Run the owners that are asked for, some at a time, each in a process of its own."""
    environment = dict(os.environ)  # not what a test that runs meanwhile has changed

    def run(owner: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tests._injected", owner],
            cwd=Path(__file__).parents[1],
            env=environment | {"TMPDIR": str(tmp_path_factory.mktemp("injected"))},
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )

    calls = [item.callspec for item in request.session.items if hasattr(item, "callspec")]
    owners = [call.params["owner"] for call in calls if "owner" in call.params]
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        yield {owner: pool.submit(run, owner) for owner in owners}
        pool.shutdown(cancel_futures=True)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("owner", OWNERS)
def test_whatever_raises_in_the_engine_is_heard(
    owner: str, injected: dict[str, Future[subprocess.CompletedProcess[str]]]
) -> None:
    """Each function, at its first and its fourth call: nothing hangs, is lost or left, and the table completes."""
    said = injected[owner].result(SECONDS)
    assert said.returncode == 0, said.stdout + said.stderr
    found = re.search(r"(\d+) exports met their fault, 0 went wrong", said.stdout)
    assert found, said.stdout
    assert int(found[1]) >= 1


# --- threads that cannot be made -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("call", "made"), [("export", n) for n in range(3)] + [("start", n) for n in range(4)])
def test_no_more_threads(
    sandbox, export, database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, made: int
) -> None:
    """One error of one line, nothing registered, no folder, no thread; and the next call goes through."""
    mp = sandbox()
    export(mp, day(1), day(1)).close()
    start, left = threading.Thread.start, [made]

    def refused(self: threading.Thread) -> None:
        if self.name.startswith(("mpnb-writer", "mpnb-worker", "mpnb-coordinator", "mpnb-callbacks")):
            if not left[0]:
                raise RuntimeError("can't start new thread")
            left[0] -= 1
        start(self)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refused)
        ask = {"database": database, "credentials": mp.credentials, "quota": WIDE, "chunk_days": 1, "workers": 1}
        with pytest.raises(mpnb.PlanError, match="cannot be started: can't start new thread") as caught:
            getattr(mpnb, call)(day(1), day(4), on_batch=lambda _: None, **ask).result(1)  # only start(…) has one
    assert "\n" not in str(caught.value)
    assert not running
    with mpnb.open(database) as db:
        assert statuses(db) == {"done": 1}
    with export(mp, day(1), day(4)) as after:
        all_or_nothing(after, mp)
        assert after.skipped_batches == 1


def test_fewer_threads_than_workers_are_enough(sandbox, export, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    """The export is slower, and says so in the log."""
    start, left = threading.Thread.start, [2]

    def refused(self: threading.Thread) -> None:
        if self.name.startswith("mpnb-worker"):
            if not left[0]:
                raise RuntimeError("can't start new thread")
            left[0] -= 1
        start(self)

    monkeypatch.setattr(threading.Thread, "start", refused)
    mp = sandbox()
    with export(mp, day(1), day(9), workers=8) as result:
        all_or_nothing(result, mp)
    assert "only 2 of 8 workers could be started" in caplog.text


# --- a disk that is full ---------------------------------------------------------------------------------------------

FULL = """
import resource, signal, sys, warnings
import mpnb
from mpnb.sandbox import serve
from datetime import date

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
done = 0
def on_batch(progress):
    global done
    done += progress.status == "done"
    if progress.status == "done" and done == 3:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, -1))

with serve(events_per_day=300, latency=0.3) as mp:
    ask = dict(database=sys.argv[1], credentials=mp.credentials, quota=mpnb.Quota(10**6, 1000), chunk_days=1)
    first, last = date(2026, 1, 1), date(2026, 1, 8)
    result = mpnb.export(first, last, on_batch=on_batch, workers=1, **ask)
    assert result.successful_batches == 3, result
    missing = [(date(2026, 1, n), date(2026, 1, n)) for n in range(4, 9)]
    assert result.has_failures
    assert result.failed_date_ranges == missing
    assert result.failures.df().kind.tolist() == ["write"] * 5
    try:
        result.raise_for_failures()
    except mpnb.ExportError as error:
        assert "5 batches failed" in str(error)
    else:
        raise AssertionError("nothing was raised")
    with mpnb.open(sys.argv[1]) as there:
        assert there.failed_date_ranges == missing
        assert there.total_rows == mp.count(first, date(2026, 1, 3))
    resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
    with result.retry(on_batch=lambda _: None) as again:
        assert again.successful_batches == 5
        assert not again.has_failures
        assert again.total_rows == mp.count(first, last)
print("well")
"""


def test_a_disk_that_fills_in_mid_export_leaves_failures(tmp_path: Path) -> None:
    """What this export wanted and does not hold has failed, whatever the ledger could note; a retry fetches it."""
    said = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "x.duckdb")], capture_output=True, text=True, timeout=120
    )
    assert said.stdout == "well\n", said.stderr


# --- the queue -------------------------------------------------------------------------------------------------------


def test_nobody_waits_for_a_taker_who_is_gone() -> None:
    """Whoever waits for room goes on once the taker has ended, and is told so."""
    handover: Handover[int] = Handover(1)
    assert handover.put(1)
    said: list[bool] = []
    waiting = threading.Thread(target=lambda: said.append(handover.put(2)), daemon=True)
    waiting.start()
    handover.end()
    joined(waiting)
    assert said == [False]
    assert not handover.put(3)


def test_what_is_in_the_queue_is_taken_before_its_end() -> None:
    """In order, and then there is no more."""
    handover: Handover[int] = Handover(5)
    for number in range(3):
        handover.put(number)
    handover.finish()
    assert [handover.get(5) for _ in range(4)] == [0, 1, 2, None]
