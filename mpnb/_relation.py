"""
What a result gives to read: relations of DuckDB's that combine, and of which none disturbs another.

DuckDB ties each to one connection. Those of two connections do not combine, and of one connection what is half read is
in the way of the next query (DuckDB 2.0), or is cut short by it without a word (1.5). So what is kept here is how a
relation is made: each step and each reading makes it on a connection of its own, and those that it combines with, too.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from types import FrameType
from typing import Any, TypeVar, cast

import duckdb
from duckdb import DuckDBPyConnection, DuckDBPyRelation

from mpnb._errors import ClosedError

Connect = Callable[[], DuckDBPyConnection]
Make = Callable[[DuckDBPyConnection], DuckDBPyRelation]
Result = TypeVar("Result")

# What goes on where it stopped the last time is called on one relation that nothing else reads. DuckDB 2.0 has neither.
_GOES_ON = frozenset(
    () if duckdb.__version__ >= "2" else ("fetchone", "fetchmany", "fetchall", "fetch_df_chunk", "execute", "close")
)
_WRITES = re.compile(r"\b(insert|update|delete|merge|nextval)\b", re.IGNORECASE)
# The rows of one moment stay on the connection that has them.
_HELD = frozenset({"materialize"})


def relation(connect: Connect, make: Make, home: DuckDBPyConnection | None = None) -> DuckDBPyRelation:
    """
    Return a relation that combines with others of the same database.

    Args:
        connect: opens a connection to the database.
        make: makes the relation, on whatever connection. It is called at once, and its errors go through.
        home: the one connection that it can be made on, such as one with temporary tables.
    """
    return cast(DuckDBPyRelation, _Relation(connect, make, make(connect() if home is None else home), home))


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
    connection: DuckDBPyConnection, connect: Connect, query: str, variables: Mapping[str, Any]
) -> DuckDBPyRelation:
    """Run SQL that finds variables by their names, relations of this module among them, as ``duckdb.sql`` does."""
    there = {name: _on(each, connection, connect) for name, each in variables.items()}
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
        self, connect: Connect, make: Make, made: DuckDBPyRelation, home: DuckDBPyConnection | None = None
    ) -> None:
        self._mpnb_connect = connect
        self._mpnb_make = make
        self._mpnb_made = made
        self._mpnb_home = home

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """Pass for what it stands for."""
        return DuckDBPyRelation

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of DuckDB's own, with methods that are called on a relation made anew."""
        found = getattr(self._mpnb_made, name)
        if type(found) is DuckDBPyRelation:  # a column
            return self._mpnb_step(lambda made: getattr(made, name))
        if not callable(found) or name.startswith("_") or name in _GOES_ON:
            return found
        return functools.wraps(found)(functools.partial(self._mpnb_call, name))

    def _mpnb_call(self, name: str, *args: Any, **options: Any) -> Any:
        given = [*args, *options.values()]
        variables = variables_in(" ".join(each for each in given if isinstance(each, str)), sys._getframe(1))
        others = [each for each in (*given, *variables.values()) if type(each) is _Relation]

        def call(made: DuckDBPyRelation, *others_made: DuckDBPyRelation) -> Any:
            there = dict(zip(map(id, others), others_made, strict=True))
            return called_with(
                {key: there.get(id(each), each) for key, each in variables.items()},
                getattr(made, name),
                *(there.get(id(each), each) for each in args),
                **{key: there.get(id(each), each) for key, each in options.items()},
            )

        return self._mpnb_step(call, *others, is_held=name in _HELD)

    def _mpnb_step(self, step: Callable[..., Any], *others: _Relation, is_held: bool = False) -> Any:
        """Take a step from this relation, and others, on one connection; what it gives may be a relation again."""
        everyone = (self, *others)
        home = next((each._mpnb_home for each in everyone if each._mpnb_home is not None), None)

        def make(connection: DuckDBPyConnection) -> Any:
            return step(*(_on(each, connection, self._mpnb_connect) for each in everyone))

        try:
            connection = self._mpnb_connect() if home is None else home
        except ClosedError as error:
            raise ClosedRelationError(str(error)) from None
        value = make(connection)
        if type(value) is not DuckDBPyRelation:
            return value
        return _Relation(self._mpnb_connect, make, value, connection if is_held else home)

    def __getitem__(self, name: str) -> Any:
        """Return a column as a relation."""
        return self._mpnb_step(lambda made: made[name])

    def __contains__(self, name: str) -> bool:
        """Return whether it has a column."""
        return name in self._mpnb_made

    def __len__(self) -> int:
        """Return the number of its rows."""
        return int(self._mpnb_step(len))

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Stream its rows to whatever reads Arrow's C interface."""
        return self._mpnb_step(lambda made: made.__arrow_c_stream__(requested_schema))

    def __repr__(self) -> str:
        """Show its first rows."""
        return str(self._mpnb_step(repr))

    def __dir__(self) -> Iterable[str]:
        """List what DuckDB's own has."""
        return dir(self._mpnb_made)


def _on(value: Any, connection: DuckDBPyConnection, connect: Connect) -> Any:
    """
    Return DuckDB's own relation in place of one of these, on a connection that ``connect`` gave; all else as it is.

    One that has a home stays there. So does one of another database, which DuckDB then refuses in its own words.
    """
    if type(value) is not _Relation:
        return value
    is_elsewhere = value._mpnb_home is not None or value._mpnb_connect != connect
    return value._mpnb_made if is_elsewhere else value._mpnb_make(connection)
