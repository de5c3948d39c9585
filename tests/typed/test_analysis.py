"""Funnels, retention and segmentation, each against a slow implementation that follows its definition word by word."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime, timedelta
from statistics import median
from typing import Any

import duckdb
import numpy
import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mpnb
from mpnb.analysis import funnel, retention, segmentation
from tests.typed._values import Exporter

EPOCH = datetime(2026, 1, 28)  # four days before the end of a month and of a week
Row = tuple[str, datetime, str | None, int]

# Few names, few users and few seconds, so that ties, repetitions and gaps are common.
rows_of = st.lists(
    st.tuples(
        st.sampled_from("ABC"),
        st.one_of(st.integers(0, 6), st.integers(0, 20 * 86400)).map(lambda s: EPOCH + timedelta(seconds=s)),
        st.sampled_from(["u", "v", "w", "", None]),
        st.integers(0, 2),
    ),
    max_size=25,
)
a_step = st.one_of(st.sampled_from("ABC"), st.tuples(st.sampled_from("ABC"), st.sampled_from(["amount > 0"])))


@pytest.fixture(scope="module", params=[64, 0], ids=["as few rows", "as many rows"])
def con(request: pytest.FixtureRequest) -> Any:
    """Give a connection with one thread: the data is small, the examples many. DuckDB joins many rows another way."""
    with duckdb.connect(config={"threads": 1}) as con:
        con.execute(f"SET asof_loop_join_threshold = {request.param}")
        yield con


def relation(con: Any, rows: list[Row]) -> Any:
    """Make a relation of events, which has columns with names that the queries use themselves."""
    values = [
        f"('{name}', TIMESTAMP '{time}', {user!r}, {amount})".replace("None", "NULL")
        for name, time, user, amount in rows
    ]
    return con.sql(
        "SELECT event_name, time::TIMESTAMP AS time, distinct_id::VARCHAR AS distinct_id, amount::INTEGER AS amount,"
        " 1 AS person, 1 AS step, 1 AS period, 1 AS t1"
        f" FROM (VALUES {', '.join([*values, '(NULL, NULL, NULL, NULL)'])}) AS v(event_name, time, distinct_id, amount)"
        " WHERE event_name IS NOT NULL"
    )


def fits(row: Row, step: Any) -> bool:
    """Say whether an event is of a step."""
    return row[0] == step if isinstance(step, str) else row[0] == step[0] and row[3] > 0


def name_of(step: Any) -> str:
    """Give the event's name of a step."""
    return step if isinstance(step, str) else step[0]


def ways(rows: list[Row], steps: list[Any], window: timedelta, way: list[datetime]) -> list[list[datetime]]:
    """List every way through the steps that goes on from here, cut where it ends."""
    found = [way]
    if len(way) < len(steps):
        step = steps[len(way)]
        for row in rows:
            before = [t for t, s in zip(way, steps, strict=False) if name_of(s) == name_of(step)]
            if (
                fits(row, step)
                and (not way or way[-1] <= row[1] <= way[0] + window)
                and all(t < row[1] for t in before)
            ):
                found += ways(rows, steps, window, [*way, row[1]])
    return found


@pytest.mark.filterwarnings("ignore:events has no")
@given(rows_of, st.lists(a_step, min_size=2, max_size=4), st.sampled_from([1, 3, 86400, 10**6]))
@settings(max_examples=50)
def test_a_funnel_counts_who_has_a_way(con: Any, rows: list[Row], steps: list[Any], seconds: int) -> None:
    """A funnel counts, at each step, the users for whom any way through all events leads there."""
    people: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row[2]:
            people[row[2]].append(row)
    window = timedelta(seconds=seconds)
    reached = [0] * len(steps)
    lasted: list[list[float]] = [[] for _ in steps]
    for mine in people.values():
        every = ways(mine, steps, window, [])
        deepest = max(map(len, every))
        for number in range(deepest):
            reached[number] += 1
        if deepest:
            start = min(way[0] for way in every if len(way) == deepest)
            # Each step as early as it can be, after the one before.
            way = min(way for way in every if len(way) == deepest and way[0] == start)
            for number in range(deepest):
                lasted[number].append((way[number] - start).total_seconds())
    found = funnel(relation(con, rows), steps, window).fetchall()
    assert [row[:3] for row in found] == [
        (n, name_of(s), c) for n, (s, c) in enumerate(zip(steps, reached, strict=True), 1)
    ]
    for number, (_, _, users, of_first, of_previous, seconds_in) in enumerate(found):
        assert of_first == (users / reached[0] if reached[0] else None)
        assert of_previous == (users / reached[number - 1] if number and reached[number - 1] else None)
        assert seconds_in == (median(lasted[number]) if lasted[number] else None)


