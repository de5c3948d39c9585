"""
The database: opened next to a user's own connections, with a cursor for every reader.

A DuckDB connection is for one thread at a time, so the connection kept here runs no queries: it only makes cursors.
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
import threading
import uuid
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import duckdb
from duckdb import DuckDBPyConnection

from mpnb._base.fork import SPAWN, free_in_child, is_inherited, keep_alive
from mpnb._base.paths import local_path, shown, what_is_no_database
from mpnb._base.relation import Database
from mpnb._base.sql import quoted, run
from mpnb._base.text import safe_text
from mpnb._errors import ClosedError, DatabaseBusyError, DatabaseError
from mpnb._message import SAME_CALL, WAIT, Argument, Message
from mpnb._planning.address import Address
from mpnb._storing.settings import NAMES, SHOWN, Instance, connected, with_defaults

META = "mpnb_meta"
LEDGER = "mpnb_batches"
REJECTED = "mpnb_rejected"
SNAPSHOTS = "mpnb_snapshots"
PAGES = "mpnb_pages"
COLUMNS = "mpnb_columns"
FORGOTTEN = "mpnb_forgotten"
# In a mirror of a lake alone.
OBJECTS = "mpnb_objects"
RUNS = "mpnb_runs"
COUNTS = "mpnb_counts"
BATCH_IDS = "mpnb_batch_ids"
MEMORY = ":memory:"
_OTHERWISE = Message("pass another ", Argument("database", ""), ", or restore a copy of the file")

# A relation keeps its cursor alive and so the database open, also when the store is gone.
_instance_of: weakref.WeakKeyDictionary[DuckDBPyConnection, Instance] = weakref.WeakKeyDictionary()
# The umask is the process's: two threads that change it at once would leave it changed.
_umask = threading.Lock()
free_in_child(_umask)

LEDGER_COLUMNS = (
    ("batch_id", "BIGINT"),
    ("export_id", "VARCHAR"),
    ("table_name", "VARCHAR"),
    ("project_id", "VARCHAR"),
    ("event_filter", "VARCHAR"),
    ("where_filter", "VARCHAR"),
    ("from_date", "DATE"),
    ("to_date", "DATE"),
    ("status", "VARCHAR"),
    ("rows", "BIGINT"),
    ("rejected", "BIGINT"),
    ("bytes", "BIGINT"),
    ("attempts", "INTEGER"),
    ("kind", "VARCHAR"),
    ("http_status", "INTEGER"),
    ("message", "VARCHAR"),
    ("retryable", "BOOLEAN"),
    ("hint", "VARCHAR"),
    ("created_at", "TIMESTAMP"),
    ("started_at", "TIMESTAMP"),
    ("finished_at", "TIMESTAMP"),
)

META_COLUMNS = (("name", "VARCHAR"), ("value", "VARCHAR"))

REJECTED_COLUMNS = (
    ("table_name", "VARCHAR"),
    ("batch_id", "BIGINT"),
    ("line_number", "BIGINT"),
    ("reason", "VARCHAR"),
    ("line", "BLOB"),
    ("in_events", "BOOLEAN"),
)

COLUMNS_COLUMNS = (
    ("table_name", "VARCHAR"),
    ("event_name", "VARCHAR"),
    ("property", "VARCHAR"),
    ("column_name", "VARCHAR"),
    ("since", "BIGINT"),
    ("declared", "VARCHAR"),
)

FORGOTTEN_COLUMNS = (("id_hash", "VARCHAR"), ("forgotten_at", "TIMESTAMP"))

SNAPSHOTS_COLUMNS = (
    ("snapshot_id", "VARCHAR"),
    ("table_name", "VARCHAR"),
    ("source", "VARCHAR"),
    ("session_id", "VARCHAR"),
    ("total", "BIGINT"),
    ("page_size", "BIGINT"),
    ("asked_size", "BIGINT"),
    ("rows", "BIGINT"),
    ("rejected", "BIGINT"),
    ("requested_at", "TIMESTAMP"),
    ("published_at", "TIMESTAMP"),
)

PAGES_COLUMNS = (
    ("batch_id", "BIGINT"),
    ("snapshot_id", "VARCHAR"),
    ("page", "BIGINT"),
    ("is_again", "BOOLEAN"),
)


@dataclass(frozen=True, slots=True)
class Place:
    """The database and schema that have the tables, fixed whatever ``USE`` selects later."""

    database: str
    schema: str

    def __str__(self) -> str:
        """Return the qualified schema as SQL."""
        return f"{quoted(self.database)}.{quoted(self.schema)}"


class Store:
    """
    An open database, which hands out cursors. Any thread may call any method.

    For a connection of the caller, the tables are in its ``current_database()`` and ``current_schema()`` at this
    moment, which its cursors do not inherit by themselves.

    Args:
        database: a path, ``":memory:"``, or an open DuckDB connection, which stays the caller's.
        create: whether to create a missing file.

    Raises:
        DatabaseError: it cannot be opened; if another process has it open and is known, the message names it.
    """

    def __init__(self, database: str | os.PathLike[str] | DuckDBPyConnection, *, create: bool = True) -> None:
        self.path: Path | None = None
        self.lake: Address | None = None  # what the database mirrors
        self.keeps: object = None  # what is given up when it is closed
        self.broken = False  # DuckDB declared the instance invalid: only a new one reads the file
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._opening = object()  # another one after each close
        # A relation keeps its cursor alive, so cursors disappear together with their last relation.
        self._cursors: weakref.WeakSet[DuckDBPyConnection] = weakref.WeakSet()
        self._idle: list[DuckDBPyConnection] = []  # cursors of reading(), to be lent again
        self._root: DuckDBPyConnection | None
        if isinstance(database, DuckDBPyConnection):
            self.name = "the given connection"
            self._instance = Instance(None)
            try:
                self.place = _place_of(database)
                self._root = _kept(database.cursor())
                self._go_there = "" if _place_of(self._root) == self.place else f"USE {self.place}"
                if self._go_there:
                    run(self._root, self._go_there)  # what is not committed is there for the user's own alone
                check_place(self._root, self.place)
            except duckdb.Error as error:
                raise DatabaseError(f"the given DuckDB connection cannot be used: {safe_text(str(error))}") from None
            return
        self.name = check_database(database)
        if self.name == MEMORY:
            self._root, defaults = _connect(None)
            self._instance = Instance(defaults)
        else:
            self.path = path = Path(self.name).absolute()
            check_path(path, create)
            _remove_unfinished(path)
            self._root, self._instance = connected(path, lambda: _connect(path))
        try:
            self.place, self._go_there = _place_of(self._root), ""
        except BaseException:
            self._root.close()
            raise

    def cursor(self) -> DuckDBPyConnection:
        """
        Return a cursor for this package's queries, for one thread. The store closes it at the latest.

        Its queries return the same whatever settings the user has changed.

        Raises:
            ClosedError: the store was closed.
        """
        cursor = self.user_cursor()
        with_defaults(cursor)
        return cursor

    def user_cursor(self) -> DuckDBPyConnection:
        """
        Return a cursor for the user's own queries, with the user's own settings, as ``cursor()`` does.

        Raises:
            ClosedError: the store was closed.
        """
        self.check_process()
        with self._lock:
            if self._root is None:
                raise ClosedError(f"this result was closed: {self.afterwards}")
            try:
                cursor = _kept(self._root.cursor())
                if self._go_there:
                    run(cursor, self._go_there)
            except duckdb.ConnectionException:
                raise ClosedError(f"{self.label} was closed, and its cursors with it") from None
            except duckdb.CatalogException:
                raise ClosedError(f"{self.label} has no {self.place} any more") from None
            self._cursors.add(cursor)
            _instance_of[cursor] = self._instance
            return cursor

    @property
    def database(self) -> Database:
        """Return what the user's relations need: connections with the user's settings."""
        return self._database(self.user_cursor)

    @property
    def own_database(self) -> Database:
        """Return what relations need that only this package reads."""
        return self._database(self.cursor)

    def _database(self, connect: Callable[[], DuckDBPyConnection]) -> Database:
        opening = self._opening
        return Database(connect, self._instance.key, lambda: self._opening is opening)

    def release(self, cursor: DuckDBPyConnection) -> None:
        """Close a cursor before the store is closed."""
        with self._lock:
            self._cursors.discard(cursor)
        cursor.close()
        _instance_of.pop(cursor, None)

    @contextlib.contextmanager
    def reading(self) -> Iterator[DuckDBPyConnection]:
        """Lend a cursor. It is closed after an error, since it may be within a transaction."""
        self.check_process()
        with self._lock:
            cursor = self._idle.pop() if self._idle else None
        cursor = cursor or self.cursor()
        try:
            yield cursor
        except BaseException as error:
            self.note(error)
            self.release(cursor)
            raise
        with self._lock:
            if self._root is not None:
                self._idle.append(cursor)

    def note(self, error: BaseException) -> None:
        """Record whether an error invalidated the instance. Every statement's errors are passed here."""
        if isinstance(error, duckdb.FatalException):
            self.broken = True

    @property
    def label(self) -> str:
        """Return the database's name, safe to print: file names may contain terminal control sequences."""
        return safe_text(self.name)

    @property
    def afterwards(self) -> str:
        """Return what to say of a database that was closed."""
        if self.name == MEMORY:
            return "its data was in memory only, and is gone"
        return f"mpnb.open({'con' if self.path is None else repr(self.name)}) opens it again"

    @property
    def closed(self) -> bool:
        """Whether ``close()`` was called, or this process was forked from the one that opened it."""
        return self._root is None or self._process != os.getpid()

    def check_process(self) -> None:
        """Raise ``ClosedError`` if this process was forked from the one that opened the database."""
        if self._process != os.getpid():
            raise ClosedError(
                f"{self.label} was opened by process {self._process}, which this one was forked from: {SPAWN}"
            )

    def close(self) -> None:
        """Close every cursor; the last connection of this process closes the file. A second call does nothing."""
        if self._process != os.getpid():
            return
        with self._lock:
            cursors, root, self._root = list(self._cursors), self._root, None
            self._cursors.clear()
            self._idle.clear()
        for cursor in cursors:
            with contextlib.suppress(duckdb.Error):
                cursor.close()
            _instance_of.pop(cursor, None)
        if root is not None:
            with contextlib.suppress(duckdb.Error):
                root.close()
        self.keeps = None
        # Whoever opens the file next may be somebody else.
        self._instance, self._opening = Instance(None), object()

    def share(self) -> Store:
        """
        Return another store on the same database, which is closed separately.

        Raises:
            ClosedError: this one was closed.
        """
        other = Store(self.user_cursor())
        other.name, other.path, other._instance = self.name, self.path, self._instance
        other.lake, other.keeps = self.lake, self.keeps
        return other

    def reopen(self) -> None:
        """
        Open the file again after DuckDB has invalidated the instance. Earlier cursors no longer work.

        Raises:
            DatabaseError: it cannot be opened.
        """
        if self.path is None:
            raise DatabaseError(f"{self.label} was invalidated by DuckDB: connect to it again")
        path = self.path
        self.close()
        # Besides tracebacks of earlier errors, only garbage still refers to the dead instance.
        gc.collect()
        root, instance = connected(path, lambda: _connect(path))
        with self._lock:
            self._root, self._instance, self.broken = root, instance, False

    def settings(self, memory: int | None = None) -> AbstractContextManager[None]:
        """
        Apply the settings of an export if the instance is mpnb's, and restore those that nobody else changed.

        Args:
            memory: that the process may use, in bytes, ``None`` for what suits the machine.
        """
        return self._instance.settings(self.reading, self._is_alone, memory)

    def _is_alone(self, cursor: DuckDBPyConnection) -> bool:
        """Whether nothing else in this process has the database open."""
        with self._lock:
            return _connections(cursor) <= len(self._cursors) + 1

    def without_memory_limit(self) -> AbstractContextManager[None]:
        """Restore DuckDB's usual memory limit within the block: by default, four fifths of the machine's memory."""
        return self._instance.without_memory_limit(self.reading)

    def committing(self) -> AbstractContextManager[None]:
        """
        Keep the write-ahead log that a commit within the block may create readable by its owner alone.

        DuckDB creates the log again after each checkpoint, with the mode of the process's umask.
        """
        log = self.path and self.path.with_name(self.path.name + ".wal")
        return contextlib.nullcontext() if log is None or log.exists() else _owner_only()

    def checkpoint(self) -> None:
        """
        Merge the write-ahead log into the file, if nothing else in this process has it open.

        Called while the settings of the export apply, since the checkpoint of ``close()`` would merge row groups. If
        others have the file open, it is left out: a full disk would invalidate the instance for them too, and the file
        could not be opened again.
        """
        if not self._instance.ours:
            return
        try:
            with self.reading() as cursor:
                if self._is_alone(cursor):
                    run(cursor, "CHECKPOINT")
        except duckdb.FatalException:
            pass  # the disk is full, most likely; all that was committed is in the log, and read from there
        except duckdb.Error:
            pass  # another transaction is open: the log stays until the next checkpoint

    def sizes(self) -> tuple[int | None, int | None]:
        """Return the size of the file and of its write-ahead log in bytes; ``None`` for what is no file of ours."""
        if self.path is None or self.lake is not None:
            return None, None
        log = self.path.with_name(self.path.name + ".wal")
        return self.path.stat().st_size, log.stat().st_size if log.exists() else 0

    def __repr__(self) -> str:
        """Return the name of the database."""
        return f"<Store {self.label}>"


