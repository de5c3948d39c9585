"""
A fan-out over many projects by Dask's workers into S3, at length: workers killed, the coordinator killed, faults.

    python -m tests.lake.fanout [--projects 20] [--days 60] [--events 2000] [--kills 10] [--quota]
    python -m tests.lake.fanout cpu [--days 50] [--events 20000]

The first ends with an error unless each event is in the lake once as served, or its day is listed in ``failures``. With
``--quota`` the servers enforce Mixpanel's quota, and it ends with an error if they refuse a request. The second prints
what Dask's workers take into S3, in all processes, beside threads into a local database.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import logging
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import dask
import polars
import psutil
from distributed import Client, LocalCluster

import mpnb
from mpnb._planning.address import address_of
from mpnb._storing.mirror import objects_at
from mpnb.sandbox import Fault, Sandbox, serve
from tests._helpers import as_served, as_stored, day, days_of

KEYS = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_REGION": "us-east-1"}
WIDE = mpnb.Quota(per_hour=10**6, per_second=1000)
LAKE = "s3://fanout/mixpanel"
LONGEST_SECONDS = 3600.0  # of one coordinator
# Kinds that end within seconds, and do not end a whole project.
KINDS = (
    "reset", "reset_headers", "disconnect", "cut_chunked", "cut_length", "cut_close", "unframed", "plain", "twice",
    "gzip_cut", "gzip_crc", "gzip_size", "gzip_garbage", "gzip_header", "gzip_fields", "gzip_nothing", "terminated",
    "export_terminated", "terminated_inside", "terminated_only", "half_line", "error_line", "error_inside",
    "other_days", "too_many_504", "redirect", "redirect_same", "stall", "slow_start", "encoding_br", "unlabelled",
    "charset", "bad_lines", "status",
)  # fmt: skip


@contextlib.contextmanager
def store() -> Iterator[None]:
    """Run moto's server with a bucket, for this process and its children."""
    with contextlib.closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            os.environ.update(KEYS, AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}")
            for _ in range(600):
                with contextlib.suppress(OSError):
                    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
                    connection.request("PUT", "/fanout")
                    connection.getresponse().read()
                    break
                time.sleep(0.1)
            yield
        finally:
            server.kill()


def name(number: int, mp: Sandbox) -> str:
    """Put the credentials of a project into the environment, and give their name."""
    own = mp.credentials
    words = {"USERNAME": own.username, "SECRET": own.secret, "PROJECT_ID": own.project_id, "API_BASE_URL": mp.url}
    os.environ.update({f"MP_P{number}_{key}": word for key, word in words.items()})
    return f"P{number}"


def coordinate(scheduler: str, names: list[str], last: date, *, wide: bool) -> None:
    """Export all projects by the workers of a cluster, and print what came of it. In a process of its own."""
    accounts = [mpnb.Credentials.from_environment(each) for each in names]
    with Client(scheduler) as client:
        began = time.thread_time(), time.process_time(), time.perf_counter()
        try:
            result = mpnb.export(
                day(1), last, destination=LAKE, executor=client.get_executor(pure=False), workers=6,
                credentials=accounts, quota=WIDE if wide else None, on_batch=lambda _: None,
            )  # fmt: skip
        except mpnb.ExportError as error:
            result = error.result
        with result:
            failed = {each: part.failures.project("from_date, kind, message").fetchall()
                      for each, part in result.projects.items()}  # fmt: skip
            rows = [(project, *row) for project, some in failed.items() for row in some]
            done = result.successful_batches
            print(json.dumps({
                "done": done, "skipped": result.skipped_batches, "failed": rows,
                "coordinator_cpu": round(time.process_time() - began[1], 2),
                "seconds": round(time.perf_counter() - began[2], 1),
            }, default=str))  # fmt: skip


def killed_at_random(client: Client, kills: int, over: threading.Event, done: list[int]) -> None:
    """Kill workers at work, one after another; not one that is being started, which Dask would not start again."""
    since: dict[str, float] = {}
    while len(done) < kills and not over.wait(random.uniform(0.5, 3.0)):
        with contextlib.suppress(Exception):
            there = client.processing()
            since = {name: since.get(name, time.monotonic()) for name in there}
            ready = [name for name, tasks in there.items() if tasks and time.monotonic() - since[name] > 12]
            if ready and len(there) > 1:
                name = random.choice(ready)
                os.kill(client.run(os.getpid, workers=[name])[name], 9)
                done.append(1)


