"""Every fault does on the wire what its line in the table says."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import threading
import time
import zlib
from datetime import UTC, date, datetime, timedelta

import httpx
import pytest

import mpnb.sandbox
from mpnb.sandbox import BAD_LINES, Fault, serve
from mpnb.sandbox._faults import KINDS
from tests._helpers import side_by_side

TODAY = date(2026, 2, 1)
DAY = date(2026, 1, 6)
NEXT = DAY + timedelta(1)


@contextlib.contextmanager
def faulty(*faults, events_per_day=60, **how):
    with serve(today=TODAY, events_per_day=events_per_day, faults=faults, **how) as mp:
        yield mp


def sound(mp, got, *days):
    return got.status == 200 and got.end == "frame" and got.lines == [x for day in days or [DAY] for x in mp.lines(day)]


def whole_size(mp, ask):
    """Tell how many bytes a sound answer has."""
    got = ask(mp)
    assert sound(mp, got)
    return len(got.body)


# How a connection ends, and what came before.


@pytest.mark.parametrize("at", [0, 100, 0.5, 1.0])
def test_reset_is_a_reset_in_mid_body(ask, at):
    """RST comes after just the bytes that were asked for."""
    with faulty(Fault("reset", at=at)) as mp:
        got = ask(mp)
        total = whole_size(mp, ask)
        assert (got.status, got.end) == (200, "rst")
        assert len(got.body) == (int(at * total) if isinstance(at, float) else at)
        assert got.body == ask(mp).body[: len(got.body)]


@pytest.mark.parametrize(("kind", "end"), [("reset_headers", "rst"), ("disconnect", "fin")])
def test_no_answer_at_all(ask, kind, end):
    """The connection ends before a byte is sent."""
    with faulty(Fault(kind)) as mp:
        got = ask(mp)
        assert (got.status, got.body, got.end) == (0, b"", end)
        assert mp.requests[0].status == 0
        assert sound(mp, ask(mp))


@pytest.mark.parametrize(
    ("kind", "header"),
    [("cut_chunked", "transfer-encoding"), ("cut_length", "content-length"), ("cut_close", "connection")],
)
@pytest.mark.parametrize("at", [0.5, 1.0])
def test_a_cut_ends_early_in_good_order(ask, kind, header, at):
    """FIN in mid body, in each of the three framings."""
    with faulty(Fault(kind, at=at)) as mp:
        got = ask(mp)
        total = whole_size(mp, ask)
    assert (got.status, got.end) == (200, "fin")
    assert header in got.headers
    # With chunks the missing last chunk is loss enough; the others must lose a byte of the body.
    assert len(got.body) == (int(total * at) if at < 1 else total - (kind != "cut_chunked"))
    if kind == "cut_length":
        assert int(got.headers["content-length"]) == total
    if kind == "cut_close":
        assert not {"content-length", "transfer-encoding"} & set(got.headers)
        with pytest.raises(EOFError):
            got.members()


@pytest.mark.parametrize("kind", ["cut_chunked", "cut_length", "cut_close", "reset", "hang"])
def test_an_empty_day_can_be_cut_too(ask, kind):
    """Nothing to send still leaves something to lose."""
    with faulty(Fault(kind), lines=lambda day: []) as mp:
        got = ask(mp, timeout=0.2)
        assert got.end in ("fin", "rst", "silence")
        assert mp.injected == {kind: 1}
        if kind == "cut_close":
            with pytest.raises(EOFError):
                got.members()


def test_unframed_is_whole(ask):
    """Neither length nor chunks, and nothing is missing."""
    with faulty(Fault("unframed")) as mp:
        got = ask(mp)
        assert got.headers["connection"] == "close"
        assert not {"content-length", "transfer-encoding"} & set(got.headers)
        assert (got.end, got.lines) == ("fin", list(mp.lines(DAY)))


def test_plain_is_whole_and_not_compressed(ask):
    """Content-Length and no gzip, although the client takes it."""
    with faulty(Fault("plain")) as mp:
        got = ask(mp)
        assert "content-encoding" not in got.headers
        assert int(got.headers["content-length"]) == len(got.body)
        assert sound(mp, got)


def test_twice_is_the_same_answer_again(ask, connect):
    """On the same connection, behind the one that was asked for."""
    with faulty(Fault("twice")) as mp:
        raw = connect(mp)
        raw.send()
        first, second = raw.read(), raw.read()
        assert sound(mp, first)
        assert sound(mp, second)
        assert len(mp.requests) == 1


# gzip


def test_gzip_cut_is_right_but_for_gzip(ask):
    """The frame is whole, the stream is not."""
    with faulty(Fault("gzip_cut", at=0.7)) as mp:
        got = ask(mp)
    assert got.end == "frame"
    with pytest.raises(EOFError):
        got.members()


def test_gzip_cut_never_hits_the_border_of_members(ask):
    """A cut between two members would be no fault that shows, so it moves into the member."""
    with faulty(gzip_members=2) as mp:
        unpack = zlib.decompressobj(31)
        body = ask(mp).body
        unpack.decompress(body)
        border = len(body) - len(unpack.unused_data)
        mp.add_fault(Fault("gzip_cut", at=border))
        with pytest.raises(EOFError):
            ask(mp).members()


@pytest.mark.parametrize(("kind", "words"), [("gzip_crc", "data check"), ("gzip_size", "length check")])
@pytest.mark.parametrize("count", [1, 2])
def test_a_wrong_trailer(ask, kind, words, count):
    """The last member's trailer is wrong in just the one field."""
    with faulty(Fault(kind), gzip_members=count) as mp:
        got = ask(mp)
    assert got.end == "frame"
    with pytest.raises(zlib.error, match=words):
        got.members()


