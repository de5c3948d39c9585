"""
The spool: bodies that wait between network and table, in files of their own, in a folder with a budget.

Each export has a folder of its own in the spool folder, held by a file lock for as long as its process lives. The
system drops that lock when the process dies, however it dies: a folder whose lock can be had is a dead one's.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from mpnb._base.clock import Cancelled
from mpnb._planning.options import Spool

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

MAX_BYTES = 10 * 10**9
# The database needs room for the same events: about what their spool takes, and some for its log.
MIN_FREE = 200 * 10**6
# A plain copy takes this share of the budget at most, and grows only while half of the budget is free: what is received
# never waits for copies, which can be done without.
COPY_SHARE = 16
# Of each file that is written in small pieces.
BUFFER = 1 << 20
_PREFIX = "mpnb-spool-"
_LOCK = "owner.lock"


class DiskFull(OSError):
    """The disk of the spool folder has no room for another batch."""


class SpoolFolder:
    """
    The spool files of one export, and the bytes that they take. Any thread may call any method.

    Raises:
        OSError: the folder cannot be made or written.
    """

    def __init__(self, spool: Spool, beside: Path | None, name: str) -> None:
        parent = spool.path_of(spool.folder) if spool.folder is not None else beside or Path(tempfile.gettempdir())
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _remove_dead(parent)
        self.max_bytes = spool.max_bytes or min(MAX_BYTES, max(1, shutil.disk_usage(parent).free // 2))
        self.path, lock = _claim(parent, name)
        self._lock: int | None = lock
        self._changed = threading.Condition()
        self._sizes: dict[Path, int] = {}
        self._largest = 0
        self._over_budget: Path | None = None  # the one file that may grow although the budget is spent

    def bytes(self) -> int:
        """Return the bytes that all files take now."""
        with self._changed:
            return sum(self._sizes.values())

    def wait_for_room(self, is_cancelled: Callable[[], bool], *, at_once: bool = False) -> None:
        """
        Wait until budget and disk have room for one more batch. Called before each request.

        Args:
            at_once: wait for nothing: what is here waits for this batch.

        Raises:
            Cancelled: the export ended first.
            DiskFull: the disk has no room, and nothing that waits here would make any.
        """
        with self._changed:
            while True:
                if is_cancelled():
                    raise Cancelled
                free = shutil.disk_usage(self.path).free
                used = sum(self._sizes.values())
                enough = free >= MIN_FREE + self._largest
                if enough and (at_once or used < self.max_bytes):
                    return
                if not enough and (at_once or used == 0):
                    raise DiskFull(f"{free / 1e6:,.0f} MB are free on the disk of {self.path.parent}")
                self._changed.wait(1.0)

    def new_file(self, path: Path, buffer: int = BUFFER) -> BinaryIO:
        """
        Open a file of the folder for writing, readable by its owner only; an existing file is truncated.

        One open makes it: a second one, which cuts what is there, would have ext4 write it to the disk when it is
        closed. It has a large buffer, since a system call for each block of a verifier would cost twice the CPU.

        Args:
            buffer: in bytes, less than what is written at once: what is as large goes through it in vain.
        """
        file = open(path, "wb", buffer, opener=lambda name, flags: os.open(name, flags, 0o600))  # noqa: SIM115
        with self._changed:
            self._sizes[path] = 0
        return file

    def grow(self, path: Path, size: int, is_cancelled: Callable[[], bool]) -> None:
        """
        Charge bytes that are about to be written, and wait while the budget is spent.

        One file at a time may go over it: else files that are all half done would wait for each other for ever.

        Raises:
            Cancelled: the export ended first.
        """
        with self._changed:
            while sum(self._sizes.values()) + size > self.max_bytes and self._over_budget not in (None, path):
                if is_cancelled():
                    raise Cancelled
                self._changed.wait(1.0)
            if sum(self._sizes.values()) + size > self.max_bytes:
                self._over_budget = path
            self._sizes[path] += size
            self._largest = max(self._largest, self._sizes[path])

    def spare(self, path: Path, size: int) -> bool:
        """Charge bytes that are not essential, if they fit, and return whether they do. Never waits."""
        with self._changed:
            too_large = self._sizes[path] + size > self.max_bytes // COPY_SHARE
            if too_large or sum(self._sizes.values()) + size > self.max_bytes // 2:
                return False
            self._sizes[path] += size
            return True

    def finish(self, path: Path) -> None:
        """Note that the file will not grow any more, so that another may exceed the budget now."""
        with self._changed:
            if self._over_budget == path:
                self._over_budget = None
            self._changed.notify_all()

    def remove(self, path: Path) -> None:
        """Delete a file and return its bytes to the budget. A missing file is no error."""
        with contextlib.suppress(OSError):
            path.unlink()
        with self._changed:
            self._sizes.pop(path, None)
        self.finish(path)

    def wake(self) -> None:
        """Make every waiting thread check its ``is_cancelled`` at once."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Delete the folder and everything in it. A second call does nothing."""
        lock, self._lock = self._lock, None
        if lock is not None:
            _delete(self.path, lock)


