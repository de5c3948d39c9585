"""What is kept of profiles besides the latest: what was staged and given up, and what is dropped."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

import mpnb
from mpnb.sandbox import Fault, Sandbox
from tests._helpers import PATIENCE, WIDE, WallClock, people, query

OURS = "SELECT table_name FROM duckdb_tables() WHERE NOT starts_with(table_name, 'mpnb_') OR table_name LIKE '%staged%'"


@pytest.fixture
def mp(sandbox) -> Sandbox:
    """Serve three people, a page each."""
    return sandbox(profiles=people("a", "bb", "ccc"))


def fails(fetch, mp: Sandbox, **options: object) -> None:
    """Fetch profiles whose last page never comes."""
    mp.add_fault(Fault("status", status=500, page=2, times=None))
    with pytest.raises(mpnb.ProfilesError) as raised:
        fetch(mp, page_size=1, **options)
    raised.value.result.close()
    mp.clear_faults()


def left(database: Path, table: str) -> set[int]:
    """Count what mpnb's tables have of a table of profiles."""
    named = f"lower(table_name) IN ('{table}', 'mpnb_staged_{table}')"
    pages = f"SELECT count(*) FROM mpnb_pages WHERE batch_id IN (SELECT batch_id FROM mpnb_batches WHERE {named})"
    counts = [f"SELECT count(*) FROM {ours} WHERE {named}" for ours in ("mpnb_batches", "mpnb_snapshots")]
    return {query(database, each)[0][0] for each in (pages, *counts)}


def test_profiles_are_dropped_with_all_that_is_stored_about_them(mp: Sandbox, fetch, database: Path) -> None:
    """The table, its pages in the ledger, and pages that are staged; others stay, and all can be fetched again."""
    fetch(mp, table="others").close()
    fetch(mp).close()
    fails(fetch, mp, mode="refresh")
    assert "mpnb_staged_profiles" in {name for (name,) in query(database, OURS)}
    assert mpnb.drop("PROFILES", database=database) == 3
    assert query(database, OURS) == [("others",)]
    assert left(database, "profiles") == {0}
    assert fetch(mp).check().ok
    assert fetch(mp, table="others").successful_batches == 0


def test_pages_that_were_never_published_are_dropped_by_the_name_that_was_asked_for(
    mp: Sandbox, fetch, database: Path
) -> None:
    """There is no table of that name yet."""
    fails(fetch, mp)
    assert mpnb.drop("profiles", database=database) == 0
    assert query(database, OURS) == []
    assert left(database, "profiles") == {0}
    with pytest.raises(mpnb.TableError, match="no events yet"):
        mpnb.drop("profiles", database=database)


def test_profiles_are_not_dropped_while_they_are_fetched(sandbox, fetch, database: Path) -> None:
    """Their pages land elsewhere until they are whole."""
    mp = sandbox(profiles=people("a"))
    fetch(mp).close()
    mp.add_fault(Fault("hang"))
    job = mpnb.start_profiles(credentials=mp.credentials, quota=WIDE, database=database, mode="refresh")
    with pytest.raises(mpnb.TableError, match="an export into table 'profiles' is running"):
        mpnb.drop("profiles", database=database)
    job.cancel()
    job.outcome(PATIENCE).close()


@pytest.mark.parametrize("by", ["events", "open", "others"])
def test_pages_that_nobody_goes_on_with_are_deleted_after_a_day(
    mp: Sandbox, fetch, export, database: Path, clock: WallClock, by: str
) -> None:
    """By whatever opens the file next to write; the snapshot before them stays."""
    export(mp).close()
    fetch(mp).close()
    clock.now += timedelta(days=1)
    fails(fetch, mp, mode="refresh")
    clock.now += timedelta(hours=23)
    mpnb.open(database).close()
    assert mpnb.plan_profiles(credentials=mp.credentials, database=database, page_size=1).goes_on == 2
    clock.now += timedelta(hours=2)
    assert mpnb.plan_profiles(credentials=mp.credentials, database=database, page_size=1).goes_on == 0
    if by == "events":
        export(mp).close()
    elif by == "open":
        mpnb.open(database).close()
    else:
        fetch(mp, table="others").close()
    assert "mpnb_staged_profiles" not in {name for (name,) in query(database, OURS)}
    assert query(database, "SELECT count(*) FROM mpnb_batches WHERE table_name LIKE '%staged%'") == [(0,)]
    assert query(database, "SELECT count(*) FROM profiles") == [(3,)]


def test_pages_of_yesterday_do_not_become_profiles_of_today(mp: Sandbox, fetch, clock: WallClock) -> None:
    """They are fetched again, in a session of today, although Mixpanel might still take the old one."""
    fails(fetch, mp)
    clock.now += timedelta(days=2)
    before = len(mp.requests)
    result = fetch(mp, page_size=1)
    assert len(mp.requests) - before == 4
    assert result.taken_at is not None
    assert clock.now - result.taken_at < timedelta(minutes=1)
