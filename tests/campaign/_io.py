"""The nth write, sync, truncate, rename or open fails, once or for as long as the call lasts."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tests.campaign._case import draw, generator
from tests.campaign._clients import real
from tests.campaign._figures import Figures
from tests.campaign._oracle import Oracle
from tests.campaign._pace import quick
from tests.campaign._shim import CALLS, ERRORS, FOR_EVER, failing
from tests.campaign._stage import FILE, Stage, stage
from tests.campaign._tables import Table, served

# What has this in its path, and what besides does not fail with it.
PLACES = {"database": (FILE, "/spool/"), "log": (f"{FILE}.wal", "/spool/"), "spool": ("/spool/", ""), "all": ("/", "")}
# About so many of them an export has.
MOST = {"write": 60, "sync": 20, "open": 10, "rename": 2, "any": 80}
ALL = sum(CALLS.values())
STEPS = ("export", "refresh", "refresh", "cancel", "retry", "reopen")


@dataclass(frozen=True, slots=True)
class Failing:
    """Hold what fails in a step."""

    place: str
    call: str  # one of CALLS, or "any"
    error: str
    nth: int
    times: int

    def __str__(self) -> str:
        """Return it in words."""
        often = "for ever" if self.times == FOR_EVER else f"{self.times} times"
        return f"{self.call} {self.nth} of {self.place} {self.error} {often}"


def run(seed: int, number: int, figures: Figures) -> None:
    """Do one run: up to three steps in which something fails, and after each one in which nothing does."""
    rng = generator("io", seed, number)
    with stage(f"io {seed}/{number}", figures) as here, quick(rng.choice((0.0, 0.25)), checkpoints=rng.random() < 0.5):
        case = draw(rng)
        with served(case, here.folder / FILE) as table:
            oracle = Oracle(table.database, [table], figures, here.name)
            # A file that is made anew has the fewest calls, and the most ways to go wrong.
            for step in ("export", *(rng.choice(STEPS) for _ in range(rng.randint(0, 2)))):
                _step(here, step, table, oracle, _draw(rng))
                if rng.random() < 0.5:
                    _whole(here, table, oracle)
            _whole(here, table, oracle)


def _draw(rng: random.Random) -> Failing:
    call = rng.choice(list(MOST))
    return Failing(
        place=rng.choice((*PLACES, "database", "log")),
        call=call,
        error=rng.choice(list(ERRORS)),
        # The first calls make the file: small numbers are as likely as large ones.
        nth=int((MOST[call] + 1) ** rng.random()),
        times=rng.choice((1, 1, 3, FOR_EVER, FOR_EVER)),
    )


def _step(here: Stage, step: str, table: Table, oracle: Oracle, fails: Failing) -> None:
    """Export while something fails, and judge."""
    table.change(step)
    part, but = PLACES[fails.place]
    where = f"{here.folder}{part}" if part.startswith("/") else part
    calls = CALLS.get(fails.call, ALL)
    what = f"{step} with {fails}"
    with here.step(what):
        with failing(where, calls, ERRORS[fails.error], fails.nth, fails.times, but=but) as count:
            said = real(step, table.case, table.server.credentials, table.database)
        here.heard(what, said, may_refuse=count.failed > 0 or step == "reopen")
    if count.failed:
        # DuckDB leaves its log, reads it at each opening, and folds it in when something is written again.
        here.files.add(f"{FILE}.wal")
        here.figures.calls[f"{fails.call} of {fails.place}"] += 1
    # What fails at the very end keeps the export from noting what became of its batches: the next one does.
    oracle.judge(what, said={table.name: said}, crashed=True)


def _whole(here: Stage, table: Table, oracle: Oracle) -> None:
    """Export with nothing that fails: the table is complete."""
    with here.step("retry"):
        said = here.heard("retry", real("retry", table.case, table.server.credentials, table.database))
    oracle.judge("retry", said={table.name: said}, complete=True)
