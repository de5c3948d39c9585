"""Results as text for a terminal or a log."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import replace

from mpnb._command.options import in_shell
from mpnb._exporting.handles import ExportResult, summary_of
from mpnb._message import said
from mpnb._showing import summary as display

# Below it, folding the last column makes a ribbon that nobody can read.
LEAST_FOLDED = 24


def result_text(result: ExportResult, retry: str) -> str:
    """
    Return a result with its failure table as text.

    Args:
        retry: the command that fetches what failed.
    """
    summary = summary_of(result)
    facts = tuple((name, said(value, in_shell)) for name, value in summary.facts)
    kinds = tuple((kind, count, said(hint, in_shell)) for kind, count, hint in summary.kinds)
    parts = [display.text(replace(summary, facts=facts, kinds=kinds, retry=retry))]
    if summary.failures:
        parts.append(failure_table(result))
    return "\n\n".join(parts)


def failure_table(result: ExportResult) -> str:
    """Return the failure table of a result as text: one row per missing batch."""
    summary = summary_of(result)
    rows = [(row.dates, row.kind, row.status, str(row.attempts), row.message) for row in summary.failures]
    table = text_table(("days", "kind", "HTTP", "attempts", "message"), rows)
    more = summary.unmet - len(rows)
    return f"{table}\n… and {more:,} more" if more > 0 else table


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows as aligned columns. A terminal gets the last column folded to its width; a log gets it in full."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    before = sum(widths[:-1]) + 2 * len(widths)
    room = shutil.get_terminal_size().columns - before if sys.stdout is not None and sys.stdout.isatty() else 0
    lines: list[str] = []
    for row in (head, ["-" * width for width in (*widths[:-1], len(head[-1]))], *rows):
        start = "".join(f"  {cell:<{width}}" for cell, width in zip(row[:-1], widths[:-1], strict=True)) + "  "
        cells = textwrap.wrap(row[-1], room) if room >= LEAST_FOLDED else []
        first, *others = cells or [row[-1]]
        lines.append((start + first).rstrip())
        lines += [" " * before + line for line in others]
    return "\n".join(lines)
