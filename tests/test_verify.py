"""Whether a body is whole is judged by its bytes, however they arrive."""

from __future__ import annotations

import contextlib
import gzip
import json
import random
import struct
import time
import zlib
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpnb._fetching import verify as _verify
from mpnb._fetching.verify import Body, BodyError, NoExport, Verifier, ended_early
from tests._helpers import event, zipped

LINES = b"".join(event(n=n, text="ä\u2028\u0085 \n") + b"\n" for n in range(4))


def judge(chunks: Iterable[bytes], *, gzip: bool = True) -> Body:
    verifier = Verifier(gzip=gzip)
    for chunk in chunks:
        verifier.feed(chunk)
    return verifier.finish()


def kind_of(chunks: Iterable[bytes], *, gzip: bool = True) -> str:
    """Give the kind of failure of a body that is not whole."""
    with pytest.raises(BodyError) as error:
        judge(chunks, gzip=gzip)
    return error.value.kind


def pieces(data: bytes, count: int, seed: object = 0) -> list[bytes]:
    """Cut data at random places, into empty pieces too."""
    borders = sorted(random.Random(str(seed)).choices(range(len(data) + 1), k=count - 1))
    return [data[a:b] for a, b in zip([0, *borders], [*borders, len(data)], strict=True)]


@pytest.mark.parametrize("members", [1, 2, 3])
def test_it_does_not_matter_where_the_bytes_are_cut_on_their_way(members: int) -> None:
    """Two halves of any size, single bytes and random pieces give the same: sizes and lines as they are."""
    body = zipped(*pieces(LINES, members, seed=1))
    whole = Body(gzip=True, size=len(body), json_size=len(LINES), lines=4)
    assert judge([body]) == whole
    assert judge(body[i : i + 1] for i in range(len(body))) == whole
    for at in range(len(body) + 1):
        assert judge([body[:at], body[at:]]) == whole
    for seed in range(50):
        assert judge(pieces(body, 7, seed)) == whole


@pytest.mark.parametrize("members", [1, 2, 3])
def test_a_body_that_lost_its_end_is_truncated_at_every_byte(members: int) -> None:
    """Wherever it is cut but between members, gzip itself tells; there, a line that is cut tells."""
    parts = pieces(LINES, members, seed=1)
    assert not any(b"".join(parts[:n]).endswith(b"\n") for n in range(1, members))
    body = zipped(*parts)
    for at in range(1, len(body)):
        assert kind_of([body[:at]]) == "truncated"


@pytest.mark.parametrize("at", range(0, len(LINES) + 1, 7))
def test_plain_lines_that_lost_their_end_are_truncated(at: int) -> None:
    """Without gzip the last line tells, unless the cut falls on a line's end, which the framing tells."""
    cut = LINES[:at]
    if not cut or cut.endswith(b"\n") or LINES[at : at + 1] == b"\n":
        assert judge([cut], gzip=False).json_size == at
    else:
        assert kind_of([cut], gzip=False) == "truncated"


MARKERS = [b"terminated early", b"export terminated early", b"Export Terminated Early"]


@pytest.mark.parametrize("marker", MARKERS)
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\n\n", b" \n \n"])
@pytest.mark.parametrize("before", [b"", LINES], ids=["alone", "last"])
@pytest.mark.parametrize("zip_it", [True, False])
def test_mixpanels_own_marker_means_truncated(marker: bytes, end: bytes, before: bytes, zip_it: bool) -> None:
    """As the only or the last line, with any line end and blank lines behind it."""
    body = before + marker + end
    for cut in (len(before), len(before) + 5, len(body)):
        halves = [body[:cut], body[cut:]]
        assert kind_of([zipped(*halves)] if zip_it else halves, gzip=zip_it) == "truncated"


ODD = [
    b"{",
    b"42",
    b"null",
    b'["an", "array"]',
    b'{"event": "a"}',
    b'{"event": 5, "properties": {}}',
    b'{"event": null, "properties": {}}',
    b'{"event": "a", "properties": null}',
    b'{"event": "a", "error": 1}',
    b"terminated",
    b'{"event": "\xff"}',
    b'{"event": "\\ud800", "properties": {}}',
    b'{"event": "a", "properties": {"n": ' + b"1" * 5000 + b"}}",
    b"{}{}",
    b"[" * 100_000,
]


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: repr(odd)[:40])
@pytest.mark.parametrize("end", [b"\n", b"\r\n \n"], ids=["closed", "blank lines"])
@pytest.mark.parametrize("place", [0, 2, 4], ids=["first", "inside", "last"])
def test_a_line_that_is_no_event_is_no_matter_of_the_body(odd: bytes, end: bytes, place: int) -> None:
    """Wherever it stands, closed by a line end, it is counted and not judged: that is for whoever writes the lines."""
    lines = LINES.splitlines(keepends=True)
    assert len(lines) == 4
    body = b"".join([*lines[:place], odd + end, *lines[place:]])
    for cuts in (1, 3):
        assert judge(pieces(zipped(*pieces(body, cuts)), cuts)).lines == 4 + end.count(b"\n")


