"""Views of typed events, for whatever else reads the file: right in rows, whatever was exported since."""

from __future__ import annotations

import shutil
from pathlib import Path

import duckdb
import pytest

import mpnb
import mpnb._reading.look
from mpnb._reading.typed import MOST_COLUMNS
from tests.typed import _values as values


def views(result: mpnb.ExportResult, schema: str = "typed") -> dict[str, str]:
    """Create the views, and return their names by event."""
    return dict(result.create_views(schema).fetchall())


def test_another_tool_reads_events_by_name(exported: values.Exporter, database: Path, tmp_path: Path) -> None:
    """Without mpnb, from a file that is called otherwise; each view has the rows and columns of ``event()``."""
    with exported(
        [{"amount": 1.5, "to": [1]}], [{"n": 1}, {"n": 2}], names=["Purchase", "E"], database=database
    ) as made:
        assert views(made) == {"E": '"typed"."E"', "Purchase": '"typed"."Purchase"'}
        wanted = {name: made.event(name) for name in ("E", "Purchase")}
        expected = {name: (each.columns, sorted(each.fetchall())) for name, each in wanted.items()}
    shutil.copy(database, tmp_path / "other name.duckdb")
    with duckdb.connect() as con:
        con.execute(f"ATTACH '{tmp_path / 'other name.duckdb'}' AS lake (READ_ONLY)").fetchall()
        for name, (columns, rows) in expected.items():
            found = con.sql(f'SELECT * FROM lake.typed."{name}"')
            assert (found.columns, sorted(found.fetchall())) == (columns, rows)


def test_a_view_has_all_rows_whatever_was_exported_since(exported: values.Exporter, database: Path) -> None:
    """New batches, replaced ones and deleted ones, once each, before and after the tables are brought up to date."""

    def rows() -> list[int]:
        with duckdb.connect(database) as con:
            return sorted(n for (n,) in con.sql('SELECT n FROM typed."E"').fetchall())

    with exported([{"n": 1}], [{"n": 2}], database=database) as result:
        views(result)
    exported([{"n": 1}], [{"n": 2}], [{"n": 3}], database=database).close()
    assert rows() == [1, 2, 3]
    exported([{"n": 10}], database=database, mode="refresh").close()
    assert rows() == [2, 3, 10]
    with mpnb.open(database) as result:
        result.event("E", columns=["n"])
    assert rows() == [2, 3, 10]
    exported([{"n": 1}], [{"n": "x"}], database=database, mode="refresh").close()
    with pytest.raises(duckdb.Error, match=r"do not fit this view: call create_views\(\) again"):
        rows()


def test_a_view_is_kept_up_with_its_table(exported: values.Exporter, database: Path) -> None:
    """A type that widens, a type that is declared and a property that comes are in it once ``event()`` has them."""
    with exported([{"n": 1}], database=database) as result:
        views(result)
    with exported([{"n": 1}], [{"n": 2.5, "m": 1}], database=database) as result:
        result.event("E")
        relation = result.sql('SELECT n, m FROM typed."E" ORDER BY n')
        assert (list(map(str, relation.types)), relation.fetchall()) == (["DOUBLE", "BIGINT"], [(1.0, None), (2.5, 1)])
        result.event("E", types={"n": "VARCHAR"})
        assert str(result.sql('SELECT n FROM typed."E"').types[0]) == "VARCHAR"


def test_a_view_of_thousands_of_properties_has_those_that_were_asked_for(exported: values.Exporter) -> None:
    """The other views are made as ever, and a warning says of which event it is."""
    wide = {f"p{n}": n for n in range(MOST_COLUMNS + 1)}
    with exported([wide], [{"n": 1}], names=["Wide", "E"]) as result:
        result.event("Wide", columns=["p7"])
        with pytest.warns(UserWarning, match=r"'Wide' has 2,001 properties.*event\('Wide', columns=\[…\]\)"):
            views(result)
        assert result.sql('SELECT * FROM typed."Wide"').columns[5:] == ["p7"]
        assert result.sql('SELECT n FROM typed."E"').fetchall() == [(1,)]


