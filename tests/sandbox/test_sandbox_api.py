"""The sandbox answers as the export API does."""

from __future__ import annotations

import gzip
import json
from datetime import date, timedelta

import httpx
import pytest

import mpnb.sandbox
from mpnb.sandbox import Fault, serve

TODAY = date(2026, 2, 1)
DAY = date(2026, 1, 6)
PATH = "/api/2.0/export"


@pytest.fixture(scope="module")
def mp():
    with serve(today=TODAY, events_per_day=60) as server:
        yield server


@pytest.fixture(scope="module")
def client(mp):
    auth = (mp.credentials.username, mp.credentials.secret)
    with httpx.Client(base_url=mp.url, auth=auth, trust_env=False) as client:
        yield client


def params(mp, from_date=DAY, to_date=None, **more):
    return {"from_date": str(from_date), "to_date": str(to_date or from_date), "project_id": mp.project_id} | more


def test_public_names_are_the_documented_ones():
    """The surface is __all__, sorted, and nothing more."""
    assert mpnb.sandbox.__all__ == ["BAD_LINES", "Fault", "Request", "Sandbox", "serve"]


def test_a_week_is_served_whole_and_as_the_oracle_says(mp, client):
    """What is served for a range is the lines of its days, in order, and count() tells how many."""
    with client.stream("GET", PATH, params=params(mp, DAY, DAY + timedelta(6))) as answer:
        raw = b"".join(answer.iter_raw())
    days = [DAY + timedelta(n) for n in range(7)]
    assert answer.headers["content-type"] == "text/plain"
    assert answer.headers["transfer-encoding"] == "chunked"
    assert "made-up" in answer.headers["server"]
    assert gzip.decompress(raw) == b"".join(line + b"\n" for day in days for line in mp.lines(day))
    assert gzip.decompress(raw).count(b"\n") == mp.count(days[0], days[-1])


def test_httpx_reads_it_by_itself(mp, client):
    """A joined member is one that an ordinary client decodes."""
    assert client.get(PATH, params=params(mp)).content.split(b"\n")[:-1] == list(mp.lines(DAY))


