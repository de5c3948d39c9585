"""The tables of typed events: made once, kept up by batch, never in the way of an export or of a user."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings

import mpnb
import mpnb._base.sql
import mpnb._reading.look
import mpnb._reading.typed
from mpnb._reading.typed import MOST_COLUMNS
from mpnb.sandbox import Fault, Sandbox
from tests._helpers import day, event, until
from tests.typed import _values as values

# What drifts is what these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore:values of several types:UserWarning")

Export = Callable[..., mpnb.ExportResult]


def tables(result: mpnb.ExportResult) -> dict[str, int]:
    """Count the rows of the tables of typed events."""
    names = result.sql("SELECT table_name FROM duckdb_tables() WHERE schema_name = 'mpnb_typed'").fetchall()
    return {
        name: result.sql(f"SELECT count(*) FROM mpnb_typed.{name}").fetchall()[0][0]
        for (name,) in names
        if name.startswith("event_")
    }


def column(result: mpnb.ExportResult, name: str, **options: Any) -> list[Any]:
    """Read one property of the event E, in order."""
    return sorted(row[0] for row in result.event("E", **options).project(f'"{name}"').fetchall())


def test_an_event_is_written_once_and_read_from_there(exported: values.Exporter) -> None:
    """The second call reads the table that the first one wrote; ``materialize=False`` writes none."""
    with exported([{"n": 1}, {"n": 2}]) as result:
        assert column(result, "n", materialize=False) == [1, 2]
        assert tables(result) == {}
        assert column(result, "n") == [1, 2]
        assert tables(result) == {"event_1": 2}
        result.sql("UPDATE mpnb_typed.event_1 SET n = n + 10")
        assert column(result, "n") == column(result, "n", materialize=False) == [11, 12]


def test_a_new_batch_adds_its_rows_and_leaves_the_others(exported: values.Exporter, database: Path) -> None:
    """What is typed already is not typed again when a batch is added."""
    with exported([{"n": 1}], database=database) as result:
        column(result, "n")
        result.sql("UPDATE mpnb_typed.event_1 SET n = 10")
    with exported([{"n": 1}], [{"n": 2}], database=database) as result:
        assert column(result, "n") == [2, 10]
    with mpnb.open(database) as db:
        assert column(db, "n") == [2, 10]


def test_a_batch_fetched_again_replaces_its_rows(exported: values.Exporter, database: Path) -> None:
    """After a refresh the typed rows are the new ones, and a relation of before says that it is outdated."""
    with exported([{"n": 1}], [{"n": 2}], database=database) as old:
        relation = old.event("E")
        whole = old.event("E", materialize=False)
        assert len(relation.fetchall()) == 2
        with exported([{"n": 3}], [{"n": "x"}], database=database, mode="refresh") as new:
            assert [v.strip('"') for v in column(new, "n")] == ["x", "3"]
            for outdated in (relation, whole):
                with pytest.raises(duckdb.Error, match=r"call event\(\) again"):
                    outdated.fetchall()
            assert len(column(old, "n")) == 2


def test_what_is_typed_of_a_batch_goes_with_it(exported: values.Exporter, database: Path) -> None:
    """After one of two batches was fetched again, both typed rows and what was seen in them are of those there now."""
    with exported([{"n": 1}], [{"n": 2}], database=database) as result:
        column(result, "n")
    with exported([{"n": 3}], database=database, mode="refresh"):
        pass
    with mpnb.open(database) as db:
        assert column(db, "n") == [2, 3]
        assert tables(db) == {"event_1": 2}
        there = db.sql("SELECT DISTINCT batch_id FROM events ORDER BY ALL").fetchall()
        assert len(there) == 2
        for name in ("event_1", "kinds"):
            typed = f"SELECT DISTINCT COLUMNS('batch_id$') FROM mpnb_typed.{name} ORDER BY ALL"
            assert db.sql(typed).fetchall() == there, name


def test_no_more_is_staged_at_once_than_memory_is_planned_for(
    exported: values.Exporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches are looked at together up to a number of rows, and the types are those of all."""
    staged: dict[str, list[int]] = {"temp.mpnb_stage": [], "temp.mpnb_rows": []}
    run = mpnb._base.sql.run

    def noting(cursor: Any, query: str, *parameters: Any) -> Any:
        answer = run(cursor, query, *parameters)
        for table, counts in staged.items():
            if query.startswith(f"CREATE OR REPLACE TEMP TABLE {table} "):
                counts.append(run(cursor, f"SELECT count(*) FROM {table}")[0][0])
        return answer

    monkeypatch.setattr(mpnb._reading.look, "STAGED_ROWS", 5)
    for module in (mpnb._reading.look, mpnb._reading.typed):
        monkeypatch.setattr(module, "run", noting)
    with exported([{"n": n} for n in (1, 2)], [{"n": n} for n in (3, 4, 5)], [{"n": n} for n in (6, 7.5, 8)]) as result:
        assert column(result, "n") == [1, 2, 3, 4, 5, 6, 7.5, 8]
    assert set(map(tuple, staged.values())) == {(5, 3)}


