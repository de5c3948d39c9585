"""The database: beside the user's own connections, under any name, and never over somebody else's table."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest

import mpnb
from mpnb._planning.options import DATABASE
from mpnb.sandbox import Fault
from tests._helpers import WIDE, all_or_nothing, child, day, event, query, statuses, until


def settings(con: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """Read all settings but the progress bar's, which a connection has where Python is interactive, and no cursor."""
    query = "SELECT name, value FROM duckdb_settings() WHERE name <> 'enable_progress_bar'"
    return dict(con.execute(query).fetchall())


# --- beside the user's own connection ------------------------------------------------------------------------------


def test_a_connection_that_was_there_before(sandbox, export, database) -> None:
    """It sees the rows at once, its settings are not touched, and it lives on."""
    mp = sandbox()
    with duckdb.connect(str(database)) as con:
        con.execute("SET memory_limit = '1GB'; SET checkpoint_threshold = '5MB'")
        con.execute("CREATE TABLE mine AS SELECT 42 AS answer")
        before = settings(con)
        during: list[dict[str, str]] = []
        result = export(mp, on_batch=lambda progress: during.append(settings(con)))
        assert con.execute("SELECT count(*) FROM events").fetchall() == [(result.total_rows,)]
        assert all(each == before for each in during)
        assert settings(con) == before
        result.close()
        assert con.execute("SELECT answer FROM mine").fetchall() == [(42,)]


def test_a_connection_that_comes_later(sandbox, export, database) -> None:
    """While the result is open, the same process may connect as usual, and write."""
    result = export(sandbox())
    with duckdb.connect(str(database)) as con:
        con.execute("CREATE TABLE mine AS SELECT count(*) AS n FROM events")
    assert result.sql("SELECT n FROM mine").fetchall() == [(result.total_rows,)]


def test_connections_that_come_and_go_while_it_runs(sandbox, export, database) -> None:
    """A reader sees whole batches only; a writer's own table survives."""
    mp = sandbox()
    counts: set[int] = set()

    def look(progress: mpnb.BatchProgress) -> None:
        with duckdb.connect(str(database)) as con:
            con.execute(f"CREATE OR REPLACE TABLE mine AS SELECT {progress.index} AS i")
            counts.update(n for (n,) in con.execute("SELECT count(*) FROM events GROUP BY batch_id").fetchall())

    result = export(mp, day(1), day(6), on_batch=look)
    assert result.successful_batches == 6
    assert counts <= {mp.count(day(n), day(n)) for n in range(1, 7)}
    assert result.sql("FROM mine").fetchall()


@pytest.mark.parametrize("config", [{"config": {"threads": 1}}, {"read_only": True}])
def test_a_connection_with_a_configuration_of_its_own(sandbox, export, database, config: dict[str, Any]) -> None:
    """DuckDB refuses a second one: the error says to close it, and nothing is sent."""
    duckdb.connect(str(database)).close()
    mp = sandbox()
    with (
        duckdb.connect(str(database), **config),
        pytest.raises(mpnb.DatabaseError, match="in this process with other settings"),
    ):
        export(mp)
    assert not mp.requests


def test_a_connection_may_be_passed(sandbox, export, tmp_path) -> None:
    """It stays the caller's: usable meanwhile and afterwards, with its own settings."""
    mp = sandbox()
    with duckdb.connect(str(tmp_path / "own.duckdb"), config={"threads": 1}) as con:
        before = settings(con)
        half_read = con.execute("FROM range(100000)")
        assert half_read.fetchone() == (0,)
        result = export(mp, database=con)
        assert half_read.fetchone() == (1,)
        all_or_nothing(result, mp)
        result.close()
        assert con.execute("SELECT count(*) FROM events").fetchall() == [(mp.count(day(1), day(3)),)]
        assert settings(con) == before
        with mpnb.open(con) as again:
            assert again.total_rows == mp.count(day(1), day(3))


def test_a_closed_connection_is_refused(sandbox, export) -> None:
    """Before the first request."""
    mp = sandbox()
    con = duckdb.connect()
    con.close()
    with pytest.raises(mpnb.DatabaseError, match="connection cannot be used"):
        export(mp, database=con)
    assert not mp.requests