def test_without_gzip_the_body_is_plain(mp, client):
    """A client that takes no gzip gets the same bytes, uncompressed."""
    answer = client.get(PATH, params=params(mp), headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in answer.headers
    assert answer.content.split(b"\n")[:-1] == list(mp.lines(DAY))


@pytest.mark.parametrize(("size", "packed"), [(1300, False), (1500, True)])
def test_only_bodies_over_1400_bytes_are_compressed(ask, size, packed):
    """Small bodies come plain, as Mixpanel sends them."""
    with serve(today=TODAY, lines=lambda day: [b"x" * size]) as server:
        got = ask(server)
    assert (got.headers.get("content-encoding") == "gzip") is packed
    assert got.plain == b"x" * size + b"\n"


def test_an_empty_day_is_a_200_with_nothing(ask):
    """No events is no error."""
    with serve(today=TODAY, lines=lambda day: []) as server:
        got = ask(server)
    assert (got.status, got.body, got.end) == (200, b"", "frame")


@pytest.mark.parametrize("count", [2, 5])
def test_members_split_the_body_and_not_the_data(ask, count):
    """Asked for several gzip members, the body has as many, and they join to the same bytes."""
    with serve(today=TODAY, events_per_day=60, gzip_members=count) as server:
        got = ask(server, DAY, DAY + timedelta(1))
        assert len(got.members()) == count
        assert got.lines == [*server.lines(DAY), *server.lines(DAY + timedelta(1))]


@pytest.mark.parametrize(
    ("auth", "change", "status", "words"),
    [
        (("nobody", "wrong"), {}, 401, "credentials"),
        (None, {"project_id": "1"}, 403, "project 1"),
        (None, {"project_id": ""}, 400, "project_id"),
        (None, {"from_date": "2026-13-01"}, 400, "from_date"),
        (None, {"to_date": "06/01/2026"}, 400, "to_date"),
        (None, {"from_date": ""}, 400, "from_date"),
        (None, {"to_date": "2026-02-02"}, 400, "to_date cannot be later than today"),
        (None, {"from_date": "2026-01-07"}, 400, "from_date"),
        (None, {"event": "Search"}, 400, "JSON array"),
        (None, {"where": "1 ="}, 400, "parse selector"),
        (None, {"where": 'properties["a"] == 1 or properties["b"] == 2'}, 400, "parse selector"),
        (None, {"limit": "100001"}, 400, "limit"),
    ],
)
def test_a_bad_request_is_refused_as_json(mp, client, auth, change, status, words):
    """Every refusal has Mixpanel's status and a JSON body that says what is wrong."""
    answer = client.get(PATH, params=params(mp) | change, **({"auth": auth} if auth else {}))
    assert answer.status_code == status
    assert words in answer.json()["error"]


def test_the_last_day_is_today_in_utc_unless_set():
    """Without today=, the real one bounds the range."""
    with serve(events_per_day=1) as server, httpx.Client(trust_env=False) as client:
        auth = (server.credentials.username, server.credentials.secret)
        far = client.get(server.url + PATH, params=params(server, date.today() + timedelta(2)), auth=auth)
        near = client.get(server.url + PATH, params=params(server, date.today() - timedelta(2)), auth=auth)
    assert (far.status_code, near.status_code) == (400, 200)


def test_other_paths_are_not_there(client):
    """Only the export and profiles are served."""
    assert client.get("/api/2.0/annotations").status_code == 404


def events(answer):
    return [json.loads(line) for line in answer.content.split(b"\n")[:-1]]


def test_event_keeps_the_named_events_only(mp, client):
    """event= is a JSON array of names."""
    answer = client.get(PATH, params=params(mp, event='["Search", "Error"]'))
    want = [line for line in mp.lines(DAY) if json.loads(line)["event"] in ("Search", "Error")]
    assert want
    assert answer.content.split(b"\n")[:-1] == want


def test_where_compares_properties(mp, client):
    """where= understands comparisons of properties, joined by and."""
    got = events(
        client.get(PATH, params=params(mp, where='properties["$os"] == "iOS" and properties["made_up"] == true'))
    )
    assert got
    assert {event["properties"]["$os"] for event in got} == {"iOS"}
    wide = events(client.get(PATH, params=params(mp, where='properties["$screen_width"] >= 1280')))
    assert min(event["properties"]["$screen_width"] for event in wide) >= 1280


def test_limit_caps_the_whole_answer(mp, client):
    """limit= counts over all days."""
    assert len(events(client.get(PATH, params=params(mp, DAY, DAY + timedelta(2), limit="70")))) == 70


def test_time_in_ms_changes_the_unit_and_nothing_else(mp, client):
    """The same events come, in order, with times a thousandfold."""
    seconds, millis = (events(client.get(PATH, params=params(mp, time_in_ms=flag))) for flag in ("false", "true"))
    assert [e["properties"].pop("time") for e in seconds] == [e["properties"].pop("time") // 1000 for e in millis]
    assert seconds == millis


def test_own_lines_are_served_as_they_are(ask):
    """lines= replaces the made-up ones of the days for which it gives any."""
    own = [b'{"event":"A","properties":{"time":1}}', b"\xff not even text"]
    with serve(today=TODAY, events_per_day=5, lines=lambda day: own if day == DAY else None) as server:
        assert ask(server, DAY, DAY + timedelta(1)).lines == own + list(server.lines(DAY + timedelta(1)))
        assert server.lines(DAY) == tuple(own)
        assert server.count(DAY, DAY) == 2


def test_a_connection_serves_many_requests(mp, connect):
    """Keep-alive holds across answers, refusals among them."""
    raw = connect(mp)
    for day, status in ((DAY, 200), ("never", 400), (DAY, 200)):
        raw.send(day)
        assert (got := raw.read()).status == status
        assert got.end == "frame"


def test_http_1_0_gets_no_chunks(mp, connect):
    """An old client gets the body up to the end of the connection."""
    raw = connect(mp)
    raw.send(version="1.0")
    got = raw.read()
    assert "transfer-encoding" not in got.headers
    assert (got.end, got.lines) == ("fin", list(mp.lines(DAY)))


def test_every_request_is_on_record(ask):
    """The record tells when, what, how it was answered, how many bytes, and which fault."""
    with serve(today=TODAY, events_per_day=60, faults=[Fault("status", status=503)]) as server:
        ask(server)
        got = ask(server, DAY, DAY + timedelta(1))
        first, second = server.requests
    assert (first.status, first.fault, first.from_date) == (503, "status", DAY)
    assert (second.status, second.fault, second.bytes) == (200, None, len(got.body))
    assert (second.from_date, second.to_date) == (DAY, DAY + timedelta(1))
    assert second.params["from_date"] == "2026-01-06"
    assert second.at >= first.at


def test_latency_delays_the_first_byte(ask):
    """With latency, nothing comes for so long."""
    with serve(today=TODAY, events_per_day=60, latency=30.0) as server:
        assert ask(server, timeout=0.2).end == "silence"


def test_pace_holds_a_connection_back(ask):
    """With bytes_per_second, a body that would take minutes is not there at once, but has begun."""
    with serve(today=TODAY, events_per_day=60, bytes_per_second=40) as server:
        got = ask(server, timeout=0.2)
        assert got.status == 200
        assert server.requests[0].bytes < 100
    assert got.end == "silence"


def test_each_server_is_a_project_of_its_own(mp):
    """Two servers share neither project nor secret, so neither waits for the other's quota."""
    with serve(events_per_day=1) as other:
        assert other.project_id != mp.project_id
        assert other.credentials.secret != mp.credentials.secret
    with serve(events_per_day=1, project_id=42) as other:
        assert other.project_id == "42"
        assert other.credentials.base_url == other.url


def test_repr_says_made_up_and_no_secret(mp):
    """What shows in a notebook tells that the data is made up."""
    assert "made-up" in repr(mp)
    assert mp.credentials.secret not in repr(mp)


@pytest.mark.parametrize(
    "wrong",
    [
        {"events_per_day": -1},
        {"latency": -1.0},
        {"gzip_members": 0},
        {"bytes_per_second": 0},
        {"retry_after": "minutes"},
        {"legacy_timezone": "Mars/Olympus"},
        {"project_id": "a project"},
    ],
)
def test_an_argument_out_of_range_is_refused(wrong):
    """Nothing starts, and nothing is left open."""
    with pytest.raises(ValueError, match=r"."):
        serve(**wrong)