def _place_of(connection: DuckDBPyConnection) -> Place:
    """
    Return the database and schema that a connection uses for unqualified names.

    They are read from the column names of a query that is bound but never run, since the user may have half read a
    result on this connection.
    """
    names = (f"""'"' || replace({each}, '"', '""') || '"'""" for each in ("current_database()", "current_schema()"))
    relation = connection.sql(f"FROM query('SELECT 1 AS ' || {' || $$, 2 AS $$ || '.join(names)})")
    return Place(*relation.columns)


def check_place(cursor: DuckDBPyConnection, place: Place) -> None:
    """Raise ``DatabaseError`` if the database and schema of a connection cannot hold tables."""
    query = "SELECT type, path FROM duckdb_databases() WHERE database_name = ?"
    [(kind, path)] = run(cursor, query, [place.database])
    if path and is_inherited(Path(path)):
        raise DatabaseError(f"{shown(Path(path))} was open in the process that this one was forked from: {SPAWN}")
    what = f"is kept by {kind}, not by DuckDB" if kind != "duckdb" else ""
    if not what and place.schema.lower().startswith("mpnb_"):
        what = f"is at schema {place.schema!r}, and names that begin with mpnb_ are mpnb's own"
    if what:
        raise DatabaseError(f"database {place.database!r}, which the given connection uses, {what}: USE another one")


