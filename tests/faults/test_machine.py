"""Machines that fail: full disks, folders that vanish, locks, corrupt files, too few handles, too little memory."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

import mpnb
from mpnb.sandbox import Fault, Sandbox, serve
from tests._helpers import child, event, joined, moved
from tests.campaign._clients import QUOTA
from tests.campaign._events import comparable, multiset
from tests.faults.conftest import PIPES, answer_of, asked, end

FIRST, LAST = "2026-01-01", "2026-01-08"


@pytest.fixture
def server() -> Iterator[Sandbox]:
    """Serve small days."""
    with serve(events_per_day=200) as server:
        yield server


@pytest.fixture
def large() -> Iterator[Sandbox]:
    """Serve days of about a megabyte, for what has a limit in bytes."""
    with serve(events_per_day=2000) as server:
        yield server


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give the path of a database in a folder of its own."""
    folder = tmp_path / "data"
    folder.mkdir()
    return folder / "mixpanel.duckdb"


def export(server: Sandbox, path: Path | str | duckdb.DuckDBPyConnection, last: str = LAST, **more: Any) -> Any:
    """Export in this process, a day a batch."""
    options = {"chunk_days": 1, "credentials": server.credentials, "quota": QUOTA, "on_batch": lambda _: None}
    return mpnb.export(FIRST, last, database=path, **{**options, **more})


def assert_whole(server: Sandbox, result: mpnb.ExportResult) -> None:
    """See that each batch that is done holds exactly what was served, and that no row is of another."""
    for batch_id, day in result.sql("SELECT batch_id, from_date FROM mpnb_batches WHERE status = 'done'").fetchall():
        rows = result.sql(f"SELECT event_name, properties FROM events WHERE batch_id = {batch_id}").fetchall()
        there: dict[str, int] = {}
        for row in rows:
            there[comparable(*row)] = there.get(comparable(*row), 0) + 1
        assert there == multiset(server.lines(day))
    [(strays,)] = result.sql(
        "SELECT count(*) FROM events WHERE batch_id NOT IN (SELECT batch_id FROM mpnb_batches WHERE status = 'done')"
    ).fetchall()
    assert strays == 0


def assert_resumes(server: Sandbox, path: Path, there: int) -> None:
    """See that what was committed is there, and that the same call completes it."""
    with mpnb.open(path) as before:
        assert before.batches.filter("status = 'done'").count("*").fetchall() == [(there,)]
        assert_whole(server, before)
    with export(server, path) as result:
        assert (result.skipped_batches, result.successful_batches, result.has_failures) == (there, 8 - there, False)
        assert_whole(server, result)
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_full_disk_under_the_database_keeps_what_is_committed(large: Sandbox, path: Path) -> None:
    """When the database cannot grow, the export stops with one reason and hint; later it goes on."""
    export(large, path, "2026-01-02").close()
    limits = {"RLIMIT_FSIZE": path.stat().st_size + 300_000}
    answer = answer_of(asked(large, path, FIRST, LAST, limits=limits))
    assert answer["failed"] >= 5
    assert {(kind, hint) for kind, _, hint in answer["failures"]} == {
        ("write", "Free some disk space or fix the folder, then retry: all finished batches are in the file.")
    }
    assert "File too large" in answer["failures"][0][1]
    assert_resumes(large, path, 2 + answer["done"])


def test_a_full_disk_at_the_checkpoint_keeps_what_is_committed(large: Sandbox, path: Path) -> None:
    """Where DuckDB gives the database up in mid-checkpoint, every batch that was reported is there afterwards."""
    code = (
        "from mpnb._storing.settings import SETTINGS; SETTINGS['checkpoint_threshold'] = \"'1KB'\"; import runpy;"
        "runpy.run_module('tests.faults._exporter', run_name='__main__')"
    )
    export(large, path, "2026-01-02").close()
    argument = asked(large, path, FIRST, LAST, limits={"RLIMIT_FSIZE": path.stat().st_size + 200_000})
    command = [sys.executable, "-c", code, argument]
    with child(command, **PIPES) as process:
        answer = end(process)
    assert {kind for kind, _, _ in answer["failures"]} == {"write"}
    assert_resumes(large, path, 2 + answer["done"])


def test_a_full_disk_under_the_spool_keeps_what_is_committed(large: Sandbox, path: Path) -> None:
    """When no body can be kept, the export stops and says to free some disk or to pass another folder."""
    export(large, path, "2026-01-02").close()
    answer = answer_of(asked(large, path, FIRST, LAST, limits={"RLIMIT_FSIZE": 20_000}))
    assert (answer["done"], answer["failed"]) == (0, 6)
    assert {(kind, hint) for kind, _, hint in answer["failures"]} == {
        ("write", "Free some disk space, or pass spool=mpnb.Spool(folder) on another disk, then retry.")
    }
    assert_resumes(large, path, 2)


