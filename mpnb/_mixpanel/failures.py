"""Failures of a batch: their kinds, whether another attempt makes sense, and what to do about them."""

from __future__ import annotations

import errno
import html
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

from mpnb._base.text import safe_text
from mpnb._message import Argument, Message, Phrase, Word

KINDS = (
    "rate_limit",
    "timeout",
    "connection",
    "truncated",
    "http",
    "decode",
    "inconsistent",
    "write",
    "auth",
    "cancelled",
)


@dataclass(frozen=True, slots=True)
class Failure:
    """
    What went wrong with a batch.

    Attributes:
        kind: one of ``KINDS``.
        message: the server's own words, or ours, without secrets and control characters.
        http_status: of the answer, ``None`` where there was none.
        retryable: whether the same request may succeed later, without a change.
        hint: what to do, one sentence.
        hits_all: every other batch would fail in the same way.
        too_large: fewer days at once may get through.
        wait: seconds to wait before the next attempt as the server asked, ``None`` for a backoff.
        queries_over: for a 429, by how many queries the rolling hour was over its limit; 0 if it was not.
        unreached: no request left this machine. It does not count for the quota, and other batches are likely to fail
            in the same way.
        stranger: something else answered instead of Mixpanel. Other batches are likely to fail in the same way.
        once_more: a second answer of this kind ends the batch, since further requests would be wasted.
        begins_anew: what was fetched so far is of no use any more: all must be fetched again from the beginning.
    """

    kind: str
    message: str
    http_status: int | None = None
    retryable: bool = True
    hint: str = ""
    hits_all: bool = False
    too_large: bool = False
    wait: float | None = None
    queries_over: int = 0
    unreached: bool = False
    stranger: bool = False
    once_more: bool = False
    begins_anew: bool = False

    def __str__(self) -> str:
        """Return the failure as one line."""
        status = f"HTTP {self.http_status}: " if self.http_status else ""
        return f"{status}{self.message}"

    def without(self, secrets: Iterable[str]) -> Failure:
        """Return the failure with a message that is safe to show: see ``safe_text``."""
        return replace(self, message=safe_text(self.message, secrets))


# Hints that name arguments, by what a ledger keeps of them, so that each face can say them in its own words.
_hints: dict[str, Message] = {}


def hint_of(*parts: str | Word) -> Message:
    """Make a hint that stays known."""
    made = Message(*parts)
    return _hints.setdefault(made, made)


def known_hint(text: str) -> str:
    """Return a hint as it was made, by its text, which a ledger of another version may have in other words."""
    return _hints.get(text, text)


FEWER_DAYS = Argument("chunk_days")
SPOOL_ELSEWHERE = Phrase("spool", "spool=mpnb.Spool(folder)")
OTHER_REGION = hint_of(
    "The project is in another region: set MP_REGION",
    Phrase("or region", " (or region= of the credentials)"),
    " to us, eu or in.",
)
TOO_LARGE_DAY = hint_of(
    "A single day is too large to export: select fewer events with ",
    Argument("events", ""),
    " or ",
    Argument("where", ""),
    ".",
)
CHECK_WHERE = hint_of("Check the ", Argument("where", ""), " expression.")
TOO_MANY_FILES = hint_of(
    "Raise the limit of open files (ulimit -n), or pass fewer ", Argument("workers", ""), ", then retry."
)
FREE_SPOOL_DISK = hint_of("Free some disk space, or pass ", SPOOL_ELSEWHERE, " on another disk, then retry.")

LARGER_PAGES = Phrase("larger pages", "a larger page_size=")
TOO_MANY_PAGES = hint_of(
    "The pages would wait for the quota for longer than their session lasts: use ",
    LARGER_PAGES,
    ", ",
    Argument("properties", ""),
    " or ",
    Argument("where", ""),
    ", so that there are fewer or smaller ones.",
)

