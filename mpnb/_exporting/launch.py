"""From checked arguments to a running export: entered into the ledger, wired up, started."""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import partial
from typing import Any, Protocol, TypeVar

import duckdb
from duckdb import DuckDBPyConnection

from mpnb._base.clock import today, utc_now
from mpnb._base.interrupt import interrupts_later
from mpnb._base.scalars import whole_number
from mpnb._base.sql import transaction
from mpnb._base.text import safe_text
from mpnb._base.warn import warn
from mpnb._errors import CredentialsError, PlanError, TableError, in_one_line
from mpnb._exporting.beside import SideBySide, Together
from mpnb._exporting.board import BatchBoard
from mpnb._exporting.callbacks import Callbacks
from mpnb._exporting.engine import Engine
from mpnb._exporting.handles import (
    Closable,
    ExportJob,
    ExportResult,
    Job,
    RetryOptions,
    make_job,
    make_result,
    readers_of,
    stopped_line,
)
from mpnb._exporting.places import place_of
from mpnb._exporting.projects import Part, make_projects_result
from mpnb._exporting.run import Run
from mpnb._fetching.client import Connection
from mpnb._fetching.fetched import Task
from mpnb._fetching.fetcher import Way
from mpnb._fetching.limiter import RateLimiter, limiter_for
from mpnb._fetching.route import Route, route_to
from mpnb._fetching.spool import SpoolFolder
from mpnb._message import Argument
from mpnb._mixpanel.credentials import Credentials
from mpnb._mixpanel.failures import SPOOL_ELSEWHERE
from mpnb._mixpanel.quota import Quota
from mpnb._planning import plan as planning
from mpnb._planning.batches import Batch, HeldBatch, Lateness, losses, overlapping, ranges_of
from mpnb._planning.options import CHUNK_DAYS, LATE_DAYS, WORKERS, Spool, memory_of
from mpnb._planning.plan import ExportPlan
from mpnb._planning.request import MAX_WORKERS, Asked, OnBatch, Source, check_helpers, several_projects
from mpnb._planning.resource import Events, Resource
from mpnb._planning.states import outcome_of
from mpnb._reading.offset import day_lag
from mpnb._reading.reader import Reader
from mpnb._reading.selection import Selection
from mpnb._showing import progress as _progress
from mpnb._showing.live import Progress as _Progress
from mpnb._showing.live import exports_changed
from mpnb._storing import ledger, leftovers
from mpnb._storing import tables as layout
from mpnb._storing.database import Store
from mpnb._storing.lake import Lake
from mpnb._storing.running import registration
from mpnb._storing.table import Table

# Between two looks at the whole while an export runs in the caller's thread.
TICK_SECONDS = 0.1
log = logging.getLogger("mpnb")
R = TypeVar("R", bound=Closable)
J = TypeVar("J", bound=Job[Any])


@dataclass(frozen=True, slots=True)
class Known:
    """
    What a database knows of a table.

    Attributes:
        held: batches that are there, if perhaps not all their rows.
        gone: batches that were there, and have no row left.
        unmet: first and last days of what failed and has not come since.
        lag: how long after midnight in UTC the project's days end, as far as its events tell.
    """

    held: tuple[HeldBatch, ...] = ()
    gone: tuple[HeldBatch, ...] = ()
    unmet: tuple[tuple[date, date], ...] = ()
    lag: timedelta = timedelta(0)


# Decides on the batches to fetch and to leave, given what the database has.
Choose = Callable[[DuckDBPyConnection, Known], tuple[Sequence[Batch], Sequence[HeldBatch]]]


