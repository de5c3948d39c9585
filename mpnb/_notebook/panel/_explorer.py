"""The explorer: ``mpnb.explore()``."""

from __future__ import annotations

import contextlib
import html
import logging
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import anywidget
import duckdb
from duckdb import DuckDBPyConnection, DuckDBPyRelation
from traitlets import Dict

from mpnb._base.names import closest
from mpnb._base.pictures import Picture
from mpnb._base.relation import IS_1
from mpnb._base.scalars import brief
from mpnb._base.sql import run
from mpnb._base.text import safe_text
from mpnb._errors import ClosedError, MpnbError, PlanError
from mpnb._exporting.handles import ExportJob, ExportResult, reader_of, variable_of
from mpnb._message import said
from mpnb._notebook.panel import _asking as asking
from mpnb._notebook.panel import _frontend as frontend
from mpnb._notebook.panel._asking import Calls, Choices, Lists
from mpnb._notebook.panel._labels import in_labels
from mpnb._notebook.panel._pump import pump
from mpnb._notebook.panel._screen import NOTHING, weakly

log = logging.getLogger("mpnb")

# DuckDB 1.5 makes no temporary view in a transaction that only reads, and a query on a relation is one.
BEGIN = "BEGIN TRANSACTION" if IS_1 else "BEGIN TRANSACTION READ ONLY"
# While an export runs, how often what has landed is drawn.
REDRAW_SECONDS = 2.0


class Controls(anywidget.AnyWidget):
    """
    The controls and the picture. Only the explorer's thread writes its traits, and the browser none.

    What is chosen comes as a message: ``{"type": "choose", "n": 7, "choices": {…}}``; ``{"type": "type"}`` asks for
    columns. ``explorer.js`` says what the traits hold.
    """

    _esm = frontend.module("explorer.js")
    _css = frontend.STYLE
    lists = Dict().tag(sync=True)
    answer = Dict().tag(sync=True)

    def __init__(self, on_message: Callable[[dict[str, Any]], object]) -> None:
        super().__init__(lists={}, answer={})
        self.on_msg(lambda _widget, content, _buffers: on_message(content))

    def __repr__(self) -> str:
        """Return a text without an address or a value."""
        return "Controls()"