def _kept(connection: DuckDBPyConnection) -> DuckDBPyConnection:
    keep_alive(connection)
    return connection


def _connections(cursor: DuckDBPyConnection) -> int:
    [(count,)] = run(cursor, "SELECT count FROM duckdb_connection_count()")
    return int(count)


def check_database(database: object) -> str:
    """
    Return the path of a database, or ``":memory:"``, as text.

    Raises:
        DatabaseError: it is neither, or a URL.
    """
    if isinstance(database, str) and database == MEMORY:
        return MEMORY
    advice = "pass a path such as 'mixpanel.duckdb', ':memory:' or an open DuckDB connection"
    kinds = "a path, ':memory:' or a DuckDB connection"
    return str(local_path(database, "database", advice, DatabaseError, kinds))


def check_path(path: Path, create: bool) -> None:
    """
    Check that a path is or can become a database. Nothing else in this process may open it at the same time.

    Raises:
        DatabaseError: something else is there, it is missing and must not be created, or it cannot be written.
    """
    name = shown(path)
    if path.is_dir():
        raise DatabaseError(f"{name} is a folder: pass a file in it, such as {name}/mixpanel.duckdb")
    if not path.exists():
        if path.is_symlink():
            raise DatabaseError(f"{name} cannot be opened: it is a link to {shown(path.readlink())}, which is missing")
        if not create:
            raise DatabaseError(f"there is no database at {name}")
        if not path.parent.is_dir():
            raise DatabaseError(f"there is no folder {shown(path.parent)}: create it first")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise DatabaseError(
            f"{name} cannot be written: change its permissions, or pass another ", Argument("database", "")
        )


