"""The tables of mpnb in a file: whole, of a known version, with ids that no two batches share."""

from __future__ import annotations

import contextlib
import gzip
import json
import shutil
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import duckdb
import pytest

import mpnb
from mpnb._fetching.fetched import Lost, Task
from mpnb._mixpanel.failures import failure
from mpnb._planning.batches import Batch
from mpnb._planning.request import Source
from mpnb._storing import ledger
from mpnb._storing import tables as layout
from mpnb._storing.database import Store
from mpnb._storing.running import entering, running
from mpnb._storing.tables import LAYOUT
from mpnb.sandbox import Fault, serve
from tests._helpers import WIDE, all_or_nothing, day, joined, query, side_by_side, statuses

FILES = Path(__file__).parent / "files"


def unpacked(name: str, folder: Path) -> Path:
    """Copy a file of an earlier version to where it may be written."""
    path = folder / "mixpanel.duckdb"
    with gzip.open(FILES / name) as packed, path.open("wb") as plain:
        shutil.copyfileobj(packed, plain)
    return path


# --- files of earlier versions ---------------------------------------------------------------------------------------


def test_there_is_a_file_of_each_earlier_layout() -> None:
    """What is in users' databases opens with every later version."""
    assert all((FILES / f"layout-{version}.duckdb.gz").exists() for version in range(1, LAYOUT))


def test_a_file_of_layout_1_is_migrated_when_it_is_opened(tmp_path: Path) -> None:
    """Rows, ledger, rejected lines and typed tables stay as they were, and the ledger gets its key and sequence."""
    path = unpacked("layout-1.duckdb.gz", tmp_path)
    tables = ("events", "other", "mpnb_batches", "mpnb_rejected", "mpnb_typed.events", "mpnb_typed.kinds")
    before = {table: sorted(map(str, query(path, f"FROM {table}"))) for table in tables}
    assert len(before["events"]) == 215
    with mpnb.open(path, table="events") as db:
        assert db.total_rows == 215
        assert db.has_failures
        assert {table: sorted(map(str, db.sql(f"FROM {table}").fetchall())) for table in tables} == before
        assert db.sql("SELECT value FROM mpnb_meta WHERE name = 'layout'").fetchall() == [(str(LAYOUT),)]
        [(most,)] = db.sql("SELECT max(batch_id) FROM mpnb_batches").fetchall()
        assert db.con.execute("SELECT nextval('mpnb_batch_ids')").fetchall() == [(most + 1,)]
        keys = db.sql("SELECT constraint_column_names FROM duckdb_constraints() WHERE table_name = 'mpnb_batches'")
        assert (["table_name", "batch_id"],) in keys.fetchall()
    with mpnb.open(path, table="other") as db:
        assert db.total_rows == 2


def test_a_file_of_layout_2_is_migrated_when_it_is_opened(tmp_path: Path) -> None:
    """All that was in it stays as it was, and what layout 3 has besides is there and empty."""
    path = unpacked("layout-2.duckdb.gz", tmp_path)
    tables = ("events", "other", "mpnb_batches", "mpnb_rejected", "mpnb_typed.events", "mpnb_typed.kinds")
    before = {table: sorted(map(str, query(path, f"FROM {table}"))) for table in tables}
    assert len(before["events"]) == 230
    with mpnb.open(path, table="events") as db:
        assert db.total_rows == 230
        assert db.failed_date_ranges == [(day(10), day(12))]
        assert {table: sorted(map(str, db.sql(f"FROM {table}").fetchall())) for table in tables} == before
        assert db.sql("SELECT value FROM mpnb_meta WHERE name = 'layout'").fetchall() == [(str(LAYOUT),)]
        assert db.sql("FROM mpnb_snapshots").fetchall() == db.sql("FROM mpnb_pages").fetchall() == []


def test_a_file_of_layout_2_is_read_as_it_is_where_it_cannot_be_written(tmp_path: Path) -> None:
    """Nothing is migrated then, and the rows are there."""
    path = unpacked("layout-2.duckdb.gz", tmp_path)
    with duckdb.connect(str(path), read_only=True) as con, mpnb.open(con, table="events") as db:
        assert db.total_rows == 230
        assert db.sql("SELECT value FROM mpnb_meta WHERE name = 'layout'").fetchall() == [("2",)]


