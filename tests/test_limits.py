"""The limiter holds every request of a project to its quota."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import mpnb
import mpnb._fetching.limiter
from mpnb import Quota
from mpnb._base.clock import Cancelled
from mpnb._fetching.history import History
from mpnb._fetching.limiter import HOUR, RateLimiter, limiter_for
from mpnb.sandbox import Fault
from tests._helpers import PATIENCE, WIDE, Clock, Recorded, day, joined, people, side_by_side, until


def never() -> bool:
    return False


def most_in(window: float, starts: list[float]) -> int:
    """Count the most starts in any window of so many seconds."""
    starts = sorted(starts)
    return max(sum(first <= other < first + window for other in starts[i:]) for i, first in enumerate(starts))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("quota", [Quota(), Quota(per_hour=7, per_second=2), Quota(per_hour=100, per_second=1)])
def test_ten_threads_never_start_more_than_the_quota(quota: Quota, seed: int) -> None:
    """With ten threads and waits that end early, no second and no hour has more starts than it may have."""
    clock = Clock(seed=seed)
    limiter = RateLimiter(quota, clock=clock, wait=clock.wait)
    starts: list[float] = []

    def work() -> None:
        for _ in range(25):
            with limiter.slot(never):
                starts.append(clock.mine)

    side_by_side(*[work] * 10)
    assert len(starts) == 250
    assert most_in(1.0, starts) <= quota.per_second
    assert most_in(HOUR, starts) <= quota.per_hour


def test_the_quota_is_used_up() -> None:
    """Nobody waits longer than needed: sixty requests start within the first half minute of an hour."""
    clock = Clock()
    limiter = RateLimiter(Quota(), clock=clock, wait=clock.wait)
    starts = []
    for _ in range(61):
        with limiter.slot(never):
            starts.append(clock.mine - 1e9)
    assert starts[59] < 30
    assert HOUR <= starts[60] < HOUR + 10


@pytest.mark.parametrize("kind", [None, "reset", "half_line"])
def test_every_request_of_an_export_goes_by_the_limiter(sandbox, export, monkeypatch, kind: str | None) -> None:
    """Ten workers, attempts that fail and all: never more than three starts a second nor sixty an hour."""
    mp = sandbox(events_per_day=1, faults=[Fault(kind, day(n)) for n in range(1, 70, 3)] if kind else [])
    limiter = Recorded.of(mp, monkeypatch)
    assert export(mp, day(1), day(70), quota=None).successful_batches == 70
    assert len(limiter.starts) == len(mp.requests) == (93 if kind else 70)
    assert most_in(1.0, limiter.starts) <= 3
    assert most_in(HOUR, limiter.starts) <= 60


def test_a_server_that_counts_has_nothing_to_refuse(sandbox, export) -> None:
    """In real time, with the quota that Mixpanel gives by default, no request of ten workers draws a 429."""
    mp = sandbox(events_per_day=1, quota=Quota())
    result = export(mp, day(1), day(13), quota=None)
    assert result.successful_batches == 13
    assert {request.status for request in mp.requests} == {200}
    assert most_in(1.0, [request.at for request in mp.requests]) <= 3


@pytest.fixture
def new_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], None]:
    """Forget all that this machine knows of the hour, as on another one that gets the database."""

    def forget() -> None:
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another"))
        mpnb._fetching.limiter._limiters.clear()

    return forget


def test_a_new_machine_learns_of_the_hour_from_the_ledger(sandbox, export, start, database, new_machine) -> None:
    """Attempts that failed and other tables included: it sends what is left of the hour, and no request is refused."""
    quota = Quota(per_hour=8, per_second=100)
    mp = sandbox(quota=quota, faults=[Fault("reset", day(2), times=1)])
    export(mp, day(1), day(3), quota=quota)
    export(mp, day(1), day(1), quota=quota, table="other")
    assert len(mp.requests) == 5
    new_machine()
    options = {"credentials": mp.credentials, "database": database, "chunk_days": 1, "quota": quota}
    assert mpnb.plan(day(1), day(9), **options).quota_left == 3
    assert mpnb.plan(day(1), day(9), **options).quota_left == 3
    job = start(mp, day(1), day(9), quota=quota)
    until(lambda: job.progress().waiting_until and job.progress().counts.get("done", 0) == 3)
    job.cancel()
    job.outcome(PATIENCE).close()
    assert [request.status for request in mp.requests] == [200] * 8


def test_a_new_machine_learns_of_the_hour_from_a_lake(sandbox, tmp_path, new_machine) -> None:
    """Its objects say when they were fetched."""
    mp = sandbox()
    quota = Quota(per_hour=8, per_second=100)
    options = {"credentials": mp.credentials, "destination": tmp_path / "lake", "quota": quota}
    mpnb.export(day(1), day(3), on_batch=lambda _: None, **options).close()
    new_machine()
    assert mpnb.plan(day(1), day(9), **options).quota_left == 5


def test_a_new_machine_learns_of_queries_for_profiles(sandbox, fetch, database, new_machine) -> None:
    """The first page of each snapshot counts, once; requests for events are another quota's."""
    mp = sandbox(profiles=people("a", "b", "c"))
    quota = Quota(per_hour=9, per_second=100)
    fetch(mp, page_size=1, quota=quota)
    fetch(mp, page_size=1, quota=quota, table="other")
    new_machine()
    options = {"database": database, "credentials": mp.credentials, "quota": quota}
    assert mpnb.plan_profiles(**options).quota_left == 7
    assert mpnb.plan(day(1), day(1), **options).quota_left == 9


