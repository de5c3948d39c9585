"""Funnels against a slow implementation of Mixpanel's rules, and against the examples in its documentation."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import fmean, median
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mpnb
from mpnb.analysis import funnel
from tests.analysis._events import Row, a_step, at, by_user, fits, name_of, relation, rows_of, sessions_of

TICK = timedelta(microseconds=1)
BEGIN = datetime(1, 1, 1)


# --- the oracle ------------------------------------------------------------------------------------------------------


@dataclass
class Ask:
    """What is asked."""

    steps: list[Any]
    window: timedelta
    grace: timedelta
    reentry: Any = False
    order: str = "specific"
    anchored: tuple[int, ...] = ()
    held: bool = False
    exclude: dict[Any, Any] | None = None
    by: bool = False
    by_step: int = 1
    counting: str = "uniques"

    def groups(self) -> list[list[int]]:
        """Return the places of the steps that may come in any order among each other."""
        groups: list[list[int]] = []
        for place in range(len(self.steps)):
            fixed = self.order == "specific" or place + 1 in self.anchored
            if groups and not fixed and groups[-1][-1] + 1 not in (self.anchored if self.order == "any" else range(99)):
                groups[-1].append(place)
            else:
                groups.append([place])
        return groups


@dataclass
class Way:
    """How far an entry got: the times of the steps it reached, when it was over, and its segment."""

    times: list[datetime]
    over: datetime
    segment: str | None

    @property
    def start(self) -> datetime:
        """Return when it began."""
        return self.times[0]


def follow(mine: list[Row], ask: Ask, entry: datetime, held: str | None, since: datetime | None) -> Way:
    """Follow one entry through the steps, one after the other, as the rules say."""
    end = entry + ask.window
    reached: list[datetime] = []
    at_step: dict[int, datetime] = {}
    segment: str | None = None
    groups = ask.groups()
    for number, group in enumerate(groups):
        if number == 0:
            least = entry
        else:
            least = max(at_step[place] for place in groups[number - 1]) - ask.grace
            if since is not None:
                least = max(least, since)
        found: dict[int, datetime] = {}
        for place in group:
            step = ask.steps[place]
            used = [t for other, t in at_step.items() if name_of(ask.steps[other]) == name_of(step)]
            for row in mine:
                if not fits(row, step) or row.time < least or row.time > end or any(row.time <= t for t in used):
                    continue
                if ask.held and number > 0 and (held is None or row.plan != held):
                    continue
                found[place] = row.time
                break
        if ask.held and number == 0 and len(group) == 1:
            found = {group[0]: entry}
        reached += sorted(found.values())
        at_step.update(found)
        if len(found) < len(group):
            break
    over = max(reached) if len(reached) == len(ask.steps) else end
    names = {name_of(step) for step in ask.steps}
    for place in range(1, len(reached) if len(reached) == len(ask.steps) else len(reached) + 1):
        outs = []
        for event, between in (ask.exclude or {}).items():
            first, last = between or (1, len(ask.steps))
            if not first <= place < last:
                continue
            least = reached[place - 1] + TICK if name_of(event) in names else reached[place - 1] - ask.grace
            if since is not None:
                least = max(least, since)
            for row in mine:
                if fits(row, event) and row.time >= least:
                    if row.time < reached[place] if place < len(reached) else row.time <= end:
                        outs.append(row.time)
                    break
        if outs:
            reached = reached[:place]
            over = max(min(outs), *reached)
            break
    if len(reached) >= ask.by_step:
        wanted = [ask.by_step - 1] if ask.by_step > 1 else groups[0]
        moment = at_step[ask.by_step - 1] if ask.by_step > 1 else entry
        segments = [
            row.plan
            for row in mine
            if row.time == moment
            and any(fits(row, ask.steps[place]) for place in wanted)
            and (not ask.held or row.plan == held)
        ]
        segment = min((each for each in segments if each is not None), default=None)
    return Way(reached, over, segment)


def entries(mine: list[Row], ask: Ask) -> list[tuple[datetime, str | None]]:
    """Return the moments at which an entry can begin, each with what is held constant."""
    first = ask.groups()[0]
    found = {(row.time, row.plan if ask.held else None) for row in mine if any(fits(row, ask.steps[p]) for p in first)}
    return sorted(found, key=lambda each: (each[0], each[1] is None, each[1] or ""))


def chain(mine: list[Row], ask: Ask) -> list[Way]:
    """Return the attempts of somebody, each after the one before is over."""
    found = []
    starts = entries(mine, ask)
    for held in dict.fromkeys(held for _, held in starts):
        over: datetime | None = None
        for moment, value in starts:
            if value != held or (over is not None and moment <= over):
                continue
            # What the attempt before has used is not used again.
            is_late = (
                over is not None and ask.grace > timedelta(0) and over >= moment - ask.grace * (len(ask.steps) - 1)
            )
            way = follow(mine, ask, moment, held, moment if is_late else None)
            over = way.over
            found.append(way)
    return sorted(found, key=lambda way: way.start)


def ways(mine: list[Row], ask: Ask) -> list[Way]:
    """Return the entries of somebody, or of one session, that count."""
    is_split = ask.by and ask.counting == "uniques"
    if ask.reentry is False:
        if ask.counting == "totals":
            return chain(mine, ask)
        if is_split:
            found: dict[Any, Way] = {}
            for way in chain(mine, ask):
                found.setdefault(way.segment, way)
            return list(found.values())
        return [follow(mine, ask, moment, held, None) for moment, held in entries(mine, ask)[:1]]
    every = [(follow(mine, ask, moment, held, None), held) for moment, held in entries(mine, ask)]
    if ask.counting == "totals":
        for place in range(1, len(ask.steps)):
            latest: dict[Any, datetime] = {}
            for way, held in every:
                if len(way.times) > place:
                    key = (held, way.times[place])
                    latest[key] = max(way.start, latest.get(key, BEGIN))
            for way, held in every:
                if len(way.times) > place and latest[held, way.times[place]] != way.start:
                    way.times[place:] = []
        return [way for way, _ in every]
    best: dict[Any, Way] = {}
    for way, _ in every:
        key = way.segment if ask.by else None
        known = best.get(key)
        if known is None or better(way, known, ask):
            best[key] = way
    return list(best.values())


def better(way: Way, known: Way, ask: Ask) -> bool:
    """Whether an entry, which is not earlier, counts in place of another."""
    if len(way.times) != len(known.times):
        return len(way.times) > len(known.times)
    if ask.reentry == "furthest" or len(way.times) == 1 or way.start == known.start:
        return False
    # The first to convert; of those that share the second step, the most recent.
    return way.times[1] <= known.times[1]


def expected(rows: list[Row], ask: Ask) -> dict[Any, list[tuple[int, Any, Any]]]:
    """Return the count of each step, and the median and mean seconds, by segment."""
    counted: dict[Any, list[list[float]]] = defaultdict(lambda: [[] for _ in ask.steps])
    for mine in by_user(rows).values():
        for part in sessions_of(mine) if ask.counting == "sessions" else [mine]:
            for way in ways(part, ask):
                for place, time in enumerate(way.times):
                    counted[way.segment if ask.by else None][place].append(max(0.0, (time - way.start).total_seconds()))
    if not ask.by:
        counted[None]
    return {
        segment: [(len(s), median(s) if s else None, fmean(s) if s else None) for s in steps]
        for segment, steps in counted.items()
    }


# --- every mode ------------------------------------------------------------------------------------------------------


@st.composite
def asks(draw: Any) -> Ask:
    """Draw what to ask."""
    order = draw(st.sampled_from(["specific", "specific", "any"]))
    if order == "any":
        steps = [draw(st.sampled_from([name, (name, "amount > 0")])) for name in draw(st.permutations("ABC"))]
        steps = steps[: draw(st.integers(2, 3))]
    else:
        steps = draw(st.lists(a_step, min_size=2, max_size=3))
    counting = draw(st.sampled_from(["uniques", "totals", "sessions"]))
    by = draw(st.booleans())
    places = st.integers(1, len(steps) - 1)
    between = draw(st.none() | places.flatmap(lambda n: st.tuples(st.just(n), st.integers(n + 1, len(steps)))))
    return Ask(
        steps=steps,
        window=timedelta(seconds=draw(st.sampled_from([1, 3, 3600, 10**6]))),
        grace=timedelta(seconds=draw(st.sampled_from([0, 2]))),
        reentry=draw(st.sampled_from([False, False, True] + (["furthest"] if counting != "totals" else []))),
        order=order,
        anchored=tuple(draw(st.sets(st.integers(1, len(steps))))) if order == "any" else (),
        held=draw(st.booleans()) and order == "specific",
        exclude=draw(st.none() | a_step.map(lambda step: {step: between})),
        by=by,
        by_step=draw(st.integers(1, len(steps))) if by and order == "specific" else 1,
        counting=counting,
    )


@pytest.mark.filterwarnings("ignore:events has no")
@given(rows_of, asks())
@settings(max_examples=60, deadline=None)
def test_a_funnel_counts_as_the_rules_say(con: Any, rows: list[Row], ask: Ask) -> None:
    """Every mode with every other, step by step as the slow implementation has it."""
    found = funnel(
        relation(con, rows),
        ask.steps,
        ask.window,
        reentry=ask.reentry,
        order=ask.order,
        anchored=ask.anchored,
        holding_constant="plan" if ask.held else None,
        exclude=ask.exclude,
        by="plan" if ask.by else None,
        by_step=ask.by_step,
        counting=ask.counting,
        grace=ask.grace,
    ).fetchall()
    by_segment: dict[Any, list[tuple[int, Any, Any]]] = defaultdict(list)
    for row in found:
        segment, (step, _, count, of_first, of_previous, middle, mean) = (row[0], row[1:]) if ask.by else (None, row)
        mine = by_segment[segment]
        mine.append((count, middle, None if mean is None else pytest.approx(mean)))
        assert step == len(mine)
        assert of_first == (count / mine[0][0] if mine[0][0] else None)
        assert of_previous == (count / mine[-2][0] if step > 1 and mine[-2][0] else None)
    assert by_segment == expected(rows, ask)


# --- Mixpanel's examples ---------------------------------------------------------------------------------------------


def events(con: Any, *given: tuple[str, str] | tuple[str, str, str]) -> duckdb.DuckDBPyRelation:
    """Return the events of one user, each as its name, the time of day and a plan."""
    return relation(con, [Row(name, at(clock), "u", 1, *rest) for name, clock, *rest in given])


def counts(found: duckdb.DuckDBPyRelation, columns: str = "#3") -> list[Any]:
    """Return the counts of a funnel."""
    rows = found.project(columns).fetchall()
    return [row[0] if len(row) == 1 else row for row in rows]


HOUR = timedelta(hours=1)


def test_the_window_is_from_the_first_event_of_the_first_step(con: Any) -> None:
    """A at 13:00 and 13:30, B at 13:45, C at 14:15: with an hour, the user reaches B and not C."""
    mine = events(con, ("A", "13:00"), ("A", "13:30"), ("B", "13:45"), ("C", "14:15"))
    assert counts(funnel(mine, ["A", "B", "C"], HOUR)) == [1, 1, 0]


def test_the_window_is_seven_days(con: Any) -> None:
    """To the second, inclusive."""
    for late, reached in ((timedelta(0), 1), (timedelta(seconds=1), 0)):
        mine = [Row("A", at("13:00"), "u"), Row("B", at("13:00") + timedelta(days=7) + late, "u")]
        assert counts(funnel(relation(con, mine), ["A", "B"])) == [1, reached]


@pytest.mark.parametrize("second", ["14:30", "13:30"])
def test_re_entry(con: Any, second: str) -> None:
    """Scenarios 1 and 2: A, then A² after the window or in it, then B: converted with re-entry alone, from A²."""
    mine = events(con, ("A", "13:00"), ("A", second), ("B", "14:31" if second == "14:30" else "14:15"))
    assert counts(funnel(mine, ["A", "B"], HOUR)) == [1, 0]
    assert counts(funnel(mine, ["A", "B"], HOUR, reentry=True)) == [1, 1]
    assert counts(funnel(mine, ["A", "B"], HOUR, reentry=True, counting="totals")) == [2, 1]


def test_the_most_recent_entry_counts_for_the_time_to_convert(con: Any) -> None:
    """A, A², A³, B: with re-entry from A³, without from A."""
    mine = events(con, ("A", "13:00"), ("A", "13:10"), ("A", "13:20"), ("B", "13:21"))
    assert counts(funnel(mine, ["A", "B"], HOUR, reentry=True), "median_seconds") == [0, 60]
    assert counts(funnel(mine, ["A", "B"], HOUR), "median_seconds") == [0, 21 * 60]


def test_the_first_converted_funnel_counts(con: Any) -> None:
    """A, B, A², B²: the first."""
    mine = events(con, ("A", "13:00"), ("B", "13:07"), ("A", "13:10"), ("B", "13:11"))
    assert counts(funnel(mine, ["A", "B"], HOUR, reentry=True), "median_seconds") == [0, 7 * 60]


@pytest.mark.parametrize(("done", "reached"), [("ABCDE", 5), ("ABFCDE", 5), ("ABDCDE", 5), ("ABCE", 3)])
def test_specific_order(con: Any, done: str, reached: int) -> None:
    """Others may lie between; what comes too early does not count, what comes again does."""
    mine = events(con, *((name, f"13:{number:02}") for number, name in enumerate([*done, *"XYZ"])))
    others = relation(con, [Row(name, at("12:00"), None) for name in "ABCDEF"])
    assert counts(funnel(mine.union(others), list("ABCDE"))) == [1] * reached + [0] * (5 - reached)


def test_an_earlier_entry_may_get_further_where_a_later_step_is_its_event_again(con: Any) -> None:
    """A, A², B: with A → B → A², the first A goes on to A², which comes within two seconds before B."""
    mine = events(con, ("A", "13:00:00"), ("A", "13:00:09"), ("B", "13:00:10"))
    assert counts(funnel(mine, ["A", "B", "A"], reentry=True)) == [1, 1, 1]


@pytest.mark.parametrize(("seconds", "reached"), [(0, 1), (2, 1), (3, 0)])
def test_steps_within_two_seconds_are_interchangeable(con: Any, seconds: int, reached: int) -> None:
    """B, then A within two seconds, counts as A, then B."""
    mine = events(con, ("B", "13:00:00"), ("A", f"13:00:0{seconds}"))
    assert counts(funnel(mine, ["A", "B"])) == [1, reached]
    assert counts(funnel(mine, ["A", "B"], grace=timedelta(0))) == [1, int(seconds == 0)]


def test_an_excluded_event_drops_the_entry(con: Any) -> None:
    """A, A², A³, B without A between: with totals, two entries and one conversion; with uniques, none."""
    mine = events(con, ("A", "13:00"), ("A", "13:10"), ("A", "13:20"), ("B", "13:21"))
    assert counts(funnel(mine, ["A", "B"], exclude="A", counting="totals")) == [2, 1]
    assert counts(funnel(mine, ["A", "B"], exclude="A")) == [1, 0]


def test_an_event_is_excluded_between_given_steps(con: Any) -> None:
    """The user counts for the steps before it."""
    mine = events(con, ("A", "13:00"), ("X", "13:05"), ("B", "13:10"), ("C", "13:20"))
    assert counts(funnel(mine, ["A", "B", "C"], exclude="X")) == [1, 0, 0]
    assert counts(funnel(mine, ["A", "B", "C"], exclude={"X": (2, 3)})) == [1, 1, 1]
    assert counts(funnel(mine, ["A", "B", "C"], exclude={"X": (1, 2)})) == [1, 0, 0]


def test_exclusion_has_the_grace_too(con: Any) -> None:
    """X, then A within two seconds, counts as A, then X."""
    mine = events(con, ("X", "13:00:00"), ("A", "13:00:01"), ("B", "13:10"))
    assert counts(funnel(mine, ["A", "B"], exclude="X")) == [1, 0]
    assert counts(funnel(mine, ["A", "B"], exclude="X", grace=timedelta(0))) == [1, 1]


def test_totals_enter_again_when_the_attempt_has_ended(con: Any) -> None:
    """Step 1, step 1, step 2 is one entry; after conversion or the window there is another."""
    assert counts(
        funnel(events(con, ("A", "13:00"), ("A", "13:10"), ("B", "13:20")), ["A", "B"], counting="totals")
    ) == [1, 1]
    again = events(con, ("A", "13:00"), ("B", "13:20"), ("A", "13:30"), ("A", "14:31"), ("B", "14:40"))
    assert counts(funnel(again, ["A", "B"], HOUR, counting="totals")) == [3, 2]


def test_what_an_attempt_has_used_is_not_used_again(con: Any) -> None:
    """A, B, A within two seconds: the second entry does not look back to the B of the first."""
    mine = events(con, ("A", "13:00:00"), ("B", "13:00:01"), ("A", "13:00:02"))
    assert counts(funnel(mine, ["A", "B"], counting="totals")) == [2, 1]


def test_sessions_enter_once_each(con: Any) -> None:
    """And all steps are in the session."""
    mine = events(con, ("A", "13:00"), ("A", "13:10"), ("B", "13:20"), ("A", "14:00"), ("B", "14:40"))
    assert counts(funnel(mine, ["A", "B"], counting="sessions")) == [2, 1]


def test_segments_are_entered_once_each(con: Any) -> None:
    """Shirt, jeans, add, shoes: jeans is no entry, as shirt is still under way."""
    mine = events(con, ("A", "13:00", "shirt"), ("A", "13:01", "jeans"), ("B", "13:02", ""), ("A", "13:03", "shoes"))
    found = funnel(mine, ["A", "B"], by="plan").project("segment, users").fetchall()
    assert found == [("shirt", 1), ("shirt", 1), ("shoes", 1), ("shoes", 0)]


def test_a_segment_is_of_the_step_that_is_named(con: Any) -> None:
    """Null where it was not reached."""
    mine = events(con, ("A", "13:00", "x"), ("B", "13:02", "y"), ("C", "12:00", "z"))
    assert funnel(mine, ["A", "B"], by="plan", by_step=2).project("segment, users").fetchall() == [("y", 1), ("y", 1)]
    assert funnel(mine, ["A", "B", "C"], by="plan", by_step=3).project("segment, users").fetchall() == [
        (None, 1),
        (None, 1),
        (None, 0),
    ]


def test_segments_beyond_the_most_frequent_are_one(con: Any) -> None:
    """$other has all their users, and is not mistaken for a value of that name."""
    rows = [Row("A", at("13:00"), f"u{n}", 1, plan) for n, plan in enumerate(["x", "x", "x", "y", "y", "z", "$other"])]
    rows.append(Row("B", at("13:01"), "u5"))
    found = funnel(relation(con, rows), ["A", "B"], by="plan", top=2).project("segment, users").fetchall()
    assert found == [("x", 3), ("x", 0), ("y", 2), ("y", 0), ("$other", 2), ("$other", 1)]


def test_two_hundred_segments_stay(con: Any) -> None:
    """By default, as on Mixpanel's screen."""
    rows = [Row("A", at("13:00"), f"u{n}", 1, f"p{n}") for n in range(203)] + [Row("B", at("13:01"), "u0")]
    found = funnel(relation(con, rows), ["A", "B"], by="plan").filter("step = 1").fetchall()
    assert len(found) == 201
    assert found[-1][:4] == ("$other", 1, "A", 3)


