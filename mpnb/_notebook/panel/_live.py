"""A live display of a running export: ``job.panel()``, and ``mpnb.export()`` while it blocks a cell."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
from typing import Any

from mpnb._exporting.handles import Job, terms_of, variable_of
from mpnb._notebook.panel import _frontend as frontend
from mpnb._notebook.panel._feed import Frame, Info, Track, title_of, track_of
from mpnb._notebook.panel._follow import Follower
from mpnb._notebook.panel._grid import Grid
from mpnb._notebook.panel._pump import pump
from mpnb._notebook.panel._screen import Screen
from mpnb._planning.states import BatchProgress, JobProgress
from mpnb._showing.summary import UNNAMED

# What a page says that was loaded while an export ran: it knows nothing of the outputs' ids.
KEEP = "This page was loaded while the export ran, so it cannot keep this: show {} in a cell, and the notebook has it."
# How long a cell waits for its output to be swapped.
SWAP_SECONDS = 10.0

log = logging.getLogger("mpnb")


class JobPanel:
    """
    A live display of a job's batches, with a static picture at its end. Returned by ``job.panel()``.

    Attributes:
        grid: the anywidget alone, for hosts that know only those.
        retry: the code that retries what failed, where it does not go by the variable that holds the job.
    """

    def __init__(self, job: Job[Any], retry: str = "", *, ends: bool = False) -> None:
        self.job = job
        self.retry = retry
        self._ends = ends
        self.settled = threading.Event()  # the output is what stays, or cannot be made so
        actions = [{"id": "cancel", "label": "Cancel", "enabled": not job.done()}]
        self._screen = Screen(Frame(info={"phase": "running", "actions": actions}), self, ends=ends)
        self._follower = Follower(track_of(job), self._screen, lambda: pump.wake(self), retry_code=self._retry_code)
        pump.wake(self)

    @property
    def grid(self) -> Grid:
        """Return the anywidget alone."""
        return self._screen.grid

    @property
    def track(self) -> Track:
        """Return the export and its retries."""
        return self._follower.track

    def tick(self, now: float) -> float | None:
        """Update the display; at the end replace it, and once more a little later."""
        try:
            for message in self._screen.messages():
                self._follower.hear(message)
            due = self._follower.tick(now, self._words)
            if self._follower.has_ended and not self.settled.is_set():
                if not self._follower.unmet or self._ends:
                    self._screen.close()
                self.settled.set()
            return None if self._screen.closed and due == math.inf else due
        except BaseException:
            self.settled.set()
            raise

    def _words(self) -> Info:
        return {
            "actions": self._follower.actions(),
            "notes": [self._follower.note] if self._follower.note else [],
            "keep": KEEP.format("the result") if self._follower.has_ended else "",
        }

    def _retry_code(self) -> tuple[str, str]:
        name = variable_of(self.job)
        return self.retry or (f"result = {name}.outcome().retry()" if name else ""), UNNAMED

    def _ipython_display_(self) -> None:
        if frontend.has_kernel():
            self._screen.show(self.grid, f"mpnb: an export of {_title(self.job)}")
            frontend.remember_shown(self.job)
        else:
            print(repr(self))

    def _display_(self) -> Grid:  # marimo's hook
        return self.grid

    def __repr__(self) -> str:
        """Return the export's progress as text."""
        return f"<JobPanel of {self.job!r}>"


class CellPanel(JobPanel):
    """The display of an export that blocks its cell: no variable holds its result yet."""

    def __init__(self, job: Job[Any]) -> None:
        super().__init__(job, frontend.retry_of(frontend.running_cell()), ends=True)

    def _retry_code(self) -> tuple[str, str]:
        # Where the call raises, its result has no name: pages are of no use but all together.
        ended = [cell for cell in self._follower.cells if cell.status in ("done", "empty", "skipped")]
        in_vain = not ended or any(cell.page is not None for cell in self._follower.unmet)
        raises = self.job.cancelled() or in_vain
        return "" if raises else self.retry, "run the same call again"


class NotebookProgress:
    """The grid in a cell that ``mpnb.export()`` blocks. Its errors never make the export fail."""

    def __init__(self) -> None:
        self._panel: JobPanel | None = None

    def begin(self, job: Job[Any]) -> None:
        """Show the grid."""
        try:
            self._panel = CellPanel(job)
            self._panel._ipython_display_()
        except Exception:
            log.exception("the grid cannot be shown")

    def on_batch(self, progress: BatchProgress) -> None:
        """Do nothing: the pump updates the display."""

    def tick(self, progress: JobProgress) -> None:
        """Do nothing: the pump updates the display."""

    def close(self) -> None:
        """Wait until the output is the one that stays in the notebook."""
        if self._panel is None or not self._panel.job.done():
            return
        self._panel.settled.wait(SWAP_SECONDS)
        if self._panel._screen.picture:
            with contextlib.suppress(Exception):  # there is no result of an export whose database was lost
                frontend.remember_shown(self._panel.job.outcome())


def _title(job: Job[Any]) -> str:
    return title_of(job.batches(clock=False), terms_of(job)) or "no days"
