"""Faults on request: what can go wrong, when each fault strikes, and how often it has."""

from __future__ import annotations

import difflib
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from mpnb._base.scalars import as_int, brief, real_number, whole_number
from mpnb._errors import PlanError
from mpnb._message import Argument
from mpnb.sandbox._days import checked_day

TRANSPORT = frozenset(
    {"reset", "reset_headers", "disconnect", "cut_chunked", "cut_length", "cut_close", "unframed", "plain", "twice"}
)
GZIP = frozenset({"gzip_cut", "gzip_crc", "gzip_size", "gzip_garbage", "gzip_header", "gzip_fields", "gzip_nothing"})
LINES = frozenset(
    {
        "terminated",
        "export_terminated",
        "terminated_inside",
        "terminated_only",
        "half_line",
        "error_line",
        "error_inside",
        "bad_lines",
        "other_days",
    }
)
STATUS = frozenset({"status", "sign_in", "too_many_504", "too_large", "redirect", "redirect_same"})
SILENCE = frozenset({"stall", "slow_start", "hang", "hang_start", "drip"})
HOSTILE = frozenset({"bomb", "long_line", "encoding_br", "encoding_zstd", "unlabelled", "charset"})
PAGES = frozenset(
    {
        "page_lost",
        "page_short",
        "page_twice",
        "page_error",
        "page_other",
        "session_other",
        "session_expired",
        "page_size",
        "profile_inserted",
        "profile_deleted",
        "profile_swapped",
    }
)
KINDS = TRANSPORT | GZIP | LINES | STATUS | SILENCE | HOSTILE | PAGES

# These change what is sent and leave the way of sending to another fault.
COMBINE = frozenset({"bad_lines", "charset"})
# These are detectable, or possible at all, only in a gzip body.
NEED_GZIP = GZIP | {"cut_close", "bomb", "long_line", "unlabelled"}

DAY_SECONDS = 86_400

BAD_LINES: tuple[bytes, ...] = (
    b'{"event": "Malformed", "properties": {"time": 1767225600, ',
    b'{"event": "Control \x01 character", "properties": {"time": 1767225600, "distinct_id": "a"}}',
    b'{"event": "Not UTF-8 \xff\xfe", "properties": {"time": 1767225600, "distinct_id": "a"}}',
    b'{"event": "Lone surrogate", "properties": {"time": 1767225600, "distinct_id": "\\ud800"}}',
    b'["an", "array"]',
    b"42",
    b'{"properties": {"time": 1767225600, "distinct_id": "no event"}}',
    b'{"event": 5, "properties": {"time": 1767225600, "distinct_id": "the name is no text"}}',
    b'{"event": "Properties no object", "properties": "none"}',
)

# What Mixpanel, or the load balancer in front of it, says with a status.
BODIES: dict[int, str | Mapping[str, object]] = {
    400: {"request": "/api/2.0/export", "error": "Bad Request: invalid arguments"},
    401: {"request": "/api/2.0/export", "error": "Invalid service account credentials"},
    402: {"request": "/api/2.0/export", "error": "Your plan does not include raw data export. Please upgrade."},
    403: {"request": "/api/2.0/export", "error": "Service account lacks the permission to export this project"},
    404: "Not Found",
    413: "Request Entity Too Large",
    429: {"request": "/api/2.0/export", "error": "Query rate limit exceeded for project_id: 0. 1/100 queries running "
          "concurrently and 61/60 queries running in the last hour."},
    500: {"request": "/api/2.0/export", "error": "An internal error occurred"},
    502: "<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>",
    503: "Service Unavailable",
    504: "upstream request timeout",
}  # fmt: skip
# What a proxy answers in Mixpanel's place, with status 200.
SIGN_IN = """<!DOCTYPE html>
<html><head><title>Sign in to the made-up network</title><style>
{ color: red }
</style></head>
<body><form>User <input name="user"></form></body></html>
"""
TOO_LARGE = {"request": "/api/2.0/export", "error": "your data export may be too large, please request fewer days"}


