"""What an export says while it runs: to a callback, to a pipe, to a terminal."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import pty
import re
import struct
import sys
import termios
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

import mpnb
from mpnb._base.clock import today
from mpnb._planning.states import ENDED, STATUSES, JobProgress
from mpnb._showing import progress as _progress
from mpnb.sandbox import Fault
from tests._helpers import day, joined, until

# What may come after each status of a batch.
NEXT = {
    None: {"queued", "skipped"},
    "queued": {"waiting", "fetching", "cancelled", "failed"},
    "waiting": {"waiting", "fetching", "failed", "cancelled"},
    "fetching": {"fetching", "waiting", "writing", "failed", "cancelled", "queued"},
    "writing": {"done", "empty", "failed", "cancelled"},
    **{status: set() for status in ENDED},
}


class Recorder:
    """Note each call, its thread, and whether another was under way."""

    def __init__(self) -> None:
        self.calls: list[mpnb.BatchProgress] = []
        self.threads: set[threading.Thread] = set()
        self.overlapped = False
        self._busy = threading.Lock()

    def __call__(self, progress: mpnb.BatchProgress) -> None:
        self.overlapped |= not self._busy.acquire(blocking=False)
        self.calls.append(progress)
        self.threads.add(threading.current_thread())
        self._busy.release()

    def of(self, index: int) -> list[mpnb.BatchProgress]:
        return [p for p in self.calls if p.index == index]


FAULTS = [Fault("reset", day(2), times=2), Fault("status", day(3), status=500, times=None), Fault("half_line", day(5))]


def check_calls(seen: Recorder, total: int) -> None:
    """See that each batch went the way it should, in order, to an end."""
    assert not seen.overlapped
    assert {p.index for p in seen.calls} == set(range(total))
    for index in range(total):
        before = None
        for progress in seen.of(index):
            assert progress.status in NEXT[before]
            assert progress.total == total
            before = progress.status
        assert before in ENDED
        assert sum(p.status in ENDED for p in seen.of(index)) == 1


def test_export_calls_back_in_the_calling_thread(sandbox, export) -> None:
    """One call at a time, each batch in its order, here and nowhere else."""
    mp = sandbox(faults=FAULTS)
    seen = Recorder()
    export(mp, day(1), day(6), on_batch=seen)
    check_calls(seen, 6)
    assert seen.threads == {threading.main_thread()}


def test_start_calls_back_in_one_thread_of_its_own(sandbox, start) -> None:
    """The same calls, in a thread that is neither the caller's nor a worker's."""
    mp = sandbox(faults=FAULTS)
    seen = Recorder()
    job = start(mp, day(1), day(6), on_batch=seen)
    job.result(30)
    until(lambda: {p.index for p in list(seen.calls) if p.status in ENDED} == set(range(6)))
    check_calls(seen, 6)
    assert [thread.name for thread in seen.threads] == ["mpnb-callbacks"]


def test_what_a_callback_is_told_is_true(sandbox, export) -> None:
    """Dates, rows, bytes, attempts, errors and kinds are those of the ledger, and nobody can change them."""
    mp = sandbox(faults=FAULTS)
    seen = Recorder()
    result = export(mp, day(1), day(6), on_batch=seen)
    last = [seen.of(index)[-1] for index in range(6)]
    ledger = result.batches.select("from_date, to_date, status, rows, attempts, http_status, kind, hint").fetchall()
    assert [
        (p.from_date, p.to_date, p.status, p.rows, p.attempt, p.http_status, p.kind, p.hint or None) for p in last
    ] == ledger
    assert [p.bytes for p in last if p.status == "done"] == [
        size for (size,) in result.batches.filter("status = 'done'").select("bytes").fetchall()
    ]
    assert last[2].error is not None
    assert "An internal error occurred" in last[2].error
    waits = [p for p in seen.of(1) if p.status == "waiting"]
    assert [(p.attempt, p.error is not None, p.until is not None) for p in waits] == [(1, True, True), (2, True, True)]
    with pytest.raises(dataclasses.FrozenInstanceError):
        last[0].rows = 5  # type: ignore[misc]


def test_every_status_comes_up(sandbox, export) -> None:
    """Queued, waiting, fetching, writing, and each way to end but by a cancel."""
    mp = sandbox(lines=lambda d: [] if d == day(4) else None, faults=FAULTS)
    export(mp, day(1), day(1))
    seen = Recorder()
    export(mp, day(1), day(6), on_batch=seen)
    assert {p.status for p in seen.calls} == set(STATUSES) - {"cancelled"}


def test_a_callback_that_raises_is_told_once_and_harms_nothing(sandbox, export) -> None:
    """One warning, with its words; every batch is done."""
    with pytest.warns(RuntimeWarning, match="on_batch raised ZeroDivisionError: division by zero") as caught:
        result = export(sandbox(), on_batch=lambda progress: 1 / 0)
    assert len(caught) == 1
    assert result.successful_batches == 3


def test_nor_does_it_harm_where_warnings_are_errors(sandbox, export, start) -> None:
    """Not even the warning stops an export, here or in the background."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert export(sandbox(), on_batch=lambda progress: 1 / 0).successful_batches == 3
        assert start(sandbox(), table="other", on_batch=lambda progress: 1 / 0).result(30).successful_batches == 3


