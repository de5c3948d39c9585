"""Profiles from call to table: what is asked for, what is kept, when nothing is sent, and what is refused."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

import mpnb
from mpnb import Quota
from mpnb._fetching.limiter import limiter_for
from mpnb._mixpanel.engage_api import FAMILY
from mpnb.sandbox import Fault, serve
from tests._helpers import WIDE, WallClock, day, event, people, query

GROUP = "-9007199254740993123"
VALUES = [
    b'{"$distinct_id":"a","$properties":{"n":1,"id":9223372036854775807,"when":"2026-01-31T09:00:00","d":"2021-12-16"}}',
    b'{"$distinct_id":"b","$properties":{"n":2.5,"id":1,"when":"2026-02-01T09:00:00","d":1638298874}}',
    '{"$distinct_id":"c\u2028","$properties":{"text":"a\\u0000b \u2028 \\"$distinct_id\\"","list":[1,2]}}'.encode(),
    b'{"$distinct_id":1234567890123456789,"$properties":{"deep":{"a":{"b":[{"c":null}]}},"time":"x","$user_id":7}}',
    b'{"$properties":{"Plan":"x","plan":"y"},"$distinct_id":"e"}',
]
NO_JSON = b'{"$distinct_id":"lone","$properties":{"t":"\\ud800"}}'


@pytest.mark.parametrize("page_size", [1, 3, "auto"])
def test_each_value_is_there_as_it_was_served(sandbox, fetch, page_size: Any) -> None:
    """Ids are text, integers of any length stay, and what is no JSON is among the rejected, whole."""
    mp = sandbox(profiles=lambda: [*VALUES, NO_JSON])
    result = fetch(mp, page_size=page_size)
    served = {str(p["$distinct_id"]): p["$properties"] for p in map(json.loads, VALUES)}
    assert {i: json.loads(p) for i, p, _ in result.profiles.fetchall()} == served
    assert [line for _, _, _, line, _ in result.rejected.fetchall()] == [NO_JSON]
    assert result.total_rows == 5
    assert result.check().ok
    assert {f.name: f.count for f in result.check().findings}["rejected lines"] == 1


def test_typed_columns_and_frames_hold_every_value(sandbox, fetch) -> None:
    """A property that only looks like a column of events is one like any other; drift is JSON, and is explained."""
    result = fetch(sandbox(profiles=lambda: VALUES))
    typed = result.typed()
    kinds = dict(zip(typed.columns, map(str, typed.types), strict=True))
    assert kinds == {
        "distinct_id": "VARCHAR",
        "Plan": "VARCHAR",
        "d": "JSON",
        "deep": "JSON",
        "id": "BIGINT",
        "list": "BIGINT[]",
        "n": "DOUBLE",
        "plan_2": "VARCHAR",
        "text": "VARCHAR",
        "time": "VARCHAR",
        "when": "TIMESTAMP",
        "$user_id": "BIGINT",
    }
    rows = {row[0]: dict(zip(typed.columns, row, strict=True)) for row in typed.fetchall()}
    assert rows["a"]["id"] == 9223372036854775807
    assert rows["c\u2028"]["text"] == 'a\0b \u2028 "$distinct_id"'
    assert rows["1234567890123456789"]["$user_id"] == 7
    catalog = {name: drift for name, *_, drift in result.catalog().fetchall()}
    assert catalog["d"] == "number: 1, text: 1"
    assert result.df()["id"].tolist()[0] == 9223372036854775807
    assert result.pl(["plan"]).columns == ["distinct_id", "plan_2"]
    assert result.arrow(["n"]).num_rows == 5
    with pytest.raises(mpnb.PlanError, match="no property 'whenn'; did you mean 'when'"):
        result.typed(["whenn"])


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11])
def test_any_number_of_profiles(sandbox, fetch, count: int) -> None:
    """None at all, a full page, and one more."""
    ids = [f"p{n}" for n in range(count)]
    result = fetch(sandbox(profiles=people(*ids)), page_size=10)
    assert sorted(i for (i,) in result.profiles.project("distinct_id").fetchall()) == sorted(ids)
    assert result.check().ok
    assert not result.has_failures


def test_what_is_asked_for_is_on_every_request(sandbox, fetch) -> None:
    """In Mixpanel's form; ids of groups and workspaces are text, and people without a profile are never asked for."""
    mp = sandbox(profiles=people("a", "bb"), groups={GROUP: people("g", "h")})
    result = fetch(mp, where='properties["n"] < 2', properties=["n"], workspace=5, page_size=1)
    assert [i for i, *_ in result.profiles.fetchall()] == ["a"]
    fetch(mp, group=int(GROUP), table="groups", page_size=1)
    fetch(mp, cohort=1, table="cohort")
    sent = [{n: v for n, v in r.params.items() if n not in ("project_id", "session_id")} for r in mp.requests]
    filtered = {"workspace_id": "5", "where": 'properties["n"] < 2', "output_properties": '["n"]'}
    everybody = {"page_size": "1", "include_all_users": "false"}
    assert sent[:2] == [{"page": "0", **filtered, **everybody}] * 2
    assert sorted(each["page"] for each in sent[2:5]) == ["0", "0", "1"]
    assert all(each == {"page": each["page"], "data_group_id": GROUP, **everybody} for each in sent[2:5])
    assert sent[5]["filter_by_cohort"] == '{"id": 1}'


