"""What is counted is what is there: of the days that were asked for, and never what a ledger says of a table."""

from __future__ import annotations

import functools
import gzip
import itertools
import json
import subprocess
import sys
import threading
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy
import pandas
import polars
import pyarrow
import pytest

import mpnb
from mpnb._base.clock import today
from mpnb._base.names import closest
from mpnb.sandbox import BAD_LINES, Fault
from tests._helpers import all_or_nothing, as_served, as_stored, day, days_of, event, query, until

REFUSED = {"status": 400, "times": None}


def on(d: date, *names: str, **properties: Any) -> list[bytes]:
    """Make events of a day, one for each name."""
    return [event(name, **{"time": (d - date(1970, 1, 1)).days * 86400, **properties}) for name in names]


def ranges(result: mpnb.ExportResult) -> list[tuple[int, int]]:
    """Return the days that are missing, by number."""
    return [((a - day(1)).days + 1, (b - day(1)).days + 1) for a, b in result.failed_date_ranges]


# --- what is missing, by day -----------------------------------------------------------------------------------------


def test_days_that_came_are_not_missing_though_their_batch_failed(sandbox, export) -> None:
    """A failure is of those days alone that this call asks for and that the table does not hold."""
    mp = sandbox(faults=[Fault("status", day(12), **REFUSED)])
    first = export(mp, day(1), day(14), chunk_days=7)
    assert ranges(first) == [(8, 14)]
    second = export(mp, day(1), day(10), chunk_days=7)
    assert (second.has_failures, ranges(second), second.failures.fetchall()) == (False, [], [])
    second.raise_for_failures()
    assert second.check().ok
    assert "missing" not in str(second)
    # The first one still misses the others: one row, with the batch's own days.
    assert (first.has_failures, ranges(first)) == (True, [(11, 14)])
    assert first.failures.select("from_date, to_date").fetchall() == [(day(8), day(14))]
    with pytest.raises(mpnb.ExportError, match="1 batch failed"):
        first.raise_for_failures()


def test_a_retry_fetches_the_days_that_are_still_missing(sandbox, export) -> None:
    """Not the whole batch that failed, of which others have brought some since."""
    mp = sandbox(faults=[Fault("status", day(12), **REFUSED)])
    first = export(mp, day(1), day(14), chunk_days=7)
    export(mp, day(1), day(10), chunk_days=7)
    mp.clear_faults()
    sent = len(mp.requests)
    with first.retry() as again:
        assert [(r.from_date, r.to_date) for r in mp.requests[sent:]] == [(day(11), day(14))]
        assert not again.has_failures
        all_or_nothing(again, mp)
    assert not first.has_failures
    assert query(first._store.path, "SELECT count(*) FROM mpnb_batches WHERE status = 'failed'") == [(0,)]


def test_a_retry_that_fails_again_leaves_one_row_a_day(sandbox, export) -> None:
    """The days that a new batch stands for are in no older row besides."""
    mp = sandbox(faults=[Fault("status", day(12), **REFUSED)])
    first = export(mp, day(1), day(14), chunk_days=7)
    export(mp, day(1), day(10), chunk_days=7)
    with pytest.raises(mpnb.ExportError) as error:
        first.retry()
    error.value.result.close()
    assert first.failures.select("from_date, to_date").fetchall() == [(day(11), day(14))]
    assert ranges(first) == [(11, 14)]


def test_a_rolling_window_is_not_held_up_by_a_day_that_it_has_left(sandbox, export) -> None:
    """Whose batch it failed in does not matter: only the days of the window do."""
    mp = sandbox(faults=[Fault("status", day(1), **REFUSED)])
    with pytest.raises(mpnb.ExportError) as error:
        export(mp, day(1), day(7), chunk_days=7)
    error.value.result.close()
    for n in range(2, 6):
        window = export(mp, day(n), day(n + 6), chunk_days=7)
        assert (window.has_failures, ranges(window)) == (False, [])
        assert window.total_rows == mp.count(day(n), day(n + 6))


def test_a_failed_refresh_is_a_failure_though_the_old_rows_are_there(sandbox, export) -> None:
    """Its days were to come again, and did not; what asked for them before misses nothing."""
    mp = sandbox()
    before = export(mp, day(1), day(4))
    mp.add_fault(Fault("status", day(2), **REFUSED))
    refreshed = export(mp, day(1), day(4), mode="refresh")
    assert (refreshed.has_failures, ranges(refreshed)) == (True, [(2, 2)])
    assert refreshed.total_rows == mp.count(day(1), day(4))
    assert (before.has_failures, ranges(before)) == (False, [])
    mp.clear_faults()
    sent = len(mp.requests)
    refreshed.retry().close()
    assert [r.from_date for r in mp.requests[sent:]] == [day(2)]
    assert not refreshed.has_failures
    all_or_nothing(refreshed, mp)


def test_the_next_call_makes_up_for_a_failed_refresh(sandbox, export) -> None:
    """Its days are due to whoever asks for them, and to nobody else; then it is met as well."""
    mp = sandbox()
    export(mp, day(1), day(4))
    mp.add_fault(Fault("status", day(2), **REFUSED))
    refreshed = export(mp, day(1), day(4), mode="refresh")
    mp.clear_faults()
    assert export(mp, day(3), day(4)).skipped_batches == 2
    assert refreshed.has_failures
    assert export(mp, day(1), day(4)).successful_batches == 1
    assert not refreshed.has_failures


def test_days_that_were_due_again_are_missing_until_they_come(sandbox, export) -> None:
    """A day that was fetched before its end, and cannot be fetched again, is no day that is there."""
    mp, now = sandbox(), today()
    export(mp, now, now)
    mp.add_fault(Fault("status", now, **REFUSED))
    with pytest.raises(mpnb.ExportError) as error:
        export(mp, now, now)
    with error.value.result as result:
        assert result.failed_date_ranges == [(now, now)]
        assert result.total_rows == mp.count(now, now)


