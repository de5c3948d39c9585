"""A batch while it is fetched, and what the fetching side passes to the writer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from mpnb._fetching.verify import Body
from mpnb._mixpanel.failures import Failure
from mpnb._planning.batches import Batch


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """
    Batches that are written in one transaction or not at all: together they replace one batch of the ledger.

    Attributes:
        size: how many they are.
    """

    size: int


@dataclass(slots=True, eq=False)
class Task:
    """
    A batch that has not ended yet. Owned by its worker, then by the writer.

    Attributes:
        index: place on the board.
        batch_id: in the ledger.
        group: what it is written together with, ``None`` for a batch by itself.
        attempts: requests so far.
        size: bytes that the latest of them received, compressed.
        started_at: when the latest of them began, in UTC.
        asked_once_more: whether an answer that is worth one more request had its one.
    """

    index: int
    batch_id: int
    batch: Batch
    group: Group | None = None
    attempts: int = 0
    size: int = 0
    started_at: datetime | None = None
    asked_once_more: bool = False


@dataclass(frozen=True, slots=True)
class Stored:
    """
    What a batch became that was stored where it was fetched, by a worker of an executor.

    Attributes:
        rows: number of its rows.
        rejected: number of its lines that are not records.
        kept_lines: number of its lines that are kept in an object beside.
        objects: key, ETag and number of rows of each of its objects.
    """

    rows: int
    rejected: int
    kept_lines: int
    objects: tuple[tuple[str, str, int], ...]


@dataclass(frozen=True, slots=True)
class Fetched:
    """
    A batch that arrived whole, as a verified spool file, ready to be written.

    Attributes:
        stored: what it became where it is written already, and has no file here.
    """

    task: Task
    path: Path
    body: Body
    stored: Stored | None = None


@dataclass(frozen=True, slots=True)
class Lost:
    """A batch that failed, to be recorded in the ledger. Other batches of its group that have arrived are dropped."""

    task: Task
    failure: Failure


@dataclass(frozen=True, slots=True)
class Anew:
    """
    A batch that failed so that nothing of the export is of use any more: it begins again, if it can.

    ``done`` is called in the writer's thread with the batches that it begins with and their ids, without any where it
    cannot begin again.
    """

    task: Task
    done: Callable[[list[tuple[Batch, int]]], object]


@dataclass(frozen=True, slots=True)
class Split:
    """
    A batch that is too large, to be replaced in the ledger by smaller ones.

    ``done`` is called in the writer's thread with the parts and their ids, without any where there is nothing to split,
    and with the group that they are where they are to be written together.
    """

    task: Task
    done: Callable[[list[tuple[Batch, int]], Group | None], object]
