"""
A month of a shop, as a database to measure on: ``python -m tests.benchmarks.month FILE``.

2,000,000 events of 37 names with 250 distinct properties among them: some that every event has, and a few of each
name's own. 60,000 users with a device each look at products, and fewer go on: ``Product View``, ``Add To Cart``,
``Checkout``, ``Purchase``, with ``amount``, ``product_id`` and ``currency``. One event in 200 is there twice, exported
again with a later ``mp_processing_time_ms``. The same numbers make the same lines.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import mpnb
from mpnb.sandbox import serve

EVENTS, DAYS, NAMES, PROPERTIES, USERS = 2_000_000, 30, 37, 250, 60_000
FIRST = date(2026, 1, 1)
FUNNEL = ("Product View", "Add To Cart", "Checkout", "Purchase")
COMMON = 16  # of Mixpanel's own properties, besides those that tell who and when
VARIANTS = 400
_START = 1767225600


def names() -> list[str]:
    """List the names of the events, most frequent first."""
    return [*FUNNEL, *(f"Event {n}" for n in range(NAMES - len(FUNNEL)))]


def _common(r: random.Random) -> str:
    country, city = r.choice([("DE", "Berlin"), ("FR", "Lyon"), ("NO", "Oslo"), ("US", "Austin"), ("JP", "Kyōto")])
    own = {
        "$os": r.choice(["iOS", "Android", "Windows", "Mac OS X"]),
        "$browser": r.choice(["Chrome", "Safari", "Firefox"]),
        "$browser_version": r.randint(90, 130),
        "$city": city,
        "$region": f"Region {r.randint(1, 20)}",
        "mp_country_code": country,
        "$screen_height": r.choice([800, 900, 1080, 1440]),
        "$screen_width": r.choice([1280, 1440, 1920, 2560]),
        "$lib_version": "2.56.0",
        "mp_lib": "web",
        "$current_url": f"https://shop.example/{r.randint(1, 3000)}?utm_source=mail",
        "$referrer": r.choice(["https://www.example.com/", "$direct"]),
        "$referring_domain": r.choice(["www.example.com", "$direct"]),
        "$app_version_string": f"3.{r.randint(0, 9)}.{r.randint(0, 20)}",
        "$wifi": r.random() < 0.5,
        "$mp_api_endpoint": "api.mixpanel.com",
    }
    assert len(own) == COMMON
    return json.dumps(own, separators=(",", ":"), ensure_ascii=False)[1:-1]


def _own(r: random.Random, number: int) -> str:
    """Make the properties of one name's own: all but the last are there nine times out of ten."""
    shop: dict[str, Any] = {}
    if number < len(FUNNEL):
        shop = {"amount": round(r.random() * 200, 2), "product_id": f"p{r.randint(1, 5000)}", "currency": "EUR"}
    fixed = 7 + COMMON + 3  # of every event, and those of the shop
    count = PROPERTIES - fixed
    mine = [n for n in range(number, count, NAMES) if r.random() < 0.9]
    rest = {f"property {n}": _value(r, n % 7) for n in mine}
    return json.dumps({**shop, **rest, "plan": r.choice(["free", "pro", "team"])}, separators=(",", ":"))[1:]


def _value(r: random.Random, sort: int) -> Any:
    match sort:
        case 0:
            return r.randint(0, 10**6)
        case 1:
            return round(r.random() * 100, 2)
        case 2 | 3:
            return f"value {r.randint(0, 5000)}"
        case 4:
            return r.random() < 0.5
        case 5:
            return f"2026-01-{r.randint(1, 28):02}T10:00:00"
        case _:
            return r.choice([[r.randint(0, 9)], [1, 2], []])


def lines(day: date, events: int) -> Iterator[bytes]:
    """Make one day's lines, in the order of their times but for those that come twice."""
    r = random.Random(day.toordinal())
    kinds = names()
    weights = [1 / (n + 1) for n in range(len(kinds))]
    common = [_common(r) for _ in range(VARIANTS)]
    own = [[_own(r, number) for _ in range(VARIANTS)] for number in range(len(kinds))]
    start = _START + (day - FIRST).days * 86400
    for number, chosen in enumerate(r.choices(range(len(kinds)), weights, k=events)):
        user = int(USERS * r.random() ** 2)
        copies = 2 if number % 200 == 0 else 1
        for copy in range(copies):
            yield (
                f'{{"event":"{kinds[chosen]}","properties":{{"time":{start + number * 86400 // events},'
                f'"distinct_id":"user-{user}","$device_id":"device-{user}","$user_id":"user-{user}",'
                f'"$insert_id":"{day.day:02}-{number:08}","mp_processing_time_ms":{start * 1000 + number + copy},'
                f"{common[user % VARIANTS]},{own[chosen][number % VARIANTS]}}}"
            ).encode()


def export(path: Path, events: int = EVENTS, days: int = DAYS, chunk_days: int = 3) -> mpnb.ExportResult:
    """Export the month into a database, as any export is written, or open the one that is there."""
    if path.exists():
        return mpnb.open(path)
    each = round(events / days / 1.005)
    with serve(lines=lambda day: list(lines(day, each))) as mp:
        return mpnb.export(
            FIRST,
            FIRST + timedelta(days=days - 1),
            credentials=mp.credentials,
            database=path,
            chunk_days=chunk_days,
            workers=1,
            quota=mpnb.Quota(per_hour=10**6, per_second=1000),
        )


def main() -> int:
    """Make the file."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.month", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--events", type=int, default=EVENTS)
    args = parser.parse_args()
    with export(args.file, args.events) as result:
        print(f"{args.file}: {result.total_rows:,} events")
    return 0


if __name__ == "__main__":
    sys.exit(main())
