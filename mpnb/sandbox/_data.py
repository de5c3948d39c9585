"""Made-up events that look like a real project's: returning users, sessions, weekly and daily patterns."""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import accumulate
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from mpnb._base.scalars import brief
from mpnb._errors import PlanError
from mpnb.sandbox._stories import PLACES, PLATFORMS, SCRIPTS, own_properties

# Monday to Sunday; the mean is 1, so that a long range has events_per_day on average.
WEEK = (1.08, 1.12, 1.12, 1.10, 1.02, 0.78, 0.78)
# Share of the day's sessions that begin in each hour.
HOURS = (6, 4, 3, 2, 2, 4, 9, 18, 30, 38, 40, 38, 34, 37, 39, 38, 37, 38, 42, 48, 50, 42, 27, 13)
VARIANTS = 256
BLOCK_LINES = 1000
# choices() costs most at its start: sessions are drawn by so many.
DRAWN_AT_ONCE = 256

# Servers send events of nobody in particular.
NOBODY = (b"", b',"distinct_id":null', b',"distinct_id":""')
# bytes, not str: one character beyond Latin would widen the whole text and triple the time to encode it.
TEMPLATE = (
    b'%b%d%b,"$insert_id":"%b%x","mp_processing_time_ms":%d,"$mp_api_timestamp_ms":%d%b%b,"trace_id":%d,'
    b'"made_up":true}}\n'
)
# Old libraries send no $insert_id.
TEMPLATE_OLD = TEMPLATE.replace(b',"$insert_id":"%b%x"', b"")


@dataclass(frozen=True, slots=True)
class _Person:
    """A person on a device, as the properties that all of their events share."""

    identity: bytes
    profile: bytes


@dataclass(frozen=True, slots=True)
class _Cast:
    """The people of one seed, how often each comes back, and what happens to them."""

    people: list[_Person]
    often: list[float]
    # Per script, the events in a row: how the line begins, and the properties it may have of its own.
    scripts: list[list[tuple[bytes, list[bytes]]]]