def fan_out(args: argparse.Namespace) -> None:
    """Fan out, and compare what the lake has with what was served."""
    random.seed(args.seed)
    last = day(args.days)
    days = days_of(day(1), last)
    faults: dict[int, list[Fault]] = {n: [] for n in range(args.projects)}
    for i in range(0 if args.quota else args.projects * 6):
        kind = KINDS[i % len(KINDS)]
        more: dict[str, Any] = {"seconds": 1.0} if kind in ("stall", "slow_start") else {}
        more |= {"status": random.choice([500, 503, 429])} if kind == "status" else {}
        more |= {"lines": (b"42", b'["an", "array"]')} if kind == "bad_lines" else {}
        faults[i % args.projects].append(Fault(kind, day=random.choice(days), times=1, **more))
    with contextlib.ExitStack() as stack:
        stack.enter_context(store())
        os.environ["XDG_STATE_HOME"] = stack.enter_context(tempfile.TemporaryDirectory())
        quota = mpnb.Quota() if args.quota else None
        servers = [stack.enter_context(serve(events_per_day=args.events, seed=n, faults=faults[n], quota=quota))
                   for n in range(args.projects)]  # fmt: skip
        names = [name(n, mp) for n, mp in enumerate(servers)]
        dask.config.set({"distributed.scheduler.allowed-failures": 0, "distributed.admin.log-format": ""})
        cluster = stack.enter_context(
            LocalCluster(n_workers=3, threads_per_worker=2, host="127.0.0.1", dashboard_address=None,
                         silence_logs=logging.CRITICAL)
        )  # fmt: skip
        client = stack.enter_context(Client(cluster))
        command = [sys.executable, "-m", "tests.lake.fanout", "coordinate", cluster.scheduler_address, str(last)]
        command += ["quota" if args.quota else "wide", *names]
        over, kills = threading.Event(), list[int]()
        killing = threading.Thread(target=killed_at_random, args=(client, args.kills, over, kills), daemon=True)
        killing.start()
        began = time.perf_counter()
        runs: list[dict[str, Any]] = []
        total = args.projects * args.days
        while True:
            with tempfile.TemporaryFile("w+") as out, subprocess.Popen(command, stdout=out) as coordinator:
                if not runs and args.kills:
                    while coordinator.poll() is None and sum(len(mp.requests) for mp in servers) < total / 2:
                        time.sleep(0.1)
                    coordinator.kill()
                    print(f"coordinator killed after {time.perf_counter() - began:.0f} s", flush=True)
                coordinator.wait(LONGEST_SECONDS)
                out.seek(0)
                text = out.read()
            runs.append(json.loads(text) if text.strip() else {"killed": True})
            print({key: value for key, value in runs[-1].items() if key != "failed"},
                  Counter(str(each[2]) for each in runs[-1].get("failed", ())), flush=True)  # fmt: skip
            if "failed" in runs[-1] and len(kills) >= args.kills:
                break
        over.set()
        killing.join(LONGEST_SECONDS)
        requests = sum(len(mp.requests) for mp in servers)
        refused = Counter(request.status for mp in servers for request in mp.requests)
        print(f"{len(kills)} workers killed, {requests} requests, {time.perf_counter() - began:.0f} s, {dict(refused)}")
        compare(servers, days, runs[-1]["failed"])
        if args.quota and refused.get(429):
            sys.exit("a server that enforces the quota refused a request")


