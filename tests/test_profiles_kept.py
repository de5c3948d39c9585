"""What is kept of profiles besides the latest: what was staged and given up, what is dropped, and the history."""

from __future__ import annotations

import json
from datetime import date, timedelta
from pathlib import Path
from random import Random
from typing import Any

import duckdb
import pytest

import mpnb
from mpnb.sandbox import Fault, Sandbox
from tests._helpers import MORNING, PATIENCE, WIDE, WallClock, people, query

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


# --- history ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def changing(sandbox) -> Sandbox:
    """Serve people who change: ``changing.now`` are their properties by id."""
    mp = sandbox(
        profiles=lambda: [json.dumps({"$distinct_id": i, "$properties": p}).encode() for i, p in mp.now.items()]
    )
    mp.now = {"a": {"plan": "free"}, "b": {"plan": "free"}, "é'": {"plan": "x"}}
    return mp


def states(changing: Sandbox, fetch, clock: WallClock, numbers: range) -> dict[date, dict[str, Any]]:
    """Take a snapshot of drawn states on each of some days, and return what was there at the end of each."""
    seen: dict[date, dict[str, Any]] = {}
    random = Random(5)
    for _ in numbers:
        clock.now += timedelta(days=random.choice([1, 1, 2]))
        changing.now = {i: {"plan": random.choice("xyz")} for i in ["a", "b", "é'", "d", "e"] if random.random() < 0.7}
        with fetch(changing, mode="refresh", history=random.random() < 0.5 or not seen) as result:
            assert result.check().ok
        seen[clock.now.date()] = dict(changing.now)
    return seen


def test_profiles_are_as_they_were_on_each_day(changing: Sandbox, fetch, clock: WallClock) -> None:
    """By an oracle that keeps every snapshot; a history goes on although a call does not ask for it."""
    seen = states(changing, fetch, clock, range(12))
    day, last = min(seen), clock.now.date() + timedelta(days=3)
    with fetch(changing) as result:
        while day <= last:
            there = seen[max(each for each in seen if each <= day)]
            rows = result.as_of(day).fetchall()
            assert {i: json.loads(p) for i, p, *_ in rows} == there
            assert len(rows) == len(there)
            day += timedelta(days=1)
        assert {i for i, *_ in result.profiles.fetchall()} == {i for i, *_ in result.as_of("today").fetchall()}
        assert "versions since 2026-07-0" in repr(result)
        assert "deletions in Mixpanel do not reach it" in repr(result)
        twice = "SELECT distinct_id FROM profiles_history WHERE valid_to IS NULL GROUP BY ALL HAVING count(*) > 1"
        assert result.sql(twice).fetchall() == []
        assert result.sql("SELECT count(*) FROM profiles_history WHERE valid_to <= valid_from").fetchall() == [(0,)]


def test_a_history_begins_with_the_snapshot_that_is_there(changing: Sandbox, fetch, clock: WallClock) -> None:
    """Without a request, where that is young enough; what was before it, nobody knows."""
    fetch(changing).close()
    first, sent = clock.now.date(), len(changing.requests)
    with fetch(changing, history=True) as result:
        assert len(changing.requests) == sent
        assert len(result.as_of(first).fetchall()) == 3
        with pytest.raises(mpnb.PlanError, match=f"history .* begins on {first}: pass that day") as raised:
            result.as_of(first - timedelta(days=1))
        assert raised.value.argument == "day"
        with pytest.raises(mpnb.PlanError, match="day must be"):
            result.as_of("soon")
        assert len(result.as_of(date.max).fetchall()) == 3
    with fetch(changing, table="others") as result, pytest.raises(mpnb.TableError, match="no history: export_profiles"):
        result.as_of(first)


def test_an_unchanged_profile_has_one_version(changing: Sandbox, fetch, clock: WallClock, database: Path) -> None:
    """However many snapshots show it; one that changed has its end where the next begins, and keeps its text."""
    for plan in ("free", "pro", "pro"):
        clock.now += timedelta(days=1)
        changing.now["a"] = {"plan": plan}
        fetch(changing, mode="refresh", history=True).close()
    found = query(database, "SELECT distinct_id, properties, valid_from, valid_to FROM profiles_history ORDER BY ALL")
    days = [MORNING + timedelta(days=n) for n in (1, 2)]
    assert found == [
        ("a", '{"plan":"free"}', days[0], days[1]),
        ("a", '{"plan":"pro"}', days[1], None),
        ("b", '{"plan":"free"}', days[0], None),
        ("é'", '{"plan":"x"}', days[0], None),
    ]


def test_a_snapshot_that_fails_leaves_the_history(changing: Sandbox, fetch, clock: WallClock, database: Path) -> None:
    """It is published in the transaction in which the history goes on, or neither is."""
    fetch(changing, history=True).close()
    before = query(database, "FROM profiles_history ORDER BY ALL")
    changing.now = {"a": {}, "b": {}, "c": {}}
    changing.add_fault(Fault("page_short", page=2, times=None))
    with pytest.raises(mpnb.ProfilesError) as raised:
        fetch(changing, mode="refresh", page_size=1, history=True)
    raised.value.result.close()
    assert query(database, "FROM profiles_history ORDER BY ALL") == before


def test_a_clock_that_was_set_back_ends_no_version_before_it_begins(changing: Sandbox, fetch, clock: WallClock) -> None:
    """The order of snapshots is the order in which they came."""
    fetch(changing, history=True).close()
    clock.now -= timedelta(days=3)
    changing.now = {"a": {"plan": "pro"}}
    with fetch(changing, mode="refresh") as result:
        assert result.sql("SELECT count(*) FROM profiles_history WHERE valid_to < valid_from").fetchall() == [(0,)]
        assert len(result.as_of(MORNING.date()).fetchall()) == 1


def test_a_history_is_of_one_source_and_is_dropped_with_its_table(
    changing: Sandbox, fetch, clock: WallClock, database: Path
) -> None:
    """Even where its own rows are gone; a table of somebody else in its place is refused, and stays."""
    fetch(changing, history=True).close()
    with duckdb.connect(str(database)) as con:
        con.execute("DELETE FROM profiles").fetchall()
        con.execute("CREATE TABLE others_history (mine INTEGER)").fetchall()
    with pytest.raises(mpnb.TableError, match=r"holds project .* all profiles, but this call asks for"):
        fetch(changing, cohort=1)
    with pytest.raises(mpnb.TableError, match=r"'others_history' .* does not have the columns"):
        fetch(changing, table="others", history=True)
    fetch(changing, table="others").close()
    mpnb.drop("others", database=database)
    fetch(changing).close()
    assert mpnb.drop("profiles", database=database) == 3
    assert query(database, OURS) == [("others_history",)]


def test_a_person_is_forgotten_in_the_history_too(changing: Sandbox, fetch, clock: WallClock, database: Path) -> None:
    """And what is fetched later does not bring a version of theirs."""
    fetch(changing, history=True).close()
    changing.now["a"] = {"plan": "pro"}
    clock.now += timedelta(days=1)
    fetch(changing).close()
    assert mpnb.forget_person("a", database=database) == {"profiles": 1, "profiles_history": 2}
    changing.now["a"] = {"plan": "max"}
    clock.now += timedelta(days=1)
    with fetch(changing) as result:
        left = result.sql("SELECT DISTINCT distinct_id FROM profiles_history").fetchall()
        assert set(left) == {("b",), ("é'",)}
        assert result.check().ok
