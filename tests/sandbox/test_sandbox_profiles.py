"""Profiles by the page: sessions, filters, limits, and every fault as its line in the table says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date
from typing import Any

import httpx
import pytest

from mpnb import Quota
from mpnb.sandbox import Fault, Sandbox, serve
from mpnb.sandbox._faults import PAGES

# What a page of the first ten of 25 is, by what each fault does to it.
IDS = [f"p{n:02}" for n in range(25)]


def people(ids: Sequence[str] = IDS) -> list[bytes]:
    """Make a profile for each id."""
    return [
        json.dumps({"$distinct_id": each, "$properties": {"n": n, "$city": "Ulm"}}).encode()
        for n, each in enumerate(ids)
    ]


def ask(mp: Sandbox, page: int = 0, session: str = "", **more: Any) -> httpx.Response:
    """Ask for a page as Mixpanel documents it: a form, and the project in the query."""
    own = mp.credentials
    form = {"page": str(page), "page_size": "10", **more} | ({"session_id": session} if session else {})
    url = f"{mp.url}/api/query/engage"
    return httpx.post(url, params={"project_id": mp.project_id}, data=form, auth=(own.username, own.secret))


def ids(answer: httpx.Response) -> list[str]:
    """Name the people of a page."""
    return [each["$distinct_id"] for each in answer.json()["results"]]


def test_pages_of_a_session_have_everybody_once() -> None:
    """The first says how many there are, and in which session the others are asked for."""
    with serve(profiles=people) as mp:
        first = ask(mp).json()
        pages = [ask(mp, n, first["session_id"]) for n in range(4)]
        assert (first["total"], first["page"], first["page_size"], first["status"]) == (25, 0, 10, "ok")
        assert [name for page in pages for name in ids(page)] == IDS
        assert [len(ids(page)) for page in pages] == [10, 10, 5, 0]
        assert "total" not in pages[1].json()
        assert [request.page for request in mp.requests] == [0, 0, 1, 2, 3]


def test_made_up_people_are_those_in_the_events() -> None:
    """As many as are asked for, each once, and made up; without a number, those who have signed up in the events."""
    with serve(profiles=300) as mp, serve(events_per_day=600) as other:
        some = [json.loads(each) for each in mp.profiles()]
        assert len({each["$distinct_id"] for each in some}) == 300
        assert all(each["$properties"]["made_up"] for each in some)
        known = {json.loads(each)["$distinct_id"] for each in other.profiles()}
        there = {json.loads(line)["properties"].get("distinct_id") for line in other.lines(date(2026, 1, 5))}
        assert len(known & there) > 10


def test_filters() -> None:
    """``where``, properties, cohorts with and without people who have no profile, and groups."""
    with serve(profiles=people, groups={"-9007199254740993123": lambda: people(["g"])}) as mp:
        assert ids(ask(mp, where='properties["n"] < 3')) == IDS[:3]
        assert json.loads(ask(mp, output_properties='["n"]').content)["results"][1]["$properties"] == {"n": 1}
        everybody = ids(ask(mp, filter_by_cohort='{"id": 1}', page_size="100"))
        assert [*everybody[:-1]] == IDS
        assert ids(ask(mp, filter_by_cohort='{"id": 1}', include_all_users="false", page_size="100")) == IDS
        assert ask(mp, filter_by_cohort="7").status_code == 400
        assert ids(ask(mp, data_group_id="-9007199254740993123")) == ["g"]
        gone = ask(mp, data_group_id="5")
        assert (gone.status_code, gone.json()["error"]) == (404, "Missing Datagroup")


def test_a_page_needs_its_session() -> None:
    """One that is unknown, has ended or was begun with another filter is refused."""
    with serve(profiles=people) as mp, serve(profiles=people, session_seconds=0) as short:
        session = ask(mp).json()["session_id"]
        answers = [ask(mp, 1), ask(mp, 1, "none"), ask(mp, 1, session, where='properties["n"] < 3')]
        answers.append(ask(short, 1, ask(short).json()["session_id"]))
        assert [answer.status_code for answer in answers] == [400] * 4
        assert "uncached query" in answers[0].json()["error"]
        assert "expired" in answers[3].json()["error"]


@pytest.mark.parametrize("pages_count", [False, True])
def test_pages_of_a_session_take_no_place_in_the_hour_unless_they_are_to(pages_count: bool) -> None:
    """And none of them takes one of the events' quota."""
    quota = Quota(per_hour=2, per_second=100)
    with serve(profiles=people, quota=quota, query_quota=quota, pages_count=pages_count) as mp:
        session = ask(mp).json()["session_id"]
        statuses = [ask(mp, page, session).status_code for page in (1, 2, 0)]
        assert statuses == ([200, 429, 429] if pages_count else [200] * 3)
        assert [ask(mp).status_code for _ in range(2)] == ([429] * 2 if pages_count else [200, 429])


DOES = {
    "page_lost": (200, []),
    "page_short": (200, IDS[10:19]),
    "page_twice": (200, [IDS[9], *IDS[11:20]]),
    "page_other": (200, IDS[10:20]),
    "session_other": (200, IDS[10:20]),
    "profile_deleted": (200, IDS[11:21]),
    "profile_swapped": (200, IDS[11:21]),
    "profile_inserted": (200, IDS[9:19]),
    "session_expired": (400, None),
    "page_size": (400, None),
    "page_error": (200, None),
}


@pytest.mark.parametrize("kind", sorted(PAGES))
def test_a_fault_strikes_its_page_alone(kind: str) -> None:
    """And does what it says, once."""
    with serve(profiles=people, faults=[Fault(kind, page=1)]) as mp:
        first = ask(mp).json()
        assert len(first["results"]) == 10
        got = ask(mp, 1, first["session_id"])
        status, there = DOES[kind]
        assert got.status_code == status
        if there is not None:
            assert ids(got) == there
        else:
            assert "error" in got.json()
        assert got.json().get("page", 1) == (2 if kind == "page_other" else 1)
        assert (got.json().get("session_id") != first["session_id"]) == (kind == "session_other" or there is None)
        assert mp.injected == {kind: 1}


def test_faults_of_events_and_of_profiles_keep_apart() -> None:
    """What acts on lines or on a day leaves pages alone, and what acts on a page leaves events alone."""
    faults = [Fault("terminated"), Fault("status", status=500, day="2026-01-01"), Fault("page_lost")]
    with serve(profiles=people, faults=faults, today="2026-02-01") as mp:
        own = mp.credentials
        days = {"from_date": "2026-01-01", "to_date": "2026-01-01", "project_id": mp.project_id}
        assert ids(ask(mp)) == []
        assert len(ids(ask(mp))) == 10
        url = f"{mp.url}/api/2.0/export"
        texts = [httpx.get(url, params=days, auth=(own.username, own.secret)) for _ in range(2)]
        assert texts[0].text.endswith("terminated early\n")
        assert texts[1].status_code == 500


def test_a_page_can_break_like_an_export() -> None:
    """Its bytes are cut, and its compression is wrong, as those of events are."""
    with serve(profiles=people, faults=[Fault("cut_length", page=0), Fault("gzip_crc", page=0)]) as mp:
        with pytest.raises(httpx.RemoteProtocolError):
            ask(mp)
        with pytest.raises(httpx.DecodingError):
            ask(mp)
        assert len(ids(ask(mp))) == 10
