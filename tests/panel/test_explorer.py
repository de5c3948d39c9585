"""The explorer without a browser: what can be chosen, what is asked, and that code gives the same numbers."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mpnb
from mpnb._base.pictures import number
from mpnb._base.relation import IS_1
from mpnb._notebook.panel import _asking as asking
from mpnb._notebook.panel._asking import Choices, Lists
from mpnb._notebook.panel._explorer import Explorer
from mpnb.sandbox import serve
from tests._helpers import WIDE, day, event, moved, until
from tests.test_pictures import look

QUIET: dict[str, Any] = {"quota": WIDE, "on_batch": lambda _: None}


@pytest.fixture(scope="module")
def result() -> Iterator[mpnb.ExportResult]:
    """Return ten days of made-up events."""
    with serve(events_per_day=60) as mp:
        made = mpnb.export(day(1), day(10), database=":memory:", credentials=mp.credentials, **QUIET)
        with made:
            yield made


@pytest.fixture(scope="module")
def explorer(result: mpnb.ExportResult) -> Explorer:
    """Return an explorer of them."""
    return mpnb.explore(result)


def choose(explorer: Explorer, **choices: str) -> dict[str, Any]:
    """Choose something as a browser would, and return the answer."""
    explorer._hear({"type": "choose", "n": 5, "choices": choices})
    explorer._settled.result(60)
    answer: dict[str, Any] = explorer.widget.answer
    assert answer["n"] == 5
    return answer


WANTED: dict[str, dict[str, str]] = {
    "lines": {"report": "lines", "event": "Purchase", "measure": "sum(amount)", "unit": "week"},
    "lines by property": {"report": "lines", "by": "$os", "measure": "users"},
    "table": {"report": "table", "event": "Search", "measure": "events per user"},
    "bars": {"report": "bars", "by": "$city"},
    "bars by period": {"report": "bars", "event": "Page View"},
    "funnel": {"report": "funnel", "event": "Search", "then": "Purchase", "by": "$os"},
    "retention": {"report": "retention", "event": "Search", "then": "Page View"},
    "flows": {"report": "flows", "event": "Search"},
    "hours": {"report": "hours"},
    "some days": {"report": "lines", "event": "Search", "first": "2026-01-03", "last": "2026-01-05"},
    "a filter": {"report": "funnel", "event": "Search", "then": "Purchase", "where": "$os", "value": "iOS"},
}


@pytest.mark.parametrize("name", WANTED)
def test_code_gives_the_same_numbers(explorer: Explorer, result: mpnb.ExportResult, name: str) -> None:
    """It runs as pasted, with nothing but the result; so does ``.relation``; the picture is that of these rows."""
    answer = choose(explorer, **WANTED[name])
    assert answer["error"] == ""
    assert {key: answer["choices"][key] for key in WANTED[name]} == WANTED[name]
    names: dict[str, Any] = {"con": result.con, "db": result}
    code = asking.code_of(explorer._calls, "db")  # type: ignore[arg-type]
    exec(code, names)
    rows = names["report"].fetchall()
    assert explorer.relation.fetchall() == rows
    look(explorer.picture)
    drawn = asking.drawn(result, explorer._calls, explorer._choices, explorer._cursor)  # type: ignore[arg-type]
    assert drawn == explorer.picture
    if name in ("lines", "some days", "bars by period"):
        column = names["report"].columns.index("value" if name == "lines" else "events")
        assert [row[1] for row in explorer.picture.rows] == [number(row[column]) for row in rows]
    if name == "bars":
        assert explorer.picture.rows == [(segment, number(count)) for segment, count in rows]


def test_columns_give_the_same_numbers(explorer: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are offered, with their cost, where there are many events, and made when they are asked for."""
    monkeypatch.setattr(asking, "WORTH_TYPING", 1)
    wanted = {"report": "lines", "event": "Purchase", "by": "$os", "where": "$os", "value": "iOS"}
    answer = choose(explorer, **wanted)
    assert answer["offer"].startswith("Make columns of ")
    before = explorer.relation.fetchall()
    explorer._hear({"type": "type", "n": 6, "choices": answer["choices"]})
    assert explorer.relation.fetchall() == before
    assert explorer._calls.columns == ["$os"]  # type: ignore[union-attr]
    assert explorer.widget.answer["offer"] == ""
    assert explorer.widget.answer["n"] == 6  # so that the browser knows that it is the answer


