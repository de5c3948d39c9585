"""The outcome of an export in one sentence."""

from __future__ import annotations

from collections.abc import Sequence

from mpnb._base.sql import run
from mpnb._base.text import plural
from mpnb._message import SAME_CALL, Argument, Message, Phrase
from mpnb._mixpanel.failures import Failure, known_hint
from mpnb._planning.dates import in_words
from mpnb._planning.states import Outcome
from mpnb._reading.reader import Reader
from mpnb._storing.database import MEMORY, Store


def failed(readers: Sequence[Reader], outcome: Outcome, call: str, halted_by: Failure | None) -> str:
    """
    Return a sentence on the batches that failed, and what to do.

    Args:
        call: the variable that holds the result, as it is known.
        halted_by: the fault that ended the export, since every batch would have met it.
    """
    store = readers[0].store
    if halted_by is not None:
        return Message(f"the export stopped because every batch would fail: {halted_by}. ", halted_by.hint)
    if store.closed:
        count = outcome.failed_batches + outcome.cancelled_batches
        return f"{count:,} {plural(count, 'batch', 'batches')} failed; this result was closed: {store.afterwards}"
    missing = " UNION ALL ".join(f"FROM ({reader.failures()})" for reader in readers)
    query = (
        "SELECT kind, first(message ORDER BY from_date ASC), first(http_status ORDER BY from_date ASC),"
        " first(hint ORDER BY from_date ASC), count(*), sum(count(*)) OVER ()::BIGINT"
        f" FROM ({missing}) GROUP BY kind ORDER BY count(*) DESC, kind ASC LIMIT 1"
    )
    with store.reading() as cursor:
        rows = run(cursor, query)
        unnoted = sorted({days for reader in readers for days in reader.selection.unnoted_ranges(cursor)})
    if not rows:
        if unnoted:
            return Message(
                f"{in_words(unnoted)}: not in {store.label}; run ", SAME_CALL, " again to fetch what is missing"
            )
        return "nothing failed"
    kind, message, status, hint, most, count = rows[0]
    why = Failure(kind, message, http_status=status)
    kept = (
        f"Finished batches are kept in {store.label}"
        if any(reader.has_landed() for reader in readers)
        else "No batch was finished"
    )
    return Message(
        f"{count:,} {plural(count, 'batch', 'batches')} failed, {most:,} of them by {kind}: {why}. ",
        known_hint(hint),
        f" {kept}",
        Phrase("the rest", f"; {call}.failures lists the rest"),
    )


def stopped(store: Store, outcome: Outcome, *, closing: bool) -> str:
    """
    Return a sentence on what a cancelled export left undone.

    Args:
        closing: whether the database is about to be closed.
    """
    done = outcome.successful_batches + outcome.skipped_batches
    line = f"cancelled: {done:,} of {done + outcome.failed_batches + outcome.cancelled_batches:,} batches "
    if closing and store.name == MEMORY:
        return Message(f"{line}were in memory, and are gone; a file as ", Argument("database", ""), " would keep them")
    return Message(f"{line}are in {store.label}; run ", SAME_CALL, " again to fetch the rest")
