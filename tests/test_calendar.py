"""The calendar: every day has its state, every count is that of a query, and what it says to type mends it."""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable, Sequence
from datetime import date, timedelta
from pathlib import Path
from statistics import median

import duckdb
import pytest

import mpnb
from mpnb._base.pictures import Day
from mpnb._reading.calendar import _usual
from mpnb.sandbox import Fault, Sandbox, serve
from mpnb.sandbox.__main__ import environment
from tests._helpers import WIDE, WallClock, day, days_of, event, moved, until
from tests.test_pictures import look

Serve = Callable[..., Sandbox]
REFUSED = {"status": 400, "times": None}


def fetched(mp: Sandbox, first: date, last: date, **options: object) -> mpnb.ExportResult:
    """Export days in batches of one, without a display."""
    more = {"database": ":memory:", "chunk_days": 1, "quota": WIDE, "on_batch": lambda _: None, **options}
    return mpnb.export(first, last, credentials=mp.credentials, **more)  # type: ignore[arg-type]


def states(calendar: mpnb.Calendar) -> dict[date, str]:
    """Return the state of each day."""
    return {each.day: each.state for each in calendar.days}


def as_queried(result: mpnb.ExportResult) -> dict[date, int]:
    """Count the events of a result by day, as a user would."""
    return dict(result.events.aggregate("time::DATE AS day, count(*)", "day").fetchall())


def test_every_count_is_that_of_a_query(sandbox: Serve) -> None:
    """Days, events and medians are what SQL says of the result's own relations."""
    mp = sandbox(events_per_day=40, faults=[Fault("status", day=str(day(9)), **REFUSED)])
    with fetched(mp, day(1), day(31)) as result:
        calendar = result.calendar()
        there = {each.day: each.events for each in calendar.days if each.events}
        assert there == as_queried(result)
        assert calendar.events_elsewhere == 0
        assert [each.day for each in calendar.days] == days_of(day(1), day(31))
        assert states(calendar) == {d: "failed" if d == day(9) else "there" for d in days_of(day(1), day(31))}
        rows = calendar.relation
        assert rows.columns == ["day", "state", "events", "usual", "is_unusual"]
        assert rows.fetchall() == [(d.day, d.state, d.events, d.usual, d.is_unusual) for d in calendar.days]
        medians = "SELECT dayofweek(day), median(events) FROM rows WHERE state = 'there' GROUP BY ALL"
        usual = {(each.day.isoweekday() % 7, each.usual) for each in calendar.days if each.usual is not None}
        assert set(result.sql(medians).fetchall()) == usual


