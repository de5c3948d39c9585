"""What an answer is, and how it becomes rows: by its lines, wherever they stand, and by nothing else."""

from __future__ import annotations

import gzip
import json
import os
import random
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mpnb
from mpnb._fetching import verify as _verify
from mpnb._fetching.verify import Body, BodyError
from mpnb._planning.request import Source
from mpnb._planning.resource import Events
from mpnb._storing import insert as _insert
from mpnb._storing import table as _table
from mpnb._storing import writer as _writer
from mpnb._storing.database import REJECTED, REJECTED_COLUMNS
from mpnb._storing.insert import NotAllRecords, blocks, insert_files, insert_lines, table_of
from mpnb.sandbox import Fault
from tests._helpers import all_or_nothing, day, event, statuses, zipped

# Without a time: it is none of another day.
EVENT = b'{"event":"other","properties":{}}'
# An event to DuckDB, odd to others: deep, long, with words that JSON does not have, by names that are escaped.
ODD_EVENTS = {
    "depth 200": b'{"event":"E","properties":{"x":' + b"[" * 200 + b"]" * 200 + b"}}",
    "depth 30,000": b'{"event":"E","properties":{"x":' + b"[" * 30_000 + b"]" * 30_000 + b"}}",
    "deep object": b'{"event":"E","properties":' + b'{"a":' * 3000 + b"1" + b"}" * 3000 + b"}",
    "5,000 digits": b'{"event":"E","properties":{"x":' + b"1" * 5000 + b"}}",
    "infinite": b'{"event":"E","properties":{"x":[NaN,Infinity,-Infinity]}}',
    "trailing comma": b'{"event":"E","properties":{"x":[1,],},}',
    "escaped names": b'{"\\u0065vent":"E","\\u0070roperties":{}}',
    "other order": b'{"properties":{},"event":"E"}',
    "a pair": b'{"event":"E","properties":{"x":"\\ud83d\\ude00"}}',
    "form feeds": b'\x0b\x0c {"event":"E","properties":{}}\x0c\x0b\r',
    "name twice": b'{"event":"E","properties":{"x":1,"x":2}}',
    "error inside": b'{"event":"E","properties":{"error":"terminated early"}}',
}
# No event to DuckDB, though other parsers would take some of them.
NO_EVENTS = {
    "half an emoji": b'{"event":"E","properties":{"title":"half an emoji \\ud83d"}}',
    "half an emoji as a name": b'{"event":"E","properties":{"\\udc00":1}}',
    "event is null": b'{"event":null,"properties":{}}',
    "properties is null": b'{"event":"E","properties":null}',
    "event is a number": b'{"event":5,"properties":{}}',
    "other case": b'{"Event":"E","Properties":{}}',
    "one of other case": b'{"Event":"E","properties":{}}',
    "not UTF-8": b'{"event":"E\xff","properties":{}}',
    "a surrogate": b'{"event":"\xed\xa0\xbd","properties":{}}',
    "a control character": b'{"event":"E","properties":{"x":"\x01"}}',
    "two in a line": b'{"event":"E","properties":{}}{"event":"E","properties":{}}',
    "a comma behind": b'{"event":"E","properties":{}},',
    "a key behind": b'{"event":"E","properties":{}},"batch_id":7',
    "a line behind": b'{"event":"E","properties":{}},"line":{"event":"E","properties":{}}',
    "closed twice": b'{"event":"E","properties":{}},"batch_id":7} {"line":{"event":"E","properties":{}}',
    "half": b'{"event":"E","properties":{"x":1',
    "no object": b'["event", "properties"]',
    "a number": b"42",
    "a word": b"null",
    "a sentence": b"nothing terminated here",
}
PLACES: dict[str, Callable[[bytes], bytes]] = {
    "first": lambda line: line + b"\n" + EVENT + b"\n" + EVENT + b"\n",
    "inside": lambda line: EVENT + b"\n" + line + b"\n" + EVENT + b"\n",
    "last": lambda line: EVENT + b"\n" + EVENT + b"\n" + line + b"\n",
    "last, blank lines behind": lambda line: EVENT + b"\n" + EVENT + b"\n" + line + b"\n\n \n",
    "beside a bad one": lambda line: EVENT + b"\n" + line + b"\n" + EVENT + b"\n{}\n",
}


