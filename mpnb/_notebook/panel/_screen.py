"""One grid in any number of outputs, each with a static picture beside it for when nothing is live any more."""

from __future__ import annotations

import contextlib
import html
import queue
import weakref
from collections.abc import Callable
from typing import Any

from mpnb._notebook.panel import _frontend as frontend
from mpnb._notebook.panel._feed import Frame
from mpnb._notebook.panel._grid import Grid
from mpnb._notebook.panel._pump import Shown, pump

# What stands where a live output was. The style of a picture, in ``_static``, leaves no gap for it.
NOTHING = {"text/plain": "", "text/html": '<i class="mpnb-none"></i>'}

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
    One grid in any number of outputs.

    Each output is two: the live one, which no saved notebook keeps, and one with a static picture for those who see the
    notebook without its kernel. Where both can be seen, a style in grid.css hides the picture.

    The pump's thread alone calls it, but for ``signal`` and ``show``.

    Args:
        frame: what the grid shows first.
        owner: what the pump is to tick when something was said.
        ends: nothing is live after the end, so that the picture takes the place of the one output.
    """

    def __init__(self, frame: Frame, owner: Shown, *, ends: bool = False) -> None:
        self._owner = owner
        self._ends = ends
        self.inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.grid = Grid(frame, weakly(self.signal))
        self.picture: dict[str, Any] = {}
        self.closed = False  # whether the picture alone is left
        self._heard: set[str] = set()
        self._live_ids: list[str] = []
        self._picture_ids: list[str] = []

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
        """Show a widget that holds the grid in the running cell, and the picture or, before there is one, a text."""
        bundle = widget._repr_mimebundle_()
        live: dict[str, Any] = bundle[0] if isinstance(bundle, tuple) else bundle
        text = f"{what}, live where a notebook shows widgets"
        pending = {"text/plain": text, "text/html": f'<pre class="mpnb-pending">{html.escape(text)}</pre>'}
        before = self.picture
        if self._ends:
            self._picture_ids.append(frontend.show(before or {**live, **pending}))
        else:
            if not self.closed:
                self._live_ids.append(frontend.show({**live, **NOTHING}))
            self._picture_ids.append(frontend.show(before or pending))
        if self.picture is not before:  # it ended just now
            self.flush()

    def keep(self, picture: dict[str, Any]) -> None:
        """Make this the picture that stays."""
        self.picture = picture
        self._swap()

    def close(self) -> None:
        """Take the live outputs away: the picture alone stays."""
        self.closed = True
        self._swap()

    def flush(self) -> None:
        """Send everything once more."""
        self.grid.send_state({"state", "days", "info"})
        self._swap()

    def _swap(self) -> None:
        for display_id in self._live_ids if self.closed else ():
            frontend.swap(display_id, NOTHING)
        for display_id in self._picture_ids if self.picture else ():
            frontend.swap(display_id, self.picture)