def test_days_that_failed_are_mended_by_what_it_says(sandbox: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a result that a variable holds, by a retry; then all days are there, and nothing is left to type."""
    mp = sandbox(faults=[Fault("status", day=str(day(n)), status=400) for n in (4, 5)])
    main = vars(__import__("sys").modules["__main__"])
    with fetched(mp, day(1), day(9)) as result:
        monkeypatch.setitem(main, "january", result)
        calendar = result.calendar()
        assert calendar.words == "7 of 9 days are there; 2 failed: 4–5 Jan 2026."
        assert calendar.call == "january = january.retry()"
        assert str(calendar) == f"{calendar.words}\n{calendar.call}"
        exec(calendar.call, main)
        with main["january"] as mended:
            assert (mended.calendar().words, mended.calendar().call) == ("All 9 days are there.", "")


def test_days_that_are_missing_are_mended_by_what_it_says(
    sandbox: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a file: the call names its filter, its file and its table, and brings just these days."""
    mp = sandbox(events_per_day=60)
    for name, value in environment(mp).items():
        monkeypatch.setenv(name, value)
    options = {"events": ["Page View", "Sign Up"], "database": str(tmp_path / 'a "b".duckdb'), "table": "some events"}
    for first, last in ((1, 9), (15, 20)):
        fetched(mp, day(first), day(last), **options).close()
    with mpnb.open(options["database"]) as db:
        calendar = db.calendar()
    assert calendar.words == "15 of 20 days are there; 5 missing: 10–14 Jan 2026."
    assert calendar.call.startswith(
        'mpnb.export("2026-01-10", "2026-01-14", events=["Page View", "Sign Up"], database='
    )
    eval(calendar.call).close()
    with mpnb.open(options["database"]) as db:
        assert (db.calendar().words, db.calendar().call) == ("All 20 days are there.", "")


def test_a_call_takes_no_more_words_than_it_needs(
    sandbox: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The default file and table are not named; a connection is ``con``; what is in memory alone has no such call."""
    mp = sandbox()
    monkeypatch.chdir(tmp_path)
    with duckdb.connect() as con:
        for database, call in (
            ("mixpanel.duckdb", 'mpnb.export("2026-01-02", "2026-01-02")'),
            (con, 'mpnb.export("2026-01-02", "2026-01-02", database=con)'),
        ):
            for n in (1, 3):
                fetched(mp, day(n), day(n), database=database).close()
            with mpnb.open(database) as db:
                assert db.calendar().call == call
    faults = [Fault("status", day=str(day(2)), **REFUSED)]
    with fetched(sandbox(faults=faults), day(1), day(3)) as result:
        assert (result.calendar().words, result.calendar().call) == ("2 of 3 days are there; 1 failed: 2 Jan 2026.", "")


def test_days_that_were_fetched_early_are_provisional(sandbox: Serve, clock: WallClock) -> None:
    """Until their late days are over; from then on, the call that fetches them once more is there."""
    today = clock.now.date()
    mp = sandbox()
    with duckdb.connect() as con, fetched(mp, today - timedelta(9), today - timedelta(1), database=con) as result:
        calendar = result.calendar()
        assert [each.day for each in calendar.days if each.state == "provisional"] == [
            today - timedelta(n) for n in (5, 4, 3, 2, 1)
        ]
        assert calendar.words == "All 9 days are there; 5 provisional: 26–30 Jun 2026."
        assert calendar.call == ""
        clock.now += timedelta(days=6)
        assert result.calendar().call == 'mpnb.export("2026-06-26", "2026-06-30", database=con)'
        assert [each.state for each in result.calendar(late_days=0).days] == ["there"] * 9


def test_a_day_that_failed_again_keeps_its_events(sandbox: Serve) -> None:
    """After a refresh that failed, the day is failed, and its count is that of the rows that are still there."""
    with duckdb.connect() as con:
        mp = sandbox(project_id=7)
        fetched(mp, day(1), day(3), database=con).close()
        again = serve(events_per_day=30, project_id=7, faults=[Fault("status", day=str(day(2)), **REFUSED)])
        with again, fetched(again, day(1), day(3), database=con, mode="refresh") as result:
            [_, second, _] = result.calendar().days
            assert second.state == "failed"
            assert second.events == as_queried(result)[day(2)] > 0


def test_a_job_shows_what_is_there_so_far(sandbox: Serve, tmp_path: Path) -> None:
    """Days that are being fetched are coming; they are there when they have landed."""
    go = threading.Event()

    def lines(when: date) -> list[bytes]:
        if when != day(1):
            assert go.wait(30)
        return [event()]

    mp = sandbox(lines=lines)
    job = mpnb.start(
        day(1), day(3), database=tmp_path / "a.duckdb", chunk_days=1, quota=WIDE, credentials=mp.credentials
    )
    try:
        until(lambda: job.progress().counts.get("done") == 1, 30)
        calendar = job.calendar()
        assert list(states(calendar).values()) == ["there", "coming", "coming"]
        assert (calendar.words, calendar.call) == ("1 of 3 days are there; 2 being fetched: 2–3 Jan 2026.", "")
    finally:
        go.set()
    with job.result(30) as result:
        assert job.calendar().words == result.calendar().words == "All 3 days are there."


def test_events_that_are_elsewhere_in_time_are_counted(sandbox: Serve) -> None:
    """Days have those of their own ``time``; the rest, without a time too, is told apart and adds up."""
    odd = [event(time=None), event(time=1767225600 - 86400 * 400), event(time=10**12)]
    mp = sandbox(lines=lambda when: [event(), event(), *odd] if when == day(2) else [event()])
    with fetched(mp, day(1), day(3)) as result:
        calendar = result.calendar()
        assert [each.events for each in calendar.days] == [1, 2, 1]
        assert calendar.events_elsewhere == 3
        assert sum(each.events for each in calendar.days) + 3 == result.total_rows
        assert calendar.words == "All 3 days are there; 3 events have a time on none of these days."


def test_a_table_that_is_gone_has_no_day(sandbox: Serve) -> None:
    """Somebody has dropped it: every day is missing, and the picture still shows them."""
    with fetched(sandbox(), day(1), day(3)) as result:
        result.con.execute(f'DROP TABLE "{result.table}"')
        calendar = result.calendar()
        assert list(states(calendar).values()) == ["missing"] * 3
        look(calendar._picture())


def usual_by_the_book(counts: Sequence[tuple[date, int]]) -> set[date]:
    """Return the unusual days, straight from the rule."""
    found = set()
    for when, count in counts:
        same = [other for each, other in counts if each.weekday() == when.weekday()]
        middle = median(same)
        if abs(count - middle) > 0.3 * middle and abs(count - middle) > 6 * median(abs(o - middle) for o in same):
            found.add(when)
    return found


@pytest.mark.parametrize("seed", range(3))
def test_a_day_is_unusual_by_the_rule(seed: int, sandbox: Serve) -> None:
    """More than 30 % and six median deviations off its weekday's median, up or down; a note says how far."""
    chance = random.Random(seed)
    counts = {d: 40 + chance.randrange(5) for d in days_of(day(1), day(42))}
    for n, count in ((10, 4), (20, 120), (30, 50), (31, 0)):
        counts[day(n)] = count
    mp = sandbox(lines=lambda when: [event()] * counts[when])
    with fetched(mp, day(1), day(42), chunk_days=7) as result:
        calendar = result.calendar()
        odd = {each.day for each in calendar.days if each.is_unusual}
        assert odd == usual_by_the_book(list(counts.items()))
        assert {day(10), day(20), day(31)} <= odd
        assert "unusual: 10 Jan, 20 Jan, 31 Jan 2026" in calendar.words.replace("30–31 Jan", "31 Jan")
        assert re.search("20 Jan 2026: 120 events, 1[0-9]{2}% more than usual on that weekday", calendar._repr_html_())


def test_of_two_days_neither_is_unusual() -> None:
    """They are as far off their median as they usually are."""
    [(middle, deviation)] = _usual({day(1): 1, day(8): 1001}).values()
    assert (middle, deviation) == (501.0, 500.0)


def test_the_picture_has_every_state(sandbox: Serve) -> None:
    """In a notebook it is one picture, with a mark for each state that occurs and a table that counts every day."""
    mp = sandbox(lines=lambda when: [moved(event(), when)], faults=[Fault("status", day=str(day(2)), **REFUSED)])
    with fetched(mp, day(1), day(3)) as result:
        calendar = result.calendar()
        page = look(calendar._picture())
        assert page.cells[4:] == [
            "1 Jan 2026",
            "there",
            "1",
            "1",
            "2 Jan 2026",
            "failed",
            "1",
            "–",
            "3 Jan 2026",
            "there",
            "1",
            "1",
        ]
        assert calendar._mime_() == ("text/html", calendar._repr_html_())
        assert calendar.svg.startswith("<svg ")
    assert Day(day(1), 1).state == "there"


def test_a_check_shows_the_calendar_above_its_findings(sandbox: Serve) -> None:
    """Both in one output; as text, the findings alone, as before."""
    with fetched(sandbox(), day(1), day(3)) as result:
        check = result.check()
        assert check.calendar is not None
        page = check._repr_html_()
        assert page.index("mpnb-pic") < page.index("mpnb-check")
        assert page.index(check.calendar.words) < page.index("ledger against table")
        assert page.count('<th scope="row" style') == len(check.findings)
        assert repr(check).splitlines()[0].split() == ["ok", "days", "held", "3", "2026-01-01", "–", "2026-01-03"]