def days_with(bodies: Sequence[bytes]) -> Callable[[date], list[bytes]]:
    """Serve a body a day, from the first on, and the other days as one event."""
    served = {day(n): body.split(b"\n")[:-1] for n, body in enumerate(bodies, 1)}
    return lambda d: served.get(d, [EVENT])


# --- one judge, wherever a line stands ------------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("how", ["joined", "alone", "compressed"])
def test_a_line_is_judged_the_same_wherever_it_stands(sandbox, export, monkeypatch, place: str, how: str) -> None:
    """First, last or between, beside other batches or not, from a plain copy or not: one row, or one rejected line."""
    lines = ODD_EVENTS | NO_EVENTS
    mp = sandbox(lines=days_with([PLACES[place](line) for line in lines.values()]))
    more: dict[str, Any] = {}
    if how == "alone":
        monkeypatch.setattr(_writer, "TOGETHER_LINES", 1)
    elif how == "compressed":
        more["spool"] = mpnb.Spool(max_bytes=1)
    result = export(mp, day(1), day(len(lines)), **more)
    found = dict(result.sql("SELECT from_date, (rows, rejected) FROM mpnb_batches").fetchall())
    beside = int(place == "beside a bad one")
    assert found == {
        day(n): (2 + (name in ODD_EVENTS), beside + (name in NO_EVENTS)) for n, name in enumerate(lines, 1)
    }
    kept = {d: line for d, line in result.rejected.select("from_date, line").fetchall() if line != b"{}"}
    assert kept == {day(n): line for n, (name, line) in enumerate(lines.items(), 1) if name in NO_EVENTS}
    assert result.batches.select("attempts").distinct().fetchall() == [(1,)]
    assert result.event_names().fetchall()[0][:2] == ("other", 2 * len(lines))


@pytest.mark.parametrize("name", [name for name in NO_EVENTS if name.startswith(("half an", "event", "properties"))])
@pytest.mark.parametrize("end", ["\n", ""])
def test_a_batch_of_one_spoiled_event_is_done(sandbox, export, name: str, end: str) -> None:
    """What was meant to be an event is a rejected line, where it is the only one and where no line end closes it."""
    body = NO_EVENTS[name] + end.encode()
    mp = sandbox(faults=[Fault("status", day(1), status=200, body=body.decode(), times=None)])
    result = export(mp, day(1), day(2))
    assert result.sql("SELECT rows, rejected, attempts FROM mpnb_batches ORDER BY from_date LIMIT 1").fetchall() == [
        (0, 1, 1)
    ]
    assert result.rejected.select("line").fetchall() == [(NO_EVENTS[name],)]


def test_a_key_that_has_no_column_is_kept_in_whichever_batch_it_is(sandbox, export) -> None:
    """Of batches that are written together one alone has it, and not the first: its line is kept whole."""
    wide = b'{"event":"E","properties":{"x":1e5,"y":1e5,"z":1e5,"w":1e5},"m":1}'
    mp = sandbox(lines=lambda d: [EVENT, wide, EVENT] if d == day(7) else [EVENT])
    result = export(mp, day(1), day(9))
    assert result.rejected.select("from_date, line, in_events").fetchall() == [(day(7), wide, True)]
    assert result.total_rows == 11


def test_a_byte_order_mark_is_none_of_the_first_line(sandbox, export) -> None:
    """It is the body's own, whoever reads it; further down it is no JSON."""
    marked = b"\xef\xbb\xbf" + EVENT
    bodies = [marked + b"\n", marked + b"\n{}\n", EVENT + b"\n" + marked + b"\n"]
    result = export(sandbox(lines=days_with(bodies)), day(1), day(3))
    assert result.batches.select("rows, rejected").fetchall() == [(1, 0), (1, 1), (1, 1)]


