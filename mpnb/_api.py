"""The public calls: ``export``, ``start``, ``plan`` and ``open``, the same for profiles, ``check`` and ``status``."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import replace
from datetime import date, timedelta
from typing import Any, Literal, ParamSpec, TypeVar

from duckdb import DuckDBPyConnection

from mpnb._base.scalars import whole_number
from mpnb._errors import PlanError
from mpnb._exporting.handles import ExportJob, ExportResult, RetryOptions, export_call, make_result
from mpnb._exporting.launch import (
    Known,
    bring_up_to_date,
    check_table,
    known_of,
    limiter_of,
    plan_of,
    retry_export,
    run_export,
    start_export,
    tell_limiter,
)
from mpnb._exporting.people import (
    check_profiles_table,
    profiles_limiter,
    profiles_plan,
    run_profiles_export,
    start_profiles_export,
    tell_profiles_limiter,
)
from mpnb._exporting.places import existing, opened, place_of
from mpnb._exporting.profiles import ProfilesJob, ProfilesResult
from mpnb._exporting.projects import Part, make_projects_result
from mpnb._fetching.limiter import limiter_for
from mpnb._fetching.route import route_to
from mpnb._message import Argument
from mpnb._mixpanel.credentials import Credentials, missing_variables
from mpnb._mixpanel.quota import Quota
from mpnb._planning import plan as planning
from mpnb._planning.batches import Mode
from mpnb._planning.options import DATABASE, LATE_DAYS, MAX_LATE_DAYS, TABLE, WORKERS, Spool
from mpnb._planning.people import MAX_AGE, PROFILES, ProfilesPlan, check_profiles
from mpnb._planning.people import WORKERS as PROFILES_WORKERS
from mpnb._planning.plan import ExportPlan
from mpnb._planning.request import Asked, Database, OnBatch, asked_days, check_helpers, check_table_name
from mpnb._planning.request import check as checked
from mpnb._planning.states import Outcome
from mpnb._reading import status as state
from mpnb._reading.check import Check
from mpnb._reading.reader import Reader
from mpnb._reading.selection import Selection
from mpnb._reading.status import Status
from mpnb._storing import ledger
from mpnb._storing import tables as layout
from mpnb._storing.database import Store

P = ParamSpec("P")
R = TypeVar("R")


def _takes_arguments_of(model: Callable[P, object]) -> Callable[[Callable[..., R]], Callable[P, R]]:
    """Make a function take the arguments of another, so that they stand once; it gets all of them, by name."""
    signature = inspect.signature(model)

    def decorate(function: Callable[..., R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **options: P.kwargs) -> R:
            try:
                bound = signature.bind(*args, **options)
            except TypeError as error:
                raise TypeError(f"{function.__name__}() {error}") from None
            bound.apply_defaults()
            return function(**bound.arguments)

        returned = function.__annotations__["return"]
        del call.__wrapped__  # whose signature pdoc would show
        call.__signature__ = signature.replace(return_annotation=returned)  # type: ignore[attr-defined]
        call.__annotations__ = {**model.__annotations__, "return": returned}
        return call

    return decorate


def export(
    from_date: date | str,
    to_date: date | str,
    *,
    events: str | Iterable[str] | None = None,
    where: str | None = None,
    database: str | os.PathLike[str] | DuckDBPyConnection = DATABASE,
    table: str = TABLE,
    workers: int = WORKERS,
    chunk_days: int | Literal["auto"] | None = None,
    mode: Mode = "resume",
    late_days: int = LATE_DAYS,
    destination: str | os.PathLike[str] | None = None,
    executor: Executor | None = None,
    on_batch: OnBatch | None = None,
    credentials: Credentials | Iterable[Credentials] | None = None,
    quota: Quota | None = None,
    spool: Spool | None = None,
    memory: int | str | None = None,
) -> ExportResult:
    """
    Fetch the events of a range of days into a DuckDB table, and wait until it is done.

    Args:
        from_date, to_date: first and last day, both inclusive, in UTC: a ``date``, ``"YYYY-MM-DD"``, ``"today"``,
            ``"yesterday"`` or ``"30 days ago"``. A ``to_date`` after today becomes today, with a warning.
        events: one event name, or several as a list, set, array or Series; ``None`` for all events.
        where: a filter expression in Mixpanel's syntax, such as ``'properties["$os"] == "iOS"'``.
        database: a path on this machine (``~`` is the home folder), ``":memory:"``, or an open DuckDB connection, which
            may be used during the export. Its tables go into its current database and schema at the time of the call.
        table: the events table, created if missing. A table belongs to one project, ``events`` and ``where``.
        workers: requests at once, 1–100. With several projects, they are divided among them, and each has one at least.
        chunk_days: days per batch, 1–100; by default 7, with ``destination`` 1. A batch is one request and one row of
            the ledger, and is stored as a whole or not at all. ``"auto"`` picks the smallest number whose requests fit
            the rest of the hour's quota.
        mode: ``"resume"`` fetches the days that the table does not hold, those asked for before they had ended, and,
            once, those asked for fewer than ``late_days`` days after their end, when these days are over;
            ``"refresh"`` fetches all days again and replaces the old rows, batch by batch; ``"new"`` requires an empty
            table.
        late_days: for how many days after a day its events may still arrive, 0 or more. Events that arrive later, and
            users who are merged later, are fetched by ``"refresh"`` only.
        destination: a lake in place of a database: a folder, or the URL of one in an object store, ``s3://``, ``gs://``
            or ``az://``. Each day of a project becomes one Parquet object, ``project_id=P/date=D/events.parquet``, put
            whole and only where nobody else has stored that day meanwhile. Object stores take the package's extra
            ``lake``, and their settings from the environment.
        executor: whose workers fetch the days and put them into the lake, in processes or on machines of their own: a
            ``concurrent.futures.Executor`` such as a ``ProcessPoolExecutor`` that spawns, loky's, or Dask's
            ``client.get_executor(pure=False)``. A task is one request, submitted once the quota allows it, and carries
            the credentials by the name that ``Credentials.from_environment`` read them under. ``workers`` should be the
            number of tasks that it runs at once. If a worker ends, its batch is fetched again, as after any failed
            attempt. If the executor is broken, or begins no task for five minutes, the export ends and keeps what
            there is.
        on_batch: called with a ``BatchProgress`` at every change of a batch's state, in the calling thread, one call
            at a time. Its exceptions are reported once, as a warning. Without it, progress is shown as a live grid in
            a notebook, else on standard error.
        credentials: the service account to use; default: ``MP_USERNAME``, ``MP_SECRET``, ``MP_PROJECT_ID``, and
            optionally ``MP_REGION`` and ``MP_API_BASE_URL``, from the environment. Several, as a list or any other
            iterable of up to 100, one a project, export all of these projects side by side, each within its own quota
            and into a table of its own, whose name is ``table``, ``_`` and the project's number.
        quota: the limits of a project, of each if there are several, to which Mixpanel has granted more than the usual
            ones.
        spool: the folder and the size limit for downloads that wait to be written.
        memory: how much the whole process may use, in bytes or as ``"2GB"``, at least 300 MB. Default: 600 MB on a
            machine, or in a container, of up to 4 GB, and a quarter of a larger one's. With more, DuckDB gets more
            threads and has room for large events. Events of many kilobytes may take more than this.

    Returns:
        The result. A failed batch does not stop the others: ``result.failures`` lists what failed, and
        ``result.retry()`` fetches it again.

    Raises:
        PlanError: an argument is invalid, and nothing was sent. ``CredentialsError``, ``DatabaseError`` and
            ``TableError`` are subclasses.
        ExportError: no batch is done, empty or skipped; it carries the result.
        KeyboardInterrupt: Ctrl-C was pressed. Batches that are written stay, and the same call continues from there.
    """
    asked = checked(**locals())
    return run_export(asked, place_of(asked).open)


@_takes_arguments_of(export)
def start(**arguments: Any) -> ExportJob:
    """
    Start an export in the background and return at once.

    It takes the arguments of ``export`` and raises the same errors. ``on_batch`` is called in a thread of its own, one
    call at a time.
    """
    asked = checked(**arguments)
    return start_export(asked, place_of(asked).open)


@_takes_arguments_of(export)
def plan(**arguments: Any) -> ExportPlan:
    """
    Return what ``export`` would do with the same arguments. Sends nothing and writes nothing.

    It works without credentials too, and then assumes that none of the hour's quota is used.

    Raises:
        PlanError: as for ``export``.
    """
    asked = checked(**arguments, needs_credentials=False)
    with place_of(asked).existing() as store:
        plans = [_plan_of_one(one, store) for one in asked.each]
    if not asked.projects:
        return plans[0]
    return planning.combined({each.project_id: plan for each, plan in zip(asked.projects, plans, strict=True)})


def _plan_of_one(asked: Asked, store: Store | None) -> ExportPlan:
    """Return the plan for one project, given the database if there is one."""
    if asked.credentials is not None:
        route_to(asked.credentials.host)
    limiter = limiter_of(asked)
    if store is None:
        return plan_of(asked, Known(), limiter)
    with store.reading() as cursor:
        layout.check(cursor, store.label)
        tell_limiter(limiter, cursor, asked)
        known = known_of(cursor, asked)
        check_table(cursor, asked, store, known)
        plan = plan_of(asked, known, limiter)
        if ledger.exists(cursor) and ledger.running_exports(cursor, asked.table):
            plan = replace(plan, notes=(*plan.notes, f"An export into table {asked.table!r} is running."))
        return plan


def open(
    place: str | os.PathLike[str] | DuckDBPyConnection | None = None,
    /,
    *,
    database: str | os.PathLike[str] | DuckDBPyConnection | None = None,
    table: str | None = None,
    credentials: Credentials | None = None,
) -> ExportResult:
    """
    Open an existing database or lake and return a result over all days of a table.

    Sends nothing to Mixpanel, and needs none of its credentials.

    Args:
        place: a database, by its path or an open DuckDB connection, ``mixpanel.duckdb`` if nothing is passed; or a
            lake, by its folder or URL. The events of a lake have the columns ``project_id`` and ``date`` besides, and a
            table for each project, ``events_P``. It is read as it is now: open it again to see what others have stored
            since.
        database: of a lake, where its ledger is kept, and what is made of its events, such as the tables of
            ``event()``: a path, made if it is missing, ``":memory:"`` or an open DuckDB connection; default: a
            temporary file, which goes when the result is closed. Opened again, it reads what has changed in the lake.
            Without ``place``, the database to open; one that is kept for a lake opens that.
        table: the events table; required only if a database has several. Without it, a lake is read with all its
            projects.
        credentials: the service account for ``retry()``; default: the environment's at the time of that call.

    Raises:
        DatabaseError: there is no database, or another process has it open.
        TableError: it has no such events table, or has several and ``table`` is not given; ``database`` has events of
            its own, or is kept for another lake.
        PlanError: a lake cannot be read, or ``database`` is passed with something else than a lake.
    """
    if table is not None:
        check_table_name(table)
    check_helpers(credentials=credentials)
    store = opened(DATABASE if database is None else database) if place is None else opened(place, database)
    try:
        bring_up_to_date(store)

        def retry(result: ExportResult, options: RetryOptions, background: bool) -> Any:
            options = replace(options, credentials=options.credentials or credentials)
            return retry_export(None, result, options, background)

        with store.reading() as cursor:
            tables = ledger.tables_of(cursor) if store.lake and table is None else []
            if len(tables) < 2:
                name = ledger.table_named(cursor, table, store.label)
                return make_result(Reader(store, Selection(name)), Outcome(), retry, call="db")
        parts = {
            name.removeprefix(f"{TABLE}_"): Part(Reader(store, Selection(name)), Outcome(), retry, "db", LATE_DAYS)
            for name in tables
        }
        return make_projects_result(TABLE, parts, Outcome(), _retry_each)
    except BaseException:
        store.close()
        raise


def _retry_each(result: ExportResult, options: RetryOptions, background: bool) -> Any:
    """Refuse to retry the projects of a lake together: each has a service account of its own."""
    raise PlanError("retry each project by itself: db.projects['123'].retry(credentials=…), by the project's number")


def export_profiles(
    *,
    where: str | None = None,
    properties: str | Iterable[str] | None = None,
    cohort: int | None = None,
    group: str | int | None = None,
    database: str | os.PathLike[str] | DuckDBPyConnection = DATABASE,
    table: str = PROFILES,
    workers: int = PROFILES_WORKERS,
    page_size: int | Literal["auto"] = "auto",
    workspace: str | int | None = None,
    mode: Mode = "resume",
    max_age: timedelta = MAX_AGE,
    history: bool = False,
    on_batch: OnBatch | None = None,
    credentials: Credentials | None = None,
    quota: Quota | None = None,
    spool: Spool | None = None,
    memory: int | str | None = None,
) -> ProfilesResult:
    """
    Fetch the profiles of a project into a DuckDB table, whole or not at all, and wait until it is done.

    Pages are fetched side by side into a staging table. When all are there, the first is read again, and the table is
    replaced in one transaction if each page had as many profiles as it must have, no id came twice, there are as many
    as Mixpanel said, and the first page has the same people still. Otherwise all is fetched again, once; if it does not
    fit together then, the table stays as it was. Not seen is a profile that went while another came, behind the first
    page: a third may be missing then.

    Args:
        where: a filter expression in Mixpanel's syntax, such as ``'properties["plan"] == "pro"'``.
        properties: names of the only properties to fetch; ``None`` for all.
        cohort: number of a cohort whose people's profiles to fetch.
        group: number of a group key (``data_group_id``), for the profiles of its groups.
        database: a path on this machine (``~`` is the home folder), ``":memory:"``, or an open DuckDB connection.
        table: the table, created if missing, replaced otherwise. A table belongs to one project, ``where``,
            ``properties``, ``cohort``, ``group`` and ``workspace``.
        workers: requests at once, 1–100; Mixpanel allows 5.
        page_size: profiles per page, 1–1,000,000. ``"auto"`` asks for 10,000, and does without if that is refused.
        workspace: number of the Data View to see the project through.
        mode: ``"resume"`` sends no request while the table's profiles are younger than ``max_age``, and goes on with
            the pages that a stopped or failed call has left; ``"refresh"`` fetches all again; ``"new"`` requires an
            empty table.
        max_age: how old profiles may be, counted from the request for their first page.
        history: whether to keep earlier versions of each profile, in a table of the same name with ``_history`` behind
            it, for ``result.as_of(day)``. It begins with the snapshot that is there, and goes on with every later one,
            also of calls without ``history``, until ``mpnb.drop()``. What is deleted in Mixpanel, under privacy law or
            not, stays in it: ``mpnb.forget_person()`` deletes it there.
        on_batch: called with a ``BatchProgress`` at every change of a page's state, in the calling thread. Its
            ``from_date`` and ``to_date`` are the day on which the call began, and ``label`` names the page.
        credentials: the service account to use; default: from the environment, as for ``export``.
        quota: the limits of a project to which Mixpanel has granted more than 60 queries an hour and 5 at once. The
            first page takes a place in the hour; further ones do not, until Mixpanel says that they do.
        spool: the folder and the size limit for downloads that wait to be written.
        memory: how much the whole process may use, as for ``export``.

    Returns:
        The result, with the profiles.

    Raises:
        PlanError: an argument is invalid, and nothing was sent. ``CredentialsError``, ``DatabaseError`` and
            ``TableError`` are subclasses.
        ProfilesError: the profiles could not be fetched whole, and the table is as it was; it carries the result.
        KeyboardInterrupt: Ctrl-C was pressed. The table is as it was, and the same call goes on from there.
    """
    asked = check_profiles(**locals())
    return run_profiles_export(asked, lambda: Store(asked.database))


@_takes_arguments_of(export_profiles)
def start_profiles(**arguments: Any) -> ProfilesJob:
    """
    Start an export of profiles in the background and return at once.

    It takes the arguments of ``export_profiles`` and raises the same errors, except ``ProfilesError``, which
    ``job.result()`` raises. ``on_batch`` is called in a thread of its own, one call at a time.
    """
    asked = check_profiles(**arguments)
    return start_profiles_export(asked, lambda: Store(asked.database))


@_takes_arguments_of(export_profiles)
def plan_profiles(**arguments: Any) -> ProfilesPlan:
    """
    Return what ``export_profiles`` would do with the same arguments. Sends nothing and writes nothing.

    It works without credentials too, and then assumes that none of the hour's quota is used.

    Raises:
        PlanError: as for ``export_profiles``.
    """
    asked = check_profiles(**arguments, needs_credentials=False)
    if asked.credentials is not None:
        route_to(asked.credentials.query_host)
    limiter = profiles_limiter(asked)
    with existing(asked.database) as store:
        if store is None:
            return profiles_plan(asked, None, limiter)
        with store.reading() as cursor:
            layout.check(cursor, store.label)
            check_profiles_table(cursor, asked, store)
            tell_profiles_limiter(limiter, cursor, asked)
            return profiles_plan(asked, cursor, limiter)


# --- what is there -------------------------------------------------------------------------------------------------


def check(
    from_date: date | str | None = None,
    to_date: date | str | None = None,
    *,
    database: str | os.PathLike[str] | DuckDBPyConnection = DATABASE,
    table: str | None = None,
    late_days: int = LATE_DAYS,
) -> Check:
    """
    Check that tables have these days whole, and that they are what their ledger says. Sends nothing; reads all events.

    Args:
        from_date, to_date: first and last day, both inclusive, in UTC, as ``export`` takes them; without them, every
            day from the first to the last that an export ever asked for. Profiles have no days.
        database: a path, an open DuckDB connection, or a lake, by its folder or URL.
        table: of events or of profiles; default: every table of events, such as those of several projects.
        late_days: for how many days after a day its events may still arrive; days that were requested earlier than that
            are provisional.

    Returns:
        A report, which does not need the database any more. ``.ok`` is true if every day asked for is held and nothing
        is wrong; days that are provisional, and duplicates, are notes and do not change it.

    Raises:
        PlanError: an argument is invalid.
        DatabaseError: there is no database; it is a ``DatabaseBusyError`` where another process has it open.
        TableError: it has no such table, or none of events.
    """
    if (from_date is None) != (to_date is None):
        name = "to_date" if to_date is None else "from_date"
        raise PlanError(Argument(name), " is missing: pass both days, or none for all that the table knows")
    days = None if from_date is None or to_date is None else asked_days(from_date, to_date)[:2]
    if table is not None:
        check_table_name(table)
    late = whole_number("late_days", late_days, 0, MAX_LATE_DAYS)
    with up_to_date(database) as store:
        return state.checked(store, table, days, late, export_call)


def status(database: str | os.PathLike[str] | DuckDBPyConnection = DATABASE) -> Status:
    """
    Return what a database has: its tables, their days, what failed, and what is left of the hour's quota.

    Sends nothing and reads no events. The quota is that of the project in the environment's credentials, if there are
    any, as far as this machine knows; see ``Status``.

    Raises:
        DatabaseError: there is no database; it is a ``DatabaseBusyError`` where another process has it open.
        CredentialsError: the environment has credentials that cannot be meant, such as a wrong region.
    """
    with up_to_date(database) as store, store.reading() as cursor:
        found = Status(store.label, *store.sizes(), state.tables(cursor, LATE_DAYS))
        if missing_variables():
            return found
        credentials = Credentials.from_environment()
        limiter = limiter_for(credentials.host, credentials.project_id, None)
        limiter.learn(ledger.requests_of(cursor, credentials.project_id))
    return replace(
        found,
        quota_project=credentials.project_id,
        quota_left=limiter.left(),
        quota_per_hour=limiter.quota.per_hour,
    )


# --- from a plan to a job ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def up_to_date(database: Database) -> Iterator[Store]:
    """Open a database that is there, with what dead processes left behind settled."""
    with contextlib.closing(opened(database)) as store:
        bring_up_to_date(store)
        yield store
