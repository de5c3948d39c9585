"""Settings of DuckDB while exports run: made by the first on an instance, set back by the last."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import duckdb
from duckdb import DuckDBPyConnection

from mpnb._errors import ClosedError

# Settings of the whole instance while an export runs on it, only where it was mpnb that opened it; those that this
# DuckDB does not know are left out. Measured with 2,000,000 events in 13 batches and 1,000,000 in 100.
SETTINGS = {
    # Leaves room for Python and ten workers under 600 MB, and has some for a row group of events of 1 kB a thread: with
    # 320 MB DuckDB moved some of them to its temporary file and back, for a tenth more CPU.
    "memory_limit": "'420MB'",
    # Each thread holds some dozens of megabytes, more with larger events: with eight, batches of 600 bytes an event had
    # no room in that limit. Two read 200,000 events a second, which is more than arrive.
    "threads": "2",
    # Row groups go to the file as they fill, not by fives: the memory of a large batch stays flat.
    "write_buffer_row_group_count": "1",
    # A checkpoint would merge the row groups of neighbouring batches by writing them again: 1.7 times the CPU and
    # twice the file.
    "max_vacuum_tasks": "0",
    # The default of 16 MB makes the file of many small batches a seventh larger, 256 MB holds as much in memory.
    "checkpoint_threshold": "'64MB'",
    "preserve_insertion_order": "false",
    # JSON is linked in; nothing may be fetched over the network.
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
}

Reading = Callable[[], AbstractContextManager[DuckDBPyConnection]]


class Instance:
    """
    Know whose settings an instance of DuckDB has, for all stores of this process that are open on its file.

    Any thread may call any method. ``reading`` lends a cursor of the calling store.

    Attributes:
        ours: whether it was mpnb that opened it. Whoever else did has settings of their own, which stay.
    """

    def __init__(self, *, ours: bool) -> None:
        self.ours = ours
        self._lock = threading.Lock()
        self._exports = 0  # that run on it
        self._unlimited = 0  # of those, the ones that need all the memory there is
        self._before: dict[str, str] = {}
        self._made: dict[str, str] = {}

    @contextlib.contextmanager
    def settings(self, reading: Reading) -> Iterator[None]:
        """Make what an export needs, and set back with the last export what nobody else has changed."""
        if not self.ours:
            yield
            return
        with self._lock:
            if not self._exports:
                with reading() as cursor:
                    self._make(cursor)
            self._exports += 1
        try:
            yield
        finally:
            with self._lock:
                self._exports -= 1
                if not self._exports:
                    with contextlib.suppress(duckdb.Error, ClosedError), reading() as cursor:
                        self._set_back(cursor)

    def _make(self, cursor: DuckDBPyConnection) -> None:
        self._before = _settings(cursor)
        for name in self._before:
            _set(cursor, name, SETTINGS[name])
        self._made = _settings(cursor)

    def _set_back(self, cursor: DuckDBPyConnection) -> None:
        for name, value in _settings(cursor).items():
            before = self._before[name]
            if value == self._made[name] != before:
                # RESET alone is not enough: DuckDB 1.5.0 then shows the old memory limit, and goes on holding ours. SET
                # alone neither: what is shown is rounded.
                _set(cursor, name, f"'{before}'")
                cursor.execute(f"RESET GLOBAL {name}").fetchall()

    @contextlib.contextmanager
    def without_memory_limit(self, reading: Reading) -> Iterator[None]:
        """Let DuckDB have for a while what it had before ``settings()``: by itself, four fifths of the machine's."""
        if not self._exports:
            yield
            return
        with self._lock, reading() as cursor:
            _set(cursor, "memory_limit", f"'{self._before['memory_limit']}'")
            self._unlimited += 1
        try:
            yield
        finally:
            with self._lock:
                self._unlimited -= 1
                if not self._unlimited:
                    with contextlib.suppress(duckdb.Error, ClosedError), reading() as cursor:
                        _set(cursor, "memory_limit", SETTINGS["memory_limit"])


# By the file's real path, for as long as a store is open on it: DuckDB has one instance a file and process.
_instances: weakref.WeakValueDictionary[str, Instance] = weakref.WeakValueDictionary()
# Held while a file is opened: who was there first could not be told from two that open it at once.
_opening = threading.Lock()


def connected(path: Path, connect: Callable[[], DuckDBPyConnection]) -> tuple[DuckDBPyConnection, Instance]:
    """Open a file by ``connect``, whose errors go through, and give its connection and its instance. Any thread."""
    with _opening:
        connection = connect()
        key = str(path.resolve())
        instance = _instances.get(key)
        if instance is None:
            with contextlib.closing(connection.cursor()) as cursor:
                [(connections,)] = cursor.execute("SELECT count FROM duckdb_connection_count()").fetchall()
            # Two are this one and its cursor.
            instance = _instances[key] = Instance(ours=connections <= 2)
        return connection, instance


def _settings(cursor: DuckDBPyConnection) -> dict[str, str]:
    query = "SELECT name, value FROM duckdb_settings() WHERE list_contains(?, name)"
    return dict(cursor.execute(query, [list(SETTINGS)]).fetchall())


def _set(cursor: DuckDBPyConnection, name: str, value: str) -> None:
    cursor.execute(f"SET GLOBAL {name} = {value}").fetchall()
