"""The ledger: what is noted together is noted each for itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from datetime import datetime

import pytest
from duckdb import DuckDBPyConnection

from mpnb._base.sql import run
from mpnb._fetching.fetched import Lost, Task
from mpnb._mixpanel.failures import Failure
from mpnb._planning.batches import Batch
from mpnb._planning.request import Source
from mpnb._storing import ledger
from mpnb._storing import tables as layout
from mpnb._storing.database import LEDGER, Store
from mpnb._storing.ledger import Arrival
from tests._helpers import day

SOURCE = Source("1234567", None, None)
NO = Failure("http", "no", hint="")


def lose(cursor: DuckDBPyConnection, batch_ids: Iterable[int]) -> None:
    """Note batches as failed."""
    for batch_id in batch_ids:
        ledger.lost(cursor, "events", Lost(Task(0, batch_id, Batch(day(1), day(1))), NO), "failed")


def arrival(
    batch_id: int, batch: Batch, rows: int, rejected: int, size: int, attempts: int, at: datetime | None
) -> Arrival:
    """Say what a batch brought."""
    return Arrival(Task(0, batch_id, batch, attempts=attempts, started_at=at), rows, rejected, size)


def test_batches_that_land_together_keep_their_own_figures(database) -> None:
    """Each its rows, rejected lines, bytes, attempts and time; and each drops the failures that it makes up for."""
    with contextlib.closing(Store(database)) as store, store.reading() as cursor:
        layout.create(cursor, "events")

        def register(*batches: Batch) -> list[int]:
            return ledger.register(cursor, export_id="e", table="events", source=SOURCE, batches=batches)

        # Two batches make up for each of the first two failures, and a day of the third does not arrive.
        failed = register(*(Batch(day(first), day(last)) for first, last in ((1, 4), (11, 14), (20, 30))))
        lose(cursor, failed)
        batches = [Batch(day(first), day(last)) for first, last in ((10, 12), (13, 15), (20, 29), (3, 4), (1, 2))]
        ids = register(*batches)
        figures = [(5, 1, 500, 2, 1), (7, 0, 700, 1, 2), (0, 0, 20, 3, 3), (0, 2, 30, 4, 4), (1, 0, 9, 5, 5)]
        ledger.landed(
            cursor,
            "events",
            [
                arrival(number, batch, rows, rejected, size, attempts, datetime(2026, 1, date))
                for number, batch, (rows, rejected, size, attempts, date) in zip(ids, batches, figures, strict=True)
            ],
        )
        kept, *rows = run(
            cursor,
            "SELECT batch_id, status, rows, rejected, bytes, attempts, day(started_at), http_status, kind"
            f" FROM {LEDGER} ORDER BY batch_id",
        )
    statuses = ["done", "done", "empty", "done", "done"]
    assert rows == [(i, s, *f, 200, None) for i, s, f in zip(ids, statuses, figures, strict=True)]
    assert kept[:2] == (failed[2], "failed")


@pytest.mark.parametrize("order", [1, -1])
def test_only_what_arrived_since_makes_up_for_a_failure(database, order: int) -> None:
    """A day that was there before the failure is not what was wanted."""
    with contextlib.closing(Store(database)) as store, store.reading() as cursor:
        layout.create(cursor, "events")
        batches = [Batch(day(1), day(1)), Batch(day(2), day(2))][::order]
        ids = ledger.register(cursor, export_id="e", table="events", source=SOURCE, batches=batches)
        arrivals = [arrival(i, b, 1, 0, 1, 1, None) for i, b in zip(ids, batches, strict=True)]
        ledger.landed(cursor, "events", arrivals)
        [wanted] = ledger.register(
            cursor, export_id="f", table="events", source=SOURCE, batches=[Batch(day(1), day(2))]
        )
        lose(cursor, [wanted])
        # Whatever the clock says of when: it was set back meanwhile.
        cursor.execute(f"UPDATE {LEDGER} SET created_at = created_at - INTERVAL 1 year WHERE batch_id = {wanted}")
        ledger.landed(cursor, "events", arrivals)
        missing = run(cursor, f"FROM ({ledger.unmet_days(ledger.of_table('events'))}) ORDER BY day")
        assert missing == [(wanted, day(1)), (wanted, day(2))]


def test_failures_make_room_for_smaller_batches_of_the_same_days(database) -> None:
    """What is registered stands in for them; a failure with a day besides stays."""
    with contextlib.closing(Store(database)) as store, store.reading() as cursor:
        layout.create(cursor, "events")

        def register(*ranges: tuple[int, int]) -> list[int]:
            batches = [Batch(day(first), day(last)) for first, last in ranges]
            return ledger.register(cursor, export_id="e", table="events", source=SOURCE, batches=batches)

        failed = register((1, 7), (8, 14))
        lose(cursor, failed)
        new = register(*((n, n) for n in range(1, 14)))
        lose(cursor, new[3:4])
        missing = run(cursor, f"SELECT from_date, to_date FROM {LEDGER} WHERE status = 'failed' ORDER BY from_date")
    assert missing == [(day(4), day(4)), (day(8), day(14))]