def test_an_opened_table_misses_what_failed_and_has_not_come_since(sandbox, export, database) -> None:
    """Of all calls, whatever each asked for."""
    mp = sandbox(faults=[Fault("status", day(12), **REFUSED)])
    export(mp, day(1), day(14), chunk_days=7)
    export(mp, day(1), day(10), chunk_days=7)
    with mpnb.open(database, credentials=mp.credentials) as db:
        assert (db.has_failures, ranges(db)) == (True, [(11, 14)])
        mp.clear_faults()
        with db.retry() as again:
            assert (again.has_failures, ranges(again)) == (False, [])
            assert again.total_rows == mp.count(day(1), day(14))


def test_a_day_in_two_failed_batches_is_missing_once(sandbox, export, database) -> None:
    """The later one has it; both rows tell why."""
    mp = sandbox(faults=[Fault("status", day(n), **REFUSED) for n in (9, 12)])
    export(mp, day(1), day(14), chunk_days=7)
    export(mp, day(1), day(10), chunk_days=7)
    with mpnb.open(database, credentials=mp.credentials) as db:
        assert db.failures.select("from_date, to_date").fetchall() == [(day(8), day(10)), (day(8), day(14))]
        assert ranges(db) == [(8, 10), (11, 14)]


@pytest.mark.parametrize("shift", [timedelta(days=-400), timedelta(days=400)])
def test_what_is_missing_does_not_depend_on_the_clock(sandbox, export, database, shift: timedelta) -> None:
    """A clock that was ahead, or is behind, makes no failure good and none up: what was asked for later counts."""
    mp = sandbox()
    export(mp, day(1), day(3)).close()
    mp.add_fault(Fault("status", day(2), **REFUSED))
    export(mp, day(1), day(3), mode="refresh").close()
    moved = f"INTERVAL '{shift.days} days'"
    query(database, f"UPDATE mpnb_batches SET created_at = created_at + {moved}, finished_at = finished_at + {moved}"
                    " WHERE status = 'failed'")  # fmt: skip
    mp.clear_faults()
    with mpnb.open(database, credentials=mp.credentials) as db:
        assert ranges(db) == [(2, 2)]
        with db.retry() as again:
            assert (again.successful_batches, again.has_failures) == (1, False)


def test_days_that_nobody_tells_of_are_missing(sandbox, export, database) -> None:
    """What was asked for and is not held is missing, also where the ledger has lost all notes of it."""
    mp = sandbox()
    result = export(mp, day(1), day(4))
    query(database, "DELETE FROM mpnb_batches WHERE from_date IN ('2026-01-02', '2026-01-03')")
    query(database, "DELETE FROM events WHERE batch_id NOT IN (SELECT batch_id FROM mpnb_batches)")
    assert (result.has_failures, ranges(result), result.failures.fetchall()) == (True, [(2, 3)], [])
    assert "not there 2026-01-02 – 2026-01-03: run the same call again to fetch what is missing" in str(result)
    with pytest.raises(mpnb.ExportError, match=r"2026-01-02 – 2026-01-03: not in .*; run the same call again"):
        result.raise_for_failures()
    with result.retry() as again:
        assert (again.has_failures, again.total_rows) == (False, mp.count(day(1), day(4)))
    assert not result.has_failures


def test_days_stay_missing_while_they_are_fetched_again(sandbox, export, start) -> None:
    """Until the retry has brought them; the failure table is the retry's own by then."""
    mp = sandbox(faults=[Fault("status", day(2), **REFUSED)])
    result = export(mp)
    mp.clear_faults()
    mp.add_fault(Fault("hang", day(2), times=None))
    job = result.start_retry()
    until(lambda: mp.injected["hang"])
    assert (result.has_failures, ranges(result)) == (True, [(2, 2)])
    job.cancel()
    job.outcome(30).close()
    assert result.failures.select("kind").fetchall() == [("cancelled",)]


def test_a_retry_brings_back_what_was_dropped(sandbox, export, database) -> None:
    """Of an export, whose days are asked for still; of a table that was opened nobody knows any more what it had."""
    mp = sandbox()
    result, db = export(mp), mpnb.open(database)
    mpnb.drop("events", database=database)
    assert (ranges(result), ranges(db)) == ([(1, 3)], [])
    with db, pytest.raises(mpnb.TableError, match="has no table 'events' of events any more: export into it anew"):
        db.retry()
    with result.retry() as again:
        assert again.total_rows == mp.count(day(1), day(3))


# --- what an export could not note -----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["queued", "fetching", "writing"])
def test_what_nobody_could_note_has_failed(sandbox, export, database, status: str) -> None:
    """A batch that an ended export left as if it were under way: its days are missing, and a retry brings them."""
    mp = sandbox(faults=[Fault("status", day(n), **REFUSED) for n in (2, 3)])
    result = export(mp)
    query(database, f"UPDATE mpnb_batches SET status = '{status}', kind = NULL WHERE from_date = '2026-01-02'")
    assert result.has_failures
    assert ranges(result) == [(2, 2), (3, 3)]
    rows = result.failures.select("from_date, status, kind, message, retryable, hint").fetchall()
    assert rows[0][:3] == (day(2), "failed", "write")
    assert "before it could record the result of this batch" in rows[0][3]
    assert rows[0][4] is True
    assert rows[0][5]
    with pytest.raises(mpnb.ExportError, match="2 batches failed"):
        result.raise_for_failures()
    assert "2 batches" in str(result)
    mp.clear_faults()
    with result.retry() as again:
        assert (again.successful_batches, again.has_failures) == (2, False)
        all_or_nothing(again, mp)
    assert not result.has_failures


def test_a_failure_that_could_not_be_noted_at_once_is_noted_at_the_end(sandbox, start) -> None:
    """While somebody else changes its row, the ledger takes no note of how a batch failed: it has it at the end."""
    con = duckdb.connect()
    changing, looking = con.cursor(), con.cursor()
    third_day = f"SELECT status FROM mpnb_batches WHERE from_date = DATE '{day(3)}'"

    def lines(d: date) -> None:
        """Change the row of the second day, from before it fails until the writer has written the third."""
        if d == day(1):
            changing.execute("BEGIN").fetchall()
            changing.execute("UPDATE mpnb_batches SET hint = 'mine' WHERE from_date = ?", [day(2)]).fetchall()
        elif d == day(4):
            until(lambda: looking.execute(third_day).fetchall() == [("done",)], 20)
            changing.execute("ROLLBACK").fetchall()

    asked = functools.cache(lines)
    mp = sandbox(lines=asked, faults=[Fault("status", day(2), body={"error": "no such day"}, **REFUSED)])
    with con, start(mp, last=day(4), workers=1, database=con).result(30) as result:
        assert asked.cache_info().currsize == 3
        failures = result.failures.select("from_date, kind, http_status, message, attempts").fetchall()
        assert failures == [(day(2), "http", 400, "no such day", 1)]