def test_columns_of_a_file_of_layout_3_keep_their_names(tmp_path: Path) -> None:
    """Names that its typed tables have given stay, although a property comes that would have taken one of them."""
    path = unpacked("layout-3.duckdb.gz", tmp_path)
    with mpnb.open(path, table="events") as db:
        query = "SELECT event_name, property, column_name FROM mpnb_columns WHERE column_name IS NOT NULL ORDER BY ALL"
        of_each = [("Plan", "Plan"), ("n", "n"), ("plan", "plan_3"), ("plan_2", "plan_2")]
        assert db.sql(query).fetchall() == [(event, *each) for event in ("Buy", "it's") for each in of_each]
    lines = [json.dumps({"event": "Buy", "properties": {"time": 1767571200, "PLAN": 1, "Plan": "x"}}).encode()]
    with serve(lines=lambda d: lines, project_id="1") as mp:
        ask = {"database": path, "credentials": mp.credentials, "quota": WIDE}
        with mpnb.export("2026-01-05", "2026-01-05", **ask):
            pass
    with mpnb.open(path, table="events") as db:
        assert db.event("Buy").columns[5:] == ["PLAN_4", "Plan", "n", "plan_3", "plan_2"]
        assert db.event("Buy").filter("PLAN_4 = 1").project("Plan").fetchall() == [("x",)]


def test_a_file_of_layout_4_is_migrated_when_it_is_opened(tmp_path: Path) -> None:
    """Events and profiles stay as they were, and a person can be forgotten."""
    path = unpacked("layout-4.duckdb.gz", tmp_path)
    tables = ("events", "profiles")
    before = {table: sorted(map(str, query(path, f"FROM {table}"))) for table in tables}
    assert (len(before["events"]), len(before["profiles"])) == (95, 7)
    with mpnb.open(path, table="events") as db:
        assert db.sql("SELECT value FROM mpnb_meta WHERE name = 'layout'").fetchall() == [(str(LAYOUT),)]
        assert db.sql("FROM mpnb_forgotten").fetchall() == []
        assert {table: sorted(map(str, db.sql(f"FROM {table}").fetchall())) for table in tables} == before
    assert mpnb.forget_person("p3", database=path)["profiles"] == 1


def test_an_export_goes_on_in_a_file_of_layout_1(tmp_path: Path) -> None:
    """The failed batch is fetched, and the others are there already."""
    path = unpacked("layout-1.duckdb.gz", tmp_path)
    with serve(seed=1, events_per_day=20, project_id="1") as mp:
        result = mpnb.export("2026-01-01", "2026-01-14", database=path, credentials=mp.credentials, quota=WIDE)
        with result:
            assert result.skipped_batches == 4
            assert result.successful_batches == 1
            assert not result.has_failures
            assert query_days(mp.requests) == {("2026-01-07", "2026-01-09")}


def query_days(requests: Any) -> set[tuple[str, str]]:
    """List the ranges that a sandbox was asked for."""
    return {(request.params["from_date"], request.params["to_date"]) for request in requests}


def test_a_file_with_ids_that_collided_is_mended_by_fetching_those_days(tmp_path: Path) -> None:
    """Days that stood as done without rows are found, and the same call brings them."""
    path = unpacked("layout-1-colliding-ids.duckdb.gz", tmp_path)
    with mpnb.open(path, table="two") as db:
        assert not db.check().ok
        held = "SELECT batch_id FROM mpnb_batches WHERE table_name = 'two' AND status = 'done'"
        [(lost,)] = db.sql(f"SELECT count(*) FROM ({held}) WHERE batch_id NOT IN (SELECT batch_id FROM two)").fetchall()
        assert lost >= 3
    for table, project in (("one", "1"), ("two", "2")):
        with serve(events_per_day=20, project_id=project) as mp, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of rows that are gone
            ask = {"database": path, "table": table, "credentials": mp.credentials, "quota": WIDE, "chunk_days": 1}
            mpnb.export("2026-01-01", "2026-01-28", **ask).close()
            with mpnb.export("2026-01-01", "2026-01-28", mode="refresh", **ask) as result:
                assert result.check().ok
                assert result.total_rows == mp.count(day(1), day(28))
                ids = result.sql("SELECT count(*), count(DISTINCT (table_name, batch_id)) FROM mpnb_batches").fetchall()
                assert ids[0][0] == ids[0][1]


@pytest.mark.parametrize("call", ["export", "start", "plan", "open"])
def test_a_file_of_a_newer_version_is_refused_in_one_line(sandbox, database: Path, call: str) -> None:
    """It says which layout the file has, and nothing is sent or written."""
    mp = sandbox()
    ask = {"database": database, "credentials": mp.credentials, "quota": WIDE}
    mpnb.export(day(1), day(1), **ask).close()
    with duckdb.connect(str(database)) as con:
        con.execute(f"UPDATE mpnb_meta SET value = '{LAYOUT + 1}'")
    sent = len(mp.requests)
    with pytest.raises(mpnb.DatabaseError, match=rf"newer mpnb \(layout {LAYOUT + 1}, .*upgrade mpnb"):
        mpnb.open(database) if call == "open" else getattr(mpnb, call)(day(1), day(2), **ask)
    assert len(mp.requests) == sent


