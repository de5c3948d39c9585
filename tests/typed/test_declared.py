"""Declared types: columns of one type whatever comes, and what does not fit is counted, listed and kept."""

from __future__ import annotations

import json
import math
import random
import re
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest

import mpnb
from tests.typed import _values as values

DRIFT = [{"n": n, "pid": str(7) if n % 2 else 7, "amount": 100.5 if n else "9.75"} for n in range(6)]


def types(relation: duckdb.DuckDBPyRelation) -> dict[str, str]:
    """Return the types of a relation's columns by name."""
    return dict(zip(relation.columns, map(str, relation.types), strict=True))


def noted(result: mpnb.ExportResult) -> dict[str, str | None]:
    """Return the notes of the catalog by property."""
    return dict(result.catalog().project("property, note").fetchall())


def test_the_first_use_of_a_drifted_column_says_what_to_type(exported: values.Exporter) -> None:
    """It names the values' types and the call; typed as it says, the column answers in full."""
    with exported(DRIFT) as result:
        with pytest.warns(UserWarning, match="several types make a column JSON") as caught:
            halves = result.event("E", columns=["pid", "amount"])
        assert len(halves.filter("pid = '7'")) < 6
        assert [w.filename for w in caught] == [__file__]
        assert "'pid' (number: 3, text: 3)" in str(caught[0].message)
        call = re.search(r"event\('E', types=\{.*\}\)", str(caught[0].message))
        assert call is not None
        whole = eval(f"result.{call[0]}", {"result": result})
        assert types(whole)["amount"] == "DOUBLE"
        assert whole.aggregate("max(amount)").fetchall() == [(100.5,)]
        whole = result.event("E", types={"pid": "VARCHAR"})
        assert len(whole.filter("pid = '7'")) == 6


def test_it_warns_of_a_column_once_and_of_those_in_use(exported: values.Exporter, recwarn: Any) -> None:
    """Not of those that are not asked for, nor of lists and objects, for which JSON is right."""
    shapes: list[Any] = [[1, "a"], {"a": 1}, {"b": 1}]
    with exported([{**row, "shape": shapes[row["n"] % 3]} for row in DRIFT]) as result:
        result.event("E", columns=["n", "shape"])
        assert not recwarn.list
        for _ in range(2):
            result.event("E", columns=["pid"])
            result.event(["E"], columns=["pid"])
        assert len(recwarn.list) == 1


def test_a_type_is_declared_once_for_the_table(exported: values.Exporter, database: Path) -> None:
    """For all of its events and every later call, also after the file was closed, and whatever comes."""
    with exported(DRIFT, [{"amount": 1}], names=["E", "F"], database=database) as result:
        declared = result.event("E", types={"amount": "double", "pid": "VARCHAR"})
        assert types(declared)["amount"] == "DOUBLE"
    with exported(DRIFT, [{"amount": 1}], [{"amount": "free"}], names=["E", "F", "F"], database=database) as result:
        for relation in (result.event("E"), result.event("E", columns=["amount"], materialize=False)):
            assert types(relation)["amount"] == "DOUBLE"
        with pytest.warns(UserWarning, match="'amount' of 'F' is no DOUBLE in 1 events, and null there"):
            assert result.event("F").project("amount").fetchall() == [(1.0,), (None,)]
        both = result.event(["E", "F"], columns=["amount", "pid"])
        assert types(both) | {"amount": "DOUBLE", "pid": "VARCHAR"} == types(both)
        assert sorted(both.filter("amount IS NOT NULL").project("amount").fetchall())[0] == (1.0,)
        assert types(result.event("E", types={"amount": None}, columns=["amount"]))["amount"] == "JSON"
    mpnb.drop("events", database=database)
    with duckdb.connect(database) as con:
        assert con.sql("SELECT name FROM mpnb_meta").fetchall() == [("layout",)]


