"""The control panel: ``mpnb.panel()``."""

from __future__ import annotations

import difflib
import inspect
import math
import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal

import ipywidgets

from mpnb import _api as api
from mpnb._base.scalars import whole_number
from mpnb._errors import MpnbError
from mpnb._exporting.handles import ExportJob, ExportResult, variable_of
from mpnb._message import said
from mpnb._notebook.panel import _frontend as frontend
from mpnb._notebook.panel import _login as login
from mpnb._notebook.panel import _static as static
from mpnb._notebook.panel._code import code_of
from mpnb._notebook.panel._feed import UNMET, Frame, Track, plan_frame
from mpnb._notebook.panel._form import Form, planned
from mpnb._notebook.panel._labels import in_labels, place_of
from mpnb._notebook.panel._live import AGAIN_SECONDS, Screen, weakly
from mpnb._notebook.panel._pump import TICK_SECONDS, pump
from mpnb._planning.options import MAX_LATE_DAYS
from mpnb._planning.plan import ExportPlan
from mpnb._planning.request import check_helpers
from mpnb._planning.states import BatchProgress
from mpnb._storing.database import MEMORY

NAMES = tuple(inspect.signature(api.start).parameters)
# Where an error may be gone without a change of the form: the same is tried once more by Start.
OUTSIDE = frozenset({"database", "table", "form"})
LOOK_SECONDS = 1.0