def _a(what: str, is_one: Callable[[Any], bool]) -> Callable[[str, Any], Any]:
    def checked(name: str, value: Any) -> Any:
        if not is_one(value):
            raise PlanError(Argument(name), f" must be {what}, not {brief(value)}")
        return value

    return checked


def _are(items: Iterable[object], kind: type) -> bool:
    return all(isinstance(each, kind) for each in items)


# What an argument of a fault becomes, by its name. Each raises PlanError.
_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "day": checked_day,
    "page": lambda name, value: whole_number(name, value, 0),
    "times": lambda name, value: whole_number(name, value, 1),
    "status": lambda name, value: whole_number(name, value, 200, 599),
    "body": _a("a text, or an object that is sent as JSON", lambda v: isinstance(v, str | Mapping)),
    "retry_after": _a("a number of seconds or a text", lambda v: isinstance(v, int | float | str)),
    "seconds": lambda name, value: real_number(name, value, 0, DAY_SECONDS),
    "lines": _a("a list of bytes", lambda v: isinstance(v, list | tuple) and _are(v, bytes)),
    "headers": _a("a mapping of texts", lambda v: isinstance(v, Mapping) and _are([*v, *v.values()], str)),
    "size": lambda name, value: whole_number(name, value, 1),
}


def _check_at(at: object) -> None:
    whole = as_int(at)
    if not (0 <= at <= 1 if isinstance(at, float) else whole is not None and whole >= 0):
        raise PlanError(
            Argument("at"), f" must be a share from 0.0 to 1.0 or a whole number of bytes or lines, not {brief(at)}"
        )


@dataclass(frozen=True, slots=True)
class Fault:
    """
    A fault that the sandbox commits on request.

    Args:
        kind: what goes wrong; the table in ``mpnb.sandbox`` says what each kind does.
        day: only for requests whose dates contain this day, a date or ``"YYYY-MM-DD"``; ``None`` for any.
        times: how many requests it strikes, 1 or more; ``None`` for each one.
        at: where in the body it strikes. A float from 0 to 1 is a share of it (of the bytes on the wire, or of
            the lines for kinds that act on lines), an int a number of bytes or lines.
        status: HTTP status of ``"status"``, 200–599.
        body: body of a refusal: text, or an object that is sent as JSON. For ``"bomb"``, the character it is full of.
        retry_after: ``Retry-After`` of a refusal: seconds, or a text that is sent as it is.
        seconds: how long ``"stall"`` and ``"slow_start"`` are silent, 0 or more; 1 if not said.
        lines: what ``"bad_lines"`` puts in, instead of ``BAD_LINES``.
        headers: more headers for a refusal or redirect.
        size: plain bytes of ``"bomb"`` (4 GiB if not said) and ``"long_line"`` (2 GiB).
        page: only for requests for this page of profiles, from 0; ``None`` for any page, and for events.

    Raises:
        PlanError: an unknown kind, with the closest one in the message, or a value out of range or of another type.
    """

    kind: str
    day: date | str | None = None
    times: int | None = 1
    at: float = 0.5
    status: int | None = None
    body: str | Mapping[str, object] | None = None
    retry_after: float | str | None = None
    seconds: float | None = None
    lines: Sequence[bytes] | None = None
    headers: Mapping[str, str] | None = None
    size: int | None = None
    page: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.kind, str) or self.kind not in KINDS:
            close = difflib.get_close_matches(brief(self.kind), sorted(KINDS), n=1, cutoff=0.0)
            raise PlanError(f"no fault is called {brief(self.kind)}; the closest is {close[0]!r}", argument="kind")
        for name, checked in _CHECKS.items():
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, checked(name, value))
        _check_at(self.at)
        if self.kind == "status" and self.status is None:
            raise PlanError("the fault 'status' wants status=200–599", argument="status")

    def offset(self, total: int) -> int:
        """Return how many of ``total`` bytes or lines come before the fault."""
        return min(total, int(self.at * total) if isinstance(self.at, float) else self.at)


