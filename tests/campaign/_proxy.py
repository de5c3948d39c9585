"""
A proxy that breaks: it stands before a sandbox, answers CONNECT with TLS of its own, and plays tricks on answers.

It reads each answer of the sandbox whole, and sends what a trick makes of it.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable
from datetime import date
from pathlib import Path
from types import TracebackType
from urllib.parse import parse_qs, urlsplit

PEM = Path(__file__).with_name("invalid.pem")
HOST = "mixpanel.invalid"
# An answer for days so far from those that were asked for can be told from theirs.
FAR_DAYS = 3
HTML = b"<html><head><style>body { color: red }</style></head><body><h1>Sign in</h1></body></html>"


class Gone(Exception):
    """The connection ends here."""


class Answer:
    """Hold an answer in its parts, as bytes."""

    def __init__(self, head: bytes, body: bytes, days: tuple[date, date] | None) -> None:
        self.head = head
        self.body = body  # with its framing
        self.days = days

    @property
    def whole(self) -> bytes:
        """Return it as it was sent."""
        return self.head + self.body

    def is_good(self) -> bool:
        """Whether it brought events, compressed."""
        return b" 200 " in self.head.split(b"\r\n")[0] and b"content-encoding: gzip" in self.head.lower()

    def without(self, header: bytes) -> bytes:
        """Return its head without one header."""
        lines = self.head.split(b"\r\n")
        return b"\r\n".join(line for line in lines if not line.lower().startswith(header.lower() + b":"))


# --- tricks: what is sent in place of an answer, and whether the connection ends then ---------------------------------

Sent = tuple[bytes, bool]
Trick = Callable[[Answer, list[Answer], random.Random], Sent]


def _made_up(status: str, body: bytes, *headers: str) -> bytes:
    lines = (f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers)
    return "\r\n".join([*lines, "", ""]).encode() + body


def _stale(answer: Answer, earlier: list[Answer], rng: random.Random) -> Sent:
    """Answer with what another request got, where that can be told."""
    mine = answer.days
    far = [
        each
        for each in earlier
        if mine and each.days and each.is_good() and len(each.body) > 200
        if (each.days[0] - mine[1]).days > FAR_DAYS or (mine[0] - each.days[1]).days > FAR_DAYS
    ]
    return (rng.choice(far) if far else answer).whole, False


def _flipped(answer: Answer, earlier: list[Answer], rng: random.Random) -> Sent:
    """Flip a bit of a compressed body."""
    if not answer.is_good() or not answer.body:
        return answer.whole, False
    body = bytearray(answer.body)
    body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
    return answer.head + bytes(body), False


def _cut(answer: Answer, earlier: list[Answer], rng: random.Random) -> Sent:
    return answer.whole[: rng.randrange(len(answer.whole))], True


def _two_lengths(answer: Answer, earlier: list[Answer], rng: random.Random) -> Sent:
    return answer.head[:-2] + b"Content-Length: 20\r\nContent-Length: 10\r\n\r\n" + answer.body, False


TRICKS: dict[str, Trick] = {
    "twice": lambda answer, earlier, rng: (answer.whole * 2, False),
    "twice, then closed": lambda answer, earlier, rng: (answer.whole * 2, True),
    "surplus bytes": lambda answer, earlier, rng: (answer.whole + rng.randbytes(rng.randint(1, 50)), False),
    "surplus line": lambda answer, earlier, rng: (answer.whole + b'{"event": "A", "properties": {}}\n', False),
    "a timeout behind it": lambda answer, earlier, rng: (
        answer.whole + _made_up("408 Request Timeout", b"", "Connection: close"),
        rng.random() < 0.5,
    ),
    "an answer behind it": lambda answer, earlier, rng: (
        answer.whole + (rng.choice(earlier).whole if earlier else b""),
        False,
    ),
    "stale": _stale,
    "flipped": _flipped,
    "cut": _cut,
    "two lengths": _two_lengths,
    "nothing": lambda answer, earlier, rng: (b"", True),
    "empty gzip": lambda answer, earlier, rng: (_made_up("200 OK", b"", "Content-Encoding: gzip"), False),
    "unlabelled gzip": lambda answer, earlier, rng: (
        (answer.without(b"content-encoding") + answer.body, False) if answer.is_good() else (answer.whole, False)
    ),
    "sign-in": lambda answer, earlier, rng: (_made_up("200 OK", HTML, "Content-Type: text/html"), False),
    "error object": lambda answer, earlier, rng: (_made_up("200 OK", b'{"error": "an internal error"}\n'), False),
    "login wanted": lambda answer, earlier, rng: (_made_up("407 Proxy Authentication Required", b""), False),
    "bad gateway": lambda answer, earlier, rng: (_made_up("502 Bad Gateway", HTML), rng.random() < 0.5),
}
# What becomes of a CONNECT.
CONNECTS = {
    "": b"HTTP/1.1 200 Connection established\r\n\r\n",
    "connect 407": b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n",
    "connect 502": b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n",
    "connect garbage": b"\x15\x03\x01\x00\x02\x02\x28",
    "connect closed": b"",
}


class Proxy:
    """
    Listen on loopback. A context manager; any thread may call any method.

    Args:
        upstream: scheme, host and port of the sandbox.
        rng: draws what a trick does.
    """

    def __init__(self, upstream: str, rng: random.Random) -> None:
        where = urlsplit(upstream)
        assert where.hostname is not None
        self._upstream = (where.hostname, where.port)
        self._rng = rng
        self._lock = threading.Lock()
        self._plan: dict[int, str] = {}
        self._requests = itertools.count()
        self._earlier: list[Answer] = []
        self._open: dict[threading.Thread, list[socket.socket]] = {}
        self.connect = ""  # one of CONNECTS
        self.played: Counter[str] = Counter()
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(PEM)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, name="campaign-proxy", daemon=True)
        self._thread.start()

    def play(self, plan: dict[int, str]) -> None:
        """Play tricks on requests by their number, counted from now."""
        with self._lock:
            self._plan, self._requests = plan, itertools.count()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close every connection, and wait for their threads."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        with self._lock:
            threads = dict(self._open)
        for thread, sockets in threads.items():
            for each in sockets:
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(each, socket.SHUT_RDWR)
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            sockets = [client]
            thread = threading.Thread(target=self._serve, args=(client, sockets), name="campaign-proxy", daemon=True)
            with self._lock:
                self._open[thread] = sockets
            thread.start()

    def _serve(self, client: socket.socket, sockets: list[socket.socket]) -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(lambda: [each.close() for each in sockets])
            with contextlib.suppress(OSError, Gone):
                head = _head(stack.enter_context(client.makefile("rb", 0)))
                if head.startswith(b"CONNECT"):
                    client.sendall(CONNECTS[self.connect])
                    if self.connect:
                        raise Gone
                    client = self._tls.wrap_socket(client, server_side=True)
                    sockets.append(client)
                    head = _head(stack.enter_context(client.makefile("rb", 0)))
                # A sandbox's faults may end its connection: each request has one of its own.
                while True:
                    if not self._answer(client, head):
                        raise Gone
                    head = _head(stack.enter_context(client.makefile("rb", 0)))
        with self._lock:
            self._open.pop(threading.current_thread(), None)

    def _answer(self, client: socket.socket, head: bytes) -> bool:
        """Answer one request, and return whether the connection goes on."""
        with socket.create_connection(self._upstream) as upstream, upstream.makefile("rb") as reader:
            upstream.sendall(head)
            answer_head = _head(reader)
            answer = Answer(answer_head, _body(reader, answer_head), _days(head))
        with self._lock:
            trick = self._plan.get(next(self._requests), "")
            earlier = list(self._earlier)
            data, ends = TRICKS[trick](answer, earlier, self._rng) if trick else (answer.whole, False)
            if data != answer.whole or ends:
                self.played[trick] += 1
            self._earlier.append(answer)
        client.sendall(data)
        return not ends


def _head(reader: object) -> bytes:
    """Read the head of a message, byte by byte: what follows is for others."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = reader.read(1)  # type: ignore[attr-defined]
        if not byte:
            raise Gone
        head += byte
    return head


def _body(reader: object, head: bytes) -> bytes:
    """Read a body with its framing."""
    headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
    if b"content-length" in headers:
        return _exactly(reader, int(headers[b"content-length"]))
    if b"transfer-encoding" not in headers:
        return reader.read()  # type: ignore[attr-defined, no-any-return]
    body = b""
    while True:
        line = reader.readline()  # type: ignore[attr-defined]
        if not line.endswith(b"\n"):
            raise Gone
        body += line + _exactly(reader, int(line, 16) + 2)
        if int(line, 16) == 0:
            return body


def _exactly(reader: object, size: int) -> bytes:
    data: bytes = reader.read(size)  # type: ignore[attr-defined]
    if len(data) < size:
        raise Gone
    return data


def _days(head: bytes) -> tuple[date, date] | None:
    asked = parse_qs(urlsplit(head.split(b" ")[1].decode()).query)
    try:
        return date.fromisoformat(asked["from_date"][0]), date.fromisoformat(asked["to_date"][0])
    except (KeyError, ValueError):
        return None
