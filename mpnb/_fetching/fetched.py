"""What becomes of a batch that was fetched, for whoever writes it."""

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


@dataclass(frozen=True, slots=True)
class Fetched:
    """Hand a verified spool file over to the writer."""

    index: int
    batch_id: int
    batch: Batch
    path: Path
    body: Body
    attempts: int
    started_at: datetime | None
    group: Group | None = None


@dataclass(frozen=True, slots=True)
class Lost:
    """Hand a batch over that failed, to be noted in the ledger. What has arrived of its group is dropped."""

    index: int
    batch_id: int
    failure: Failure
    size: int
    attempts: int
    started_at: datetime | None
    group: Group | None = None


@dataclass(frozen=True, slots=True)
class Split:
    """
    Hand a batch over that is too large, to be replaced in the ledger by its days.

    ``done`` is called in the writer's thread with the parts and their ids, without any where there is nothing to split,
    and with the group that they are where they are to be written together.
    """

    batch_id: int
    batch: Batch
    done: Callable[[list[tuple[Batch, int]], Group | None], object]
