"""What results have in common: a connection for each thread, any SQL, and an end."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from typing import Any

from duckdb import DuckDBPyConnection, DuckDBPyRelation

from mpnb._base.relation import only_reads, related, relation, variables_in
from mpnb._storing.database import Store


class Connected:
    """A result that keeps its database open. Any thread may call any method."""

    def _connect(self, store: Store) -> None:
        self._store = store
        self._own = threading.local()  # the connection of each thread, as .con

    @property
    def con(self) -> DuckDBPyConnection:
        """
        A connection for your own SQL, one per thread. It is closed with the result.

        Once a thread has used it, ``sql()`` in that thread runs on it too, and sees its temporary tables and settings.
        As always with DuckDB, a result that is only half read blocks the connection's next query, or with DuckDB 1.5 is
        cut off by it.

        Raises:
            ClosedError: the result was closed.
        """
        if self._store.closed or not hasattr(self._own, "con"):
            self._own.con = self._store.user_cursor()
        con: DuckDBPyConnection = self._own.con
        return con

    def sql(self, query: str) -> DuckDBPyRelation:
        """
        Run SQL on the database and return a relation. Tables have the names that they were given at export.

        SQL can name the caller's variables like tables, as in ``duckdb.sql``: pandas and polars frames, Arrow tables,
        and relations of this result. Statements that do more than read run once, at the call, on ``con``.

        Raises:
            ClosedError: the result was closed.
            duckdb.Error: the SQL is invalid.
        """
        return sql_with(self, query, variables_in(query, sys._getframe(1)))

    def close(self) -> None:
        """Close the database and every relation."""
        self._store.close()


def sql_with(result: Connected, query: str, variables: Mapping[str, Any]) -> DuckDBPyRelation:
    """Run SQL as ``result.sql()`` does, with these variables in place of the caller's."""
    database = result._store.database
    named = {name: each for name, each in variables.items() if name in query}
    if not hasattr(result._own, "con") and only_reads(database.connect(), query):
        return relation(database, lambda connection: related(connection, database, query, named))
    made = related(result.con, database, query, named)
    # A statement without rows makes none.
    return made if made is None else relation(database, lambda _: made, result.con)
