"""A result as a few lines of text or as static HTML, without scripts or external resources."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from html import escape

from mpnb._base.sql import run
from mpnb._base.text import days, duration, plural, size
from mpnb._message import SAME_CALL, Message, Phrase
from mpnb._mixpanel.failures import HINTS, known_hint
from mpnb._planning.dates import in_words
from mpnb._planning.states import EVENTS, Outcome, Terms
from mpnb._reading.reader import Reader

SHOWN_FAILURES = 50
UNNAMED = "call retry() on this result"


@dataclass(frozen=True, slots=True)
class FailedRow:
    """One row of the failure table."""

    dates: str
    kind: str
    status: str
    message: str
    attempts: int


@dataclass(frozen=True, slots=True)
class Summary:
    """
    The contents of a result's display.

    ``retry`` is the code that retries, ``""`` where the variable is not known; then ``otherwise`` says it in words.
    ``missing`` says in a sentence what is missing, where that is not how many batches of which kinds.
    """

    title: str
    facts: tuple[tuple[str, str], ...]
    kinds: tuple[tuple[str, int, str], ...]
    failures: tuple[FailedRow, ...]
    unmet: int
    retry: str
    otherwise: str = UNNAMED
    terms: Terms = EVENTS
    missing: str = ""

    @property
    def where(self) -> str:
        """Return what tells a failed batch from another."""
        return "days" if self.terms is EVENTS else self.terms.batch


def gather(reader: Reader, outcome: Outcome, call: str, *, retry: str, total_rows: int, rows_outside: int) -> Summary:
    """
    Query the database for the contents of a result's display, if it is open.

    Args:
        outcome: what the call did.
        call: the variable that holds the result, as it is known.
        retry: the code that retries, ``""`` where nobody knows a variable that holds the result.
        total_rows, rows_outside: what the result counts.
    """
    store, selection = reader.store, reader.selection
    unnoted = ""
    kinds: list[tuple[str, int, str]] = []
    failures: list[FailedRow] = []
    if not store.closed:
        unmet = reader.failures()
        with store.reading() as cursor:
            unnoted = in_words(selection.unnoted_ranges(cursor))
            for kind, hint, count in run(
                cursor, f"SELECT kind, hint, count(*) FROM ({unmet}) GROUP BY ALL ORDER BY 3 DESC, 1, 2"
            ):
                kinds.append((kind, count, known_hint(hint) if hint else HINTS.get(kind, "")))
            shown = (
                f"SELECT from_date, to_date, kind, http_status, message, attempts FROM ({unmet})"
                f" ORDER BY from_date ASC, to_date ASC LIMIT {SHOWN_FAILURES}"
            )
            for first, last, kind, http, message, attempts in run(cursor, shown) if kinds else ():
                failures.append(FailedRow(days(first, last), kind, str(http or ""), message or "", attempts))
    facts: list[tuple[str, str]] = [("events", f"{total_rows:,} in table {reader.table!r} of {store.label}")]
    if selection.days:
        facts[0] = ("events", f"{facts[0][1]}, {outcome.fetched_rows:,} of them new")
        facts.append(("batches", _batches(outcome)))
        facts.append(("took", f"{duration(outcome.duration_seconds)}, {size(outcome.bytes)} received"))
    source = reader.source()
    if source is not None and (source.events is not None or source.where is not None):
        facts.append(("only", source.filter_in_words()))
    facts += [("note", sentence) for sentence in reader.unheard()]
    if unnoted:
        facts.append(("not there", Message(f"{unnoted}: run ", SAME_CALL, " again to fetch what is missing")))
    if outside := rows_outside:
        facts.append(("outside", f"{outside:,} more events of the same batches belong to other days"))
    if outcome.rejected_lines:
        where = Phrase("rejected", f"{call}.rejected")
        facts.append(
            ("rejected", Message(f"{outcome.rejected_lines:,} lines are not in the table: ", where, " says why"))
        )
    if store.closed:
        facts.append(("closed", store.afterwards))
    count = sum(n for _, n, _ in kinds)
    return Summary(
        title=f"Mixpanel events {days(*selection.days)}" if selection.days else "Mixpanel events",
        facts=tuple(facts),
        kinds=tuple(kinds),
        failures=tuple(failures),
        unmet=count,
        retry=retry,
    )


def combined(summaries: Mapping[str, Summary], outcome: Outcome, *, retry: str, total_rows: int, where: str) -> Summary:
    """
    Return the display of a result that has several projects, from those of each.

    Args:
        summaries: by project.
        outcome, retry, total_rows: of all.
        where: where the events are.
    """
    first = next(iter(summaries.values()))
    facts = [("events", f"{total_rows:,} {where}, {outcome.fetched_rows:,} of them new")]
    facts.append(("batches", _batches(outcome)))
    facts.append(("took", f"{duration(outcome.duration_seconds)}, {size(outcome.bytes)} received"))
    kinds: Counter[tuple[str, str]] = Counter()
    failures: list[FailedRow] = []
    for project_id, summary in summaries.items():
        own = dict(summary.facts)
        facts.append((project_id, "; ".join(own[name] for name in ("events", "batches") if name in own)))
        others = [fact for fact in summary.facts if fact[0] in ("note", "not there", "outside", "rejected")]
        facts += [(project_id, Message(f"{name}: ", value)) for name, value in others]
        kinds.update({(kind, hint): count for kind, count, hint in summary.kinds})
        failures += [replace(row, dates=f"{project_id} {row.dates}") for row in summary.failures]
    facts += [fact for fact in first.facts if fact[0] in ("only", "closed")]
    return Summary(
        title=first.title.replace("Mixpanel events", f"Mixpanel events of {len(summaries):,} projects", 1),
        facts=tuple(facts),
        kinds=tuple((kind, count, hint) for (kind, hint), count in kinds.most_common()),
        failures=tuple(failures[:SHOWN_FAILURES]),
        unmet=sum(summary.unmet for summary in summaries.values()),
        retry=retry,
    )


def _batches(outcome: Outcome) -> str:
    batches = [
        (outcome.successful_batches, "fetched"),
        (outcome.skipped_batches, "there already"),
        (outcome.failed_batches, "failed"),
        (outcome.cancelled_batches, "cancelled"),
    ]
    return ", ".join(f"{n:,} {what}" for n, what in batches if n) or "none"


def counted(summary: Summary) -> str:
    """Return how many batches are missing."""
    return f"{summary.unmet:,} {plural(summary.unmet, summary.terms.batch, summary.terms.batches)}"


def bundle(summary: Summary) -> dict[str, str]:
    """Return the output that shows a result in a notebook."""
    return {"text/plain": text(summary), "text/html": html(summary)}


def text(summary: Summary) -> str:
    """Return a result as a few lines of text."""
    lines = [summary.title]
    lines += [f"  {name:<9} {value}" for name, value in summary.facts]
    if summary.unmet or summary.missing:
        lines.append(f"  missing   {summary.missing or f'{counted(summary)}:'}")
        for kind, count, sentence in summary.kinds:
            lines.append(f"    {count:>5,} {kind:<11} {sentence}")
        lines.append(f"  to retry  {summary.retry or summary.otherwise}")
    return "\n".join(lines)


# The notebook's own colours where it has them, else the system's: right in light and dark without a script.
_STYLE = (
    "font:13px/1.5 var(--jp-ui-font-family,system-ui,sans-serif);color:var(--jp-ui-font-color1,inherit);"
    "max-width:72em;margin:4px 0"
)
_CELL = "text-align:left;vertical-align:top;padding:2px 14px 2px 0;white-space:normal;overflow-wrap:anywhere"
# JupyterLab stripes tables, which cuts short ones in two.
_ROW = "background:none"
_RULE = f"{_ROW};border-top:1px solid var(--jp-border-color2,rgba(128,128,128,.4))"


def html(summary: Summary, figure: str = "") -> str:
    """
    Return a result as static HTML. All text from a server or a user is escaped.

    Args:
        figure: HTML that stands below the title.
    """
    facts = "".join(
        f'<tr style="{_ROW}"><th scope="row" style="{_CELL};font-weight:600">{escape(name)}</th>'
        f'<td style="{_CELL}">{escape(value)}</td></tr>'
        for name, value in summary.facts
    )
    parts = [
        f'<div class="mpnb-result" style="{_STYLE}">',
        f'<div style="font-weight:600;font-size:1.1em">{escape(summary.title)}</div>{figure}',
        f'<table style="border-collapse:collapse;margin:4px 0">{facts}</table>',
    ]
    if summary.unmet or summary.missing:
        what = summary.missing or f"{counted(summary)} {plural(summary.unmet, 'is', 'are')} missing"
        parts.append(f'<div style="font-weight:600;margin-top:6px">{escape(what)}</div>')
        parts.append('<ul style="margin:2px 0 6px">')
        parts += [
            f"<li><b>{count:,} × {escape(kind)}</b> – {escape(sentence)}</li>"
            for kind, count, sentence in summary.kinds
        ]
        head = "".join(
            f'<th scope="col" style="{_CELL}">{name}</th>'
            for name in (summary.where, "kind", "HTTP", "attempts", "message")
        )
        rows = "".join(
            f'<tr style="{_RULE}">'
            + "".join(
                f'<td style="{_CELL}">{escape(str(value))}</td>'
                for value in (row.dates, row.kind, row.status, row.attempts, row.message)
            )
            + "</tr>"
            for row in summary.failures
        )
        more = summary.unmet - len(summary.failures)
        rest = f"<div>and {more:,} more</div>" if more > 0 else ""
        table = f'<table style="border-collapse:collapse">{head}{rows}</table>{rest}'
        parts.append("</ul>" + (f"<details><summary>failure table</summary>{table}</details>" if rows else ""))
        parts.append(
            f"<div>Retry them with <code>{escape(summary.retry)}</code></div>"
            if summary.retry
            else f"<div>To retry them, {escape(summary.otherwise)}</div>"
        )
    return "".join(parts) + "</div>"
