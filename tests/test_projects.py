"""Several projects in one call: each with its own quota, table and end, together one board and one result."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import mpnb
from mpnb import Quota
from mpnb._exporting.beside import Together
from mpnb._planning.options import DATABASE
from mpnb._storing.table import Table
from mpnb.sandbox import Fault, Sandbox
from tests._helpers import (
    PATIENCE,
    WIDE,
    Recorded,
    as_served,
    as_stored,
    day,
    days_of,
    joined,
    query,
    side_by_side,
    until,
)

FIRST, LAST = day(1), day(6)
UNAUTHORISED = Fault("status", status=401, times=None)


class Call:
    """Some sandboxes, and calls for all of their projects."""

    def __init__(self, sandboxes: list[Sandbox], database: Path) -> None:
        self.all = sandboxes
        self.ids = [mp.project_id for mp in sandboxes]
        self.jobs: list[mpnb.ExportJob] = []
        self.options: dict[str, Any] = {
            "credentials": [mp.credentials for mp in sandboxes],
            "database": database,
            "chunk_days": 2,
            "quota": WIDE,
            "on_batch": lambda _: None,
        }

    def export(self, **more: Any) -> mpnb.ExportResult:
        return mpnb.export(more.pop("first", FIRST), more.pop("last", LAST), **{**self.options, **more})

    def start(self, **more: Any) -> mpnb.ExportJob:
        self.jobs.append(mpnb.start(more.pop("first", FIRST), more.pop("last", LAST), **{**self.options, **more}))
        return self.jobs[-1]


@pytest.fixture
def projects(sandbox: Callable[..., Sandbox], database: Path) -> Iterator[Callable[..., Call]]:
    """Serve a sandbox for each list of faults that is given, each with a project and events of its own."""
    calls: list[Call] = []

    def serve(*faults: list[Fault], **more: Any) -> Call:
        made = [sandbox(seed=seed, faults=each, **more) for seed, each in enumerate(faults)]
        calls.append(Call(made, database))
        return calls[-1]

    yield serve
    for job in (job for call in calls for job in call.jobs):
        job.cancel()
        job.outcome(PATIENCE).close()


def holds_what_was_served(result: mpnb.ExportResult, mp: Sandbox) -> bool:
    """Whether the table of a project has each event of its days, and no other."""
    rows = result.sql(f'SELECT event_name, properties FROM "events_{mp.project_id}"').fetchall()
    return as_stored(rows) == as_served(mp, days_of(FIRST, LAST))


def test_each_project_has_its_events_in_a_table_of_its_own(projects) -> None:
    """Whatever iterable they come in, and with faults on the way; the result's events are all of them."""
    three = projects([Fault("reset", day(3))], [Fault("half_line", day(1))], [])
    with three.export(credentials=(mp.credentials for mp in three.all)) as result:
        assert all(holds_what_was_served(result, mp) for mp in three.all)
        assert result.events.columns[0] == "project_id"
        found = Counter(project for (project,) in result.events.project("project_id").fetchall())
        assert found == {mp.project_id: as_served(mp, days_of(FIRST, LAST)).total() for mp in three.all}
        assert result.total_rows == found.total() == result.fetched_rows
        assert (result.successful_batches, result.has_failures) == (9, False)


def test_one_in_a_list_has_a_table_of_the_same_name_as_among_others(projects, database) -> None:
    """The name of a table depends on how it was asked for, not on how many there happen to be."""
    one = projects([])
    one.export().close()
    assert query(database, "SELECT DISTINCT table_name FROM mpnb_batches") == [(f"events_{one.ids[0]}",)]


def test_a_project_whose_credentials_fail_stops_alone(projects) -> None:
    """It sends a few requests and no more; the others are whole, and the failures say whose they are."""
    three = projects([], [UNAUTHORISED], [])
    with three.export(last=day(60), chunk_days=1, workers=3) as result:
        assert len(three.all[1].requests) < 5
        failures = result.failures.project("project_id, kind").fetchall()
        assert set(failures) == {(three.ids[1], "auth")}
        assert len(failures) == 60
        assert (result.successful_batches, result.failed_batches) == (120, 60)
        assert result.failed_date_ranges[0] == (day(1), day(1))
        with pytest.raises(mpnb.ExportError, match="60 batches failed, 60 of them by auth"):
            result.raise_for_failures()


