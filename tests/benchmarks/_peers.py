"""
Other exporters, each through its own public API; only the address of the server is another than they have built in.

They run in an environment of their own, whose Python the caller names, with
``pip install mixpanel-utils mixpanel-headless "ingestr<0.15"`` (later ones fetch a program when they first start).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.benchmarks._ways import LAST_DAY

# Each defines run(), which leaves what it got in the file or database "out".
_UTILS = """
import os
from mixpanel_utils import MixpanelUtils

def run(first, last):
    mp = MixpanelUtils(
        os.environ["MP_SECRET"],
        service_account_username=os.environ["MP_USERNAME"],
        project_id=int(os.environ["MP_PROJECT_ID"]),
        token="t",
    )
    mp.raw_api = os.environ["MP_API_BASE_URL"] + "/api"
    mp.export_events("out", {"from_date": first, "to_date": last}%s)
"""
_HEADLESS = """
import json, os
import mixpanel_headless
from mixpanel_headless._internal.api_client import ENDPOINTS

ENDPOINTS["us"]["export"] = os.environ["MP_API_BASE_URL"] + "/api/2.0"

def run(first, last):
    with open("out", "w") as file:
        for event in mixpanel_headless.Workspace().stream_events(from_date=first, to_date=last, raw=True):
            file.write(json.dumps(event) + "\\n")
"""
_INGESTR = """
import os, sys
import requests
from ingestr.main import app

send = requests.Session.request

def redirected(self, method, url, *args, **kwargs):
    there = os.environ["MP_API_BASE_URL"] + "/api"
    return send(self, method, url.replace("https://data.mixpanel.com/api", there).rstrip("/"), *args, **kwargs)

requests.Session.request = redirected

def run(first, last):
    names = {"username": "MP_USERNAME", "project_id": "MP_PROJECT_ID"}
    names["password"] = "MP_SECRET"  # pragma: allowlist secret
    source = "mixpanel://?server=us&" + "&".join(f"{k}={os.environ[v]}" for k, v in names.items())
    app(
        ["ingest", "--yes", "--progress", "log", "--source-uri", source, "--source-table", "events",
         "--dest-uri", "duckdb:///out", "--dest-table", "main.events",
         "--interval-start", first, "--interval-end", last + "T23:59:59"],
        standalone_mode=False,
    )
"""
PEERS = {
    "mixpanel-utils": _UTILS % "",
    "mixpanel-utils, raw": _UTILS % ", raw_stream=True",
    "mixpanel-headless": _HEADLESS,
    "ingestr": _INGESTR,
}
_UTILS_PROFILES = """
import json, os
from mixpanel_utils import MixpanelUtils

def run(first, last):
    mp = MixpanelUtils(
        os.environ["MP_SECRET"],
        service_account_username=os.environ["MP_USERNAME"],
        project_id=int(os.environ["MP_PROJECT_ID"]),
        token="t",
    )
    mp.formatted_api = os.environ["MP_API_BASE_URL"] + "/api"
    mp.export_people("out")

def count():
    with open("out") as file:
        return len(json.load(file))
"""
_HEADLESS_PROFILES = """
import json
import mixpanel_headless
from mixpanel_headless._internal.api_client import MixpanelAPIClient

# It asks for "engage/", which the sandbox does not have.
build = MixpanelAPIClient._build_url
MixpanelAPIClient._build_url = lambda self, *args: build(self, *args).rstrip("/")

def run(first, last):
    with open("out", "w") as file:
        for profile in mixpanel_headless.Workspace().stream_profiles(raw=True):
            file.write(json.dumps(profile) + "\\n")

def count():
    with open("out") as file:
        return sum(1 for line in file)
"""
# Of profiles; they know neither a size of pages nor how many there are.
PROFILE_PEERS = {"mixpanel-utils, profiles": _UTILS_PROFILES, "mixpanel-headless, profiles": _HEADLESS_PROFILES}
_MEASURE = """
import json, resource, sys, time
cpu, wall = time.process_time(), time.perf_counter()
run(sys.argv[1], sys.argv[2])
used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(json.dumps({
    "cpu": time.process_time() - cpu + used[1].ru_utime + used[1].ru_stime,
    "wall": time.perf_counter() - wall,
    "rss": max(u.ru_maxrss for u in used) * 1024,
    "events": count() if "count" in globals() else None,
}))
"""


def versions_of(python: str) -> str:
    """Name those that an environment has, and their versions."""
    code = """
from importlib.metadata import version
print(", ".join(f"{name} {version(name)}" for name in ("mixpanel-utils", "mixpanel-headless", "ingestr")))
"""
    return subprocess.run([python, "-c", code], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def call(python: str, code: str, environment: dict[str, str], folder: Path, first: str, last: str) -> Any:
    """Run one in a folder, which is its home as well; give what ``subprocess.run`` gives."""
    environment = environment | {"MP_REGION": "us", "HOME": str(folder), "INGESTR_DISABLE_TELEMETRY": "true"}
    return subprocess.run(
        [python, "-c", code, first, last], env=environment, cwd=folder, capture_output=True, text=True, check=False
    )


def measured(python: str, name: str, environment: dict[str, str], folder: Path, days: int) -> dict[str, Any]:
    """
    Give the figures of one, as the ways give theirs; ``events`` are those that the server has, or the profiles it got.

    CPU and wall seconds leave the imports out, as for the ways.
    """
    first = LAST_DAY - timedelta(days=days - 1)
    done = call(python, (PEERS | PROFILE_PEERS)[name] + _MEASURE, environment, folder, str(first), str(LAST_DAY))
    if done.returncode:
        raise RuntimeError(f"{name} failed: {done.stderr[-2000:]}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if figures["events"] is None:
        command = [sys.executable, "-m", "tests.benchmarks._ways", "count", str(folder), str(days), "1", "7"]
        counted = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
        figures["events"] = json.loads(counted.stdout)["events"]
    return figures | {"file": os.path.getsize(folder / "out"), "first": None, "milliseconds": {}}
