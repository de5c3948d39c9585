"""
What a result gives to read: relations of DuckDB's that combine, and of which none disturbs another.

DuckDB ties each to one connection. Those of two connections do not combine, and of one connection what is half read is
in the way of the next query (DuckDB 2.0), or is cut short by it without a word (1.5). So what is kept here is how a
relation is made: each step and each reading makes it on a connection of its own, and those that it combines with, too.
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

from mpnb._base.text import harmless
from mpnb._errors import ClosedError

IS_1 = duckdb.__version__.startswith("1.")

Make = Callable[[DuckDBPyConnection], DuckDBPyRelation]
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Database:
    """
    Hold what a relation needs of its database.

    Attributes:
        connect: opens a connection to it.
        instance: the same one for all relations that may be made on one connection.
        is_open: says whether connections of the instance still are.
    """

    connect: Callable[[], DuckDBPyConnection]
    instance: object
    is_open: Callable[[], bool]


# What has run to its end when it returns may be called on the relation's own connection, which it leaves free. All else
# gets another one: to make a relation anew takes DuckDB as long as it took to make it, step by step.
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
    Return a relation that combines with others of the same database.

    Args:
        make: makes the relation, on whatever connection. It is called at once, and its errors go through.
        home: the one connection that it can be made on, such as one with temporary tables.
    """
    made = make(database.connect() if home is None else home)
    return cast(DuckDBPyRelation, _Relation(database, make, made, home))


def called_with(variables: Mapping[str, Any], function: Callable[..., Result], *args: Any, **options: Any) -> Result:
    """
    Call a function of DuckDB's that finds variables by names in SQL: these, and no others, but for ``mpnb_call``.

    DuckDB looks at the frame that calls it, so this one has them.
    """
    call = functools.partial(function, *args, **options)
    result: Result = eval("mpnb_call()", {}, {**variables, "mpnb_call": call})  # noqa: S307
    return result


def variables_in(text: str, frame: FrameType) -> dict[str, Any]:
    """Return the variables of a frame whose names occur in some SQL: no others are kept alive by its relation."""
    return {name: each for name, each in {**frame.f_globals, **frame.f_locals}.items() if name in text}


def related(
    connection: DuckDBPyConnection, database: Database, query: str, variables: Mapping[str, Any]
) -> DuckDBPyRelation:
    """Run SQL that finds variables by their names, relations of this module among them, as ``duckdb.sql`` does."""
    there = {name: _on(each, connection, database) for name, each in variables.items()}
    return called_with(there, connection.sql, query)


def only_reads(connection: DuckDBPyConnection, query: str) -> bool:
    """
    Return whether SQL may run any number of times: it is one query, and cannot write while it reads.

    Raises:
        duckdb.Error: it cannot be parsed.
    """
    kinds = [statement.type.name for statement in connection.extract_statements(query)]
    return kinds == ["SELECT"] and not _WRITES.search(query)


class ClosedRelationError(ClosedError, duckdb.ConnectionException):
    """A relation is read whose result was closed. DuckDB 2.0 raises the second of these, 1.5 would give no rows."""


class _Relation:
    """
    Be a relation of DuckDB's in all that it does; ``isinstance`` says so, too.

    Any thread may call any method; one that has a home is for that connection's thread.
    """

    def __init__(
        self,
        database: Database,
        make: Make,
        made: DuckDBPyRelation,
        home: DuckDBPyConnection | None = None,
        variables: Mapping[str, Any] | None = None,
        lock: threading.Lock | None = None,
    ) -> None:
        self._mpnb_database = database
        self._mpnb_make = make
        self._mpnb_made = made
        self._mpnb_home = home
        self._mpnb_variables = variables or {}  # that its SQL names: DuckDB 1.5 looks them up at each reading
        self._mpnb_lock = lock or threading.Lock()  # held while something runs on the connection of ``made``
        self._mpnb_going_on: DuckDBPyRelation | None = None

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """Pass for what it stands for."""
        return DuckDBPyRelation

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of DuckDB's own, with methods that are called on a relation of the right connection."""
        if name == "shape":  # which counts the rows
            return self._mpnb_call("__getattribute__", name)
        if name in _GOES_ON and self._mpnb_home is None:
            connection = self._mpnb_connected()  # raises where it was closed, of which DuckDB 1.5 would read nothing
            if self._mpnb_going_on is None:
                self._mpnb_going_on = self._mpnb_make(connection)
            return getattr(self._mpnb_going_on, name)
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
        Call a method of DuckDB's on a connection that has this relation, and those among the arguments and variables.

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
            try:
                value = call(self._mpnb_made, lambda each: each)
            finally:
                lock.release()
        else:
            value = make(connection)
        if type(value) is not DuckDBPyRelation:
            return value
        return _Relation(self._mpnb_database, make, value, connection if name in _HELD else home, variables, lock)

    def _mpnb_connected(self) -> DuckDBPyConnection:
        try:
            return self._mpnb_database.connect()
        except ClosedError as error:
            raise ClosedRelationError(str(error)) from None

    def __getitem__(self, name: str) -> Any:
        """Return a column as a relation."""
        return self._mpnb_call("__getitem__", name)

    def __contains__(self, name: str) -> bool:
        """Return whether it has a column."""
        return name in self._mpnb_made

    def __len__(self) -> int:
        """Return the number of its rows."""
        return int(self._mpnb_call("__len__"))

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Stream its rows to whatever reads Arrow's C interface."""
        return self._mpnb_call("__arrow_c_stream__", requested_schema)

    # What DuckDB shows are names and values from outside, of which it leaves some that a terminal obeys: in a heading,
    # all of them.

    def __repr__(self) -> str:
        """Show its first rows."""
        return harmless(self._mpnb_call("__repr__"))

    def show(self, **options: Any) -> None:
        """Print its first rows. What other threads print meanwhile comes with it."""
        with contextlib.redirect_stdout(io.StringIO()) as shown:
            self._mpnb_call("show", **options)
        print(harmless(shown.getvalue()), end="")

    def _mpnb_bundle(self, *args: Any, **options: Any) -> dict[str, str]:
        bundle = self._mpnb_call("_repr_mimebundle_", *args, **options)
        return {mime: harmless(text) for mime, text in bundle.items()}

    def __dir__(self) -> Iterable[str]:
        """List what DuckDB's own has."""
        return dir(self._mpnb_made)


def _on(value: Any, connection: DuckDBPyConnection, database: Database) -> Any:
    """
    Return DuckDB's own relation in place of one of these, on a connection to a database; all else as it is.

    One that has a home stays there. So does one of another database, which DuckDB then refuses in its own words.
    """
    if type(value) is not _Relation:
        return value
    is_elsewhere = value._mpnb_home is not None or value._mpnb_database.instance is not database.instance
    return value._mpnb_made if is_elsewhere else value._mpnb_make(connection)
