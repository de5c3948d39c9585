"""
One batch as a task for a worker of an executor, perhaps on another machine: fetched, verified, put into the lake.

    run_errand(Errand) ──► look at what is there ──► Connection.fetch ──► Lake.put, Lake.publish ──► Arrived | Missed

It sends one request at most. Quota, attempts and the ledger stay with the process that sends errands. It never raises
what is expected: not every exception comes back from every executor.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache

import duckdb
from duckdb import DuckDBPyConnection

from mpnb._base.clock import utc_now
from mpnb._base.fork import free_in_child, in_child
from mpnb._base.sql import quoted, run
from mpnb._base.text import safe_text
from mpnb._errors import MpnbError
from mpnb._fetching.client import Connection, FetchError
from mpnb._fetching.fetched import Fetched, Stored, Task
from mpnb._fetching.route import route_to
from mpnb._fetching.spool import SpoolFolder
from mpnb._fetching.verify import Body
from mpnb._message import SAME_CALL
from mpnb._mixpanel.credentials import Credentials, forms_of
from mpnb._mixpanel.failures import Failure, failure, from_os_error, hint_of
from mpnb._planning.address import Address
from mpnb._planning.batches import Batch
from mpnb._planning.options import Spool
from mpnb._planning.resource import Events
from mpnb._storing.database import MEMORY, OBJECTS, REJECTED, REJECTED_COLUMNS, Store
from mpnb._storing.destination import Unfit, WriteError
from mpnb._storing.insert import NotAllRecords, blocks
from mpnb._storing.lake import Lake
from mpnb._storing.ledger import Arrival
from mpnb._storing.mirror import OBJECTS_COLUMNS, beat_key, objects_at, source_key
from mpnb._storing.objects import Objects, ObjectsError
from mpnb._storing.table import write_error
from mpnb._version import __version__

# A worker that is at it for so long says so in the lake, and again after as long: not every executor tells.
BEAT_SECONDS = 60.0
# Where the environment has the settings of object stores.
_SETTINGS = ("AWS_", "AZURE_", "GOOGLE_")

MEND_WORKERS = hint_of("Mend it where the workers of the executor run, then run ", SAME_CALL, " again.")


@dataclass(frozen=True, slots=True)
class Errand:
    """
    What a worker is to do. It has no secret, unless that may travel.

    Attributes:
        address: of the lake.
        credentials: as they are, or pickled: then a worker that cannot read them can say so.
        attempt: of the batch, from 1.
        started_at: when the quota allowed it, in UTC.
        seen: keys of the batch's objects, with the ETags of those that were there.
        beat_seconds: after which to say that it is at work.
    """

    address: Address
    resource: Events
    credentials: Credentials | bytes
    export_id: str
    batch_id: int
    batch: Batch
    attempt: int
    started_at: datetime
    seen: tuple[tuple[str, str | None], ...]
    spool: Spool
    memory: int | None
    beat_seconds: float = BEAT_SECONDS


@dataclass(frozen=True, slots=True)
class Arrived:
    """A batch that is in the lake, as its worker tells of it."""

    body: Body
    stored: Stored


@dataclass(frozen=True, slots=True)
class Missed:
    """
    A batch that is not.

    Attributes:
        sent: whether a request left the worker's machine.
        is_final: whether the batch arrived, but could not be put in its place.
    """

    failure: Failure
    sent: bool = True
    is_final: bool = False


def greet(version: str, address: Address, project_id: str, host: str, credentials: Credentials | bytes) -> str:
    """
    Return what keeps a worker from any errand, an empty text for nothing. Sends nothing to Mixpanel.

    Before the first errand, so that its request can begin as soon as the quota allows it: what this imports takes a
    new process a second or two.

    Args:
        version: of mpnb in the process that asks.
        host: that requests are to go to.
    """
    if version != __version__:
        return f"its workers have mpnb {__version__}, and this process has {version}: install the same"
    try:
        account = _account(credentials)
        if (account.project_id, account.host) != (project_id, host):
            return f"the environment of its workers has project {account.project_id} at {account.host}"
        route_to(host)
        if objects_of(address).look(source_key(project_id)) is None:
            return f"there is no {address.label} where its workers run: they need a folder that all machines share"
    except MpnbError as error:
        return str(error)
    except ObjectsError as error:
        return f"{error}: {error.hint}"
    except Exception as error:
        return f"unexpected {type(error).__name__} in a worker: {error}"
    return ""


def run_errand(errand: Errand) -> Arrived | Missed:
    """Fetch a batch, verify it and put it into the lake, in a thread of a worker."""
    try:
        objects = objects_of(errand.address)
        account = _account(errand.credentials)
        with _beating(objects, errand), _workshop(errand.spool, errand.memory) as shop:
            return _done(errand, objects, account, shop)
    except OSError as error:
        return Missed(_placed(from_os_error(error)), sent=False)
    except ObjectsError as error:
        return Missed(failure("write", str(error), hits_all=True, hint=error.hint), sent=False)
    except MpnbError as error:
        return Missed(failure("write", str(error), hits_all=True, hint=MEND_WORKERS), sent=False)
    except Exception as error:
        return Missed(failure("write", safe_text(f"unexpected {type(error).__name__} in a worker: {error}")))


def _done(errand: Errand, objects: Objects, account: Credentials, shop: _Workshop) -> Arrived | Missed:
    scratch = objects.scratch(errand.resource.source.project_id, shop.spool.path)
    seen = {key: etag for key, etag in errand.seen if etag is not None}
    lake = Lake(objects, errand.resource, errand.export_id, seen=seen, scratch=scratch)
    try:
        with shop.store.reading() as cursor:
            try:
                if (there := _there(cursor, lake, objects, errand)) is not None:
                    return there
            except Unfit as error:
                return Missed(error.failure, sent=False, is_final=True)
            return _fetched(errand, lake, account, shop, cursor)
    finally:
        lake.leave()


def _there(cursor: DuckDBPyConnection, lake: Lake, objects: Objects, errand: Errand) -> Arrived | None:
    """
    Return the batch if it is there already: an executor may run a task again, and of that the quota knows nothing.

    Raises:
        Unfit: another export has stored one of its days meanwhile, so that it could not be put in its place.
    """
    found = {key: objects.look(key) for key, _ in errand.seen}
    met = [key for key, etag in errand.seen if (each := found[key]) is not None and each.etag != etag]
    ours = [(key, *lake.ours(cursor, key, errand.batch_id)) for key in met]
    if not ours or len(ours) < errand.batch.days:
        return None
    note = ours[0][2]
    rows = sum(each.rows for _, _, each in ours)
    stored = Stored(rows, note.rejected, note.kept_lines, tuple((key, etag, each.rows) for key, etag, each in ours))
    return Arrived(Body(False, note.size, 0, rows + note.rejected), stored)


def _fetched(
    errand: Errand, lake: Lake, account: Credentials, shop: _Workshop, cursor: DuckDBPyConnection
) -> Arrived | Missed:
    task = Task(0, errand.batch_id, errand.batch, attempts=errand.attempt, started_at=errand.started_at)
    spool = shop.spool
    path = spool.path / f"{uuid.uuid4().hex}.jsonl"
    with contextlib.closing(Connection(account, route_to(account.host))) as connection:
        try:
            path, body = connection.fetch(
                errand.resource.request(errand.batch),
                spool,
                path,
                is_cancelled=lambda: False,
                on_answer=lambda status: None,
                on_bytes=lambda size: None,
            )
            return Arrived(body, _landed(cursor, lake, Fetched(task, path, body), shop.store))
        except FetchError as error:
            return Missed(_placed(error.failure), sent=connection.sent)
        except WriteError as error:
            # What its lines show, another attempt may mend; where it is to go, none.
            return Missed(_placed(error.failure), is_final=error.failure.kind != "truncated")
        except Exception as error:
            message = f"unexpected {type(error).__name__} in a worker: {error}"
            return Missed(failure("write", message).without(forms_of(account.username, account.secret)))
        finally:
            for each in (path, path.with_name(path.name + ".plain")):
                spool.remove(each)


def _landed(cursor: DuckDBPyConnection, lake: Lake, item: Fetched, store: Store) -> Stored:
    """Put a batch into the lake. Raises ``WriteError``."""
    try:
        try:
            return _publish(cursor, lake, item)
        except duckdb.OutOfMemoryException:
            # A batch of very large events: what DuckDB takes by itself is better than to fail.
            with store.without_memory_limit():
                return _publish(cursor, lake, item)
    except Exception as error:
        raise write_error(error) from error


def _publish(cursor: DuckDBPyConnection, lake: Lake, item: Fetched) -> Stored:
    _clear(cursor)
    try:
        lake.put(cursor, [item] if item.body.lines else [])
        rows, rejected = item.body.lines, 0
    except NotAllRecords:
        _clear(cursor)
        rows = rejected = 0
        for block in blocks(item):
            good, bad = lake.put_lines(cursor, item.task.batch_id, block)
            rows, rejected = rows + good, rejected + bad
    lake.publish(cursor, [item], [Arrival(item.task, rows, rejected, item.body.size)])
    [(kept,)] = run(cursor, f"SELECT count(*) FROM {REJECTED}")
    objects = tuple(run(cursor, f"SELECT key, etag, rows FROM {OBJECTS} ORDER BY key ASC"))
    return Stored(sum(each for _, _, each in objects), rejected, kept, objects)


def _clear(cursor: DuckDBPyConnection) -> None:
    for name, columns in ((REJECTED, REJECTED_COLUMNS), (OBJECTS, OBJECTS_COLUMNS)):
        body = ", ".join(f"{quoted(column)} {kind}" for column, kind in columns)
        run(cursor, f"CREATE OR REPLACE TEMP TABLE {name} ({body})")


def _account(credentials: Credentials | bytes) -> Credentials:
    """Return the credentials, read from this process's environment. Raises ``CredentialsError``."""
    if isinstance(credentials, Credentials):
        return credentials
    account: Credentials = pickle.loads(credentials)  # noqa: S301 (of the process that sends errands)
    return account


