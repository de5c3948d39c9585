"""A table that is exported to: who serves it, and what it should hold."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from mpnb.sandbox import Fault, Sandbox, serve
from tests.campaign._case import Case
from tests.campaign._events import day_lines, multiset


@dataclass(slots=True)
class Table:
    """
    Know what one table of a file should hold.

    Attributes:
        version: of the data that is served now. Another one has other events for the same days.
    """

    case: Case
    database: Path
    server: Sandbox = field(init=False)
    version: int = 0
    _served: dict[tuple[date, int], Counter[str]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Return its name in the file."""
        return self.case.table

    def served(self, day: date, version: int) -> Counter[str]:
        """Return the events of a day in a version of the data, as ``multiset()`` counts them."""
        key = day, version
        if key not in self._served:
            case = self.case
            lines = self.server.lines(day) if case.made_up else day_lines(case.seed, version, day)
            self._served[key] = multiset(lines, case.names)
        return self._served[key]

    def change(self, step: str) -> None:
        """Serve other data from now on, where a step fetches all days again. Others keep what they hold."""
        self.version += step in ("refresh", "cancel")


@contextlib.contextmanager
def served(case: Case, database: Path, faults: Iterable[Fault] = ()) -> Iterator[Table]:
    """Serve the data of a case, with its faults, for a table of a file."""
    table = Table(case, database)
    with serve(
        seed=case.seed,
        events_per_day=60,
        gzip_members=case.gzip_members,
        faults=[*case.faults, *faults],
        lines=None if case.made_up else lambda day: day_lines(case.seed, table.version, day),
    ) as table.server:
        yield table
