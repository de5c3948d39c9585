"""
Relations that a result returns: DuckDB's own, wrapped so that they can be combined and read independently.

DuckDB binds each relation to one connection. Relations of two connections cannot be combined, and on one connection a
half-read result blocks the next query (DuckDB 2.0), or is silently cut short by it (1.5). So a relation here stores how
it is made: each step and each read makes it again on a connection of its own, with the relations that it is combined
with.
"""

from __future__ import annotations

import contextlib
import functools
import io
import operator
import re
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeVar, cast

import duckdb
from duckdb import DuckDBPyConnection, DuckDBPyRelation

from mpnb._base.interrupt import interruptible
from mpnb._base.text import harmless
from mpnb._errors import ClosedError

IS_1 = duckdb.__version__.startswith("1.")

Make = Callable[[DuckDBPyConnection], DuckDBPyRelation]
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Database:
    """
    What a relation needs from its database.

    Attributes:
        connect: opens a connection to it.
        instance: the same one for all relations that may be made on one connection.
        is_open: says whether connections of the instance still are.
    """

    connect: Callable[[], DuckDBPyConnection]
    instance: object
    is_open: Callable[[], bool]


# Methods that have run to their end when they return: they may use the relation's own connection, which is free
# afterwards. All others get a connection of their own, which costs DuckDB the time to make the relation again.
_AT_ONCE = frozenset(
    {
        *("filter", "project", "select", "aggregate", "order", "sort", "limit", "distinct", "set_alias", "query"),
        *("count", "fetchall", "fetchnumpy", "df", "fetchdf", "to_arrow_table", "show", "explain"),
        *("__getitem__", "__getattribute__", "__len__", "__repr__"),
    }
)
# What goes on where it stopped the last time, with DuckDB 1.5.
_GOES_ON = frozenset({"fetchone", "fetchmany", "fetchall", "fetch_df_chunk", "execute"} if IS_1 else ())
_WRITES = re.compile(r"\b(insert|update|delete|merge|nextval)\b", re.IGNORECASE)
# The rows of one moment stay on the connection that has them.
_HELD = frozenset({"materialize"})


def relation(database: Database, make: Make, home: DuckDBPyConnection | None = None) -> DuckDBPyRelation:
    """
    Return a relation that can be combined with others of the same database.

    Args:
        make: makes the relation, on whatever connection. It is called at once, and its errors go through.
        home: the one connection that it can be made on, such as one with temporary tables.
    """
    connection = database.connect() if home is None else home
    return cast(DuckDBPyRelation, _Relation(database, make, make(connection), connection, home))


def called_with(variables: Mapping[str, Any], function: Callable[..., Result], *args: Any, **options: Any) -> Result:
    """
    Call a DuckDB function that looks variables up by name in SQL, and let it find only these (and ``mpnb_call``).

    DuckDB looks at the frame that calls it, so this one has them.
    """
    call = functools.partial(function, *args, **options)
    result: Result = eval("mpnb_call()", {}, {**variables, "mpnb_call": call})  # noqa: S307
    return result


def variables_in(text: str, frame: FrameType) -> dict[str, Any]:
    """Return the variables of a frame whose names occur in some SQL. The relation keeps only these alive."""
    return {name: each for name, each in {**frame.f_globals, **frame.f_locals}.items() if name in text}


def related(
    connection: DuckDBPyConnection, database: Database, query: str, variables: Mapping[str, Any]
) -> DuckDBPyRelation:
    """Run SQL that may name variables, including relations of this module, as ``duckdb.sql`` does."""
    there = {name: _on(each, connection, database) for name, each in variables.items()}
    return called_with(there, connection.sql, query)


def only_reads(connection: DuckDBPyConnection, query: str) -> bool:
    """
    Whether SQL can safely run more than once: a single query that writes nothing.

    Raises:
        duckdb.Error: it cannot be parsed.
    """
    kinds = [statement.type.name for statement in connection.extract_statements(query)]
    return kinds == ["SELECT"] and not _WRITES.search(query)


class ClosedRelationError(ClosedError, duckdb.ConnectionException):
    """A relation was read after its result was closed. DuckDB 2.0 raises its second base, 1.5 returns no rows."""


