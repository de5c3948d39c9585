"""Where events land: in the place that the caller means, or nowhere, with one line that says what to pass."""

from __future__ import annotations

import contextlib
import gzip
import os
import re
import socket
import sqlite3
import struct
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

import mpnb
from mpnb._base.paths import local_path
from mpnb._base.sql import run
from mpnb._command import demo as _demo
from mpnb._fetching import history as _history
from mpnb._storing.database import Store
from tests._helpers import all_or_nothing, day, event, query

# --- the connection's own place ------------------------------------------------------------------------------------

PLACES = ["wh", "wh.raw", '"w""h"', '"w""h"."s.x"', "memory.raw"]


@pytest.fixture
def con(tmp_path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection with two attached files, the names of one of them in need of quotes, and a schema in each."""
    with duckdb.connect() as con:
        for name, schema in (("wh", "raw"), ('"w""h"', '"s.x"')):
            con.execute(f"ATTACH '{tmp_path / name.replace(chr(34), '_')}.duckdb' AS {name}")
            con.execute(f"CREATE SCHEMA {name}.{schema}")
        con.execute("CREATE SCHEMA memory.raw")
        yield con


def places(con: duckdb.DuckDBPyConnection) -> set[str]:
    """Say where there are tables, but for typed ones."""
    rows = con.execute(
        "SELECT DISTINCT database_name, schema_name FROM duckdb_tables() WHERE schema_name <> 'mpnb_typed'"
    )
    return {f"{database}.{schema}" for database, schema in rows.fetchall()}


def plain(place: str) -> str:
    """Write a place as ``places`` does."""
    name = place.replace('""', "\0").replace('"', "").replace("\0", '"')
    return name if "." in name else f"{name}.main"


@pytest.mark.parametrize("place", PLACES)
def test_all_tables_are_where_the_connection_is(sandbox, export, con, place: str) -> None:
    """Events, ledger and rejected lines are in its database and schema, and every relation reads them there."""
    mp = sandbox()
    con.execute(f"USE {place}")
    result = export(mp, database=con)
    assert places(con) == {plain(place)}
    all_or_nothing(result, mp)
    assert len(result.batches) == 3
    assert result.events.count("*").fetchall() == [(mp.count(day(1), day(3)),)]
    assert result.con.execute("SELECT count(*) FROM events").fetchall() == [(result.total_rows,)]
    assert len(result.event("Purchase")) == result.event_names().filter("event_name = 'Purchase'").fetchall()[0][1]
    assert len(result.rejected) == len(result.failures) == 0
    assert result.check().ok
    assert con.execute("SELECT current_database() || '.' || current_schema()").fetchall() == [(plain(place),)]


def test_a_place_in_a_file_is_there_after_the_process(sandbox, export, tmp_path) -> None:
    """What is exported over a connection in memory that uses an attached file is in that file."""
    mp = sandbox()
    with duckdb.connect() as con:
        con.execute(f"ATTACH '{tmp_path}/wh.duckdb' AS wh; USE wh")
        export(mp, database=con).close()
    assert query(tmp_path / "wh.duckdb", "SELECT count(*) FROM events") == [(mp.count(day(1), day(3)),)]


def test_the_place_is_that_of_the_moment_of_the_call(sandbox, export, con) -> None:
    """USE while an export runs, and after it, moves neither its tables nor what its result and its retry read."""
    mp = sandbox(faults=[mpnb.sandbox.Fault("status", day(3), status=400)])
    con.execute("USE wh.raw")
    elsewhere = iter(["memory", "wh", "memory.raw", '"w""h"'] * 9)
    result = export(mp, database=con, workers=1, on_batch=lambda _: con.execute(f"USE {next(elsewhere)}"))
    with result.retry(on_batch=lambda _: con.execute(f"USE {next(elsewhere)}")) as again:
        assert places(con) == {"wh.raw"}
        assert again.total_rows == result.total_rows == mp.count(day(1), day(3))
        all_or_nothing(again, mp)


def test_open_and_plan_look_where_the_connection_is(sandbox, export, con) -> None:
    """The same connection elsewhere has no events, and all days to fetch."""
    mp = sandbox()
    con.execute("USE wh")
    result = export(mp, database=con)
    with mpnb.open(con) as there:
        assert there.total_rows == result.total_rows
    ask = {"credentials": mp.credentials, "database": con, "chunk_days": 1}
    assert mpnb.plan(day(1), day(3), **ask).requests == 0
    con.execute("USE memory")
    with pytest.raises(mpnb.TableError, match="has no events yet"):
        mpnb.open(con)
    assert mpnb.plan(day(1), day(3), **ask).requests == 3


def test_typed_events_of_two_schemas_are_apart(sandbox, export, con) -> None:
    """Tables of one name in two schemas of a database have typed events of their own, also where all else is alike."""
    results = []
    for number, schema in enumerate(["main", "raw"]):
        con.execute(f"USE wh.{schema}")
        mp = sandbox(lines=lambda _, n=number: [event("E", n=n)])
        results.append(export(mp, day(1), day(1), database=con))
    for _ in range(2):
        assert [each.event("E").project("n").fetchall() for each in results] == [[(0,)], [(1,)]]
    results[0].forget_typed()
    assert con.execute("SELECT count(*) FROM wh.mpnb_typed.events").fetchall() == [(1,)]
    assert results[1].event("E").project("n").fetchall() == [(1,)]


def test_the_connection_may_be_in_the_middle_of_a_result(sandbox, export, con) -> None:
    """To ask where it is disturbs nothing that is half read."""
    con.execute("USE wh")
    half_read = con.execute("FROM range(100000)")
    assert half_read.fetchone() == (0,)
    export(sandbox(), database=con)
    assert half_read.fetchone() == (1,)
    assert len(half_read.fetchall()) == 99998
    assert places(con) == {"wh.main"}


@pytest.mark.parametrize(
    ("use", "message"),
    [
        ("CREATE SCHEMA mpnb_mine; USE mpnb_mine", "names that begin with mpnb_ are mpnb's own"),
        ("BEGIN; CREATE SCHEMA late; USE late", "connection cannot be used: .*late"),
    ],
)
def test_a_place_for_no_tables_is_refused(sandbox, export, use: str, message: str) -> None:
    """What is not committed is there for the connection alone, and schemas of ours have tables of ours."""
    mp = sandbox()
    with duckdb.connect() as con:
        con.execute(use)
        with pytest.raises(mpnb.DatabaseError, match=message):
            export(mp, database=con)
    assert not mp.requests


def test_a_database_that_is_attached_for_reading(sandbox, export, tmp_path) -> None:
    """It can be read, and an export into it is refused before the first request."""
    mp = sandbox()
    path = tmp_path / "wh.duckdb"
    with export(mp, database=path) as made:
        rows = made.total_rows
    with duckdb.connect() as con:
        con.execute(f"ATTACH '{path}' AS wh (READ_ONLY); USE wh")
        with mpnb.open(con) as result:
            assert len(result.events) == result.total_rows == rows
        count = len(mp.requests)
        with pytest.raises(mpnb.DatabaseError, match="cannot be written"):
            export(mp, day(4), day(5), database=con)
        assert len(mp.requests) == count


def test_a_place_that_is_gone_is_said_to_be(sandbox, export, con) -> None:
    """Relations of a schema that was dropped since are an error that names it, never those of another."""
    con.execute("USE memory.raw")
    result = export(sandbox(), database=con)
    con.execute("USE memory.main; DROP SCHEMA raw CASCADE")
    with pytest.raises(mpnb.ClosedError, match=r'"memory"\."raw"'):
        result.sql("SELECT 1")


# --- files that are no database ------------------------------------------------------------------------------------

OTHERWISE = "pass another database=, or restore a copy of the file"


def parquet(path: Path) -> None:
    duckdb.sql(f"COPY (SELECT 1 AS a) TO '{path}' (FORMAT parquet)")


def sqlite(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as con:
        con.execute("CREATE TABLE events (a int)")
        con.commit()


def encrypted(path: Path) -> None:
    with duckdb.connect() as con:
        con.execute("SET force_mbedtls_unsafe = 'true'")  # pragma: allowlist secret
        con.execute(f"ATTACH '{path}' AS e (ENCRYPTION_KEY 'made up'); CREATE TABLE e.t (a int); DETACH e")


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as each:
        each.bind(str(path))


def of_version(number: int) -> Callable[[Path], None]:
    """Make a database that says that it has a storage version, with the checksum that belongs to it."""

    def make(path: Path) -> None:
        duckdb.connect(str(path)).close()
        header = bytearray(path.read_bytes()[:4096])
        header[12:20] = struct.pack("<Q", number)
        checksum = 5381
        for (word,) in struct.iter_unpack("<Q", header[8:]):
            checksum ^= word * 0xBF58476D1CE4E5B9 % 2**64
        header[:8] = struct.pack("<Q", checksum)
        with path.open("r+b") as file:
            file.write(header)

    return make


FILES: list[tuple[str, Callable[[Path], object], str]] = [
    ("x.json", lambda path: path.write_text('[{"a": 1}]'), "it is no DuckDB database"),
    ("x.ndjson", lambda path: path.write_text('{"a": 1}\n'), "it is no DuckDB database"),
    ("x.csv", lambda path: path.write_text("a,b\n1,2\n"), "it is no DuckDB database"),
    ("x.tsv", lambda path: path.write_text("a\tb\n1\t2\n"), "it is no DuckDB database"),
    ("x.csv.gz", lambda path: path.write_bytes(gzip.compress(b"a,b\n1,2\n")), "it is a compressed file"),
    ("x.xlsx", lambda path: path.write_bytes(b"PK\3\4" + bytes(100)), "it is a zip archive or spreadsheet"),
    ("x.parquet", parquet, "it is a Parquet file"),
    ("x.duckdb", parquet, "it is a Parquet file"),
    ("x.duckdb", sqlite, "it is a SQLite database"),
    ("x.duckdb", Path.touch, "it is empty"),
    ("x.duckdb", lambda path: path.write_text("short"), "it is no DuckDB database"),
    ("x.duckdb", os.mkfifo, "it is a pipe"),
    ("x.duckdb", unix_socket, "it is a socket"),
    ("x.duckdb", lambda path: path.symlink_to("/dev/null"), "it is a device"),
    ("x.duckdb", lambda path: path.symlink_to("away.duckdb"), "it is a link to away.duckdb, which is missing"),
    ("x.duckdb", lambda path: path.symlink_to(path), "it is a link to .*x.duckdb, which is missing"),
    ("x.duckdb", encrypted, "it is encrypted: ATTACH it with its ENCRYPTION_KEY"),
    ("x.duckdb", of_version(10**6), r"a newer DuckDB than this one \(.*\) wrote it: pip install -U duckdb"),
    ("x.duckdb", of_version(1), r"an older DuckDB than this one \(.*\) wrote it"),
]


@pytest.mark.parametrize(("name", "make", "message"), FILES)
def test_what_is_no_database_is_refused(sandbox, export, tmp_path, monkeypatch, name: str, make, message: str) -> None:
    """One line says what a file is, for an export, a plan and a look; it stays as it is, and nothing is sent."""
    monkeypatch.chdir(tmp_path)  # the path of a socket has a limit
    mp, path = sandbox(), Path(name)
    make(path)
    is_file = path.is_file() and not path.is_symlink()
    before = path.read_bytes() if is_file else path.lstat().st_mode
    for call in (
        lambda: export(mp, database=path),
        lambda: mpnb.plan(day(1), day(3), database=str(path), credentials=mp.credentials),
        lambda: mpnb.open(path),
    ):
        with pytest.raises(mpnb.DatabaseError, match=rf"{name} cannot be opened: {message}") as caught:
            call()
        assert "\n" not in str(caught.value)
    assert (path.read_bytes() if is_file else path.lstat().st_mode) == before
    assert os.listdir() == [name]
    assert not mp.requests


def test_a_file_whose_name_is_that_of_data_may_be_a_database(sandbox, export, tmp_path) -> None:
    """What counts is what is in it: one of DuckDB's own that is called x.json is opened again."""
    mp, path = sandbox(), tmp_path / "x.json"
    export(mp, database=path).close()
    assert export(mp, database=path).skipped_batches == 3


def test_data_that_this_process_has_open_is_refused_as_well(sandbox, export, tmp_path) -> None:
    """Nothing looks into a file that is open here: then DuckDB tells by what it makes of it."""
    mp, path = sandbox(), tmp_path / "x.json"
    path.write_text('[{"a": 1}]')
    with path.open(), pytest.raises(mpnb.DatabaseError, match="DuckDB reads it as data, not a database"):
        export(mp, database=path)
    assert not mp.requests


def test_to_look_at_a_file_drops_no_lock(sandbox, export, tmp_path) -> None:
    """While a connection of this process has a file open, no other process gets in, whoever else opens it here."""
    path = tmp_path / "x.duckdb"
    attempt = [sys.executable, "-c", f"import duckdb; duckdb.connect({str(path)!r})"]
    with duckdb.connect(str(path)):
        export(sandbox(), database=path)
        mpnb.open(path).close()
        ended = subprocess.run(attempt, capture_output=True, text=True, timeout=60, check=False)
    assert "lock" in ended.stderr


# --- what is not on this machine -----------------------------------------------------------------------------------

ELSEWHERE = [
    *("md:my_db", "motherduck:x", "ducklake:x", "postgres:dbname=x", "sqlite:x.db", "mysql:x", "duckdb:x"),
    *("s3://b/x", "S3://b/x", "gs://b/x", "hf://d/x", "az://c/x", "http://h/x.duckdb", "https://h/x", "postgres://h/x"),
]


@pytest.mark.parametrize("url", [*ELSEWHERE, ":memory:name", Path("s3://bucket/x")])
def test_a_url_is_refused_at_every_door(sandbox, export, tmp_path, monkeypatch, url: str | Path) -> None:
    """As a database, a folder for Parquet and a spool: one line says what to pass, and nothing is made or sent."""
    monkeypatch.chdir(tmp_path)
    mp = sandbox()
    result = export(mp, database=":memory:")
    count = len(mp.requests)
    calls = [
        lambda: export(mp, database=url),
        lambda: mpnb.plan(day(1), day(3), database=url, credentials=mp.credentials),
    ]
    if not str(url).lower().startswith(("s3://", "gs://", "az://")):  # where a lake may be, which can be opened
        calls.append(lambda: mpnb.open(url))
    for call in calls:
        with pytest.raises(mpnb.DatabaseError, match=r"not on this machine: pass a path such as 'mixpanel.duckdb'"):
            call()
    with pytest.raises(mpnb.PlanError, match="not on this machine: pass one on this machine"):
        result.to_parquet(url)
    with pytest.raises(mpnb.PlanError, match="not on this machine: pass a folder"):
        mpnb.Spool(url)
    assert os.listdir() == ["state"] or not os.listdir()
    assert len(mp.requests) == count


@pytest.mark.parametrize(
    ("url", "path"),
    [("file:x", "x"), ("file:///tmp/x", "/tmp/x"), ("FILE://localhost/tmp/x", "/tmp/x"), ("file:/tmp/x", "/tmp/x")],
)
def test_the_url_of_a_file_is_named_as_its_path(url: str, path: str) -> None:
    """The line has the path that is meant, to be pasted."""
    with pytest.raises(mpnb.DatabaseError, match=f"pass the path alone, '{path}'"):
        mpnb.open(url)


def test_a_file_may_be_called_like_a_url(sandbox, export, tmp_path, monkeypatch) -> None:
    """The line says how: with a folder before it, a name may have a colon."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(mpnb.DatabaseError, match=r"for a file of that name, pass '\./md:x'"):
        mpnb.open("md:x")
    export(sandbox(), database="./md:x").close()
    assert Path("md:x").is_file()


@pytest.mark.parametrize("folder", [5, "", " ", "a\0b", b"x"])
def test_what_is_no_path_is_refused(sandbox, export, folder: Any) -> None:
    """A folder is a path, and nothing else is made one."""
    with pytest.raises(mpnb.PlanError, match="folder must be a path, not"):
        mpnb.Spool(folder)
    with pytest.raises(mpnb.PlanError, match="folder must be a path, not"):
        export(sandbox(), database=":memory:").to_parquet(folder)


# --- the home folder -----------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder, and an empty folder to be in."""
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    return home


def test_a_tilde_is_the_home_folder_for_a_database(sandbox, export, home) -> None:
    """For an export, a plan, a look and the demo; nothing is called ``~``."""
    mp = sandbox()
    rows = export(mp, database="~/x.duckdb").total_rows
    with mpnb.open(Path("~/x.duckdb")) as result:
        assert result.total_rows == rows
    ask = {"credentials": mp.credentials, "chunk_days": 1}
    assert mpnb.plan(day(1), day(3), database="~/x.duckdb", **ask).requests == 0
    with pytest.raises(mpnb.DatabaseError, match="exists already"):
        _demo.run("~/x.duckdb")
    assert [path.name for path in home.iterdir()] == ["x.duckdb"]
    assert not os.listdir()


def test_a_tilde_is_the_home_folder_for_files(sandbox, export, home) -> None:
    """For Parquet and the spool."""
    mp = sandbox()
    result = export(mp, database=":memory:", spool=mpnb.Spool("~/spool"))
    assert result.to_parquet("~/out") == home / "out"
    assert duckdb.sql(f"FROM '{home}/out/*.parquet'").count("*").fetchall() == [(result.total_rows,)]
    assert sorted(path.name for path in home.iterdir()) == ["out", "spool"]
    assert not os.listdir()


def test_a_tilde_is_the_home_folder_for_the_state(home, monkeypatch) -> None:
    """For the times of requests, which are kept there and not beside whatever runs."""
    monkeypatch.setenv("MPNB_STATE_DIR", "~/state")
    history = _history.History("https://host", "1")
    with history.exclusive():
        history.write(_history.Times((1.0,)))
    assert history.read().starts == (1.0,)
    assert list((home / "state").glob("quota-*"))
    assert not os.listdir()


def test_a_state_folder_elsewhere_is_no_reason_to_stop(sandbox, export, home, monkeypatch, caplog) -> None:
    """The quota then holds in this process alone, which the log says; nothing is made here."""
    monkeypatch.setenv("MPNB_STATE_DIR", "s3://bucket/state")
    assert export(sandbox(), database=":memory:", quota=mpnb.Quota(per_second=1000)).successful_batches == 3
    assert "name a folder of this machine" in caplog.text
    assert not os.listdir()


def test_a_home_that_is_not_there(home) -> None:
    """Nobody's home folder is an error, no folder of that name."""
    with pytest.raises(mpnb.PlanError, match="no such home folder"):
        local_path("~nobody-is-called-so/x", "folder", "")


# --- the folder that the process is in ------------------------------------------------------------------------------


def test_relative_paths_are_those_of_the_call(sandbox, export, tmp_path, monkeypatch) -> None:
    """Database and spool stay where they were meant when the process goes elsewhere meanwhile."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    monkeypatch.chdir(here)
    mp = sandbox()
    result = export(mp, database="x.duckdb", spool=mpnb.Spool("spool"), workers=1, on_batch=lambda _: os.chdir(there))
    assert result.successful_batches == 3
    assert sorted(path.name for path in here.iterdir()) == ["spool", "x.duckdb"]
    assert not list(there.iterdir())


def test_a_file_that_is_opened_anew_is_the_same(tmp_path, monkeypatch) -> None:
    """After DuckDB declared it invalid, wherever the process is by then."""
    monkeypatch.chdir(tmp_path)
    with contextlib.closing(Store("x.duckdb")) as store:
        (tmp_path / "there").mkdir()
        monkeypatch.chdir("there")
        store.reopen()
        assert not os.listdir()
        with store.reading() as cursor:
            assert run(cursor, "SELECT path FROM duckdb_databases() WHERE database_name = 'x'") == [
                (str(tmp_path / "x.duckdb"),)
            ]


# --- a forked process ----------------------------------------------------------------------------------------------

FORKS = """
import os, sys
from pathlib import Path
import duckdb, mpnb
from mpnb.sandbox import serve

def forked(function, end=sys.exit):
    "Run a function in a child, and print its status and what that gave; by default it ends as any process does."
    sys.stdout.flush()
    read, write = os.pipe()
    if not (child := os.fork()):
        try:
            said = repr(function())
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(write, said.encode())
        end(0)
    os.close(write)
    with open(read) as answer:
        said = answer.read()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said)

