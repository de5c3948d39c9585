"""Options of an export that are classes of their own."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from mpnb._base.paths import local_path
from mpnb._base.scalars import whole_number

# The defaults of an export: where its events go, requests at once, days a batch, days after a day in which its events
# may still arrive.
DATABASE = "mixpanel.duckdb"
TABLE = "events"
WORKERS = 10
CHUNK_DAYS = 7
LATE_DAYS = 5
MAX_LATE_DAYS = 36_500


@dataclass(frozen=True, slots=True)
class Spool:
    """
    The folder and the size limit for downloads that wait to be written.

    Args:
        folder: a folder on this machine, created if missing; ``~`` is the home folder. ``None`` is the database's own
            folder, or the system's temporary folder for a database in memory.
        max_bytes: the limit in bytes, 1 or more. One batch at a time may exceed it, so that a larger batch can still be
            fetched. ``None`` is half of the free disk space, at most 10 GB.

    Raises:
        PlanError: one of them is invalid.
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
        """Return the folder as an absolute path, fixed before any change of directory. Raises ``PlanError``."""
        return local_path(folder, "folder", "pass a folder of this machine's own").absolute()
