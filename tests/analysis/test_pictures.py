"""Reports as pictures: the numbers of the relation, kept beside it, and no burden on it."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import duckdb
import pytest
from duckdb import DuckDBPyRelation
from hypothesis import given, settings
from hypothesis import strategies as st
from IPython.core.interactiveshell import InteractiveShell

import mpnb
from mpnb import analysis
from mpnb._base.pictures import number, percent
from mpnb._base.relation import IS_1
from mpnb._notebook.formatters import _in_ipython, html_of
from mpnb.analysis._pictures import picture
from mpnb.analysis._reports import _reports, report_of
from mpnb.sandbox import serve
from tests._helpers import WIDE, day
from tests.analysis._events import EPOCH, Row, relation, rows_of
from tests.test_pictures import look

REPORTS: dict[str, Callable[[DuckDBPyRelation], DuckDBPyRelation]] = {
    "funnel": lambda e: analysis.funnel(e, ["A", ("B", "amount > 0"), "C"], timedelta(days=9)),
    "funnel by segment": lambda e: analysis.funnel(e, ["A", "B"], by="plan", counting="totals"),
    "funnel of sessions": lambda e: analysis.funnel(e, ["A", "B"], counting="sessions"),
    "retention": lambda e: analysis.retention(e, "A"),
    "retention by segment": lambda e: analysis.retention(e, "A", "B", by="plan", unit="week"),
    "retention of brackets": lambda e: analysis.retention(e, "A", brackets=[(0, 0), (1, 3)], measure="sum(amount)"),
    "retention by hour": lambda e: analysis.retention(e, "A", unit="hour"),
    "segmentation": lambda e: analysis.segmentation(e, "A"),
    "segmentation by segments": lambda e: analysis.segmentation(e, by=["plan", "amount"], unit="week", measure="users"),
    "segmentation with more": lambda e: analysis.segmentation(
        e, "A", rolling=3, compare="day", measure="average(amount)"
    ),
    "segmentation, cumulative": lambda e: analysis.segmentation(e, cumulative=True, unit="hour"),
    "sessions": lambda e: analysis.sessions(e),
    "flows": lambda e: analysis.flows(e, "A", top=1),
    "flows, before": lambda e: analysis.flows(e, "A", direction="before"),
    "paths": lambda e: analysis.flows(e, "A", paths=True, counting="totals"),
    "lifecycle": lambda e: analysis.lifecycle(e, "day"),
}  # fmt: skip
SOME = [
    Row(name, EPOCH + timedelta(hours=7 * n), user, n % 3, "xy"[n % 2])
    for n, (name, user) in enumerate(zip("ABCABBACBA" * 3, "uvwuvuwvvu" * 3, strict=True))
]


@pytest.mark.filterwarnings("ignore:events has no")
@pytest.mark.parametrize("name", REPORTS)
def test_each_report_has_a_picture_and_a_chart(con: Any, name: str) -> None:
    """Of some events, and of none; the chart is plain JSON."""
    for rows in (SOME, []):
        found = REPORTS[name](relation(con, rows))
        look(picture(found))
        assert json.loads(json.dumps(analysis.chart(found), allow_nan=False))["data"]["values"] is not None


@pytest.mark.filterwarnings("ignore:events has no")
@given(rows_of, st.sampled_from(sorted(REPORTS)))
@settings(max_examples=40)
def test_any_events_can_be_drawn(con: Any, rows: list[Row], name: str) -> None:
    """Whatever is null, alone, or at the same time."""
    look(picture(REPORTS[name](relation(con, rows))))


def cells(found: DuckDBPyRelation) -> list[list[str]]:
    """Return the rows of a picture's table, as they are read aloud."""
    drawn = picture(found)
    assert look(drawn).cells == [each for row in [drawn.head, *drawn.rows] for each in row]
    return [list(row) for row in drawn.rows]


def test_the_picture_of_a_funnel_has_its_numbers(con: Any) -> None:
    """Those of the relation, step by step."""
    found = REPORTS["funnel"](relation(con, SOME))
    rows = found.project("step, event_name, users, of_first, of_previous").fetchall()
    assert [row[:4] for row in cells(found)] == [
        [f"{step}. {name}", number(users), percent(first), percent(previous)]
        for step, name, users, first, previous in rows
    ]
    assert picture(found).words.startswith(f"{rows[-1][2]} of {rows[0][2]} users went all the way")


def test_the_picture_of_a_segmentation_has_its_numbers(con: Any) -> None:
    """A row for each period, and a line for each segment."""
    found = analysis.segmentation(relation(con, SOME), by="plan")
    rows = found.fetchall()
    shown = {(row[0], head): value for row in cells(found) for head, value in zip("xy", row[1:], strict=True)}
    names = picture(found).head[1:]
    assert sorted(names) == ["x", "y"]
    assert sum(int(value) for value in shown.values()) == sum(row[2] for row in rows) == len(SOME)


def test_the_picture_of_retention_has_its_numbers(con: Any) -> None:
    """The average first, then each cohort with its users; periods that have not ended are empty."""
    found = REPORTS["retention"](relation(con, SOME))
    rows = cells(found)
    assert rows[0][0] == "average"
    wanted = {
        (pictures_day(cohort), period): percent(share)
        for cohort, size, period, users, share, complete in found.fetchall()
        if complete and cohort
    }
    heads = picture(found).head
    there = {(row[0], int(heads[n])): row[n] for row in rows[1:] for n in range(2, len(heads)) if row[n] != "–"}
    assert there == wanted


def pictures_day(cohort: Any) -> str:
    """Return a day as the picture writes it."""
    return f"{cohort.day} {cohort:%b} {cohort.year}"