# --- both ways of writing lines say the same ----------------------------------------------------------------------


EVENTS = Events(Source("1"))


class Table:
    """A table of events in memory, with what is rejected, and spool files for it."""

    def __init__(self, folder: Path) -> None:
        self.con = duckdb.connect()
        self.folder = folder
        for name, columns in (("events", EVENTS.columns), (REJECTED, REJECTED_COLUMNS)):
            self.con.execute(f"CREATE TABLE {name} ({', '.join(f'{c} {kind}' for c, kind in columns)})").fetchall()

    def file(self, number: int, text: bytes, *, compressed: bool = False) -> Any:
        """Write a spool file, as if it had just been verified."""
        data = zipped(text) if compressed else text
        lines = text.count(b"\n") + bool(text.rpartition(b"\n")[2].strip())
        body = Body(compressed, len(data), len(text), lines)
        path = self.folder / f"{number}.jsonl"
        path.write_bytes(data)
        return SimpleNamespace(path=path, body=body, task=SimpleNamespace(batch_id=number))

    def by_files(self, files: Sequence[Any]) -> list[Any] | None:
        """Give the rows that are there afterwards, ``None`` where the lines need to be looked at."""
        try:
            insert_files(self.con, table_of("events"), EVENTS, files)
        except NotAllRecords:
            return None
        return self.rows()

    def by_lines(self, file: Any) -> tuple[int, int]:
        """Write a file line by line, and count rows and rejected lines."""
        into = table_of("events")
        counts = [insert_lines(self.con, into, "events", EVENTS, file.task.batch_id, block) for block in blocks(file)]
        return sum(rows for rows, _ in counts), sum(rejected for _, rejected in counts)

    def rows(self) -> list[Any]:
        """Give all rows, in an order of their own."""
        return sorted(self.con.execute("SELECT * FROM events").fetchall(), key=repr)


@pytest.fixture
def tables(tmp_path: Path) -> Iterator[Callable[[], Table]]:
    """Make tables, which are closed at the end."""
    made: list[Table] = []

    def make() -> Table:
        made.append(Table(tmp_path))
        return made[-1]

    yield make
    for table in made:
        table.con.close()


MANY = {
    **ODD_EVENTS,
    **NO_EVENTS,
    "wider": b'{"event":"E","properties":{},"more":1}',
    "wider in front": b'{"more":{},"event":"E","properties":{}}',
    "event twice": b'{"event":"E","event":"F","properties":{}}',
    "times and ids": event("E", time=1767225600123, **{"$insert_id": 5, "$user_id": [1], "$device_id": None}),
    "numbers": b'{"event":"E","properties":{"time":1767225600.5,"x":[1.10,1e5,-0,-0.0,1e400,1E-7,0.1,12e30]}}',
}


@pytest.mark.parametrize("name", MANY)
def test_what_is_written_at_once_is_what_would_be_written_line_by_line(tables, name: str) -> None:
    """Whatever DuckDB takes from files is an event to it line by line too, with the same columns."""
    line, other = MANY[name], EVENT + b"\n"
    alone = tables()
    rows, rejected = alone.by_lines(alone.file(1, line + b"\n"))
    assert rows + rejected == 1
    for number, texts in enumerate(
        ([line + b"\n"], [other + line + b"\n" + other], [other, other + line + b"\n"], [line, other * 2])
    ):
        table = tables()
        found = table.by_files([table.file(n, text) for n, text in enumerate(texts, 1)])
        if found is not None:
            mine = [row[:7] for row in found if row[0] != "other"]
            assert mine == [row[:7] for row in alone.rows()], number
            assert [row[7] for row in found if row[0] != "other"] == [2 if number == 2 else 1]


