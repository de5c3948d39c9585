"""The server: accepts, checks who asks, lets the limiter and the faults have their say, and keeps a record."""

from __future__ import annotations

import base64
import contextlib
import hmac
import math
import secrets
import socket
import socketserver
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime
from functools import cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import Literal
from urllib.parse import urlsplit

from mpnb._credentials import Credentials
from mpnb._limits import Quota
from mpnb.sandbox._answer import Answer, Export, accepts_gzip, narrowed, refusal, refused_by
from mpnb.sandbox._data import MadeUp
from mpnb.sandbox._days import Days, Part, days_between
from mpnb.sandbox._faults import COMBINE, Fault, FaultBook, Target
from mpnb.sandbox._limiter import Limiter
from mpnb.sandbox._query import BadQuery, Query, parameters, parse
from mpnb.sandbox._wire import Gone, Wire

EXPORT = "/api/2.0/export"


@dataclass(frozen=True, slots=True)
class Request:
    """
    Record one request.

    Args:
        at: when it came, in seconds of ``time.monotonic()``.
        from_date: first day asked for, ``None`` if it could not be read.
        to_date: last day asked for, likewise.
        params: the parameters as they came.
        status: HTTP status that was answered, 0 if none was (yet).
        bytes: bytes of the body that were sent, without framing.
        fault: kinds of the faults that struck, joined by ``+``, or ``None``.
    """

    at: float
    from_date: date | None
    to_date: date | None
    params: Mapping[str, str]
    status: int
    bytes: int
    fault: str | None


@dataclass(slots=True)
class _Entry:
    """A request whose record is still being written, by its own thread only."""

    at: float
    params: dict[str, str]
    from_date: date | None = None
    to_date: date | None = None
    status: int = 0
    bytes: int = 0
    fault: str | None = None

    def frozen(self) -> Request:
        return Request(
            self.at, self.from_date, self.to_date, dict(self.params), self.status, self.bytes, self.fault
        )  # fmt: skip

    def sent(self, count: int) -> None:
        self.bytes += count


