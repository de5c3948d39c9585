"""The quota is the project's: it holds across processes and restarts, and its file is never a condition."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock

import mpnb
import mpnb._fetching.history
import mpnb._fetching.limiter
from mpnb._fetching.history import LOCKS, History, Times
from mpnb._fetching.limiter import HOUR, RateLimiter
from mpnb.sandbox import Fault, Sandbox, serve
from tests._helpers import Clock, until
from tests.faults.conftest import answer_of, answers_of, asked

HOST = "https://data.mixpanel.com"


def most_in(window: float, starts: list[float]) -> int:
    """Count the most starts in any window of so many seconds."""
    return max(sum(first <= other < first + window for other in starts) for first in starts)


def limiter(clock: Clock, quota: mpnb.Quota | None = None) -> RateLimiter:
    """Make what a new process has: a limiter that knows what the file says, and nothing else."""
    return RateLimiter(quota or mpnb.Quota(), history=History(HOST, "1"), clock=clock, wait=clock.wait)


def start(limits: RateLimiter, count: int = 1) -> list[float]:
    """Start so many requests, and give when."""
    starts = []
    for _ in range(count):
        with limits.slot(lambda: False):
            starts.append(limits._clock())
    return starts


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Give the state folder of this test, which is not there yet."""
    return tmp_path / "state"


@pytest.fixture
def server() -> Iterator[Sandbox]:
    """Serve with Mixpanel's own limits."""
    with serve(events_per_day=20, quota=mpnb.Quota(), retry_after="seconds") as server:
        yield server


def test_two_processes_never_draw_a_429(server: Sandbox, tmp_path: Path, tell: Callable[[str], None]) -> None:
    """Two processes with ten workers each that export one project at once keep to three a second between them."""
    quota = {"per_hour": 60, "per_second": 3}
    answers = answers_of(
        *(asked(server, tmp_path / f"{n}.duckdb", f"2026-0{n}-01", f"2026-0{n}-14", quota=quota) for n in (1, 2))
    )
    assert [answer["done"] for answer in answers] == [14, 14]
    assert [request.status for request in server.requests] == [200] * 28
    most = most_in(1.0, [request.at for request in server.requests])
    assert most <= 3
    tell(f"two processes, one project: {len(server.requests)} requests, at most {most} in a second, 429s 0")


def test_two_processes_share_the_hour(tmp_path: Path) -> None:
    """Of a dozen an hour, two processes start a dozen between them, and say until when they wait for more."""
    quota = {"per_hour": 12, "per_second": 100}
    with serve(events_per_day=20, quota=mpnb.Quota(per_hour=12, per_second=100)) as server:
        answers = answers_of(
            *(asked(server, tmp_path / f"{n}.duckdb", f"2026-0{n}-01", f"2026-0{n}-10", quota=quota) for n in (1, 2))
        )
        assert [request.status for request in server.requests] == [200] * 12
    assert sum(answer["done"] for answer in answers) == 12
    assert any(answer["waits"] for answer in answers)


def test_a_restart_forgets_nothing(tmp_path: Path) -> None:
    """What another kernel asked in this hour shows in the plan of this one."""
    quota = mpnb.Quota(per_hour=12, per_second=100)
    with serve(events_per_day=20) as server:
        limits = {"per_hour": 12, "per_second": 100}
        answer = answer_of(asked(server, tmp_path / "a.duckdb", "2026-01-01", "2026-01-05", quota=limits))
        assert answer["done"] == 5
        plan = mpnb.plan("2026-01-06", "2026-01-07", credentials=server.credentials, quota=quota)
    assert plan.quota_left == 7


def test_the_hour_rolls_across_restarts() -> None:
    """However often a process is started anew, no second has more than three starts and no hour more than sixty."""
    clock = Clock()
    starts: list[float] = []
    for _ in range(30):
        starts += start(limiter(clock), 5)
    assert most_in(1.0, starts) <= 3
    assert most_in(HOUR, starts) <= 60


def test_a_plan_writes_nothing(state: Path) -> None:
    """To look at what is left of the hour leaves no file."""
    assert limiter(Clock()).left() == 60
    assert not state.exists()


