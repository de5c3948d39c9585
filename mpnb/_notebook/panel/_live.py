"""A live display of a running export: ``job.panel()``, and ``mpnb.export()`` while it blocks a cell."""

from __future__ import annotations

import contextlib
import html
import logging
import math
import queue
import threading
import weakref
from collections.abc import Callable
from typing import Any

from mpnb._exporting.handles import ExportJob, variable_of
from mpnb._notebook.panel import _frontend as frontend
from mpnb._notebook.panel import _static as static
from mpnb._notebook.panel._feed import Frame, Track, detail
from mpnb._notebook.panel._grid import Grid
from mpnb._notebook.panel._pump import TICK_SECONDS, Shown, pump
from mpnb._planning.states import BatchProgress, JobProgress

# The Jupyter server drops messages over its rate limit without a word: what counts at the end is sent once more.
AGAIN_SECONDS = 3.0
# A page that was loaded meanwhile knows nothing of the output's id, so that it alone still shows the live grid then.
KEEP = "This page was loaded while the export ran, so it cannot keep this: show {} in a cell, and the notebook has it."
# How long a cell waits for its output to be swapped.
SWAP_SECONDS = 10.0

log = logging.getLogger("mpnb")
Message = dict[str, Any]


def weakly(method: Callable[..., object]) -> Callable[..., None]:
    """
    Return a function that calls a method as long as its object lives.

    Every widget stays in a registry for as long as the kernel runs. What it holds on to stays as well, and that must
    not be a result, with its database open and locked.
    """
    reference = weakref.WeakMethod(method)

    def call(*args: object) -> None:
        alive = reference()
        if alive is not None:
            alive(*args)

    return call


class Screen:
    """
    One grid in any number of outputs, all of which are replaced by static HTML at the end.

    The pump's thread alone calls it, but for ``signal`` and ``show``.

    Args:
        frame: what the grid shows first.
        owner: what the pump is to tick when something was said.
    """

    def __init__(self, frame: Frame, owner: Shown) -> None:
        self._owner = owner
        self.inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.grid = Grid(frame, weakly(self.signal))
        self._heard: set[str] = set()
        self._ids: list[str] = []

    def signal(self, message: Message) -> None:
        """Leave a message for the pump. Any thread may call it, even a click's: it does no work."""
        self.inbox.put(message)
        pump.wake(self._owner)

    def messages(self) -> list[Message]:
        """Return the messages since the last call, each press once, and tell the browser that it was heard."""
        taken = []
        with contextlib.suppress(queue.Empty):
            while True:
                message = self.inbox.get_nowait()
                if press := str(message.get("press", "")):
                    if press in self._heard:
                        continue
                    self._heard.add(press)
                    self.grid.send({"type": "heard", "press": press})
                taken.append(message)
        return taken

    def show(self, widget: Any, what: str) -> None:
        """Show a widget that holds the grid in the running cell, with a text for viewers without widgets."""
        text = f"{what}, live where a notebook shows widgets"
        bundle = widget._repr_mimebundle_()
        data: dict[str, Any] = bundle[0] if isinstance(bundle, tuple) else bundle
        self._ids.append(
            frontend.show({**data, "text/plain": text, "text/html": f"<pre>{html.escape(text)}</pre>"})
        )  # fmt: skip

    def answer(self, message: Message, cells: list[BatchProgress]) -> None:
        """Send the details of a cell that was asked for, as they are now."""
        index = message.get("index")
        if isinstance(index, int) and 0 <= index < len(cells):
            self.grid.send({"type": "cell", "index": index, **detail(cells[index])})

    def keep(self, what: str) -> list[str]:
        """Return a hint on how to keep the final output, for pages in which outputs cannot be replaced."""
        return [KEEP.format(what)] if self._ids else []

    def swap(self, bundle: dict[str, Any]) -> None:
        """Replace every output by its final version."""
        for display_id in self._ids:
            frontend.swap(display_id, bundle)