def test_a_call_of_which_nothing_comes_is_an_error(projects) -> None:
    """As with one project: it says why all stopped, and carries the result."""
    two = projects([UNAUTHORISED], [UNAUTHORISED])
    with pytest.raises(mpnb.ExportError, match="the export stopped because every batch would fail: HTTP 401") as raised:
        two.export()
    assert raised.value.result.failed_batches == 6
    raised.value.result.close()


def test_a_retry_fetches_what_failed_of_each(projects) -> None:
    """And nothing else; also of one project alone, by its own result."""
    broken = Fault("status", status=400, day=day(3), times=1)
    two = projects([broken], [broken])
    with two.export() as result:
        assert result.failed_batches == 2
        with result.projects[two.ids[1]].retry() as one:
            assert (one.successful_batches, one.has_failures) == (1, False)
        assert result.failures.project("project_id").fetchall() == [(two.ids[0],)]
        with result.retry() as again:
            assert (again.successful_batches, again.failed_batches, again.has_failures) == (1, 0, False)
            assert all(holds_what_was_served(again, mp) for mp in two.all)
    assert [len(mp.requests) for mp in two.all] == [4, 4]


def test_a_retry_takes_other_credentials_of_the_same_projects(projects) -> None:
    """In any order; those of another project are refused."""
    two = projects([Fault("status", status=401, times=1)], [])
    with two.export() as result:
        with pytest.raises(mpnb.CredentialsError, match="must be of the same projects"):
            result.retry(credentials=two.options["credentials"][:1])
        with result.retry(credentials=two.options["credentials"][::-1], on_batch=lambda _: None) as again:
            assert not again.has_failures
            assert all(holds_what_was_served(again, mp) for mp in two.all)


def test_a_cancel_stops_all_and_the_same_call_goes_on(projects) -> None:
    """What had landed is kept, the rest of each is cancelled, and no event comes twice."""
    three = projects([Fault("hang", day(3))], [], [Fault("hang", day(5))])
    job = three.start(workers=6)
    until(lambda: job.progress().counts.get("done", 0) == 7)
    job.cancel()
    with pytest.raises(mpnb.ExportCancelled) as raised:
        job.result(PATIENCE)
    with raised.value.result as stopped:
        assert (stopped.successful_batches, stopped.cancelled_batches) == (7, 2)
        assert set(stopped.failures.project("project_id, status").fetchall()) == {
            (three.ids[0], "cancelled"),
            (three.ids[2], "cancelled"),
        }
    with three.export() as result:
        assert result.skipped_batches == 7
        assert all(holds_what_was_served(result, mp) for mp in three.all)


def test_ctrl_c_stops_all(projects) -> None:
    """Its line counts the batches of all projects."""
    two = projects([Fault("hang", day(5))], [])

    def stop(batch: mpnb.BatchProgress) -> None:
        if batch.status in ("done", "empty"):
            seen.append(batch)
        if len(seen) == 5:
            raise KeyboardInterrupt

    seen: list[mpnb.BatchProgress] = []
    with pytest.raises(KeyboardInterrupt, match="cancelled: 5 of 6 batches are in"):
        two.export(on_batch=stop)


REFUSED: dict[str, tuple[Callable[[mpnb.Credentials], Any], str]] = {
    "none": (lambda c: [], "is empty"),
    "twice": (lambda c: [c, mpnb.Credentials("other", "s", c.project_id)], "has project .* twice"),
    "something else among them": (lambda c: [c, "secret"], "must be an mpnb.Credentials, not a str"),
    "a text": (lambda c: "secret", "must be an mpnb.Credentials, or several, not a str"),
    "a mapping": (lambda c: {"a": c}, "must be an mpnb.Credentials, or several, not a dict"),
    "a number": (lambda c: 5, "must be an mpnb.Credentials, or several, not a int"),
    "too many": (lambda c: (mpnb.Credentials("me", "s", n) for n in range(10**9)), "more than 100 projects"),
}


def test_credentials_that_cannot_be_meant_are_refused(projects, database) -> None:
    """Before anything is sent or written, and without a secret that was passed in their place."""
    one = projects([])
    for name, (make, why) in REFUSED.items():
        with pytest.raises(mpnb.CredentialsError) as refused:
            one.export(credentials=make(one.all[0].credentials))
        assert re.search(why, str(refused.value)), name
        assert "secret" not in str(refused.value), name
    assert not database.exists()
    assert not one.all[0].requests