def trunc(time: datetime, unit: str) -> datetime:
    """Give the begin of the calendar unit that a time is in."""
    if unit == "hour":
        return time.replace(minute=0, second=0)
    day = time.replace(hour=0, minute=0, second=0)
    return {"day": day, "week": day - timedelta(days=day.weekday()), "month": day.replace(day=1)}[unit]


def units(first: datetime, last: datetime, unit: str) -> list[datetime]:
    """List the begins of all units of a range."""
    found = [first]
    while found[-1] < last:
        # 32 days are more than a month, and less than two.
        step = {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(days=7)}
        found.append(trunc(found[-1] + step.get(unit, timedelta(days=32)), unit))
    return found


@pytest.mark.filterwarnings("ignore:events has no")
@given(rows_of, a_step, a_step, st.sampled_from(["day", "week", "month"]))
@settings(max_examples=50)
def test_retention_counts_who_came_back(con: Any, rows: list[Row], first: Any, again: Any, unit: str) -> None:
    """Retention has a row a cohort and period, zeros included, with those who did it again in it."""
    born: dict[str, datetime] = {}
    for row in rows:
        if row[2] and fits(row, first):
            born[row[2]] = min(row[1], born.get(row[2], row[1]))
    wanted = []
    for cohort in sorted({trunc(time, unit) for time in born.values()}):
        members = {user for user, time in born.items() if trunc(time, unit) == cohort}
        for period, begin in enumerate(units(cohort, max(trunc(row[1], unit) for row in rows), unit)):
            back = {
                row[2]
                for row in rows
                if row[2] in members
                and fits(row, again)
                and trunc(row[1], unit) == begin
                and (row[1] > born[row[2]] or (row[1] == born[row[2]] and name_of(first) != name_of(again)))
            }
            wanted.append((cohort, len(members), period, len(back), len(back) / len(members)))
    assert retention(relation(con, rows), first, again, unit=unit).fetchall() == wanted


@pytest.mark.filterwarnings("ignore:events has no")
@given(rows_of, st.none() | a_step, st.booleans(), st.sampled_from(["hour", "day", "week", "month"]))
@settings(max_examples=50)
def test_segmentation_counts_every_cell(con: Any, rows: list[Row], event: Any, split: bool, unit: str) -> None:
    """Segmentation has a row a unit and segment, zeros included, with its events and users."""
    chosen = [row for row in rows if event is None or fits(row, event)]
    wanted = set()
    if chosen:
        begins = [trunc(row[1], unit) for row in chosen]
        for begin in units(min(begins), max(begins), unit):
            for segment in {row[3] for row in chosen} if split else {None}:
                cell = [r for r in chosen if trunc(r[1], unit) == begin and (not split or r[3] == segment)]
                key = (begin, segment) if split else (begin,)
                wanted.add((*key, len(cell), len({row[2] for row in cell if row[2]})))
    found = segmentation(relation(con, rows), event, by="amount" if split else None, unit=unit).fetchall()
    assert len(found) == len(wanted)
    assert set(found) == wanted


def test_a_relation_without_names_of_events_is_refused(con: Any) -> None:
    """Typed events of one name have no column event_name, and the error says which relation has one."""
    events = con.sql("SELECT now()::TIMESTAMP AS time, 'a' AS distinct_id")
    with pytest.raises(mpnb.PlanError, match=r"event_name.*result\.event\(\["):
        segmentation(events, "A")
    with pytest.raises(mpnb.PlanError, match="two steps"):
        funnel(relation(con, []), ["A"], timedelta(days=1))
    with pytest.raises(mpnb.PlanError, match="unit must be 'hour', 'day', 'week' or 'month', not"):
        retention(relation(con, []), "A", "B", unit="year")


