"""What ``%mpexport`` does with an export: result, names, SQL, failures, background."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import warnings
from datetime import timedelta
from pathlib import Path

import duckdb
import pytest
from IPython.core.error import UsageError

import mpnb
from mpnb._base.clock import today
from mpnb._planning import request
from mpnb._planning.batches import check_chunk_days
from mpnb.sandbox import Fault, Sandbox
from tests._helpers import child, day, joined, query, until
from tests.magic.conftest import Shell

# With a quota so wide that no test waits for it.
WEEK = f"{day(1)} {day(7)} --per-second 1000 --per-hour 100000"
BROKEN = Fault("status", day=day(3), status=500, times=None)
# One line, and after it the new line of print().
ONE_LINE = 1


# --- results ---------------------------------------------------------------------------------------------------------


def test_it_gives_the_result_when_all_is_there(shell: Shell, mp: Sandbox) -> None:
    """Assigned, displayed, under the name after ``--as``, and as ``_``: an ``ExportResult`` of the asked days."""
    result = shell(f"jan = %mpexport {WEEK}\njan")
    assert isinstance(result, mpnb.ExportResult)
    assert result is shell["jan"]
    assert result.total_rows == mp.count(day(1), day(7))
    again = shell(f"%mpexport {WEEK} --as recent")
    assert again is shell["recent"] is shell["_"]
    assert again.skipped_batches == 1


def test_a_semicolon_hides_the_display_and_nothing_else(shell: Shell, mp: Sandbox) -> None:
    """The name is bound and an assignment gets the result; of the line before another nothing is hidden."""
    assert shell(f"%mpexport {WEEK} --as a;") is None
    assert shell(f"b = %mpexport {WEEK};") is None
    assert shell(f"%%mpexport {WEEK} --as c ; # quiet\nSELECT 1") is None
    for name in "abc":
        assert isinstance(shell[name], mpnb.ExportResult)
    assert shell(f"d = %mpexport {WEEK};\nd") is shell["d"]
    assert shell(f"if True:\n    e = %mpexport {WEEK} ;\ne.total_rows") == mp.count(day(1), day(7))
    assert shell("text = '''\nget_ipython().run_line_magic('mpexport', 'x;')\n'''\n1") == 1


def test_sql_below_it_runs_on_the_export(shell: Shell, mp: Sandbox) -> None:
    """The cell shows the relation, a semicolon of SQL's hides nothing, and ``--as`` names the result."""
    relation = shell(f"%%mpexport {WEEK} --as week\nSELECT count(*) AS n\nFROM events;\n")
    assert isinstance(relation, duckdb.DuckDBPyRelation)
    assert relation.columns == ["n"]
    assert relation.fetchall() == [(mp.count(day(1), day(7)),)]
    assert isinstance(shell["week"], mpnb.ExportResult)
    assert relation is shell["_"]


def test_sql_below_it_sees_the_notebook(shell: Shell, mp: Sandbox) -> None:
    """Its pandas and polars frames, relations of an earlier result, and what a function has that runs a cell."""
    shell("import pandas, polars\nweights = pandas.DataFrame({'event_name': ['Purchase'], 'weight': [7]})")
    shell("chosen = polars.DataFrame({'event_name': ['Purchase', 'Sign Up']})")
    shell(f"jan = %mpexport {WEEK};\npurchases = jan.event(['Purchase'])")
    joined = "FROM purchases JOIN weights USING (event_name) JOIN chosen USING (event_name)"
    n = shell("len(purchases)")
    assert shell('jan.sql("SELECT count(*), max(weight) ' + joined + '").fetchall()') == [(n, 7)]
    assert shell(f"%%mpexport {WEEK}\nSELECT count(*), max(weight) {joined}").fetchall() == [(n, 7)]
    assert isinstance(shell.run(f"%%mpexport {WEEK}\nFROM local_ns").error, duckdb.CatalogException)


