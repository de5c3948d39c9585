"""
Pictures as SVG in static HTML: no scripts, nothing from a network, light and dark by CSS.

The same HTML shows live, in a saved notebook, on a page made of it and in marimo. Each picture has a line in words and
a table of what it shows. This package imports nothing of mpnb but itself, so that every room may draw.

    _words      numbers and dates as people write them, texts made safe for HTML
    _picture    what a picture is: its SVG, its style, its table
    _scale      from values to pixels, and the values that an axis names
    _charts     bars, lines, heat maps, funnels
    _flow       ribbons from step to step
    _properties properties and their values
    _calendar   days in weeks
"""

from __future__ import annotations

from mpnb._base.pictures._calendar import Day, calendar
from mpnb._base.pictures._charts import OTHER, Line, Step, bars, funnel, heatmap, lines, most_and_other
from mpnb._base.pictures._flow import Link, flow
from mpnb._base.pictures._picture import Picture
from mpnb._base.pictures._properties import Property, properties
from mpnb._base.pictures._words import day_in_words, days_in_words, number, percent, span_in_words

__all__ = [
    "OTHER",
    "Day",
    "Line",
    "Link",
    "Picture",
    "Property",
    "Step",
    "bars",
    "calendar",
    "day_in_words",
    "days_in_words",
    "flow",
    "funnel",
    "heatmap",
    "lines",
    "most_and_other",
    "number",
    "percent",
    "properties",
    "span_in_words",
]
