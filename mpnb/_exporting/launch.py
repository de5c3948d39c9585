"""From what is asked to an export that runs: admitted into the ledger, wired, handed out."""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any

import duckdb
from duckdb import DuckDBPyConnection

from mpnb._base.clock import today, utc_now
from mpnb._base.scalars import whole_number
from mpnb._base.sql import run, transaction
from mpnb._base.text import safe_text
from mpnb._base.warn import warn
from mpnb._errors import DatabaseError, PlanError, TableError
from mpnb._exporting.board import BatchBoard
from mpnb._exporting.engine import Engine
from mpnb._exporting.interrupt import interrupts_later
from mpnb._exporting.job import Events, ExportJob
from mpnb._exporting.result import ExportResult, RetryOptions
from mpnb._fetching.limiter import RateLimiter, limiter_for
from mpnb._fetching.route import Route, route_to
from mpnb._fetching.spool import SpoolFolder
from mpnb._mixpanel.credentials import Credentials
from mpnb._mixpanel.quota import Quota
from mpnb._planning import plan as planning
from mpnb._planning.batches import Batch, Calendar, HeldBatch, losses, overlapping, ranges_of
from mpnb._planning.options import CHUNK_DAYS, LATE_DAYS, WORKERS, Spool
from mpnb._planning.plan import ExportPlan
from mpnb._planning.request import MAX_WORKERS, Asked, Source, check_helpers
from mpnb._planning.states import outcome_of
from mpnb._reading.offset import day_lag
from mpnb._reading.selection import Selection
from mpnb._showing import progress as _progress
from mpnb._storing import ledger
from mpnb._storing import tables as layout
from mpnb._storing.database import Store
from mpnb._storing.running import entering, registration, running

# Between two looks at the whole while an export runs in the caller's thread.
TICK_SECONDS = 0.1
log = logging.getLogger("mpnb")
# Decides on the batches to fetch and to leave, given those that the table holds.
MakePlan = Callable[[DuckDBPyConnection, Sequence[HeldBatch]], tuple[list[Batch], list[HeldBatch]]]


@dataclass(frozen=True, slots=True)
class Known:
    """
    Hold what a database has of a table.

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


def bring_up_to_date(store: Store) -> None:
    """
    Bring the tables of a database to the layout of today, and settle what a dead process has left.

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
            with entering:
                ledger.settle_dead(cursor, running)
        except duckdb.Error as error:
            log.warning("%s is read as it is, since it cannot be written: %s", store.label, safe_text(str(error)))


def check_table(cursor: DuckDBPyConnection, asked: Asked, store: Store, known: Known) -> None:
    if asked.source is not None:
        ledger.check_source(cursor, asked.table, asked.source)
    layout.check_events(cursor, store.label, asked.table)
    rows = sum(h.rows for h in known.held)
    if asked.mode == "new" and rows:
        raise TableError(
            f"table {asked.table!r} has {rows:,} events, and mode='new' wants an empty one: "
            "pass another table=, or mode='resume' or 'refresh'"
        )


def limiter_of(asked: Asked) -> RateLimiter:
    if asked.credentials is None:
        return RateLimiter(asked.quota or Quota())
    return limiter_for(asked.credentials.host, asked.credentials.project_id, asked.quota)


def known_of(cursor: DuckDBPyConnection, asked: Asked) -> Known:
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
    plan = planning.make_plan(
        asked.from_date,
        asked.to_date,
        known.held,
        unmet=known.unmet,
        mode=asked.mode,
        calendar=Calendar(utc_now(), asked.late_days, known.lag),
        chunk_days=asked.chunk_days,
        quota_left=limiter.left(),
        per_hour=limiter.quota.per_hour,
        notes=asked.notes,
    )
    return replace(plan, notes=(*plan.notes, *losses(asked.table, plan.batches, plan.held, known.gone)))