def test_young_profiles_cost_no_request(sandbox, fetch, database: Path, clock: WallClock) -> None:
    """Older ones do, and so does ``refresh``; ``new`` wants an empty table."""
    mp = sandbox(profiles=people("a"))
    fetch(mp).close()
    sent = len(mp.requests)
    asked = {"credentials": mp.credentials, "database": database, "quota": WIDE}
    assert mpnb.plan_profiles(**asked).is_held
    held = fetch(mp)
    assert (held.total_rows, held.successful_batches, len(mp.requests)) == (1, 0, sent)
    assert "there already" in repr(held)
    held.close()
    clock.now += timedelta(hours=12)
    assert not mpnb.plan_profiles(**asked).is_held
    fetch(mp).close()
    assert len(mp.requests) == sent + 2
    fetch(mp, mode="refresh").close()
    assert len(mp.requests) == sent + 4
    with pytest.raises(mpnb.TableError, match=r"has 1 profiles, and mode='new' needs an empty one"):
        fetch(mp, mode="new")
    fetch(mp, mode="new", table="others")


def test_a_plan_sends_nothing_and_makes_no_file(sandbox, fetch, database: Path) -> None:
    """It knows from the last snapshot how many pages there may be, and says what happens if Mixpanel counts them."""
    mp = sandbox(profiles=people(*(f"p{n}" for n in range(40))))
    asked = {"credentials": mp.credentials, "database": database, "mode": "refresh", "page_size": 2}
    plan = mpnb.plan_profiles(**asked)
    assert (plan.pages, plan.profiles, plan.hours_if_pages_count) == (None, None, None)
    assert not database.exists()
    fetch(mp, page_size=2).close()
    sent = len(mp.requests)
    plan = mpnb.plan_profiles(**{**asked, "quota": Quota(per_hour=5)})
    assert (plan.pages, plan.profiles) == (20, 40)
    assert plan.hours_if_pages_count == 4
    assert "about 20" in str(plan)
    assert len(mp.requests) == sent


def test_a_table_has_one_source(sandbox, fetch, export, database: Path) -> None:
    """Another is refused before anything is sent; profiles and events do not share a table."""
    mp = sandbox(profiles=people("a"))
    fetch(mp).close()
    sent = len(mp.requests)
    for other in ({"where": 'properties["n"] < 3'}, {"properties": ["n"]}, {"cohort": 3}, {"workspace": 1}):
        with pytest.raises(mpnb.TableError, match=r"holds project .*, all profiles, but this call asks for"):
            fetch(mp, **other)
    with pytest.raises(mpnb.TableError, match="pass another table"):
        export(mp, table="profiles")
    export(mp, table="events").close()
    with pytest.raises(mpnb.TableError, match="pass another table"):
        fetch(mp, table="events")
    with pytest.raises(mpnb.TableError, match="holds project"), serve(profiles=people("b")) as another:
        fetch(another)
    assert len([r for r in mp.requests if r.page is not None]) == sent
    with mpnb.open(database) as db:
        assert db.table == "events"
        assert db.sql("SELECT count(*) FROM profiles").fetchall() == [(1,)]


def test_a_table_of_somebody_else_stays(sandbox, fetch, database: Path) -> None:
    """Even if it has the same columns."""
    with duckdb.connect(str(database)) as con:
        con.execute("CREATE TABLE profiles (distinct_id VARCHAR, properties JSON, batch_id BIGINT)").fetchall()
        con.execute("INSERT INTO profiles VALUES ('mine', '{}', 1)").fetchall()
    with pytest.raises(mpnb.TableError, match="1 rows that mpnb did not write"):
        fetch(sandbox(profiles=people("a")))
    assert query(database, "SELECT distinct_id FROM profiles") == [("mine",)]


