"""What a campaign did and found, as it prints it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Figures:
    """Add up a campaign. ``violations`` name what an export promises and did not keep; there must be none."""

    runs: int = 0
    steps: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)
    rows_compared: int = 0
    lost: int = 0
    duplicated: int = 0
    violations: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"runs {self.runs:,}, exports {self.steps:,}"]
        for name, counts in (("faults", self.faults), ("kills", self.kills)):
            if counts:
                lines.append(f"{name} {counts.total():,}")
                lines += [f"  {kind:<18} {count:>7,}" for kind, count in sorted(counts.items())]
        lines.append(f"rows compared {self.rows_compared:,}, lost {self.lost:,}, duplicated {self.duplicated:,}")
        lines.append(f"violations {len(self.violations):,}")
        return "\n".join([*lines, *(f"  {each}" for each in self.violations[:20])])
