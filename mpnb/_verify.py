"""
Whether a body is whole: every gzip member to its trailer, every line counted, the last line an event.

httpx's own decoder stops after the first gzip member, accepts a stream that ends before its trailer, and DuckDB does
not look at the checksum: so the bytes are judged here, as they arrive, and kept as they came.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from isal import isal_zlib

GZIP_MAGIC = b"\x1f\x8b"
GZIP_ERROR: Any = isal_zlib.error
# What one call may decompress to. It bounds the memory of a worker, however well the body is compressed.
BLOCK = 1 << 20
# What one call is given. It makes some 100 kB of lines, which stay in the core's cache while they are counted and
# written: with 128 kB a call, whose output does not, the same work takes 1.6 times the CPU.
PIECE = 32 << 10
# Under DuckDB's default maximum_object_size of 16 MiB; Mixpanel's own limit is 1 MB of JSON an event.
MAX_LINE = 15 << 20
BLANK = b" \t\r\n"
# Where the last line of a block is looked for first: most events are shorter.
END = 16 << 10
# Event lines shrink to a twentieth; deflate ends at 1,032. Past both bounds it is a decompression bomb.
BOMB_RATIO = 250
BOMB_BYTES = 256 << 20
# Mixpanel's own words in place of JSON when it gave up in mid-export.
MARKERS = (b"terminated early", b"export terminated early")


class BodyError(Exception):
    """
    The body is not whole.

    Attributes:
        kind: ``"truncated"`` (it ends too early) or ``"decode"`` (it cannot be what was sent).
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Body:
    """
    Describe a body that is whole.

    Attributes:
        gzip: whether what is kept of it is compressed.
        size: bytes as received.
        json_size: bytes of JSON lines.
        lines: number of line ends, and one more where the last line has none; blank lines count.
    """

    gzip: bool
    size: int
    json_size: int
    lines: int


class Verifier:
    """
    Judge a body while it arrives. One thread at a time.

    Args:
        gzip: whether it comes compressed.
        on_unpacked: given a compressed body's plain bytes, block by block, before they are known to be right.
    """

    def __init__(self, *, gzip: bool, on_unpacked: Callable[[bytes], object] | None = None) -> None:
        self._gzip = gzip
        self._on_unpacked = on_unpacked
        self._size = 0
        self._json_size = 0
        self._newlines = 0
        self._tail = b""  # the last line that is not blank, and what follows it
        self._inflate: Any = None  # the decompressor of the member that is under way
        self._members = 0

    def feed(self, data: bytes) -> None:
        """
        Take the next bytes as received.

        Raises:
            BodyError: they cannot belong to a whole body (kind ``"decode"``).
        """
        self._size += len(data)
        if not self._gzip:
            self._take(data)
            return
        for begin in range(0, len(data), PIECE):
            piece = data[begin : begin + PIECE]
            while piece:
                if self._inflate is None:
                    if piece[0] != GZIP_MAGIC[0]:
                        raise BodyError(
                            "decode", f"what follows gzip member {self._members} is no gzip: {piece[:16]!r}"
                        )
                    self._inflate = isal_zlib.decompressobj(wbits=31)
                    self._members += 1
                piece = self._feed_member(piece)

    def _feed_member(self, data: bytes) -> bytes:
        """Decompress until the input or the member ends, block by block, and give the input that is left."""
        while True:
            try:
                block = self._inflate.decompress(data, BLOCK)
            except GZIP_ERROR as error:
                raise BodyError("decode", f"gzip member {self._members} is damaged: {error}") from None
            self._take(block)
            if self._on_unpacked is not None:
                self._on_unpacked(block)
            if self._json_size > BOMB_BYTES and self._json_size > self._size * BOMB_RATIO:
                raise BodyError("decode", f"{self._size:,} bytes hold more than {self._json_size:,}: a gzip bomb")
            if self._inflate.eof:
                rest: bytes = self._inflate.unused_data
                self._inflate = None
                return rest
            data = self._inflate.unconsumed_tail
            if not data and len(block) < BLOCK:
                return b""

    def _take(self, block: bytes) -> None:
        """Count the lines of a decompressed block and keep the last one."""
        self._json_size += len(block)
        # bytes.count() looks at each byte by itself; this leaps from one to the next, in a fifth of the time.
        self._newlines += len(block) - len(block.replace(b"\n", b""))
        # Where that line begins in the last bytes of the block, the block need not be copied to find it.
        end = block[-END:] if len(block) > END else b""
        tail = end if b"\n" in end.rstrip(BLANK) else self._tail + block
        if b"\n" in tail:
            text = tail.rstrip(BLANK)
            rest = tail[len(text) :]
            tail = text[text.rfind(b"\n") + 1 :] + (b"\n" if b"\n" in rest else rest)
        if len(tail) > MAX_LINE:
            raise BodyError("decode", f"a line is longer than {MAX_LINE >> 20} MiB")
        self._tail = tail

    @property
    def last_line(self) -> bytes:
        """Return the last line so far that is not blank."""
        return self._tail.strip(BLANK)

    def finish(self) -> Body:
        """
        Judge the whole body, once its transfer has ended as HTTP says it must.

        Raises:
            BodyError: it ends too early (kind ``"truncated"``).
        """
        if self._inflate is not None:
            raise BodyError("truncated", f"the body ends inside gzip member {self._members}, before its trailer")
        last = self._tail.strip(BLANK)
        if last.lower() in MARKERS:
            raise BodyError("truncated", f"Mixpanel ended the export early: {last.decode()!r}")
        if last and not is_event(last):
            raise BodyError("truncated", f"the last line is no event: {last[:80]!r}")
        open_line = bool(last) and not self._tail.endswith(b"\n")
        return Body(self._gzip, self._size, self._json_size, self._newlines + open_line)


def is_event(line: bytes) -> bool:
    """Say whether a line is what the table takes: strict UTF-8 and JSON, a text ``event``, an object ``properties``."""
    try:
        value = json.loads(line.decode())
        # What cannot be encoded is half of a surrogate pair, which DuckDB refuses to read as text.
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and isinstance(value.get("event"), str) and isinstance(value.get("properties"), dict)
