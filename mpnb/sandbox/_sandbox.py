"""``serve()``, and the handle on the running server that it returns."""

from __future__ import annotations

import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime
from functools import cache
from types import TracebackType
from typing import Literal
from zoneinfo import ZoneInfo

from mpnb._base import clock as _clock
from mpnb._base.scalars import brief, real_number, whole_number
from mpnb._errors import PlanError
from mpnb._message import Argument
from mpnb._mixpanel.credentials import Credentials
from mpnb._mixpanel.quota import Quota
from mpnb.sandbox._data import MadeUp
from mpnb.sandbox._days import Days, checked_day, days_between
from mpnb.sandbox._faults import DAY_SECONDS, Fault, FaultBook
from mpnb.sandbox._limiter import Limiter
from mpnb.sandbox._people import People, Profiles
from mpnb.sandbox._record import Request
from mpnb.sandbox._server import Server, World


class Sandbox:
    """
    A running local server that behaves like Mixpanel's raw export API. Made by ``serve()``; a context manager.

    Any thread may call any method.
    """

    def __init__(self, server: Server, world: World) -> None:
        self._server = server
        self._world = world
        self._thread = threading.Thread(target=server.run, name="mpnb-sandbox", daemon=True)
        self._thread.start()

    @property
    def credentials(self) -> Credentials:
        """Return the credentials that this server, and no other, accepts."""
        return self._world.credentials

    @property
    def url(self) -> str:
        """Return the server's address: scheme, host and port."""
        return self.credentials.host

    @property
    def project_id(self) -> str:
        """Return the number of the made-up project."""
        return self.credentials.project_id

    @property
    def requests(self) -> tuple[Request, ...]:
        """Return the requests so far, in the order of arrival."""
        with self._world.lock:
            return tuple(entry.frozen() for entry in self._world.entries)

    @property
    def injected(self) -> Counter[str]:
        """Return the number of faults that requests got so far, by kind."""
        return self._world.faults.injected

    def lines(self, day: date) -> tuple[bytes, ...]:
        """Return the lines of a day, without newlines, as served without a filter and without a fault."""
        return self._world.days.lines(checked_day("day", day))

    def profiles(self) -> tuple[bytes, ...]:
        """Return the JSON objects of all profiles, as served without a filter and without a fault."""
        return tuple(self._world.people.profiles())

    def bad_lines(self, day: date) -> tuple[bytes, ...]:
        """Return the lines that the latest ``"bad_lines"`` fault inserted into a day; none before that."""
        return self._world.faults.bad_lines(checked_day("day", day))

    def count(self, from_date: date, to_date: date) -> int:
        """Return the number of lines of a range of days, both ends included."""
        first, last = checked_day("from_date", from_date), checked_day("to_date", to_date)
        return sum(self._world.days.count(day) for day in days_between(first, last))

    def add_fault(self, fault: Fault) -> None:
        """Add a fault after the existing ones. Raises ``PlanError`` for anything but a ``Fault``."""
        self._world.faults.add(fault)

    def clear_faults(self) -> None:
        """Remove all faults. Those that requests got already stay in ``injected``."""
        self._world.faults.clear()

    def close(self) -> None:
        """Close the server with all connections, sockets and threads. Safe to call again."""
        if not self._world.closing.is_set():
            self._server.stop(self._thread)

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<mpnb sandbox at {self.url}: made-up events of project {self.project_id}>"


