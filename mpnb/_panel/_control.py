"""The control panel: ``mpnb.panel()``."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import ipywidgets

from mpnb import _api as api
from mpnb._board import BatchProgress
from mpnb._errors import MpnbError, PlanError
from mpnb._job import ExportJob
from mpnb._panel import _frontend as frontend
from mpnb._panel import _login as login
from mpnb._panel import _static as static
from mpnb._panel._code import code_of
from mpnb._panel._feed import UNMET, Frame, Track, plan_frame
from mpnb._panel._form import Form, place_of
from mpnb._panel._live import AGAIN_SECONDS, Screen
from mpnb._panel._pump import TICK_SECONDS, pump
from mpnb._plan import ExportPlan
from mpnb._result import ExportResult

NAMES = tuple(inspect.signature(api.start).parameters)


class Panel:
    """
    Drive an export from a notebook. Made by ``mpnb.panel()``, which tells of its arguments.

    Any thread may read ``job`` and ``result``. All that happens on the screen happens in the pump's thread; planning,
    starting and retrying, which read the database, in a thread of the panel's own; the kernel is never blocked.
    """

    def __init__(self, **options: Any) -> None:
        for name in options:
            if name not in NAMES:
                close = difflib.get_close_matches(name, NAMES, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"it takes {', '.join(NAMES)}"
                raise TypeError(f"panel() has no argument {name!r}: {hint}")
        self._given = {name: value for name, value in options.items() if value is not None}
        self._credentials, said = login.found(self._given.get("credentials"))
        self._from_environment = "credentials" not in self._given and self._credentials is not None
        self._track: Track | None = None
        self._cells: list[BatchProgress] = []
        self._seen: tuple[int, int] | None = None
        self._result: ExportResult | None = None
        self._plan: ExportPlan | None = None
        self._asked: dict[str, Any] = {}
        self._errors: dict[str, str] = {}
        self._note = ""
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="mpnb-panel")
        self._work: Future[Any] | None = None
        self._then: Callable[[Future[Any]], None] = self._on_plan
        self._changed = True
        self._flush_at = math.inf
        self._bundle: dict[str, Any] | None = None
        self._screen = Screen(Frame(info={"phase": "idle", "actions": self._actions()}))
        self._form = Form(self._given, lambda: self._screen.signal({"type": "form"}))
        self._login = login.Login(said, self._screen.signal)
        self._box = ipywidgets.VBox([self._login, self._form.box, self._screen.grid])
        self._box.add_class("mpnb-panel")
        pump.add(self)

    # --- what a cell gets ----------------------------------------------------------------------------------------

    @property
    def job(self) -> ExportJob | None:
        """Give the export that runs or ran last, a retry included; ``None`` before the first."""
        return self._track.job if self._track else None

    @property
    def result(self) -> ExportResult:
        """
        Give what the last export or retry brought.

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
        """Hear what was clicked, take what the worker did, and bring the screen up to date."""
        for message in self._screen.messages():
            self._hear(message)
        if self._work is not None and self._work.done():
            work, self._work = self._work, None
            self._then(work)
        if self._track is None:
            self._tick_form()
            return math.inf
        self._tick_job(self._track, now)
        if now >= self._flush_at:
            self._flush_at = math.inf
            self._screen.grid.send_state()
            if self._bundle is not None:
                self._screen.swap(self._bundle)
                self._worker.shutdown(wait=False)
                return None
        return self._flush_at if self._track.job.done() else now + TICK_SECONDS

    def _hear(self, message: dict[str, Any]) -> None:
        kind = message.get("type")
        if kind == "cell":
            self._screen.answer(message, self._cells)
        elif kind == "form":
            self._changed = True
        elif kind == "login" and self._track is None:
            self._credentials, self._login.info = login.typed(message)
            self._from_environment = False
            self._changed = True
        elif any(kind == action["id"] and action["enabled"] for action in self._actions()):
            {"start": self._start, "cancel": self._cancel, "retry": self._retry, "close": self._close}[str(kind)]()

    def _submit(self, work: Callable[[], Any], then: Callable[[Future[Any]], None]) -> None:
        self._then = then
        self._work = self._worker.submit(work)
        self._work.add_done_callback(lambda _: pump.wake())

    def _actions(self) -> list[dict[str, Any]]:
        job = self.job
        busy = self._work is not None and self._then != self._on_plan
        ended = job is not None and job.done() and not busy
        unmet = sum(cell.status in UNMET for cell in self._cells) if ended else 0
        ready = job is None and not busy and self._plan is not None and self._credentials is not None
        return [
            {"id": "start", "label": "Start", "enabled": ready and not self._errors, "look": "primary"},
            {"id": "cancel", "label": "Cancel", "enabled": job is not None and not job.done() and not job.cancelled()},
            {"id": "retry", "label": f"Retry failed ({unmet:,})" if unmet else "Retry failed", "enabled": unmet > 0},
            {"id": "copy", "label": "Copy as code", "enabled": bool(self._asked)},
            {"id": "close", "label": "Close", "enabled": ended},
        ]

    def _more(self) -> dict[str, Any]:
        code = code_of(self._asked, from_environment=self._from_environment) if self._asked else ""
        return {"code": code, "notes": [self._note] if self._note else []}

    # --- before the start ----------------------------------------------------------------------------------------

    def _tick_form(self) -> None:
        if self._changed and self._work is None:
            self._changed = False
            try:
                self._asked = self._form.asked()
            except PlanError as error:
                self._asked, self._plan = {}, None
                self._errors = {place_of(error): str(error)}
            else:
                passed = {name: value for name, value in self._given.items() if name not in self._asked}
                self._asked |= passed | {"credentials": self._credentials}
                asked = dict(self._asked)
                self._submit(lambda: api.plan(**asked), self._on_plan)
        self._form.paint(self._errors)
        starting = self._work is not None and self._then != self._on_plan
        phase = {"phase": "starting" if starting else "idle"}
        if self._plan is None:
            frame = Frame(info={**phase, "actions": self._actions(), **self._more()})
        else:
            frame = plan_frame(self._plan, self._actions())
            notes = [*frame.info["notes"], *self._more().pop("notes")]
            frame = plan_frame(self._plan, self._actions(), **phase, **{**self._more(), "notes": notes})
        self._screen.grid.paint(frame)

    def _on_plan(self, work: Future[Any]) -> None:
        try:
            self._plan, self._errors = work.result(), {}
        except PlanError as error:
            self._plan, self._errors = None, {place_of(error): str(error)}

    def _start(self) -> None:
        asked = dict(self._asked)
        self._submit(lambda: api.start(**asked), self._on_start)

    def _on_start(self, work: Future[Any]) -> None:
        try:
            self._track = Track(work.result())
        except PlanError as error:
            self._errors = {place_of(error): str(error)}
            return
        self._login.layout.display = self._form.box.layout.display = "none"

    # --- after the start -----------------------------------------------------------------------------------------

    def _tick_job(self, track: Track, now: float) -> None:
        ended = track.job.done() and self._result is None
        if track.version != self._seen or ended or self._changed:
            self._seen, self._changed = track.version, False
            self._cells = track.cells()
            if ended:
                self._end(track, now)
            self._screen.grid.paint(track.frame(self._cells, self._actions(), **self._more()))

    def _end(self, track: Track, now: float) -> None:
        self._flush_at = now + AGAIN_SECONDS
        try:
            self._result = track.job.outcome()
        except Exception as error:
            self._note = f"The export ended with an error: {type(error).__name__}: {error}"
            return
        if not self._result.has_failures:
            self._close()

    def _cancel(self) -> None:
        if self._track is not None:
            self._track.job.cancel()
            self._changed = True

    def _retry(self) -> None:
        result, credentials = self._result, self._credentials
        if result is not None:
            self._note = ""
            self._submit(lambda: result.start_retry(credentials=credentials), self._on_retry)
            self._changed = True

    def _on_retry(self, work: Future[Any]) -> None:
        self._changed = True
        try:
            job = work.result()
        except MpnbError as error:
            self._note = str(error)
            return
        if self._track is not None:
            self._track.go_on(job)
            self._result = None

    def _close(self) -> None:
        if self._track is not None:
            self._bundle = static.ended(self._track.job, self._cells, retry="result = panel.result.retry()")
            self._screen.swap(self._bundle)

    # --- in words ------------------------------------------------------------------------------------------------

    def _ipython_display_(self) -> None:
        if self._bundle is not None:
            frontend.show(self._bundle)
        elif frontend.has_kernel():
            self._screen.show(self._box, repr(self))
        else:
            print("The panel needs a notebook: mpnb.export() does the same without one.")

    def __repr__(self) -> str:
        """Say how far it is."""
        return f"<mpnb panel: {self.job!r}>" if self.job else "<mpnb panel: nothing started yet>"
