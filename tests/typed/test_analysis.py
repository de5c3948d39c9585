"""Reports over relations of a result: names of events, columns, times that cannot be."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import duckdb
import numpy
import pandas
import pytest

import mpnb
from mpnb.analysis import funnel, retention, segmentation
from tests.typed._values import Exporter


def test_a_relation_without_names_of_events_is_refused() -> None:
    """Typed events of one name have no column event_name, and the error says which relation has one."""
    con = duckdb.connect()
    events = con.sql("SELECT now()::TIMESTAMP AS time, 'a' AS distinct_id")
    named = con.sql("SELECT now()::TIMESTAMP AS time, 'a' AS distinct_id, 'A' AS event_name")
    with pytest.raises(mpnb.PlanError, match=r"event_name.*result\.event\(\["):
        segmentation(events, "A")
    with pytest.raises(mpnb.PlanError, match="two steps"):
        funnel(named, ["A"], timedelta(days=1))
    with pytest.raises(mpnb.PlanError, match="unit must be 'hour', 'day', 'week' or 'month', not"):
        retention(named, "A", "B", unit="year")


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
            lambda e: funnel(e, ["Sign Up", "Sign Up"], exclude=[name]),
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
    with pytest.raises(
        mpnb.PlanError, match="by must be a column, a property or an expression of SQL, or a list of up to 6, not 5"
    ):
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
        lambda: retention(result.events, "Purchase", step if step is not None else ("A",)),
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
            cohorts = retention(events, "E", "E", unit=unit).filter("cohort IS NOT NULL").fetchall()
            assert len({row[0] for row in cohorts}) == min(3, len(rows))
            assert max(row[2] for row in cohorts) < {"hour": 72, "day": 3, "month": 1}[unit]
