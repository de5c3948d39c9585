"""The grid: one cell per batch, in one anywidget."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

import anywidget
from traitlets import Bytes, Dict, Unicode

from mpnb._notebook.panel import _frontend as frontend
from mpnb._notebook.panel._feed import Frame


class Grid(anywidget.AnyWidget):
    """
    A widget with the state of every batch, and buttons.

    Only the pump's thread writes its traits, and the browser none. What the browser says comes as messages:
    ``{"type": "cell", "index": i}`` asks for the details of a cell, ``{"type": "cancel"}`` and the like press a button
    and have a ``press`` of their own. Cancel comes twice where the front end can send on the kernel's control channel:
    at once, while a cell runs, too, in the thread of that channel, and after that cell.

    Attributes:
        key: by which the control channel names it.
        state: a byte a batch in date order: its place in ``STATUSES``, and 16 times its share of the largest batch's
            events, in fifteenths.
        days: a little-endian 32-bit number a batch: the first day, counted from 1970-01-01, and 65,536 times the days.
        info: the few counters and words around the cells.
    """

    _esm = frontend.module("grid.js")
    _css = frontend.STYLE
    key = Unicode().tag(sync=True)
    state = Bytes(b"").tag(sync=True)
    days = Bytes(b"").tag(sync=True)
    info = Dict().tag(sync=True)

    def __init__(self, frame: Frame, on_message: Callable[[dict[str, Any]], object]) -> None:
        super().__init__(key=secrets.token_hex(8), state=frame.state, days=frame.days, info=frame.info)
        self.hear = on_message
        self.on_msg(lambda _widget, content, _buffers: on_message(content))
        GRIDS[self.key] = self
        frontend.on_control("mpnb_press", hear_press)

    def paint(self, frame: Frame) -> None:
        """Show a frame: send one message with what changed, or none. Called in the pump's thread only."""
        with self.hold_sync():
            self.state, self.days, self.info = frame.state, frame.days, frame.info

    def __repr__(self) -> str:
        """Return a text without an address or a number, so that a notebook's output does not vary."""
        return "Grid()"


GRIDS: WeakValueDictionary[str, Grid] = WeakValueDictionary()


def hear_press(content: dict[str, Any]) -> None:
    """Hand a press that came on the control channel to its grid."""
    grid = GRIDS.get(str(content.pop("grid", "")))
    if grid is not None:
        grid.hear(content)
