"""Batches that wait for the writer are written together, and each is all or nothing all the same."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Sequence
from datetime import date
from typing import Any

import pytest

import mpnb
from mpnb._fetching.fetched import Fetched
from mpnb._storing import writer as _writer
from mpnb._storing.destination import Landed
from mpnb._storing.table import Table
from mpnb.sandbox import BAD_LINES, Fault, serve
from tests._helpers import event, until

QUOTA = mpnb.Quota(per_hour=10**6, per_second=1000)


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the writer begin twice when seven batches wait, and note how many it then takes at once."""
    taken: list[int] = []
    with_those_behind = _writer.Writer._with_those_behind

    def waiting(self: _writer.Writer, first: Fetched) -> list[Fetched]:
        if len(taken) < 2:
            until(lambda: len(self._queue) >= 7, 30)
        items = with_those_behind(self, first)
        taken.append(len(items))
        return items

    monkeypatch.setattr(_writer.Writer, "_with_those_behind", waiting)
    return taken


def rows_by_day(result: mpnb.ExportResult) -> dict[Any, int]:
    """Count the rows of each batch, by its day."""
    query = "SELECT from_date, count(*) FROM events JOIN mpnb_batches USING (batch_id) GROUP BY ALL"
    return dict(result.sql(query).fetchall())


@pytest.mark.parametrize("fault", [None, "bad_lines"])
def test_each_of_the_batches_that_are_written_together_has_its_own_rows(groups: list[int], fault: str | None) -> None:
    """Eight days wait and are taken at once; each row has its day's batch, with and without a day to be looked at."""
    faults = [Fault(fault, day="2026-01-03")] if fault else []
    with serve(events_per_day=50, faults=faults) as mp:
        result = mpnb.export(
            "2026-01-01",
            "2026-01-08",
            chunk_days=1,
            database=":memory:",
            credentials=mp.credentials,
            quota=QUOTA,
            on_batch=lambda _: None,
        )
        with result:
            assert groups[0] == 8
            batches = result.sql("SELECT from_date, rows, rejected FROM mpnb_batches").fetchall()
            assert rows_by_day(result) == {day: rows for day, rows, _ in batches}
            odd = {day: rejected for day, _, rejected in batches if rejected}
            assert (len(odd), result.has_failures) == (1 if fault else 0, False)
            for day, rows, _ in batches:
                of_day = "SELECT properties->>'/$insert_id' FROM events JOIN mpnb_batches USING (batch_id)"
                ids = Counter(i for (i,) in result.sql(f"{of_day} WHERE from_date = DATE '{day}'").fetchall())
                served = Counter(json.loads(line)["properties"].get("$insert_id") for line in mp.lines(day))
                assert ids.total() == rows
                assert ids == served if day not in odd else ids >= served


