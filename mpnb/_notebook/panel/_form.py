"""The fields of the panel: their values, what is wrong with them, and when they changed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from datetime import date, timedelta
from typing import Any

import anywidget
import duckdb
from duckdb import DuckDBPyConnection
from traitlets import Dict

from mpnb import _api as api
from mpnb._base.clock import today
from mpnb._base.scalars import as_int, brief
from mpnb._base.sql import quoted
from mpnb._errors import MpnbError
from mpnb._notebook.panel._frontend import STYLE, module
from mpnb._notebook.panel._kinds import EVENTS, PROFILES, Kind
from mpnb._notebook.panel._labels import LABELS, MODES
from mpnb._planning.dates import FIRST_DAY, parse_date
from mpnb._planning.options import LAKE_CHUNK_DAYS
from mpnb._planning.request import check_mode
from mpnb._storing.database import check_database

DAY = timedelta(days=1)
CUSTOM = "custom"
PRESETS = (
    ("Last 7 days", "7"),
    ("Last 30 days", "30"),
    ("Last 90 days", "90"),
    ("This quarter", "quarter"),
    ("From – to", CUSTOM),
)
# Names of events that the form suggests.
MOST_NAMES = 1000
MODE_WORDS = {"resume": "fetch what is missing", "refresh": "fetch all again", "new": "into an empty table"}
# Of profiles. Names of their fields begin so: those of events are others, but for the database.
PEOPLE_MODE_WORDS = {"resume": "unless young enough", "refresh": "fetch again", "new": "into an empty table"}
PEOPLE = "people_"
HISTORY = (("No", "no"), ("Yes: keep earlier versions", "yes"))


def preset_range(preset: str, now: date) -> tuple[date, date]:
    """Return first and last day of a preset, in full days: it ends yesterday, except on a quarter's first day."""
    if preset == "quarter":
        first = date(now.year, now.month - (now.month - 1) % 3, 1)
        return first, max(first, now - DAY)
    return now - DAY * int(preset), now - DAY


def _text(value: object) -> str:
    """Return an argument as text for its field."""
    number = as_int(value)
    return value if isinstance(value, str) else brief(value if number is None else number)


def _number(text: str) -> int | str:
    """Parse a whole number; return any other text unchanged, to be refused later."""
    try:
        return int(text)
    except ValueError:
        return text


