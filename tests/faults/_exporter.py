"""
Export in a process of its own: ``python -m tests.faults._exporter JSON``.

It prints one line of JSON at the end: counts, or what was raised. The argument holds those of ``mpnb.export``, and
limits to set for the process before.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import sys
import threading
import time
from typing import Any

import mpnb
import mpnb._fetching.fetcher
from mpnb._planning.states import ENDED
from tests._memory import peak_memory

# A wait as long as this is for the hour's quota.
LONG = 60.0
# linux/capability.h: the version of the structures below, for this process (0).
CAPABILITY_VERSION = 0x20080522


def obey_permissions() -> None:
    """Give up what lets root write where the mode forbids it. Whoever is not root obeys already."""
    if os.geteuid():
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capset((ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)()):
        raise OSError(ctypes.get_errno(), "capset")


def main() -> None:
    """Do what the argument says."""
    asked = json.loads(sys.argv[1])
    mpnb._fetching.fetcher.BACKOFF_SECONDS = 0.01
    for name, value in asked.pop("limits", {}).items():
        number = getattr(resource, name)
        resource.setrlimit(number, (value, resource.getrlimit(number)[1]))
    if asked.pop("obey", False):
        obey_permissions()
    spool = asked.pop("spool", None)
    options: dict[str, Any] = {
        **asked,
        "credentials": mpnb.Credentials(**asked.pop("credentials")),
        "quota": mpnb.Quota(**asked.pop("quota")),
        "spool": mpnb.Spool(spool) if spool else None,
    }
    waits: list[float] = []
    started = threading.Event()
    jobs: list[mpnb.ExportJob] = []

    def on_batch(progress: mpnb.BatchProgress) -> None:
        if progress.until and progress.until - time.time() > LONG:
            waits.append(progress.until)
        started.wait(60)
        if waits and jobs and all(each.until or each.status in ENDED for each in jobs[0].batches()):
            jobs[0].cancel()

    answer: dict[str, Any] = {}
    try:
        jobs.append(mpnb.start(**{**options, **asked}, on_batch=on_batch))
        started.set()
        with jobs[0].outcome(120) as result:
            answer = {"done": result.successful_batches, "failed": result.failed_batches, "rows": result.total_rows}
            answer["failures"] = result.failures.select("kind, message, hint").fetchall()
    except mpnb.MpnbError as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    answer["waits"] = len(waits)
    answer["peak"] = peak_memory()
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
