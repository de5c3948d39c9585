"""
Serve events of many properties, from a process of its own: ``python -m tests.benchmarks._server EVENTS_PER_DAY``.

66 events with 2,000 distinct properties among them. What ``python -m mpnb.sandbox --json`` prints, it prints as well.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from functools import cache

from mpnb.sandbox import serve
from mpnb.sandbox.__main__ import environment
from tests.benchmarks.typed import EVENTS, PROPERTIES, lines


def main() -> None:
    """Serve until SIGTERM."""
    events_per_day = int(sys.argv[1])
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with serve(lines=cache(lambda day: tuple(lines(day, EVENTS, PROPERTIES, events_per_day)))) as mp:
        print(json.dumps(environment(mp)), flush=True)
        stop.wait()


if __name__ == "__main__":
    main()