def test_who_reads_goes_on_while_the_table_is_replaced(sandbox, fetch) -> None:
    """A transaction sees the old profiles to its end, and a relation the new ones at its next read."""
    served = [people("a", "b")]
    mp = sandbox(profiles=lambda: served[-1]())
    old = fetch(mp)
    relation = old.profiles
    con = old.con
    con.execute("BEGIN").fetchall()
    assert con.execute("SELECT count(*) FROM profiles").fetchall() == [(2,)]
    served.append(people("c"))
    fetch(mp, mode="refresh")
    assert con.execute("SELECT count(*) FROM profiles").fetchall() == [(2,)]
    con.execute("COMMIT").fetchall()
    assert [i for i, *_ in relation.fetchall()] == ["c"]


def test_pages_take_no_place_in_the_hour_until_mixpanel_says_so(sandbox, fetch, clock: WallClock) -> None:
    """Then they do for a day, in every process; the quota of events is another."""
    ids = [f"p{n}" for n in range(30)]
    quota = Quota(per_hour=100, per_second=1000, concurrent=5)
    mp = sandbox(profiles=people(*ids), query_quota=quota)
    limiter_for(mp.url, mp.project_id, Quota(per_hour=60, per_second=1000, concurrent=5), family=FAMILY)
    fetch(mp, page_size=10, quota=None).close()

    def left(family: str) -> int:
        return limiter_for(mp.url, mp.project_id, None, family=family).left()

    assert (left("export"), left(FAMILY)) == (60, 59)
    limiter = limiter_for(mp.url, mp.project_id, None, family=FAMILY)
    limiter.cool_down(0.0, sessions_count=True)
    fetch(mp, page_size=10, quota=None, mode="refresh").close()
    assert left(FAMILY) == 59 - 4
    clock.now += timedelta(hours=25)
    fetch(mp, page_size=10, quota=None, mode="refresh").close()
    assert left(FAMILY) == 59


def test_pages_are_told_as_batches(sandbox, fetch) -> None:
    """Each by its name, one call at a time, and the first again at the end."""
    told: list[mpnb.BatchProgress] = []
    fetch(sandbox(profiles=people(*"abc")), page_size=1, on_batch=told.append)
    done = [each for each in told if each.status == "done"]
    assert [done[0].label, done[-1].label] == ["page 0", "page 0 again"]
    assert sorted(each.label for each in done[1:-1]) == ["page 1", "page 2"]
    assert {each.total for each in done[1:3]} == {3}


