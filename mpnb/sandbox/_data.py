"""Made-up events that read like a project's: people who come back, sessions, a week and a day with a rhythm."""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import accumulate
from zoneinfo import ZoneInfo

from mpnb.sandbox._stories import PLACES, PLATFORMS, SCRIPTS, variants

# Monday to Sunday; the mean is 1, so that a long range has events_per_day on average.
WEEK = (1.08, 1.12, 1.12, 1.10, 1.02, 0.78, 0.78)
# Share of the day's sessions that begin in each hour.
HOURS = (6, 4, 3, 2, 2, 4, 9, 18, 30, 38, 40, 38, 34, 37, 39, 38, 37, 38, 42, 48, 50, 42, 27, 13)
VARIANTS = 256
BLOCK_LINES = 1000

# What identity may lack: old libraries send no $insert_id, servers send events of nobody.
NOBODY = ("", ',"distinct_id":null', ',"distinct_id":""')


@dataclass(frozen=True, slots=True)
class _Cast:
    """What one seed makes up once: people, how often each comes back, and properties per kind of event."""

    identities: list[str]
    profiles: list[str]
    often: list[float]
    variants: dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class MadeUp:
    """
    Make up the events of any day, the same for the same arguments.

    Args:
        seed: any whole number.
        events_per_day: events on an average day, 0 or more.
        legacy_timezone: zone whose wall clock ``time`` shows and in which days are read, as in projects made
            before 2023; ``None`` for UTC.
    """

    seed: int
    events_per_day: int
    legacy_timezone: str | None = None

    def count(self, day: date) -> int:
        """Tell how many lines the day has, without making them up."""
        noise = self._random("count", day).uniform(0.94, 1.06)
        return round(self.events_per_day * WEEK[day.weekday()] * noise)

    def blocks(self, day: date, milliseconds: bool = False) -> Iterator[bytes]:
        """
        Make up the day's lines, in blocks of about a thousand, every line ended by a newline.

        Args:
            day: the day, in UTC or in the project's zone.
            milliseconds: give ``time`` in milliseconds, as ``time_in_ms`` asks.
        """
        left = self.count(day)
        cast = _cast(self.seed, min(20_000, max(12, self.events_per_day // 6)))
        rng = self._random("day", day)
        # A single character beyond Latin widens a whole joined str: short blocks keep memory flat on any day.
        for lines in self._sessions(day, cast, rng, left, milliseconds):
            yield "".join(lines).encode()

    def _sessions(
        self, day: date, cast: _Cast, rng: random.Random, left: int, milliseconds: bool
    ) -> Iterator[list[str]]:
        draw = rng.random
        midnight = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())
        last = midnight + 86_399
        to_utc = self._to_utc(midnight)
        pick_person = functools.partial(
            rng.choices, range(len(cast.profiles)), cum_weights=list(accumulate(cast.often))
        )
        pick_hour = functools.partial(rng.choices, range(24), cum_weights=list(accumulate(HOURS)))
        scripts = [script for _, script in SCRIPTS]
        pick_script = functools.partial(rng.choices, scripts, cum_weights=list(accumulate(w for w, _ in SCRIPTS)))
        kinds = cast.variants
        block: list[str] = []
        while left > 0:
            # Drawn by the hundred: choices() costs most at its start.
            for person, hour, script in zip(pick_person(k=100), pick_hour(k=100), pick_script(k=100), strict=True):
                odd = draw()
                identity = cast.identities[person] if odd > 0.03 else NOBODY[int(odd * 100)]
                old = 0.03 < odd < 0.045
                profile = cast.profiles[person]
                time = midnight + hour * 3600 + int(draw() * 3600)
                # Most events arrive within seconds; a phone that was offline sends hours later.
                late = 0 if draw() < 0.97 else int(draw() * 36 * 3_600_000)
                for kind in script:
                    time = min(time + 1 + int(draw() * 90), last)
                    bits = rng.getrandbits(88)
                    arrived = (to_utc(time) if to_utc else time) * 1000 + late + (bits & 4095)
                    processed = arrived + 150 + (bits & 2047)
                    shown = f"{time}{bits % 1000:03}" if milliseconds else time
                    insert_id = "" if old else f',"$insert_id":"{bits:022x}"'
                    head = f'{{"event":"{kind}","properties":{{"time":{shown}{identity}{insert_id},"mp_processing_time_ms":'
                    tail = (
                        f',"$mp_api_timestamp_ms":{arrived}{profile}{kinds[kind][bits & 255]}'
                        f',"trace_id":{1_000_000_000_000_000_000 + (bits >> 28)},"made_up":true}}}}\n'
                    )
                    block.append(f"{head}{processed}{tail}")
                    left -= 1
                    if not left:
                        break
                    if bits & 0xFF000 == 0xFF000 and not old:
                        # The same event sent twice: all of Mixpanel's key is equal, only the processing is newer.
                        block.append(f"{head}{processed + 5_000 + (bits & 0xFFF)}{tail}")
                        other = int(draw() * len(block))
                        block[other], block[-1] = block[-1], block[other]
                        left -= 1
                        if not left:
                            break
                if len(block) >= BLOCK_LINES:
                    yield block
                    block = []
                if not left:
                    break
        if block:
            yield block

    def _to_utc(self, midnight: int) -> Callable[[int], int] | None:
        if self.legacy_timezone is None:
            return None
        zone = ZoneInfo(self.legacy_timezone)
        start, end = (_offset(midnight + seconds, zone) for seconds in (0, 86_399))
        if start == end:
            return lambda shown: shown - start
        return lambda shown: shown - _offset(shown, zone)

    def _random(self, what: str, day: date) -> random.Random:
        # A str is hashed the same in every process, which hash() of a tuple is not.
        return random.Random(f"mpnb {self.seed} {self.events_per_day} {what} {day}")  # noqa: S311


def _offset(shown: int, zone: ZoneInfo) -> int:
    """Tell by how many seconds a wall clock that shows this time is ahead of UTC."""
    wall = datetime.fromtimestamp(shown, UTC).replace(tzinfo=zone)
    offset = wall.utcoffset() or timedelta()
    return int(offset.total_seconds())


@functools.lru_cache(maxsize=4)
def _cast(seed: int, people: int) -> _Cast:
    rng = random.Random(f"mpnb {seed} {people} people")  # noqa: S311
    identities, profiles, often = [], [], []
    for number in range(people):
        device = f"{rng.getrandbits(128):032x}"
        device = f"{device[:8]}-{device[8:12]}-{device[12:16]}-{device[16:20]}-{device[20:]}"
        known = rng.random() < 0.6
        user = (
            f"user-{number:06}" if rng.random() < 0.9 else f"{rng.choice(('zoë', 'łukasz', '田中', 'ольга'))}-{number}"
        )
        identity = {"distinct_id": user if known else f"$device:{device}", "$device_id": device}
        if known:
            identity["$user_id"] = user
        library, system, browser = rng.choices([row[1:] for row in PLATFORMS], [row[0] for row in PLATFORMS])[0]
        country, region, city = rng.choice(PLACES)
        profile: dict[str, object] = {
            "mp_lib": "mpnb sandbox",
            "$lib": library,
            "$os": system,
            "$city": city,
            "$region": region,
            "mp_country_code": country,
            "$screen_width": rng.choice((390, 412, 1280, 1440, 1920)),
        }
        if browser:
            profile |= {"$browser": browser, "$browser_version": rng.randint(99, 140)}
        if known:
            # Names that differ by case only: a column store folds them into one.
            plan = rng.choice(("free", "pro", "team"))
            profile |= {"plan": plan, "Plan": plan.title(), "account_id": rng.randint(10**18, 9 * 10**18)}
        identities.append("," + _inner(identity))
        profiles.append("," + _inner(profile))
        # A few people make most of the events.
        often.append(rng.paretovariate(1.3))
    return _Cast(identities, profiles, [min(weight, 60.0) for weight in often], _kinds(rng))


def _kinds(rng: random.Random) -> dict[str, list[str]]:
    names = {kind for _, script in SCRIPTS for kind in script}
    return {kind: ["," + _inner(variants(kind, rng)) for _ in range(VARIANTS)] for kind in sorted(names)}


def _inner(properties: dict[str, object] | dict[str, str]) -> str:
    return json.dumps(properties, ensure_ascii=False, separators=(",", ":"))[1:-1]
