"""Random values as Mixpanel may send them, and what it means that one is found again."""

from __future__ import annotations

import decimal
import json
import random
from collections.abc import Sequence
from datetime import date, datetime
from typing import Any

from hypothesis import strategies as st

import mpnb
from mpnb.sandbox import Sandbox, serve
from tests._helpers import WIDE, day

# The columns that a property may be in without a type of its own.
EDGES = [0, 10**11, 10**15, 2**53, 2**63, 2**64, 10**38, 2**127, 10**45]
integers = st.one_of(
    st.integers(-100, 100),
    st.builds(
        lambda edge, off, sign: sign * (edge + off),
        st.sampled_from(EDGES),
        st.integers(-2, 2),
        st.sampled_from([1, -1]),
    ),
)
floats = st.floats(allow_nan=False, allow_infinity=False)
timestamps = st.datetimes(min_value=datetime(1, 1, 1)).map(
    lambda t: t.strftime("%Y").zfill(4) + t.strftime("-%m-%dT%H:%M:%S")
)
texts = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=8),
    st.sampled_from(
        ["", "null", "1", "1.0", "true", "NaN", "[1]", "2026-01-01", "2026-02-30T00:00:00", "2026-01-01T00:00:00Z"]
    ),
)
keys = st.one_of(
    st.sampled_from(["a", "A", "b", "", "x\0", "a/b", "~1", '"', "$.a"]),
    st.text(max_size=3, alphabet=st.characters(codec="utf-8")),
)
scalars = st.one_of(st.none(), st.booleans(), integers, floats, texts, timestamps)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=6
)


@st.composite
def _alike(draw: st.DrawFn) -> st.SearchStrategy[Any]:
    """Choose what the values of one property have in common."""
    one = st.sampled_from(
        [st.booleans(), integers, floats, integers | floats, st.integers(-9, 9) | floats, texts, timestamps]
    )
    element = draw(one)
    fields = draw(st.dictionaries(keys, one, min_size=1, max_size=3))
    struct = st.fixed_dictionaries(fields) | st.fixed_dictionaries({}, optional=fields)
    struct = draw(st.sampled_from([st.fixed_dictionaries(fields), struct]))
    some = st.sampled_from(
        [element, element, st.lists(element, max_size=3), struct, st.lists(struct, max_size=2), scalars, anything]
    )
    return draw(some) | draw(st.sampled_from([st.none(), st.nothing(), st.nothing()]))


alike = _alike()
NAMES = [
    "Plan",
    "plan",
    "PLAN",
    "plan_2",
    "plan_3",
    "time",
    "Time",
    "distinct_id",
    "$insert_id",
    "insert_id",
    "$user_id",
]
NAMES += [
    "",
    "a/b",
    "a~1b",
    "x\0y",
    "x_y",
    "_",
    '"',
    "'",
    "*",
    "/",
    "$os",
    "mpnb_batch_id",
    "batch_id",
    "event_name",
    "ß",
    "ä.b",
    "0",
]
names = st.one_of(st.sampled_from(NAMES), st.text(max_size=5, alphabet=st.characters(codec="utf-8")))


@st.composite
def events(draw: st.DrawFn, least: int = 1, most: int = 12) -> list[dict[str, Any]]:
    """Make the properties of some events: some have a property and some do not. ``n`` numbers them."""
    chosen = draw(st.lists(names, unique=True, max_size=5) | st.sampled_from([NAMES[:5], NAMES[5:11]]))
    sorts = {name: draw(alike) for name in chosen}
    count = draw(st.integers(least, most))
    rows = []
    for number in range(count):
        present = draw(st.sets(st.sampled_from(sorted(sorts)))) if sorts else set()
        row = {name: draw(sorts[name]) for name in sorted(present)}
        if not _fits_python(row.get("time")):
            del row["time"]
        rows.append(row | {"n": number})
    return rows


def _fits_python(time: Any) -> bool:
    """Whether a value, taken for the time of an event, is no moment, or one of the years that Python has."""
    try:
        seconds = float(time)
    except (TypeError, ValueError, OverflowError):
        return True
    seconds = seconds / 1000 if abs(seconds) >= 1e11 else seconds
    return -62_135_596_800 <= seconds < 253_402_300_800


