"""Profiles are in the table whole or not at all: what was there before, or all that Mixpanel has now."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

import mpnb
import mpnb._fetching.fetcher
import mpnb._fetching.limiter
from mpnb.sandbox import Fault, Sandbox
from mpnb.sandbox.__main__ import environment
from mpnb.sandbox._faults import PAGES
from tests._helpers import PATIENCE, WIDE, child, query, until

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


CHILD = """
import sys, mpnb
mpnb.export_profiles(database=sys.argv[1], page_size=1, workers=2, quota=mpnb.Quota(per_hour=10**6, per_second=1000))
"""


def test_a_process_that_is_killed_loses_only_the_pages_under_way(sandbox, database: Path) -> None:
    """The table is as it was, and the next call goes on in the same session."""
    mp = sandbox(profiles=lambda: OLD, latency=0.1)
    with child([sys.executable, "-c", CHILD, str(database)], env={**os.environ, **environment(mp)}) as process:
        until(lambda: len(mp.requests) > 12, PATIENCE)
        process.kill()
        process.wait(PATIENCE)
    assert query(database, "SELECT count(*) FROM duckdb_tables() WHERE table_name = 'profiles'") == [(0,)]
    before = len(mp.requests)
    with fetch(mp, database, mode="resume", page_size=1) as result:
        assert result.check().ok
    assert rows(database) == as_rows(OLD)
    assert len(mp.requests) - before < len(OLD)
    assert {request.params.get("session_id") for request in mp.requests[before:]} == {
        mp.requests[before - 1].params["session_id"]
    }


def test_a_session_that_ends_while_its_pages_wait_for_the_quota_is_no_reason_to_begin_anew(
    mp: Sandbox, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next would end in the same way: it says what makes fewer or smaller pages."""
    monkeypatch.setattr(mpnb._fetching.fetcher, "LONG_WAIT", 0.01)
    monkeypatch.setattr(mpnb._fetching.limiter, "WORTH_TELLING", 0.01)
    mp.add_fault(Fault("session_expired", page=2, times=None))
    quota = mpnb.Quota(per_hour=1000, per_second=1)
    with pytest.raises(mpnb.ProfilesError, match="a larger page_size=, properties= or where=") as raised:
        fetch(mp, database, quota=quota)
    with raised.value.result as result:
        assert [row[2] for row in result.failures.fetchall()][-1] == "rate_limit"
    assert len([request for request in mp.requests if "session_id" not in request.params]) == 1


def test_one_export_into_a_table_at_a_time(sandbox, database: Path) -> None:
    """The other is refused by the name that was asked for."""
    mp = sandbox(profiles=lambda: OLD, latency=0.2)
    usual = {"credentials": mp.credentials, "quota": WIDE, "database": database}
    job = mpnb.start_profiles(**usual)
    with pytest.raises(mpnb.TableError, match="an export into table 'profiles' is running"):
        fetch(mp, database)
    job.result(PATIENCE).close()
    assert rows(database) == as_rows(OLD)


@pytest.mark.parametrize("gone", ["DROP TABLE profiles", "DELETE FROM profiles"])
def test_a_table_that_is_gone_is_fetched_again(mp: Sandbox, database: Path, gone: str) -> None:
    """However young its snapshot was."""
    fetch(mp, database).close()
    with duckdb.connect(str(database)) as con:
        con.execute(gone).fetchall()
    with fetch(mp, database, mode="resume") as result:
        assert result.total_rows == len(OLD)
        assert result.check().ok


@pytest.mark.parametrize("table", ['my "people"', "Events", "a.b;--", "ü'"])
def test_any_name_of_a_table(mp: Sandbox, table: str) -> None:
    """In the schema that a connection uses, whatever characters it has and in whatever case it is asked for."""
    with duckdb.connect() as con:
        con.execute("CREATE SCHEMA other; USE other").fetchall()
        fetch(mp, con, table=table).close()  # type: ignore[arg-type]
        mp.people.append(NEW)  # type: ignore[attr-defined]
        with fetch(mp, con, table=table.upper() if table.isascii() else table) as result:  # type: ignore[arg-type]
            assert result.total_rows == len(NEW)
            assert result.check().ok
            assert result.typed().columns == ["distinct_id", "n", "plan"]
        found = "SELECT schema_name, lower(table_name) FROM duckdb_tables() WHERE NOT starts_with(table_name, 'mpnb_')"
        assert con.execute(found).fetchall() == [("other", table.lower())]