def test_what_is_under_way_has_not_failed(sandbox, export, start) -> None:
    """Batches of an export that runs in this process are no failures of whoever looks meanwhile."""
    mp = sandbox()
    export(mp)
    mp.add_fault(Fault("hang", day(5), times=None))
    job = start(mp, day(4), day(5))
    until(lambda: mp.injected)
    with mpnb.open(job._run._store.path) as db:
        assert not db.has_failures
        assert db.failures.fetchall() == []
    job.cancel()


FULL_DISK = """
import json, resource, sys, threading
from datetime import date
import mpnb
from mpnb.sandbox import serve
from tests._helpers import WIDE, day, event

full, landed, files = threading.Event(), set(), resource.RLIMIT_FSIZE
before = resource.getrlimit(files)

def lines(d):
    assert d <= day(3) or full.wait(30)
    seconds = (d - date(1970, 1, 1)).days * 86400
    return [event("A", time=seconds, n=n, text="x" * 400) for n in range(200)]

def fill(progress):
    landed.update({progress.from_date} if progress.status == "done" else ())
    if len(landed) >= 3 and not full.is_set():
        resource.setrlimit(files, (4096, before[1]))
        full.set()

with serve(lines=lines) as mp:
    options = {"credentials": mp.credentials, "quota": WIDE, "database": sys.argv[1], "chunk_days": 1}
    with mpnb.export(day(1), day(8), on_batch=fill, **options) as result:
        resource.setrlimit(files, before)
        answer = {
            "held": [str(d) for (d,) in result.sql("SELECT from_date FROM mpnb_batches WHERE rows > 0").fetchall()],
            "missing": [str(first) for first, _ in result.failed_date_ranges],
            "failures": [str(d) for (d,) in result.failures.select("from_date").fetchall()],
            "has_failures": result.has_failures,
        }
        with result.retry() as again:
            answer |= {"fetched": again.successful_batches, "rows": again.total_rows, "left": again.has_failures}
print(json.dumps(answer))
"""