def _placed(why: Failure) -> Failure:
    """Name the machine whose disk is at fault: there may be many."""
    if why.kind != "write":
        return why
    return replace(why, message=f"{why.message} (on {safe_text(socket.gethostname())})")


# --- what a worker keeps from one errand to the next -----------------------------------------------------------------


def objects_of(address: Address) -> Objects:
    """Return the objects of a lake, as the environment is now. Raises ``MissingPackageError`` or ``ObjectsError``."""
    return _objects_with(address, tuple(sorted(each for each in os.environ.items() if each[0].startswith(_SETTINGS))))


@lru_cache(maxsize=8)
def _objects_with(address: Address, environment: tuple[tuple[str, str], ...]) -> Objects:
    return objects_at(address)


class _Workshop:
    """A spool folder and a DuckDB instance, until the process ends: to make them takes longer than a small day does."""

    def __init__(self, spool: Spool, memory: int | None) -> None:
        self.spool = SpoolFolder(spool, None, uuid.uuid4().hex[:12])
        self.store = Store(MEMORY)
        self.open = contextlib.ExitStack()
        self.open.callback(self.spool.close)
        self.open.callback(self.store.close)
        self.open.enter_context(self.store.settings(memory))
        with self.store.reading() as cursor:
            run(cursor, "SET GLOBAL temp_directory = ?", [str(self.spool.path / "spill")])


