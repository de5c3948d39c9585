"""What an export gives back: counts and relations that follow the ledger, displays, and what a close ends."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from html.parser import HTMLParser
from typing import Any

import duckdb
import pytest

import mpnb
from mpnb._exporting.handles import call_it
from mpnb.sandbox import BAD_LINES, Fault
from tests._helpers import WIDE, all_or_nothing, as_served, as_stored, day, days_of, event, side_by_side, until

FAULTS = [Fault("half_line", day(2), times=None), Fault("status", day(4), status=500, times=None)]


# --- counts and relations ------------------------------------------------------------------------------------------


def test_a_result_covers_the_days_that_were_asked_for(sandbox, export) -> None:
    """Those that were there before included, and no others."""
    mp = sandbox()
    export(mp, day(1), day(5))
    result = export(mp, day(4), day(8))
    assert (result.from_date, result.to_date) == (day(4), day(8))
    assert (result.successful_batches, result.skipped_batches) == (3, 2)
    assert result.fetched_rows == mp.count(day(6), day(8))
    assert result.total_rows == mp.count(day(4), day(8))
    assert as_stored(result.events.select("event_name, properties").fetchall()) == as_served(
        mp, days_of(day(4), day(8))
    )
    assert [row[0] for row in result.batches.select("from_date").fetchall()] == days_of(day(4), day(8))


def test_counts_follow_a_retry(sandbox, export) -> None:
    """The first result sees what the second one brought."""
    mp = sandbox(faults=FAULTS)
    result = export(mp, day(1), day(5))
    assert result.has_failures
    mp.clear_faults()
    again = result.retry()
    assert (again.successful_batches, again.fetched_rows) == (2, mp.count(day(2), day(2)) + mp.count(day(4), day(4)))
    again.close()
    assert not result.has_failures
    assert result.failed_date_ranges == []
    assert result.failures.fetchall() == []
    assert result.total_rows == mp.count(day(1), day(5))
    assert result.failed_batches == 2  # what its own call did stays what it was


def test_a_retry_is_of_its_own_days_alone(sandbox, export) -> None:
    """Failures of other calls into the same table wait for their own."""
    mp = sandbox(faults=[Fault("status", day(n), status=400) for n in (1, 9)])
    first = export(mp, day(1), day(2))
    second = export(mp, day(8), day(9))
    first.retry().close()
    assert second.failed_date_ranges == [(day(9), day(9))]
    second.retry().close()
    assert not second.has_failures
    assert mp.count(day(1), day(2)) == first.total_rows


def test_a_retry_keeps_neighbours_apart(sandbox, export, database) -> None:
    """Batches that failed side by side are fetched each by itself, though another one is as long as both together."""
    mp = sandbox(faults=[Fault("status", day(n), status=400) for n in (2, 3, 4)])
    export(mp).close()
    with pytest.raises(mpnb.ExportError) as error:
        export(mp, day(4), day(5), chunk_days=2)
    error.value.result.close()
    with mpnb.open(database) as db, db.retry(credentials=mp.credentials, quota=WIDE) as again:
        ranges = [(day(2), day(2)), (day(3), day(3)), (day(4), day(5))]
        assert sorted((r.from_date, r.to_date) for r in mp.requests[4:]) == ranges
        assert again.batches.select("from_date, to_date").fetchall() == [(day(1), day(1)), *ranges]


def test_a_retry_of_nothing_sends_nothing(sandbox, export) -> None:
    """It gives a result over the same days."""
    mp = sandbox()
    with export(mp).retry() as again:
        assert len(mp.requests) == 3
        assert again.total_rows == mp.count(day(1), day(3))
        assert (again.successful_batches, again.failed_batches, again.fetched_rows) == (0, 0, 0)


def test_a_retry_takes_other_options(sandbox, export) -> None:
    """Workers, callback, credentials, quota and spool; anything else is a ``TypeError`` that says so."""
    mp = sandbox(faults=FAULTS)
    result = export(mp, day(1), day(5))
    mp.clear_faults()
    with pytest.raises(TypeError, match=r"retry\(\) got an unexpected keyword argument 'mode'"):
        result.retry(mode="refresh")
    with pytest.raises(mpnb.PlanError, match="workers must be a whole number from 1 to 100, not 0"):
        result.retry(workers=0)
    other = mpnb.Credentials("u", "s", "99", base_url=mp.url)
    with pytest.raises(mpnb.TableError, match="this call asks for project 99"):
        result.retry(credentials=other)
    seen: list[mpnb.BatchProgress] = []
    with result.retry(workers=1, on_batch=seen.append, quota=WIDE) as again:
        assert not again.has_failures
    assert {p.from_date for p in seen} == {day(2), day(4)}


def test_a_retry_in_the_background(sandbox, export) -> None:
    """``start_retry`` is to ``retry`` what ``start`` is to ``export``."""
    mp = sandbox(faults=FAULTS)
    result = export(mp, day(1), day(5))
    mp.clear_faults()
    job = result.start_retry()
    with job.result(30) as again:
        assert again.successful_batches == 2
        all_or_nothing(again, mp)


def test_a_retry_that_fails_again_replaces_the_reasons(sandbox, export) -> None:
    """One row a batch in the failure table, with what happened last."""
    mp = sandbox(faults=[Fault("half_line", day(2), times=4), Fault("status", day(2), status=400)])
    result = export(mp)
    assert result.failures.select("kind, attempts").fetchall() == [("truncated", 4)]
    with pytest.raises(mpnb.ExportError) as error:
        result.retry()
    error.value.result.close()
    assert result.failures.select("kind, attempts").fetchall() == [("http", 1)]


def test_a_later_export_of_the_same_days_makes_up_for_failures(sandbox, export) -> None:
    """In batches of another length, too: days go as they come, and the row of their batch with the last of them."""
    mp = sandbox(faults=[Fault("status", day(3), status=400)])
    failed = export(mp, day(1), day(8), chunk_days=4)
    assert failed.failed_date_ranges == [(day(1), day(4))]
    export(mp, day(1), day(2), chunk_days=1)
    assert failed.failed_date_ranges == [(day(3), day(4))]
    assert failed.failures.select("from_date, to_date").fetchall() == [(day(1), day(4))]
    export(mp, day(3), day(4), chunk_days=1)
    assert not failed.has_failures
    assert failed.total_rows == mp.count(day(1), day(8))
    all_or_nothing(failed, mp)


def test_raise_for_failures(sandbox, export) -> None:
    """Nothing, or ``ExportError`` with the result and a line that counts."""
    mp = sandbox(faults=FAULTS)
    export(mp, day(1), day(1)).raise_for_failures()
    result = export(mp, day(1), day(5))
    with pytest.raises(mpnb.ExportError, match=r"2 batches failed, 1 of them by http: HTTP 500: An internal") as error:
        result.raise_for_failures()
    assert error.value.result is result


def test_relations_do_not_disturb_each_other(sandbox, export) -> None:
    """Each has a cursor of its own: read half, read others, read on; run again at each read."""
    result = export(sandbox(events_per_day=3000))
    one, two = result.events, result.events
    reader = one.to_arrow_reader(100)
    first = reader.read_next_batch().num_rows
    assert two.aggregate("count(*)").fetchall() == [(result.total_rows,)]
    assert result.failures.fetchall() == []
    assert result.con.execute("SELECT 1").fetchall() == [(1,)]
    assert first + sum(batch.num_rows for batch in reader) == result.total_rows
    assert one.aggregate("count(*)").fetchall() == two.aggregate("count(*)").fetchall()


def test_threads_may_read_at_once(sandbox, export) -> None:
    """Each takes relations of its own from the same result."""
    result = export(sandbox())
    counts: list[int] = []
    side_by_side(*[lambda: counts.append(result.events.aggregate("count(*)").fetchall()[0][0])] * 8)
    assert counts == [result.total_rows] * 8


def test_a_relation_outlives_the_name_of_its_result(sandbox, database) -> None:
    """``mpnb.export(…).events`` reads on: nothing is closed behind its back."""
    mp = sandbox()
    events = mpnb.export(day(1), day(3), credentials=mp.credentials, quota=WIDE, database=database).events
    assert events.aggregate("count(*)").fetchall() == [(mp.count(day(1), day(3)),)]


def test_sql_says_what_is_wrong(sandbox, export) -> None:
    """DuckDB's own error comes through."""
    with pytest.raises(duckdb.Error, match="nothing_of_that_name"):
        export(sandbox()).sql("FROM nothing_of_that_name").fetchall()