def _launch(
    asked: Asked,
    open_store: Callable[[], Store],
    events: Events,
    *,
    in_background: bool,
    make_plan: MakePlan | None = None,
    whole: bool = False,
) -> ExportJob:
    """
    Enter an export into the ledger and start it. Where that fails, nothing of it is left.

    Args:
        open_store: opens the database, which is closed where that fails.
        make_plan: decides on the batches to fetch and to leave; without it, the plan of what was asked.
        whole: whether the result covers the whole ledger, not the days that were asked for.
    """
    assert asked.credentials is not None
    assert asked.source is not None
    export_id = uuid.uuid4().hex[:12]
    limiter = limiter_of(asked)
    route = route_to(asked.credentials.host)
    with contextlib.ExitStack() as undo:
        store = open_store()
        undo.callback(store.close)
        spool = _spool_folder(asked, store, export_id)
        undo.callback(spool.close)
        board = BatchBoard(events.put)
        with registration, store.committing(), store.reading() as cursor:
            try:
                batches, kept, gone = _admitted(cursor, asked, store, make_plan, limiter)
                for loss in losses(asked.table, batches, kept, gone):
                    warn(loss)
                run(cursor, "BEGIN")
                layout.create(cursor, asked.table)
                ledger.forget(cursor, asked.table, [h.batch_id for h in gone])
                if ledger.is_free_for(cursor, asked.table, asked.source):
                    ledger.clear(cursor, asked.table)
                ids = ledger.register(
                    cursor, export_id=export_id, table=asked.table, source=asked.source, batches=batches
                )
                selection = Selection(asked.table)
                if not whole:
                    days, fetched = (asked.from_date, asked.to_date), ranges_of(batches)
                    selection = Selection(asked.table, days, fetched, since=min(ids, default=0))
                engine = _engine(
                    asked, store, spool, board, limiter, route, export_id, zip(batches, ids, strict=True), kept
                )

                def make_result() -> ExportResult:
                    p = board.progress()
                    rejected = sum(cell.rejected for cell in board.cells())
                    return ExportResult(
                        store=store,
                        selection=selection,
                        outcome=outcome_of(p.counts, rows=p.rows, rejected=rejected, size=p.bytes, seconds=p.elapsed),
                        retry=lambda result, options, background: retry_export(result, asked, options, background),
                        call="db" if whole else "result",
                        late_days=asked.late_days,
                    )

                job = ExportJob(
                    engine=engine,
                    board=board,
                    events=events,
                    store=store,
                    make_result=make_result,
                    on_end=lambda: running.discard(export_id),
                    in_background=in_background,
                )
                # Its threads are there, and wait, before anybody can see the batches: the system may have none left.
                undo.callback(job.abandon)
                job.start()
                with entering:
                    undo.callback(running.discard, export_id)
                    running.add(export_id)
                    run(cursor, "COMMIT")
            except duckdb.Error as error:
                raise DatabaseError(f"{store.label} cannot be written: {safe_text(str(error))}") from None
            except RuntimeError as error:
                raise PlanError(f"the export cannot be started: {safe_text(str(error))}: end other programs") from None
        undo.pop_all()
    job.begin()
    return job


def _spool_folder(asked: Asked, store: Store, export_id: str) -> SpoolFolder:
    beside = store.path.parent if store.path else None
    try:
        return SpoolFolder(asked.spool, beside, export_id)
    except OSError as error:
        raise PlanError(
            f"the spool folder cannot be made: {safe_text(str(error))}: pass spool=mpnb.Spool(folder)"
        ) from None


def _admitted(
    cursor: DuckDBPyConnection,
    asked: Asked,
    store: Store,
    make_plan: MakePlan | None,
    limiter: RateLimiter,
) -> tuple[Sequence[Batch], Sequence[HeldBatch], Sequence[HeldBatch]]:
    """
    See that an export may enter the ledger, and decide on the batches to fetch, to leave and to forget.

    It writes nothing new.

    Raises:
        TableError: another export is under way into the same table, or the table is not for this one.
    """
    layout.check(cursor, store.label)
    if ledger.exists(cursor):
        with entering:
            ledger.settle_dead(cursor, running)
        if ledger.unfinished_exports(cursor, asked.table):
            raise TableError(f"an export into table {asked.table!r} is running: wait for it, or cancel it")
    known = known_of(cursor, asked)
    check_table(cursor, asked, store, known)
    batches: Sequence[Batch]
    kept: Sequence[HeldBatch]
    if make_plan is not None:
        batches, kept = make_plan(cursor, known.held)
    else:
        plan = plan_of(asked, known, limiter)
        batches, kept = plan.batches, plan.held
    return batches, kept, overlapping(known.gone, batches)