def test_every_row_has_its_own_batch_however_files_are_joined(tables, monkeypatch) -> None:
    """Files of all sizes, closed or not, as one, one by one or in between, and read in pieces: each row its batch."""
    rng = random.Random(1)
    texts = []
    for number in range(1, 40):
        lines = [event("E", batch=number, n=n, pad="x" * rng.randrange(200)) for n in range(rng.randrange(1, 60))]
        texts.append(b"\n".join(lines) + b"\n" * rng.randrange(2))
    wanted = []
    for number, text in enumerate(texts, 1):
        wanted += [(number, json.loads(line)["properties"]["n"]) for line in text.split(b"\n") if line]
    sizes = [(0, 0, 100), (1 << 30, 1 << 30, 7), (1 << 30, 1 << 30, 1 << 20), (4000, 20_000, 64), (1 << 30, 1, 64)]
    for small, joined, piece in sizes:
        monkeypatch.setattr(_insert, "SMALL_BYTES", small)
        monkeypatch.setattr(_insert, "JOINED_BYTES", joined)
        monkeypatch.setattr(_insert, "COPY_BYTES", piece)
        table = tables()
        assert table.by_files([table.file(n, text) for n, text in enumerate(texts, 1)]) is not None
        query = "SELECT batch_id, (properties->>'batch')::INT, (properties->>'n')::INT FROM events ORDER BY ALL"
        found = table.con.execute(query).fetchall()
        assert [(b, n) for b, own, n in found if b == own] == sorted(wanted)
        assert len(found) == len(wanted)
        assert not (table.folder / "joined").exists()


@given(st.lists(st.sampled_from([*MANY.values(), b"", b" ", EVENT, EVENT]), max_size=6), st.booleans())
def test_lines_add_up_on_every_way(tmp_path_factory, lines: list[bytes], is_closed: bool) -> None:
    """Rows, rejected and blank lines are the lines that were verified, or the file is refused as a whole."""
    text = b"\n".join([EVENT, *lines]) + (b"\n" if is_closed else b"")
    table = Table(tmp_path_factory.mktemp("spool"))
    try:
        file = table.file(1, text)
        found = table.by_files([file])
        table.con.execute("DELETE FROM events").fetchall()
        rows, rejected = table.by_lines(file)
        blank = sum(not line.strip() for line in text.split(b"\n")[:-1])
        assert rows + rejected + blank == file.body.lines
        assert found is None or (len(found), rejected, blank) == (rows, 0, 0)
    finally:
        table.con.close()


# --- Mixpanel's own words, and errors -------------------------------------------------------------------------------

ENDS = [
    b"terminated early",
    b"Export Terminated Early.",
    b'{"error": "made up"}',
    b'{"request": "/api/2.0/export", "error": "Query rate limit exceeded"}',
]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("at", [0.0, 0.5, 0.99, 1.0], ids=["first", "inside", "before the last", "last"])
@pytest.mark.parametrize("gzip_members", [1, 40])
def test_an_early_end_is_one_wherever_it_stands(sandbox, export, end: bytes, at: float, gzip_members: int) -> None:
    """Before further lines too, and wherever members of gzip divide it: tried again, and nothing of it is kept."""
    bad = Fault("bad_lines", day(2), lines=[end], at=at, times=2)
    mp = sandbox(faults=[bad], gzip_members=gzip_members)
    result = export(mp)
    assert result.batches.select("status, attempts, rejected").fetchall() == [
        ("done", 1, 0),
        ("done", 3, 0),
        ("done", 1, 0),
    ]
    all_or_nothing(result, mp)
    mp.add_fault(Fault("bad_lines", day(2), lines=[end], at=at, times=None))
    again = export(mp, mode="refresh")
    assert again.failures.select("from_date, kind, attempts, retryable").fetchall() == [(day(2), "truncated", 4, True)]
    assert statuses(again) == {"done": 3, "failed": 1}
    assert again.total_rows == mp.count(day(1), day(3))
    assert again.rejected_lines == 0


def test_an_early_end_within_a_group_fails_all_of_it_and_nothing_waits(sandbox, export) -> None:
    """Days that replace one batch together stay as they were, and a retry brings them."""
    mp = sandbox()
    export(mp, day(1), day(3), chunk_days=3)
    mp.add_fault(Fault("too_large", times=None))
    mp.add_fault(Fault("bad_lines", day(2), lines=[b"terminated early"], times=None))
    with pytest.raises(mpnb.ExportError) as error:
        export(mp, day(1), day(3), chunk_days=3, mode="refresh")
    with error.value.result as result:
        assert result.failures.select("kind").distinct().fetchall() == [("truncated",)]
        assert result.total_rows == mp.count(day(1), day(3))
        mp.clear_faults()
        with result.retry(on_batch=lambda _: None) as again:
            assert not again.has_failures
            assert again.total_rows == mp.count(day(1), day(3))


