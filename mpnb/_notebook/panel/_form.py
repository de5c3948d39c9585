"""The fields of the panel: their values, what is wrong with them, and when they changed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from datetime import date, timedelta
from html import escape
from typing import Any

import ipywidgets as w
from duckdb import DuckDBPyConnection

from mpnb import _api as api
from mpnb._base.clock import today
from mpnb._base.scalars import as_int, brief
from mpnb._message import said
from mpnb._notebook.panel._code import DEFAULTS
from mpnb._notebook.panel._labels import LABELS, MODES, PLACES, in_labels, place_of
from mpnb._planning.dates import FIRST_DAY, parse_date
from mpnb._planning.plan import ExportPlan
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
MODE_WORDS = {"resume": "fetch what is missing", "refresh": "fetch all again", "new": "into an empty table"}
# What stands in for a field that is wrong, so that what is wrong with the others shows as well.
SOUND: dict[str, dict[str, Any]] = {
    "dates": {"from_date": "yesterday", "to_date": "yesterday"},
    "events": {"events": None},
    "where": {"where": None},
    "workers": {"workers": 1},
    "chunk_days": {"chunk_days": 1},
    "database": {"database": ":memory:"},
    "table": {"table": "events"},
}


def preset_range(preset: str, now: date) -> tuple[date, date]:
    """Return first and last day of a preset, in full days: it ends yesterday, except on a quarter's first day."""
    if preset == "quarter":
        first = date(now.year, now.month - (now.month - 1) % 3, 1)
        return first, max(first, now - DAY)
    return now - DAY * int(preset), now - DAY


def planned(asked: dict[str, Any], errors: dict[str, str]) -> tuple[ExportPlan | None, dict[str, str]]:
    """
    Return the plan for the fields, or what is wrong with each of them.

    Args:
        asked: arguments of ``mpnb.plan()``.
        errors: what is known to be wrong already, by field; sound values stand in for those.
    """
    errors = dict(errors)
    while True:
        try:
            plan = api.plan(**asked)
        except Exception as error:
            place = place_of(error)
            if place in errors:
                return None, errors
            errors[place] = said(error, in_labels)
            if place not in SOUND:
                return None, errors
            asked = asked | SOUND[place]
        else:
            return (None, errors) if errors else (plan, {})


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