WHOLE = [
    event(),
    event(text='"}]\\'),
    event(text="\\" * 7 + '"' * 3 + "}{]["),
    b'{"event": "E", "properties": {"title": "half an emoji \\ud83d"}}',
    b'{"event": null, "properties": null}',
    b'{"event": "a\xff", "properties": {}}',
    b'{"event": "a", "properties": {"n": ' + b"[" * 9000 + b"]" * 9000 + b"}}",
    b'{"event": "a", "properties": {"n": ' + b"1" * 5000 + b"}}",
]


@pytest.mark.parametrize("line", WHOLE, ids=lambda line: repr(line)[:40])
def test_a_last_line_without_an_end_is_whole_or_cut(line: bytes) -> None:
    """An object that is closed counts as a line, event or not; all that is shorter was cut off."""
    for before in (b"", LINES):
        assert judge([before + line], gzip=False).lines == judge([before + line + b"\n"], gzip=False).lines
    for at in {*range(1, min(len(line), 200)), len(line) - 1}:
        assert kind_of([LINES + line[:at]], gzip=False) == "truncated"
        assert kind_of([line[:at]], gzip=False) == "truncated"


@pytest.mark.parametrize("last", [b"42", b"null", b'["an", "array"]', b"terminated", b"x" * 99, b'{"a": 1}]'])
def test_a_last_line_without_an_end_that_is_no_object_is_cut(last: bytes) -> None:
    """Nobody can say how it would have gone on."""
    assert kind_of([zipped(LINES + last)]) == "truncated"
    assert judge([zipped(LINES + last + b"\n")]).lines == 5


ERRORS = [
    b'{"error": "x"}',
    b'{"request": "/api/2.0/export", "error": "Query rate limit exceeded"}',
    b' {\t"Error" : null, "status": 0}\r',
    b'\xef\xbb\xbf{"error": "\\ud800"}',
]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("end", [b"", b"\n", b"\n \n"])
@pytest.mark.parametrize("zip_it", [True, False])
def test_an_error_after_events_means_truncated(error: bytes, end: bytes, zip_it: bool) -> None:
    """As the last line, with any line end, however it is divided."""
    body = LINES + error + end
    for cut in (len(LINES), len(LINES) + 5, len(body)):
        halves = [body[:cut], body[cut:]]
        assert kind_of([zipped(*halves)] if zip_it else halves, gzip=zip_it) == "truncated"


NO_EXPORTS = [
    b"rate limit reached",
    b"<!DOCTYPE html>\n<html>\n<script>\n{\n}\n</script>\n<p>Sign in</p></html>\n",
    *ERRORS,
    b'{\n  "error": "x",\n  "status": 1\n}\n',
    b"[]",
    b"{}\n",
    b"null\n\n",
    b'[{"event": "a", "properties": {}}]\n',
    b'{"results": [1, 2]}',
    b"\x00\x01",
    b"word " * 60_000,
    b"{" + b"x" * 300_000 + b"}",
]


@pytest.mark.parametrize("body", NO_EXPORTS, ids=lambda body: repr(body)[:40])
@pytest.mark.parametrize("zip_it", [True, False])
def test_a_body_that_is_no_export_is_told_from_one_that_is_cut(body: bytes, zip_it: bool) -> None:
    """Not one line is like an event: its first words are kept, however it arrives."""
    for count in (1, 2, 9):
        chunks = [zipped(*pieces(body, count))] if zip_it else pieces(body, count)
        with pytest.raises(NoExport) as error:
            judge(chunks, gzip=zip_it)
        assert error.value.words == body[: _verify.WORDS]