# --- closed --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "read",
    [
        lambda r: r.events,
        lambda r: r.failures,
        lambda r: r.batches,
        lambda r: r.rejected,
        lambda r: r.con,
        lambda r: r.sql("SELECT 1"),
        lambda r: r.df(),
        lambda r: r.pl(),
        lambda r: r.arrow(),
        lambda r: r.__arrow_c_stream__(),
        lambda r: r.deduplicated(),
        lambda r: r.event_names(),
        lambda r: r.failed_date_ranges,
        lambda r: r.retry(),
        lambda r: r.start_retry(),
    ],
)
def test_a_closed_result_says_so(sandbox, export, read: Any) -> None:
    """Every way to read it raises ``ClosedError`` with the call that opens it again; counts stay."""
    mp = sandbox(faults=FAULTS)
    result = export(mp)
    result.close()
    result.close()
    with pytest.raises(mpnb.ClosedError, match=r"this result was closed: mpnb\.open\('.*mixpanel\.duckdb'\)"):
        read(result)
    assert result.total_rows == mp.count(day(1), day(1)) + mp.count(day(3), day(3))
    assert result.has_failures
    assert "closed" in repr(result)
    assert "mpnb.open(" in result._repr_mimebundle_()["text/html"]


def test_a_with_block_closes(sandbox, export) -> None:
    """Also when it is left by an exception."""
    result = export(sandbox())
    with pytest.raises(ZeroDivisionError), result:
        1 / 0  # noqa: B018
    with pytest.raises(mpnb.ClosedError):
        _ = result.events


