"""Profiles from checked arguments to a job: how a snapshot begins, goes on and ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

from duckdb import DuckDBPyConnection

from mpnb._base.clock import utc_now
from mpnb._base.sql import transaction
from mpnb._errors import TableError
from mpnb._exporting.board import BatchBoard
from mpnb._exporting.callbacks import Callbacks
from mpnb._exporting.handles import RetryOptions
from mpnb._exporting.launch import Order, launched, ran, started
from mpnb._exporting.places import check_empty
from mpnb._exporting.profiles import ProfilesJob, ProfilesResult, make_profiles_job, make_profiles_result, stopped_line
from mpnb._fetching.fetched import Task
from mpnb._fetching.limiter import RateLimiter, limiter_for
from mpnb._message import Argument
from mpnb._mixpanel.engage_api import COLUMNS, FAMILY, PAGE_SIZE
from mpnb._planning.options import memory_of
from mpnb._planning.people import USUAL, ProfilesAsked, ProfilesPlan
from mpnb._planning.profiles import Profiles, first_page
from mpnb._planning.request import check_helpers
from mpnb._planning.states import PROFILES, outcome_of
from mpnb._reading.reader import Reader
from mpnb._reading.selection import Selection
from mpnb._showing import progress as _progress
from mpnb._storing import snapshot as snapshots
from mpnb._storing import tables as layout
from mpnb._storing import versions
from mpnb._storing.database import Store
from mpnb._storing.snapshot import STAGED_FOR, Publishing, Snapshot, published, staging
from mpnb._storing.table import Table


def profiles_limiter(asked: ProfilesAsked) -> RateLimiter:
    """Return the limiter of the project's queries, or one without a project if there are no credentials."""
    if asked.credentials is None:
        return RateLimiter(asked.quota or USUAL)
    host, project = asked.credentials.query_host, asked.credentials.project_id
    return limiter_for(host, project, asked.quota, family=FAMILY, usual=USUAL)


def tell_profiles_limiter(limiter: RateLimiter, cursor: DuckDBPyConnection, asked: ProfilesAsked) -> None:
    """Let a limiter know of the queries that the database tells of, as ``tell_limiter`` does."""
    if asked.source is not None:
        limiter.learn(snapshots.requests_of(cursor, asked.source.project_id))


def check_profiles_table(cursor: DuckDBPyConnection, asked: ProfilesAsked, store: Store) -> None:
    """Check that the table accepts what is asked for. Raises ``TableError``."""
    layout.check_records(cursor, store.label, asked.table, COLUMNS)
    if asked.history:
        layout.check_records(cursor, store.label, versions.history_of(asked.table), versions.COLUMNS)
    if asked.source is not None and (why := snapshots.check_source(cursor, asked.table, asked.source)):
        raise TableError(f"{why}: pass another ", Argument("table", ""), " or another ", Argument("database", ""))
    there = published(cursor, asked.table)
    check_empty(asked.table, asked.mode, there.rows if there else 0, "profiles")


def _held(asked: ProfilesAsked, there: Snapshot | None) -> bool:
    """Whether the snapshot of a table is young enough."""
    if there is None or asked.mode != "resume" or (asked.source and there.source != asked.source.as_text):
        return False
    age = utc_now() - there.requested_at
    # One of the future was dated by a clock that was ahead: its age is unknown.
    return timedelta(0) <= age < asked.max_age


def _going_on(asked: ProfilesAsked, known: Iterable[Snapshot]) -> Snapshot | None:
    """Return the snapshot whose pages are staged, if this call may go on with it."""
    if asked.mode != "resume" or asked.source is None:
        return None
    source, sizes = asked.source.as_text, (asked.asked_size, None)
    earliest = utc_now() - STAGED_FOR
    return next(
        (
            s
            for s in known
            if not s.is_published and s.source == source and s.asked_size in sizes and s.requested_at >= earliest
        ),
        None,
    )