class JobPanel:
    """
    A live display of a job's batches, with a static version at its end. Returned by ``job.panel()``.

    Attributes:
        grid: the anywidget alone, for hosts that know only those.
        retry: the code that retries what failed, where it does not go by the variable that holds the job.
    """

    def __init__(self, job: ExportJob, retry: str = "") -> None:
        self.job = job
        self.retry = retry
        self._track = Track(job)
        self._cells: list[BatchProgress] = []
        self._seen: tuple[int, int] | None = None
        self._flush_at = math.inf
        self._bundle: dict[str, Any] = {}
        self.settled = threading.Event()  # the output is what stays, or cannot be made so
        self._screen = Screen(self._frame(), self)
        pump.wake(self)

    @property
    def grid(self) -> Grid:
        """Return the anywidget alone."""
        return self._screen.grid

    def _frame(self, *notes: str) -> Frame:
        self._seen = self._track.version
        self._cells = self._track.cells()
        running = not self.job.done() and not self.job.cancelled()
        actions = [{"id": "cancel", "label": "Cancel", "enabled": running}]
        return self._track.frame(self._cells, actions, notes=list(notes))

    def tick(self, now: float) -> float | None:
        """Update the display; at the end replace it, and once more a little later."""
        try:
            return self._tick(now)
        except BaseException:
            self.settled.set()
            raise

    def _tick(self, now: float) -> float | None:
        done = self.job.done()
        if self._track.version != self._seen or (done and not self._bundle):
            self.grid.paint(self._frame())
        for message in self._screen.messages():
            if message.get("type") == "cell":
                self._screen.answer(message, self._track.cells(clock=True))
            elif message.get("type") == "cancel":
                self.job.cancel()
                self._seen = None
        if not done:
            return now + TICK_SECONDS
        if not self._bundle:
            self._bundle = self._ended()
            self._screen.swap(self._bundle)
            self.settled.set()
            self._flush_at = now + AGAIN_SECONDS
        elif now >= self._flush_at:
            self._flush_at = math.inf
            self.grid.paint(self._frame(*self._screen.keep("the result")))
            self.grid.send_state("state")
            self._screen.swap(self._bundle)
        return self._flush_at if self._flush_at < math.inf else None

    def _ended(self) -> dict[str, Any]:
        name = variable_of(self.job)
        retry = self.retry or (f"result = {name}.outcome().retry()" if name else "")
        return static.ended(self._track, self._cells, retry=retry)

    def _ipython_display_(self) -> None:
        if self._bundle:
            frontend.show(self._bundle)
        elif frontend.has_kernel():
            self._screen.show(self.grid, f"mpnb: an export of {self.grid.info['title']}")
            if self._bundle:  # it ended just now
                self._screen.swap(self._bundle)
        else:
            print(repr(self))

    def __repr__(self) -> str:
        """Return the export's progress as text."""
        return f"<JobPanel of {self.job!r}>"


class CellPanel(JobPanel):
    """The display of an export that blocks its cell: no variable holds its result yet."""

    def __init__(self, job: ExportJob) -> None:
        super().__init__(job, frontend.retry_of(frontend.running_cell()))

    def _ended(self) -> dict[str, Any]:
        # Where the call raises, its result has no name.
        raises = self.job.cancelled() or not any(cell.status in ("done", "empty", "skipped") for cell in self._cells)
        retry = "" if raises else self.retry
        return static.ended(self._track, self._cells, retry=retry, otherwise="run the same call again")


class NotebookProgress:
    """The grid in a cell that ``mpnb.export()`` blocks. Its errors never make the export fail."""

    def __init__(self) -> None:
        self._panel: JobPanel | None = None

    def begin(self, job: ExportJob) -> None:
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
        if self._panel is not None and self._panel.job.done():
            self._panel.settled.wait(SWAP_SECONDS)
