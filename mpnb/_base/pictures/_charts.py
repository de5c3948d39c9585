"""Bars, lines, heat maps and funnels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mpnb._base.pictures._picture import Picture, drawn, paint, stroke, text, told
from mpnb._base.pictures._scale import Scale, scale
from mpnb._base.pictures._words import (
    NOTHING,
    Value,
    clipped,
    finite,
    moment,
    number,
    percent,
    safe,
    short,
    short_moments,
    span_in_words,
    total,
)

WIDTH = 760.0
# Categories besides the largest, all together.
OTHER = "other"
# And what a report calls them.
REST = "$other"
MOST_BARS = 12
MOST_LINES = 6
MOST_STEPS = 24
MOST_ROWS, MOST_COLUMNS = 36, 32
# Of all lines together: more points than these have no dots, which name their values.
MOST_DOTS = 800
# All lines together go through at most so many points: of more, each stands for the same number of them.
MOST_POINTS = 2000


@dataclass(frozen=True, slots=True)
class Line:
    """A series: its name, and a value for each place along the axis, ``None`` for none."""

    name: str
    values: Sequence[Value]


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a funnel: who reached it, the shares of the first step and of the one before, the median time."""

    name: str
    count: int
    of_first: Value = None
    of_previous: Value = None
    seconds: Value = None


def most_and_other(items: Sequence[tuple[str, Value]], most: int = MOST_BARS) -> list[tuple[str, Value]]:
    """Return the largest of some categories, the largest first, and the sum of all others as one, the last."""
    ordered = sorted(items, key=lambda item: -(finite(item[1]) or 0.0))
    if len(ordered) <= most:
        return ordered
    rest = total(value for _, value in ordered[most - 1 :])
    return [*ordered[: most - 1], (_others(len(ordered) - most + 1), rest)]


def _others(count: int) -> str:
    return f"{OTHER} ({count:,})"


# --- bars ------------------------------------------------------------------------------------------------------------


def bars(
    items: Sequence[tuple[str, Value]], *, title: str, measure: str = "events", words: str = "", ordered: bool = False
) -> Picture:
    """
    Draw a bar for each category, the largest first; those beyond the first twelve are one, the last.

    Args:
        ordered: whether the categories stay in their order, and are all shown.
    """
    shown = list(items) if ordered else most_and_other(items)
    longest = max((len(name) for name, _ in shown), default=0)
    left, right, row = max(120.0, min(380.0, longest * 7.3 + 14)), 90.0, 24.0
    values = [finite(value) for _, value in shown]
    others = len(items) > len(shown)
    # All others together may be many times the largest: they are outlined, and not to scale.
    across = scale(values[:-1] if others else values, left, WIDTH - right)
    parts = []
    for place, ((name, value), there) in enumerate(zip(shown, values, strict=True)):
        y = 6 + place * row
        is_rest = others and place == len(shown) - 1
        zero, end = across(0.0), across(there or 0.0)
        look = f'{stroke("so")} stroke-dasharray="4 3"' if is_rest else paint("s0")
        parts.append(text(left - 10, y + 14, clipped(name, left - 14), anchor="end"))
        if there is not None:
            said = f"{name}: {number(value)}" + (", not to scale" if is_rest else "")
            parts.append(
                f'<rect {look} x="{min(zero, end):g}" y="{y:g}" width="{max(1.0, abs(end - zero)):g}"'
                f' height="18" rx="2">{told(said)}</rect>'
            )
        parts.append(text(max(zero, end) + 6, y + 14, number(value)))
    if not shown:
        parts.append(text(10, 20, f"no {measure}", muted=True))
    said = words or _most_of(shown, measure)
    svg = drawn(WIDTH, 10 + max(1, len(shown)) * row, f"{title}. {said}", parts)
    return Picture(title, said, svg, ("name", measure), [(name, number(value)) for name, value in items])


def _most_of(shown: Sequence[tuple[str, Value]], measure: str) -> str:
    if not shown:
        return f"There are no {measure}."
    return f"{clipped(shown[0][0], 400)} has the most: {number(shown[0][1])} {measure}."


# --- lines -----------------------------------------------------------------------------------------------------------


