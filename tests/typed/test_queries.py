"""The catalog, duplicates, time zones and frames: what users ask of events besides their rows."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import duckdb
import pandas
import polars
import pyarrow
import pytest

import mpnb
import mpnb._reading.first_seen
import mpnb._reading.look
from mpnb._base.sql import run
from mpnb.sandbox import Sandbox
from tests._helpers import day, event
from tests.test_pictures import look
from tests.typed import _values as values

# What drifts is what these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore:values of several types:UserWarning")

Export = Callable[..., mpnb.ExportResult]


def test_the_catalog_says_what_is_in_each_property(exported: values.Exporter) -> None:
    """Each row of the catalog has the figures of its property, and why a column is JSON."""
    rows = [
        {"time": 1767225600, "n": 1, "mixed": 1, "shape": {"a": 1}, "ids": 2**63, "none": None, "big": 2**60},
        {"time": 1767225601, "n": 2, "mixed": "x", "shape": {"b": 1}, "ids": 1, "none": None, "big": 0.5},
        {"time": 1767225602, "n": 2, "mixed": True, "shape": {"a": 1}},
        {"time": 1767225603, "n": None, "mixed": "y"},
    ]
    with exported(rows) as result:
        found = {row[1]: row[2:12] for row in result.catalog().fetchall()}
        assert result.catalog().columns == [
            "event_name", "property", "column_name", "type", "share", "nulls", "distinct_values", "minimum", "maximum",
            "examples", "drift", "repeated", "first_seen", "last_seen", "note", "distribution",
        ]  # fmt: skip
    assert found["n"] == ("n", "BIGINT", 1.0, 1, 2, "1", "2", ["2", "1"], None, 0)
    assert found["time"][:4] == ("time", "TIMESTAMP", 1.0, 0)
    assert found["time"][5:7] == ("2026-01-01 00:00:00", "2026-01-01 00:00:03")
    assert found["mixed"][1:7] == ("JSON", 1.0, 0, 4, None, None)
    assert found["mixed"][8] == "text: 2, boolean: 1, number: 1"
    assert found["shape"][8] == "lists or objects that are not all alike"
    assert found["ids"][:2] == ("ids", "HUGEINT")
    assert found["ids"][2:7] == (0.5, 0, 2, "1", str(2**63))
    assert found["none"] == ("none", "VARCHAR", 0.5, 2, 0, None, None, [], None, 0)
    assert found["big"][8] == "numbers that no type holds together"


@pytest.mark.parametrize("some", [1, 5_000])
def test_the_catalog_knows_the_day_of_each_type(
    exported: values.Exporter, monkeypatch: pytest.MonkeyPatch, some: int
) -> None:
    """The first and the last day within a batch of several, wherever they are, however many rows are tried first."""
    monkeypatch.setattr(mpnb._reading.first_seen, "SOME", some)
    noon = 1767225600 + 43200
    sent = [(1, {"a": 1}), (1, {"n": 1}), (2, {"n": "x"}), (2, {"n": 7}), (3, {"n": 2}), (4, {"a": 5}), (4, {"n": "y"})]
    sent += [(6, {"n": 0.5}), (6, {"a": 1}), (7, {"a": 1})]
    days = [[{"time": noon + 86400 * (n - 1), **row} for of, row in sent if of == n] for n in range(1, 8)]
    with exported(*days, chunk_days=4) as result:
        [(first, last)] = result.catalog().filter("property = 'n'").project("first_seen, last_seen").fetchall()
    assert first == {"BIGINT": day(1), "VARCHAR": day(2), "DOUBLE": day(6)}
    assert last == {"BIGINT": day(3), "VARCHAR": day(4), "DOUBLE": day(6)}


def test_a_catalog_of_nothing_has_its_columns(exported: values.Exporter) -> None:
    """Without events the catalog is empty, and a relation all the same."""
    with exported([]) as result:
        assert result.catalog().fetchall() == []
        assert len(result.catalog().columns) == 16
        assert "There are none." in mpnb.analysis.picture(result.catalog()).words


@pytest.mark.parametrize(("staged", "sampled", "few"), [(125_000, 50_000, 1_000), (40, 10, 5), (40, 10, 100)])
def test_each_count_of_a_distribution_is_that_of_a_query(
    exported: values.Exporter, monkeypatch: pytest.MonkeyPatch, staged: int, sampled: int, few: int
) -> None:
    """However many rows are looked at together; all counts of a property are those of its values that are not null."""
    monkeypatch.setattr(mpnb._reading.look, "STAGED_ROWS", staged)
    monkeypatch.setattr(mpnb._reading.look, "SAMPLED", sampled)
    monkeypatch.setattr(mpnb._reading.look, "FEW", few)
    days = [
        [
            {
                "time": 1767225600 + 86400 * of + n, "os": ["iOS", "Android", None][n % 3], "one": 7, "real": n**2 / 8,
                "whole": 10**of * n, "below": -n * 5 - of, "id": f"{of}-{n}", "city": f"c{n % 30 if n % 3 else 0}",
                "huge": 1e300 * n, "small": 1e-320 * n, "bit": n % 2 == of % 2,
            }
            for n in range(60)
        ]
        for of in range(3)
    ]  # fmt: skip
    with exported(*days, chunk_days=1) as result:
        catalog = result.catalog()
        rows = catalog.project("property, type, column_name, distribution").fetchall()
        wanted, asked, ranged = [], [], set()
        for name, kind, column, counts in rows:
            for value in counts.keys() - {"$other"}:
                condition = f"CAST({column} AS VARCHAR) = '{value}'"
                if " – " in value:
                    least, end = value.split(" – ")
                    of = "::TIMESTAMP" if kind == "TIMESTAMP" else "::DOUBLE"
                    condition = f"{column} >= '{least}'{of} AND {column} < '{end}'{of}"
                    ranged.add(name)
                wanted.append((name, value, counts[value]))
                asked.append(f"count(*) FILTER ({condition})")
            if counts:
                wanted.append((name, "all", sum(counts.values())))
                asked.append(f"count({column})")
        [found] = result.event("E").aggregate(", ".join(asked)).fetchall()
        assert wanted == [(*names, count) for (*names, _), count in zip(wanted, found, strict=True)]
        look(mpnb.analysis.picture(catalog))
    kept = {name: counts for name, *_, counts in rows}
    if few > 5:
        assert kept["os"] == {"Android": 60, "iOS": 60}
    assert {"time", "real", "whole", "below", "huge"} <= ranged
    assert kept["one"] == {"7": 180}
    assert kept["id"] == {}
    assert all(len(counts) <= 20 for counts in kept.values())


def twice(of: date, number: int) -> bytes:
    """Make an event of a day with a key twice, one three times, and one twice in an object within."""
    time = int(datetime(of.year, of.month, of.day, tzinfo=UTC).timestamp()) + number
    properties = f'"time":{time},"k":{number},"k":"b","z/~":1,"z/~":2,"z/~":3,"o":{{"x":1,"x":2}}'
    return f'{{"event":"E","properties":{{{properties}}}}}'.encode()


def repeats(result: mpnb.ExportResult, **options: object) -> dict[str, int]:
    """Give the properties that some event has twice or more, and how many events do."""
    return dict(result.catalog(**options).filter("repeated > 0").project("property, repeated").fetchall())  # type: ignore[arg-type]


@pytest.mark.parametrize("materialize", [True, False])
def test_the_catalog_counts_events_with_a_key_twice(
    export: Export, sandbox: Callable[..., Sandbox], materialize: bool
) -> None:
    """The column has the first value, ``properties`` all of them; an object within is kept whole."""
    plain = b'{"event":"E","properties":{"k":7,"o":{"x":1,"x":2}}}'
    mp = sandbox(lines=lambda d: [plain, *(twice(d, n) for n in range(d.day))])
    result = export(mp, day(1), day(3), chunk_days=1)
    assert repeats(result, materialize=materialize) == {"k": 6, "z/~": 6}
    assert sorted(result.event("E", columns=["k", "z/~"]).project('k, "z/~"').fetchall()) == sorted(
        [*[(7, None)] * 3, *[(n, 1) for d in (1, 2, 3) for n in range(d)]]
    )
    assert {o for (o,) in result.event("E", columns=["o"]).project("o::VARCHAR").fetchall()} == {'{"x":1,"x":2}'}
    assert result.sql('SELECT count(*) FROM events WHERE properties LIKE \'%"k":"b"%\'').fetchall() == [(6,)]
    assert repeats(export(mp, day(2), day(2)), materialize=materialize) == {"k": 2, "z/~": 2}


def test_the_catalog_counts_in_the_days_that_were_asked_for(export: Export, sandbox: Callable[..., Sandbox]) -> None:
    """Of a batch with other days as well, the rows of those days alone."""
    mp = sandbox(lines=lambda d: [twice(d, n) for n in range(d.day)])
    export(mp, day(1), day(3), chunk_days=7)
    assert repeats(export(mp, day(2), day(3))) == {"k": 5, "z/~": 5}


def test_typed_tables_of_an_older_mpnb_are_looked_through_again(
    export: Export, sandbox: Callable[..., Sandbox]
) -> None:
    """They do not know what is repeated; the catalog does not take that for nothing."""
    result = export(sandbox(lines=lambda d: [twice(d, 1)]), day(1), day(2), chunk_days=1)
    result.event("E")
    result.con.execute("DELETE FROM mpnb_typed.kinds WHERE kind = 'repeated'").fetchall()
    assert repeats(result) == {"k": 2, "z/~": 2}


def test_names_differ_by_a_stated_rule(exported: values.Exporter) -> None:
    """Names that differ by case, or are taken, get the first number that is free, in the order of code points."""
    names = ["plan", "Plan", "PLAN", "plan_2", "Time", "batch_id", "mpnb_batch_id", "", "_", "a\0b"]
    with exported([dict.fromkeys(names, 1)]) as result:
        columns = {name: column for name, (column, _) in values.layout(result, "E").items()}
    assert columns == {
        "PLAN": "PLAN",
        "Plan": "Plan_3",
        "plan": "plan_4",
        "plan_2": "plan_2",
        "Time": "Time_2",
        "batch_id": "batch_id",
        "mpnb_batch_id": "mpnb_batch_id_2",
        "": "_",
        "_": "__2",
        "a\0b": "a_b",
    }


@pytest.mark.parametrize("materialize", [True, False])
def test_duplicates_are_left_out_of_typed_events_as_of_all(exported: values.Exporter, materialize: bool) -> None:
    """Typed or not, the same events are left out, and ``duplicates`` says how many."""
    same = {"time": 1767225600, "distinct_id": "a", "$insert_id": "i"}
    rows = [
        {**same, "mp_processing_time_ms": 1, "v": "old"},
        {**same, "mp_processing_time_ms": 3, "v": "newest"},
        {**same, "mp_processing_time_ms": "2", "v": "text"},
        {**same, "v": "unknown"},
        {**same, "$insert_id": "j", "v": "other"},
        {"time": 1767225600, "distinct_id": "a", "v": "no id"},
        {"time": 1767225600, "distinct_id": "a", "v": "no id"},
    ]
    with exported(rows[:3], rows[3:]) as result:
        kept = sorted(v for (v,) in result.deduplicated().project("properties->>'v'").fetchall())
        assert kept == ["newest", "no id", "no id", "other"]
        for names in ("E", ["E"]):
            typed = result.event(names, deduplicated=True, materialize=materialize)
            assert sorted(v for (v,) in typed.project("v").fetchall()) == kept
        assert result.duplicates().fetchall() == [("E", 7, 3)]


def test_local_time_of_a_new_project(export: Export, sandbox: Callable[..., Sandbox]) -> None:
    """Where ``time`` is UTC, ``local_time`` is the zone's wall clock, summer and winter, and ``time`` stays."""
    result = export(sandbox(events_per_day=40), "2026-03-28", "2026-03-29", chunk_days=7)
    rows = result.local_time("Europe/Berlin").project("time, utc_time, local_time").fetchall()
    change = datetime(2026, 3, 29, 1)
    assert {(t >= change, local - t) for t, _, local in rows} == {
        (False, timedelta(hours=1)),
        (True, timedelta(hours=2)),
    }
    assert all(t == utc for t, utc, _ in rows)
    with pytest.raises(mpnb.PlanError, match="there is no time zone 'Berlin'"):
        result.local_time("Berlin")


