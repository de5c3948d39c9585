"""Properties: what each is, how many events have it, and how its values are distributed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from mpnb._base.pictures._charts import WIDTH
from mpnb._base.pictures._picture import Picture, drawn, paint, text, told
from mpnb._base.pictures._words import clipped, number, percent

MOST_PROPERTIES = 36
ROW, TOP = 24.0, 20.0
TYPE, SHARE, VALUES, WORDS = 200.0, 300.0, 380.0, 530.0
BAR, ACROSS, UP = 40.0, 140.0, 18.0
# Of a distribution, so many values have a part of their own.
MOST_PARTS = 5
TOLD_NAME = 290


@dataclass(frozen=True, slots=True)
class Property:
    """
    A property of an event.

    Attributes:
        event, name, type: in words.
        share: of the events that have it.
        values: how many events have each value, or a value of each range; of all that are not null.
        is_ranges: whether these are ranges, in order.
        rest: the name of all other values among them.
        more: what else the table says of it.
    """

    event: str
    name: str
    type: str
    share: float
    values: Mapping[str, int] = field(default_factory=dict)
    is_ranges: bool = False
    rest: str = ""
    words: str = ""
    more: tuple[str, ...] = ()


def properties(every: Sequence[Property], *, title: str, words: str, head: Sequence[str] = ()) -> Picture:
    """
    Draw properties by event: a bar for its share, and one for its values or a histogram.

    Args:
        head: the names of what else the table says.
    """
    shown = every[:MOST_PROPERTIES]
    parts: list[str] = []
    y = TOP
    for x, name in ((TYPE, "type"), (SHARE, "of events"), (VALUES, "values")):
        parts.append(text(x, 13, name, muted=True))
    for event, mine in groupby(shown, key=lambda each: each.event):
        parts.append(text(0, y + 15, clipped(event, WIDTH - 20), more=' font-weight="600"'))
        y += ROW
        for each in mine:
            parts += _row(each, y)
            y += ROW
    if not shown:
        parts.append(text(10, y + 12, "no properties", muted=True))
    if len(every) > len(shown):
        words += f" Drawn: the first {len(shown):,} of {len(every):,} properties."
    rows = [(p.event, p.name, p.type, percent(p.share), *p.more, _listed(p.values)) for p in every]
    svg = drawn(WIDTH, max(60.0, y) + 4, f"{title}. {words}", parts)
    return Picture(title, words, svg, ("event", "property", "type", "of events", *head, "values"), rows)


def _listed(values: Mapping[str, int]) -> str:
    return ", ".join(f"{value}: {number(count)}" for value, count in values.items())


def _row(each: Property, y: float) -> list[str]:
    wide = max(1.0, BAR * min(1.0, max(0.0, each.share)))
    parts = [
        text(12, y + 15, clipped(each.name, TYPE - 20)),
        text(TYPE, y + 15, clipped(each.type, SHARE - TYPE - 10), muted=True),
        f'<rect {paint("h0")} x="{SHARE:g}" y="{y + 5:g}" width="{BAR:g}" height="12"/>'
        f'<rect {paint("h3")} x="{SHARE:g}" y="{y + 5:g}" width="{wide:.1f}" height="12">'
        f"{told(f'{clipped(each.name, TOLD_NAME)}: {percent(each.share)} of events')}</rect>",
        text(SHARE + BAR + 4, y + 15, percent(each.share)),
    ]
    parts += _histogram(each, y) if each.is_ranges else _parts(each, y)
    if each.words:
        parts.append(text(WORDS, y + 15, clipped(each.words, WIDTH - WORDS)))
    return parts


def _said(name: str, count: int, every: int) -> str:
    return told(f"{clipped(name, TOLD_NAME)}: {number(count)}, {percent(count / every)}")


def _histogram(each: Property, y: float) -> list[str]:
    """Return a bar for each range."""
    every, most = sum(each.values.values()), max(each.values.values(), default=0)
    if not most:
        return []
    step = ACROSS / len(each.values)
    parts = []
    for place, (name, count) in enumerate(each.values.items()):
        high = max(1.0, UP * count / most) if count else 0.0
        parts.append(
            f'<rect {paint("h3")} x="{VALUES + place * step:.1f}" y="{y + 3 + UP - high:.1f}"'
            f' width="{max(1.0, step - 1):.1f}" height="{high:.1f}">{_said(name, count, every)}</rect>'
        )
    return parts


def _parts(each: Property, y: float) -> list[str]:
    """Return one bar of the most frequent values, and of all others together."""
    every = sum(each.values.values())
    if not every:
        return []
    named = [(name, count) for name, count in each.values.items() if name != each.rest][:MOST_PARTS]
    rest = every - sum(count for _, count in named)
    looks = ["h4", "h3", "h2", "h1", "h1"]
    items = [(name, count, look) for (name, count), look in zip(named, looks, strict=False)]
    if rest:
        items.append((each.rest or "others", rest, "h0"))
    parts, x = [], VALUES
    for name, count, look in items:
        wide = ACROSS * count / every
        parts.append(
            f'<rect {paint(look)} x="{x:.1f}" y="{y + 5:g}" width="{max(1.0, wide - 0.7):.1f}" height="14">'
            f"{_said(name, count, every)}</rect>"
        )
        x += wide
    return parts