def test_what_does_not_fit_is_counted_listed_and_kept(exported: values.Exporter) -> None:
    """By event and property, in the days that were asked for; the JSON has it, and the catalog says how many."""
    rows = [{"amount": each, "n": n} for n, each in enumerate([1, "2", "free", "free", None, True, [1], 2**60 + 1])]
    with exported(rows, [{"amount": "1_0", "n": 9}]) as result:
        with pytest.warns(UserWarning, match=r"'amount' of 'E' is no DOUBLE in 6 events.* misfits\(\) lists"):
            relation = result.event("E", types={"amount": "DOUBLE"})
        assert sorted(relation.filter("amount IS NOT NULL").project("amount").fetchall()) == [(1.0,), (2.0,)]
        found = result.misfits().project("event_name, property, type, value, events").fetchall()
        wanted = [('"free"', 2), ('"1_0"', 1), (str(2**60 + 1), 1), ("[1]", 1), ("true", 1)]
        assert found == [("E", "amount", "DOUBLE", value, count) for value, count in wanted]
        assert result.misfits("E").columns[-2:] == ["first", "last"]
        assert result.misfits("none").fetchall() == []
        assert noted(result)["amount"] == "declared as DOUBLE: 6 values do not fit, and misfits() lists them"
        found = result.catalog().filter("property = 'amount'").project("type, minimum, maximum, drift").fetchall()
        assert found == [("DOUBLE", "1.0", "2.0", "text: 4, number: 2, boolean: 1, list or object: 1")]
        kept = result.events.filter("properties->>'/amount' = 'free'")
        assert len(kept) == 2


@pytest.mark.parametrize("writable", [True, False])
def test_events_to_analyse_have_declared_types(exported: values.Exporter, database: Path, writable: bool) -> None:
    """And warn likewise of what drifts, of what does not fit, and of what comes later."""
    with exported(DRIFT, [{"amount": "free", "pid": "x"}], database=database) as result:
        with pytest.warns(UserWarning, match=r"JSON, which compares as text: 'amount'. .*event\('E', types=") as caught:
            result.for_analysis(properties=["n", "amount"], identities="exported")
        assert len(caught) == 1
        with pytest.warns(UserWarning, match="'amount' of 'E' is no DOUBLE in 1 events"):
            result.event("E", types={"amount": "DOUBLE", "pid": "VARCHAR"}, columns=["amount"])
    with duckdb.connect(database, read_only=not writable) as con, mpnb.open(con) as result:
        with pytest.warns(UserWarning, match="'amount' is no DOUBLE in 1 events, and null there"):
            events = result.for_analysis(properties=["amount", "pid"], identities="exported")
        assert [types(events)[name] for name in ("amount", "pid")] == ["DOUBLE", "VARCHAR"]
        assert events.aggregate("max(amount), count(amount), count(pid)").fetchall() == [(100.5, 6, 7)]
        if writable:
            result.event("E", types={"pid": None}, columns=["n"])
            with pytest.warns(UserWarning, match="compares as text: 'pid'"):
                events = result.for_analysis(properties=["pid"], identities="exported")
            assert types(events)["pid"] == "JSON"


def test_what_is_declared_is_checked(exported: values.Exporter) -> None:
    """Before anything is stored: the property, the type, the form; a column of every event has its type."""
    wrong: list[tuple[Any, str]] = [
        ({"amuont": "DOUBLE"}, "there is no property 'amuont'; did you mean 'amount'"),
        ({"amount": "MONEY"}, "types must be 'BOOLEAN', .* or 'JSON', or None to take a type back, not 'MONEY'"),
        ({5: "DOUBLE"}, "types is by property, and 5 is not a name"),
        (["amount"], "types must be a mapping from properties to types"),
        ({"distinct_id": "BIGINT"}, "'distinct_id' is a column of every event"),
    ]
    with exported([{"amount": 1, "Plan": 1, "plan": 2, "distinct_id": "a"}]) as result:
        result.event("E")
        for given_types, message in wrong:
            with pytest.raises(mpnb.PlanError, match=message):
                result.event("E", types=given_types)
        assert types(result.event("E", types={"plan_2": "VARCHAR"}))["plan_2"] == "VARCHAR"
        assert types(result.event("E"))["Plan"] == "BIGINT"


