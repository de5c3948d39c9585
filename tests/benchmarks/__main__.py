"""
Measure an export side by side with other ways: ``python -m tests.benchmarks``.

The sandbox serves the same events to all that are compared, from a process of its own. They run in turn, A B C A B C …,
each in a fresh process with a fresh database; figures are medians, and ratios are taken round by round against another
of them, since a shared machine changes its speed. mpnb has 600 MB where a case does not say otherwise, so that
machines of different sizes can be compared. The scenarios, all of them unless some are named:

    floor    mpnb, DuckDB's own load of the same files from the disk, and a row-by-row executemany
    peers    mpnb and other exporters, with --peers; 20 properties, and a distinct_id in each event; fewer events
    workers  mpnb with 1, 4, 10 and 32 workers, and the floor
    sizes    mpnb and the floor, 100,000 events and up to --events, in 13 batches
    batches  the same events in a single batch
    many     13, 500 and 5,000 batches of 100 events
    shapes   mpnb and the floor, with 20 properties and with 2,000 distinct ones
    large    events of 4 kB, a quarter of --events: mpnb with its usual memory, mpnb with 600 MB, and the floor
    latency  1 and 10 workers, 0.5 s to the first byte and 1 MB/s a connection, in 13 and in 30 batches
    lake     a day a batch into a table, a lake in a folder, one in an object store that speaks as S3 does (in another
             process), and DuckDB's own COPY of the same files; 60, 600 and 6,000 batches of 100 events
    profiles mpnb and DuckDB's own load of as many profiles, of 1 kB, 1,000, 10,000 and 45,000 (50 MB) a page; with
             --peers other exporters, which get 1,000 a page
    instant  what a cell shows of --events events, in milliseconds
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb

from tests._s3 import moto, settings
from tests.benchmarks._peers import PEERS, PROFILE_PEERS, measured, versions_of

SCENARIOS = (
    "floor",
    "peers",
    "workers",
    "sizes",
    "batches",
    "many",
    "shapes",
    "large",
    "latency",
    "lake",
    "profiles",
    "instant",
)
SLOW_NETWORK = ("--latency", "0.5", "--bytes-per-second", "1000000")
LATENCY_EVENTS = 18_000  # a batch: about 2 MB


@dataclass(frozen=True, slots=True)
class Case:
    """Name what is run: a way, and what it is asked for."""

    name: str
    way: str
    events: int
    days: int = 90
    workers: int = 10
    chunk_days: int = 7
    shape: str = "made-up"  # of the events
    memory: str = "600MB"  # of mpnb's process; empty for what suits the machine
    server: tuple[str, ...] = ()  # options of the sandbox
    against: str = ""  # the name of the case that ratios are taken to; empty for the first

    @property
    def events_per_day(self) -> str:
        """Give the number that makes so many events in all."""
        return str(max(1, self.events // self.days))

    @property
    def served(self) -> tuple[str, ...]:
        """Name the server that it needs."""
        return self.shape, self.events_per_day, *self.server


def cases(scenario: str, events: int, slow_events: int, peers: Sequence[str]) -> list[Case]:
    """Give what a scenario runs in turn."""
    sizes = [n for n in (100_000, 1_000_000, 5_000_000) if n < events] + [events]
    match scenario:
        case "floor":
            return [
                Case("floor", "floor", events),
                Case("mpnb", "mpnb", events),
                Case("executemany", "executemany", slow_events),
            ]
        case "peers":
            few = min(events, 25 * slow_events)
            return [Case(way, way, few, shape="narrow") for way in ("mpnb", *peers)]
        case "workers":
            counts = (1, 4, 10, 32)
            return [Case("floor", "floor", events), *(Case(f"mpnb, {n}", "mpnb", events, workers=n) for n in counts)]
        case "sizes" | "batches":
            chunk = 7 if scenario == "sizes" else 90
            return [
                Case(f"{way}, {n:,}", way, n, chunk_days=chunk, against=f"floor, {n:,}")
                for n in sizes
                for way in ("floor", "mpnb")
            ]
        case "many":
            return [Case(f"{n:,} batches", "mpnb", 100 * n, n, chunk_days=1) for n in (13, 500, 5_000)]
        case "shapes":
            return [
                Case(f"{way}, {shape}", way, events, shape=shape, against=f"floor, {shape}")
                for shape in ("narrow", "wide")
                for way in ("floor", "mpnb")
            ]
        case "large":
            few = max(1, events // 4)
            return [
                Case("floor, 4 kB", "floor", few, shape="large"),
                Case("mpnb, 4 kB", "mpnb", few, shape="large", memory=""),
                Case("mpnb, 4 kB, 600 MB", "mpnb", few, shape="large"),
            ]
        case "latency":
            return [
                Case(
                    f"{batches} batches, {n} worker{'s' * (n > 1)}",
                    "mpnb",
                    LATENCY_EVENTS * batches,
                    workers=n,
                    chunk_days=chunk,
                    server=SLOW_NETWORK,
                    against=f"{batches} batches, 1 worker",
                )
                for batches, chunk in ((13, 7), (30, 3))
                for n in (1, 10)
            ]
        case "lake":
            ways = {"table": "mpnb", "folder": "folder", "S3": "s3", "COPY": "copy"}
            return [
                *(Case(name, way, min(events, 1_000_000), chunk_days=1) for name, way in ways.items()),
                *(
                    Case(f"{where}, {n:,} batches", way, 100 * n, n, chunk_days=1, against=f"{where}, 60 batches")
                    for where, way, counts in (("folder", "folder", (60, 600, 6_000)), ("S3", "s3", (60, 600, 6_000)))
                    for n in counts
                ),
            ]
        case "profiles":
            ours = (("floor", "profiles floor"), ("mpnb", "profiles"))
            others = [(name, name) for name in (PROFILE_PEERS if peers else ())]
            return [
                Case(
                    f"{name}, {size:,} a page", way, events, days=1, workers=5, chunk_days=size, shape="profiles",
                    against=f"floor, {size:,} a page",
                )
                for size in (1_000, 10_000, 45_000)
                for name, way in (*ours, *(others if size == 1_000 else ()))
            ]  # fmt: skip
        case _:
            return [Case("instant", "instant", events)]


@contextlib.contextmanager
def sandbox(case: Case) -> Iterator[dict[str, str]]:
    """Serve made-up events from a process of its own, and give the environment that leads there."""
    command = [sys.executable, "-m", "tests.benchmarks._server", case.shape, "--json", "--no-quota"]
    command += ["--events-per-day", case.events_per_day, *case.server]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            served = json.loads(process.stdout.readline())
            yield {**os.environ, **{name: value for name, value in served.items() if name.startswith("MP_")}}
        finally:
            process.terminate()


def run(case: Case, environment: dict[str, str], peers: str | None = None) -> dict[str, Any]:
    """Run a case in a fresh process and folder."""
    with tempfile.TemporaryDirectory() as folder:
        if case.way in PEERS | PROFILE_PEERS:
            assert peers
            return measured(peers, case.way, environment, Path(folder), case.days)
        command = [sys.executable, "-m", "tests.benchmarks._ways", case.way, folder]
        command += [str(case.days), str(case.workers), str(case.chunk_days), case.memory]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def measure(chosen: Sequence[Case], rounds: int, peers: str | None) -> list[dict[str, dict[str, Any]]]:
    """Run all cases in turn, once to warm the servers up and then as often as asked."""
    with contextlib.ExitStack() as stack:
        servers: dict[tuple[str, ...], dict[str, str]] = {}
        store: dict[str, str] = {}
        if any(case.way == "s3" for case in chosen):
            store = settings(stack.enter_context(moto(24 * 3600)))
        for case in chosen:
            key = case.served
            if key not in servers:
                servers[key] = {**stack.enter_context(sandbox(case)), **store}
                # The sandbox makes its days up at their first request.
                if case.shape != "profiles":
                    run(Case("", "mpnb", case.events, max(c.days for c in chosen), 10), servers[key])
        taken = []
        for number in range(rounds):
            print(f"  round {number + 1} of {rounds}", file=sys.stderr, flush=True)
            taken.append({case.name: run(case, servers[case.served], peers) for case in chosen})
        return taken


HEADS = (
    "case", "events", "CPU s", "wall s", "events / CPU s", "events / s", "first batch s", "peak MB", "file MB",
    "CPU ratio", "wall ratio",
)  # fmt: skip


def show(chosen: Sequence[Case], rounds: list[dict[str, dict[str, Any]]]) -> None:
    """Print the medians and the ratios to other cases, as a table in Markdown."""
    print("\n| " + " | ".join(HEADS) + " |\n|---" + "|---:" * (len(HEADS) - 1) + "|")
    for case in chosen:
        print("| " + " | ".join(_cells(case, case.against or chosen[0].name, rounds)) + " |")
    for case in chosen:
        own = [each[case.name] for each in rounds]
        for name in own[0]["milliseconds"]:
            print(f"\n{case.name}, {name}: {max(each['milliseconds'][name] for each in own):.1f} ms at most")


def _cells(case: Case, against: str, rounds: list[dict[str, dict[str, Any]]]) -> list[str]:
    own = [each[case.name] for each in rounds]

    def middle(key: str, form: str, unit: float = 1.0) -> str:
        values = [figures[key] / unit for figures in own if figures[key] is not None]
        return format(statistics.median(values), form) if values else "–"

    def rate(key: str) -> str:
        return f"{statistics.median(figures['events'] / figures[key] for figures in own):,.0f}"

    def ratio(key: str) -> str:
        pairs = [(each[case.name], each[against]) for each in rounds]
        value = statistics.median((a[key] / a["events"]) / (b[key] / b["events"]) for a, b in pairs)
        return "1" if case.name == against else f"{value:,.2f}" if value < 100 else f"{value:,.0f}"

    return [
        case.name, middle("events", ",.0f"), middle("cpu", ".2f"), middle("wall", ".2f"), rate("cpu"), rate("wall"),
        middle("first", ".2f"), middle("rss", ",.0f", 1e6), middle("file", ",.1f", 1e6), ratio("cpu"), ratio("wall"),
    ]  # fmt: skip


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 0 < int(text) < 10**10):
        raise argparse.ArgumentTypeError(f"a whole number of at least 1, not {text!r}")
    return int(text)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print a table for each scenario, and write the figures as JSON where asked."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenario", nargs="+", choices=SCENARIOS, default=SCENARIOS)
    parser.add_argument("--events", type=_count, default=400_000, help="events in all")
    parser.add_argument("--slow-events", type=_count, default=4_000, help="events in all, for executemany")
    parser.add_argument("--rounds", type=_count, default=3)
    parser.add_argument("--peers", metavar="PYTHON", help="of an environment with exporters to compare with")
    parser.add_argument("--json", type=Path, help="file for the figures")
    args = parser.parse_args(argv)
    if args.json and not args.json.parent.is_dir():
        parser.error(f"there is no folder {args.json.parent} for the figures")
    if args.peers:
        if not (found := shutil.which(args.peers)):
            parser.error(f"there is no Python at {args.peers}")
        args.peers = str(Path(found).absolute())  # each runs in a folder of its own; resolved, it would be no venv
    machine = f"{platform.platform()}, {os.cpu_count()} cores"
    versions = f"Python {platform.python_version()}, DuckDB {duckdb.__version__}"
    if args.peers:
        versions += f", {versions_of(args.peers)}"
    print(f"{machine}, {versions}, medians of {args.rounds} rounds")
    figures: dict[str, Any] = {"machine": machine, "versions": versions, "scenarios": {}}
    for scenario in args.scenario:
        print(f"{scenario} …", file=sys.stderr, flush=True)
        chosen = cases(scenario, args.events, args.slow_events, list(PEERS) if args.peers else [])
        rounds = measure(chosen, args.rounds, args.peers)
        show(chosen, rounds)
        figures["scenarios"][scenario] = {"cases": [asdict(case) for case in chosen], "rounds": rounds}
        if args.json:
            args.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
