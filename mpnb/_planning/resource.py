"""What is requested from Mixpanel: the request for a batch, what counts as a record, the rows that records become."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mpnb._mixpanel import export_api
from mpnb._mixpanel.export_api import Columns, Request
from mpnb._planning.batches import Batch, HeldBatch, make_batches
from mpnb._planning.dates import DAY
from mpnb._planning.request import Source


class Resource(Protocol):
    """
    One kind of record. ``tests/contracts`` tests what every implementation must do.

    Attributes:
        source: whose records they are. A table has one source alone.
        columns: of its table, in order, as name and SQL type; the last is ``batch_id``.
        keys: of a line, which is a JSON object: the first has a text, the second an object. Every other line is
            rejected; lines with further keys are kept whole as well.
    """

    @property
    def source(self) -> Source: ...

    @property
    def columns(self) -> Columns: ...

    @property
    def keys(self) -> tuple[str, str]: ...

    def request(self, batch: Batch) -> Request:
        """Return the request for a batch."""

    def parts(self, batch: Batch, held: Sequence[HeldBatch]) -> tuple[list[Batch], bool]:
        """
        Return the smaller batches that replace a batch which is too large.

        Args:
            held: what the table holds of it.

        Returns:
            Smaller batches, none where it cannot be split; and whether they land together or not at all.
        """

    def rows(self, lines: str) -> str:
        """Return the SELECT that makes rows of ``lines``, a query for columns ``head``, ``body`` and ``batch_id``."""


@dataclass(frozen=True, slots=True)
class Events:
    """The raw events of a project, by days: a ``Resource``."""

    source: Source

    @property
    def columns(self) -> Columns:
        """Return the columns of Mixpanel's own warehouse export, and ``batch_id``."""
        return export_api.COLUMNS

    @property
    def keys(self) -> tuple[str, str]:
        """Return the JSON keys of an event's line."""
        return export_api.KEYS

    def request(self, batch: Batch) -> Request:
        """Return the request for the events of some days."""
        source = self.source
        first, last = batch.from_date.isoformat(), batch.to_date.isoformat()
        return Request(first, last, source.project_id, source.events, source.where)

    def parts(self, batch: Batch, held: Sequence[HeldBatch]) -> tuple[list[Batch], bool]:
        """
        Return one batch a day. A batch that replaces one of the ledger is split as a group, which lands as a whole.

        Where one such batch is all there is, it is too large by itself: its days are fetched one by one, and replace it
        together.
        """
        replaced = [h for h in held if h.batch_id in batch.replaces]
        days, _ = make_batches([(batch.from_date, batch.to_date)], replaced, lambda _: True, 1)
        if len(days) > 1 or batch.days == 1:
            return (days if len(days) > 1 else []), False
        first = Batch(batch.from_date, batch.from_date, days[0].replaces)
        rest = [batch.from_date + DAY * n for n in range(1, batch.days)]
        return [first, *(Batch(day, day) for day in rest)], True

    def rows(self, lines: str) -> str:
        """Return the SELECT that turns lines into events."""
        return export_api.rows(lines)
