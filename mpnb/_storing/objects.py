"""What a lake is kept in: objects that are written whole, and replaced only by whoever has seen what they replace."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from duckdb import DuckDBPyConnection


@dataclass(frozen=True, slots=True)
class Found:
    """
    An object that is there.

    Attributes:
        key: its name within the lake, with slashes.
        etag: another one whenever its content is.
    """

    key: str
    etag: str


@dataclass(frozen=True, slots=True)
class Over:
    """What an object may replace: the one of an ETag, none for ``None``."""

    etag: str | None


class Taken(Exception):
    """Another object is there than the one that may be replaced. Nothing was written."""


class ObjectsError(Exception):
    """
    Objects cannot be listed, read or written. The message is one line without secrets.

    Attributes:
        hint: what to do, one sentence.
    """

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class Objects(Protocol):
    """
    The objects of one lake. Any thread may call any method; all but ``address`` raise ``ObjectsError``.

    Attributes:
        label: where they are, for messages.
    """

    @property
    def label(self) -> str: ...

    def found(self, prefix: str) -> list[Found]:
        """Return the objects whose keys begin with a folder's name and a slash."""

    def look(self, key: str) -> Found | None:
        """Return an object if it is there."""

    def read(self, key: str) -> bytes | None:
        """Return the content of an object, ``None`` if it is not there."""

    def footers(self, keys: Iterable[str], scratch: Path) -> list[Path]:
        """Return, for each of some Parquet objects, a file that has at least its footer."""

    def put(self, key: str, content: Path | bytes, over: Over | None) -> str:
        """
        Write an object, whole or not at all, and return its ETag. A file may be moved away.

        Args:
            over: what it may replace; ``None`` for whatever is there.

        Raises:
            Taken: something else is there.
        """

    def delete(self, key: str) -> None:
        """Delete an object, if it is there."""

    def hold(self, name: str) -> Callable[[], None] | None:
        """Keep other processes from holding the same name, and return what lets go of it; ``None`` if it is held."""

    def scratch(self, name: str, within: Path | None = None) -> Path:
        """
        Return a new folder for files that ``put`` is given, which the caller deletes.

        Args:
            within: where it may be; without, in the system's temporary folder.
        """

    def address(self, key: str) -> str:
        """Return the name by which DuckDB reads an object, once ``register`` was called."""

    def register(self, cursor: DuckDBPyConnection) -> None:
        """Let a DuckDB instance read the objects."""