def profiles_plan(asked: ProfilesAsked, cursor: DuckDBPyConnection | None, limiter: RateLimiter) -> ProfilesPlan:
    """Return the plan for what is asked, given the database if there is one."""
    known = snapshots.snapshots(cursor, asked.table) if cursor else []
    there = published(cursor, asked.table) if cursor else None
    staged = _going_on(asked, known)
    goes_on = 0
    if cursor and staged:
        left = snapshots.pages_left(cursor, asked.table, staged)
        goes_on = staged.session.pages - len(left) if left else 0
    latest = staged or there
    page_size = latest.session.page_size if latest else PAGE_SIZE
    pages = max(1, -(-latest.session.total // page_size)) if latest else None
    return ProfilesPlan(
        table=asked.table,
        age=utc_now() - there.requested_at if there else None,
        profiles=there.rows if there else None,
        is_held=_held(asked, there),
        pages=pages,
        goes_on=max(0, goes_on),
        quota_left=limiter.left(),
        per_hour=limiter.quota.per_hour,
    )


class _ProfilesLanding:
    """A snapshot of profiles, in a staging table until it is whole."""

    def __init__(self, asked: ProfilesAsked, resource: Profiles, limiter: RateLimiter) -> None:
        self._asked = asked
        self._limiter = limiter
        self._resource = resource
        self._snapshot_id = ""
        self._since = utc_now()

    def table(self, store: Store, export_id: str) -> Table:
        asked = self._asked
        with store.reading() as cursor:
            layout.check(cursor, store.label)
            going_on = _going_on(asked, snapshots.snapshots(cursor, asked.table))
        self._snapshot_id = going_on.id if going_on else export_id
        course = Publishing(asked.table, self._resource, export_id, self._snapshot_id, self._first)
        return Table(store, staging(asked.table), self._resource, export_id, course, shown=asked.table)

    @property
    def _first(self) -> Any:
        return first_page(utc_now().date(), self._asked.asked_size)

    def admitted(self, store: Store, table: Table, board: BatchBoard) -> list[Task]:
        asked = self._asked
        with store.reading() as cursor:
            check_profiles_table(cursor, asked, store)
            tell_profiles_limiter(self._limiter, cursor, asked)
            if asked.history:
                with transaction(cursor):
                    versions.begin(cursor, asked.table)
            there = published(cursor, asked.table)
            if there and _held(asked, there):
                self._snapshot_id = there.id
                return []
            staged = next((s for s in snapshots.snapshots(cursor, asked.table) if s.id == self._snapshot_id), None)
            batches = snapshots.pages_left(cursor, asked.table, staged) if staged else None
            if batches is None:
                batches = [self._first]
                with transaction(cursor):
                    snapshots.drop_staged(cursor, asked.table)
        ids = table.admit(batches, [])
        to_fetch = list(zip(batches, ids, strict=True))
        indexes = board.add([(batch, "queued", 0) for batch in batches], self._resource.source.project_id)
        return [Task(index, batch_id, batch) for index, (batch, batch_id) in zip(indexes, to_fetch, strict=True)]

    def result(self, store: Store, board: BatchBoard) -> ProfilesResult:
        p = board.progress()
        outcome = outcome_of(p.counts, rows=p.rows, rejected=0, size=p.bytes, seconds=p.elapsed)
        return make_profiles_result(
            Reader(store, Selection(self._asked.table)),
            outcome,
            partial(_retry, self._asked),
            wanted=self._snapshot_id,
            since=self._since,
        )


def _launch(
    asked: ProfilesAsked, open_store: Callable[[], Store], callbacks: Callbacks, *, in_background: bool
) -> ProfilesJob:
    assert asked.credentials is not None
    assert asked.source is not None
    resource = Profiles(asked.source, may_resize=asked.page_size == "auto")
    host, limiter = asked.credentials.query_host, profiles_limiter(asked)
    landing = _ProfilesLanding(asked, resource, limiter)
    order = Order(asked.credentials, host, limiter, resource, landing)
    run = launched(
        [order],
        open_store,
        callbacks,
        landing.result,
        spool=asked.spool,
        workers=asked.workers,
        memory=asked.memory,
        in_background=in_background,
    )
    return make_profiles_job(run)


def start_profiles_export(asked: ProfilesAsked, open_store: Callable[[], Store]) -> ProfilesJob:
    """Start an export of profiles in the background."""
    return started(lambda callbacks, **how: _launch(asked, open_store, callbacks, **how), asked.on_batch)


def run_profiles_export(asked: ProfilesAsked, open_store: Callable[[], Store]) -> ProfilesResult:
    """Run an export of profiles in the caller's thread, which runs the callbacks; Ctrl-C stops it."""
    show = _progress.Silent(asked.on_batch) if asked.on_batch else _progress.choose(records=PROFILES.records)
    return ran(lambda callbacks, **how: _launch(asked, open_store, callbacks, **how), show, stopped_line)


def _retry(
    asked: ProfilesAsked, result: ProfilesResult, options: RetryOptions, background: bool
) -> ProfilesResult | ProfilesJob:
    """Fetch the profiles of a result again, into the same database."""
    given: Mapping[str, Any] = options.given()
    check_helpers(**{name: value for name, value in given.items() if name not in ("workers", "memory")})
    store = result._store.share()
    asked = replace(asked, mode="resume", max_age=timedelta(0), **given)
    asked = replace(asked, memory=memory_of(asked.memory))
    way = start_profiles_export if background else run_profiles_export
    return way(asked, lambda: store)