def test_sql_that_fails_is_one_message_and_leaves_the_export(shell: Shell, mp: Sandbox) -> None:
    """DuckDB's own words without a traceback; the result has its name all the same."""
    ran = shell.run(f"%%mpexport {WEEK} --as week\nSELECT * FROM evnts")
    assert isinstance(ran.error, duckdb.Error)
    assert ran.out.startswith("CatalogException: ")
    assert "evnts" in ran.out
    assert "Traceback" not in ran.out
    assert shell["week"].total_rows == mp.count(day(1), day(7))


def test_a_plan_sends_nothing(shell: Shell, mp: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """``--plan`` gives an ``ExportPlan``, also without credentials, and makes no file."""
    for name in ("MP_USERNAME", "MP_SECRET", "MP_PROJECT_ID"):
        monkeypatch.delenv(name)
    plan = shell("%mpexport 2026-01-01 2026-06-30 --plan --as half")
    assert isinstance(plan, mpnb.ExportPlan)
    assert plan is shell["half"]
    assert plan.requests == 26
    assert not mp.requests
    assert not Path("mixpanel.duckdb").exists()


def test_what_export_warns_of_is_one_line(shell: Shell, mp: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the path of a module of mpnb's; what anything else warns of meanwhile shows as it always does."""
    check = check_chunk_days

    def check_and_warn(days: object, **more: str) -> int:
        warnings.warn("of something else", UserWarning, stacklevel=1)
        return check(days, **more)

    monkeypatch.setattr(request, "check_chunk_days", check_and_warn)
    tomorrow = today() + timedelta(days=1)
    with pytest.warns(UserWarning, match="of something else") as caught:
        ran = shell.run(f"%mpexport yesterday {tomorrow} --chunk-days 1;")
    assert ran.error is None
    assert f"mpnb: TO {tomorrow} is after today: using {today()}\n" in ran.err
    assert [str(each.message) for each in caught] == ["of something else"]


# --- failures --------------------------------------------------------------------------------------------------------


def test_an_export_that_brings_nothing_is_one_line_and_an_error(shell: Shell, mp: Sandbox) -> None:
    """An ``ExportError`` with its result; ``--status`` shows the failure table, ``--retry`` fetches it."""
    mp.add_fault(BROKEN)
    ran = shell.run(f"failed = %mpexport {WEEK}")
    assert isinstance(ran.error, mpnb.ExportError)
    assert ran.out.startswith("ExportError: 1 batch failed")
    assert ran.out.endswith("%mpexport --status shows what failed, --retry fetches it again\n")
    assert ran.out.count("\n") == ONE_LINE
    assert "failed" not in shell.ip.user_ns
    status = shell("%mpexport --status")
    assert status is ran.error.result
    assert status.failures.fetchall()
    mp.clear_faults()
    assert shell("%mpexport --retry").total_rows == mp.count(day(1), day(7))
    assert not shell("%mpexport --status").has_failures


def test_credentials_that_are_refused_are_one_line(shell: Shell, mp: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so once for all batches, and never the secret."""
    monkeypatch.setenv("MP_SECRET", "not-the-secret")  # pragma: allowlist secret
    ran = shell.run("%mpexport 2026-01-01 2026-03-31")
    assert isinstance(ran.error, mpnb.ExportError)
    assert ran.out.startswith("ExportError: the export stopped because every batch would fail: HTTP 401")
    assert ran.out.count("\n") == ONE_LINE
    assert "not-the-secret" not in ran.out + ran.err


def test_some_batches_that_fail_are_a_warning(shell: Shell, mp: Sandbox) -> None:
    """The result comes, with one line that says what is missing and the call that retries, which works."""
    mp.add_fault(BROKEN)
    ran = shell.run(f"%mpexport {WEEK} --chunk-days 1 --as week")
    assert isinstance(ran.value, mpnb.ExportResult)
    [line] = [line for line in ran.err.splitlines() if "To fetch what is missing" in line]
    assert line.startswith("mpnb: 1 batch failed")
    assert "HTTP 500" in line
    assert line.endswith("To fetch what is missing: week = week.retry()")
    assert "week = week.retry()" in repr(ran.value)
    mp.clear_faults()
    shell("week = week.retry()")
    assert shell["week"].total_rows == mp.count(day(1), day(7))


def test_a_result_without_a_name_is_retried_by_the_magic(shell: Shell, mp: Sandbox) -> None:
    """The warning says so, and ``--retry`` fetches what is missing and only that, under a name if asked."""
    mp.add_fault(BROKEN)
    ran = shell.run(f"week = %mpexport {WEEK} --chunk-days 1")
    assert ran.err.endswith("To fetch what is missing: %mpexport --retry\n")
    mp.clear_faults()
    before = len(mp.requests)
    assert shell("%mpexport --retry --workers 2 --as whole") is shell["whole"]
    assert shell["whole"].total_rows == mp.count(day(1), day(7))
    assert len(mp.requests) == before + 1


def test_strict_makes_a_batch_that_failed_an_error(shell: Shell, mp: Sandbox) -> None:
    """The same that without it is a warning: one line, nothing bound, and what landed is kept."""
    mp.add_fault(BROKEN)
    ran = shell.run(f"%mpexport {WEEK} --chunk-days 1 --strict --as week")
    assert isinstance(ran.error, mpnb.ExportError)
    assert ran.out.startswith("ExportError: 1 batch failed")
    assert ran.out.count("\n") == ONE_LINE
    assert "week" not in shell.ip.user_ns
    assert ran.error.result.total_rows == mp.count(day(1), day(7)) - mp.count(day(3), day(3))
    mp.clear_faults()
    assert shell(f"%mpexport {WEEK} --chunk-days 1 --strict").total_rows == mp.count(day(1), day(7))


def test_a_database_that_another_process_holds_is_one_line(shell: Shell, mp: Sandbox, tmp_path: Path) -> None:
    """And a real error, since the arguments are right."""
    code = (
        f"import duckdb, sys; c = duckdb.connect({str(tmp_path / 'mixpanel.duckdb')!r}); print(1, flush=True); input()"
    )
    with child([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        ran = shell.run(f"%mpexport {WEEK}")
        other.communicate(b"\n")
    assert isinstance(ran.error, mpnb.DatabaseError)
    assert ran.out.startswith("DatabaseBusyError: ")
    assert "--wait" not in ran.out  # which is the command's
    assert ran.out.count("\n") == ONE_LINE


def test_an_interrupt_is_one_line(shell: Shell, mp: Sandbox) -> None:
    """■ ends the export and keeps what landed; the same line again goes on."""
    mp.add_fault(Fault("hang_start", day=day(7), times=None))

    def interrupt() -> None:
        until(lambda: Path("mixpanel.duckdb").exists() and len(mp.requests) == 7, 20)
        until(lambda: sum(request.status == 200 for request in mp.requests) == 6, 20)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    ran = shell.run(f"%mpexport {WEEK} --chunk-days 1")
    joined(thread)
    assert isinstance(ran.error, KeyboardInterrupt)
    assert ran.out.startswith("KeyboardInterrupt: cancelled: ")
    assert ran.out.count("\n") == ONE_LINE
    mp.clear_faults()
    assert shell(f"%mpexport {WEEK} --chunk-days 1").total_rows == mp.count(day(1), day(7))


def test_a_result_that_was_closed_is_one_line(shell: Shell, mp: Sandbox) -> None:
    """``--retry`` of it says how to read it again."""
    shell(f"week = %mpexport {WEEK}\nweek.close()")
    ran = shell.run("%mpexport --retry")
    assert isinstance(ran.error, mpnb.ClosedError)
    assert ran.out.startswith("ClosedError: this result was closed: mpnb.open('mixpanel.duckdb')")
    assert ran.out.count("\n") == ONE_LINE


# --- in the background -----------------------------------------------------------------------------------------------


def test_in_the_background_it_returns_at_once(shell: Shell, mp: Sandbox) -> None:
    """The job, under its name too; ``--status`` tells how far, and then gives the result; ``await`` works."""
    mp.add_fault(Fault("hang_start", day=day(7), times=None))
    job = shell(f"%mpexport {WEEK} --chunk-days 1 --bg --as job")
    assert isinstance(job, mpnb.ExportJob)
    assert job is shell["job"]
    until(lambda: job.progress().ended == 6, 20)
    ran = shell.run("%mpexport --status")
    assert ran.value is None
    assert ran.out.startswith("6 of 7 batches, ")
    ran = shell.run("%mpexport --retry")
    assert type(ran.error) is UsageError
    assert "the latest export still runs" in ran.err
    shell("%mpexport --cancel")
    mp.clear_faults()
    shell(f"job = %mpexport {WEEK} --chunk-days 1 --bg")
    result = shell("await job")
    assert shell("%mpexport --status") is result
    assert result.total_rows == mp.count(day(1), day(7))


def test_cancel_stops_what_runs_in_the_background(shell: Shell, mp: Sandbox) -> None:
    """All of it, in one line each; what landed is kept, and ``--retry`` goes on from there."""
    mp.add_fault(Fault("hang_start", day=day(7), times=None))
    jobs = [shell(f"%mpexport {WEEK} --chunk-days 1 --bg --table {name}") for name in ("a", "b")]
    until(lambda: all(job.progress().ended == 6 for job in jobs), 20)
    ran = shell.run("%mpexport --cancel")
    assert ran.value is None
    line = "cancelled: 6 of 7 batches are in mixpanel.duckdb; run the same command again to fetch the rest\n"
    assert ran.out == line * 2
    assert all(job.done() for job in jobs)
    assert shell("%mpexport --status").cancelled_batches == 1
    assert shell.run("%mpexport --cancel").out == "no export runs in the background\n"
    mp.clear_faults()
    assert shell("%mpexport --retry --bg").result(20).total_rows == mp.count(day(1), day(7))


# --- coming and going ------------------------------------------------------------------------------------------------


def test_unloading_leaves_nothing(bare: Shell) -> None:
    """Neither the magic, nor its transformer, nor its completion; loading again brings one of each."""

    def of_ours() -> list[object]:
        manager = bare.ip.magics_manager
        there = [kind for kind in ("line", "cell") if "mpexport" in manager.magics[kind]]
        return [
            *there,
            *vars(manager.user_magics).keys() & {"mpexport"},
            *(each for each in bare.ip.input_transformers_post if each.__module__.startswith("mpnb")),
            *(each for each in bare.ip.Completer.custom_matchers if each.__module__.startswith("mpnb")),
            *(each for each in bare.ip.configurables if type(each).__module__.startswith("mpnb")),
        ]

    names = set(bare.ip.user_ns)
    bare("%load_ext mpnb")
    assert len(of_ours()) == 5
    bare("%reload_ext mpnb")
    assert len(of_ours()) == 5
    bare("%unload_ext mpnb")
    assert of_ours() == []
    assert {name for name in bare.ip.user_ns if not name.startswith("_i")} <= names
    assert "Line magic function `%mpexport` not found" in bare.run("%mpexport last 3 days").err
    bare("%load_ext mpnb")
    assert len(of_ours()) == 5


def test_a_table_is_queried_while_the_notebook_uses_the_file_itself(shell: Shell, mp: Sandbox) -> None:
    """DuckDB's own connection to the same file, before and after; the result's connection is the same database."""
    shell("import duckdb\nown = duckdb.connect('mixpanel.duckdb')\nown.execute('CREATE TABLE mine AS SELECT 42 AS n')")
    shell(f"week = %mpexport {WEEK}")
    assert shell("own.execute('SELECT count(*) FROM events').fetchall()") == [(mp.count(day(1), day(7)),)]
    assert shell("week.con.execute('SELECT n FROM mine').fetchall()") == [(42,)]
    shell("own.close(); week.close()")
    assert query("mixpanel.duckdb", "SELECT count(*) FROM mine, events") == [(mp.count(day(1), day(7)),)]
