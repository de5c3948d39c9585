"""
From a JSON document to lines: each item of its list ``results`` becomes one, as it was served.

The document is never parsed into Python objects, and is in memory in pieces only: bodies of gigabytes occur.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from mpnb._fetching.framed import Frame, first_line
from mpnb._fetching.verify import WORDS, BodyError, NoExport

# Of plain bytes, what is looked at in one piece.
CHUNK = 8 << 20
# A single item that is larger is refused: Mixpanel's own limits are far below.
MAX_ITEM = 256 << 20
# How many places are tried as the beginning of an item before the piece is looked at token by token.
TRIES = 4
_RESULTS = re.compile(rb'"results"\s*:\s*\[')
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{},]', re.DOTALL)
_SPACE = b" \t\r\n"
COMMA, CLOSE = b",]"


class _Document(msgspec.Struct):
    """What is read of a document besides its items. Anything may stand in these places."""

    results: list[msgspec.Raw]
    page: Any = None
    page_size: Any = None
    session_id: Any = None
    total: Any = None
    status: Any = None


_document = msgspec.json.Decoder(_Document)
_items = msgspec.json.Decoder(list[msgspec.Raw])
ENVELOPE = ("page", "page_size", "session_id", "total", "status")


class Splitter:
    """
    A splitter that takes a document while it arrives, and writes its items as framed lines. One thread at a time.

    Args:
        write: given whole lines.
        keys: of each item. With the first it begins, as far as is known: so pieces of a large document are found
            quickly.
        frame: what stands around each line.

    Attributes:
        lines: items so far.
        size: bytes of the file so far.
    """

    def __init__(self, write: Callable[[bytes], object], keys: Sequence[str], frame: Frame) -> None:
        self._write = write
        self._frame = frame
        self._begin = first_line(keys)
        self._start = b'{"%b"' % keys[0].encode()
        self._head: bytes | None = None  # up to the first item
        self._blocks: list[bytes] = []
        self._held = 0
        self._limit = CHUNK
        self.lines = 0
        self.size = 0

    def feed(self, block: bytes) -> None:
        """
        Take the next plain bytes.

        Raises:
            BodyError: a single item is too large.
        """
        self._blocks.append(block)
        self._held += len(block)
        if self._held >= self._limit:
            self._split_some()

    def _split_some(self) -> None:
        """Write the items that have arrived whole, and keep the rest."""
        # One copy of the bytes, in which the items stay until they are lines: each further one costs as much as zstd.
        data = bytearray().join(self._blocks)
        if self._head is None and (found := _RESULTS.search(data)):
            self._head = bytes(data[: found.end()])
            # The bracket stays: what follows is a list that has no end yet.
            del data[: found.end() - 1]
        if self._head is not None:
            self._split_list(data)
        else:
            self._blocks = [bytes(data)]
        self._held = sum(map(len, self._blocks))
        self._limit = self._held + CHUNK
        if self._held > MAX_ITEM:
            raise BodyError("decode", f"a record is longer than {MAX_ITEM >> 20} MiB")

    def _split_list(self, data: bytearray) -> None:
        """Write the items that a list begins with, and keep what follows them as the beginning of the next."""
        end = len(data)
        for _ in range(TRIES):
            end = data.rfind(self._start, 2, end)
            comma = data.rfind(b",", 0, end)
            if end < 0 or comma < 0 or data[comma + 1 : end].strip(_SPACE):
                break
            data[comma] = CLOSE
            # Within an item it is no beginning: then what is before it is no list.
            try:
                items = _items.decode(memoryview(data)[: comma + 1])
            except (msgspec.DecodeError, RecursionError):
                data[comma] = COMMA
                continue
            self._take(items, data)
            self._blocks = [b"[", bytes(memoryview(data)[end:])]
            return
        whole, end = _by_tokens(bytes(memoryview(data)[1:]))
        self._take(whole, data)
        self._blocks = [b"[", bytes(memoryview(data)[end + 1 :])]

    def _take(self, items: Sequence[bytes | msgspec.Raw], source: bytes | bytearray) -> None:
        if not items:
            return
        frame, each = self._frame, [*items]
        if b"\n" in source or b"\r" in source:
            # Between tokens: within a text it would be escaped.
            each = [bytes(item).translate(_ONE_LINE) for item in each]
        each[0] = self._begin + frame.before + bytes(each[0])
        each[-1] = bytes(each[-1]) + frame.after
        lines = frame.between.join(each)
        self._begin = b""
        self.lines += len(items)
        self.size += len(lines)
        self._write(lines)

    def finish(self) -> dict[str, Any]:
        """
        Write the rest, and return what the document says besides its items.

        Raises:
            BodyError: it is cut (kind ``"truncated"``).
            NoExport: it is something else.
        """
        if self._head is not None:
            self._blocks[:1] = [self._head]
        data = b"".join(self._blocks)
        self._blocks = []
        try:
            found = _document.decode(data)
        except (msgspec.DecodeError, msgspec.ValidationError, RecursionError):
            return self._finish_by_tokens(data)
        self._take(found.results, data)
        return {name: getattr(found, name) for name in ENVELOPE}

    def _finish_by_tokens(self, data: bytes) -> dict[str, Any]:
        """Do the same where an item is no JSON: it becomes a line like any other, to be rejected by itself."""
        begin = _RESULTS.search(data)
        if begin is None:
            raise NoExport(data[:WORDS])
        rest = data[begin.end() :]
        items, end = _by_tokens(rest, to_the_end=True)
        tail = rest[end:].lstrip()
        if not tail.startswith(b"]"):
            raise BodyError("truncated", "the document ends within its records")
        try:
            envelope = json.loads(data[: begin.end()] + tail)
        except (ValueError, RecursionError):
            raise BodyError("truncated", "the document ends behind its records") from None
        self._take(items, data)
        return {name: envelope.get(name) for name in ENVELOPE}


_ONE_LINE = bytes.maketrans(b"\r\n", b"  ")


def _by_tokens(data: bytes, *, to_the_end: bool = False) -> tuple[list[bytes], int]:
    """
    Return the items that data begins with, by their brackets alone, and where they end.

    Args:
        to_the_end: whether the list ends in data: then its last item is one without a comma behind it.
    """
    items: list[bytes] = []
    start = 0
    for at, closes in _ends(data):
        if closes and not to_the_end:
            break
        if item := data[start:at].strip(_SPACE):
            items.append(item)
        start = at if closes else at + 1
        if closes:
            break
    return items, start


def _ends(data: bytes) -> Iterator[tuple[int, bool]]:
    """Yield where each item of a list ends, and whether the list ends there."""
    depth = 0
    for token in _TOKEN.finditer(data):
        sign = token.group()[:1]
        if sign in b"[{":
            depth += 1
        elif sign in b"]}":
            depth -= 1
            if depth < 0:
                yield token.start(), True
                return
        elif sign == b"," and depth == 0:
            yield token.start(), False
