"""Whether a table matches its ledger, and other checks of its days, duplicates and times."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from html import escape
from itertools import groupby
from typing import Any

from duckdb import DuckDBPyConnection, DuckDBPyRelation

from mpnb._base.clock import utc_now
from mpnb._base.sql import columns_of, exact, quoted, run
from mpnb._base.text import safe_text
from mpnb._mixpanel.export_api import COLUMNS
from mpnb._planning import batches
from mpnb._planning.batches import Batch, HeldBatch, ranges_of
from mpnb._planning.dates import DAY, in_words
from mpnb._reading import calendar as calendars
from mpnb._reading.calendar import Calendar
from mpnb._reading.offset import TimeOffset, time_offset
from mpnb._reading.selection import Selection
from mpnb._storing.database import LEDGER, REJECTED
from mpnb._storing.forgotten import REASON
from mpnb._storing.ledger import HELD, of_table

NO_EVENTS = f"SELECT {', '.join(f'NULL::{kind} AS {name}' for name, kind in COLUMNS)} WHERE false"


@dataclass(frozen=True, slots=True)
class Finding:
    """
    The finding of one check.

    Attributes:
        name: name of the check.
        status: ``"ok"``, ``"note"`` (worth knowing, nothing is wrong) or ``"problem"``.
        count: how many cases were found, 0 for none.
        detail: one sentence, or empty.
        table: the table, where several were checked; else empty.
    """

    name: str
    status: str
    count: int
    detail: str
    table: str = ""


class Check:
    """
    A report on the integrity of a table at one moment, made by ``result.check()``. Its repr is a short text.

    Attributes:
        findings: one for each check, always the same checks in the same order: ``days held``, ``days missing``,
            ``days provisional``, ``days without events``, ``duplicates``, ``rejected lines``,
            ``ledger against table``, ``unusable times``, ``outside their days``, ``time offset``. A table of profiles
            has ``snapshot``, ``profiles``, ``duplicates``, ``rejected lines``, ``ledger against table``. Of several
            tables, those of one after the other.
        calendar: the days of the table, as of ``result.calendar()``; ``None`` for profiles. A notebook shows it above
            the findings.
    """

    def __init__(self) -> None:
        """Raise ``TypeError``: a method returns one."""
        raise TypeError("result.check() returns a Check")

    def _hold(
        self, findings: tuple[Finding, ...], relate: Callable[[str], DuckDBPyRelation], calendar: Calendar | None
    ) -> Check:
        self.findings: tuple[Finding, ...] = findings
        self.calendar: Calendar | None = calendar
        self._relate = relate
        return self

    @property
    def ok(self) -> bool:
        """Whether no check found a problem."""
        return all(finding.status != "problem" for finding in self.findings)

    @property
    def relation(self) -> DuckDBPyRelation:
        """
        Return one row per check. Columns: ``check``, ``status``, ``count``, ``detail``, as in ``Finding``, after
        ``table`` where several were checked.

        Raises:
            ClosedError: the result was closed.
        """
        rows = ", ".join(
            f"({_literal(f.table)}, {_literal(f.name)}, {_literal(f.status)}, {f.count}::BIGINT, {_literal(f.detail)})"
            for f in self.findings
        )
        columns = "*" if any(f.table for f in self.findings) else '* EXCLUDE ("table")'
        names = '"table", "check", "status", "count", "detail"'
        return self._relate(f"SELECT {columns} FROM (VALUES {rows}) AS checks({names})")

    def __repr__(self) -> str:
        """Return one line per check, below the name of its table where there are several."""
        return "\n".join(
            line
            for table, findings in self._by_table()
            for line in (
                *([f"{safe_text(table)}:"] if table else []),
                *(f"{f.status:<8} {f.name:<21} {f.count:>11,}  {f.detail}".rstrip() for f in findings),
            )
        )

    def _by_table(self) -> list[tuple[str, list[Finding]]]:
        return [(table, list(findings)) for table, findings in groupby(self.findings, lambda f: f.table)]

    def _repr_html_(self) -> str:
        shown = self.calendar._repr_html_() if self.calendar is not None else ""
        tables = (f"{_heading(table) if table else ''}{_table(findings)}" for table, findings in self._by_table())
        return shown + "".join(tables)

    def _mime_(self) -> tuple[str, str]:  # marimo's hook
        return "text/html", self._repr_html_()


def make_check(
    findings: tuple[Finding, ...], relate: Callable[[str], DuckDBPyRelation], calendar: Calendar | None = None
) -> Check:
    """Return a report of findings; ``relate`` makes a relation from a query."""
    return Check.__new__(Check)._hold(findings, relate, calendar)


def combined(checks: Mapping[str, Check], relate: Callable[[str], DuckDBPyRelation], call: str = "") -> Check:
    """
    Return the report on several tables.

    Args:
        checks: of each table, by its name.
        call: code that fetches what is missing.
    """
    findings = tuple(replace(finding, table=table) for table, each in checks.items() for finding in each.findings)
    days = [each.calendar for each in checks.values() if each.calendar is not None]
    return make_check(findings, relate, calendars.combined(days, call) if days else None)


def check(
    cursor: DuckDBPyConnection,
    *,
    selection: Selection,
    late_days: int,
    relate: Callable[[str], DuckDBPyRelation],
    calendar: Calendar,
) -> Check:
    """
    Check a table against its ledger. Reads every event once or twice.

    Args:
        cursor: a cursor of the calling thread.
        selection: what the result covers.
        late_days: for how many days after a day its events may still arrive.
        relate: makes a relation from a query.
        calendar: the days of the table.
    """
    table, mine, days = selection.table, selection.batches(), selection.days
    now = utc_now()
    held = selection.held(cursor)
    offset = time_offset(cursor, table, held)
    if days is None:
        [(first, last)] = run(cursor, f"SELECT min(from_date), max(to_date) FROM {LEDGER} WHERE {mine}")
        days = (first, last) if first else None
    # A table that somebody has dropped has no rows.
    rows, every = (selection.events, quoted(table)) if columns_of(cursor, table) else (NO_EVENTS, f"({NO_EVENTS})")
    events = (
        f"(SELECT e.*, b.from_date, b.to_date FROM ({rows}) AS e"
        f" JOIN (SELECT batch_id, from_date, to_date FROM {LEDGER} WHERE {mine} AND status IN {HELD}) AS b"
        " USING (batch_id))"
    )
    return make_check(
        (
            *_days(held, days, batches.Lateness(now, late_days, offset.lag)),
            _without_events(cursor, events, mine, days),
            _duplicates(cursor, events),
            _rejected(cursor, table, mine),
            _ledger(cursor, table, every, mine),
            _unusable(cursor, events, now),
            _outside(cursor, events, now),
            _offset(offset, sum(batch.rows for batch in held)),
        ),
        relate,
        calendar,
    )


def _days(held: list[HeldBatch], asked: tuple[date, date] | None, lateness: batches.Lateness) -> Iterable[Finding]:
    there = {day: h for h in held for day in _between(h.from_date, h.to_date)}
    wanted = _between(*asked) if asked else []
    covered = [day for day in wanted if day in there]
    missing = [day for day in wanted if day not in there]
    provisional = [day for day in covered if lateness.is_provisional(there[day], day)]
    yield Finding("days held", "ok", len(covered), _ranges(covered))
    yield Finding("days missing", "problem" if missing else "ok", len(missing), _ranges(missing))
    late = ""
    if provisional:
        due = [day for day in provisional if lateness.is_due(there[day])]
        late = (
            f"fetched before all their events had arrived: {_ranges(provisional)}; an export of these days fetches them"
            " once more when their late days are over" + (f", and now {_ranges(due)}" if due else "")
        )
    yield Finding("days provisional", "note" if provisional else "ok", len(provisional), late)


def _without_events(cursor: DuckDBPyConnection, events: str, mine: str, asked: tuple[date, date] | None) -> Finding:
    """Look for days without events in batches that have some: even a whole answer can lack a day."""
    first, last = asked or (date.max, date.min)
    rows = run(
        cursor,
        "SELECT day FROM (SELECT batch_id, CAST(from_date + unnest(range(to_date - from_date + 1))::INTEGER AS DATE)"
        f" AS day FROM {LEDGER} WHERE {mine} AND status IN {HELD} AND rows > 0) AS days"
        f" ANTI JOIN (SELECT DISTINCT batch_id, time::DATE AS day FROM {events}) AS there USING (batch_id, day)"
        " WHERE day BETWEEN ? AND ? ORDER BY day ASC",
        [first, last],
    )
    days = [day for (day,) in rows]
    detail = f"nothing happened on them, or the answer lacked them (mode='refresh' fetches them again): {_ranges(days)}"
    return Finding("days without events", "note" if days else "ok", len(days), detail if days else "")


def _duplicates(cursor: DuckDBPyConnection, events: str) -> Finding:
    [(count,)] = run(
        cursor,
        f"SELECT coalesce(sum(n - 1), 0)::BIGINT FROM (SELECT count(*) AS n FROM {events} WHERE insert_id IS NOT NULL"
        f" GROUP BY {exact('event_name')}, {exact('distinct_id')}, time, {exact('insert_id')} HAVING n > 1)",
    )
    detail = "copies of another event by Mixpanel's rule: deduplicated() leaves them out" if count else ""
    return Finding("duplicates", "note" if count else "ok", count, detail)


def _rejected(cursor: DuckDBPyConnection, table: str, mine: str) -> Finding:
    held = f"SELECT batch_id FROM {LEDGER} WHERE {mine} AND status IN {HELD}"
    [(count, more, forgotten)] = run(
        cursor,
        f"SELECT count(*) FILTER (NOT in_events), count(*) FILTER (in_events), count(*) FILTER (reason = '{REASON}')"
        f" FROM {REJECTED} WHERE {of_table(table)} AND batch_id IN ({held})",
    )
    parts = ["are not events, and are kept unchanged in rejected"] if count > forgotten else []
    if forgotten:
        parts.append(f"{forgotten:,} were left out, {REASON}")
    if more:
        parts.append(f"{more:,} more are events with keys that the table has no column for")
    return Finding("rejected lines", "note" if parts else "ok", count, "; ".join(parts))


def _ledger(cursor: DuckDBPyConnection, table: str, every: str, mine: str) -> Finding:
    """Compare the numbers of rows and of rejected lines of every batch with those in the ledger."""
    own, held = of_table(table), f"status IN {HELD}"
    others = f"SELECT batch_id FROM {LEDGER} WHERE {own} AND {held} AND NOT ({mine})"
    differing = run(
        cursor,
        "SELECT l.from_date, l.to_date, coalesce(l.batch_id, t.batch_id), coalesce(l.rows, 0), coalesce(t.rows, 0),"
        " coalesce(l.rejected, 0), coalesce(r.rejected, 0)"
        f" FROM (SELECT * FROM {LEDGER} WHERE {mine} AND {held}) AS l"
        f" FULL JOIN (SELECT batch_id, count(*) AS rows FROM {every} WHERE (batch_id NOT IN ({others})) IS NOT FALSE"
        " GROUP BY batch_id) AS t ON l.batch_id = t.batch_id"
        f" LEFT JOIN (SELECT batch_id, count(*) AS rejected FROM {REJECTED} WHERE {own} AND NOT in_events"
        " GROUP BY batch_id) AS r ON r.batch_id = l.batch_id"
        " WHERE coalesce(l.rows, 0) <> coalesce(t.rows, 0) OR coalesce(l.rejected, 0) <> coalesce(r.rejected, 0)"
        " ORDER BY 1 ASC NULLS LAST, 3 ASC",
    )
    if not differing:
        return Finding("ledger against table", "ok", 0, "")
    days = ranges_of(Batch(first, last) for first, last, *_ in differing if first)
    _, _, batch, rows, there, rejected, kept = differing[0]
    detail = (
        f"batches that differ{f', of {in_words(days)}' if days else ''}; batch {batch} has {there:,} rows and {kept:,}"
        f" rejected lines, the ledger says {rows:,} and {rejected:,}: mode='refresh' fetches its days again"
    )
    return Finding("ledger against table", "problem", len(differing), detail)


def _usable(now: datetime) -> str:
    """Return the condition for a plausible ``time``: since 1970, and not after tomorrow."""
    return f"time >= TIMESTAMP '1970-01-01' AND time <= TIMESTAMP '{now + DAY}'"


def _unusable(cursor: DuckDBPyConnection, events: str, now: datetime) -> Finding:
    """Look for events that an analysis by time leaves out or puts in the wrong place."""
    [(missing, out)] = run(
        cursor,
        f"SELECT count(*) FILTER (time IS NULL), count(*) FILTER (NOT ({_usable(now)})) FROM {events}",
    )
    parts = [f"{missing:,} have none, or one that is not a number"] if missing else []
    parts += [f"in {out:,} it lies before 1970 or after tomorrow"] if out else []
    detail = f"events without a usable time: {', '.join(parts)}; properties has it unchanged" if parts else ""
    return Finding("unusable times", "note" if parts else "ok", missing + out, detail)


def _outside(cursor: DuckDBPyConnection, events: str, now: datetime) -> Finding:
    [(before, after, count)] = run(
        cursor,
        "SELECT max(date_diff('second', time, from_date::TIMESTAMP)), max(date_diff('second', to_date + 1, time)),"
        f" count(*) FROM {events} WHERE (time < from_date OR time >= to_date + 1) AND {_usable(now)}",
    )
    if not count:
        return Finding("outside their days", "ok", 0, "")
    parts = [f"up to {_span(s)} {what}" for s, what in ((before, "before"), (after, "after")) if s and s > 0]
    return Finding("outside their days", "note", count, f"events whose time lies {' and '.join(parts)} their batch")


def _offset(offset: TimeOffset, rows: int) -> Finding:
    name = "time offset"
    if offset.is_local:
        shares = ", ".join(f"{_zone(quarters)} in {share:.0%}" for quarters, share in offset.shares if quarters)
        detail = f"time is not UTC but {shares} of the events: the project is older than 2023, and its times are local"
        return Finding(name, "note", offset.shifted, detail)
    if rows and not offset.is_known:
        detail = f"these events do not show whether time is UTC: {offset.why_unknown()}"
        return Finding(name, "note", 0, detail)
    return Finding(name, "ok", 0, "")


def _between(first: date, last: date) -> list[date]:
    return [first + DAY * n for n in range((last - first).days + 1)]


def _ranges(days: list[date]) -> str:
    """Return sorted days as ranges in words, the first few of them."""
    return in_words(ranges_of(Batch(day, day) for day in days))


def _span(seconds: int) -> str:
    days = timedelta(seconds=seconds) / DAY
    return f"{seconds / 3600:,.1f} h" if days < 2 else f"{days:,.1f} days"


def _zone(quarters: int) -> str:
    hours, minutes = divmod(abs(quarters) * 15, 60)
    return f"UTC{'+' if quarters > 0 else '−'}{hours}" + (f":{minutes:02}" if minutes else "")


# A glyph besides the word: no colour has to be told apart.
_GLYPHS = {"ok": "✓", "note": "•", "problem": "✕"}
_CELL = "text-align:left;vertical-align:top;padding:2px 14px 2px 0;white-space:normal;overflow-wrap:anywhere"
_COUNT = f"{_CELL};text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap"
_LOOK = (
    "font:13px/1.5 var(--jp-ui-font-family,system-ui,sans-serif);color:var(--jp-ui-font-color1,inherit);max-width:72em;"
    "margin:4px 0;overflow-x:auto"
)


def _heading(table: str) -> str:
    return f'<div class="mpnb-check" style="{_LOOK};font-weight:600">{escape(safe_text(table))}</div>'


def _table(findings: Iterable[Finding]) -> str:
    """Return findings as an HTML table."""
    rows = "".join(
        f'<tr style="background:none"><td style="{_CELL};white-space:nowrap">{_GLYPHS[f.status]} {f.status}</td>'
        f'<th scope="row" style="{_CELL};font-weight:600;white-space:nowrap">{escape(f.name)}</th>'
        f'<td style="{_COUNT}">{f.count:,}</td><td style="{_CELL}">{escape(f.detail)}</td></tr>'
        for f in findings
    )
    looks = {"status": _CELL, "check": _CELL, "count": _COUNT, "detail": _CELL}
    head = "".join(f'<th scope="col" style="{look}">{name}</th>' for name, look in looks.items())
    return (
        f'<div class="mpnb-check" style="{_LOOK}"><table style="border-collapse:collapse;font:inherit">'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _literal(text: Any) -> str:
    return "'" + str(text).replace("'", "''") + "'"
