"""What a report returned as a Vega-Lite specification."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import date, datetime
from typing import Any

from duckdb import DuckDBPyRelation

from mpnb.analysis._reports import LENGTHS, Read, read, value_of

# A notebook keeps the rows of a chart: not more than these.
MOST_VALUES = 5_000
VEGA_LITE = "application/vnd.vegalite.v5+json"


def chart(relation: DuckDBPyRelation) -> Chart:
    """
    Return what a report returned as a Vega-Lite specification, for whoever wants to change it.

    JupyterLab and VS Code draw it, ``altair.Chart.from_dict()`` reads it. It is a dictionary, with the first 5,000 rows
    as its data.

    Args:
        relation: what ``picture()`` takes.

    Raises:
        PlanError: it is no such relation.
    """
    found = read(relation, MOST_VALUES)
    values = [
        {name: _plain(value) for name, value in zip(found.columns, row, strict=True)}
        for row in found.rows[:MOST_VALUES]
    ]
    return Chart(
        {
            "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
            "title": found.title,
            "data": {"values": values},
            "width": 600,
            **_ENCODED[found.report.name](found),
        }
    )


class Chart(dict[str, Any]):
    """A Vega-Lite specification. JupyterLab and VS Code draw it where a cell ends with it."""

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        return {VEGA_LITE: dict(self), "text/plain": repr(self)}

    def _mime_(self) -> tuple[str, str]:  # marimo's hook
        return VEGA_LITE, json.dumps(self)

    def __repr__(self) -> str:
        """Return its title, and of how many rows it is."""
        return f"<Vega-Lite: {self['title']}, {len(self['data']['values']):,} rows>"


def _plain(value: Any) -> Any:
    """Return a value as JSON can have it."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list) else value


def _field(name: str, kind: str, **more: Any) -> dict[str, Any]:
    return {"field": name, "type": kind, **more}


def _lines_encoded(found: Read) -> dict[str, Any]:
    encoding = {"x": _field("period", "temporal"), "y": _field(value_of(found), "quantitative")}
    split = next((name for name in found.columns if name.startswith("segment")), None)
    if split:
        encoding["color"] = _field(split, "nominal")
    return {"mark": {"type": "line", "point": True, "tooltip": True}, "encoding": encoding}


def _funnel_encoded(found: Read) -> dict[str, Any]:
    counted = next(name for name in ("users", "totals", "sessions") if name in found)
    encoding = {"y": _field("event_name", "nominal", sort=None), "x": _field(counted, "quantitative")}
    if "segment" in found:
        encoding |= {"yOffset": _field("segment", "nominal"), "color": _field("segment", "nominal")}
    return {"mark": {"type": "bar", "tooltip": True}, "encoding": encoding}


def _retention_encoded(found: Read) -> dict[str, Any]:
    encoding = {
        "x": _field("period", "ordinal"),
        "y": _field("cohort", "ordinal"),
        "color": _field("value" if "value" in found else "share", "quantitative"),
    }
    if "segment" in found:
        encoding["row"] = _field("segment", "nominal")
    return {
        "transform": [{"filter": "datum.cohort != null && datum.complete"}],
        "mark": {"type": "rect", "tooltip": True},
        "encoding": encoding,
    }


def _flows_encoded(found: Read) -> dict[str, Any]:
    if found.options["paths"]:
        path = [{"calculate": "join(datum.path, ' → ')", "as": "way"}]
        encoding = {"y": _field("way", "nominal", sort="-x"), "x": _field("entries", "quantitative")}
        return {"transform": path, "mark": {"type": "bar", "tooltip": True}, "encoding": encoding}
    encoding = {
        "x": _field("step", "ordinal"),
        "y": _field("next_event", "nominal"),
        "color": _field("entries", "quantitative", aggregate="sum"),
    }
    return {"mark": {"type": "rect", "tooltip": True}, "encoding": encoding}


def _sessions_encoded(found: Read) -> dict[str, Any]:
    name = "".join(f"datum.length == {place} ? '{name}' : " for place, (_, name) in enumerate(LENGTHS))
    encoding = {"y": _field("name", "nominal", sort=None), "x": _field("sessions", "quantitative")}
    return {
        "transform": [{"filter": "datum.length != null"}, {"calculate": f"{name}''", "as": "name"}],
        "mark": {"type": "bar", "tooltip": True},
        "encoding": encoding,
    }


def _lifecycle_encoded(found: Read) -> dict[str, Any]:
    names = ["new", "retained", "returning", "dormant"]
    encoding = {
        "x": _field("period", "temporal"),
        "y": _field("users", "quantitative"),
        "color": _field("state", "nominal"),
    }
    return {
        "transform": [{"fold": names, "as": ["state", "users"]}],
        "mark": {"type": "line", "point": True, "tooltip": True},
        "encoding": encoding,
    }


def _catalog_encoded(found: Read) -> dict[str, Any]:
    encoding = {
        "y": _field("property", "nominal", sort=None),
        "x": _field("share", "quantitative"),
        "row": _field("event_name", "nominal"),
    }
    return {"mark": {"type": "bar", "tooltip": True}, "encoding": encoding}


_ENCODED: dict[str, Callable[[Read], dict[str, Any]]] = {
    "funnel": _funnel_encoded,
    "retention": _retention_encoded,
    "segmentation": _lines_encoded,
    "sessions": _sessions_encoded,
    "flows": _flows_encoded,
    "lifecycle": _lifecycle_encoded,
    "catalog": _catalog_encoded,
}