def bring_up_to_date(store: Store) -> None:
    """
    Bring mpnb's tables up to date, and settle batches that a process left unfinished when it died.

    A database that cannot be written, such as on a full disk, is read as it is.
    """
    with store.committing(), store.reading() as cursor:
        layout.check(cursor, store.label)
        if not ledger.exists(cursor) or ledger.is_read_only(cursor):
            return
        try:
            if not layout.is_current(cursor):
                with registration, transaction(cursor):
                    layout.create(cursor)
            leftovers.settle(cursor)
        except duckdb.Error as error:
            log.warning("%s is read as it is, since it cannot be written: %s", store.label, safe_text(str(error)))


def check_table(cursor: DuckDBPyConnection, asked: Asked, store: Store, known: Known) -> None:
    """Check that the table, or the lake, accepts what is asked for. Raises ``TableError``."""
    place_of(asked).check(cursor, asked, store, sum(h.rows for h in known.held))


def limiter_of(asked: Asked) -> RateLimiter:
    """Return the limiter of the project, or one without a project if there are no credentials."""
    if asked.credentials is None:
        return RateLimiter(asked.quota or Quota())
    return limiter_for(asked.credentials.host, asked.credentials.project_id, asked.quota)


def tell_limiter(limiter: RateLimiter, cursor: DuckDBPyConnection, asked: Asked) -> None:
    """Let a limiter know of the requests that the ledger has: another machine may have sent them within the hour."""
    if asked.source is not None:
        limiter.learn(ledger.requests_of(cursor, asked.source.project_id))


def known_of(cursor: DuckDBPyConnection, asked: Asked) -> Known:
    """Return what a database knows of the table that is asked for."""
    if not ledger.exists(cursor) or (asked.source and ledger.is_free_for(cursor, asked.table, asked.source)):
        return Known()
    batches = ledger.compared_batches(cursor, asked.table)
    held = tuple(h for h in batches if not h.is_gone)
    return Known(
        held,
        tuple(h for h in batches if h.is_gone),
        tuple(Selection(asked.table).unmet_ranges(cursor)),
        day_lag(cursor, asked.table, held),
    )


def plan_of(asked: Asked, known: Known, limiter: RateLimiter) -> ExportPlan:
    """Return the plan for what is asked, from the batches that the table holds and the requests left this hour."""
    plan = planning.make_plan(
        asked.from_date,
        asked.to_date,
        known.held,
        unmet=known.unmet,
        mode=asked.mode,
        lateness=Lateness(utc_now(), asked.late_days, known.lag),
        chunk_days=asked.chunk_days,
        quota_left=limiter.left(),
        per_hour=limiter.quota.per_hour,
        notes=asked.notes,
    )
    return replace(plan, notes=(*plan.notes, *losses(asked.table, plan.batches, plan.held, known.gone)))


# --- from a plan to an export that runs: admitted, wired, handed out -------------------------------------------------


@dataclass(frozen=True, slots=True)
class Order:
    """
    What it takes to fetch records of one project, whatever they are.

    Attributes:
        host: scheme and host of their API.
        landing: where they land.
        connect: makes the way of a batch's requests, once ``landing`` has a table; ``None`` where this process sends
            them.
    """

    credentials: Credentials
    host: str
    limiter: RateLimiter
    resource: Resource
    landing: Landing
    connect: Callable[[Task], Way] | None = None


class Landing(Protocol):
    """Where records land: two steps in the caller's thread."""

    def table(self, store: Store, export_id: str) -> Table:
        """Return the place where they land."""

    def admitted(self, store: Store, table: Table, board: BatchBoard) -> list[Task]:
        """Decide on what to fetch, admit it and put it on the board; within ``table.admission``."""


