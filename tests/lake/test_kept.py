"""A lake's mirror in a database that is kept: what is made of events is made once, what has changed is read again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import pytest

import mpnb
from mpnb._planning.address import address_of
from mpnb._storing.mirror import object_key, objects_at
from mpnb.sandbox import Fault
from tests._helpers import PATIENCE, WIDE, as_served, as_stored, day, days_of, event, moved, query, until

Fill = Callable[..., mpnb.ExportResult]
THREE = days_of(day(1), day(3))


def stored(result: mpnb.ExportResult) -> Any:
    """Count the events of a result."""
    return as_stored(result.events.project("event_name, properties").fetchall())


def ids(result: mpnb.ExportResult) -> dict[date, int]:
    """Give the batch of each day."""
    return dict(result.batches.project("from_date, batch_id").fetchall())


def said(result: mpnb.ExportResult) -> dict[str, Any]:
    """Give all that a result says but for the ids of batches."""
    names = "export_id, from_date, to_date, status, rows, rejected, attempts, kind, message"
    return {
        "batches": sorted(map(str, result.batches.project(names).fetchall())),
        "failures": result.failures.project("from_date, to_date, status, kind, message").fetchall(),
        "missing": (result.failed_date_ranges, result.has_failures),
        "events": stored(result),
        "days": result.events.aggregate("project_id, date, count(*)").order("ALL").fetchall(),
        "rejected": sorted(map(str, result.rejected.project("line_number, reason, line").fetchall())),
        "calendar": [(each.day, each.state, each.events) for each in result.calendar().days],
    }


def test_what_is_made_once_is_there_when_it_is_opened_again(
    sandbox: Any, fill: Fill, lake: str, database: Path
) -> None:
    """Without a look at the events; by the lake and the database, and by the database alone."""
    mp = sandbox()
    fill(mp, lake).close()
    with mpnb.open(lake, database=database) as opened:
        rows = sorted(map(str, opened.event("Page View").fetchall()))
        before = ids(opened)
    for again in (lambda: mpnb.open(lake, database=database), lambda: mpnb.open(database)):
        with again() as opened:
            assert ids(opened) == before
            # Whoever reads events meets a day that is not there any more; the typed table does not need it.
            objects = objects_at(address_of(lake))
            key = object_key(mp.project_id, day(2))
            kept = objects.read(key)
            assert kept is not None
            objects.delete(key)
            assert sorted(map(str, opened.event("Page View").fetchall())) == rows
            with pytest.raises(duckdb.Error):
                opened.events.fetchall()
            objects.put(key, kept, None)
        with mpnb.open(lake, database=database) as opened:
            assert stored(opened) == as_served(mp, THREE)
            assert sorted(map(str, opened.event("Page View").fetchall())) == rows
            before = ids(opened)


def test_a_day_that_changed_is_read_again_and_no_other(sandbox: Any, fill: Fill, lake: str, database: Path) -> None:
    """New rows in the events and in typed tables, a new batch for that day, the same for the others."""
    amount = {each: 1 for each in THREE}
    mp = sandbox(lines=lambda each: [moved(event("Buy", amount=amount[each]), each)])
    fill(mp, lake).close()
    with mpnb.open(lake, database=database) as opened:
        assert opened.event("Buy").project("amount").fetchall() == [(1,)] * 3
        before = ids(opened)
    amount[day(2)] = 5
    fill(mp, lake, day(2), day(2), mode="refresh").close()
    with mpnb.open(lake, database=database) as opened:
        assert sorted(opened.event("Buy").project("amount").fetchall()) == [(1,), (1,), (5,)]
        after = ids(opened)
    assert {each for each in THREE if before[each] != after[each]} == {day(2)}
    assert after[day(2)] > max(before.values())


def test_a_kept_mirror_says_what_a_new_one_does(sandbox: Any, fill: Fill, folder: str, database: Path) -> None:
    """Whatever has become of the lake meanwhile, in any order."""
    refused = Fault("status", status=400, day=day(2), body={"error": "no"}, times=1)
    bad = Fault("bad_lines", day=day(1), lines=[b"[1]"], times=1)
    mp, other = sandbox(faults=[bad, refused]), sandbox(events_per_day=3)
    never = sandbox(faults=[Fault("status", status=400, times=None)])
    unserved = mpnb.Credentials(mp.credentials.username, "x", mp.project_id, base_url=never.url)
    objects = objects_at(address_of(folder))

    def gone(number: int) -> None:
        objects.delete(object_key(mp.project_id, day(number)))

    def again(first: int, last: int, **options: Any) -> None:
        fill(mp, folder, day(first), day(last), **options).close()

    def in_vain(first: int, last: int, **options: Any) -> None:
        with pytest.raises(mpnb.ExportError) as raised:
            fill(mp, folder, day(first), day(last), credentials=unserved, **options)
        raised.value.result.close()

    steps: list[tuple[str, Callable[[], object]]] = [
        ("three days, one of them in vain", lambda: again(1, 3)),
        ("the one that failed", lambda: again(1, 3)),
        ("it is gone again", lambda: gone(2)),
        ("a longer batch, of which a part is gone", lambda: (again(2, 8, chunk_days=3), gone(5))),
        ("a failure that is made up for in part", lambda: (in_vain(5, 9, mode="refresh", chunk_days=5), again(9, 9))),
        ("a day in vain that is there", lambda: in_vain(1, 1, mode="refresh")),
        ("another project, and a day of the first", lambda: (fill(other, folder).close(), again(1, 1, mode="refresh"))),
        ("the first project is gone", lambda: [gone(each) for each in range(1, 10)]),
    ]
    for name, step in steps:
        step()
        with mpnb.open(folder) as new, mpnb.open(folder, database=database) as kept:
            assert list(kept.projects) == list(new.projects), name
            for project in new.projects:
                assert said(kept.projects[project]) == said(new.projects[project]), name


def test_what_others_store_at_the_same_time_is_there(sandbox: Any, fill: Fill, folder: str, database: Path) -> None:
    """Each time that it is opened, also while an export of this process goes on, or retries through it."""
    looked = threading.Event()

    def lines(each: date) -> None:
        if each == day(2):
            looked.wait(PATIENCE)

    four = days_of(day(1), day(4))
    faults = [Fault("hang_start", day=day(4), times=1), Fault("status", status=400, day=day(3), times=1)]
    mp = sandbox(faults=faults, lines=lines)
    options: dict[str, Any] = {"quota": WIDE, "on_batch": lambda _: None, "workers": 1}
    job = mpnb.start(day(1), day(4), destination=folder, credentials=mp.credentials, **options)
    try:
        until(lambda: job.progress().ended == 1, PATIENCE)
        with mpnb.open(folder, database=database) as opened:
            assert stored(opened) == as_served(mp, four[:1])
        looked.set()
        until(lambda: job.progress().ended == 3 and len(mp.requests) == 4, PATIENCE)
        with mpnb.open(folder, database=database) as opened:
            assert stored(opened) == as_served(mp, four[:2])
    finally:
        looked.set()
        job.cancel()
        job.outcome(PATIENCE).close()
    with mpnb.open(folder, database=database, credentials=mp.credentials) as opened:
        assert opened.failed_date_ranges == [(day(3), day(3)), (day(4), day(4))]
        with opened.retry(**options) as retried, mpnb.open(folder, database=database) as again:
            assert stored(retried) == stored(again) == as_served(mp, four)
    with mpnb.open(folder, database=database) as kept, mpnb.open(folder) as new:
        assert said(kept) == said(new)


def test_what_has_something_else_is_refused(sandbox: Any, fill: Fill, tmp_path: Path, database: Path) -> None:
    """Events of another lake or of its own, or a table of the same name; nothing of it is changed."""
    mp = sandbox()
    lakes = [str(tmp_path / name) for name in ("one", "two")]
    for each in lakes:
        fill(mp, each).close()
    kept = tmp_path / "kept.duckdb"
    mpnb.open(lakes[0], database=kept).close()
    options = {"credentials": mp.credentials, "quota": WIDE, "on_batch": lambda _: None}
    mpnb.export(day(1), day(1), database=database, **options).close()
    for path, words in ((kept, f"another lake, {lakes[0]}"), (database, "events of its own, in 'events'")):
        with pytest.raises(mpnb.TableError, match=rf"{words}: pass another database="):
            mpnb.open(lakes[1], database=path)
    mine = tmp_path / "mine.duckdb"
    for made in (f"TABLE events_{mp.project_id} (i INTEGER)", f"VIEW EVENTS_{mp.project_id} AS SELECT 1 AS i"):
        with duckdb.connect(str(mine)) as con:
            con.execute(f"CREATE {made}")
        with pytest.raises(mpnb.TableError, match=f"there is a table or view 'events_{mp.project_id}' already"):
            mpnb.open(lakes[0], database=mine)
        assert len(query(mine, f"FROM events_{mp.project_id}")) == made.count("VIEW")
        mine.unlink()
    for place in (database, "nothing-here", duckdb.connect()):
        with pytest.raises(mpnb.PlanError, match=r"is for what is made of a lake, and .* is no lake"):
            mpnb.open(place, database=tmp_path / "other.duckdb")
    assert not (tmp_path / "other.duckdb").exists()
    for call in (
        lambda: mpnb.export(day(1), day(1), database=kept, **options),
        lambda: mpnb.plan(day(1), day(1), database=kept, credentials=mp.credentials),
        lambda: mpnb.drop(f"events_{mp.project_id}", database=kept),
        lambda: mpnb.forget_person("a", database=kept),
    ):
        with pytest.raises(mpnb.TableError, match=r"has what was made of the lake .*one, whose events are there"):
            call()
    with mpnb.open(kept) as opened:
        assert stored(opened) == as_served(mp, THREE)


def test_it_is_kept_wherever_a_database_can_be(sandbox: Any, fill: Fill, folder: str, tmp_path: Path) -> None:
    """In memory, on a connection, and under another name than before; beside profiles."""
    mp = sandbox()
    fill(mp, folder).close()
    with mpnb.open(folder, database=":memory:") as opened:
        assert stored(opened) == as_served(mp, THREE)
    options = {"quota": WIDE, "on_batch": lambda _: None}
    path = tmp_path / "before.duckdb"
    with duckdb.connect(str(path)) as con:
        mpnb.export_profiles(database=con, credentials=mp.credentials, **options).close()
        for place in ((folder, con), (con, None)):
            with mpnb.open(place[0], database=place[1]) as opened:
                assert stored(opened) == as_served(mp, THREE)
                assert len(opened.event("Page View")) > 0
        assert con.sql("SELECT count(*) > 0 FROM profiles").fetchall() == [(True,)]
    after = path.rename(tmp_path / "after.duckdb")
    with mpnb.open(folder, database=after) as opened:
        assert stored(opened) == as_served(mp, THREE)
    assert mpnb.check(database=after).ok
