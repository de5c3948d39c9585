"""What a user may write: every public name of mpnb, each with the type that a checker should know. It is not run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import assert_type

import duckdb
import pandas
import polars
from duckdb import DuckDBPyConnection, DuckDBPyRelation

import mpnb
from mpnb.sandbox import BAD_LINES, Fault, Request, Sandbox, serve


def calls(mine: DuckDBPyConnection) -> None:
    """Plan, export, start, open, drop."""
    assert_type(mpnb.__version__, str)
    quota = mpnb.Quota(per_hour=120, per_second=5, concurrent=10)
    spool = mpnb.Spool(Path("spool"), max_bytes=10**9)
    credentials = mpnb.Credentials("me", "secret", 42, region="eu", base_url=None)
    plan = mpnb.plan("30 days ago", "yesterday", chunk_days="auto", quota=quota)
    assert_type(plan, mpnb.ExportPlan)
    result = mpnb.export(
        "2026-01-01", date(2026, 1, 31), events=["Sign Up", "Purchase"], where="true", database=mine, table="events",
        workers=3, chunk_days=7, mode="refresh", late_days=5, on_batch=heard, credentials=credentials, quota=quota,
        spool=spool, memory="2GB",
    )  # fmt: skip
    assert_type(result, mpnb.ExportResult)
    assert_type(mpnb.start("2026-01-01", "2026-01-31", database=Path("x.duckdb")), mpnb.ExportJob)
    assert_type(mpnb.open("x.duckdb", table="events", credentials=credentials), mpnb.ExportResult)
    assert_type(mpnb.export("yesterday", "today", credentials=[credentials]), mpnb.ExportResult)
    assert_type(mpnb.drop("events", database="x.duckdb"), int)
    assert_type(mpnb.forget_person(["id"], database="x.duckdb", identities="exported"), dict[str, int])
    assert_type(mpnb.check("2026-01-01", "yesterday", table="events", late_days=3).ok, bool)
    found = mpnb.status("x.duckdb")
    assert_type(found, mpnb.Status)
    assert_type(found.tables, tuple[mpnb.TableStatus, ...])
    assert_type((found.database, found.bytes, found.log_bytes), tuple[str, int | None, int | None])
    assert_type(
        (found.quota_project, found.quota_left, found.quota_per_hour), tuple[str | None, int | None, int | None]
    )
    assert_type(found.relation, DuckDBPyRelation)
    for one in found.tables:
        assert_type((one.name, one.kind, one.project_id, one.is_running), tuple[str, str, str, bool])
        assert_type((one.from_date, one.to_date, one.last_export), tuple[date | None, date | None, datetime | None])
        assert_type((one.rows, one.days_held, one.days_missing), tuple[int, int, int])
        assert_type((one.days_failed, one.days_provisional), tuple[int, int])
    synced = mpnb.sync("mpnb.toml", wait=timedelta(minutes=10), on_table=print)
    assert_type((synced, synced.ok), tuple[mpnb.Sync, bool])
    for ended in synced.tables:
        assert_type(ended, mpnb.Synced)
        assert_type((ended.table, ended.database, ended.kind, ended.message), tuple[str, str, str, str])
        assert_type((ended.status, ended.rows, ended.new_rows), tuple[str, int, int])
        assert_type((ended.failed_batches, ended.seconds), tuple[int, float])
    assert_type(mpnb.split_date_range("2026-01-01", "2026-01-31", 7), list[tuple[date, date]])
    mpnb.panel(from_date="2026-01-01")
    mpnb.explore(result, event="Purchase")
    mpnb.load_ipython_extension, mpnb.unload_ipython_extension  # noqa: B018 # pyright: ignore[reportUnusedExpression]


def options(credentials: mpnb.Credentials, quota: mpnb.Quota, spool: mpnb.Spool) -> None:
    """Read what options hold."""
    assert_type(credentials.username, str)
    assert_type(credentials.secret, str)
    assert_type(credentials.project_id, str)
    assert_type(credentials.region, str)
    assert_type(credentials.base_url, str | None)
    assert_type((credentials.host, credentials.query_host), tuple[str, str])
    assert_type(mpnb.Credentials.from_environment(), mpnb.Credentials)
    assert_type(mpnb.Credentials.from_environment("EU", environ={}), mpnb.Credentials)
    assert_type(credentials.may_travel, bool)
    assert_type((quota.per_hour, quota.per_second, quota.concurrent), tuple[int, int, int])
    assert_type(spool.max_bytes, int | None)
    assert_type(spool.path_of("spool"), Path)
    print(spool.folder)


def heard(batch: mpnb.BatchProgress) -> None:
    """Hear of one batch."""
    assert_type((batch.index, batch.total, batch.rows, batch.bytes), tuple[int, int, int, int])
    assert_type((batch.from_date, batch.to_date), tuple[date, date])
    assert_type((batch.attempt, batch.rejected), tuple[int, int])
    assert_type((batch.status, batch.hint), tuple[str, str])
    assert_type((batch.error, batch.kind), tuple[str | None, str | None])
    assert_type((batch.until, batch.http_status), tuple[float | None, int | None])
    assert_type((batch.seconds, batch.label, batch.project_id), tuple[float, str, str])
    assert_type((batch.page, batch.is_again), tuple[int | None, bool])


def planned(plan: mpnb.ExportPlan, batch: mpnb.Batch, held: mpnb.HeldBatch) -> None:
    """Read a plan."""
    assert_type((plan.from_date, plan.to_date), tuple[date, date])
    assert_type(plan.batches, tuple[mpnb.Batch, ...])
    assert_type(plan.held, tuple[mpnb.HeldBatch, ...])
    assert_type(plan.days_held, tuple[date, ...])
    assert_type(plan.days_provisional, tuple[date, ...])
    assert_type(plan.widened, tuple[date, ...])
    assert_type((plan.quota_left, plan.per_hour, plan.requests, plan.hours_waiting), tuple[int, int, int, int])
    assert_type(plan.notes, tuple[str, ...])
    assert_type(plan.projects, Mapping[str, mpnb.ExportPlan])
    assert_type((batch.from_date, batch.to_date), tuple[date, date])
    assert_type((batch.days, batch.most_parts), tuple[int, int])
    assert_type((batch.key, batch.label), tuple[str, str])
    assert_type(batch.replaces, tuple[int, ...])
    assert_type(batch.page, object | None)
    assert_type((held.batch_id, held.rows, held.lost), tuple[int, int, int])
    assert_type((held.from_date, held.to_date, held.is_gone), tuple[date, date, bool])
    print(held.requested_at.isoformat())


async def waited(job: mpnb.ExportJob) -> mpnb.ExportResult:
    """Follow an export in the background."""
    assert_type((job.done(), job.cancelled()), tuple[bool, bool])
    progress = job.progress()
    assert_type(progress, mpnb.JobProgress)
    assert_type((progress.total, progress.rows, progress.bytes, progress.in_flight), tuple[int, int, int, int])
    assert_type(progress.counts, dict[str, int])
    assert_type(progress.elapsed, float)
    assert_type((progress.waiting_until, progress.seconds_left), tuple[float | None, float | None])
    assert_type(progress.waiting_for, str)
    assert_type((progress.finished, progress.ended), tuple[bool, int])
    assert_type(job.batches(clock=False), list[mpnb.BatchProgress])
    assert_type((job.version, job.quota_left), tuple[int, int])
    job.panel()
    job.cancel()
    assert_type(job.outcome(timeout=5), mpnb.ExportResult)
    assert_type(job.result(timeout=5), mpnb.ExportResult)
    return assert_type(await job, mpnb.ExportResult)


def answers(result: mpnb.ExportResult) -> None:
    """Ask a result."""
    with result as same:
        assert_type(same, mpnb.ExportResult)
    assert_type(result.table, str)
    assert_type((result.from_date, result.to_date), tuple[date | None, date | None])
    assert_type((result.total_rows, result.rows_outside, result.fetched_rows), tuple[int, int, int])
    assert_type((result.successful_batches, result.failed_batches), tuple[int, int])
    assert_type((result.cancelled_batches, result.skipped_batches), tuple[int, int])
    assert_type((result.rejected_lines, result.bytes, result.duration_seconds), tuple[int, int, float])
    assert_type(result.has_failures, bool)
    assert_type(result.failed_date_ranges, list[tuple[date, date]])
    assert_type(result.projects, Mapping[str, mpnb.ExportResult])
    assert_type(result.events, DuckDBPyRelation)
    assert_type(result.failures, DuckDBPyRelation)
    assert_type(result.batches, DuckDBPyRelation)
    assert_type(result.rejected, DuckDBPyRelation)
    assert_type(result.deduplicated(), DuckDBPyRelation)
    assert_type(result.duplicates(), DuckDBPyRelation)
    assert_type(result.event_names(), DuckDBPyRelation)
    assert_type(result.local_time("Europe/Berlin", project_timezone="UTC"), DuckDBPyRelation)
    assert_type(result.event("Purchase", columns=["amount"], deduplicated=True), DuckDBPyRelation)
    assert_type(result.event(["Purchase", "Sign Up"], materialize=False), DuckDBPyRelation)
    assert_type(result.catalog("Purchase", materialize=False), DuckDBPyRelation)
    assert_type(result.con, DuckDBPyConnection)
    assert_type(result.sql("SELECT 1"), DuckDBPyRelation)
    assert_type(result.df("Purchase", columns=["amount"]), pandas.DataFrame)
    assert_type(result.pl(result.events), polars.DataFrame)
    # pyarrow ships no types.
    result.arrow(["Purchase"], deduplicated=True, materialize=False)  # pyright: ignore[reportUnknownMemberType]
    assert_type(result.to_parquet("folder", "Purchase", partition_by="amount", columns=["amount"]), Path)
    polars.DataFrame(result)
    result.forget_typed()
    checked(result.check(late_days=3))
    shown(result.calendar(late_days=3))
    assert_type(result.retry(workers=3, on_batch=heard), mpnb.ExportResult)
    assert_type(result.start_retry(quota=mpnb.Quota(per_hour=120), spool=None, credentials=None), mpnb.ExportJob)
    result.raise_for_failures()
    result.close()


def people(credentials: mpnb.Credentials, quota: mpnb.Quota) -> None:
    """Plan, export and start an export of profiles, and ask the result."""
    plan = mpnb.plan_profiles(cohort=7, mode="refresh")
    assert_type(plan, mpnb.ProfilesPlan)
    assert_type((plan.table, plan.is_held), tuple[str, bool])
    assert_type((plan.age, plan.profiles, plan.pages), tuple[timedelta | None, int | None, int | None])
    assert_type((plan.goes_on, plan.quota_left, plan.per_hour), tuple[int, int, int])
    assert_type(plan.hours_if_pages_count, int | None)
    job = mpnb.start_profiles(group="-123", workspace=5, database="x.duckdb", table="groups")
    assert_type(job, mpnb.ProfilesJob)
    assert_type(job.result(timeout=5), mpnb.ProfilesResult)
    result = mpnb.export_profiles(
        where="true", properties=["plan"], workers=3, page_size=1000, max_age=timedelta(0), on_batch=heard,
        credentials=credentials, quota=quota, spool=None,
    )  # fmt: skip
    with result as same:
        assert_type(same, mpnb.ProfilesResult)
    assert_type((result.table, result.has_failures), tuple[str, bool])
    assert_type((result.total_rows, result.fetched_rows, result.bytes), tuple[int, int, int])
    assert_type((result.successful_batches, result.failed_batches, result.cancelled_batches), tuple[int, int, int])
    assert_type(result.duration_seconds, float)
    print(result.taken_at)
    assert_type(result.profiles, DuckDBPyRelation)
    assert_type(result.as_of("yesterday"), DuckDBPyRelation)
    assert_type(result.failures, DuckDBPyRelation)
    assert_type(result.pages, DuckDBPyRelation)
    assert_type(result.rejected, DuckDBPyRelation)
    assert_type(result.typed(["plan"]), DuckDBPyRelation)
    assert_type(result.catalog(), DuckDBPyRelation)
    assert_type(result.con, DuckDBPyConnection)
    assert_type(result.sql("SELECT 1"), DuckDBPyRelation)
    assert_type(result.df(["plan"]), pandas.DataFrame)
    assert_type(result.pl(), polars.DataFrame)
    result.arrow()  # pyright: ignore[reportUnknownMemberType]
    checked(result.check())
    try:
        assert_type(result.retry(workers=2), mpnb.ProfilesResult)
        result.raise_for_failures()
    except (mpnb.ProfilesError, mpnb.ProfilesCancelled) as error:
        assert_type(error.result, mpnb.ProfilesResult)
    result.close()


def checked(check: mpnb.Check) -> None:
    """Read a report."""
    assert_type(check.ok, bool)
    assert_type(check.calendar, mpnb.Calendar | None)
    assert_type(check.relation, DuckDBPyRelation)
    for finding in check.findings:
        assert_type(finding, mpnb.Finding)
        assert_type((finding.name, finding.status, finding.count, finding.detail), tuple[str, str, int, str])


def shown(calendar: mpnb.Calendar) -> None:
    """Read a calendar."""
    assert_type((calendar.words, calendar.call, calendar.svg), tuple[str, str, str])
    assert_type(calendar.events_elsewhere, int)
    assert_type(calendar.relation, DuckDBPyRelation)
    for each in calendar.days:
        assert_type(each, mpnb.CalendarDay)
        assert_type((each.day, each.state, each.events), tuple[date, str, int])
        assert_type((each.usual, each.is_unusual), tuple[float | None, bool])


def reports(result: mpnb.ExportResult) -> None:
    """Count people."""
    events = result.event(["Sign Up", "Purchase"])
    assert_type(
        mpnb.analysis.funnel(events, ["Sign Up", ("Purchase", "amount > 10")], window=timedelta(days=7)),
        DuckDBPyRelation,
    )
    assert_type(mpnb.analysis.retention(events, "Sign Up", "Purchase", unit="week"), DuckDBPyRelation)
    assert_type(mpnb.analysis.segmentation(events, by=["country"], measure="users"), DuckDBPyRelation)
    picture = mpnb.analysis.picture(mpnb.analysis.sessions(events))
    assert_type(picture, mpnb.analysis.Picture)
    assert_type((picture.title, picture.words, picture.svg, picture.html), tuple[str, str, str, str])
    assert_type(mpnb.analysis.chart(mpnb.analysis.sessions(events)), mpnb.analysis.Chart)
    mpnb.set_zone("events", "Europe/Berlin", database=result.con)
    assert_type(result.for_analysis(["Purchase"], ["amount"], identities="exported", zone="UTC"), DuckDBPyRelation)
    assert_type(result.identities(), DuckDBPyRelation)
    assert_type(result.event("Purchase", types={"amount": "DOUBLE", "plan": None}), DuckDBPyRelation)
    assert_type(result.misfits("Purchase"), DuckDBPyRelation)
    assert_type(result.create_views("typed"), DuckDBPyRelation)
    assert_type(mpnb.analysis.flows(events, "Sign Up", direction="before"), DuckDBPyRelation)
    assert_type(mpnb.analysis.lifecycle(events, "week"), DuckDBPyRelation)
    assert_type(mpnb.analysis.first_touch(events, "utm_source"), DuckDBPyRelation)
    assert_type(mpnb.analysis.features(events, "2026-02-01", counts=["Purchase"], sums=["amount"]), DuckDBPyRelation)
    assert_type(mpnb.analysis.sessions(events, timedelta(minutes=10)), DuckDBPyRelation)


def faults() -> None:
    """Catch each error by its name."""
    try:
        mpnb.export("2026-01-01", "2026-01-31")
    except (mpnb.DatabaseBusyError, mpnb.MissingPackageError):
        raise
    except (mpnb.CredentialsError, mpnb.DatabaseError, mpnb.TableError) as error:
        assert_type(error.argument, str | None)
    except mpnb.PlanError as error:
        assert_type(error.argument, str | None)
    except (mpnb.ExportError, mpnb.ExportCancelled) as error:
        assert_type(error.result, mpnb.ExportResult)
    except (mpnb.ClosedError, mpnb.MpnbError, duckdb.Error):
        raise


def sandbox() -> None:
    """Serve made-up events."""
    with serve(events_per_day=500, faults=[Fault("reset", day="2026-01-03")]) as mp:
        assert_type(mp, Sandbox)
        assert_type(mp.credentials, mpnb.Credentials)
        assert_type((mp.url, mp.project_id), tuple[str, str])
        assert_type(mp.requests, tuple[Request, ...])
        assert_type(mp.injected, Counter[str])
        assert_type(mp.lines(date(2026, 1, 1)), tuple[bytes, ...])
        assert_type(mp.bad_lines(date(2026, 1, 1)), tuple[bytes, ...])
        assert_type(mp.count(date(2026, 1, 1), date(2026, 1, 2)), int)
        assert_type(mp.profiles(), tuple[bytes, ...])
        mp.add_fault(Fault("bad_lines", lines=BAD_LINES))
        mp.clear_faults()
        mp.close()
