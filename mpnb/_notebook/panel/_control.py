"""The control panel: ``mpnb.panel()``."""

from __future__ import annotations

import difflib
import inspect
import math
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import ipywidgets

from mpnb import _api as api
from mpnb._base.scalars import whole_number
from mpnb._errors import MpnbError
from mpnb._exporting.handles import ExportJob, ExportResult, Job, variable_of
from mpnb._exporting.profiles import ProfilesResult
from mpnb._message import said
from mpnb._notebook.panel import _frontend as frontend
from mpnb._notebook.panel import _login as login
from mpnb._notebook.panel._code import code_of
from mpnb._notebook.panel._explorer import Explorer
from mpnb._notebook.panel._feed import Frame, Info, Track, track_of
from mpnb._notebook.panel._follow import Follower
from mpnb._notebook.panel._form import Form, names_in
from mpnb._notebook.panel._kinds import EVENTS, planned
from mpnb._notebook.panel._labels import in_labels, place_of
from mpnb._notebook.panel._live import KEEP
from mpnb._notebook.panel._pump import pump
from mpnb._notebook.panel._screen import Screen, weakly
from mpnb._planning.address import address_of
from mpnb._planning.options import MAX_LATE_DAYS, memory_of
from mpnb._planning.request import check_helpers
from mpnb._planning.states import BatchProgress
from mpnb._storing.database import MEMORY

