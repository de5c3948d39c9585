"""
Measure typed events against JSON: ``python -m tests.benchmarks.typed``.

    typing     200,000 rows of 66 events with 2,000 distinct properties among them: the CPU seconds until any one event
               is typed, and the width of its table
    querying   a group-by with a sum over one event, on typed columns and on JSON, in turns
    month      the month of a shop, 2,000,000 events of 37 names and 250 properties: the catalog of everything, 12 names
               with two columns, and events without duplicates, as ratios to one read of the JSON column

The data goes through the real writer. It exits with 1 where typing takes 2 s or more, the typed query is less than 30
times as fast, or one of the last three takes more reads than it may.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import duckdb

import mpnb
from mpnb.sandbox import serve
from tests.benchmarks.month import export, names

EVENTS, PROPERTIES, ROWS = 66, 2_000, 200_000
DAYS = 10
FIRST, LAST = date(2026, 1, 1), date(2026, 1, DAYS)
VARIANTS = 50
SYSTEMS = ("iOS", "Android", "Windows")
COUNTRIES = ("DE", "FR", "NO", "IT", "PL", "JP", "BR", "US")
MOST_CPU_SECONDS = 2.0
LEAST_SPEEDUP = 30.0
# In reads of the JSON column.
MOST_CATALOG, MOST_TWELVE, MOST_DEDUPLICATED = 11.0, 7.5, 1.5


def _value(r: random.Random, sort: int) -> Any:
    return (
        r.randint(0, 10**6), round(r.random() * 100, 2), f"value {r.randint(0, 5000)}", r.random() < 0.5,
        "2026-01-01T10:00:00", [r.randint(0, 9), r.randint(0, 9)], {"a": r.randint(0, 9), "b": "x"},
    )[sort]  # fmt: skip


def lines(day: date, events: int, properties: int, rows: int) -> Iterator[bytes]:
    """Make one day's lines: each event has an equal share of the properties, and each row nine tenths of those."""
    r = random.Random(day.day)
    some: list[list[str]] = []
    for event in range(events):
        own = [f"property {n}" for n in range(event, properties, events)]
        draws = ([name for name in own if r.random() < 0.9] for _ in range(VARIANTS))
        variants = ({name: _value(r, int(name[9:]) % 7) for name in names} for names in draws)
        some.append([json.dumps(variant, separators=(",", ":"))[1:] for variant in variants])
    for number in range(rows):
        event = number % events
        always = {
            "time": 1767225600 + (day.day - 1) * 86400 + number * 86000 // rows,
            "distinct_id": f"u{r.randint(0, 9999)}",
            "$insert_id": f"{day.day}-{number}",
            "mp_processing_time_ms": 1767225600000 + number,
            "$os": SYSTEMS[number % 3],
            "mp_country_code": COUNTRIES[number % 8],
            "amount": round(r.random() * 100, 2),
        }
        head = json.dumps(always, separators=(",", ":"))[:-1]
        yield f'{{"event":"Event {event}","properties":{head},{r.choice(some[event])}}}'.encode()