@pytest.mark.parametrize("body", NO_EXPORTS, ids=lambda body: repr(body)[:40])
@pytest.mark.parametrize("line", [*WHOLE, b'\xef\xbb\xbf {"\\u0065vent" :"a"}', b'{"a":1,"Properties":{}}'])
def test_one_line_that_is_like_an_event_makes_it_an_export(body: bytes, line: bytes) -> None:
    """Wherever it stands: what stands around it is judged line by line."""
    body = body if ended_early(body) is None else b"[]"
    text = line + b"\n" + body + b"\n"
    assert judge(pieces(text, 7), gzip=False).lines == text.count(b"\n")
    text = body + b"\n" + line + b"\n"
    if line.startswith(b"\xef"):
        text = text[:-1].removeprefix(body + b"\n") + b"\n" + body + b"\n"
    assert judge(pieces(text, 7), gzip=False).lines == text.count(b"\n")


@pytest.mark.parametrize(
    ("field", "message"), [("crc", "checksum|check"), ("size", "length|check|size|isize")], ids=["crc", "size"]
)
@pytest.mark.parametrize("member", [0, 1, 2])
def test_a_wrong_trailer_is_damage(field: str, message: str, member: int) -> None:
    """DuckDB and httpx would not see a wrong checksum or length, in whichever member."""
    parts = [bytearray(zipped(part)) for part in pieces(LINES, 3)]
    parts[member][-8 if field == "crc" else -4] ^= 1
    assert kind_of([b"".join(parts)]) == "decode"
    assert kind_of([bytes([byte]) for byte in b"".join(parts)]) == "decode"


def test_a_flipped_bit_never_passes() -> None:
    """Of a hundred bodies with one flipped bit, none is taken for whole with other bytes in it."""
    body = zipped(LINES)
    rng = random.Random(1)
    for _ in range(100):
        at, bit = rng.randrange(len(body)), 1 << rng.randrange(8)
        damaged = body[:at] + bytes([body[at] ^ bit]) + body[at + 1 :]
        try:
            judged = judge([damaged])
        except BodyError:
            continue
        # The header holds a time, a system and flags that say nothing of the content.
        assert at < 10
        assert (judged.json_size, judged.lines) == (len(LINES), 4)


@pytest.mark.parametrize("garbage", [b"\0", b"garbage", LINES, b"\x1f", b"\x1f\x8b", b"\x1f\x8c" + LINES])
def test_what_follows_the_last_member_must_be_gzip(garbage: bytes) -> None:
    """Garbage, padding or half a header behind a whole member: the body is not what was sent."""
    assert kind_of([zipped(LINES) + garbage]) in ("decode", "truncated")
    assert kind_of([zipped(LINES), garbage]) in ("decode", "truncated")


def test_plain_text_that_says_it_is_gzip_is_damage() -> None:
    """``Content-Encoding: gzip`` and no gzip."""
    assert kind_of([LINES]) == "decode"


@pytest.mark.parametrize("level", [0, 1, 9])
def test_every_kind_of_deflate_block_is_read(level: int) -> None:
    """Stored, fixed and dynamic blocks, a flush point among them, and a header with a name."""
    raw = zlib.compressobj(level, zlib.DEFLATED, -15)
    deflated = raw.compress(LINES[:100]) + raw.flush(zlib.Z_FULL_FLUSH) + raw.compress(LINES[100:]) + raw.flush()
    body = b"\x1f\x8b\x08\x08\0\0\0\0\0\x03name\0" + deflated + struct.pack("<II", zlib.crc32(LINES), len(LINES))
    assert gzip.decompress(body) == LINES
    assert judge([body]).lines == 4
    assert judge(body[i : i + 1] for i in range(len(body))).lines == 4


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (b"", 0),
        (b"\n", 1),
        (b"\n\n \r\n", 3),
        (b" ", 0),
        (event(), 1),
        (event() + b"\n", 1),
        (event() + b"\r\n" + event() + b"\r\n", 2),
        (b"\n" + event() + b"\n\n" + event(), 4),
        (event() + b"\n  ", 1),
        (event() + b"  ", 1),
        (event(text="\u2028\u2029\u0085\v\f\x1c\x1d\x1e") + b"\n", 1),
        (json.dumps({"event": "é\u2028\u2029\x85", "properties": {}}, ensure_ascii=False).encode(), 1),
    ],
)
def test_only_a_newline_ends_a_line(text: bytes, lines: int) -> None:
    """Blank lines count, a last line without an end counts, and no other character ends one."""
    assert judge([text], gzip=False) == Body(gzip=False, size=len(text), json_size=len(text), lines=lines)
    assert judge([zipped(text)]).lines == lines
    assert judge((text[i : i + 1] for i in range(len(text))), gzip=False).lines == lines