def test_a_table_of_another_source_refuses_the_whole_call(projects, database) -> None:
    """No request is sent for any project, and nothing is entered for the others."""
    two = projects([], [])
    mpnb.export(FIRST, LAST, **{**two.options, "credentials": two.all[0].credentials, "table": f"events_{two.ids[1]}"})
    sent = len(two.all[0].requests)
    with pytest.raises(mpnb.TableError, match=f"table 'events_{two.ids[1]}' holds project {two.ids[0]}"):
        two.export()
    assert [len(mp.requests) for mp in two.all] == [sent, 0]
    assert query(database, "SELECT DISTINCT table_name FROM mpnb_batches") == [(f"events_{two.ids[1]}",)]


def test_a_running_export_into_one_of_the_tables_refuses_the_call(projects) -> None:
    """Whoever was first goes on, and afterwards the same call does."""
    two = projects([Fault("hang", day(1), times=1)], [])
    job = two.start(credentials=two.options["credentials"][:1])
    until(lambda: two.all[0].requests)
    with pytest.raises(mpnb.TableError, match=f"an export into table 'events_{two.ids[0]}' is running"):
        two.export()
    assert not two.all[1].requests
    job.cancel()
    job.outcome(PATIENCE).close()
    two.export().close()


@pytest.mark.parametrize(("workers", "there"), [(2, 4), (6, 6)])
def test_workers_are_counted_in_all(projects, workers: int, there: int) -> None:
    """However many projects there are; each has one of its own at least."""
    four = projects([], [], [], [])
    most = 0

    def look(_: object) -> None:
        nonlocal most
        names = [thread.name for thread in threading.enumerate()]
        most = max(most, sum(name.startswith("mpnb-worker") for name in names))

    with four.export(workers=workers, on_batch=look, chunk_days=1) as result:
        assert not result.has_failures
    assert 1 < most <= there


def test_projects_take_turns_to_write(projects, monkeypatch) -> None:
    """DuckDB's memory limit has room for one insert at a time."""
    at_once, most = 0, 0
    really, lock = Table._in_turn, threading.Lock()

    def watched(table: Table, *args: Any) -> Any:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        try:
            return really(table, *args)
        finally:
            with lock:
                at_once -= 1

    monkeypatch.setattr(Table, "_in_turn", watched)
    four = projects([], [], [], [])
    with four.export(workers=20, chunk_days=1) as result:
        assert result.successful_batches == 24
    assert most == 1


def test_projects_go_into_one_lake(projects, tmp_path) -> None:
    """An object a project and day; one whose credentials fail stops alone, and a later call fetches what it lacks."""
    two = projects([], [Fault("status", status=401)])
    into: dict[str, Any] = {"database": DATABASE, "destination": tmp_path / "lake", "chunk_days": 1}
    with two.export(**into) as result:
        assert (result.successful_batches, set(result.failures.project("project_id").fetchall())) == (
            12 - result.failed_batches,
            {(two.ids[1],)},
        )
    with two.export(**into) as result:
        assert not result.has_failures
        stored = result.events.project("event_name, properties").fetchall()
        served = [as_served(mp, days_of(FIRST, LAST)) for mp in two.all]
        assert as_stored(stored) == served[0] + served[1]
    assert len(list((tmp_path / "lake").rglob("events.parquet"))) == 12


# --- the quota -----------------------------------------------------------------------------------------------------


def test_ten_projects_side_by_side_draw_no_429(projects) -> None:
    """From servers that enforce their limits in real time: three a second each, and what there is in an hour."""
    ten = projects(*[[]] * 10, quota=Quota(per_hour=7, per_second=3), events_per_day=1)
    job = ten.start(last=day(9), chunk_days=1, quota=Quota(per_hour=7, per_second=3))
    until(lambda: job.progress().ended == 70 and job.progress().waiting_until, PATIENCE)
    assert job.quota_left == 0
    job.cancel()
    job.outcome(PATIENCE).close()
    for mp in ten.all:
        assert [request.status for request in mp.requests] == [200] * 7


