"""Profiles are in the table whole or not at all: what was there before, or all that Mixpanel has now."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import mpnb
from mpnb.sandbox import Fault, Sandbox
from mpnb.sandbox._faults import PAGES
from tests._helpers import WIDE, query

BEFORE, AFTER = range(1, 23), range(5, 30)


def people(numbers: range, plan: str) -> list[bytes]:
    """Make the profiles of some people."""
    return [
        json.dumps({"$distinct_id": f"p{n:02}", "$properties": {"n": n, "plan": plan}}, separators=(",", ":")).encode()
        for n in numbers
    ]


OLD, NEW = people(BEFORE, "free"), people(AFTER, "pro")


def rows(database: Path) -> set[tuple[str, str]]:
    """Read the table as other programs do."""
    return set(query(database, "SELECT distinct_id, properties::VARCHAR FROM profiles"))


def as_rows(profiles: list[bytes]) -> set[tuple[str, str]]:
    """Say what the table has if it has these."""
    return {(p["$distinct_id"], json.dumps(p["$properties"], separators=(",", ":"))) for p in map(json.loads, profiles)}


@pytest.fixture
def mp(sandbox: Callable[..., Sandbox]) -> Sandbox:
    """Serve people who can be changed: ``mp.people``."""
    served = [OLD]
    mp = sandbox(profiles=lambda: served[-1])
    mp.people = served  # type: ignore[attr-defined]
    return mp


def fetch(mp: Sandbox, database: Path, **options: Any) -> mpnb.ProfilesResult:
    """Fetch all profiles in pages of ten."""
    usual = {"credentials": mp.credentials, "quota": WIDE, "database": database, "page_size": 10}
    return mpnb.export_profiles(**{"mode": "refresh", "on_batch": lambda _: None, **usual, **options})


BROKEN = [
    *(Fault(kind) for kind in sorted(PAGES - {"page_size"})),
    *(Fault("status", status=status) for status in (429, 500)),
    *(Fault(kind) for kind in ("reset", "gzip_crc", "sign_in")),
]
# After one such answer, no other is asked for: it is not known to pass.
FINAL = {"page_error", "sign_in"}


@pytest.mark.parametrize("fault", BROKEN, ids=lambda fault: f"{fault.kind}{fault.status or ''}")
def test_the_table_is_the_old_snapshot_or_the_whole_new_one(mp: Sandbox, database: Path, fault: Fault) -> None:
    """Whatever goes wrong on the first, a middle or the last page, once or each time, and the failure says which."""
    fetch(mp, database).close()
    there = OLD
    for page in (0, 1, 2):
        # What breaks a page of events, too, is broken by the same code on every page.
        for times in (1, None) if fault.kind in PAGES or page == 1 else (1,):
            new = NEW if there is OLD else OLD
            before = rows(database)
            mp.people.append(new)
            mp.clear_faults()
            mp.add_fault(Fault(fault.kind, page=page, times=times, status=fault.status))
            # There is no page before the first, and who comes or goes before it is served is there or not.
            is_none = page == 0 and (fault.kind == "page_twice" or bool(times and fault.kind == "profile_swapped"))
            if is_none or (times and fault.kind not in FINAL):
                with fetch(mp, database) as result:
                    assert not result.has_failures
                    assert result.check().ok
                    assert result.failures.fetchall() == []
                there = new
                assert len(rows(database)) == len(new)
                assert is_none or rows(database) == as_rows(new)
                continue
            with pytest.raises(mpnb.ProfilesError, match="Nothing was changed") as raised:
                fetch(mp, database)
            with raised.value.result as result:
                assert result.has_failures
                assert [kind for _, _, kind, *_ in result.failures.fetchall()]
            assert rows(database) == before
    assert mp.injected or fault.kind == "page_twice"


def test_pages_that_do_not_fit_together_are_fetched_again_once(mp: Sandbox, database: Path) -> None:
    """First the page, then all of them in a new session; then it fails, and names the page."""
    mp.add_fault(Fault("page_short", page=1, times=None))
    with pytest.raises(mpnb.ProfilesError, match="page 1: it has 9 profiles in place of 10") as raised:
        fetch(mp, database)
    with raised.value.result as result:
        [(page, status, kind, http_status, *_)] = result.failures.fetchall()
        assert (page, status, kind, http_status) == (1, "failed", "inconsistent", 200)
        assert result.total_rows == 0
    assert [request.page for request in mp.requests].count(1) == 4
    assert len([request for request in mp.requests if "session_id" not in request.params]) == 2


def test_pages_that_are_there_are_not_fetched_again(mp: Sandbox, database: Path) -> None:
    """After a failure, ``retry`` and the same call go on in the session as long as Mixpanel takes it."""
    mp.add_fault(Fault("status", status=500, page=2, times=4))
    with pytest.raises(mpnb.ProfilesError) as raised:
        fetch(mp, database)
    before = len(mp.requests)
    with raised.value.result as failed, failed.retry() as result:
        assert not result.has_failures
        assert not failed.has_failures
    assert [request.page for request in mp.requests[before:]] == [2, 0]
    assert rows(database) == as_rows(OLD)
    mp.add_fault(Fault("status", status=500, page=2, times=4))
    with pytest.raises(mpnb.ProfilesError) as raised:
        fetch(mp, database)
    raised.value.result.close()
    mp.people.append(NEW)
    mp.add_fault(Fault("session_expired", page=2))
    before = len(mp.requests)
    with fetch(mp, database, mode="resume", max_age=timedelta(days=1)) as result:
        assert result.total_rows == len(OLD)
    with fetch(mp, database, mode="resume", max_age=timedelta(0)) as result:
        assert result.total_rows == len(NEW)
    assert [request.page for request in mp.requests[before:]] == [2, 0, 1, 2, 0]
    assert rows(database) == as_rows(NEW)


@pytest.mark.parametrize("status", [401, 402, 403, 404])
def test_what_every_page_would_meet_is_met_once(mp: Sandbox, database: Path, status: int) -> None:
    """One request, one line with what to do, and nothing in the table."""
    mp.add_fault(Fault("status", status=status, times=None))
    with pytest.raises(mpnb.ProfilesError) as raised:
        fetch(mp, database)
    raised.value.result.close()
    assert len(mp.requests) == 1
    assert {401: "service account", 402: "plan", 403: "service account", 404: "query API"}[status] in str(raised.value)


def test_a_size_that_is_refused_is_left_to_mixpanel(mp: Sandbox, database: Path) -> None:
    """With "auto"; one that was asked for is said to be refused."""
    mp.add_fault(Fault("page_size", times=None))
    with fetch(mp, database, page_size="auto") as result:
        assert result.total_rows == len(OLD)
    assert ["page_size" in request.params for request in mp.requests] == [True, False, False]
    with pytest.raises(mpnb.ProfilesError, match="Pass another page_size, or page_size='auto'") as raised:
        fetch(mp, database)
    raised.value.result.close()


def test_two_pages_that_fail_begin_anew_once(mp: Sandbox, database: Path) -> None:
    """However many find that the session is over at the same time."""
    for page in (1, 2):
        mp.add_fault(Fault("session_expired", page=page))
    with fetch(mp, database) as result:
        assert result.check().ok
    assert len([request for request in mp.requests if "session_id" not in request.params]) == 2
