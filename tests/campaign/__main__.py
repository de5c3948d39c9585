"""The command: ``python -m tests.campaign PART --runs N --seed S``."""

from __future__ import annotations

import argparse
import sys
import time

from tests.campaign._figures import Figures
from tests.campaign._mutants import MUTANTS
from tests.campaign._parts import PARTS
from tests.campaign._supervisor import campaign

EVERY = 20


def main() -> int:
    """Run what the arguments ask for, print its figures, and fail where a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description="Break exports until they break.")
    parser.add_argument("part", choices=[*PARTS, "all"], help="what breaks")
    parser.add_argument("--runs", type=int, default=100, help="how many runs of it")
    parser.add_argument("--seed", type=int, default=0, help="draws the same runs again")
    parser.add_argument("--first", type=int, default=0, help="number of the first run: one run by itself with --runs 1")
    parser.add_argument("--mutant", choices=list(MUTANTS), help="with a precaution of mpnb's taken out, which fails")
    arguments = parser.parse_args()
    began = time.monotonic()
    failed = False

    def report(figures: Figures) -> None:
        if figures.runs % EVERY == 0:
            print(
                f"{time.monotonic() - began:6.0f} s: {figures.runs:,} runs, {len(figures.violations):,} violations",
                file=sys.stderr,
                flush=True,
            )

    for part in PARTS if arguments.part == "all" else [arguments.part]:
        figures = campaign(
            part, arguments.runs, arguments.seed, first=arguments.first, mutant=arguments.mutant, report=report
        )
        print(f"{part}, seed {arguments.seed}: {figures}")
        failed = failed or bool(figures.violations)
    print(f"took {time.monotonic() - began:,.0f} s")
    return failed


if __name__ == "__main__":
    sys.exit(main())
