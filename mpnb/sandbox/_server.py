"""The server: accepts connections, checks credentials, applies the quota and the faults, and answers."""

from __future__ import annotations

import base64
import contextlib
import hmac
import json
import math
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime
from functools import cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Literal
from urllib.parse import urlsplit

from mpnb._base.clock import utc_now
from mpnb._mixpanel.credentials import Credentials
from mpnb.sandbox._answer import Answer, Export, accepts_gzip, narrowed, refusal, refused_by
from mpnb.sandbox._days import Days, Part, days_between, part, part_of_lines
from mpnb.sandbox._faults import COMBINE, Fault, FaultBook, Target
from mpnb.sandbox._limiter import Limiter
from mpnb.sandbox._people import People, parse_page, spoiled
from mpnb.sandbox._query import BadQuery, Query, parameters, parse
from mpnb.sandbox._record import Entry
from mpnb.sandbox._wire import Gone, Wire

EXPORT = "/api/2.0/export"
ENGAGE = ("/api/query/engage", "/api/2.0/engage")
MAX_FORM = 1 << 20
NAME = "mpnb-sandbox (made-up data)"
# How long the days of "other_days" end before the days that were asked for.
OTHER_DAYS = timedelta(days=28)


@dataclass(slots=True)
class World:
    """The state that all connections of one server share."""

    credentials: Credentials
    days: Days
    faults: FaultBook
    limiter: Limiter
    today: Callable[[], date]
    retry_after: Literal["seconds", "date"] | None
    latency: float
    bytes_per_second: float | None
    gzip_members: int
    people: People
    people_limiter: Limiter
    pages_count: bool
    closing: threading.Event = field(default_factory=threading.Event)
    entries: list[Entry] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


def event_at(day: date) -> bytes:
    """Return an event at the first moment of a day."""
    seconds = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())
    return b'{"event":"Made Up","properties":{"time":%d,"distinct_id":"made up","made_up":true}}' % seconds


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server_version = NAME
    sys_version = ""
    server: Server

    def do_GET(self) -> None:
        world = self.server.world
        target = urlsplit(self.path)
        entry = Entry(time.monotonic(), parameters(target.query) | self._form())
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

    do_POST = do_GET

    def _form(self) -> dict[str, str]:
        """Return the parameters in the body of a request: a form, or a JSON object."""
        size = self.headers.get("Content-Length", "0")
        body = self.rfile.read(min(int(size), MAX_FORM) if size.isdigit() else 0).decode(errors="replace")
        if not self.headers.get("Content-Type", "").startswith("application/json"):
            return parameters(body)
        with contextlib.suppress(ValueError, AttributeError):
            return {
                name: each if isinstance(each, str) else json.dumps(each) for name, each in json.loads(body).items()
            }
        return {}

    @contextmanager
    def _answer(self, entry: Entry, path: str, wire: Wire) -> Iterator[Answer]:
        world = self.server.world
        if path != EXPORT and path not in ENGAGE:
            yield refusal(404)
            return
        if not self._authorized():
            yield refusal(401)
            return
        if path in ENGAGE:
            with self._page_of_people(entry, wire) as answer:
                yield answer
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

    @contextmanager
    def _page_of_people(self, entry: Entry, wire: Wire) -> Iterator[Answer]:
        world = self.server.world
        try:
            asked = parse_page(entry.params, world.credentials.project_id)
            entry.page = asked.page
            # A page that is read again in its session is one of its pages.
            is_first = not asked.session_id
            refused = world.people_limiter.enter(hourly=is_first or world.pages_count)
            if refused:
                message, wait = refused
                yield refusal(429, {"request": self.path, "error": message}, retry_after=self._retry_after(wait))
                return
            try:
                gzip = accepts_gzip(self.headers.get("Accept-Encoding", ""))
                marked = "redirected" in entry.params
                day = date.min
                target = Target(dict, day, day, gzip, marked, asked.page, asked.page_size is not None)
                [fault] = world.faults.take(target)[:1] or (None,)
                entry.fault = fault.kind if fault else None
                self._before_the_answer(fault, wire)
                port = self.server.server_address[1]
                answer = refused_by(fault, self.path, f"http://localhost:{port}") if fault else None
                if answer is None:
                    session = world.people.session(asked)
                    if fault:
                        world.people.change(session, fault.kind)
                    if fault and fault.kind == "session_expired":
                        raise BadQuery(400, "session_id is invalid or has expired")
                    page = part([spoiled(session, asked.page, fault.kind if fault else "")])
                    headers = {"Content-Type": "application/json"}
                    http10 = self.request_version == "HTTP/1.0"
                    answer = Export({day: page}, gzip, world.gzip_members, http10, headers).answer(fault)
                yield answer
            finally:
                world.people_limiter.leave()
        except BadQuery as error:
            yield refusal(error.status, {"request": self.path, "error": str(error), "status": "error"})

    def _export(self, entry: Entry, query: Query, wire: Wire) -> Answer:
        world = self.server.world

        @cache
        def parts(earlier: timedelta = timedelta(0)) -> dict[date, Part]:
            days = days_between(query.from_date - earlier, query.to_date - earlier)
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
        served = parts()
        if main and main.kind == "other_days":
            earlier = query.to_date - query.from_date + OTHER_DAYS
            # Of nothing nobody can tell which day it is of.
            served = parts(earlier) | {date.min: part_of_lines([event_at(query.from_date - earlier)])}
        export = Export(dict(served), gzip, world.gzip_members, self.request_version == "HTTP/1.0")
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
            wire.silence()
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
            return format_datetime(utc_now().replace(tzinfo=UTC) + timedelta(seconds=math.ceil(wait) + 1), usegmt=True)
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
            "Date": format_datetime(utc_now().replace(tzinfo=UTC), usegmt=True),
            "Server": NAME,
            **headers,
        }
        lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in head.items())]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing: the requests are recorded."""


class Server(socketserver.TCPServer):
    """
    A server on loopback, with a thread for each connection.

    Raises:
        OSError: the port is taken.
    """

    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.world: World
        self._lock = threading.Lock()
        self._open: dict[threading.Thread, socket.socket] = {}

    def run(self) -> None:
        """Accept connections until ``stop``."""
        while not self.world.closing.is_set():
            self.handle_request()

    def verify_request(self, request: object, client_address: object) -> bool:
        """Refuse the connection whose only purpose is to wake ``run``."""
        return not self.world.closing.is_set()

    def process_request(self, request: object, client_address: object) -> None:
        """Serve a connection in a thread that ``stop`` can wake and wait for."""
        assert isinstance(request, socket.socket)
        thread = threading.Thread(target=self._serve, args=(request, client_address), daemon=True)
        thread.name = "mpnb-sandbox-connection"
        with self._lock:
            self._open[thread] = request
        thread.start()

    def _serve(self, request: socket.socket, client_address: object) -> None:
        try:
            # The client left, or the server closes: no event for either.
            with contextlib.suppress(OSError):
                self.finish_request(request, client_address)
        finally:
            # No shutdown() first: it would send a FIN where the fault is a reset.
            request.close()
            with self._lock:
                self._open.pop(threading.current_thread(), None)

    def stop(self, running: threading.Thread) -> None:
        """End ``run``, which is in another thread, and every connection, and wait for their threads."""
        self.world.closing.set()
        # run() sits in its accept without a time limit, and a connection is what ends that on every system.
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.server_address[1]), timeout=1).close()
        running.join()
        self.server_close()
        with self._lock:
            connections = dict(self._open)
        for connection in connections.values():
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in connections:
            thread.join()
