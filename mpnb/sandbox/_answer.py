"""An answer to an export request: its body, with or without a fault, and how it is sent."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from functools import partial
from itertools import accumulate, chain, repeat

from mpnb.sandbox._days import HEADER, Part, member, members, part, part_of_lines
from mpnb.sandbox._faults import (
    BAD_LINES,
    BODIES,
    GZIP,
    SIGN_IN,
    SILENCE,
    TOO_LARGE,
    TRANSPORT,
    Fault,
    bad_lines_day,
)
from mpnb.sandbox._wire import Framing, Strike, Wire

# Mixpanel compresses bodies over about this many bytes.
GZIP_FROM = 1400
BOMB_BLOCK = 2**20
# Where only the end of a frame tells the loss, an empty body needs a frame too: Content-Length 0 would hide it.
BROKEN_OFF = frozenset({"reset", "cut_chunked", "stall", "hang", "drip"})
GARBAGE = b"made-up garbage after the last member"
NONSENSE = b"this is not a brotli stream"
MARKERS = {"terminated": b"terminated early", "export_terminated": b"export terminated early"}
INSIDE = {"terminated_inside": b"terminated early", "error_inside": b'{"error": "a made-up error among the events"}'}


@dataclass(frozen=True, slots=True)
class Answer:
    """
    An answer to be sent: a status, headers without those of framing, and a body.

    Args:
        total: bytes of the body, or ``None`` where it is made while it is sent.
        promised: what Content-Length says, if it is not the truth.
        strike: where in the body something happens, and what: the act gets the wire.
        copies: how often it is sent.
    """

    status: int
    headers: dict[str, str]
    pieces: Iterable[bytes]
    total: int | None
    framing: Framing
    promised: int | None = None
    strike: tuple[int, Callable[[Wire], None]] | None = None
    copies: int = 1

    def send(self, wire: Wire, head: Callable[[int, dict[str, str]], bytes]) -> None:
        """Send the answer; ``head`` makes the bytes of the status line and headers."""
        framed = dict(self.headers)
        if self.framing == "chunked":
            framed["Transfer-Encoding"] = "chunked"
        elif self.framing == "length":
            framed["Content-Length"] = str(self.total if self.promised is None else self.promised)
        else:
            framed["Connection"] = "close"
        strike = self.strike and Strike(self.strike[0], partial(self.strike[1], wire))
        for _ in range(self.copies):
            wire.send(head(self.status, framed))
            wire.body(self.pieces, self.framing, strike)


def refusal(
    status: int,
    body: str | Mapping[str, object] | None = None,
    headers: Mapping[str, str] | None = None,
    retry_after: float | str | None = None,
) -> Answer:
    """Return an answer that is not an export; without a body, it has Mixpanel's text for this status."""
    said = BODIES.get(status, f"made-up status {status}") if body is None else body
    text = said if isinstance(said, str) else json.dumps(said)
    kind = "application/json" if not isinstance(said, str) else "text/html" if text.startswith("<") else "text/plain"
    own = {"Content-Type": kind}
    if retry_after is not None:
        own["Retry-After"] = str(retry_after)
    # These have no body by the rules of HTTP: bytes would be read as the next answer.
    data = b"" if status in (204, 304) else text.encode()
    return Answer(status, own | dict(headers or {}), [data], len(data), "length")


def refused_by(fault: Fault, path: str, other_host: str) -> Answer | None:
    """
    Return the answer of a fault that sends no export, or ``None`` for every other fault.

    Args:
        path: the target of the request, with its query.
        other_host: scheme, host and port of another origin, where ``"redirect"`` leads unless told where.
    """
    make = partial(refusal, headers=fault.headers, retry_after=fault.retry_after)
    match fault.kind:
        case "status":
            assert fault.status is not None
            return make(fault.status, fault.body)
        case "sign_in":
            return make(200, fault.body or SIGN_IN)
        case "too_many_504":
            return make(504, fault.body or "Too many requests")
        case "too_large":
            return make(400, fault.body or TOO_LARGE)
        case "redirect":
            return refusal(302, fault.body or "", {"Location": other_host + path} | dict(fault.headers or {}))
        case "page_size":
            return make(400, fault.body or {"request": "/api/query/engage", "error": "invalid page_size"})
        case "redirect_same":
            return refusal(307, fault.body or "", {"Location": f"{path}&redirected=1"})
    return None