@given(values.events(), values.events(), values.events())
@settings(max_examples=8, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
def test_a_table_kept_up_is_the_table_made_anew(
    exported: values.Exporter, one: list[Any], two: list[Any], three: list[Any]
) -> None:
    """However batches come and are replaced, columns, types and rows are those of the batches that are there."""
    with duckdb.connect() as con, exported(one, database=con) as result:
        result.event("E")
        with exported(one, two, database=con) as result:
            result.event("E")
        with exported(three, two, database=con, mode="refresh"):
            pass
        result = mpnb.open(con)
        kept = result.event("E"), result.catalog().fetchall()
        rows = sorted(map(repr, kept[0].fetchall()))
        result.forget_typed()
        anew = result.event("E"), result.catalog().fetchall()
        assert (kept[0].columns, list(map(str, kept[0].types))) == (anew[0].columns, list(map(str, anew[0].types)))
        assert rows == sorted(map(repr, anew[0].fetchall()))
        # Approximate counts depend on nothing but the rows; examples may tie.
        assert [row[:9] for row in kept[1]] == [row[:9] for row in anew[1]]
        assert {row[11] for row in kept[1]} <= {0}
        result.close()


def test_a_result_of_some_days_has_their_rows(exported: values.Exporter, database: Path) -> None:
    """The relation of a result has the rows of its days, typed by all that the table has."""
    with exported([{"n": 1}], [{"n": 2.5}], database=database):
        pass
    with exported([{"n": 1}], database=database) as result:
        assert result.event("E").fetchall()[0][-1] == 1.0
        assert str(result.event("E").types[-1]) == "DOUBLE"
        assert [row[4] for row in result.catalog("E").fetchall() if row[1] == "n"] == [1.0]


def test_nothing_is_typed_while_an_export_runs(
    start: Callable[..., mpnb.ExportJob], sandbox: Callable[..., Sandbox], database: Path
) -> None:
    """While an export runs on its table, an event is read from JSON, and nothing is written or dropped."""
    fault = Fault("hang", day=day(2), times=None)
    mp = sandbox(lines=lambda d: [event("E", n=d.day)], faults=[fault])
    job = start(mp)
    until(lambda: job.progress().counts.get("done", 0) == 2)
    with mpnb.open(database) as db:
        assert column(db, "n") == [1, 3]
        assert tables(db) == {}
        job.cancel()
        job.outcome(30).close()
        assert column(db, "n") == [1, 3]
        assert tables(db) == {"event_1": 2}
        job = start(mp)
        until(lambda: job.progress().counts.get("fetching", 0) == 1)
        with pytest.raises(mpnb.TableError, match="is running"):
            db.forget_typed()
        # What is up to date is read from its table all the same.
        assert column(db, "n") == [1, 3]
        job.cancel()
        job.outcome(30).close()


def test_what_cannot_be_written_is_read_from_json(
    exported: values.Exporter, database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the typed tables cannot be written, the rows come from JSON, and the log says why."""
    with exported([{"n": 1}], database=database) as result:
        result.sql("CREATE SCHEMA mpnb_typed")
        result.sql("CREATE VIEW mpnb_typed.events AS SELECT 1")
        with caplog.at_level(logging.WARNING, "mpnb"):
            assert column(result, "n") == [1]
        assert "read from JSON" in caplog.text
        assert tables(result) == {}


def test_a_user_goes_on_with_a_connection_of_their_own(exported: values.Exporter) -> None:
    """A user's open transaction neither stops the tables from being written nor is touched by it."""
    with duckdb.connect() as con:
        con.execute("CREATE TABLE mine (x INTEGER)").fetchall()
        with exported([{"n": 1}], database=con) as result:
            con.execute("BEGIN").fetchall()
            con.execute("INSERT INTO mine VALUES (1)").fetchall()
            assert column(result, "n") == [1]
            assert tables(result) == {"event_1": 1}
            con.execute("COMMIT").fetchall()
            assert con.execute("SELECT x FROM mine").fetchall() == [(1,)]
            assert con.execute("SELECT n FROM mpnb_typed.event_1").fetchall() == [(1,)]


def test_many_threads_make_one_table(exported: values.Exporter) -> None:
    """Calls from many threads at once make one table, and all have its rows."""
    with exported([{"n": n} for n in range(50)]) as result, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: column(result, "n"), range(16)))
        assert found == [list(range(50))] * 16
        assert tables(result) == {"event_1": 50}