def test_a_database_in_memory_lives_with_its_result(sandbox, export) -> None:
    """Each call has one of its own; a retry goes on in the same."""
    mp = sandbox(faults=[Fault("status", day(2), status=400)])
    result = export(mp, database=":memory:")
    other = export(mp, database=":memory:")
    assert (result.successful_batches, other.successful_batches) == (2, 3)
    with result.retry() as again:
        assert again.total_rows == result.total_rows == mp.count(day(1), day(3))
    assert mpnb.plan(day(1), day(3), credentials=mp.credentials, database=":memory:", chunk_days=1).requests == 3


@pytest.mark.parametrize("end", ["done", "failed", "cancelled"])
def test_settings_are_those_of_before_at_the_end(sandbox, start, database, end: str) -> None:
    """While it runs on an instance that it opened, the limits hold; afterwards each setting is as DuckDB had it."""
    with duckdb.connect(str(database)) as con:
        default = settings(con)
    fault = {"done": Fault("plain"), "failed": Fault("status", status=401, times=None), "cancelled": Fault("hang")}[end]
    mp = sandbox(latency=0.2, faults=[fault])
    job = start(mp, workers=1)
    until(lambda: job._run.engine._writer.begun.is_set())  # when the settings are made
    with duckdb.connect(str(database)) as con:
        during = settings(con)
        assert during["memory_limit"] != default["memory_limit"]
        if end == "cancelled":
            job.cancel()
        result = job.outcome(30)
        assert settings(con) == default
    assert settings(result.con) == default


def test_a_setting_that_the_user_made_meanwhile_stays(sandbox, start, database) -> None:
    """What somebody else changed is not set back."""
    mp = sandbox(latency=0.2)
    job = start(mp)
    until(lambda: job._run.engine._writer.begun.is_set())  # when the settings are made
    with duckdb.connect(str(database)) as con:
        con.execute("SET GLOBAL memory_limit = '777MB'")
        value = settings(con)["memory_limit"]
        job.result(30)
        assert settings(con)["memory_limit"] == value


# --- another process -----------------------------------------------------------------------------------------------

HOLDER = "import duckdb, sys; con = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.read()"