HINTS = {
    "rate_limit": "The project's quota is used up, perhaps by a colleague: retry in an hour.",
    "timeout": hint_of("Mixpanel did not answer in time: retry, with a smaller ", FEWER_DAYS, " if it happens again."),
    "connection": "The connection broke: check the network, then retry.",
    "truncated": hint_of(
        "The answer was cut short and nothing was kept: retry, with a smaller ", FEWER_DAYS, " if it happens again."
    ),
    "http": "Mixpanel refused the request: its message says why.",
    "decode": "The answer was damaged in transit and nothing of it was kept: retry.",
    "inconsistent": "What arrived does not fit together, and nothing of it was kept: retry.",
    "write": "The batch could not be written: fix the cause named in the message, then retry.",
    "auth": "Mixpanel refused the credentials: check the service account, its project and MP_REGION.",
    "cancelled": "The export was stopped before this batch was done: retry to continue.",
}

# What Mixpanel's messages call a filter and its parts; where= is a request's address that is said back.
ABOUT_FILTER = re.compile(r"\b(where(?!=)|selector|filter|expression|operators?|operands?|syntax)\b", re.IGNORECASE)

NO_EXPORT = (
    "Something else answered instead of Mixpanel, such as a proxy that requires a sign-in: do what it says,"
    " or check HTTPS_PROXY and MP_API_BASE_URL, then retry."
)
# What refusals say whose status got lost on the way, by the status that has the same rules. The first two may come from
# a load balancer, in plain words.
STATUS_WORDS = tuple(
    (status, re.compile(words, re.IGNORECASE))
    for status, words in (
        (429, "rate limit|too many requests|queries running"),
        (503, "internal (server )?error|unavailable|timed? ?out|try again"),
        (401, "credentials|unauthori[sz]ed|authenticat|permission|forbidden"),
        (402, r"your plan\b"),
    )
)


def failure(kind: str, message: str, **more: object) -> Failure:
    """Return a failure with the usual hint of its kind."""
    return Failure(kind, message, **{"hint": HINTS[kind], **more})  # type: ignore[arg-type]


def from_answer(
    status: int, body: bytes, retry_after: str | None, *, where: str | None, asks_for_today: bool, now: float
) -> Failure:
    """
    Return the failure for an answer that is not an export, by its status, or for a 200 by its words.

    Args:
        body: its first kilobytes, decompressed.
        retry_after: the header, in seconds or as an HTTP date.
        where: the filter of the export, which a 400 may be about.
        asks_for_today: whether the request's last day is today in UTC.
        now: seconds since the epoch.

    Mixpanel's answers: https://developer.mixpanel.com/reference/raw-event-export
    """
    message = error_text(body) or "no message"
    if status == 200:
        meant = _status_meant(message, body)
        if meant is None:
            text = f"the answer is not an export: {message}"
            return failure("http", text, http_status=200, retryable=False, stranger=True, hint=NO_EXPORT)
        why = from_answer(meant, body, retry_after, where=where, asks_for_today=asks_for_today, now=now)
        # Only its words say what it is, and each request is one of the hour's.
        return replace(why, http_status=200, once_more=why.retryable)
    lower = message.lower()
    if status == 429 or (status == 504 and "too many requests" in lower):
        wait, over = _seconds(retry_after, now), _queries_over(lower)
        return failure("rate_limit", message, http_status=status, wait=wait, queries_over=over)
    if status == 400 and "invalid project id for cluster" in lower:
        return failure("auth", message, http_status=status, retryable=False, hits_all=True, hint=OTHER_REGION)
    if status in (401, 403) or (status == 400 and "authenticate" in lower):
        return failure("auth", message, http_status=status, retryable=False, hits_all=True)
    if status == 402:
        hint = "The project's plan does not include raw exports: ask the project's owner."
        return failure("http", message, http_status=status, retryable=False, hits_all=True, hint=hint)
    if status == 404:
        hint = "There is no export API at this address: check MP_REGION and MP_API_BASE_URL."
        return failure("http", message, http_status=status, retryable=False, hits_all=True, hint=hint)
    if status == 413 or (status == 400 and "too large" in lower):
        return failure("http", message, http_status=status, retryable=False, hint=TOO_LARGE_DAY, too_large=True)
    if status == 400 and "later than today" in lower:
        hint = "The day has not begun yet in the project's time zone: retry later."
        return failure("http", message, http_status=status, hint=hint, retryable=False, too_large=asks_for_today)
    if status == 400:
        about_filter = where is not None and _speaks_of(where, message)
        hint = CHECK_WHERE if about_filter else HINTS["http"]
        return failure("http", message, http_status=status, retryable=False, hits_all=about_filter, hint=hint)
    if status in (407, 511):
        hint = "The network requires a login: sign in to it, or set its proxy (HTTPS_PROXY)."
        return failure("http", message, http_status=status, retryable=status == 511, hint=hint)
    if status >= 500 or status in (408, 425) or 200 <= status < 300:
        hint = "Mixpanel had an internal problem: retry in a few minutes."
        return failure("http", message, http_status=status, hint=hint, wait=_seconds(retry_after, now))
    return failure("http", message, http_status=status, retryable=False)