def test_gzip_garbage_follows_a_whole_member(ask):
    """The data is whole; what follows is not gzip."""
    with faulty(Fault("gzip_garbage")) as mp:
        got = ask(mp)
        unpack = zlib.decompressobj(31)
        assert unpack.decompress(got.body).split(b"\n")[:-1] == list(mp.lines(DAY))
        assert unpack.eof
        assert unpack.unused_data.startswith(b"made-up garbage")


def test_gzip_header_lies(ask):
    """Content-Encoding says gzip, and the body is plain."""
    with faulty(Fault("gzip_header")) as mp:
        got = ask(mp)
        assert got.headers["content-encoding"] == "gzip"
        assert got.body == b"".join(line + b"\n" for line in mp.lines(DAY))


@pytest.mark.parametrize("count", [1, 3])
def test_gzip_fields_are_rare_and_right(ask, count):
    """Each member's header has all five fields, and the data is whole."""
    with faulty(Fault("gzip_fields"), gzip_members=count) as mp:
        got = ask(mp)
        assert gzip.decompress(got.body) == b"".join(line + b"\n" for line in mp.lines(DAY))
        assert got.body.count(b"\x1f\x8b\x08\x1f") == got.body.count(b"a made-up comment\0") == count


def test_gzip_nothing_has_no_byte(ask):
    """Content-Encoding says gzip, and the body is empty, as its length says."""
    with faulty(Fault("gzip_nothing")) as mp:
        got = ask(mp)
        assert (got.end, got.body) == ("frame", b"")
        assert (got.headers["content-encoding"], got.headers["content-length"]) == ("gzip", "0")


def test_gzip_faults_wait_for_a_client_that_takes_gzip(ask):
    """A fault that could not show is not used up."""
    with faulty(Fault("gzip_crc")) as mp:
        assert sound(mp, ask(mp, gzip=False))
        assert not mp.injected
        ask(mp)
        assert mp.injected == {"gzip_crc": 1}


# Lines


@pytest.mark.parametrize(
    ("kind", "marker"), [("terminated", b"terminated early"), ("export_terminated", b"export terminated early")]
)
@pytest.mark.parametrize("at", [0, 3, 0.5, 1.0])
def test_terminated_ends_with_the_marker(ask, kind, marker, at):
    """So many lines, then the marker; gzip and framing are right."""
    with faulty(Fault(kind, at=at)) as mp:
        got = ask(mp, DAY, NEXT)
        whole = [*mp.lines(DAY), *mp.lines(NEXT)]
    kept = int(at * len(whole)) if isinstance(at, float) else at
    assert got.end == "frame"
    assert got.lines == [*whole[:kept], marker]


def test_terminated_only(ask):
    """The marker is all there is, without a newline."""
    with faulty(Fault("terminated_only")) as mp:
        assert ask(mp).plain == b"terminated early"