@pytest.mark.parametrize("call", ["export", "start", "plan", "open"])
def test_a_file_that_another_process_holds(sandbox, database, call: str) -> None:
    """The error names the process, and nothing is sent."""
    duckdb.connect(str(database)).close()
    mp = sandbox()
    with child([sys.executable, "-c", HOLDER, str(database)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        dates = () if call == "open" else (day(1), day(3))
        with pytest.raises(mpnb.DatabaseError, match="open in another process") as error:
            getattr(mpnb, call)(*dates, credentials=mp.credentials, database=database)
        assert f"PID {holder.pid}" in str(error.value)
        holder.communicate()
    assert not mp.requests


# --- names ---------------------------------------------------------------------------------------------------------

NAMES = [
    'we"ird',
    "'; DROP TABLE events; --",
    "select",
    "a b.c",
    "Ünïcödé 😀",
    "x" * 300,
    "{}",
    "$1",
    "?",
    "%s",
    "new\nline",
    "<b>",
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_table_may_have_any_name(sandbox, export, database, name: str) -> None:
    """It is only ever a name: exported, refreshed, retried, opened and shown."""
    mp = sandbox(faults=[Fault("status", day(2), status=400)])
    result = export(mp, table=name)
    result.retry().close()
    export(mp, table=name, mode="refresh").close()
    assert result.events.aggregate("count(*)").fetchall() == [(mp.count(day(1), day(3)),)]
    assert 0 < result.deduplicated().aggregate("count(*)").fetchall()[0][0] <= result.total_rows
    assert result.event_names().aggregate("sum(events)").fetchall() == [(result.total_rows,)]
    assert name.splitlines()[0] in repr(result)
    result.close()
    with mpnb.open(database) as again:
        assert again.table == name
        assert again.total_rows == mp.count(day(1), day(3))


@pytest.mark.parametrize(
    "folder",
    ["we[i]rd*", "it's", 'dou"ble', "spa ce", "Ünï 😀", "-dash", "a;b#c%41", "{a,b}", "**", "x.gz", "new\nline"],
    ids=ascii,
)
def test_a_file_and_its_spool_may_have_any_name(sandbox, export, tmp_path, folder: str) -> None:
    """DuckDB reads paths of JSON as patterns, and of databases as what they seem: both are meant as they are."""
    (tmp_path / folder).mkdir()
    path = tmp_path / folder / (folder + ".duckdb")
    (tmp_path / folder / "decoy.jsonl").write_bytes(event("decoy"))
    mp = sandbox()
    result = export(mp, database=path)
    all_or_nothing(result, mp)
    assert path.exists()
    result.close()
    assert sorted(p.name for p in (tmp_path / folder).iterdir()) == sorted(["decoy.jsonl", path.name])
    with mpnb.open(path) as again:
        assert again.total_rows == mp.count(day(1), day(3))


def test_a_spool_folder_may_have_any_name(sandbox, export, tmp_path) -> None:
    """Also one that would match others as a pattern."""
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / "1.jsonl").write_bytes(event("decoy"))
    mp = sandbox()
    all_or_nothing(export(mp, spool=mpnb.Spool(tmp_path / "s[p]oo?l*")), mp)


@pytest.mark.parametrize("make", [str, Path, os.fspath])
def test_a_path_may_be_relative(sandbox, export, tmp_path, monkeypatch, make: Any) -> None:
    """It is the folder of the call that counts, also when that changes later."""
    monkeypatch.chdir(tmp_path)
    mp = sandbox(faults=[Fault("status", day(2), status=400)])
    result = export(mp, database=make("own.duckdb"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with result.retry() as again:
        assert again.total_rows == mp.count(day(1), day(3))
    assert (tmp_path / "own.duckdb").exists()
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_new_file_is_its_owners_alone(sandbox, export, database) -> None:
    """Events are personal data: neither group nor others may read them, whatever the umask."""
    before = os.umask(0o000)
    try:
        export(sandbox())
        assert stat.S_IMODE(database.stat().st_mode) == 0o600
        assert os.umask(0o000) == 0o000
    finally:
        os.umask(before)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.write_bytes(b"no database at all" * 1000), "cannot be opened"),
        (lambda path: path.parent.rmdir(), "there is no folder"),
    ],
    ids=["folder", "garbage", "nowhere"],
)
def test_a_file_that_cannot_be_a_database(sandbox, export, tmp_path, make: Any, message: str) -> None:
    """The error says why, before the first request."""
    path = tmp_path / "sub" / "a.duckdb"
    path.parent.mkdir()
    make(path)
    mp = sandbox()
    with pytest.raises(mpnb.DatabaseError, match=message):
        export(mp, database=path)
    assert not mp.requests


# --- whose table it is ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("CREATE TABLE events (a INT)", "does not have the columns that mpnb gives it"),
        ("CREATE VIEW events AS SELECT 1 AS a", "table 'Events' has 1 rows that mpnb did not write"),
        ("CREATE VIEW events AS SELECT 1 AS a LIMIT 0", "does not have the columns that mpnb gives it"),
        (
            "CREATE TABLE events (event_name VARCHAR, time TIMESTAMP, distinct_id VARCHAR, device_id VARCHAR,"
            " user_id VARCHAR, insert_id VARCHAR, properties JSON, batch_id BIGINT);"
            " INSERT INTO events (event_name) VALUES ('mine')",
            "table 'Events' has 1 rows that mpnb did not write",
        ),
        ("CREATE TABLE mpnb_batches (a INT)", "does not have the columns that mpnb gives it"),
        ("CREATE TABLE mpnb_rejected (a INT)", "does not have the columns that mpnb gives it"),
    ],
)
def test_a_table_that_is_not_ours_is_left_alone(sandbox, export, database, sql: str, message: str) -> None:
    """Refused before the first request, and not changed by a bit."""
    with duckdb.connect(str(database)) as con:
        con.execute(sql)
        before = con.execute("SELECT table_name, sql FROM duckdb_tables() ORDER BY 1").fetchall()
    mp = sandbox()
    with pytest.raises(mpnb.TableError, match=message):
        export(mp, table="Events")
    assert not mp.requests
    mine = [row for row in query(database, "SELECT table_name, sql FROM duckdb_tables() ORDER BY 1") if row in before]
    assert mine == before
    if "INSERT" in sql:
        assert query(database, "SELECT event_name FROM events") == [("mine",)]


def test_an_empty_table_of_the_same_shape_is_taken(sandbox, export, database) -> None:
    """As one that the user made beforehand, or emptied."""
    export(sandbox(lines=lambda d: [])).close()
    with duckdb.connect(str(database)) as con:
        con.execute("DELETE FROM mpnb_batches")
    mp = sandbox()
    assert export(mp).total_rows == mp.count(day(1), day(3))