def test_a_slow_callback_holds_up_nothing(sandbox, start) -> None:
    """The export ends while the first call of the callback is still under way."""
    go_on = threading.Event()
    job = start(sandbox(), on_batch=lambda progress: go_on.wait(30))
    try:
        assert job.result(30).successful_batches == 3
    finally:
        go_on.set()


def test_a_callback_may_cancel(sandbox, start) -> None:
    """From within the dispatcher's own thread."""
    mp = sandbox(faults=[Fault("hang", day(n), times=None) for n in (2, 3)])
    jobs: list[mpnb.ExportJob] = []
    ready = threading.Event()

    def stop(progress: mpnb.BatchProgress) -> None:
        ready.wait(5)
        if progress.status == "done":
            jobs[0].cancel()

    jobs.append(start(mp, on_batch=stop))
    ready.set()
    with pytest.raises(mpnb.ExportCancelled) as error:
        jobs[0].result(10)
    assert error.value.result.successful_batches == 1


# --- a pipe --------------------------------------------------------------------------------------------------------


def test_a_pipe_gets_a_line_a_batch(sandbox, export, capfd) -> None:
    """Dates, status, events or the error; nothing is redrawn, nothing goes to standard output."""
    mp = sandbox(lines=lambda d: [] if d == day(4) else None, faults=FAULTS)
    export(mp, day(1), day(1))
    capfd.readouterr()
    export(mp, day(1), day(5))
    out, err = capfd.readouterr()
    assert out == ""
    lines = sorted(err.splitlines())
    assert len(lines) == 4
    for line, n, words in zip(
        lines,
        (2, 3, 4, 5),
        (
            rf"done: {mp.count(day(2), day(2))} events",
            "failed: HTTP 500: An internal error occurred",
            "empty: no events",
            rf"done: {mp.count(day(5), day(5))} events",
        ),
        strict=True,
    ):
        assert re.fullmatch(rf"mpnb: {day(n)} {words}, [\d.,]+ k?B, [\d.]+ s", line)


def test_a_pipe_is_told_of_long_waits_once(sandbox, export, capfd, monkeypatch) -> None:
    """One line for a cool-down that holds all batches."""
    monkeypatch.setattr(_progress, "WORTH_A_LINE", 0.5)
    mp = sandbox(faults=[Fault("status", day(1), status=429, retry_after=1.3)])
    export(mp, workers=1)
    waits = [line for line in capfd.readouterr().err.splitlines() if "waiting until" in line]
    assert len(waits) == 1


class Window:
    """Stand in for a stream, with no more than what print() needs, as a window does."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        """Keep it."""
        self.text += text
        return len(text)

    def flush(self) -> None:
        """Do nothing."""


def test_without_standard_error_nothing_shows(sandbox, export, monkeypatch) -> None:
    """As under pythonw or in a service: an export runs all the same, and so does its warning of a day to come."""
    for stream in (None, open(os.devnull, "w")):  # noqa: SIM115
        if stream:
            stream.close()
        monkeypatch.setattr(sys, "stderr", stream)
        with pytest.warns(UserWarning, match="is after today"):
            result = export(sandbox(), today(), today() + timedelta(days=1), database=":memory:")
        assert result.successful_batches == 1


def test_a_window_gets_a_line_a_batch(sandbox, export, monkeypatch) -> None:
    """What a window puts in place of standard error need not know whether it is a terminal."""
    monkeypatch.setattr(sys, "stderr", Window())
    export(sandbox())
    assert sys.stderr.text.count(" done: ") == 3


def test_a_pipe_that_nobody_reads_stops_nothing(sandbox, export, monkeypatch) -> None:
    """The log is lost, with a warning; the events are not."""
    reading, writing = os.pipe()
    os.close(reading)
    stream = os.fdopen(writing, "w", buffering=1)
    monkeypatch.setattr(sys, "stderr", stream)
    try:
        with pytest.warns(RuntimeWarning, match="BrokenPipeError"):
            assert export(sandbox()).successful_batches == 3
    finally:
        monkeypatch.undo()
        with pytest.raises(BrokenPipeError):
            stream.close()


# --- a terminal ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch, columns: int = 120) -> Iterator[list[str]]:
    """Let standard error be a pseudo-terminal, and give all that was written to it."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24 if columns else 0, columns, 0, 0))
    written: list[str] = []

    def read() -> None:
        with contextlib.suppress(OSError):  # the other side was closed
            while data := os.read(master, 65536):
                written.append(data.decode())

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    with os.fdopen(slave, "w") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        yield written
    joined(reader)
    os.close(master)


