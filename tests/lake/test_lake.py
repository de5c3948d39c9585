"""Lakes: a Parquet object for each day of a project, in a folder or an object store, read as a table is."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import polars
import pytest

import mpnb
import mpnb._storing.folder
from mpnb._planning.address import address_of
from mpnb._storing.mirror import object_key, objects_at
from mpnb.sandbox import Fault
from mpnb.sandbox.__main__ import environment
from tests._helpers import WIDE, as_served, as_stored, child, day, days_of, event

Fill = Callable[..., mpnb.ExportResult]
THREE = days_of(day(1), day(3))


def objects_of(lake: str, project: str) -> dict[str, int]:
    """Count the rows of each day's object, by polars."""
    objects = objects_at(address_of(lake))
    found = {}
    for each in objects.found(f"project_id={project}"):
        content = objects.read(each.key)
        assert content is not None
        found[each.key.split("/")[1].removeprefix("date=")] = len(polars.read_parquet(content))
    return found


def others_of(lake: str) -> list[str]:
    """Name the objects that are not events."""
    found = objects_at(address_of(lake)).found("_mpnb")
    return [each.key for each in found if not each.key.endswith(".lock")]


def stored(result: mpnb.ExportResult) -> Any:
    """Count the events of a result."""
    return as_stored(result.events.project("event_name, properties").fetchall())


def test_each_event_is_there_once_as_served(sandbox: Any, fill: Fill, lake: str) -> None:
    """In the result of the call, and for whoever opens the lake; one object a day, and nothing else but its source."""
    mp = sandbox()
    with fill(mp, lake) as result, mpnb.open(lake) as opened:
        for each in (result, opened):
            assert stored(each) == as_served(mp, THREE)
            assert each.check().ok
            days = each.events.aggregate("date, any_value(project_id), count(*)").order("date").fetchall()
            assert days == [(each, mp.project_id, len(mp.lines(each))) for each in THREE]
    assert objects_of(lake, mp.project_id) == {str(each): len(mp.lines(each)) for each in THREE}
    assert others_of(lake) == [f"_mpnb/sources/{mp.project_id}.json"]


def test_what_is_read_of_a_table_is_read_of_a_lake(sandbox: Any, fill: Fill, folder: str, tmp_path: Path) -> None:
    """The same rows in typed events, catalog, frames, duplicates and reports."""
    mp = sandbox(events_per_day=60)
    options = {"credentials": mp.credentials, "quota": WIDE, "on_batch": lambda _: None}
    fill(mp, folder).close()
    with mpnb.export(day(1), day(3), database=tmp_path / "x.duckdb", **options) as table, mpnb.open(folder) as opened:
        name = table.event_names().fetchall()[0][0]
        for read in (
            lambda r: r.event_names(),
            lambda r: r.event(name),
            lambda r: r.catalog().project("event_name, property, type, share, minimum"),
            lambda r: r.deduplicated().project("insert_id"),
            lambda r: mpnb.analysis.segmentation(r.events, name, zone="UTC"),
            lambda r: mpnb.analysis.retention(r.events, name, zone="UTC"),
        ):
            assert sorted(map(repr, read(opened).fetchall())) == sorted(map(repr, read(table).fetchall()))
        assert (
            opened.pl()
            .drop("project_id", "date", "batch_id")
            .sort(polars.all())
            .equals(table.pl().drop("batch_id").sort(polars.all()))
        )
        assert str(opened.calendar()) == str(table.calendar())


def test_the_same_call_fetches_what_is_missing(sandbox: Any, fill: Fill, folder: str) -> None:
    """By the objects' own notes; what somebody has deleted is missing as well."""
    mp = sandbox()
    fill(mp, folder, day(1), day(2)).close()
    assert mpnb.plan(day(1), day(3), destination=folder, credentials=mp.credentials).requests == 1
    with fill(mp, folder) as result:
        assert (result.successful_batches, result.skipped_batches) == (1, 2)
        assert stored(result) == as_served(mp, THREE)
    objects_at(address_of(folder)).delete(object_key(mp.project_id, day(2)))
    with fill(mp, folder) as result:
        assert (result.successful_batches, result.skipped_batches) == (1, 2)
        assert stored(result) == as_served(mp, THREE)


