"""The file of ``sync``: which tables are to be kept up to date, and where the service accounts are found."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec

from mpnb._base.names import closest
from mpnb._base.paths import beside, shown
from mpnb._base.scalars import brief
from mpnb._base.text import safe_text
from mpnb._errors import CredentialsError, PlanError
from mpnb._message import Argument, Phrase, Word, said
from mpnb._mixpanel.credentials import REQUIRED, VARIABLES, Credentials
from mpnb._mixpanel.quota import Quota
from mpnb._planning.dates import parse_range
from mpnb._planning.options import DATABASE, TABLE
from mpnb._planning.people import PROFILES, USUAL

# Where the file has other names than the call, and what it cannot do.
NAMES = {"from_date": "days", "to_date": "days", "max_age": "max_age_hours"}
PHRASES = {"the same call": "the same sync", "this call": "this file", "wait": "", "spool": "a disk with more room"}
# What the file may say of a service account itself.
IN_FILE = ("project_id", "region", "base_url")
MAX_HOURS = 24 * 36_500
# What shells and systemd take as the name of a variable; a secret that was pasted in its place rarely is one.
_NAME = r"[A-Za-z_][A-Za-z0-9_]*"


class Project(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table ``[projects.NAME]``; what is not there comes from ``MP_USERNAME`` and so on."""

    project_id: str | int | None = None
    region: str | None = None
    base_url: str | None = None
    username_env: str = "MP_USERNAME"
    secret_env: str = "MP_SECRET"  # noqa: S105
    per_hour: int | None = None
    per_second: int | None = None
    concurrent: int | None = None


class EventsEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An entry ``[[events]]``: the arguments of ``export``."""

    days: str
    project: str | None = None
    database: str | None = None
    destination: str | None = None
    table: str = TABLE
    events: list[str] | None = None
    where: str | None = None
    workers: int | msgspec.UnsetType = msgspec.UNSET
    chunk_days: int | str | msgspec.UnsetType = msgspec.UNSET
    late_days: int | msgspec.UnsetType = msgspec.UNSET
    memory: int | str | None = None


class ProfilesEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An entry ``[[profiles]]``: the arguments of ``export_profiles``."""

    project: str | None = None
    database: str | None = None
    table: str = PROFILES
    where: str | None = None
    properties: list[str] | None = None
    cohort: int | None = None
    group: str | int | None = None
    workspace: str | int | None = None
    workers: int | msgspec.UnsetType = msgspec.UNSET
    max_age_hours: float | msgspec.UnsetType = msgspec.UNSET
    memory: int | str | None = None


