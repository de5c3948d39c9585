"""Workers of an executor that fetch days into a lake: threads, processes, Dask's; what comes of it if one ends."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import pickle
import signal
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor, ThreadPoolExecutor
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import polars
import pytest

import mpnb
import mpnb._exporting.away
import mpnb._storing.errand
import mpnb._storing.folder
import mpnb._storing.writer
from mpnb._planning.address import address_of
from mpnb._planning.batches import Batch
from mpnb._planning.options import Spool
from mpnb._planning.request import Source
from mpnb._planning.resource import Events
from mpnb._storing.errand import Arrived, Errand, Missed, greet, run_errand
from mpnb._storing.mirror import object_key, objects_at
from mpnb._storing.objects import Over, Taken
from mpnb.sandbox import Fault, Sandbox
from tests._helpers import PATIENCE, WIDE, Recorded, as_served, as_stored, day, days_of, side_by_side, until
from tests.lake.conftest import FIRST, LAST

Fill = Callable[..., mpnb.ExportResult]
THREE = days_of(FIRST, LAST)


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> Callable[[Sandbox], mpnb.Credentials]:
    """Put a sandbox's credentials into the environment, where workers read them again."""

    def name(mp: Sandbox) -> mpnb.Credentials:
        own = mp.credentials
        words = {"USERNAME": own.username, "SECRET": own.secret, "PROJECT_ID": own.project_id, "API_BASE_URL": mp.url}
        for key, word in words.items():
            monkeypatch.setenv(f"MP_X{own.project_id}_{key}", word)
        return mpnb.Credentials.from_environment(f"X{own.project_id}")

    return name


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """Give two threads."""
    with ThreadPoolExecutor(2) as executor:
        yield executor


def spawned(processes: int) -> ProcessPoolExecutor:
    """Make processes that are no copies of this one."""
    return ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"))


def in_lake(lake: str) -> Any:
    """Count the events of a lake, as another reader sees them."""
    objects = objects_at(address_of(lake))
    frames = [polars.read_parquet(content) for each in objects.found("") if (content := objects.read(each.key))
              if each.key.endswith("events.parquet")]  # fmt: skip
    return as_stored(row for frame in frames for row in frame.select("event_name", "properties").rows())


class Odd(ThreadPoolExecutor):
    """
    An executor that does to each task what a test says, and whose futures never say that they run, as Dask's.

    Args:
        does: given the number of the errand from 1, and its work; greetings are done as they are.
    """

    def __init__(self, does: Callable[[int, Callable[[], Any]], Any]) -> None:
        super().__init__(20)
        self.does = does
        self.most = self.now = self.errands = 0
        self._count = threading.Lock()

    def submit(self, fn: Any, /, *args: Any, **options: Any) -> Future[Any]:
        future: Future[Any] = Future()
        with self._count:
            self.errands += fn is run_errand
            number = self.errands

        def run() -> None:
            try:
                outcome = self.does(number, lambda: fn(*args)) if fn is run_errand else fn(*args)
            except BaseException as error:
                self._left()
                future.set_exception(error)
            else:
                self._left()
                if outcome is not NEVER:
                    future.set_result(outcome)

        with self._count:
            self.now += 1
            self.most = max(self.most, self.now)
        super().submit(run)
        return future

    def _left(self) -> None:
        with self._count:
            self.now -= 1


NEVER = object()


@pytest.fixture
def odd() -> Iterator[Callable[..., Odd]]:
    """Make executors that are odd."""
    with contextlib.ExitStack() as stack:
        yield lambda does: stack.enter_context(Odd(does))


# --- what arrives -----------------------------------------------------------------------------------------------------