@dataclass(slots=True)
class _World:
    """What all connections of one server share."""

    credentials: Credentials
    days: Days
    faults: FaultBook
    limiter: Limiter
    today: Callable[[], date]
    retry_after: Literal["seconds", "date"] | None
    latency: float
    bytes_per_second: float | None
    gzip_members: int
    closing: threading.Event = field(default_factory=threading.Event)
    entries: list[_Entry] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        world = self.server.world
        target = urlsplit(self.path)
        entry = _Entry(time.monotonic(), parameters(target.query))
        with world.lock:
            world.entries.append(entry)
        wire = Wire(self.connection, world.closing, world.bytes_per_second, entry.sent)

        def head(status: int, headers: dict[str, str]) -> bytes:
            entry.status = status
            return self._head(status, headers)

        try:
            with self._answer(entry, target.path, wire) as answer:
                answer.send(wire, head)
        except Gone:
            self.close_connection = True

    @contextmanager
    def _answer(self, entry: _Entry, path: str, wire: Wire) -> Iterator[Answer]:
        world = self.server.world
        if path != EXPORT:
            yield refusal(404)
            return
        if not self._authorized():
            yield refusal(401)
            return
        try:
            query = parse(entry.params, world.credentials.project_id, world.today())
        except BadQuery as error:
            yield refusal(error.status, {"request": self.path, "error": str(error)})
            return
        entry.from_date, entry.to_date = query.from_date, query.to_date
        refused = world.limiter.enter()
        if refused:
            message, wait = refused
            yield refusal(429, {"request": self.path, "error": message}, retry_after=self._retry_after(wait))
            return
        try:
            yield self._export(entry, query, wire)
        finally:
            world.limiter.leave()

    def _export(self, entry: _Entry, query: Query, wire: Wire) -> Answer:
        world = self.server.world

        @cache
        def parts() -> dict[date, Part]:
            days = days_between(query.from_date, query.to_date)
            whole = {day: world.days.part(day, query.milliseconds) for day in days}
            return narrowed(whole, query.keep, query.limit) if query.filters else whole

        gzip = accepts_gzip(self.headers.get("Accept-Encoding", ""))
        counts = cache(lambda: {day: each.count for day, each in parts().items()})
        marked = "redirected" in entry.params
        faults = world.faults.take(Target(counts, query.from_date, query.to_date, gzip, marked))
        entry.fault = "+".join(fault.kind for fault in faults) or None
        main = next((fault for fault in faults if fault.kind not in COMBINE), None)
        self._before_the_answer(main, wire)
        if main:
            port = self.server.server_address[1]
            answer = refused_by(main, self.path, f"http://localhost:{port}")
            if answer:
                return answer
        export = Export(dict(parts()), gzip, world.gzip_members, self.request_version == "HTTP/1.0")
        for fault in faults:
            if fault.kind == "charset":
                export.headers["Content-Type"] = "text/plain; charset=latin-1"
            elif fault.kind == "bad_lines":
                put = export.put_bad_lines(fault)
                if put:
                    world.faults.note_bad_lines(*put)
        return export.answer(main)

    def _before_the_answer(self, fault: Fault | None, wire: Wire) -> None:
        kind = fault.kind if fault else ""
        if kind == "disconnect":
            wire.stop()
        if kind == "reset_headers":
            wire.reset()
        if kind == "hang_start":
            wire.silence_until_left()
        wait = self.server.world.latency
        if fault and kind == "slow_start":
            wait += 1.0 if fault.seconds is None else fault.seconds
        if wait:
            wire.silence(wait)

    def _authorized(self) -> bool:
        own = self.server.world.credentials
        want = base64.b64encode(f"{own.username}:{own.secret}".encode())
        scheme, _, given = self.headers.get("Authorization", "").partition(" ")
        return scheme.lower() == "basic" and hmac.compare_digest(given.strip().encode(), want)

    def _retry_after(self, wait: float) -> str | None:
        world = self.server.world
        if world.retry_after == "seconds":
            return str(math.ceil(wait))
        if world.retry_after == "date":
            # Whole seconds only, so one more: a client that keeps to it must not come too early.
            return format_datetime(datetime.now(UTC) + timedelta(seconds=math.ceil(wait) + 1), usegmt=True)
        return None

    def _head(self, status: int, headers: dict[str, str]) -> bytes:
        try:
            phrase = HTTPStatus(status).phrase
        except ValueError:
            phrase = "Made Up"
        if headers.get("Connection", "").lower() == "close":
            self.close_connection = True
        elif self.close_connection:
            headers["Connection"] = "close"
        elif self.request_version == "HTTP/1.0":
            headers["Connection"] = "keep-alive"
        head = {
            "Date": format_datetime(datetime.now(UTC), usegmt=True),
            "Server": "mpnb-sandbox (made-up data)",
        } | headers
        lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in head.items())]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet: the record tells what came."""


class _Server(socketserver.TCPServer):
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.world: _World
        self._lock = threading.Lock()
        self._open: dict[threading.Thread, socket.socket] = {}

    def process_request(self, request: object, client_address: object) -> None:
        """Serve a connection in a thread of its own, which ``close_all`` can wake and wait for."""
        assert isinstance(request, socket.socket)
        thread = threading.Thread(target=self._serve, args=(request, client_address), daemon=True)
        thread.name = "mpnb-sandbox-connection"
        with self._lock:
            self._open[thread] = request
        thread.start()

    def _serve(self, request: socket.socket, client_address: object) -> None:
        try:
            # OSError: the client left. ValueError: the server closed the file under a read.
            with contextlib.suppress(OSError, ValueError):
                self.finish_request(request, client_address)
        finally:
            # No shutdown() first: it would send a FIN where the fault is a reset.
            request.close()
            with self._lock:
                self._open.pop(threading.current_thread(), None)

    def close_all(self) -> None:
        """End every connection and wait for their threads."""
        with self._lock:
            connections = dict(self._open)
        for connection in connections.values():
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in connections:
            thread.join()


class Sandbox:
    """
    Stand in for Mixpanel's raw export API. Made by ``serve()``; a context manager that closes itself.

    Any thread may call any method.
    """

    def __init__(self, server: _Server, world: _World) -> None:
        self._server = server
        self._world = world
        self._thread = threading.Thread(target=self._run, name="mpnb-sandbox", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        # The wait that close() may have to sit out; the wakeups cost nothing that shows.
        self._server.serve_forever(poll_interval=0.05)

    @property
    def credentials(self) -> Credentials:
        """Give the credentials that this server, and no other, accepts."""
        return self._world.credentials

    @property
    def url(self) -> str:
        """Give scheme, host and port."""
        return self.credentials.host

    @property
    def project_id(self) -> str:
        """Give the number of the made-up project."""
        return self.credentials.project_id

    @property
    def requests(self) -> tuple[Request, ...]:
        """Give the record of the requests so far, in the order in which they came."""
        with self._world.lock:
            return tuple(entry.frozen() for entry in self._world.entries)

    @property
    def injected(self) -> Counter[str]:
        """Count, by kind, the faults that struck so far."""
        return self._world.faults.injected

    def lines(self, day: date) -> tuple[bytes, ...]:
        """Give the lines of a day, without newlines, as served when no filter and no fault interferes."""
        return self._world.days.lines(day)

    def bad_lines(self, day: date) -> tuple[bytes, ...]:
        """Give the lines that the latest ``"bad_lines"`` fault put among a day's; none before it struck."""
        return self._world.faults.bad_lines(day)

    def count(self, from_date: date, to_date: date) -> int:
        """Tell how many lines the days of a range have, both ends included."""
        return sum(self._world.days.count(day) for day in days_between(from_date, to_date))

    def add_fault(self, fault: Fault) -> None:
        """Add a fault behind those that are there."""
        self._world.faults.add(fault)

    def clear_faults(self) -> None:
        """Forget all faults that have not struck yet."""
        self._world.faults.clear()

    def close(self) -> None:
        """End all connections, and leave no thread and no socket. Safe to call again."""
        if self._world.closing.is_set():
            return
        self._world.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._server.close_all()

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
) -> Sandbox:
    """
    Serve made-up events on loopback, as Mixpanel serves a project's.

    Args:
        seed: any whole number; the same seed makes the same bytes of a day.
        events_per_day: events on an average day, 0 or more; weekends have fewer.
        today: the last day that may be asked for; ``None`` for today in UTC.
        quota: how often it may be asked, enforced with 429s as Mixpanel's limits are; ``None`` for no limits.
        retry_after: whether its 429s carry Retry-After, in ``"seconds"`` or as an HTTP ``"date"``.
        latency: seconds before the first byte of an export, 0 or more.
        bytes_per_second: pace of each connection's body, more than 0; ``None`` for as fast as it goes.
        gzip_members: gzip members that a body is divided into, 1 or more.
        faults: what goes wrong, and when.
        lines: gives the exact JSON lines of a day, without newlines, or ``None`` to leave the day to the sandbox.
            Called in the threads of connections, anew for each request.
        port: TCP port on 127.0.0.1; 0 for any free one.
        project_id: number of the project; ``None`` for one that no other server has.
        legacy_timezone: IANA zone that ``time`` and the days are in, as in projects made before 2023; ``None`` for UTC.

    Returns:
        The running server. Use it in a ``with`` statement, or call its ``close()``.

    Raises:
        ValueError: an argument is out of its range.
        OSError: the port is taken.
        zoneinfo.ZoneInfoNotFoundError: there is no such zone.
    """
    if (
        events_per_day < 0
        or latency < 0
        or gzip_members < 1
        or (bytes_per_second is not None and bytes_per_second <= 0)
    ):
        raise ValueError(
            "events_per_day and latency are 0 or more, gzip_members is 1 or more, bytes_per_second above 0"
        )
    if retry_after not in (None, "seconds", "date"):
        raise ValueError(f"retry_after is None, 'seconds' or 'date', not {retry_after!r}")
    made_up = MadeUp(seed, events_per_day, legacy_timezone)
    book = FaultBook(faults)
    server = _Server(port)
    # Twelve digits, so that it is never taken for a real project's seven.
    number = str(project_id) if project_id is not None else str(10**11 + secrets.randbelow(9 * 10**11))
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
    server.world = world = _World(
        credentials=credentials,
        days=Days(made_up, lines),
        faults=book,
        limiter=Limiter(quota, number),
        today=lambda: today or datetime.now(UTC).date(),
        retry_after=retry_after,
        latency=latency,
        bytes_per_second=bytes_per_second,
        gzip_members=gzip_members,
    )
    return Sandbox(server, world)