def _connect(path: Path | None) -> tuple[DuckDBPyConnection, dict[str, str] | None]:
    """Open a database, and return its settings if nothing else in this process has it open."""
    name = shown(path) if path else MEMORY
    connection: DuckDBPyConnection | None = None
    try:
        if path and is_inherited(path):
            raise DatabaseError(f"{name} was open in the process that this one was forked from: {SPAWN}")
        if path and path.exists() and (what := _what_is_no_database(path)):
            raise DatabaseError(f"{name} cannot be opened: it is {what}: ", _OTHERWISE)
        connection = _kept(duckdb.connect(str(path or MEMORY)) if path is None or path.exists() else _create(path))
        with contextlib.closing(connection.cursor()) as cursor:
            query = "SELECT path FROM duckdb_databases() WHERE database_name = current_database()"
            if path and run(cursor, query) == [(None,)]:
                raise DatabaseError(f"{name} cannot be opened: DuckDB reads it as data, not a database: ", _OTHERWISE)
            alone = _connections(cursor) <= 2  # this one and its cursor
            return connection, dict(run(cursor, SHOWN, [NAMES])) if alone else None
    except BaseException as error:
        # The error's frames keep it, and with it an instance that may be dead.
        if connection is not None:
            connection.close()
        if isinstance(error, duckdb.Error | OSError):
            raise _cannot_open(name, str(error)) from None
        raise