def test_each_project_waits_for_its_own_hour(projects, monkeypatch) -> None:
    """With clocks of their own: no hour of any project has more than 60 requests, and none slows another."""
    three = projects([], [], [], events_per_day=1)
    limiters = [Recorded.of(mp, monkeypatch) for mp in three.all]
    with three.export(last=day(65), chunk_days=1, quota=None, credentials=three.options["credentials"]) as result:
        assert result.successful_batches == 195
    for limiter in limiters:
        assert len(limiter.starts) == 65
        assert all(later - first >= 3600 for first, later in zip(limiter.starts, limiter.starts[60:], strict=False))
        assert limiter.clock.now - 1e9 < 2 * 3600


def test_a_plan_says_requests_and_hours_of_each_project(projects) -> None:
    """And of all: requests add up, hours do not, since each has a quota of its own."""
    two = projects([], [])
    quota = Quota(per_hour=4, per_second=100)
    two.export(credentials=two.options["credentials"][:1], last=day(4), quota=quota).close()
    plan = mpnb.plan(FIRST, day(16), **{**two.options, "quota": quota})
    assert {
        project: (each.requests, each.quota_left, each.hours_waiting) for project, each in plan.projects.items()
    } == {
        two.ids[0]: (6, 2, 1),
        two.ids[1]: (8, 4, 1),
    }
    assert (plan.requests, plan.quota_left, plan.per_hour, plan.hours_waiting) == (14, 6, 8, 1)
    assert (plan.days_held, len(plan.held), len(plan.batches)) == ((), 2, 14)
    assert re.search(rf"{two.ids[1]}\s+8 requests of 4 left this hour, about 1 hour", str(plan))
    assert mpnb.plan(FIRST, LAST, **{**two.options, "credentials": two.all[0].credentials}).projects == {}


# --- the result ----------------------------------------------------------------------------------------------------


@pytest.fixture
def result(projects) -> Iterator[mpnb.ExportResult]:
    """Export two projects, of which one lacks two days and has a line that is no event."""
    bad = Fault("bad_lines", day(1), lines=(b"nonsense",))
    two = projects([Fault("status", status=400, day=day(3), times=1)], [bad])
    with two.export() as made:
        yield made


def test_relations_are_of_all_projects_with_the_project_in_front(result) -> None:
    """Each has the rows of the projects' own results, and ``project_id`` before them."""
    whole = (
        {name: (lambda r, name=name: getattr(r, name)) for name in ("events", "failures", "batches", "rejected")}
        | {name: (lambda r, name=name: getattr(r, name)()) for name in ("deduplicated", "duplicates", "event_names")}
        | {"local_time": lambda r: r.local_time("Europe/Berlin")}
    )
    for name, read in whole.items():
        relation = read(result)
        assert relation.columns[0] == "project_id", name
        for project_id, one in result.projects.items():
            own = read(one)
            mine = relation.filter(f"project_id = '{project_id}'").project(", ".join(f'"{c}"' for c in own.columns))
            assert sorted(map(str, mine.fetchall())) == sorted(map(str, own.fetchall())), name
        assert len(relation) == sum(len(read(one)) for one in result.projects.values()), name
    assert len(result.rejected) == 1
    assert len(result.failures) == 1


def test_relations_combine_and_sql_names_them(result) -> None:
    """As with one project: with each other, with those of a project, and as variables in SQL."""
    events = result.events
    [(count,)] = result.sql("SELECT count(*) FROM events WHERE event_name = 'Page View'").fetchall()
    assert count == len(result.events.filter("event_name = 'Page View'"))
    joined_ = result.event_names().set_alias("n").join(result.duplicates().set_alias("d"), "event_name")
    assert len(joined_) > 0
    assert events.count("*").fetchall() == [(result.total_rows,)]


def test_counts_are_those_of_the_projects(result) -> None:
    """Added up, and by project; after ``close()`` they are the last ones."""
    each = list(result.projects.values())
    for name in ("total_rows", "fetched_rows", "rows_outside", "rejected_lines", "bytes", "successful_batches",
                 "failed_batches", "skipped_batches", "cancelled_batches"):  # fmt: skip
        assert getattr(result, name) == sum(getattr(one, name) for one in each), name
    assert result.failed_date_ranges == [days for one in each for days in one.failed_date_ranges] == [(day(3), day(4))]
    assert [one.has_failures for one in each] == [True, False]
    before = (result.total_rows, result.has_failures)
    result.close()
    assert (result.total_rows, result.has_failures) == before
    with pytest.raises(mpnb.ClosedError):
        _ = result.projects
    with pytest.raises(mpnb.ClosedError):
        _ = each[0].events


