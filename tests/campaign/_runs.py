"""One run after the other: a server with faults, the steps of the case, and the oracle after each."""

from __future__ import annotations

import functools
import gc
import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection
from datetime import date
from itertools import islice
from pathlib import Path

import psutil

import mpnb._client
import mpnb._engine
import mpnb._writer
from mpnb.sandbox import serve
from mpnb.sandbox._faults import KINDS
from tests.campaign._case import IDLE_SECONDS, Case, draw
from tests.campaign._clients import Client, real
from tests.campaign._events import day_lines, multiset
from tests.campaign._figures import Figures
from tests.campaign._oracle import Oracle

# Steps that may still meet faults after the drawn ones, so that those which no request reached yet come to strike.
MORE_STEPS = 4


def campaign(
    runs: int,
    seed: int,
    *,
    client: Client = real,
    faults: int = 8,
    kinds: Collection[str] = KINDS,
    report: Callable[[Figures], object] | None = None,
) -> Figures:
    """
    Do so many runs, and give what they found.

    Args:
        client: who exports.
        faults: drawn for each run; many of them strike more than once.
        kinds: of the faults.
        report: called with the figures so far after each run.
    """
    figures = Figures()
    before = mpnb._client.IDLE_SECONDS, mpnb._engine.BACKOFF_SECONDS, mpnb._writer.LINGER_SECONDS
    mpnb._engine.BACKOFF_SECONDS = 0.005
    try:
        for number, case in enumerate(islice(draw(seed, faults, kinds), runs)):
            run_case(case, f"run {number} of seed {seed}", figures, client)
            if report:
                report(figures)
    finally:
        mpnb._client.IDLE_SECONDS, mpnb._engine.BACKOFF_SECONDS, mpnb._writer.LINGER_SECONDS = before
    return figures


def run_case(case: Case, name: str, figures: Figures, client: Client = real) -> None:
    """Do one run: its steps with faults, one more without any, and a look at what the process has left."""
    threads, handles = set(threading.enumerate()), _handles()
    with tempfile.TemporaryDirectory(prefix="mpnb-campaign-") as folder:
        _steps(case, name, figures, client, Path(folder) / "mixpanel.duckdb")
        left = sorted(path.name for path in Path(folder).rglob("*") if path.name not in ("mixpanel.duckdb", "spool"))
        if left:
            figures.violations.append(f"{name}: files are left: {', '.join(left)}")
    figures.runs += 1
    deadline = time.monotonic() + 5
    # A thread that has done all its work may still be on its way out.
    while (more := _more_than(threads, handles)) and time.monotonic() < deadline:
        gc.collect()
        for thread in set(threading.enumerate()) - threads:
            thread.join(0.05)
    if more:
        figures.violations.append(f"{name}: {more}")


def _steps(case: Case, name: str, figures: Figures, client: Client, database: Path) -> None:
    version = 0

    @functools.cache
    def served(day: date, of_version: int) -> Counter[str]:
        return multiset(server.lines(day) if case.made_up else day_lines(case.seed, of_version, day), case.names)

    with serve(
        seed=case.seed,
        events_per_day=60,
        gzip_members=case.gzip_members,
        faults=case.faults,
        lines=None if case.made_up else lambda day: day_lines(case.seed, version, day),
    ) as server:
        oracle = Oracle(database, case.days, served, figures, name)

        def step(what: str, *, complete: bool = False) -> None:
            client(what, case, server.credentials, database)
            figures.steps += 1
            oracle.judge(what, version, server.requests, complete=complete)

        wanted = sum(fault.times or 0 for fault in case.faults)
        mpnb._client.IDLE_SECONDS = IDLE_SECONDS
        mpnb._writer.LINGER_SECONDS = case.linger
        for what in case.steps:
            version += what in ("refresh", "cancel")
            step(what)
        for _ in range(MORE_STEPS):
            if server.injected.total() >= wanted:
                break
            version += 1
            step("refresh")
        server.clear_faults()
        mpnb._client.IDLE_SECONDS = 60.0
        # A refresh that failed left old data in place: to go on would leave it, to retry replaces it.
        step("retry", complete=True)
        figures.faults += server.injected


def _handles() -> int:
    process = psutil.Process()
    return process.num_fds() if os.name == "posix" else process.num_handles()


def _more_than(threads: set[threading.Thread], handles: int) -> str:
    new = set(threading.enumerate()) - threads
    if new:
        return f"threads are left: {', '.join(sorted(thread.name for thread in new))}"
    return f"{_handles() - handles} files or sockets are left" if os.name == "posix" and _handles() > handles else ""