@pytest.mark.parametrize("what", ["database", "spool"])
def test_a_read_only_folder_is_named_before_the_first_request(what: str, server: Sandbox, tmp_path: Path) -> None:
    """Nothing is asked of Mixpanel where the folder of the database or the spool may not be written."""
    folder = tmp_path / "read only"
    folder.mkdir()
    folder.chmod(0o555)
    database = folder / "a.duckdb" if what == "database" else tmp_path / "a.duckdb"
    spool = str(folder / "spool") if what == "spool" else None
    answer = answer_of(asked(server, database, FIRST, LAST, spool=spool, obey=True))
    assert answer["error"] in ("DatabaseError", "PlanError")
    assert str(folder) in answer["message"]
    assert ("pass another database=" if what == "database" else "pass spool=mpnb.Spool(folder)") in answer["message"]
    assert server.requests == ()


def test_a_read_only_database_is_named_before_the_first_request(server: Sandbox, path: Path) -> None:
    """The same for the file, which stays as it was."""
    export(server, path, "2026-01-02").close()
    path.chmod(0o400)
    count = len(server.requests)
    answer = answer_of(asked(server, path, FIRST, LAST, obey=True))
    assert answer["error"] == "DatabaseError"
    assert "change its permissions" in answer["message"]
    assert len(server.requests) == count
    path.chmod(0o600)
    assert_resumes(server, path, 2)


@pytest.mark.parametrize("name", ["file/a.duckdb", "none/a.duckdb", "", "/proc/a.duckdb", "/dev/full"])
def test_a_place_for_no_database_is_refused(name: str, server: Sandbox, tmp_path: Path) -> None:
    """A path under a file, in no folder, a folder itself, or on a device: one error, and no request."""
    (tmp_path / "file").write_text("")
    with pytest.raises(mpnb.DatabaseError, match=r"cannot be opened|there is no folder|is a folder"):
        export(server, tmp_path / name)
    assert server.requests == ()


def test_a_spool_folder_that_vanishes_fails_what_is_left(server: Sandbox, path: Path, tmp_path: Path) -> None:
    """Deleted in mid-export, the spool costs the batches that have not landed; to retry makes it anew."""
    spool = tmp_path / "spool"

    def on_batch(progress: mpnb.BatchProgress) -> None:
        if progress.status == "done":
            shutil.rmtree(spool, ignore_errors=True)

    with serve(events_per_day=200, latency=0.4) as slow:
        result = export(slow, path, on_batch=on_batch, workers=2, spool=mpnb.Spool(spool))
        assert result.failed_batches > 0
        # Whoever misses its file first says so: a worker that would write one, or DuckDB that would read one.
        kinds = result.failures.select("kind, message LIKE '%No such file%' OR message LIKE '%No files found%'")
        assert kinds.distinct().fetchall() == [("write", True)]
        assert_whole(slow, result)
        again = result.retry(on_batch=lambda _: None)
        result.close()
        assert not again.has_failures
        assert_whole(slow, again)
        again.close()


def test_a_database_that_vanishes_is_no_crash(server: Sandbox, path: Path, tmp_path: Path) -> None:
    """Deleted in mid-export, the database is gone; the export still ends in order, and a new call begins anew."""

    def on_batch(progress: mpnb.BatchProgress) -> None:
        if progress.status == "done":
            shutil.rmtree(path.parent, ignore_errors=True)

    with contextlib.suppress(mpnb.ExportError):
        export(server, path, on_batch=on_batch, spool=mpnb.Spool(tmp_path / "spool")).close()
    path.parent.mkdir()
    with export(server, path) as result:
        assert (result.successful_batches, result.skipped_batches) == (8, 0)
        assert_whole(server, result)


