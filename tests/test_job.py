"""An export in the background: its result, its end, and waiting for it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time

import pytest

import mpnb
from mpnb.sandbox import Fault
from tests._helpers import day, query, side_by_side, until

SLOW = {"latency": 0.4}


def test_start_returns_at_once_and_result_waits(sandbox, start) -> None:
    """The job runs by itself; its result is that of ``export``, the same each time."""
    mp = sandbox(**SLOW)
    began = time.monotonic()
    job = start(mp)
    assert not job.done()
    result = job.result(30)
    assert time.monotonic() - began >= 0.4
    assert job.done()
    assert not job.cancelled()
    assert job.result(0) is result is job.outcome(0)
    assert result.total_rows == mp.count(day(1), day(3))


def test_result_may_wait_for_a_while_only(sandbox, start) -> None:
    """A time-out ends the wait, not the job."""
    job = start(sandbox(**SLOW))
    with pytest.raises(TimeoutError):
        job.result(0.01)
    assert job.result(30).successful_batches == 3


def test_an_error_comes_from_result_each_time(sandbox, start) -> None:
    """Where nothing came through, with the result in it."""
    job = start(sandbox(faults=[Fault("status", status=401, times=None)]))
    for _ in range(2):
        with pytest.raises(mpnb.ExportError, match="every batch would fail") as error:
            job.result(30)
    assert error.value.result is job.outcome(0)


def test_cancel_after_the_end_does_nothing(sandbox, start) -> None:
    """What is done is done."""
    job = start(sandbox())
    result = job.result(30)
    job.cancel()
    job.cancel()
    assert not job.cancelled()
    assert job.result(0) is result


def test_cancel_may_be_called_by_many_at_once(sandbox, start) -> None:
    """Any thread, any number of times: one orderly end."""
    mp = sandbox(faults=[Fault("hang", times=None)])
    job = start(mp)
    until(lambda: mp.injected.total() == 3)
    side_by_side(*[job.cancel] * 10)
    with pytest.raises(mpnb.ExportCancelled) as error:
        job.result(5)
    assert error.value.result.cancelled_batches == 3


def test_a_cancel_at_any_moment_is_an_orderly_end(sandbox, start, database) -> None:
    """Right after the start, in the middle, near the end: each batch is whole or not there, and a resume completes."""
    mp = sandbox(latency=0.01)
    for tenth in range(12):
        job = start(mp, day(1), day(8), workers=3, mode="refresh", chunk_days=1)
        until(lambda job=job, tenth=tenth: job.done() or job.progress().ended >= tenth, 10)
        job.cancel()
        with job.outcome(5) as result:
            assert result.failed_batches == 0
            assert result.successful_batches + result.cancelled_batches == 8
        rows = query(database, "SELECT batch_id, count(*) FROM events GROUP BY ALL ORDER BY ALL")
        assert rows == query(database, "SELECT batch_id, rows FROM mpnb_batches WHERE status = 'done' ORDER BY ALL")
    assert start(mp, day(1), day(8)).result(30).total_rows == mp.count(day(1), day(8))


def test_repr_says_how_far_it_is(sandbox, start) -> None:
    """Running, done, cancelled."""
    mp = sandbox(faults=[Fault("hang", day(3), times=None)])
    job = start(mp)
    until(lambda: job.progress().ended == 2)
    assert repr(job) == f"<ExportJob running: 2 of 3 batches, {mp.count(day(1), day(2))} events>"
    job.cancel()
    job.outcome(5)
    assert repr(job).startswith("<ExportJob cancelled: 3 of 3 batches")


def test_two_jobs_run_side_by_side_in_one_file(sandbox, start) -> None:
    """Into tables of their own, from sources of their own."""
    one, two = sandbox(seed=1), sandbox(seed=2)
    jobs = [start(one, day(1), day(6), table="one"), start(two, day(1), day(6), table="two")]
    for job, mp in zip(jobs, (one, two), strict=True):
        result = job.result(30)
        assert result.total_rows == mp.count(day(1), day(6))
        assert result.sql(f"SELECT count(*) FROM {result.table}").fetchall() == [(result.total_rows,)]


def test_a_second_export_into_the_same_table_is_refused_while_one_runs(sandbox, start, export, database) -> None:
    """They would fetch the same days; afterwards it may."""
    mp = sandbox(faults=[Fault("hang", day(3), times=None)])
    job = start(mp)
    until(lambda: job.progress().ended == 2)
    for call in (start, export):
        with pytest.raises(mpnb.TableError, match="an export into table 'EVENTS' is running"):
            call(mp, table="EVENTS")
    job.cancel()
    job.outcome(5).close()
    mp.clear_faults()
    assert export(mp).successful_batches == 1


# --- await ---------------------------------------------------------------------------------------------------------


def test_a_job_can_be_awaited(sandbox, start) -> None:
    """Without holding up the event loop, by several at once, and again after its end."""
    mp = sandbox(**SLOW)

    async def both() -> int:
        job = start(mp)
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while not job.done():
                ticks += 1
                await asyncio.sleep(0.01)

        async def wait() -> mpnb.ExportResult:
            return await job

        one, two, _ = await asyncio.gather(wait(), wait(), tick())
        assert one is two is await job is job.result(0)
        return ticks

    assert asyncio.run(asyncio.wait_for(both(), 30)) > 5


def test_a_wait_that_is_cancelled_leaves_the_export_running(sandbox, start) -> None:
    """As a time-out of asyncio does."""
    job = start(sandbox(**SLOW))

    async def wait_shortly() -> None:
        async with asyncio.timeout(0.05):
            await job

    with pytest.raises(TimeoutError):
        asyncio.run(wait_shortly())
    assert not job.cancelled()
    assert job.result(30).successful_batches == 3


def test_an_awaited_job_raises_what_result_would(sandbox, start) -> None:
    """Cancelled and failed alike."""

    async def wait(job: mpnb.ExportJob) -> None:
        await job

    mp = sandbox(faults=[Fault("hang", times=None)])
    job = start(mp)
    until(lambda: mp.injected)
    job.cancel()
    with pytest.raises(mpnb.ExportCancelled):
        asyncio.run(asyncio.wait_for(wait(job), 30))
    failed = start(sandbox(faults=[Fault("status", status=401, times=None)]), table="other")
    with pytest.raises(mpnb.ExportError):
        asyncio.run(asyncio.wait_for(wait(failed), 30))


@pytest.mark.parametrize("workers", [1, 10])
def test_the_interpreter_ends_after_the_job(sandbox, database, workers: int) -> None:
    """A script that forgets to wait loses nothing: every batch that was planned is fetched first."""
    mp = sandbox(**SLOW)
    environment = {
        **os.environ,
        "MP_USERNAME": mp.credentials.username,
        "MP_SECRET": mp.credentials.secret,
        "MP_PROJECT_ID": mp.project_id,
        "MP_API_BASE_URL": mp.url,
    }
    code = (
        "import sys, mpnb; mpnb.start('2026-01-01', '2026-01-05', database=sys.argv[1], chunk_days=1,"
        " workers=int(sys.argv[2]), quota=mpnb.Quota(per_hour=10**6, per_second=1000))"
    )
    command = [sys.executable, "-c", code, str(database), str(workers)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert query(database, "SELECT status, count(*) FROM mpnb_batches GROUP BY ALL") == [("done", 5)]
