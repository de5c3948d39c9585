"""Who exports in the campaign: mpnb, and a naive client that has to be caught."""

from __future__ import annotations

import contextlib
import json
import warnings
from pathlib import Path
from typing import Protocol

import httpx

import mpnb
from mpnb import _layout as layout
from mpnb import _ledger as ledger
from mpnb._store import Store, run
from tests.campaign._case import Case

QUOTA = mpnb.Quota(per_hour=10**6, per_second=1000)


class Client(Protocol):
    """Do one step of a case, and leave the file closed."""

    def __call__(self, step: str, case: Case, credentials: mpnb.Credentials, database: Path) -> None: ...


def real(step: str, case: Case, credentials: mpnb.Credentials, database: Path) -> None:
    """Export with mpnb."""
    spool = mpnb.Spool(database.parent / "spool", case.spool_bytes)
    jobs: list[mpnb.ExportJob] = []
    seen = 0

    def on_batch(progress: mpnb.BatchProgress) -> None:
        nonlocal seen
        seen += 1
        if step == "cancel" and seen == case.cancel_after:
            jobs[0].cancel()

    options = {"on_batch": on_batch, "credentials": credentials, "quota": QUOTA, "spool": spool}
    try:
        if step == "reopen":
            with mpnb.open(database) as there:
                there.retry(workers=case.workers, **options).close()
            return
        ask = {"events": case.names, "database": database, "workers": case.workers, "chunk_days": case.chunk_days}
        if step == "cancel":
            mode = "refresh" if case.cancel_after % 2 else "resume"
            job = _started(case, jobs, mode=mode, **ask, **options)
            job.result().close()
            return
        mode = "refresh" if step == "refresh" else "resume"
        result = mpnb.export(case.from_date, case.to_date, mode=mode, **ask, **options)
        try:
            if step == "retry":
                result.retry().close()
        finally:
            result.close()
    except (mpnb.ExportError, mpnb.ExportCancelled) as error:
        error.result.close()


def _started(case: Case, jobs: list[mpnb.ExportJob], **options: object) -> mpnb.ExportJob:
    # on_batch may run before start() has returned: it finds the job in the list.
    on_batch = options.pop("on_batch")
    held: list[mpnb.BatchProgress] = []

    def later(progress: mpnb.BatchProgress) -> None:
        if not jobs:
            held.append(progress)
            return
        for each in (*held, progress):
            on_batch(each)  # type: ignore[operator]
        held.clear()

    job = mpnb.start(case.from_date, case.to_date, on_batch=later, **options)  # type: ignore[arg-type]
    jobs.append(job)
    return job


def naive(step: str, case: Case, credentials: mpnb.Credentials, database: Path) -> None:
    """
    Export as others do: any answer is an answer, what parses is kept, an attempt goes on where the last one broke.

    It differs from mpnb in nothing but care: the same table, the same ledger, one transaction a batch.
    """
    source = ledger.Source(credentials.project_id, case.names)
    with contextlib.closing(Store(database)) as store, store.reading() as cursor:
        layout.create(cursor, "events")
        plan = mpnb.plan(
            case.from_date, case.to_date, database=database, chunk_days=case.chunk_days, events=case.names,
            credentials=credentials, quota=QUOTA,
        )  # fmt: skip
        ids = ledger.register(cursor, export_id="naive", table="events", source=source, batches=plan.batches)
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
            ledger.landed(cursor, "events", [ledger.Arrival(batch_id, batch, len(lines), 0, 0, 1, None)])
            run(cursor, "COMMIT")


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