@pytest.mark.parametrize("cut", range(1, len(b"\nterminated early\n")))
@pytest.mark.parametrize("zip_it", [True, False])
@pytest.mark.parametrize("behind", [b"", EVENT + b"\n"], ids=["last", "inside"])
def test_a_marker_that_is_divided_is_seen(tmp_path: Path, cut: int, zip_it: bool, behind: bytes) -> None:
    """Between two blocks or two members of gzip, at each of its bytes, before further lines and at the end."""
    text = EVENT + b"\nterminated early\n" + behind
    parts = [text[: len(EVENT) + cut], text[len(EVENT) + cut :]]
    path = tmp_path / "1.jsonl"
    path.write_bytes(zipped(*parts) if zip_it else text)

    def judge() -> None:
        verifier = _verify.Verifier(gzip=zip_it)
        for part in parts:
            verifier.feed(zipped(part) if zip_it else part)
        list(blocks(SimpleNamespace(path=path, body=verifier.finish(), task=SimpleNamespace(batch_id=1))))  # type: ignore[arg-type]

    with pytest.raises(BodyError) as error:
        judge()
    assert error.value.kind == "truncated"


def test_words_of_an_early_end_within_an_event_are_none(sandbox, export) -> None:
    """As the value or the name of a property, in an event that is spoiled, or as a key besides."""
    lines = [
        event("terminated early", error="export terminated early"),
        b'{"event":"terminated early","properties":{"error":"\\ud83d"}}',
        b'{"event":"E","properties":{},"error":"x"}',
    ]
    result = export(sandbox(lines=lambda d: lines), day(1), day(1))
    assert result.batches.select("status, rows, rejected, attempts").fetchall() == [("done", 2, 1, 1)]


# --- no export at all -----------------------------------------------------------------------------------------------

SIGN_IN = "<html><head><title>Sign in</title></head>\n<script>\n{}\n</script><body>Corporate Wi-Fi</body></html>"
STRANGERS: dict[str, tuple[Any, str]] = {
    "page": (SIGN_IN, "Sign in Corporate Wi-Fi"),
    "page that speaks of limits": ("<p>Too many requests, unauthorized</p>", "Too many requests, unauthorized"),
    "words": ("Hello from the proxy", "Hello from the proxy"),
    "words that end in a line": ("Access forbidden\n", "Access forbidden"),
    "list": ("[]", "[]"),
    "object": ({"results": []}, '{"results": []}'),
    "lines of objects": ('{"a": 1}\n{"b": 2}\n', '{"a": 1} {"b": 2}'),
    "long": ("word " * 40_000, "word word"),
}


@pytest.mark.parametrize("name", STRANGERS)
def test_an_answer_that_is_no_export_says_what_it_is(sandbox, export, name: str) -> None:
    """Status 200, and no event in it: one request, the words that came, and no advice about chunk_days."""
    body, words = STRANGERS[name]
    mp = sandbox(faults=[Fault("status", day(2), status=200, body=body, times=None)])
    result = export(mp, workers=1)
    [(kind, status, attempts, message, hint)] = result.failures.select(
        "kind, http_status, attempts, message, hint"
    ).fetchall()
    assert (kind, status, attempts) == ("http", 200, 1)
    assert message.startswith(f"the answer is not an export: {words}")
    assert "chunk_days" not in hint
    assert "proxy" in hint
    assert statuses(result) == {"done": 2, "failed": 1}
    all_or_nothing(result, mp)