def test_threads_bring_each_event_once(sandbox: Any, fill: Fill, lake: str, threads: ThreadPoolExecutor) -> None:
    """Into a folder and a bucket, past faults and lines that are no events, read here and by others alike."""
    bad = Fault("bad_lines", day=day(3), lines=(b"42", b'["an", "array"]'))
    mp = sandbox(faults=[Fault("terminated_inside", day=day(1), times=1), Fault("reset", day=day(2), times=1), bad])
    with fill(mp, lake, executor=threads, workers=2) as result:
        assert not result.has_failures
        assert as_stored(result.events.project("event_name, properties").fetchall()) == as_served(mp, THREE)
        rejected = result.rejected.fetchall()
        attempts = result.batches.project("attempts").order("attempts").fetchall()
    assert len(rejected) == 2
    assert attempts == [(1,), (2,), (2,)]
    assert in_lake(lake) == as_served(mp, THREE)
    with mpnb.open(lake) as db:
        assert db.rejected.fetchall() == rejected
    with fill(mp, lake, executor=threads) as again:
        assert again.skipped_batches == 3
    assert not [each.key for each in objects_at(address_of(lake)).found("_mpnb/runs") if "lines-" not in each.key]


def test_several_days_a_batch_replace_what_was_there(
    sandbox: Any, fill: Fill, folder: str, threads: ThreadPoolExecutor
) -> None:
    """One object a day all the same; days that are too large together come one by one."""
    mp = sandbox()
    fill(mp, folder, chunk_days=3, executor=threads).close()
    assert in_lake(folder) == as_served(mp, THREE)
    again = sandbox(project_id=mp.project_id, seed=5, faults=[Fault("too_large")])
    with fill(again, folder, chunk_days=3, mode="refresh", executor=threads) as result:
        assert result.batches.project("from_date, to_date, status").order("from_date").fetchall() == [
            (each, each, "done") for each in THREE
        ]
        assert as_stored(result.events.project("event_name, properties").fetchall()) == as_served(again, THREE)
    assert in_lake(folder) == as_served(again, THREE)


def test_days_that_replace_a_batch_one_by_one_leave_nothing_of_it(
    sandbox: Any, fill: Fill, folder: str, threads: ThreadPoolExecutor
) -> None:
    """What a worker has stored is stored: if another of the days fails, that day is missing, and the batch gone."""
    mp = sandbox()
    fill(mp, folder, chunk_days=3, executor=threads).close()
    refusing = [Fault("encoding_br", day=FIRST), Fault("too_large")]
    again = sandbox(project_id=mp.project_id, seed=5, faults=list(reversed(refusing)))
    with fill(again, folder, chunk_days=3, mode="refresh", executor=threads) as result:
        ledger = result.batches.project("from_date, to_date, status").order("from_date").fetchall()
        assert ledger == [(each, each, "failed" if each == FIRST else "done") for each in THREE]
        assert result.failed_date_ranges == [(FIRST, FIRST)]
    with fill(mp, folder, executor=threads) as mended:
        assert mended.skipped_batches == 2


def test_processes_get_the_name_of_the_credentials(
    sandbox: Any, fill: Fill, folder: str, named: Callable[[Sandbox], mpnb.Credentials]
) -> None:
    """Two projects by two processes; the secret is in no task. When one is killed, what landed is kept."""
    one, two = sandbox(), sandbox(faults=[Fault("hang_start", day=LAST, times=1)])
    accounts = [named(one), named(two)]
    secrets = [one.credentials.secret.encode(), two.credentials.secret.encode()]
    assert not [each for each in secrets if each in pickle.dumps(accounts)]
    with spawned(2) as executor:
        job = mpnb.start(
            FIRST, LAST, destination=folder, executor=executor, credentials=accounts, quota=WIDE, workers=2,
            on_batch=lambda _: None,
        )  # fmt: skip
        while sum(batch.status == "done" for batch in job.batches()) < 5:
            assert not job.done(), job.outcome(PATIENCE)
        os.kill(next(iter(executor._processes)), signal.SIGKILL)
        with job.outcome(PATIENCE) as result:
            [(message, hint)] = result.failures.project("message, hint").fetchall()
            assert "the executor is broken: BrokenProcessPool" in message
            assert "Make another executor, then run" in hint
            assert result.failed_date_ranges == [(LAST, LAST)]
    with spawned(1) as another, fill(one, folder, credentials=accounts, executor=another, workers=1) as result:
        assert result.skipped_batches == 5
    assert in_lake(folder) == as_served(one, THREE) + as_served(two, THREE)


