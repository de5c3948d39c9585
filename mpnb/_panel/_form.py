"""The fields of the panel: what they hold, what is wrong with them, and when they changed."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import date, timedelta
from html import escape
from typing import Any

import ipywidgets as w

from mpnb import _plan as planning
from mpnb._api import MODES
from mpnb._errors import CredentialsError, DatabaseError, PlanError, TableError

DAY = timedelta(days=1)
CUSTOM = "custom"
PRESETS = (
    ("Last 7 days", "7"),
    ("Last 30 days", "30"),
    ("Last 90 days", "90"),
    ("This quarter", "quarter"),
    ("From – to", CUSTOM),
)
MODE_WORDS = {
    "resume": "Resume: fetch what is missing",
    "refresh": "Refresh: fetch all again",
    "new": "New: into an empty table",
}
# Where a message of PlanError belongs: it begins with the argument's name.
PLACES = {
    "from_date": "dates", "to_date": "dates", "events": "events", "where": "where", "workers": "workers",
    "chunk_days": "chunk_days", "mode": "mode", "database": "database", "table": "table",
}  # fmt: skip


def preset_range(preset: str, now: date) -> tuple[date, date]:
    """Give first and last day of a preset: full days, so the last one is yesterday, but on a quarter's first day."""
    if preset == "quarter":
        first = date(now.year, now.month - (now.month - 1) % 3, 1)
        return first, max(first, now - DAY)
    return now - DAY * int(preset), now - DAY


def place_of(error: Exception) -> str:
    """Name the field that an error belongs beside, ``"form"`` where it belongs to none."""
    for kind, place in ((CredentialsError, "login"), (DatabaseError, "database"), (TableError, "table")):
        if isinstance(error, kind):
            return place
    return PLACES.get(str(error).split(" ", 1)[0], "form")


class Form:
    """
    Hold the fields. After it is on the screen, the browser alone writes their values and the pump all else.

    Args:
        given: arguments of ``mpnb.start()`` that fill it in; it takes those that it has fields for.
        on_change: told that a field changed, in whatever thread that is heard.
    """

    def __init__(self, given: dict[str, Any], on_change: Callable[[], object]) -> None:
        first, last, preset = _dates(given)
        events = given.get("events")
        names = [events] if isinstance(events, str) else list(events or ())
        database = given.get("database", "mixpanel.duckdb")
        self._connection = None if isinstance(database, str | os.PathLike) else database
        path = os.fspath(database) if self._connection is None else "the open connection"
        chunk_days = str(given.get("chunk_days", 7))
        mode = given.get("mode", "resume")
        self.preset = w.Dropdown(description="Days", options=PRESETS, value=preset)
        self.first = w.DatePicker(description="First day", value=first)
        self.last = w.DatePicker(description="Last day", value=last)
        self.events = w.Textarea(
            description="Events", value="\n".join(names), placeholder="all, or one name a line", rows=1
        )
        self.where = w.Text(
            description="Where", value=given.get("where") or "", placeholder='properties["$os"] == "iOS"'
        )
        self.database = w.Text(description="Database", value=path, disabled=self._connection is not None)
        self.table = w.Text(description="Table", value=given.get("table", "events"))
        self.workers = w.IntText(description="Workers", value=given.get("workers", 10), continuous_update=True)
        self.chunk_days = w.Text(description="Days a batch", value=chunk_days, placeholder="1–100, or auto")
        self.mode = w.Dropdown(
            description="Mode", options=[(MODE_WORDS[m], m) for m in MODES], value=mode if mode in MODES else "resume"
        )
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

    def asked(self) -> dict[str, Any]:
        """
        Give the fields as arguments of ``mpnb.start()``.

        Raises:
            PlanError: a field cannot be read; the message begins with the argument's name.
        """
        first, last = self._range_asked()
        chunk_days: int | str = self.chunk_days.value.strip().lower()
        if chunk_days != "auto":
            try:
                chunk_days = int(chunk_days)
            except ValueError:
                raise PlanError(f"chunk_days is a whole number from 1 to 100, or auto, not {chunk_days!r}") from None
        names = [line.strip() for line in self.events.value.splitlines() if line.strip()]
        return {
            "from_date": first.isoformat(),
            "to_date": last.isoformat(),
            "events": names or None,
            "where": self.where.value.strip() or None,
            "database": self._connection if self._connection is not None else self.database.value.strip(),
            "table": self.table.value.strip(),
            "workers": self.workers.value,
            "chunk_days": chunk_days,
            "mode": self.mode.value,
        }

    def _range_asked(self) -> tuple[date, date]:
        now = planning.today()
        if self.preset.value != CUSTOM:
            return preset_range(self.preset.value, now)
        first, last = self.first.value, self.last.value
        if first is None or last is None:
            raise PlanError(f"{'from_date' if first is None else 'to_date'} is no day of the calendar")
        # Cut here, where a warning would go into whichever cell runs next.
        return first, min(last, now) if first <= now else last

    def paint(self, errors: dict[str, str]) -> None:
        """Show what is wrong, by field, and which days a preset means. The pump's thread alone calls it."""
        for name, widget in self._errors.items():
            text = errors.get(name, "")
            widget.value = f'<span role="alert">{escape(text)}</span>' if text else ""
            widget.layout.display = None if text else "none"
        custom = self.preset.value == CUSTOM
        for picker in (self.first, self.last):
            picker.layout.display = None if custom else "none"
        self._range.layout.display = "none" if custom else None
        if not custom:
            first, last = preset_range(self.preset.value, planning.today())
            self._range.value = f'<span class="mpnb-range">{first} – {last}</span>'


def _dates(given: dict[str, Any]) -> tuple[date, date, str]:
    """Give first and last day, and the preset that they are."""
    now = planning.today()
    if "from_date" not in given and "to_date" not in given:
        return *preset_range("30", now), "30"
    last = planning.parse_date(given.get("to_date", now - DAY), name="to_date", now=now)
    first = planning.parse_date(given.get("from_date", last - DAY * 29), name="from_date", now=now)
    for _, preset in PRESETS:
        if preset not in (CUSTOM, "quarter") and (first, last) == preset_range(preset, now):
            return first, last, preset
    return first, last, CUSTOM