class Form:
    """
    The fields. Once displayed, the browser alone writes their values and the pump everything else.

    Args:
        given: arguments of ``mpnb.start()`` that fill it in; it takes those that it has fields for.
        on_change: told that a field changed, in whatever thread that is heard.
    """

    def __init__(self, given: dict[str, Any], on_change: Callable[[], object]) -> None:
        first, last, preset = _dates(given)
        given = {**DEFAULTS, **given}
        database = given["database"]
        self._connection = database if isinstance(database, DuckDBPyConnection) else None
        if self._connection is None:
            check_database(database)
        path = os.fspath(database) if self._connection is None else "the open connection"
        events = () if given["events"] is None else given["events"]
        names = [events] if isinstance(events, str) or not isinstance(events, Iterable) else events
        where = "" if given["where"] is None else given["where"]
        check_mode(given["mode"])
        self.preset = w.Dropdown(description="Days", options=PRESETS, value=preset)
        self.first = w.DatePicker(description=LABELS["from_date"], value=first)
        self.last = w.DatePicker(description=LABELS["to_date"], value=last)
        self.events = w.Textarea(
            description=LABELS["events"],
            value="\n".join(map(_text, names)),
            placeholder="all, or one name a line",
            rows=1,
        )
        self.where = w.Text(description=LABELS["where"], value=_text(where), placeholder='properties["$os"] == "iOS"')
        self.database = w.Text(description=LABELS["database"], value=path, disabled=self._connection is not None)
        self.table = w.Text(description=LABELS["table"], value=_text(given["table"]))
        self.workers = w.Text(description=LABELS["workers"], value=_text(given["workers"]), placeholder="1–100")
        self.chunk_days = w.Text(
            description=LABELS["chunk_days"], value=_text(given["chunk_days"]), placeholder="1–100, or auto"
        )
        modes = [(f"{label}: {MODE_WORDS[mode]}", mode) for mode, label in MODES.items()]
        self.mode = w.Dropdown(description=LABELS["mode"], options=modes, value=given["mode"])
        self._range = w.HTML()
        self._errors = {name: w.HTML() for name in (*dict.fromkeys(PLACES.values()), "form")}
        for error in self._errors.values():
            error.add_class("mpnb-error")
        days = w.HBox([self.preset, self.first, self.last, self._range])
        days.add_class("mpnb-days")
        grid = w.Box(
            [
                self._field("dates", days),
                self._field("mode", self.mode),
                self._field("events", self.events),
                self._field("where", self.where),
                self._field("database", self.database),
                self._field("table", self.table),
                self._field("workers", self.workers),
                self._field("chunk_days", self.chunk_days),
            ]
        )
        grid.add_class("mpnb-fields")
        self.box = w.VBox([grid, self._errors["form"]])
        self.box.add_class("mpnb-form")
        for control in self._controls():
            control.observe(lambda _change: on_change(), names="value")
        self.paint({})

    def _field(self, name: str, control: w.Widget) -> w.Widget:
        box = w.VBox([control, self._errors[name]])
        box.add_class("mpnb-field")
        box.add_class(f"mpnb-field-{name.replace('_', '-')}")
        return box

    def _controls(self) -> list[w.Widget]:
        return [
            self.preset, self.first, self.last, self.events, self.where, self.database, self.table, self.workers,
            self.chunk_days, self.mode,
        ]  # fmt: skip

    def asked(self) -> tuple[dict[str, Any], dict[str, str]]:
        """Return the fields as arguments of ``mpnb.start()``, and what is wrong with invalid fields."""
        dates, wrong = self._dates_asked()
        chunk_days = self.chunk_days.value.strip().lower()
        names = [line.strip() for line in self.events.value.splitlines() if line.strip()]
        asked = {
            **dates,
            "events": names or None,
            "where": self.where.value.strip() or None,
            "database": self._connection if self._connection is not None else self.database.value.strip(),
            "table": self.table.value.strip(),
            "workers": _number(self.workers.value.strip()),
            "chunk_days": chunk_days if chunk_days == "auto" else _number(chunk_days),
            "mode": self.mode.value,
        }
        return asked, {"dates": wrong} if wrong else {}

    def _dates_asked(self) -> tuple[dict[str, str], str]:
        now, wrong = today(), ""
        first, last = self.first.value, self.last.value
        if self.preset.value != CUSTOM:
            first, last = preset_range(self.preset.value, now)
        elif first is None or last is None:
            wrong = f"choose the {'first' if first is None else 'last'} day"
        elif first < FIRST_DAY:
            # So is a year of which not all digits are typed yet.
            wrong = f"{LABELS['from_date']} {first} is before {FIRST_DAY.year}, when Mixpanel began"
        if wrong or first is None or last is None:
            return dict(SOUND["dates"]), wrong
        # Cut here, where a warning would go into whichever cell runs next.
        return {"from_date": first.isoformat(), "to_date": (min(last, now) if first <= now else last).isoformat()}, ""

    def paint(self, errors: dict[str, str]) -> None:
        """Show what is wrong with each field, and which days a preset means. Called in the pump's thread only."""
        for name, widget in self._errors.items():
            text = errors.get(name, "")
            widget.value = f'<span role="alert">{escape(text)}</span>' if text else ""
            widget.layout.display = None if text else "none"
        custom = self.preset.value == CUSTOM
        for picker in (self.first, self.last):
            picker.layout.display = None if custom else "none"
        self._range.layout.display = "none" if custom else None
        if not custom:
            first, last = preset_range(self.preset.value, today())
            self._range.value = f'<span class="mpnb-range">{first} – {last}</span>'


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