class Agenda(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    database: str = DATABASE
    projects: dict[str, Project] = {}
    events: list[EventsEntry] = []
    profiles: list[ProfilesEntry] = []

    @property
    def entries(self) -> list[Entry]:
        """Return the tables, in the order in which they are brought up to date."""
        return [*self.events, *self.profiles]


Entry = EventsEntry | ProfilesEntry


def read_agenda(path: Path) -> Agenda:
    """
    Read the file, and check all of it that needs no database.

    Raises:
        PlanError: there is no such file, or it says something that cannot be.
    """
    try:
        agenda = msgspec.toml.decode(path.read_text("utf-8-sig"), type=Agenda)
    except UnicodeDecodeError:
        raise PlanError(f"{shown(path)} is no text in UTF-8: save it as UTF-8", argument="file") from None
    except RecursionError:
        raise PlanError(f"{shown(path)}: its brackets are nested too deeply", argument="file") from None
    except OSError as error:
        raise PlanError(f"{shown(path)} cannot be read: {error.strerror}", argument="file") from None
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise PlanError(f"{shown(path)}: {safe_text(str(error))}{_hint(str(error))}", argument="file") from None
    if not agenda.entries:
        raise PlanError(f"{shown(path)} names no table: write [[events]] or [[profiles]]", argument="file")
    for name, project in agenda.projects.items():
        for key in ("username_env", "secret_env"):
            if not re.fullmatch(_NAME, getattr(project, key)):
                raise PlanError(
                    f"{shown(path)}: {key} of project {brief(name)} must be the name of a variable of the environment,"
                    " never the value itself",
                    argument="file",
                )
    for entry in agenda.entries:
        if entry.project is not None and entry.project not in agenda.projects:
            why = f"there is no [projects.{entry.project}]{closest(entry.project, list(agenda.projects))}"
            raise PlanError(f"{shown(path)}: {safe_text(why)}", argument="file")
        if ":memory:" in (entry.database, agenda.database):
            raise PlanError(f"{shown(path)}: what is in memory is gone at the end: name a file", argument="file")
        if isinstance(entry, EventsEntry):
            if entry.destination is not None and entry.database is not None:
                why = "is a lake in place of a database: leave one of them out"
                raise PlanError(f"{shown(path)}: destination of table {brief(entry.table)} {why}", argument="file")
            try:
                parse_range(entry.days.split())
            except PlanError as error:
                raise PlanError(
                    f"{shown(path)}: days of table {brief(entry.table)}: {error}", argument="file"
                ) from None
    return agenda


def _hint(text: str) -> str:
    """Return what was meant, where one pair of brackets is missing."""
    found = re.search(r"Expected `array`, got `object` - at `\$\.(events|profiles)`", text)
    return f": write [[{found[1]}]], since there may be several" if found else ""


def place_of(agenda: Agenda, entry: Entry) -> str:
    """Return the database or the lake of an entry, as the file names it."""
    own = entry.destination if isinstance(entry, EventsEntry) else None
    named = entry.database if own is None else own
    return agenda.database if named is None else named


def arguments_of(agenda: Agenda, entry: Entry, folder: Path) -> dict[str, Any]:
    """
    Return the arguments of the call for an entry.

    Args:
        folder: that paths are relative to.

    Raises:
        PlanError: its days cannot be read.
        CredentialsError: a variable that it names is not set, or what the variables have cannot be meant.
    """
    given = {name: value for name, value in msgspec.structs.asdict(entry).items() if value is not msgspec.UNSET}
    del given["project"]
    if "days" in given:
        given["from_date"], given["to_date"] = parse_range(given.pop("days").split())
    if "max_age_hours" in given:
        given["max_age"] = _hours(given.pop("max_age_hours"))
    del given["database"]
    name = "destination" if given.get("destination") is not None else "database"
    given[name] = beside(place_of(agenda, entry), folder)
    project = agenda.projects[entry.project] if entry.project else Project()
    given["credentials"] = _credentials(project, f"[projects.{entry.project}]")
    given["quota"] = _quota(project, USUAL if isinstance(entry, ProfilesEntry) else Quota())
    return given


def _hours(number: float) -> timedelta:
    if not 0 <= number <= MAX_HOURS:
        raise PlanError(Argument("max_age"), f" must be a number of hours, 0 or more, not {number:g}")
    return timedelta(hours=number)


def _quota(project: Project, usual: Quota) -> Quota | None:
    """Return what the project was granted, ``None`` if the file does not say."""
    named = {name: getattr(project, name) for name in ("per_hour", "per_second", "concurrent")}
    granted = {name: value for name, value in named.items() if value is not None}
    return replace(usual, **granted) if granted else None


def _credentials(project: Project, label: str) -> Credentials:
    """Return the service account of a project; what is wrong with it is said of the variable, or of the file."""
    told = {key: f"{key} of {label}" for key in IN_FILE if getattr(project, key) is not None}
    names = {**VARIABLES, "username": project.username_env, "secret": project.secret_env, **told}
    given: dict[str, Any] = {
        key: str(getattr(project, key)) if key in told else os.environ.get(name, "").strip()
        for key, name in names.items()
    }
    missing = [names[key] for key in REQUIRED if not given[key]]
    fault = f"no credentials: {', '.join(missing)} not set in the environment" if missing else ""
    if not fault:
        try:
            return Credentials(**{key: value for key, value in given.items() if value})
        except CredentialsError as error:
            fault = said(error, lambda word: names[word.name] if isinstance(word, Argument) else str(word))
    del given  # a traceback may show the variables of every frame
    raise CredentialsError(fault)


def in_file(word: Word) -> str:
    """Name an argument as the file does."""
    if isinstance(word, Phrase):
        return PHRASES.get(word.key, word.python)
    name = NAMES.get(word.name, word.name)
    return f"{name} = {json.dumps(word.value)}" if word.value else name