# --- relations of a result -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def result(exported: Exporter) -> Iterator[mpnb.ExportResult]:
    """Export three days: an event at noon each by two people, one of them on the last day alone."""
    noon = [1767225600 + 86400 * n + 43200 for n in range(3)]
    rows = [
        [
            {"time": t, "distinct_id": who, "$os": os, "plan type": "pro", "amount": n}
            for who, os in (("a", "iOS"), ("b", None))
        ]
        for n, t in enumerate(noon)
    ]
    with exported(*rows, names=["Purchase", "Purchase", "Sign Up"]) as result:
        yield result


@pytest.mark.parametrize("name", ["Purchas", "nothing"])
def test_a_name_that_the_table_lacks_is_an_error(result: mpnb.ExportResult, name: str) -> None:
    """As in ``event()``, where the relation is as a result gave it; the closest name is named."""
    for events in (
        result.events,
        result.deduplicated(),
        result.event(["Purchase", "Sign Up"]),
        result.local_time("UTC", project_timezone="UTC"),
    ):
        for ask in (
            lambda e: funnel(e, ["Sign Up", name], timedelta(days=1)),
            lambda e: retention(e, name, "Sign Up"),
            lambda e: retention(e, "Sign Up", (name, "true")),
            lambda e: segmentation(e, name),
        ):
            with pytest.raises(mpnb.PlanError, match=f"there is no event '{name}' in ") as error:
                ask(events)
            assert ("did you mean 'Purchase'?" in str(error.value)) == (name == "Purchas")


def test_a_name_that_only_the_relation_lacks_is_zero_and_a_warning(result: mpnb.ExportResult) -> None:
    """Narrowed by mpnb or by the user, who gets the closest name that is there."""
    with pytest.warns(UserWarning, match="events has no 'Sign Up', although the table has: it counts as 0") as caught:
        assert segmentation(result.event(["Purchase"]), "Sign Up").fetchall() == []
    assert [w.filename for w in caught] == [__file__]
    mine = result.events.filter("event_name = 'Purchase'")
    with pytest.warns(
        UserWarning, match=r"events has no 'Purchas', which counts as 0; did you mean 'Purchase'\?"
    ) as caught:
        assert [row[2] for row in funnel(mine, ["Purchase", "Purchas"], timedelta(days=1)).fetchall()] == [2, 0]
    assert [w.filename for w in caught] == [__file__]
    with pytest.warns(UserWarning, match="events has no 'Sign Up', which counts as 0$"):
        retention(mine, "Purchase", "Sign Up", unit="day")


def test_names_that_are_there_give_no_warning(result: mpnb.ExportResult, recwarn: Any) -> None:
    """Nor does an error of a name keep what is right from working."""
    assert [
        row[2] for row in funnel(result.events, numpy.array(["Purchase", "Sign Up"]), timedelta(days=3)).fetchall()
    ] == [2, 2]
    assert retention(result.events, "Purchase", "Sign Up", unit="day").fetchall()
    assert not recwarn.list


def test_typed_events_of_one_name_are_segmented(result: mpnb.ExportResult) -> None:
    """They need no name, and take the one that they are of; another is refused."""
    events = result.event("Purchase")
    wanted = segmentation(result.events, "Purchase").fetchall()
    assert segmentation(events).fetchall() == segmentation(events, "Purchase").fetchall() == wanted
    assert segmentation(events.filter("amount >= 0")).fetchall() == wanted
    assert segmentation(events, ("Purchase", "amount > 0")).fetchall() == wanted[1:]
    for ask in (
        lambda: segmentation(events, "Sign Up"),
        lambda: funnel(events, ["Purchase", "Purchase"], timedelta(days=1)),
        lambda: retention(events, "Purchase", "Purchase"),
    ):
        with pytest.raises(mpnb.PlanError, match="events has no column 'event_name'"):
            ask()


@pytest.mark.parametrize("by", ["$os", "plan type", "properties->>'/$os'", "amount"])
def test_raw_events_are_split_by_a_property(result: mpnb.ExportResult, by: str) -> None:
    """By its name, as the typed column of it splits them; an expression of SQL works as well."""
    raw = segmentation(result.events, "Purchase", by=by).fetchall()
    typed = segmentation(result.event("Purchase"), by="$os" if "os" in by else by).fetchall()
    assert [(p, None if s is None else str(s), n, u) for p, s, n, u in typed] == raw
    assert {row[1] for row in raw} == {"$os": {"iOS", None}, "plan type": {"pro"}, "amount": {"0", "1"}}.get(
        by, {"iOS", None}
    )