def test_the_case_of_a_tables_name_does_not_count(sandbox, export) -> None:
    """DuckDB's names have no case: it is the same table and the same ledger."""
    mp = sandbox()
    export(mp, table="Events")
    assert export(mp, table="EVENTS").skipped_batches == 3


def test_other_tables_of_the_file_are_left_alone(sandbox, export, database) -> None:
    """Two tables of events and one of the user's, in one file: a refresh touches its own."""
    one, two = sandbox(seed=1), sandbox(seed=2)
    export(one, table="one")
    export(two, table="two").close()
    with duckdb.connect(str(database)) as con:
        con.execute("CREATE TABLE mine AS FROM range(5)")
    result = export(one, table="one", mode="refresh")
    assert result.total_rows == one.count(day(1), day(3))
    assert result.sql("SELECT count(*) FROM two").fetchall() == [(two.count(day(1), day(3)),)]
    assert result.sql("SELECT count(*) FROM mine").fetchall() == [(5,)]


@pytest.mark.parametrize("call", [mpnb.export, mpnb.start, mpnb.plan], ids=["export", "start", "plan"])
@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"events": "a"}, "this call asks for project {id}, events 'a'"),
        ({"where": "true"}, "this call asks for project {id}, all events, where true"),
        ({"project": "7"}, "this call asks for project 7, all events"),
    ],
    ids=["events", "where", "project"],
)
def test_a_table_has_one_source(sandbox, export, database, call: Any, other: dict[str, str], words: str) -> None:
    """Another project or filter is refused with both named, and the way out."""
    mp = sandbox()
    export(mp).close()
    sent = len(mp.requests)
    own = mp.credentials
    project = other.get("project", mp.project_id)
    credentials = mpnb.Credentials(own.username, own.secret, project, base_url=own.base_url)
    filters = {name: value for name, value in other.items() if name != "project"}
    with pytest.raises(mpnb.TableError) as error:
        call(day(5), day(6), credentials=credentials, database=database, **filters)
    assert f"table 'events' holds project {mp.project_id}, all events, but " in str(error.value)
    assert words.format(id=mp.project_id) in str(error.value)
    assert "pass another table= or another database=" in str(error.value)
    assert len(mp.requests) == sent


@pytest.mark.filterwarnings("ignore:no event 'Purchse' was")
@pytest.mark.parametrize("first", [{"where": "foo("}, {"events": ["Purchse"]}, {"project": "999"}])
def test_a_table_that_got_nothing_takes_another_source(sandbox, export, database, first: dict[str, Any]) -> None:
    """A wrong filter or project is mended by the right call, whether nothing came of it or no event was found."""
    mp = sandbox()
    own = mp.credentials
    project = first.get("project", mp.project_id)
    credentials = mpnb.Credentials(own.username, own.secret, project, base_url=own.base_url)
    filters = {name: value for name, value in first.items() if name != "project"}
    try:
        assert export(mp, credentials=credentials, **filters).total_rows == 0
    except mpnb.ExportError as error:
        error.result.close()
    plan = mpnb.plan(day(1), day(3), database=database, credentials=own, quota=WIDE, chunk_days=1)
    assert (plan.requests, plan.days_held) == (3, ())
    result = export(mp)
    all_or_nothing(result, mp)
    assert result.successful_batches == 3
    assert result.failures.fetchall() == []
    assert {row[:2] for row in result.sql("SELECT project_id, where_filter FROM mpnb_batches").fetchall()} == {
        (mp.project_id, None)
    }


def test_the_same_source_by_another_route_is_the_same(sandbox, export, database) -> None:
    """A restarted server has another address, not another project."""
    mp = sandbox(project_id="123456")
    export(mp, day(1), day(2))
    other = sandbox(project_id="123456")
    assert export(other, day(1), day(3)).skipped_batches == 2


def test_mode_new_wants_an_empty_table(sandbox, export) -> None:
    """It is for who must not mix: a table with events is refused, one without is taken."""
    mp = sandbox()
    export(mp, mode="new")
    with pytest.raises(mpnb.TableError, match=r"has [\d,]+ events, and mode='new' needs an empty one"):
        export(mp, mode="new")
    assert len(mp.requests) == 3
    assert export(mp, table="other", mode="new").successful_batches == 3


# --- mpnb.open() ---------------------------------------------------------------------------------------------------


