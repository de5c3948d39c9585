"""A JSON document becomes lines: each item as it was served, in pieces, and nothing of a document that is cut."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from mpnb._fetching import document
from mpnb._fetching.document import Splitter
from mpnb._fetching.framed import Frame, first_line
from mpnb._fetching.verify import BodyError, NoExport
from mpnb._mixpanel.engage_api import KEYS

ODD = [
    b'{"$distinct_id":"a","$properties":{"n":1.10,"big":123456789012345678901234567890}}',
    b'{"$distinct_id":"b","$properties":{"inner":{"$distinct_id":"no item","x":[1,{"y":"]}"}]}}}',
    '{"$distinct_id":"ü\u2028","$properties":{"t":"a\\u0000b, {\\"$distinct_id\\" ]"}}'.encode(),
    b'{"$distinct_id":7,"$properties":{}}',
    b'{"$properties":{"first":true},"$distinct_id":"e"}',
]
LONE = b'{"$distinct_id":"s","$properties":{"t":"\\ud800"}}'
BAD = b'{"$distinct_id":"x","$properties":{"t":NaN,"c":"\x01"}}'


def whole(items: list[bytes], between: bytes = b", ") -> bytes:
    """Make a document as Mixpanel does, with the list in its midst."""
    return b'{"page": 0, "results": [%b], "session_id": "s", "status": "ok", "total": 9}' % between.join(items)


def split(text: bytes, piece: int) -> tuple[list[bytes], dict[str, Any]]:
    """Feed a document in pieces."""
    written: list[bytes] = []
    frame = Frame(7)
    splitter = Splitter(written.append, KEYS, frame)
    for start in range(0, len(text), piece):
        splitter.feed(text[start : start + piece])
    envelope = splitter.finish()
    assert splitter.size == len(b"".join(written))
    first, *lines = b"".join(written).splitlines(keepends=True) or [first_line(KEYS)]
    assert first == first_line(KEYS)
    assert splitter.lines == len(lines)
    return [frame.bare(line) for line in lines], envelope


@pytest.mark.parametrize("chunk", [8 << 20, 64, 1])
@pytest.mark.parametrize("more", [[], [LONE], [BAD], [LONE, BAD]], ids=["sound", "surrogate", "broken", "both"])
@pytest.mark.parametrize("between", [b",", b", ", b"\n ,\n"])
def test_each_item_is_a_line_as_it_was_served(
    monkeypatch: pytest.MonkeyPatch, chunk: int, more: list[bytes], between: bytes
) -> None:
    """However the document arrives, in one piece or looked at in many; what is no JSON is one line, too."""
    monkeypatch.setattr(document, "CHUNK", chunk)
    items = random.Random(5).sample([*ODD * 4, *more], k=20 + len(more))
    for piece in (1 << 20, 7):
        lines, envelope = split(whole(items, between), piece)
        assert lines == items
        assert envelope == {"page": 0, "page_size": None, "session_id": "s", "status": "ok", "total": 9}


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_line_ends_between_tokens_go(end: str) -> None:
    """A document that was set out for people: its items are still one line each, and the same JSON."""
    items = [json.loads(item) for item in ODD[:3]]
    lines, _ = split(json.dumps({"results": items, "total": 3}, indent=2).replace("\n", end).encode(), 100)
    assert [json.loads(line) for line in lines] == items


def test_nothing_in_the_list() -> None:
    """No lines, and the rest is there."""
    lines, envelope = split(whole([]), 5)
    assert lines == []
    assert envelope["total"] == 9


@pytest.mark.parametrize("more", [[], [LONE]], ids=["sound", "surrogate"])
def test_a_document_that_is_cut_is_never_taken_for_whole(more: list[bytes]) -> None:
    """Wherever the cut falls."""
    text = whole([*ODD, *more])
    for end in range(len(text)):
        with pytest.raises((BodyError, NoExport)) as raised:
            split(text[:end], 1 << 20)
        if isinstance(raised.value, BodyError):
            assert raised.value.kind == "truncated"


@pytest.mark.parametrize(
    "text", [b"", b"<html>", b'{"error": "no"}', b"[1, 2]", b'{"results": null}', b'{"results": {"a": 1}}']
)
def test_what_is_no_document_of_records_says_so(text: bytes) -> None:
    """With its own words."""
    with pytest.raises(NoExport) as raised:
        split(text, 3)
    assert raised.value.words == text


def test_memory_does_not_grow_with_the_document(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines are written while it arrives, and no more than two pieces are held."""
    monkeypatch.setattr(document, "CHUNK", 10_000)
    written: list[bytes] = []
    splitter = Splitter(written.append, KEYS, Frame(7))
    item = b'{"$distinct_id":"a","$properties":{"pad":"%b"}}' % (b"x" * 100)
    text = whole([item] * 5_000)
    for start in range(0, len(text), 1000):
        splitter.feed(text[start : start + 1000])
        assert splitter._held <= 20_000
    splitter.finish()
    assert splitter.lines == 5_000


def test_an_item_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it is all in memory."""
    monkeypatch.setattr(document, "CHUNK", 1000)
    monkeypatch.setattr(document, "MAX_ITEM", 5000)
    with pytest.raises(BodyError) as raised:
        split(whole([b'{"$distinct_id":"%b"}' % (b"x" * 20_000)]), 500)
    assert raised.value.kind == "decode"
