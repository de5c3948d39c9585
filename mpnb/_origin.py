"""Which table is behind a relation of events: what mpnb handed out, it knows; what a user made of it, it does not."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date

from duckdb import DuckDBPyRelation


@dataclass(frozen=True, slots=True)
class Origin:
    """
    Know where a relation of events comes from.

    Attributes:
        name: of the one event that it has, where it has no column ``event_name``.
        days: its first and last day, ``None`` where it has none.
        lacking: says which of some names the relation has no event of.
        in_table: gives all names that the table has, and what the table is called.
    """

    name: str | None
    days: Callable[[], tuple[date, date] | None]
    lacking: Callable[[list[str]], list[str]]
    in_table: Callable[[], tuple[set[str], str]]


_origins: weakref.WeakKeyDictionary[DuckDBPyRelation, Origin] = weakref.WeakKeyDictionary()


def remember(relation: DuckDBPyRelation, origin: Origin) -> DuckDBPyRelation:
    """Note where a relation comes from, and return it."""
    _origins[relation] = origin
    return relation


def origin_of(relation: DuckDBPyRelation) -> Origin | None:
    """Return where a relation comes from, ``None`` where nobody said."""
    return _origins.get(relation)
