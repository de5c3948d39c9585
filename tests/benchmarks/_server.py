"""
Serve other events than the sandbox makes up: ``python -m tests.benchmarks._server wide|narrow EVENTS_PER_DAY``.

``wide`` is 66 events with 2,000 distinct properties among them, ``narrow`` one with 20. Each event has a
``distinct_id``. What ``python -m mpnb.sandbox --json`` prints, it prints as well.
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
    [_, name, events_per_day] = sys.argv
    events, properties = {"wide": (EVENTS, PROPERTIES), "narrow": (1, 20)}[name]
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with serve(lines=cache(lambda day: tuple(lines(day, events, properties, int(events_per_day))))) as mp:
        print(json.dumps(environment(mp)), flush=True)
        stop.wait()


if __name__ == "__main__":
    main()