@dataclass(slots=True)
class Export:
    """
    The body of an export, before it becomes an answer.

    Args:
        parts: the days that were asked for.
        gzip: whether the client accepts gzip.
        gzip_members: members the body is divided into, 1 or more.
        http10: whether the client is too old for chunks.
    """

    parts: dict[date, Part]
    gzip: bool
    gzip_members: int = 1
    http10: bool = False
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "text/plain"})

    def put_bad_lines(self, fault: Fault) -> tuple[date, tuple[bytes, ...]] | None:
        """Insert the lines of a bad_lines fault, and return the day and the lines."""
        day = bad_lines_day(fault, {day: each.count for day, each in self.parts.items()})
        if day is None:
            return None
        bad = tuple(BAD_LINES if fault.lines is None else fault.lines)
        lines = self.parts[day].lines()
        at = fault.offset(len(lines))
        self.parts[day] = part_of_lines([*lines[:at], *bad, *lines[at:]])
        return day, bad

    def answer(self, fault: Fault | None) -> Answer:
        """Return the answer, changed by the fault."""
        kind = fault.kind if fault else ""
        if fault and kind in ("bomb", "long_line"):
            return self._bomb(fault)
        if kind in ("encoding_br", "encoding_zstd"):
            encoding = {"Content-Encoding": kind.removeprefix("encoding_")}
            return Answer(200, self.headers | encoding, [NONSENSE], len(NONSENSE), "length")
        parts = list(self.parts.values())
        if fault:
            parts = _spoil_lines(parts, fault)
        plain = sum(each.size for each in parts)
        forced = kind in GZIP | TRANSPORT | SILENCE | {"unlabelled"}
        if not self.gzip or kind in ("plain", "drip") or (plain <= GZIP_FROM and not forced):
            pieces = [each.plain() for each in parts]
            small = kind == "plain" or plain <= GZIP_FROM
            return self._framed(self.headers, pieces, "length" if small else "chunked", fault)
        headers = self.headers | ({} if kind == "unlabelled" else {"Content-Encoding": "gzip"})
        if kind == "gzip_nothing":
            return self._framed(headers, [], "length", fault)
        if kind == "gzip_header":
            pieces = [each.plain() for each in parts]
            return self._framed(headers, pieces or [b""], "chunked", fault)
        if self.gzip_members > 1:
            pieces = list(chain.from_iterable(members(parts, self.gzip_members)))
        else:
            pieces = list(member(parts))
        return self._framed(headers, pieces, "chunked", fault)

    def _framed(self, headers: dict[str, str], pieces: list[bytes], framing: Framing, fault: Fault | None) -> Answer:
        if fault and fault.kind in BROKEN_OFF:
            framing = "chunked"
        if self.http10 and framing == "chunked":
            framing = "close"
        if fault:
            pieces = _spoil_gzip(pieces, fault)
        total = sum(map(len, pieces))
        answer = Answer(200, headers, pieces, total, framing)
        if fault is None:
            return answer
        offset = fault.offset(total)
        inside = _inside(pieces, offset)
        match fault.kind:
            case "reset":
                return replace(answer, strike=(offset, Wire.reset))
            case "cut_chunked":
                return replace(answer, strike=(offset, Wire.stop))
            case "cut_length":
                return replace(answer, framing="length", promised=max(total, 1), strike=(inside, Wire.stop))
            case "cut_close":
                return replace(answer, framing="close", strike=(inside, Wire.stop))
            case "unframed":
                return replace(answer, framing="close")
            case "stall":
                seconds = 1.0 if fault.seconds is None else fault.seconds
                return replace(answer, strike=(offset, lambda wire: wire.silence(seconds)))
            case "hang":
                return replace(answer, strike=(offset, Wire.silence))
            case "drip":
                return replace(answer, strike=(offset, Wire.drip))
            case "twice":
                return replace(answer, copies=2)
        return answer

    def _bomb(self, fault: Fault) -> Answer:
        if fault.kind == "bomb":
            letter = (fault.body if isinstance(fault.body, str) else "\n").encode()[:1]
            size, before, after = fault.size or 4 * 2**30, b"", b""
        else:
            letter = b"x"
            size = fault.size or 2 * 2**30
            before = b'{"event":"Long","properties":{"time":1767225600,"distinct_id":"made up","made_up":true,"pad":"'
            after = b'"}}\n'
        pieces = member(_repeated(before, letter, max(0, size - len(before) - len(after)), after))
        return Answer(200, self.headers | {"Content-Encoding": "gzip"}, pieces, None, "chunked")


