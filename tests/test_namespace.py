"""Names of ours in the user's SQL, names and settings of theirs in ours: neither changes what the other gives."""

from __future__ import annotations

import ast
import contextlib
import re
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import mpnb
from mpnb.analysis import funnel, retention, segmentation
from mpnb.sandbox import Fault, Sandbox, serve
from tests._helpers import WIDE, day, event, side_by_side

IS_OLD = duckdb.__version__ < "2"


# --- an export in which every setting matters -----------------------------------------------------------------------


def lines(when: date) -> list[bytes]:
    """
    Make the events of a day: names, users and properties that differ by case or accents alone, nulls, duplicates.

    One line in ten is no event, or has a key too many.
    """
    made = []
    for n in range(40):
        seconds = int((when - date(1970, 1, 1)).total_seconds()) + 1000 * n
        name = ["Sign Up", "sign up", "Purchase", "Été", "Ete"][n % 5]
        more: dict[str, Any] = {"Plan": "Pro", "plan": n} if n % 3 else {"plan": None, "Où": [{"A": 1, "b": "x"}]}
        if n % 2:
            more |= {"$os": ["iOS", "IOS", "", None][n // 2 % 4], "amount": n / 4, "at": "2026-01-31T09:00:00"}
        if n % 7 == 0:
            more |= {"$insert_id": f"{'iI'[n % 2]}{n // 14}", "mp_processing_time_ms": 1767225600000 + n}
        user = ["Ann", "ann", "", "Zoë", "Zoe"][(n + n // 5) % 5]
        made.append(event(name, time=seconds, distinct_id=user, **more))
        made += [made[-1]] if n % 7 == 0 else []
    return [*made, b'{"event": "Half', b"\xff", b"[1]", event("With more")[:-1] + b', "more": 1}']


@pytest.fixture(scope="module")
def mp() -> Iterator[Sandbox]:
    """Serve these days; the third and the fifth fail."""
    with serve(lines=lines, faults=[Fault("status", day(n), status=400, times=None) for n in (3, 5)]) as mp:
        yield mp


def everything(result: mpnb.ExportResult, folder: Path) -> dict[str, Any]:
    """Read all that a result gives, in order where it promises one, but for the times of the export."""
    ordered: dict[str, Any] = {
        "ledger": result.batches.project("batch_id, from_date, to_date, status, rows, rejected, kind, hint"),
        "failures": result.failures.project("from_date, to_date, status, kind, http_status, message, hint"),
        "rejected": result.rejected,
        "names": result.event_names(),
        "duplicates": result.duplicates(),
        "catalog": result.catalog(),
        "check": result.check().relation,
    }
    unordered: dict[str, Any] = {
        "events": result.events,
        "once": result.deduplicated(),
        "local": result.local_time("Europe/Berlin", project_timezone="America/New_York"),
    }
    names = ["Sign Up", "sign up", "Purchase", "Été", "Ete"]
    some = result.event(names, deduplicated=True)
    for name in names:
        unordered[name] = result.event(name)
        unordered[f"{name} from JSON"] = result.event(name, materialize=False, deduplicated=True)
    unordered["several"] = some
    steps = ["Sign Up", ("Purchase", "amount > 1"), "Été"]
    ordered["funnel"] = funnel(some, steps, timedelta(days=1))
    ordered["weeks"] = retention(some, "Sign Up", "Purchase", unit="day")
    ordered["units"] = segmentation(some, unit="week", by="$os")
    ordered["halves"] = segmentation(some, ("Purchase", "amount IS NOT NULL"), by="amount > 5")
    got = {key: each.fetchall() for key, each in ordered.items()}
    got |= {key: sorted(each.fetchall(), key=repr) for key, each in unordered.items()}
    got |= {f"columns of {key}": each.columns for key, each in (ordered | unordered).items()}
    got["frame"] = sorted(map(tuple, result.df("Purchase").astype(str).to_numpy().tolist()))
    got["polars"] = result.pl(names).sort(pl.all()).rows()
    got["arrow"] = sorted(result.arrow("Sign Up").to_pylist(), key=repr)
    parquet = result.to_parquet(folder, names, partition_by="event_name")
    got["parquet"] = sorted(duckdb.connect().execute(f"FROM '{parquet}/**/*.parquet'").fetchall(), key=repr)
    got["text"] = re.sub(r"took .*", "", repr(result))
    got["ranges"] = result.failed_date_ranges
    got["rows"] = result.total_rows
    return got


def fetched(mp: Sandbox, con: duckdb.DuckDBPyConnection, folder: Path) -> dict[str, Any]:
    """Export into a connection, bring one day up to date, and read everything."""
    usual: dict[str, Any] = {"database": con, "credentials": mp.credentials, "quota": WIDE, "chunk_days": 1}
    with mpnb.export(day(1), day(2), on_batch=lambda _: None, **usual) as first:
        first.event("Purchase")
    with mpnb.export(day(2), day(2), mode="refresh", on_batch=lambda _: None, **usual):
        pass
    with mpnb.export(day(1), day(5), on_batch=lambda _: None, **usual) as result:
        return everything(result, folder)


@pytest.fixture(scope="module")
def usual(mp: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Give what everything is with DuckDB as it comes."""
    with duckdb.connect() as con:
        return fetched(mp, con, tmp_path_factory.mktemp("usual") / "out")


def test_what_is_compared_is_not_nothing(usual) -> None:
    """All that is read has rows, and what hostile settings would change is among it."""
    assert all(usual.values())
    assert [name for name, *_ in usual["names"]] == ["Sign Up", "Ete", "Purchase", "sign up", "Été", "With more"]
    assert {kind for *_, kind, _ in usual["ledger"]} == {None, "http"}
    assert {reason for _, _, _, reason, *_ in usual["rejected"]} >= {
        "no valid JSON",
        "no valid UTF-8",
        "no JSON object",
    }
    assert 0 < usual["funnel"][1][3] < 1
    assert {row[1] for row in usual["units"]} == {"iOS", "IOS", "", None}


# --- settings of theirs ---------------------------------------------------------------------------------------------

# Not all are known to each DuckDB.
HOSTILE = {
    "integer_division": "true",
    "default_order": "'desc'",
    "default_null_order": "'nulls_first'",
    "default_collation": "'nocase'",
    "ieee_floating_point_ops": "false",
    "scalar_subquery_error_on_multiple_rows": "false",
    "order_by_non_integer_literal": "true",
    "old_implicit_casting": "true",
    "dialect_compatibility_mode": "'spark'",
    "preserve_identifier_case": "'uppercase'",
    "TimeZone": "'Asia/Kathmandu'",
    "Calendar": "'japanese'",
    "disable_timestamptz_casts": "true",
    "errors_as_json": "true",
    "file_search_path": "'/nowhere'",
    "home_directory": "'/nowhere'",
    "max_expression_depth": "30",
    "python_enable_replacements": "false",
    "python_scan_all_frames": "true",
    "preserve_insertion_order": "false",
    "threads": "1",
    "enable_optimizer": "false",
    "disabled_optimizers": "'filter_pushdown,statistics_propagation,join_order,late_materialization'",
    "immediate_transaction_mode": "true",
    "default_transaction_invalidation_policy": "'syntactic_errors_do_not_invalidate_transaction'",
    "lambda_syntax": "'disable_single_arrow'",
    "arrow_large_buffer_size": "true",
    "arrow_output_list_view": "true",
    "arrow_lossless_conversion": "true",
    "produce_arrow_string_view": "true",
    "arrow_output_version": "'1.4'",
    "binary_as_string": "true",
    "pandas_analyze_sample": "0",
    "enable_object_cache": "true",
    "enable_view_dependencies": "true",
    "enable_macro_dependencies": "true",
    "show_behavior": "'relation'",
    "pivot_limit": "1",
    "zstd_min_string_length": "1",
    "force_compression": "'uncompressed'",
    "disabled_compression_methods": "'zstd'",
    "perfect_ht_threshold": "0",
    "merge_join_threshold": "0",
    "nested_loop_join_threshold": "0",
    "asof_loop_join_threshold": "0",
    "prefer_range_joins": "true",
    "ordered_aggregate_threshold": "1",
    "index_scan_max_count": "0",
    "scheduler_process_partial": "true",
    "wal_autocheckpoint": "'1KB'",
    "enable_progress_bar": "true",
    "profiling_coverage": "'ALL'",
}


# One by one, those that changed something once, or easily would.
ALONE = [
    *("integer_division", "default_order", "default_null_order", "default_collation", "preserve_identifier_case"),
    *("max_expression_depth", "python_enable_replacements", "errors_as_json", "TimeZone"),
]
# What a locked configuration keeps from being set for our own queries, and they cannot do without.
NOT_LOCKED = {"max_expression_depth", "arrow_output_list_view"}
CASES = {
    **{name: {name: HOSTILE[name]} for name in ALONE},
    "accents": {"default_collation": "'nocase.noaccent'"},
    "arrow": {name: HOSTILE[name] for name in ("arrow_output_list_view", "arrow_output_version")},
    "all at once": HOSTILE,
    "locked": {**{k: v for k, v in HOSTILE.items() if k not in NOT_LOCKED}, "lock_configuration": "true"},
}


def set_all(con: duckdb.DuckDBPyConnection, settings: dict[str, str]) -> None:
    """Set what this DuckDB knows, for the whole instance where that can be."""
    for name, value in settings.items():
        for scope in ("GLOBAL", "SESSION"):
            with contextlib.suppress(duckdb.Error):
                con.execute(f"SET {scope} {name} = {value}").fetchall()
                break


@pytest.mark.parametrize("case", CASES)
def test_no_setting_changes_what_is_read(mp, usual, tmp_path, case: str) -> None:
    """An export, its typed events, its frames and files, its analysis: all as with DuckDB as it comes."""
    with duckdb.connect() as con:
        set_all(con, CASES[case])
        got = fetched(mp, con, tmp_path / "out")
    assert {key: got[key] for key in got if got[key] != usual[key]} == {}
    assert got.keys() == usual.keys()


def test_the_settings_stay_as_they_are(mp) -> None:
    """To have others for our own queries changes none of the user's, on any connection of theirs."""
    with duckdb.connect() as con:
        set_all(con, HOSTILE)
        show = "SELECT name, value FROM duckdb_settings() WHERE scope = 'GLOBAL' ORDER BY name ASC"
        before = con.execute(show).fetchall()
        with mpnb.export(day(1), day(1), database=con, credentials=mp.credentials, quota=WIDE) as result:
            result.event("Purchase")
            assert con.execute(show).fetchall() == con.cursor().execute(show).fetchall() == before
            assert result.con.execute(show).fetchall() == result.sql(show).fetchall() == before


def test_settings_of_theirs_hold_in_their_own_sql(mp) -> None:
    """``sql()`` and what is built on a relation take names by the user's collation."""
    with duckdb.connect() as con:
        con.execute("SET GLOBAL default_collation = 'nocase'")
        with mpnb.export(day(1), day(1), database=con, credentials=mp.credentials, quota=WIDE) as result:
            both = result.sql("SELECT count(*) FROM events WHERE event_name = 'SIGN UP'").fetchall()
            assert result.events.filter("event_name = 'SIGN UP'").count("*").fetchall() == both
            assert both > result.event("Sign Up").count("*").fetchall()


@pytest.mark.parametrize(
    "setting", ["enable_external_access = false", "disabled_filesystems = 'LocalFileSystem'"], ids=["access", "files"]
)
def test_a_duckdb_that_must_read_no_files(mp, usual, tmp_path, setting: str) -> None:
    """It gets its rows all the same; to write files is refused with what can."""
    with duckdb.connect() as con:
        con.execute(f"SET GLOBAL {setting}")
        with pytest.raises(mpnb.PlanError, match=r"may not write files; use arrow\(\) and pyarrow instead"):
            fetched(mp, con, tmp_path / "out")
        with mpnb.open(con) as result:
            assert sorted(result.events.fetchall(), key=repr) == usual["events"]
            assert result.rejected.fetchall() == usual["rejected"]


# --- names of theirs ------------------------------------------------------------------------------------------------


def words() -> set[str]:
    """Collect the words of all texts in the package: whatever names its SQL uses are among them."""
    texts: set[str] = set()
    for path in Path(mpnb.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text())
        texts |= {
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
    found = {word.lower() for text in texts for word in re.findall(r"[A-Za-z_]\w*", text)}
    # DuckDB 1.5 itself stumbles over a table that is called like a function of its catalog.
    return {word for word in found if not word.startswith(("mpnb_", "duckdb_"))} - {"events"}


def test_no_table_of_theirs_is_read_in_place_of_ours(mp, usual, tmp_path) -> None:
    """With a table, a temporary table and a variable of every word that the package knows, all is as without."""
    names = sorted(words())
    assert {"block", "births", "cells", "returns", "chosen"} <= {
        *names,
        "block",
        "births",
        "cells",
        "returns",
        "chosen",
    }
    with duckdb.connect() as con:
        for kind in ("TABLE", "TEMP TABLE"):
            con.execute("; ".join(f"CREATE {kind} \"{name}\" AS SELECT 'theirs' AS mine" for name in names))
        got = fetched(mp, con, tmp_path / "out")
    assert {key: got[key] for key in got if got[key] != usual[key]} == {}


def test_a_user_s_table_called_block(mp) -> None:
    """Lines that are no events reach the table of rejected lines beside a table or view of any such name."""
    with duckdb.connect() as con:
        con.execute("CREATE TABLE block (a INT); CREATE VIEW not_utf8 AS SELECT 1 AS n")
        with mpnb.export(day(1), day(1), database=con, credentials=mp.credentials, quota=WIDE) as result:
            assert len(result.rejected) == 4
            assert not result.has_failures


COLUMNS = ["session", "born", "cohort", "period", "users", "size", "last", "segment", "step", "t1", "t2", "least", "w"]
COLUMNS += ["s", "b", "a", "c", "events", "median_seconds", "of_first"]


def test_columns_of_theirs_in_analysis() -> None:
    """Events with columns of the names that analysis uses itself give what they give without."""
    rows = """SELECT ['A', 'B', 'A', 'C'][1 + i % 4] AS event_name, TIMESTAMP '2026-01-01' + to_hours(i * 7) AS time,
        'u' || (i % 5) AS distinct_id, i % 3 AS amount FROM range(60) AS r(i)"""
    more = ", ".join(f"'theirs' AS {name}" for name in COLUMNS)
    with duckdb.connect() as con:
        plain, full = con.sql(rows), con.sql(f"SELECT *, {more} FROM ({rows})")
        for ask in (
            lambda events: funnel(events, ["A", ("B", "amount > 0"), "C"], timedelta(days=2)),
            lambda events: retention(events, "A", ("C", "amount >= 0"), unit="day"),
            lambda events: segmentation(events, by="amount", unit="week"),
        ):
            assert ask(full).fetchall() == ask(plain).fetchall() != []


def test_tables_of_theirs_in_a_condition() -> None:
    """A condition reads the user's tables and variables, whatever analysis calls its own, and none of its variables."""
    with duckdb.connect() as con:
        rows = """SELECT ['A', 'B'][1 + i // 9] AS event_name, TIMESTAMP '2026-01-01' + to_hours(i) AS time,
            'u' || i % 9 AS distinct_id FROM range(18) AS r(i)"""
        events = con.sql(rows)
        for name in ("births", "returns", "periods", "way_1", "step_1", "best", "chosen", "counted", "cells", "people"):
            con.execute(f"CREATE TABLE {name} AS SELECT 'u1' AS id")
            mine, also = ((each, f"distinct_id IN (SELECT id FROM {name})") for each in "AB")
            assert [row[2] for row in funnel(events, [mine, also], timedelta(days=1)).fetchall()] == [1, 1]
            assert [row[1] for row in retention(events, mine, "B").fetchall()] == [1]
            assert [row[3] for row in retention(events, "A", also).fetchall()] == [1]
            assert [row[2] for row in segmentation(events, mine).fetchall()] == [1]
        chosen_ones = pd.DataFrame({"id": ["u1", "u2"]})
        mine = ("A", "distinct_id IN (SELECT id FROM chosen_ones)")
        assert segmentation(events, mine).fetchall()[0][1] == len(chosen_ones)
        for name in ("steps", "relation", "query", "variables", "frame", "pairs"):
            with pytest.raises(duckdb.CatalogException, match=name):
                funnel(events, ["A", ("A", f"1 IN (FROM {name})")], timedelta(days=1)).fetchall()


# --- variables of theirs in their SQL -------------------------------------------------------------------------------


@pytest.fixture
def result(mp: Sandbox) -> Iterator[mpnb.ExportResult]:
    """Give the first day in memory."""
    usual: dict[str, Any] = {"credentials": mp.credentials, "quota": WIDE, "on_batch": lambda _: None}
    with mpnb.export(day(1), day(1), database=":memory:", **usual) as result:
        yield result


GLOBAL = pd.DataFrame({"event_name": ["Purchase"]})


def test_sql_sees_the_caller_s_frames_and_relations(result) -> None:
    """pandas, polars and Arrow, of the function and of the module, join with a relation of the result by name."""
    frame = pd.DataFrame({"event_name": ["Sign Up", "Purchase"], "weight": [1, 2]})
    other = pl.DataFrame({"event_name": ["Purchase", "Été"]})
    arrow = pa.table({"event_name": ["Purchase"]})
    purchases = result.event(["Purchase", "Sign Up"])
    query = """SELECT count(*), any_value(weight) FROM purchases JOIN frame USING (event_name)
        JOIN other USING (event_name) JOIN arrow USING (event_name) JOIN GLOBAL USING (event_name)"""
    assert result.sql(query).fetchall() == [(len(result.event("Purchase")), 2)]
    del frame, other, arrow, purchases


def test_a_relation_of_sql_keeps_what_it_saw(result) -> None:
    """It reads the frame of the moment of the call, also where that is gone, and from another function."""

    def make() -> duckdb.DuckDBPyRelation:
        frame = pd.DataFrame({"a": [1, 2, 3]})
        relation = result.sql("FROM frame WHERE a > 1")
        frame = pd.DataFrame({"a": [9]})
        assert len(frame) == 1
        return relation

    relation = make()
    assert relation.fetchall() == relation.fetchall() == [(2,), (3,)]
    assert relation.filter("a > 2").fetchall() == [(3,)]


def test_methods_of_relations_see_the_caller_s_variables(result) -> None:
    """As DuckDB's own do: a condition of ``filter`` names a frame."""
    wanted = pd.DataFrame({"name": ["Purchase"]})
    some = result.events.filter("event_name IN (FROM wanted)")
    assert len(some) == len(result.event("Purchase"))
    assert some.project("event_name, (SELECT count(*) FROM wanted) AS n").distinct().fetchall() == [("Purchase", 1)]
    del wanted


@pytest.mark.parametrize("name", ["self", "query", "variables", "connection", "named", "store", "run", "made", "call"])
def test_no_variable_of_ours_is_found(result, name: str) -> None:
    """A name that neither the database nor the caller knows is an error of DuckDB's, whatever is called so here."""
    for ask in (
        lambda: result.sql(f"FROM {name}"),
        lambda: result.events.filter(f"batch_id IN (FROM {name})"),
        lambda: result.event("Purchase").query("mine", f"FROM {name}"),
    ):
        with pytest.raises(duckdb.CatalogException, match=f"(?i){name}"):
            ask().fetchall()


def test_a_setting_of_theirs_keeps_variables_out(mp) -> None:
    """``python_enable_replacements = false`` holds in ``sql()``, as it does in ``duckdb.sql``."""
    frame = pd.DataFrame({"a": [1]})
    with duckdb.connect() as con:
        con.execute("SET GLOBAL python_enable_replacements = false")
        usual: dict[str, Any] = {"credentials": mp.credentials, "quota": WIDE, "on_batch": lambda _: None}
        with mpnb.export(day(1), day(1), database=con, **usual) as result, pytest.raises(duckdb.CatalogException):
            result.sql("FROM frame")
    del frame


# --- relations of one result ----------------------------------------------------------------------------------------


def test_relations_of_a_result_combine(result) -> None:
    """By DuckDB's own methods, whichever of the result's made them."""
    names, events, purchases = result.event_names(), result.events, result.event("Purchase")
    n = len(purchases)
    assert isinstance(events, duckdb.DuckDBPyRelation)
    assert events.join(names, "event_name").count("*").fetchall() == [(len(events),)]
    assert purchases.set_alias("p").join(events.set_alias("e"), "p.insert_id = e.insert_id").columns[0] == "time"
    assert len(purchases.union(purchases)) == 2 * n
    assert len(events.project("event_name").intersect(names.project("event_name"))) > 0
    assert len(events.project("event_name").distinct().except_(names.project("event_name"))) == 0
    counts = result.sql("SELECT 'Purchase' AS event_name, 7 AS lucky")
    assert names.join(counts, "event_name").project("lucky").fetchall() == [(7,)]
    assert counts.join(names, "event_name").project("events").fetchall() == [(n,)]
    assert result.catalog("Purchase").join(names, "event_name").aggregate("max(events)").fetchall() == [(n,)]
    steps = funnel(events, ["Sign Up", "Purchase"], timedelta(days=1))
    assert len(steps.join(names, "event_name")) == 2


def test_reading_one_does_not_disturb_another(result) -> None:
    """Readers that are half read go on where they were, whatever else is made, read and combined meanwhile."""
    events, names = result.events, result.event_names()
    rows, groups = events.order("ALL").fetchall(), names.fetchall()
    first, second, third = events.to_arrow_reader(7), events.to_arrow_reader(11), names.to_arrow_reader(1)
    got = [first.read_next_batch().num_rows, second.read_next_batch().num_rows, third.read_next_batch().num_rows]
    assert got == [7, 11, 1]
    assert events.order("ALL").fetchall() == rows
    assert names.fetchall() == groups
    assert len(events.join(names, "event_name")) == len(rows)
    assert result.sql("SELECT count(*) FROM events").fetchall() == [(len(rows),)]
    assert len(events.df()) == len(events.pl()) == len(rows)
    assert 7 + first.read_all().num_rows == 11 + second.read_all().num_rows == len(rows)
    assert 1 + third.read_all().num_rows == len(groups)


def test_rows_one_by_one_are_not_disturbed(result) -> None:
    """Rows of two relations in turn are all of both: with DuckDB 1.5 another query would end them without a word."""
    events, names = result.events, result.event_names()
    if IS_OLD:
        assert events.fetchone()
        assert names.fetchmany(1)
        left = len(events.fetchall()), len(names.fetchall())
    else:
        one, two = events.iter_rows(3), names.iter_rows(1)
        assert next(one)
        assert next(two)
        left = len(list(one)), len(list(two))
    assert (len(events), len(names)) == (left[0] + 1, left[1] + 1)


def test_rows_of_one_moment_stay_what_they_are(result) -> None:
    """What was run once is not run again by what is made of it."""
    drawn = result.sql("SELECT random() AS r")
    kept = drawn.execute() if IS_OLD else drawn.materialize()
    rows = kept.fetchall()
    assert IS_OLD or rows == kept.filter("r >= 0").fetchall() == kept.fetchall()
    assert rows != drawn.fetchall()


def test_relations_in_several_threads(result) -> None:
    """Any thread reads any relation, and combines it, at the same time as others."""
    events, names = result.events, result.event_names()
    expected = len(events)
    found: list[object] = []

    def read() -> None:
        for _ in range(5):
            found.append(len(events.join(names, "event_name")))
            found.append(result.sql("SELECT count(*) FROM events").fetchall()[0][0])
            found.append(result.con.execute("SELECT count(*) FROM events").fetchall()[0][0])

    side_by_side(*[read] * 4)
    assert found == [expected] * 60


def test_relations_of_two_results_of_a_file_combine(mp, database) -> None:
    """They have the same tables, so by DuckDB's methods and by name they are as those of one; so after a close."""
    usual: dict[str, Any] = {"credentials": mp.credentials, "quota": WIDE, "on_batch": lambda _: None}
    with mpnb.export(day(1), day(1), database=database, **usual) as first:
        with mpnb.export(day(2), day(2), database=database, **usual) as second:
            n, both = first.total_rows, first.events.union(second.events)
            assert len(both) == n + second.total_rows
            ended = second.event_names()
        assert len(first.events.join(ended, "event_name")) == n
        assert first.sql("SELECT count(*) FROM ended").fetchall() == [(6,)]
        with pytest.raises(mpnb.ClosedError):
            ended.fetchall()


def test_relations_outlive_a_file_that_is_opened_anew(mp, database) -> None:
    """After DuckDB declared it invalid, they read what is there, by whatever method, and combine."""
    usual: dict[str, Any] = {"credentials": mp.credentials, "quota": WIDE, "on_batch": lambda _: None}
    with mpnb.export(day(1), day(1), database=database, **usual) as result:
        events, some = result.events, result.event_names().filter("events > 0")
        assert len(events) == result.total_rows
        result._store.reopen()
        assert len(events) == len(events.fetchall()) == len(events.df()) == result.total_rows > 0
        assert len(events.join(some, "event_name")) == result.total_rows


def test_a_relation_that_is_kept_owns_no_settings(mp, database) -> None:
    """Once its result is closed, whoever opens the file next has settings of their own, which exports leave alone."""
    usual: dict[str, Any] = {"credentials": mp.credentials, "quota": WIDE, "database": database}
    with mpnb.export(day(1), day(1), on_batch=lambda _: None, **usual) as result:
        kept = result.events.filter("event_name = 'Purchase'")
    with duckdb.connect(str(database)) as con:
        limits: set[str] = set()
        show = "SELECT value FROM duckdb_settings() WHERE name = 'memory_limit'"
        [before] = con.execute(show).fetchall()
        look = lambda _: limits.update(con.execute(show).fetchall()[0])  # noqa: E731
        mpnb.export(day(2), day(2), on_batch=look, **usual).close()
        assert limits == {*before}
    with pytest.raises(mpnb.ClosedError):
        kept.df()


def test_relations_of_two_results_do_not_mix(result, mp) -> None:
    """Tables of the same name in two databases are told apart: DuckDB's own error says so."""
    usual: dict[str, Any] = {"credentials": mp.credentials, "quota": WIDE, "on_batch": lambda _: None}
    with (
        mpnb.export(day(2), day(2), database=":memory:", **usual) as other,
        pytest.raises(duckdb.InvalidInputException, match="different connections"),
    ):
        result.events.union(other.events)


def test_a_relation_says_what_it_is(result) -> None:
    """Everything that DuckDB's own has is there: its text, its columns, its length, its Arrow stream."""
    events = result.events
    assert "event_name" in str(events) == repr(events)
    assert "event_name" in events
    assert events.columns[:2] == ["event_name", "time"]
    assert events.shape == (len(events), 8)
    assert pa.table(events).num_rows == len(pl.from_arrow(events)) == len(events)
    assert len(events["event_name"].distinct()) == len(events.event_name.distinct()) == 6
    assert {"filter", "join", "df"} <= set(dir(events))
    with pytest.raises(AttributeError):
        _ = events.no_such_thing


# --- the connection of theirs ---------------------------------------------------------------------------------------


def test_temporary_tables_of_con_are_there_for_sql(result) -> None:
    """They join with the result's relations, and with what ``sql()`` gave before."""
    before = result.sql("SELECT 'Purchase' AS event_name")
    result.con.execute("CREATE TEMP TABLE mine AS SELECT 'Purchase' AS event_name, 7 AS lucky")
    assert result.sql("SELECT lucky FROM mine").fetchall() == [(7,)]
    assert result.sql("FROM mine").join(before, "event_name").project("lucky").fetchall() == [(7,)]
    joined = result.event_names().join(result.sql("FROM mine"), "event_name")
    assert joined.project("lucky, events").fetchall() == [(7, len(result.event("Purchase")))]
    assert len(result.events.join(result.sql("FROM mine"), "event_name")) == joined.fetchall()[0][1]


def test_what_con_has_in_the_way_of_ours_is_not_read(result) -> None:
    """A temporary table called events, and USE of another database, change what the user's own SQL reads, no more."""
    rows = len(result.events)
    result.event("Purchase")
    result.con.execute("CREATE TEMP TABLE events AS SELECT 1 AS a; CREATE TEMP TABLE mpnb_batches AS SELECT 2 AS b")
    result.con.execute(
        "ATTACH ':memory:' AS elsewhere; USE elsewhere; CREATE TABLE mine AS SELECT 'Purchase' AS event_name"
    )
    assert result.sql("FROM temp.events").fetchall() == [(1,)]
    mine = result.sql("FROM mine")
    assert len(result.events.join(mine, "event_name")) == len(result.event("Purchase")) > 0
    named = result.event(["Purchase"]).join(mine, "event_name")
    assert len(named) == len(result.event("Purchase"))
    assert len(result.events) == result.total_rows == rows
    assert result.check().ok


def test_statements_run_once(result) -> None:
    """What writes does so at the call, and not again when its rows are read."""
    result.sql("CREATE TABLE mine (a INT)")
    made = result.sql("INSERT INTO mine SELECT unnest([1, 2]) RETURNING a")
    assert made.fetchall() == made.fetchall() == [(1,), (2,)]
    result.sql("CREATE TEMP TABLE temporary AS FROM mine")
    assert result.sql("SELECT count(*) FROM temporary").fetchall() == [(2,)]
    assert result.con.execute("SELECT count(*) FROM mine").fetchall() == [(2,)]
    result.sql("CREATE SEQUENCE numbers")
    drawn = result.sql("SELECT nextval('numbers') AS n")
    assert IS_OLD or drawn.fetchall() == drawn.fetchall() == [(1,)]


def test_con_is_a_thread_s_own(result) -> None:
    """The same one each time in a thread, and another in another."""
    others: list[duckdb.DuckDBPyConnection] = []
    side_by_side(lambda: others.append(result.con))
    assert result.con is result.con is not others[0]
    assert others[0].execute("SELECT count(*) FROM events").fetchall() == [(result.total_rows,)]