@pytest.mark.parametrize("at", [0, 0.5, 1.0])
def test_half_line_ends_within_a_line(ask, at):
    """Whole lines, then half of one; gzip and framing are right."""
    with faulty(Fault("half_line", at=at)) as mp:
        got = ask(mp)
        whole = mp.lines(DAY)
        *lines, half = got.plain.split(b"\n")
    assert got.end == "frame"
    assert lines == list(whole[: len(lines)])
    assert len(lines) == min(int(at * len(whole)), len(whole) - 1)
    assert half == whole[len(lines)][: len(whole[len(lines)]) // 2]


def test_error_line_is_last(ask):
    """All events, then a JSON error."""
    with faulty(Fault("error_line")) as mp:
        *lines, error = ask(mp).lines
        assert lines == list(mp.lines(DAY))
        assert "error" in json.loads(error)


@pytest.mark.parametrize(
    ("kind", "words"), [("terminated_inside", b"terminated early"), ("error_inside", b'{"error": ')]
)
@pytest.mark.parametrize("at", [0, 0.5, 1.0])
def test_the_words_of_an_early_end_stand_inside(ask, kind, words, at):
    """At either end too: every line is there, and at least one of them follows."""
    with faulty(Fault(kind, at=at)) as mp:
        lines, whole = ask(mp).lines, list(mp.lines(DAY))
    [place] = [n for n, line in enumerate(lines) if line.startswith(words)]
    assert place == min(int(at * len(whole)), len(whole) - 1)
    assert lines[:place] + lines[place + 1 :] == whole


@pytest.mark.parametrize("at", [0, 0.5, 1.0])
@pytest.mark.parametrize("own", [None, (b"not json", b"")])
def test_bad_lines_are_among_a_days_lines(ask, at, own):
    """They are put in whole, at either end too, and count neither for lines() nor for count()."""
    with faulty(Fault("bad_lines", day=NEXT, at=at, lines=own)) as mp:
        got = ask(mp, DAY, NEXT)
        bad, good = own or BAD_LINES, list(mp.lines(NEXT))
        kept = int(at * len(good))
        assert got.lines == [*mp.lines(DAY), *good[:kept], *bad, *good[kept:]]
        assert mp.bad_lines(NEXT) == bad
        assert mp.bad_lines(DAY) == ()
        assert sound(mp, ask(mp, DAY, NEXT), DAY, NEXT)


def test_bad_lines_wait_for_lines_to_be_among(ask):
    """A body without events has no middle."""
    with faulty(Fault("bad_lines"), lines=lambda day: []) as mp:
        assert ask(mp).body == b""
        assert not mp.injected


def test_bad_lines_combine_with_another_fault(ask):
    """They change what is sent, the other how."""
    with faulty(Fault("reset", at=1.0), Fault("bad_lines"), Fault("charset")) as mp:
        got = ask(mp)
        assert got.end == "rst"
        assert BAD_LINES[0] in got.plain
        assert "latin-1" in got.headers["content-type"]
        assert mp.requests[0].fault == "reset+bad_lines+charset"
        assert mp.injected == {"reset": 1, "bad_lines": 1, "charset": 1}


# Refusals


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 413, 429, 500, 502, 503, 504, 599])
def test_status_answers_as_told(ask, status):
    """Every status has a body that a server could have sent."""
    with faulty(Fault("status", status=status)) as mp:
        got = ask(mp)
        assert (got.status, got.end) == (status, "frame")
        assert got.body
        assert sound(mp, ask(mp))


def test_status_sends_body_and_headers_as_given(ask):
    """Text as text, an object as JSON; Retry-After in seconds or as given."""
    some = {"error": "é"}
    faults = [
        Fault("status", status=429, body=some, retry_after=2.5, headers={"X-Own": "1"}),
        Fault("status", status=503, body="later", retry_after="Fri, 31 Dec 1999 23:59:59 GMT"),
    ]
    with faulty(*faults) as mp:
        first, second = ask(mp), ask(mp)
    assert (json.loads(first.body), first.headers["retry-after"], first.headers["x-own"]) == (some, "2.5", "1")
    assert first.headers["content-type"] == "application/json"
    assert (second.body, second.headers["retry-after"]) == (b"later", "Fri, 31 Dec 1999 23:59:59 GMT")


def test_sign_in_is_a_page_with_status_200(ask):
    """As a proxy answers: HTML, and nothing in its head says that it is no export."""
    with faulty(Fault("sign_in")) as mp:
        got = ask(mp)
        assert (got.status, got.headers["content-type"]) == (200, "text/html")
        assert b"<title>Sign in" in got.body
        assert sound(mp, ask(mp))


def test_too_many_504(ask):
    """A load balancer's 504."""
    with faulty(Fault("too_many_504")) as mp:
        got = ask(mp)
    assert (got.status, got.body) == (504, b"Too many requests")


