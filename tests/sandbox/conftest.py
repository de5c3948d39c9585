"""A client that sees what is really on the wire, and says how a connection ended."""

from __future__ import annotations

import base64
import socket
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from urllib.parse import urlencode

import pytest

from mpnb.sandbox import Sandbox

DAY = date(2026, 1, 6)
TODAY = date(2026, 2, 1)


@dataclass
class Got:
    """What came: ``end`` is frame (as promised), fin, rst or silence."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    end: str = ""

    def members(self) -> list[bytes]:
        """Unpack each gzip member; zlib.error if one is not sound, EOFError if it is not whole."""
        plain, rest = [], self.body
        while rest:
            unpack = zlib.decompressobj(31)
            plain.append(unpack.decompress(rest) + unpack.flush())
            if not unpack.eof:
                raise EOFError
            rest = unpack.unused_data
        return plain

    @property
    def plain(self) -> bytes:
        return b"".join(self.members()) if self.headers.get("content-encoding") == "gzip" else self.body

    @property
    def lines(self) -> list[bytes]:
        return self.plain.split(b"\n")[:-1]


class Raw:
    """One connection to a sandbox."""

    def __init__(self, mp: Sandbox, timeout: float = 5.0) -> None:
        self.mp = mp
        host, port = mp.url.removeprefix("http://").split(":")
        self.socket = socket.create_connection((host, int(port)), timeout)
        self.buffer = b""
        self.timeout = timeout
        self.deadline = time.monotonic() + timeout

    def close(self) -> None:
        self.socket.close()

    def send(
        self, from_date: object = DAY, to_date: object = None, *, gzip: bool = True, version: str = "1.1", **params: str
    ) -> None:
        given = {"from_date": from_date, "to_date": to_date or from_date, "project_id": self.mp.project_id} | params
        self.send_target("/api/2.0/export?" + urlencode(given), gzip=gzip, version=version)

    def send_target(self, target: str, *, gzip: bool = True, version: str = "1.1") -> None:
        own = self.mp.credentials
        head = [f"GET {target} HTTP/{version}", "Host: sandbox"]
        head += ["Authorization: Basic " + base64.b64encode(f"{own.username}:{own.secret}".encode()).decode()]
        head += ["Accept-Encoding: gzip"] if gzip else []
        self.socket.sendall("\r\n".join([*head, "", ""]).encode())

    def read(self) -> Got:
        got = Got()
        self.deadline = time.monotonic() + self.timeout
        try:
            head = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
            got.status = int(head[0].split()[1])
            got.headers = {
                name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)
            }
            self._body(got)
            got.end = "frame"
        except EOFError:
            got.end = "fin"
        except ConnectionResetError:
            got.end = "rst"
        except TimeoutError:
            got.end = "silence"
        return got

    def _body(self, got: Got) -> None:
        if got.headers.get("transfer-encoding") == "chunked":
            while size := int(self._until(b"\r\n"), 16):
                self._take(got, size)
                self._until(b"\r\n")
            self._until(b"\r\n")
        elif "content-length" in got.headers:
            self._take(got, int(got.headers["content-length"]))
        else:
            self._take(got, 2**40)

    def _until(self, mark: bytes) -> bytes:
        while mark not in self.buffer:
            self._more()
        found, self.buffer = self.buffer.split(mark, 1)
        return found

    def _take(self, got: Got, size: int) -> None:
        while True:
            part, self.buffer = self.buffer[:size], self.buffer[size:]
            got.body += part
            size -= len(part)
            if not size:
                return
            self._more()

    def _more(self) -> None:
        # Of the whole answer: a timeout of the socket alone would start anew with each byte.
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.socket.settimeout(left)
        data = self.socket.recv(65536)
        if not data:
            raise EOFError
        self.buffer += data


@pytest.fixture
def connect(request: pytest.FixtureRequest) -> Callable[..., Raw]:
    """Open a connection that is closed after the test."""

    def open_one(mp: Sandbox, timeout: float = 5.0) -> Raw:
        raw = Raw(mp, timeout)
        request.addfinalizer(raw.close)
        return raw

    return open_one


@pytest.fixture
def ask(connect: Callable[..., Raw]) -> Callable[..., Got]:
    """Send one request on a connection of its own, and give what came."""

    def once(mp: Sandbox, *args: object, timeout: float = 5.0, **kwargs: object) -> Got:
        raw = connect(mp, timeout)
        raw.send(*args, **kwargs)
        return raw.read()

    return once
