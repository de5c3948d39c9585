"""Events to serve: every oddity that Mixpanel's JSON lines may hold, and the form in which two of them are compared."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, date, datetime

NAMES = ("Page View", "Purchase", "Signed — up", "<script>alert(1)</script>", "$mp_click")
TEXTS = (
    "plain", "", "ünïcödé", "東京 🍵", "line\u2028and\u2029paragraph", "nul \x00 inside", "tab\tnew\nline\x0bvt\x85nel",
    "</table><b>", "\x1b[31mred", "\u202eright to left", "quote \" and \\ backslash", "terminated early", "' OR 1=1 --",
)  # fmt: skip
# As text, for json.dumps would write some of them otherwise.
NUMBERS = ("0", "-1", "1.10", "1e3", "0.1", "9007199254740993", "1234567890123456789", "-0.0", "18446744073709551615")
KEYS = ("plan", "Plan", "event", "insert_id", "batch_id", "a.b", 'qu"ote', "", "$os", "日本", "x y")


def day_lines(seed: int, version: int, day: date) -> tuple[bytes, ...]:
    """Make up the lines of a day; another version of the data has other events for the same day."""
    rng = random.Random(f"{seed}/{version}/{day}")
    count = rng.choice((0, 1, 2, rng.randint(3, 20), rng.randint(20, 60)))
    lines = [_line(rng, day, version, n) for n in range(count)]
    if lines and rng.random() < 0.3:
        # Raw exports hold duplicates, and these are to stay.
        lines += rng.choices(lines, k=rng.randint(1, 5))
    if lines and rng.random() < 0.15:
        lines.insert(rng.randrange(len(lines)), rng.choice((b"", b"  ", b"\r")))
    return tuple(lines)


def _line(rng: random.Random, day: date, version: int, number: int) -> bytes:
    at = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) + rng.randrange(86400)
    known: dict[str, object] = {"time": at * 1000 if rng.random() < 0.1 else at, "version": version, "number": number}
    if rng.random() < 0.9:
        known["distinct_id"] = rng.choice((f"user-{rng.randrange(50)}", "", None))
    if rng.random() < 0.8:
        known["$insert_id"] = f"{rng.getrandbits(64):016x}"
    for key in rng.sample(KEYS, rng.randrange(4)):
        known[key] = rng.choice((rng.choice(TEXTS), True, None, [1, {"deep": [[]]}], {"nested": rng.choice(TEXTS)}))
    if rng.random() < 0.02:
        known["large"] = rng.randbytes(rng.randint(100, 20_000)).hex()
    spaced = rng.random() < 0.2
    text = json.dumps(
        {"event": rng.choice(NAMES), "properties": known},
        ensure_ascii=rng.random() < 0.5,
        separators=None if spaced else (",", ":"),
    )
    # A number in a form of its own, and sometimes one of the names twice.
    own = f'"amount":{rng.choice(NUMBERS)}' + (',"amount":2' if rng.random() < 0.05 else "")
    text = text[:-2] + f",{own}" + "}" + (',"extra":1}' if rng.random() < 0.01 else "}")
    return text.encode() + (b"\r" if rng.random() < 0.05 else b"")


def multiset(lines: Iterable[bytes], names: tuple[str, ...] | None = None) -> Counter[str]:
    """Count the events among lines, in a form in which equal JSON is equal text; ``names`` are those asked for."""
    events = (_pairs(line) for line in lines if line.strip())
    kept = (dict(event) for event in events)
    return Counter(comparable(e["event"], e["properties"]) for e in kept if names is None or e["event"] in names)


def comparable(name: str, properties: str | list[tuple[str, object]]) -> str:
    """Write an event so that equal JSON is equal text: names sorted, those that come twice kept, numbers as Python."""
    pairs = _pairs(properties) if isinstance(properties, str) else properties
    return json.dumps([name, sorted(pairs, key=lambda pair: (pair[0], json.dumps(pair[1])))])


def _pairs(text: bytes | str) -> list[tuple[str, object]]:
    pairs: list[tuple[str, object]] = json.loads(text, object_pairs_hook=list)
    return pairs
