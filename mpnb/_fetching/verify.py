"""
Whether a body is whole: every gzip member up to its trailer, every line counted, the last line complete.

httpx's own decoder stops after the first gzip member, accepts a stream that ends before its trailer, and DuckDB does
not look at the checksum: so the bytes are judged here, as they arrive, and kept as they came.

Whether a line is an event is not asked here, wherever it stands: DuckDB decides that, when the lines are written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
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
BOM = b"\xef\xbb\xbf"
# What DuckDB's reader leaves out around a line.
AROUND = BLANK + b"\v\f"
# Where the last line of a block is looked for first: most events are shorter.
END = 16 << 10
# Event lines shrink to a twentieth; deflate ends at 1,032. Past both bounds it is a decompression bomb.
BOMB_RATIO = 250
BOMB_BYTES = 256 << 20
# Mixpanel's own words in place of JSON when it gave up in mid-export, alone or after "export".
MARKER = b"terminated early"
# What tells whether the lines of a block are long.
SAMPLE = 4 << 10
# What is read of words that stand in the place of events: no refusal is longer.
WORDS = 64 << 10


def _key(name: bytes) -> bytes:
    r"""Return a pattern for a key of a JSON object, with each letter plain or as \uXXXX."""
    return b"".join(b"(?:%c|\\\\u00%02x)" % (letter, letter) for letter in name)


_EVENT_KEY = rb'"(?:%s|%s)"\s*:' % (_key(b"event"), _key(b"properties"))
_HAS_EVENT_KEY = re.compile(_EVENT_KEY, re.IGNORECASE)
_HAS_ERROR_KEY = re.compile(rb'"error"\s*:', re.IGNORECASE)
# The beginning of a line that is an event, or was meant to be one.
_LIKE_EVENT = re.compile(rb"^(?:\xef\xbb\xbf)?[ \t\r\v\f]*\{[^\n]*?" + _EVENT_KEY, re.IGNORECASE | re.MULTILINE)


class BodyError(Exception):
    """
    The body is not whole.

    Attributes:
        kind: ``"truncated"`` (it ends too early), ``"decode"`` (it cannot be what was sent) or ``"write"`` (its file is
            gone).
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how another process makes it again."""
        return BodyError, (self.kind, str(self))


class NoExport(Exception):
    """
    The body is not an export: no line of it looks like an event.

    Attributes:
        words: its first kilobytes, decompressed.
    """

    def __init__(self, words: bytes) -> None:
        super().__init__("the body is not an export")
        self.words = words

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how another process makes it again."""
        return NoExport, (self.words,)


@dataclass(frozen=True, slots=True)
class Body:
    """
    A body that is whole.

    Attributes:
        gzip: whether what is kept of it is compressed.
        size: bytes as received.
        json_size: bytes of JSON lines.
        lines: number of line ends, and one more where the last line has none; blank lines count.
        envelope: what a JSON document said besides its records, ``None`` for a body of lines.
        framed: whether each line says which batch it is of; the line before the first is none of ``lines``.
    """

    gzip: bool
    size: int
    json_size: int
    lines: int
    envelope: Mapping[str, Any] | None = None
    framed: bool = False


class Unpacker:
    """
    The plain bytes of a body, which may be compressed, while it arrives. One thread at a time.

    Args:
        gzip: whether it comes compressed.
        take: given the plain bytes block by block, before they are known to be right.

    Attributes:
        size: bytes received so far.
        plain_size: bytes that they are unpacked.
    """

    def __init__(self, take: Callable[[bytes], object], *, gzip: bool) -> None:
        self._gzip = gzip
        self._take = take
        self.size = 0
        self.plain_size = 0
        self._inflate: Any = None  # the decompressor of the member that is under way
        self._members = 0

    def feed(self, data: bytes) -> None:
        """
        Unpack the next bytes as received.

        Raises:
            BodyError: they cannot belong to a whole body (kind ``"decode"``).
        """
        self.size += len(data)
        if not self._gzip:
            self.plain_size += len(data)
            self._take(data)
            return
        for begin in range(0, len(data), PIECE):
            piece = data[begin : begin + PIECE]
            while piece:
                if self._inflate is None:
                    if piece[0] != GZIP_MAGIC[0]:
                        raise BodyError(
                            "decode", f"what follows gzip member {self._members} is not gzip: {piece[:16]!r}"
                        )
                    self._inflate = isal_zlib.decompressobj(wbits=31)
                    self._members += 1
                piece = self._feed_member(piece)

    def _feed_member(self, data: bytes) -> bytes:
        """Decompress block by block until the input or the gzip member ends, and return the input that is left."""
        while True:
            try:
                block = self._inflate.decompress(data, BLOCK)
            except GZIP_ERROR as error:
                raise BodyError("decode", f"gzip member {self._members} is damaged: {error}") from None
            self.plain_size += len(block)
            self._take(block)
            if self.plain_size > BOMB_BYTES and self.plain_size > self.size * BOMB_RATIO:
                raise BodyError("decode", f"{self.size:,} bytes unpack to more than {self.plain_size:,}: a gzip bomb")
            if self._inflate.eof:
                rest: bytes = self._inflate.unused_data
                self._inflate = None
                return rest
            data = self._inflate.unconsumed_tail
            if not data and len(block) < BLOCK:
                return b""

    def finish(self) -> None:
        """Raise ``BodyError`` if the body ends within a gzip member, or before the first."""
        if self._inflate is not None:
            raise BodyError("truncated", f"the body ends inside gzip member {self._members}, before its trailer")
        if self._gzip and not self._members:
            raise BodyError("truncated", "the body should be compressed, but it is empty")