_workshops: dict[tuple[Spool, int | None], _Workshop] = {}
_making = threading.Lock()
free_in_child(_making)
in_child(_workshops.clear)


@contextlib.contextmanager
def _workshop(spool: Spool, memory: int | None) -> Iterator[_Workshop]:
    import multiprocessing.util

    with _making:
        shop = _workshops.get((spool, memory))
        if shop is None or shop.store.broken or not shop.spool.path.exists():
            shop = _workshops[spool, memory] = _Workshop(spool, memory)
            # With the last errand in it, or the process: those of multiprocessing run nothing of atexit at their end.
            multiprocessing.util.Finalize(shop, shop.open.close, exitpriority=10)
    yield shop


@contextlib.contextmanager
def _beating(objects: Objects, errand: Errand) -> Iterator[None]:
    """Note in the lake, within the block, that the errand is under way, for as long as it takes."""
    done = threading.Event()
    key = beat_key(errand.resource.source.project_id, errand.export_id, errand.batch_id)

    def beat() -> None:
        has_said = False
        while not done.wait(errand.beat_seconds):
            with contextlib.suppress(ObjectsError):
                objects.put(key, f"attempt {errand.attempt}, {utc_now()}".encode(), None)
                has_said = True
        if has_said:
            with contextlib.suppress(ObjectsError):
                objects.delete(key)

    beating = threading.Thread(target=beat, name="mpnb-errand", daemon=True)
    beating.start()
    try:
        yield
    finally:
        done.set()
        beating.join()