def lines(
    along: Sequence[object],
    series: Sequence[Line],
    *,
    title: str,
    measure: str = "events",
    words: str = "",
    adds: bool = True,
) -> Picture:
    """
    Draw lines along days or other places; of more than six, the largest, and all others as one.

    Args:
        along: the places, in order: days, moments, or texts.
        adds: whether the values of several series may be summed. If not, the others are named and not drawn.
    """
    drawn_lines, hidden = _largest(series, adds)
    top, bottom, left, right = 12.0, 26.0, 56.0, 150.0 if len(drawn_lines) > 1 else 20.0
    height = 240.0
    values = [[finite(value) for value in line.values] for line in drawn_lines]
    up = scale((v for each in values for v in each), height - bottom, top)
    wide = WIDTH - left - right
    xs = [round(left + wide * (n + 0.5) / max(1, len(along)), 1) for n in range(len(along))]
    parts = [
        f'<path {stroke("line")} d="M{left:g} {up(tick):g}H{WIDTH - right:g}"/>'
        + text(left - 8, up(tick) + 4, short(tick), anchor="end", muted=True)
        for tick in up.ticks()
    ]
    parts += _places(along, xs, height - 8)
    many = sum(len(each) for each in values)
    every = max(1, math.ceil(many / MOST_POINTS))
    with_dots, radius = many <= MOST_DOTS, 3 if many <= MOST_DOTS / 2 else 2
    for place, (line, each) in enumerate(zip(drawn_lines, values, strict=True)):
        colour = _colour(place, line, series)
        points = [None if value is None else (x, up(value)) for x, value in zip(xs, each, strict=False)]
        path = _path(points[::every])
        parts.append(f'<path {stroke(colour)} stroke-width="2" stroke-linejoin="round" d="{path}"/>')
        for number_of, point in enumerate(points):
            is_alone = point and not any(points[n] for n in (number_of - 1, number_of + 1) if 0 <= n < len(points))
            if point and (with_dots or is_alone):
                said = f"{line.name}, {moment(along[number_of])}: {number(line.values[number_of])}"
                parts.append(
                    f'<circle {paint(colour)} cx="{point[0]:g}" cy="{point[1]:g}" r="{radius}">{told(said)}</circle>'
                )
    if len(drawn_lines) > 1:
        parts += _names(drawn_lines, series, values, up, WIDTH - right + 8, height - bottom)
    if not along:
        parts.append(text(left + 10, top + 14, f"no {measure}", muted=True))
    said = words or _in_all(along, drawn_lines, measure, adds)
    if hidden:
        said += f" Not drawn: {hidden:,} more."
    if every > 1:
        said += f" Drawn: one of {every:,} points."
    rows = [
        (moment(place), *(number(line.values[n]) if n < len(line.values) else NOTHING for line in drawn_lines))
        for n, place in enumerate(along)
    ]
    svg = drawn(WIDTH, height, f"{title}. {said}", parts)
    return Picture(title, said, svg, ("when", *(line.name for line in drawn_lines)), rows)


def _largest(series: Sequence[Line], adds: bool) -> tuple[list[Line], int]:
    """Return the lines to draw, and how many are left out."""
    has_rest = any(line.name == REST for line in series)
    if len(series) <= MOST_LINES + has_rest:
        return list(series), 0
    weight = {id(line): sum(abs(finite(v) or 0.0) / len(line.values) for v in line.values) for line in series}
    ordered = sorted(series, key=lambda line: -weight[id(line)])
    kept, others = ordered[:MOST_LINES], ordered[MOST_LINES:]
    kept.sort(key=lambda line: next(n for n, each in enumerate(series) if each is line))
    if not adds:
        return kept, len(others)
    longest = max(len(line.values) for line in others)
    values = [total(line.values[n] for line in others if n < len(line.values)) for n in range(longest)]
    return [*kept, Line(_others(len(others)), values)], 0


def _colour(place: int, line: Line, series: Sequence[Line]) -> str:
    is_rest = line.name == REST or (place == MOST_LINES and line not in series)
    return "so" if is_rest or place >= MOST_LINES else f"s{place}"


def _path(points: Sequence[tuple[float, float] | None]) -> str:
    """Return the way through some points, with gaps where there is none."""
    parts, before = [], False
    for point in points:
        if point:
            parts.append(f"{'L' if before else 'M'}{point[0]:g} {point[1]:g}")
        before = point is not None
    return "".join(parts)