def _repeated(before: bytes, letter: bytes, size: int, after: bytes) -> Iterator[Part]:
    yield part([before])
    yield from repeat(part([letter * BOMB_BLOCK]), size // BOMB_BLOCK)
    yield part([letter * (size % BOMB_BLOCK)])
    yield part([after])


def _spoil_lines(parts: list[Part], fault: Fault) -> list[Part]:
    at = fault.offset(sum(each.count for each in parts))
    if fault.kind in MARKERS:
        return [*_first_lines(parts, at), part_of_lines([MARKERS[fault.kind]])]
    if fault.kind == "terminated_only":
        return [part([b"terminated early"])]
    if fault.kind == "error_line":
        return [*parts, part_of_lines([b'{"error": "a made-up error at the end of the export"}'])]
    if fault.kind in INSIDE:
        at = min(at, sum(each.count for each in parts) - 1)
        return [*_first_lines(parts, at), part_of_lines([INSIDE[fault.kind], *_lines_from(parts, at)])]
    if fault.kind == "half_line":
        at = min(at, sum(each.count for each in parts) - 1)
        # Half of a blank line would not show.
        rest = enumerate(_lines_from(parts, at))
        skipped, line = next(((n, each) for n, each in rest if each.strip()), (0, b"{}"))
        return [*_first_lines(parts, at + skipped), part([line[: max(1, len(line) // 2)]])]
    return parts


def _first_lines(parts: list[Part], count: int) -> Iterator[Part]:
    for each in parts:
        if count >= each.count:
            yield each
        elif count:
            yield part_of_lines(each.lines()[:count])
        count = max(0, count - each.count)


def _lines_from(parts: list[Part], skip: int) -> Iterator[bytes]:
    for each in parts:
        if skip < each.count:
            yield from each.lines()[skip:]
        skip = max(0, skip - each.count)


def _inside(pieces: list[bytes], offset: int) -> int:
    """Move an offset so that a gzip body cut there is incomplete, and neither empty nor a sequence of whole members."""
    borders = set(accumulate(map(len, pieces)))
    total = max(borders, default=0)
    offset = min(max(offset, 1), max(total - 1, 0))
    return offset - 1 if offset in borders and offset > 1 else offset


def _header_of_all_fields() -> bytes:
    """Return the header of a gzip member with every optional field (RFC 1952, 2.3.1)."""
    fields = b"".join(
        [
            HEADER[:3] + b"\x1f" + HEADER[4:],
            struct.pack("<H", 4) + b"mp\x00\x00",
            b"made up\x00",
            b"a made-up comment\x00",
        ]
    )
    return fields + struct.pack("<H", zlib.crc32(fields) & 0xFFFF)


def _spoil_gzip(pieces: list[bytes], fault: Fault) -> list[bytes]:
    whole = pieces[:-1]
    last = pieces[-1] if pieces else b""
    match fault.kind:
        case "gzip_fields":
            return [_header_of_all_fields() if piece is HEADER else piece for piece in pieces]
        case "gzip_cut":
            data = b"".join(pieces)
            return [data[: _inside(pieces, fault.offset(len(data)))]]
        case "gzip_crc":
            crc = struct.unpack("<I", last[-8:-4])[0] ^ 1
            return [*whole, last[:-8] + struct.pack("<I", crc) + last[-4:]]
        case "gzip_size":
            size = struct.unpack("<I", last[-4:])[0] ^ 1
            return [*whole, last[:-4] + struct.pack("<I", size)]
        case "gzip_garbage":
            return [*pieces, GARBAGE]
    return pieces


def narrowed(
    parts: Mapping[date, Part], keep: Callable[[list[bytes]], list[bytes]], limit: int | None
) -> dict[date, Part]:
    """Return parts with the lines that ``keep`` accepts, at most ``limit`` in all."""
    left = limit
    kept = {}
    for day, each in parts.items():
        lines = keep(each.lines())[:left]
        left = None if left is None else left - len(lines)
        kept[day] = part_of_lines(lines)
    return kept


def accepts_gzip(header: str) -> bool:
    """Whether an Accept-Encoding header allows gzip."""
    for entry in header.lower().split(","):
        name, _, weight = entry.strip().partition(";")
        if name.strip() in ("gzip", "*"):
            return weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False