def serve(
    *,
    seed: int = 0,
    events_per_day: int = 1000,
    today: date | None = None,
    quota: Quota | None = None,
    retry_after: Literal["seconds", "date"] | None = None,
    latency: float = 0.0,
    bytes_per_second: float | None = None,
    gzip_members: int = 1,
    faults: Iterable[Fault] = (),
    lines: Callable[[date], Sequence[bytes] | None] | None = None,
    port: int = 0,
    project_id: str | int | None = None,
    legacy_timezone: str | None = None,
    profiles: int | Callable[[], Sequence[bytes]] | None = None,
    groups: Mapping[str, Callable[[], Sequence[bytes]]] | None = None,
    query_quota: Quota | None = None,
    pages_count: bool = False,
    session_seconds: float | None = None,
) -> Sandbox:
    """
    Start a local server with made-up events that behaves like Mixpanel's raw export API.

    Args:
        seed: any whole number; the same seed makes the same bytes of a day.
        events_per_day: events on an average day, 0 or more; weekends have fewer.
        today: the last day that may be requested; ``None`` for today, in UTC or in ``legacy_timezone``.
        quota: limits on requests, enforced with 429s like Mixpanel's; ``None`` for no limits.
        retry_after: the form of Retry-After in 429s, ``"seconds"`` or an HTTP ``"date"``; ``None`` for none.
        latency: seconds before the first byte of an export, 0 or more.
        bytes_per_second: speed of each connection's body, more than 0; ``None`` for no limit.
        gzip_members: number of gzip members in a body, 1 or more.
        faults: what goes wrong, and when.
        lines: a function that returns the exact JSON lines of a day, without newlines, or ``None`` to let the sandbox
            make them up. Called in the threads of connections, again for each request.
        port: TCP port on 127.0.0.1; 0 for any free one.
        project_id: number of the project; ``None`` for one that no other server has.
        legacy_timezone: IANA zone of ``time`` and of the days, as in projects created before 2023; ``None`` for UTC.
        profiles: number of made-up people whose profiles ``/api/query/engage`` serves; or a function that returns the
            exact JSON object of each profile; ``None`` for the people in the events. Called at the beginning of each
            session, in the threads of connections.
        groups: such functions for the profiles of groups, by ``data_group_id``.
        query_quota: limits on requests for profiles, counted by themselves; ``None`` for no limits.
        pages_count: whether each page takes a place in the hour, or only the first of a session.
        session_seconds: for how long a session can be paged, 0 or more; ``None`` for as long as the server runs.

    Returns:
        The running server. Use it in a ``with`` statement, or call its ``close()``.

    Raises:
        PlanError: an argument is out of range or of the wrong type, or there is no such zone.
        OSError: the port is in use.
    """
    seed = whole_number("seed", seed, -(2**63), 2**63)
    events_per_day = whole_number("events_per_day", events_per_day, 0, 10**7)
    gzip_members = whole_number("gzip_members", gzip_members, 1, 10**6)
    port = whole_number("port", port, 0, 65_535)
    latency = real_number("latency", latency, 0, DAY_SECONDS)
    if bytes_per_second is not None:
        bytes_per_second = real_number("bytes_per_second", bytes_per_second, 0.001, 10**15)
    if retry_after is not None and (not isinstance(retry_after, str) or retry_after not in ("seconds", "date")):
        raise PlanError(Argument("retry_after"), f" must be None, 'seconds' or 'date', not {brief(retry_after)}")
    if quota is not None and not isinstance(quota, Quota):
        raise PlanError(Argument("quota"), f" must be an mpnb.Quota, or None for no limits, not {brief(quota)}")
    if lines is not None and not callable(lines):
        raise PlanError(Argument("lines"), f" must be a function of a day, not {brief(lines)}")
    if query_quota is not None and not isinstance(query_quota, Quota):
        why = f" must be an mpnb.Quota, or None for no limits, not {brief(query_quota)}"
        raise PlanError(Argument("query_quota"), why)
    if profiles is not None and not callable(profiles):
        profiles = whole_number("profiles", profiles, 0, 10**7)
    if session_seconds is not None:
        session_seconds = real_number("session_seconds", session_seconds, 0, DAY_SECONDS)
    last_day = None if today is None else checked_day("today", today)
    made_up = MadeUp(seed, events_per_day, legacy_timezone)
    if not isinstance(faults, Iterable):
        raise PlanError(Argument("faults"), f" must be Faults in a list, not {brief(faults)}")
    book = FaultBook(faults)
    server = Server(port)
    # Twelve digits, so that it is never taken for a real project's seven.
    number = project_id if project_id is not None else 10**11 + secrets.randbelow(9 * 10**11)
    try:
        credentials = Credentials(
            f"sandbox.{secrets.token_hex(3)}.mp-service-account",
            secrets.token_urlsafe(24),
            number,
            base_url=f"http://127.0.0.1:{server.server_address[1]}",
        )
    except Exception:
        server.server_close()
        raise
    server.world = world = World(
        credentials=credentials,
        days=Days(made_up, lines),
        faults=book,
        limiter=Limiter(quota, credentials.project_id),
        today=lambda: last_day or _today(legacy_timezone),
        retry_after=retry_after,
        latency=latency,
        bytes_per_second=bytes_per_second,
        gzip_members=gzip_members,
        people=People(_profiles(made_up, profiles), session_seconds=session_seconds, groups=groups),
        people_limiter=Limiter(query_quota, credentials.project_id),
        pages_count=bool(pages_count),
    )
    return Sandbox(server, world)


def _profiles(made_up: MadeUp, profiles: int | Profiles | None) -> Profiles:
    """Return what gives the profiles: the caller's function, or people made up once."""
    return profiles if callable(profiles) else cache(lambda: made_up.profiles(profiles))


def _today(zone: str | None) -> date:
    if zone is None:
        return _clock.today()
    return datetime.fromtimestamp(_clock.epoch_seconds(), ZoneInfo(zone)).date()