def test_no_more_is_written_at_once_than_a_stop_may_drop(groups: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches that wait are taken until they have so many lines, and the others after them."""
    monkeypatch.setattr(_writer, "TOGETHER_LINES", 60)
    with serve(lines=lambda day: [event(n=n, time=(day - date(1970, 1, 1)).days * 86400) for n in range(50)]) as mp:
        result = mpnb.export(
            "2026-01-01",
            "2026-01-15",
            chunk_days=1,
            database=":memory:",
            credentials=mp.credentials,
            quota=QUOTA,
            on_batch=lambda _: None,
        )
        with result:
            assert result.total_rows == 15 * 50
    assert groups[0] == max(groups) == 2


def test_after_a_line_to_be_looked_at_each_batch_is_written_by_itself(groups: list[int]) -> None:
    """Such lines seldom come alone, and each would have all batches that are with it written twice."""
    begun = threading.Event()

    def lines(day: date) -> None:
        assert day.day <= 8 or begun.wait(30)

    with serve(events_per_day=50, faults=[Fault("bad_lines", day="2026-01-03")], lines=lines) as mp:
        job = mpnb.start(
            "2026-01-01", "2026-01-16", chunk_days=1, database=":memory:", credentials=mp.credentials, quota=QUOTA
        )
        until(lambda: groups, 30)
        begun.set()
        with job.result(60) as result:
            assert result.rejected_lines == len(BAD_LINES)
            assert groups == [8] + [1] * 8


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the writer wait for more for longer than any of these tests takes."""
    monkeypatch.setattr(_writer, "LINGER_SECONDS", 60.0)


def test_few_rows_wait_for_what_is_under_way_and_no_longer(patient: None) -> None:
    """Days that come one after the other land in one transaction, as soon as the last one is there."""
    faults = [Fault("slow_start", day=f"2026-01-0{n}", seconds=0.15 * n) for n in range(1, 5)]
    with serve(events_per_day=50, faults=faults) as mp:
        result = mpnb.export(
            "2026-01-01",
            "2026-01-04",
            chunk_days=1,
            database=":memory:",
            credentials=mp.credentials,
            quota=QUOTA,
            on_batch=lambda _: None,
        )
        with result:
            landed = result.sql("SELECT count(*), count(DISTINCT finished_at) FROM mpnb_batches").fetchall()
            assert landed == [(4, 1)]
            assert result.duration_seconds < 30
            assert result.total_rows == mp.count(result.from_date, result.to_date)


def test_enough_rows_wait_for_nothing(patient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that fills a row group lands while another one is still under way."""
    monkeypatch.setattr(_writer, "ROW_GROUP", 20)
    with serve(events_per_day=50, faults=[Fault("hang", day="2026-01-02")]) as mp:
        job = mpnb.start(
            "2026-01-01", "2026-01-02", chunk_days=1, database=":memory:", credentials=mp.credentials, quota=QUOTA
        )
        until(lambda: job.progress().counts.get("done"))
        assert job.progress().in_flight == 1
        job.cancel()
        with job.outcome(30) as result:
            assert result.total_rows == mp.count(result.from_date, result.from_date)


def test_a_cancel_ends_the_wait_for_more(patient: None) -> None:
    """It comes back at once, and what waited is fetched again."""
    with serve(events_per_day=50, faults=[Fault("hang", day="2026-01-02")]) as mp:
        job = mpnb.start(
            "2026-01-01", "2026-01-02", chunk_days=1, database=":memory:", credentials=mp.credentials, quota=QUOTA
        )
        until(lambda: job.progress().counts == {"writing": 1, "fetching": 1})
        begin = time.monotonic()
        job.cancel()
        with job.outcome(5) as result:
            assert time.monotonic() - begin < 2
            assert result.total_rows == 0
            assert result.cancelled_batches == 2
            mp.clear_faults()
            with result.retry(on_batch=lambda _: None) as again:
                assert again.total_rows == mp.count(again.from_date, again.to_date)


def test_large_bodies_stay_as_they_were_received(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """A plain copy that outgrows its share of the spool is dropped, and the compressed body is what is written."""
    kept: list[bool] = []
    land = Table.land

    def noting(self: Table, items: Sequence[Fetched]) -> list[Landed]:
        [item] = items
        kept.append(item.body.gzip)
        assert list(item.path.parent.glob(f"{item.task.batch_id}.*")) == [item.path]
        return land(self, items)

    monkeypatch.setattr(Table, "land", noting)
    with serve(events_per_day=200) as mp:
        for folder, max_bytes in (("small", 100_000), ("large", 100_000_000)):
            with mpnb.export(
                "2026-01-01",
                "2026-01-01",
                database=":memory:",
                credentials=mp.credentials,
                quota=QUOTA,
                spool=mpnb.Spool(tmp_path / folder, max_bytes),
                on_batch=lambda _: None,
            ) as result:
                assert result.total_rows == len(mp.lines(result.from_date))
    assert kept == [True, False]
