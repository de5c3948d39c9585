"""A calendar: which days are there, which are not and why, and how many events each has."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from statistics import median

from duckdb import DuckDBPyConnection, DuckDBPyRelation

from mpnb._base import pictures
from mpnb._base.clock import utc_now
from mpnb._base.pictures import Picture, day_in_words, days_in_words
from mpnb._base.sql import columns_of, quoted, run
from mpnb._planning import batches
from mpnb._planning.dates import DAY
from mpnb._reading.offset import day_lag
from mpnb._reading.selection import Selection
from mpnb._storing.database import LEDGER
from mpnb._storing.ledger import HELD, UNMET, ended_exports, running_exports

# A count is unusual that is further off its weekday's median than this share of it, and than so many times the median
# of how far those days are off.
UNUSUAL_SHARE = 0.3
UNUSUAL_DEVIATIONS = 6
# What a person types to mend some days that are not there, given these and whether all of them failed.
Mend = Callable[[Sequence[date], bool], str]


@dataclass(frozen=True, slots=True)
class CalendarDay:
    """
    A day of a calendar.

    Attributes:
        day: which one.
        state: ``"there"``, ``"provisional"`` (there, but events of it may have arrived later), ``"failed"``,
            ``"missing"`` or ``"coming"`` (an export is fetching it).
        events: how many of the result's events have a ``time`` on that day.
        usual: the median of the days that are there and have the same weekday; ``None`` for other days.
        is_unusual: whether ``events`` is more than 30 % off ``usual``, and more than six times as far as the median of
            those days.
    """

    day: date
    state: str
    events: int
    usual: float | None = None
    is_unusual: bool = False


class Calendar:
    """
    The days of a table at one moment, made by ``result.calendar()``. A notebook shows it as a picture.

    Attributes:
        days: all of them, in order, each once.
        words: how many are there, and which are not, in a sentence.
        call: code that fetches what is missing, or empty.
        events_elsewhere: events of the result whose ``time`` is on none of these days, or null.
    """

    def __init__(self) -> None:
        """Raise ``TypeError``: a method returns one."""
        raise TypeError("result.calendar() returns a Calendar")

    def _hold(
        self,
        days: tuple[CalendarDay, ...],
        elsewhere: int,
        call: str,
        relate: Callable[[str], DuckDBPyRelation],
    ) -> Calendar:
        self.days: tuple[CalendarDay, ...] = days
        self.events_elsewhere: int = elsewhere
        self.words: str = _in_words(days, elsewhere)
        self.call: str = call
        self._relate = relate
        return self

    @property
    def svg(self) -> str:
        """Return the picture as SVG that stands by itself."""
        return self._picture().svg

    @property
    def relation(self) -> DuckDBPyRelation:
        """
        Return one row per day. Columns: ``day`` (DATE), ``state``, ``events``, ``usual`` (DOUBLE), ``is_unusual``.

        Raises:
            ClosedError: the result was closed.
        """
        rows = ", ".join(
            f"(DATE '{d.day}', '{d.state}', {d.events}::BIGINT, {'NULL' if d.usual is None else d.usual}::DOUBLE,"
            f" {d.is_unusual})"
            for d in self.days
        )
        columns = '"day", "state", "events", "usual", "is_unusual"'
        empty = "SELECT NULL::DATE, NULL::VARCHAR, NULL::BIGINT, NULL::DOUBLE, NULL::BOOLEAN WHERE false"
        return self._relate(f"SELECT * FROM ({f'VALUES {rows}' if rows else empty}) AS days({columns})")

    def _picture(self) -> Picture:
        days = [
            pictures.Day(
                each.day,
                each.events if each.events or each.state in ("there", "provisional") else None,
                each.state,
                each.is_unusual,
                _note(each),
            )
            for each in self.days
        ]
        title = "Mixpanel events"
        if days:
            first, last = self.days[0].day, self.days[-1].day
            title += f", {day_in_words(first)}" + (f" – {day_in_words(last)}" if first != last else "")
        return pictures.calendar(days, title=title, words=self.words, call=self.call)

    def _repr_html_(self) -> str:
        return self._picture().html

    def _mime_(self) -> tuple[str, str]:  # marimo's hook
        return "text/html", self._repr_html_()

    def __repr__(self) -> str:
        """Return the words, and the call on a line of its own."""
        return "\n".join(line for line in (self.words, self.call) if line)


def calendar(
    cursor: DuckDBPyConnection,
    *,
    selection: Selection,
    late_days: int,
    mend: Mend,
    relate: Callable[[str], DuckDBPyRelation],
) -> Calendar:
    """
    Return the calendar of a table. Reads the time of every event once.

    Args:
        cursor: a cursor of the calling thread.
        selection: what the result covers.
        late_days: for how many days after a day its events may still arrive.
        mend: what a person types to mend some days.
        relate: makes a relation from a query.
    """
    held = selection.held(cursor)
    asked = _asked(cursor, selection)
    there = {day: h for h in held for day in _between(h.from_date, h.to_date)}
    unmet = _unmet(cursor, selection)
    coming = _coming(cursor, selection)
    lateness = batches.Lateness(utc_now(), late_days, day_lag(cursor, selection.table, held))
    counts, every = _counts(cursor, selection, asked)

    def state(day: date) -> str:
        if day in coming:
            return "coming"
        if unmet.get(day) is not None:
            return "failed"
        if day in unmet or day not in there:
            return "missing"
        return "provisional" if lateness.is_provisional(there[day], day) else "there"

    states = {day: state(day) for day in asked}
    days = _days(states, counts)
    lacking = [day for day in asked if states[day] in ("failed", "missing")]
    due = [day for day in asked if states[day] == "provisional" and lateness.is_due(there[day])]
    wanted = lacking or due
    call = mend(wanted, all(states[day] == "failed" for day in wanted)) if wanted else ""
    return Calendar.__new__(Calendar)._hold(days, every - sum(each.events for each in days), call, relate)


# From the best to the worst.
STATES = ("there", "provisional", "coming", "missing", "failed")


def combined(calendars: Sequence[Calendar], call: str) -> Calendar:
    """
    Return the calendar of several tables: a day has their events, and the state of the one that is worst off.

    Args:
        call: code that fetches what is missing.
    """
    states: dict[date, str] = {}
    counts: dict[date, int] = defaultdict(int)
    for each in calendars:
        for day in each.days:
            states[day.day] = max(day.state, states.get(day.day, day.state), key=STATES.index)
            counts[day.day] += day.events
    elsewhere = sum(each.events_elsewhere for each in calendars)
    days = _days(dict(sorted(states.items())), counts)
    return Calendar.__new__(Calendar)._hold(days, elsewhere, call, calendars[0]._relate)


# --- what the database knows of the days -----------------------------------------------------------------------------


def _asked(cursor: DuckDBPyConnection, selection: Selection) -> list[date]:
    """Return the days that the result is about, or for the whole ledger those from its first to its last."""
    if selection.days:
        return _between(*selection.days)
    query = f"SELECT min(from_date), max(to_date) FROM {LEDGER} WHERE {selection.batches()}"
    [(first, last)] = run(cursor, query)
    return _between(first, last) if first else []


def _unmet(cursor: DuckDBPyConnection, selection: Selection) -> dict[date, int | None]:
    """Return the days that are missing, each with a batch that failed or was cancelled, ``None`` if there is none."""
    query = selection.unmet(ended_exports(cursor, selection.table))
    return {day: batch for day, batch in run(cursor, f"SELECT day, max(batch_id) FROM ({query}) GROUP BY day")}


def _coming(cursor: DuckDBPyConnection, selection: Selection) -> set[date]:
    """Return the days that an export of this process is fetching, or is going to."""
    exports = running_exports(cursor, selection.table)
    query = (
        "SELECT DISTINCT CAST(from_date + unnest(range(to_date - from_date + 1))::INTEGER AS DATE)"
        f" FROM {LEDGER} WHERE {selection.batches()} AND status NOT IN {HELD} AND status NOT IN {UNMET}"
        " AND list_contains(?, export_id)"
    )
    return {day for (day,) in run(cursor, query, [sorted(exports)])} if exports else set()


def _counts(cursor: DuckDBPyConnection, selection: Selection, asked: Sequence[date]) -> tuple[dict[date, int], int]:
    """Return the number of the result's events by day, and of all, wherever in time."""
    if not columns_of(cursor, selection.table):  # somebody has dropped it
        return {}, 0
    events = selection.rows_of(quoted(selection.table), "time")
    inside = f"time >= TIMESTAMP '{asked[0]}' AND time < TIMESTAMP '{asked[-1] + DAY}'" if asked else "false"
    # One look, so that the days and the whole are of one moment.
    query = f"SELECT CASE WHEN {inside} THEN time::DATE END AS day, count(*) FROM ({events}) GROUP BY day"
    rows = run(cursor, query)
    return {day: count for day, count in rows if day}, sum(count for _, count in rows)


