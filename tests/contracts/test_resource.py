"""What every kind of record must do, from a batch to its request and its rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import duckdb
import pytest

from mpnb._planning.batches import Batch, HeldBatch, Page, Session
from mpnb._planning.profiles import Profiles, ProfileSource
from mpnb._planning.request import Source
from mpnb._planning.resource import Events, Resource
from tests._helpers import day


@dataclass(frozen=True)
class Kind:
    """
    One implementation, and what it is tried on.

    Attributes:
        small: a batch that cannot be split.
        large: one that can.
        line: of a record, as it is served.
    """

    resource: Resource
    small: Batch
    large: Batch
    line: dict[str, Any]


EVENTS = Kind(
    Events(Source("7", ("A", "B"), "true")),
    Batch(day(1), day(1)),
    Batch(day(1), day(7)),
    {"event": "A", "properties": {"time": 1767225600, "distinct_id": "d", "$insert_id": "i", "more": [1, None]}},
)
PAGE = Page(2, 10, Session("s", 95, 10))
PROFILES = Kind(
    Profiles(ProfileSource("7", "true", ("n",), None, "-9007199254740993123", "5")),
    Batch(day(1), day(1), page=PAGE),
    Batch(day(1), day(1), page=Page(0, 10)),
    {"$distinct_id": "d", "$properties": {"n": 1, "more": [1, None]}},
)
KINDS = pytest.mark.parametrize("kind", [EVENTS, PROFILES], ids=["events", "profiles"])


@KINDS
def test_a_batch_has_a_request_of_its_own(kind: Kind) -> None:
    """The same for the same batch, another for another; each parameter is text."""
    first, second = kind.resource.request(kind.small), kind.resource.request(kind.large)
    assert first == kind.resource.request(kind.small) != second
    assert all(isinstance(each, str) for each in (*first.params(), *first.params().values()))
    assert all(isinstance(each.target, str) and isinstance(each.content, bytes) for each in (first, second))


@KINDS
def test_a_record_becomes_one_row_of_its_columns(kind: Kind) -> None:
    """In their order and of their types, the batch's id last; the object of the line is there whole."""
    head, body = kind.resource.keys
    lines = "SELECT $head::JSON AS head, $body::JSON AS body, 5::BIGINT AS batch_id"
    with duckdb.connect() as con:
        values = {"head": json.dumps(kind.line[head]), "body": json.dumps(kind.line[body])}
        ran = con.execute(kind.resource.rows(lines), values)
        rows = ran.fetchall()
        table = ", ".join(f"{name} {sql_type}" for name, sql_type in kind.resource.columns)
        con.execute(f"CREATE TABLE t ({table})").fetchall()
        con.execute(f"INSERT INTO t {kind.resource.rows(lines)}", values).fetchall()
        assert con.execute("FROM t").fetchall() == rows
        both = {"head": json.dumps(kind.line[head]), "body": json.dumps(kind.line[body])}
        for other in ({}, {"head": "null"}, {"head": "{}"}, {"body": "null"}, {"body": '"{"'}, {"body": "[]"}):
            record = con.execute(f"SELECT {kind.resource.is_record} FROM ({lines})", both | other).fetchall()
            assert record == [(not other,)]
    assert kind.resource.columns[-1] == ("batch_id", "BIGINT")
    [row] = rows
    assert row[-1] == 5
    whole = [name for name, sql_type in kind.resource.columns].index("properties")
    assert json.loads(row[whole]) == kind.line[body]


@KINDS
def test_what_is_too_large_is_fetched_in_parts(kind: Kind) -> None:
    """Smaller ones that have all of it, once, in the order of their keys; what cannot be split has none."""
    parts, together = kind.resource.parts(kind.large, [])
    assert not together
    assert 0 < len(parts) <= kind.large.most_parts
    assert all(kind.resource.request(part) != kind.resource.request(kind.large) for part in parts)
    assert all(before.key < after.key for before, after in pairwise(parts))
    assert (parts[0].from_date, parts[-1].to_date) == (kind.large.from_date, kind.large.to_date)
    assert sum(part.days for part in parts) == kind.large.days
    assert kind.small.most_parts == 1
    assert kind.resource.parts(kind.small, []) == ([], False)


def test_parts_of_what_the_table_holds_land_together() -> None:
    """One batch of the ledger is replaced whole: its parts as one group, of which one replaces it."""
    kind = EVENTS
    held = [HeldBatch(9, kind.large.from_date, kind.large.to_date, 10, datetime(2026, 1, 9, tzinfo=UTC))]
    again = Batch(kind.large.from_date, kind.large.to_date, replaces=(9,))
    parts, together = kind.resource.parts(again, held)
    assert together
    assert [part.replaces for part in parts] == [(9,)] + [()] * (len(parts) - 1)
    assert sum(part.days for part in parts) == again.days


SAID = {"page": 2, "session_id": "s", "status": "ok"}
WRONG = [{"page": 3}, {"session_id": "t"}, {"status": "error"}, {"total": 96}]


def test_a_page_must_say_what_its_session_implies() -> None:
    """Its number, its session, and as many profiles as it must have; what it does not say proves nothing."""
    resource, page = PROFILES.resource, PROFILES.small
    assert resource.fault(page, 10, SAID) is resource.fault(page, 10, {}) is None
    last = Batch(day(1), day(1), page=Page(9, 10, Session("s", 95, 10)))
    assert resource.fault(last, 5, {}) is None
    wrong = [resource.fault(page, 9, SAID), resource.fault(last, 10, {})]
    wrong += [resource.fault(page, 10, SAID | each) for each in WRONG]
    assert all(why and why.kind == "inconsistent" and why.begins_anew and why.once_more for why in wrong)


@pytest.mark.parametrize("name", ["total", "page_size", "session_id"])
@pytest.mark.parametrize("value", [None, -1, "", True, 1.5, [], 0])
def test_a_first_page_must_say_what_the_others_need(name: str, value: Any) -> None:
    """How many there are, how many a page has, and in which session."""
    whole = {"page": 0, "page_size": 10, "total": 95, "session_id": "s"}
    assert PROFILES.resource.fault(PROFILES.large, 10, whole) is None
    why = PROFILES.resource.fault(PROFILES.large, 10, whole | {name: value})
    assert why is not None
    assert "page 0" in why.message


@KINDS
def test_keys_tell_batches_apart_and_labels_name_them(kind: Kind) -> None:
    """In the order in which they are shown."""
    batches: Sequence[Batch] = [kind.small, kind.large, *kind.resource.parts(kind.large, [])[0][1:]]
    assert len({batch.key for batch in batches}) == len(batches)
    assert all(batch.label and batch.label.isprintable() for batch in batches)