def test_what_is_known_is_not_learnt_again() -> None:
    """A request of this machine is the one that the ledger has; of others all attempts count, within their hour."""
    clock = Clock()
    limiter = RateLimiter(Quota(), history=History("http://one", "1"), clock=clock, wait=clock.wait)
    with limiter.slot(never), limiter.slot(never) as given_back:
        limiter.withdraw(given_back)
    mine = [(clock.now + 0.5, 1), (given_back + 0.1, 1)]
    clock.now += 600
    theirs = [(clock.now - 300, 4), (clock.now - 300, 1), (clock.now - 2 * HOUR, 1), (clock.now + HOUR, 1)]
    for _ in range(2):
        limiter.learn(mine + theirs)
        assert limiter.left() == 60 - 1 - 5


def test_concurrent_bounds_the_requests_in_flight() -> None:
    """Only so many are under way at once, and one that ends lets the next one in."""
    limiter = RateLimiter(Quota(per_hour=10**6, per_second=1000, concurrent=2))
    inside, most = threading.Semaphore(0), []
    leave = threading.Semaphore(0)

    def work() -> None:
        with limiter.slot(never):
            most.append(limiter.in_flight())
            inside.release()
            assert leave.acquire(timeout=PATIENCE)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(6)]
    for thread in threads:
        thread.start()
    for done in range(6):
        assert inside.acquire(timeout=5)
        if done < 4:
            until(lambda: limiter.in_flight() == 2)
        if done:
            leave.release()
    leave.release()
    joined(*threads)
    assert max(most) == 2
    assert limiter.in_flight() == 0


def test_a_slot_is_given_back_when_its_request_fails() -> None:
    """An exception in the slot takes no place with it."""
    limiter = RateLimiter(Quota(per_hour=10, per_second=10, concurrent=1))
    for _ in range(3):
        with pytest.raises(RuntimeError), limiter.slot(never):
            raise RuntimeError
    assert limiter.in_flight() == 0
    assert limiter.left() == 7


def test_a_cool_down_holds_all_and_the_longer_one_wins() -> None:
    """After a 429 nobody starts before the moment the server named, and a shorter one does not cut it."""
    clock = Clock()
    limiter = RateLimiter(WIDE, clock=clock, wait=clock.wait)
    assert limiter.cool_down(50) == clock.now + 50
    assert limiter.cool_down(20) == clock.now + 50
    told: list[float | None] = []
    with limiter.slot(never, told.append):
        assert clock.mine == 1e9 + 50
    assert told == [1e9 + 50]


