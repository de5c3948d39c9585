"""What exports leave that did not end well: batches of processes that died, and pages that nobody goes on with."""

from __future__ import annotations

from duckdb import DuckDBPyConnection

from mpnb._base.sql import transaction
from mpnb._storing import ledger, snapshot
from mpnb._storing.running import entering, running


def settle(cursor: DuckDBPyConnection) -> None:
    """
    Mark as cancelled what a dead process left unfinished, and delete the pages of snapshots that were given up.

    A database that is open read-only stays as it is.
    """
    if not ledger.exists(cursor) or ledger.is_read_only(cursor):
        return
    with entering:
        ledger.settle_dead(cursor, running)
    if given_up := snapshot.given_up(cursor):
        with transaction(cursor):
            for table in given_up:
                snapshot.drop_staged(cursor, table)