class Explorer:
    """
    The explorer, returned by ``mpnb.explore()``, whose docstring explains its arguments.

    Any thread may read ``relation``, ``code`` and ``picture``. One thread of its own asks the database and draws, on a
    cursor of its own that only reads; who chooses something else interrupts it.

    Attributes:
        widget: the anywidget alone, for hosts that show only anywidgets.
    """

    def __init__(self, result: ExportResult | ExportJob, event: str | None = None, *, on_picture: Any = None) -> None:
        if not isinstance(result, ExportResult | ExportJob):
            raise PlanError(f"explore() takes a result or a job of mpnb, not {brief(result)}", argument="result")
        self._given = result
        self._on_picture = on_picture
        self._lock = threading.Lock()
        self._wanted = 0  # counts what was chosen
        self._answering = 0  # which of these is being answered, 0 for none
        self._has_ended = False
        self._message: dict[str, Any] = {}
        self._lists = Lists()
        self._choices = Choices()
        self._properties_of: str | None = None
        self._zone = "UTC"
        self._typed: set[tuple[frozenset[str], frozenset[str]]] = set()
        self._calls: Calls | None = None
        self._picture: Picture | None = None
        self._picture_ids: list[str] = []
        self._version = -1
        # The database of a job is open as long as it runs, and then its result's.
        self._cursor: DuckDBPyConnection = reader_of(self._result).store.user_cursor()
        if event is not None:
            names = [name for name, _ in asking.events_in(self._result)]
            if event not in names:
                raise PlanError(f"there is no event {brief(event)} here{closest(str(event), names)}", argument="event")
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="mpnb-explorer")
        self.widget = Controls(weakly(self._hear))
        self._settled: Future[None] = self._ask({"type": "choose", "n": 0, "choices": {"event": event or ""}})
        if isinstance(result, ExportJob) and not result.done():
            pump.wake(self)

    # --- what a cell gets ----------------------------------------------------------------------------------------

    @property
    def relation(self) -> DuckDBPyRelation:
        """Return the relation of what is shown, as ``.code`` makes it."""
        self._wait()
        assert self._calls is not None
        return asking.asked(self._result, self._calls)

    @property
    def code(self) -> str:
        """Return what is shown as code that runs as it is pasted."""
        self._wait()
        assert self._calls is not None
        return asking.code_of(self._calls, self._name)

    @property
    def picture(self) -> Picture:
        """Return the picture that is shown."""
        self._wait()
        assert self._picture is not None
        return self._picture

    @property
    def _result(self) -> ExportResult:
        if isinstance(self._given, ExportResult):
            return self._given
        return self._given._run.so_far()

    @property
    def _name(self) -> str:
        name = variable_of(self._given)
        if name:
            return name if isinstance(self._given, ExportResult) else f"{name}.outcome()"
        store, table = reader_of(self._result).store, self._result.table
        return f"mpnb.open({asking.word(store.name) if store.path else 'con'}, table={asking.word(table)})"

    def _wait(self) -> None:
        """Wait for what was chosen last, and raise what that met."""
        self._settled.result()
        if self._picture is None or self._calls is None:
            raise MpnbError(str(self.widget.answer.get("error") or "nothing was drawn yet"))

    # --- any thread: it only signals -----------------------------------------------------------------------------

    def _hear(self, message: dict[str, Any]) -> None:
        if message.get("type") in ("choose", "type", "hello"):
            self._ask(message)

    def _ask(self, message: dict[str, Any]) -> Future[None]:
        with self._lock:
            self._wanted += 1
            if "choices" in message:
                self._message = message
            self._settled = self._worker.submit(self._answer, self._wanted, message)
            settled = self._settled
        self._interrupt()
        if self._answering:
            pump.wake(self)
        return settled

    def _interrupt(self) -> None:
        with contextlib.suppress(duckdb.Error):  # it was closed: whoever reads next hears of it
            self._cursor.interrupt()

    def tick(self, now: float) -> float | None:
        """
        Interrupt what is not wanted any more, and let what has landed be drawn. In the pump's thread.

        An interrupt between two queries is for none of them: it is said until the answer has ended.
        """
        if self._answering and self._answering != self._wanted:
            self._interrupt()
            return now
        job = self._given
        if not isinstance(job, ExportJob) or self._has_ended:
            return None
        if self._answering:
            return now + REDRAW_SECONDS
        ended = self._has_ended = job.done()
        if job.version != self._version or ended:
            self._version = job.version
            self._ask({"type": "landed"})
        return None if ended else now + REDRAW_SECONDS

    # --- the explorer's thread -----------------------------------------------------------------------------------

    def _answer(self, number: int, message: dict[str, Any]) -> None:
        """Answer what was chosen last. What is not wanted any more is left, or interrupted."""
        began = time.perf_counter()
        wrong = self._make_columns() if message["type"] == "type" else ""
        self._answering = number
        try:
            self._answer_with(number, began, wrong, fresh=message["type"] == "landed")
        finally:
            self._answering = 0

    def _answer_with(self, number: int, began: float, wrong: str, *, fresh: bool) -> None:
        while number == self._wanted:
            error = ""
            try:
                with self._reading():
                    self._look(fresh=fresh)
            except (duckdb.InterruptException, KeyboardInterrupt):
                continue  # for another choice, or by one that came just before this began
            except (MpnbError, duckdb.Error) as failed:
                error = _in_words(failed)
            except Exception as failed:  # whoever reads next raises it, and who looks at the explorer sees it
                self._paint(f"{type(failed).__name__}: {safe_text(str(failed))}", time.perf_counter() - began)
                raise
            self._paint(error or wrong, time.perf_counter() - began)
            return

    @contextlib.contextmanager
    def _reading(self) -> Any:
        """Read one state of the database, and write nothing."""
        try:
            run(self._cursor, BEGIN)  # interrupted, it may have begun a transaction all the same
            yield
        finally:
            while True:
                try:
                    run(self._cursor, "ROLLBACK")
                    break
                except duckdb.InterruptException:
                    continue  # meant for the query before
                except duckdb.Error:
                    break  # it is over already

    def _look(self, *, fresh: bool) -> None:
        """Ask the database for what is chosen, and draw it."""
        result, given = self._result, self._message.get("choices", {})
        lists = self._lists
        if fresh or not lists.events:
            self._properties_of = None
            self._zone = self._zone_of(result)
            lists = Lists(events=asking.events_in(result), days=asking.days_in(result))
        wanted = asking.chosen(given, lists)
        if self._properties_of != wanted.event:
            properties, numbers = asking.properties_of(self._cursor, result, wanted.event)
            lists = Lists(lists.events, properties, numbers, (), lists.days)
        wanted = asking.chosen(given, lists)
        values = asking.values_of(self._cursor, result, wanted)
        lists = Lists(lists.events, lists.properties, lists.numbers, values, lists.days)
        choices = asking.chosen(given, lists)
        calls = asking.calls_of(choices, self._is_typed(choices), self._zone)
        picture = asking.drawn(result, calls, choices, self._cursor)
        self._lists, self._properties_of = lists, choices.event
        self._choices, self._calls, self._picture = choices, calls, picture

    def _zone_of(self, result: ExportResult) -> str:
        """Return the time zone of days; of times that are local already, the one that leaves them so."""
        origin = reader_of(result).origin()
        return "UTC" if origin.is_local() else origin.zone() or "UTC"

    def _is_typed(self, choices: Choices) -> bool:
        """Whether the columns that are read have a table of their own."""
        names, properties = frozenset(choices.names), frozenset(choices.properties)
        return bool(names and properties) and any(names <= n and properties <= p for n, p in self._typed)

    def _rows_to_type(self) -> int:
        """Return how many events columns would be made of, 0 where that is of no use."""
        choices = self._choices
        if not choices.names or not choices.properties or self._is_typed(choices):
            return 0
        rows = sum(count for name, count in self._lists.events if name in choices.names)
        return rows if rows >= asking.WORTH_TYPING else 0

    def _make_columns(self) -> str:
        """Make columns of what is shown, and return what went wrong."""
        choices = self._choices
        names, properties = choices.names, choices.properties
        if not names or not properties:
            return ""
        try:
            columns = self._result.event(names, columns=properties).columns
        except (MpnbError, duckdb.Error, KeyboardInterrupt) as failed:
            return _in_words(failed) or "no columns were made: it was interrupted"
        # Of two properties whose names differ by case alone, one has a column of another name.
        if set(properties) <= set(columns):
            self._typed.add((frozenset(names), frozenset(properties)))
        return ""

    def _paint(self, error: str, seconds: float) -> None:
        """Show the answer, and keep its picture for when nothing is live any more."""
        c, lists, picture = self._choices, self._lists, self._picture
        shown = {
            "events": lists.events,
            "properties": lists.properties,
            "measures": lists.measures,
            "values": lists.values,
            "days": [(day.isoformat(), count) for day, count in lists.days],
            "reports": list(asking.REPORTS.items()),
            "units": asking.UNITS,
        }
        rows = self._rows_to_type()
        offer = ""
        if rows and not error:
            took = max(1, math.ceil(rows / asking.ROWS_A_SECOND))
            offer = f"Make columns of {rows:,} events: about {took} s once, then answers come at once"
        page = "" if picture is None else picture.as_table if c.report == "table" else picture.html
        answer = {
            "n": self._message.get("n", 0),
            "choices": {
                **{name: getattr(c, name) for name in asking.TEXTS},
                "first": c.first.isoformat() if c.first else "",
                "last": c.last.isoformat() if c.last else "",
            },
            "html": page,
            "code": self._code(),
            "offer": offer,
            "error": error,
            "seconds": round(seconds, 3),
        }
        # A front end that is gone must not end the thread.
        with contextlib.suppress(Exception), self.widget.hold_sync():
            self.widget.lists, self.widget.answer = shown, answer
        if picture is not None and not error:
            for display_id in self._picture_ids:
                frontend.swap(display_id, self._kept())
            if self._on_picture is not None:
                self._on_picture(page)

    def _code(self) -> str:
        """Return what is shown as code; of what was closed, the code that it had."""
        try:
            return "" if self._calls is None else asking.code_of(self._calls, self._name)
        except ClosedError:
            return str(self.widget.answer.get("code", ""))

    def _kept(self) -> dict[str, str]:
        """Return the output that stays in the notebook."""
        assert self._picture is not None
        page = self._picture.as_table if self._choices.report == "table" else self._picture.html
        return {"text/plain": repr(self._picture), "text/html": f'<div class="mpnb-explored">{page}</div>'}

    # --- in words ------------------------------------------------------------------------------------------------

    def _ipython_display_(self) -> None:
        if not frontend.has_kernel():
            print("The explorer needs a notebook: mpnb.analysis does the same without one.")
            return
        bundle: Any = self.widget._repr_mimebundle_()
        live: dict[str, Any] = bundle[0] if isinstance(bundle, tuple) else bundle
        frontend.show({**live, **NOTHING})
        text = "mpnb: the explorer, live where a notebook shows widgets"
        pending = {"text/plain": text, "text/html": f'<pre class="mpnb-pending">{html.escape(text)}</pre>'}
        with self._lock:
            settled = self._settled
        with contextlib.suppress(TimeoutError):
            settled.result(5)  # so that a notebook that runs from top to bottom has it
        self._picture_ids.append(frontend.show(pending if self._picture is None else self._kept()))

    def _display_(self) -> Any:  # marimo's hook
        return self.widget

    def __repr__(self) -> str:
        """Return what is shown as text."""
        return f"<mpnb explorer: {'nothing yet' if self._picture is None else self._picture.title}>"


def _in_words(failed: BaseException) -> str:
    return said(failed, in_labels) if isinstance(failed, MpnbError) else safe_text(str(failed))
