"""DuckDB's settings during exports: applied by the first on an instance, restored by the last."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import duckdb
from duckdb import DuckDBPyConnection

from mpnb._base.fork import free_in_child
from mpnb._errors import ClosedError

# Bytes. Leaves room for Python and ten workers under 600 MB, and has some for a row group of events of 1 kB a thread:
# with 320 MB DuckDB moved some of them to its temporary file and back, for a tenth more CPU.
MEMORY_LIMIT = 420 * 10**6
if duckdb.__version__.startswith("1."):
    # It takes up to twice its limit for events of 4 kB: with 420 MB the process grew to 850 MB, with 320 to 680, with
    # 250 to 520.
    MEMORY_LIMIT = 250 * 10**6
# Settings of the whole instance during an export, if mpnb opened it and the user has not changed them; those that this
# DuckDB does not know are left out. Measured with 2,000,000 events in 13 batches and with 1,000,000 in 100.
SETTINGS = {
    "memory_limit": f"'{MEMORY_LIMIT}B'",
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

# What a thread needs of it, where their number is not ours to set.
BYTES_A_THREAD = MEMORY_LIMIT // 2
# As DuckDB shows them; the parameter is the list of names.
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
        self._wanted = SETTINGS
        self._made: dict[str, str] = {}  # what was changed, as DuckDB shows it
        self._unlimited = 0  # exports that need all the memory there is
        self._lifted = ""  # the memory limit that they have, as DuckDB shows it

    @contextlib.contextmanager
    def settings(self, reading: Reading, is_alone: Callable[[DuckDBPyConnection], bool]) -> Iterator[None]:
        """
        Apply what an export needs; when the last export ends, restore what nobody else has changed.

        A setting that DuckDB refuses is left out, such as a memory limit below what a query of the user needs now.

        Args:
            is_alone: says by a cursor whether the store's are the only connections.
        """
        if not self.ours:
            yield
            return
        with self._lock:
            if not self._exports:
                with contextlib.suppress(duckdb.Error, ClosedError), reading() as cursor:
                    self._make(cursor, is_alone(cursor))
            self._exports += 1
        try:
            yield
        finally:
            with self._lock:
                self._exports -= 1
                if not self._exports:
                    with contextlib.suppress(duckdb.Error, ClosedError), reading() as cursor:
                        self._set_back(cursor)

    def _make(self, cursor: DuckDBPyConnection, alone: bool) -> None:
        before = _shown(cursor)
        self._wanted = SETTINGS
        if not alone and before["threads"] != SETTINGS["threads"]:
            # DuckDB would wait for every query that runs. As many threads as it has need more memory.
            limit = max(MEMORY_LIMIT, int(before["threads"]) * BYTES_A_THREAD)
            self._wanted = {**SETTINGS, "memory_limit": f"'{limit}B'", "threads": before["threads"]}
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
    return dict(cursor.execute(SHOWN, [list(SETTINGS)]).fetchall())


def _set(cursor: DuckDBPyConnection, name: str, value: str) -> None:
    cursor.execute(f"SET GLOBAL {name} = {value}").fetchall()