path, folder = Path(sys.argv[1]), Path(sys.argv[1]).parent
with serve(events_per_day=30) as mp:
    def fetch(database):
        return mpnb.export("2026-01-01", "2026-01-03", database=database, chunk_days=1, credentials=mp.credentials,
                           on_batch=lambda _: None)
"""


def run_forks(path: Path, body: str) -> list[str]:
    """Run a script in which processes fork, and give its lines."""
    script = FORKS + textwrap.indent(textwrap.dedent(body), "    ")
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, path], capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


def test_a_child_is_refused(database) -> None:
    """Whatever a result or a job gives, a look and an export there: one line, and the child ends well."""
    lines = run_forks(
        database,
        """
        result = fetch(path)
        events, names = result.events, result.event_names()
        slow = serve(faults=[mpnb.sandbox.Fault("hang", times=None)])
        job = mpnb.start("2026-01-01", "2026-01-01", database=folder / "job.duckdb", credentials=slow.credentials)
        for ask in (
            lambda: result.events, lambda: result.sql("SELECT 1"), lambda: result.con, lambda: result.df(),
            lambda: result.event("Purchase"), lambda: result.check(), lambda: result.retry(),
            lambda: mpnb.open(path), lambda: fetch(path), lambda: job.result(5), lambda: job.cancel(),
            lambda: events.fetchall(), lambda: len(events), lambda: events.join(names, "event_name"),
        ):
            forked(ask)
        job.cancel()
        job.outcome().close()
        result.close()
        slow.close()
        """,
    )
    assert len(lines) == 14, "\n".join(lines)
    assert all(re.match("0 (Closed|ClosedRelation|Database)Error: ", line) for line in lines), lines
    assert all("this one was forked from: start processes by 'spawn'" in line for line in lines), lines


def test_a_child_leaves_the_file_alone(database) -> None:
    """Neither its end nor its own close folds its parent's log into the file; its parent writes on."""
    lines = run_forks(
        database,
        """
        result = fetch(path)
        result.con.execute("CREATE TABLE mine AS SELECT 1").fetchall()
        files = lambda: {each.name: each.read_bytes() for each in folder.glob("*.duckdb*")}
        before = files()
        forked(lambda: 1)
        forked(result.close)
        forked(lambda: result)
        print(before == files(), ".wal" in str(list(before)))
        result.con.execute("INSERT INTO mine VALUES (2)").fetchall()
        result.close()
        """,
    )
    assert [line[:1] for line in lines[:2]] == ["0", "0"]
    assert lines[-1] == "True True"
    assert query(database, "SELECT count(*) FROM mine") == [(2,)]


