"""
Who is who: the ids of one person, as the events of a table link them.

Simplified ID Merge: an event with a ``$device_id`` and a ``$user_id`` links ``$device:`` and the device to the user.
Original: the events ``$identify``, ``$create_alias`` and ``$merge`` link the ids that they name. In both, an exported
event that was moved keeps the id that it had. Clusters are what is connected by links, whenever these arrived:
https://docs.mixpanel.com/docs/tracking-methods/id-management
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

from duckdb import DuckDBPyConnection

from mpnb._base.scalars import brief, either
from mpnb._base.sql import exact, literal, run
from mpnb._base.warn import warn
from mpnb._errors import PlanError
from mpnb._message import Argument
from mpnb._planning.request import Source

log = logging.getLogger("mpnb")

SYSTEMS = ("merged", "exported", "simplified", "original")
VERBS = ("$identify", "$create_alias", "$merge")
# The kinds of links: of the two systems, and of an event that was moved to another id.
SIMPLIFIED, ORIGINAL, MOVED = "simplified", "original", "moved"
_REFUSED = ("$failure_reason", "$identity_failure_reason")
_NAMED = ("$identified_id", "$anon_id", "alias", "$distinct_ids", "$distinct_id_before_identity", *_REFUSED)


class Link(NamedTuple):
    """
    Two ids of one person.

    Attributes:
        named: the id by which the event says the person is known, which may become the cluster's.
        batch_id, time: when that was.
    """

    system: str
    one: str
    other: str | None
    named: str | None
    batch_id: int
    time: Any


def users_query(events: str) -> str:
    """Return the query for the links of the simplified system, which are columns of events and need no JSON."""
    return (
        f"SELECT '{SIMPLIFIED}' AS system, '$device:' || device_id AS one, user_id AS other, user_id AS named,"
        f" min(batch_id) AS batch_id, min(time) AS time FROM ({events}) WHERE device_id <> '' AND user_id <> ''"
        f" GROUP BY {exact('device_id')}, {exact('user_id')}, device_id, user_id"
    )


def links_query(events: str) -> str:
    """Return the query for all other links in some events, one row each with the columns of ``Link``."""
    places = {name: number for number, name in enumerate(_NAMED, 1)}
    listed = ", ".join(literal(f"/{name}") for name in _NAMED)
    p = {name: f"p[{place}]" for name, place in places.items()}
    refused = " OR ".join(f"{p[name]} IS NOT NULL" for name in _REFUSED)
    name = exact("event_name")
    # The two of $merge are a list, and each is text.
    merge = f"json_extract_string({p['$distinct_ids']}, '$[*]')"
    one = (
        f"CASE WHEN {name} = '$identify' THEN {p['$identified_id']} WHEN {name} = '$create_alias' THEN {p['alias']}"
        f" WHEN {name} = '$merge' AND json_valid({p['$distinct_ids']}) THEN {merge}[1] END"
    )
    other = (
        f"CASE WHEN {name} = '$identify' THEN {p['$anon_id']} WHEN {name} = '$create_alias' THEN distinct_id"
        f" WHEN {name} = '$merge' AND json_valid({p['$distinct_ids']}) THEN {merge}[2] END"
    )
    # Only what is named in there is parsed: a search costs a third. The condition is in p as well, since DuckDB moves
    # those on p down beside it, and would parse all. It runs on a cursor of ours, without collations: of the plain
    # column DuckDB skips what has none of these names.
    extracted = f"properties->>[{listed}]"
    is_moved = "contains(properties::VARCHAR, 'distinct_id_before_identity')"
    verbs = f"SELECT *, {extracted} AS p FROM ({events}) WHERE event_name IN {VERBS}"
    moved = f"SELECT *, CASE WHEN {is_moved} THEN {extracted} END AS p FROM ({events}) WHERE {is_moved}"
    rest = "nullif(distinct_id, '') AS named, batch_id, max(time) AS time"
    parts = [
        f"SELECT '{ORIGINAL}' AS system, nullif({one}, '') AS one, nullif({other}, '') AS other, {rest} FROM ({verbs})"
        f" WHERE NOT ({refused}) GROUP BY ALL",
        f"SELECT '{MOVED}', nullif({p['$distinct_id_before_identity']}, ''), nullif(distinct_id, ''), {rest}"
        f" FROM ({moved}) WHERE {p['$distinct_id_before_identity']} <> distinct_id AND NOT ({refused}) GROUP BY ALL",
    ]
    return " UNION ALL ".join(parts)


def chosen(system: object, has_verbs: bool) -> str:
    """
    Return the system to follow.

    Raises:
        PlanError: there is no such system.
    """
    if not isinstance(system, str) or system not in SYSTEMS:
        raise PlanError(Argument("identities"), f" must be {either(SYSTEMS)}, not {brief(system)}")
    if system != "merged":
        return system
    return ORIGINAL if has_verbs else SIMPLIFIED


def announce(asked: str, system: str, source: Source | None) -> None:
    """Log which system is followed, and warn where the table's own events leave out what links."""
    if asked == "merged":
        by = "$identify, $create_alias, $merge" if system == ORIGINAL else "$device_id with $user_id"
        log.warning("identities: %s ID merge, by %s", system, by)
    if asked in ("merged", ORIGINAL) and source is not None and source.events is not None:
        lacking = [verb for verb in VERBS if verb not in source.events]
        if lacking:
            warn(
                f"the table has no {', '.join(lacking)}, as it holds some events only: identities that these link are"
                " not merged. Export all events, or these as well"
            )