@given(
    st.lists(st.sampled_from([b"", b" ", b"\t", event(), event(s="x" * 50), b"no json"]), max_size=8),
    st.sampled_from([b"\n", b"\r\n"]),
    st.booleans(),
    st.integers(1, 3),
    st.integers(1, 9),
    st.integers(),
)
def test_any_mix_of_lines_is_judged_by_its_end(
    lines: list[bytes], ending: bytes, is_closed: bool, members: int, cuts: int, seed: int
) -> None:
    """However it is divided into members and pieces: no export without an event, cut where no line end closes it."""
    text = ending.join(lines) + (ending if is_closed and lines else b"")
    chunks = pieces(zipped(*pieces(text, members, seed)), cuts, seed)
    tail = text[text.rfind(b"\n") + 1 :].strip()
    if text.strip() and not any(line.startswith(b"{") for line in lines):
        with pytest.raises(NoExport):
            judge(chunks)
    elif tail == b"no json":
        assert kind_of(chunks) == "truncated"
    else:
        assert judge(chunks).lines == text.count(b"\n") + bool(tail)


def test_a_body_of_no_bytes_is_whole_unless_it_should_be_gzip() -> None:
    """An empty day: the framing said that there is nothing. gzip has twenty bytes even of nothing."""
    assert judge([], gzip=False) == Body(gzip=False, size=0, json_size=0, lines=0)
    assert judge([b"", b""], gzip=False).lines == 0
    assert judge([zipped(b"")]).lines == 0
    assert kind_of([]) == "truncated"
    assert kind_of([b"", b""]) == "truncated"


@pytest.mark.parametrize("zip_it", [True, False])
def test_a_line_may_not_outgrow_the_reader(zip_it: bool) -> None:
    """15 MiB a line, to the byte, however blocks divide it: one more is refused while it arrives."""
    empty = len(event(pad="")) + 1

    def line(size: int) -> bytes:
        return event(pad="x" * (size - empty)) + b"\n"

    def chunks(text: bytes, size: int) -> Iterator[bytes]:
        data = zipped(text) if zip_it else text
        return (data[i : i + size] for i in range(0, len(data), size))

    under, over = line(_verify.MAX_LINE + 1), line(_verify.MAX_LINE + 2)
    for size in (65536, _verify.BLOCK):
        assert judge(chunks(LINES + under + LINES, size), gzip=zip_it).lines == 9
        assert kind_of(chunks(over + LINES, size), gzip=zip_it) == "decode"
        assert kind_of(chunks(LINES + over, size), gzip=zip_it) == "decode"
        assert kind_of(chunks(LINES + over[:-1], size), gzip=zip_it) == "decode"


@pytest.mark.parametrize("filler", [b"\n", b" ", b"x"])
def test_a_bomb_is_refused_before_it_is_large(monkeypatch: pytest.MonkeyPatch, filler: bytes) -> None:
    """Past both bounds it is a bomb; what it holds is never in memory at once."""
    monkeypatch.setattr(_verify, "BOMB_BYTES", 4 << 20)
    verifier = Verifier(gzip=True)
    with pytest.raises(BodyError) as error:
        verifier.feed(zipped(filler * (40 << 20)))
    assert error.value.kind == "decode"
    assert verifier._unpacker.plain_size <= _verify.MAX_LINE + _verify.BLOCK


def test_a_bomb_of_empty_lines_does_not_hold_up_the_workers_beside_it() -> None:
    """A byte of it takes up to forty times the CPU of one of a long line, and not three hundred."""

    def seconds(body: bytes) -> float:
        begin = time.thread_time()
        with contextlib.suppress(NoExport):
            judge([body])
        return time.thread_time() - begin

    size = 16 << 20
    line = event(pad="x" * 200) + b"\n"
    events, empty = zipped(line * (size // len(line))), zipped(b"\n" * size)
    assert min(seconds(empty) for _ in range(3)) < 40 * min(seconds(events) for _ in range(3))


def test_events_that_compress_well_are_no_bomb(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same event over and over shrinks to a hundredth, and passes."""
    monkeypatch.setattr(_verify, "BOMB_BYTES", 1 << 20)
    text = b"".join(event(n=n, pad="x" * 300) + b"\n" for n in range(20_000))
    assert judge([zipped(text)]).lines == 20_000
