"""
Measure reports on the month of a shop: ``python -m tests.benchmarks.analysis``.

Each report runs on ``for_analysis()`` of all events. What it costs is a ratio to one read of the JSON column in the
same run, since a shared machine changes its speed; it exits with 1 where one takes more than it may.
"""

from __future__ import annotations

import argparse
import logging
import platform
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb

import mpnb
from mpnb import analysis
from tests.benchmarks.month import EVENTS, FUNNEL, export

# In reads of the JSON column. A read is some 1.5 CPU seconds on a quiet machine.
SMALL, LARGE, ONCE = 0.45, 1.0, 6.0
VIEW, *_, PURCHASE = FUNNEL


def reports(events: Any) -> dict[str, tuple[float, Callable[[], Any]]]:
    """Return what is measured, each with the most that it may cost."""
    return {
        "funnel, uniques": (SMALL, lambda: analysis.funnel(events, FUNNEL).fetchall()),
        "funnel, re-entry": (0.8 * LARGE, lambda: analysis.funnel(events, FUNNEL, reentry=True).fetchall()),
        "funnel, totals": (1.5 * LARGE, lambda: analysis.funnel(events, FUNNEL, counting="totals").fetchall()),
        "retention, on or after": (SMALL, lambda: analysis.retention(events, VIEW, PURCHASE).fetchall()),
        "retention, on": (SMALL, lambda: analysis.retention(events, VIEW, PURCHASE, mode="on").fetchall()),
        "segmentation": (SMALL, lambda: analysis.segmentation(events, PURCHASE).fetchall()),
        "segmentation, users by event": (
            LARGE,
            lambda: analysis.segmentation(events, measure="users", by="event_name").fetchall(),
        ),
        "sessions": (LARGE, lambda: len(analysis.sessions(events))),
        "flows": (LARGE, lambda: analysis.flows(events, VIEW).fetchall()),
        "lifecycle": (SMALL, lambda: analysis.lifecycle(events).fetchall()),
        "features": (
            LARGE,
            lambda: len(analysis.features(events, "2026-01-20", counts=[PURCHASE], sums=["amount"], last=["$os"])),
        ),
    }


def cpu(work: Callable[[], Any], rounds: int) -> float:
    """Return the CPU seconds of some work, the least of some rounds."""
    found = []
    for _ in range(rounds):
        begin = time.process_time()
        work()
        found.append(time.process_time() - begin)
    return min(found)


def measure(result: mpnb.ExportResult, rounds: int) -> bool:
    """Print what everything takes, and say whether it holds."""
    one = cpu(lambda: result.sql("SELECT count(properties->>'/amount') FROM events").fetchall(), rounds)
    print(f"one read of the JSON of {result.total_rows:,} events: {one:.2f} CPU seconds")
    result.forget_typed()
    warnings.simplefilter("ignore")  # made-up events do not show when they arrived

    def ask() -> Any:
        return result.for_analysis(properties=["amount", "$os"], zone="Europe/Berlin")

    asked = {"for_analysis(), first": (ONCE, ask, 1), "for_analysis(), again": (0.1, ask, rounds)}
    figures = [(name, most, cpu(work, times)) for name, (most, work, times) in asked.items()]
    figures += [(name, most, cpu(work, rounds)) for name, (most, work) in reports(ask()).items()]
    for name, most, seconds in figures:
        print(f"  {name:<30} {seconds:>7.2f} s {seconds / one:>7.2f} reads, at most {most:.2f}")
    return all(seconds / one <= most for _, most, seconds in figures)


def main() -> int:
    """Measure, and say whether all of it holds."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.analysis", description=__doc__)
    parser.add_argument("--file", type=Path, help="a database of tests.benchmarks.month, made if it is not there")
    parser.add_argument("--events", type=int, default=EVENTS)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    logging.getLogger("mpnb").setLevel(logging.ERROR)
    print(f"{platform.platform()}, Python {platform.python_version()}, DuckDB {duckdb.__version__}")
    with (
        tempfile.TemporaryDirectory() as folder,
        export(args.file or Path(folder) / "month.duckdb", args.events) as made,
    ):
        return 0 if measure(made, args.rounds) else 1


if __name__ == "__main__":
    sys.exit(main())
