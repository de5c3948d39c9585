"""DuckDB's settings during exports: applied by the first on an instance, restored by the last."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import duckdb
from duckdb import DuckDBPyConnection

from mpnb._base import machine
from mpnb._base.fork import free_in_child
from mpnb._errors import ClosedError

# The memory of the whole process during an export, in bytes: without a word of the caller's, so much on a machine of up
# to 4 GB, and a quarter of a larger one's.
USUAL_MEMORY = 600 * 10**6
LARGE_MACHINE = 4 * 10**9
# Of which Python, ten workers and their buffers take this, and this for each thread of DuckDB's beyond what DuckDB
# counts.
OVERHEAD = 100 * 10**6
THREAD_OVERHEAD = 40 * 10**6
# What a thread of DuckDB's needs in all. A row group of events of 1 kB fits: with 320 MB for two threads DuckDB moved
# some of them to its temporary file and back, for a tenth more CPU, and with eight threads in 420 MB batches of 600
# bytes an event had no room.
THREAD_MEMORY = 250 * 10**6
# DuckDB 1.x takes up to twice its limit for events of 4 kB: with 420 MB the process grew to 850 MB, with 320 to 680,
# with 250 to 520.
TAKES_TWICE = duckdb.__version__.startswith("1.")


@dataclass(frozen=True, slots=True)
class Share:
    """
    What DuckDB may use during an export.

    Attributes:
        threads: its threads.
        memory_limit: its ``memory_limit``, in bytes.
    """

    threads: int
    memory_limit: int

    @property
    def settings(self) -> dict[str, str]:
        """Return it as settings of DuckDB's."""
        return {"memory_limit": f"'{self.memory_limit}B'", "threads": str(self.threads)}


def usual_memory(available: int | None) -> int:
    """Return the memory of the process, in bytes, where the caller leaves it to mpnb; ``None`` for an unknown size."""
    if available is None or available <= LARGE_MACHINE:
        return USUAL_MEMORY
    return available // 4


