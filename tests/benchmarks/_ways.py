"""
The ways that are measured, each run in a process of its own: ``python -m tests.benchmarks._ways WAY FOLDER …``.

A child prints one line of JSON: events, CPU seconds and wall seconds of the work alone (imports are left out), the
seconds until the first batch can be queried, and the peak memory of the whole process.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from tests._memory import peak_memory

LAST_DAY = date(2026, 3, 31)
FAST = {"per_hour": 10**6, "per_second": 1000}


PATHS = (
    "['$.event', '$.properties.time', '$.properties.distinct_id', '$.properties.\"$device_id\"',"
    " '$.properties.\"$user_id\"', '$.properties.\"$insert_id\"', '$.properties']"
)
# When the first rows could be queried, where a way has such a moment.
_first: list[float] = []
# What mpnb is asked for in every case.
_asked: dict[str, Any] = {}
# What took how long, where a way asks more than one thing.
_milliseconds: dict[str, float] = {}


def export(folder: Path, first: date, workers: int, chunk_days: int, **into: Any) -> int:
    """Export with mpnb into a table, if nothing else is said, and close, so that the checkpoint counts."""
    import mpnb

    into = into or {"database": folder / "mpnb.duckdb"}

    def on_batch(progress: mpnb.BatchProgress) -> None:
        if progress.status == "done" and not _first:
            _first.append(time.perf_counter())

    with mpnb.export(
        first,
        LAST_DAY,
        workers=workers,
        quota=mpnb.Quota(**FAST),
        chunk_days=chunk_days,
        on_batch=on_batch,
        **into,
        **_asked,
    ) as result:
        assert not result.has_failures, result
        return result.total_rows


def into_folder(folder: Path, first: date, workers: int, chunk_days: int) -> int:
    """Export into a lake in a folder."""
    return export(folder, first, workers, chunk_days, destination=folder / "lake")


def into_bucket(folder: Path, first: date, workers: int, chunk_days: int) -> int:
    """Export into a lake in a bucket of its own."""
    from tests._s3 import make_bucket

    port = int(os.environ["AWS_ENDPOINT_URL"].rpartition(":")[2])
    bucket = make_bucket(port, f"bench-{uuid.uuid4().hex}")
    return export(folder, first, workers, chunk_days, destination=bucket)


def copy(folder: Path, first: date, workers: int, chunk_days: int) -> int:
    """Let DuckDB make a Parquet file of each of the same files from the disk, sorted and compressed likewise."""
    import duckdb

    con = duckdb.connect()
    sources = sorted(folder.glob("floor-*.jsonl.gz"))
    for number, source in enumerate(sources):
        con.execute(
            "COPY (SELECT p[1] AS event_name, make_timestamp(p[2]::BIGINT * 1000000) AS time, p[3] AS distinct_id,"
            " p[4] AS device_id, p[5] AS user_id, p[6] AS insert_id, p[7] AS properties"
            f" FROM (SELECT json->>{PATHS} AS p FROM read_ndjson_objects('{source}'))"
            f" ORDER BY distinct_id, time) TO '{folder}/{number}.parquet' (FORMAT parquet, COMPRESSION zstd)"
        ).fetchall()
    [(rows,)] = con.execute(f"SELECT count(*) FROM '{folder}/*.parquet'").fetchall()
    return int(rows)


def instant(folder: Path, first: date, workers: int, chunk_days: int) -> int:
    """Time what a cell shows of an export that has just been made: the slowest of five each."""
    import mpnb

    events = export(folder, first, workers, chunk_days)
    asked = {
        "events": lambda r: r.events,
        "events, shown": lambda r: str(r.events.limit(10)),
        "events, as they show": lambda r: repr(r.events),
        "failures": lambda r: str(r.failures),
        "summary": lambda r: r._repr_mimebundle_(),
    }
    with mpnb.open(folder / "mpnb.duckdb") as result:
        for name, ask in asked.items():
            spent = []
            for _ in range(5):
                begin = time.perf_counter()
                ask(result)
                spent.append(time.perf_counter() - begin)
            _milliseconds[name] = max(spent) * 1000
    return events


def floor(folder: Path, first: date, workers: int, chunk_days: int) -> int:
    """Let DuckDB load the same files from the disk, into the same table, all in one statement."""
    import duckdb

    from mpnb._mixpanel.export_api import COLUMNS

    con = duckdb.connect(str(folder / "floor.duckdb"))
    con.execute("SET preserve_insertion_order = false").fetchall()
    columns = ", ".join(
        f"{name} {kind}" + (" USING COMPRESSION zstd" if kind == "JSON" else "") for name, kind in COLUMNS
    )
    con.execute(f"CREATE TABLE events ({columns})").fetchall()
    [(rows,)] = con.execute(
        f"INSERT INTO events SELECT p[1], make_timestamp(p[2]::BIGINT * 1000000), p[3], p[4], p[5], p[6], p[7], 1"
        f" FROM (SELECT json->>{PATHS} AS p FROM read_ndjson_objects('{folder}/floor-*.jsonl.gz'))"
    ).fetchall()
    con.close()
    return rows


def prepare_floor(folder: Path, first: date, chunk_days: int) -> None:
    """Download what ``floor`` loads. Not measured."""
    for number, body in enumerate(_bodies(first, chunk_days)):
        with (folder / f"floor-{number}.jsonl.gz").open("wb") as file:
            file.writelines(body)


def executemany(folder: Path, first: date, workers: int, chunk_days: int) -> int:
    """Insert row by row with a primary key, 1,000 rows a commit: what exporters commonly do."""
    import duckdb

    con = duckdb.connect(str(folder / "executemany.duckdb"))
    con.execute(
        "CREATE TABLE events (insert_id VARCHAR PRIMARY KEY, event_name VARCHAR, time TIMESTAMP, distinct_id VARCHAR,"
        " properties JSON)"
    ).fetchall()
    count = 0
    rows: list[tuple[object, ...]] = []

    def commit() -> None:
        con.execute("BEGIN").fetchall()
        con.executemany("INSERT OR IGNORE INTO events VALUES (?, ?, make_timestamp(?), ?, ?)", rows)
        con.execute("COMMIT").fetchall()
        rows.clear()

    for pieces in _bodies(first, chunk_days):
        body = b"".join(pieces)
        text = gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body
        for line in text.splitlines():
            event = json.loads(line)
            p = event["properties"]
            count += 1
            rows.append(
                (
                    p.get("$insert_id") or f"none-{count}",
                    event["event"],
                    int(p["time"]) * 1_000_000,
                    p.get("distinct_id"),
                    json.dumps(p),
                )
            )
            if len(rows) == 1000:
                commit()
    commit()
    con.close()
    return count


def count(folder: Path, first: date, workers: int, chunk_days: int) -> int:
    """Count the lines that the server has."""
    return sum(gzip.decompress(b"".join(pieces)).count(b"\n") for pieces in _bodies(first, chunk_days))


def _bodies(first: date, chunk_days: int) -> Iterator[Iterator[bytes]]:
    import httpx

    url = f"{os.environ['MP_API_BASE_URL']}/api/2.0/export"
    auth = (os.environ["MP_USERNAME"], os.environ["MP_SECRET"])
    with httpx.Client(auth=auth, headers={"Accept-Encoding": "gzip"}, timeout=600, trust_env=False) as client:
        while first <= LAST_DAY:
            end = min(first + timedelta(days=chunk_days - 1), LAST_DAY)
            params = {
                "from_date": str(first),
                "to_date": str(end),
                "project_id": os.environ["MP_PROJECT_ID"],
            }
            with client.stream("GET", url, params=params) as response:
                response.raise_for_status()
                yield response.iter_raw()
            first = end + timedelta(days=1)


def profiles(folder: Path, first: date, workers: int, page_size: int) -> int:
    """Export profiles with mpnb, proof included, and close."""
    import mpnb

    def on_batch(progress: mpnb.BatchProgress) -> None:
        if progress.status == "done" and not _first:
            _first.append(time.perf_counter())

    with mpnb.export_profiles(
        database=folder / "mpnb.duckdb",
        workers=workers,
        quota=mpnb.Quota(**FAST),
        page_size=page_size,
        on_batch=on_batch,
        **_asked,
    ) as result:
        return result.total_rows


def profiles_floor(folder: Path, first: date, workers: int, page_size: int) -> int:
    """Let DuckDB load the same pages from the disk, into the same table, all in one statement."""
    import duckdb

    con = duckdb.connect(str(folder / "floor.duckdb"))
    con.execute("SET preserve_insertion_order = false").fetchall()
    con.execute(
        "CREATE TABLE profiles (distinct_id VARCHAR, properties JSON USING COMPRESSION zstd, batch_id BIGINT)"
    ).fetchall()
    [(rows,)] = con.execute(
        'INSERT INTO profiles SELECT each."$distinct_id", each."$properties", 1 FROM (SELECT unnest(results) AS each'
        f" FROM read_json('{folder}/floor-*.json.gz', records = true, format = 'unstructured',"
        " maximum_object_size = 268435456,"
        ' columns = {results: \'STRUCT("$distinct_id" VARCHAR, "$properties" JSON)[]\'}))'
    ).fetchall()
    con.close()
    return rows


def prepare_profiles_floor(folder: Path, page_size: int) -> None:
    """Download what ``profiles_floor`` loads. Not measured."""
    import httpx

    url, project = f"{os.environ['MP_API_BASE_URL']}/api/query/engage", {"project_id": os.environ["MP_PROJECT_ID"]}
    auth = (os.environ["MP_USERNAME"], os.environ["MP_SECRET"])
    form = {"page": "0", "page_size": str(page_size), "include_all_users": "false"}
    with httpx.Client(auth=auth, headers={"Accept-Encoding": "gzip"}, timeout=600, trust_env=False) as client:
        said = client.post(url, params=project, data=form).json()
        for number in range(-(-said["total"] // page_size)):
            form |= {"page": str(number), "session_id": said["session_id"]}
            with client.stream("POST", url, params=project, data=form) as response:
                response.raise_for_status()
                with (folder / f"floor-{number}.json.gz").open("wb") as file:
                    file.writelines(response.iter_raw())


WAYS: dict[str, Callable[[Path, date, int, int], int]] = {
    "mpnb": export,
    "folder": into_folder,
    "s3": into_bucket,
    "copy": copy,
    "floor": floor,
    "executemany": executemany,
    "instant": instant,
    "profiles": profiles,
    "profiles floor": profiles_floor,
    "count": count,
}


def main() -> None:
    """Run one way and print its figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("days", type=int)
    parser.add_argument("workers", type=int)
    parser.add_argument("chunk_days", type=int)
    parser.add_argument("memory", nargs="?", default="", help="of mpnb's process; none for what suits the machine")
    args = parser.parse_args()
    first = LAST_DAY - timedelta(days=args.days - 1)
    _asked["memory"] = args.memory or None
    import duckdb  # noqa: F401 (imports are not what is measured)
    import httpx  # noqa: F401

    import mpnb  # noqa: F401

    if args.way in ("floor", "copy"):
        prepare_floor(args.folder, first, args.chunk_days)
    if args.way == "profiles floor":
        prepare_profiles_floor(args.folder, args.chunk_days)
    if args.way == "s3":
        import obstore.fsspec  # noqa: F401

        import tests._s3  # noqa: F401
    cpu, wall = time.process_time(), time.perf_counter()
    events = WAYS[args.way](args.folder, first, args.workers, args.chunk_days)
    figures = {
        "events": events,
        "cpu": time.process_time() - cpu,
        "wall": time.perf_counter() - wall,
        "first": _first[0] - wall if _first else None,
        "rss": peak_memory(),
        "file": sum(
            path.stat().st_size
            for path in args.folder.rglob("*")
            if ".duckdb" in path.suffixes or path.suffix == ".parquet"
        ),
        "milliseconds": _milliseconds,
    }
    json.dump(figures, sys.stdout)


if __name__ == "__main__":
    main()
