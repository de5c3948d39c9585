"""The peak memory of a process."""

from __future__ import annotations

import resource
import sys
from pathlib import Path


def peak_memory() -> int:
    """Give the most memory that this process has had, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage's figure, which begins with what the process had that forked this one.
        [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