def test_what_may_not_be_stored_is_for_one_relation(exported: values.Exporter, database: Path) -> None:
    """As asked for, or since the file is open for reading only."""
    with exported(DRIFT, database=database) as result:
        mine = result.event("E", types={"pid": "VARCHAR"}, columns=["pid"], materialize=False)
        assert types(mine)["pid"] == "VARCHAR"
    with duckdb.connect(database, read_only=True) as con, mpnb.open(con) as result:
        mine = result.event("E", types={"pid": "VARCHAR"}, columns=["pid"])
        assert mine.project("pid").distinct().fetchall() == [("7",)]


def fits(value: Any, kind: str) -> Any:
    """Return a value in a declared type, slowly and from the rules as documented, or ``None``."""
    text = value if isinstance(value, str) else json.dumps(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        text = f"{int(Decimal(repr(value)))}.0"  # as DuckDB writes it
    if kind == "BOOLEAN":
        return {"true": True, "false": False}.get(text)
    if kind == "TIMESTAMP":
        match = isinstance(value, str) and re.fullmatch(
            r"(\d{4}-\d\d-\d\d)(?:[T ]((?:[01]\d|2[0-3]):\d\d(?::\d\d(?:\.\d{1,6})?)?)Z?)?", text, re.ASCII
        )
        try:
            return datetime.fromisoformat(f"{match[1]} {match[2] or '00:00'}") if match else None
        except ValueError:
            return None
    if isinstance(value, bool) or not re.fullmatch(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", text, re.ASCII):
        return None
    if kind == "DOUBLE":
        number = float(text)
        exact = not re.fullmatch(r"-?\d+", text) or (abs(int(text)) < 10**38 and int(number) == int(text))
        return number if math.isfinite(number) and exact else None
    whole = re.fullmatch(r"(-?\d+)(\.0+)?", text)
    most = 2**63 if kind == "BIGINT" else 10**38
    return int(whole[1]) if whole and -most - (kind == "BIGINT") < int(whole[1]) < most else None


EDGES: list[Any] = [
    *(
        "null",
        "1.0",
        "NaN",
        "[1]",
        "1e5",
        "1e400",
        "007",
        "1.00",
        "-0",
        "+1",
        "1_0",
        " 1",
        "1\n",
        "x\0y",
        "1\0",
        "true\n",
    ),
    *("2026-01-01", "2026-01-01 10:00", "2026-01-01T00:00:00Z", "2026-01-01T24:00:00", "2026-01-01T10:60"),
    *(
        "true\n",
        "2026-01-01\n",
        "2026-02-30T00:00:00",
        "9999-12-31T23:59:59.123456",
        "0000-01-01",
        "0001-01-01",
        "TRUE",
    ),
    *(
        str(2**63),
        str(2**63 - 1),
        str(-(2**63)),
        2**53 + 1,
        2**53 + 2,
        10**38,
        10**38 - 1,
        -(10**38),
        2**127,
        -(2**127),
    ),
    *(7.0, -0.0, 1e17, 1e22, 5e-324, -4.417671634226522e16),
]


def test_a_value_fits_if_it_is_the_same(exported: values.Exporter) -> None:
    """Against the rules written out, for every type; what is null in the column is among the misfits, and only that."""
    r = random.Random(15)
    kinds = ("BOOLEAN", "BIGINT", "HUGEINT", "DOUBLE", "TIMESTAMP", "VARCHAR")
    drawn = EDGES + [each for each in (values.random_value(r) for _ in range(2000)) if each is not None]
    with exported([{"n": n, **dict.fromkeys(kinds, each)} for n, each in enumerate(drawn)]) as result:
        with pytest.warns(UserWarning, match="of 'E' is no"):
            relation = result.event("E", types={kind: kind for kind in kinds})
        found = {row["n"]: row for row in values.rows_of(relation)}
        misfits = dict(result.misfits().aggregate("property, sum(events)").fetchall())
    assert [row["VARCHAR"] for n, row in found.items() if isinstance(drawn[n], str)] == [
        drawn[n] for n in found if isinstance(drawn[n], str)
    ]
    for kind in kinds[:-1]:
        wanted = {n: fits(each, kind) for n, each in enumerate(drawn)}
        assert {n: row[kind] for n, row in found.items()} == wanted
        assert misfits[kind] == sum(each is None for each in wanted.values())
    assert "VARCHAR" not in misfits