def test_columns_that_cannot_be_made_are_told(explorer: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The explorer says why, and shows what it can without them."""
    choose(explorer, report="lines", event="Search", by="$city")

    def refuse(*args: object, **options: object) -> None:
        raise duckdb.IOException("no space left")

    monkeypatch.setattr(mpnb.ExportResult, "event", refuse)
    explorer._hear({"type": "type", "n": 7, "choices": explorer.widget.answer["choices"]})
    assert explorer.picture.title == "Search by $city, each day"
    assert (explorer.widget.answer["n"], explorer.widget.answer["error"]) == (7, "no space left")


def test_one_end_of_a_range_alone_is_as_far_as_there_are_days(explorer: Explorer) -> None:
    """What the two fields show is what is counted; a day after which there is none is no error."""
    for given_days, first, last in (
        ({"first": "2026-01-08"}, "2026-01-08", "2026-01-10"),
        ({"last": "2026-01-03"}, "2026-01-01", "2026-01-03"),
        ({"first": "2026-01-08", "last": "9999-12-31"}, "2026-01-08", "9999-12-30"),
    ):
        answer = choose(explorer, **given_days)
        assert (answer["error"], answer["choices"]["first"], answer["choices"]["last"]) == ("", first, last)
        assert len(explorer.relation.fetchall()) == 3


def test_counts_of_values_are_those_of_all_events(
    explorer: Explorer, result: mpnb.ExportResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where fewer were looked at, there are none."""
    choose(explorer, event="Search", where="$os")
    counted = "SELECT properties->>'/$os' AS os, count(*) FROM events WHERE event_name = 'Search' GROUP BY os"
    assert dict(explorer.widget.lists["values"]) == dict(result.sql(counted).fetchall())
    monkeypatch.setattr(asking, "SAMPLE", 5)
    choose(explorer, event="Search", where="$os")
    assert {count for _, count in explorer.widget.lists["values"]} == {None}


def test_an_error_of_its_own_is_seen_and_raised(explorer: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the explorer, which does not wait for ever, and by whoever reads next."""

    def fails(*args: object) -> None:
        raise LookupError("nothing of the kind")

    monkeypatch.setattr(asking, "drawn", fails)
    explorer._hear({"type": "choose", "n": 8, "choices": {"report": "bars"}})
    with pytest.raises(LookupError):
        _ = explorer.code
    assert explorer.widget.answer["n"] == 8
    assert explorer.widget.answer["error"] == "LookupError: nothing of the kind"


SAID = st.one_of(st.text(), st.none(), st.integers(), st.lists(st.text()))


@given(st.dictionaries(st.sampled_from([*asking.TEXTS, "first", "last", "other"]), SAID))
@settings(max_examples=100)
def test_only_what_is_in_the_lists_can_be_chosen(given_choices: dict[str, Any]) -> None:
    """Whatever a browser says: no text of it reaches a query."""
    lists = Lists((("A", 3), ("B'", 2)), ("$os", "n"), ("n",), (("x", 1),), ((day(1), 5), (day(9), 5)))
    found = asking.chosen(given_choices, lists)
    assert found.report in asking.REPORTS
    assert {found.event, found.then} <= {"", "A", "B'"}
    assert found.measure in lists.measures
    assert {found.by, found.where} <= {"", "$os", "n"}
    assert found.unit in asking.UNITS
    assert found.value in ("", "x")


def test_odd_names_are_texts(tmp_path: Path) -> None:
    """Events, properties and values with quotes and markup are asked for by name, and shown as text."""
    name, key, value = """a'b"<i>""", """p/'"~<b>""", """v'"<u>"""
    with serve(lines=lambda when: [moved(event(name, **{key: value}), when)]) as mp:
        made = mpnb.export(day(1), day(3), database=tmp_path / "a.duckdb", credentials=mp.credentials, **QUIET)
        with made:
            explorer = mpnb.explore(made, name)
            answer = choose(explorer, event=name, by=key, where=key, value=value)
            assert answer["error"] == ""
            assert "<i>" not in answer["html"]
            assert sum(row[2] for row in explorer.relation.fetchall()) == 3


def test_who_chooses_anew_interrupts(result: mpnb.ExportResult, monkeypatch: pytest.MonkeyPatch) -> None:
    """A query of minutes ends at once for the next choice, and only the last one is answered."""
    explorer = mpnb.explore(result)
    explorer._settled.result(60)
    began = threading.Event()
    drawn = asking.drawn

    def slow(result: Any, calls: Any, choices: Choices, cursor: Any) -> Any:
        if choices.event == "Search":
            began.set()
            cursor.execute("SELECT sum(sqrt(a.range + b.range)) FROM range(10000000) a, range(10000000) b").fetchall()
        return drawn(result, calls, choices, cursor)

    monkeypatch.setattr(asking, "drawn", slow)
    explorer._hear({"type": "choose", "n": 1, "choices": {"event": "Search"}})
    assert began.wait(60)
    assert choose(explorer, event="Purchase")["choices"]["event"] == "Purchase"
    assert explorer.picture.title == "Purchase, each day"


def test_it_only_reads(explorer: Explorer) -> None:
    """Its cursor is in a transaction that cannot write, or with DuckDB 1.5 is taken back."""
    refused = contextlib.nullcontext() if IS_1 else pytest.raises(duckdb.Error, match="read-only")
    with explorer._reading(), refused:
        explorer._cursor.execute("CREATE TABLE of_explorer AS SELECT 1").fetchall()
    assert explorer._cursor.execute("FROM duckdb_tables() WHERE table_name = 'of_explorer'").fetchall() == []


def test_a_job_is_drawn_as_it_lands(tmp_path: Path) -> None:
    """What has landed is asked for anew; at its end, all is there."""
    go = threading.Event()

    def lines(when: Any) -> list[bytes]:
        if when != day(1):
            assert go.wait(30)
        return [moved(event(), when)]

    with serve(lines=lines) as mp:
        job = mpnb.start(
            day(1), day(3), database=tmp_path / "a.duckdb", chunk_days=1, quota=WIDE, credentials=mp.credentials
        )
        try:
            until(lambda: job.progress().counts.get("done") == 1, 30)
            explorer = mpnb.explore(job)
            assert sum(row[1] for row in explorer.relation.fetchall()) == 1
        finally:
            go.set()
        with job.result(30):
            until(lambda: sum(count for _, count in explorer.widget.lists["days"]) == 3, 30)
            assert sum(row[1] for row in explorer.relation.fetchall()) == 3


def test_what_is_wrong_is_said(result: mpnb.ExportResult, tmp_path: Path) -> None:
    """A name that is not there, a thing that is no result; and after ``close()``, in the explorer itself."""
    with pytest.raises(mpnb.PlanError, match=r"there is no event 'Purchas' here.*Purchase"):
        mpnb.explore(result, "Purchas")
    with pytest.raises(mpnb.PlanError, match="explore\\(\\) takes a result or a job"):
        mpnb.explore("mixpanel.duckdb")  # type: ignore[arg-type]
    with serve(events_per_day=5) as mp:
        made = mpnb.export(day(1), day(1), database=tmp_path / "a.duckdb", credentials=mp.credentials, **QUIET)
        explorer = mpnb.explore(made)
        explorer._settled.result(60)
        made.close()
        assert "closed" in choose(explorer, report="bars")["error"]


def test_no_event_at_all(tmp_path: Path) -> None:
    """An empty table has a picture of nothing, whatever is chosen."""
    with serve(lines=lambda when: []) as mp:
        made = mpnb.export(day(1), day(2), database=tmp_path / "a.duckdb", credentials=mp.credentials, **QUIET)
        with made:
            explorer = mpnb.explore(made)
            for report in ("lines", "table", "bars", "hours"):
                answer = choose(explorer, report=report)
                assert (answer["error"], answer["choices"]["report"]) == ("", report)
                look(explorer.picture)


def test_what_is_kept_is_the_last_picture(explorer: Explorer) -> None:
    """As static HTML, which a table report opens."""
    choose(explorer, report="table", event="Search")
    kept = explorer._kept()
    assert "<details open>" in kept["text/html"]
    assert "<rect" not in kept["text/html"]
    assert kept["text/plain"].startswith("Search, each day")
    choose(explorer, report="lines", event="Search")
    assert explorer.picture.svg in explorer._kept()["text/html"]
    assert repr(explorer) == "<mpnb explorer: Search, each day>"
