"""
The control panel and the live grid. What is here imports the widgets only when it is called.

    _frontend   is there a kernel, and how to show and to swap an output
    _feed       from the state of batches to bytes, counters and words
    _grid       the anywidget (grid.js, grid.css)
    _pump       the one thread that touches widgets
    _live       a running export with its grid: job.panel(), mpnb.export() in a notebook
    _form       the fields, and the call that they stand for
    _login      the anywidget that asks for credentials (login.js)
    _control    the control panel: mpnb.panel()
    _static     what stays in the notebook
"""

from __future__ import annotations

import sys
from typing import Any

from mpnb._exporting.handles import ExportJob
from mpnb._showing.live import Progress, register


def panel(job: ExportJob | None = None, **options: Any) -> Any:
    """
    Show the control panel: choose, see what it will take, start, watch each batch, stop, retry.

    It never blocks the kernel. ``panel.job`` is the export that runs or ran, ``panel.result`` what it brought.

    Args:
        job: shows the batches of this one instead, live, and at its end what stays. As many panels as one likes, and
            they agree; ``.grid`` of it is the anywidget alone, for hosts that know only those.
        options: arguments of ``mpnb.start()``, which fill the form in: ``from_date``, ``to_date``, ``events``,
            ``where``, ``database``, ``table``, ``workers``, ``chunk_days`` and ``mode``; the others are passed on.

    Raises:
        TypeError: there is no such argument; the message names the closest.
        PlanError: an argument cannot work that the form has no field for, or cannot show; the others show beside their
            fields what is wrong with them.
    """
    if job is not None:
        return WIDGETS.panel(job)
    from mpnb._notebook.panel._control import Panel

    return Panel(**options)


class Widgets:
    """A notebook's live displays. The widgets are imported with the first one."""

    def progress(self) -> Progress | None:
        """Return a live display for the running cell, or ``None`` if no front end of a kernel could show it."""
        if "ipykernel" not in sys.modules:
            return None
        from mpnb._notebook.panel._frontend import has_kernel
        from mpnb._notebook.panel._live import NotebookProgress

        return NotebookProgress() if has_kernel() else None

    def panel(self, job: Any) -> Any:
        """Return the panel of an ``ExportJob``."""
        from mpnb._notebook.panel._live import JobPanel

        return JobPanel(job)


WIDGETS = Widgets()
register(WIDGETS)
