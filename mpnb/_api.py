"""``export``, ``start``, ``plan`` and ``open``: from a call to a plan, a job and a result."""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Literal

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
from mpnb._exporting.result import ExportResult
from mpnb._fetching.limiter import RateLimiter, limiter_for
from mpnb._fetching.route import Route, route_to
from mpnb._fetching.spool import SpoolFolder
from mpnb._mixpanel.credentials import Credentials
from mpnb._mixpanel.quota import Quota
from mpnb._planning import plan as planning
from mpnb._planning.batches import Batch, Calendar, HeldBatch, Mode, losses, overlapping, ranges_of
from mpnb._planning.options import Spool
from mpnb._planning.plan import ExportPlan
from mpnb._planning.request import MAX_WORKERS, Asked, Database, OnBatch, Source, check, check_helpers, check_table_name
from mpnb._planning.states import Outcome, outcome_of
from mpnb._reading.offset import day_lag
from mpnb._reading.selection import Selection
from mpnb._showing import progress as _progress
from mpnb._storing import ledger
from mpnb._storing import tables as layout
from mpnb._storing.database import MEMORY, Store, check_database, check_path
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


def plan(
    from_date: date | str,
    to_date: date | str,
    *,
    events: str | Iterable[str] | None = None,
    where: str | None = None,
    database: Database = "mixpanel.duckdb",
    table: str = "events",
    workers: int = 10,
    chunk_days: int | Literal["auto"] = 7,
    mode: Mode = "resume",
    late_days: int = 5,
    on_batch: OnBatch | None = None,
    credentials: Credentials | None = None,
    quota: Quota | None = None,
    spool: Spool | None = None,
) -> ExportPlan:
    """
    Show what ``export`` with the same arguments would do. It sends nothing and writes nothing.

    Without credentials it plans all the same, as if the hour's quota were whole.

    Raises:
        PlanError: as ``export``.
    """
    asked = check(
        from_date, to_date, events, where, database, table, workers, chunk_days, mode, late_days, on_batch,
        credentials, quota, spool, needs_credentials=False,
    )  # fmt: skip
    if asked.credentials is not None:
        route_to(asked.credentials.host)
    limiter = _limiter(asked)
    with _existing(asked.database) as store:
        if store is None:
            return _plan(asked, Known(), limiter)
        with store.reading() as cursor:
            layout.check(cursor, store.label)
            known = _known(cursor, asked)
            _check_table(cursor, asked, store, known)
            return _plan(asked, known, limiter)


def start(
    from_date: date | str,
    to_date: date | str,
    *,
    events: str | Iterable[str] | None = None,
    where: str | None = None,
    database: Database = "mixpanel.duckdb",
    table: str = "events",
    workers: int = 10,
    chunk_days: int | Literal["auto"] = 7,
    mode: Mode = "resume",
    late_days: int = 5,
    on_batch: OnBatch | None = None,
    credentials: Credentials | None = None,
    quota: Quota | None = None,
    spool: Spool | None = None,
) -> ExportJob:
    """
    Start an export in the background and return at once.

    Arguments and errors are those of ``export``. ``on_batch`` is called in one thread of its own, one call at a time.
    """
    asked = check(
        from_date, to_date, events, where, database, table, workers, chunk_days, mode, late_days, on_batch,
        credentials, quota, spool,
    )  # fmt: skip
    return _start(asked, lambda: Store(asked.database))


def export(
    from_date: date | str,
    to_date: date | str,
    *,
    events: str | Iterable[str] | None = None,
    where: str | None = None,
    database: Database = "mixpanel.duckdb",
    table: str = "events",
    workers: int = 10,
    chunk_days: int | Literal["auto"] = 7,
    mode: Mode = "resume",
    late_days: int = 5,
    on_batch: OnBatch | None = None,
    credentials: Credentials | None = None,
    quota: Quota | None = None,
    spool: Spool | None = None,
) -> ExportResult:
    """
    Fetch the events of a range of days into a DuckDB table, and wait until that is done.

    Args:
        from_date, to_date: first and last day, both inclusive, in UTC: a ``date``, ``"YYYY-MM-DD"``, ``"today"``,
            ``"yesterday"`` or ``"30 days ago"``. A ``to_date`` after today is cut at today, with a warning.
        events: a name of the events to fetch, or several, as a list, set, array or Series; ``None`` for all.
        where: Mixpanel's own filter expression, such as ``'properties["$os"] == "iOS"'``.
        database: a path on this machine, where ``~`` is the home folder, ``":memory:"``, or an open DuckDB connection,
            which may go on being used meanwhile. Its tables are in its current database and schema, as at the call.
        table: the table of events, made where it is missing. One table takes one project, ``events`` and ``where``.
        workers: requests at once, 1–100.
        chunk_days: days a batch, 1–100: one request, one row of the ledger, there whole or not. ``"auto"`` takes the
            smallest that fits what is left of the hour's quota.
        mode: ``"resume"`` fetches the days that the table does not hold, those asked for before they had ended, and,
            once, those asked for fewer than ``late_days`` days after their end, when these days are over;
            ``"refresh"`` fetches all days again, each batch in place of its old rows; ``"new"`` wants an empty table.
        late_days: for how many days after a day events of it may still arrive, 0 or more. What arrives later, and
            users who are merged later, only ``"refresh"`` brings.
        on_batch: called with a ``BatchProgress`` at every change of a batch's state, in the calling thread, one call
            at a time. What it raises is reported once as a warning. Without it, progress shows: as a live grid in a
            notebook, else on standard error.
        credentials: of a service account; without, ``MP_USERNAME``, ``MP_SECRET``, ``MP_PROJECT_ID``, and if set
            ``MP_REGION`` and ``MP_API_BASE_URL``, from the environment.
        quota: what the project was granted, for projects with more than Mixpanel's usual.
        spool: where downloaded bodies wait to be written, and how many bytes of them.

    Returns:
        The result. Batches that failed do not stop the others: ``result.failures`` lists them, ``result.retry()``
        fetches them again.

    Raises:
        PlanError: an argument cannot work; nothing was sent. ``CredentialsError``, ``DatabaseError`` and
            ``TableError`` are of its kind.
        ExportError: no batch is done, empty or skipped; it carries the result.
        KeyboardInterrupt: it was interrupted. What had landed is kept, and the same call goes on from there.
    """
    asked = check(
        from_date, to_date, events, where, database, table, workers, chunk_days, mode, late_days, on_batch,
        credentials, quota, spool,
    )  # fmt: skip
    return _run(asked, lambda: Store(asked.database))