# --- workers that end, hang or never begin ----------------------------------------------------------------------------


class Killed(Exception):
    """What an executor says of a worker that ended."""


@pytest.mark.parametrize("error", [Killed("worker-1"), CancelledError(), OSError("lost")])
def test_the_death_of_a_worker_is_a_failed_attempt(
    sandbox: Any, fill: Fill, folder: str, odd: Callable[..., Odd], error: Exception
) -> None:
    """Whether its task had come to its end or not, the batch is fetched again, four times in all."""
    mp = sandbox()

    def late(number: int, work: Callable[[], Any]) -> Any:
        if number == 1:
            work()
        if number < 3:
            raise error
        return work()

    with fill(mp, folder, FIRST, FIRST, executor=odd(late)) as result:
        assert result.batches.project("attempts, status").fetchall() == [(3, "done")]
    assert len(mp.requests) == 1
    assert in_lake(folder) == as_served(mp, [FIRST])

    def never(number: int, work: Callable[[], Any]) -> Any:
        raise error

    with pytest.raises(mpnb.ExportError) as raised:
        fill(mp, folder, LAST, LAST, executor=odd(never))
    with raised.value.result as result:
        [(kind, message, attempts)] = result.failures.project("kind, message, attempts").fetchall()
    assert (kind, attempts) == ("connection", 4)
    assert ("was cancelled" if isinstance(error, CancelledError) else f"ended with {type(error).__name__}") in message


def test_what_is_run_again_unasked_sends_nothing(sandbox: Any, fill: Fill, lake: str, odd: Callable[..., Odd]) -> None:
    """The second time the batch is there: it is the same object, and no request that the quota knows nothing of."""
    mp = sandbox(faults=[Fault("bad_lines", day=FIRST, lines=(b"42",))])
    etags = []

    def twice(number: int, work: Callable[[], Any]) -> Any:
        first = work()
        etags.extend(objects_at(address_of(lake)).found(f"project_id={mp.project_id}"))
        assert isinstance(first, Arrived)
        second = work()
        etags.extend(objects_at(address_of(lake)).found(f"project_id={mp.project_id}"))
        assert second.stored == first.stored
        return second

    with fill(mp, lake, FIRST, FIRST, executor=odd(twice)) as result:
        assert as_stored(result.events.project("event_name, properties").fetchall()) == as_served(mp, [FIRST])
        assert len(result.rejected.fetchall()) == 1
    assert len(mp.requests) == 1
    assert etags[0] == etags[1]


def test_a_day_that_somebody_else_has_stored_is_left(
    sandbox: Any, fill: Fill, lake: str, odd: Callable[..., Odd]
) -> None:
    """Nothing is asked for what could not be stored, and the failure says why; the same call finds it there."""
    mp = sandbox()

    def met(number: int, work: Callable[[], Any]) -> Any:
        key, other = object_key(mp.project_id, FIRST), object_key(mp.project_id, day(2))
        if number == 1:
            content = objects_at(address_of(lake)).read(other)
            assert content is not None
            objects_at(address_of(lake)).put(key, content, None)
        return work()

    fill(mp, lake, day(2), day(2)).close()
    sent = len(mp.requests)
    with pytest.raises(mpnb.ExportError, match="another export has stored or deleted it, and that stays") as raised:
        fill(mp, lake, FIRST, FIRST, executor=odd(met))
    with raised.value.result as result:
        assert result.batches.project("status, attempts").fetchall() == [("failed", 1)]
    assert len(mp.requests) == sent


