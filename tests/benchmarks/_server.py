"""
Serve events to those that are measured: ``python -m tests.benchmarks._server SHAPE …``, and options of the sandbox.

The shape is ``made-up`` for the sandbox's own events, ``wide`` for 66 events with 2,000 distinct properties among them,
or ``narrow`` for one with 20. Each day is made and compressed once: what the server does meanwhile would take the cores
from those that are measured.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import date

from mpnb.sandbox import _days
from mpnb.sandbox.__main__ import main as serve
from mpnb.sandbox._data import MadeUp
from tests.benchmarks.typed import EVENTS, PROPERTIES, lines

SHAPES = {"wide": (EVENTS, PROPERTIES), "narrow": (1, 20)}


def main() -> int:
    """Serve until SIGTERM."""
    _, shape, *options = sys.argv
    _days.CACHE_BYTES = 8 << 30
    if shape in SHAPES:
        events, properties = SHAPES[shape]

        def blocks(self: MadeUp, day: date, milliseconds: bool = False) -> Iterator[bytes]:
            return (line + b"\n" for line in lines(day, events, properties, self.events_per_day))

        MadeUp.blocks = blocks  # type: ignore[method-assign]
    return serve(options)


if __name__ == "__main__":
    sys.exit(main())
