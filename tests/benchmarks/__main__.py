"""
Measure an export side by side with other ways: ``python -m tests.benchmarks``.

The sandbox serves the same events to all, from a process of its own. The ways run in turn, A B C A B C …, each in a
fresh process with a fresh database; the figures are medians, and the ratios are taken round by round, since a shared
machine changes its speed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb

from tests.benchmarks._ways import FIRST_DAY, WAYS


@contextlib.contextmanager
def sandbox(events_per_day: int) -> Iterator[dict[str, str]]:
    """Serve made-up events from a process of its own, and give the environment that leads there."""
    command = [sys.executable, "-m", "mpnb.sandbox", "--json", "--no-quota", "--events-per-day", str(events_per_day)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            served = json.loads(process.stdout.readline())
            yield {**os.environ, **{name: value for name, value in served.items() if name.startswith("MP_")}}
        finally:
            process.terminate()


def run(way: str, days: int, workers: int, environment: dict[str, str]) -> dict[str, Any]:
    """Run one way in a fresh process and folder."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tests.benchmarks._ways", way, folder, str(days), str(workers)]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def main() -> None:
    """Measure, print a table, and write the figures as JSON where asked."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--events", type=int, default=400_000, help="events in all, for mpnb and the floor")
    parser.add_argument("--slow-events", type=int, default=4_000, help="events in all, for executemany")
    parser.add_argument("--days", type=int, default=90, help="days: 7 of them are a batch")
    parser.add_argument("--workers", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--json", type=Path, help="file for the figures")
    args = parser.parse_args()

    rounds: list[dict[str, dict[str, Any]]] = []
    with (
        sandbox(max(1, args.events // args.days)) as fast,
        sandbox(max(1, args.slow_events // args.days)) as slow,
    ):
        servers = {way: slow if way == "executemany" else fast for way in args.ways}
        for environment in {id(e): e for e in servers.values()}.values():
            run("floor", args.days, 1, environment)  # the sandbox makes its days up at their first request
        for number in range(args.rounds):
            print(f"round {number + 1} of {args.rounds}", file=sys.stderr, flush=True)
            rounds.append({way: run(way, args.days, args.workers, servers[way]) for way in args.ways})

    print(f"{platform.platform()}, Python {platform.python_version()}, DuckDB {duckdb.__version__}")
    last = FIRST_DAY + timedelta(days=args.days - 1)
    print(f"{FIRST_DAY} – {last}, {args.workers} workers, medians of {args.rounds} rounds\n")
    print(f"{'way':<12} {'events':>10} {'events/CPU s':>13} {'events/s':>10} {'peak MB':>8} {'file MB':>8}")

    def median(way: str, figure: str) -> float:
        return statistics.median(r[way][figure] for r in rounds)

    for way in args.ways:
        events = median(way, "events")
        print(
            f"{way:<12} {events:>10,.0f} {events / median(way, 'cpu'):>13,.0f} {events / median(way, 'wall'):>10,.0f}"
            f" {median(way, 'rss') / 1e6:>8,.0f} {median(way, 'file') / 1e6:>8,.1f}"
        )
    ratios: dict[str, float] = {}
    for way in args.ways:
        if way != "mpnb" and "mpnb" in args.ways:
            ratios[way] = statistics.median(
                (r[way]["cpu"] / r[way]["events"]) / (r["mpnb"]["cpu"] / r["mpnb"]["events"]) for r in rounds
            )
            print(f"\nCPU seconds an event, {way} / mpnb: {ratios[way]:,.2f}", end="")
    print()
    if args.json:
        args.json.write_text(json.dumps({"rounds": rounds, "ratios": ratios}, indent=1))


if __name__ == "__main__":
    main()