def test_local_time_of_an_old_project(export: Export, sandbox: Callable[..., Sandbox]) -> None:
    """Where ``time`` is the project's wall clock, nothing is shifted until its zone is given; then it is UTC's."""
    result = export(sandbox(events_per_day=40, legacy_timezone="Asia/Kolkata"), day(1), day(2), chunk_days=7)
    with pytest.raises(mpnb.PlanError, match=r"\+5\.5 h off from UTC.*project_timezone="):
        result.local_time("Europe/Berlin")
    rows = result.local_time("Asia/Kolkata", project_timezone="Asia/Kolkata")
    assert all(t - utc == timedelta(hours=5.5) and t == local
               for t, utc, local in rows.project("time, utc_time, local_time").fetchall())  # fmt: skip
    late = rows.project("epoch_ms(utc_time) - (properties->>'/$mp_api_timestamp_ms')::BIGINT").fetchall()
    assert sorted(abs(ms) for (ms,) in late)[len(late) // 2] < 900_000
    assert len(result.local_time("UTC", project_timezone="UTC").fetchall()) == result.total_rows


def test_times_that_cannot_be_meant_have_no_local_time(export: Export, sandbox: Callable[..., Sandbox]) -> None:
    """They stay as they are, and keep no other event from having one."""
    times = [2**63 // 1000 - 1, -(2**63) // 1000, "soon", 1767225600]
    mp = sandbox(lines=lambda d: [event("E", time=time, n=n) for n, time in enumerate(times)])
    result = export(mp, day(1), day(1))
    rows = result.local_time("Asia/Tokyo", project_timezone="America/Los_Angeles")
    found = rows.order("properties->>'/n'").project("local_time - utc_time, time IS NULL, utc_time").fetchall()
    assert found == [
        (None, False, None),
        (None, False, None),
        (None, True, None),
        (timedelta(hours=9), False, datetime(2026, 1, 1, 8)),
    ]


def test_frames_have_types_that_hold_the_values(exported: values.Exporter) -> None:
    """pandas, polars and Arrow have the type of each column, nullable where needed, and no integer is rounded."""
    rows = [
        {"i": 1, "b": True, "f": 1.5, "t": "x", "d": "2026-01-01T00:00:00", "huge": 2**70, "l": [2**60, None],
         "s": {"a": 1}, "some": 2**60 + 1, "maybe": True},
        {"i": 2, "b": False, "f": 1, "t": "y", "d": "2026-01-02T00:00:00", "huge": 1, "l": [], "s": {"a": 2}},
    ]  # fmt: skip
    with exported(rows) as result:
        frame = result.df("E").sort_values("i")
        kinds = {name: str(kind) for name, kind in frame.dtypes.items()}
        assert kinds | {"t": ""} == kinds | {
            "i": "int64", "b": "bool", "f": "float64", "d": "datetime64[us]", "huge": "object", "l": "object",
            "s": "object", "some": "Int64", "maybe": "boolean", "t": "",
        }  # fmt: skip
        assert pandas.api.types.is_string_dtype(frame["t"])
        assert frame["huge"].tolist() == [2**70, 1]
        assert frame["l"].tolist() == [[2**60, None], []]
        assert frame["some"].tolist() == [2**60 + 1, pandas.NA]
        # Sums are HUGEINT in DuckDB: where they fit 64 bits they are plain integers.
        assert result.df(result.event("E").aggregate("sum(i) AS i"))["i"].dtype == "int64"
        schema = result.pl("E").schema
        assert schema["huge"] == polars.Int128
        assert schema["l"] == polars.List(polars.Int64)
        assert schema["s"] == polars.Struct({"a": polars.Int64})
        assert schema["d"] == polars.Datetime("us")
        assert result.arrow("E").schema.field("huge").type == pyarrow.decimal128(38, 0)
        assert result.pl("E")["huge"].to_list() == result.df("E")["huge"].tolist()
        assert list(result.df().columns) == result.events.columns
        with pytest.raises(TypeError, match="unexpected keyword argument 'nonsense'"):
            result.df(nonsense=True)


def test_parquet_wants_a_new_folder_and_known_columns(exported: values.Exporter, tmp_path: Path) -> None:
    """No file is mixed with others, each partition has files of its own, and a wrong column leaves no folder."""
    with exported([{"n": n, "g": n % 3} for n in range(30)]) as result:
        with pytest.raises(mpnb.PlanError, match="no column 'h' to partition by"):
            result.to_parquet(tmp_path / "a", "E", partition_by="h")
        assert not (tmp_path / "a").exists()
        folder = result.to_parquet(tmp_path / "a", "E", partition_by=["g"])
        groups = [polars.read_parquet(file)["g"].unique().to_list() for file in folder.glob("*.parquet")]
        assert sorted(groups) == [[0], [1], [2]]
        with pytest.raises(mpnb.PlanError, match="not empty"):
            result.to_parquet(tmp_path / "a", "E")
        assert polars.read_parquet(result.to_parquet(tmp_path / "all")).height == 30


def test_lists_and_objects_cost_no_queries_of_their_own(
    exported: values.Exporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many properties have them: a query for each of thousands would take minutes."""
    queries: list[str] = []

    def noting(cursor: duckdb.DuckDBPyConnection, query: str, parameters: object = None) -> list[object]:
        queries.append(query)
        return run(cursor, query, parameters)

    monkeypatch.setattr(mpnb._reading.look, "run", noting)
    numbers = []
    for count in (1, 30):
        queries.clear()
        with exported([{f"p{n}": {"a": [n, {"b": "x"}], "c": [[n]]} for n in range(count)}]) as result:
            assert len({row[3] for row in result.catalog().fetchall()}) == 1
            numbers.append(len(queries))
    assert numbers[0] == numbers[1]