def test_too_large_lets_single_days_through(ask):
    """Who splits the range by days gets them all."""
    with faulty(Fault("too_large", times=None)) as mp:
        got = ask(mp, DAY, NEXT)
        assert got.status == 400
        assert "too large" in json.loads(got.body)["error"]
        assert sound(mp, ask(mp, DAY))
        assert sound(mp, ask(mp, NEXT), NEXT)
        assert ask(mp, DAY, NEXT).status == 400


def test_redirect_leads_to_another_origin(ask):
    """Without a Location of its own, the same path at another host name, where no secret should arrive."""
    with faulty(Fault("redirect"), Fault("redirect", headers={"Location": "http://127.0.0.1:9/x"})) as mp:
        first, second = ask(mp), ask(mp)
        assert (first.status, second.status) == (302, 302)
        assert re.match(r"http://localhost:\d+/api/2\.0/export\?from_date=", first.headers["location"])
        assert second.headers["location"] == "http://127.0.0.1:9/x"
        mp.add_fault(Fault("redirect"))
        query = {"from_date": str(DAY), "to_date": str(DAY), "project_id": mp.project_id}
        auth = (mp.credentials.username, mp.credentials.secret)
        with httpx.Client(auth=auth, follow_redirects=True, trust_env=False) as client:
            assert client.get(f"{mp.url}/api/2.0/export", params=query).status_code == 401


def test_redirect_same_ends_well(connect):
    """Who follows it, gets the data, however often the fault strikes."""
    with faulty(Fault("redirect_same", times=None)) as mp:
        raw = connect(mp)
        raw.send()
        got = raw.read()
        assert got.status == 307
        raw.send_target(got.headers["location"])
        assert sound(mp, raw.read())


# Silence


def test_stall_goes_on(ask):
    """Half comes, then nothing for so long, then the rest."""
    with faulty(Fault("stall", seconds=0.25)) as mp:
        begun = time.monotonic()
        assert sound(mp, ask(mp))
        assert time.monotonic() - begun >= 0.25
        mp.add_fault(Fault("stall", seconds=0))
        assert sound(mp, ask(mp))
        mp.add_fault(Fault("stall", seconds=30))
        got = ask(mp, timeout=0.2)
        assert (got.status, got.end) == (200, "silence")
        assert 0 < len(got.body) < whole_size(mp, ask)


def test_slow_start(ask):
    """Nothing comes for so long, then all."""
    with faulty(Fault("slow_start", seconds=0.25)) as mp:
        begun = time.monotonic()
        assert sound(mp, ask(mp))
        assert time.monotonic() - begun >= 0.25
        mp.add_fault(Fault("slow_start", seconds=30))
        assert ask(mp, timeout=0.2).status == 0


@pytest.mark.parametrize(("kind", "status"), [("hang", 200), ("hang_start", 0), ("stall", 200), ("slow_start", 0)])
def test_silence_ends_when_the_client_leaves(connect, kind, status):
    """Silence, and no thread that stays behind."""
    with faulty(Fault(kind, seconds=60)) as mp:
        raw = connect(mp, 0.2)
        raw.send()
        got = raw.read()
        assert (got.status, got.end) == (status, "silence")
        threads = [each for each in threading.enumerate() if each.name == "mpnb-sandbox-connection"]
        assert len(threads) == 1
        raw.close()
        threads[0].join(5)
        assert not threads[0].is_alive()


# Hostile bodies


def test_a_bomb_is_small_on_the_wire(ask):
    """A thousandfold of what is sent, in one sound member."""
    size = 50 * 2**20 + 123
    with faulty(Fault("bomb", size=size), Fault("bomb", size=1000, body="x")) as mp:
        got = ask(mp)
        assert got.members() == [b"\n" * size]
        assert len(got.body) < size / 200
        assert ask(mp).plain == b"x" * 1000


def test_bombs_of_many_gigabytes_are_not_held_in_memory(connect):
    """What is sent is made while it is sent: the first bytes of 4 EiB come at once."""
    with faulty(Fault("bomb", size=2**62), Fault("long_line", size=2**62)) as mp:
        for _ in range(2):
            raw = connect(mp, 0.3)
            raw.send()
            got = raw.read()
            assert got.end == "silence"
            assert len(got.body) > 10_000
            raw.close()


def test_long_line_is_one_event(ask):
    """So many bytes on a single line, and it is JSON."""
    with faulty(Fault("long_line", size=3_000_000)) as mp:
        (line,) = ask(mp).lines
    assert len(line) + 1 == 3_000_000
    assert json.loads(line)["event"] == "Long"