class Panel:
    """
    The control panel, returned by ``mpnb.panel()``, whose docstring explains its arguments.

    Any thread may read ``job`` and ``result``. All that happens on the screen happens in the pump's thread; planning,
    starting and retrying, which read the database, in a thread of the panel's own; the kernel is never blocked.
    """

    def __init__(self, **options: Any) -> None:
        for name in options:
            if name not in NAMES:
                close = difflib.get_close_matches(name, NAMES, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"it takes {', '.join(NAMES)}"
                raise TypeError(f"panel() has no argument {name!r}: {hint}")
        self._given = given = {name: value for name, value in options.items() if value is not None}
        # What a field can hold stands there, right or wrong, for a person to change it.
        check_helpers(**{name: given.get(name) for name in ("on_batch", "credentials", "quota", "spool")})
        whole_number("late_days", given.get("late_days", 0), 0, MAX_LATE_DAYS)
        self._credentials, info = login.found(self._given.get("credentials"))
        self._from_environment = "credentials" not in self._given and self._credentials is not None
        # Before the start: what the fields say, and what that would take.
        self._asked: dict[str, Any] = {}
        self._plan: ExportPlan | None = None
        self._errors: dict[str, str] = {}
        self._twin: Panel | None = None
        # After it: the export with its retries, and their batches as they were when last looked at.
        self._track: Track | None = None
        self._cells: list[BatchProgress] = []
        self._seen: tuple[int, int] | None = None
        self._ended: ExportJob | None = None
        self._note = ""
        self._bundle: dict[str, Any] | None = None
        self._flush_at = math.inf
        # At all times: what is to be done next, and the thread that does it.
        self._changed = True
        self._busy: Literal["", "start", "retry"] = ""
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="mpnb-panel")
        self._work: Future[Any] | None = None
        self._then: Callable[[Future[Any]], None] = self._on_plan
        self._screen = Screen(Frame(info={"phase": self._phase(), "actions": self._actions()}), self)
        self._form = Form(self._given, weakly(self._on_form))
        self._login = login.Login(info, weakly(self._screen.signal))
        self._box = ipywidgets.VBox([self._login, self._form.box, self._screen.grid])
        self._box.add_class("mpnb-panel")
        pump.wake(self)

    # --- what a cell gets ----------------------------------------------------------------------------------------

    @property
    def job(self) -> ExportJob | None:
        """Return the current or latest export, including retries; ``None`` before the first."""
        return self._track.job if self._track else None

    @property
    def result(self) -> ExportResult:
        """
        Return the result of the latest export or retry.

        Raises:
            MpnbError: there is none yet; the message says what to do.
        """
        job = self.job
        if job is None:
            raise MpnbError("nothing was exported yet: press Start in the panel")
        if not job.done():
            raise MpnbError("the export is running: wait until it is done, or let a cell wait with panel.job.result()")
        return job.outcome()

    # --- the pump's thread ---------------------------------------------------------------------------------------

    def tick(self, now: float) -> float | None:
        """Process messages and the worker's results, and update the display."""
        for message in self._screen.messages():
            self._hear(message)
        if self._work is not None and self._work.done():
            work, self._work = self._work, None
            self._then(work)
        if self._track is None:
            self._look_at_form()
            return now + LOOK_SECONDS if self._twin is not None else math.inf
        self._look_at_job(self._track)
        if now >= self._flush_at:
            self._flush_at = math.inf
            self._screen.grid.send_state("state")
            if self._bundle is not None:
                self._note = " ".join(self._screen.keep("panel.result"))
                self._screen.grid.paint(self._track.frame(self._cells, self._actions(), **self._words()))
                self._screen.swap(self._bundle)
                self._worker.shutdown(wait=False)
        if not self._track.job.done():
            return now + TICK_SECONDS
        return None if self._bundle is not None and self._flush_at == math.inf else self._flush_at

    def _hear(self, message: dict[str, Any]) -> None:
        buttons = {
            "start": self._start, "show": self._show_twin, "cancel": self._cancel, "retry": self._retry,
            "close": self._close,
        }  # fmt: skip
        kind = message.get("type")
        if kind == "cell":
            self._screen.answer(message, self._track.cells(clock=True) if self._track else [])
        elif kind == "form":
            self._changed = True
        elif kind == "login" and (self.job is None or self.job.done()):
            self._credentials, self._login.info = login.typed(message)
            self._from_environment = False
            self._changed = True
        elif any(kind == action["id"] and action["enabled"] for action in self._actions()) and kind in buttons:
            self._changed = True
            buttons[kind]()

    def _on_form(self) -> None:
        self._screen.signal({"type": "form"})

    def _submit(self, work: Callable[[], Any], then: Callable[[Future[Any]], None]) -> None:
        self._then = then
        self._work = self._worker.submit(work)
        self._work.add_done_callback(lambda _: pump.wake(self))

    def _actions(self) -> list[dict[str, Any]]:
        job = self.job
        ended = job is not None and job.done() and not self._busy and self._bundle is None
        running = job is not None and not job.done()
        ready = self._plan is not None or (bool(self._errors) and self._errors.keys() <= OUTSIDE)
        ready = ready and job is None and not self._busy and self._credentials is not None
        unmet = sum(cell.status in UNMET for cell in self._cells) if ended else 0
        show = [{"id": "show", "label": "Show it", "enabled": True}] if self._twin is not None else []
        return [
            *show,
            {"id": "start", "label": "Start", "enabled": ready and not show, "look": "primary"},
            {"id": "cancel", "label": "Cancel", "enabled": running and job is not None and not job.cancelled()},
            {"id": "retry", "label": f"Retry failed ({unmet:,})" if unmet else "Retry failed", "enabled": unmet > 0},
            {"id": "copy", "label": "Copy as code", "enabled": bool(self._asked) and not self._errors},
            {"id": "close", "label": "Close", "enabled": ended},
        ]

    def _words(self) -> dict[str, Any]:
        code = code_of(self._asked, from_environment=self._from_environment) if self._asked else ""
        return {"code": code, "notes": [self._note] if self._note else []}

    # --- before the start ----------------------------------------------------------------------------------------

    def _look_at_form(self) -> None:
        if self._work is None and (self._changed or self._twin is not self._find_twin()):
            self._changed = False
            asked, wrong = self._form.asked()
            passed = {name: value for name, value in self._given.items() if name not in asked}
            self._asked = asked = {**asked, **passed, "credentials": self._credentials}
            self._twin = self._find_twin()
            self._submit(lambda: planned(asked, wrong), self._on_plan)
        self._form.paint(self._errors)
        words = self._words()
        if self._twin is not None:
            words["notes"].append(
                "Another panel of this notebook is exporting into this table: “Show it” shows that here."
            )
        more = {"phase": self._phase(), **words}
        plan = self._plan
        frame = (
            Frame(info={"actions": self._actions(), **more})
            if plan is None
            else plan_frame(plan, self._actions(), face=in_labels, project_known=self._credentials is not None, **more)
        )
        self._screen.grid.paint(frame)

    def _phase(self) -> str:
        if self._busy:
            return "starting"
        if self._plan is None:
            return "form" if self._errors else "planning"
        return "login" if self._credentials is None else "idle"

    def _refuse(self, error: Exception) -> None:
        self._plan, self._busy, self._errors = None, "", {place_of(error): said(error, in_labels)}

    def _on_plan(self, work: Future[Any]) -> None:
        self._plan, self._errors = work.result()
        if self._plan is None:
            self._busy = ""
        if self._busy and not self._changed:
            asked = self._asked
            self._submit(lambda: api.start(**asked), self._on_start)

    def _start(self) -> None:
        # Planned once more before: a click may overtake the last letter that was typed.
        self._busy = "start"

    def _on_start(self, work: Future[Any]) -> None:
        self._busy = ""
        try:
            self._track = Track(work.result(), in_labels)
        except Exception as error:
            self._refuse(error)
            return
        self._login.layout.display = self._form.box.layout.display = "none"

    def _find_twin(self) -> Panel | None:
        """Return the panel that is exporting into this table, perhaps of this same cell before it was run again."""
        here = _table_of(self._asked)
        for other in pump.shown():
            if isinstance(other, Panel) and other.job and not other.job.done() and _table_of(other._asked) == here:
                return other
        return None

    def _show_twin(self) -> None:
        """Show the same export, with its retries."""
        if self._twin is not None:
            self._track, self._asked = self._twin._track, self._twin._asked
            self._credentials, self._from_environment = self._twin._credentials, self._twin._from_environment
            self._login.info = self._twin._login.info
            self._login.layout.display = self._form.box.layout.display = "none"

    # --- after the start -----------------------------------------------------------------------------------------

    def _look_at_job(self, track: Track) -> None:
        ends = track.job.done() and self._ended is not track.job
        if track.version == self._seen and not ends and not self._changed:
            return
        self._seen, self._changed = track.version, False
        self._cells = track.cells()
        if ends:
            self._ended = track.job
            self._end(track)
        self._screen.grid.paint(track.frame(self._cells, self._actions(), **self._words()))

    def _end(self, track: Track) -> None:
        self._flush_at = time.monotonic() + AGAIN_SECONDS
        try:
            missing = track.job.outcome().has_failures
        except Exception as error:
            self._note = f"The export ended with an error: {type(error).__name__}: {error}"
            return
        if missing:
            self._login.layout.display = None  # it may be the credentials that were wrong
            if any(cell.kind == "auth" for cell in self._cells):
                self._login.info = login.refused(self._login.info)
        else:
            self._close()

    def _cancel(self) -> None:
        if self._track is not None:
            self._track.job.cancel()

    def _retry(self) -> None:
        self._busy, self._note = "retry", ""
        credentials = self._credentials
        self._submit(lambda: self.result.start_retry(credentials=credentials), self._on_retry)

    def _on_retry(self, work: Future[Any]) -> None:
        self._busy, self._changed = "", True
        try:
            job = work.result()
        except Exception as error:
            self._note = said(error, in_labels)
            return
        if self._track is not None:
            self._track.go_on(job)
            for other in pump.shown():
                if isinstance(other, Panel) and other._track is self._track:
                    pump.wake(other)
            self._login.layout.display = "none"

    def _close(self) -> None:
        if self._track is not None:
            name = variable_of(self)
            retry = f"result = {name}.result.retry()" if name else ""
            self._bundle = static.ended(self._track, self._cells, retry=retry, otherwise="export the same days again")
            self._screen.swap(self._bundle)
            self._flush_at = time.monotonic() + AGAIN_SECONDS

    # --- in words ------------------------------------------------------------------------------------------------

    def _ipython_display_(self) -> None:
        if self._bundle is not None:
            frontend.show(self._bundle)
        elif frontend.has_kernel():
            self._screen.show(self._box, "mpnb: the control panel")
        else:
            print("The panel needs a notebook: mpnb.export() does the same without one.")

    def __repr__(self) -> str:
        """Return the export's progress as text."""
        return f"<mpnb panel: {self.job!r}>" if self.job else "<mpnb panel: nothing started yet>"


def _table_of(asked: dict[str, Any]) -> object:
    """Return a key that is the same for two panels that export into the same table."""
    database = asked.get("database")
    if isinstance(database, str) and database == MEMORY:
        return object()  # each of them is another one
    where: object = id(database)
    if isinstance(database, str | os.PathLike):
        where = os.path.realpath(os.path.expanduser(database))
    return where, str(asked.get("table")).lower()
