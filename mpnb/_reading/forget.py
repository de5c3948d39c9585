"""``forget_person``: delete what a database has of a person, and keep it out."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import duckdb
from duckdb import DuckDBPyConnection

from mpnb._base.scalars import brief, each_of, is_text
from mpnb._base.sql import columns_of, quoted, run, transaction
from mpnb._base.text import safe_text
from mpnb._errors import DatabaseError, PlanError
from mpnb._message import Argument
from mpnb._mixpanel import engage_api, export_api
from mpnb._planning.options import DATABASE
from mpnb._reading import identities as identity
from mpnb._reading.drop import forget_made
from mpnb._storing import forgotten, ledger, leftovers, snapshot, versions
from mpnb._storing import tables as layout
from mpnb._storing.database import Store
from mpnb._storing.mirror import check_own
from mpnb._storing.running import registration


def forget_person(
    ids: str | Iterable[str],
    *,
    database: str | os.PathLike[str] | DuckDBPyConnection = DATABASE,
    identities: str = "merged",
) -> dict[str, int]:
    """
    Delete all that a database has of a person, and leave it out of later exports into this database.

    In one transaction, it deletes the person's rows from all tables of events and profiles, their typed tables and
    histories, and the content of rejected lines that name one of the ids. Each deleted record still stands in
    ``rejected``, without its content, so that counts add up. The ids are kept as salted hashes: an export that fetches
    such days again leaves these records out, and has them in ``rejected`` with the reason ``"of a person who was
    forgotten"``.

    What it cannot find: the person's name or address in somebody else's events, copies of the file, and ids by which
    the person is known tomorrow. The space of deleted rows is reused as the file grows; until then, it may still hold
    their bytes: ``COPY FROM DATABASE`` into a new file leaves these behind. Mixpanel's own copy is deleted in Mixpanel.

    Args:
        ids: one id of the person, or several: ``distinct_id``, user, or ``$device:`` with a device.
        database: a path, or an open DuckDB connection.
        identities: which other ids are the person's: those that ``result.identities()`` gives for ``"merged"``,
            ``"simplified"`` or ``"original"``; ``"exported"`` for none. Mixpanel takes people who logged in on one
            device for one person: where devices are shared, look at ``identities()`` before, or pass ``"exported"``.

    Returns:
        The number of deleted rows by table; tables that had none are not in it.

    Raises:
        PlanError: ``ids`` has none, or something else than texts.
        TableError: an export into one of the tables is running.
        DatabaseError: there is no database, another process has it open, or it cannot be written.
    """
    asked = _ids(ids)
    identity.chosen(identities, False)
    with contextlib.closing(Store(database, create=False)) as store:
        try:
            rows = _forget(store, asked, identities)
        except duckdb.Error as error:
            raise DatabaseError(f"{store.label} cannot be written: {safe_text(str(error))}") from None
        store.checkpoint()
    return rows


def _ids(given: object) -> list[str]:
    names = [given] if isinstance(given, str | int) else each_of(given)
    texts: list[Any] = [
        str(each) if isinstance(each, int) and not isinstance(each, bool) else each for each in names or ()
    ]
    if not texts or not all(isinstance(each, str) and each and is_text(each) for each in texts):
        raise PlanError(Argument("ids"), f" must be an id or a list of them, as text, not {brief(given)}")
    return list(dict.fromkeys(texts))


def _forget(store: Store, asked: Sequence[str], identities: str) -> dict[str, int]:
    with registration, store.committing(), store.reading() as cursor:
        layout.check(cursor, store.label)
        check_own(cursor, store.label)
        leftovers.settle(cursor)
        with transaction(cursor):
            layout.create(cursor)
            events, people = ledger.tables_of(cursor), snapshot.tables_of_people(cursor)
            for table, shown in [*((name, name) for name in events), *people.items()]:
                ledger.check_unused(cursor, table, shown)
            ids = _all_ids(cursor, events, asked, identities)
            rows: dict[str, int] = {}
            for table in events:
                rows[table] = forgotten.forget(cursor, table, export_api.IDS, ids)
                forget_made(cursor, table)
            for table, shown in people.items():
                rows[shown] = rows.get(shown, 0) + forgotten.forget(cursor, table, engage_api.IDS, ids)
                history = versions.history_of(shown)
                rows[history] = rows.get(history, 0) + versions.forget(cursor, shown, forgotten.of(ids, engage_api.IDS))
            forgotten.remember(cursor, ids)
    return {table: count for table, count in rows.items() if count}


def _all_ids(cursor: DuckDBPyConnection, tables: Iterable[str], asked: Sequence[str], identities: str) -> list[str]:
    """Return all ids of a person, as the events of all tables link them."""
    mappings = [_resolved(cursor, table, identities) for table in tables if columns_of(cursor, table) is not None]
    found = set(asked)
    while True:
        more = set(found)
        for mapping in mappings:
            more |= {mapping.get(each, each) for each in more}
            more |= {each for each, name in mapping.items() if name in more}
        if more == found:
            return [*asked, *sorted(found - set(asked))]
        found = more


def _resolved(cursor: DuckDBPyConnection, table: str, identities: str) -> Mapping[str, str]:
    if identities == "exported":
        return {}
    events = f"SELECT * FROM {quoted(table)}"
    verbs: list[Any] = run(cursor, f"SELECT 1 FROM {quoted(table)} WHERE event_name IN {identity.VERBS} LIMIT 1")
    links = identity.read(cursor, f"{identity.users_query(events)} UNION ALL {identity.links_query(events)}")
    return identity.resolved(links, identity.chosen(identities, bool(verbs)))