def random_value(r: random.Random, depth: int = 3) -> Any:
    """Make any value, without Hypothesis, for very many."""
    kind = r.randrange(9 if depth else 6)
    if kind == 0:
        return r.choice([None, True, False])
    if kind == 1:
        return r.choice([1, -1]) * (r.choice(EDGES) + r.randint(-2, 2))
    if kind == 2:
        return r.randint(-99, 99)
    if kind == 3:
        return r.choice([r.random(), r.uniform(-1e300, 1e300), float(r.randint(-9, 9)), 5e-324, 0.1 + 0.2])
    if kind == 4:
        return r.choice(["", "1", "true", "null", "ü\0\n", "{}", "x" * r.randint(0, 40), "1e5"])
    if kind == 5:
        return f"{r.randint(1, 9999):04}-{r.randint(1, 12):02}-{r.randint(1, 30):02}T00:{r.randint(0, 59):02}:00"
    if kind == 6:
        return {r.choice("abcA"): random_value(r, depth - 1) for _ in range(r.randint(0, 3))}
    return [random_value(r, depth - 1) for _ in range(r.randint(0, 3))]


class Exporter:
    """Export lists of properties, each as the events of one day, from one sandbox into databases in memory."""

    def __init__(self) -> None:
        self.days: dict[date, list[bytes]] = {}
        self.mp: Sandbox = serve(lines=lambda d: self.days.get(d, []))

    def __call__(
        self, *days: list[dict[str, Any]], event: str = "E", names: Sequence[str] = (), **options: Any
    ) -> mpnb.ExportResult:
        """Export days whose events have all the same name, or those of each day another."""
        self.days = {
            day(n): [json.dumps({"event": name, "properties": p}).encode() for p in rows]
            for n, (rows, name) in enumerate(zip(days, names or [event] * len(days), strict=True), 1)
        }
        usual: dict[str, Any] = {"database": ":memory:", "chunk_days": 1, "on_batch": lambda progress: None}
        return mpnb.export(day(1), day(len(days)), credentials=self.mp.credentials, quota=WIDE, **{**usual, **options})

    def put(self, of: date, events: dict[str, list[dict[str, Any]]]) -> None:
        """Say what a day's events are, by name."""
        self.days[of] = [
            json.dumps({"event": name, "properties": p}).encode() for name, rows in events.items() for p in rows
        ]

    def fetch(self, of: date, **options: Any) -> mpnb.ExportResult:
        """Export one day, as it was put."""
        usual: dict[str, Any] = {"chunk_days": 1, "on_batch": lambda progress: None}
        return mpnb.export(of, of, credentials=self.mp.credentials, quota=WIDE, **{**usual, **options})


def rows_of(relation: Any) -> list[dict[str, Any]]:
    """Read a relation as dictionaries."""
    return [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]


def from_arrow(table: Any) -> list[dict[str, Any]]:
    """Read an Arrow table as Python's own values, decimals as the integers that they stand for."""
    return [
        {name: int(value) if isinstance(value, decimal.Decimal) else value for name, value in row.items()}
        for row in table.to_pylist()
    ]


def same(one: Any, other: Any) -> bool:
    """Say whether two values are equal as JSON: 1 and 1.0 are, 1 and true are not."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, int | float) and isinstance(other, int | float):
        return one == other
    return type(one) is type(other) and bool(one == other)


def read(value: Any, column: str, kind: str, name: str) -> Any:
    """Turn a value of a typed column back into what was sent."""
    if value is None:
        return None
    if kind == "JSON":
        return json.loads(value)
    if kind == "TIMESTAMP":
        if name == column == "time":
            return round((value - datetime(1970, 1, 1)).total_seconds())
        return value.isoformat()
    return value


def layout(result: mpnb.ExportResult, name: str, **options: Any) -> dict[str, tuple[str, str]]:
    """Ask the catalog for column and type of each property."""
    rows = result.catalog(name, **options).fetchall()
    return {row[1]: (row[2], row[3]) for row in rows}


def check(rows: list[dict[str, Any]], sent: list[dict[str, Any]], columns: dict[str, tuple[str, str]]) -> None:
    """See that every value of every property sent is there, equal, and null where a property is missing."""
    by_number = {row["n"]: row for row in rows}
    assert len(rows) == len(by_number) == len(sent)
    for event in sent:
        row = by_number[event["n"]]
        for name, (column, kind) in columns.items():
            found = read(row[column], column, kind, name)
            assert same(found, event.get(name)), (name, column, kind, found, event.get(name))
        assert event.keys() <= columns.keys()