ERRORS: dict[str, tuple[Any, dict[str, Any]]] = {
    "rate limit": (
        {"request": "/api/2.0/export", "error": "Query rate limit exceeded for project_id: 1."},
        {"kind": "rate_limit", "attempts": 2, "retryable": True},
    ),
    "rate limit in words": ("rate limit reached", {"kind": "rate_limit", "attempts": 2, "retryable": True}),
    "internal": ({"error": "An internal error occurred"}, {"kind": "http", "attempts": 2, "retryable": True}),
    "unknown": ({"error": "made up"}, {"kind": "http", "attempts": 1, "retryable": False, "message": "made up"}),
    "pretty": (
        '{\n  "error": "made up",\n  "status": 0\n}\n',
        {"kind": "http", "attempts": 1, "retryable": False, "message": "made up"},
    ),
    "nested": ({"error": {"code": 7}}, {"kind": "http", "attempts": 1, "message": '{"error": {"code": 7}}'}),
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_that_comes_as_a_200_follows_its_own_rules(sandbox, export, name: str) -> None:
    """A limit is waited for, what is about the request is not asked again; never four requests."""
    body, expected = ERRORS[name]
    mp = sandbox(faults=[Fault("status", day(2), status=200, body=body, times=None)])
    result = export(mp, workers=1)
    [row] = result.failures.select(", ".join(expected)).fetchall()
    assert dict(zip(expected, row, strict=True)) == expected
    assert len(mp.requests) == 2 + expected["attempts"]
    all_or_nothing(result, mp)


def test_a_limit_that_comes_once_as_a_200_is_waited_for(sandbox, export) -> None:
    """The second attempt brings the batch."""
    mp = sandbox(faults=[Fault("status", day(2), status=200, body="rate limit reached")])
    result = export(mp)
    assert result.batches.select("attempts").fetchall() == [(1,), (2,), (1,)]
    all_or_nothing(result, mp)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("Invalid service account credentials", "MP_REGION"),
        ("request failed with error: invalid project id for cluster.", "MP_REGION"),
        ("Your plan does not include raw data export", "plan"),
    ],
)
def test_an_error_that_every_batch_would_meet_stops_the_export(sandbox, export, words: str, hint: str) -> None:
    """With status 200 as with its own: one request, and one error."""
    mp = sandbox(faults=[Fault("status", status=200, body={"error": words}, times=None)])
    with pytest.raises(mpnb.ExportError, match="every batch would fail") as error:
        export(mp, day(1), day(40), workers=1)
    with error.value.result as result:
        assert len(mp.requests) == 1
        assert hint in result.failures.select("hint").fetchall()[0][0]


def test_a_batch_that_is_too_large_is_split_whatever_the_status(sandbox, export) -> None:
    """Mixpanel's words with a 200: its days are fetched one by one."""
    body = {"error": "your data export may be too large, please request fewer days"}
    mp = sandbox(faults=[Fault("status", status=200, body=body)])
    result = export(mp, day(1), day(3), chunk_days=3)
    assert statuses(result) == {"done": 3}
    all_or_nothing(result, mp)


def test_a_page_in_place_of_every_answer_stops_the_export(sandbox, export) -> None:
    """Two batches are enough to see that somebody stands in between: the hour's requests are not spent on it."""
    mp = sandbox(faults=[Fault("sign_in", times=None)])
    with pytest.raises(mpnb.ExportError, match="Sign in to the made-up network") as error:
        export(mp, day(1), day(60), workers=1)
    with error.value.result as result:
        assert len(mp.requests) == 2
        assert result.failed_batches == 60
        mp.clear_faults()
        with result.retry(on_batch=lambda _: None) as again:
            assert not again.has_failures


# --- gzip: what was verified is what is written ---------------------------------------------------------------------


def member(text: bytes, flags: int, extra: bytes = b"mp\2\0ok", name: bytes = b"n", comment: bytes = b"c") -> bytes:
    """Make a gzip member whose header has these fields (RFC 1952, 2.3.1)."""
    head = b"\x1f\x8b\x08" + bytes([flags]) + b"\0\0\0\0\0\x03"
    head += struct.pack("<H", len(extra)) + extra if flags & 4 else b""
    head += name + b"\0" if flags & 8 else b""
    head += comment + b"\0" if flags & 16 else b""
    head += struct.pack("<H", zlib.crc32(head) & 0xFFFF) if flags & 2 else b""
    deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
    return head + deflate.compress(text) + deflate.flush() + struct.pack("<II", zlib.crc32(text), len(text))