def test_a_file_of_an_older_layout_that_is_read_only_is_read_as_it_is(tmp_path: Path) -> None:
    """A connection that cannot write is no reason not to read."""
    path = unpacked("layout-1.duckdb.gz", tmp_path)
    with duckdb.connect(str(path), read_only=True) as con, mpnb.open(con, table="events") as db:
        assert db.total_rows == 215


@pytest.mark.parametrize("gone", ["mpnb_rejected", "mpnb_meta"])
def test_opening_mends_a_table_that_is_missing(sandbox, export, database: Path, gone: str) -> None:
    """A file without one of the tables is read, its events typed, and written to."""
    mp = sandbox()
    export(mp).close()
    with duckdb.connect(str(database)) as con:
        con.execute(f"DROP TABLE {gone}")
    with mpnb.open(database) as db:
        assert db.rejected.fetchall() == []
        assert db.event("Purchase").fetchall()
    with export(mp, day(1), day(4)) as result:
        assert result.skipped_batches == 3


# --- a new file ------------------------------------------------------------------------------------------------------

KILLED_WHILE_MAKING = """
import os, signal, sys, threading
import duckdb, mpnb._storing.database as store

nth = int(sys.argv[2])
seen = 0
def die(event, arguments):
    global seen
    if event in ("os.link", "os.rename", "os.remove", "mpnb.made"):
        seen += 1
        if seen == nth:
            os.kill(os.getpid(), signal.SIGKILL)
real = store.run
def run(cursor, query, *parameters):
    rows = real(cursor, query, *parameters)
    sys.audit("mpnb.made")
    return rows
store.run = run
sys.addaudithook(die)
store.Store(sys.argv[1]).close()
print("alive")
"""


def test_a_kill_while_the_file_is_made_leaves_none_or_a_whole_one(sandbox, tmp_path: Path) -> None:
    """At every step of its making; the next export opens it or makes it, and removes what the dead one left."""
    mp = sandbox()
    for nth in range(1, 20):
        folder = tmp_path / str(nth)
        folder.mkdir()
        path = folder / "mixpanel.duckdb"
        said = subprocess.run(
            [sys.executable, "-c", KILLED_WHILE_MAKING, str(path), str(nth)], capture_output=True, timeout=60, text=True
        )
        with mpnb.export(
            day(1), day(1), database=path, credentials=mp.credentials, quota=WIDE, on_batch=lambda _: None
        ) as result:
            assert result.total_rows == mp.count(day(1), day(1))
        assert [each.name for each in folder.iterdir()] == ["mixpanel.duckdb"]
        if said.stdout == "alive\n":
            break
    assert nth > 3
    assert said.stdout == "alive\n", said.stderr


def test_two_that_make_the_same_file_at_once_share_it(database: Path) -> None:
    """Whoever comes second opens what the first has made."""
    stores: list[Store] = []
    barrier = threading.Barrier(8)

    def make() -> None:
        barrier.wait(10)
        stores.append(Store(database))

    side_by_side(*[make] * 8)
    assert len(stores) == 8
    for store in stores:
        store.close()
    assert [each.name for each in database.parent.iterdir() if each.is_file()] == ["mixpanel.duckdb"]


# --- a refused export writes nothing ---------------------------------------------------------------------------------


def test_a_refused_export_writes_nothing(sandbox, database: Path) -> None:
    """A table of that name is somebody else's: ``plan()`` says so as well, and no table of ours is made."""
    with duckdb.connect(str(database)) as con:
        con.execute("CREATE TABLE events (a INTEGER)")
    mp = sandbox()
    for call in (mpnb.plan, mpnb.export, mpnb.start):
        with pytest.raises(mpnb.TableError, match="does not have the columns"):
            call(day(1), day(2), database=database, credentials=mp.credentials)
    assert query(database, "SELECT table_name FROM duckdb_tables()") == [("events",)]
    assert query(database, "SELECT sequence_name FROM duckdb_sequences()") == []
    assert not mp.requests


# --- ids -------------------------------------------------------------------------------------------------------------