def test_days_that_a_full_disk_kept_out_are_missing(database) -> None:
    """Whether or not the ledger could take a note of it: what was asked for is there, or in the failure table."""
    command = [sys.executable, "-c", FULL_DISK, str(database)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    days = [str(d) for d in days_of(day(1), day(8))]
    assert len(answer["held"]) in range(3, 8)
    assert answer["missing"] == answer["failures"] == [d for d in days if d not in answer["held"]]
    assert answer["has_failures"] is True
    assert (answer["fetched"], answer["rows"], answer["left"]) == (8 - len(answer["held"]), 8 * 200, False)


# --- the days that were asked for ------------------------------------------------------------------------------------


def test_a_result_has_the_days_that_were_asked_for(sandbox, export) -> None:
    """Whatever batches the table has them in; of those, ``rows_outside`` counts what is left out."""
    mp = sandbox()
    export(mp, day(1), day(21), chunk_days=7)
    result = export(mp, day(10), day(12))
    wanted = as_served(mp, days_of(day(10), day(12)))
    assert as_stored(result.events.select("event_name, properties").fetchall()) == wanted
    assert result.total_rows == mp.count(day(10), day(12))
    assert result.rows_outside == mp.count(day(8), day(14)) - result.total_rows
    held = result.batches.aggregate("min(from_date), max(to_date), sum(rows)").fetchall()
    assert held == [(day(8), day(14), result.total_rows + result.rows_outside)]


@pytest.mark.filterwarnings("ignore:values of several types:UserWarning")
def test_what_stands_on_the_events_has_the_same_days(sandbox, export) -> None:
    """Names, typed events, the catalog, frames, duplicates, analysis and the check."""
    mp = sandbox()
    export(mp, day(1), day(14), chunk_days=7)
    result = export(mp, day(6), day(9))
    total = mp.count(day(6), day(9))
    names = result.event_names()
    assert names.aggregate("sum(events)").fetchall() == [(total,)]
    every = [name for (name,) in names.select("event_name").fetchall()]
    for materialize in (False, True):
        typed = result.event(every, materialize=materialize)
        assert typed.aggregate("count(*), min(time) >= '2026-01-06', max(time) < '2026-01-10'").fetchall() == [
            (total, True, True)
        ]
        shares = result.catalog(materialize=materialize).select("event_name, property, share, nulls").fetchall()
        assert {share for _, name, share, _ in shares if name == "time"} == {1.0}
        assert all(0 <= share <= 1 for _, _, share, _ in shares)
        assert sorted(shares) == sorted(expected_shares(result))
    assert len(result.df()) == len(result.pl()) == result.arrow().num_rows == total
    assert result.duplicates().aggregate("sum(events)").fetchall() == [(total,)]
    per_day = mpnb.analysis.segmentation(result.events).select("period, events").fetchall()
    assert [(p.date(), n) for p, n in per_day] == [(d, mp.count(d, d)) for d in days_of(day(6), day(9))]
    assert result.check().ok


def expected_shares(result: mpnb.ExportResult) -> list[tuple[Any, ...]]:
    """Count what the catalog says, by the events alone."""
    return result.sql(
        f"WITH e AS ({result._selection.events}), k AS (SELECT event_name, unnest(json_keys(properties)) AS property,"
        " properties FROM e), n AS (SELECT event_name, count(*) AS n FROM e GROUP BY ALL)"
        " SELECT event_name, property, count(*) / any_value(n),"
        " count(*) FILTER (json_type(properties->('/' || property)) = 'NULL')"
        " FROM k JOIN n USING (event_name) GROUP BY ALL"
    ).fetchall()


def test_a_batch_that_has_no_other_days_is_there_whole(sandbox, export) -> None:
    """Whatever the time of its events: in an old project it may lie outside of the days."""
    mp = sandbox(legacy_timezone="Asia/Kolkata")
    export(mp, day(8), day(14), chunk_days=7)
    whole = export(mp, day(8), day(14))
    assert (whole.total_rows, whole.rows_outside) == (mp.count(day(8), day(14)), 0)
    part = export(mp, day(9), day(13))
    by_time = "SELECT count(*) FROM events WHERE time >= '2026-01-09' AND time < '2026-01-14'"
    assert [(part.total_rows,)] == part.sql(by_time).fetchall()
    assert part.total_rows + part.rows_outside == whole.total_rows


def test_rows_without_a_time_are_left_out_where_their_day_cannot_be_told(sandbox, export) -> None:
    """They are in the batch, and counted outside; where the batch has no other days, they are events of these days."""

    mp = sandbox(lines=lambda d: [*on(d, "A"), event(time=None), event(time="soon")])
    whole = export(mp, day(1), day(7), chunk_days=7)
    assert (whole.total_rows, whole.rows_outside) == (21, 0)
    part = export(mp, day(2), day(3), chunk_days=7)
    assert (part.total_rows, part.rows_outside) == (2, 19)
    single = export(mp, day(9), day(9), chunk_days=7)
    assert (single.total_rows, single.rows_outside) == (3, 0)


def test_the_relation_of_events_follows_batches_that_came_later(sandbox, export) -> None:
    """One that was taken before another call brought a day in a longer batch has that day, and no other."""
    mp = sandbox(faults=[Fault("status", day(3), times=1, status=400)])
    result = export(mp, day(1), day(3))
    events = result.events
    export(mp, day(3), day(9), chunk_days=7)
    assert events.aggregate("count(*)").fetchall() == [(mp.count(day(1), day(3)),)]
    assert not result.has_failures


def test_an_opened_table_has_all_days(sandbox, export, database) -> None:
    """Nothing is outside of them."""
    mp = sandbox()
    export(mp, day(1), day(7), chunk_days=7).close()
    with mpnb.open(database) as db:
        assert (db.total_rows, db.rows_outside) == (mp.count(day(1), day(7)), 0)


# --- the ledger against the table ------------------------------------------------------------------------------------

GONE = {
    "dropped": "DROP TABLE events",
    "emptied": "DELETE FROM events",
    "renamed": "ALTER TABLE events RENAME TO mine",
    "truncated": "TRUNCATE events",
}


@pytest.mark.parametrize("change", GONE.values(), ids=GONE)
@pytest.mark.parametrize("mode", ["resume", "new", "refresh"])
def test_rows_that_are_gone_are_fetched_again(sandbox, export, database, mode: str, change: str) -> None:
    """A batch of which no row is left is not there, whatever the ledger says; a warning tells."""
    mp = sandbox()
    export(mp, day(1), day(4)).close()
    query(database, change)
    plan = mpnb.plan(day(1), day(4), database=database, chunk_days=1, mode=mode)
    assert (plan.requests, plan.days_held) == (4, ())
    assert f"no row left of {mp.count(day(1), day(4))}" in str(plan)
    with pytest.warns(UserWarning, match="'events' has no row left of .* 2026-01-01 – 2026-01-04: .* again") as caught:
        result = export(mp, day(1), day(4), mode=mode)
    assert [str(w.filename).endswith("conftest.py") for w in caught] == [True]
    assert (result.successful_batches, result.skipped_batches, result.has_failures) == (4, 0, False)
    assert result.total_rows == result.fetched_rows == mp.count(day(1), day(4))
    all_or_nothing(result, mp)
    assert result.check().ok


def test_only_the_days_that_are_asked_for_come_again(sandbox, export, database) -> None:
    """A batch of which nothing is left does not bring its other days with it."""
    mp = sandbox()
    export(mp, day(1), day(14), chunk_days=7).close()
    query(database, "DELETE FROM events")
    with pytest.warns(UserWarning, match="no row left"):
        result = export(mp, day(3), day(9), chunk_days=7)
    assert sorted((r.from_date, r.to_date) for r in mp.requests[2:]) == [(day(3), day(9))]
    assert (result.total_rows, result.rows_outside) == (mp.count(day(3), day(9)), 0)
    with mpnb.open(database) as db:
        assert db.total_rows == mp.count(day(3), day(9))
        assert db.check().ok


def test_a_failed_batch_is_fetched_again_where_what_it_was_to_replace_is_gone(sandbox, export, database) -> None:
    """A retry, too, forgets what is not there."""
    mp = sandbox()
    export(mp).close()
    mp.add_fault(Fault("status", day(2), **REFUSED))
    refreshed = export(mp, mode="refresh")
    query(database, "DELETE FROM events WHERE time >= '2026-01-02' AND time < '2026-01-03'")
    mp.clear_faults()
    with pytest.warns(UserWarning, match="no row left"):
        again = refreshed.retry()
    assert (again.total_rows, again.has_failures) == (mp.count(day(1), day(3)), False)
    again.close()
    all_or_nothing(refreshed, mp)


def test_some_rows_that_are_gone_stay_gone(sandbox, export, database) -> None:
    """A deletion on purpose, such as of a person's data, is not undone; a warning tells, and the check names it."""
    mp = sandbox()
    before = export(mp, day(1), day(4))
    [(person,)] = before.sql("SELECT mode(distinct_id) FROM events WHERE batch_id = 2").fetchall()
    query(database, f"DELETE FROM events WHERE distinct_id = '{person}' AND batch_id IN (2, 3)")
    left = before.events.aggregate("count(*)").fetchall()[0][0]
    lost = mp.count(day(1), day(4)) - left
    assert lost > 0
    sent = len(mp.requests)
    words = rf"'events' has {lost} rows fewer than were exported for 2026-01-02.*they stay gone, unless mode='refresh'"
    assert "rows fewer" in str(mpnb.plan(day(1), day(4), database=database))
    with pytest.warns(UserWarning, match=words):
        result = export(mp, day(1), day(4))
    assert len(mp.requests) == sent
    assert result.total_rows == before.total_rows == left
    assert f"{left} in table" in str(result)
    assert not result.has_failures
    finding = next(f for f in result.check().findings if f.name == "ledger against table")
    assert finding.status == "problem"
    assert "of 2026-01-02" in finding.detail
    again = export(mp, day(1), day(4), mode="refresh")
    assert again.total_rows == mp.count(day(1), day(4))


def test_other_days_are_nobodys_business(sandbox, export, database, recwarn) -> None:
    """A call warns of the days that it asks for, and leaves the others as they are."""
    mp = sandbox()
    export(mp, day(1), day(4)).close()
    query(database, "DELETE FROM events WHERE batch_id <= 2")
    assert export(mp, day(3), day(6)).total_rows == mp.count(day(3), day(6))
    assert not [w for w in recwarn if issubclass(w.category, UserWarning)]
    with mpnb.open(database) as db:
        assert db.total_rows == mp.count(day(3), day(6))
        missing = next(f for f in db.check().findings if f.name == "days missing")
    assert (missing.status, missing.detail) == ("problem", "2026-01-01 – 2026-01-02")


def test_days_without_events_are_there(sandbox, export, database) -> None:
    """Of a batch that never had a row none can be gone."""
    mp = sandbox(lines=lambda d: on(d, "A") if d == day(2) else [])
    export(mp).close()
    query(database, "DELETE FROM events")
    with pytest.warns(UserWarning, match="no row left of 1 "):
        result = export(mp, mode="new")
    assert (result.successful_batches, result.skipped_batches, result.total_rows) == (1, 2, 1)


def test_a_table_that_is_gone_says_so(sandbox, export, database, tmp_path) -> None:
    """Counts are of what is there, and relations tell how to get it back."""
    mp = sandbox()
    result = export(mp)
    query(database, "DROP TABLE events")
    assert (result.total_rows, result.rows_outside, result.has_failures) == (0, 0, False)
    assert "0 in table 'events'" in str(result)
    with pytest.raises(
        mpnb.TableError, match=r"table 'events' is gone from .*: run the same export again to fetch its days"
    ):
        _ = result.events
    missing = next(f for f in result.check().findings if f.name == "days missing")
    assert (missing.status, missing.count) == ("problem", 3)
    with mpnb.open(database) as db:
        assert (db.total_rows, "0 in table" in str(db)) == (0, True)


def test_a_table_whose_rows_are_gone_takes_another_source(sandbox, export, database) -> None:
    """What a ledger says of rows that are not there is no claim to the table, nor are the lines beside them."""
    one, other = sandbox(lines=lambda d: [*BAD_LINES, *on(d, "A")]), sandbox()
    assert export(one).rejected_lines > 0
    query(database, "DELETE FROM events")
    result = export(other)
    assert result.total_rows == other.count(day(1), day(3))
    all_or_nothing(result, other)
    assert query(database, "FROM mpnb_rejected") == []


def test_lines_that_are_no_events_hold_a_table_by_themselves(sandbox, export, database) -> None:
    """A source that has brought nothing else is a source all the same: no other one takes its table, nor its lines."""
    one, other = sandbox(lines=lambda d: BAD_LINES if d == day(2) else []), sandbox()
    assert (export(one).rejected_lines, query(database, "SELECT count(*) FROM events")) == (len(BAD_LINES), [(0,)])
    with pytest.raises(mpnb.TableError, match="this call asks for"):
        export(other)
    assert query(database, "SELECT count(*) FROM mpnb_rejected") == [(len(BAD_LINES),)]
    assert other.requests == ()


def test_a_file_with_days_that_never_came_is_healed(sandbox, export, database) -> None:
    """Of such a file, whose ledger says done where another table's batch landed, the next export fetches those days."""
    mp = sandbox()
    export(mp, day(1), day(4)).close()
    query(database, "DELETE FROM events WHERE batch_id IN (2, 3)")
    with pytest.warns(UserWarning, match="no row left of .* 2026-01-02 – 2026-01-03"):
        result = export(mp, day(1), day(4))
    assert (result.successful_batches, result.skipped_batches) == (2, 2)
    all_or_nothing(result, mp)


def test_what_is_skipped_counts_what_is_there(sandbox, export, database) -> None:
    """On the board of an export as well."""
    mp = sandbox()
    export(mp, day(1), day(1)).close()
    query(database, "DELETE FROM events WHERE rowid IN (SELECT rowid FROM events LIMIT 5)")
    seen: list[mpnb.BatchProgress] = []
    with pytest.warns(UserWarning, match="5 rows fewer"):
        export(mp, day(1), day(2), on_batch=seen.append)
    assert {p.rows for p in seen if p.status == "skipped"} == {mp.count(day(1), day(1)) - 5}


# --- typed events follow the table -----------------------------------------------------------------------------------


def rows_of(relation: Any) -> list[Any]:
    """Return the rows of typed events in order."""
    return sorted(relation.select("time, distinct_id, n").fetchall())


@pytest.fixture
def numbered(sandbox, export) -> mpnb.ExportResult:
    """Export three days of events of two names, numbered."""

    return export(sandbox(lines=lambda d: [line for n in range(10) for line in on(d, "A", "B", n=n)]))


@pytest.mark.parametrize("materialize", [True, False])
@pytest.mark.parametrize(
    "change",
    ["DELETE FROM events WHERE properties->>'n' = '3'", "DELETE FROM events WHERE batch_id = 2",
     "DELETE FROM events WHERE event_name = 'A' AND batch_id = 1"],
)  # fmt: skip
def test_rows_deleted_from_the_table_are_gone_from_typed_events(numbered, materialize: bool, change: str) -> None:
    """Whether they were typed before or not, and in the catalog as well."""
    for name in "AB":
        assert len(rows_of(numbered.event(name))) == 30
    numbered.con.execute(change).fetchall()
    for name in "AB":
        wanted = numbered.events.filter(f"event_name = '{name}'")
        wanted = sorted(wanted.select("time, distinct_id, (properties->>'n')::BIGINT").fetchall())
        assert rows_of(numbered.event(name, materialize=materialize)) == wanted
    shares = numbered.catalog(materialize=materialize).select("event_name, property, share, nulls").fetchall()
    assert sorted(shares) == sorted(expected_shares(numbered))


def test_an_event_of_which_all_rows_were_deleted_is_not_there(numbered) -> None:
    """As one that never was."""
    numbered.event("A")
    numbered.con.execute("DELETE FROM events WHERE event_name = 'A'").fetchall()
    with pytest.raises(mpnb.PlanError, match="there is no event 'A'"):
        numbered.event("A")
    assert len(rows_of(numbered.event("B"))) == 30


@pytest.mark.filterwarnings("ignore:values of several types:UserWarning")
def test_types_are_those_of_the_values_that_are_left(sandbox, export) -> None:
    """A value that made a column JSON, and is deleted, makes it so no longer."""
    result = export(sandbox(lines=lambda d: on(d, "A", n=1) + on(d, "A", n="x" if d == day(2) else 2)))
    assert "JSON" in map(str, result.event("A").types)
    result.con.execute("DELETE FROM events WHERE properties->>'n' = 'x'").fetchall()
    relation = result.event("A")
    assert dict(zip(relation.columns, map(str, relation.types), strict=True))["n"] == "BIGINT"


# --- names of events -------------------------------------------------------------------------------------------------

SEVERAL = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "generator": lambda names: (name for name in names),
    "keys": lambda names: dict.fromkeys(names).keys(),
    "array": numpy.array,
    "objects": lambda names: numpy.array(names, dtype=object),
    "pandas": pandas.Series,
    "category": lambda names: pandas.Series(names, dtype="category"),
    "index": pandas.Index,
    "polars": polars.Series,
    "arrow": pyarrow.array,
}