def exported(folder: str, events: int, properties: int, rows: int) -> mpnb.ExportResult:
    """Export made-up events of some shape, a batch a day."""
    with serve(lines=lambda day: list(lines(day, events, properties, rows // DAYS))) as mp:
        return mpnb.export(
            FIRST,
            LAST,
            credentials=mp.credentials,
            database=Path(folder) / "events.duckdb",
            chunk_days=1,
            workers=2,
            quota=mpnb.Quota(per_hour=10**6, per_second=1000),
        )


def typing(events: int, properties: int, rows: int) -> float:
    """Type every event, print what the dearest took, and give that."""
    with tempfile.TemporaryDirectory() as folder, exported(folder, events, properties, rows) as result:
        cpu, widths = [], []
        for number in range(events):
            begin = time.process_time()
            relation = result.event(f"Event {number}")
            cpu.append(time.process_time() - begin)
            widths.append(len(relation.columns))
        names = result.sql("SELECT count(DISTINCT n) FROM (SELECT unnest(json_keys(properties)) AS n FROM events)")
        [(found,)] = names.fetchall()
        widest = "SELECT max(column_count) FROM duckdb_tables() WHERE schema_name = 'mpnb_typed'"
        [(stored,)] = result.sql(widest).fetchall()
        print(f"typing: {result.total_rows:,} rows, {events} events, {found:,} distinct properties")
        middle = statistics.median(cpu)
        print(f"  CPU seconds an event: {max(cpu):.2f} at most, {middle:.2f} median, {sum(cpu):.1f} in all")
        print(f"  columns of the widest event: {max(widths)}; of the widest table: {stored}")
    return max(cpu)


def querying(rows: int, rounds: int) -> float:
    """Run the same question on JSON and on typed columns in turns, print the figures, and give their ratio."""
    with tempfile.TemporaryDirectory() as folder, exported(folder, 1, 20, rows) as result:
        begin = time.process_time()
        result.event("Event 0")
        made = time.process_time() - begin
        on_json = (
            "SELECT properties->>'$.mp_country_code' AS country, sum((properties->>'$.amount')::DOUBLE) AS amount"
            " FROM events WHERE event_name = 'Event 0' GROUP BY ALL ORDER BY ALL"
        )
        wall: dict[str, list[float]] = {"JSON": [], "typed": [], "typed, with event()": []}
        answers = {}
        typed = result.event("Event 0")

        def grouped(relation: Any) -> list[Any]:
            return list(relation.aggregate("mp_country_code, sum(amount)").order("mp_country_code").fetchall())

        ways = {
            "JSON": lambda: result.sql(on_json).fetchall(),
            "typed": lambda: grouped(typed),
            "typed, with event()": lambda: grouped(result.event("Event 0")),
        }
        for _ in range(rounds):
            for way, ask in ways.items():
                begin = time.perf_counter()
                answers[way] = ask()
                wall[way].append(time.perf_counter() - begin)
        for one, other in zip(answers["JSON"], answers["typed"], strict=True):
            assert one[0] == other[0]
            assert abs(one[1] - other[1]) < 1e-6 * other[1]
        print(f"querying: group by country, sum of amount, {result.total_rows:,} rows; typed in {made:.2f} CPU seconds")
        for way, seconds in wall.items():
            print(f"  {way:<20} {statistics.median(seconds) * 1000:>9,.1f} ms")
        ratio = statistics.median(a / b for a, b in zip(wall["JSON"], wall["typed"], strict=True))
        print(f"  JSON / typed: {ratio:.0f}")
    return ratio


def cpu(work: Callable[[], Any]) -> float:
    """Return the CPU seconds of some work."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def month(file: Path) -> bool:
    """Measure what is asked of a month of a shop, print the figures, and say whether all hold."""
    with export(file) as result:
        result.forget_typed()
        read = min(cpu(result.sql("SELECT count(properties->>'/amount') FROM events").fetchall) for _ in range(3))
        print(f"month: one read of the JSON of {result.total_rows:,} events: {read:.2f} CPU seconds")
        works: dict[str, tuple[float, Callable[[], Any]]] = {
            "12 names, two columns": (MOST_TWELVE, lambda: result.event(names()[:12], columns=["amount", "$os"])),
            "catalog": (MOST_CATALOG, lambda: result.catalog()),
            "deduplicated": (MOST_DEDUPLICATED, lambda: result.deduplicated().aggregate("count(*)").fetchall()),
        }
        found = {name: (most, cpu(work)) for name, (most, work) in works.items()}
    for name, (most, seconds) in found.items():
        print(f"  {name:<24} {seconds:>7.2f} s {seconds / read:>7.2f} reads, at most {most:.2f}")
    return all(seconds / read <= most for most, seconds in found.values())


def main() -> int:
    """Measure all of it, and say whether it holds."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.typed", description=__doc__)
    parser.add_argument("--rows", type=int, default=400_000, help="rows of the event that is queried")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--file", type=Path, help="a database of tests.benchmarks.month, made if it is not there")
    parser.add_argument("--only", choices=["typing", "querying", "month"], help="one of them; default: all")
    args = parser.parse_args()
    print(f"{platform.platform()}, Python {platform.python_version()}, DuckDB {duckdb.__version__}")
    wanted = [args.only] if args.only else ["typing", "querying", "month"]
    holds = []
    if "typing" in wanted:
        holds.append(typing(EVENTS, PROPERTIES, ROWS) < MOST_CPU_SECONDS)
    if "querying" in wanted:
        holds.append(querying(args.rows, args.rounds) >= LEAST_SPEEDUP)
    if "month" in wanted:
        with tempfile.TemporaryDirectory() as folder:
            holds.append(month(args.file or Path(folder) / "month.duckdb"))
    return 0 if all(holds) else 1


if __name__ == "__main__":
    sys.exit(main())
