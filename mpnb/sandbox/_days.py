"""Days as bytes of answers: each compressed once, and joined into gzip members without compressing again."""

from __future__ import annotations

import contextlib
import re
import struct
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise

from isal import isal_zlib

from mpnb._base.scalars import as_day, brief
from mpnb._errors import PlanError
from mpnb._message import Argument
from mpnb.sandbox._data import MadeUp

HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
# A last, empty deflate block: what ends a member whose segments end in a flush.
LAST_BLOCK = b"\x03\x00"
CACHE_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class Part:
    """
    A piece of a body, in a form that can be joined with others.

    Args:
        deflated: raw deflate blocks that end on a byte border and refer to nothing before them.
        crc: CRC-32 of the plain bytes.
        size: number of plain bytes.
        count: number of newlines in them.
    """

    deflated: bytes
    crc: int
    size: int
    count: int

    def plain(self) -> bytes:
        """Return the plain bytes."""
        return isal_zlib.decompressobj(-15).decompress(self.deflated) if self.size else b""

    def lines(self) -> list[bytes]:
        """Return the lines without newlines."""
        return self.plain().split(b"\n")[: self.count]


def part(blocks: Iterable[bytes]) -> Part:
    """Compress blocks of plain bytes into a part."""
    packer = isal_zlib.compressobj(1, isal_zlib.DEFLATED, -15)
    deflated, crc, size, count = [], 0, 0, 0
    for block in blocks:
        deflated.append(packer.compress(block))
        crc = isal_zlib.crc32(block, crc)
        size += len(block)
        count += block.count(b"\n")
    deflated.append(packer.flush(isal_zlib.Z_FULL_FLUSH))
    return Part(b"".join(deflated) if size else b"", crc, size, count)


def part_of_lines(lines: Iterable[bytes]) -> Part:
    """Compress lines, with a newline after each, into a part."""
    return part([b"".join(line + b"\n" for line in lines)])


def member(parts: Iterable[Part]) -> Iterator[bytes]:
    """Yield the pieces of one gzip member made of parts; parts may be made while it is read."""
    crc = size = 0
    yield HEADER
    for each in parts:
        yield each.deflated
        crc = isal_zlib.crc32_combine(crc, each.crc, each.size)
        size += each.size
    yield LAST_BLOCK + struct.pack("<II", crc, size & 0xFFFFFFFF)


def members(parts: Sequence[Part], count: int) -> list[list[bytes]]:
    """
    Join parts into several gzip members, each a list of pieces.

    Args:
        parts: the body.
        count: members wanted, 1 or more. Where there are fewer parts, they are halved, most often within a line,
            as a server does that fills members by size. A body of few bytes makes fewer members.
    """
    split = list(parts)
    while len(split) < count and max((each.size for each in split), default=0) > 1:
        at = max(range(len(split)), key=lambda index: split[index].size)
        plain = split[at].plain()
        split[at : at + 1] = [part([plain[: len(plain) // 2]]), part([plain[len(plain) // 2 :]])]
    groups = min(count, max(len(split), 1))
    borders = [len(split) * n // groups for n in range(groups + 1)]
    return [list(member(split[start:end])) for start, end in pairwise(borders)]


class Days:
    """
    The compressed days, with the least recently used dropped when they take too many bytes.

    Args:
        made_up: where events come from.
        lines: gives the exact lines of a day instead, or ``None`` to leave the day to ``made_up``.
            It is asked anew each time, so its days may change.
    """

    def __init__(self, made_up: MadeUp, lines: Callable[[date], Sequence[bytes] | None] | None = None) -> None:
        self._made_up = made_up
        self._lines = lines
        self._lock = threading.Lock()
        self._making: dict[tuple[date, bool], threading.Lock] = {}
        self._kept: OrderedDict[tuple[date, bool], Part] = OrderedDict()
        self._bytes = 0

    def part(self, day: date, milliseconds: bool = False) -> Part:
        """Return a day, made up at most once however many threads ask for it."""
        own = self._own(day)
        if own is not None:
            return part_of_lines(own)
        key = day, milliseconds
        with self._lock:
            making = self._making.setdefault(key, threading.Lock())
        with making:
            with self._lock:
                if key in self._kept:
                    self._kept.move_to_end(key)
                    return self._kept[key]
            made = part(self._made_up.blocks(day, milliseconds))
            with self._lock:
                self._kept[key] = made
                self._bytes += len(made.deflated)
                while self._bytes > CACHE_BYTES and len(self._kept) > 1:
                    self._bytes -= len(self._kept.popitem(last=False)[1].deflated)
            return made

    def lines(self, day: date) -> tuple[bytes, ...]:
        """Return a day's lines without newlines."""
        own = self._own(day)
        return tuple(self.part(day).lines() if own is None else own)

    def count(self, day: date) -> int:
        """Return the number of lines of a day."""
        own = self._own(day)
        return self._made_up.count(day) if own is None else len(own)

    def _own(self, day: date) -> Sequence[bytes] | None:
        return None if self._lines is None else self._lines(day)


def checked_day(name: str, value: object) -> date:
    """
    Return a day as a ``date``, from a pandas ``Timestamp`` at midnight or ``"YYYY-MM-DD"`` too.

    Raises:
        PlanError: it is none.
    """
    day = as_day(value)
    if isinstance(value, str) and re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
        with contextlib.suppress(ValueError):
            day = date.fromisoformat(value)
    if day is None:
        raise PlanError(Argument(name), f" must be a date or 'YYYY-MM-DD', not {brief(value)}")
    return day


def days_between(from_date: date, to_date: date) -> list[date]:
    """Return the days of a range, both ends included."""
    return [from_date + timedelta(days=n) for n in range((to_date - from_date).days + 1)]
