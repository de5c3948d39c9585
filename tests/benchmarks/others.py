"""
Run other exporters against a server that misbehaves: ``python -m tests.benchmarks.others PYTHON``.

``PYTHON`` is that of an environment with ``pip install mixpanel-utils mixpanel-headless``. Each is asked by its own
public API for seven days, once with each fault; only the address of the server is another one than they have built in.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

import mpnb
from mpnb.sandbox import Fault, Sandbox, serve
from mpnb.sandbox.__main__ import environment

FIRST, LAST = date(2026, 1, 1), date(2026, 1, 7)
FAULTS = {
    "none": [],
    "terminated early": [Fault("terminated", day="2026-01-04", times=None)],
    "reset once": [Fault("reset", day="2026-01-04")],
    "429 once": [Fault("status", day="2026-01-04", status=429, retry_after=1)],
}
UTILS = """
import os
from mixpanel_utils import MixpanelUtils

mp = MixpanelUtils(
    os.environ["MP_SECRET"],
    service_account_username=os.environ["MP_USERNAME"],
    project_id=int(os.environ["MP_PROJECT_ID"]),
    token="t",
)
mp.raw_api = os.environ["MP_API_BASE_URL"] + "/api"
mp.export_events("out", {"from_date": "2026-01-01", "to_date": "2026-01-07"}%s)
"""
HEADLESS = """
import json, os
import mixpanel_headless
from mixpanel_headless._internal.api_client import ENDPOINTS

ENDPOINTS["us"]["export"] = os.environ["MP_API_BASE_URL"] + "/api/2.0"
with open("out", "w") as file:
    for event in mixpanel_headless.Workspace().stream_events(from_date="2026-01-01", to_date="2026-01-07", raw=True):
        file.write(json.dumps(event) + "\\n")
"""
OTHERS = {
    "mixpanel-utils export_events": UTILS % "",
    "mixpanel-utils raw_stream=True": UTILS % ", raw_stream=True",
    "mixpanel-headless stream_events": HEADLESS,
}


def events_of(python: str, code: str, mp: Sandbox) -> tuple[int, str]:
    """Run an exporter; give the events in what it leaves, and how it ended."""
    with tempfile.TemporaryDirectory() as folder:
        env = os.environ | environment(mp) | {"MP_REGION": "us", "HOME": folder}
        ran = subprocess.run([python, "-c", code], env=env, cwd=folder, capture_output=True, text=True, timeout=120)
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
    for name, faults in FAULTS.items():
        for exporter, code in {"mpnb export": "", **OTHERS}.items():
            with serve(faults=faults) as mp:
                events, ended = events_of(python, code, mp) if code else ours(mp)
                print(
                    f"{name:<17} {exporter:<32} {events:>6,} of {mp.count(FIRST, LAST):,} events, {ended}", flush=True
                )


if __name__ == "__main__":
    main()