@pytest.mark.parametrize("columns", [120, 0])
def test_a_terminal_gets_one_line_that_is_redrawn(sandbox, export, monkeypatch, columns: int) -> None:
    """It ends with all batches, the events and the failures, and stays, also where no width is known."""
    mp = sandbox(faults=FAULTS)
    with terminal(monkeypatch, columns) as screen:
        result = export(mp, day(1), day(6))
    written = "".join(screen)
    assert written.count("\n") == 1
    last = written.rstrip().rpartition("\r")[2]
    assert last.startswith("6/6 batches |")
    assert f"{result.total_rows} events" in last
    assert "1 failed" in last


def test_a_terminal_is_left_in_order_when_all_fails(sandbox, export, monkeypatch) -> None:
    """The line ends before the traceback begins."""
    mp = sandbox(faults=[Fault("status", status=401, times=None)])
    with terminal(monkeypatch) as screen, pytest.raises(mpnb.ExportError) as error:
        export(mp)
    error.value.result.close()
    written = "".join(screen)
    assert written.endswith("\n")
    assert "3 failed" in written


def test_the_screen_follows_ten_times_a_second(sandbox, export, monkeypatch) -> None:
    """However many changes there are, the whole is drawn ten times a second, and once at the end."""
    ticks: list[JobProgress] = []
    monkeypatch.setattr(_progress, "choose", lambda: silent)
    silent = _progress.Silent(seen := Recorder())
    monkeypatch.setattr(silent, "tick", ticks.append)
    result = export(sandbox(events_per_day=3), last=day(200), chunk_days=1)
    assert len(seen.calls) >= 4 * 200
    assert len(ticks) <= 10 * result.duration_seconds + 3
    assert (ticks[-1].ended, ticks[-1].finished) == (200, True)


@pytest.mark.parametrize(
    ("faults", "quota", "why"),
    [
        ([], mpnb.Quota(per_hour=1), "for the quota"),
        ([Fault("status", status=503, retry_after=600, times=None)], None, "HTTP 503: .+"),
    ],
    ids=["the quota", "another attempt"],
)
def test_a_long_wait_says_until_when_and_why(sandbox, start, faults: list[Fault], quota: Any, why: str) -> None:
    """On a terminal, whose one line is all there is to read."""
    job = start(sandbox(faults=faults), **({"quota": quota} if quota else {}))
    try:
        until(lambda: job.progress().waiting_until and not job.progress().in_flight)
        assert re.search(rf", waiting until \d\d:\d\d:\d\d: {why}$", _progress.summary_line(job.progress()))
    finally:
        job.cancel()
        job.outcome(10).close()


# --- sums ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "seconds"),
    [
        ({"done": 2, "empty": 1, "failed": 1, "queued": 2}, 20.0),
        ({"done": 2, "empty": 1, "failed": 1, "queued": 2, "skipped": 100}, 20.0),
        ({"done": 2, "queued": 2, "skipped": 100}, None),
        ({"done": 4}, None),
    ],
)
def test_what_is_left_is_guessed_from_batches_that_took_time(counts: dict[str, int], seconds: float | None) -> None:
    """Those that were skipped took none, so that they say nothing of the others; nor do fewer than three."""
    sums = {"rows": 0, "bytes": 0, "in_flight": 0, "waiting_until": None, "finished": False}
    progress = JobProgress(total=sum(counts.values()), counts=counts, elapsed=40.0, **sums)
    assert progress.seconds_left == seconds


def test_a_jobs_progress_adds_up(sandbox, start) -> None:
    """Counts by status, rows and bytes, and an end."""
    mp = sandbox(faults=FAULTS)
    job = start(mp, day(1), day(6))
    result = job.result(30)
    p = job.progress()
    assert p.counts == {"done": 5, "failed": 1} == Counter(b.status for b in job.batches())
    assert (p.total, p.ended, p.finished, p.in_flight, p.waiting_until, p.seconds_left) == (6, 6, True, 0, None, None)
    assert p.rows == result.total_rows
    assert p.bytes >= sum(b.bytes for b in job.batches())
    assert p.elapsed == job.progress().elapsed == result.duration_seconds
