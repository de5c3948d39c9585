"""
Measure the explorer on the month of a shop: ``python -m tests.benchmarks.explorer``.

Each report is chosen twenty times, as a browser chooses it, with columns of their own for what it reads. What counts is
the time from the message's arrival to the picture's HTML; it exits with 1 where a median is more than it may be.
"""

from __future__ import annotations

import argparse
import logging
import platform
import sys
import tempfile
import time
import warnings
from pathlib import Path
from statistics import median

import duckdb

import mpnb
from mpnb._notebook.panel._explorer import Explorer
from tests.benchmarks.month import FUNNEL, export

EVENTS = 1_000_000
SHORT, LONG = 0.3, 1.0
VIEW, CART, *_, PURCHASE = FUNNEL
CHOICES: dict[str, tuple[float, dict[str, str]]] = {
    "segmentation": (SHORT, {"report": "lines", "event": VIEW}),
    "segmentation by segment": (SHORT, {"report": "lines", "event": VIEW, "by": "$os"}),
    "segmentation, users": (SHORT, {"report": "lines", "event": VIEW, "measure": "users"}),
    "bars": (SHORT, {"report": "bars", "event": VIEW, "by": "$city"}),
    "table": (SHORT, {"report": "table", "event": PURCHASE, "measure": "sum(amount)"}),
    "funnel": (SHORT, {"report": "funnel", "event": VIEW, "then": PURCHASE}),
    "funnel by a person's segment": (SHORT, {"report": "funnel", "event": VIEW, "then": CART, "by": "mp_lib"}),
    "funnel by an event's segment": (LONG, {"report": "funnel", "event": VIEW, "then": CART, "by": "plan"}),
    "retention": (SHORT, {"report": "retention", "event": VIEW, "then": PURCHASE}),
    "retention by segment": (LONG, {"report": "retention", "event": VIEW, "then": PURCHASE, "by": "$os"}),
    "flows": (LONG, {"report": "flows", "event": VIEW}),
    "hours": (SHORT, {"report": "hours", "event": VIEW}),
}


def seconds(explorer: Explorer, choices: dict[str, str], number: int) -> float:
    """Return how long an answer takes."""
    began = time.perf_counter()
    explorer._hear({"type": "choose", "n": number, "choices": choices})
    explorer._settled.result(600)
    took = time.perf_counter() - began
    answer = explorer.widget.answer
    assert (answer["n"], answer["error"]) == (number, ""), answer["error"]
    return took


def measure(result: mpnb.ExportResult, rounds: int) -> bool:
    """Print what everything takes, and say whether it holds."""
    explorer = mpnb.explore(result)
    holds = True
    for name, (most, choices) in CHOICES.items():
        seconds(explorer, choices, 1)
        explorer._hear({"type": "type", "n": 2, "choices": choices})
        explorer._settled.result(600)
        found = median(seconds(explorer, choices, n) for n in range(3, 3 + rounds))
        print(f"  {name:<30} {found * 1000:>7.0f} ms, at most {most * 1000:.0f}", flush=True)
        holds &= found <= most
    return holds


def main() -> int:
    """Measure, and say whether all of it holds."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.explorer", description=__doc__)
    parser.add_argument("--file", type=Path, help="a database of tests.benchmarks.month, made if it is not there")
    parser.add_argument("--events", type=int, default=EVENTS)
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    logging.getLogger("mpnb").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")  # made-up events do not show when they arrived
    print(f"{platform.platform()}, Python {platform.python_version()}, DuckDB {duckdb.__version__}")
    with (
        tempfile.TemporaryDirectory() as folder,
        export(args.file or Path(folder) / "month.duckdb", args.events) as made,
    ):
        return 0 if measure(made, args.rounds) else 1


if __name__ == "__main__":
    sys.exit(main())