def test_names_that_differ_in_case_or_are_taken_get_a_number_and_stay(exported: values.Exporter) -> None:
    """Whatever comes later; what is the user's own stays as it is."""
    with duckdb.connect() as con:
        con.execute("CREATE SCHEMA typed; CREATE TABLE typed.e AS SELECT 42 AS mine").fetchall()
        with exported([{"n": 1}], [{"n": 2}], names=["plan", "E"], database=con) as result:
            assert views(result) == {"plan": '"typed"."plan"', "E": '"typed"."E_2"'}
        with exported([{"n": 1}], [{"n": 2}], [{"n": 3}], names=["plan", "E", "PLAN"], database=con) as result:
            assert views(result) == {"plan": '"typed"."plan"', "E": '"typed"."E_2"', "PLAN": '"typed"."PLAN_2"'}
            assert result.sql("SELECT n FROM typed.PLAN_2").fetchall() == [(3,)]
            result.forget_typed()
            assert result.sql("SELECT mine FROM typed.e").fetchall() == [(42,)]
            assert result.sql("SELECT count(*) FROM duckdb_views() WHERE schema_name = 'typed'").fetchall() == [(0,)]


@pytest.mark.parametrize("schema", ["", "mpnb_typed", "information_schema", None, "a\0b"])
def test_a_schema_is_the_users_own(exported: values.Exporter, schema: str) -> None:
    """Not one of DuckDB's or of mpnb's."""
    with exported([{"n": 1}]) as result, pytest.raises(mpnb.PlanError, match="schema must be the name of a schema"):
        result.create_views(schema)


def test_views_go_with_the_table(exported: values.Exporter, database: Path) -> None:
    """And their schema, if nothing else is in it; a file that cannot be written says so."""
    with exported([{"n": 1}], database=database) as result:
        views(result)
    refused = pytest.raises(mpnb.DatabaseError, match="cannot be written")
    with duckdb.connect(database, read_only=True) as con, mpnb.open(con) as result, refused:
        result.create_views()
    mpnb.drop("events", database=database)
    with duckdb.connect(database) as con:
        assert con.sql("SELECT count(*) FROM duckdb_views() WHERE NOT internal").fetchall() == [(0,)]
        assert con.sql("SELECT count(*) FROM duckdb_schemas() WHERE schema_name = 'typed'").fetchall() == [(0,)]


@pytest.mark.parametrize(("more", "kind"), [(2, "BIGINT"), (2.5, "DOUBLE")])
def test_a_stop_within_leaves_no_half_table(
    exported: values.Exporter, database: Path, monkeypatch: pytest.MonkeyPatch, more: float, kind: str
) -> None:
    """Whether rows are added or the table is made anew: what it had is read meanwhile, and the next call completes."""
    inserted: list[str] = []
    real = mpnb._reading.typed.run

    def stopping(cursor: duckdb.DuckDBPyConnection, query: str, parameters: object = None) -> list[object]:
        if query.startswith("INSERT INTO mpnb_typed.event_"):
            inserted.append(query)
            if len(inserted) == (2 if kind == "BIGINT" else 1):
                raise KeyboardInterrupt
        return real(cursor, query, parameters)

    monkeypatch.setattr(mpnb._reading.look, "STAGED_ROWS", 1)
    with exported([{"n": 1}], database=database) as result:
        views(result)
    with exported([{"n": 1}], [{"n": more}], [{"n": 3}], database=database) as result:
        monkeypatch.setattr(mpnb._reading.typed, "run", stopping)
        with pytest.raises(KeyboardInterrupt):
            result.event("E")
        monkeypatch.setattr(mpnb._reading.typed, "run", real)
        if kind == "BIGINT":
            assert result.sql('SELECT n FROM typed."E" ORDER BY n').fetchall() == [(1,), (2,), (3,)]
        else:
            assert result.sql("SELECT n FROM mpnb_typed.event_1").fetchall() == [(1,)]
        relation = result.event("E")
        assert (str(relation.types[-1]), sorted(n for *_, n in relation.fetchall())) == (kind, [1, more, 3])
        assert result.sql('SELECT n FROM typed."E" ORDER BY n').fetchall() == [(1,), (more,), (3,)]
        assert result.sql("SELECT count(*) FROM duckdb_tables() WHERE table_name LIKE '%_next'").fetchall() == [(0,)]
