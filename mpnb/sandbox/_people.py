"""Profiles, and the sessions in which they are paged: Mixpanel's Engage query API."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mpnb.sandbox._query import BadQuery, Condition, where_of

PAGE_SIZE = 1000
LARGEST_PAGE = 1_000_000
# Gives the JSON object of each profile: {"$distinct_id": …, "$properties": {…}}.
Profiles = Callable[[], Sequence[bytes]]
# What of a request must be the same on every page of a session.
FILTERS = ("where", "filter_by_cohort", "include_all_users", "output_properties", "data_group_id", "distinct_ids")
MADE_UP = b'{"$distinct_id":"%b","$properties":{"$name":"Somebody New","made_up":true}}'


@dataclass(frozen=True, slots=True)
class Asked:
    """The parameters of a request for a page, checked."""

    page: int
    page_size: int | None
    session_id: str
    filters: tuple[str, ...]
    where: Condition | None
    cohort: int | None
    with_all: bool
    only: tuple[str, ...] | None
    group: str


@dataclass(slots=True)
class Session:
    """One query, whose pages are served from ``items``: these change only when a fault changes them."""

    id: str
    items: list[bytes]
    total: int
    page_size: int
    asked: Asked
    at: float

    def page(self, number: int) -> list[bytes]:
        """Return the profiles of a page."""
        return self.items[number * self.page_size : (number + 1) * self.page_size]


class People:
    """
    The profiles of a sandbox and the sessions over them. Any thread may call any method.

    Args:
        profiles: asked anew at the beginning of each session.
        session_seconds: how long a session can be paged; ``None`` for as long as the server runs.
        groups: the profiles of group keys, by ``data_group_id``.
    """

    def __init__(
        self,
        profiles: Profiles,
        *,
        session_seconds: float | None = None,
        groups: Mapping[str, Profiles] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.profiles = profiles
        self._groups = dict(groups or {})
        self._seconds = session_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._sessions: dict[str, Session] = {}

    def session(self, asked: Asked) -> Session:
        """
        Return the session of a request; page 0 without one begins one.

        Raises:
            BadQuery: it is not known, has ended, or belongs to another query; or there is no such group.
        """
        if not asked.session_id:
            if asked.page:
                raise BadQuery(400, "request for page in uncached query for params")
            return self._begun(asked)
        with self._lock:
            session = self._sessions.get(asked.session_id)
            if session and self._seconds is not None and self._clock() - session.at >= self._seconds:
                del self._sessions[asked.session_id]
                session = None
        if session is None or session.asked.filters != asked.filters:
            raise BadQuery(400, "session_id is invalid or has expired" if session is None else UNCACHED)
        return session

    def _begun(self, asked: Asked) -> Session:
        if asked.group and asked.group not in self._groups:
            raise BadQuery(404, "Missing Datagroup")
        items = _chosen(asked, (self._groups[asked.group] if asked.group else self.profiles)())
        name = f"{int(time.time())}-{secrets.token_hex(6)}"
        session = Session(name, items, len(items), asked.page_size or PAGE_SIZE, asked, self._clock())
        with self._lock:
            self._sessions[name] = session
        return session

    def change(self, session: Session, kind: str) -> None:
        """Let a profile come or go while a session is paged, or end the session: see the table of faults."""
        with self._lock:
            if kind == "session_expired":
                self._sessions.pop(session.id, None)
            if kind in ("profile_deleted", "profile_swapped"):
                session.items = session.items[1:]
            if kind == "profile_inserted":
                session.items = [MADE_UP % secrets.token_hex(6).encode(), *session.items]
            if kind == "profile_swapped":
                session.items = [*session.items, MADE_UP % secrets.token_hex(6).encode()]


UNCACHED = "request for page in uncached query for params"


def parse_page(params: Mapping[str, str], project_id: str) -> Asked:
    """
    Check the parameters of a request for a page of profiles.

    Raises:
        BadQuery: with the status and the message that Mixpanel answers.
    """
    if not params.get("project_id"):
        raise BadQuery(400, "project_id is a required parameter when using a service account")
    if params["project_id"] != project_id:
        raise BadQuery(403, f"Service account does not have access to project {params['project_id']}")
    where = params.get("where", "").strip()
    cohort = _json(params, "filter_by_cohort", dict)
    if cohort is not None and not isinstance(cohort.get("id"), int):
        raise BadQuery(400, "filter_by_cohort must be a JSON object with an id")
    only = _json(params, "output_properties", list)
    return Asked(
        _whole(params, "page", 0, 10**9) or 0,
        _whole(params, "page_size", 1, LARGEST_PAGE),
        params.get("session_id", ""),
        tuple(params.get(name, "") for name in FILTERS),
        where_of(where) if where else None,
        None if cohort is None else cohort["id"],
        params.get("include_all_users", "true").lower() != "false",
        None if only is None else tuple(map(str, only)),
        params.get("data_group_id", ""),
    )


def _whole(params: Mapping[str, str], name: str, least: int, most: int) -> int | None:
    text = params.get(name, "")
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
        raise BadQuery(400, f"{name} must be a whole number from {least} to {most}, not {text!r}")
    return int(text)


def _json(params: Mapping[str, str], name: str, kind: type) -> Any:
    text = params.get(name, "")
    if not text:
        return None
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, kind):
        raise BadQuery(400, f"{name} must be JSON of another form, not {text!r}")
    return value


def _chosen(asked: Asked, profiles: Sequence[bytes]) -> list[bytes]:
    """Return the profiles that pass the filters; those that cannot be parsed pass."""
    chosen = [item for item in profiles if _passes(asked, item)]
    if asked.cohort is not None and asked.with_all:
        chosen.append(b'{"$distinct_id":"$device:without-a-profile","$properties":{}}')
    return chosen if asked.only is None else [_cut(item, asked.only) for item in chosen]


def _passes(asked: Asked, item: bytes) -> bool:
    if asked.where is None and asked.cohort is None:
        return True
    try:
        profile = json.loads(item)
        properties = profile["$properties"]
        # A cohort of the sandbox holds every so-manieth person, by its number.
        in_cohort = asked.cohort is None or hash_of(profile["$distinct_id"]) % max(asked.cohort, 1) == 0
        return in_cohort and (asked.where is None or asked.where({"properties": properties}))
    except (ValueError, KeyError, TypeError):
        return True


def hash_of(distinct_id: object) -> int:
    """Return a number that an id always has."""
    return sum(str(distinct_id).encode())


def _cut(item: bytes, only: Sequence[str]) -> bytes:
    profile = json.loads(item)
    kept = {name: value for name, value in profile["$properties"].items() if name in (*only, "$last_seen")}
    return json.dumps({**profile, "$properties": kept}, ensure_ascii=False).encode()


def document(session: Session, number: int, items: Sequence[bytes], **changes: object) -> bytes:
    """Return the JSON document of a page. ``changes`` replace fields of its envelope, ``None`` leaves one out."""
    head: dict[str, object] = {"page": number, "page_size": session.page_size}
    tail: dict[str, object] = {"session_id": session.id, "status": "ok"}
    if number == 0:
        tail["total"] = session.total
    head |= {name: value for name, value in changes.items() if name in head}
    tail |= {name: value for name, value in changes.items() if name in tail}
    return b"".join(
        (json.dumps(head).encode()[:-1], b', "results": [', b", ".join(items), b"], ", json.dumps(tail).encode()[1:])
    )


def spoiled(session: Session, number: int, kind: str) -> bytes:
    """Return the document of a page, changed by a fault of that kind; as it should be for any other."""
    items = session.page(number)
    match kind:
        case "page_lost":
            return document(session, number, [])
        case "page_short":
            return document(session, number, items[:-1])
        case "page_twice":
            return document(session, number, [*session.page(number - 1)[-1:], *items[1:]] if number else items)
        case "page_other":
            return document(session, number, items, page=number + 1)
        case "session_other":
            return document(session, number, items, session_id=f"{session.id}-other")
        case "page_error":
            return json.dumps({"error": "a made-up error inside a 200", "status": "error"}).encode()
    return document(session, number, items)
