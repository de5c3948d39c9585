"""Progress outside a notebook: one line that is redrawn on a terminal, one line a batch in a pipe."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from typing import Any, TextIO

from mpnb._base.clock import epoch_seconds
from mpnb._base.text import clock, days, duration, size
from mpnb._planning.states import ENDED, FOR_THE_QUOTA, BatchProgress, JobProgress
from mpnb._showing.live import Progress, in_notebook, notebook_progress

# Shorter waits come and go; a line in a log for each would be noise.
WORTH_A_LINE = 30.0


class TerminalLine:
    """One line on a terminal, redrawn with tqdm."""

    def __init__(self, stream: TextIO, records: str = "events") -> None:
        self._records = records
        from tqdm import tqdm

        class Bar(tqdm):  # type: ignore[type-arg]
            monitor_interval = 0  # a thread that would outlive the bar, for bars that are rarely redrawn

        has_size = _has_size(stream)
        self._bar = Bar(
            file=stream,
            unit="batch",
            dynamic_ncols=has_size,
            # tqdm would draw nothing on a terminal that says it is 0 by 0, as in some containers.
            ncols=None if has_size else 80,
            nrows=None if has_size else 24,
            leave=True,
            bar_format="{n_fmt}/{total_fmt} batches |{bar}| {elapsed}{postfix}",
        )

    def begin(self, job: Any) -> None:
        """Do nothing until the first tick."""

    def on_batch(self, progress: BatchProgress) -> None:
        """Do nothing: ``tick`` redraws."""

    def tick(self, progress: JobProgress) -> None:
        """Redraw the line, if the terminal is still there: an export does not stop for want of one."""
        self._bar.total = progress.total
        self._bar.n = progress.ended
        with contextlib.suppress(OSError):
            self._bar.set_postfix_str(summary_line(progress, self._records), refresh=True)

    def close(self) -> None:
        """Leave the last line on the terminal."""
        with contextlib.suppress(OSError):
            self._bar.close()


class PipeLines:
    """A line for each batch that has ended, and for each long wait."""

    def __init__(self, stream: TextIO, records: str = "events") -> None:
        self._stream = stream
        self._records = records
        self._waits_until = 0.0
        self._ended = 0

    def begin(self, job: Any) -> None:
        """Print nothing until a batch ends."""

    def on_batch(self, progress: BatchProgress) -> None:
        """Print the batch, if it has ended."""
        dates = progress.label or days(progress.from_date, progress.to_date)
        if progress.status == "waiting" and progress.until:
            if progress.until - max(epoch_seconds(), self._waits_until) > WORTH_A_LINE:
                self._waits_until = progress.until
                why = progress.error or FOR_THE_QUOTA
                self._print(f"{dates} waiting until {clock(progress.until)}: {why}")
        elif progress.status in ENDED and progress.status != "skipped":
            self._ended += 1
            count = f"{progress.rows:,}" if progress.status == "done" else "no"
            what = f"{count} {self._records}"
            if progress.status != "done":
                what = progress.error or what
            self._print(f"{dates} {progress.status}: {what}, {size(progress.bytes)}, {duration(progress.seconds)}")

    def tick(self, progress: JobProgress) -> None:
        """Do nothing: ``on_batch`` prints."""

    def close(self) -> None:
        """Print nothing."""

    def _print(self, line: str) -> None:
        print(f"mpnb: {line}", file=self._stream, flush=True)


# Fewer take a second or two.
MANY_ROWS = 250_000


class RowsLine:
    """
    A line of how many of many rows were looked at, redrawn on a terminal and in a cell. It is gone at the end.

    Args:
        what: what is looked at, in a word.
        stream: default: standard error.
    """

    def __init__(self, what: str, stream: TextIO | None = None) -> None:
        self._what = what
        self._stream = stream or sys.stderr
        self._bar: Any = None

    def __call__(self, done: int, total: int) -> None:
        """Redraw the line. Nothing is drawn in a pipe."""
        if self._bar is None:
            if done >= total or total < MANY_ROWS or not self._is_seen():
                return
            from tqdm import tqdm

            class Bar(tqdm):  # type: ignore[type-arg]
                monitor_interval = 0

            form = "{desc}: {n_fmt} of {total_fmt} events |{bar}| about {remaining} left"
            has_size = _has_size(self._stream)
            self._bar = Bar(
                desc=self._what, total=total, file=self._stream, leave=False, bar_format=form, unit_scale=False,
                dynamic_ncols=has_size, ncols=None if has_size else 80,
            )  # fmt: skip
        self._bar.n = done
        self._bar.refresh()
        if done >= total:
            self._bar.close()

    def _is_seen(self) -> bool:
        stream = self._stream
        if stream is None or getattr(stream, "closed", False):
            return False
        return _is_terminal(stream) or in_notebook()


class Silent:
    """No display: the caller has a callback, or there is nothing to print on."""

    def __init__(self, on_batch: Callable[[BatchProgress], object] | None = None) -> None:
        self._on_batch = on_batch

    def on_batch(self, progress: BatchProgress) -> None:
        """Call the callback, if there is one."""
        if self._on_batch is not None:
            self._on_batch(progress)

    def begin(self, job: Any) -> None:
        """Show nothing."""

    def tick(self, progress: JobProgress) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Print nothing."""


def _is_terminal(stream: TextIO) -> bool:
    """
    Whether a stream is a terminal on which a line can be redrawn, which those that say they are dumb cannot.

    GUI programs may replace it with an object that has no ``isatty``.
    """
    return bool(getattr(stream, "isatty", bool)()) and os.environ.get("TERM") != "dumb"


def _has_size(stream: TextIO) -> bool:
    try:
        return os.get_terminal_size(stream.fileno()).columns > 0
    except (OSError, ValueError, AttributeError):
        return False


def summary_line(progress: JobProgress, records: str = "events") -> str:
    """Return the progress of an export as one line."""
    parts = [f"{progress.rows:,} {records}", size(progress.bytes)]
    if progress.in_flight:
        parts.append(f"{progress.in_flight} in flight")
    if failed := progress.counts.get("failed"):
        parts.append(f"{failed} failed")
    if progress.waiting_until and not progress.in_flight and progress.waiting_until > epoch_seconds():
        parts.append(f"waiting until {clock(progress.waiting_until)}: {progress.waiting_for}")
    elif progress.seconds_left is not None:
        parts.append(f"about {duration(progress.seconds_left)} left")
    return ", ".join(parts)


def choose(stream: TextIO | None = None, records: str = "events") -> Progress:
    """
    Return the display that suits a notebook, if this is one, else the stream (default: standard error).

    A process without a terminal may have none: pythonw, a service, a window of its own.

    Args:
        records: what they are called.
    """
    if stream is None and (live := notebook_progress()) is not None:
        return live
    return lines(stream, records)


def lines(stream: TextIO | None = None, records: str = "events") -> Progress:
    """
    Return the display that suits a stream (default: standard error), a terminal or not.

    Args:
        records: what they are called.
    """
    stream = stream or sys.stderr
    if stream is None or getattr(stream, "closed", False):
        return Silent()
    return (TerminalLine if _is_terminal(stream) else PipeLines)(stream, records)