@dataclass(frozen=True, slots=True)
class MadeUp:
    """
    A source of made-up events for any day, the same for the same arguments.

    Args:
        seed: any whole number.
        events_per_day: events on an average day, 0 or more.
        legacy_timezone: zone whose wall clock ``time`` shows and in which days are read, as in projects made
            before 2023; ``None`` for UTC.

    Raises:
        PlanError: there is no such zone.
    """

    seed: int
    events_per_day: int
    legacy_timezone: str | None = None

    def __post_init__(self) -> None:
        if self.legacy_timezone is not None:
            zone = self.legacy_timezone
            try:
                if isinstance(zone, str) and ZoneInfo(zone):
                    return
            except (ZoneInfoNotFoundError, ValueError, OSError):  # it looks for a file of that name
                pass
            raise PlanError(
                f"no time zone is called {brief(zone)}; their names are like 'Europe/Berlin'",
                argument="legacy_timezone",
            )

    def count(self, day: date) -> int:
        """Return the number of lines of a day, without making them up."""
        noise = self._random("count", day).uniform(0.94, 1.06)
        return round(self.events_per_day * WEEK[day.weekday()] * noise)

    def blocks(self, day: date, milliseconds: bool = False) -> Iterator[bytes]:
        """
        Yield the day's lines in blocks of about a thousand, with a newline after every line.

        Args:
            day: the day, in UTC or in the project's zone.
            milliseconds: give ``time`` in milliseconds, as ``time_in_ms`` asks; all else stays the same.
        """
        left = self.count(day)
        if not left:
            return
        cast = _cast(self.seed, self._people)
        rng = self._random("day", day)
        midnight = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())
        to_utc = self._to_utc(midnight)
        block: list[bytes] = []
        for session in self._sessions(cast, rng, midnight, to_utc, milliseconds):
            block += session[:left]
            left -= len(session)
            if len(session) > 1 and rng.random() < 0.5:
                # The export promises no order.
                other = int(rng.random() * len(block))
                block[other], block[-1] = block[-1], block[other]
            if len(block) >= BLOCK_LINES or left <= 0:
                yield b"".join(block)
                block = []
            if left <= 0:
                return

    def _sessions(
        self,
        cast: _Cast,
        rng: random.Random,
        midnight: int,
        to_utc: Callable[[int], int] | None,
        milliseconds: bool,
    ) -> Iterator[list[bytes]]:
        """Yield an endless sequence of sessions, each the lines of one person's visit."""
        draw, bits_of = rng.random, rng.getrandbits
        last = midnight + 86_399
        often, hours = list(accumulate(cast.often)), list(accumulate(HOURS))
        weights = list(accumulate(weight for weight, _ in SCRIPTS))
        while True:
            people = rng.choices(cast.people, cum_weights=often, k=DRAWN_AT_ONCE)
            begins = rng.choices(range(24), cum_weights=hours, k=DRAWN_AT_ONCE)
            scripts = rng.choices(cast.scripts, cum_weights=weights, k=DRAWN_AT_ONCE)
            for person, hour, script in zip(people, begins, scripts, strict=True):
                odd = draw()
                identity = person.identity if odd > 0.03 else NOBODY[int(odd * 100)]
                old = 0.03 < odd < 0.045
                visit = b"%08x" % bits_of(32)
                time = midnight + int((hour + draw()) * 3600)
                # Most events arrive within seconds; a phone that was offline sends hours later.
                late = 0 if draw() < 0.97 else int(draw() * 36 * 3_600_000)
                lines = []
                for head, own in script:
                    bits = bits_of(60) | 1 << 60
                    small = bits & 0xFFFFF
                    time = min(time + 1 + small % 90, last)
                    arrived = (to_utc(time) if to_utc else time) * 1000 + late + (small & 4095)
                    processed = arrived + 150 + (small >> 9)
                    shown = time * 1000 + small % 1000 if milliseconds else time
                    rest = arrived, person.profile, own[bits >> 52 & 255], bits
                    if old:
                        lines.append(TEMPLATE_OLD % (head, shown, identity, processed, *rest))
                        continue
                    lines.append(TEMPLATE % (head, shown, identity, visit, bits, processed, *rest))
                    if small < 4096:
                        # The same event sent twice: all of Mixpanel's key is equal, only the processing is newer.
                        processed += 5_000 + small
                        lines.append(TEMPLATE % (head, shown, identity, visit, bits, processed, *rest))
                yield lines

    def profiles(self, count: int | None = None) -> list[bytes]:
        """
        Return the profiles of the people in these events, or of some number of other people.

        Of the people in events, those have one who have signed up: a device has none.
        """
        if count is None:
            cast = _cast(self.seed, self._people)
            people = [person for person in cast.people if b'"$user_id"' in person.identity]
            return [_profile(person, number) for number, person in enumerate(people)]
        rng = random.Random(f"mpnb {self.seed} {count} profiles")  # noqa: S311 # nosec B311
        return [_profile(_person(number, rng, signed_up=True), number) for number in range(count)]

    @property
    def _people(self) -> int:
        return min(20_000, max(12, self.events_per_day // 6))

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
        return random.Random(f"mpnb {self.seed} {self.events_per_day} {what} {day}")  # noqa: S311 # nosec B311


def _offset(shown: int, zone: ZoneInfo) -> int:
    """Return by how many seconds local time is ahead of UTC when a clock shows this time."""
    offset = datetime.fromtimestamp(shown, UTC).replace(tzinfo=zone).utcoffset()
    return int((offset or timedelta()).total_seconds())


@functools.lru_cache(maxsize=4)
def _cast(seed: int, people: int) -> _Cast:
    rng = random.Random(f"mpnb {seed} {people} people")  # noqa: S311 # nosec B311
    kinds = sorted({kind for _, script in SCRIPTS for kind in script})
    acts = {
        kind: (
            b'{"event":"%b","properties":{"time":' % kind.encode(),
            [_inner(own_properties(kind, rng)) for _ in range(VARIANTS)],
        )
        for kind in kinds
    }
    return _Cast(
        [_person(number, rng) for number in range(people)],
        # A few people make most of the events.
        [min(rng.paretovariate(1.3), 60.0) for _ in range(people)],
        [[acts[kind] for kind in script] for _, script in SCRIPTS],
    )


def _person(number: int, rng: random.Random, *, signed_up: bool = False) -> _Person:
    device = f"{rng.getrandbits(128):032x}"
    device = f"{device[:8]}-{device[8:12]}-{device[12:16]}-{device[16:20]}-{device[20:]}"
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
    if rng.random() < 0.4 and not signed_up:
        return _Person(_inner({"distinct_id": f"$device:{device}", "$device_id": device}), _inner(profile))
    name = "user" if rng.random() < 0.9 else rng.choice(("zoë", "łukasz", "田中", "ольга"))
    user = f"{name}-{number:06}"
    plan = rng.choice(("free", "pro", "team"))
    # Names that differ by case only: a column store folds them into one.
    profile |= {"plan": plan, "Plan": plan.title(), "account_id": rng.randint(10**18, 9 * 10**18)}
    return _Person(_inner({"distinct_id": user, "$device_id": device, "$user_id": user}), _inner(profile))


def _profile(person: _Person, number: int) -> bytes:
    """Return the profile of a person who has signed up, as Mixpanel serves it."""
    who = json.loads(b"{%b}" % person.identity[1:])
    has: dict[str, object] = json.loads(b"{%b}" % person.profile[1:])
    seen = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=7919 * number % 2_592_000)
    created = seen - timedelta(days=1 + number % 400)
    properties: dict[str, object] = {
        "$name": str(who["$user_id"]),
        "$email": f"{number}@made-up.example",
        "$city": has["$city"],
        "$region": has["$region"],
        "$country_code": has["mp_country_code"],
        "$created": created.strftime("%Y-%m-%dT%H:%M:%S"),
        "$last_seen": seen.strftime("%Y-%m-%dT%H:%M:%S"),
        "plan": has["plan"],
        "account_id": has["account_id"],
        "seats": number % 9,
        "made_up": True,
    }
    profile = {"$distinct_id": who["distinct_id"], "$properties": properties}
    return json.dumps(profile, ensure_ascii=False, separators=(",", ":")).encode()


def _inner(properties: Mapping[str, object]) -> bytes:
    """Return properties as JSON to be appended to others, with a leading comma."""
    return b"," + json.dumps(properties, ensure_ascii=False, separators=(",", ":"))[1:-1].encode()
