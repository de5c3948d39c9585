"""``mpnb demo``: what a newcomer sees first, in a pipe and in a terminal."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from datetime import timedelta
from pathlib import Path
from typing import Any

import pexpect
import psutil
import pytest

import mpnb
from mpnb._base.clock import today
from mpnb._command.cli import main
from mpnb._command.demo import DAYS, LAB_NEEDS
from mpnb.sandbox import serve
from tests import _kernels
from tests._helpers import child, terminal, until

COMMAND = [sys.executable, "-m", "mpnb", "demo"]
# A minute would be too long for anyone who just wants to see; it takes about fifteen seconds.
SECONDS = 60


def served() -> int:
    """Count the events that the demo's sandbox makes up: the same in every one that is not told otherwise."""
    with serve() as mp:
        return mp.count(today() - timedelta(days=DAYS), today() - timedelta(days=1))


def temporary(folder: Path) -> Path:
    """Give the folder that stands in for the system's temporary one."""
    (folder / "temporary").mkdir(exist_ok=True)
    return folder / "temporary"


def test_the_demo_tells_its_story_in_a_pipe(tmp_path: Path) -> None:
    """A plan, an export, a failure table, a retry that empties it, two queries, a DataFrame; and nothing is left."""
    env = {**os.environ, "TMPDIR": str(temporary(tmp_path))}
    done = subprocess.run(COMMAND, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0
    out = done.stdout
    story = [
        "All data here is made up.",
        "batches   13 of 7 days (the shortest 6)",
        "requests  13 of 60 left this hour",
        "batches   11 fetched, 2 failed",
        "1 http        Mixpanel had an internal problem: retry in a few minutes.",
        "1 truncated   The answer was cut short and nothing was kept",
        "truncated  200   4         Mixpanel ended the export early: 'terminated early'",
        "http       503   4         Service Unavailable",
        "result.retry() fetches the two that are missing",
        f"{served():,} in table 'events'",
        "batches   2 fetched",
        "The failure table has 0 rows now.",
        "│ Page View ",
        "│    week    │",
        'result.df("Purchase").groupby("currency")',
        "\ncurrency ",
        "\nUSD ",
        "The made-up events are deleted again.",
        "export MP_USERNAME=… MP_SECRET=… MP_PROJECT_ID=…",
        "mpnb export last 30 days",
    ]
    places = [out.find(text) for text in story]
    assert -1 not in places, story[places.index(-1)]
    assert places == sorted(places)
    lines = done.stderr.splitlines()
    assert len(lines) == 13 + 2
    assert all(re.match(r"mpnb: \d{4}-\d\d-\d\d – \d{4}-\d\d-\d\d (done|failed): ", line) for line in lines)
    assert not list(temporary(tmp_path).iterdir())


def test_the_demo_keeps_a_database_that_is_named(tmp_path: Path) -> None:
    """In a terminal: a line that is redrawn, and at the end every event that was made up is in the file."""
    command = [*COMMAND, "--database", "kept.duckdb"]
    with terminal(command, cwd=tmp_path, timeout=SECONDS) as (process, child):
        child.expect("13/13 batches .* 2 failed")
        child.expect("2/2 batches ")
        child.expect("The made-up events are in kept.duckdb.")
        child.expect(pexpect.EOF)
        assert process.wait(SECONDS) == 0
    with mpnb.open(tmp_path / "kept.duckdb") as db:
        assert db.total_rows == served()
        assert not db.has_failures


def test_the_demo_can_be_stopped(tmp_path: Path) -> None:
    """Ctrl-C ends it with 130 and one line, and its temporary database is gone."""
    env = {**os.environ, "TMPDIR": str(temporary(tmp_path))}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with child(COMMAND, seconds=SECONDS, env=env, cwd=tmp_path, **pipes) as process:
        assert " done: " in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == 130
    assert err.splitlines()[-1] == "mpnb demo: interrupted"
    assert not list(temporary(tmp_path).iterdir())


# --- in JupyterLab ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["api", "SIGTERM", "SIGHUP"])
def test_the_demo_opens_the_quickstart_in_jupyterlab(tmp_path: Path, how: str) -> None:
    """In a copy that a kernel can run in, until JupyterLab or the demo is ended; then nothing is left of either."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    env = _kernels.environment(tmp_path) | {"TMPDIR": str(temporary(tmp_path)), "JUPYTER_TOKEN": "made-up"}
    config = tmp_path / "config" / "jupyter_server_config.json"
    config.parent.mkdir()
    config.write_text(json.dumps({"ServerApp": {"open_browser": False, "port": port, "port_retries": 0}}))

    def ask(method: str, path: str) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/{path}", method=method, headers={"Authorization": "token made-up"}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.read()

    def is_up() -> bool:
        assert process.poll() is None, (tmp_path / "said").read_text()
        with contextlib.suppress(OSError):
            ask("GET", "api/status")
            return True
        return False

    started: list[psutil.Process] = []
    with (
        (tmp_path / "said").open("w") as said,
        subprocess.Popen(
            [*COMMAND, "--lab"], env=env, cwd=tmp_path, stdout=said, stderr=said, start_new_session=True
        ) as process,
    ):
        try:
            until(is_up, SECONDS)
            notebook = json.loads(ask("GET", "api/contents/01_quickstart.ipynb"))["content"]
            assert "From Mixpanel to a DataFrame" in notebook["cells"][0]["source"]
            names = {each["name"] for each in json.loads(ask("GET", "api/contents"))["content"]}
            assert names == {path.name for path in (Path(__file__).parents[1] / "notebooks").glob("*.ipynb")}
            assert b"jupyter-config-data" in ask("GET", "lab/tree/01_quickstart.ipynb")
            ask("POST", "api/kernels")
            started = psutil.Process(process.pid).children(recursive=True)
            assert len(started) >= 2  # the kernel as well
            if how == "api":
                ask("POST", "api/shutdown")
            else:
                process.send_signal(getattr(signal, how))
            assert process.wait(SECONDS) == 0
            assert psutil.wait_procs(started, SECONDS)[1] == []
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            for each in started:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
    told = (tmp_path / "said").read_text()
    assert "JupyterLab opens 01_quickstart.ipynb" in told
    assert "/lab/tree/01_quickstart.ipynb" in told
    assert not list(temporary(tmp_path).glob("mpnb-lab-*"))


@pytest.mark.parametrize("missing", LAB_NEEDS)
def test_what_the_notebooks_want_is_said(
    missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without JupyterLab or matplotlib: one line, with what to type."""
    monkeypatch.setitem(sys.modules, missing, None)
    assert main(["demo", "--lab"]) == 2
    assert capsys.readouterr().err == (
        f"mpnb demo: the notebooks need {missing}, which this Python lacks: {sys.executable} -m pip install {missing}\n"
    )