def test_refresh_replaces_days_and_new_wants_none(sandbox: Any, fill: Fill, folder: str) -> None:
    """Each day is there once; nothing is asked for where there is one already."""
    mp = sandbox()
    fill(mp, folder).close()
    with fill(mp, folder, day(2), day(2), mode="refresh") as result:
        assert result.fetched_rows == len(mp.lines(day(2)))
    sent = len(mp.requests)
    with pytest.raises(mpnb.TableError, match="mode='new' needs none"):
        fill(mp, folder, mode="new")
    assert len(mp.requests) == sent
    with mpnb.open(folder) as opened:
        assert stored(opened) == as_served(mp, THREE)


def test_a_day_without_events_is_an_object_without_rows(sandbox: Any, fill: Fill, folder: str) -> None:
    """It is there, and not fetched again."""
    mp = sandbox(lines=lambda each: [] if each == day(2) else [event()])
    fill(mp, folder).close()
    assert objects_of(folder, mp.project_id) == {str(day(1)): 1, str(day(2)): 0, str(day(3)): 1}
    assert mpnb.plan(day(1), day(3), destination=folder, credentials=mp.credentials).requests == 0


def test_a_longer_batch_is_replaced_whole(sandbox: Any, fill: Fill, lake: str) -> None:
    """An object a day, and each knows the range: to fetch one of its days again is to fetch all."""
    mp = sandbox()
    with fill(mp, lake, chunk_days=3) as result:
        assert len(mp.requests) == 1
        assert stored(result) == as_served(mp, THREE)
    assert objects_of(lake, mp.project_id) == {str(each): len(mp.lines(each)) for each in THREE}
    plan = mpnb.plan(day(2), day(2), destination=lake, credentials=mp.credentials, mode="refresh")
    assert [(batch.from_date, batch.to_date) for batch in plan.batches] == [(day(1), day(3))]
    objects_at(address_of(lake)).delete(object_key(mp.project_id, day(3)))
    with mpnb.open(lake) as opened:
        [(first, last, message)] = opened.failures.project("from_date, to_date, message").fetchall()
        assert (first, last, message) == (day(1), day(3), "only 2 of its 3 days are there as it was written")
        assert opened.total_rows == 0
    with fill(mp, lake) as result:
        assert stored(result) == as_served(mp, THREE)


def test_counts_are_of_the_rows_and_read_no_object_that_need_not_be(sandbox: Any, fill: Fill, folder: str) -> None:
    """Each object says how many rows it has; of a batch with other days as well, the rows are looked at."""
    mp = sandbox()
    fill(mp, folder, day(1), day(1)).close()
    fill(mp, folder, day(2), day(4), chunk_days=3).close()
    with fill(mp, folder, day(1), day(3)) as result:
        whole = [result.total_rows, result.rows_outside]
        assert whole[0] == mp.count(day(1), day(3)) == result.events.aggregate("count(*)").fetchall()[0][0]
        assert whole[1] == mp.count(day(4), day(4))
    with mpnb.open(folder) as db:
        assert (db.total_rows, db.rows_outside) == (sum(whole), 0)
        for each in Path(folder).rglob("events.parquet"):
            each.unlink()
        assert (db.total_rows, db.rows_outside) == (sum(whole), 0)
        assert f"{sum(whole):,} in table" in repr(db)


def test_a_day_beyond_its_batch_is_kept_within_it(sandbox: Any, fill: Fill, folder: str) -> None:
    """Events of other days, and without a time, take no other batch's place."""
    odd = [event(time=1767225600 - 86400), event(time=1767225600 + 9 * 86400), event(time="never")]
    mp = sandbox(faults=[Fault("bad_lines", day=day(1), times=None, lines=odd)])
    with fill(mp, folder, day(1), day(2), chunk_days=2) as result:
        assert result.total_rows == len(mp.lines(day(1))) + len(mp.lines(day(2))) + 3
    found = objects_of(folder, mp.project_id)
    assert found == {str(day(1)): len(mp.lines(day(1))) + 2, str(day(2)): len(mp.lines(day(2))) + 1}


