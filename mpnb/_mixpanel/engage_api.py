"""Mixpanel's Engage query API: the request for a page of profiles, what counts as one, and the row that it becomes."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from urllib.parse import quote, urlencode

from mpnb._message import Argument
from mpnb._mixpanel.export_api import Columns
from mpnb._mixpanel.failures import LARGER_PAGES, Failure, failure, from_answer, hint_of

PATH = "/api/query/engage"
FAMILY = "query"
# Of an item of "results": https://developer.mixpanel.com/reference/engage-query
KEYS = ("$distinct_id", "$properties")
# Ids are texts; in Mixpanel's own examples some are numbers.
IS_RECORD = "regexp_matches(head::VARCHAR, '^(\"|-?[0-9])') AND starts_with(body, '{')"
# As in Mixpanel's own warehouse export, so that SQL written for it runs here.
COLUMNS: Columns = (("distinct_id", "VARCHAR"), ("properties", "JSON"), ("batch_id", "BIGINT"))
# The columns by which a profile is a person's.
IDS = ("distinct_id",)
# What "auto" asks for. The answer says what it is.
PAGE_SIZE = 10_000

PLAN = "The project's plan does not include the query API, which has the profiles: ask the project's owner."
NO_GROUP = hint_of("The group was deleted, or never existed: pass another ", Argument("group", ""), ".")
WORKSPACE = hint_of("The project uses Data Views: pass the number of one as ", Argument("workspace", ""), ".")
OTHER_SIZE = hint_of("Pass another ", Argument("page_size"), ", or ", Argument("page_size", "auto"), ".")
NO_API = "There is no query API at this address: check MP_REGION and MP_API_BASE_URL."
SESSION_OVER = hint_of(
    "The session in which the pages are read has ended: retry, which begins a new one; with ",
    LARGER_PAGES,
    ", ",
    Argument("properties", ""),
    " or ",
    Argument("where", ""),
    " if it happens again.",
)
CHANGED = "Profiles came or went while they were read, and nothing was kept: retry."


@dataclass(frozen=True, slots=True)
class Request:
    """One request for a page: ``POST /api/query/engage``, answered by a JSON document."""

    project_id: str
    workspace: str | None
    where: str | None
    properties: tuple[str, ...] | None
    cohort: int | None
    group: str | None
    page: int
    page_size: int | None
    session_id: str | None

    method = "POST"
    keys = KEYS
    days = None

    @property
    def is_in_session(self) -> bool:
        """Whether it is for a page of a session that is there already."""
        return self.session_id is not None

    @property
    def target(self) -> str:
        """Return the path with the project."""
        names = ("project_id", "workspace_id")
        return f"{PATH}?{urlencode({n: v for n, v in self.params().items() if n in names}, quote_via=quote)}"

    @property
    def content(self) -> bytes:
        """Return the form."""
        return urlencode({n: v for n, v in self.params().items() if n not in ("project_id", "workspace_id")}).encode()

    def params(self) -> dict[str, str]:
        """Return the parameters in Mixpanel's format. Without ``include_all_users``, ids without a profile come too."""
        params = {
            "project_id": self.project_id,
            "workspace_id": self.workspace,
            "page": str(self.page),
            "page_size": None if self.page_size is None else str(self.page_size),
            "session_id": self.session_id,
            "where": self.where,
            "output_properties": None if self.properties is None else json.dumps(list(self.properties)),
            "filter_by_cohort": None if self.cohort is None else json.dumps({"id": self.cohort}),
            "data_group_id": self.group,
            "include_all_users": "false",
        }
        return {name: value for name, value in params.items() if value is not None}

    def refused(self, status: int, body: bytes, retry_after: str | None, *, now: float) -> Failure:
        """Return the failure for an answer that has no profiles. What people are in it is not told."""
        if any(key.encode() in body for key in KEYS):
            body = b"a document of another form"
        why = from_answer(status, body, retry_after, where=self.where, asks_for_today=False, now=now)
        why = replace(why, message=why.message.replace("is not an export", "has no profiles"), too_large=False)
        said = why.message.lower()
        if why.http_status == 402:
            return replace(why, hint=PLAN)
        if why.http_status == 404:
            return replace(why, hint=NO_GROUP if "datagroup" in said.replace(" ", "") else NO_API)
        if why.kind != "http" or why.retryable or why.stranger:
            return why
        if "session" in said or "uncached query" in said:
            return failure("inconsistent", why.message, http_status=status, hint=SESSION_OVER, begins_anew=True)
        if "page_size" in said or "page size" in said:
            return replace(why, hint=OTHER_SIZE, too_large=self.page_size is not None)
        return replace(why, hint=WORKSPACE) if "workspace" in said or "data view" in said else why


def inconsistent(message: str, **more: object) -> Failure:
    """Return the failure for pages that do not fit together: people may have come or gone between them."""
    return failure("inconsistent", message, **{"hint": CHANGED, "begins_anew": True, **more})


def rows(lines: str) -> str:
    """
    Return the SELECT that turns lines into rows of ``COLUMNS``.

    Args:
        lines: a query for columns ``head`` and ``body``, the JSON values of ``KEYS``, and ``batch_id``.
    """
    return f"SELECT head->>'$', body, batch_id FROM ({lines})"
