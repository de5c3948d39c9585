"""
Measure an export side by side with other ways: ``python -m tests.benchmarks --scenario NAME``.

The sandbox serves the same events to all that are compared, from a process of its own. They run in turn, A B C A B C …,
each in a fresh process with a fresh database; figures are medians, and ratios are taken round by round against the
first of them, since a shared machine changes its speed. The scenarios:

    floor    mpnb, DuckDB's own load of the same files from the disk, and a row-by-row executemany
    workers  mpnb with 1, 4, 10 and 32 workers, and the floor
    sizes    mpnb and the floor, from 100,000 events to --events
    wide     mpnb and the floor, with 2,000 distinct properties
    latency  1 and 10 workers, 0.5 s to the first byte and 1 MB/s a connection, in 13 and in 30 batches
    instant  what a cell shows of --events events, in milliseconds
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
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb

BYTES_PER_SECOND = "1000000"
LATENCY = "0.5"


@dataclass(frozen=True, slots=True)
class Case:
    """Name what is run: a way, and what it is asked for."""

    name: str
    way: str
    events: int
    days: int = 90
    workers: int = 10
    chunk_days: int = 7
    server: tuple[str, ...] = ()  # options of the sandbox; "wide" alone is the other server

    @property
    def events_per_day(self) -> str:
        """Give the number that makes so many events in all."""
        return str(max(1, self.events // self.days))


def cases(scenario: str, events: int, slow_events: int) -> list[Case]:
    """Give what a scenario runs in turn, the one first that the others are compared with."""
    slow_network = ("--latency", LATENCY, "--bytes-per-second", BYTES_PER_SECOND)
    match scenario:
        case "floor":
            return [
                Case("floor", "floor", events),
                Case("mpnb", "mpnb", events),
                Case("executemany", "executemany", slow_events),
            ]
        case "workers":
            counts = (1, 4, 10, 32)
            return [Case("floor", "floor", events), *(Case(f"mpnb, {n}", "mpnb", events, workers=n) for n in counts)]
        case "sizes":
            sizes = [n for n in (100_000, 1_000_000, 5_000_000) if n < events] + [events]
            return [Case(f"{way}, {n:,}", way, n) for n in sizes for way in ("floor", "mpnb")]
        case "wide":
            return [Case(f"{way}, wide", way, events, days=14, server=("wide",)) for way in ("floor", "mpnb")]
        case "latency":
            # Batches of about 2 MB.
            return [
                Case(
                    f"{batches} batches, {n} worker{'s' * (n > 1)}",
                    "mpnb",
                    18_000 * batches,
                    90,
                    n,
                    chunk,
                    slow_network,
                )
                for batches, chunk in ((13, 7), (30, 3))
                for n in (1, 10)
            ]
        case _:
            return [Case("instant", "instant", events)]


@contextlib.contextmanager
def sandbox(case: Case) -> Iterator[dict[str, str]]:
    """Serve made-up events from a process of its own, and give the environment that leads there."""
    command = [sys.executable, "-m"]
    if case.server == ("wide",):
        command += ["tests.benchmarks._server", case.events_per_day]
    else:
        command += ["mpnb.sandbox", "--json", "--no-quota", "--events-per-day", case.events_per_day, *case.server]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            served = json.loads(process.stdout.readline())
            yield {**os.environ, **{name: value for name, value in served.items() if name.startswith("MP_")}}
        finally:
            process.terminate()


def run(case: Case, environment: dict[str, str]) -> dict[str, Any]:
    """Run a case in a fresh process and folder."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tests.benchmarks._ways", case.way, folder, str(case.days), str(case.workers)]
        environment = {**environment, "CHUNK_DAYS": str(case.chunk_days)}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def measure(chosen: Sequence[Case], rounds: int) -> list[dict[str, dict[str, Any]]]:
    """Run all cases in turn, once to warm the servers up and then as often as asked."""
    with contextlib.ExitStack() as stack:
        servers: dict[tuple[str, tuple[str, ...]], dict[str, str]] = {}
        for case in chosen:
            key = case.events_per_day, case.server
            if key not in servers:
                servers[key] = stack.enter_context(sandbox(case))
                # The sandbox makes its days up at their first request.
                run(Case("", "mpnb", case.events, case.days, 10), servers[key])
        taken = []
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
            taken.append({case.name: run(case, servers[case.events_per_day, case.server]) for case in chosen})
        return taken


def show(chosen: Sequence[Case], rounds: list[dict[str, dict[str, Any]]]) -> None:
    """Print the medians, and the ratios to the first case."""
    first = chosen[0].name
    print(f"{platform.platform()}, Python {platform.python_version()}, DuckDB {duckdb.__version__}")
    print(f"{os.cpu_count()} cores, medians of {len(rounds)} rounds, ratios to {first!r}\n")
    heads = ("events", "events/CPU s", "events/s", "first s", "peak MB", "file MB", "CPU/event ×", "wall/event ×")
    print(f"{'':<24}" + "".join(f"{head:>13}" for head in heads))
    for case in chosen:
        taken = [(r[case.name], r[first]) for r in rounds]
        own = {key: [mine[key] for mine, _ in taken] for key in ("events", "cpu", "wall", "first", "rss", "file")}
        middle = {key: statistics.median(values) for key, values in own.items() if None not in values}
        cells = [
            f"{middle['events']:,.0f}",
            f"{middle['events'] / middle['cpu']:,.0f}",
            f"{middle['events'] / middle['wall']:,.0f}",
            f"{middle['first']:.2f}" if "first" in middle else "–",
            f"{middle['rss'] / 1e6:,.0f}",
            f"{middle['file'] / 1e6:,.1f}",
        ]
        for key in ("cpu", "wall"):
            ratio = statistics.median((a[key] / a["events"]) / (b[key] / b["events"]) for a, b in taken)
            cells.append(f"{ratio:.2f}")
        print(f"{case.name:<24}" + "".join(f"{cell:>13}" for cell in cells))


def main() -> None:
    """Measure, print a table, and write the figures as JSON where asked."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ("floor", "workers", "sizes", "wide", "latency", "instant")
    parser.add_argument("--scenario", choices=names, default="floor")
    parser.add_argument("--events", type=int, default=400_000, help="events in all")
    parser.add_argument("--slow-events", type=int, default=4_000, help="events in all, for executemany")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file for the figures")
    args = parser.parse_args()
    chosen = cases(args.scenario, args.events, args.slow_events)
    rounds = measure(chosen, args.rounds)
    show(chosen, rounds)
    if args.json:
        args.json.write_text(json.dumps({"cases": [asdict(case) for case in chosen], "rounds": rounds}, indent=1))


if __name__ == "__main__":
    main()
