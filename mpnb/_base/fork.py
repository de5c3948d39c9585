"""
Protection of a forked child process whose parent has DuckDB open.

The child has DuckDB's memory, but none of its threads: it would read an old state of the file, overwrite what its
parent writes, and at its exit merge the parent's log into the file. So the child opens no file that its parent had
open, and exits without calling DuckDB.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mpnb._base.paths import open_files

SPAWN = "start processes by 'spawn', or let one process have it open at a time"

# Device and inode of the files that were open when this process was forked; none in one that was not.
_inherited: frozenset[tuple[int, int]] = frozenset()
_kept: weakref.WeakSet[Any] = weakref.WeakSet()


def keep_alive(connection: Any) -> None:
    """Keep a connection from being closed in a forked child, also when the child exits."""
    _kept.add(connection)


def free_in_child(lock: threading.Lock) -> None:
    """Reset a lock in each forked child: a thread of the parent that held it would never release it there."""
    in_child(lock._at_fork_reinit)  # type: ignore[attr-defined]  # as concurrent.futures does


def in_child(function: Callable[[], object]) -> None:
    """Register a function to be called in each forked child."""
    if hasattr(os, "register_at_fork"):  # Windows has no fork
        os.register_at_fork(after_in_child=function)


def is_inherited(path: Path) -> bool:
    """Whether the process that this one was forked from had a file open at that moment."""
    with contextlib.suppress(OSError):
        found = path.stat()
        return (found.st_dev, found.st_ino) in _inherited
    return False


def _after_fork() -> None:
    global _inherited
    _inherited = open_files() or frozenset()
    for connection in list(_kept):
        # Nothing in Python keeps an object beyond the end of the interpreter but a reference too many.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


in_child(_after_fork)