def test_a_close_ends_relations_and_the_users_connection(sandbox, export) -> None:
    """What was taken from the result before reads no more, rather than reading nothing."""
    result = export(sandbox())
    events, con = result.events, result.con
    assert con.execute("SELECT 1").fetchall() == [(1,)]
    result.close()
    with pytest.raises(duckdb.Error):
        con.execute("SELECT 1")
    try:
        rows = events.fetchall()
    except duckdb.Error:
        rows = []  # DuckDB 2.0 raises; 1.5 reads an ended relation as empty
    assert rows == []


def test_a_close_frees_the_file(sandbox, export, database) -> None:
    """Another process may open it, though relations are still held."""
    result = export(sandbox())
    relations = [result.events, result.failures, result.sql("SELECT 1")]
    result.close()
    code = "import duckdb, sys; duckdb.connect(sys.argv[1]).execute('CREATE TABLE free (a INT)').fetchall()"
    subprocess.run([sys.executable, "-c", code, str(database)], check=True, timeout=60)
    del relations


def test_a_close_while_another_result_is_open(sandbox, export) -> None:
    """Results of the same file do not close each other."""
    mp = sandbox()
    one, two = export(mp), export(mp)
    one.close()
    assert two.events.aggregate("count(*)").fetchall() == [(mp.count(day(1), day(3)),)]
    three = two.retry()
    two.close()
    assert three.total_rows == mp.count(day(1), day(3))
    three.close()


# --- displays ------------------------------------------------------------------------------------------------------


def test_the_text_of_a_result_is_fixed(sandbox, export, database) -> None:
    """The same result gives the same text each time, and it says all that matters."""
    mp = sandbox(faults=FAULTS)
    export(mp, day(1), day(1))
    result = export(mp, day(1), day(5))
    result._outcome = dataclasses.replace(result._outcome, duration_seconds=2.5, bytes=12345)
    total = mp.count(day(1), day(1)) + mp.count(day(3), day(3)) + mp.count(day(5), day(5))
    new = total - mp.count(day(1), day(1))
    text = f"""\
Mixpanel events 2026-01-01 – 2026-01-05
  events    {total} in table 'events' of {database}, {new} of them new
  batches   2 fetched, 1 there already, 2 failed
  took      2.5 s, 12.3 kB received
  missing   2 batches:
        1 http        Mixpanel had an internal problem: retry in a few minutes.
        1 truncated   {result.failures.select("hint").fetchall()[0][0]}
  to retry  call retry() on this result"""
    assert repr(result) == text
    assert result._repr_mimebundle_()["text/plain"] == text
    assert result._repr_mimebundle_() == result._repr_mimebundle_()


