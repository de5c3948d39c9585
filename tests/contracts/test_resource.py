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

from mpnb._planning.batches import Batch, HeldBatch
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
KINDS = pytest.mark.parametrize("kind", [EVENTS], ids=["events"])


@KINDS
def test_a_batch_has_a_request_of_its_own(kind: Kind) -> None:
    """The same for the same batch, another for another; each parameter is text."""
    first, second = kind.resource.request(kind.small), kind.resource.request(kind.large)
    assert first == kind.resource.request(kind.small) != second
    assert all(isinstance(each, str) for each in (*first.params(), *first.params().values()))


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
    assert 1 < len(parts) <= kind.large.most_parts
    assert all(before.key < after.key for before, after in pairwise(parts))
    assert (parts[0].from_date, parts[-1].to_date) == (kind.large.from_date, kind.large.to_date)
    assert sum(part.days for part in parts) == kind.large.days
    assert kind.small.most_parts == 1
    assert kind.resource.parts(kind.small, []) == ([], False)


@KINDS
def test_parts_of_what_the_table_holds_land_together(kind: Kind) -> None:
    """One batch of the ledger is replaced whole: its parts as one group, of which one replaces it."""
    held = [HeldBatch(9, kind.large.from_date, kind.large.to_date, 10, datetime(2026, 1, 9, tzinfo=UTC))]
    again = Batch(kind.large.from_date, kind.large.to_date, replaces=(9,))
    parts, together = kind.resource.parts(again, held)
    assert together
    assert [part.replaces for part in parts] == [(9,)] + [()] * (len(parts) - 1)
    assert sum(part.days for part in parts) == again.days


@KINDS
def test_keys_tell_batches_apart_and_labels_name_them(kind: Kind) -> None:
    """In the order in which they are shown."""
    batches: Sequence[Batch] = [kind.small, kind.large, *kind.resource.parts(kind.large, [])[0][1:]]
    assert len({batch.key for batch in batches}) == len(batches)
    assert all(batch.label and batch.label.isprintable() for batch in batches)