def launched(
    orders: Sequence[Order],
    open_store: Callable[[], Store],
    callbacks: Callbacks,
    make_result: Callable[[Store, BatchBoard], R],
    *,
    spool: Spool,
    workers: int,
    memory: int | None,
    in_background: bool,
) -> Run[R]:
    """
    Enter an export into the ledger and start it. If that fails, everything is undone.

    Args:
        orders: one for each project.
        open_store: opens the database, which is closed where that fails.
        make_result: returns the result of what was fetched; called at the end, in the coordinator's thread.
        workers: requests at once, of all projects.
    """
    ids = [uuid.uuid4().hex[:12] for _ in orders]
    routes = [route_to(order.host) for order in orders]
    with contextlib.ExitStack() as undo:
        store = open_store()
        undo.callback(store.close)
        folder = _spool_folder(spool, store, ids[0])
        undo.callback(folder.close)
        tables = []
        for order, export_id in zip(orders, ids, strict=True):
            tables.append(order.landing.table(store, export_id))
            undo.callback(tables[-1].leave)
        with tables[0].admission(tables[1:]):
            board = BatchBoard(callbacks.put, names_projects=len(orders) > 1)
            tasks = [order.landing.admitted(store, table, board) for order, table in zip(orders, tables, strict=True)]
            may_close = Together(len(orders), lambda: store.broken)
            engines = [
                Engine(
                    name=export_id,
                    resource=order.resource,
                    destination=table,
                    credentials=order.credentials,
                    connect=order.connect or partial(_connection, order.credentials, route),
                    limiter=order.limiter,
                    spool=folder,
                    board=board,
                    workers=share,
                    tasks=to_fetch,
                    may_close=may_close,
                    folds=len(orders) == 1,
                )
                for order, export_id, table, route, share, to_fetch in zip(
                    orders, ids, tables, routes, _shares(workers, tasks), tasks, strict=True
                )
            ]
            run: Run[R] = Run(
                engine=engines[0] if len(orders) == 1 else SideBySide(engines, partial(tables[0].finish, fold=True)),
                board=board,
                callbacks=callbacks,
                store=store,
                memory=memory,
                make_result=partial(make_result, store, board),
                on_end=partial(_over, tables, folder),
                in_background=in_background,
            )
            # Its threads are there, and wait, before anybody can see the batches: the system may have none left.
            undo.callback(run.abandon)
            try:
                run.start()
            except RuntimeError as error:
                raise PlanError(f"the export cannot be started: {safe_text(str(error))}: end other programs") from None
        run.begin()
        undo.pop_all()
    exports_changed()
    return run


def _connection(credentials: Credentials, route: Route, task: Task) -> Connection:
    """Return a connection of this process, whatever it is to fetch."""
    return Connection(credentials, route)


def _shares(workers: int, tasks: Sequence[Sequence[Task]]) -> list[int]:
    """Divide workers among the projects that have something to fetch. Each gets one at least: its quota is its own."""
    busy = sum(1 for each in tasks if each) or 1
    places = iter(range(busy))
    share, more = divmod(max(workers, busy), busy)
    return [share + (next(places) < more) if each else 1 for each in tasks]


def _over(tables: Sequence[Table], folder: SpoolFolder) -> None:
    folder.close()
    for table in tables:
        table.leave()
    exports_changed()


