"""``%mpexport`` in a real kernel, cell after cell, as Run All, nbclient and nbval run it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

from mpnb.sandbox import Fault, Sandbox
from tests._helpers import day
from tests.magic.conftest import InKernel, printed, value

LOAD = "%load_ext mpnb"
WEEK = f"{day(1)} {day(7)}"
# Of a kind that is not tried again: kernels wait between attempts as users' do.
BROKEN = Fault("status", day=day(3), status=400, times=None)


def test_run_all_in_order_works(in_kernel: InKernel, mp: Sandbox) -> None:
    """It blocks: the next cell queries; the grid gives way to what stays; ``--bg`` gives a job to ``await``."""
    outputs = in_kernel(
        LOAD,
        f"jan = %mpexport {WEEK}",
        "jan.total_rows",
        f"%%mpexport {WEEK} --as week\nSELECT count(*) AS n FROM events",
        "week.skipped_batches",
        f"%mpexport {day(8)} {day(14)} --bg --as job;",
        "(await job).total_rows",
        "%mpexport --status",
        f"%mpexport {WEEK};",
    )
    rows = mp.count(day(1), day(7))
    assert value(outputs[2]) == str(rows)
    assert str(rows) in value(outputs[3])
    assert value(outputs[4]) == "1"
    assert value(outputs[6]) == str(mp.count(day(8), day(14)))
    assert value(outputs[7]).startswith(f"Mixpanel events {day(8)} – {day(14)}")
    assert not [each for each in outputs[8] if each["output_type"] == "execute_result"]
    for grid in (outputs[1], outputs[5]):
        shown = [each["data"]["text/html"] for each in grid if each["output_type"] == "display_data"]
        # In the background, the picture comes a moment after the job's end, and perhaps after the last cell's.
        assert "Batches: " in shown[-1] or (grid is outputs[5] and "an export of" in shown[-1])
    assert "widget-view" not in "".join(outputs[1][0]["data"]), "a saved notebook reopens without the widget"


@pytest.mark.parametrize("cell", ["%mpexport last 3 days --evnts x", "%mpexport 2026-01-01"])
def test_wrong_arguments_stop_the_notebook_in_one_line(in_kernel: InKernel, mp: Sandbox, cell: str) -> None:
    """``UsageError``: nbclient stops at the cell, which shows one line."""
    with pytest.raises(CellExecutionError):
        in_kernel(LOAD, cell, "print('went on')")
    outputs = in_kernel.outputs
    assert re.fullmatch(r"UsageError: [^\n]+\n", printed(outputs[1], "stderr"))
    assert outputs[2] == []
    assert not mp.requests


def test_a_failed_export_stops_the_notebook_in_one_line(in_kernel: InKernel, mp: Sandbox) -> None:
    """A real error without a traceback: nbclient stops, and so does nbval; its parts can be asked for."""
    mp.add_fault(BROKEN)
    with pytest.raises(CellExecutionError, match="ExportError"):
        in_kernel(LOAD, f"%mpexport {WEEK}", "print('went on')")
    outputs = in_kernel.outputs
    [error] = [each for each in outputs[1] if each["output_type"] == "error"]
    assert error["ename"] == "ExportError"
    assert len(error["traceback"]) == 1
    assert re.fullmatch(r"ExportError: 1 batch failed[^\n]+", error["traceback"][0])
    assert outputs[2] == []
    outputs = in_kernel(
        LOAD,
        f"%mpexport {WEEK}",
        "%mpexport --status",
        f"try:\n    %mpexport {WEEK}\n"
        "except Exception as error:\n    print(type(error).__name__, error.result.failed_batches)",
        allow_errors=True,
    )
    assert "missing   1 batch" in value(outputs[2])
    assert printed(outputs[3]) == "ExportError 1\n"


def test_nbval_fails_a_notebook_whose_export_failed(mp: Sandbox, kernels: dict[str, str], tmp_path: Path) -> None:
    """Even where it checks nothing but that the cells run."""
    mp.add_fault(BROKEN)
    cells = [nbformat.v4.new_code_cell(cell) for cell in (LOAD, f"%mpexport {WEEK};")]
    path = tmp_path / "story.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    command = [sys.executable, "-m", "pytest", "-q", "--nbval-lax", "-p", "no:cacheprovider", str(path)]
    ran = subprocess.run(command, env=kernels, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 1
    assert "ExportError: 1 batch failed" in ran.stdout
    assert "1 failed, 1 passed" in ran.stdout


def test_partial_failure_goes_on_and_strict_stops(in_kernel: InKernel, mp: Sandbox) -> None:
    """One picture with what failed and the call that retries; with ``--strict`` an error."""
    mp.add_fault(BROKEN)
    outputs = in_kernel(
        LOAD,
        f"%mpexport {WEEK} --chunk-days 1 --as week",
        "week.has_failures",
        f"%mpexport {WEEK} --chunk-days 1 --strict",
        allow_errors=True,
    )
    [picture] = outputs[1]
    assert "Retry them with <code>%mpexport --retry</code>" in picture["data"]["text/html"]
    assert value(outputs[2]) == "True"
    assert [each["ename"] for each in outputs[3] if each["output_type"] == "error"] == ["ExportError"]


def test_loading_is_quick_and_light(in_kernel: InKernel) -> None:
    """
    Under 0.3 s, and it loads neither ipywidgets, pandas nor polars; DuckDB 1.5 itself loads the first in a kernel.

    The time is the kernel's own on the processor, so that it does not depend on what else the machine does.
    """
    heavy = "\nprint(sorted({'ipywidgets', 'anywidget', 'pandas', 'polars', 'pyarrow', 'numpy'} & sys.modules.keys()))"
    [output] = in_kernel(
        "import sys, time\nbefore = time.process_time()\n%load_ext mpnb\nprint(time.process_time() - before)" + heavy
    )
    seconds, modules = printed(output).splitlines()
    assert float(seconds) < 0.3
    [alone] = in_kernel("import sys, duckdb" + heavy)
    assert modules == printed(alone).strip()


def test_it_works_beside_jupysql_and_duckdb_itself(
    in_kernel: InKernel, mp: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``%sql`` takes ``result.con``; all three see one database, before, during and after an export."""
    monkeypatch.setenv("PLOOMBER_STATS_ENABLED", "false")  # JupySQL reports its use, and keeps settings at home
    monkeypatch.setenv("HOME", str(tmp_path))
    outputs = in_kernel(
        "import duckdb\nown = duckdb.connect('mixpanel.duckdb')\n%load_ext sql\n%load_ext mpnb",
        f"week = %mpexport {WEEK}\ncon = week.con",
        "%sql con",
        "count = %sql SELECT count(*) AS n FROM events\nprint(count.DataFrame().n[0])",
        f"job = %mpexport {day(8)} {day(14)} --bg --chunk-days 1\n"
        "during = %sql SELECT count(*) AS n FROM events\nwhole = job.result()",
        "after = %sql SELECT count(*) AS n FROM events\nprint(after.DataFrame().n[0])",
        "print(own.execute('SELECT count(*) FROM events').fetchall())",
        f"%%mpexport {day(1)} {day(14)}\nSELECT count(*) AS n FROM events",
        "week.close()",
        "print(own.execute('SELECT count(*) FROM events').fetchall())",
    )
    assert printed(outputs[3]).strip().endswith(str(mp.count(day(1), day(7))))
    both = mp.count(day(1), day(14))
    assert printed(outputs[5]).strip().endswith(str(both))
    assert str(both) in value(outputs[7])
    assert printed(outputs[6]) == printed(outputs[9]) == f"[({both},)]\n"


def test_the_secret_is_in_no_output(in_kernel: InKernel, mp: Sandbox, capfd: pytest.CaptureFixture[str]) -> None:
    """Whatever is shown, and whatever goes wrong."""
    mp.add_fault(BROKEN)
    outputs: Any = in_kernel(
        LOAD,
        f"%mpexport {WEEK} --chunk-days 1 --as week",
        "week",
        f"%mpexport {day(3)} {day(3)} --table other",
        f"%mpexport {WEEK} --plan",
        "%mpexport --status",
        "%mpexport --secret",
        "%tb",
        allow_errors=True,
    )
    assert len(outputs) == 8
    assert mp.credentials.secret not in str(outputs)
    assert mp.credentials.secret not in "".join(capfd.readouterr())
