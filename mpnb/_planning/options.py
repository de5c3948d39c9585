"""Options of an export that are classes of their own."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from mpnb._base.paths import local_path
from mpnb._base.scalars import as_int, brief, whole_number
from mpnb._errors import PlanError
from mpnb._message import Argument

# The defaults of an export: where its events go, requests at once, days a batch, days after a day in which its events
# may still arrive.
DATABASE = "mixpanel.duckdb"
TABLE = "events"
WORKERS = 10
CHUNK_DAYS = 7
# One request, one object.
LAKE_CHUNK_DAYS = 1
LATE_DAYS = 5
MAX_LATE_DAYS = 36_500
# Of the whole process, in bytes: less has no room for Python, the workers and one thread of DuckDB's.
LEAST_MEMORY = 300 * 10**6
MOST_MEMORY = 10**15
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}


def memory_of(value: int | str | None) -> int | None:
    """
    Return the memory that an export may use, in bytes, as the caller gave it: a number of them, or ``"2GB"``.

    Raises:
        PlanError: it is neither, or less than ``LEAST_MEMORY``.
    """
    if value is None:
        return None
    number: float | None = as_int(value)
    if isinstance(value, str) and (found := _SIZE.fullmatch(value.strip().lower())):
        number = float(found[1]) * _UNITS[found[2]]
    if number is None or not LEAST_MEMORY <= number <= MOST_MEMORY:
        raise PlanError(
            Argument("memory"), f" must be 300 MB or more, in bytes or as '600MB' or '2GB', not {brief(value)}"
        )
    return int(number)


_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?(ki|mi|gi|k|m|g|t|)b?")


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