def test_an_executor_that_begins_nothing_is_one_line(
    sandbox: Any, fill: Fill, folder: str, odd: Callable[..., Odd], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After five minutes; nothing was sent, and the same call goes on."""
    mp = sandbox()
    assert mpnb._exporting.away.STALLED_SECONDS == 300
    monkeypatch.setattr(mpnb._exporting.away, "STALLED_SECONDS", 0.3)
    monkeypatch.setattr(mpnb._exporting.away, "LOOK_SECONDS", 0.01)
    with pytest.raises(mpnb.ExportError, match=r"the executor has not begun a task within 0\.005 minutes") as raised:
        fill(mp, folder, executor=odd(lambda number, work: NEVER))
    with raised.value.result as result:
        assert len(result.failed_date_ranges) == 3
        assert "See that the executor has workers" in result.failures.project("hint").fetchall()[0][0]
    assert not mp.requests


def test_a_worker_that_is_at_it_is_waited_for(
    sandbox: Any, fill: Fill, lake: str, odd: Callable[..., Odd], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says so in the lake, and leaves nothing there."""
    mp = sandbox(faults=[Fault("slow_start", seconds=1.5)])
    monkeypatch.setattr(mpnb._exporting.away, "STALLED_SECONDS", 0.6)
    monkeypatch.setattr(mpnb._exporting.away, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(mpnb._storing.errand, "BEAT_SECONDS", 0.05)
    with fill(mp, lake, FIRST, FIRST, executor=odd(lambda number, work: work())) as result:
        assert result.successful_batches == 1
    assert not objects_at(address_of(lake)).found("_mpnb/runs")


def test_an_executor_that_was_shut_down_is_one_line(sandbox: Any, fill: Fill, folder: str) -> None:
    """It cannot be mended by us."""
    mp, executor = sandbox(), ThreadPoolExecutor(1)
    executor.shutdown()
    with pytest.raises(mpnb.ExportError, match="the executor is broken: RuntimeError: cannot schedule new futures"):
        fill(mp, folder, executor=executor)
    assert not mp.requests


def test_a_cancel_does_not_wait_for_workers(sandbox: Any, fill: Fill, folder: str, threads: ThreadPoolExecutor) -> None:
    """What they store afterwards is whole, and the same call goes on from it."""
    mp = sandbox(faults=[Fault("slow_start", seconds=2.0, times=1)])
    job = mpnb.start(
        FIRST, FIRST, destination=folder, executor=threads, credentials=mp.credentials, quota=WIDE,
        on_batch=lambda _: None,
    )  # fmt: skip
    until(lambda: mp.requests, PATIENCE)
    job.cancel()
    began = time.monotonic()
    with job.outcome(PATIENCE) as result:
        assert time.monotonic() - began < 1.5
        assert result.batches.project("status").fetchall() == [("cancelled",)]
    threads.shutdown(wait=True)
    assert in_lake(folder) == as_served(mp, [FIRST])
    with fill(mp, folder, FIRST, FIRST) as result:
        assert result.skipped_batches == 1
        assert not result.has_failures


def test_what_a_worker_has_stored_counts_after_a_cancel(
    sandbox: Any, folder: str, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is there, whatever the writer would have dropped."""
    mp = sandbox()
    jobs: list[mpnb.ExportJob] = []
    begun = threading.Event()
    put = mpnb._storing.writer.Writer.put

    def cancelled(self: Any, item: Any) -> bool:
        begun.wait(PATIENCE)
        jobs[0].cancel()
        return put(self, item)

    monkeypatch.setattr(mpnb._storing.writer.Writer, "put", cancelled)
    options: dict[str, Any] = {"credentials": mp.credentials, "quota": WIDE, "on_batch": lambda _: None}
    jobs.append(mpnb.start(FIRST, FIRST, destination=folder, executor=threads, **options))
    begun.set()
    with jobs[0].outcome(PATIENCE) as result:
        assert result.batches.project("status").fetchall() == [("done",)]
        assert as_stored(result.events.project("event_name, properties").fetchall()) == as_served(mp, [FIRST])


def test_a_process_without_the_credentials_says_so(
    sandbox: Any, fill: Fill, folder: str, named: Callable[[Sandbox], mpnb.Credentials], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not end over what it cannot read, which would break the pool."""
    mp = sandbox()
    account = named(mp)
    monkeypatch.delenv(f"MP_X{mp.project_id}_SECRET")
    with spawned(1) as executor:
        with pytest.raises(mpnb.ExportError, match=f"the executor cannot do this: .* set MP_X{mp.project_id}_SECRET"):
            fill(mp, folder, credentials=account, executor=executor, workers=1)
        assert executor.submit(os.getpid).result(PATIENCE)
    assert not mp.requests


def test_the_quota_comes_before_the_task(
    sandbox: Any, fill: Fill, folder: str, odd: Callable[..., Odd], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more tasks are under way than workers, and each after its slot: a server with the quota refuses none."""
    mp = sandbox()
    limiter = Recorded.of(mp, monkeypatch)
    begun: list[int] = []

    def noted(number: int, work: Callable[[], Any]) -> Any:
        begun.append(len(limiter.starts))
        return work()

    executor = odd(noted)
    fill(mp, folder, day(1), day(9), executor=executor, workers=2, quota=None).close()
    assert executor.most <= 2
    assert all(slots >= number for number, slots in enumerate(begun, 1))
    assert len(mp.requests) == len(limiter.starts) == 9


# --- what is refused --------------------------------------------------------------------------------------------------


def test_an_executor_that_cannot_be_is_refused(sandbox: Any, folder: str) -> None:
    """Before any request, by the argument's name."""
    mp = sandbox()
    forked = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork"))
    own = {"credentials": mp.credentials}
    with ThreadPoolExecutor(1) as threads, spawned(1) as processes:
        cases: list[tuple[str, str, dict[str, Any]]] = [
            ("executor", "needs a destination=", {"executor": threads}),
            ("executor", "must be a concurrent.futures.Executor", {"executor": 4, "destination": folder}),
            ("executor", "starts its processes by 'fork'", {"executor": forked, "destination": folder}),
            ("credentials", "secret would go along in clear", {"executor": processes, "destination": folder}),
        ]
        for argument, words, more in cases:
            for call in (mpnb.export, mpnb.start, mpnb.plan):
                with pytest.raises(mpnb.PlanError, match=words) as raised:
                    call(FIRST, LAST, **own, **more)
                assert raised.value.argument == argument
                assert mp.credentials.secret not in str(raised.value)
    assert not mp.requests
    assert not Path(folder).exists()


def test_workers_that_cannot_do_it_say_so_before_any_request(
    sandbox: Any, fill: Fill, folder: str, named: Callable[[Sandbox], mpnb.Credentials], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another version, an environment without the credentials or with others, a folder that is not theirs."""
    mp, other = sandbox(), sandbox()
    account, host = named(mp), mp.url
    sent = pickle.dumps(account)
    fill(mp, folder, FIRST, FIRST).close()
    here = address_of(folder)
    from mpnb import __version__

    asked = (here, mp.project_id, host, sent)
    assert greet(__version__, *asked) == ""
    assert "its workers have mpnb" in greet("0.0.1", *asked)
    elsewhere = address_of(str(Path(folder).parent / "elsewhere"))
    assert "a folder that all machines share" in greet(__version__, elsewhere, *asked[1:])
    monkeypatch.setenv(f"MP_X{mp.project_id}_PROJECT_ID", other.project_id)
    assert f"has project {other.project_id}" in greet(__version__, *asked)
    monkeypatch.delenv(f"MP_X{mp.project_id}_SECRET")
    assert f"set MP_X{mp.project_id}_SECRET in the environment" in greet(__version__, *asked)
    monkeypatch.setattr(mpnb._exporting.away, "__version__", "0.0.1")
    sent_before = len(mp.requests)
    with ThreadPoolExecutor(1) as threads, pytest.raises(mpnb.ExportError, match="the executor cannot do this: its"):
        fill(mp, folder, LAST, LAST, executor=threads)
    assert len(mp.requests) == sent_before


def test_a_disk_that_is_full_names_its_machine(sandbox: Any, fill: Fill, folder: str, tmp_path: Path) -> None:
    """A worker tells, and raises nothing."""
    mp = sandbox()
    fill(mp, folder, FIRST, FIRST).close()
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    source = Source(mp.project_id)
    errand = Errand(
        address_of(folder), Events(source), mp.credentials, "e", 1, Batch(LAST, LAST), 1, datetime(2026, 7, 1),
        ((object_key(mp.project_id, LAST), None),), Spool(blocked / "spool"), None,
    )  # fmt: skip
    missed = run_errand(errand)
    assert isinstance(missed, Missed)
    assert (missed.sent, missed.failure.kind, missed.failure.hits_all) == (False, "write", True)
    assert f"(on {socket.gethostname()})" in missed.failure.message
    assert pickle.loads(pickle.dumps(missed)) == missed
    assert len(mp.requests) == 1


def test_of_those_who_replace_a_file_at_once_one_does(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a conditional PUT: the other, however close behind, meets what the first has put."""
    objects, key = objects_at(address_of(folder)), object_key("7", FIRST)
    rename = mpnb._storing.folder.replace
    both, outcomes = threading.Barrier(2), []

    def slow(fresh: Path, path: Path) -> None:
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(0.3)  # for another who has compared as well, if anything lets it
        rename(fresh, path)

    def put(number: int) -> None:
        try:
            objects.put(key, b"%d" % number, Over(None))
            outcomes.append(number)
        except Taken:
            outcomes.append(-1)

    monkeypatch.setattr(mpnb._storing.folder, "replace", slow)
    side_by_side(partial(put, 1), partial(put, 2))
    [winner] = [each for each in outcomes if each >= 0]
    assert objects.read(key) == b"%d" % winner
    assert not list(Path(folder).rglob(".new-*"))


# --- Dask -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """Run two of Dask's workers, and give the cluster's client."""
    import dask
    import distributed

    settings = {"distributed.scheduler.allowed-failures": 0, "temporary-directory": str(tmp_path / "dask")}
    with dask.config.set(settings), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None, "silence_logs": logging.CRITICAL}
        with distributed.LocalCluster(host="127.0.0.1", **options) as local, distributed.Client(local) as client:
            yield client


def test_dasks_workers_may_be_killed(
    sandbox: Any, fill: Fill, bucket: str, named: Callable[[Sandbox], mpnb.Credentials], request: pytest.FixtureRequest
) -> None:
    """All of them, in mid-request: the batches are fetched again by others, and each event is there once."""
    mp = sandbox(faults=[Fault("hang", day=day(2), times=1), Fault("hang_start", day=day(5), times=1)])
    account = named(mp)
    client = request.getfixturevalue("cluster")  # its processes have the environment as it is now
    executor = client.get_executor(pure=False)
    job = mpnb.start(
        day(1), day(8), destination=bucket, executor=executor, credentials=account, quota=WIDE, workers=2,
        on_batch=lambda _: None,
    )  # fmt: skip
    until(lambda: all(any(str(day(number)) in str(each) for each in mp.requests) for number in (2, 5)), PATIENCE)
    for process in client.run(os.getpid).values():
        os.kill(process, signal.SIGKILL)
    with job.outcome(PATIENCE) as result:
        assert not result.has_failures
        assert result.sql("SELECT max(attempts) FROM mpnb_batches").fetchall() == [(2,)]
    assert in_lake(bucket) == as_served(mp, days_of(day(1), day(8)))
