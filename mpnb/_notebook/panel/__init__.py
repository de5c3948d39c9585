"""
The control panel and the live grid. The widgets are imported only when a function here is called.

    _frontend   whether there is a kernel; show an output and replace it
    _feed       from the state of batches to bytes, counters and words
    _grid       the anywidget (grid.js, grid.css)
    _pump       the one thread that updates widgets
    _screen     one grid in any number of outputs, each with a picture that stays
    _follow     an export with its retries on a screen: job.panel() and the control panel show the same
    _live       a running export with its grid: job.panel(), mpnb.export() in a notebook
    _form       the fields (form.js), and their values as arguments of a call
    _kinds      what a panel exports, events or profiles
    _login      the anywidget that asks for credentials (login.js)
    _control    the control panel: mpnb.panel()
    _explorer   the explorer: mpnb.explore(), its controls (explorer.js)
    _asking     what can be chosen there, and the calls that it stands for
    _static     the output that stays in the notebook
"""

from __future__ import annotations

import sys
from typing import Any

from mpnb._base.optional import is_there, need
from mpnb._exporting.handles import ExportJob, ExportResult
from mpnb._exporting.profiles import ProfilesJob
from mpnb._showing.live import Progress, register

WIDGET_PACKAGES = ("IPython", "ipywidgets", "anywidget")


def panel(job: ExportJob | ProfilesJob | None = None, **options: Any) -> Any:
    """
    Show the control panel, a form to plan, start, watch, stop and retry an export of events, or of profiles.

    It never blocks the kernel. ``panel.job`` is the current or latest export, ``panel.result`` its result.

    Args:
        job: if given, show the batches of this job instead, live, and a static summary once it has ended. A job can
            have any number of panels, which show the same. The panel's ``.grid`` is the anywidget alone, for hosts that
            show only anywidgets.
        options: arguments of ``mpnb.start()``. ``from_date``, ``to_date``, ``events``, ``where``, ``database``,
            ``table``, ``workers``, ``chunk_days`` and ``mode`` fill in the form; the others are passed on. Of these,
            profiles take ``database``, ``on_batch``, ``credentials``, ``spool`` and ``memory``.

    Raises:
        TypeError: there is no such argument; the message suggests the closest one.
        MissingPackageError: IPython, ipywidgets or anywidget is not installed.
        PlanError: an argument is invalid that the form has no field for, or cannot show. Other invalid arguments are
            explained next to their fields.
    """
    for package in WIDGET_PACKAGES:
        need(package, "panel()")
    if job is not None:
        return WIDGETS.panel(job)
    from mpnb._notebook.panel._control import Panel

    return Panel(**options)


def explore(result: ExportResult | ExportJob, event: str | None = None) -> Any:
    """
    Show an explorer of events: choose an event, a measure, a breakdown, a filter, days and a report, and see a picture.

    "Copy as code" gives the calls of ``mpnb.analysis`` that return the same numbers. ``.code``, ``.relation`` and
    ``.picture`` of the explorer are what it shows. Each answer is also kept as a static picture in the notebook. It
    only reads, but for the columns that a button of its offers to make.

    Args:
        result: what ``mpnb.export()`` or ``mpnb.open()`` returned, or a job: while that runs, what lands is drawn.
        event: the event to begin with; default: all.

    Raises:
        MissingPackageError: IPython, ipywidgets or anywidget is not installed.
        PlanError: it is neither, or there is no such event.
        ClosedError: the result was closed.
    """
    for package in WIDGET_PACKAGES:
        need(package, "explore()")
    from mpnb._notebook.panel._explorer import Explorer

    return Explorer(result, event)


class Widgets:
    """A notebook's live displays, as ``mpnb._showing.live`` knows them. The widgets are imported with the first one."""

    def progress(self) -> Progress | None:
        """Return a live display for the running cell, or ``None`` if no front end of a kernel could show it."""
        if "ipykernel" not in sys.modules or not all(map(is_there, WIDGET_PACKAGES)):
            return None
        from mpnb._notebook.panel._frontend import has_kernel
        from mpnb._notebook.panel._live import NotebookProgress

        return NotebookProgress() if has_kernel() else None

    def panel(self, job: Any) -> Any:
        """Return the panel of a job."""
        from mpnb._notebook.panel._live import JobPanel

        return JobPanel(job)

    def show(self, job: Any) -> bool:
        """Show a job in the running cell, once in a cell."""
        from mpnb._notebook.panel._frontend import has_kernel, has_shown

        if not has_kernel():
            return False
        if not has_shown(job):
            self.panel(job)._ipython_display_()
        return True

    def has_shown(self, thing: object) -> bool:
        """Whether the running cell shows a result, or a job, already."""
        from mpnb._notebook.panel._frontend import has_shown

        return has_shown(thing)

    def changed(self) -> None:
        """Let the panels plan again whose form is open."""
        from mpnb._notebook.panel._pump import pump

        for shown in pump.shown():
            if look_again := getattr(shown, "look_again", None):
                look_again()


WIDGETS = Widgets()
register(WIDGETS)