def test_a_large_quota_is_not_written(state: Path) -> None:
    """Who may ask thousands of times an hour is not slowed by a file."""
    start(limiter(Clock(), mpnb.Quota(per_hour=5000, per_second=1000)), 3)
    assert not state.exists()


BROKEN = {
    "empty": b"",
    "cut": b'{"starts": [17000',
    "no JSON": b"\x00\xff\xfe",
    "another shape": b"[1, 2, 3]",
    "another type": b'{"starts": ["soon", null]}',
    "no number": b'{"starts": [NaN, Infinity]}',
    "deep": b"[" * 100_000,
    "4,000 digits": b'{"starts": [1' + b"0" * 4_000 + b"]}",
    "5,000 digits": b'{"starts": [1' + b"0" * 5_000 + b"]}",
    "a cool-down of 400 digits": b'{"starts": [], "cool_until": 1' + b"0" * 400 + b"}",
    "true": b'{"starts": [true]}',
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
def test_broken_state_is_no_state(content: bytes, state: Path) -> None:
    """A file with anything else in it counts as none, and the next start mends it."""
    clock = Clock()
    start(limiter(clock), 2)
    [file] = state.glob("quota-*.json")
    file.write_bytes(content)
    start(limiter(clock))
    assert limiter(clock).left() == 59


def _nothing(state: Path) -> None:
    """Leave the folder to be made."""


def _under_a_file(state: Path) -> None:
    """Put a file where the folder would be."""
    state.write_text("")


def _a_folder_for_a_file(state: Path) -> None:
    """Put folders where the files would be."""
    for n in range(LOCKS):
        (state / f"quota.{n}.lock").mkdir(parents=True)


@pytest.mark.parametrize("spoil", [_nothing, _under_a_file, _a_folder_for_a_file])
def test_state_that_cannot_be_kept_stops_no_export(
    spoil: Callable[[Path], None], server: Sandbox, state: Path, tmp_path: Path
) -> None:
    """Where the state folder cannot be used, the export runs and holds its quota by itself."""
    spoil(state)
    with mpnb.export(
        "2026-01-01",
        "2026-01-05",
        chunk_days=1,
        database=tmp_path / "a.duckdb",
        credentials=server.credentials,
        on_batch=lambda _: None,
    ) as result:
        assert result.successful_batches == 5
    assert {request.status for request in server.requests} == {200}


def test_a_state_folder_that_nobody_may_write_stops_no_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a read-only file system the limiter works on."""
    monkeypatch.setenv("MPNB_STATE_DIR", "/proc/mpnb" if os.path.isdir("/proc") else "/dev/null/mpnb")
    assert len(start(limiter(Clock()), 4)) == 4


def test_state_that_is_locked_is_not_waited_for(state: Path) -> None:
    """A lock that a stopped process holds costs half a second once, not at each request."""
    state.mkdir()
    with FileLock(state / History(HOST, "1")._lock):
        began = time.monotonic()
        assert len(start(limiter(Clock()), 10)) == 10
        assert time.monotonic() - began < 5 * mpnb._fetching.history.LOCK_SECONDS


def test_deleted_state_is_made_anew(state: Path) -> None:
    """Who deletes the file in mid-export takes nothing from the process that runs, which writes it all again."""
    clock = Clock()
    mine = limiter(clock)
    start(mine, 4)
    for file in state.iterdir():
        file.unlink()
    start(mine)
    assert limiter(clock).left() == 55


def test_a_clock_that_was_set_back_holds_nobody() -> None:
    """Times from the future are no reason to wait, neither the file's nor a process's own."""
    clock = Clock()
    mine = limiter(clock)
    start(mine, 60)
    mine.cool_down(2 * HOUR)
    clock.now -= 5 * HOUR
    for each in (mine, limiter(clock)):
        told: list[float | None] = []
        with each.slot(lambda: False, told.append):
            assert told == []


def test_a_429_teaches_that_others_ask_too() -> None:
    """A full hour that we did not fill counts as used, for every process, and places come back one by one."""
    clock = Clock()
    mine = limiter(clock)
    start(mine, 6)
    mine.cool_down(120, hour_is_full=True)
    other = limiter(clock)
    assert mine.left() == other.left() == 0
    before = clock.now
    starts = start(other, 5)
    assert starts[0] >= before + 120
    assert starts[-1] - starts[0] > 150


def test_a_cool_down_holds_every_process() -> None:
    """After a 429 the other kernel does not ask either."""
    clock = Clock()
    moment = limiter(clock).cool_down(50)
    assert start(limiter(clock)) == [moment]


def test_an_export_hands_on_what_a_429_taught(server: Sandbox, tmp_path: Path) -> None:
    """When a colleague used the hour up, the export waits and says until when, and plans know that nothing is left."""
    server.add_fault(Fault("status", status=429))
    job = mpnb.start(
        "2026-01-01", "2026-01-01", database=tmp_path / "a.duckdb", credentials=server.credentials, workers=1
    )
    until(lambda: job.batches()[0].until)
    waits = job.batches()[0].until
    assert waits is not None
    assert 60 < waits - time.time() < 200
    left = RateLimiter(mpnb.Quota(), history=History(server.url, server.project_id)).left()
    job.cancel()
    with pytest.raises(mpnb.ExportCancelled) as raised:
        job.result(30)
    raised.value.result.close()
    assert left == 0


def test_files_of_projects_long_unasked_go(state: Path) -> None:
    """Each project leaves one small file, and that not for ever."""
    start(limiter(Clock()))
    [old] = state.glob("quota-*.json")
    os.utime(old, (time.time() - 10 * HOUR, time.time() - 10 * HOUR))
    History(HOST, "2").write(Times((1.0,)))
    assert [path.name for path in state.glob("quota-*.json")] == [History(HOST, "2")._name]


def test_only_the_owner_reads_the_state(state: Path) -> None:
    """Folder and files are the user's alone, whatever the umask."""
    before = os.umask(0)
    try:
        start(limiter(Clock()))
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in state.iterdir()} == {0o600}
    assert stat.S_IMODE(state.stat().st_mode) == 0o700