def open_database(
    database: Database = "mixpanel.duckdb", *, table: str | None = None, credentials: Credentials | None = None
) -> ExportResult:
    """
    Read what is in a database already: all days of a table. It sends nothing and needs no credentials.

    Args:
        database: a path, ``":memory:"`` or an open DuckDB connection.
        table: the table of events; needed only where the database has several.
        credentials: for ``retry()``; without, those of the environment at that moment.

    Raises:
        DatabaseError: there is no database, or another process holds it.
        TableError: it has no such table of events, or several to choose from.
    """
    if table is not None:
        check_table_name(table)
    check_helpers(credentials=credentials)
    store = Store(database, create=False)
    try:
        _bring_up_to_date(store)
        with store.reading() as cursor:
            name = ledger.table_named(cursor, table, store.label)
        return ExportResult(
            store=store,
            selection=Selection(name),
            outcome=Outcome(),
            retry=lambda result, options, background: _retry(
                result, None, {"credentials": credentials, **options}, background
            ),
            call="db",
        )
    except BaseException:
        store.close()
        raise


def _bring_up_to_date(store: Store) -> None:
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


# --- from a plan to a job ------------------------------------------------------------------------------------------


def _check_table(cursor: DuckDBPyConnection, asked: Asked, store: Store, known: Known) -> None:
    if asked.source is not None:
        ledger.check_source(cursor, asked.table, asked.source)
    layout.check_events(cursor, store.label, asked.table)
    rows = sum(h.rows for h in known.held)
    if asked.mode == "new" and rows:
        raise TableError(
            f"table {asked.table!r} has {rows:,} events, and mode='new' wants an empty one: "
            "pass another table=, or mode='resume' or 'refresh'"
        )


def _limiter(asked: Asked) -> RateLimiter:
    if asked.credentials is None:
        return RateLimiter(asked.quota or Quota())
    return limiter_for(asked.credentials.host, asked.credentials.project_id, asked.quota)


def _known(cursor: DuckDBPyConnection, asked: Asked) -> Known:
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


def _plan(asked: Asked, known: Known, limiter: RateLimiter) -> ExportPlan:
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


@contextlib.contextmanager
def _existing(database: Database) -> Iterator[Store | None]:
    """Open a database for reading where there is one, and see that one could be made where there is none."""
    if not isinstance(database, DuckDBPyConnection) and (name := check_database(database)) != MEMORY:
        path = Path(name).absolute()
        if not path.exists():
            check_path(path, create=True)
            yield None
            return
    with contextlib.closing(Store(database)) as store:
        yield store


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
    limiter = _limiter(asked)
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
                        retry=lambda result, options, background: _retry(result, asked, options, background),
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
    known = _known(cursor, asked)
    _check_table(cursor, asked, store, known)
    batches: Sequence[Batch]
    kept: Sequence[HeldBatch]
    if make_plan is not None:
        batches, kept = make_plan(cursor, known.held)
    else:
        plan = _plan(asked, known, limiter)
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


def _start(asked: Asked, open_store: Callable[[], Store], **more: Any) -> ExportJob:
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


def _run(asked: Asked, open_store: Callable[[], Store], **more: Any) -> ExportResult:
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


def _retry(
    result: ExportResult, asked: Asked | None, options: dict[str, Any], background: bool
) -> ExportResult | ExportJob:
    """Fetch what is unmet of a result's days, each batch as it was, on the same database."""
    allowed = ("workers", "on_batch", "credentials", "quota", "spool")
    for name in options:
        if name not in allowed:
            raise TypeError(f"retry() takes {', '.join(allowed)}, not {name!r}")
    given = {name: value for name, value in options.items() if value is not None}
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
                first, last, source, store.name, result.table, 10, 7, "resume", 5, None, None, None, Spool(),
                source.events, source.where,
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

    return (_start if background else _run)(asked, lambda: store, make_plan=make_plan, whole=result.from_date is None)