@pytest.mark.parametrize("of", SEVERAL.values(), ids=SEVERAL)
def test_names_come_in_whatever_gives_some(sandbox, export, of: Any) -> None:
    """In exports, typed events and the catalog; the ledger and Mixpanel get plain texts."""
    mp = sandbox()
    names = ["Purchase", "Sign Up"]
    result = export(mp, events=of(names))
    assert sorted(name for name, *_ in result.event_names().fetchall()) == names
    assert query(result._store.path, "SELECT DISTINCT event_filter FROM mpnb_batches") == [('["Purchase", "Sign Up"]',)]
    assert len(result.event(of(names)).fetchall()) == result.total_rows
    assert {row[0] for row in result.catalog(of(names)).fetchall()} == set(names)
    assert len(result.df(of(names))) == result.total_rows


@pytest.mark.parametrize(
    "wrong",
    [5, b"Purchase", {"Purchase": 1}, {}, numpy.array([]), numpy.array("Purchase"), numpy.array([["a"], ["b"]]),
     pandas.DataFrame({"Purchase": ["a"]}), polars.DataFrame({"Purchase": ["a"]}), pandas.Series(["a", None]), [1, 2]],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_gives_no_names_is_refused(sandbox, export, wrong: Any) -> None:
    """Whatever it is, and wherever it is passed: before anything is asked of anybody."""
    mp = sandbox()
    with pytest.raises(mpnb.PlanError, match="events must be a list of names of events, or None for all, "):
        export(mp, events=wrong)
    assert not mp.requests
    result = export(mp)
    for read in (result.event, result.catalog, result.df):
        with pytest.raises(
            mpnb.PlanError, match=r"events must be a list of names|name must be the name of an event, or a list of"
        ):
            read(wrong)


def test_a_name_that_brings_nothing_is_told(sandbox, export, start) -> None:
    """With the closest that the table has; once a job, and in the text of its result."""
    mp = sandbox()
    with pytest.warns(UserWarning, match=r"no event 'Purchas' was on any day; did you mean 'Purchase'\?") as caught:
        result = export(mp, events=["Purchase", "Purchas"])
    assert [w.filename.endswith("conftest.py") for w in caught] == [True]
    assert "no event 'Purchas' was on any day" in str(result)
    assert "no event &#x27;Purchas&#x27; was" in result._repr_mimebundle_()["text/html"]
    job = start(mp, table="other", events="Nothing")
    with pytest.warns(UserWarning, match="no event 'Nothing' was on any day$") as caught:
        job.result(30)
    assert [w.filename for w in caught] == [__file__]
    assert job.result(30).total_rows == 0  # and no warning


def test_an_event_of_other_days_is_no_typo(sandbox, export, recwarn) -> None:
    """A name that the table knows needs not come on each day; nor does one of which all days failed say anything."""
    mp = sandbox(lines=lambda d: on(d, "Rare" if d == day(1) else "Usual"))
    export(mp, day(1), day(2), events=["Rare", "Usual"])
    export(mp, day(3), day(4), events=["Rare", "Usual"])
    mp.add_fault(Fault("status", **REFUSED))
    with pytest.raises(mpnb.ExportError) as error:
        export(mp, table="other", events=["Nothing"])
    error.value.result.close()
    assert not [w for w in recwarn if issubclass(w.category, UserWarning)]


@pytest.mark.filterwarnings("error")
def test_where_warnings_are_errors_nothing_is_left_open(sandbox, export, database) -> None:
    """Nobody gets the result, so that it is closed."""
    with pytest.raises(UserWarning, match="no event 'Nothing' was"):
        export(sandbox(), events="Nothing")
    code = "import duckdb, sys; duckdb.connect(sys.argv[1]).execute('CREATE TABLE free (a INT)').fetchall()"
    subprocess.run([sys.executable, "-c", code, str(database)], check=True, timeout=60)


def test_the_closest_name_is_found_whatever_its_case() -> None:
    """Other cases come first, what is nothing like it does not come at all."""
    names = ["Sign Up", "sign_up", "Purchase", "Purchased", "$ae_session"]
    assert closest("PURCHASE", names) == "; did you mean 'Purchase' or 'Purchased'?"
    assert closest("signup", names) == "; did you mean 'sign_up' or 'Sign Up'?"
    assert closest("plam", ["PLAN", "Plan", "plan"]) == "; did you mean 'plan' or 'Plan' or 'PLAN'?"
    assert closest("qqq", names) == ""


# --- one rule for people ---------------------------------------------------------------------------------------------


def test_null_and_nothing_are_nobody(sandbox, export) -> None:
    """In the names of events as in analysis."""
    people = ["a", "b", "", None]
    result = export(sandbox(lines=lambda d: [line for each in people for line in on(d, "A", distinct_id=each)]))
    assert result.event_names().select("event_name, events, users").fetchall() == [("A", 12, 2)]
    assert {row[1:] for row in mpnb.analysis.segmentation(result.events).fetchall()} == {(4, 2)}
    assert mpnb.analysis.funnel(result.events, ["A", "A"], timedelta(days=1)).fetchall()[0][2] == 2


# --- options of all events -------------------------------------------------------------------------------------------


@pytest.fixture
def doubled(sandbox, export) -> mpnb.ExportResult:
    """Export events of which some come twice."""
    lines = [event("A", **{"$insert_id": "i", "n": 1, "mp_processing_time_ms": n}) for n in (1, 2)]
    return export(sandbox(lines=lambda d: [*lines, event("B", n=0.5), event("B", m=True)]), day(1), day(1))


def test_all_events_take_the_options_of_typed_ones(doubled, tmp_path) -> None:
    """In every form: duplicates are left out, and columns are typed, whether or not names are passed."""
    number = itertools.count()
    read = {
        "df": lambda **o: doubled.df(**o),
        "pl": lambda **o: doubled.pl(**o).to_pandas(),
        "arrow": lambda **o: doubled.arrow(**o).to_pandas(),
        "parquet": lambda **o: pandas.read_parquet(doubled.to_parquet(tmp_path / str(next(number)), **o)),
    }
    for form in read.values():
        assert len(form()) == 4
        assert len(form(deduplicated=True)) == 3
        assert list(form(deduplicated=True)["properties"].str.contains(':2|"n": *0.5|true', regex=True)) == [True] * 3
        some = form(columns=["n"], deduplicated=True, materialize=False)
        assert list(some.columns[-1:]) == ["n"]
        assert sorted(some["n"].dropna()) == [0.5, 1.0]


def test_an_option_that_is_none_is_a_type_error(doubled, tmp_path) -> None:
    """With names and without, before anything is written."""
    for names in (None, "A", ["A", "B"]):
        for read in (doubled.df, doubled.pl, doubled.arrow, lambda e, **o: doubled.to_parquet(tmp_path / "x", e, **o)):
            with pytest.raises(TypeError, match="unexpected keyword argument 'nonsense'"):
                read(names, nonsense=1)
    assert not (tmp_path / "x").exists()
    with pytest.raises(TypeError, match="are for events by name, or for all"):
        doubled.df(doubled.events, deduplicated=True)


def test_arrow_readers_get_a_table(doubled) -> None:
    """What the docstring of the stream names makes a frame of it."""
    assert polars.DataFrame(doubled).shape == (4, 8)
    assert pyarrow.table(doubled).num_rows == 4


INTERRUPTED = """
import os, signal, sys, threading, time, mpnb
db = mpnb.open(sys.argv[1])
db.con.execute("INSERT INTO events SELECT events.* FROM events, range(300000)").fetchall()
read = {
    "df": lambda: db.df(), "pl": lambda: db.pl(), "arrow": lambda: db.arrow(), "catalog": lambda: db.catalog(),
    "parquet": lambda: db.to_parquet(sys.argv[1] + str(time.time())), "check": lambda: db.check(),
    "names": lambda: mpnb.analysis.retention(db.deduplicated().filter("true"), "A", "B"),
}[sys.argv[2]]
read()  # which imports
threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGINT]).start()
try:
    while True:
        read()
except KeyboardInterrupt:
    print("stopped")
"""


@pytest.mark.parametrize("what", ["df", "pl", "arrow", "catalog", "parquet", "check", "names"])
def test_a_ctrl_c_while_something_is_read_is_a_keyboard_interrupt(doubled, database, what: str) -> None:
    """
    Whatever DuckDB makes of it.

    The status of the process tells nothing: Python ends by the signal if it came while a module was imported, even
    where somebody caught it.
    """
    doubled.close()
    command = [sys.executable, "-c", INTERRUPTED, str(database), what]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (ran.stdout, ran.stderr) == ("stopped\n", "")


# --- what is said of what is there -----------------------------------------------------------------------------------


def test_an_opened_table_says_what_it_is_narrowed_to(sandbox, export, database) -> None:
    """By event or by expression; a whole one says nothing of it."""
    mp = sandbox()
    export(mp).close()
    export(mp, table="some", events=["Sign Up", "Purchase"], where='properties["$os"] != "x"').close()
    with mpnb.open(database, table="some") as db:
        wanted = "only      events 'Purchase', 'Sign Up', where properties[\"$os\"] != \"x\""
        assert wanted in str(db)
    with mpnb.open(database, table="events") as db:
        assert "only" not in str(db)


def test_nothing_is_kept_where_nothing_landed(sandbox, export) -> None:
    """And where something is, its place is named."""
    mp = sandbox(faults=[Fault("status", **REFUSED)])
    with pytest.raises(
        mpnb.ExportError, match=r"3 batches failed, .* No batch was finished; result\.failures"
    ) as error:
        export(mp)
    error.value.result.close()
    mp.clear_faults()
    mp.add_fault(Fault("status", day(2), **REFUSED))
    with pytest.raises(mpnb.ExportError, match=r"1 batch failed, .* Finished batches are kept in .*mixpanel\.duckdb"):
        export(mp).raise_for_failures()


def test_what_was_in_memory_is_gone_with_it(sandbox, export) -> None:
    """Nobody is sent to open it again; of a connection, the same one reads it."""
    mp = sandbox()
    result = export(mp, database=":memory:")
    result.close()
    assert "in memory only, and is gone" in str(result)
    with pytest.raises(mpnb.ClosedError, match="in memory only, and is gone"):
        _ = result.events
    with duckdb.connect() as con:
        result = export(mp, database=con)
        result.close()
        assert "mpnb.open(con) opens it again" in str(result)
        with mpnb.open(con) as db:
            assert db.total_rows == mp.count(day(1), day(3))


def test_a_stop_of_an_export_into_memory_keeps_nothing(sandbox, export) -> None:
    """It says so, and what would keep it."""
    mp = sandbox(faults=[Fault("hang", day(3), times=None)])

    def stop(progress: mpnb.BatchProgress) -> None:
        if progress.status == "done":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="were in memory, and are gone; a file as database= would keep them"):
        export(mp, database=":memory:", on_batch=stop)