def share_of(memory: int, cores: int, *, takes_twice: bool = TAKES_TWICE) -> Share:
    """
    Return what DuckDB may use of the memory of the process.

    Two threads also on one core, since one may wait for the disk.

    Args:
        memory: of the whole process, in bytes, ``LEAST_MEMORY`` or more.
        cores: that the process may use.
        takes_twice: whether this DuckDB takes up to twice its limit.
    """
    room = memory - OVERHEAD
    threads = max(1, min(max(2, cores), room // THREAD_MEMORY))
    return Share(threads, room // 2 if takes_twice else room - threads * THREAD_OVERHEAD)


# What a thread needs of DuckDB's limit, where their number is not ours to set.
LIMIT_A_THREAD = share_of(USUAL_MEMORY, 2).memory_limit // 2

# Settings of the whole instance during an export, besides those of its ``Share``, if mpnb opened it and the user has
# not changed them; those that this DuckDB does not know are left out. Measured with 2,000,000 events in 13 batches and
# with 1,000,000 in 100.
SETTINGS = {
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

# Settings that change what a query returns or accepts, at DuckDB's defaults. Only cursors for this package's queries
# get them, whatever the user sets for the instance: so queries need not be written for every possible setting.
DEFAULTS = {
    "integer_division": "false",
    "default_order": "'asc'",
    "default_null_order": "'nulls_last'",
    "default_collation": "''",
    "ieee_floating_point_ops": "true",
    "scalar_subquery_error_on_multiple_rows": "true",
    "order_by_non_integer_literal": "false",
    "old_implicit_casting": "false",
    "dialect_compatibility_mode": "'none'",
    "preserve_identifier_case": "'preserve_case'",
    "TimeZone": "'UTC'",
    "Calendar": "'gregorian'",
    "disable_timestamptz_casts": "false",
    "errors_as_json": "false",
    "file_search_path": "''",
    "arrow_large_buffer_size": "false",
    "arrow_output_list_view": "false",
    "arrow_lossless_conversion": "false",
    "arrow_output_version": "'1.0'",
    "produce_arrow_string_view": "false",
    "max_execution_time": "0",
    "max_expression_depth": "1000",
    # A name that is missing is an error, never a variable of this package.
    "python_enable_replacements": "false",
}

# As DuckDB shows them; the parameter is the list of names.
NAMES = [*SETTINGS, "memory_limit", "threads"]
SHOWN = "SELECT name, value FROM duckdb_settings() WHERE list_contains(?, name)"

Reading = Callable[[], AbstractContextManager[DuckDBPyConnection]]


class Instance:
    """
    The owner of an instance's settings, shared by all stores of this process on its file.

    Any thread may call any method. ``reading`` lends a cursor of the calling store.

    Args:
        defaults: the settings that the instance was opened with, if mpnb opened it. A setting that has changed since
            was changed by the user, and stays. ``None`` if the user opened it: all settings are the user's.
    """

    def __init__(self, defaults: dict[str, str] | None) -> None:
        self._defaults = defaults or {}
        self.ours = defaults is not None
        self.key = object()  # to be told from others by what must not keep it
        self._lock = threading.Lock()
        self._exports = 0  # that run on it
        self._wanted: dict[str, str] = {}
        self._made: dict[str, str] = {}  # what was changed, as DuckDB shows it
        self._unlimited = 0  # exports that need all the memory there is
        self._lifted = ""  # the memory limit that they have, as DuckDB shows it

    @contextlib.contextmanager
    def settings(
        self, reading: Reading, is_alone: Callable[[DuckDBPyConnection], bool], memory: int | None
    ) -> Iterator[None]:
        """
        Apply what an export needs; when the last export ends, restore what nobody else has changed.

        A setting that DuckDB refuses is left out, such as a memory limit below what a query of the user needs now.

        Args:
            is_alone: says by a cursor whether the store's are the only connections.
            memory: that the process may use, in bytes, ``None`` for what suits the machine. Of exports that run at the
                same time, the first decides.
        """
        if not self.ours:
            yield
            return
        with self._lock:
            if not self._exports:
                with contextlib.suppress(duckdb.Error, ClosedError), reading() as cursor:
                    self._make(cursor, is_alone(cursor), memory)
            self._exports += 1
        try:
            yield
        finally:
            with self._lock:
                self._exports -= 1
                if not self._exports:
                    with contextlib.suppress(duckdb.Error, ClosedError), reading() as cursor:
                        self._set_back(cursor)

    def _make(self, cursor: DuckDBPyConnection, alone: bool, memory: int | None) -> None:
        before = _shown(cursor)
        share = share_of(memory or usual_memory(machine.memory()), machine.cores())
        if not alone and before["threads"] != str(share.threads):
            # DuckDB would wait for every query that runs. As many threads as it has need more memory.
            threads = int(before["threads"])
            share = Share(threads, max(share.memory_limit, threads * LIMIT_A_THREAD))
        self._wanted = {**SETTINGS, **share.settings}
        for name, value in before.items():
            if value == self._defaults[name] and value != self._wanted[name]:
                with contextlib.suppress(duckdb.Error):
                    _set(cursor, name, self._wanted[name])
        self._made = {name: value for name, value in _shown(cursor).items() if value != before[name]}

    def _set_back(self, cursor: DuckDBPyConnection) -> None:
        made, self._made = self._made, {}
        for name, value in _shown(cursor).items():
            if value == made.get(name):
                # RESET alone is not enough: DuckDB 1.5.0 then shows the old memory limit, and goes on holding ours. SET
                # alone neither: what is shown is rounded.
                _set(cursor, name, f"'{self._defaults[name]}'")
                cursor.execute(f"RESET GLOBAL {name}").fetchall()

    @contextlib.contextmanager
    def without_memory_limit(self, reading: Reading) -> Iterator[None]:
        """Restore DuckDB's usual memory limit within the block: by default, four fifths of the machine's memory."""
        with self._lock:
            self._unlimited += 1
            if self._unlimited == 1:
                self._lift(reading)
        try:
            yield
        finally:
            with self._lock:
                self._unlimited -= 1
                if not self._unlimited:
                    self._lower(reading)

    def _lift(self, reading: Reading) -> None:
        if "memory_limit" in self._made:
            with contextlib.suppress(duckdb.Error, ClosedError), reading() as cursor:
                if _shown(cursor)["memory_limit"] == self._made["memory_limit"]:
                    _set(cursor, "memory_limit", f"'{self._defaults['memory_limit']}'")
                    self._lifted = _shown(cursor)["memory_limit"]

    def _lower(self, reading: Reading) -> None:
        lifted, self._lifted = self._lifted, ""
        with contextlib.suppress(duckdb.Error, ClosedError), reading() as cursor:
            if _shown(cursor)["memory_limit"] == lifted:
                _set(cursor, "memory_limit", self._wanted["memory_limit"])


def with_defaults(cursor: DuckDBPyConnection) -> None:
    """
    Apply ``DEFAULTS`` to one cursor.

    Settings unknown to this DuckDB are left out, and nothing is set if the user has locked the configuration.
    """
    for name, value in DEFAULTS.items():
        with contextlib.suppress(duckdb.Error):
            cursor.execute(f"SET SESSION {name} = {value}").fetchall()


# By the file's real path, for as long as a store is open on it or one of its cursors: DuckDB has one instance a file.
_instances: weakref.WeakValueDictionary[str, Instance] = weakref.WeakValueDictionary()
# Held while a file is opened: who was there first could not be told from two that open it at once.
_opening = threading.Lock()
free_in_child(_opening)


def connected(
    path: Path, connect: Callable[[], tuple[DuckDBPyConnection, dict[str, str] | None]]
) -> tuple[DuckDBPyConnection, Instance]:
    """
    Open a file, and return its connection and its instance. Any thread.

    Args:
        connect: opens it, and gives its settings where nobody else of this process has it open. Its errors go through.
    """
    with _opening:
        connection, defaults = connect()
        instance = _instances.setdefault(str(path.resolve()), Instance(defaults))
        return connection, instance


def _shown(cursor: DuckDBPyConnection) -> dict[str, str]:
    return dict(cursor.execute(SHOWN, [NAMES]).fetchall())


def _set(cursor: DuckDBPyConnection, name: str, value: str) -> None:
    cursor.execute(f"SET GLOBAL {name} = {value}").fetchall()
