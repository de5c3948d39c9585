"""Whatever is in the properties of events is in their typed columns, too, equal."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mpnb
from mpnb.sandbox import serve
from tests._helpers import WIDE, day
from tests.typed import _values as values

# What drifts is what these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore:values of several types:UserWarning")

few = settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@given(values.events(), values.events(), st.booleans())
@few
def test_every_value_is_found_again(
    exported: values.Exporter, first: list[dict[str, Any]], second: list[dict[str, Any]], materialize: bool
) -> None:
    """Every value of every property is found again, equal: in the relation, and through pandas, polars and Arrow."""
    sent = first + [event | {"n": event["n"] + len(first)} for event in second]
    with exported(sent[: len(first)], sent[len(first) :]) as result:
        columns = values.layout(result, "E", materialize=materialize)
        relation = result.event("E", materialize=materialize)
        values.check(values.rows_of(relation), sent, columns)
        frame = result.df("E", materialize=materialize)
        values.check(from_pandas(frame), sent, columns)
        values.check(result.pl("E", materialize=materialize).to_dicts(), sent, columns)
        values.check(values.from_arrow(result.arrow("E", materialize=materialize)), sent, columns)
        for name, kind in zip(relation.columns, relation.types, strict=True):
            assert str(kind) != "BLOB"
            assert "JSON" not in str(kind) or str(kind) == "JSON", name


def from_pandas(frame: Any) -> list[dict[str, Any]]:
    """Read a DataFrame as Python's own values: what pandas says is missing is None."""
    import pandas

    rows: list[dict[str, Any]] = [{} for _ in range(len(frame))]
    for name, series in frame.items():
        for row, value in zip(rows, series.tolist(), strict=True):
            missing = not isinstance(value, list | dict) and pandas.isna(value)
            row[name] = None if missing else value.to_pydatetime() if hasattr(value, "to_pydatetime") else value
    return rows


@given(values.events(least=2), values.events(), values.events())
@few
def test_a_union_of_events_keeps_every_value(
    exported: values.Exporter, a: list[dict[str, Any]], b: list[dict[str, Any]], c: list[dict[str, Any]]
) -> None:
    """Events together have a column for each property of any, of a type that holds the values of all."""
    exported.days = {}
    sent = {name: [e | {"n": f"{name} {e['n']}"} for e in some] for name, some in (("A", a), ("B", b), ("c", c))}
    lines = [json.dumps({"event": name, "properties": e}).encode() for name, some in sent.items() for e in some]
    with serve(lines=lambda d: lines) as mp, mpnb.export(
        day(1), day(1), credentials=mp.credentials, quota=WIDE, database=":memory:", on_batch=lambda progress: None
    ) as result:  # fmt: skip
        relation = result.event(["A", "B", "c"])
        assert relation.columns[:2] == ["event_name", "time"]
        rows = values.rows_of(relation)
        flat = [event | {"mpnb event": name} for name, some in sent.items() for event in some]
        every = {name for event in flat for name in event} - {"mpnb event"}
        columns = union_layout(relation, every, flat)
        values.check(rows, [{k: v for k, v in event.items() if k != "mpnb event"} for event in flat], columns)
        assert {row["n"]: row["event_name"] for row in rows} == {event["n"]: event["mpnb event"] for event in flat}


def union_layout(relation: Any, every: set[str], flat: list[dict[str, Any]]) -> dict[str, tuple[str, str]]:
    """Name the columns of a union by the rule that the documentation states, from the names alone."""
    types = dict(zip(relation.columns, map(str, relation.types), strict=True))
    fixed = {"time": "time", "distinct_id": "distinct_id", "$user_id": "user_id", "$insert_id": "insert_id"}
    columns: dict[str, str] = {}
    for name, column in fixed.items():
        seen = [event[name] for event in flat if event.get(name) is not None]
        fits = (
            all(type(v) is int and abs(v) < 10**11 for v in seen)
            if name == "time"
            else all(type(v) is str for v in seen)
        )
        if name in every and fits:
            columns[name] = column
    taken = {"time", "distinct_id", "device_id", "user_id", "insert_id", "event_name", "mpnb_batch_id"}
    plain = {name: name.replace("\0", "_") or "_" for name in sorted(every) if name not in columns}
    for name, base in plain.items():
        choices = [base] + [f"{base}_{n}" for n in range(2, 99)]
        own = {other.casefold() for other in plain.values()}
        free = [c for c in choices if c.casefold() not in taken and (c == base or c.casefold() not in own)]
        columns[name] = free[0]
        taken.add(free[0].casefold())
    assert set(columns.values()) <= set(types)
    return {name: (column, types[column]) for name, column in columns.items()}


def test_nothing_is_lost_in_10_000_sets_that_drift(exported: values.Exporter) -> None:
    """Of 10,000 properties with random values of random kinds, each value is found again."""
    r = random.Random(6)
    lines, sent = [], {}
    for number in range(50):
        rows = [
            {f"p{k:03}": values.random_value(r) for k in range(200) if r.random() < 0.9} | {"n": n} for n in range(6)
        ]
        sent[f"E{number}"] = rows
        lines += [json.dumps({"event": f"E{number}", "properties": row}).encode() for row in rows]
    kinds = set()
    with serve(lines=lambda d: lines) as mp, mpnb.export(
        day(1), day(1), credentials=mp.credentials, quota=WIDE, database=":memory:", on_batch=lambda progress: None
    ) as result:  # fmt: skip
        for name, rows in sent.items():
            relation = result.event(name)
            types = dict(zip(relation.columns, map(str, relation.types), strict=True))
            columns = {each: (each, types[each]) for row in rows for each in row}
            values.check(values.rows_of(relation), rows, columns)
            kinds |= set(types.values())
    assert kinds >= {"JSON", "BIGINT", "HUGEINT", "DOUBLE", "VARCHAR", "BOOLEAN", "TIMESTAMP"}


@given(values.events(), st.booleans())
@settings(few, max_examples=15)
def test_parquet_reads_back_equal(exported: values.Exporter, sent: list[dict[str, Any]], parted: bool) -> None:
    """pandas, polars and DuckDB read from the files what the relation has."""
    import tempfile

    import duckdb
    import pandas
    import polars

    rows = [event | {"half": "a/b=1" if event["n"] % 2 else None} for event in sent]
    with exported(rows) as result, tempfile.TemporaryDirectory() as folder:
        path = result.to_parquet(Path(folder) / "new", "E", partition_by="half" if parted else None)
        columns = values.layout(result, "E")
        files = str(path / "*.parquet")
        with duckdb.connect() as con:
            table = con.sql(f"FROM read_parquet('{files}')").to_arrow_table()
        values.check(values.from_arrow(table), rows, columns)
        values.check(values.from_arrow(polars.read_parquet(files).to_arrow()), rows, columns)
        values.check(values.from_arrow(polars.from_pandas(pandas.read_parquet(path)).to_arrow()), rows, columns)
