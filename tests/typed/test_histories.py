"""
Columns that stay: whatever comes later, a name means the same property.

``MPNB_HISTORIES=1000`` tries that many; without it there are a few.
"""

from __future__ import annotations

import os
import random
from typing import Any

import duckdb
import pytest

import mpnb
from tests._helpers import day
from tests.typed import _values as values

# What drifts is what these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore:values of several types:UserWarning")

HISTORIES = int(os.environ.get("MPNB_HISTORIES", "12"))
NAMES = ["plan", "Plan", "PLAN", "plan_2", "Plan_2", "plan_3", "user_id", "$user_id", "Time", "", "_", "a\0b"]
NAMES += ["a_b", "event_name", "amount", "Amount"]
EVENTS = ("A", "B")


def history(r: random.Random) -> list[tuple[list[int], dict[int, dict[str, list[dict[str, Any]]]]]]:
    """Make what each export brings: the days that it fetches, and the properties of each day's events."""
    there = {event: r.sample(NAMES, 2) for event in EVENTS}
    exports = []
    for number in range(1, 4):
        days = [number] if number == 1 or r.random() < 0.6 else [number, r.randrange(1, number)]
        brought: dict[int, dict[str, list[dict[str, Any]]]] = {}
        for n in sorted(days):
            for event in EVENTS:
                if r.random() < 0.8:
                    there[event] = sorted({*there[event], r.choice(NAMES)})
                if r.random() < 0.2:
                    there[event] = there[event][1:]
            brought[n] = {
                event: [{name: value(r, name) for name in there[event]} for _ in range(2)] for event in EVENTS
            }
        exports.append((sorted(days), brought))
    return exports


def value(r: random.Random, name: str) -> Any:
    """Make a value that tells its property, of one type or another."""
    mark = NAMES.index(name)
    return r.choice([f"p{mark}", f"p{mark}", {"p": mark}, [mark] * 3, 1000 + mark])


def mark_of(found: Any) -> int:
    """Tell from a value which property it is of."""
    digits = [int(part) for part in "".join(c if c.isdigit() else " " for c in str(found)).split()]
    return digits[0] % 1000


def meant(relation: duckdb.DuckDBPyRelation) -> dict[str, set[str]]:
    """Say of which properties the values of each column are."""
    own = [
        name for name in relation.columns if name not in ("time", "distinct_id", "device_id", "insert_id", "event_name")
    ]
    rows = relation.project(", ".join(f'"{name}"' for name in own)).fetchall() if own else []
    return {name: {NAMES[mark_of(row[n])] for row in rows if row[n] is not None} for n, name in enumerate(own)}


@pytest.mark.parametrize("seed", range(HISTORIES))
def test_a_saved_query_means_the_same_property_on_every_later_day(exported: values.Exporter, seed: int) -> None:
    """Properties come, collide by case, drift and vanish, and batches are replaced: no column changes hands."""
    r = random.Random(seed)
    saved: dict[tuple[str, str], str] = {}
    with duckdb.connect() as con:
        for days, brought in history(r):
            for n in days:
                time = {"time": 1767225600 + 86400 * (n - 1)}
                exported.put(day(n), {event: [time | row for row in rows] for event, rows in brought[n].items()})
                exported.fetch(day(n), database=con, mode="refresh").close()
            with mpnb.open(con) as db:
                if r.random() < 0.2:
                    db.forget_typed()
                relations = {event: db.event(event) for event in EVENTS}
                if r.random() < 0.5:
                    db.catalog()
                relations["both"] = db.event(list(EVENTS))
                for where, relation in relations.items():
                    for name, properties in meant(relation).items():
                        assert len(properties) <= 1, (where, name, properties)
                        for one in properties:
                            assert saved.setdefault((where, name), one) == one, (where, name, one)