@dataclass(frozen=True, slots=True)
class Target:
    """
    A request that a fault may strike, reduced to what faults need to know.

    Args:
        days: the days asked for, with the number of lines that each one is answered with.
        gzip: whether the client accepts gzip.
        marked: whether the request comes from the redirect of ``"redirect_same"``.
        page: of profiles that is asked for, ``None`` for events.
        sized: whether the request says how large a page is to be.
    """

    days: Callable[[], Mapping[date, int]]
    from_date: date
    to_date: date
    gzip: bool
    marked: bool
    page: int | None = None
    sized: bool = False

    def can_show(self, fault: Fault) -> bool:
        """Whether the fault can have its effect on this request."""
        if (self.page is None and fault.kind in PAGES) or fault.page not in (None, self.page):
            return False
        if self.page is not None and not self._can_spoil_page(fault):
            return False
        if isinstance(fault.day, date) and not self.from_date <= fault.day <= self.to_date:
            return False
        if fault.kind in NEED_GZIP:
            return self.gzip
        if fault.kind == "too_large":
            return self.from_date < self.to_date
        if fault.kind == "redirect_same":
            return not self.marked
        if fault.kind in ("half_line", "terminated_inside", "error_inside"):
            return any(self.days().values())
        return fault.kind != "bad_lines" or bad_lines_day(fault, self.days()) is not None

    def _can_spoil_page(self, fault: Fault) -> bool:
        if fault.day is not None or fault.kind in LINES:
            return False
        return (self.sized or fault.kind != "page_size") and (self.page != 0 or fault.kind != "page_twice")


def bad_lines_day(fault: Fault, counts: Mapping[date, int]) -> date | None:
    """Return the day that gets bad lines: the fault's, or the first, if a good line can follow them."""
    days = sorted(counts)
    wanted = [day for day in days if fault.day in (None, day)]
    for day in wanted:
        if counts[day]:
            return day
    return next((day for day in wanted if any(counts[later] for later in days if later > day)), None)


class FaultBook:
    """The faults of a server, each used as often as it may strike, and counted. Any thread may call any method."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self._left: list[int | None] = []
        self._injected: Counter[str] = Counter()
        self._bad: dict[date, tuple[bytes, ...]] = defaultdict(tuple)
        for fault in faults:
            self.add(fault)

    def add(self, fault: Fault) -> None:
        """Add a fault after the existing ones."""
        if not isinstance(fault, Fault):
            raise PlanError(f"a fault is a Fault, such as Fault('reset'), not {brief(fault)}")
        with self._lock:
            self._faults.append(fault)
            self._left.append(fault.times)

    def clear(self) -> None:
        """Remove all faults; those that requests got stay counted."""
        with self._lock:
            self._faults.clear()
            self._left.clear()

    def take(self, target: Target) -> tuple[Fault, ...]:
        """Return the faults for a request, the first that fits and all that combine with it, and use them up."""
        with self._lock:
            faults = list(self._faults)
        # Asking for the lines of a day may take its while: not under the lock.
        fitting = [fault for fault in faults if target.can_show(fault)]
        taken: list[Fault] = []
        with self._lock:
            for index, fault in enumerate(self._faults):
                left = self._left[index]
                if left == 0 or not any(fault is each for each in fitting):
                    continue
                if fault.kind not in COMBINE and any(each.kind not in COMBINE for each in taken):
                    continue
                if left is not None:
                    self._left[index] = left - 1
                taken.append(fault)
            self._injected.update(fault.kind for fault in taken)
        return tuple(taken)

    @property
    def injected(self) -> Counter[str]:
        """Return the number of faults that requests got so far, by kind."""
        with self._lock:
            return Counter(self._injected)

    def note_bad_lines(self, day: date, lines: Iterable[bytes]) -> None:
        """Record lines that were inserted into a day."""
        with self._lock:
            self._bad[day] = tuple(lines)

    def bad_lines(self, day: date) -> tuple[bytes, ...]:
        """Return the lines that the latest bad_lines fault inserted into a day."""
        with self._lock:
            return self._bad.get(day, ())