# --- a table that is dropped -----------------------------------------------------------------------------------------


def test_a_drop_leaves_nothing_of_the_table(sandbox, export, database) -> None:
    """Rows, ledger, rejected lines and typed tables are gone, those of another table are not; it starts anew."""
    mp = sandbox(lines=lambda d: [*BAD_LINES, *on(d, "A", n=1)])
    one, other = export(mp), export(mp, table="Other")
    for result in (one, other):
        result.event("A")
    before = [query(database, f"FROM {name}") for name in ('"Other"', "mpnb_rejected", "mpnb_typed.events")]
    assert mpnb.drop("EVENTS", database=database) == one.fetched_rows == 3
    assert query(database, "SELECT DISTINCT table_name FROM mpnb_batches") == [("Other",)]
    assert query(database, "SELECT DISTINCT table_name FROM mpnb_rejected") == [("Other",)]
    assert query(database, "SELECT table_name FROM mpnb_typed.events") == [("Other",)]
    assert query(database, 'FROM "Other"') == before[0]
    assert len(other.event("A").fetchall()) == len(other.rejected.fetchall()) / len(BAD_LINES) == 3
    left = query(database, "SELECT count(*) FROM duckdb_tables() WHERE schema_name = 'mpnb_typed'")
    assert left == [(3,)]  # one event, and what is known of it
    assert one.total_rows == 0
    # Of another project, even.
    again = export(sandbox())
    assert (again.successful_batches, again.skipped_batches) == (3, 0)