def test_what_failed_is_known_to_whoever_opens_the_lake(sandbox: Any, fill: Fill, lake: str) -> None:
    """With its reason, until it is retried; then nothing is left beside the source."""
    mp = sandbox(faults=[Fault("status", day=day(2), status=400, body={"error": "no, thanks"})])
    with fill(mp, lake) as result:
        assert result.failed_batches == 1
    with mpnb.open(lake, credentials=mp.credentials) as opened:
        [(first, kind, message)] = opened.failures.project("from_date, kind, message").fetchall()
        assert (first, kind) == (day(2), "http")
        assert "no, thanks" in message
        with opened.retry(quota=WIDE, on_batch=lambda _: None) as retried:
            assert not retried.has_failures
            assert stored(retried) == as_served(mp, THREE)
    with mpnb.open(lake) as opened:
        assert not opened.has_failures
        assert not opened.failures.fetchall()


def test_lines_that_are_not_events_are_kept_whole(sandbox: Any, fill: Fill, lake: str) -> None:
    """Byte by byte, with number and reason, and with what they were copied from."""
    lines = [b"[1]", b"\xff{", b'{"event": "E", "properties": {"time": 1767225600}, "more": 1}']
    mp = sandbox(faults=[Fault("bad_lines", day=day(2), lines=lines)])
    with fill(mp, lake) as result, mpnb.open(lake) as opened:
        kept = opened.rejected.project("line, reason, in_events").order("line").fetchall()
        assert kept == result.rejected.project("line, reason, in_events").order("line").fetchall()
        assert sorted(line for line, _, _ in kept) == sorted(lines)
        assert opened.batches.filter("rejected > 0").project("from_date, rejected").fetchall() == [(day(2), 2)]
        assert opened.check().relation.filter("\"check\" = 'ledger against table'").fetchall()[0][1] == "ok"


def test_another_source_is_refused_before_the_first_request(sandbox: Any, fill: Fill, folder: str) -> None:
    """Also where no day has come yet."""
    mp = sandbox(faults=[Fault("status", status=400, times=None)])
    with pytest.raises(mpnb.ExportError) as raised:
        fill(mp, folder)
    raised.value.result.close()
    sent = len(mp.requests)
    for call in (fill, lambda *a, **o: mpnb.plan(day(1), day(3), destination=folder, credentials=mp.credentials, **o)):
        with pytest.raises(mpnb.TableError, match=r"holds project \d+, all events, but this call asks .*destination="):
            call(mp, folder, events=["A"])
    assert len(mp.requests) == sent


def test_projects_stand_beside_each_other(sandbox: Any, fill: Fill, folder: str) -> None:
    """Each in a table of its own name; in one call or two, and read together or one by one."""
    one, two, three = sandbox(), sandbox(), sandbox()
    fill(one, folder, credentials=[one.credentials, two.credentials]).close()
    fill(three, folder).close()
    with mpnb.open(folder) as opened:
        assert stored(opened) == sum((as_served(mp, THREE) for mp in (one, two, three)), Counter())
        assert {p for (p,) in opened.events.project("project_id").fetchall()} == {
            mp.project_id for mp in (one, two, three)
        }
        assert stored(opened.projects[two.project_id]) == as_served(two, THREE)
        assert all(each.check().ok for each in opened.projects.values())
        with pytest.raises(mpnb.PlanError, match="retry each project by itself"):
            opened.retry()
    with mpnb.open(folder, table=f"events_{three.project_id}") as opened:
        assert stored(opened) == as_served(three, THREE)


