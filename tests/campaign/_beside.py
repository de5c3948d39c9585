"""Exports side by side: into tables of one file and of two, while others open them, and rivals want the same table."""

from __future__ import annotations

import contextlib
import random
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import mpnb
from mpnb.sandbox import Fault
from tests.campaign._case import KINDS, draw, generator, hand
from tests.campaign._clients import Said, real
from tests.campaign._figures import Figures
from tests.campaign._oracle import Oracle
from tests.campaign._pace import patient, quick
from tests.campaign._stage import FILE, Stage, stage
from tests.campaign._tables import Table, served

NAMES = ("events", "clicks", 'Täble; "2"')
FILES = (FILE, "other.duckdb")
STEPS = ("export", "export", "refresh", "cancel", "retry", "reopen")
# What a call may be refused for while others are at work.
REFUSALS = ("is running", "has no events yet", "has no table", "there is no database")


@dataclass(frozen=True, slots=True)
class Part:
    """Hold what one table does in a round."""

    table: Table
    step: str
    rival: bool  # another export into the same table begins at the same moment


def run(seed: int, number: int, figures: Figures, *, faults: int = 3) -> None:
    """Do one run: rounds in which all tables are exported to at once, and one more without faults."""
    rng = generator("beside", seed, number)
    with (
        stage(f"beside {seed}/{number}", figures) as here,
        quick(rng.choice((0.0, 0.25)), checkpoints=rng.random() < 0.5),
        contextlib.ExitStack() as serving,
    ):
        kinds = hand(seed, number, 3 * faults, KINDS)
        tables = []
        for n in range(rng.choice((2, 2, 3))):
            case = draw(rng, kinds[n * faults : (n + 1) * faults])
            database = here.folder / (FILES[0] if n == 0 or rng.random() < 0.75 else FILES[1])
            here.files.add(database.name)
            tables.append(
                serving.enter_context(served(replace(case, table=NAMES[n]), database, _large(rng, case.days)))
            )
        oracles = {
            path: Oracle(path, [table for table in tables if table.database == path], figures, here.name)
            for path in {table.database: None for table in tables}
        }
        for _ in range(rng.randint(1, 3)):
            parts = [Part(table, rng.choice(STEPS), rng.random() < 0.3) for table in tables]
            for part in parts:
                part.table.change(part.step)
                for fault in _large(rng, part.table.case.days):
                    part.table.server.add_fault(fault)
            _round(here, parts, oracles, opening=rng.random() < 0.7)
        for table in tables:
            table.server.clear_faults()
        with patient():
            _round(here, [Part(table, "retry", False) for table in tables], oracles, opening=True, complete=True)
        for table in tables:
            figures.faults += table.server.injected


def _large(rng: random.Random, days: list[date]) -> Iterator[Fault]:
    """Return faults that split batches, also those that a table holds by now, and that keep days from landing."""
    if rng.random() < 0.4:
        yield Fault("too_large", times=rng.choice((None, None, 1)))
    for day in rng.sample(days, rng.choice((0, 0, 0, 1, 3))):
        yield Fault("status", status=400, day=day, times=None)


def _round(
    here: Stage, parts: list[Part], oracles: dict[Path, Oracle], *, opening: bool, complete: bool = False
) -> None:
    """Let all export at once, and judge each file."""
    what = " beside ".join(f"{part.step}{' with a rival' if part.rival else ''}" for part in parts)
    here.figures.surroundings["exports side by side"] += 1
    ended = threading.Event()
    at_once = threading.Barrier(sum(1 + part.rival for part in parts) + opening)

    def export(part: Part, step: str) -> Said:
        at_once.wait()
        return real(step, part.table.case, part.table.server.credentials, part.table.database)

    with here.step(what), ThreadPoolExecutor(at_once.parties, "campaign") as pool:
        exports = [pool.submit(export, part, part.step) for part in parts]
        rivals = [pool.submit(export, part, "export") for part in parts if part.rival]
        opener = pool.submit(_open_all, [part.table for part in parts], at_once, ended) if opening else None
        said = [each.result() for each in exports]
        others = [each.result() for each in rivals]
        ended.set()
        if opener and (raised := opener.result()):
            here.violation(f"{what}: mpnb.open() meanwhile raised {raised}")
    for each in (*said, *others):
        expected = any(text in each.refused for text in REFUSALS)
        here.heard(what, replace(each, refused="") if expected else each)
    for path, oracle in oracles.items():
        alone = {p.table.name: s for p, s in zip(parts, said, strict=True) if not p.rival and p.table.database == path}
        oracle.judge(what, said=alone, complete=complete)


def _open_all(tables: list[Table], at_once: threading.Barrier, ended: threading.Event) -> str:
    """Open what is written, again and again, and return what was raised."""
    at_once.wait()
    while not ended.is_set():
        for table in tables:
            try:
                with mpnb.open(table.database, table=table.name) as result:
                    result.events.count("*").fetchall()
            except (mpnb.TableError, mpnb.DatabaseError) as error:
                if not any(text in str(error) for text in REFUSALS):
                    return f"{type(error).__name__}: {error}"
            except Exception:
                return traceback.format_exc()
    return ""