@pytest.mark.parametrize("flags", [*range(32)])
@pytest.mark.parametrize("second", [False, True])
def test_every_gzip_header_that_is_right_is_read(tables, flags: int, second: bool) -> None:
    """All 32 sets of fields, in the first member and in a later one: by DuckDB, or by what verified it."""
    text = b"".join(event("E", n=n) + b"\n" for n in range(50))
    data = member(text, flags) if not second else member(text[:70], 0) + member(text[70:], flags)
    assert gzip.decompress(data) == text
    verifier = _verify.Verifier(gzip=True)
    verifier.feed(data)
    table = tables()
    path = table.folder / "1.jsonl"
    path.write_bytes(data)
    file = SimpleNamespace(path=path, body=verifier.finish(), task=SimpleNamespace(batch_id=1))
    rows = len(table.by_files([file]) or ()) or table.by_lines(file)[0]
    assert rows == 50
    query = "SELECT count(DISTINCT properties->>'n') FROM events"
    assert table.con.execute(query).fetchall() == [(50,)]


@pytest.mark.parametrize("gzip_members", [1, 3])
def test_a_rare_gzip_header_harms_nobody(sandbox, export, gzip_members: int) -> None:
    """Without room for a plain copy: its own batch is whole, and so are all others."""
    mp = sandbox(faults=[Fault("gzip_fields", day(2), times=None)], gzip_members=gzip_members)
    result = export(mp, day(1), day(5), spool=mpnb.Spool(max_bytes=1))
    assert mp.injected == {"gzip_fields": 1}
    assert result.batches.select("status, attempts").distinct().fetchall() == [("done", 1)]
    all_or_nothing(result, mp)


@pytest.mark.parametrize("mode", ["new", "refresh"])
def test_gzip_of_no_byte_is_no_empty_day(sandbox, export, mode: str) -> None:
    """It says that it is compressed, and is not even that: what the table has stays."""
    mp = sandbox()
    if mode == "refresh":
        export(mp)
    mp.add_fault(Fault("gzip_nothing", day(2), times=None))
    result = export(mp, mode=mode)
    assert result.failures.select("from_date, kind, attempts").fetchall() == [(day(2), "truncated", 4)]
    there = (1, 2, 3) if mode == "refresh" else (1, 3)
    assert result.total_rows == sum(mp.count(day(n), day(n)) for n in there)
    all_or_nothing(result, mp)


# --- a spool file that is no longer what was verified ---------------------------------------------------------------


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def without_its_last_byte(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 2)