class Page(HTMLParser):
    """Collect the tags of a page, and see that each is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("br", "hr", "img", "input", "path", "rect"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_html_holds_no_more_than_text(sandbox, export) -> None:
    """What a server or a user says is shown as it is, never obeyed: no scripts, no images, no addresses."""
    evil = "<img src=x onerror=alert(1)><script>alert(2)</script>\"'&amp;"
    mp = sandbox(faults=[Fault("status", day(2), status=400, body=evil, times=None)])
    result = export(mp, table=evil)
    html = result._repr_mimebundle_()["text/html"]
    page = Page(html)
    assert not {"script", "img", "iframe", "object", "link", "a"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in ("href", "src")]
    assert not re.search(r"https?://", html)


def test_html_suits_light_and_dark(sandbox, export) -> None:
    """Colours are those of the notebook, or what text has anyway."""
    mp = sandbox(faults=FAULTS)
    html = export(mp, day(1), day(5))._repr_mimebundle_()["text/html"]
    colours = re.findall(r"(?<![\w-])color:([^;\"]+)", html)
    assert colours
    assert all(colour.startswith("var(--jp-") or colour in ("inherit", "currentColor") for colour in colours)


def test_html_names_what_failed_and_the_call_that_retries(sandbox, export) -> None:
    """Counts, a sentence a kind, the failure table, the exact call."""
    mp = sandbox(faults=FAULTS)
    result = export(mp, day(1), day(5))
    text = " ".join("".join(Page(result._repr_mimebundle_()["text/html"]).words).split())
    assert "2 batches are missing" in text
    assert "1 × http" in text
    assert "1 × truncated" in text
    assert "An internal error occurred" in text
    assert "To retry them, call retry() on this result" in text
    call_it(result, "week")
    assert "<code>week = week.retry()</code>" in result._repr_mimebundle_()["text/html"]


def test_a_display_of_many_failures_is_short(sandbox, export) -> None:
    """Fifty rows at most, and the number of the rest."""
    mp = sandbox(events_per_day=1, faults=[Fault("status", status=400, times=60)])
    with pytest.raises(mpnb.ExportError) as error:
        export(mp, day(1), day(60))
    with error.value.result as result:
        html = result._repr_mimebundle_()["text/html"]
        assert html.count("Bad Request") == 50
        assert "and 10 more" in html
        assert len(repr(result).splitlines()) < 12


def test_rejected_lines_are_told(sandbox, export) -> None:
    """How many, and where they are."""
    result = export(sandbox(lines=lambda d: [*BAD_LINES, event()]), day(1), day(1))
    assert "9 lines are not in the table: result.rejected says why" in repr(result)
    assert "9 lines are not in the table" in result._repr_mimebundle_()["text/html"]


def test_a_display_may_come_while_an_export_runs(sandbox, export, start) -> None:
    """A cell that shows the last result does not wait for the next."""
    mp = sandbox()
    result = export(mp)
    mp.add_fault(Fault("hang", day(5), times=None))
    job = start(mp, day(4), day(5))
    until(lambda: mp.injected)
    assert str(result.total_rows) in repr(result)
    job.cancel()


def test_a_result_says_what_its_batches_have_besides(sandbox, export) -> None:
    """The table has longer batches than are asked for: the events of their other days are counted, and left out."""
    mp = sandbox()
    whole = export(mp, day(1), day(7), chunk_days=7)
    assert "outside" not in str(whole)
    part = export(mp, day(3), day(4), chunk_days=7)
    outside = mp.count(day(1), day(7)) - mp.count(day(3), day(4))
    assert f"outside   {outside} more events of the same batches belong to other days" in str(part)