def test_a_cancelled_job_leaves_the_table_and_the_same_call_goes_on(sandbox, fetch, database: Path) -> None:
    """Pages that are there are not asked for again."""
    mp = sandbox(profiles=people(*(f"p{n}" for n in range(40))), latency=0.02)
    usual = {"credentials": mp.credentials, "quota": WIDE, "database": database, "page_size": 1}
    jobs: list[mpnb.ProfilesJob] = []

    def cancel(progress: mpnb.BatchProgress) -> None:
        if progress.status == "done" and progress.label == "page 3":
            jobs[0].cancel()

    jobs.append(mpnb.start_profiles(**usual, on_batch=cancel, workers=2))
    with pytest.raises(mpnb.ProfilesCancelled, match="has no profiles yet") as raised:
        jobs[0].result(60)
    there = raised.value.result.successful_batches
    raised.value.result.close()
    assert 0 < there < 41
    before = len(mp.requests)
    assert mpnb.plan_profiles(**usual).goes_on == there
    result = fetch(mp, page_size=1)
    assert result.total_rows == 40
    assert len(mp.requests) - before == 41 - there


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"where": " "}, "where must be"),
        ({"properties": []}, "properties must be"),
        ({"cohort": "x"}, "cohort must be"),
        ({"cohort": 1, "group": 2}, "group and cohort cannot be asked for together"),
        ({"group": "x1"}, "group must be a number"),
        ({"workspace": 1.5}, "workspace must be a number"),
        ({"page_size": 0}, "page_size must be"),
        ({"workers": 0}, "workers must be"),
        ({"max_age": 5}, "max_age must be a timedelta"),
        ({"mode": "old"}, "mode must be"),
        ({"table": "mpnb_x"}, "mpnb's own"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_before_anything_is_sent(sandbox, fetch, wrong: Any, says: str) -> None:
    """By its name, with what it must be."""
    mp = sandbox(profiles=people("a"))
    with pytest.raises(mpnb.PlanError, match=says):
        fetch(mp, **wrong)
    assert mp.requests == ()


def test_events_and_profiles_go_together(sandbox, export, fetch) -> None:
    """In one query, by the canonical id."""
    mp = sandbox(events_per_day=300)
    events = export(mp)
    fetch(mp)
    joined = events.sql(
        "SELECT count(*), count(p.distinct_id) FROM events AS e LEFT JOIN profiles AS p USING (distinct_id)"
    ).fetchall()
    [(all_of_them, with_profile)] = joined
    assert all_of_them == mp.count(day(1), day(3))
    assert 0 < with_profile < all_of_them


def test_no_value_of_a_profile_is_in_a_message(sandbox, fetch, database: Path, caplog) -> None:
    """Whatever form an answer has, and whatever DuckDB says of it."""
    private = b'{"$distinct_id":"jane@private.example","$properties":{"$name":"Jane Private"}'
    for answer in (b"[%b}]" % private, b"%b}" % private, b'{"people": [%b}]}' % private, b"{%b" % private):
        with serve(faults=[Fault("status", status=200, body=answer.decode())]) as mp:
            with pytest.raises(mpnb.ProfilesError) as raised:
                fetch(mp)
            with raised.value.result as result:
                told = f"{raised.value} {result!r} {result.failures.fetchall()} {caplog.text}"
        assert "rivate" not in told
        assert "has no profiles" in told


def test_a_profile_names_the_person_of_its_id(sandbox, export, fetch) -> None:
    """Whoever events would name: also after the profiles have changed, and of the same project's alone."""
    links = [
        event("$identify", distinct_id="u1", **{"$identified_id": "u1", "$anon_id": "a1"}),
        event("$merge", distinct_id="u2", **{"$distinct_ids": ["u2", "a2"]}),
        event("$identify", distinct_id="u3", **{"$identified_id": "u3", "$anon_id": "a3"}),
    ]
    served = [people("a1", "u2", "a2")]
    mp = sandbox(lambda d: links if d == day(1) else [], profiles=lambda: served[-1]())
    result = export(mp)
    with serve(profiles=people("a3")) as another:
        fetch(another, table="of_others")
    assert dict(result.identities("original").fetchall()) == {"a1": "u1", "a2": "u2", "a3": "u3"}
    fetch(mp)
    assert dict(result.identities("original").fetchall()) == {"u1": "a1", "a2": "u2", "a3": "u3"}
    people_of = result.for_analysis(identities="original").project("person").fetchall()
    assert {person for (person,) in people_of} == {"a1", "u2", "u3"}
    served.append(people("a3"))
    fetch(mp, mode="refresh")
    assert dict(result.identities("original").fetchall()) == {"a1": "u1", "a2": "u2", "u3": "a3"}


def test_mixpanels_own_sql_runs_here(sandbox, export, fetch) -> None:
    """Its tables are those of its warehouse export, and the mapping is a variable of that name."""
    lines = [
        event("Visit", distinct_id="$device:d", **{"$device_id": "d"}),
        event("Buy", distinct_id="u", **{"$device_id": "d", "$user_id": "u"}),
        event("Visit", distinct_id="x"),
    ]
    mp = sandbox(lambda d: lines if d == day(1) else [], profiles=people("u"))
    result = export(mp, table="mp_master_event")
    fetch(mp, table="mp_people_data")
    mp_identity_mappings_data = result.identities()
    assert mp_identity_mappings_data.columns == ["distinct_id", "resolved_distinct_id"]
    rows = result.sql(
        "SELECT event_name, coalesce(m.resolved_distinct_id, e.distinct_id) AS id, p.properties->>'n'"
        " FROM mp_master_event AS e LEFT JOIN mp_identity_mappings_data AS m ON e.distinct_id = m.distinct_id"
        " LEFT JOIN mp_people_data AS p ON p.distinct_id = coalesce(m.resolved_distinct_id, e.distinct_id)"
    ).fetchall()
    assert sorted(rows, key=str) == [("Buy", "u", "1"), ("Visit", "u", "1"), ("Visit", "x", None)]