@pytest.mark.parametrize("encoding", ["br", "zstd"])
def test_another_encoding_is_nonsense(ask, encoding):
    """An encoding that nobody asked for."""
    with faulty(Fault(f"encoding_{encoding}")) as mp:
        got = ask(mp)
        assert (got.status, got.headers["content-encoding"], got.end) == (200, encoding, "frame")
        assert sound(mp, ask(mp))


@pytest.mark.parametrize("events_per_day", [0, 60])
def test_unlabelled_is_gzip_without_the_word(ask, events_per_day):
    """The body is right, and nothing says how to read it."""
    with faulty(Fault("unlabelled"), events_per_day=events_per_day) as mp:
        got = ask(mp)
        assert "content-encoding" not in got.headers
        assert gzip.decompress(got.body) == b"".join(line + b"\n" for line in mp.lines(DAY))


@pytest.mark.parametrize("days", [1, 60])
@pytest.mark.parametrize("events_per_day", [0, 60])
def test_other_days_are_others(ask, days, events_per_day):
    """There are some, all lie before those that were asked for, and by weeks."""
    first = DAY - timedelta(days=days - 1)
    with faulty(Fault("other_days"), events_per_day=events_per_day) as mp:
        got = ask(mp, first, DAY)
        times = [datetime.fromtimestamp(json.loads(line)["properties"]["time"], UTC).date() for line in got.lines]
        assert times
        assert max(times) <= first - timedelta(days=28)
        assert sound(mp, ask(mp))


def test_a_drip_never_ends_and_never_stops(connect):
    """Bytes go on coming, and no end."""
    with faulty(Fault("drip")) as mp:
        raw = connect(mp, 0.5)
        raw.send()
        got = raw.read()
        assert got.end == "silence"
        assert got.body.endswith(b"\n\n")


def test_charset_is_harmless(ask):
    """The header names another charset; the bytes are UTF-8 as ever."""
    with faulty(Fault("charset")) as mp:
        got = ask(mp)
        assert got.headers["content-type"] == "text/plain; charset=latin-1"
        assert sound(mp, got)


# When a fault strikes


def test_a_fault_strikes_its_day_as_often_as_told(ask):
    """Only requests that contain the day, only so many times."""
    with faulty(Fault("status", day="2026-01-07", times=2, status=500)) as mp:
        got = [ask(mp, *days).status for days in ([DAY], [DAY, NEXT], [NEXT], [NEXT])]
    assert got == [200, 500, 500, 200]


def test_faults_strike_in_the_order_given(ask):
    """One a request, until all are used up; None is never used up."""
    with faulty(
        Fault("status", status=500), Fault("status", status=503), Fault("status", status=502, times=None)
    ) as mp:
        assert [ask(mp).status for _ in range(4)] == [500, 503, 502, 502]
        mp.clear_faults()
        assert ask(mp).status == 200
        assert mp.injected == {"status": 4}


def test_parallel_requests_share_what_is_left_of_a_fault(ask):
    """times=3 means three, whoever asks."""
    with faulty(Fault("status", status=500, times=3)) as mp:
        answers = []
        side_by_side(*[lambda: answers.append(ask(mp).status)] * 8)
    assert sorted(answers) == [200] * 5 + [500] * 3


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"kind": "rest"}, "closest is 'reset'"),
        ({"kind": "gzip_crcs"}, "closest is 'gzip_crc'"),
        ({"kind": "reset", "times": 0}, "times"),
        ({"kind": "reset", "at": 1.5}, "at must be"),
        ({"kind": "reset", "at": -1}, "at must be"),
        ({"kind": "reset", "day": "soon"}, "soon"),
        ({"kind": "status"}, "status"),
        ({"kind": "stall", "seconds": -1}, "seconds"),
        ({"kind": "bomb", "size": 0}, "size"),
    ],
)
def test_a_fault_that_cannot_be_meant_is_refused(wrong, words):
    """The message names what is wrong, and the closest kind."""
    with pytest.raises(ValueError, match=words):
        Fault(**wrong)


def test_every_kind_is_in_the_table():
    """The documentation of the module lists just the kinds that there are."""
    names = re.findall(r"^\| (\w+) ", mpnb.sandbox.__doc__, re.MULTILINE)
    kinds = [name for name in names if name != "kind"]
    assert len(names) == len(kinds) + 2
    assert sorted(kinds) == sorted(KINDS)