def half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def at_a_line_end(path: Path) -> None:
    text = path.read_bytes()
    os.truncate(path, text.index(b"\n", len(text) // 2) + 1)


def longer(path: Path) -> None:
    with path.open("ab") as file:
        file.write(EVENT + b"\n")


def gone(path: Path) -> None:
    path.unlink()


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


HARMS = [emptied, without_its_last_byte, half, at_a_line_end, longer, gone, a_folder]
WAYS = ["joined", "alone", "line by line", "compressed"]


@pytest.mark.parametrize(
    ("how", "harm"),
    [(how, harm) for how in WAYS for harm in HARMS if how != "compressed" or harm not in (at_a_line_end, longer)],
)
def test_a_spool_file_that_changed_fails_its_batch_alone(
    sandbox, export, monkeypatch, how: str, harm: Callable[[Path], None]
) -> None:
    """Shorter, longer, empty or gone: none of its rows, and no other batch is touched; a retry brings it."""
    kind = "write" if harm is gone else "decode"  # one that is gone is not damaged
    odd = [event(n=n, time=None) for n in range(40)] + [b"{}"]
    mp = sandbox(lines=(lambda d: odd) if how == "line by line" else None)
    if how == "alone":
        monkeypatch.setattr(_writer, "TOGETHER_LINES", 1)
    transaction = _table.Table._transaction
    harmed: set[int] = set()

    def harming(self: Any, items: list[Any], insert: Any) -> Any:
        for item in items:
            if item.task.batch.from_date == day(2) and not harmed:
                harmed.add(item.task.index)
                harm(item.path)
        return transaction(self, items, insert)

    monkeypatch.setattr(_table.Table, "_transaction", harming)
    more = {"spool": mpnb.Spool(max_bytes=1)} if how == "compressed" else {}
    result = export(mp, day(1), day(4), **more)
    assert harmed == {1}
    failures = result.failures.select("from_date, kind, retryable, hint").fetchall()
    assert [row[:3] for row in failures] == [(day(2), kind, True)]
    assert "spool file" in failures[0][3]
    assert statuses(result) == {"done": 3, "failed": 1}
    if how != "line by line":
        all_or_nothing(result, mp)
    with result.retry() as again:
        assert not again.has_failures
        assert again.total_rows == sum(40 if how == "line by line" else mp.count(day(n), day(n)) for n in range(1, 5))


# --- numbers ----------------------------------------------------------------------------------------------------------

KEPT = [
    "0", "-1", "9007199254740993", "9223372036854775807", "18446744073709551615", "-9223372036854775808",
    "1234567890123456789012345678901234567890", "0.1", "1.5", "-0.0", "123456789.125", "1e400", "-1e400",
]  # fmt: skip
ROUNDED = {
    "12345678901234567890.123": "12345678901234567000.0",
    "0.10000000000000000555": "0.1",
    "1.10": "1.1",
    "1e5": "100000.0",
    "-0": "0",
    "1e-400": "0.0",
}


@pytest.mark.parametrize("beside", [[], [b"{}"]], ids=["at once", "line by line"])
def test_numbers_are_kept_as_the_readme_says(sandbox, export, beside: list[bytes]) -> None:
    """Integers of any length and what a double does not reach are as served; decimals are those of a double."""
    numbers = [*KEPT, *ROUNDED]
    line = b'{"event":"E","properties":{"x":[' + ",".join(numbers).encode() + b"]}}"
    result = export(sandbox(lines=lambda d: [line, *beside]), day(1), day(1))
    [(text,)] = result.sql("SELECT properties FROM events").fetchall()
    assert text == '{"x":[' + ",".join(KEPT + list(ROUNDED.values())) + "]}"


def test_of_decimals_the_double_is_kept(sandbox, export) -> None:
    """Whatever it is: its nearest double, exactly, in the shortest way to write it."""
    rng = random.Random(1)
    texts = [
        f"{rng.choice('- ')}{rng.uniform(-1, 1) * 10 ** rng.randrange(-300, 300)!r}".strip("- ") for _ in range(500)
    ]
    texts += [f"{rng.randrange(10**25)}.{rng.randrange(10**25)}" for _ in range(100)]
    line = b'{"event":"E","properties":{"x":[' + ",".join(texts).encode() + b"]}}"
    result = export(sandbox(lines=lambda d: [line]), day(1), day(1))
    [(text,)] = result.sql("SELECT properties FROM events").fetchall()
    assert json.loads(text)["x"] == [float(each) for each in texts]


def test_a_long_line_is_written_like_any_other(sandbox, export) -> None:
    """Up to 15 MiB, first, last and alone, in bounded memory."""
    long = event("E", time=None, pad="x" * ((15 << 20) - 200))
    bodies = [[long], [EVENT, long], [long, EVENT], [EVENT, long, b"{}"]]
    mp = sandbox(lines=lambda d: bodies[(d - day(1)).days])
    mp.add_fault(Fault("plain", times=None))
    result = export(mp, day(1), day(4), workers=2)
    assert result.batches.select("rows, rejected").fetchall() == [(1, 0), (2, 0), (2, 0), (2, 1)]
    assert result.sql("SELECT count(*) FROM events WHERE strlen(properties) > 15000000").fetchall() == [(4,)]
