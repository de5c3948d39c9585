"""The arguments of an export of profiles, checked before anything else happens, and what it would do."""

from __future__ import annotations

import html
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from mpnb._base.names import event_names
from mpnb._base.scalars import as_int, brief, check_flags, is_text, whole_number
from mpnb._base.text import duration
from mpnb._errors import PlanError
from mpnb._message import Argument, Message
from mpnb._mixpanel.credentials import Credentials, missing_variables
from mpnb._mixpanel.engage_api import PAGE_SIZE
from mpnb._mixpanel.quota import Quota
from mpnb._planning.batches import Mode
from mpnb._planning.options import Spool, memory_of
from mpnb._planning.profiles import ProfileSource
from mpnb._planning.request import MAX_WORKERS, Database, OnBatch, check_helpers, check_mode, check_table_name

PROFILES = "profiles"
WORKERS = 5
MAX_AGE = timedelta(hours=12)
# Of the query API: https://developer.mixpanel.com/reference/rate-limits
USUAL = Quota(per_hour=60, per_second=3, concurrent=5)
MAX_PAGE_SIZE = 1_000_000


@dataclass(frozen=True, slots=True)
class ProfilesAsked:
    """The checked arguments of a call."""

    source: ProfileSource | None
    database: Database
    table: str
    workers: int
    page_size: int | Literal["auto"]
    mode: Mode
    max_age: timedelta
    history: bool
    on_batch: OnBatch | None
    credentials: Credentials | None
    quota: Quota | None
    spool: Spool
    memory: int | None
    filters: ProfileSource

    @property
    def asked_size(self) -> int:
        """Return the number of profiles a page that is asked for."""
        return PAGE_SIZE if self.page_size == "auto" else self.page_size


def check_profiles(
    *,
    where: str | None,
    properties: str | Iterable[str] | None,
    cohort: int | None,
    group: str | int | None,
    database: Database,
    table: str,
    workers: int,
    page_size: int | Literal["auto"],
    workspace: str | int | None,
    mode: Mode,
    max_age: timedelta,
    history: bool,
    on_batch: OnBatch | None,
    credentials: Credentials | None,
    quota: Quota | None,
    spool: Spool | None,
    memory: int | str | None,
    needs_credentials: bool = True,
) -> ProfilesAsked:
    """
    Check the arguments of ``export_profiles``, whose docstring has the rules.

    Raises:
        PlanError: an argument is out of its range or of another type.
        TableError: no table can have that name.
        CredentialsError: there are none, or none that can be.
    """
    if where is not None and (not isinstance(where, str) or not where.strip() or not is_text(where)):
        raise PlanError(Argument("where"), f" must be a filter expression of Mixpanel's, not {brief(where)}")
    names = None if properties is None else tuple(event_names(properties, PROPERTIES))
    number = None if cohort is None else whole_number("cohort", cohort, 0, 2**63)
    if number is not None and group is not None:
        raise PlanError(Argument("group"), " and ", Argument("cohort"), " cannot be asked for together: pass one")
    workers = whole_number("workers", workers, 1, MAX_WORKERS)
    if not isinstance(page_size, str) or page_size != "auto":
        page_size = whole_number("page_size", page_size, 1, MAX_PAGE_SIZE, otherwise=", or 'auto'")
    if not isinstance(max_age, timedelta) or max_age < timedelta(0):
        raise PlanError(Argument("max_age"), f" must be a timedelta of 0 or more, not {brief(max_age)}")
    check_flags(history=history)
    check_mode(mode)
    check_helpers(on_batch=on_batch, credentials=credentials, quota=quota, spool=spool)
    name = check_table_name(table)
    if credentials is None and (needs_credentials or not missing_variables()):
        credentials = Credentials.from_environment()
    given = ("", where, names, number, _number("group", group), _number("workspace", workspace))
    filters = ProfileSource(*given)
    source = ProfileSource(credentials.project_id, *given[1:]) if credentials else None
    return ProfilesAsked(
        source, database, name, workers, page_size, mode, max_age, bool(history), on_batch, credentials, quota,
        spool or Spool(), memory_of(memory), filters,
    )  # fmt: skip


PROPERTIES = Message(Argument("properties"), " must be a list of names of properties, or None for all")


def _number(name: str, value: Any) -> str | None:
    """Return the number of a group or workspace as text: a group's has up to 19 digits, and may be negative."""
    if value is None:
        return None
    text = value.strip() if isinstance(value, str) else str(as_int(value))
    if not text.removeprefix("-").isdecimal() or not text.isascii():
        raise PlanError(Argument(name), f" must be a number, as text or integer, not {brief(value)}")
    return text


@dataclass(frozen=True, slots=True)
class ProfilesPlan:
    """
    What an export of profiles would do. Making a plan sends nothing.

    Attributes:
        table: name of the table.
        age: of the snapshot that the table has; ``None`` if it has none.
        profiles: how many that has; ``None`` if there is none. How many there are now, only a request tells.
        is_held: whether it is young enough, so that no request would be sent.
        pages: how many pages that would be, if there are as many profiles as before; ``None`` where that is unknown.
        goes_on: pages that are staged already, of an export that was stopped or failed, and would not be fetched again.
        quota_left: requests that are left in the rolling hour of the query API.
        per_hour: requests that the quota allows per hour.
    """

    table: str
    age: timedelta | None
    profiles: int | None
    is_held: bool
    pages: int | None
    goes_on: int
    quota_left: int
    per_hour: int

    @property
    def hours_if_pages_count(self) -> int | None:
        """
        Return the hours of waiting if Mixpanel counts each page; it counts the first one alone, as far as is known.

        ``None`` where the number of pages is unknown.
        """
        if self.pages is None:
            return None
        over = self.pages + 1 - self.goes_on - self.quota_left
        return 0 if over <= 0 else -(-over // self.per_hour)

    def __str__(self) -> str:
        """Return the plan as a few lines of text."""
        return "\n".join(f"{name:<9} {line}" for name, line in self._lines())

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        rows = "".join(
            f"<tr><th style='text-align:left'>{name}</th><td style='text-align:left'>{html.escape(line)}</td></tr>"
            for name, line in self._lines()
        )
        return {"text/plain": str(self), "text/html": f"<table>{rows}</table>"}

    def _lines(self) -> list[tuple[str, str]]:
        if self.age is None:
            held = "none yet"
        else:
            held = f"{self.profiles:,} profiles, {duration(self.age.total_seconds())} old"
        lines = [("table", self.table), ("held", held)]
        if self.is_held:
            return [*lines, ("requests", "none: this is young enough")]
        pages = "unknown: no snapshot tells how many profiles there are"
        if self.pages is not None:
            pages = f"about {self.pages:,}, if there are as many profiles as before"
        lines.append(("pages", pages))
        if self.goes_on:
            lines.append(("staged", f"{self.goes_on:,} pages are there already"))
        lines.append(("requests", f"1 of {self.quota_left:,} left this hour, if pages do not count"))
        if self.hours_if_pages_count is not None:
            lines.append(
                ("if not", f"about {self.hours_if_pages_count:,} hours of waiting, should Mixpanel count pages")
            )
        return lines
