"""The quota of a project: how often it may be queried."""

from __future__ import annotations

from dataclasses import dataclass

from mpnb._base.scalars import whole_number


@dataclass(frozen=True, slots=True)
class Quota:
    """
    The limits on requests to a project.

    Args:
        per_hour: requests started in any 3,600 seconds, 1 or more.
        per_second: requests started in any second, 1 or more.
        concurrent: requests in flight at once, 1 or more.

    Raises:
        PlanError: one of them is not a whole number of at least 1.

    The defaults are Mixpanel's for the raw export API. Pass others only for a project to which Mixpanel granted more:
    https://developer.mixpanel.com/reference/raw-event-export#rate-limits
    """

    per_hour: int = 60
    per_second: int = 3
    concurrent: int = 100

    def __post_init__(self) -> None:
        for name in ("per_hour", "per_second", "concurrent"):
            object.__setattr__(self, name, whole_number(name, getattr(self, name), 1))
