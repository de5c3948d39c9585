"""Mixpanel's raw event export: the request, what counts as an event, and the row that an event becomes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from mpnb._base.clock import today
from mpnb._mixpanel.failures import Failure, from_answer

PATH = "/api/2.0/export"
Columns = tuple[tuple[str, str], ...]
# Of a line: https://developer.mixpanel.com/reference/raw-event-export
KEYS = ("event", "properties")
IS_RECORD = "starts_with(head, '\"') AND starts_with(body, '{')"
# As in Mixpanel's own warehouse export, so that SQL written for it runs here.
COLUMNS: Columns = (
    ("event_name", "VARCHAR"),
    ("time", "TIMESTAMP"),
    ("distinct_id", "VARCHAR"),
    ("device_id", "VARCHAR"),
    ("user_id", "VARCHAR"),
    ("insert_id", "VARCHAR"),
    ("properties", "JSON"),
    ("batch_id", "BIGINT"),
)
# The columns by which an event is a person's.
IDS = ("distinct_id", "user_id")


@dataclass(frozen=True, slots=True)
class Request:
    """One request for a range of days: ``GET /api/2.0/export``, answered by lines."""

    from_date: str
    to_date: str
    project_id: str
    events: tuple[str, ...] | None
    where: str | None

    method = "GET"
    content = b""
    keys = None
    is_in_session = False

    @property
    def days(self) -> tuple[str, str]:
        """Return the first and the last day."""
        return self.from_date, self.to_date

    @property
    def target(self) -> str:
        """Return the path with the query."""
        return f"{PATH}?{urlencode(self.params(), quote_via=quote)}"

    def refused(self, status: int, body: bytes, retry_after: str | None, *, now: float) -> Failure:
        """Return the failure for an answer that is not an export."""
        asks_for_today = self.to_date >= today().isoformat()
        return from_answer(status, body, retry_after, where=self.where, asks_for_today=asks_for_today, now=now)

    def params(self) -> dict[str, str]:
        """Return the parameters in Mixpanel's format: ``event`` is a JSON array as text."""
        params = {"from_date": self.from_date, "to_date": self.to_date, "project_id": self.project_id}
        if self.events is not None:
            params["event"] = json.dumps(list(self.events))
        if self.where is not None:
            params["where"] = self.where
        return params


def rows(lines: str) -> str:
    """
    Return the SELECT that turns lines into rows of ``COLUMNS``.

    ``time`` comes in seconds, sometimes in milliseconds: seconds reach 1e11 in the year 5138, milliseconds in 1973.

    Args:
        lines: a query for columns ``head`` and ``body``, the JSON values of ``KEYS``, and ``batch_id``.
    """
    return f"""
        SELECT head->>'$', make_timestamp(TRY_CAST(t * CASE WHEN abs(t) >= 1e11 THEN 1e3 ELSE 1e6 END AS BIGINT)),
               p[2], p[3], p[4], p[5], body, batch_id
        FROM (SELECT *, TRY_CAST(p[1] AS DOUBLE) AS t
              FROM (SELECT *, body->>['/time', '/distinct_id', '/$device_id', '/$user_id', '/$insert_id'] AS p
                    FROM ({lines})))"""
