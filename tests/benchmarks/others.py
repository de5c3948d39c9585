"""
Run other exporters against a server that misbehaves: ``python -m tests.benchmarks.others PYTHON``.

``PYTHON`` is that of an environment with ``pip install mixpanel-utils mixpanel-headless``. Each is asked by its own
public API for seven days, once with each fault; only the address of the server is another one than they have built in.
"""

from __future__ import annotations

import os
import sys
import tempfile
from datetime import date
from pathlib import Path

import mpnb
from mpnb.sandbox import Fault, Sandbox, serve
from mpnb.sandbox.__main__ import environment
from tests.benchmarks._peers import PEERS, call

FIRST, LAST = date(2026, 1, 1), date(2026, 1, 7)
FAULTS = {
    "none": [],
    "terminated early": [Fault("terminated", day="2026-01-04", times=None)],
    "reset once": [Fault("reset", day="2026-01-04")],
    "429 once": [Fault("status", day="2026-01-04", status=429, retry_after=1)],
}
OTHERS = ("mixpanel-utils", "mixpanel-utils, raw", "mixpanel-headless")


def events_of(python: str, name: str, mp: Sandbox) -> tuple[int, str]:
    """Run an exporter; give the events in what it leaves, and how it ended."""
    with tempfile.TemporaryDirectory() as folder:
        code = PEERS[name] + f"\nrun('{FIRST}', '{LAST}')"
        ran = call(python, code, {**os.environ, **environment(mp)}, Path(folder), str(FIRST), str(LAST))
        out = Path(folder) / "out"
        events = out.read_bytes().count(b'"made_up"') if out.exists() else 0
        said = ran.stderr.strip().splitlines()[-1:] or [""]
        return events, f"status {ran.returncode} {said[0][:80]}"


def ours(mp: Sandbox) -> tuple[int, str]:
    """Do the same with mpnb."""
    options = {"database": ":memory:", "credentials": mp.credentials, "on_batch": id}
    try:
        with mpnb.export(FIRST, LAST, **options) as result:
            return result.total_rows, "no failures"
    except mpnb.ExportError as error:
        with error.result as result:
            return result.total_rows, f"ExportError {error}"[:100]


def main() -> None:
    """Print a line for each fault and exporter."""
    [_, python] = sys.argv
    for fault, faults in FAULTS.items():
        for name in ("mpnb", *OTHERS):
            with serve(faults=faults) as mp:
                events, ended = ours(mp) if name == "mpnb" else events_of(python, name, mp)
                print(f"{fault:<17} {name:<20} {events:>6,} of {mp.count(FIRST, LAST):,} events, {ended}", flush=True)


if __name__ == "__main__":
    main()