def _engine(
    asked: Asked,
    store: Store,
    spool: SpoolFolder,
    board: BatchBoard,
    limiter: RateLimiter,
    route: Route,
    export_id: str,
    to_fetch: Iterable[tuple[Batch, int]],
    kept: Sequence[HeldBatch],
) -> Engine:
    """Put all batches on the board, and make an engine for those that are to be fetched."""
    assert asked.credentials is not None
    assert asked.source is not None
    cells = sorted(
        [(batch, batch_id, "queued", 0) for batch, batch_id in to_fetch]
        + [(Batch(h.from_date, h.to_date), h.batch_id, "skipped", h.rows) for h in kept],
        key=lambda cell: cell[0].from_date,
    )
    indexes = board.add([(batch, status, rows) for batch, _, status, rows in cells])
    return Engine(
        export_id=export_id,
        store=store,
        table=asked.table,
        source=asked.source,
        credentials=asked.credentials,
        route=route,
        limiter=limiter,
        spool=spool,
        board=board,
        workers=asked.workers,
        tasks=[
            (index, batch, batch_id)
            for index, (batch, batch_id, status, _) in zip(indexes, cells, strict=True)
            if status == "queued"
        ],
    )


def start_export(asked: Asked, open_store: Callable[[], Store], **more: Any) -> ExportJob:
    """Start an export in the background."""
    job = None
    try:
        with interrupts_later():
            job = _launch(asked, open_store, Events(asked.on_batch), in_background=asked.on_batch is not None, **more)
    except BaseException:
        if job is not None:  # and nobody will get it
            with interrupts_later():
                job.cancel()
                job.outcome().close()
        raise
    return job


def run_export(asked: Asked, open_store: Callable[[], Store], **more: Any) -> ExportResult:
    """Run an export in this thread's time: callbacks here, Ctrl-C stops it."""
    show = _progress.Silent(asked.on_batch) if asked.on_batch else _progress.choose()
    job = None
    events = Events(show.on_batch)
    try:
        with interrupts_later():
            job = _launch(asked, open_store, events, in_background=False, **more)
        show.begin(job)
        ticked = 0.0
        while events.dispatch(TICK_SECONDS):
            # Changes come by the thousand where batches are small: the screen need not follow each.
            if (now := time.monotonic()) >= ticked + TICK_SECONDS:
                ticked = now
                show.tick(job.progress())
        show.tick(job.progress())
        result = job.result()
    except BaseException as error:
        # An alarm's handler may raise as well, and so may a stream that nobody reads any more.
        is_stop = isinstance(error, KeyboardInterrupt)
        if job is None or (job.done() and not is_stop):
            if job is not None and isinstance(error, Warning):
                job.outcome().close()  # where warnings are errors, nobody gets it
            raise
        with interrupts_later():
            job.cancel()
            stopped = job.outcome()
            line = stopped.stopped_line(closing=True)
            show.close()  # while the database is open: it may show what failed
            stopped.close()
            if is_stop:
                raise KeyboardInterrupt(line) from None
        raise
    finally:
        show.close()
    return result


def retry_export(
    result: ExportResult, asked: Asked | None, options: RetryOptions, background: bool
) -> ExportResult | ExportJob:
    """Fetch what is unmet of a result's days, each batch as it was, on the same database."""
    given = options.given()
    check_helpers(**{name: value for name, value in given.items() if name != "workers"})
    store = result.share_store()
    try:
        with store.reading() as cursor:
            source = ledger.source_of(cursor, result.table)
            unmet = result._selection.unmet_ranges(cursor)
        source = source or (asked.source if asked else None)
        if source is None:
            raise TableError(f"{store.label} has no table {result.table!r} of events any more: export into it anew")
        if asked is None:
            first = min((first for first, _ in unmet), default=today())
            last = max((last for _, last in unmet), default=first)
            asked = Asked(
                first, last, source, store.name, result.table, WORKERS, CHUNK_DAYS, "resume", LATE_DAYS,
                None, None, None, Spool(), source.events, source.where,
            )  # fmt: skip
        asked = replace(asked, **{"mode": "resume", **given})
        if asked.credentials is None:
            asked = replace(asked, credentials=Credentials.from_environment())
        assert asked.credentials is not None
        asked = replace(asked, source=Source(asked.credentials.project_id, source.events, source.where))
        asked = replace(asked, workers=whole_number("workers", asked.workers, 1, MAX_WORKERS))
    except BaseException:
        store.close()
        raise

    def make_plan(cursor: DuckDBPyConnection, held: Sequence[HeldBatch]) -> tuple[list[Batch], list[HeldBatch]]:
        # Once more, now that nobody else can begin to fetch them.
        return planning.plan_again(result._selection.unmet_ranges(cursor), held)

    return (start_export if background else run_export)(
        asked, lambda: store, make_plan=make_plan, whole=result.from_date is None
    )