def test_a_database_that_another_process_holds_is_named_with_that_process(server: Sandbox, path: Path) -> None:
    """The error says which process has it and what to do, before the first request."""
    export(server, path, "2026-01-02").close()
    code = f"import duckdb; con = duckdb.connect({str(path)!r}); print('here', flush=True); input()"
    command = [sys.executable, "-c", code]
    count = len(server.requests)
    with child(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "here\n"
        with pytest.raises(mpnb.DatabaseError, match=rf"PID {holder.pid}.*close it there"):
            export(server, path)
        holder.communicate("\n")
    assert len(server.requests) == count
    assert_resumes(server, path, 2)


def _garbage(path: Path) -> None:
    path.write_bytes(os.urandom(1 << 16))


def _cut(path: Path) -> None:
    os.truncate(path, 5000)


def _header(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(8192))


def _text(path: Path) -> None:
    path.write_text("event,time\n")


@pytest.mark.parametrize("spoil", [_garbage, _cut, _header, _text])
def test_a_corrupt_file_is_refused_and_left_alone(spoil: Callable[[Path], None], server: Sandbox, path: Path) -> None:
    """What is no database any more is neither opened nor overwritten, and nothing is asked."""
    export(server, path, "2026-01-02").close()
    spoil(path)
    before, count = path.read_bytes(), len(server.requests)
    with pytest.raises(mpnb.DatabaseError, match="cannot be opened") as raised:
        export(server, path)
    assert "restore a copy of the file" in str(raised.value)
    assert path.read_bytes() == before
    assert len(server.requests) == count


def test_a_spoiled_log_is_told_and_can_be_done_without(server: Sandbox, path: Path, tmp_path: Path) -> None:
    """The error speaks of the .wal; without it the file opens, and the same call completes the table."""
    export(server, path, "2026-01-02").close()
    torn = tmp_path / "torn.duckdb"
    log = torn.with_name("torn.duckdb.wal")
    with contextlib.closing(duckdb.connect(str(path))) as con:
        con.execute("SET GLOBAL checkpoint_threshold = '1GB'")
        with export(server, con, "2026-01-04"):
            # By another process: to close a file that DuckDB has open would drop its lock.
            subprocess.run(["cp", path, torn], check=True, timeout=60)
            subprocess.run(["cp", f"{path}.wal", log], check=True, timeout=60)
    spoiled = bytearray(log.read_bytes())
    spoiled[len(spoiled) // 2] ^= 0xFF
    log.write_bytes(spoiled)
    with pytest.raises(mpnb.DatabaseError, match=r"restore a copy of it and of its \.wal, or move the \.wal away"):
        mpnb.open(torn)
    log.unlink()
    with mpnb.open(torn) as db:
        assert [(first.day, last.day) for first, last in db.batches.select("from_date, to_date").fetchall()] == [
            (1, 1),
            (2, 2),
        ]
        assert_whole(server, db)
    with export(server, torn, "2026-01-04") as result:
        assert result.successful_batches == 2
        assert_whole(server, result)


@pytest.mark.parametrize("handles", [14, 20, 28])
def test_too_few_handles_fail_and_resume(handles: int, server: Sandbox, path: Path) -> None:
    """With fewer open files than workers need, some batches fail with what to do, and none is half."""
    answer = answer_of(asked(server, path, FIRST, LAST, workers=30, limits={"RLIMIT_NOFILE": handles}))
    if "error" not in answer:
        assert answer["done"] + answer["failed"] == 8
        for kind, message, hint in answer["failures"]:
            assert kind in ("write", "connection")
            assert "Too many open files" in message
            assert "ulimit" in hint
    done = answer.get("done", 0)
    if done:
        assert_resumes(server, path, done)
    else:
        with export(server, path) as result:
            assert_whole(server, result)


def test_too_little_memory_fails_and_resumes(large: Sandbox, path: Path) -> None:
    """A batch that DuckDB has no memory for fails with what to do; with more memory the same call goes on."""
    limits = "SET GLOBAL memory_limit = '{}'"
    with contextlib.closing(duckdb.connect(str(path))) as con:
        con.execute(limits.format("12MB"))
        with pytest.raises(mpnb.ExportError) as raised:
            export(large, con)
        result = raised.value.result
        kinds = result.failures.select("kind, hint").distinct().fetchall()
        assert kinds == [("write", "Retry with a smaller chunk_days.")]
        assert_whole(large, result)
        result.close()
        con.execute(limits.format("500MB"))
        with export(large, con) as result:
            assert result.successful_batches == 8
            assert_whole(large, result)


PEAK = 700 * 10**6
SMALL = "600MB"


@pytest.mark.parametrize(
    ("kind", "size"), [("bomb", 4 << 30), ("long_line", 2 << 30)], ids=["4 GiB of newlines", "a line of 2 GiB"]
)
def test_a_bomb_is_one_failed_batch(
    kind: str, size: int, server: Sandbox, path: Path, tell: Callable[[str], None]
) -> None:
    """What decompresses to gigabytes fails alone, and the process stays small."""
    server.add_fault(Fault(kind, day="2026-01-03", times=None, size=size))
    answer = answer_of(asked(server, path, FIRST, LAST, memory=SMALL))
    assert (answer["done"], answer["failed"]) == (7, 1)
    assert answer["failures"][0][0] == "decode"
    assert answer["peak"] < PEAK
    tell(f"{kind} of {size >> 30} GiB: one failed batch, peak memory {answer['peak'] / 1e6:.0f} MB")


def test_memory_stays_small_however_large_a_batch_is(
    path: Path, monkeypatch: pytest.MonkeyPatch, tell: Callable[[str], None]
) -> None:
    """Hundreds of megabytes of JSON in one batch take no more than README promises."""
    with serve(events_per_day=100_000) as server:
        answer = answer_of(asked(server, path, "2026-01-01", "2026-01-04", chunk_days=4, memory=SMALL))
    assert (answer["done"], answer["rows"] > 350_000) == (1, True)
    assert answer["peak"] < 600 * 10**6
    tell(f"{answer['rows']:,} events in one batch: peak memory {answer['peak'] / 1e6:.0f} MB")


def test_memory_of_an_ordinary_export_is_what_readme_promises(path: Path, tell: Callable[[str], None]) -> None:
    """A quarter of a year of events of 4 kB; without its limit DuckDB would take 900 MB."""
    drawn = random.Random(0)
    words = [f"{drawn.getrandbits(40):x}" for _ in range(3000)]
    lines = [event("E", **{"$insert_id": f"{n}", "text": " ".join(drawn.choices(words, k=363))}) for n in range(2000)]
    with serve(lines=lambda d: [moved(line, d) for line in lines]) as server:
        answer = answer_of(asked(server, path, "2026-01-01", "2026-04-01", chunk_days=7, memory=SMALL))
    assert (answer["done"], answer["rows"]) == (13, 91 * len(lines))
    assert answer["peak"] < 600 * 10**6
    tell(f"{answer['rows']:,} events of 4 kB in 13 batches: peak memory {answer['peak'] / 1e6:.0f} MB")


@contextlib.contextmanager
def readable_by_others(folder: Path) -> Iterator[dict[str, int]]:
    """With no umask at all, watch a folder, and give what in it others could come to and read, by its mode."""
    seen: dict[str, int] = {}
    stop = threading.Event()

    def look(within: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(within):
                with contextlib.suppress(FileNotFoundError):
                    mode = stat.S_IMODE(entry.stat(follow_symlinks=False).st_mode)
                    is_folder = entry.is_dir(follow_symlinks=False)
                    if mode & 0o077:
                        seen[str(Path(entry.path).relative_to(folder))] = mode
                    if is_folder and mode & 0o077:
                        look(Path(entry.path))

    def watch() -> None:
        while not stop.is_set():
            look(folder)

    watcher = threading.Thread(target=watch, daemon=True)
    before = os.umask(0)
    watcher.start()
    try:
        yield seen
    finally:
        stop.set()
        joined(watcher)
        os.umask(before)


def test_files_are_their_owners_alone(server: Sandbox, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever mpnb makes, also while exports into two tables, typed tables and Parquet files are written."""
    monkeypatch.setenv("MPNB_STATE_DIR", str(path.parent / "state"))
    narrow = mpnb.Quota(per_hour=900, per_second=100)  # else the times of requests would not be written
    with readable_by_others(path.parent) as seen:
        for table in ("one", "two"):
            with export(server, path, table=table, quota=narrow, spool=mpnb.Spool(path.parent / "spool")) as result:
                assert result.total_rows
                result.event("Purchase").fetchall()
                result.catalog("Sign Up").fetchall()
                assert result.to_parquet(path.parent / "all").stat().st_mode & 0o777 == 0o700
                result.to_parquet(path.parent / "parts", partition_by="event_name")
                files = [*(path.parent / "all").iterdir(), *(path.parent / "parts").iterdir()]
                assert len(files) > 2
                assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
                assert {file.suffix for file in files} == {".parquet"}
                shutil.rmtree(path.parent / "all")
                shutil.rmtree(path.parent / "parts")
                result.forget_typed()
    assert list((path.parent / "state").glob("quota-*"))
    assert seen == {}


def test_parquet_files_in_a_folder_of_anybody_are_their_owners(server: Sandbox, path: Path) -> None:
    """An empty folder keeps its mode, and nobody else can read the files at any moment."""
    folder = path.parent / "shared"
    folder.mkdir(mode=0o755)
    with readable_by_others(folder) as seen, export(server, path) as result:
        result.to_parquet(folder, partition_by="event_name")
    assert seen == {}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755


def test_parquet_that_fails_midway_leaves_nothing(large: Sandbox, path: Path) -> None:
    """The same call works once there is room."""
    folder = path.parent / "out"
    with export(large, path) as result:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        try:
            with pytest.raises(duckdb.Error):
                result.to_parquet(folder)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert list(folder.iterdir()) == []
        rows = duckdb.read_parquet(f"{result.to_parquet(folder)}/*.parquet").count("*").fetchall()
        assert rows == [(result.total_rows,)]