def _what_is_no_database(path: Path) -> str | None:
    with contextlib.suppress(OSError):  # DuckDB meets it as well, and says what it is
        return what_is_no_database(path)
    return None


def _cannot_open(name: str, text: str) -> DatabaseError:
    """Return the error for a database that cannot be opened, from DuckDB's message."""
    if re.search(r"\block\b|used by another process", text):
        holder = re.search(r"held in (.+? \(PID \d+\))", text) or re.search(r"(PID \d+)", text)
        by = f" ({safe_text(holder[1])})" if holder else ""
        close = "close it there, for example by restarting that kernel"
        return DatabaseBusyError(f"{name} is open in another process{by}: ", WAIT, close)
    return DatabaseError(f"{name} ", _why_not(text))


def _why_not(text: str) -> str:
    """Return why a database cannot be opened and what to do, from DuckDB's message."""
    if "must be restarted" in text:
        return (
            "cannot be opened while this process still uses it after a failure: close the other results and "
            "connections on this file, then try again"
        )
    if "different configuration" in text:
        return "is open in this process with other settings, such as read_only: close that connection first"
    if found := re.search(r"version number (\d+), but we can only read .*?between \d+ and (\d+)", text):
        is_newer = int(found[1]) > int(found[2])
        way = "pip install -U duckdb" if is_newer else "EXPORT DATABASE there, IMPORT DATABASE here"
        age = "a newer" if is_newer else "an older"
        wrote = f"cannot be opened: {age} DuckDB than this one ({duckdb.__version__}) wrote it: {way}, or "
        return Message(wrote, _OTHERWISE)
    if "encrypted" in text:
        return Message(
            "cannot be opened: it is encrypted: ATTACH it with its ENCRYPTION_KEY on a connection of your own, USE it, "
            "and pass the connection as ",
            Argument("database", ""),
        )
    if re.search(r"\bWAL\b", text):
        # What the log has is in whole transactions of whole batches, and was not in the file before.
        return Message(
            f"cannot be opened: {safe_text(text)}: restore a copy of it and of its .wal, or move the .wal away: the ",
            "file alone lacks only the latest batches, and ",
            SAME_CALL,
            " fetches them again",
        )
    return Message(f"cannot be opened: {safe_text(text)}: ", _OTHERWISE, ", and of its .wal if there is one")


def _create(path: Path) -> DuckDBPyConnection:
    """
    Create a new database file that only its owner can read, and open it.

    The file gets its name when it is complete. Otherwise, a killed process or a full disk while DuckDB writes the
    headers would leave a file that can never be opened.

    By default, DuckDB 1.5 creates files of a storage version without zstd. With the version requested here, the file is
    less than half as large, and any DuckDB since 1.2 can read it.
    """
    with _owner_only():
        fresh = path.with_name(f"{_unfinished(path)}{os.getpid()}-{uuid.uuid4().hex[:8]}")
        try:
            with contextlib.closing(duckdb.connect()) as attacher:
                version = " (STORAGE_VERSION 'v1.2.0')" if duckdb.__version__.startswith("1.") else ""
                run(attacher, f"ATTACH {_literal(str(fresh))} AS mpnb_fresh{version}")
                run(attacher, "DETACH mpnb_fresh")
            _name(fresh, path)
        finally:
            fresh.unlink(missing_ok=True)
        return duckdb.connect(str(path))


def _name(fresh: Path, path: Path) -> None:
    """Rename a finished file to its final name, unless another process has made a file of that name meanwhile."""
    try:
        os.link(fresh, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        if not path.exists():
            os.rename(fresh, path)


def _unfinished(path: Path) -> str:
    return f".{path.name}.new-"


def _remove_unfinished(path: Path) -> None:
    """Delete unfinished files of processes that died while they created this database."""
    prefix = _unfinished(path)
    with contextlib.suppress(OSError):
        for name in os.listdir(path.parent):
            if name.startswith(prefix) and not _is_alive(name[len(prefix) :].partition("-")[0]):
                path.with_name(name).unlink()


def _is_alive(pid: str) -> bool:
    if os.name != "posix":
        return False  # there, a file that somebody has open cannot be deleted
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except OSError:
        pass
    return True


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


@contextlib.contextmanager
def _owner_only() -> Iterator[None]:
    """Create files readable by their owner alone; affects files that other threads create in the same milliseconds."""
    with _umask:
        before = os.umask(0o077)
        try:
            yield
        finally:
            os.umask(before)