class PlainCopy:
    """
    An unpacked copy of a compressed body, kept while the budget has room for it.

    The body is unpacked to be verified in any case. DuckDB, which would unpack it a second time at twice the cost and
    in one thread, reads the copy instead: an eighth less CPU an export. A large body stays as it was received: unpacked
    it takes six times the disk.

    A context manager for one thread, which leaves no copy unless ``keep()`` said so.

    Args:
        path: of the copy.
    """

    def __init__(self, folder: SpoolFolder, path: Path) -> None:
        self.path = path
        self._folder = folder
        self._file: BinaryIO | None = None
        self._given_up = False

    def write(self, block: bytes) -> None:
        """Add plain bytes, or give up the copy if there is no room for them."""
        if self._given_up:
            return
        try:
            if self._file is None:
                self._file = self._folder.new_file(self.path)
            if self._folder.spare(self.path, len(block)):
                self._file.write(block)
                return
        except OSError:
            pass
        self._give_up()

    def keep(self) -> bool:
        """Finish the copy, and return whether it was kept."""
        if self._file is None:
            return False
        try:
            self._file.close()  # which writes the last of it: the disk may be full
        except OSError:
            self._give_up()
            return False
        self._file = None
        return True

    def _give_up(self) -> None:
        self._given_up = True
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None
            self._folder.remove(self.path)

    def __enter__(self) -> PlainCopy:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Delete the copy unless it was kept."""
        self._give_up()


# --- whose a folder is --------------------------------------------------------------------------------------------
#
# Only the process that claims a folder creates its lock file; only the process that holds the lock deletes it, after
# everything else in the folder; and a lock counts only while its file is in the folder. FileLock would create a missing
# file, and its folder: then a lock on a file that was just deleted could be taken for one on the file that replaced it.


def _claim(parent: Path, name: str) -> tuple[Path, int]:
    """Make a folder and lock it. Another process may delete it as a dead one in between: then try the next name."""
    for attempt in range(100):
        path = parent / f"{_PREFIX}{name}-{attempt}"
        with contextlib.suppress(FileNotFoundError, FileExistsError, BlockingIOError):
            path.mkdir(mode=0o700)
            return path, _locked(path / _LOCK, os.O_CREAT | os.O_EXCL)
    raise FileExistsError(f"no spool folder can be made in {parent}")


def _remove_dead(parent: Path) -> None:
    """Delete the spools of processes that died: what they held was not committed and is fetched again."""
    for folder in parent.glob(f"{_PREFIX}*"):
        # What cannot be had or deleted is left: it is alive, or not ours.
        with contextlib.suppress(OSError):
            if not _is_own(os.lstat(folder), stat.S_IFDIR):
                continue
            try:
                lock = _locked(folder / _LOCK)
            except FileNotFoundError:
                folder.rmdir()  # whoever is about to make the lock in it tries the next
            else:
                _delete(folder, lock)


def _locked(path: Path, flags: int = 0) -> int:
    """
    Open a lock file and take its lock.

    Raises:
        BlockingIOError: somebody else holds it.
        FileNotFoundError: there is none, or whoever held it before deleted it.
        OSError: it is a link, or not this user's.
    """
    file = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | flags, 0o600)
    try:
        _lock(file)
        status = os.fstat(file)
        if not _is_own(status, stat.S_IFREG):
            raise PermissionError(f"{path} is not this user's")
        if not status.st_nlink:
            raise FileNotFoundError(path)
    except BaseException:
        os.close(file)
        raise
    return file


def _lock(file: int) -> None:
    """Lock an open file; the lock ends with the process at the latest. Raises ``BlockingIOError``."""
    if sys.platform == "win32":
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError(str(error)) from None
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _delete(folder: Path, lock: int) -> None:
    """Delete a folder whose lock is held, as far as possible, and release the lock."""
    try:
        with contextlib.suppress(OSError):
            for entry in list(os.scandir(folder)):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry, ignore_errors=True)
                elif entry.name != _LOCK:
                    with contextlib.suppress(OSError):
                        os.unlink(entry)
            if sys.platform == "win32":
                # An open file cannot be deleted there: nor can this one while anybody else has it.
                os.close(lock)
                lock = -1
            if os.listdir(folder) == [_LOCK]:
                os.unlink(folder / _LOCK)
                os.rmdir(folder)
    finally:
        if lock >= 0:
            os.close(lock)


def _is_own(status: os.stat_result, kind: int) -> bool:
    """Whether a path is of that kind, no link, and owned by this user."""
    return stat.S_IFMT(status.st_mode) == kind and (sys.platform == "win32" or status.st_uid == os.getuid())
