"""
How far the exported ``time`` of events is from UTC: in projects made before 2023 it is the project's own wall clock.

An export does not say. What tells is when events arrived, which is UTC in all projects: an event that is sent at once
arrives, by its own time, just as early or late as the project's zone is off. But events wait on phones, and imports
bring thousands at once. So quarter-hours of arrival vote, whatever their number of events, each for the offset that
most of its events have; and days are won by votes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from duckdb import DuckDBPyConnection

from mpnb._base.sql import columns_of, in_batches, quoted, run
from mpnb._mixpanel.export_api import COLUMNS
from mpnb._planning.batches import HeldBatch

# Looked at, of all events: whole vectors of DuckDB's, spread evenly.
SAMPLE = 200_000
VECTOR = 2_048
# To plan, the first events of so many batches say enough.
LATEST = 7
LATEST_SAMPLE = 20_000
STAMPS = "['/$mp_api_timestamp_ms', '/mp_processing_time_ms']"

QUARTER_MS = 900_000
# What can be the moment of an arrival: 2001 to 5138.
FIRST_MS, LAST_MS = 10**12, 10**14
# What is sent at once arrives within a minute or two: SDKs flush each minute, and clocks of devices are not exact.
MOST_LATE_MS, MOST_EARLY_MS = 180_000, 60_000
# All offsets that time zones have had since 2009, in quarters of an hour.
_HALVES = (-9.5, -4.5, -3.5, -2.5, 3.5, 4.5, 5.5, 5.75, 6.5, 8.5, 8.75, 9.5, 10.5, 11.5, 12.75, 13.75)
ZONES = frozenset([hour * 4 for hour in range(-12, 15)] + [int(hours * 4) for hours in _HALVES])
FIRST, LAST = min(ZONES), max(ZONES)
# An event cannot arrive before it happens: where so many votes of a day are for UTC, others are for what came late.
LEAST_UTC = 0.2
# Offsets that won fewer of the votes are chance.
LEAST_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class TimeOffset:
    """
    How far ``time`` is from UTC, if the events show it.

    Attributes:
        shares: each offset in quarters of an hour, with its share of the votes; in zones with summer time two, an hour
            apart. Empty where nothing can be told.
        shifted: of the events that were looked at, how many have one of the offsets that are not 0.
        arrivals: how many say when they arrived.
    """

    shares: tuple[tuple[int, float], ...] = ()
    shifted: int = 0
    arrivals: int = 0

    @property
    def is_known(self) -> bool:
        """Whether the events show the offset."""
        return bool(self.shares)

    @property
    def is_local(self) -> bool:
        """Whether ``time`` is local time and not UTC, at least for a part of the year."""
        return any(quarters for quarters, _ in self.shares)

    @property
    def lag(self) -> timedelta:
        """Return the greatest delay after midnight in UTC at which the project's day ends; 0 if it ends earlier."""
        return timedelta(minutes=15 * max(0, *(-quarters for quarters, _ in self.shares), 0))

    def why_unknown(self) -> str:
        """Return in one clause why the offset is unknown."""
        if self.arrivals:
            return "they arrived long after they happened, with different delays, as imports do"
        return "none of them says when it arrived ($mp_api_timestamp_ms or mp_processing_time_ms)"