def compare(servers: list[Sandbox], days: list[date], failed: list[list[Any]]) -> None:
    """End with an error unless each event is in the lake once, or its day failed."""
    listed = {(each[0], str(each[1])) for each in failed}
    objects = objects_at(address_of(LAKE))
    found = {each.key: each for each in objects.found("") if each.key.startswith("project_id=")}
    rows = there = 0
    for mp in servers:
        for each in days:
            key = f"project_id={mp.project_id}/date={each}/events.parquet"
            if key not in found:
                assert (mp.project_id, str(each)) in listed, f"{key} is missing, and nothing says so"
                continue
            content = objects.read(key)
            assert content is not None
            frame = polars.read_parquet(content)
            assert as_stored(frame.select("event_name", "properties").rows()) == as_served(mp, [each]), key
            rows, there = rows + len(frame), there + 1
    with mpnb.open(LAKE) as db:
        assert db.total_rows == rows
        [(distinct,)] = db.sql(
            "SELECT count(DISTINCT (project_id, distinct_id, insert_id, time, event_name, properties))"
            f" FROM ({' UNION ALL '.join(f'FROM events_{mp.project_id}' for mp in servers)})"
        ).fetchall()
    print(f"{there:,} objects, {rows:,} rows as served ({distinct:,} distinct), {len(listed)} days in failures")


def cpu(args: argparse.Namespace) -> None:
    """Compare CPU times of threads into a database and Dask's workers into S3, without those of the servers."""
    last = day(args.days)
    program = [sys.executable, "-m", "tests.lake.fanout"]
    with contextlib.ExitStack() as stack:
        stack.enter_context(store())
        mp = stack.enter_context(serve(events_per_day=args.events))
        for each in days_of(day(1), last):
            mp.lines(each)  # made before anything is measured
        own = name(0, mp)
        for way in ("database", "threads", "dask") * args.rounds:
            os.environ["XDG_STATE_HOME"] = stack.enter_context(tempfile.TemporaryDirectory())
            subprocess.run([*program, "measure", way, own, str(last)], check=True, timeout=LONGEST_SECONDS)


def measure(way: str, own: str, last: date) -> None:
    """Export by one way, and print the CPU time of this process and its children."""
    account = mpnb.Credentials.from_environment(own)
    options: dict[str, Any] = {"credentials": account, "quota": WIDE, "on_batch": lambda _: None}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if way == "database":
            options |= {"database": folder / "x.duckdb", "chunk_days": 1}
        else:
            options |= {"destination": f"s3://fanout/{way}", "mode": "refresh"}
        if way == "dask":
            dask.config.set({"distributed.scheduler.allowed-failures": 0})
            options["workers"] = 6
            client = stack.enter_context(
                Client(stack.enter_context(LocalCluster(n_workers=3, threads_per_worker=2, dashboard_address=None)))
            )
            options["executor"] = client.get_executor(pure=False)
            mpnb.export(day(1), day(6), **options).close()  # each process has imported what it needs
        before, began = _cpu(), time.perf_counter()
        with mpnb.export(day(1), last, **options) as result:
            after, seconds = _cpu(), time.perf_counter() - began
            batches, rows = result.successful_batches, result.fetched_rows
        spent = {who: after[who] - before.get(who, 0.0) for who in after}
        total = sum(spent.values())
        print(
            f"{way:9} {rows:,} events, {total:.2f} CPU s ({rows / total:,.0f} events a CPU second), {seconds:.1f} s;"
            f" this process {spent[os.getpid()] / batches * 1000:.2f} ms a batch",
            flush=True,
        )


def _cpu() -> dict[int, float]:
    """Return the CPU time of this process and of each of its children."""
    me = psutil.Process()
    found = {}
    for each in (me, *me.children(recursive=True)):
        times = each.cpu_times()
        found[each.pid] = times.user + times.system
    return found


def main(words: list[str]) -> None:
    """Do what the command line says."""
    if words[:1] == ["coordinate"]:
        coordinate(words[1], words[4:], date.fromisoformat(words[2]), wide=words[3] == "wide")
        return
    if words[:1] == ["measure"]:
        measure(words[1], words[2], date.fromisoformat(words[3]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["fanout", "cpu"], default="fanout")
    parser.add_argument("--projects", type=int, default=20)
    parser.add_argument("--days", type=int, default=0)
    parser.add_argument("--events", type=int, default=0)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quota", action="store_true")
    args = parser.parse_args(words)
    args.days = args.days or (50 if args.what == "cpu" else 60)
    args.events = args.events or (20_000 if args.what == "cpu" else 2_000)
    cpu(args) if args.what == "cpu" else fan_out(args)


if __name__ == "__main__":
    main(sys.argv[1:])
