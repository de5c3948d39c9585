"""Text for people: unsafe text made printable; days, sizes and time spans in words."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from itertools import groupby

MAX_MESSAGE = 500
# Control characters, those of direction, and line breaks of other kinds than a line feed.
_OBEYED = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# Shorter pieces of a secret occur in any text, and a secret that is shorter itself is none.
PIECE = 8
SHORTEST = 4


def safe_text(text: str, secrets: Iterable[str] = ()) -> str:
    """
    Return unsafe text as one short line, with secrets masked and control and direction characters escaped.

    A terminal would obey an escape sequence, and a right-to-left mark turns a message around.
    """
    text = printable(" ".join(_masked(text, secrets).split()))
    return text if len(text) <= MAX_MESSAGE else text[: MAX_MESSAGE - 1] + "…"


def _masked(text: str, secrets: Iterable[str]) -> str:
    """Mask every fragment of a secret that has ``PIECE`` characters or more: quoted text may be cut within a secret."""
    pieces: dict[int, set[str]] = {}
    for secret in secrets:
        size = min(PIECE, len(secret))
        if size >= SHORTEST:
            pieces.setdefault(size, set()).update(secret[i : i + size] for i in range(len(secret) - size + 1))
    hidden = bytearray(len(text))
    for size, known in pieces.items():
        for i in range(len(text) - size + 1):
            if text[i : i + size] in known:
                hidden[i : i + size] = b"x" * size
    runs = groupby(zip(hidden, text, strict=True), key=lambda pair: pair[0])
    return "".join("***" if is_hidden else "".join(letter for _, letter in run) for is_hidden, run in runs)


def harmless(lines: str) -> str:
    """Return lines with terminal control characters escaped; anything else, such as joined emoji, stays."""
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), lines)


def printable(text: str) -> str:
    """Return a text with control and direction characters escaped; anything else stays."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def days(first: object, last: object) -> str:
    """Return a range of days as text."""
    return str(first) if first == last else f"{first} – {last}"


def size(count: float) -> str:
    """Return a number of bytes as text, in a suitable unit."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} GB"


def duration(seconds: float) -> str:
    """Return a time span as text, in suitable units."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def plural(count: int, one: str, many: str) -> str:
    """Return the singular or the plural of a word, to match a count."""
    return one if count == 1 else many


def clock(moment: float) -> str:
    """Return a time, in seconds since the epoch, as the local time of day."""
    return time.strftime("%H:%M:%S", time.localtime(moment))