def test_a_killed_export_goes_on(sandbox: Any, fill: Fill, folder: str) -> None:
    """What it had stored is kept, what it had not is a failure for whoever opens the folder; nothing comes twice."""
    mp = sandbox(faults=[Fault("hang_start", day=day(3), times=1)])
    code = f"""
import mpnb
def say(p):
    print(p.from_date, p.status, flush=True)
quota = mpnb.Quota(per_hour=1000, per_second=100)
mpnb.export("{day(1)}", "{day(3)}", destination={folder!r}, quota=quota, on_batch=say, workers=1)
"""
    awaited = {f"{day(1)} done", f"{day(2)} done", f"{day(3)} fetching"}
    options = {"stdout": subprocess.PIPE, "text": True, "env": {**os.environ, **environment(mp)}}
    with child([sys.executable, "-c", code], **options) as process:
        for line in process.stdout or ():
            awaited.discard(line.strip())
            if not awaited:
                break
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not awaited
    with mpnb.open(folder) as opened:
        there = sum(len(mp.lines(each)) for each in THREE[:2])
        assert opened.total_rows == there
        assert opened.failures.project("from_date, kind").fetchall() == [(day(3), "cancelled")]
    with fill(mp, folder) as result:
        assert result.skipped_batches == 2
        assert stored(result) == as_served(mp, THREE)
    with mpnb.open(folder) as opened:
        assert not opened.has_failures


@pytest.mark.parametrize(
    ("more", "argument", "words"),
    [
        ({"database": "x.duckdb"}, "database", "goes with a database, not with destination"),
        ({"table": "other"}, "table", "goes with a database, not with destination"),
        ({"destination": "s3://"}, "destination", "must name a bucket"),
        ({"destination": "s3://b/../c"}, "destination", "must name a bucket"),
        ({"destination": "ftp://host/x"}, "destination", "'ftp://' is nothing that mpnb can write to"),
        ({"destination": "delta+s3://b/x"}, "destination", "is nothing that mpnb can write to"),
        (
            {"destination": "s3://AKIA:hunter2@bucket/x"},  # pragma: allowlist secret
            "destination",
            "no credentials and no options in it",
        ),
        ({"destination": "az://b/x?sig=hunter2"}, "destination", "no credentials and no options in it"),
        ({"destination": "s3://b/x*"}, "destination", "take for a pattern"),
        ({"destination": ""}, "destination", "must be a folder or a URL"),
        ({"destination": 5}, "destination", "must be a folder or a URL"),
        ({"destination": __file__}, "destination", "is a file"),
        ({"destination": "no/such/folder"}, "destination", "create it first"),
        ({"destination": "mixpanel.duckdb"}, "destination", "named like a file: pass a folder"),
        ({"destination": "s3://bucket/march.Parquet/"}, "destination", "or, for a database, database="),
    ],
)
def test_a_destination_that_cannot_be_is_refused(sandbox: Any, more: Any, argument: str, words: str) -> None:
    """Before any request, by the argument's name, without what may be a secret."""
    mp = sandbox()
    with pytest.raises(mpnb.PlanError) as raised:
        mpnb.export(day(1), day(1), **{"destination": "s3://bucket", "credentials": mp.credentials, **more})
    assert words in str(raised.value)
    assert raised.value.argument == argument
    assert "hunter2" not in str(raised.value)
    assert not mp.requests


def test_a_folder_is_its_owners_alone_and_read_by_anybody_of_theirs(sandbox: Any, fill: Fill, tmp_path: Path) -> None:
    """DuckDB and polars need no mpnb: days and projects are columns, properties are JSON as text."""
    mp, lake = sandbox(), tmp_path / "lake"
    fill(mp, str(lake)).close()
    every = [lake, *lake.rglob("*")]
    assert {stat.S_IMODE(each.stat().st_mode) for each in every} == {0o600, 0o700}
    pattern = f"{lake}/project_id=*/date=*/events.parquet"
    with duckdb.connect() as con:
        rows = con.execute(
            "SELECT date, project_id, count(*), count(DISTINCT properties->>'$.$insert_id')"
            f" FROM read_parquet('{pattern}', hive_partitioning = true) GROUP BY ALL ORDER BY date"
        ).fetchall()
    assert rows == [(each, int(mp.project_id), len(mp.lines(each)), rows[n][3]) for n, each in enumerate(THREE)]
    frame = polars.read_parquet(pattern, hive_partitioning=True)
    assert frame.schema["properties"] == polars.String
    assert list(frame.columns)[:7] == [
        "event_name", "time", "distinct_id", "device_id", "user_id", "insert_id", "properties",
    ]  # fmt: skip
    assert json.loads(frame["properties"][0])["distinct_id"] == frame["distinct_id"][0]