class _Relation:
    """
    A stand-in for a DuckDB relation, with all of its methods; ``isinstance`` accepts it as one.

    Any thread may call any method; one that has a home is for that connection's thread.
    """

    def __init__(
        self,
        database: Database,
        make: Make,
        made: DuckDBPyRelation,
        connection: DuckDBPyConnection,
        home: DuckDBPyConnection | None = None,
        variables: Mapping[str, Any] | None = None,
        lock: threading.Lock | None = None,
    ) -> None:
        self._mpnb_database = database
        self._mpnb_make = make
        self._mpnb_made = made
        self._mpnb_connection = connection  # that ``made`` is on
        self._mpnb_home = home
        self._mpnb_variables = variables or {}  # that its SQL names: DuckDB 1.5 looks them up at each reading
        self._mpnb_lock = lock or threading.Lock()  # held while something runs on the connection of ``made``
        self._mpnb_going_on: tuple[DuckDBPyRelation, DuckDBPyConnection] | None = None

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """Return DuckDB's relation class, for ``isinstance``."""
        return DuckDBPyRelation

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of DuckDB's relation; methods will run on the right connection."""
        if name == "shape":  # which counts the rows
            return self._mpnb_call("__getattribute__", name)
        if name in _GOES_ON and self._mpnb_home is None:
            connection = self._mpnb_connected()  # raises where it was closed, of which DuckDB 1.5 would read nothing
            if self._mpnb_going_on is None:
                self._mpnb_going_on = (self._mpnb_make(connection), connection)
            made, connection = self._mpnb_going_on
            method = getattr(made, name)
            there = {key: _on(each, connection, self._mpnb_database) for key, each in self._mpnb_variables.items()}
            read = functools.partial(called_with, there, method)
            return functools.wraps(method)(lambda *args: interruptible(connection, lambda: read(*args)))
        found = getattr(self._mpnb_made, name)
        if name == "_repr_mimebundle_":  # which DuckDB 1.5 has not
            return self._mpnb_bundle
        if type(found) is DuckDBPyRelation:
            return self[name]
        if not callable(found) or name.startswith("_"):
            return found
        return functools.wraps(found)(functools.partial(self._mpnb_call, name))

    def _mpnb_call(self, name: str, *args: Any, **options: Any) -> Any:
        """
        Call a DuckDB method on a connection that has this relation and those among its arguments and variables.

        What it gives may be a relation again, to be made by the same call.
        """
        given = [*args, *options.values()]
        text = " ".join(each for each in given if isinstance(each, str))
        variables = variables_in(text, sys._getframe(1))
        everyone = [each for each in (self, *given, *variables.values()) if type(each) is _Relation]
        home = next((each._mpnb_home for each in everyone if each._mpnb_home is not None), None)
        for each in everyone:
            variables = {**each._mpnb_variables, **variables}

        def call(made: DuckDBPyRelation, on: Callable[[Any], Any]) -> Any:
            # It adds no frame to those that DuckDB looks at.
            method = operator.methodcaller(name, *map(on, args), **{key: on(each) for key, each in options.items()})
            return called_with({key: on(each) for key, each in variables.items()}, method, made)

        def make(connection: DuckDBPyConnection) -> Any:
            on = functools.partial(_on, connection=connection, database=self._mpnb_database)
            return call(on(self), on)

        connection = self._mpnb_connected() if home is None else home
        may_stay = name in _AT_ONCE and everyone == [self] and home is None and self._mpnb_database.is_open()
        lock = None
        if may_stay and self._mpnb_lock.acquire(blocking=False):
            lock = self._mpnb_lock
            connection = self._mpnb_connection
            try:
                value = interruptible(connection, lambda: call(self._mpnb_made, lambda each: each))
            finally:
                lock.release()
        else:
            value = interruptible(connection, lambda: make(connection))
        if type(value) is not DuckDBPyRelation:
            return value
        home = connection if name in _HELD else home
        return _Relation(self._mpnb_database, make, value, connection, home, variables, lock)

    def _mpnb_connected(self) -> DuckDBPyConnection:
        try:
            return self._mpnb_database.connect()
        except ClosedError as error:
            raise ClosedRelationError(str(error)) from None

    def __getitem__(self, name: str) -> Any:
        """Return a column as a relation."""
        return self._mpnb_call("__getitem__", name)

    def __contains__(self, name: str) -> bool:
        """Whether there is a column of this name."""
        return name in self._mpnb_made

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(self._mpnb_call("__len__"))

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Stream the rows to any reader of Arrow's C interface."""
        return self._mpnb_call("__arrow_c_stream__", requested_schema)

    # What DuckDB shows are names and values from outside, of which it leaves some that a terminal obeys: in a heading,
    # all of them.

    def __repr__(self) -> str:
        """Return the first rows as text."""
        return harmless(self._mpnb_call("__repr__"))

    def show(self, **options: Any) -> None:
        """Print the first rows. May also capture what other threads print at the same time."""
        with contextlib.redirect_stdout(io.StringIO()) as shown:
            self._mpnb_call("show", **options)
        print(harmless(shown.getvalue()), end="")

    def _mpnb_bundle(self, *args: Any, **options: Any) -> dict[str, str]:
        bundle = self._mpnb_call("_repr_mimebundle_", *args, **options)
        return {mime: harmless(text) for mime, text in bundle.items()}

    def __dir__(self) -> Iterable[str]:
        """Return the attributes of DuckDB's relation."""
        return dir(self._mpnb_made)


def made_on(relation: DuckDBPyRelation, connection: DuckDBPyConnection) -> DuckDBPyRelation:
    """Return DuckDB's own relation of one of a result, on a connection to the same database."""
    wrapped: Any = relation
    made: DuckDBPyRelation = wrapped._mpnb_make(connection) if type(wrapped) is _Relation else relation
    return made


def _on(value: Any, connection: DuckDBPyConnection, database: Database) -> Any:
    """
    Return DuckDB's own relation for a ``_Relation``, on a given connection; return anything else unchanged.

    One that has a home stays there. So does one of another database, which DuckDB then refuses in its own words.
    """
    if type(value) is not _Relation:
        return value
    is_elsewhere = value._mpnb_home is not None or value._mpnb_database.instance is not database.instance
    return value._mpnb_made if is_elsewhere else value._mpnb_make(connection)