# Workers elsewhere are for code alone.
NAMES = tuple(name for name in inspect.signature(api.start).parameters if name != "executor")
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
        memory_of(given.get("memory"))
        if given.get("destination") is not None:
            address_of(given["destination"])
        self._credentials, info = login.found(self._given.get("credentials"))
        self._from_environment = "credentials" not in self._given and self._credentials is not None
        # While the form is open: what the fields say, and what that would take.
        self._editing = True
        self._kind = EVENTS
        self._asked: dict[str, Any] = {}
        self._plan: Any = None
        self._errors: dict[str, str] = {}
        self._twin: Panel | None = None
        self._names: Future[list[tuple[str, int]]] | None = None
        # From the start on: the latest export, with its retries, and what was asked for it.
        self._follower: Follower | None = None
        self._followed = (self._kind, self._asked)
        # After its end: the explorer of what it brought, the picture of the end, and what was seen last.
        self._explorer: Explorer | None = None
        self._ended_picture: dict[str, Any] = {}
        self._explored = ""
        # At all times: what is to be done next, and the thread that does it.
        self._changed = True
        self._starting = False
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="mpnb-panel")
        self._work: Future[Any] | None = None
        self._then: Callable[[Future[Any]], None] = self._on_plan
        self._screen = Screen(Frame(info={"phase": self._phase(), "actions": self._actions()}), self)
        self._form = Form(self._given, weakly(self._screen.signal))
        self._login = login.Login(info, weakly(self._screen.signal))
        self._box = ipywidgets.VBox([self._login, self._form.fields, self._screen.grid])
        self._box.add_class("mpnb-panel")
        pump.wake(self)

    # --- what a cell gets ----------------------------------------------------------------------------------------

    @property
    def job(self) -> Job[Any] | None:
        """Return the current or latest export, including retries; ``None`` before the first."""
        return self._follower.job if self._follower else None

    @property
    def track(self) -> Track | None:
        """Return the current or latest export with its retries."""
        return self._follower.track if self._follower else None

    @property
    def result(self) -> ExportResult | ProfilesResult:
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
        result: ExportResult | ProfilesResult = job.outcome()
        return result

    # --- the pump's thread ---------------------------------------------------------------------------------------

    def look_again(self) -> None:
        """Plan again, if the form is open: an export has started or ended. Any thread."""
        self._screen.signal({"type": "form"})

    def tick(self, now: float) -> float | None:
        """Process messages and the worker's results, and update the display."""
        for message in self._screen.messages():
            self._hear(message)
        if self._explored:
            explored, self._explored = self._explored, ""
            both = self._ended_picture.get("text/html", "") + explored
            self._screen.keep({**self._ended_picture, "text/html": both})
        if self._work is not None and self._work.done():
            work, self._work = self._work, None
            self._then(work)
        if self._names is not None and self._names.done():
            names, self._names = self._names, None
            self._form.suggest(names.result())
        if self._editing or self._follower is None:
            self._look_at_form()
            return now + LOOK_SECONDS if self._twin is not None else math.inf
        before = self._follower.has_ended
        due = self._follower.tick(now, self._words)
        if self._follower.has_ended and not before:
            self._on_end(self._follower)
        return None if self._screen.closed and due == math.inf else due

    def _hear(self, message: dict[str, Any]) -> None:
        buttons = {
            "start": self._start, "show": self._show_twin, "edit": self._edit, "new": self._new, "back": self._back,
            "close": self._screen.close, "explore": self._explore,
        }  # fmt: skip
        kind = message.get("type")
        enabled = any(kind == action["id"] and action["enabled"] for action in self._actions())
        if kind == "form":
            self._changed = True
        elif kind == "names":
            self._ask_for_names()
        elif kind == "login" and (self.job is None or self.job.done()):
            self._credentials, self._login.info = login.typed(message)
            self._from_environment = False
            self._changed = True
            if self._follower is not None:
                self._follower.credentials, self._follower.changed = self._credentials, True
        elif enabled and kind in buttons:
            self._changed = True
            buttons[kind]()
        elif self._follower is not None and not self._editing and (enabled or kind in ("cell", "retry_batch")):
            self._follower.hear(message)
            self._fold()

    def _submit(self, work: Callable[[], Any], then: Callable[[Future[Any]], None]) -> None:
        self._then = then
        self._work = self._worker.submit(work)
        self._work.add_done_callback(lambda _: pump.wake(self))

    def _actions(self) -> list[dict[str, Any]]:
        copy = {"id": "copy", "label": "Copy as code", "enabled": bool(self._asked) and not self._errors}
        follower = self._follower
        if self._editing or follower is None:
            ready = self._plan is not None or (bool(self._errors) and self._errors.keys() <= OUTSIDE)
            ready = ready and not self._starting and self._credentials is not None
            show = [{"id": "show", "label": "Show it", "enabled": True}] if self._twin is not None else []
            back = [{"id": "back", "label": "Back", "enabled": not self._starting}] if follower is not None else []
            start = {"id": "start", "label": "Start", "enabled": ready and not show, "look": "primary"}
            return [*show, start, *back, copy]
        actions = follower.actions()
        if not follower.has_ended:
            # Still there, and with the focus of whoever pressed it: a second Enter must not meet another button.
            return [{"id": "start", "label": "Start", "enabled": False}, *actions, copy]
        if self._screen.closed:
            return []
        cancel, *retry = actions
        edit: dict[str, Any] = {"id": "edit", "label": "Edit", "enabled": True}
        new: dict[str, Any] = {"id": "new", "label": "New export", "enabled": True}
        explore: dict[str, Any] = {"id": "explore", "label": "Explore", "enabled": True}
        is_explorable = isinstance(follower.job, ExportJob) and self._explorer is None
        see = [explore] if is_explorable and frontend.has_kernel() else []
        if not any(action["enabled"] for action in retry):  # what one does next
            (edit if retry else explore if see else new)["look"] = "primary"
        return [*retry, *see, edit, new, cancel, copy, {"id": "close", "label": "Close", "enabled": True}]

    def _words(self) -> Info:
        notes = [self._follower.note] if self._follower is not None and self._follower.note else []
        code = self._code(self._asked) if self._asked else ""
        keep = KEEP.format("panel.result") if self._follower is not None and self._follower.has_ended else ""
        return {"code": code, "notes": notes, "actions": self._actions(), "keep": keep}

    # --- while the form is open ----------------------------------------------------------------------------------

    def _look_at_form(self) -> None:
        if self._work is None and (self._changed or self._twin is not self._find_twin()):
            self._changed = False
            kind, asked, wrong = self._form.asked()
            # What has no field; a quota is that of the export API, and profiles come by another.
            takes = NAMES if kind is EVENTS else ("on_batch", "spool", "memory")
            passed = {name: value for name, value in self._given.items() if name in takes and name not in asked}
            if kind is not self._kind:
                self._plan, self._errors = None, {}
            self._kind, self._asked = kind, {**asked, **passed, "credentials": self._credentials}
            self._twin = self._find_twin()
            all_asked = self._asked
            self._submit(lambda: planned(kind, all_asked, wrong), self._on_plan)
        self._form.paint(self._errors, self._kind)
        words = {**self._words(), "phase": self._phase(), "keep": ""}
        actions = words.pop("actions")
        if self._twin is not None:
            words["notes"].append(
                "Another panel of this notebook is exporting into this table: “Show it” shows that here."
            )
        plan = self._plan
        frame = (
            Frame(info={"actions": actions, **words})
            if plan is None
            else self._kind.frame(plan, actions, face=in_labels, project_known=self._credentials is not None, **words)
        )
        self._screen.grid.paint(frame)

    def _phase(self) -> str:
        if self._starting:
            return "starting"
        if self._plan is None:
            return "form" if self._errors else "planning"
        return "login" if self._credentials is None else "idle"

    def _refuse(self, error: Exception) -> None:
        self._plan, self._starting, self._errors = None, False, {place_of(error): said(error, in_labels)}

    def _on_plan(self, work: Future[Any]) -> None:
        if not self._editing:
            return  # Back came first
        self._plan, self._errors = work.result()
        if self._plan is None:
            self._starting = False
        if self._starting and not self._changed:
            kind, asked = self._kind, self._asked
            self._submit(lambda: kind.start(**asked), self._on_start)

    def _start(self) -> None:
        # Planned once more before: a click may overtake the last letter that was typed.
        self._starting = True

    def _on_start(self, work: Future[Any]) -> None:
        self._starting = False
        try:
            job = work.result()
        except Exception as error:
            self._refuse(error)
            return
        self._follow(track_of(job))

    def _find_twin(self) -> Panel | None:
        """Return the panel that is exporting into this table, perhaps of this same cell before it was run again."""
        here = _table_of(self._asked)
        for other in pump.shown():
            if not isinstance(other, Panel) or other is self or other.job is None or other.job.done():
                continue
            if _table_of(other._asked) == here:
                return other
        return None

    def _show_twin(self) -> None:
        """Show the same export, with its retries."""
        if self._twin is not None and self._twin.track is not None:
            self._kind, self._asked = self._twin._kind, self._twin._asked
            self._credentials, self._from_environment = self._twin._credentials, self._twin._from_environment
            self._login.info = self._twin._login.info
            self._follow(self._twin.track)

    def _ask_for_names(self) -> None:
        if self._names is None and self._editing:
            database, table = self._asked.get("database"), self._asked.get("table")
            self._names = self._worker.submit(lambda: names_in(database, table))
            self._names.add_done_callback(lambda _: pump.wake(self))

    # --- from the start on ---------------------------------------------------------------------------------------

    def _follow(self, track: Track) -> None:
        self._follower = Follower(
            track,
            self._screen,
            lambda: pump.wake(self),
            face=in_labels,
            retry_code=self._retry_code,
            code_of=self._code_of,
        )
        self._editing, self._followed = False, (self._kind, self._asked)
        self._fold()

    def _fold(self) -> None:
        """Show as much of the form as there is use for."""
        ended = self._follower is not None and self._follower.has_ended
        self._form.fold("" if self._editing else self._kind.summed_up(self._asked))
        # After a failure, it may be the credentials that were wrong.
        is_of_use = self._editing or (ended and self._follower is not None and bool(self._follower.unmet))
        self._login.info = {**self._login.info, "hidden": not is_of_use}

    def _on_end(self, follower: Follower) -> None:
        if any(cell.kind == "auth" for cell in follower.unmet):
            self._login.info = login.refused(self._login.info)
        self._fold()

    def _edit(self) -> None:
        self._editing, self._plan, self._errors = True, None, {}
        self._explorer, self._explored = None, ""
        self._box.children = (self._login, self._form.fields, self._screen.grid)
        self._fold()

    def _explore(self) -> None:
        """Show the explorer of what is there, below; what is seen in it stays with the picture of the export."""
        assert self._follower is not None
        assert isinstance(self.job, ExportJob)
        self._follower.changed = True
        try:
            self._explorer = Explorer(self.job.outcome(), on_picture=weakly(self._on_explored))
        except MpnbError as error:  # the result was closed
            self._follower.note = said(error, in_labels)
            return
        self._ended_picture = dict(self._screen.picture)
        self._box.children = (self._login, self._form.fields, self._screen.grid, self._explorer.widget)

    def _on_explored(self, page: str) -> None:
        """Leave the explorer's picture for the pump. In the explorer's thread."""
        self._explored = page
        pump.wake(self)

    def _new(self) -> None:
        self._form.reset()
        self._edit()

    def _back(self) -> None:
        if self._follower is not None:
            self._editing, self._follower.changed = False, True
            self._kind, self._asked = self._followed  # and not what the fields say by now
            self._errors = {}
            self._fold()

    def _retry_code(self) -> tuple[str, str]:
        name = variable_of(self)
        return f"{self._kind.variable} = {name}.result.retry()" if name else "", self._kind.again

    def _code(self, asked: dict[str, Any]) -> str:
        return code_of(asked, from_environment=self._from_environment, kind=self._kind)

    def _code_of(self, cell: BatchProgress) -> str:
        if cell.page is not None:
            return ""  # a page is of no use by itself
        return self._code({**self._asked, "from_date": cell.from_date.isoformat(), "to_date": cell.to_date.isoformat()})

    # --- in words ------------------------------------------------------------------------------------------------

    def _ipython_display_(self) -> None:
        if frontend.has_kernel():
            self._screen.show(self._box, "mpnb: the control panel")
        else:
            print("The panel needs a notebook: mpnb.export() does the same without one.")

    def _display_(self) -> Any:  # marimo's hook
        import marimo

        return marimo.vstack([self._login, self._form.fields, self._screen.grid])

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
