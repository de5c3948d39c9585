"""The words of the panel: what its fields are called, and messages that name them so."""

from __future__ import annotations

from mpnb._errors import CredentialsError, PlanError
from mpnb._message import Phrase, Word

MODES = {"resume": "Resume", "refresh": "Refresh", "new": "New"}
# Above the fields, by the argument that each stands for; those of credentials are in login.js.
LABELS = {
    "from_date": "First day",
    "to_date": "Last day",
    "events": "Events",
    "where": "Where",
    "database": "Database",
    "table": "Table",
    "workers": "Workers",
    "chunk_days": "Days a batch",
    "mode": "Mode",
    "properties": "Properties",
    "cohort": "Cohort",
    "group": "Group",
    "workspace": "Workspace",
    "page_size": "Profiles a page",
    "max_age": "Young enough, in hours",
    "history": "History",
    "username": "Service account",
    "secret": "Secret",  # pragma: allowlist secret
    "project_id": "Project id",
    "region": "Region",
    "base_url": "MP_API_BASE_URL",
}
PHRASES = {
    "the same call": "the same export",
    "this call": "this export",
    "export": "Start",
    "pass credentials": ", or type them here",
    "or region": "",
}
# The fields, by the arguments whose errors show beside them.
PLACES = {
    "from_date": "dates", "to_date": "dates", "events": "events", "where": "where", "workers": "workers",
    "chunk_days": "chunk_days", "mode": "mode", "database": "database", "table": "table", "properties": "properties",
    "cohort": "cohort", "group": "group", "workspace": "workspace", "page_size": "page_size", "max_age": "max_age",
}  # fmt: skip


def in_labels(word: Word) -> str:
    """Name an argument as its field does, and what to do next in the terms of the panel."""
    if isinstance(word, Phrase):
        return PHRASES.get(word.key, word.python)
    label = LABELS.get(word.name, word.name)
    return f"{label} {MODES.get(word.value, word.value)}" if word.value else label


def place_of(error: Exception) -> str:
    """Name the field that an error belongs beside, ``"form"`` where it belongs to none."""
    if isinstance(error, CredentialsError):
        return "login"
    argument = error.argument if isinstance(error, PlanError) else None
    return PLACES.get(argument or "", "form")
