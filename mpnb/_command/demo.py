"""``mpnb demo``: an export of made-up events, with faults on the way, in a terminal or in JupyterLab."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from mpnb import _api as api
from mpnb._base.clock import today
from mpnb._base.interrupt import wait_in_turns
from mpnb._base.shell import assignment, command_line, users_shell
from mpnb._command.text import failure_table
from mpnb._errors import DatabaseError, MissingPackageError, PlanError
from mpnb._mixpanel.quota import Quota
from mpnb._storing.database import check_database
from mpnb.sandbox import Fault, Sandbox, serve

DAYS = 90
FIRST, LAST = f"{DAYS} days ago", "yesterday"

EVENTS = """\
SELECT event_name, count(*) AS events, count(DISTINCT nullif(distinct_id, '')) AS people
FROM events GROUP BY ALL ORDER BY events DESC, event_name"""

WEEKS = """\
SELECT date_trunc('week', time)::DATE AS week, count(*) AS purchases,
       sum(CAST(properties->>'amount' AS DOUBLE))::BIGINT AS amount, bar(count(*), 0, 250, 25) AS chart
FROM events WHERE event_name = 'Purchase' GROUP BY ALL ORDER BY week"""

QUICKSTART = "01_quickstart.ipynb"
LAB_NEEDS = ("jupyterlab", "matplotlib")

FRAME = 'result.df("Purchase").groupby("currency")["amount"].agg(["count", "mean", "max"]).round(2)'

TOO_FAST = {"error": "Query rate limit exceeded: 4/3 queries started in the last second."}


def run(database: str | None = None) -> None:
    """
    Run an export and explain it, on a terminal or in a log: about 15 seconds, without an account or a network.

    Args:
        database: a file that does not exist yet and is kept; without it, a temporary one.

    Raises:
        DatabaseError: the file exists, or cannot be made.
        KeyboardInterrupt: it was interrupted.
    """
    if database is not None and Path(check_database(database)).exists():
        raise DatabaseError(f"{database} exists already: the demo keeps its made-up events in a new file")
    with (
        tempfile.TemporaryDirectory(prefix="mpnb-demo-") as folder,
        serve(quota=Quota(), retry_after="seconds", faults=_faults()) as mp,
    ):
        _tell(mp, database or str(Path(folder) / "demo.duckdb"))
    _say(
        f"The made-up events are in {database}." if database else "The made-up events are deleted again.",
        "With a project of your own (MP_REGION=eu or in, if its data lives there):",
        *_to_set(),
        "  mpnb export last 30 days",
        "The same in a notebook, with charts: mpnb demo --lab",
    )


def _to_set() -> list[str]:
    """Return the lines that set the credentials in the user's shell."""
    if users_shell() == "posix":
        return ["  export MP_USERNAME=… MP_SECRET=… MP_PROJECT_ID=…     # of a service account"]
    return [f"  {assignment(name, '…')}" for name in ("MP_USERNAME", "MP_SECRET", "MP_PROJECT_ID")]


def open_lab() -> int:
    """
    Open a copy of the quickstart and of the other notebooks in JupyterLab, until it exits.

    Returns:
        The exit status of JupyterLab.

    Raises:
        PlanError: JupyterLab or matplotlib is missing; the message says what to type.
    """
    if missing := [name for name in LAB_NEEDS if importlib.util.find_spec(name) is None]:
        install = command_line([sys.executable, "-m", "pip", "install", *missing])
        raise PlanError(f"the notebooks need {' and '.join(missing)}, which this Python lacks: {install}")
    with tempfile.TemporaryDirectory(prefix="mpnb-lab-") as folder:
        for path in notebooks().glob("*.ipynb"):
            shutil.copy(path, folder)
        where = [f"--ServerApp.root_dir={folder}", f"--LabApp.default_url=/lab/tree/{QUICKSTART}"]
        # Without the question whether to show news, which would be the first thing to see.
        command = [sys.executable, "-m", "jupyterlab", *where, "--LabApp.news_url=None"]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            # JupyterLab refuses root, as in many containers. It listens on this machine alone, and wants a token.
            command.append("--allow-root")
        _say(
            f"JupyterLab opens {QUICKSTART}: Run, then Run All Cells. All data in it is made up.",
            "It is a copy that is deleted when JupyterLab ends. To keep what you change: File, Download.",
        )
        with subprocess.Popen(command) as process, _ended_with_us(process):  # noqa: S603 (our own interpreter and file)
            while True:
                try:
                    wait_in_turns(lambda seconds: _wait_for(process, seconds), lambda: process.poll() is not None)
                    return process.returncode
                except KeyboardInterrupt:
                    continue  # JupyterLab got it too, and asks whether it is meant


def _wait_for(process: subprocess.Popen[bytes], seconds: float) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


@contextlib.contextmanager
def _ended_with_us(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Let a process hear the signals that would end this one alone, and leave it and its folder behind."""
    signals = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, lambda *_: process.terminate()) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def notebooks() -> Path:
    """Return the folder of the notebooks: in an installed package, or next to it in a checkout."""
    package = Path(__file__).parents[1]
    for folder in (package / "notebooks", package.parent / "notebooks"):
        if (folder / QUICKSTART).exists():
            return folder
    raise PlanError("this installation of mpnb has no notebooks")


def _faults() -> list[Fault]:
    """Return the faults of the demo: two batches fail for good, two others once."""

    def day(number: int) -> str:
        return (today() - timedelta(days=DAYS - number)).isoformat()

    return [
        Fault("terminated", day=day(10), times=None),
        Fault("status", day=day(17), status=503, times=None),
        Fault("status", day=day(38), status=429, retry_after=2, body=TOO_FAST),
        Fault("reset", day=day(59)),
    ]


def _tell(mp: Sandbox, database: str) -> None:
    _say(
        f"All data here is made up. A sandbox on this machine ({mp.url}) stands in for Mixpanel's export API,",
        f"with its quota of 3 requests a second and 60 an hour. An export of {DAYS} days would be:",
    )
    _say(api.plan(FIRST, LAST, database=database, credentials=mp.credentials))
    _say(
        "It runs now. To show what happens then, the sandbox refuses one request with 429 and breaks one connection;",
        "each is tried again. Two batches are broken for good: one is cut short each time, one meets a 503.",
    )
    with api.export(FIRST, LAST, database=database, credentials=mp.credentials) as result:
        _say(result)
        _say(
            f"The sandbox was asked {len(mp.requests)} times and answered with a fault {mp.injected.total()} times.",
            "Nothing of a batch that failed is in the table. The failure table says why:",
        )
        _say(failure_table(result))
        mp.clear_faults()
        _say("Now the sandbox works again, and result.retry() fetches the two that are missing, and only those.")
        with result.retry() as retried:
            _say(retried)
            [(left,)] = retried.failures.count("*").fetchall()
            _say(f"The failure table has {left} rows now. Two questions to the table of events (all made up):")
            for query in (EVENTS, WEEKS):
                _say(query, str(retried.sql(query)).rstrip())
            try:
                # What is shown is what runs.
                frame = eval(FRAME, {"result": retried})  # noqa: S307
            except MissingPackageError as error:
                frame = error
            _say("And one in pandas, with a typed column for each property of an event:", FRAME, frame)


def _say(*lines: object) -> None:
    """Print a paragraph at once: progress goes to standard error, and the two are read together."""
    print(*lines, sep="\n", end="\n\n", flush=True)
