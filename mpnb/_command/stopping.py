"""Signals that end a command: it stops as after Ctrl-C, and its status says which it was."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

# What init systems and schedulers send, a terminal that is closed, and a window of Windows'.
NAMES = ("SIGTERM", "SIGHUP", "SIGBREAK")
WORDS = {"SIGTERM": "terminated", "SIGHUP": "the terminal was closed", "SIGBREAK": "stopped"}


class Stop:
    """The signal that a command was stopped by, Ctrl-C until another comes."""

    def __init__(self) -> None:
        self._signal = signal.SIGINT

    @property
    def status(self) -> int:
        """Return the exit status of what this signal has ended, as shells have it: 130, 143, 129."""
        return 128 + self._signal

    @property
    def word(self) -> str:
        """Return what happened, where nothing is to be said of what is kept."""
        return WORDS.get(self._signal.name, "interrupted")

    def came(self, number: int, frame: FrameType | None) -> None:
        """Stop, as the handler of a signal."""
        self._signal = signal.Signals(number)
        raise KeyboardInterrupt


@contextlib.contextmanager
def stopping() -> Iterator[Stop]:
    """
    Let the signals of ``NAMES`` raise ``KeyboardInterrupt`` within the block.

    One that somebody handles or ignores, as ``nohup`` does, is left to them.
    """
    stop = Stop()
    taken: list[signal.Signals] = []
    if threading.current_thread() is threading.main_thread():
        numbers = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
        taken = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, stop.came)
    try:
        yield stop
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)
