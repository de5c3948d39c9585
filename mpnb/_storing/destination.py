"""Where batches land, as those see it who bring them: they know nothing of DuckDB."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from mpnb._fetching.fetched import Fetched, Group, Lost, Task
from mpnb._mixpanel.failures import Failure
from mpnb._planning.batches import Batch, HeldBatch


class WriteError(Exception):
    """A batch could not be written; nothing of it is there."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(str(failure))
        self.failure = failure


@dataclass(frozen=True, slots=True)
class Landed:
    """
    What a batch has become.

    Attributes:
        status: ``done`` or ``empty``.
        rows: how many are there of it.
        rejected: how many of its lines are no records.
    """

    status: str
    rows: int
    rejected: int


class Destination(Protocol):
    """
    Take the batches of one export. ``tests/contracts`` holds what every implementation must do.

    ``held``, ``admission`` and ``admit`` are for the caller's thread, ``land`` to ``split`` and ``release`` for the
    writer's, ``settle`` and ``finish`` for the coordinator's once the writer has ended; any thread may call the rest.
    """

    def held(self) -> Sequence[HeldBatch]:
        """Return the batches that are there."""

    def admission(self) -> AbstractContextManager[None]:
        """
        Let nobody else begin an export into the same place within the block. What is admitted there is kept at its end.

        Whatever the block raises, nothing of it is left. Raises ``TableError`` where an export is under way already.
        """

    def admit(self, batches: Sequence[Batch], forget: Sequence[int]) -> list[int]:
        """Enter batches that are to be fetched, and return their ids; forget others by theirs. Within ``admission``."""

    def leave(self) -> None:
        """Let others begin: this export is over, or did not take place."""

    def land(self, items: Sequence[Fetched]) -> list[Landed]:
        """Write batches, all or none. Raises ``WriteError``."""

    def can_join(self, item: Fetched) -> bool:
        """Return whether a batch may be written at once with others."""

    def land_joined(self, items: Sequence[Fetched]) -> list[Landed] | None:
        """Write batches at once, all or none; ``None`` where they are to be written one by one."""

    def note(self, lost: Lost) -> bool:
        """Note a batch that failed. Returns whether that could be kept."""

    def split(self, task: Task) -> tuple[list[tuple[Batch, int]], Group | None]:
        """
        Put smaller batches in place of one that is too large.

        Returns:
            They and their ids, none where it cannot be split or noted; and their group, if they land together.
        """

    def interrupt(self) -> None:
        """Stop what is written now, and begin nothing else."""

    def release(self) -> None:
        """Let go of what writing needs."""

    def settle(self, ends: Sequence[tuple[str, Lost]], status: str, why: Failure) -> dict[int, Landed]:
        """
        Note how the batches ended that did not land, and close the export's others with ``status`` and ``why``.

        Args:
            ends: of those that were tried or are not noted yet, each with its status.

        Returns:
            Those that have landed after all, by their index on the board.

        Raises:
            MpnbError: it cannot be written now. A second call is worth a try.
        """

    def finish(self, *, fold: bool) -> None:
        """Leave everything ready to be read; ``fold`` takes time to make it smaller and faster."""

    @property
    def lost(self) -> str | None:
        """Return why what has landed cannot be read now, ``None`` where it can."""