class Verifier:
    """
    A verifier that checks a body of lines while it arrives. One thread at a time.

    Args:
        gzip: whether it comes compressed.
        on_unpacked: given a compressed body's plain bytes, block by block, before they are known to be right.
    """

    def __init__(self, *, gzip: bool, on_unpacked: Callable[[bytes], object] | None = None) -> None:
        self._gzip = gzip
        self._on_unpacked = on_unpacked if gzip else None
        self._unpacker = Unpacker(self._take, gzip=gzip)
        self._newlines = 0
        self._open = 0  # bytes since the last line end
        self._tail = b""  # the last line that is not blank, and what follows it
        self._words: bytes | None = b""  # how the body begins, until a line of it is like an event

    def feed(self, data: bytes) -> None:
        """
        Check the next bytes as received.

        Raises:
            BodyError: they cannot belong to a whole body (kind ``"decode"``).
        """
        self._unpacker.feed(data)

    def _take(self, block: bytes) -> None:
        """Count the lines of a decompressed block and keep the last one."""
        # bytes.count() looks at each byte by itself; replace() leaps from one line to the next, in a fifth of the time,
        # but of a bomb, all of whose lines are empty, it takes thirty times as long.
        are_long = block.count(b"\n", 0, SAMPLE) < SAMPLE // 64
        self._newlines += len(block) - len(block.replace(b"\n", b"")) if are_long else block.count(b"\n")
        self._measure_lines(block)
        if self._words is not None:
            self._look_for_events(block, self._words)
        # Where that line begins in the last bytes of the block, the block need not be copied to find it.
        end = block[-END:] if len(block) > END else b""
        tail = end if b"\n" in end.rstrip(BLANK) else self._tail + block
        if b"\n" in tail:
            text = tail.rstrip(BLANK)
            rest = tail[len(text) :]
            tail = text[text.rfind(b"\n") + 1 :] + (b"\n" if b"\n" in rest else rest)
        self._tail = tail
        if self._on_unpacked is not None:
            self._on_unpacked(block)

    def _measure_lines(self, block: bytes) -> None:
        """Raise for a line that is too long, even if it spans several blocks; each block is shorter than that limit."""
        first = block.find(b"\n")
        size = self._open + (first if first >= 0 else len(block))
        if size > MAX_LINE:
            raise BodyError("decode", f"a line is longer than {MAX_LINE >> 20} MiB")
        self._open = len(block) - block.rfind(b"\n") - 1 if first >= 0 else size

    def _look_for_events(self, block: bytes, words: bytes) -> None:
        """Look for a line that looks like an event. In an export that is the first line, and the search ends there."""
        # Of a line that is longer than words are, the beginning was looked at before: at 1, ^ is a line end's alone.
        is_short = len(self._tail) < WORDS
        looked_at = self._tail + block if is_short else block
        # Each empty line would cost the expression a try: a bomb of them half a minute.
        found = b"{" in looked_at and _LIKE_EVENT.search(looked_at, 0 if is_short else 1)
        self._words = None if found else words + block[: WORDS - len(words)]

    @property
    def last_line(self) -> bytes:
        """Return the last line so far that is not blank."""
        return self._tail.strip(BLANK)

    @property
    def words(self) -> bytes | None:
        """Return how the body begins, or ``None`` if any line of it looks like an event."""
        return self._words

    def finish(self) -> Body:
        """
        Check the body as a whole, once its transfer has ended as HTTP requires.

        Raises:
            BodyError: it ends too early (kind ``"truncated"``).
            NoExport: it is something else than events.
        """
        self._unpacker.finish()
        last = _bare(self._tail)
        if _is_marker(last):
            raise BodyError("truncated", f"Mixpanel ended the export early: {_shown(last[:80])!r}")
        is_open = bool(last) and not self._tail.endswith(b"\n")
        if is_open and not _is_closed(last) and (self._words is None or last.startswith(b"{")):
            raise BodyError("truncated", f"the last line is cut: {_shown(last[:80])!r}")
        if last and self._words is not None:
            raise NoExport(self._words)
        if why := ended_early(last):
            raise BodyError("truncated", why)
        return Body(self._gzip, self._unpacker.size, self._unpacker.plain_size, self._newlines + is_open)


def ended_early(line: bytes) -> str | None:
    """Return why a line means that the export ended early: Mixpanel's marker, or an error. None for any other line."""
    text = _bare(line)
    if _is_marker(text):
        return f"Mixpanel ended the export early: {_shown(text[:80])!r}"
    if _is_error(text):
        return f"there is an error among the events: {_shown(text[:200])!r}"
    return None


def _shown(text: bytes) -> str:
    return text.decode(errors="backslashreplace")


def _bare(line: bytes) -> bytes:
    return line.removeprefix(BOM).strip(AROUND)


def _is_marker(text: bytes) -> bool:
    return not text.startswith(b"{") and len(text) <= WORDS and MARKER in text.lower()


def _is_error(text: bytes) -> bool:
    """Whether an object reports an error instead of an event: ``{"request": …, "error": …}``, in any order."""
    return (
        text.startswith(b"{")
        and len(text) <= WORDS
        and _HAS_ERROR_KEY.search(text) is not None
        and _HAS_EVENT_KEY.search(text) is None
    )


def _is_closed(text: bytes) -> bool:
    """Whether a text that begins a JSON object also ends it. It checks only for truncation, not for valid JSON."""
    text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    parts = text.split(b'"')  # every other one is within quotes
    outside = b"".join(parts[::2])
    return (
        len(parts) % 2 == 1
        and text.startswith(b"{")
        and text.endswith(b"}")
        and outside.count(b"{") == outside.count(b"}")
        and outside.count(b"[") == outside.count(b"]")
    )
