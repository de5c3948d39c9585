"""
Serve events to those that are measured: ``python -m tests.benchmarks._server SHAPE …``, and options of the sandbox.

The shape is ``made-up`` for the sandbox's own events, ``wide`` for 66 events with 2,000 distinct properties among them,
``narrow`` for one with 20, or ``large`` for events of 4 kB; ``profiles`` for as many profiles as there are events a
day. Each day is made and compressed once: what the server does meanwhile would take the cores from those that are
measured.
"""

from __future__ import annotations

import calendar
import functools
import json
import random
import string
import sys
from collections.abc import Callable, Iterator
from datetime import date

from mpnb.sandbox import _days, _server
from mpnb.sandbox.__main__ import main as serve
from mpnb.sandbox._data import MadeUp
from mpnb.sandbox._days import Part, part
from mpnb.sandbox._people import Asked, People, Session, spoiled
from tests.benchmarks.typed import EVENTS, PROPERTIES, lines

SHAPES = {"wide": (EVENTS, PROPERTIES), "narrow": (1, 20)}


def people(count: int) -> list[bytes]:
    """Make profiles of 1,130 bytes, with 19 properties that differ from one to the next."""
    letters = "".join(random.Random(1).choices(string.ascii_letters, k=10_000))
    profiles = []
    for n in range(count):
        own = {f"property_{i:02}": letters[(n * 37 + i * 411) % 9_900 :][:26] for i in range(16)}
        own |= {"$email": f"{n}@made-up.example", "$last_seen": "2026-01-01T09:00:00", "seats": n % 9}
        whole = {"$distinct_id": f"person-{n:09}", "$properties": own | {"pad": "x" * 290}}
        profiles.append(json.dumps(whole, separators=(",", ":")).encode())
    return profiles


def serve_each_page_as_it_was() -> None:
    """Make and compress each page once: all sessions of a size of pages have one name."""
    begun, pages = People._begun, dict[tuple[str, int], Part]()

    def begin(self: People, asked: Asked) -> Session:
        session = begun(self, asked)
        session.id = f"pages-of-{session.page_size}"
        return self._sessions.setdefault(session.id, session)

    def page(texts: list[Callable[[], bytes]]) -> Part:
        key = texts[0].args[0].id, texts[0].args[1]  # type: ignore[attr-defined]
        return pages.get(key) or pages.setdefault(key, part([spoiled(*texts[0].args)]))  # type: ignore[attr-defined]

    MadeUp.profiles = lambda self, count=None: people(self.events_per_day)  # type: ignore[method-assign]
    People._begun = begin  # type: ignore[method-assign]
    _server.spoiled, _server.part = functools.partial(functools.partial, spoiled), page  # type: ignore[assignment]


def large(self: MadeUp, day: date, milliseconds: bool = False) -> Iterator[bytes]:
    """Make events of 4 kB, most of it a text of words drawn from 3,000."""
    drawn = random.Random(day.toordinal())
    words = [f"{drawn.getrandbits(40):x}" for _ in range(3000)]
    begin = calendar.timegm(day.timetuple())
    for n in range(self.events_per_day):
        properties = {"time": begin + n % 86_400, "distinct_id": f"p{n % 997}", "$insert_id": f"{day}-{n}"}
        text = " ".join(drawn.choices(words, k=363))
        yield json.dumps({"event": "Long", "properties": {**properties, "text": text}}).encode() + b"\n"


def main() -> int:
    """Serve until SIGTERM."""
    _, shape, *options = sys.argv
    _days.CACHE_BYTES = 8 << 30
    if shape == "profiles":
        serve_each_page_as_it_was()
    if shape in SHAPES:
        events, properties = SHAPES[shape]

        def blocks(self: MadeUp, day: date, milliseconds: bool = False) -> Iterator[bytes]:
            return (line + b"\n" for line in lines(day, events, properties, self.events_per_day))

        MadeUp.blocks = blocks  # type: ignore[method-assign]
    if shape == "large":
        MadeUp.blocks = large  # type: ignore[method-assign]
    return serve(options)


if __name__ == "__main__":
    sys.exit(main())
