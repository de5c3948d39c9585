"""Mixpanel's raw event export: the request, what counts as an event, and the row that an event becomes."""

from __future__ import annotations

import json
from dataclasses import dataclass

PATH = "/api/2.0/export"
Columns = tuple[tuple[str, str], ...]
# Of a line: https://developer.mixpanel.com/reference/raw-event-export
KEYS = ("event", "properties")
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


@dataclass(frozen=True, slots=True)
class Request:
    """One request for a range of days: the query parameters of ``GET /api/2.0/export``."""

    from_date: str
    to_date: str
    project_id: str
    events: tuple[str, ...] | None
    where: str | None

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
