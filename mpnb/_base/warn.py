"""Warnings that name the caller's line, wherever in mpnb they are issued."""

from __future__ import annotations

import sys
import warnings

# It shows what an export says by itself; a warning from its thread would go into whichever cell runs next.
SILENT = "mpnb._notebook.panel"
# What called, as a cell would.
CALLERS = ("mpnb._notebook.magic",)


def warn(text: str) -> None:
    """Issue a ``UserWarning`` that names the caller's line."""
    level, frame = 1, sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name.startswith(SILENT):
            return
        if name.startswith(CALLERS) or not (name == "mpnb" or name.startswith("mpnb.") or name == "contextlib"):
            break
        level, frame = level + 1, frame.f_back  # type: ignore[assignment]
    warnings.warn(UserWarning(text), stacklevel=level + 1)
