"""A request to Mixpanel's raw event export API."""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Request:
    """Ask for one date range: the query parameters of ``GET /api/2.0/export``."""

    from_date: str
    to_date: str
    project_id: str
    events: tuple[str, ...] | None
    where: str | None

    def params(self) -> dict[str, str]:
        """Give the parameters as Mixpanel wants them: ``event`` is a JSON array in text."""
        params = {"from_date": self.from_date, "to_date": self.to_date, "project_id": self.project_id}
        if self.events is not None:
            params["event"] = json.dumps(list(self.events))
        if self.where is not None:
            params["where"] = self.where
        return params