def test_up_to_three_properties_are_held_constant(con: Any) -> None:
    """Uniques have the values of the user's first event, totals those of each entry."""
    mine = events(con, ("A", "13:00", "shirt"), ("A", "13:01", "jeans"), ("B", "13:02", "jeans"))
    assert counts(funnel(mine, ["A", "B"], holding_constant="plan")) == [1, 0]
    assert counts(funnel(mine, ["A", "B"], holding_constant=["plan", "amount", "step"], counting="totals")) == [2, 1]
    with pytest.raises(mpnb.PlanError, match=r"holding_constant must be a column, .*, or a list of up to 3"):
        funnel(mine, ["A", "B"], holding_constant=["plan"] * 4)


def test_any_order_with_an_anchor(con: Any) -> None:
    """What is anchored keeps its place, the others come as they like."""
    mine = events(con, ("A", "13:00"), ("C", "13:01"), ("B", "13:02"), ("D", "13:03"))
    assert counts(funnel(mine, ["A", "B", "C", "D"])) == [1, 1, 0, 0]
    for anchored in ((), (1,), (1, 4), (4,)):
        assert counts(funnel(mine, ["A", "B", "C", "D"], order="any", anchored=anchored)) == [1, 1, 1, 1]
    assert counts(funnel(mine, ["A", "B", "C", "D"], order="any", anchored=(2,))) == [1, 1, 1, 0]
    assert counts(funnel(mine, ["B", "A"], order="any", anchored=(1,))) == [1, 0]


