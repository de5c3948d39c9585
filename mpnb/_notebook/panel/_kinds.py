"""What the panel exports, events or profiles: the calls for it, and what is told of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from mpnb import _api as api
from mpnb._base.text import days, plural
from mpnb._exporting.handles import Job
from mpnb._message import said
from mpnb._notebook.panel._feed import Frame, plan_frame, profiles_plan_frame
from mpnb._notebook.panel._labels import in_labels, place_of
from mpnb._planning.options import CHUNK_DAYS


@dataclass(frozen=True, slots=True)
class Kind:
    """
    One of them.

    Attributes:
        export: the call, whose arguments ``start`` and ``plan`` take as well.
        variable: what holds its result in code.
        frame: makes a frame of a plan.
        summed_up: says in a line what some arguments ask for.
        sound: for each field what stands in while it is wrong, so that what is wrong with the others shows as well.
        again: what to do where no code retries.
    """

    export: Callable[..., Any]
    start: Callable[..., Job[Any]]
    plan: Callable[..., Any]
    variable: str
    frame: Callable[..., Frame]
    summed_up: Callable[[dict[str, Any]], str]
    sound: dict[str, dict[str, Any]]
    again: str

    @property
    def defaults(self) -> dict[str, Any]:
        """Return the arguments that may be left out, with what they are then."""
        parameters = inspect.signature(self.export).parameters.values()
        usual = {"chunk_days": CHUNK_DAYS}
        return {p.name: usual.get(p.name, p.default) for p in parameters if p.default is not p.empty}


def planned(kind: Kind, asked: dict[str, Any], errors: dict[str, str]) -> tuple[Any, dict[str, str]]:
    """
    Return the plan for the fields, or what is wrong with each of them.

    Args:
        asked: arguments of the plan.
        errors: what is known to be wrong already, by field; sound values stand in for those.
    """
    errors = dict(errors)
    while True:
        try:
            plan = kind.plan(**asked)
        except Exception as error:
            place = place_of(error)
            if place in errors:
                return None, errors
            errors[place] = said(error, in_labels)
            if place not in kind.sound:
                return None, errors
            asked = asked | kind.sound[place]
        else:
            return (None, errors) if errors else (plan, {})


def _events_summed_up(asked: dict[str, Any]) -> str:
    first, last = date.fromisoformat(asked["from_date"]), date.fromisoformat(asked["to_date"])
    count = (last - first).days + 1
    names = asked["events"]
    words = [
        f"{count:,} {plural(count, 'day', 'days')}, {days(first, last)}",
        "all events" if names is None else names[0] if len(names) == 1 else f"{len(names):,} events",
        *(["where …"] if asked["where"] else []),
        f"table {asked['table']}",
    ]
    return " · ".join(words)


def _profiles_summed_up(asked: dict[str, Any]) -> str:
    names = asked["properties"]
    whose = next((f"profiles of {word} {asked[word]}" for word in ("cohort", "group") if asked[word]), "all profiles")
    words = [
        whose,
        *([f"{len(names):,} {plural(len(names), 'property', 'properties')}"] if names else []),
        *(["where …"] if asked["where"] else []),
        f"table {asked['table']}",
    ]
    return " · ".join(words)


EVENTS = Kind(
    api.export,
    api.start,
    api.plan,
    "result",
    plan_frame,
    _events_summed_up,
    {
        "dates": {"from_date": "yesterday", "to_date": "yesterday"},
        "events": {"events": None},
        "where": {"where": None},
        "workers": {"workers": 1},
        "chunk_days": {"chunk_days": 1},
        "database": {"database": ":memory:"},
        "table": {"table": "events"},
    },
    "export the same days again",
)
PROFILES = Kind(
    api.export_profiles,
    api.start_profiles,
    api.plan_profiles,
    "people",
    profiles_plan_frame,
    _profiles_summed_up,
    {
        **{name: {name: None} for name in ("where", "properties", "cohort", "group", "workspace")},
        "workers": {"workers": 1},
        "page_size": {"page_size": "auto"},
        "max_age": {"max_age": timedelta(0)},
        "database": {"database": ":memory:"},
        "table": {"table": "profiles"},
    },
    "export the profiles again",
)
KINDS = {"events": EVENTS, "profiles": PROFILES}