# --- what is usual ---------------------------------------------------------------------------------------------------


def _usual(counts: Mapping[date, int]) -> dict[int, tuple[float, float]]:
    """Return for each weekday the median of its counts, and the median of how far they are off."""
    of_weekday = defaultdict(list)
    for day, count in counts.items():
        of_weekday[day.weekday()].append(count)
    found = {}
    for weekday, each in of_weekday.items():
        middle = float(median(each))
        found[weekday] = (middle, float(median(abs(count - middle) for count in each)))
    return found


def _days(states: Mapping[date, str], counts: Mapping[date, int]) -> tuple[CalendarDay, ...]:
    usual = _usual({day: counts.get(day, 0) for day, state in states.items() if state == "there"})
    return tuple(_day(day, state, counts.get(day, 0), usual) for day, state in states.items())


def _day(day: date, state: str, events: int, usual: Mapping[int, tuple[float, float]]) -> CalendarDay:
    if state != "there":
        return CalendarDay(day, state, events)
    middle, deviation = usual[day.weekday()]
    off = abs(events - middle)
    return CalendarDay(
        day, state, events, middle, off > UNUSUAL_SHARE * middle and off > UNUSUAL_DEVIATIONS * deviation
    )


# --- in words --------------------------------------------------------------------------------------------------------


