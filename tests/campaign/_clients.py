"""Who exports in the campaign: mpnb, and a naive client that has to be caught."""

from __future__ import annotations

import contextlib
import json
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Protocol

import httpx

import mpnb
from mpnb._base.sql import run
from mpnb._fetching.fetched import Task
from mpnb._planning.request import Source
from mpnb._storing import ledger
from mpnb._storing import tables as layout
from mpnb._storing.database import Store
from tests.campaign._case import Case

QUOTA = mpnb.Quota(per_hour=10**6, per_second=1000)
# What an export says whose result cannot be asked, since the disk failed for good.
UNREADABLE = "cannot be read now"
OnBatch = Callable[[mpnb.BatchProgress], object]


@dataclass(frozen=True, slots=True)
class Said:
    """
    Hold what an export said at its end.

    Attributes:
        has_result: whether there was one; what follows is of it.
        failed_days: all days of ``failed_date_ranges``, where ``has_failures``.
        problems: what ``check()`` found, missing days left out.
        told: first and last day and rows of the batches that ``on_batch`` was told are there, fetched by this call.
        refused: the error of a call that began nothing, or ended without a result.
        raised: the traceback of an exception that is none of mpnb's.
    """

    has_result: bool = False
    total_rows: int = 0
    events: int = 0
    failed_days: tuple[date, ...] = ()
    problems: tuple[str, ...] = ()
    told: tuple[tuple[date, date, int], ...] = ()
    refused: str = ""
    raised: str = ""

    @classmethod
    def of(cls, result: mpnb.ExportResult) -> Said:
        """Ask a result, and close it."""
        with result:
            days = tuple(
                first + timedelta(days=n)
                for first, last in (result.failed_date_ranges if result.has_failures else ())
                for n in range((last - first).days + 1)
            )
            [(events,)] = result.events.count("*").fetchall()
            problems = [f for f in result.check().findings if f.status == "problem" and f.name != "days missing"]
            return cls(True, result.total_rows, events, days, tuple(f"{f.name}: {f.detail}" for f in problems))


class Client(Protocol):
    """Do one step of a case, leave the file closed, and return what was said."""

    def __call__(
        self, step: str, case: Case, credentials: mpnb.Credentials, database: Path, hook: OnBatch | None = None
    ) -> Said: ...


def real(step: str, case: Case, credentials: mpnb.Credentials, database: Path, hook: OnBatch | None = None) -> Said:
    """Export with mpnb. ``hook`` is called with every progress."""
    latest: dict[int, mpnb.BatchProgress] = {}

    def note(progress: mpnb.BatchProgress) -> None:
        latest[progress.index] = progress
        if hook:
            hook(progress)

    said = _said(step, case, credentials, database, note)
    if step == "retry":  # two exports, with indexes of their own
        return said
    told = tuple((p.from_date, p.to_date, p.rows) for p in latest.values() if p.status in ("done", "empty"))
    return replace(said, told=told)


def _said(step: str, case: Case, credentials: mpnb.Credentials, database: Path, hook: OnBatch) -> Said:
    try:
        return Said.of(_result(step, case, credentials, database, hook))
    except (mpnb.ExportError, mpnb.ExportCancelled) as error:
        if UNREADABLE in str(error):
            return Said(refused=str(error))
        return _said_of_rest(error.result)
    except mpnb.MpnbError as error:
        return Said(refused=f"{type(error).__name__}: {error}")
    except KeyboardInterrupt as error:
        return Said(refused=f"KeyboardInterrupt: {error}")
    except Exception:
        return Said(raised=traceback.format_exc())


def _said_of_rest(result: mpnb.ExportResult) -> Said:
    try:
        return Said.of(result)
    except Exception:
        return Said(raised=traceback.format_exc())


def _result(step: str, case: Case, credentials: mpnb.Credentials, database: Path, hook: OnBatch) -> mpnb.ExportResult:
    jobs: list[mpnb.ExportJob] = []
    seen = 0

    def on_batch(progress: mpnb.BatchProgress) -> None:
        nonlocal seen
        seen += 1
        hook(progress)
        if step == "cancel" and seen >= case.cancel_after and jobs:
            jobs[0].cancel()

    spool = mpnb.Spool(database.parent / "spool", case.spool_bytes)
    options = {"on_batch": on_batch, "credentials": credentials, "quota": QUOTA, "spool": spool}
    if step == "reopen":
        with mpnb.open(database, table=case.table) as there:
            return there.retry(workers=case.workers, **options)
    ask = {
        "events": case.names,
        "database": database,
        "table": case.table,
        "workers": case.workers,
        "chunk_days": case.chunk_days,
        **options,
    }
    if step == "cancel":
        mode = "refresh" if case.cancel_after % 2 else "resume"
        jobs.append(mpnb.start(case.from_date, case.to_date, mode=mode, **ask))
        return jobs[0].result()
    mode = "refresh" if step == "refresh" else "resume"
    result = mpnb.export(case.from_date, case.to_date, mode=mode, **ask)
    if step == "retry":
        with result:
            return result.retry()
    return result


def naive(step: str, case: Case, credentials: mpnb.Credentials, database: Path, hook: OnBatch | None = None) -> Said:
    """
    Export as others do: any answer is an answer, what parses is kept, an attempt goes on where the last one broke.

    It differs from mpnb in nothing but care: the same table, the same ledger, one transaction a batch.
    """
    source = Source(credentials.project_id, case.names)
    with contextlib.closing(Store(database)) as store, store.reading() as cursor:
        layout.create(cursor, case.table)
        plan = mpnb.plan(
            case.from_date, case.to_date, database=database, chunk_days=case.chunk_days, events=case.names,
            credentials=credentials, quota=QUOTA,
        )  # fmt: skip
        ids = ledger.register(cursor, export_id="naive", table=case.table, source=source, batches=plan.batches)
        for batch, batch_id in zip(plan.batches, ids, strict=True):
            lines = _keep_what_parses(credentials, batch, case.names)
            run(cursor, "BEGIN")
            run(
                cursor,
                "INSERT INTO events SELECT j->>'$.event', NULL, p->>'/distinct_id', p->>'/$device_id', p->>'/$user_id',"
                " p->>'/$insert_id', p, ? FROM (SELECT j, j->'$.properties' AS p FROM"
                " (SELECT TRY_CAST(unnest(?::VARCHAR[]) AS JSON) AS j))",
                [batch_id, lines],
            )
            ledger.landed(cursor, case.table, [ledger.Arrival(Task(0, batch_id, batch), len(lines), 0, 0)])
            run(cursor, "COMMIT")
    return Said()


def _keep_what_parses(credentials: mpnb.Credentials, batch: mpnb.Batch, names: tuple[str, ...] | None) -> list[str]:
    params = {
        "from_date": str(batch.from_date),
        "to_date": str(batch.to_date),
        "project_id": credentials.project_id,
    } | ({"event": json.dumps(names)} if names else {})
    body = b""
    for _ in range(3):
        with contextlib.suppress(httpx.HTTPError), warnings.catch_warnings():
            with httpx.stream(
                "GET",
                f"{credentials.host}/api/2.0/export",
                params=params,
                auth=(credentials.username, credentials.secret),
                timeout=1.0,
                trust_env=False,
            ) as response:
                for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) > 4 << 20:
                        break
            break
    lines = []
    for line in body.splitlines():
        with contextlib.suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, dict) and "event" in event and isinstance(event.get("properties"), dict):
                lines.append(line.decode())
    return lines


CLIENTS: dict[str, Client] = {"real": real, "naive": naive}