def test_the_rule_that_was_mpnb_s_own_is_there_under_a_name(con: Any) -> None:
    """Every entry is tried; of those that got furthest the earliest counts, also for its times."""
    mine = events(con, ("A", "13:00"), ("A", "13:20"), ("B", "13:30"), ("C", "14:10"))
    found = funnel(mine, ["A", "B", "C"], HOUR, reentry="furthest", grace=timedelta(0))
    assert counts(found, "users, median_seconds") == [(1, 0.0), (1, 600.0), (1, 3000.0)]


def test_shares_are_doubles(con: Any) -> None:
    """Whatever the connection makes of a division."""
    mine = events(con, ("A", "13:00"), ("B", "13:10"))
    other = con.cursor()
    other.execute("SET integer_division = true")
    rows = other.sql(
        "SELECT ['A', 'B'][1 + i // 9] AS event_name, TIMESTAMP '2026-01-01' + to_hours(i) AS time,"
        " 'u' || CASE WHEN i = 9 THEN 0 ELSE i END AS distinct_id FROM range(10) AS r(i)"
    )
    found = funnel(rows, ["A", "B"])
    assert [str(kind) for kind in found.types[3:]] == ["DOUBLE"] * 4
    assert found.fetchall()[1][3:5] == (1 / 9, 1 / 9)
    other.execute("RESET integer_division")
    assert counts(funnel(mine, ["A", "B"])) == [1, 1]


