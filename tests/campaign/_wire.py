"""Faults on the wire: a server with faults, the steps of the case, and the oracle after each."""

from __future__ import annotations

from collections.abc import Collection

from tests.campaign._case import KINDS, draw, generator, hand
from tests.campaign._clients import CLIENTS, Client, real
from tests.campaign._figures import Figures
from tests.campaign._oracle import Oracle
from tests.campaign._pace import patient, quick
from tests.campaign._stage import FILE, Stage, stage
from tests.campaign._tables import Table, served

FAULTS = 8
# Steps that may still meet faults after the drawn ones, so that those which no request reached yet come to strike.
MORE_STEPS = 4


def run(
    seed: int,
    number: int,
    figures: Figures,
    *,
    client: str = "real",
    faults: int = FAULTS,
    kinds: Collection[str] = KINDS,
) -> None:
    """Do one run: its steps with faults, many of which strike more than once, and one more without any."""
    case = draw(generator("wire", seed, number), hand(seed, number, faults, kinds))
    with (
        stage(f"wire {seed}/{number}", figures) as here,
        quick(case.linger),
        served(case, here.folder / FILE) as table,
    ):
        oracle = Oracle(table.database, [table], figures, here.name)
        wanted = sum(fault.times or 0 for fault in case.faults)
        for what in (*case.steps, *("refresh" for _ in range(MORE_STEPS))):
            if what == "refresh" and table.server.injected.total() >= wanted:
                continue
            table.change(what)
            step(here, what, table, oracle, CLIENTS[client])
        table.server.clear_faults()
        with patient():
            # A refresh that failed left old data in place: to go on would leave it, to retry replaces it.
            step(here, "retry", table, oracle, CLIENTS[client], complete=True)
        figures.faults += table.server.injected


def step(
    here: Stage, what: str, table: Table, oracle: Oracle, client: Client = real, *, complete: bool = False
) -> None:
    """Export, and judge what is there."""
    with here.step(what):
        said = here.heard(what, client(what, table.case, table.server.credentials, table.database))
    oracle.judge(what, said={table.name: said}, complete=complete)
