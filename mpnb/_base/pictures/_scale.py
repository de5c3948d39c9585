"""From values to pixels, and the values that an axis names."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """
    Values along some pixels, from zero or below to the greatest.

    Attributes:
        low, high: the least and the greatest value of the axis; they differ.
        start, end: their pixels.
    """

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the pixel of a value, to a tenth; one that is beyond the axis is at its end."""
        share = (max(self.low, min(self.high, value)) - self.low) / (self.high - self.low)
        return round(self.start + (self.end - self.start) * share, 1)

    def ticks(self, most: int = 4) -> list[float]:
        """Return round values along it, zero among them."""
        step = _round_up((self.high - self.low) / most)
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [n * step for n in range(first, last + 1)]


def scale(values: Iterable[float | None], start: float, end: float) -> Scale:
    """Return the scale on which all of some values find room, with zero."""
    there = [value for value in values if value is not None]
    low, high = min([0.0, *there]), max([0.0, *there])
    if high - low < 1e-300:
        return Scale(0.0, 1.0, start, end)
    if len({low, high, 0.0}) > 1:
        step = _round_up((high - low) / 4)
        high = math.ceil(high / step - 1e-9) * step if high > 0 else high
        low = math.floor(low / step + 1e-9) * step if low < 0 else low
    return Scale(low, high, start, end)


def _round_up(step: float) -> float:
    size = 10.0 ** math.floor(math.log10(step))
    return next((size * n for n in (1, 2, 2.5, 5) if size * n >= step * (1 - 1e-9)), size * 10)