@pytest.mark.parametrize(("seconds", "is_news"), [(0.9, False), (1.0, True)])
def test_short_waits_are_not_told(seconds: float, is_news: bool) -> None:
    """A wait of less than a second is the pace of three a second: nobody is told until when it lasts."""
    clock = Clock()
    limiter = RateLimiter(WIDE, clock=clock, wait=clock.wait)
    until_then = limiter.cool_down(seconds)
    told: list[float | None] = []
    with limiter.slot(never, told.append):
        assert clock.mine >= until_then
    assert told == ([until_then] if is_news else [])


@pytest.mark.parametrize("seconds", [-5.0, 0.0])
def test_a_cool_down_that_is_over_holds_nobody(seconds: float) -> None:
    """A date in the past is no reason to wait."""
    clock = Clock()
    limiter = RateLimiter(WIDE, clock=clock, wait=clock.wait)
    limiter.cool_down(seconds)
    with limiter.slot(never):
        assert clock.now == 1e9


@pytest.mark.parametrize("why", ["second", "hour", "cool down", "concurrent"])
def test_cancel_wakes_whoever_waits(why: str) -> None:
    """A wait of an hour ends at once when the export does, whatever it waits for."""
    quota = {"hour": Quota(per_hour=1), "concurrent": Quota(10**6, 1000, 1)}.get(why, Quota(10**6, 1))
    limiter = RateLimiter(quota)
    cancelled, waits, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        with pytest.raises(Cancelled), limiter.slot(lambda: waits.set() or cancelled.is_set()):
            pytest.fail("it started")
        ended.set()

    with limiter.slot(never):
        if why == "cool down":
            limiter.cool_down(3600)
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        assert waits.wait(5)
        cancelled.set()
        limiter.wake()
        assert ended.wait(0.9 if why == "second" else 5)
        joined(thread)


def test_a_clock_that_is_set_back_blocks_nobody_for_long() -> None:
    """Starts that lie in the future after the clock was set are forgotten."""
    clock = Clock()
    limiter = RateLimiter(Quota(), clock=clock, wait=clock.wait)
    for _ in range(60):
        with limiter.slot(never):
            pass
    clock.now -= 86400
    before = clock.now
    with limiter.slot(never):
        assert clock.now - before < HOUR + 10


def test_left_counts_the_rolling_hour() -> None:
    """What started an hour ago is free again."""
    clock = Clock()
    limiter = RateLimiter(Quota(), clock=clock, wait=clock.wait)
    lefts = []
    for _ in range(3):
        with limiter.slot(never):
            clock.now += 600
        lefts.append(limiter.left())
    assert lefts == [59, 58, 57]
    clock.now += 3600
    assert limiter.left() == 60


def test_one_limiter_serves_a_project() -> None:
    """The same host and project share one; a quota that is passed is kept for calls that pass none."""
    first = limiter_for("http://one", "1", None)
    assert limiter_for("http://one", "1", Quota(per_hour=5)) is first
    assert limiter_for("http://one", "1", None).quota.per_hour == 5
    assert limiter_for("http://one", "2", None) is not first
    assert limiter_for("http://two", "1", None) is not first


@pytest.mark.parametrize("name", ["per_hour", "per_second", "concurrent"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "3", None])
def test_a_quota_that_cannot_be_meant_is_refused(name: str, value: object) -> None:
    """Each number is a whole one of at least 1, and the message names it."""
    with pytest.raises(ValueError, match=name):
        Quota(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("quota", [Quota(per_hour=3, per_second=3), WIDE])
def test_a_start_that_is_withdrawn_is_free_again(quota: Quota) -> None:
    """It counts neither for the second nor for the hour, and whoever waits for the place gets it at once."""
    clock = Clock()
    limiter = RateLimiter(quota, clock=clock, wait=clock.wait)
    before = limiter.left()
    for _ in range(20):
        with limiter.slot(never) as start:
            limiter.withdraw(start)
    assert limiter.left() == before
    assert clock.now == 1e9
    limiter.withdraw(start)  # twice is once
    assert limiter.left() == before
