"""What a campaign did and found, as it prints it."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any

SHOWN = 20


@dataclass(slots=True)
class Figures:
    """
    Add up a campaign. ``violations`` name what an export promises and did not keep; there must be none.

    Attributes:
        faults, kills, images, calls, surroundings: what was done to exports, by kind.
        stuck: exports that did not end, and processes that died of one.
    """

    runs: int = 0
    steps: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    surroundings: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)
    images: Counter[str] = field(default_factory=Counter)
    rows_compared: int = 0
    lost: int = 0
    duplicated: int = 0
    stuck: int = 0
    violations: list[str] = field(default_factory=list)

    def add(self, other: Figures) -> None:
        """Add what another campaign did and found."""
        for each in fields(self):
            mine, theirs = getattr(self, each.name), getattr(other, each.name)
            if isinstance(mine, Counter):
                mine.update(theirs)
            else:
                setattr(self, each.name, mine + theirs)

    def json(self) -> str:
        """Return it as one line."""
        return json.dumps({each.name: getattr(self, each.name) for each in fields(self)})

    @classmethod
    def of_json(cls, text: str) -> Figures:
        """Read what ``json()`` wrote."""
        values: dict[str, Any] = json.loads(text)
        return cls(**{name: Counter(value) if isinstance(value, dict) else value for name, value in values.items()})

    def __str__(self) -> str:
        lines = [f"runs {self.runs:,}, exports {self.steps:,}"]
        for name in ("faults", "surroundings", "calls", "kills", "images"):
            counts: Counter[str] = getattr(self, name)
            if counts:
                lines.append(f"{name} {counts.total():,}")
                lines += [f"  {kind:<24} {count:>7,}" for kind, count in sorted(counts.items())]
        lines.append(
            f"rows compared {self.rows_compared:,}, lost {self.lost:,}, duplicated {self.duplicated:,}, "
            f"stuck {self.stuck:,}"
        )
        lines.append(f"violations {len(self.violations):,}")
        return "\n".join([*lines, *(f"  {each}" for each in self.violations[:SHOWN])])
