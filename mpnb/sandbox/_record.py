"""The requests that a server has received."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date


@dataclass(frozen=True, slots=True)
class Request:
    """
    One request that the server has received.

    Args:
        at: when it came, in seconds of ``time.monotonic()``.
        from_date: first day asked for, ``None`` if it could not be read.
        to_date: last day asked for, likewise.
        params: the parameters as they came.
        status: HTTP status that was answered, 0 if none was (yet).
        bytes: bytes of the body that were sent, without framing.
        fault: kinds of the faults that struck, joined by ``+``, or ``None``.
        page: of profiles, ``None`` for a request of events.
    """

    at: float
    from_date: date | None
    to_date: date | None
    params: Mapping[str, str]
    status: int
    bytes: int
    fault: str | None
    page: int | None = None


@dataclass(slots=True)
class Entry:
    """A request whose record is still being written, by its own thread only."""

    at: float
    params: dict[str, str]
    from_date: date | None = None
    to_date: date | None = None
    status: int = 0
    bytes: int = 0
    fault: str | None = None
    page: int | None = None

    def frozen(self) -> Request:
        """Return the record in its current state."""
        return Request(
            self.at, self.from_date, self.to_date, dict(self.params), self.status, self.bytes, self.fault, self.page
        )

    def sent(self, count: int) -> None:
        """Add sent bytes of the body."""
        self.bytes += count
