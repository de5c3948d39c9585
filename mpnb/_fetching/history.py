"""
When a project was queried: a small file in the user's state folder, so that the quota holds across processes.

An export works without it. If the file is damaged, missing, locked or read-only, a process knows only its own requests;
then, and after the clock was set back, Mixpanel's 429 is what limits an export.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import math
import os
import time
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import platformdirs
from filelock import FileLock

from mpnb._base.paths import local_path, read, replace
from mpnb._base.text import safe_text

# Where the files are, in place of the user's state folder.
FOLDER_VARIABLE = "MPNB_STATE_DIR"
# A lock is held for a millisecond. One that is held longer belongs to a suspended process, or the file system cannot
# lock: requests do not wait for it again each time.
LOCK_SECONDS = 0.5
RETRY_SECONDS = 30.0
# Projects that are exported side by side rarely share a lock, and those of a lifetime leave so few files behind.
LOCKS = 64
# Older times are never needed.
OLD_SECONDS = 7200.0

log = logging.getLogger("mpnb")


@dataclass(frozen=True, slots=True)
class Times:
    """
    What is known of a project's requests, in seconds since the epoch.

    Attributes:
        starts: when requests started, in order.
        cool_until: no request starts before.
        withdrawn: starts that no request followed. They stay known, since another process may still hold them for
            starts and write them again.
        sessions_count_until: requests within a session take a place in the hour until then.
    """

    starts: tuple[float, ...] = ()
    cool_until: float = 0.0
    withdrawn: tuple[float, ...] = ()
    sessions_count_until: float = 0.0


class History:
    """
    A project's request times, in a file that all processes of a user share. One thread at a time.

    Args:
        host: scheme and host of the API.
        project_id: number of the project there.
        family: of the API whose quota it is, ``"export"`` or ``"query"``.
    """

    def __init__(self, host: str, project_id: str, family: str = "export") -> None:
        # The same project behind another address, such as a sandbox, is another one.
        of = "quota" if family == "export" else f"quota-{family}"
        self._name = f"{of}-{project_id}-{hashlib.sha256(host.encode()).hexdigest()[:8]}.json"
        self._lock = f"quota.{zlib.crc32(self._name.encode()) % LOCKS}.lock"
        self._host = urlsplit(host).hostname or host
        self._skip_until = -math.inf
        self._told = False

    def read(self) -> Times:
        """Return what the file holds, or nothing if it cannot be read. Takes no lock: files are replaced atomically."""
        try:
            return _parse(read(state_folder() / self._name))
        except FileNotFoundError:
            return Times()
        except (OSError, ValueError, RuntimeError, RecursionError) as error:
            self._tell(error)
            return Times()

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep other processes from writing until the end of the block, if the file can be locked."""
        with contextlib.ExitStack() as stack:
            try:
                if time.monotonic() >= self._skip_until:
                    folder = state_folder()
                    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                    lock = FileLock(folder / self._lock, mode=0o600)
                    stack.enter_context(lock.acquire(timeout=LOCK_SECONDS, poll_interval=0.005))
            except (OSError, RuntimeError, ValueError) as error:
                self._give_up(error)
            yield

    def write(self, times: Times) -> None:
        """Replace the file. Call it within ``exclusive()``, or what another process writes at the same time is lost."""
        if time.monotonic() < self._skip_until:
            return
        try:
            path = state_folder() / self._name
            if not path.exists():
                _remove_old(path.parent)
            fresh = path.with_suffix(f".{os.getpid()}")
            try:
                with open(os.open(fresh, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as file:
                    json.dump({"host": self._host, **asdict(times)}, file)
                replace(fresh, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    fresh.unlink()
                raise
        except (OSError, RuntimeError, ValueError) as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._skip_until = time.monotonic() + RETRY_SECONDS
        self._tell(error)

    def _tell(self, error: Exception) -> None:
        if not self._told:
            self._told = True
            why = safe_text(f"{type(error).__name__}: {error}")
            log.warning("the times of requests cannot be saved, and the quota holds in this process only: %s", why)


def state_folder() -> Path:
    """Return the folder of what mpnb remembers between calls on this machine."""
    given = os.environ.get(FOLDER_VARIABLE)
    return _given_folder(given) if given else platformdirs.user_state_path("mpnb", appauthor=False)


@functools.cache
def _given_folder(given: str) -> Path:
    """
    Return the folder that the variable names, made absolute once, so that a change of directory does not matter.

    Raises:
        PlanError: it is none of this machine.
    """
    return local_path(given, FOLDER_VARIABLE, "name a folder of this machine").absolute()


def _parse(data: bytes) -> Times:
    """Parse the content of a file. Raises ``ValueError`` if mpnb did not write it."""
    value: Any = json.loads(data)
    if not isinstance(value, dict):
        raise ValueError("the file holds something else")
    # A file of an older version has no "withdrawn".
    starts, withdrawn = (_moments(value.get(name, default)) for name, default in (("starts", None), ("withdrawn", [])))
    cool_until, counted = (_moment(value.get(name, 0.0)) for name in ("cool_until", "sessions_count_until"))
    return Times(starts, cool_until, withdrawn, counted)


def _moments(value: Any) -> tuple[float, ...]:
    if not isinstance(value, list):
        raise ValueError("the file holds something else")
    return tuple(sorted(_moment(each) for each in value))


def _moment(value: Any) -> float:
    try:
        moment = math.nan if isinstance(value, bool) or not isinstance(value, int | float) else float(value)
    except OverflowError:  # an integer of hundreds of digits
        moment = math.inf
    if not math.isfinite(moment):
        raise ValueError("the file holds an invalid time")
    return moment


def _remove_old(folder: Path) -> None:
    """Delete the files of projects that were not queried for a while: they hold nothing of use any more."""
    for path in folder.glob("quota-*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > OLD_SECONDS:
                path.unlink()