def _speaks_of(where: str, message: str) -> bool:
    """Whether a message is about the filter: it names it or quotes it."""
    return ABOUT_FILTER.search(message) is not None or (len(where) >= 8 and where in message)


def _status_meant(message: str, body: bytes) -> int | None:
    """Return the status that the words of a 200 stand for, or ``None`` if Mixpanel never says them."""
    error = _object_in(body).get("error")
    is_page = body.lstrip().startswith(b"<")  # from something else than Mixpanel, whatever it says
    for status, words in STATUS_WORDS if error else STATUS_WORDS[:2]:
        if words.search(message) and not is_page:
            return status
    # Mixpanel's errors are objects. What has none of these words is about the request.
    return 400 if error else None


def from_os_error(error: OSError) -> Failure:
    """Return the failure for a spool file that cannot be written. The next batch would fail alike."""
    hints = {
        errno.EMFILE: TOO_MANY_FILES,
        errno.ENOENT: "The spool folder was deleted during the export: retry, which creates it again.",
    }
    message = safe_text(f"the spool file cannot be written: {error}")
    hint = hints.get(error.errno or 0, FREE_SPOOL_DISK)
    return failure("write", message, retryable=False, hits_all=True, hint=hint)


def error_text(body: bytes) -> str:
    """Return the message of an error body, which is JSON with ``error`` or plain text, as one short safe line."""
    value = _object_in(body)
    text = body.decode("utf-8-sig", errors="replace")
    text = next((v for key in ("error", "message") if isinstance(v := value.get(key), str) and v), text)
    # A load balancer's page: the words that it shows are enough.
    return safe_text(_page_text(text) if text.lstrip()[:1] == "<" else text)


def _object_in(body: bytes) -> dict[str, Any]:
    """Return the JSON object in a body, or an empty one if the body is anything else."""
    try:
        value = json.loads(body.decode("utf-8-sig", errors="replace"))
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _page_text(page: str) -> str:
    """Return the words of an HTML page, which may be cut anywhere, without styles, scripts and comments."""
    page = re.sub(r"<!--.*?(-->|$)", " ", page, flags=re.DOTALL)
    page = re.sub(r"<(style|script|svg)\b.*?(</\1\s*>|$)", " ", page, flags=re.DOTALL | re.IGNORECASE)
    return html.unescape(re.sub(r"<[^<>]*(>|$)", " ", page))


def _seconds(retry_after: str | None, now: float) -> float | None:
    """Parse ``Retry-After``: seconds or an HTTP date (RFC 9110, 10.2.3), capped at two hours."""
    if not retry_after:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            moment = parsedate_to_datetime(retry_after)
        except ValueError:
            return None
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - now
    # Not nan, and not for ever.
    return min(max(seconds, 0.0), 7200.0) if seconds == seconds else None


def _queries_over(message: str) -> int:
    """Return how many queries must leave the rolling hour before one may start, from ``61/60 queries running in …``."""
    match = re.search(r"(\d{1,9})/(\d{1,9}) queries running in the last hour", message)
    return max(0, int(match[1]) - int(match[2]) + 1) if match else 0