def _places(along: Sequence[object], xs: Sequence[float], y: float) -> list[str]:
    """Return the names of some places along the axis."""
    every = max(1, math.ceil(len(along) / 7))
    shown = range(0, len(along), every)
    names = short_moments([along[n] for n in shown])
    return [
        text(xs[n], y, clipped(name, 96), anchor="middle", muted=True) for n, name in zip(shown, names, strict=True)
    ]


def _names(
    shown: Sequence[Line],
    series: Sequence[Line],
    values: Sequence[Sequence[float | None]],
    up: Scale,
    x: float,
    lowest: float,
) -> list[str]:
    """Return the names of lines beside their ends, none over another."""
    ends = [up(next((v for v in reversed(each) if v is not None), 0.0)) for each in values]
    order = sorted(range(len(ends)), key=lambda place: ends[place])
    room, least = 16.0, 12.0
    for place in order:  # downwards, each below the one before
        ends[place] = least = max(ends[place], least)
        least += room
    most = lowest
    for place in reversed(order):  # and up again, where that has pushed them out
        ends[place] = most = min(ends[place], most)
        most -= room
    parts = []
    for place, line in enumerate(shown):
        y = ends[place]
        parts.append(f'<circle {paint(_colour(place, line, series))} cx="{x + 4:g}" cy="{y:g}" r="4"/>')
        parts.append(text(x + 13, y + 4, clipped(line.name, 124)))
    return parts


def _in_all(along: Sequence[object], shown: Sequence[Line], measure: str, adds: bool) -> str:
    there = [value for line in shown for value in line.values if finite(value) is not None and value is not None]
    if not along or not there:
        return f"There are no {measure}."
    if adds:
        return f"{number(total(there))} {measure} in all, {moment(along[0])} to {moment(along[-1])}."
    return f"{number(min(there))} to {number(max(there))} {measure}, {moment(along[0])} to {moment(along[-1])}."


# --- heat maps -------------------------------------------------------------------------------------------------------


def heatmap(
    rows: Sequence[tuple[str, str]],
    columns: Sequence[str],
    values: Sequence[Sequence[Value]],
    *,
    title: str,
    measure: str,
    words: str = "",
    shares: bool = True,
) -> Picture:
    """
    Draw a cell for each row and column, the darker the more.

    Args:
        rows: the name of each, and a figure that stands beside it.
        columns: the names of the columns.
        values: by row, then by column; ``None`` leaves a cell empty.
        shares: whether the values are shares, which are shown as percentages.
    """
    write = percent if shares else number
    shown, across = rows[:MOST_ROWS], columns[:MOST_COLUMNS]
    left, top, row = 190.0, 24.0, 22.0
    pitch = max(17.0, min(64.0, (WIDTH - left) / max(1, len(across))))
    most = max((abs(finite(value) or 0.0) for line in values for value in line), default=0.0)
    parts = [
        text(left + (n + 0.5) * pitch, 15, clipped(name, pitch, 11), anchor="middle", muted=True)
        for n, name in enumerate(across)
        if pitch > 26 or n % 2 == 0
    ]
    cells: dict[int, list[str]] = {}
    marks = []
    for place, ((name, figure), line) in enumerate(zip(shown, values, strict=False)):
        y = top + place * row
        parts.append(text(left - 66, y + 15, clipped(name, left - 74), anchor="end"))
        parts.append(text(left - 8, y + 15, clipped(figure, 54), anchor="end", muted=True))
        for n, value in enumerate(line[: len(across)]):
            found = finite(value)
            if found is None:
                continue
            step = 0 if found == 0 or most == 0 else min(4, 1 + int(abs(found) / most * 3.999))
            x = left + n * pitch
            said = told(f"{name}, {across[n]}: {write(value)}")
            box = f"M{x:.1f} {y:g}h{pitch - 1:.1f}v{row - 1:g}H{x:.1f}z"
            cells.setdefault(step, []).append(f'<path d="{box}">{said}</path>')
            if pitch > 34:
                at = f'x="{x + pitch / 2:.1f}" y="{y + 15:g}"'
                marks.append(f'<text class="t{step}" {at}>{safe(clipped(write(value), pitch, 11))}</text>')
    parts += [f"<g {paint(f'h{step}')}>{''.join(each)}</g>" for step, each in cells.items()]
    parts.append(f'<g text-anchor="middle" pointer-events="none">{"".join(marks)}</g>')
    if not shown:
        parts.append(text(10, 20, f"no {measure}", muted=True))
    said = words
    if len(rows) > len(shown) or len(columns) > len(across):
        said += f" Drawn: {len(shown):,} of {len(rows):,} rows, {len(across):,} of {len(columns):,} columns."
    told_rows = [
        (name, figure, *(write(value) for value in line)) for (name, figure), line in zip(rows, values, strict=False)
    ]
    width = left + max(1, len(across)) * pitch
    height = top + max(1, len(shown)) * row + 4
    svg = drawn(width, height, f"{title}. {said}", parts)
    return Picture(title, said.strip(), svg, ("row", measure, *columns), told_rows)