def test_the_result_of_a_project_is_closed_by_itself(result) -> None:
    """The others, and the whole, stay open; there is one for each project, and no other."""
    first, second = result.projects
    result.projects[first].close()
    assert len(result.projects[second].events) + len(result.events) > 0
    with pytest.raises(KeyError, match=f"there is no project '7', but {first}, {second}"):
        _ = result.projects["7"]


def test_a_result_of_one_project_is_its_own(projects) -> None:
    """So that the same code reads both."""
    one = projects([])
    with one.export(credentials=one.all[0].credentials) as result:
        assert dict(result.projects) == {one.ids[0]: result}


def test_frames_are_of_all_projects(result, tmp_path) -> None:
    """pandas, polars, Arrow and Parquet, which can be divided by project; duplicates go within each."""
    rows = result.total_rows
    assert (len(result.df()), result.pl().height, result.arrow().num_rows) == (rows, rows, rows)
    assert len(result.df(deduplicated=True)) == len(result.deduplicated())
    assert result.df(result.event_names()).columns[0] == "project_id"
    folder = result.to_parquet(tmp_path / "out", partition_by="project_id")
    files = list(folder.iterdir())
    assert len(files) == 2
    found = query(":memory:", f"SELECT count(*), count(DISTINCT project_id) FROM '{folder}/*.parquet'")
    assert found == [(rows, 2)]


ONE_PROJECT: dict[str, Callable[[mpnb.ExportResult], object]] = {
    "event": lambda r: r.event("Page View"),
    "catalog": lambda r: r.catalog(),
    "for_analysis": lambda r: r.for_analysis(),
    "identities": lambda r: r.identities(),
    "misfits": lambda r: r.misfits(),
    "create_views": lambda r: r.create_views(),
    "forget_typed": lambda r: r.forget_typed(),
    "df by name": lambda r: r.df("Page View"),
    "df by columns": lambda r: r.df(columns=["$city"]),
    "to_parquet by name": lambda r: r.to_parquet("out", "Page View"),
    "explore": lambda r: mpnb.explore(r),
}


def test_what_is_asked_of_one_project_says_so(result) -> None:
    """With what to type, and it works on that project's result."""
    first = next(iter(result.projects))
    for name, call in ONE_PROJECT.items():
        with pytest.raises(mpnb.PlanError) as refused:
            call(result)
        assert f"result.projects['{first}'] is the result of that one" in str(refused.value), name


def test_what_is_asked_of_one_project_works_there(result) -> None:
    """Typed events, the catalog, a check, analysis: as with a table that was exported by itself."""
    one = result.projects[list(result.projects)[1]]
    assert len(one.event("Page View")) > 0
    assert one.check().ok in (True, False)
    assert len(one.for_analysis()) > 0


def test_a_check_is_of_all_projects(result, mpnb_command, database) -> None:
    """By the table of each, with the days of all; in a shell as well, where it fails if one does."""
    check = result.check()
    assert not check.ok
    for project_id, one in result.projects.items():
        mine = [finding for finding in check.findings if finding.table == f"events_{project_id}"]
        assert [asdict(f) | {"table": ""} for f in mine] == [asdict(f) for f in one.check().findings]
    assert len(check.findings) == sum(len(one.check().findings) for one in result.projects.values())
    assert check.relation.columns == ["table", "check", "status", "count", "detail"]
    assert [each.state for each in check.calendar.days] == [each.state for each in result.calendar().days]
    assert all(f"{table}" in check._repr_html_() for table in {f.table for f in check.findings})
    ids = list(result.projects)
    result.close()
    again = mpnb.check(database=database)
    assert set(again.findings) == set(check.findings)
    assert str(again).startswith(f"{min(f.table for f in check.findings)}:\nok       days held")
    status, out, _ = mpnb_command("check", "--database", str(database))
    assert (status, out.strip()) == (1, str(again))
    status, _, _ = mpnb_command("check", "--database", str(database), "--table", f"events_{ids[1]}")
    assert status == 0
    status, out, _ = mpnb_command("check", "--database", str(database), "--json")
    assert {each["table"] for each in json.loads(out)["findings"]} == {f"events_{each}" for each in ids}