def test_a_start_that_is_withdrawn_counts_for_nobody() -> None:
    """No process that knew of it writes it again, and nothing takes another start's place."""
    clock = Clock()
    mine, theirs = limiter(clock), limiter(clock)
    with mine.slot(lambda: False) as wasted:
        start(theirs, 2)  # they have read the start, and write what they know
        mine.withdraw(wasted)
    start(theirs)
    start(mine)
    assert [each.left() for each in (mine, theirs, limiter(clock))] == [56, 56, 56]


def test_a_start_that_is_withdrawn_stays_so_when_the_file_is_lost(state: Path) -> None:
    """Whoever still has it for a start, and makes the file anew, is told again."""
    clock = Clock()
    mine, theirs = limiter(clock), limiter(clock)
    with mine.slot(lambda: False) as wasted:
        start(theirs)
        mine.withdraw(wasted)
    for file in state.iterdir():
        file.unlink()
    start(theirs)
    start(mine)
    assert [each.left() for each in (mine, theirs, limiter(clock))] == [57, 57, 57]


def test_whoever_waits_takes_a_start_that_another_process_gave_back() -> None:
    """With the hour spent, the wait ends within a minute of the moment at which a place is free."""
    clock = Clock()
    mine = limiter(clock, mpnb.Quota(per_hour=1))
    theirs = RateLimiter(mpnb.Quota(per_hour=1), history=History(HOST, "1"), clock=clock)
    with theirs.slot(lambda: False) as wasted:
        told: list[float | None] = []

        def hear(until: float | None) -> None:
            told.append(until)
            theirs.withdraw(wasted)

        before = clock.now
        with mine.slot(lambda: False, hear):
            assert clock.now - before <= mpnb._fetching.limiter.LOOK_AGAIN
    assert len(told) == 1


def test_a_file_of_an_older_version_counts(state: Path) -> None:
    """One that knows of no withdrawn starts."""
    clock = Clock()
    start(limiter(clock), 2)
    [file] = state.glob("quota-*.json")
    times = json.loads(file.read_text())
    del times["withdrawn"]
    file.write_text(json.dumps(times))
    assert limiter(clock).left() == 58
