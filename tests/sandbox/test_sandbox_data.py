"""Made-up events are the same each time, and as odd as real ones."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, date, datetime, timedelta

import pytest

from mpnb.sandbox._data import MadeUp

DAY = date(2026, 1, 6)


def lines(made_up, day=DAY, **how):
    return b"".join(made_up.blocks(day, **how)).split(b"\n")[:-1]


@pytest.fixture(scope="module")
def events():
    return [json.loads(line) for line in lines(MadeUp(1, 20_000))]


@pytest.fixture(scope="module")
def properties(events):
    return [event["properties"] for event in events]


def test_a_seed_and_a_day_make_the_same_bytes():
    """Bytes follow from seed and day, and differ with each."""
    first = lines(MadeUp(7, 300))
    assert first == lines(MadeUp(7, 300))
    assert first != lines(MadeUp(8, 300))
    assert first != lines(MadeUp(7, 300), DAY + timedelta(1))


@pytest.mark.parametrize("per_day", [0, 1, 3, 2500])
def test_count_is_what_comes(per_day):
    """count() is right without making anything up."""
    made_up = MadeUp(0, per_day)
    assert len(lines(made_up)) == made_up.count(DAY)


def test_a_week_has_its_rhythm():
    """Weekends are quieter, and the mean is what was asked for."""
    made_up = MadeUp(0, 1000)
    counts = [made_up.count(date(2026, 1, 5) + timedelta(n)) for n in range(70)]
    assert max(counts[5::7] + counts[6::7]) < min(counts[0::7])
    assert sum(counts) / 70 == pytest.approx(1000, rel=0.03)


def test_every_line_is_an_event_of_its_day(events):
    """Each has a name and times within the day, in seconds UTC."""
    start = datetime(2026, 1, 6, tzinfo=UTC).timestamp()
    assert all(set(event) == {"event", "properties"} for event in events)
    assert all(start <= event["properties"]["time"] < start + 86_400 for event in events)
    assert len({event["event"] for event in events}) == 9


def test_days_have_an_hour_of_rush(properties):
    """Evenings are many times busier than nights."""
    hours = Counter(each["time"] // 3600 % 24 for each in properties)
    assert hours[20] > 5 * hours[3]


def test_events_say_that_they_are_made_up(properties):
    """No event could be taken for a real one."""
    assert all(each["made_up"] is True for each in properties)


def test_people_come_back():
    """Many of one day's people are there the next day too."""
    days = [{json.loads(line)["properties"].get("distinct_id") for line in lines(MadeUp(0, 3000), day)}
            for day in (DAY, DAY + timedelta(1))]  # fmt: skip
    assert len(days[0] & days[1]) > 100


def test_a_few_events_lack_an_identity(properties):
    """Some have no distinct_id, a null or an empty one, and some no $insert_id."""
    kinds = Counter(each.get("distinct_id", "missing") or repr(each["distinct_id"]) for each in properties)
    assert min(kinds["missing"], kinds["None"], kinds["''"]) > 0
    assert kinds["missing"] + kinds["None"] + kinds["''"] < 0.06 * len(properties)
    assert 0 < sum("$insert_id" not in each for each in properties) < 0.05 * len(properties)


def test_some_events_are_true_duplicates(events):
    """Equal by Mixpanel's rule, with a newer processing time; all others are unique."""
    seen, duplicates = {}, 0
    for event in events:
        each = event["properties"]
        if "$insert_id" not in each:
            continue
        key = event["event"], each.get("distinct_id"), each["time"], each["$insert_id"]
        if key in seen:
            duplicates += 1
            assert seen[key] != each["mp_processing_time_ms"]
        seen[key] = each["mp_processing_time_ms"]
    assert 0 < duplicates < 0.02 * len(events)


def test_values_are_as_odd_as_real_ones(events, properties):
    """Nested values, 19-digit numbers, names that differ by case or are a column's, U+2028, types that drift."""
    whole = json.dumps(events, ensure_ascii=False)
    assert "\u2028" in whole
    assert "東京" in whole
    assert any({"plan", "Plan"} <= set(each) for each in properties)
    assert any("event" in each for each in properties)
    assert all(10**18 < each["trace_id"] < 2**63 for each in properties)
    assert any(isinstance(each.get("items"), list) for each in properties)
    assert len({type(each["count"]) for each in properties if "count" in each}) == 2


def test_an_event_has_about_600_bytes():
    """Sizes are those of a real project's events."""
    some = lines(MadeUp(0, 5000))
    assert 500 < sum(map(len, some)) / len(some) < 800


def test_milliseconds_are_asked_for():
    """With milliseconds, only time differs."""
    pairs = zip(lines(MadeUp(0, 200)), lines(MadeUp(0, 200), milliseconds=True), strict=True)
    for seconds, millis in ((json.loads(a), json.loads(b)) for a, b in pairs):
        assert seconds["properties"].pop("time") == millis["properties"].pop("time") // 1000
        assert seconds == millis


@pytest.mark.parametrize(
    ("day", "offsets"), [(DAY, {-8}), (date(2026, 7, 1), {-7}), (date(2026, 3, 8), {-8, -7})], ids=str
)
def test_an_old_project_shows_wall_clock_as_time(day, offsets):
    """time is local and inside the local day, $mp_api_timestamp_ms is UTC, also on the day when clocks change."""
    start = datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()
    found = set()
    for line in lines(MadeUp(0, 2000, "America/Los_Angeles"), day):
        each = json.loads(line)["properties"]
        assert start <= each["time"] < start + 86_400
        behind = each["$mp_api_timestamp_ms"] / 1000 - each["time"]
        if behind < 9 * 3600:
            found.add(-int(behind // 3600))
    assert offsets <= found