def resolved(links: Iterable[Link], system: str, profiles: Collection[str] = ()) -> dict[str, str]:
    """
    Return each id that is not its cluster's own, with that.

    Args:
        profiles: ids that have a profile. A profile's id is Mixpanel's own choice, and names its cluster.
    """
    mine = [link for link in links if link.system in (system, MOVED)] if system != "exported" else []
    parent: dict[str, str] = {}

    def root(each: str) -> str:
        above = parent.setdefault(each, each)
        while parent[above] != above:
            parent[above] = parent[parent[above]]
            above = parent[above]
        parent[each] = above
        return above

    for link in mine:
        ids = [each for each in (link.one, link.other, link.named) if each]
        for each in ids[1:]:
            one, other = root(ids[0]), root(each)
            if one != other:
                parent[other] = one
    names: dict[str, list[Link]] = defaultdict(list)
    for link in mine:
        if link.named:
            names[root(link.named)].append(link)
    canonical = {cluster: _name(named) for cluster, named in names.items()}
    known: dict[str, list[str]] = defaultdict(list)
    for each in parent:
        if each in profiles:
            known[root(each)].append(each)
    # Where several have one, the id that events call the person by, if it is among them.
    canonical |= {cluster: min(each) for cluster, each in known.items() if canonical.get(cluster) not in each}
    return {each: name for each in parent if (name := canonical.get(root(each), root(each))) != each}


def _name(links: Sequence[Link]) -> str:
    """
    Return the id of a cluster: the user that was linked first, else what the last export calls it.

    Only links of the simplified system have users; two of them are one person where they shared a device.
    """
    users = [link for link in links if link.system == SIMPLIFIED]
    if users:
        first = min(users, key=lambda link: (link.time is None, link.time or 0, link.named or ""))
    else:
        first = max(links, key=lambda link: (link.batch_id, link.time is not None, link.time or 0, link.named or ""))
    assert first.named is not None
    return first.named


def read(cursor: DuckDBPyConnection, query: str) -> list[Link]:
    """Return the links that a query gives, once each with the time that counts: a user's first, another's last."""
    query = (
        "SELECT system, one, other, named, max(batch_id), CASE WHEN system = 'simplified' THEN min(time)"
        f" ELSE arg_max(time, (batch_id, time)) END FROM ({query}) GROUP BY system, one, other, named"
    )
    return [Link(*row) for row in run(cursor, query) if row[1]]
