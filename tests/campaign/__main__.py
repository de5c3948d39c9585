"""The command: ``python -m tests.campaign --runs N --kills N --seed S``."""

from __future__ import annotations

import argparse
import sys
import time

from tests.campaign._clients import naive, real
from tests.campaign._figures import Figures
from tests.campaign._kills import kills
from tests.campaign._runs import campaign


def main() -> int:
    """Run what the arguments ask for, print its figures, and fail where a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description="Break exports until they break.")
    parser.add_argument("--runs", type=int, default=0, help="runs with faults on the wire")
    parser.add_argument("--kills", type=int, default=0, help="exports to kill with SIGKILL")
    parser.add_argument("--seed", type=int, default=0, help="draws the same runs again")
    parser.add_argument("--naive", action="store_true", help="with a naive client, which fails")
    arguments = parser.parse_args()
    if not arguments.runs and not arguments.kills:
        parser.error("say how many --runs or --kills")
    began = time.monotonic()

    def report(figures: Figures) -> None:
        if figures.runs % 20 == 0:
            print(
                f"{time.monotonic() - began:6.0f} s: {figures.runs:,} runs, {figures.faults.total():,} faults, "
                f"{figures.kills.total():,} kills, {len(figures.violations):,} violations",
                file=sys.stderr,
                flush=True,
            )

    parts = []
    if arguments.runs:
        parts.append(campaign(arguments.runs, arguments.seed, client=naive if arguments.naive else real, report=report))
    if arguments.kills:
        parts.append(kills(arguments.kills, arguments.seed, report=report))
    for figures in parts:
        print(figures)
    print(f"took {time.monotonic() - began:,.0f} s")
    return 1 if any(figures.violations for figures in parts) else 0


if __name__ == "__main__":
    sys.exit(main())