# --- funnels ---------------------------------------------------------------------------------------------------------


def funnel(
    segments: Sequence[tuple[str, Sequence[Step]]], *, title: str, measure: str = "users", words: str = ""
) -> Picture:
    """
    Draw a funnel: a bar for each step, by segment where there are several, at most six of them.

    Args:
        segments: the name of each, ``""`` where there is one alone, and its steps.
    """
    shown = segments[:MOST_LINES]
    steps = max((len(each) for _, each in shown), default=0)
    several = len(shown) > 1
    left, right = 40.0, 250.0
    # Each segment against its own first step: they differ in size, and it is the shares that are compared.
    top_of = scale([1.0] if several else [finite(s.count) for _, each in shown for s in each], left, WIDTH - right)
    parts, y = [], 4.0
    for place in range(min(steps, MOST_STEPS)):
        there = [(name, each, n) for n, (name, each) in enumerate(shown) if place < len(each)]
        parts.append(text(left - 10, y + 14, f"{place + 1}", anchor="end", muted=True))
        parts.append(text(left, y + 14, clipped(there[0][1][place].name, WIDTH - left - 20)))
        y += 20
        for name, each, n in there:
            step = each[place]
            of_first = finite(step.of_first)
            end = top_of((of_first or 0.0) if several else (finite(step.count) or 0.0))
            said = _step(step, place, measure)
            parts.append(
                f'<rect {paint(f"s{n}")} x="{left:g}" y="{y:g}" width="{max(1.0, end - left):g}" height="18" rx="2">'
                f"{told(f'{name}: {said}' if name else said)}</rect>"
            )
            label = f"{number(step.count)}" + (f", {percent(step.of_first)}" if place else "")
            label += f", {clipped(name, 110)}" if several else ""
            parts.append(text(end + 8, y + 14, label))
            y += 22
        y += 8
    if not steps:
        parts.append(text(10, 20, f"no {measure}", muted=True))
    said = words or _converted(shown, measure)
    if len(segments) > len(shown):
        said += f" Drawn: the first {len(shown):,} of {len(segments):,} segments."
    rows = [
        (
            *((name,) if several else ()),
            f"{n}. {step.name}",
            number(step.count),
            percent(step.of_first),
            percent(step.of_previous),
            span_in_words(step.seconds),
        )
        for name, each in segments
        for n, step in enumerate(each, 1)
    ]
    head = (*(("segment",) if several else ()), "step", measure, "of the first", "of the one before", "median time")
    return Picture(title, said, drawn(WIDTH, max(30.0, y), f"{title}. {said}", parts), head, rows)


def _step(step: Step, place: int, measure: str) -> str:
    if not place:
        return f"{step.name}: {number(step.count)} {measure}"
    return (
        f"{step.name}: {number(step.count)} {measure}, {percent(step.of_first)} of the first step,"
        f" {percent(step.of_previous)} of the one before, after {span_in_words(step.seconds)} (median)"
    )


def _converted(shown: Sequence[tuple[str, Sequence[Step]]], measure: str) -> str:
    if len(shown) != 1 or not shown[0][1]:
        return "" if shown and shown[0][1] else f"There are no {measure}."
    steps = shown[0][1]
    last, first = steps[-1], steps[0]
    return f"{number(last.count)} of {number(first.count)} {measure} went all the way: {percent(last.of_first)}."
