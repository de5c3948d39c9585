"""DuckDB's settings while exports run: whose they are, when they hold, and that each is as before at the end."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

import mpnb
import mpnb._storing.settings
from mpnb._base import machine
from mpnb._storing.database import Store
from mpnb._storing.settings import LIMIT_A_THREAD, NAMES, SHOWN, Share
from mpnb.sandbox import Fault
from tests._helpers import WIDE, day, until

# DuckDB 1.5 takes more than its limit.
LIMIT = "238.4 MiB" if duckdb.__version__.startswith("1.") else "400.5 MiB"


def shown(con: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """Read the settings that an export makes."""
    return dict(con.execute(SHOWN, [NAMES]).fetchall())


@pytest.fixture(autouse=True)
def machine_of_4_gb(monkeypatch) -> None:
    """As large as one may be on which an export takes 600 MB."""
    monkeypatch.setattr(machine, "memory", lambda: 4 * 10**9)


def begun(job: mpnb.ExportJob) -> mpnb.ExportJob:
    """Wait until the settings are made: then the writer begins."""
    until(job._run.engine._writer.begun.is_set)
    return job


@pytest.fixture
def store(database: Path) -> Iterator[Store]:
    """Open a new database."""
    with contextlib.closing(Store(database)) as made:
        yield made


# --- whose they are --------------------------------------------------------------------------------------------------


def test_they_hold_while_an_earlier_result_is_open(sandbox, export, start) -> None:
    """As in a notebook, where nobody closes results: it was mpnb that opened the file, also for the second export."""
    mp = sandbox(latency=0.2)
    first = export(mp)
    default = shown(first.con)
    job = begun(start(mp, day(4), day(6)))
    assert shown(first.con)["memory_limit"] == LIMIT
    assert shown(job.result(30).con) == shown(first.con) == default


def test_they_hold_while_only_a_relation_is_left(sandbox, start, database) -> None:
    """It keeps the database open, and the instance mpnb's."""
    mp = sandbox(latency=0.2)
    events = mpnb.export(day(1), day(3), database=database, credentials=mp.credentials, quota=WIDE).events
    gc.collect()
    job = begun(start(mp, day(4), day(6)))
    with duckdb.connect(str(database)) as con:
        assert shown(con)["memory_limit"] == LIMIT
    job.result(30)
    assert events.count("*").fetchall() == [(mp.count(day(1), day(3)),)]


def test_they_hold_by_another_name_of_the_file(store, tmp_path) -> None:
    """A link leads to the same instance of DuckDB."""
    link = tmp_path / "link.duckdb"
    link.symlink_to(store.path)
    with contextlib.closing(Store(link)) as other, other.settings(), store.reading() as cursor:
        assert shown(cursor)["memory_limit"] == LIMIT


def test_they_hold_for_a_store_that_shares_it(store) -> None:
    """As for a retry."""
    with contextlib.closing(store.share()) as other, other.settings(), store.reading() as cursor:
        assert shown(cursor)["memory_limit"] == LIMIT


def test_they_are_the_users_once_all_results_are_closed(sandbox, export, database) -> None:
    """A result that was closed, though it is still there, does not make the file mpnb's."""
    mp = sandbox()
    first = export(mp)
    first.close()
    with duckdb.connect(str(database)) as con:
        default = shown(con)
        during: list[dict[str, str]] = []
        export(mp, day(4), day(6), on_batch=lambda _: during.append(shown(con)))
        assert during
        assert all(each == default for each in during)


def test_what_the_user_set_before_stays(sandbox, export, start) -> None:
    """On an instance that mpnb opened, too; the others are made and set back."""
    mp = sandbox(latency=0.2)
    con = export(mp).con
    con.execute("SET GLOBAL memory_limit = '1GB'; SET GLOBAL checkpoint_threshold = '5MB'")
    before = shown(con)
    job = begun(start(mp, day(4), day(6)))
    changed = {name for name, value in shown(con).items() if value != before[name]}
    assert changed >= {"max_vacuum_tasks", "preserve_insertion_order"}
    assert not changed & {"memory_limit", "checkpoint_threshold"}
    job.result(30)
    assert shown(con) == before


# --- when they hold --------------------------------------------------------------------------------------------------


def test_they_hold_until_the_last_of_two_exports_ends(sandbox, start, database) -> None:
    """The one that ends first leaves them to the other, whoever began."""
    with duckdb.connect(str(database)) as con:
        default = shown(con)
    long = begun(start(sandbox(faults=[Fault("hang")]), table="slow"))
    short = start(sandbox(), table="quick").result(30)
    assert shown(short.con)["memory_limit"] == LIMIT
    long.cancel()
    long.outcome(30)
    assert shown(short.con) == default


def test_one_that_duckdb_refuses_is_left_as_it_is(sandbox, export, start, monkeypatch) -> None:
    """As a limit below what a query holds would be: the export goes on, and the others hold and are set back."""
    monkeypatch.setattr(Share, "settings", {"memory_limit": "'nothing at all'", "threads": "2"})
    mp = sandbox(latency=0.2)
    con = export(mp).con
    default = shown(con)
    job = begun(start(mp, day(4), day(6)))
    during = shown(con)
    assert during["memory_limit"] == default["memory_limit"]
    assert during["preserve_insertion_order"] != default["preserve_insertion_order"]
    assert job.result(30).successful_batches == 3
    assert shown(con) == default


def test_the_number_of_threads_is_left_where_others_are_connected(store, monkeypatch) -> None:
    """DuckDB would wait for their queries; as many threads get as much memory as they need."""
    monkeypatch.setattr(mpnb._storing.settings, "share_of", lambda memory, cores: Share(7, 200 * 10**6))
    with store.reading() as cursor:
        before = shown(cursor)
        with store.settings():
            assert shown(cursor)["threads"] == "7"
        assert shown(cursor) == before
        with contextlib.closing(store.share()), store.settings():
            assert shown(cursor)["threads"] == before["threads"]
            most = max(2, int(before["threads"])) * LIMIT_A_THREAD
            assert shown(cursor)["memory_limit"] == f"{int(most / 2**20 * 10) / 10} MiB"
        assert shown(cursor) == before


def test_the_memory_limit_is_lifted_until_the_last_that_needs_it(store) -> None:
    """And is then as it was, and at the end as before."""
    with store.reading() as cursor, contextlib.closing(store.share()) as other:
        before = shown(cursor)
        with store.settings():
            limited = shown(cursor)
            with store.without_memory_limit():
                with other.without_memory_limit():
                    lifted = shown(cursor)["memory_limit"]
                assert shown(cursor)["memory_limit"] == lifted != LIMIT
            assert shown(cursor) == limited
            cursor.execute("SET GLOBAL memory_limit = '777MB'")
            users = shown(cursor)
            with store.without_memory_limit():
                assert shown(cursor) == users
            assert shown(cursor) == users
        assert shown(cursor) == {**before, "memory_limit": users["memory_limit"]}


def test_the_log_is_folded_in_only_where_nobody_else_is_connected(sandbox, export, database) -> None:
    """A disk that is full would end the instance for them as well."""
    mp = sandbox()
    log = database.with_name(database.name + ".wal")
    first = export(mp)
    assert not log.exists()
    second = export(mp, day(4), day(6))
    assert log.exists()
    assert first.total_rows + second.total_rows == second.sql("SELECT count(*) FROM events").fetchall()[0][0]
    for result in (first, second):
        result.close()
    assert not log.exists()