def test_open_reads_all_there_is_without_credentials(sandbox, export, database) -> None:
    """Every day of the table, and nothing is sent."""
    mp = sandbox(faults=[Fault("status", day(9), status=400)])
    export(mp, day(1), day(2)).close()
    with contextlib.suppress(mpnb.ExportError):
        export(mp, day(9), day(9)).close()
    export(mp, day(20), day(21)).close()
    sent = len(mp.requests)
    with mpnb.open(database) as db:
        assert db.total_rows == mp.count(day(1), day(2)) + mp.count(day(20), day(21))
        assert db.failed_date_ranges == [(day(9), day(9))]
        assert (db.from_date, db.to_date, db.fetched_rows) == (None, None, 0)
        assert statuses(db) == {"done": 4, "failed": 1}
    assert len(mp.requests) == sent


def test_open_takes_a_connection_for_reading_alone(sandbox, export, database) -> None:
    """What a process that died left unfinished cannot be marked there: it stays, and its days are missing."""
    mp = sandbox()
    export(mp).close()
    with duckdb.connect(str(database)) as con:
        con.execute("UPDATE mpnb_batches SET status = 'writing' WHERE from_date = ?", [day(3)])
    with duckdb.connect(str(database), read_only=True) as con, mpnb.open(con) as db:
        assert db.total_rows == mp.count(day(1), day(2))
        assert [row[1] for row in db.batches.select("from_date, status").fetchall()] == ["done", "done", "writing"]
        name = db.event_names().fetchall()[0][0]
        assert len(db.event(name)) == db.events.filter(f"event_name = '{name}'").shape[0]


def test_open_makes_nothing(tmp_path, monkeypatch) -> None:
    """A file that is not there is an error, not a new database; without a name, it is that of an export."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(mpnb.DatabaseError, match=rf"there is no database at .*{DATABASE}"):
        mpnb.open()
    with pytest.raises(mpnb.DatabaseError, match="there is no database at"):
        mpnb.open(tmp_path / "missing.duckdb")
    assert not list(tmp_path.iterdir())


def test_open_says_which_tables_there_are(sandbox, export, database) -> None:
    """None, one, or several to choose from, in any case of letters."""
    duckdb.connect(str(database)).close()
    with pytest.raises(mpnb.TableError, match="has no events yet"):
        mpnb.open(database)
    mp = sandbox()
    export(mp, table="One").close()
    with mpnb.open(database) as db:
        assert db.table == "One"
    export(mp, table="two").close()
    with pytest.raises(
        mpnb.TableError, match=r"has several tables of events \('One', 'two'\): pass one of them as table="
    ):
        mpnb.open(database)
    with pytest.raises(mpnb.TableError, match=r"has no table 'three' of events; it has 'One', 'two'"):
        mpnb.open(database, table="three")
    with mpnb.open(database, table="TWO") as db:
        assert db.table == "two"


def test_open_retries_what_failed(sandbox, export, database) -> None:
    """With the credentials of the call, of ``retry``, or of the environment; only what failed is sent."""
    mp = sandbox(faults=[Fault("status", day(n), status=400) for n in (1, 3)])
    export(mp, day(1), day(4)).close()
    with mpnb.open(database) as db, pytest.raises(mpnb.CredentialsError, match="no credentials"):
        db.retry()
    sent = len(mp.requests)
    with mpnb.open(database, credentials=mp.credentials) as db, db.retry(quota=WIDE) as again:
        assert len(mp.requests) == sent + 2
        assert not again.has_failures
        assert again.total_rows == mp.count(day(1), day(4))


def test_a_process_that_died_leaves_its_batches_cancelled(sandbox, export, database) -> None:
    """What a ledger says is under way, while nobody works on it, was cut off: it is shown so, and fetched again."""
    mp = sandbox()
    export(mp).close()
    with duckdb.connect(str(database)) as con:
        con.execute("UPDATE mpnb_batches SET status = 'queued', rows = 0 WHERE from_date = DATE '2026-01-02'")
        con.execute("DELETE FROM events WHERE batch_id IN (SELECT batch_id FROM mpnb_batches WHERE status = 'queued')")
    with mpnb.open(database) as db:
        assert db.failures.select("status, message").fetchall() == [("cancelled", "the process that exported it ended")]
    result = export(mp)
    assert (result.skipped_batches, result.successful_batches) == (2, 1)
    all_or_nothing(result, mp)
