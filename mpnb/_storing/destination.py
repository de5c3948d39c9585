"""The contract between an export and the place where batches land. It knows nothing of DuckDB."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from mpnb._fetching.fetched import Fetched, Group, Lost, Task
from mpnb._mixpanel.failures import Failure
from mpnb._planning.batches import Batch, HeldBatch


class WriteError(Exception):
    """A batch could not be written, and nothing of it is stored."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(str(failure))
        self.failure = failure


class Unfit(Exception):
    """What landed does not fit together, so that nothing of it is kept."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(str(failure))
        self.failure = failure


@dataclass(frozen=True, slots=True)
class Landed:
    """
    The result of writing a batch.

    Attributes:
        status: ``done`` or ``empty``.
        rows: number of its rows in the table.
        rejected: number of its lines that are not records.
        further: batches that its answer calls for, admitted together with it, with their ids.
    """

    status: str
    rows: int
    rejected: int
    further: tuple[tuple[Batch, int], ...] = ()


class Destination(Protocol):
    """
    The place where the batches of one export land. ``tests/contracts`` tests what every implementation must do.

    ``held``, ``admission`` and ``admit`` are for the caller's thread, ``land`` to ``begin_anew`` and ``release`` for
    the writer's, ``settle`` and ``finish`` for the coordinator's once the writer has ended; any thread may call the
    rest.
    """

    def held(self) -> Sequence[HeldBatch]:
        """Return the batches that are stored."""

    def admission(self) -> AbstractContextManager[None]:
        """
        Keep other exports into the same place from beginning within the block; at its end, commit what was admitted.

        If the block raises, nothing of it is kept. Raises ``TableError`` if an export is running already.
        """

    def admit(self, batches: Sequence[Batch], forget: Sequence[int]) -> list[int]:
        """Enter batches to be fetched, and return their ids; forget batches by id. Within ``admission``."""

    def leave(self) -> None:
        """Allow other exports again: this one is over or did not begin."""

    def land(self, items: Sequence[Fetched]) -> list[Landed]:
        """Write batches, all or none. Raises ``WriteError``."""

    @property
    def hides(self) -> bool:
        """Whether nobody can read what lands before the last batch has."""

    def can_join(self, item: Fetched) -> bool:
        """Whether a batch may be written together with others."""

    def land_joined(self, items: Sequence[Fetched]) -> list[Landed] | None:
        """Write batches together, all or none; ``None`` if they must be written one by one."""

    def note(self, lost: Lost) -> bool:
        """Record a batch that failed. Return whether the record could be written."""

    def split(self, task: Task) -> tuple[list[tuple[Batch, int]], Group | None]:
        """
        Replace a batch that is too large by smaller ones.

        Returns:
            The smaller batches with their ids, or none if the batch cannot be split or recorded; and their group, if
            they land together.
        """

    def begin_anew(self, task: Task) -> list[tuple[Batch, int]]:
        """
        Forget what this export has stored, since a batch showed that it is of no use, and admit what it begins with.

        Returns:
            The batches with their ids, or none if it cannot begin again: then nothing is forgotten.
        """

    def interrupt(self) -> None:
        """Stop the current write, and begin no other."""

    def release(self) -> None:
        """Release what writing needs."""

    def settle(self, ends: Sequence[tuple[str, Lost]], status: str, why: Failure) -> dict[int, Landed]:
        """
        Record how batches ended that did not land, and close the export's others with ``status`` and ``why``.

        Args:
            ends: the end of each batch that was tried or is not recorded yet, with its status.

        Returns:
            Batches that have landed after all, by their index on the board.

        Raises:
            MpnbError: the records cannot be written now. A second call may succeed.
        """

    def finish(self, *, fold: bool) -> None:
        """Make everything ready to be read; ``fold`` also makes it smaller and faster, which takes time."""

    @property
    def lost(self) -> str | None:
        """Return why stored batches cannot be read now, or ``None`` if they can."""
