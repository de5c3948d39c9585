"""Options of an export that are objects of their own."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from mpnb._base.paths import local_path
from mpnb._base.scalars import whole_number

# The defaults of an export: requests at once, days a batch, days after a day in which its events may still arrive.
WORKERS = 10
CHUNK_DAYS = 7
LATE_DAYS = 5
MAX_LATE_DAYS = 36_500


@dataclass(frozen=True, slots=True)
class Spool:
    """
    Where downloaded bodies wait to be written, and how many bytes of them at most.

    Args:
        folder: on this machine, made where it is missing; ``~`` is the home folder. ``None`` is the database's own
            folder, or the system's temporary one for a database in memory.
        max_bytes: 1 or more; one batch may go over it, so that a batch larger than the budget still passes.
            ``None`` is half of the free disk, at most 10 GB.

    Raises:
        PlanError: one of them cannot be meant.
    """

    folder: str | os.PathLike[str] | None = None
    max_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.folder is not None:
            self.path_of(self.folder)
        if self.max_bytes is not None:
            object.__setattr__(self, "max_bytes", whole_number("max_bytes", self.max_bytes, 1))

    @staticmethod
    def path_of(folder: str | os.PathLike[str]) -> Path:
        """Return the folder as it is now, wherever the process goes meanwhile. Raises ``PlanError``."""
        return local_path(folder, "folder", "pass a folder of this machine's own").absolute()
