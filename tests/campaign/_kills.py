"""SIGKILL at random moments of an export, and what is there after it."""

from __future__ import annotations

import random
import signal
from dataclasses import asdict, replace

from mpnb.sandbox import Fault
from tests.campaign._case import LINGERS, draw, generator
from tests.campaign._clients import real
from tests.campaign._figures import Figures
from tests.campaign._oracle import Oracle
from tests.campaign._pace import patient, quick
from tests.campaign._stage import FILE, Stage, stage, victim
from tests.campaign._tables import Table, served
from tests.campaign._victim import PHASES

# How long a phase lasts at most, in seconds: a moment after its beginning is drawn from this.
SPANS = {"fetching": 0.02, "writing": 0.02, "committing": 0.004, "checkpointing": 0.02}
ABORTS = ("before_truncate", "before_header", "after_free_list_write")


def run(seed: int, number: int, figures: Figures) -> None:
    """Kill up to three exports into one file in a row, then let one end."""
    rng = generator("kills", seed, number)
    case = replace(draw(rng), spool_bytes=None, made_up=False)
    with (
        stage(f"kills {seed}/{number}", figures) as here,
        quick(0.0),
        patient(),
        served(case, here.folder / FILE) as table,
    ):
        oracle = Oracle(table.database, [table], figures, here.name)
        for _ in range(rng.randint(1, 3)):
            mode = "refresh" if table.version or rng.random() < 0.5 else "resume"
            table.change(mode)
            if rng.random() < 0.3:
                # From now on batches are split, also those that the table holds, which are replaced whole all the same.
                table.server.add_fault(Fault("too_large", times=None))
            phase = _kill(here, rng, table, mode)
            figures.steps += 1
            if phase is None:
                break
            figures.kills[phase] += 1
            if table.database.exists():
                oracle.judge(f"{mode} killed {phase}", crashed=True)
        with here.step("retry"):
            # What a refresh left undone has its old data still; to retry replaces it.
            said = here.heard("retry", real("retry", table.case, table.server.credentials, table.database))
        oracle.judge("retry", said={table.name: said}, complete=True)
        figures.faults += table.server.injected


def _kill(here: Stage, rng: random.Random, table: Table, mode: str) -> str | None:
    """Start an export that dies on its way, and return the phase it died in, ``None`` where it came to its end."""
    case = table.case
    phase = rng.choice(PHASES)
    chunk_days = rng.choice((1, 2, 3))
    batches = max(1, len(case.days) // chunk_days)
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
        "events": case.names,
        "from_date": str(case.from_date),
        "to_date": str(case.to_date),
        "credentials": asdict(table.server.credentials),
        "database": str(table.database),
        "spool": str(here.folder / "spool"),
        "chunk_days": chunk_days,
        "workers": rng.choice((1, 3, 10)),
        "mode": mode,
    }
    with here.step(f"{mode} killed {phase}"):
        ended = victim(asked)
    if ended.returncode == -signal.SIGKILL:
        return ended.stdout
    if ended.returncode:
        raise AssertionError(f"the victim failed by itself: {ended.stderr}")
    return None