class _EventsLanding:
    """
    Events, in the table that was asked for.

    Args:
        choose: decides on the batches to fetch and to leave; without it, the plan of what was asked.
        whole: whether the result covers the whole ledger, not the days that were asked for.
    """

    def __init__(
        self, asked: Asked, resource: Events, limiter: RateLimiter, choose: Choose | None, *, whole: bool
    ) -> None:
        self._asked = asked
        self._limiter = limiter
        self._resource = resource
        self._choose = choose or _by_plan(asked, limiter)
        self._whole = whole
        self._selection = Selection(asked.table)
        self._connect: Callable[[Task], Way] | None = None

    def table(self, store: Store, export_id: str) -> Table:
        asked = self._asked
        rows = place_of(asked).rows(self._resource, export_id)
        if asked.executor is not None:
            assert asked.destination is not None
            assert asked.credentials is not None
            assert isinstance(rows, Lake)
            # Most exports have no executor, and shall not wait for its import.
            from mpnb._exporting.away import Agency

            self._connect = Agency(
                asked.executor, asked.destination, self._resource, asked.credentials, rows, export_id, asked.spool,
                asked.memory,
            ).connect  # fmt: skip
        return Table(store, asked.table, self._resource, export_id, rows=rows)

    def connect(self, task: Task) -> Way:
        """Return the way of a batch's requests, by the executor. After ``table``."""
        assert self._connect is not None
        return self._connect(task)

    def admitted(self, store: Store, table: Table, board: BatchBoard) -> list[Task]:
        asked = self._asked
        with store.reading() as cursor:
            tell_limiter(self._limiter, cursor, asked)
        batches, kept, ids = _admitted(asked, store, table, self._choose)
        if not self._whole:
            days = (asked.from_date, asked.to_date)
            self._selection = Selection(asked.table, days, ranges_of(batches), since=min(ids, default=0))
        assert asked.source is not None
        return _tasks(board, asked.source.project_id, zip(batches, ids, strict=True), kept)

    def reader(self, store: Store) -> Reader:
        place_of(self._asked).refresh(store)
        return Reader(store, self._selection)


def _launch(
    asked: Asked,
    open_store: Callable[[], Store],
    callbacks: Callbacks,
    *,
    in_background: bool,
    choose: Callable[[Asked], Choose] | None = None,
    whole: bool = False,
) -> ExportJob:
    """
    Enter an export of events into the ledger and start it. If that fails, everything is undone.

    Args:
        open_store: opens the database, which is closed where that fails.
        choose: decides on the batches of a project to fetch and to leave; without it, the plan of what was asked.
        whole: whether the result covers the whole ledger, not the days that were asked for.
    """
    orders, landings = [], []
    for one in asked.each:
        assert one.credentials is not None
        assert one.source is not None
        limiter, resource = limiter_of(one), Events(one.source)
        landings.append(_EventsLanding(one, resource, limiter, choose and choose(one), whole=whole))
        connect = landings[-1].connect if one.executor else None
        orders.append(Order(one.credentials, one.credentials.host, limiter, resource, landings[-1], connect))

    def result(store: Store, board: BatchBoard) -> ExportResult:
        return _result(asked, [landing.reader(store) for landing in landings], board)

    run = launched(
        orders,
        open_store,
        callbacks,
        result,
        spool=asked.spool,
        workers=asked.workers,
        memory=asked.memory,
        in_background=in_background,
    )
    return make_job(run)


def _spool_folder(spool: Spool, store: Store, export_id: str) -> SpoolFolder:
    beside = store.path.parent if store.path else None
    try:
        return SpoolFolder(spool, beside, export_id)
    except OSError as error:
        raise PlanError(
            f"the spool folder cannot be made: {safe_text(str(error))}: pass ", SPOOL_ELSEWHERE, argument="spool"
        ) from None


def _by_plan(asked: Asked, limiter: RateLimiter) -> Choose:
    """Decide which batches to fetch, by the plan."""

    def choose(cursor: DuckDBPyConnection, known: Known) -> tuple[Sequence[Batch], Sequence[HeldBatch]]:
        plan = plan_of(asked, known, limiter)
        return plan.batches, plan.held

    return choose


def _admitted(
    asked: Asked, store: Store, table: Table, choose: Choose
) -> tuple[Sequence[Batch], Sequence[HeldBatch], list[int]]:
    """Decide which batches to fetch or skip, enter the former into the ledger, and return both with the ids."""
    with store.reading() as cursor:
        known = known_of(cursor, asked)
        check_table(cursor, asked, store, known)
        batches, kept = choose(cursor, known)
    gone = overlapping(known.gone, batches)
    for loss in losses(asked.table, batches, kept, gone):
        warn(loss)
    return batches, kept, table.admit(batches, [h.batch_id for h in gone])