def test_a_drop_of_the_last_table_leaves_a_file_to_go_on_with(sandbox, export, database) -> None:
    """Of typed tables not even the schema is left."""
    mp = sandbox()
    export(mp).event("Sign Up")
    assert mpnb.drop("events", database=database) == mp.count(day(1), day(3))
    assert query(database, "SELECT table_name FROM duckdb_tables() WHERE table_name NOT LIKE 'mpnb_%'") == []
    assert query(database, "SELECT count(*) FROM duckdb_schemas() WHERE schema_name = 'mpnb_typed'") == [(0,)]
    with pytest.raises(mpnb.TableError, match="has no events yet"):
        mpnb.open(database)
    assert export(mp).total_rows == mp.count(day(1), day(3))


def test_a_drop_of_what_is_not_there_is_an_error(sandbox, export, database, tmp_path) -> None:
    """No table, no database, no name; a table of the user's own stays, whatever its name and columns."""
    with pytest.raises(mpnb.DatabaseError, match="there is no database"):
        mpnb.drop("events", database=tmp_path / "none.duckdb")
    export(sandbox(), table="mine").close()
    query(database, "CREATE TABLE own AS SELECT 1 AS a")
    query(database, "CREATE TABLE copy AS FROM mine")
    for wrong in ("events", "own", "copy"):
        with pytest.raises(mpnb.TableError, match=f"has no table '{wrong}' of events; it has 'mine'"):
            mpnb.drop(wrong, database=database)
    for wrong in ("", 5, "mpnb_batches", None):
        with pytest.raises(mpnb.TableError):
            mpnb.drop(wrong, database=database)  # type: ignore[arg-type]
    query(database, "DROP TABLE mine; CREATE VIEW mine AS FROM copy")
    with pytest.raises(mpnb.TableError, match=r"table 'mine' in .* does not have the columns"):
        mpnb.drop("mine", database=database)
    assert query(database, "SELECT count(*) FROM own") == [(1,)]
    assert query(database, "SELECT count(*) FROM copy") != [(0,)]


