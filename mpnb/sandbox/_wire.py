"""Sending on one connection: its speed, framing and pauses, and the ways in which it can break."""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

Framing = Literal["chunked", "length", "close"]
BLOCK = 64 * 1024
# Two shorts on Windows, two ints elsewhere.
LINGER = "hh" if sys.platform == "win32" else "ii"


class Gone(Exception):
    """The connection ends here, whatever was promised on it."""


@dataclass(frozen=True, slots=True)
class Strike:
    """An action after ``offset`` bytes of a body are sent; the body continues unless it raises ``Gone``."""

    offset: int
    act: Callable[[], None]


class Wire:
    """
    The sending side of one connection. Only its own thread may call it, except for ``closing``.

    Args:
        connection: the connected socket.
        closing: set when the server closes; every wait ends then.
        bytes_per_second: pace, or ``None`` for as fast as it goes.
        sent: told the number of bytes of the body before each block goes out.
    """

    def __init__(
        self,
        connection: socket.socket,
        closing: threading.Event,
        bytes_per_second: float | None,
        sent: Callable[[int], None],
    ) -> None:
        self._connection = connection
        self._closing = closing
        self._pace = bytes_per_second
        self._sent = sent

    def silence(self, seconds: float | None = None) -> None:
        """
        Send nothing for some time, or for ever.

        Raises:
            Gone: the client left, or the server closes.
        """
        if seconds == 0:
            return
        self._connection.settimeout(seconds)
        try:
            # Ends empty when the client leaves and when the server shuts the socket down, which no Event does both.
            if not self._connection.recv(1, socket.MSG_PEEK) or self._closing.wait(seconds):
                raise Gone
        except TimeoutError:
            pass
        except OSError:
            raise Gone from None
        finally:
            self._connection.settimeout(None)

    def stop(self) -> None:
        """Close the connection properly (FIN)."""
        raise Gone

    def drip(self) -> None:
        """Send a blank line, as a chunk, every tenth of a second, until the client leaves or the server closes."""
        while not self._closing.wait(0.1):
            self._connection.sendall(b"1\r\n\n\r\n")
        raise Gone

    def reset(self) -> None:
        """Close the connection with RST."""
        # Lets the client take what it has: a reset may overtake bytes that wait in its buffer.
        self._closing.wait(0.02)
        with contextlib.suppress(OSError):
            self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack(LINGER, 1, 0))
        raise Gone

    def send(self, data: bytes) -> None:
        """Send bytes at full speed, without counting them: a head."""
        self._connection.sendall(data)

    def body(self, pieces: Iterable[bytes], framing: Framing, strike: Strike | None = None) -> None:
        """
        Send a body at the connection's speed.

        Raises:
            Gone: the connection is at its end.
            OSError: the client left.
        """
        done = 0
        for block in _blocks(pieces, self._block_size(), strike.offset if strike else None):
            if strike and done == strike.offset:
                strike.act()
                strike = None
            self._sent(len(block))
            done += len(block)
            if framing == "chunked":
                self._connection.sendall(b"".join((b"%x\r\n" % len(block), block, b"\r\n")))
            else:
                self._connection.sendall(block)
            if self._pace and self._closing.wait(len(block) / self._pace):
                raise Gone
        if strike:
            strike.act()
        if framing == "chunked":
            self._connection.sendall(b"0\r\n\r\n")
        if framing == "close":
            raise Gone

    def _block_size(self) -> int:
        # Twenty blocks a second or more keep a slow pace even.
        return max(1, min(BLOCK, int(self._pace / 20))) if self._pace else BLOCK


def _blocks(pieces: Iterable[bytes], size: int, border: int | None) -> Iterator[memoryview]:
    """Yield pieces as blocks of at most ``size`` bytes, one of which ends after ``border`` bytes."""
    done = 0
    for piece in pieces:
        view = memoryview(piece)
        while view:
            take = size if border is None or done >= border else min(size, border - done)
            yield view[:take]
            done += len(view[:take])
            view = view[take:]