def _tasks(
    board: BatchBoard, project_id: str, to_fetch: Iterable[tuple[Batch, int]], kept: Sequence[HeldBatch]
) -> list[Task]:
    """Put all batches on the board, in date order, and return those to be fetched."""
    cells = sorted(
        [(batch, batch_id, "queued", 0) for batch, batch_id in to_fetch]
        + [(Batch(h.from_date, h.to_date), h.batch_id, "skipped", h.rows) for h in kept],
        key=lambda cell: cell[0].from_date,
    )
    indexes = board.add([(batch, status, rows) for batch, _, status, rows in cells], project_id)
    return [
        Task(index, batch_id, batch)
        for index, (batch, batch_id, status, _) in zip(indexes, cells, strict=True)
        if status == "queued"
    ]


def _result(asked: Asked, readers: Sequence[Reader], board: BatchBoard) -> ExportResult:
    """Return the result of a finished export."""
    p, cells = board.progress(), board.cells()
    rejected = sum(cell.rejected for cell in cells)
    outcome = outcome_of(p.counts, rows=p.rows, rejected=rejected, size=p.bytes, seconds=p.elapsed)
    call = "result" if readers[0].selection.days else "db"
    if not asked.projects:
        return make_result(readers[0], outcome, partial(retry_export, asked), call=call, late_days=asked.late_days)
    parts = {}
    for one, reader in zip(asked.each, readers, strict=True):
        assert one.source is not None
        project_id = one.source.project_id
        mine = [cell for cell in cells if cell.project_id == project_id]
        did = outcome_of(
            Counter(cell.status for cell in mine),
            rows=sum(cell.rows for cell in mine if cell.status == "done"),
            rejected=sum(cell.rejected for cell in mine),
            size=board.received_of(project_id),
            seconds=p.elapsed,
        )
        parts[project_id] = Part(reader, did, partial(retry_export, one), call, asked.late_days)
    return make_projects_result(asked.table, parts, outcome, partial(retry_export, asked))


def start_export(asked: Asked, open_store: Callable[[], Store], **more: Any) -> ExportJob:
    """Start an export in the background."""
    return started(lambda callbacks, **how: _launch(asked, open_store, callbacks, **how, **more), asked.on_batch)


def run_export(asked: Asked, open_store: Callable[[], Store], **more: Any) -> ExportResult:
    """Run an export in the caller's thread, which runs the callbacks; Ctrl-C stops it."""
    show = _progress.Silent(asked.on_batch) if asked.on_batch else _progress.choose()
    return ran(lambda callbacks, **how: _launch(asked, open_store, callbacks, **how, **more), show, stopped_line)


def started(launch: Callable[..., J], on_batch: OnBatch | None) -> J:
    """
    Start a job in the background.

    Args:
        launch: starts it, given its callbacks and ``in_background``.
    """
    job = None
    try:
        with interrupts_later():
            callbacks = Callbacks(on_batch)
            job = launch(callbacks, in_background=on_batch is not None)
    except BaseException:
        if job is not None:  # it was started, but will not be returned
            with interrupts_later():
                job.cancel()
                job.outcome().close()
        raise
    return job


def ran(launch: Callable[..., Job[R]], show: _Progress, stopped_line: Callable[..., str]) -> R:
    """
    Run a job in the caller's thread, which runs the callbacks; Ctrl-C stops it.

    Args:
        launch: starts it, given its callbacks and ``in_background``.
        stopped_line: makes a sentence of what a stop left undone, given the result and ``closing``.
    """
    job = None
    callbacks = Callbacks(show.on_batch)
    try:
        with interrupts_later():
            job = launch(callbacks, in_background=False)
        show.begin(job)
        ticked = 0.0
        while callbacks.dispatch(TICK_SECONDS) and not (job.done() and callbacks.is_empty()):
            # Small batches change thousands of times: the display does not show each change.
            if (now := time.monotonic()) >= ticked + TICK_SECONDS:
                ticked = now
                show.tick(job.progress())
        show.tick(job.progress())
        result = job.result()
    except BaseException as error:
        # A signal handler may raise as well, and so may a stream whose reader is gone.
        is_stop = isinstance(error, KeyboardInterrupt)
        if job is None or (job.done() and not is_stop):
            if job is not None and isinstance(error, Warning):
                job.outcome().close()  # warnings are errors here: it will not be returned
            raise
        with interrupts_later():
            job.cancel()
            stopped = job.outcome()
            line = stopped_line(stopped, closing=True)
            show.close()  # while the database is open: it may show what failed
            stopped.close()
            if is_stop:
                raise in_one_line(KeyboardInterrupt(line), f"KeyboardInterrupt: {line}") from None
        raise
    finally:
        show.close()
    return result


