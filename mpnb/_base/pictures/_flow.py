"""Flows: ribbons from each event to those that came next, step by step."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from mpnb._base.pictures._charts import OTHER, REST, WIDTH
from mpnb._base.pictures._picture import Picture, drawn, paint, text, told
from mpnb._base.pictures._words import clipped, number, percent

# Of each step, so many events besides all others, fewer the more steps there are: all ribbons together are about these.
MOST_EVENTS, MOST_RIBBONS = 8, 400
COLOURS = 6
NODE, HEIGHT, TOP, GAP, LINE = 12.0, 260.0, 22.0, 6.0, 15.0
# What has no more room than this scrolls.
LEAST_PITCH, LAST_NAME = 110.0, 130.0
# Of a name in what a pointer reads, in pixels.
TOLD_NAME = 290


@dataclass(frozen=True, slots=True)
class Link:
    """How many went from an event, which is the one of a step (from 1), to the next; ``None`` where a flow ends."""

    step: int
    event: str
    following: str | None
    count: int


@dataclass(slots=True)
class _Node:
    """An event at a place of the flow, or all others there, or the end."""

    name: str
    colour: str
    count: int = 0
    y: float = 0.0
    used_in: float = 0.0  # of its height, by ribbons that come
    used_out: float = 0.0  # and by those that go on


# Of a column, what each name stands for there; ``None`` for the end.
_Column = dict[str | None, _Node]


def flow(
    links: Sequence[Link],
    *,
    title: str,
    measure: str = "entries",
    ended: str = "(nothing more)",
    backward: bool = False,
) -> Picture:
    """
    Draw flows: a column for each step, and ribbons as thick as many went from one to the next.

    Args:
        links: each pair of events of each step once.
        ended: what the end of flows is called.
        backward: whether the steps lead to the left.
    """
    steps = max((link.step for link in links), default=0)
    every = sum(link.count for link in links if link.step == 1)
    columns = _columns(links, steps, ended)
    unit = HEIGHT / max([1, *(sum(node.count for node in _nodes(column)) for column in columns)])
    pitch = max(LEAST_PITCH, (WIDTH - NODE - LAST_NAME) / max(1, steps))
    xs = [(steps - n if backward else n) * pitch for n in range(steps + 1)]
    bottom = max((_stack(column, unit) for column in columns), default=TOP + LINE)
    ribbons = _ribbons(links, columns, xs, unit, every, backward)
    parts, names = [], []
    word = "before" if backward else "after"
    for place, (column, x) in enumerate(zip(columns, xs, strict=True)):
        where = f"{place} {word}" if place else "start"
        names.append(text(x, 12, where, muted=True))
        for node in _nodes(column):
            share = percent(node.count / every) if every else ""
            said = f"{where}, {clipped(node.name, TOLD_NAME)}: {number(node.count)} {measure}, {share}"
            parts.append(
                f'<rect {paint(node.colour)} x="{x:.1f}" y="{node.y:.1f}" width="{NODE:g}"'
                f' height="{max(1.0, node.count * unit):.1f}">{told(said)}</rect>'
            )
            parts += ribbons.get(id(node), [])
            label = f"{clipped(node.name, pitch - NODE - 50)} {share}"
            names.append(text(round(x + NODE + 5, 1), round(node.y + 12, 1), label))
    if not every:
        names.append(text(10, 40, f"no {measure}", muted=True))
    words = _in_words(links, every, measure, backward)
    if any(len(set(map(id, column.values()))) < len(column) for column in columns):
        words += " Of each step, the rarer events are drawn as one."
    width = steps * pitch + NODE + LAST_NAME if steps else WIDTH
    rows = [
        (f"{link.step}", link.event, ended if link.following is None else link.following, number(link.count),
         percent(link.count / every if every else None))
        for link in links
    ]  # fmt: skip
    svg = drawn(
        width, bottom + 4, f"{title}. {words}", [*parts, *names], least=steps * LEAST_PITCH if steps > 4 else None
    )
    return Picture(title, words, svg, ("step", "event", word, measure, f"share of {measure}"), rows)


def _in_words(links: Sequence[Link], every: int, measure: str, backward: bool) -> str:
    if not every:
        return f"There are no {measure}."
    first = [link for link in links if link.step == 1 and link.following is not None]
    said = f"{number(every)} {measure}"
    if not first:
        return f"{said}; {'nothing came before' if backward else 'nothing followed'}."
    best = max(first, key=lambda link: link.count)
    where = "before" if backward else "next"
    return f"{said}; what came {where} most often is {clipped(best.following, 400)}: {percent(best.count / every)}."


def _columns(links: Sequence[Link], steps: int, ended: str) -> list[_Column]:
    """Return what is drawn at each place: the most frequent events, the largest first, all others, and the end."""
    counts: list[Counter[str | None]] = [Counter() for _ in range(steps + 1)]
    for link in links:
        counts[link.step][link.following] += link.count
        if link.step == 1:
            counts[0][link.event] += link.count
        else:
            counts[link.step - 1][link.event] += 0  # as many as came there; without any, it is there all the same
    most = max(2, min(MOST_EVENTS, math.isqrt(MOST_RIBBONS // max(1, steps)) - 2))
    overall = sum(counts, Counter[str | None]())
    named = sorted((name for name in overall if name not in (None, REST)), key=lambda name: (-overall[name], str(name)))
    colours: dict[str | None, str] = {name: f"s{n}" for n, name in enumerate(named[:COLOURS])}
    return [_column(count, colours, most, ended) for count in counts]


def _column(counts: Counter[str | None], colours: dict[str | None, str], most: int, ended: str) -> _Column:
    ordered = sorted((n for n in counts if n not in (None, REST)), key=lambda name: (-counts[name], str(name)))
    kept, others = ordered[:most], [*ordered[most:], *([REST] if REST in counts else [])]
    column: _Column = {name: _Node(str(name), colours.get(name, "so")) for name in kept}
    if others:
        rest = _Node(REST if others == [REST] else OTHER, "so")
        column |= dict.fromkeys(others, rest)
    if None in counts:
        column[None] = _Node(ended, "line")
    for name, count in counts.items():
        column[name].count += count
    return column


def _nodes(column: _Column) -> list[_Node]:
    """Return what is in a column, each once, in order."""
    return list({id(node): node for node in column.values()}.values())


def _stack(column: _Column, unit: float) -> float:
    """Place what is in a column one below the other, each with room for its name; return where it ends."""
    y = TOP
    for node in _nodes(column):
        node.y = y
        y += max(LINE, node.count * unit) + GAP
    return y


def _ribbons(
    links: Sequence[Link], columns: Sequence[_Column], xs: Sequence[float], unit: float, every: int, backward: bool
) -> dict[int, list[str]]:
    """Return the ribbons that go on from each node, by its id."""
    found: dict[int, list[str]] = {}
    by_step: dict[int, list[Link]] = {}
    for link in links:
        by_step.setdefault(link.step, []).append(link)
    for step in range(1, len(columns)):
        here, there = columns[step - 1], columns[step]
        sums: Counter[tuple[int, int]] = Counter()
        places = ({id(node): n for n, node in enumerate(_nodes(each))} for each in (here, there))
        mine, theirs = places
        for link in by_step.get(step, []):
            sums[mine[id(here[link.event])], theirs[id(there[link.following])]] += link.count
        sources, targets = _nodes(here), _nodes(there)
        for (a, b), count in sorted(sums.items()):
            source, target = sources[a], targets[b]
            thick = count * unit
            y, to = source.y + source.used_out, target.y + target.used_in
            source.used_out += thick
            target.used_in += thick
            start, end = (xs[step - 1], xs[step] + NODE) if backward else (xs[step - 1] + NODE, xs[step])
            middle = (start + end) / 2
            low, below = max(0.7, thick) + y, max(0.7, thick) + to
            path = (
                f"M{start:.1f} {y:.1f}C{middle:.1f} {y:.1f} {middle:.1f} {to:.1f} {end:.1f} {to:.1f}"
                f"V{below:.1f}C{middle:.1f} {below:.1f} {middle:.1f} {low:.1f} {start:.1f} {low:.1f}z"
            )
            pair = f"{clipped(source.name, TOLD_NAME)} → {clipped(target.name, TOLD_NAME)}"
            said = told(f"{pair}: {number(count)}, {percent(count / every if every else None)}")
            found.setdefault(id(source), []).append(
                f'<path {paint(target.colour)} fill-opacity=".35" d="{path}">{said}</path>'
            )
    return found