def test_a_day_of_the_calendar_has_the_state_of_the_project_that_is_worst_off(result) -> None:
    """And the events of all; what is missing can be typed."""
    calendar = result.calendar()
    states = {each.day: each.state for each in calendar.days}
    assert [states[day(n)] for n in range(1, 7)] == ["there", "there", "failed", "failed", "there", "there"]
    assert sum(each.events for each in calendar.days) + calendar.events_elsewhere == result.total_rows
    assert calendar.words.startswith("4 of 6 days are there; 2 failed")
    assert len(calendar.relation) == 6
    assert calendar.call.endswith(", credentials=credentials)")


def test_the_summary_has_a_line_for_each_project(result) -> None:
    """As text and as HTML: what came, what is missing and why, and whose it is."""
    text = repr(result)
    assert "Mixpanel events of 2 projects" in text
    for project_id, one in result.projects.items():
        assert re.search(rf"{project_id} {one.total_rows:,} in table 'events_{project_id}'", text)
    html = result._repr_mimebundle_()["text/html"]
    first = next(iter(result.projects))
    assert f"{first} 2026-01-03 – 2026-01-04" in html


def test_progress_names_the_project(projects, capsys) -> None:
    """In lines of a pipe, in ``on_batch`` and in the grid's cells, which go by project and date."""
    two = projects([], [])
    two.export(on_batch=None).close()
    lines = capsys.readouterr().err
    assert all(f"mpnb: {project_id} 2026-01-01 – 2026-01-02 done" in lines for project_id in two.ids)
    seen: list[mpnb.BatchProgress] = []
    two.export(on_batch=seen.append, mode="refresh").close()
    assert {batch.project_id for batch in seen} == set(two.ids)
    assert {batch.label for batch in seen if batch.from_date == day(1)} == {
        f"{project_id} 2026-01-01 – 2026-01-02" for project_id in two.ids
    }


# --- the shell -----------------------------------------------------------------------------------------------------


def test_the_command_takes_names_of_the_environment(projects, mpnb_command, monkeypatch) -> None:
    """Several make a table for each, one the table that was named; a missing one is named by its variable."""
    two = projects([], [])
    for name, mp in zip(("ONE", "TWO"), two.all, strict=True):
        own = mp.credentials
        given = {"USERNAME": own.username, "SECRET": own.secret, "PROJECT_ID": own.project_id, "API_BASE_URL": mp.url}
        for key, value in given.items():
            monkeypatch.setenv(f"MP_{name}_{key}", value)
    days = ("2026-01-01", "2026-01-02", "--per-second", "100")
    status, out, _ = mpnb_command("export", *days, "--project", "ONE", "--project", "two")
    assert status == 0
    assert all(f"in table 'events_{project_id}'" in out for project_id in two.ids)
    status, out, _ = mpnb_command("plan", *days, "--project", "ONE", "--project", "TWO")
    assert f"{two.ids[1]} 0 requests of 59 left this hour" in out
    status, out, _ = mpnb_command("export", *days, "--project", "ONE", "--table", "one")
    assert "in table 'one'" in out
    status, _, err = mpnb_command("export", *days, "--project", "THREE")
    assert (status, "set MP_THREE_USERNAME, MP_THREE_SECRET" in err) == (2, True)
    status, _, err = mpnb_command("export", *days, "--project", "ONE", "--project", "ONE")
    assert (status, f"--project has project {two.ids[0]} twice" in err) == (2, True)


# --- the end -------------------------------------------------------------------------------------------------------


def test_nobody_opens_a_broken_database_while_another_uses_it() -> None:
    """Each waits for all others where it is broken, and for nobody where it is not."""
    broken, passed = threading.Event(), []
    together = Together(3, broken.is_set)
    together()  # the first, while all is well
    broken.set()
    second = threading.Thread(target=lambda: (together(), passed.append(2)))
    second.start()
    assert not passed
    side_by_side(lambda: (together(), passed.append(3)))
    joined(second)
    assert sorted(passed) == [2, 3]
