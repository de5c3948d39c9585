"""An export on a screen, with its retries: from its start to what stays of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from mpnb._exporting.handles import Job, retry_days, terms_of
from mpnb._message import Face, said
from mpnb._mixpanel.credentials import Credentials
from mpnb._notebook.panel import _static as static
from mpnb._notebook.panel._feed import UNMET, Info, Track, detail, worth_a_retry
from mpnb._notebook.panel._pump import TICK_SECONDS, pump
from mpnb._notebook.panel._screen import Message, Screen
from mpnb._planning.states import BatchProgress

# The Jupyter server drops messages over its rate limit without a word: what counts at the end is sent once more.
AGAIN_SECONDS = 3.0


class Follower:
    """
    What a screen shows of an export and of its retries. Called in the pump's thread, unless it says otherwise.

    Args:
        screen: where it shows.
        wake: makes the pump call ``tick``. Any thread.
        face: says hints in the words of the screen.
        retry_code: the code that retries, and in words what to do where there is none.
        code_of: the code that exports the days of a batch, where there is any.
    """

    def __init__(
        self,
        track: Track,
        screen: Screen,
        wake: Callable[[], object],
        *,
        face: Face = str,
        retry_code: Callable[[], tuple[str, str]],
        code_of: Callable[[BatchProgress], str] = lambda cell: "",
    ) -> None:
        self.track = track
        self.note = ""
        self.cells: list[BatchProgress] = []
        self.credentials: Credentials | None = None  # for retries; None for those of the export
        self.changed = True  # whether it is to be painted, whatever the track says
        self._screen = screen
        self._wake = wake
        self._face = face
        self._retry_code = retry_code
        self._code_of = code_of
        self._seen: tuple[int, int] | None = None
        self._ended: Job[Any] | None = None
        self._retrying: Future[Job[Any]] | None = None
        self._flush_at = math.inf

    @property
    def job(self) -> Job[Any]:
        """Return the latest job. Any thread."""
        return self.track.job

    @property
    def has_ended(self) -> bool:
        """Whether the latest job has ended, and no retry begins."""
        return self._ended is self.job and self._retrying is None

    @property
    def unmet(self) -> Sequence[BatchProgress]:
        """Return the batches that failed or were cancelled."""
        return [cell for cell in self.cells if cell.status in UNMET]

    def hear(self, message: Message) -> None:
        """Process what a person did."""
        if message.get("type") == "cell":
            self._tell(message)
            return
        match message.get("type"):
            case "cancel" if not self.job.done():
                self.job.cancel()
            case "retry" if self.has_ended:
                self._retry(lambda result: result.start_retry(credentials=self.credentials))
            case "retry_batch" if self.has_ended and (cell := self._cell(message)) is not None and cell.page is None:
                days = (cell.from_date, cell.to_date)
                self._retry(lambda result: retry_days(result, days, self.credentials, cell.project_id))
            case _:
                return
        self.changed = True

    def _cell(self, message: Message) -> BatchProgress | None:
        index, cells = message.get("index"), self.track.cells(clock=True)
        return cells[index] if isinstance(index, int) and 0 <= index < len(cells) else None

    def _tell(self, message: Message) -> None:
        cell = self._cell(message)
        if cell is not None:
            mine = (cell.project_id, cell.from_date)
            # A page is of no use by itself: all that are missing are fetched together.
            may_come = self.has_ended and cell.page is None
            may_come = may_come and any((w.project_id, w.from_date) == mine for w in self._worth_a_retry())
            more = {"retry": may_come, "code": self._code_of(cell)}
            told = detail(cell, terms_of(self.job), of_several=len({each.project_id for each in self.cells}) > 1)
            self._screen.grid.send({"type": "cell", "index": message["index"], **told, **more})

    def _retry(self, start: Callable[[Any], Job[Any]]) -> None:
        job, self.note = self.job, ""
        # It reads the database, which may take longer than a screen may stand still.
        worker = ThreadPoolExecutor(1, thread_name_prefix="mpnb-panel")
        self._retrying = worker.submit(lambda: start(job.outcome()))
        self._retrying.add_done_callback(lambda _: self._wake())
        worker.shutdown(wait=False)

    def actions(self) -> list[Info]:
        """Return the buttons of an export: each is enabled only where it does something."""
        job, unmet = self.job, self.unmet if self.has_ended else []
        running = not job.done() and not job.cancelled()
        actions: list[Info] = [{"id": "cancel", "label": "Cancel", "enabled": running}]
        if unmet:
            worth = self._worth_a_retry()
            name = "Fetch the rest" if all(cell.status == "cancelled" for cell in unmet) else "Retry failed"
            look = {"look": "primary"} if worth else {}
            actions.append({"id": "retry", "label": f"{name} ({len(unmet):,})", "enabled": bool(worth), **look})
        return actions

    def _worth_a_retry(self) -> Sequence[BatchProgress]:
        return worth_a_retry(self.cells, renewed=self.credentials is not None)

    def tick(self, now: float, words: Callable[[], Info]) -> float:
        """
        Update the screen, and return when to do so again: ``math.inf`` for when it is woken.

        Args:
            words: returns what the frame's ``info`` has besides, ``actions`` and ``notes`` among it.
        """
        if self._retrying is not None and self._retrying.done():
            self._begin_retry()
        ends = self.job.done() and self._ended is not self.job
        if self.track.version != self._seen or ends or self.changed:
            self._seen, self.changed = self.track.version, False
            self.cells = self.track.cells()
            if ends:
                self._ended = self.job
                self._screen.keep(self._picture())
                self._flush_at = now + AGAIN_SECONDS
            self._screen.grid.paint(self.track.frame(self.cells, face=self._face, **words()))
        if now >= self._flush_at:
            self._flush_at = math.inf
            self._screen.flush()
        return self._flush_at if self.job.done() else now + TICK_SECONDS

    def _begin_retry(self) -> None:
        retrying, self._retrying, self.changed = self._retrying, None, True
        assert retrying is not None
        try:
            self.track.go_on(retrying.result())
        except Exception as error:
            self.note = said(error, self._face)
            return
        for other in pump.shown():
            if getattr(other, "track", None) is self.track:
                pump.wake(other)

    def _picture(self) -> dict[str, Any]:
        retry, otherwise = self._retry_code()
        return static.ended(self.track, self.cells, retry=retry, otherwise=otherwise)
