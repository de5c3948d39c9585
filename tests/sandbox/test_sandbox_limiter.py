"""The sandbox's limiter refuses what Mixpanel's refuses."""

from __future__ import annotations

from datetime import UTC, date, datetime
from email.utils import parsedate_to_datetime

import pytest

from mpnb._mixpanel.quota import Quota
from mpnb.sandbox import serve
from mpnb.sandbox._limiter import Limiter


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_hour_rolls():
    """The sixty-first request of any hour is refused, and let in when the first is an hour old."""
    clock = Clock()
    limiter = Limiter(Quota(), "7", clock)
    for _ in range(60):
        assert limiter.enter() is None
        limiter.leave()
        clock.now += 10
    text, wait = limiter.enter()
    assert "exceeded for project_id: 7. " in text
    assert "0/100 queries running concurrently and 61/60 queries running in the last hour" in text
    assert wait == pytest.approx(3000)
    clock.now += wait
    assert limiter.enter() is None
    assert limiter.enter() is not None


def test_the_second_rolls():
    """The fourth request within a second is refused."""
    clock = Clock()
    limiter = Limiter(Quota(), "7", clock)
    for _ in range(3):
        assert limiter.enter() is None
    clock.now += 0.75
    text, wait = limiter.enter()
    assert "4/3 queries started in the last second" in text
    assert wait == pytest.approx(0.25)
    clock.now += wait
    assert limiter.enter() is None


def test_only_so_many_run_at_once():
    """One more than may run is refused until one ends."""
    limiter = Limiter(Quota(per_second=9, concurrent=2), "7", Clock())
    assert limiter.enter() is limiter.enter() is None
    assert "3/2 queries running concurrently" in limiter.enter()[0]
    limiter.leave()
    assert limiter.enter() is None


def test_a_refusal_does_not_count():
    """Asking too early does not move the moment from which it works."""
    clock = Clock()
    limiter = Limiter(Quota(per_hour=1), "7", clock)
    assert limiter.enter() is None
    for _ in range(5):
        assert limiter.enter() is not None
    clock.now += 3600
    assert limiter.enter() is None


def test_no_quota_lets_all_through():
    """Without a quota nothing is refused."""
    limiter = Limiter(None, "7", Clock())
    assert not any(limiter.enter() for _ in range(500))


@pytest.mark.parametrize("style", [None, "seconds", "date"])
def test_a_refusal_over_http_is_a_429(ask, style):
    """Status, Mixpanel's text, and Retry-After only where asked for."""
    with serve(today=date(2026, 2, 1), events_per_day=5, quota=Quota(per_hour=1), retry_after=style) as mp:
        assert ask(mp).status == 200
        got = ask(mp)
        assert [request.status for request in mp.requests] == [200, 429]
    assert got.status == 429
    assert f"Query rate limit exceeded for project_id: {mp.project_id}" in got.body.decode()
    after = got.headers.get("retry-after")
    if style is None:
        assert after is None
    elif style == "seconds":
        assert 3590 < int(after) <= 3600
    else:
        assert 3590 < (parsedate_to_datetime(after) - datetime.now(UTC)).total_seconds() < 3605


def test_what_never_reached_the_data_does_not_count(ask):
    """A request with bad dates uses no quota."""
    with serve(today=date(2026, 2, 1), events_per_day=5, quota=Quota(per_hour=1)) as mp:
        assert ask(mp, "never").status == 400
        assert ask(mp).status == 200