def test_exports_side_by_side_in_one_file_that_are_split_never_share_an_id(database: Path) -> None:
    """Two tables, both split by 413 and with days that fail: what is done has its rows, and the counts agree."""
    large = Fault("too_large", times=None)
    bad = [Fault("status", status=400, day=day(n), times=None) for n in range(1, 29, 2)]
    with (
        serve(events_per_day=20, faults=[large], project_id="1") as a,
        serve(events_per_day=20, faults=[large, *bad], project_id="2") as b,
    ):
        jobs = [
            mpnb.start(day(1), day(28), table=table, credentials=mp.credentials, database=database, quota=WIDE)
            for table, mp in (("one", a), ("two", b))
        ]
        one, two = [job.result(60) for job in jobs]
        with one, two:
            count = "SELECT count(*), count(DISTINCT batch_id) FROM mpnb_batches"
            [(batches, ids)] = one.sql(count).fetchall()
            assert batches == ids == 56
            assert one.total_rows == a.count(day(1), day(28)) == len(one.events.fetchall())
            assert two.total_rows == len(two.events.fetchall())
            assert two.failed_date_ranges == [(day(n), day(n)) for n in range(1, 29, 2)]
            for result in (one, two):
                assert "problem" not in [f.status for f in result.check().findings if f.name.startswith("ledger")]


def test_an_id_is_never_given_twice(sandbox, export) -> None:
    """Not even that of a batch that is gone: typed tables know batches by it."""
    mp = sandbox(faults=[Fault("too_large", times=None)])
    seen: set[int] = set()
    for _ in range(3):
        with export(mp, day(1), day(4), chunk_days=4, mode="refresh") as result:
            ids = {i for (i,) in result.sql("SELECT batch_id FROM mpnb_batches").fetchall()}
        assert not ids & seen
        seen |= ids


def test_a_landing_that_the_ledger_does_not_have_is_rolled_back(sandbox, start, database: Path) -> None:
    """Somebody deletes the ledger's rows in mid-export: no event comes to the table that no batch accounts for."""
    mp = sandbox(faults=[Fault("stall", seconds=0.3)])
    with duckdb.connect(str(database)) as con:
        job = start(mp, day(1), day(1))
        con.execute("DELETE FROM mpnb_batches").fetchall()
        with contextlib.suppress(mpnb.ExportError):
            job.result(30)
        assert con.execute("SELECT count(*) FROM events").fetchall() == [(0,)]
        assert [cell.status for cell in job.batches()] == ["failed"]
        assert "0 of 1 batches" in str(job.batches()[0].error)


def test_a_batch_that_landed_is_never_noted_as_failed(database: Path) -> None:
    """Whatever went wrong after its commit."""
    with contextlib.closing(Store(database)) as store, store.reading() as cursor:
        layout.create(cursor, "events")
        source = Source("1")
        [batch_id] = ledger.register(
            cursor, export_id="e", table="events", source=source, batches=[Batch(day(1), day(1))]
        )
        task = Task(0, batch_id, Batch(day(1), day(1)))
        ledger.landed(cursor, "events", [ledger.Arrival(task, 3, 0, 10)])
        with pytest.raises(ledger.LedgerError):
            ledger.lost(cursor, "events", Lost(task, failure("write", "late")), "failed")
        assert ledger.status_of(cursor, "events", batch_id) == ("done", 3, 0)


# --- who is alive ----------------------------------------------------------------------------------------------------


def test_an_export_that_starts_is_never_taken_for_a_dead_one(
    sandbox, start, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``mpnb.open()`` in another thread, at the very moment between the commit and the start."""
    mp = sandbox(faults=[Fault("stall", seconds=0.2)])
    mpnb.export(day(1), day(1), database=database, credentials=mp.credentials, quota=WIDE).close()
    opened = threading.Event()

    def look() -> None:
        mpnb.open(database).close()
        opened.set()

    looker = threading.Thread(target=look, daemon=True)
    commit = mpnb._storing.table.run  # type: ignore[attr-defined]

    def watched(cursor: Any, text: str, *more: Any) -> Any:
        rows = commit(cursor, text, *more)
        if text == "COMMIT" and not looker.ident:
            looker.start()
            opened.wait(0.3)
        return rows

    monkeypatch.setattr(mpnb._storing.table, "run", watched)
    job = start(mp, day(2), day(3))
    joined(looker)
    with job.result(30) as result:
        assert opened.is_set()
        assert statuses(result) == {"done": 3}
        all_or_nothing(result, mp)


def test_what_a_dead_process_left_is_settled(sandbox, export, database: Path) -> None:
    """Its batches are no longer under way, and the lock that this takes is free again."""
    mp = sandbox()
    export(mp, day(1), day(2)).close()
    with duckdb.connect(str(database)) as con:
        con.execute("UPDATE mpnb_batches SET status = 'fetching', export_id = 'dead' WHERE from_date = '2026-01-02'")
        con.execute("DELETE FROM events WHERE batch_id NOT IN (SELECT batch_id FROM mpnb_batches WHERE status='done')")
    with mpnb.open(database) as db:
        assert statuses(db) == {"done": 1, "cancelled": 1}
    assert not entering.locked()
    assert not running
