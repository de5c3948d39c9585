"""Profiles as a resource: whose they are, the pages that have them, and what each page must say."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any

from mpnb._base.text import safe_text
from mpnb._mixpanel import engage_api
from mpnb._mixpanel.engage_api import inconsistent
from mpnb._mixpanel.export_api import Columns
from mpnb._mixpanel.failures import Failure
from mpnb._planning.batches import Batch, HeldBatch, Page, Session


@dataclass(frozen=True, slots=True)
class ProfileSource:
    """
    The source of a table of profiles; a table has exactly one.

    Attributes:
        properties: the only ones that are asked for, in order; ``None`` for all.
        cohort: number of the cohort whose people they are.
        group: ``data_group_id`` of the groups whose profiles they are, as text: JavaScript's numbers are too short.
        workspace: number of the Data View that the project is seen through.
    """

    project_id: str
    where: str | None = None
    properties: tuple[str, ...] | None = None
    cohort: int | None = None
    group: str | None = None
    workspace: str | None = None

    @property
    def event_filter(self) -> str | None:
        """Return ``None``: profiles have no events."""
        return None

    @property
    def as_text(self) -> str:
        """Return it as the database has it: a JSON object without what is not given."""
        given = {name: value for name, value in asdict(self).items() if value is not None}
        return json.dumps(given, ensure_ascii=False, sort_keys=True)

    @classmethod
    def from_text(cls, text: str) -> ProfileSource:
        """Return a source as the database has it."""
        given = json.loads(text)
        if "properties" in given:
            given["properties"] = tuple(given["properties"])
        return cls(**given)

    def filter_in_words(self) -> str:
        """Return what is asked for, in words."""
        parts = [f"profiles of group {self.group}" if self.group else "all profiles"]
        if self.cohort is not None:
            parts[0] = f"profiles of cohort {self.cohort}"
        if self.properties is not None:
            parts.append(f"with {', '.join(map(safe_text, self.properties)) or 'no properties'}")
        if self.where is not None:
            parts.append(f"where {safe_text(self.where)}")
        if self.workspace is not None:
            parts.append(f"in workspace {self.workspace}")
        return ", ".join(parts)

    def __str__(self) -> str:
        """Return the source in words."""
        return f"project {self.project_id}, {self.filter_in_words()}"


@dataclass(frozen=True, slots=True)
class Profiles:
    """
    The profiles of a project, by pages: a ``Resource``.

    Attributes:
        may_resize: whether another size of pages will do where Mixpanel refuses the one that is asked for.
    """

    source: ProfileSource
    may_resize: bool = True

    @property
    def columns(self) -> Columns:
        """Return the columns of Mixpanel's own warehouse export, and ``batch_id``."""
        return engage_api.COLUMNS

    @property
    def keys(self) -> tuple[str, str]:
        """Return the JSON keys of a profile."""
        return engage_api.KEYS

    @property
    def ids(self) -> tuple[str, ...]:
        """Return the columns of ids of persons, none for profiles of groups."""
        return () if self.source.group else engage_api.IDS

    @property
    def is_record(self) -> str:
        """Return the condition for profiles: an id, and an object."""
        return engage_api.IS_RECORD

    def request(self, batch: Batch) -> engage_api.Request:
        """Return the request for a page."""
        source, page = self.source, page_of(batch)
        return engage_api.Request(
            source.project_id,
            source.workspace,
            source.where,
            source.properties,
            source.cohort,
            source.group,
            page.number,
            page.asked_size,
            page.session.id if page.session else None,
        )

    def fault(self, batch: Batch, lines: int, envelope: Mapping[str, Any] | None) -> Failure | None:
        """Return what a page says that it cannot say, or that it has not as many profiles as it must have."""
        page, said = page_of(batch), envelope or {}
        wrong = _wrong_page(page, said) or _wrong_count(page, said, lines)
        return inconsistent(f"{batch.label}: {wrong}", http_status=200, once_more=True) if wrong else None

    def parts(self, batch: Batch, held: Sequence[HeldBatch]) -> tuple[list[Batch], bool]:
        """Return the first page without a size where it has one that is not insisted on."""
        page = page_of(batch)
        if page.session is not None or page.asked_size is None or not self.may_resize:
            return [], False
        return [Batch(batch.from_date, batch.to_date, page=Page(page.number))], False

    def rows(self, lines: str) -> str:
        """Return the SELECT that turns lines into profiles."""
        return engage_api.rows(lines)


def first_page(day: date, page_size: int | None) -> Batch:
    """Return the page that begins a session."""
    return Batch(day, day, page=Page(0, page_size))


def session_of(envelope: Mapping[str, Any]) -> Session:
    """Return the session that a first page has begun, as ``fault`` found it to be right."""
    return Session(envelope["session_id"], envelope["total"], envelope["page_size"])


def further_pages(first: Batch, session: Session) -> list[Batch]:
    """Return the pages of a session that follow its first."""
    size = page_of(first).asked_size
    return [
        Batch(first.from_date, first.to_date, page=Page(number, size, session)) for number in range(1, session.pages)
    ]


def first_again(batch: Batch, session: Session) -> Batch:
    """Return the first page of a session once more, given any of its pages."""
    page = Page(0, page_of(batch).asked_size, session, is_again=True)
    return Batch(batch.from_date, batch.to_date, page=page)


def page_of(batch: Batch) -> Page:
    """Return the page that a batch is."""
    assert isinstance(batch.page, Page)
    return batch.page


def _wrong_page(page: Page, said: Mapping[str, Any]) -> str:
    """Return what of an envelope is not what it must be, or ``""``."""
    if said.get("status") not in ("ok", None):
        return "its status is not ok"
    if page.session is None:
        whole = {name: said.get(name) for name in ("total", "page_size")}
        for name, value in whole.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < (name == "page_size"):
                return f"it does not say a {name}"
        if not isinstance(said.get("session_id"), str) or not said["session_id"]:
            return "it does not name its session"
    elif said.get("session_id") not in (page.session.id, None):
        return "it is of another session"
    elif said.get("total") not in (page.session.total, None):
        return f"it does not say that there are {page.session.total:,} profiles, as the first page did"
    if said.get("page") not in (page.number, None):
        return "it is another page"
    return ""


def _wrong_count(page: Page, said: Mapping[str, Any], lines: int) -> str:
    session = page.session or session_of(said)
    expected = session.rows(page.number)
    return f"it has {lines:,} profiles in place of {expected:,}" if lines != expected else ""