@pytest.mark.parametrize(
    "options",
    [{"order": "any"}, {"counting": "totals"}, {"by": "plan"}, {"reentry": True}],
    ids=["any order", "totals", "segments", "re-entry"],
)
def test_no_setting_turns_its_order_round(con: Any, options: dict[str, Any]) -> None:
    """The user's order for queries that name none is not that of steps and entries."""
    mine = events(
        con,
        ("A", "13:00"),
        ("B", "13:10"),
        ("C", "13:15"),
        ("B", "13:20"),
        ("A", "13:30"),
        ("B", "13:45"),
        ("C", "16:00"),
    )
    asked = lambda: funnel(mine, ["A", "B", "C"], HOUR, **options).fetchall()  # noqa: E731
    wanted = asked()
    con.execute("SET default_order = 'desc'; SET default_null_order = 'nulls_first'")
    try:
        assert asked() == wanted
    finally:
        con.execute("RESET default_order; RESET default_null_order")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reentry": "yes"}, "reentry must be False, True, 'furthest', not 'yes'"),
        ({"order": "none"}, "order must be 'specific' or 'any', not 'none'"),
        ({"counting": "users"}, "counting must be 'uniques', 'totals' or 'sessions', not 'users'"),
        ({"anchored": [1]}, "anchored must be a list of steps for order='any'"),
        ({"grace": 2}, r"grace must be a timedelta, such as timedelta\(seconds=2\), not 2"),
        ({"exclude": {"C": (2, 2)}}, "exclude must be a whole number"),
        ({"exclude": "D"}, "events has no 'D'"),
        ({"by_step": 3, "by": "plan"}, "by_step must be a whole number from 1 to 2"),
        ({"counting": "totals", "reentry": "furthest"}, "it is for counting='uniques' or 'sessions'"),
        ({"by": "plam"}, "no column 'plam'; did you mean 'plan'"),
    ],
)
def test_what_a_funnel_refuses(con: Any, options: dict[str, Any], message: str) -> None:
    """With what it takes instead."""
    mine = events(con, ("A", "13:00"), ("B", "13:10"), ("C", "13:20"))
    with pytest.raises((mpnb.PlanError, UserWarning), match=message):
        funnel(mine, ["A", "B"], **options)