def retry_export(
    asked: Asked | None, result: ExportResult, options: RetryOptions, background: bool
) -> ExportResult | ExportJob:
    """
    Fetch the missing days of a result again, in the same batches, into the same database.

    Args:
        asked: what the call asked for that made the result; ``None`` for one of ``mpnb.open()``.
    """
    given = options.given()
    check_helpers(**{name: value for name, value in given.items() if name not in ("workers", "memory", "credentials")})
    readers = readers_of(result)
    store = readers[0].store.share()
    try:
        asked = _asked_again(asked or _asked_of_all(store, readers[0]), given)
    except BaseException:
        store.close()
        raise
    selections = {reader.table: reader.selection for reader in readers}

    def choose_for(one: Asked) -> Choose:
        def choose(cursor: DuckDBPyConnection, known: Known) -> tuple[list[Batch], list[HeldBatch]]:
            # Once more, now that nobody else can begin to fetch them.
            first, last = options.days or (date.min, date.max)
            is_asked = not asked.projects or options.project_id in (None, one.source and one.source.project_id)
            unmet = selections[one.table].unmet_ranges(cursor) if is_asked else []
            again = [each for each in unmet if first <= each[1] and each[0] <= last]
            return planning.plan_again(again, known.held)

        return choose

    way = start_export if background else run_export
    return way(asked, lambda: store, choose=choose_for, whole=result.from_date is None)


def _asked_of_all(store: Store, reader: Reader) -> Asked:
    """Return the arguments of a call that would fetch everything that a table lacks."""
    with store.reading() as cursor:
        source = ledger.source_of(cursor, reader.table)
        unmet = reader.selection.unmet_ranges(cursor)
    if source is None:
        raise TableError(f"{store.label} has no table {reader.table!r} of events any more: export into it anew")
    first = min((first for first, _ in unmet), default=today())
    last = max((last for _, last in unmet), default=first)
    return Asked(
        first, last, source, store.name, reader.table, WORKERS, CHUNK_DAYS, "resume", LATE_DAYS,
        None, None, None, Spool(), None, source.events, source.where, destination=store.lake,
    )  # fmt: skip


def _asked_again(asked: Asked, given: dict[str, Any]) -> Asked:
    """Return the arguments of the original call, overridden by those of ``retry()``."""
    again = replace(asked, **{"mode": "resume", **given})
    workers = whole_number("workers", again.workers, 1, MAX_WORKERS)
    again = replace(again, workers=workers, memory=memory_of(again.memory))
    if asked.projects:
        projects = several_projects(given.get("credentials")) or asked.projects
        ids = [each.project_id for each in asked.projects]
        if sorted(each.project_id for each in projects) != sorted(ids):
            raise CredentialsError(Argument("credentials"), f" must be of the same projects: {', '.join(ids)}")
        return replace(again, credentials=None, projects=tuple(sorted(projects, key=lambda p: ids.index(p.project_id))))
    check_helpers(credentials=given.get("credentials"))
    credentials = again.credentials or Credentials.from_environment()
    return replace(again, credentials=credentials, source=Source(credentials.project_id, asked.events, asked.where))
