"""The output that stays in the notebook after an export: static HTML without scripts, in light and dark."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from html import escape
from itertools import groupby
from typing import Any

from mpnb._base.text import days
from mpnb._exporting.handles import summary_of, terms_of
from mpnb._notebook.panel._feed import Track
from mpnb._planning.states import EVENTS, STATUSES, BatchProgress, Terms
from mpnb._showing import summary as display

GLYPHS = dict(zip(STATUSES, "·…↓≡✓○=✕–", strict=True))
COLOURS = {
    "done": "#009e73", "empty": "#009e73", "failed": "#d55e00", "cancelled": "#cc79a7", "skipped": "#808080",
}  # fmt: skip
LOOKS = {"empty": " class=o", "queued": " class=o", "cancelled": " class=k"}  # an outline, a dark glyph
# Up to so many batches, cells of so many pixels: as in grid.js, and a little smaller.
SIZES = ((60, 22), (240, 18), (1200, 13), (math.inf, 10))
# A viewer that strips this leaves a line of coloured glyphs, which says the same. The last but one rule leaves out what
# was live beside the picture: an output with nothing in it, or JupyterLab's word that no kernel is there to show it.
STYLE = """<style>
.mpnb-ended{display:flex;flex-wrap:wrap;gap:3px;margin:6px 0;max-width:1080px;max-height:340px;overflow:auto}
.mpnb-ended span{display:contents}
.mpnb-ended b{width:var(--s);height:var(--s);border-radius:20%;display:grid;place-items:center;
font:600 calc(var(--s)*.6)/1 sans-serif;
background:currentColor;-webkit-text-fill-color:#fff;border:1px solid transparent}
.mpnb-ended b.o{background:none;border-color:currentColor;-webkit-text-fill-color:currentColor}
.mpnb-ended b.k{-webkit-text-fill-color:#1a1a1a}
.jp-OutputArea-child:has(.mpnb-none),
.jp-OutputArea-child:has(+.jp-OutputArea-child .mpnb-ended) .jupyter-widgets:not(:has(*)){display:none}
@media (forced-colors:active){.mpnb-ended b{border-color:CanvasText;-webkit-text-fill-color:CanvasText}}
</style>"""


def ended(
    track: Track, cells: Sequence[BatchProgress], *, retry: str, otherwise: str = display.UNNAMED
) -> dict[str, Any]:
    """
    Return the output of an export that has ended: the result in words, and the grid in its final state.

    Args:
        retry: the code that retries, ``""`` where that depends on a variable that is not known.
        otherwise: in words, for where there is no code.
    """
    terms = terms_of(track.job)
    try:
        summary = replace(summary_of(track.job.outcome()), retry=retry, otherwise=otherwise)
    except Exception as error:
        text = f"The export ended with an error: {type(error).__name__}: {error}"
        return {"text/plain": text, "text/html": f"<div>{escape(text)}</div>{grid(cells, terms)}"}
    if len(track.jobs) > 1:
        # The result is the last retry's; the grid is of all.
        facts = dict(summary.facts)
        last = ", ".join(facts.pop(name) for name in (terms.batches, "took") if name in facts)
        summary = replace(summary, facts=(*facts.items(), (terms.batches, counted(cells)), ("last retry", last)))
    return {"text/plain": display.text(summary), "text/html": display.html(summary, grid(cells, terms))}


def counted(cells: Sequence[BatchProgress]) -> str:
    """Return the number of batches by state, in words."""
    counts = Counter(cell.status for cell in cells)
    return ", ".join(f"{counts[status]:,} {status}" for status in STATUSES if counts[status])


def grid(cells: Sequence[BatchProgress], terms: Terms = EVENTS) -> str:
    """Return the cells as HTML, with adjacent cells of the same state as one, to keep it small."""
    runs = []
    for (_, status), group in groupby(cells, key=lambda cell: (cell.project_id, cell.status)):
        run = list(group)
        many = f", {len(run):,} {terms.batches}" if len(run) > 1 else ""
        box = f"<b{LOOKS.get(status, '')}>{GLYPHS[status]}</b>"
        runs.append(
            f'<span style="color:{COLOURS.get(status, "#808080")}" title="{_span(run)}: {status}{many}">'
            f"{box * len(run)}</span>"
        )
    pixels = next(pixels for most, pixels in SIZES if len(cells) <= most)
    name = terms.batches.capitalize()
    return (
        f'{STYLE}<div class="mpnb-ended" style="--s:{pixels}px" role="img" aria-label="{name}: {counted(cells)}">'
        f"{''.join(runs)}</div>"
    )


def _span(run: Sequence[BatchProgress]) -> str:
    """Return the days of adjacent batches, or their pages."""
    first, last = run[0], run[-1]
    if first.page is None:
        return days(first.from_date, last.to_date)
    return first.label if first is last else f"{first.label} – {last.label}"
