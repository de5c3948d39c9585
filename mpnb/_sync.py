"""``sync``: keep the tables that one file names up to date."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from filelock import FileLock, Timeout

from mpnb import _api as api
from mpnb._base.clock import epoch_seconds
from mpnb._base.paths import local_path, shown
from mpnb._base.patience import NONE, waiting
from mpnb._base.scalars import brief
from mpnb._base.text import duration, printable, safe_text
from mpnb._errors import DatabaseBusyError, PlanError
from mpnb._exporting.handles import ExportError, ExportResult
from mpnb._exporting.profiles import ProfilesError, ProfilesResult
from mpnb._fetching.history import state_folder
from mpnb._message import WAIT, Argument, said
from mpnb._planning.agenda import Agenda, Entry, EventsEntry, arguments_of, in_file, place_of, read_agenda

log = logging.getLogger("mpnb")


@dataclass(frozen=True, slots=True)
class Synced:
    """
    How one table of a ``sync`` did. Its repr is one line.

    Attributes:
        table: name of the table.
        database: its database, or its lake.
        kind: ``"events"`` or ``"profiles"``.
        status: ``"done"``; ``"partial"`` where some batches failed and the others are in the table; ``"failed"`` where
            nothing came; ``"busy"`` where another process had the database open.
        rows: events or profiles that the table has now; 0 where it could not be opened.
        new_rows: of these, events that came now; for profiles 0, since they are replaced.
        failed_batches: batches that failed.
        seconds: how long it took.
        message: what went wrong, empty if nothing.
    """

    table: str
    database: str
    kind: str
    status: str
    rows: int
    new_rows: int
    failed_batches: int
    seconds: float
    message: str

    def __repr__(self) -> str:
        """Return it in one line."""
        new = f", {self.new_rows:,} new" if self.kind == "events" else ""
        has = f", {self.rows:,} {self.kind}{new}" if self.status in ("done", "partial") else ""
        why = f": {self.message}" if self.message else ""
        where = f"{printable(self.table)} in {printable(self.database)}"
        return f"{where}: {self.status}{has}, {duration(self.seconds)}{why}"


@dataclass(frozen=True, slots=True)
class Sync:
    """
    What a ``sync`` did. Its repr has one line per table.

    Attributes:
        tables: how each table did: those of events, then those of profiles, as in the file.
    """

    tables: tuple[Synced, ...]

    @property
    def ok(self) -> bool:
        """Whether every table is up to date."""
        return all(each.status == "done" for each in self.tables)

    def __repr__(self) -> str:
        """Return one line per table."""
        return "\n".join(map(repr, self.tables))


def sync(
    file: str | os.PathLike[str], *, wait: timedelta = NONE, on_table: Callable[[Synced], object] | None = None
) -> Sync:
    """
    Bring every table up to date that a file names: events as ``export`` does, profiles as ``export_profiles`` does.

    The file is TOML. ``[[events]]`` and ``[[profiles]]`` name the tables, with ``days`` such as ``"last 30 days"`` and
    the arguments of the two calls; ``[projects.NAME]`` has ``project_id``, ``region``, and as ``username_env`` and
    ``secret_env`` the names of the variables of the environment that have the service account. Paths are relative to
    the file. README has an example.

    One table that fails does not stop the others. Two calls for the same file do not run at once.

    Args:
        file: its path.
        wait: how long to wait for a database that another process has open, and for another call for this file.
        on_table: called with each table as it ends, in the calling thread.

    Returns:
        How each table did.

    Raises:
        PlanError: there is no such file, or it says something that cannot be; nothing was sent. It is a
            ``DatabaseBusyError`` where another call for this file is running.
        KeyboardInterrupt: Ctrl-C was pressed. What is written stays, and the same call continues from there.
    """
    path = local_path(file, "file", "pass the path of a TOML file").absolute()
    if not isinstance(wait, timedelta) or wait < NONE:
        raise PlanError(Argument("wait"), f" must be a timedelta of 0 or more, not {brief(wait)}")
    agenda = read_agenda(path)
    done: list[Synced] = []
    with contextlib.closing(waiting(lambda: _Turn(path), wait, _say)):
        for entry in agenda.entries:
            done.append(_synced(agenda, entry, path.parent, wait))
            if on_table is not None:
                on_table(done[-1])
    return Sync(tuple(done))


class _Turn:
    """A lock on a file's tables, so that two runs of one schedule do not meet."""

    def __init__(self, path: Path) -> None:
        folder = state_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = FileLock(folder / f"sync-{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}.lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise DatabaseBusyError(f"another sync of {shown(path)} is running: ", WAIT, "let it end") from None

    def close(self) -> None:
        """Let others in."""
        self._lock.release()


def _say(text: str) -> None:
    log.warning("%s", text)


def _synced(agenda: Agenda, entry: Entry, folder: Path, wait: timedelta) -> Synced:
    """Bring one table up to date. Whatever Mixpanel, its database or its arguments make of it, it is told."""
    began = epoch_seconds()
    is_events = isinstance(entry, EventsEntry)
    call: Callable[..., ExportResult | ProfilesResult] = api.export if is_events else api.export_profiles

    def ended(
        status: str, result: ExportResult | ProfilesResult | None = None, why: str | BaseException = ""
    ) -> Synced:
        is_new = isinstance(result, ExportResult)
        return Synced(
            table=entry.table,
            database=place_of(agenda, entry),
            kind="events" if is_events else "profiles",
            status=status,
            rows=result.total_rows if result else 0,
            new_rows=result.fetched_rows if result and is_new else 0,
            failed_batches=result.failed_batches if result else 0,
            seconds=epoch_seconds() - began,
            message=safe_text(said(why, in_file)),
        )

    try:
        with waiting(lambda: call(**arguments_of(agenda, entry, folder)), wait, _say) as result:
            if not result.has_failures:
                return ended("done", result)
            return ended("partial", result, f"{result.failed_batches:,} batches failed: mpnb status shows which days")
    except (ExportError, ProfilesError) as error:
        with error.result as result:
            return ended("failed", result, error)
    except DatabaseBusyError as error:
        return ended("busy", why=error)
    except PlanError as error:
        return ended("failed", why=error)