def test_forgetting_leaves_other_tables_theirs(exported: values.Exporter, database: Path) -> None:
    """``forget_typed`` drops the tables of its own events, and the schema with the last of them."""
    with exported([{"n": 1}], database=database) as one, exported([{"n": 2}], database=database, table="more") as two:
        assert column(one, "n") == [1]
        assert column(two, "n") == [2]
        one.forget_typed()
        assert tables(two) == {"event_2": 1}
        assert column(one, "n") == [1]
        one.forget_typed()
        two.forget_typed()
        assert two.sql("SELECT 1 FROM duckdb_schemas() WHERE schema_name = 'mpnb_typed'").fetchall() == []
        one.forget_typed()


def test_columns_are_asked_for_by_property_or_by_name(exported: values.Exporter) -> None:
    """``columns`` takes names of properties and of columns, in the order asked for, written or not."""
    rows = [{"Plan": "a", "plan": "b", "x": 1, "drift": 1}, {"drift": "1"}]
    with exported(rows) as result:
        for materialize in (False, True):
            for asked, columns in ((["x", "Plan"], ["x", "Plan"]), (["plan"], ["plan_2"]), (["plan_2"], ["plan_2"])):
                relation = result.event("E", columns=asked, materialize=materialize)
                assert relation.columns[5:] == columns
            assert result.event("E", columns=[], materialize=materialize).columns[4:] == ["insert_id"]
            with pytest.raises(mpnb.PlanError, match="there is no property 'plam'; did you mean 'plan'"):
                result.event("E", columns=["plam"], materialize=materialize)
        assert result.event(["E"], columns=["x"]).columns == [
            "event_name", "time", "distinct_id", "device_id", "user_id", "insert_id", "x",
        ]  # fmt: skip


def test_an_event_of_thousands_of_properties_is_typed_by_the_columns_that_are_named(exported: values.Exporter) -> None:
    """All would take minutes, so that it is refused, and says what to type; some are as quick as ever."""
    wide = {f"p{n}": n for n in range(MOST_COLUMNS + 1)}
    with exported([wide], [{"n": 1}], names=["Wide", "E"]) as result:
        for materialize in (True, False):
            with pytest.raises(mpnb.PlanError, match=r"has 2,001 properties.*columns=\["):
                result.event("Wide", materialize=materialize)
        assert result.event(["Wide", "E"], columns=["p7", "n"]).columns[6:] == ["p7", "n"]
        with pytest.raises(mpnb.PlanError, match=r"2,001 properties.* at most 2,000"):
            result.for_analysis("Wide", list(wide))


def test_events_that_are_wide_together_are_refused(exported: values.Exporter) -> None:
    """Of several events, the columns of all count."""
    halves = [{f"{letter}{n}": n for n in range(MOST_COLUMNS // 2 + 1)} for letter in "ab"]
    with exported(halves[:1], halves[1:], names=["A", "B"]) as result:
        with pytest.raises(mpnb.PlanError, match=r"these events have 2,002 properties.*columns=\["):
            result.event(["A", "B"])
        assert result.event(["A", "B"], columns=["a1", "b1"]).columns[6:] == ["a1", "b1"]


def test_an_event_that_is_not_there_is_named(exported: values.Exporter) -> None:
    """A name that no event has raises, with the names that are close, and writes nothing."""
    with exported([{"n": 1}], event="Purchase") as result:
        with pytest.raises(mpnb.PlanError, match=r"no event 'Purchace'.*did you mean 'Purchase'"):
            result.event(["Purchase", "Purchace"])
        with pytest.raises(mpnb.PlanError, match="a list of them"):
            result.event([])
        assert tables(result) == {}
        result.close()
        with pytest.raises(mpnb.ClosedError):
            result.event("Purchase")