def _in_words(days: Sequence[CalendarDay], elsewhere: int) -> str:
    if not days:
        return "There are no days: nothing was exported into this table."
    there = [d for d in days if d.state in ("there", "provisional")]
    # A day that was to be fetched again and failed still has its events of before.
    parts = [
        f"All {len(days):,} days are there"
        if len(there) == len(days)
        else f"{len(there):,} of {len(days):,} days are there"
    ]
    if len(days) == 1:
        parts = ["The day is there" if there else "The day is not there"]
    for state, name in (
        ("coming", "being fetched"), ("failed", "failed"), ("missing", "missing"), ("provisional", "provisional"),
    ):  # fmt: skip
        if found := [d.day for d in days if d.state == state]:
            parts.append(f"{len(found):,} {name}: {days_in_words(found)}")
    if odd := [d.day for d in days if d.is_unusual]:
        parts.append(f"{len(odd):,} unusual: {days_in_words(odd)}")
    if elsewhere:
        parts.append(f"{elsewhere:,} events have a time on none of these days")
    return "; ".join(parts) + "."


def _note(day: CalendarDay) -> str:
    if day.is_unusual and day.usual:
        off = day.events / day.usual - 1
        return f"{abs(off):.0%} {'more' if off > 0 else 'less'} than usual on that weekday"
    if day.is_unusual:
        return "usually there are none on that weekday"
    if day.events and day.state in ("failed", "missing"):
        return "fetched before, or with other days"
    return ""


def _between(first: date, last: date) -> list[date]:
    return [first + DAY * n for n in range((last - first).days + 1)]
