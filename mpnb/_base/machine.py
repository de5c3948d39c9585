"""What this process may use of its machine: processors and memory. Containers get less than there is."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path("/")


def cores(root: Path = ROOT) -> int:
    """
    Return the number of processors that this process may use, at least 1.

    Args:
        root: where the system shows its control groups.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    granted = [math.ceil(share) for share in _limits(root, "cpu", _cpu_share)]
    return max(1, min(allowed, *granted)) if granted else allowed


def memory(root: Path = ROOT) -> int | None:
    """Return the memory that this process may use, in bytes; ``None`` where the system does not say."""
    known = [*_limits(root, "memory", _memory_limit), *filter(None, [_physical_memory()])]
    return min(known, default=None)


def _limits(root: Path, controller: str, read: Callable[[Path], float | None]) -> Iterator[Any]:
    """
    Yield what the control groups of this process allow, of both versions: its own, and all above it.

    In a container the path may be the host's, of which nothing is there but the top.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / (controller if controllers else "")
        own = Path(path.lstrip("/"))
        for folder in (own, *own.parents):
            if (limit := read(top / folder)) is not None:
                yield limit


def _memory_limit(group: Path) -> int | None:
    """Return the limit of a group; version 1 says that there is none by a number beyond any machine's memory."""
    text = _text(group / "memory.max") or _text(group / "memory.limit_in_bytes")
    return int(text) if text.isdecimal() else None


def _cpu_share(group: Path) -> float | None:
    """Return how many processors' time a group may use."""
    text = _text(group / "cpu.max") or f"{_text(group / 'cpu.cfs_quota_us')} {_text(group / 'cpu.cfs_period_us')}"
    quota, _, period = text.partition(" ")
    return int(quota) / int(period) if quota.isdecimal() and period.isdecimal() and int(period) else None


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _physical_memory() -> int | None:
    if sys.platform == "win32":
        import ctypes

        return _windows_memory(ctypes.windll.kernel32.GlobalMemoryStatusEx)
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None


def _windows_memory(ask: Callable[[Any], int]) -> int | None:
    """
    Return the memory of a machine with Windows.

    Args:
        ask: ``GlobalMemoryStatusEx``.
    """
    import ctypes

    # MEMORYSTATUSEX: its own length, the load in percent, and seven sizes, of which the first is all there is.
    status = (ctypes.c_uint64 * 8)()
    length = ctypes.cast(status, ctypes.POINTER(ctypes.c_uint32))
    length[0] = ctypes.sizeof(status)
    return status[1] if ask(ctypes.byref(status)) else None
