"""What a database has, and whether it is whole: ``mpnb.check`` and ``mpnb.status``, and the commands of their names."""

from __future__ import annotations

import csv
import io
import json
import sys
import threading
from datetime import datetime, timedelta

import duckdb
import pytest

import mpnb
from mpnb._base import patience
from mpnb.sandbox import Fault, Sandbox
from mpnb.sandbox.__main__ import environment
from tests._helpers import MORNING, WallClock, child, day, people, query

LOCK = """
import sys, duckdb
con = duckdb.connect("mixpanel.duckdb")
print("open", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def failing(sandbox) -> Sandbox:
    """Serve six days, of which the third is refused."""
    mp: Sandbox = sandbox(faults=[Fault("status", day(3), status=400, times=None)])
    return mp


def test_what_status_says_can_be_recomputed(failing, export, database) -> None:
    """Rows, days held, missing, failed and provisional, and sizes."""
    export(failing, day(1), day(4), chunk_days=1).close()
    export(failing, day(6), day(6), chunk_days=1).close()
    [table] = (found := mpnb.status(database)).tables
    held = "FROM mpnb_batches WHERE status IN ('done', 'empty')"
    assert table.rows == query(database, "SELECT count(*) FROM events")[0][0] > 0
    assert table.days_held == query(database, f"SELECT sum(to_date - from_date + 1) {held}")[0][0] == 4
    assert (table.from_date, table.to_date) == (day(1), day(6))
    assert (table.days_missing, table.days_failed, table.days_provisional) == (2, 1, 0)
    assert table.last_export == query(database, "SELECT max(finished_at) FROM mpnb_batches")[0][0]
    assert (found.bytes, found.log_bytes) == (database.stat().st_size, 0)
    assert found.relation.project("rows, days_missing").fetchall() == [(table.rows, 2)]
    assert "4 days held of 2026-01-01 – 2026-01-06, 2 missing, 1 failed" in repr(found)


def test_status_knows_provisional_days(sandbox, export, database, clock: WallClock) -> None:
    """A day that was fetched before its late days were over, until it was fetched once more."""
    clock.now = datetime.combine(day(6), MORNING.time())
    export(sandbox(), day(1), day(5), chunk_days=1).close()
    [table] = mpnb.status(database).tables
    assert table.days_provisional == 5
    assert (report := mpnb.check(day(1), day(5), database=database)).ok
    assert report.findings[2].status == "note"


def test_status_of_the_quota(failing, export, database, monkeypatch) -> None:
    """That of the project in the environment; without one, none."""
    export(failing, day(1), day(4), chunk_days=2, quota=mpnb.Quota()).close()
    assert mpnb.status(database).quota_left is None
    for name, value in environment(failing).items():
        monkeypatch.setenv(name, value)
    found = mpnb.status(database)
    assert (found.quota_project, found.quota_per_hour) == (failing.credentials.project_id, 60)
    assert found.quota_left == 60 - len(failing.requests)


def test_profiles_have_a_status_and_a_check(sandbox, fetch, database) -> None:
    """As many as are in the table, of the day on which they were taken."""
    fetch(sandbox(profiles=people("a", "b"))).close()
    [table] = mpnb.status(database).tables
    assert (table.kind, table.rows) == ("profiles", 2)
    assert mpnb.check(database=database, table="PROFILES").ok


def test_check_answers_for_the_days_that_are_asked_for(failing, export, database) -> None:
    """Whatever other days lack; a day that nobody asked an export for is missing as well."""
    export(failing, day(1), day(4), chunk_days=1).close()
    assert mpnb.check(day(1), day(2), database=database).ok
    assert not mpnb.check(database=database).ok
    report = mpnb.check(day(4), day(6), database=database)
    assert [(f.count, f.detail) for f in report.findings if f.name == "days missing"] == [(2, f"{day(5)} – {day(6)}")]
    # The database is closed, and may be deleted.
    database.unlink()
    assert report.relation.filter("\"check\" = 'days missing'").fetchall() == [
        ("days missing", "problem", 2, f"{day(5)} – {day(6)}")
    ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"from_date": "2026-01-01"}, "to_date is missing: pass both days"),
        ({"to_date": "2026-01-01"}, "from_date is missing: pass both days"),
        ({"from_date": "2026-01-02", "to_date": "2026-01-01"}, "from_date 2026-01-02 is after to_date 2026-01-01"),
        ({"late_days": -1}, "late_days must be"),
        ({"table": "other"}, "has no table 'other' of events"),
    ],
)
def test_wrong_arguments_of_check(failing, export, database, given, message: str) -> None:
    """Each is named, and nothing is read."""
    export(failing, day(1), day(1)).close()
    with pytest.raises(mpnb.PlanError, match=message):
        mpnb.check(database=database, **given)


def test_statuses_of_the_commands(mpnb_command, failing, export, tmp_path) -> None:
    """0 where all is there, 1 where not, 2 where there is nothing to look at."""
    assert mpnb_command("check")[0] == mpnb_command("status")[0] == mpnb_command("sql", "SELECT 1")[0] == 2
    export(failing, day(1), day(4), chunk_days=1, database=tmp_path / "mixpanel.duckdb").close()
    assert mpnb_command("check", str(day(1)), str(day(2)))[0] == 0
    status, out, _ = mpnb_command("check", "--json")
    found = json.loads(out)
    assert (status, found["ok"]) == (1, False)
    assert [f["count"] for f in found["findings"] if f["name"] == "days missing"] == [1]
    status, out, _ = mpnb_command("status", "--json")
    assert (status, json.loads(out)["tables"][0]["days_held"]) == (0, 3)


@pytest.mark.parametrize("words", [("export", "last 2 days"), ("check",), ("status",), ("sql", "SELECT 1")])
def test_a_database_in_use_has_a_status_of_its_own(mpnb_command, failing, export, tmp_path, monkeypatch, words) -> None:
    """75, with who has it; ``--wait`` takes the command up when that one is gone, and says once what it waits for."""
    export(failing, day(1), day(2), chunk_days=1, database=tmp_path / "mixpanel.duckdb").close()
    for name, value in environment(failing).items():
        monkeypatch.setenv(name, value)
    with child([sys.executable, "-c", LOCK], cwd=tmp_path, stdin=-1, stdout=-1, text=True) as other:
        assert other.stdout.readline() == "open\n"
        status, out, err = mpnb_command(*words)
        assert (status, out) == (75, "")
        assert f"(PID {other.pid})): pass --wait 10m to wait for it, or close it there" in err
        with pytest.raises(mpnb.DatabaseBusyError, match=r"\): close it there"):
            mpnb.open(tmp_path / "mixpanel.duckdb")
        waited = threading.Event()

        def let_go(seconds: float) -> None:
            """Come instead of the first wait."""
            other.kill()
            other.wait(10)
            waited.set()

        monkeypatch.setattr(patience, "sleep", let_go)
        status, _, err = mpnb_command(*words, "--wait", "30s")
        assert status == 0
        assert waited.is_set()
        assert err.count("waiting for it, until") == 1


def test_waiting_ends(mpnb_command, failing, export, tmp_path, monkeypatch, clock: WallClock) -> None:
    """At the time that was said."""
    export(failing, day(1), day(2), database=tmp_path / "mixpanel.duckdb").close()

    def later(seconds: float) -> None:
        clock.now += timedelta(seconds=seconds)

    monkeypatch.setattr(patience, "sleep", later)
    began = clock.now
    with child([sys.executable, "-c", LOCK], cwd=tmp_path, stdin=-1, stdout=-1, text=True) as other:
        assert other.stdout.readline() == "open\n"
        assert mpnb_command("status", "--wait", "2m")[0] == 75
    assert clock.now - began == timedelta(minutes=2)


QUERY = "SELECT event_name, count(*) AS n, min(time) AS first FROM events GROUP BY ALL ORDER BY n DESC, 1"


def test_sql_in_every_format(mpnb_command, failing, export, tmp_path) -> None:
    """What comes out has all rows that the query finds."""
    export(failing, day(1), day(2), database=tmp_path / "mixpanel.duckdb").close()
    rows = query(tmp_path / "mixpanel.duckdb", QUERY)
    _, out, _ = mpnb_command("sql", QUERY, "--format", "csv")
    names, *read = csv.reader(io.StringIO(out))
    assert (names, [tuple(row) for row in read]) == (
        ["event_name", "n", "first"],
        [(a, str(b), str(c)) for a, b, c in rows],
    )
    _, out, _ = mpnb_command("sql", QUERY + ";", "--format", "json")
    assert [tuple(row.values()) for row in json.loads(out)] == [(a, b, str(c)) for a, b, c in rows]
    assert mpnb_command("sql", "SELECT 1 WHERE false", "--format", "json")[1] == "[]\n"
    assert mpnb_command("sql", QUERY, "--format", "parquet", "--output", "x.parquet")[0] == 0
    assert duckdb.sql(f"FROM '{tmp_path / 'x.parquet'}'").fetchall() == rows
    assert rows[0][0] in mpnb_command("sql", QUERY)[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("DELETE FROM events",), "it only reads"),
        (("SELECT 1; SELECT 2",), "it only reads"),
        (("SELEC 1",), "Parser Error"),
        (("FROM nothing",), "nothing"),
        (("SELECT 1", "--format", "parquet"), "pass --output FILE"),
        (("SELECT 1", "--output", "mixpanel.duckdb"), "exists: pass another --output"),
        (("SELECT 1", "--output", "no/such"), "there is no folder"),
        (("SELECT error('late') FROM events", "--format", "csv", "--output", "half.csv"), "late"),
    ],
)
def test_wrong_sql_is_one_line(mpnb_command, failing, export, tmp_path, words, message: str) -> None:
    """It changes nothing, and leaves no half file."""
    export(failing, day(1), day(1), database=tmp_path / "mixpanel.duckdb").close()
    status, out, err = mpnb_command("sql", *words)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert not (tmp_path / "half.csv").exists()
    assert query(tmp_path / "mixpanel.duckdb", "SELECT count(*) FROM events")[0][0] == failing.count(day(1), day(1))


def test_text_of_a_query_cannot_steer_a_terminal(mpnb_command, sandbox, export, tmp_path) -> None:
    """A value that a terminal would obey is shown as text."""
    export(sandbox(), day(1), day(1), database=tmp_path / "mixpanel.duckdb").close()
    assert "\x1b" not in mpnb_command("sql", "SELECT chr(27) || '[2J' AS x")[1]
