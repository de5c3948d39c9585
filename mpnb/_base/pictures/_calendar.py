"""Days in weeks: weeks across, Monday to Sunday down, and above them a bar for each day."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import groupby

from mpnb._base.pictures._picture import Picture, drawn, paint, stroke, text, told
from mpnb._base.pictures._scale import scale
from mpnb._base.pictures._words import (
    MONTHS,
    WEEKDAYS,
    Value,
    day_in_words,
    days_in_words,
    finite,
    number,
    short,
    total,
)

WEEKS = 53  # of a row of weeks, at most
LEFT, BARS, GAP = 44.0, 52.0, 22.0
# In the order in which the words below the picture explain them.
STATES = ("there", "failed", "missing", "coming", "provisional")


@dataclass(frozen=True, slots=True)
class Day:
    """
    A day.

    Attributes:
        day: which one.
        count: of events; ``None`` where none is known.
        state: ``"there"``, ``"failed"``, ``"missing"``, ``"coming"`` (it is being fetched) or ``"provisional"``.
        unusual: whether the count is far off what is usual.
        note: what else a pointer reads.
    """

    day: date
    count: Value
    state: str = "there"
    unusual: bool = False
    note: str = ""


def calendar(days: Sequence[Day], *, title: str, words: str, call: str = "", measure: str = "events") -> Picture:
    """Draw days, which are in order and have none between them left out."""
    weeks = _weeks(days)
    rows = max(1, -(-len(weeks) // WEEKS))
    per_row = max(1, -(-len(weeks) // rows))
    pitch = 21.0 if per_row * 21 <= 735 else 14.0  # a bar for each of seven days
    size = min(pitch, 20.0)
    most = max((finite(day.count) or 0.0 for day in days), default=0.0)
    height_of_row = BARS + GAP + 7 * size + 14
    parts: list[str] = []
    for row in range(rows):
        parts += _row(weeks[row * per_row : (row + 1) * per_row], row * height_of_row, pitch, size, most)
    below = rows * height_of_row + 4
    width = LEFT + max(per_row * pitch, 560.0) + 10
    parts += _key(days, below, most)
    if not days:
        parts.append(text(10, 20, "no days", muted=True))
    svg = drawn(width, below + 26, f"{title}. {words}", parts)
    return Picture(title, words, svg, ("days", "state", "number of days", measure), _rows(days), call)


def _weeks(days: Sequence[Day]) -> list[list[Day]]:
    return [list(week) for _, week in groupby(days, key=lambda day: day.day - timedelta(days=day.day.weekday()))]


def _row(weeks: Sequence[Sequence[Day]], y: float, pitch: float, size: float, most: float) -> list[str]:
    """Return some weeks side by side: the names of months, the bars, the cells."""
    up = scale([most], y + BARS, y + 4)
    parts = [f'<path {stroke("line")} d="M{LEFT:g} {y + BARS:g}h{len(weeks) * pitch:g}"/>']
    if most:
        parts.append(text(LEFT - 6, up(most) + 8, short(most), anchor="end", muted=True))
    top = y + BARS + GAP
    parts += [
        text(LEFT - 8, top + n * size + size * 0.75, WEEKDAYS[n], anchor="end", muted=True)
        for n in range(7)
        if size > 15 or n % 2 == 0
    ]
    cells: dict[str, list[str]] = {}
    columns: dict[str, list[str]] = {}
    parts += _months(weeks, y + BARS + 15, pitch)
    for place, week in enumerate(weeks):
        x = LEFT + place * pitch
        for day in week:
            n = day.day.weekday()
            count = finite(day.count) or 0.0
            said = told(_said(day))
            bar = f"M{x + n * pitch / 7 + 0.3:.1f} {y + BARS:g}V{up(count):g}h{pitch / 7 - 0.6:.1f}V{y + BARS:g}z"
            if count > 0:
                columns.setdefault("odd" if day.unusual else "h3", []).append(bar)
            look, mark = _cell(day, x + 1, top + n * size + 1, size - 2, most)
            cells.setdefault(look, []).append(f"{mark[:-2]}>{said}{mark[-2:].replace('/>', '</path>')}")
    parts += [f'<path {paint(colour)} d="{"".join(each)}"/>' for colour, each in columns.items()]
    parts += [f"<g {look}>{''.join(each)}</g>" for look, each in cells.items()]
    parts += [_unusual(day, LEFT + p * pitch, top, size) for p, week in enumerate(weeks) for day in week if day.unusual]
    return parts


def _months(weeks: Sequence[Sequence[Day]], y: float, pitch: float) -> list[str]:
    """Return the names of months over the weeks in which they begin, as far as there is room."""
    parts, free, before = [], 0.0, ""
    for place, week in enumerate(weeks):
        last, x = week[-1].day, LEFT + place * pitch
        if before[:7] != last.isoformat()[:7] and x >= free:
            name = MONTHS[last.month - 1] + (f" {last.year}" if before[:4] != str(last.year) else "")
            parts.append(text(x, y, name, muted=True))
            free, before = x + 6 + len(name) * 7, last.isoformat()
    return parts


def _cell(day: Day, x: float, y: float, s: float, most: float) -> tuple[str, str]:
    """Return how a day looks, and its shape, which ends with ``/>``."""
    box = f"M{x:g} {y:g}h{s:g}v{s:g}h-{s:g}z"
    if day.state == "failed":
        a, b = s * 0.25, s * 0.75
        cross = f"M{x + a:g} {y + a:g}L{x + b:g} {y + b:g}M{x + b:g} {y + a:g}L{x + a:g} {y + b:g}"
        return f'{stroke("bad")} stroke-width="2" pointer-events="all"', f'<path d="{box}{cross}"/>'
    if day.state == "missing":
        return f'{stroke("gap")} stroke-dasharray="2.5 2" pointer-events="all"', f'<path d="{box}"/>'
    if day.state == "coming":
        dot = f"M{x + s * 0.4:g} {y + s / 2:g}h{s * 0.2:g}"
        return f'{stroke("gap")} pointer-events="all"', f'<path d="{box}{dot}"/>'
    if day.state == "provisional":
        h = s / 2
        lines = f"M{x:g} {y + h:g}l{h:g} -{h:g}M{x:g} {y + s:g}l{s:g} -{s:g}M{x + h:g} {y + s:g}l{h:g} -{h:g}"
        return f'{stroke("h3")} pointer-events="all"', f'<path d="{box}{lines}"/>'
    return paint(f"h{_step_of(day.count, most)}"), f'<path d="{box}"/>'


def _step_of(count: Value, most: float) -> int:
    """Return which of the four steps a count is on, 0 for no events."""
    found = finite(count) or 0.0
    return 0 if found <= 0 or most <= 0 else min(4, 1 + int(found / most * 3.999))


def _unusual(day: Day, x: float, top: float, size: float) -> str:
    """Return the ring around a day that is far off what is usual."""
    y = top + day.day.weekday() * size
    return (
        f'<path {stroke("odd")} stroke-width="2" pointer-events="none" d="M{x:g} {y:g}h{size:g}v{size:g}h-{size:g}z"/>'
    )


def _said(day: Day) -> str:
    count = "" if day.count is None else f"{number(day.count)} events"
    state = "" if day.state == "there" else STATE_WORDS[day.state]
    return f"{day_in_words(day.day, weekday=True)}: {', '.join(each for each in (count, state, day.note) if each)}"


STATE_WORDS = {
    "there": "there",
    "failed": "failed",
    "missing": "missing",
    "coming": "being fetched",
    "provisional": "provisional",
}


def _key(days: Sequence[Day], y: float, most: float) -> list[str]:
    """Return what the looks mean, of those that occur."""
    parts, x = [], LEFT
    looks: list[tuple[list[Day], str]] = []
    if any(day.state == "there" for day in days):
        first = date(2024, 1, 1)  # whichever
        looks.append(
            ([Day(first, most * n / 4 - most / 8) for n in (1, 2, 3, 4)] if most else [Day(first, 0)], "there")
        )
    looks += [
        ([Day(date(2024, 1, 1), None, state)], STATE_WORDS[state])
        for state in STATES[1:]
        if any(day.state == state for day in days)
    ]
    if any(day.unusual for day in days):
        looks.append(([Day(date(2024, 1, 1), most, unusual=True)], "unusual for its weekday"))
    for shown, name in looks:
        for day in shown:
            look, mark = _cell(day, x + 1, y + 1, 12, most)
            parts.append(f"<g {look}>{mark}</g>" + (_unusual(day, x, y, 14) if day.unusual else ""))
            x += 15
        parts.append(text(x + 4, y + 12, name, muted=True))
        x += 24 + len(name) * 6.6
    return parts


def _rows(days: Sequence[Day]) -> list[tuple[str, ...]]:
    """Return the rows of the table: days that follow each other in one month and state, together."""
    key = lambda day: (day.day.year, day.day.month, day.state, day.unusual)  # noqa: E731
    rows: list[tuple[str, ...]] = []
    for (_, _, state, unusual), group in groupby(days, key=key):
        run = list(group)
        events = number(total(day.count for day in run))
        name = STATE_WORDS[state] + (", unusual" if unusual else "")
        rows.append((days_in_words(d.day for d in run), name, number(len(run)), events))
    return rows
