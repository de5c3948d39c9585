"""What an export of the campaign does, drawn from a seed: days, data, settings, faults, and the order of its steps."""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, timedelta

from mpnb._storing.writer import LINGER_SECONDS
from mpnb.sandbox import Fault
from mpnb.sandbox._faults import KINDS as EVERY_KIND
from mpnb.sandbox._faults import PAGES
from mpnb.sandbox._stories import SCRIPTS
from tests.campaign._events import NAMES
from tests.campaign._pace import BOMB_BYTES, IDLE_SECONDS, MAX_LINE

LINGERS = (0.0, LINGER_SECONDS)
# Each of these takes a time-out.
SLOW = ("hang", "hang_start")
# Of an export of events.
KINDS = EVERY_KIND - PAGES
FIRST_DAY = date(2025, 11, 3)
STATUSES = (400, 401, 402, 403, 404, 408, 413, 418, 425, 429, 429, 500, 500, 502, 503, 504, 204, 206, 226)
BODIES = (
    None,
    None,
    "",
    "<html><body><h1>Bad \x1b[31mGateway</h1></body></html>",
    {"error": "</table><script>alert(1)</script>"},
    {"error": "Query rate limit exceeded. 1/9 queries running concurrently and 61/60 queries running in the last hour"},
)
# "export" goes on, "refresh" fetches all days again, of data that changed meanwhile; "cancel" is stopped half-way.
STEPS = ("export", "export", "retry", "reopen", "refresh", "cancel")


@dataclass(frozen=True, slots=True)
class Case:
    """Hold one export. ``made_up`` leaves the data to the sandbox, else it is ``day_lines`` of the seed."""

    seed: int
    from_date: date
    to_date: date
    chunk_days: int
    workers: int
    gzip_members: int
    spool_bytes: int | None
    names: tuple[str, ...] | None
    made_up: bool
    faults: tuple[Fault, ...]
    steps: tuple[str, ...]
    cancel_after: int
    linger: float  # how long the writer waits for more: batches then go each by itself, or many in one transaction
    table: str = "events"

    @property
    def days(self) -> list[date]:
        """Return the days, in order."""
        return [self.from_date + timedelta(days=n) for n in range((self.to_date - self.from_date).days + 1)]


def generator(part: str, seed: int, number: int) -> random.Random:
    """Return what draws one run of a part. Each run has one of its own, so that it can be repeated by itself."""
    return random.Random(f"{part}/{seed}/{number}")


def hand(seed: int, number: int, size: int, kinds: Collection[str]) -> list[str]:
    """
    Return the kinds of faults of a run.

    All runs of a seed take them from one row of shuffled decks, so that none is left out for long.
    """
    order = sorted(kinds)
    cards = []
    for place in range(number * size, (number + 1) * size if order else 0):
        deck, card = divmod(place, len(order))
        cards.append(random.Random(f"deck/{seed}/{deck}").sample(order, len(order))[card])
    return cards


def draw(rng: random.Random, kinds: Collection[str] = ()) -> Case:
    """Draw an export with one fault of each kind that is named, twice where it is named twice."""
    first = FIRST_DAY + timedelta(days=rng.randrange(30))
    last = first + timedelta(days=rng.randint(4, 16))
    made_up = rng.random() < 0.15
    names = NAMES if not made_up else tuple(sorted({name for _, script in SCRIPTS for name in script}))
    case_days = [first + timedelta(days=n) for n in range((last - first).days + 1)]
    return Case(
        seed=rng.getrandbits(32),
        from_date=first,
        to_date=last,
        chunk_days=rng.choice((1, 2, 3, 5, 7)),
        workers=rng.choice((1, 2, 4, 10, 30)),
        gzip_members=rng.choice((1, 1, 2, 5)),
        spool_bytes=rng.choice((None, None, 1, 5_000)),
        names=tuple(rng.sample(names, 2)) if rng.random() < 0.15 else None,
        made_up=made_up,
        faults=tuple(draw_fault(rng, kind, case_days) for kind in kinds),
        steps=("export", *(rng.choice(STEPS) for _ in range(rng.randint(1, 2)))),
        cancel_after=rng.randint(1, 25),
        linger=rng.choice(LINGERS),
    )


def draw_fault(rng: random.Random, kind: str, days: list[date]) -> Fault:
    """Draw a fault of a kind, on one of some days or on any."""
    sizes = {"bomb": BOMB_BYTES + (1 << 20), "long_line": MAX_LINE + rng.randint(1 << 10, 1 << 20)}
    status = rng.choice(STATUSES) if kind == "status" else None
    return Fault(
        kind,
        day=rng.choice(days) if rng.random() < 0.5 else None,
        # Five strikes outlast the four attempts of a batch.
        times=rng.choice((1, 1, 1, 1, 2, 5) if kind not in SLOW else (1, 1, 2)),
        at=rng.choice((rng.random(), rng.random(), rng.randrange(3000), 0.0, 1.0)),
        status=status,
        body=rng.choice(BODIES) if status not in (None, 204) else None,
        retry_after=rng.choice((None, 0, 0.05, "nonsense")) if status else None,
        seconds=rng.choice((0.0, 0.05, IDLE_SECONDS * 1.5)) if kind in ("stall", "slow_start") else None,
        size=sizes.get(kind),
    )


__all__ = ["FIRST_DAY", "KINDS", "LINGERS", "Case", "draw", "draw_fault", "generator", "hand"]
