"""What a picture is: its SVG, with the style that makes it light or dark, one line in words, and a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mpnb._base.pictures._words import safe

# Beside it, text that a reader opens: at most so many cells, for the notebook's sake.
TABLE_CELLS = 1800
# And of a name, so many letters.
MOST_LETTERS = 160

# By name: in light, and in dark. A viewer without styles takes the first.
COLOURS = {
    **{"s0": ("#0969da", "#58a6ff"), "s1": ("#bc4c00", "#f0883e"), "s2": ("#1a7f37", "#3fb950")},
    **{"s3": ("#8250df", "#bc8cff"), "s4": ("#bf3989", "#f778ba"), "s5": ("#1b7c83", "#39c5cf")},
    "so": ("#6e7781", "#9198a1"),
    **{"h0": ("#eef3f8", "#1d2733"), "h1": ("#b6dbf7", "#163f66"), "h2": ("#6cb0e8", "#205b8f")},
    **{"h3": ("#2472b8", "#4c95d8"), "h4": ("#0b4f8a", "#9dcdfa")},
    # On these, letters of the darkest and of the lightest steps.
    **{"t0": ("#1f2328", "#e6edf3"), "t1": ("#1f2328", "#ffffff"), "t2": ("#101418", "#ffffff")},
    **{"t3": ("#ffffff", "#0b0f14"), "t4": ("#ffffff", "#0b0f14")},
    "bad": ("#c6280a", "#ff7b62"),
    "odd": ("#bc4c00", "#ffb077"),
    "line": ("#d0d7de", "#3d444d"),
    "gap": ("#6e7781", "#9198a1"),
}

_PAINT = "".join(
    f".mpnb-svg .{name}{{fill:light-dark({light},{dark})}}.mpnb-svg .{name}-l{{stroke:light-dark({light},{dark})}}"
    for name, (light, dark) in COLOURS.items()
)
# Letters have the page's own colour, whatever it is. Which scheme a page has, it says itself, or its notebook does.
STYLE = (
    "<style>.mpnb-pic{font:13px/1.5 var(--jp-ui-font-family,system-ui,sans-serif);"
    "color:var(--jp-ui-font-color1,inherit);max-width:820px;margin:4px 0}"
    "body[data-jp-theme-light=true] .mpnb-pic,body.vscode-light .mpnb-pic{color-scheme:light}"
    "body[data-jp-theme-light=false] .mpnb-pic,body.vscode-dark .mpnb-pic,.dark .mpnb-pic{color-scheme:dark}"
    ".mpnb-pic .mpnb-wide{overflow-x:auto}.mpnb-pic .mpnb-wide svg{min-width:min(var(--w),460px)}"
    ".mpnb-pic .mpnb-tall{overflow:auto;max-height:300px}"
    ".mpnb-svg{display:block;width:100%;height:auto;font:12px system-ui,sans-serif}"
    "svg.mpnb-svg:root{color-scheme:light dark;color:light-dark(#1f2328,#e6edf3)}"
    ".mpnb-svg text{fill:currentColor}.mpnb-svg .l{fill:none}.mpnb-svg .m{opacity:.75}"
    f"{_PAINT}@media (forced-colors:active){{.mpnb-svg{{forced-color-adjust:none;background:#fff;color:#000;"
    "color-scheme:light}}}</style>"
)
# Of what can have the focus: a notebook must not take the keys that are pressed there for commands to its cells.
KEEP = 'data-lm-suppress-shortcuts="true"'
_CELL = "text-align:left;padding:1px 14px 1px 0;vertical-align:top;white-space:normal"
_NUMBER = "text-align:right;padding:1px 14px 1px 0;vertical-align:top;font-variant-numeric:tabular-nums"


@dataclass(frozen=True, slots=True)
class Picture:
    """
    A picture. A notebook shows it; ``print`` writes its words.

    Attributes:
        title: what it shows.
        words: the same in a sentence.
        svg: as SVG that stands by itself, with its style: a file, or a part of a page.
        head, rows: its values as a table of text, for those who do not see it.
        call: code to type next, or empty.
    """

    title: str
    words: str
    svg: str = field(repr=False)
    head: tuple[str, ...] = field(repr=False)
    rows: Sequence[Sequence[str]] = field(repr=False)
    call: str = ""

    @property
    def html(self) -> str:
        """Return it as static HTML, with its words and its table."""
        call = f" <code>{safe(self.call)}</code>" if self.call else ""
        words = f"<div>{safe(self.words)}{call}</div>" if self.words or call else ""
        return (
            f'<div class="mpnb-pic"><div style="font-weight:600;font-size:1.1em">'
            f'{safe(self.title)}</div>{words}<div class="mpnb-wide" tabindex="0" role="group" {KEEP}'
            f' aria-label="{safe(self.title)}">{self.svg}</div>{_table(self.head, self.rows)}</div>'
        )

    @property
    def as_table(self) -> str:
        """Return it as static HTML whose table is open, and without the drawing."""
        return self.html.replace(self.svg, STYLE, 1).replace("<details>", "<details open>", 1)

    def _repr_html_(self) -> str:
        return self.html

    def _mime_(self) -> tuple[str, str]:  # marimo's hook
        return "text/html", self.html

    def __repr__(self) -> str:
        """Return its title, its words and the call."""
        return "\n".join(line for line in (self.title, self.words, self.call) if line)


def drawn(width: float, height: float, label: str, parts: Sequence[str], *, least: float | None = None) -> str:
    """
    Return the SVG of some parts, which has the label where it is read aloud.

    Args:
        least: how narrow it may get before it scrolls; by default, as all pictures of the usual width.
    """
    narrow = "" if least is None else f"min-width:{least:g}px;"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="mpnb-svg"'
        f' style="--w:{width:g}px;{narrow}max-width:{width:g}px"'
        f' viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" font-family="sans-serif"'
        f' font-size="12" role="img" aria-label="{safe(label)}">{STYLE}{"".join(parts)}</svg>'
    )


def paint(name: str) -> str:
    """Return the attributes that fill a shape with a colour: by style, and without."""
    return f'class="{name}" fill="{COLOURS[name][0]}"'


def stroke(name: str) -> str:
    """Return the attributes that draw a line in a colour, and fill nothing."""
    return f'class="l {name}-l" fill="none" stroke="{COLOURS[name][0]}"'


def text(x: float, y: float, words: object, *, anchor: str = "", muted: bool = False, more: str = "") -> str:
    """Return some words at a place."""
    where = f' text-anchor="{anchor}"' if anchor else ""
    look = ' class="m" opacity=".75"' if muted else ""
    return f'<text x="{x:g}" y="{y:g}"{where}{look}{more}>{safe(words)}</text>'


def told(words: object) -> str:
    """Return the words that a pointer reads over a shape."""
    return f"<title>{_brief(words)}</title>"


def _brief(words: object) -> str:
    shown = str(words)
    return safe(shown if len(shown) <= MOST_LETTERS else f"{shown[: MOST_LETTERS - 1]}…")


def _table(names: Sequence[str], values: Sequence[Sequence[str]]) -> str:
    most = max(1, TABLE_CELLS // max(1, len(names)))
    shown = values[:most]
    rest = f"<div>The first {len(shown):,} of {len(values):,} rows</div>" if len(values) > len(shown) else ""
    head = "".join(
        f'<th scope="col" style="{_CELL if place == 0 else _NUMBER}">{_brief(each)}</th>'
        for place, each in enumerate(names)
    )
    rows = "".join(
        f'<tr><th scope="row">{_brief(row[0])}</th>{"".join(f"<td>{_brief(each)}</td>" for each in row[1:])}</tr>'
        for row in shown
    )
    style = (
        f"<style>.mpnb-rows th{{{_CELL};font-weight:400}}.mpnb-rows td{{{_NUMBER}}}"
        ".mpnb-rows tr{background:none!important}</style>"
    )
    return (
        f"<details>{style}<summary {KEEP}>Table</summary>"
        f'<div class="mpnb-tall" tabindex="0" role="group" aria-label="Table" {KEEP}>'
        f'<table class="mpnb-rows" style="border-collapse:collapse"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody>'
        f"</table>{rest}</div></details>"
    )
