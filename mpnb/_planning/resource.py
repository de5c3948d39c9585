"""What is requested from Mixpanel: the request for a batch, what counts as a record, the rows that records become."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mpnb._mixpanel import export_api
from mpnb._mixpanel.export_api import Columns
from mpnb._mixpanel.failures import Failure
from mpnb._planning.batches import Batch, HeldBatch, make_batches
from mpnb._planning.dates import DAY
from mpnb._planning.request import Source


class Owner(Protocol):
    """Whose records they are, and which of them: what the ledger has of a source."""

    @property
    def project_id(self) -> str: ...

    @property
    def event_filter(self) -> str | None: ...

    @property
    def where(self) -> str | None: ...


class Request(Protocol):
    """
    One HTTP request, and how its answer is read.

    Attributes:
        method: ``GET`` or ``POST``.
        target: path and query.
        content: of a ``POST``, a form.
        keys: of each record, which begins with the first, where the answer is a JSON document with the records in a
            list; ``None`` where it is lines of records.
        is_in_session: whether it goes on with what an earlier request began: it takes no place in the hour's quota,
            unless Mixpanel says so.
        days: the first and the last day of the records, ``YYYY-MM-DD``; ``None`` where they have no days.
    """

    @property
    def method(self) -> str: ...

    @property
    def target(self) -> str: ...

    @property
    def content(self) -> bytes: ...

    @property
    def keys(self) -> tuple[str, str] | None: ...

    @property
    def is_in_session(self) -> bool: ...

    @property
    def days(self) -> tuple[str, str] | None: ...

    def params(self) -> dict[str, str]:
        """Return the parameters, wherever they are sent."""

    def refused(self, status: int, body: bytes, retry_after: str | None, *, now: float) -> Failure:
        """Return the failure for an answer that has no records, by its status and its first kilobytes."""


class Resource(Protocol):
    """
    One kind of record. ``tests/contracts`` tests what every implementation must do.

    Attributes:
        source: whose records they are. A table has one source alone.
        columns: of its table, in order, as name and SQL type; the last is ``batch_id``.
        keys: of a line, which is a JSON object: its ``head`` and ``body``. Lines with further keys are kept whole as
            well.
        ids: the columns of ids of persons.
        is_record: condition for lines that are records, by ``head`` and ``body``, both JSON. All others are rejected.
    """

    @property
    def source(self) -> Owner: ...

    @property
    def columns(self) -> Columns: ...

    @property
    def keys(self) -> tuple[str, str]: ...

    @property
    def ids(self) -> tuple[str, ...]: ...

    @property
    def is_record(self) -> str: ...

    def request(self, batch: Batch) -> Request:
        """Return the request for a batch."""

    def fault(self, batch: Batch, lines: int, envelope: Mapping[str, Any] | None) -> Failure | None:
        """
        Return what is wrong with a whole answer, or ``None`` if nothing is.

        Args:
            lines: number of its records.
            envelope: what it said besides them, if it was a document.
        """

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

    @property
    def ids(self) -> tuple[str, ...]:
        """Return the columns of ids of persons."""
        return export_api.IDS

    @property
    def is_record(self) -> str:
        """Return the condition for events: a name, and an object. The type of JSON shows in the first character."""
        return export_api.IS_RECORD

    def request(self, batch: Batch) -> export_api.Request:
        """Return the request for the events of some days."""
        source = self.source
        first, last = batch.from_date.isoformat(), batch.to_date.isoformat()
        return export_api.Request(first, last, source.project_id, source.events, source.where)

    def fault(self, batch: Batch, lines: int, envelope: Mapping[str, Any] | None) -> Failure | None:
        """Return ``None``: nothing says how many events there are."""
        return None

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