def test_the_picture_of_sessions_counts_every_session(con: Any) -> None:
    """By their length, in one query; nothing is left out."""
    found = REPORTS["sessions"](relation(con, SOME))
    every, people = found.aggregate("count(*), count(DISTINCT person)").fetchall()[0]
    assert sum(int(count) for _, count in cells(found)) == every
    assert picture(found).words.startswith(f"{every} sessions of {people} people; half of them")


@pytest.mark.parametrize(("direction", "ended"), [("after", "(nothing more)"), ("before", "(nothing before)")])
def test_the_picture_of_flows_has_every_link(con: Any, direction: str, ended: str) -> None:
    """With its entries, and their share of all that had the start."""
    found = analysis.flows(relation(con, SOME), "A", direction=direction)
    rows = found.project("step, event_name, next_event, entries").fetchall()
    every = sum(n for step, *_, n in rows if step == 1)
    assert cells(found) == [[str(s), a, b or ended, number(n), percent(n / every)] for s, a, b, n in rows]


def test_a_relation_stays_duckdbs(con: Any) -> None:
    """Its type, its methods and a join are as before; what is half read is read on after a picture was drawn."""
    found = analysis.segmentation(relation(con, SOME))
    assert type(found) is DuckDBPyRelation
    both = found.set_alias("a").join(found.set_alias("b"), "period")
    assert len(both.fetchall()) == len(found.fetchall())
    rows = found.fetchall()
    again = analysis.segmentation(relation(con, SOME))
    half = [again.fetchone()] if IS_1 else []  # DuckDB 2.0 reads from the start at each call
    picture(again)
    assert [*half, *again.fetchall()] == rows


def test_nothing_is_kept_of_a_relation_that_is_gone(con: Any) -> None:
    """Neither of DuckDB's own nor of a result's."""
    gc.collect()
    before = len(_reports)
    with serve(events_per_day=5) as mp, exported(mp) as result:
        mine = [analysis.sessions(relation(con, SOME)), analysis.sessions(result.events)]
        assert len(_reports) == before + 2
        assert [report_of(each) is not None for each in mine] == [True, True]
        del mine
        gc.collect()
        assert len(_reports) == before


def exported(mp: Any) -> mpnb.ExportResult:
    """Export three days into memory."""
    return mpnb.export(
        day(1), day(3), credentials=mp.credentials, database=":memory:", quota=WIDE, on_batch=lambda _: None
    )


@pytest.mark.parametrize("thing", [None, "a", 7])
def test_only_reports_have_a_picture(con: Any, thing: object) -> None:
    """Anything else is told which do, a relation that was made of a report's too."""
    derived = REPORTS["funnel"](relation(con, SOME)).filter("step = 1")
    for call in (analysis.picture, analysis.chart):
        with pytest.raises(
            mpnb.PlanError, match=r"only what funnel\(\), .* return has a picture, not another relation"
        ):
            call(derived)
        with pytest.raises(mpnb.PlanError, match="has a picture, not"):
            call(thing)  # type: ignore[operator]


def test_too_many_rows_are_not_read(con: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The picture says so and draws nothing that would be a part; a chart has the first rows."""
    monkeypatch.setattr("mpnb.analysis._pictures.MOST_ROWS", 3)
    found = REPORTS["segmentation"](relation(con, SOME))
    assert "more than 3 rows, too many to draw" in picture(found).words
    monkeypatch.setattr("mpnb.analysis._charts.MOST_VALUES", 2)
    assert len(analysis.chart(found)["data"]["values"]) == 2


def test_ipython_shows_reports_as_pictures(con: Any) -> None:
    """Of DuckDB's relations and of a result's; other relations as DuckDB shows them; as text, all as before."""
    shell = InteractiveShell()
    plain = InteractiveShell()
    _in_ipython(shell)
    _in_ipython(shell)  # importing mpnb again changes nothing
    with serve(events_per_day=5) as mp, exported(mp) as result:
        for events in (relation(con, SOME), result.events):
            found = analysis.sessions(events)
            shown = shell.display_formatter.format(found)[0]  # type: ignore[union-attr]
            usual = plain.display_formatter.format(found)[0]  # type: ignore[union-attr]
            assert shown["text/html"] == picture(found).html
            assert shown["text/plain"] == usual["text/plain"]
            assert shell.display_formatter.format(events) == plain.display_formatter.format(events)  # type: ignore[union-attr]


def test_what_cannot_be_drawn_shows_itself_as_before() -> None:
    """After its connection was closed, DuckDB says so, not we."""
    with duckdb.connect() as other:
        found = analysis.sessions(relation(other, SOME))
    assert html_of(found) is None or "There are no sessions" in str(html_of(found))  # DuckDB 1.5 reads nothing
    with serve(events_per_day=5) as mp, exported(mp) as result:
        mine = analysis.sessions(result.events)
    assert html_of(mine) is None


def test_a_chart_shows_itself() -> None:
    """As Vega-Lite, and as one line of text; a value that JSON cannot have is null."""
    with duckdb.connect() as con:
        found = analysis.segmentation(relation(con, SOME), "A", measure="sum(amount)")
        chart = analysis.chart(found)
        assert set(chart._repr_mimebundle_()) == {"application/vnd.vegalite.v5+json", "text/plain"}
        assert str(chart) == f"<Vega-Lite: sum(amount) of A, each day, {len(found.fetchall())} rows>"
        assert chart._mime_()[0] == "application/vnd.vegalite.v5+json"
        fields = {each["field"] for each in chart["encoding"].values()}
        assert fields <= set(chart["data"]["values"][0])