def time_offset(cursor: DuckDBPyConnection, table: str, batches: Sequence[HeldBatch]) -> TimeOffset:
    """Return how far ``time`` is from UTC in some batches."""
    rows = sum(batch.rows for batch in batches)
    if not rows:
        return TimeOffset()
    apart = max(1, rows // SAMPLE)
    return _judged(run(cursor, _votes(f"{_events(table, batches)} AND (rowid // {VECTOR}) % {apart} = 0")))


def day_lag(cursor: DuckDBPyConnection, table: str, batches: Sequence[HeldBatch]) -> timedelta:
    """Return the lag of ``TimeOffset``, from the latest of some batches in date order: a cheap check."""
    latest = [batch for batch in batches if batch.rows][-LATEST:]
    if not latest or (columns_of(cursor, table) or [])[: len(COLUMNS)] != list(COLUMNS):
        return timedelta(0)
    return _judged(run(cursor, _votes(f"{_events(table, latest)} LIMIT {LATEST_SAMPLE}"))).lag


def _events(table: str, batches: Sequence[HeldBatch]) -> str:
    mine = in_batches([batch.batch_id for batch in batches], "batch_id")
    return f"SELECT time, properties FROM {quoted(table)} WHERE {mine}"


def _votes(events: str) -> str:
    """Return the query for one row per day and offset: quarter-hours that vote for it, their events, all events."""
    # Whole numbers throughout: what / does is a setting of DuckDB's. No condition on what is parsed: it would be
    # worked out before the one on rowid.
    stamps = [f"TRY_CAST(p[{n}] AS DOUBLE)" for n in (1, 2)]
    arrived = ", ".join(f"CASE WHEN {ms} BETWEEN {FIRST_MS} AND {LAST_MS} THEN {ms}::BIGINT END" for ms in stamps)
    moments = (
        "SELECT CASE WHEN time >= TIMESTAMP '1970-01-01' THEN epoch_ms(time) END AS shown,"
        f" coalesce({arrived}) AS arrived FROM (SELECT time, properties->>{STAMPS} AS p FROM ({events}))"
    )
    first, last, half = FIRST * QUARTER_MS, LAST * QUARTER_MS, QUARTER_MS // 2
    offs = (
        f"SELECT arrived // {QUARTER_MS} AS slot, shown - arrived AS off, CASE WHEN off BETWEEN {first - half}"
        f" AND {last + half} THEN (off - {first - half}) // {QUARTER_MS} + {FIRST} END AS quarters FROM ({moments})"
    )
    counts = (
        f"SELECT slot, quarters, count(*) AS events, count(*) FILTER (quarters IN {tuple(sorted(ZONES))} AND"
        f" off - quarters * {QUARTER_MS} BETWEEN {-MOST_LATE_MS} AND {MOST_EARLY_MS}) AS near"
        f" FROM ({offs}) GROUP BY slot, quarters"
    )
    slots = (
        "SELECT slot, arg_max(quarters, near) AS quarters, max(near) AS near, sum(events) AS events,"
        f" sum(events) FILTER (quarters IS NOT NULL) AS plausible FROM ({counts}) WHERE slot IS NOT NULL GROUP BY slot"
    )
    return (
        "SELECT slot // 96, CASE WHEN near * 2 > plausible THEN quarters END AS quarters, count(*), sum(near)::BIGINT,"
        f" sum(events)::BIGINT FROM ({slots}) GROUP BY ALL"
    )


def _judged(rows: Sequence[tuple[int, int | None, int, int, int]]) -> TimeOffset:
    days: dict[int, dict[int, tuple[int, int]]] = defaultdict(dict)
    for day, quarters, votes, near, _ in rows:
        if quarters is not None:
            days[day][quarters] = votes, near
    votes_of: Counter[int] = Counter()
    near_of: Counter[int] = Counter()
    for found in days.values():
        winner = _winner({quarters: votes for quarters, (votes, _) in found.items()})
        if winner is not None:
            votes, near = found[winner]
            votes_of[winner] += votes
            near_of[winner] += near
    often = [(q, votes / votes_of.total()) for q, votes in votes_of.most_common()]
    often = [(quarters, share) for quarters, share in often if share >= LEAST_SHARE]
    return TimeOffset(
        shares=tuple(often),
        shifted=sum(near_of[quarters] for quarters, _ in often if quarters),
        arrivals=sum(events for *_, events in rows),
    )


def _winner(votes: dict[int, int]) -> int | None:
    """Return the offset of a day, ``None`` if the votes disagree."""
    total = sum(votes.values())
    if votes.get(0, 0) >= LEAST_UTC * total:
        return 0
    quarters = max(votes, key=votes.__getitem__)
    return quarters if votes[quarters] * 2 > total else None