def test_a_file_that_only_the_users_own_connection_has(database) -> None:
    """A child refuses what its parent has open by other means, the connection itself as well."""
    lines = run_forks(
        database,
        """
        con = duckdb.connect(str(path))
        con.execute("CREATE TABLE mine AS SELECT 1").fetchall()
        forked(lambda: fetch(path), end=os._exit)
        forked(lambda: fetch(con), end=os._exit)
        """,
    )
    assert all("DatabaseError" in line and "forked" in line for line in lines), lines


def test_a_child_exports_elsewhere(database) -> None:
    """Into a file of its own it may."""
    lines = run_forks(
        database,
        """
        result = fetch(path)
        forked(lambda: fetch(folder / "child.duckdb").total_rows)
        print(result.total_rows)
        result.close()
        """,
    )
    assert lines[0].split()[1] == lines[1]


def test_a_child_of_a_process_that_let_go_may_open_it(database) -> None:
    """What was closed before the fork is nobody's."""
    lines = run_forks(
        database,
        """
        with fetch(path) as result:
            rows = result.total_rows
        # DuckDB 1.5 aborts whatever process ends after it has opened a database, if it was forked from one that has.
        is_1 = duckdb.__version__.startswith("1.")
        forked(lambda: mpnb.open(path).total_rows == rows, os._exit if is_1 else sys.exit)
        """,
    )
    assert lines == ["0 True"]