def _lines(text: str) -> list[str]:
    """Return the names that a field has, one a line."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def _hours(text: str) -> tuple[timedelta, str]:
    """Return a number of hours as a time, and what is wrong with it."""
    try:
        hours = timedelta(hours=float(text))
    except (ValueError, OverflowError):
        hours = timedelta(-1)
    if hours < timedelta(0):
        return timedelta(0), f"{LABELS['max_age']}: a number of 0 or more, not {brief(text)}"
    return hours, ""


def _people_values() -> dict[str, str]:
    """Return what the fields of profiles say first."""
    usual = PROFILES.defaults
    return {
        **dict.fromkeys(("properties", "where", "cohort", "group", "workspace"), ""),
        "table": usual["table"],
        "workers": _text(usual["workers"]),
        "page_size": _text(usual["page_size"]),
        "mode": usual["mode"],
        "max_age": f"{usual['max_age'] / timedelta(hours=1):g}",
        "history": "no",
    }


class Fields(anywidget.AnyWidget):
    """
    The fields. Once displayed, the browser alone writes ``values`` and the pump alone ``info``.

    Attributes:
        values: the text of each field, by its name.
        info: the words around them, as form.js describes them.
    """

    _esm = module("form.js")
    _css = STYLE
    values = Dict().tag(sync=True)
    info = Dict().tag(sync=True)

    def __repr__(self) -> str:
        """Return a text without an address or a value."""
        return "Fields()"


class Form:
    """
    What the fields say, and what is said beside them.

    Args:
        given: arguments of ``mpnb.start()`` that fill it in; it takes those that it has fields for.
        on_message: told what a person did, in whatever thread that is heard: ``{"type": "form"}`` for a changed field,
            ``{"type": "names"}`` where the names of the table's events would help.
    """

    def __init__(self, given: dict[str, Any], on_message: Callable[[dict[str, Any]], object]) -> None:
        first, last, preset = _dates(given)
        usual = {} if given.get("destination") is None else {"chunk_days": LAKE_CHUNK_DAYS}
        given = {**EVENTS.defaults, **usual, **given}
        database = given["database"]
        self._connection = database if isinstance(database, DuckDBPyConnection) else None
        if self._connection is None:
            check_database(database)
        path = os.fspath(database) if self._connection is None else "the open connection"
        events = () if given["events"] is None else given["events"]
        names = [events] if isinstance(events, str) or not isinstance(events, Iterable) else events
        check_mode(given["mode"])
        self._first_values = {
            "kind": "events",
            "preset": preset,
            "first": first.isoformat(),
            "last": last.isoformat(),
            "events": "\n".join(map(_text, names)),
            "where": "" if given["where"] is None else _text(given["where"]),
            "database": path,
            "table": _text(given["table"]),
            "workers": _text(given["workers"]),
            "chunk_days": _text(given["chunk_days"]),
            "mode": given["mode"],
            **{PEOPLE + name: value for name, value in _people_values().items()},
        }
        self._fixed = [] if self._connection is None else ["database"]
        self._errors: dict[str, str] = {}
        self._folded = ""
        self._names: list[tuple[str, int]] | None = None
        self.fields = Fields(values=self._first_values, info=self._info())
        self.fields.observe(lambda _change: on_message({"type": "form"}), names="values")
        self.fields.on_msg(lambda _widget, content, _buffers: on_message(content))

    def _info(self) -> dict[str, Any]:
        now = today()
        presets = [
            (label, value, "" if value == CUSTOM else " – ".join(map(str, preset_range(value, now))))
            for label, value in PRESETS
        ]
        return {
            "labels": LABELS,
            "presets": presets,
            "modes": [(f"{label}: {MODE_WORDS[mode]}", mode) for mode, label in MODES.items()],
            "people_modes": [(f"{label}: {PEOPLE_MODE_WORDS[mode]}", mode) for mode, label in MODES.items()],
            "history": HISTORY,
            "fixed": self._fixed,
            "errors": self._errors,
            "folded": self._folded,
            "names": self._names,
        }

    def paint(self, errors: dict[str, str], kind: Kind) -> None:
        """Show what is wrong with each field of a kind. Called in the pump's thread only."""
        before = PEOPLE if kind is PROFILES else ""
        self._errors = {
            place if place in ("database", "form", "login") else before + place: text for place, text in errors.items()
        }
        self.fields.info = self._info()

    def fold(self, line: str) -> None:
        """Show one line in place of the fields; ``""`` shows the fields. Called in the pump's thread only."""
        self._folded = line
        self.fields.info = self._info()

    def suggest(self, names: list[tuple[str, int]]) -> None:
        """Offer names of events, with their numbers, the most frequent first. Called in the pump's thread only."""
        self._names = names
        self.fields.info = self._info()

    def reset(self) -> None:
        """Let the fields say again what they said first, of the same kind: the browser writes them."""
        kind = {"kind": self.fields.values["kind"]}
        self.fields.send({"type": "reset", "values": self._first_values | kind})

    @property
    def kind(self) -> Kind:
        """Return what is chosen: events or profiles."""
        return PROFILES if self.fields.values["kind"] == "profiles" else EVENTS

    def asked(self) -> tuple[Kind, dict[str, Any], dict[str, str]]:
        """Return what is chosen, the fields as arguments of its call, and what is wrong with invalid fields."""
        values = {name: str(value).strip() for name, value in self.fields.values.items()}
        kind = self.kind
        if kind is PROFILES:
            return kind, *self._profiles_asked(values)
        return kind, *self._events_asked(values)

    def _profiles_asked(self, values: dict[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
        mine = {name.removeprefix(PEOPLE): value for name, value in values.items() if name.startswith(PEOPLE)}
        hours, wrong = _hours(mine["max_age"])
        asked = {
            "where": mine["where"] or None,
            "properties": _lines(mine["properties"]) or None,
            "cohort": _number(mine["cohort"]) if mine["cohort"] else None,
            "group": mine["group"] or None,
            "workspace": mine["workspace"] or None,
            "database": self._database(values),
            "table": mine["table"],
            "workers": _number(mine["workers"]),
            "page_size": "auto" if mine["page_size"].lower() == "auto" else _number(mine["page_size"]),
            "mode": mine["mode"],
            "max_age": hours,
            "history": mine["history"] == "yes",
        }
        return asked, {"max_age": wrong} if wrong else {}

    def _database(self, values: dict[str, str]) -> Any:
        return self._connection if self._connection is not None else values["database"]

    def _events_asked(self, values: dict[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
        dates, wrong = _dates_asked(values)
        chunk_days = values["chunk_days"].lower()
        asked = {
            **dates,
            "events": _lines(values["events"]) or None,
            "where": values["where"] or None,
            "database": self._database(values),
            "table": values["table"],
            "workers": _number(values["workers"]),
            "chunk_days": chunk_days if chunk_days == "auto" else _number(chunk_days),
            "mode": values["mode"],
        }
        return asked, {"dates": wrong} if wrong else {}


def _dates_asked(values: dict[str, str]) -> tuple[dict[str, str], str]:
    now, wrong = today(), ""
    first, last = _day(values["first"]), _day(values["last"])
    if values["preset"] != CUSTOM:
        first, last = preset_range(values["preset"], now)
    elif first is None or last is None:
        wrong = f"choose the {'first' if first is None else 'last'} day"
    elif first < FIRST_DAY:
        # So is a year of which not all digits are typed yet.
        wrong = f"{LABELS['from_date']} {first} is before {FIRST_DAY.year}, when Mixpanel began"
    if wrong or first is None or last is None:
        return dict(EVENTS.sound["dates"]), wrong
    # Cut here, where a warning would go into whichever cell runs next.
    return {"from_date": first.isoformat(), "to_date": (min(last, now) if first <= now else last).isoformat()}, ""


def _day(text: str) -> date | None:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


def names_in(database: Any, table: Any) -> list[tuple[str, int]]:
    """Return the events of a table with their numbers, the most frequent first; none of a table that cannot be read."""
    try:
        with api.open(database, table=table) as held:
            return held.sql(
                f"SELECT event_name, count(*) AS many FROM {quoted(held.table)} WHERE event_name IS NOT NULL"
                f" GROUP BY ALL ORDER BY many DESC, event_name ASC LIMIT {MOST_NAMES}"
            ).fetchall()
    except (MpnbError, duckdb.Error):
        return []


def _dates(given: dict[str, Any]) -> tuple[date, date, str]:
    """Return first and last day, and the preset that they match."""
    now = today()
    if "from_date" not in given and "to_date" not in given:
        return *preset_range("30", now), "30"
    last = parse_date(given.get("to_date", now - DAY), name="to_date", now=now)
    first = parse_date(given.get("from_date", last - DAY * 29), name="from_date", now=now)
    for _, preset in PRESETS:
        if preset not in (CUSTOM, "quarter") and (first, last) == preset_range(preset, now):
            return first, last, preset
    return first, last, CUSTOM
