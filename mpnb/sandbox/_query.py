"""The parameters of a request, checked as Mixpanel checks them, and its filters."""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date
from typing import Any
from urllib.parse import parse_qsl

Event = dict[str, object]
Condition = Callable[[Event], bool]

LIMIT_MOST = 100_000
COMPARE: dict[str, Callable[[Any, Any], object]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
STRING = r'"(?:[^"\\]|\\.)*"'
CONDITION = re.compile(
    rf"""\s*\(?\s*properties\[(?P<name>{STRING})\]\s*(?P<compare>==|!=|<=|>=|<|>)\s*
    (?P<value>{STRING}|-?\d+(?:\.\d+)?|true|false)\s*\)?\s*""",
    re.VERBOSE,
)


class BadQuery(Exception):
    """A request that Mixpanel answers with an error of this status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Query:
    """The parameters of one request, checked."""

    from_date: date
    to_date: date
    events: frozenset[str] | None
    where: Condition | None
    limit: int | None
    milliseconds: bool

    @property
    def filters(self) -> bool:
        """Whether some lines of the days may be left out."""
        return self.events is not None or self.where is not None or self.limit is not None

    def keep(self, lines: Iterable[bytes]) -> list[bytes]:
        """Return the lines that pass ``event`` and ``where``; lines that cannot be parsed pass."""
        return [line for line in lines if self._passes(line)]

    def _passes(self, line: bytes) -> bool:
        if self.events is None and self.where is None:
            return True
        try:
            event = json.loads(line)
        except ValueError:
            return True
        if not isinstance(event, dict):
            return True
        return (self.events is None or event.get("event") in self.events) and (self.where is None or self.where(event))


def parameters(query: str) -> dict[str, str]:
    """Parse a query string; if a name occurs twice, the last value counts."""
    return dict(parse_qsl(query, keep_blank_values=True))


def parse(params: dict[str, str], project_id: str, today: date) -> Query:
    """
    Check the parameters of a request.

    Raises:
        BadQuery: with the status and the message that Mixpanel answers.
    """
    if not params.get("project_id"):
        raise BadQuery(400, "project_id is a required parameter when using a service account")
    if params["project_id"] != project_id:
        raise BadQuery(403, f"Service account does not have access to project {params['project_id']}")
    from_date, to_date = (_date(params, name) for name in ("from_date", "to_date"))
    if to_date > today:
        raise BadQuery(400, "to_date cannot be later than today")
    if from_date > to_date:
        raise BadQuery(400, "from_date cannot be later than to_date")
    where = params.get("where", "").strip()
    return Query(
        from_date,
        to_date,
        _events(params.get("event", "")),
        where_of(where) if where else None,
        _limit(params.get("limit", "")),
        params.get("time_in_ms", "").lower() in ("true", "1"),
    )


def _date(params: dict[str, str], name: str) -> date:
    text = params.get(name, "")
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII):
        raise BadQuery(400, f"{name} must be a date in the format yyyy-mm-dd, not {text!r}")
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise BadQuery(400, f"{name} {text!r} is not a day of the calendar") from None


def _events(text: str) -> frozenset[str] | None:
    if not text:
        return None
    try:
        names = json.loads(text)
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BadQuery(400, f"event must be a JSON array of names of events, not {text!r}")
    return frozenset(names)


def _limit(text: str) -> int | None:
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= LIMIT_MOST:
        raise BadQuery(400, f"limit must be a whole number from 1 to {LIMIT_MOST}, not {text!r}")
    return int(text)


def where_of(text: str) -> Condition:
    """Return the condition of a filter expression. Raises ``BadQuery``."""
    conditions, at = [], 0
    while True:
        found = CONDITION.match(text, at)
        if not found:
            raise BadQuery(400, f"Unable to parse selector: {text!r} at character {at}")
        try:
            name, value = json.loads(found["name"]), json.loads(found["value"])
        except ValueError:
            raise BadQuery(400, f"Unable to parse selector: {text!r} at character {at}") from None
        conditions.append(_condition(name, COMPARE[found["compare"]], value))
        at = found.end()
        if at == len(text):
            return lambda event: all(condition(event) for condition in conditions)
        joined = re.compile(r"and\b").match(text, at)
        if not joined:
            raise BadQuery(400, f"Unable to parse selector: {text!r} at character {at}")
        at = joined.end()


def _condition(name: str, compare: Callable[[Any, Any], object], value: object) -> Condition:
    def holds(event: Event) -> bool:
        properties = event.get("properties")
        if not isinstance(properties, dict) or name not in properties:
            return False
        try:
            return bool(compare(properties[name], value))
        except TypeError:
            return False

    return holds
