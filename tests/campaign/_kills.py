"""SIGKILL at random moments of an export, and what is there after it."""

from __future__ import annotations

import functools
import json
import random
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from datetime import date, timedelta
from pathlib import Path

import mpnb
from mpnb.sandbox import Sandbox, serve
from tests.campaign._case import FIRST_DAY, LINGERS
from tests.campaign._clients import QUOTA
from tests.campaign._events import day_lines, multiset
from tests.campaign._figures import Figures
from tests.campaign._oracle import Oracle
from tests.campaign._victim import PHASES

# How long a phase lasts at most, in seconds: a moment after its beginning is drawn from this.
SPANS = {"fetching": 0.02, "writing": 0.02, "committing": 0.004, "checkpointing": 0.02}
ABORTS = ("before_truncate", "before_header", "after_free_list_write")
VICTIM_SECONDS = 120


def kills(count: int, seed: int, *, report: Callable[[Figures], object] | None = None) -> Figures:
    """Kill so many exports, and give what was found. A victim that ended before its moment does not count."""
    figures = Figures()
    rng = random.Random(seed)
    while figures.kills.total() < count:
        _run(rng, f"kills {figures.runs} of seed {seed}", figures, count)
        figures.runs += 1
        if report:
            report(figures)
    return figures


def _run(rng: random.Random, name: str, figures: Figures, most: int) -> None:
    """Kill up to three exports into one file in a row, then let one end."""
    seed, version = rng.getrandbits(32), 0
    days = [FIRST_DAY + timedelta(days=n) for n in range(rng.randint(6, 20))]

    @functools.cache
    def served(day: date, of_version: int) -> Counter[str]:
        return multiset(day_lines(seed, of_version, day))

    with (
        tempfile.TemporaryDirectory(prefix="mpnb-kills-") as folder,
        serve(lines=lambda day: day_lines(seed, version, day), gzip_members=rng.choice((1, 3))) as server,
    ):
        database = Path(folder) / "mixpanel.duckdb"
        oracle = Oracle(database, days, served, figures, name)
        for _ in range(rng.randint(1, 3)):
            if figures.kills.total() >= most:
                break
            mode = "resume"
            if version or rng.random() < 0.5:
                version += 1
                mode = "refresh"
            phase = _kill(rng, server, days, database, mode)
            figures.steps += 1
            if phase is None:
                break
            figures.kills[phase] += 1
            if database.exists():
                oracle.judge(f"killed {phase}", version, server.requests, crashed=True)
        _resume(server, days, database)
        oracle.judge("resumed", version, server.requests, complete=True)
        left = sorted(path.name for path in Path(folder).rglob("*") if path.name not in ("mixpanel.duckdb", "spool"))
        if left:
            figures.violations.append(f"{name}: files are left: {', '.join(left)}")


def _kill(rng: random.Random, server: Sandbox, days: list[date], database: Path, mode: str) -> str | None:
    """Start an export that dies on its way, and give the phase it died in, ``None`` where it came to its end."""
    phase = rng.choice(PHASES)
    chunk_days = rng.choice((1, 2, 3))
    batches = max(1, len(days) // chunk_days)
    linger = rng.choice(LINGERS)
    # A writer that waits for more has one or two transactions in all.
    most = {"fetching": batches, "checkpointing": 1}.get(phase, min(batches, 2) if linger else batches)
    asked = {
        "phase": phase,
        "nth": rng.randint(1, most),
        "linger": linger,
        "delay": rng.uniform(0, SPANS[phase]),
        "abort": rng.choice((None, *ABORTS)),
        "threshold": rng.choice(("'64MB'", "'10KB'")),
        "from_date": str(days[0]),
        "to_date": str(days[-1]),
        "credentials": asdict(server.credentials),
        "database": str(database),
        "spool": str(database.parent / "spool"),
        "chunk_days": chunk_days,
        "workers": rng.choice((1, 3, 10)),
        "mode": mode,
    }
    victim = subprocess.run(
        [sys.executable, "-m", "tests.campaign._victim", json.dumps(asked)],
        capture_output=True,
        text=True,
        timeout=VICTIM_SECONDS,
        check=False,
    )
    if victim.returncode == -signal.SIGKILL:
        return victim.stdout
    if victim.returncode:
        raise AssertionError(f"the victim failed by itself: {victim.stderr}")
    return None


def _resume(server: Sandbox, days: list[date], database: Path) -> None:
    options = {
        "credentials": server.credentials,
        "quota": QUOTA,
        "on_batch": lambda progress: None,
        "spool": mpnb.Spool(database.parent / "spool"),
    }
    with mpnb.export(days[0], days[-1], database=database, **options) as result:
        # What a refresh left undone has its old data still; to retry replaces it.
        result.retry(**options).close()
