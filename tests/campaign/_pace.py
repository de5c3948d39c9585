"""The time and memory that mpnb gives the world, made short: what takes minutes in use takes moments here."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import mpnb._fetching.client
import mpnb._fetching.fetcher
import mpnb._fetching.verify
import mpnb._storing.settings
import mpnb._storing.writer

# A request is given up after so much silence; a stall is shorter, or longer.
IDLE_SECONDS = 0.4
BACKOFF_SECONDS = 0.005
# A bomb is one at a thirtieth of the size: what the real bounds are is for tests of their own.
BOMB_BYTES = 8 << 20
MAX_LINE = 1 << 20

_SHORT = (
    (mpnb._fetching.client, "IDLE_SECONDS", IDLE_SECONDS),
    (mpnb._fetching.fetcher, "BACKOFF_SECONDS", BACKOFF_SECONDS),
    (mpnb._fetching.verify, "BOMB_BYTES", BOMB_BYTES),
    (mpnb._fetching.verify, "MAX_LINE", MAX_LINE),
)


@contextlib.contextmanager
def _set(*values: tuple[object, str, float]) -> Iterator[None]:
    before = [(module, name, getattr(module, name)) for module, name, _ in values]
    try:
        for module, name, value in values:
            setattr(module, name, value)
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


@contextlib.contextmanager
def quick(linger: float, *, checkpoints: bool = False) -> Iterator[None]:
    """
    Shorten all waits within the block, and let the writer wait so long for more.

    Args:
        checkpoints: whether DuckDB folds its log into the file after nearly every commit, in place of at the end.
    """
    threshold = mpnb._storing.settings.SETTINGS["checkpoint_threshold"]
    with _set(*_SHORT, (mpnb._storing.writer, "LINGER_SECONDS", linger)):
        mpnb._storing.settings.SETTINGS["checkpoint_threshold"] = "'10KB'" if checkpoints else threshold
        try:
            yield
        finally:
            mpnb._storing.settings.SETTINGS["checkpoint_threshold"] = threshold


@contextlib.contextmanager
def patient() -> Iterator[None]:
    """Within ``quick()``: let a busy machine be silent for longer, where no fault is."""
    with _set((mpnb._fetching.client, "IDLE_SECONDS", 60.0)):
        yield
