"""The TCP connections of a worker: bytes sent, speed, and how another thread aborts them."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from typing import Any, Literal

import httpcore

Step = Literal["connect", "tls", "proxy", "send"]


class TooSlow(httpcore.ReadTimeout):
    """Bytes arrive more slowly than the least speed."""


class Wire(httpcore.NetworkBackend):
    """
    The connections of one worker, one at a time.

    All methods are the worker's, but for ``abort`` and ``connecting``, which any thread may call.

    Args:
        clock: gives seconds that never go back.

    Attributes:
        step: the last thing that was begun: to connect, to agree on TLS, to ask a proxy, to send a request.
        peer: the host that it was begun with.
        sent: whether anything of a request for the server left this machine.
        obstacle: what the system said when a connection could not be made.
        proxy_seconds: what a proxy has for its answer.
        connecting: whether a connection is being made, which nobody can wake.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.step: Step = "connect"
        self.peer = ""
        self.sent = False
        self.obstacle: BaseException | None = None
        self.proxy_seconds = math.inf
        self.connecting = False
        self._clock = clock
        self._backend = httpcore.SyncBackend()
        self._socket: socket.socket | None = None
        self._aborted = False
        self._least, self._window = 0.0, math.inf
        self._waited, self._arrived = 0.0, 0

    def begin(self, *, proxy_seconds: float, least: float, window: float) -> None:
        """
        Begin a request.

        Args:
            proxy_seconds: what a proxy has for its answer.
            least: bytes a second that an answer has from its first byte on, or is given up.
            window: seconds of waiting over which that is counted.
        """
        self.step, self.sent, self.obstacle = "connect", False, None
        self.proxy_seconds = proxy_seconds
        self._least, self._window = least, window
        self._arrived = 0

    def abort(self) -> None:
        """
        Abort the connection, and let no new one be made. Any thread may call it.

        To close a socket does not wake its reader; to shut it down does. ``socket.socket.shutdown`` and not the TLS
        socket's own: that would take the session away from under the reader.
        """
        self._aborted = True
        if self._socket is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect, for httpcore."""
        self.step, self.peer = "connect", host
        return self._connected(
            lambda: self._backend.connect_tcp(host, port, timeout, local_address, socket_options or [])
        )

    def start_tls(
        self, stream: httpcore.NetworkStream, tls: ssl.SSLContext, host: str | None, timeout: float | None
    ) -> httpcore.NetworkStream:
        """Start TLS on a connection, for its stream."""
        self.step, self.peer = "tls", host or self.peer
        tls.sslsocket_class = _TlsSocket
        return self._connected(lambda: stream.start_tls(tls, host, timeout))

    def _connected(self, connect: Callable[[], httpcore.NetworkStream]) -> httpcore.NetworkStream:
        self.connecting = True
        try:
            stream = connect()
        except Exception as error:
            self.obstacle = error.__cause__ or error  # httpcore's pool drops the cause
            raise
        finally:
            self.connecting = False
        self._socket = stream.get_extra_info("socket")
        if self._aborted:
            self.abort()
        return _Stream(self, stream)

    def write(self, stream: httpcore.NetworkStream, data: bytes, timeout: float | None) -> None:
        """Send bytes, for a stream."""
        if data.startswith((b"GET ", b"POST ")):
            self.step, self.sent = "send", True
        elif self.step != "send":
            self.step = "proxy"
        stream.write(data, timeout)

    def read(self, stream: httpcore.NetworkStream, size: int, timeout: float | None) -> bytes:
        """Wait for bytes, for a stream. Raises ``TooSlow``."""
        if self.step != "send":
            # httpcore would wait for a SOCKS proxy for ever, and for another as long as for Mixpanel.
            return stream.read(size, self.proxy_seconds)
        began = self._clock()
        data = stream.read(size, timeout)
        # The wait for the first byte has a limit of its own: minutes can pass before Mixpanel has something to say.
        # Only what is waited for here counts: the disk and the budget may hold a worker up as well.
        self._waited = self._waited + self._clock() - began if self._arrived else 0.0
        self._arrived += len(data)
        if self._waited >= self._window:
            if self._arrived < self._least * self._waited:
                raise TooSlow(f"fewer than {self._least:.0f} bytes a second arrived for {self._waited:.0f} s")
            self._waited, self._arrived = 0.0, 1
        return data


class _TlsSocket(ssl.SSLSocket):
    """A TLS socket whose peer may have reset the connection before TLS began: ``ssl`` would leave it open then."""

    def getpeername(self) -> Any:
        try:
            return super().getpeername()
        except OSError as error:
            self.close()
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)) from error


class _Stream(httpcore.NetworkStream):
    """A network stream for httpcore that passes everything to its wire."""

    def __init__(self, wire: Wire, stream: httpcore.NetworkStream) -> None:
        self._wire = wire
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._wire.read(self._stream, max_bytes, timeout)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._wire.write(self._stream, buffer, timeout)

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return self._wire.start_tls(self._stream, ssl_context, server_hostname, timeout)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
