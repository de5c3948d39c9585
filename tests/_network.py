"""Real servers on loopback for tests of the network: raw ones, one that speaks TLS, and a proxy."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from tests._helpers import joined

TLS = Path(__file__).parent / "tls"
CA = TLS / "ca.pem"
LOOPBACK = "127.0.0.1"


class Server:
    """
    Serve each connection on loopback by a function, in a thread of its own. A context manager.

    Args:
        serve: gets the connection, which is closed when it returns.
        port: 0 for any free one.
    """

    def __init__(self, serve: Callable[[socket.socket], object], port: int = 0) -> None:
        self._serve = serve
        self._listener = socket.create_server((LOOPBACK, port))
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            thread = threading.Thread(target=self._run, args=(connection,), daemon=True)
            with self._lock:
                self._threads.append(thread)
            thread.start()

    def _run(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), self.keeping(connection):
            self._serve(connection)

    @contextlib.contextmanager
    def keeping(self, connection: socket.socket) -> Iterator[socket.socket]:
        """Close a connection at the end of the block, and wake whoever reads it when the server ends."""
        with self._lock:
            self._open.add(connection)
        try:
            yield connection
        finally:
            with self._lock:
                self._open.discard(connection)
            connection.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                socket.socket.shutdown(each, socket.SHUT_RDWR)
        self._listener.close()
        joined(*self._threads)

    def join(self, one: socket.socket, other: socket.socket) -> None:
        """Carry bytes both ways until one side ends."""

        def carry(source: socket.socket, target: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while data := source.recv(1 << 16):
                    target.sendall(data)
            for each in (source, target):
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(each, socket.SHUT_RDWR)

        back = threading.Thread(target=carry, args=(other, one), daemon=True)
        back.start()
        carry(one, other)
        joined(back)


def head_of(connection: socket.socket) -> bytes:
    """Read up to the end of a request's head."""
    head = b""
    while b"\r\n\r\n" not in head:
        data = connection.recv(1 << 16)
        if not data:
            raise ConnectionError
        head += data
    return head


def tls_settings(certificate: str) -> ssl.SSLContext:
    """Return a server's settings with a certificate of ``tests/tls``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / f"{certificate}.pem")
    return context


def tls_to(port: int, certificate: str = "server", settings: ssl.SSLContext | None = None) -> Server:
    """Speak TLS in front of a server that does not."""
    context = settings or tls_settings(certificate)

    def serve(connection: socket.socket) -> None:
        with (
            server.keeping(context.wrap_socket(connection, server_side=True)) as private,
            server.keeping(socket.create_connection((LOOPBACK, port))) as plain,
        ):
            server.join(private, plain)

    server = Server(serve)
    return server


class Proxy(Server):
    """
    Stand in as an HTTP proxy, which leads whoever asks for whatever host to one port.

    Args:
        port: where it leads.
        answers: statuses of its first answers to CONNECT, 200 after them.
        private: whether it wants TLS itself.
    """

    def __init__(self, port: int, answers: tuple[str, ...] = (), *, private: bool = False) -> None:
        self._port = port
        self._answers = list(answers)
        self._tls = tls_settings("server") if private else None
        self.heads: list[str] = []
        super().__init__(self._carry)

    def _carry(self, connection: socket.socket) -> None:
        outer = self._tls.wrap_socket(connection, server_side=True) if self._tls else connection
        with self.keeping(outer):
            self.heads.append(head_of(outer).decode())
            status = self._answers.pop(0) if self._answers else "200 Connection established"
            if not status.startswith("200"):
                outer.sendall(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())
                return
            with self.keeping(socket.create_connection((LOOPBACK, self._port))) as inner:
                outer.sendall(f"HTTP/1.1 {status}\r\n\r\n".encode())
                self.join(outer, inner)


@contextlib.contextmanager
def nobody() -> Iterator[int]:
    """Hold a port at which nobody listens."""
    with socket.socket() as held:
        held.bind((LOOPBACK, 0))
        yield held.getsockname()[1]