def test_a_table_that_was_dropped_by_hand_is_dropped_for_good(sandbox, export, database) -> None:
    """Nothing is left to count, but a ledger to forget."""
    export(sandbox()).close()
    query(database, "DROP TABLE events")
    assert mpnb.drop("events", database=database) == 0
    assert query(database, "FROM mpnb_batches") == []


def test_a_table_is_not_dropped_under_an_export(sandbox, export, start, database) -> None:
    """It waits for nobody; another table of the file may go meanwhile, and the export lands all the same."""
    mp = sandbox()
    export(mp, table="other").event("Sign Up")
    release = threading.Event()

    def lines(d: date) -> list[bytes]:
        assert release.wait(30)
        return [line for n in range(100) for line in on(d, "A", n=n)]

    job = start(sandbox(lines=lines), day(1), day(3))
    with pytest.raises(mpnb.TableError, match="an export into table 'events' is running: wait for it or cancel it"):
        mpnb.drop("events", database=database)
    assert mpnb.drop("other", database=database) == mp.count(day(1), day(3))
    release.set()
    with job.result(30) as result:
        assert (result.total_rows, result.has_failures) == (300, False)


def test_a_drop_by_a_connection(sandbox, export) -> None:
    """Of a database that somebody has open, in memory as well."""
    mp = sandbox()
    with duckdb.connect() as con:
        export(mp, database=con).close()
        assert mpnb.drop("events", database=con) == mp.count(day(1), day(3))
        ours = ("batches", "columns", "forgotten", "meta", "pages", "rejected", "snapshots")
        assert con.sql("SHOW TABLES").fetchall() == [(f"mpnb_{name}",) for name in ours]


def test_a_drop_of_a_file_of_before(tmp_path) -> None:
    """Whatever its layout."""
    path = tmp_path / "old.duckdb"
    path.write_bytes(gzip.decompress((Path(__file__).parent / "files" / "layout-1.duckdb.gz").read_bytes()))
    [(table, rows)] = query(path, "SELECT table_name, sum(rows)::INT FROM mpnb_batches GROUP BY ALL LIMIT 1")
    assert mpnb.drop(table, database=path) == rows
    assert query(path, f"SELECT count(*) FROM mpnb_batches WHERE table_name = '{table}'") == [(0,)]
