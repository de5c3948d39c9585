"""
Where one run takes place: a folder, files with their tables, steps with a deadline, and a look at what is left.

A step that does not end is not waited for: all stacks go to standard error and the process ends, which is for
``_supervisor`` to tell.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import duckdb
import psutil

from tests.campaign._clients import Said
from tests.campaign._figures import Figures

# No step takes a tenth of this on a quiet machine.
STEP_SECONDS = 60.0
FILE = "mixpanel.duckdb"
# A thread that has done all its work may still be on its way out.
LEAVE_SECONDS = 5.0


class Stage:
    """Hold one run while it lasts. Made by ``stage()``."""

    def __init__(self, name: str, figures: Figures, folder: Path) -> None:
        self.name = name
        self.figures = figures
        self.folder = folder
        self.files = {FILE}

    def violation(self, text: str) -> None:
        """Note that a promise was broken."""
        self.figures.violations.append(f"{self.name}: {text}")

    @contextlib.contextmanager
    def step(self, what: str, seconds: float = STEP_SECONDS) -> Iterator[None]:
        """Let the process end with all its stacks where the block takes longer."""
        print(f"step: {self.name}: {what}", file=sys.stderr, flush=True)
        faulthandler.dump_traceback_later(seconds, exit=True)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()

    def heard(self, what: str, said: Said, *, may_refuse: bool = False) -> Said:
        """Count an export, and see that it ended with a result or an error of mpnb's."""
        self.figures.steps += 1
        if said.raised:
            self.violation(f"{what}: raised {said.raised.strip().splitlines()[-1]} | {_where(said.raised)}")
        if "is running" in said.refused or (said.refused and not may_refuse):
            self.violation(f"{what}: was refused: {said.refused}")
        return said


def _where(trace: str) -> str:
    """Return the places of a traceback in one line, the innermost last."""
    places = [line.strip() for line in trace.splitlines() if line.strip().startswith("File")]
    return " ".join(place.split("/")[-1].replace('", line ', ":").split(",")[0] for place in places[-4:])


@contextlib.contextmanager
def stage(name: str, figures: Figures) -> Iterator[Stage]:
    """Prepare a run, and look at its end for what it has left: files, threads, handles."""
    threads, handles = set(threading.enumerate()), _handles()
    with tempfile.TemporaryDirectory(prefix="mpnb-campaign-") as folder:
        here = Stage(name, figures, Path(folder))
        before = os.environ.get("MPNB_STATE_DIR")
        os.environ["MPNB_STATE_DIR"] = str(here.folder / "state")
        try:
            yield here
        finally:
            os.environ.pop("MPNB_STATE_DIR")
            if before is not None:
                os.environ["MPNB_STATE_DIR"] = before
        usual = {*here.files, "spool", "state"}
        left = sorted(str(path.relative_to(folder)) for path in here.folder.rglob("*"))
        left = [path for path in left if path not in usual and not path.startswith("state/")]
        if left:
            here.violation(f"files are left: {', '.join(left[:5])}")
    figures.runs += 1
    deadline = time.monotonic() + LEAVE_SECONDS
    while (more := _more_than(threads, handles)) and time.monotonic() < deadline:
        gc.collect()
        for thread in set(threading.enumerate()) - threads:
            thread.join(0.05)
    if more:
        here.violation(more)


def _handles() -> int:
    process = psutil.Process()
    return process.num_fds() if os.name == "posix" else process.num_handles()


def _more_than(threads: set[threading.Thread], handles: int) -> str:
    new = set(threading.enumerate()) - threads
    if new:
        return f"threads are left: {', '.join(sorted(thread.name for thread in new))}"
    return f"{_handles() - handles} files or sockets are left" if os.name == "posix" and _handles() > handles else ""


def victim(asked: Mapping[str, Any]) -> subprocess.CompletedProcess[str]:
    """Run a process that exports what is asked and kills itself, see ``_victim``; it tells the phase it died in."""
    command = [sys.executable, "-m", "tests.campaign._victim", json.dumps(asked)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@contextlib.contextmanager
def copied(database: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a copy of a file: to open the file itself replays its log, and that is for the next export to do."""
    with tempfile.TemporaryDirectory() as folder:
        for path in database.parent.glob(f"{database.name}*"):
            shutil.copy(path, folder)
        with contextlib.closing(duckdb.connect(str(Path(folder) / database.name))) as con:
            yield con
