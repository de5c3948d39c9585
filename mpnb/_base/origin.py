"""The table that a relation of events comes from, known for relations that mpnb returned."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date

from duckdb import DuckDBPyRelation


@dataclass(frozen=True, slots=True)
class Origin:
    """
    The table behind a relation of events.

    Attributes:
        only: names of the events that the relation has, ``None`` for any.
        days: gives the first and the last day of the relation, ``None`` where it has none.
        lacking: says which of some names the relation has no event of.
        names: gives the names of all events of the table, and how to call its database.
        zone: gives the time zone that is stored for the table.
        is_local: says whether ``time`` is the local time of the project's zone already.
    """

    only: tuple[str, ...] | None
    days: Callable[[], tuple[date, date] | None]
    lacking: Callable[[Sequence[str]], list[str]]
    names: Callable[[], tuple[list[str], str]]
    zone: Callable[[], str | None]
    is_local: Callable[[], bool]


_origins: weakref.WeakKeyDictionary[DuckDBPyRelation, Origin] = weakref.WeakKeyDictionary()


def remember(relation: DuckDBPyRelation, origin: Origin) -> DuckDBPyRelation:
    """Record which table a relation comes from, and return the relation."""
    _origins[relation] = origin
    return relation


def origin_of(relation: DuckDBPyRelation) -> Origin | None:
    """Return the table that a relation comes from, or ``None`` if it was not recorded."""
    return _origins.get(relation)
