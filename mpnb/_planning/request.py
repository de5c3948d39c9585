"""The arguments of an export, checked before anything else happens."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, Literal

from duckdb import DuckDBPyConnection

from mpnb._base.clock import today
from mpnb._base.names import EVENTS, event_names
from mpnb._base.scalars import brief, either, is_text, whole_number
from mpnb._base.text import safe_text
from mpnb._base.warn import warn
from mpnb._errors import CredentialsError, PlanError, TableError
from mpnb._message import Argument, Message
from mpnb._mixpanel.credentials import Credentials, missing_variables
from mpnb._mixpanel.quota import Quota
from mpnb._planning.address import Address, address_of
from mpnb._planning.batches import Mode, check_chunk_days
from mpnb._planning.dates import FIRST_DAY, parse_date
from mpnb._planning.options import CHUNK_DAYS, DATABASE, LAKE_CHUNK_DAYS, MAX_LATE_DAYS, TABLE, Spool, memory_of
from mpnb._planning.states import BatchProgress

Database = str | os.PathLike[str] | DuckDBPyConnection
OnBatch = Callable[[BatchProgress], object]
MAX_WORKERS = 100
MODES = ("resume", "refresh", "new")


@dataclass(frozen=True, slots=True)
class Asked:
    """
    The checked arguments of a call.

    ``projects`` are the service accounts where there may be several, in place of ``credentials`` and ``source``.
    """

    from_date: date
    to_date: date
    source: Source | None
    database: Database
    table: str
    workers: int
    chunk_days: int | Literal["auto"]
    mode: Mode
    late_days: int
    on_batch: OnBatch | None
    credentials: Credentials | None
    quota: Quota | None
    spool: Spool
    memory: int | None
    events: tuple[str, ...] | None
    where: str | None
    notes: tuple[str, ...] = ()
    destination: Address | None = None
    projects: tuple[Credentials, ...] = ()
    executor: Executor | None = None

    @property
    def each(self) -> tuple[Asked, ...]:
        """Return what is asked of each project, where there are several, each with a table of its own; else itself."""
        if not self.projects:
            return (self,)
        return tuple(
            replace(
                self,
                projects=(),
                credentials=project,
                source=Source(project.project_id, self.events, self.where),
                table=f"{self.table}_{project.project_id}",
            )
            for project in self.projects
        )


def check(
    *,
    from_date: date | str,
    to_date: date | str,
    events: str | Iterable[str] | None,
    where: str | None,
    database: Database,
    table: str,
    workers: int,
    chunk_days: int | Literal["auto"] | None,
    mode: Mode,
    late_days: int,
    destination: str | os.PathLike[str] | None,
    executor: Executor | None,
    on_batch: OnBatch | None,
    credentials: Credentials | Iterable[Credentials] | None,
    quota: Quota | None,
    spool: Spool | None,
    memory: int | str | None,
    needs_credentials: bool = True,
) -> Asked:
    """
    Check the arguments of ``export``, whose docstring has the rules.

    Raises:
        PlanError: an argument is out of its range or of another type.
        TableError: no table can have that name.
        CredentialsError: there are none, or none that can be.
    """
    first, last, notes = asked_days(from_date, to_date)
    workers = whole_number("workers", workers, 1, MAX_WORKERS)
    address = None if destination is None else _lake(destination, database, table)
    if chunk_days is None:
        chunk_days = CHUNK_DAYS if address is None else LAKE_CHUNK_DAYS
    elif not isinstance(chunk_days, str) or chunk_days != "auto":
        chunk_days = check_chunk_days(chunk_days, otherwise=", or 'auto'")
    late_days = whole_number("late_days", late_days, 0, MAX_LATE_DAYS)
    check_mode(mode)
    projects = several_projects(credentials)
    account = None if projects or not isinstance(credentials, Credentials) else credentials
    check_helpers(on_batch=on_batch, quota=quota, spool=spool)
    if where is not None and (not isinstance(where, str) or not where.strip() or not is_text(where)):
        raise PlanError(Argument("where"), f" must be a filter expression of Mixpanel's, not {brief(where)}")
    names = None if events is None else tuple(event_names(events, EVENTS))
    if names and not all(names):
        raise PlanError(EVENTS, ", and '' is not a name")
    name = check_table_name(table)
    # A lake is divided by project.
    if credentials is None and (needs_credentials or address or not missing_variables()):
        account = Credentials.from_environment()
    source = Source(account.project_id, names, where) if account else None
    if address is not None and source is not None:
        name = f"{TABLE}_{source.project_id}"
    return Asked(
        first, last, source, database, name, workers, chunk_days, mode, late_days, on_batch, account, quota,
        spool or Spool(), memory_of(memory), names, where, notes, address, projects,
        _checked_executor(executor, address, projects or (account,)),
    )  # fmt: skip


def _checked_executor(
    executor: object, address: Address | None, accounts: Iterable[Credentials | None]
) -> Executor | None:
    """
    Return the executor that is to fetch.

    Raises:
        PlanError: it is none, or none that can do it.
        CredentialsError: the credentials may not leave this process.
    """
    if executor is None:
        return None
    name = Argument("executor")
    if not isinstance(executor, Executor):
        what = " must be a concurrent.futures.Executor, such as client.get_executor(pure=False) of Dask's"
        raise PlanError(name, f"{what}, not {brief(executor)}")
    if address is None:
        raise PlanError(name, " needs a ", Argument("destination", ""), ": its workers cannot write to a database here")
    if isinstance(executor, ThreadPoolExecutor):
        return executor
    # Its own context says how it starts processes; there is no public way to ask.
    context = getattr(executor, "_mp_context", None)
    if context is not None and context.get_start_method() == "fork":
        raise PlanError(
            name,
            " starts its processes by 'fork', which copies this one while its threads are at work: pass"
            " ProcessPoolExecutor(mp_context=multiprocessing.get_context('spawn'))",
        )
    try:
        pickle.dumps([each for each in accounts if each is not None])
    except TypeError as error:
        raise CredentialsError(Argument("credentials"), f" cannot be sent to the workers: {error}") from None
    return executor


def _lake(destination: str | os.PathLike[str], database: Database, table: str) -> Address:
    """Return the address of a lake. Raises ``PlanError`` where it is none, or a table is asked for as well."""
    for name, given, usual in (("database", database, DATABASE), ("table", table, TABLE)):
        if not isinstance(given, type(usual)) or given != usual:
            raise PlanError(
                Argument(name), " goes with a database, not with ", Argument("destination"), ": pass one of them"
            )
    return address_of(destination)


def several_projects(credentials: object) -> tuple[Credentials, ...]:
    """
    Return the service accounts, one a project, where several may be passed; none for one by itself, or ``None``.

    Raises:
        CredentialsError: it is something else, or two of them are of the same project.
    """
    if credentials is None or isinstance(credentials, Credentials):
        return ()
    if isinstance(credentials, str | bytes | Mapping) or not isinstance(credentials, Iterable):
        kind = type(credentials).__name__
        raise CredentialsError(Argument("credentials"), f" must be an mpnb.Credentials, or several, not a {kind}")
    projects: list[Credentials] = []
    for each in credentials:
        check_helpers(credentials=each)
        if any(each.project_id == other.project_id for other in projects):
            raise CredentialsError(Argument("credentials"), f" has project {each.project_id} twice: pass each once")
        projects.append(each)
        if len(projects) > MAX_WORKERS:
            # Each has a thread of its own at least.
            raise CredentialsError(
                Argument("credentials"), f" has more than {MAX_WORKERS} projects: make several calls"
            )
    if not projects:
        raise CredentialsError(Argument("credentials"), " is empty: pass one for each project")
    return tuple(projects)


def asked_days(from_date: date | str, to_date: date | str) -> tuple[date, date, tuple[str, ...]]:
    """
    Return the first and the last day that are asked for, and notes of what was made of them.

    Raises:
        PlanError: they cannot be read, are in the wrong order, all in the future, or before Mixpanel began.
    """
    now = today()
    first = parse_date(from_date, name="from_date", now=now)
    last = parse_date(to_date, name="to_date", now=now)
    if first > last:
        raise PlanError(Argument("from_date"), f" {first} is after ", Argument("to_date"), f" {last}")
    if first > now:
        raise PlanError(Argument("from_date"), f" {first} is after today, {now} in UTC")
    if first < FIRST_DAY:
        why = f"{FIRST_DAY.year}, when Mixpanel began: it has no earlier events"
        raise PlanError(Argument("from_date"), f" {first} is before {why}")
    notes: tuple[str, ...] = ()
    if last > now:
        notes = (Message(Argument("to_date"), f" {last} is after today: using {now}"),)
        warn(notes[0])
        last = now
    return first, last, notes


def check_mode(mode: object) -> None:
    """Raise ``PlanError`` unless it is one of ``MODES``."""
    if not isinstance(mode, str) or mode not in MODES:
        raise PlanError(Argument("mode"), f" must be {either(MODES)}, not {brief(mode)}")


def check_helpers(
    *, on_batch: object = None, credentials: object = None, quota: object = None, spool: object = None
) -> None:
    """
    Check arguments that are objects of mpnb's own classes, or ``None``.

    Raises:
        PlanError: it is of another kind.
        CredentialsError: so are the credentials. The message does not show them: there may be a secret in them.
    """
    if credentials is not None and not isinstance(credentials, Credentials):
        kind = type(credentials).__name__
        raise CredentialsError(Argument("credentials"), f" must be an mpnb.Credentials, not a {kind}")
    if on_batch is not None and not callable(on_batch):
        raise PlanError(Argument("on_batch"), f" must be a function of a BatchProgress, not {brief(on_batch)}")
    if quota is not None and not isinstance(quota, Quota):
        raise PlanError(Argument("quota"), f" must be an mpnb.Quota, not {brief(quota)}")
    if spool is not None and not isinstance(spool, Spool):
        raise PlanError(Argument("spool"), f" must be an mpnb.Spool, not {brief(spool)}")


# Names of events in the words for a source.
SHOWN_NAMES = 8


@dataclass(frozen=True, slots=True)
class Source:
    """The source of a table's events; a table has exactly one."""

    project_id: str
    events: tuple[str, ...] | None = None
    where: str | None = None

    @property
    def event_filter(self) -> str | None:
        """Return the event names in the ledger's form: a sorted JSON array, ``None`` for all events."""
        return None if self.events is None else json.dumps(sorted(self.events), ensure_ascii=False)

    def is_same(self, other: Any) -> bool:
        """Whether both are the same source, in whatever order the events are named."""
        mine, others = ((s.project_id, s.event_filter, s.where) for s in (self, other))
        return mine == others

    def filter_in_words(self) -> str:
        """Return the filter in words."""
        names = sorted(self.events or ())
        more = f" and {len(names) - SHOWN_NAMES:,} more" if len(names) > SHOWN_NAMES else ""
        events = f"events {', '.join(map(brief, names[:SHOWN_NAMES]))}{more}" if names else "all events"
        return events + (f", where {safe_text(self.where)}" if self.where else "")

    def __str__(self) -> str:
        """Return the source in words."""
        return f"project {self.project_id}, {self.filter_in_words()}"


def check_table_name(table: object) -> str:
    """
    Return a valid name of an events table. Raises ``PlanError`` for any other.

    Raises:
        TableError: it is empty, no text, or one of mpnb's own.
    """
    if not isinstance(table, str) or not table.strip() or "\0" in table or not is_text(table):
        raise TableError(Argument("table"), f" must be the name of a table, not {brief(table)}")
    if table.lower().startswith("mpnb_"):
        raise TableError(Argument("table"), f" {brief(table)}: names that begin with mpnb_ are mpnb's own")
    return table