def test_a_full_disk_keeps_what_is_there(
    sandbox: Any, fill: Fill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line that says so; the same call goes on when there is room again."""
    mp, lake = sandbox(), str(tmp_path / "lake")
    fill(mp, lake, day(1), day(1)).close()

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr("mpnb._storing.folder._sync_file", full)
        with pytest.raises(mpnb.PlanError, match=r"No space left.*Free some disk space"):
            fill(mp, lake)
    with fill(mp, lake) as result:
        assert result.skipped_batches == 1
        assert stored(result) == as_served(mp, THREE)
    assert not list(Path(lake).rglob(".*"))


def test_a_disk_that_fills_in_mid_run_keeps_what_is_there(
    sandbox: Any, fill: Fill, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The day that does not fit, and those after it, fail with a line that says so; no part of a file is left."""
    mp = sandbox()
    really = mpnb._storing.folder._sync_file

    def full(path: Path) -> None:
        if str(day(2)) in path.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        really(path)

    with monkeypatch.context() as patched:
        patched.setattr("mpnb._storing.folder._sync_file", full)
        with fill(mp, folder, workers=1) as result:
            assert (result.successful_batches, result.failed_batches) == (1, 2)
            [(message, hint), *_] = result.failures.project("message, hint").fetchall()
            assert "No space left on device" in message
            assert hint.startswith("Free some disk space or fix the folder")
    assert set(objects_of(folder, mp.project_id)) == {str(day(1))}
    assert not [path for path in Path(folder).rglob("*.parquet") if ".scratch" in str(path)]
    with fill(mp, folder) as result:
        assert result.skipped_batches == 1
        assert stored(result) == as_served(mp, THREE)


def test_a_strange_object_is_named(sandbox: Any, fill: Fill, folder: str) -> None:
    """It is neither read as a day nor written over."""
    mp = sandbox()
    fill(mp, folder, day(1), day(2)).close()
    key = object_key(mp.project_id, day(1))
    objects = objects_at(address_of(folder))
    there = objects.look(key)
    assert there is not None
    objects.put(key, b"PAR1 and no more", None)
    for call in (lambda: mpnb.open(folder), lambda: fill(mp, folder)):
        with pytest.raises(mpnb.TableError, match=r"date=2026-01-01/events\.parquet is not as mpnb wrote it"):
            call()


def test_a_missing_package_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has no object store needs none of it."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(mpnb.MissingPackageError, match=r"s3:// needs obstore, which is not installed: pip install"):
        mpnb.open("s3://bucket/lake")


def test_the_shell_takes_a_lake(sandbox: Any, mpnb_command: Any, tmp_path: Path) -> None:
    """In place of a database."""
    mp = sandbox()
    words = ("export", str(day(1)), str(day(3)), "--destination", "lake", "--per-hour", "1000000", "--per-second", "99")
    status, out, _ = mpnb_command(*words, mp=mp)
    assert (status, "of lake" in out) == (0, True)
    assert objects_of(str(tmp_path / "lake"), mp.project_id) == {str(each): len(mp.lines(each)) for each in THREE}
    status, out, _ = mpnb_command("check", str(day(1)), str(day(3)), "--database", "lake")
    assert (status, "ok       ledger against table" in out) == (0, True)
    status, out, _ = mpnb_command("status", "--database", "lake")
    assert (status, "3 days held" in out) == (0, True)
    status, _, said = mpnb_command(*words, "--table", "x", mp=mp)
    assert (status, "--table goes with a database, not with --destination" in said) == (2, True)