def test_a_column_or_property_that_is_not_there_is_an_error(result: mpnb.ExportResult) -> None:
    """With the closest, of raw and of typed events; and so is what SQL cannot read."""
    with pytest.raises(mpnb.PlanError, match=r"no column or property '\$oss'; did you mean '\$os'"):
        segmentation(result.events, by="$oss")
    with pytest.raises(mpnb.PlanError, match=r"no column 'amonut'; did you mean 'amount'"):
        segmentation(result.event("Purchase"), by="amonut")
    with pytest.raises(mpnb.PlanError, match="no column or property 'a b c d e f g', and it is not valid SQL"):
        segmentation(result.events, by="a b c d e f g")
    with pytest.raises(mpnb.PlanError, match="by must be a column, a property or an expression of SQL, not 5"):
        segmentation(result.events, by=5)  # type: ignore[arg-type]
    for condition in ("amount > 0", "$os = 'iOS'", "amount >"):
        with pytest.raises(mpnb.PlanError, match=r"is not valid SQL .* properties->>'/its name'"):
            segmentation(result.events, ("Purchase", condition))
    with pytest.raises(mpnb.PlanError, match="events has no column 'who'"):
        segmentation(result.events, user="who")


@pytest.mark.parametrize("window", [timedelta(days=7), numpy.timedelta64(7, "D"), pandas.Timedelta(days=7)])
def test_a_window_is_a_time_delta(result: mpnb.ExportResult, window: Any) -> None:
    """Python's own, or what numpy and pandas have for it."""
    assert [row[2] for row in funnel(result.events, ["Purchase", "Sign Up"], window).fetchall()] == [2, 2]


@pytest.mark.parametrize(
    ("window", "such_as"),
    [(7, "timedelta(days=7)"), (1.5, "timedelta(days=7)"), ("7 days", "timedelta(days=7)"), (None, "")],
)
def test_what_is_no_time_delta_is_refused(result: mpnb.ExportResult, window: Any, such_as: str) -> None:
    """With what to type."""
    with pytest.raises(mpnb.PlanError, match=re.escape(f"window must be a timedelta, such as {such_as}")):
        funnel(result.events, ["Purchase", "Sign Up"], window)
    with pytest.raises(mpnb.PlanError, match="window must be more than 0"):
        funnel(result.events, ["Purchase", "Sign Up"], timedelta(0))


@pytest.mark.parametrize("step", [5, None, ("A",), ("A", "true", "true"), ("A", 5)])
def test_what_is_no_event_is_refused(result: mpnb.ExportResult, step: Any) -> None:
    """With what an event is."""
    for ask in (
        lambda: funnel(result.events, ["Purchase", step], timedelta(days=1)),
        lambda: retention(result.events, "Purchase", step),
        lambda: segmentation(result.events, step if step is not None else ("A",)),
    ):
        with pytest.raises(mpnb.PlanError, match=r"an event is a name, or \(name, condition\)"):
            ask()


# --- times that cannot be --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [1767225600_000_000, 4102444800, -1, None], ids=str)
@pytest.mark.parametrize("unit", ["hour", "day", "month"])
def test_a_time_that_cannot_be_does_not_stretch_the_rows(exported: Exporter, seconds: int | None, unit: str) -> None:
    """Segmentation and retention have the days of the result, whatever one event says; the others all count."""
    usual = [{"time": 1767225600 + 86400 * n, "distinct_id": "a"} for n in range(3)]
    with exported([usual[0], {"time": seconds, "distinct_id": "b"}], [usual[1]], [usual[2]]) as result:
        for events in (result.events, result.deduplicated(), result.event(["E"]), result.events.filter("true")):
            rows = segmentation(events, unit=unit).fetchall()
            assert sum(row[1] for row in rows) == 3
            assert len(rows) == {"hour": 49, "day": 3, "month": 1}[unit]
            assert len(retention(events, "E", "E", unit=unit).fetchall()) == len(rows)
