"""Paths that users type: whether they are on this machine, and what kind of file is there."""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from mpnb._base.scalars import brief, is_text
from mpnb._base.text import safe_text
from mpnb._errors import PlanError
from mpnb._message import Argument

Value = TypeVar("Value")

# Prefixes that DuckDB, or another library, would open as a URL. A single letter is a drive.
_ELSEWHERE = re.compile(r":memory:|[a-z][a-z0-9+.-]+://|[a-z0-9_]{2,}:", re.IGNORECASE)
_FILE = re.compile(r"file:(?://(?:localhost)?(?=/))?(?:/(?=[a-z]:))?", re.IGNORECASE)

# How the files begin that people mix up with DuckDB's own.
_SIGNATURES = {
    b"SQLite format 3\0": "a SQLite database",
    b"PAR1": "a Parquet file",
    b"\x1f\x8b": "a compressed file",
    b"PK\x03\x04": "a zip archive or spreadsheet",
}
_KINDS = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


def local_path(value: object, name: str, advice: str, error: type[PlanError] = PlanError, what: str = "a path") -> Path:
    """
    Return a path on this machine, with ``~`` expanded.

    Args:
        name: of the argument.
        advice: what to pass in place of a URL.
        error: what is raised.
        what: it may be.

    Raises:
        PlanError: it is no path, that of something elsewhere, or one that the system refuses.
    """
    named = Argument(name)
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(text, str) or not text.strip() or "\0" in text or not is_text(text):
        raise error(named, f" must be {what}, not {brief(value)}")
    if text.lower().startswith("file:"):
        raise error(named, f" {brief(text)} is a URL: pass the path alone, {brief(_FILE.sub('', text))}")
    if found := _ELSEWHERE.match(text):
        called_so = (
            "" if found[0].endswith(("//", ":memory:")) else f"; for a file of that name, pass {brief('./' + text)}"
        )
        raise error(named, f" {brief(text)} is not on this machine: {advice}{called_so}")
    try:
        path = Path(text).expanduser()
        os.stat(path)
    except OSError as why:
        if why.errno in (errno.ENAMETOOLONG, errno.EACCES):  # else it may be made there
            raise error(named, f" {brief(text)} cannot be used: {why.strerror}") from None
    except RuntimeError:
        raise error(named, f" {brief(text)}: there is no such home folder, pass the whole path") from None
    return path


def beside(text: str, folder: Path) -> str:
    """Return a path that is relative to a folder as one that is not; what cannot be one stays for ``local_path``."""
    is_relative = text.strip() and not text.startswith("~") and not _ELSEWHERE.match(text)
    return str(folder / text) if is_relative else text


# How long, and how often, in seconds.
IN_USE_SECONDS = 0.5
TRY_EVERY = 0.005
# ERROR_ACCESS_DENIED and ERROR_SHARING_VIOLATION of Windows: somebody has the file open.
_IN_USE = (5, 32)


def replace(fresh: Path, path: Path) -> None:
    """
    Rename a file to another, which is gone then. Whoever reads that meanwhile reads one or the other.

    Raises:
        OSError: it cannot be done. The file keeps the name it had.
    """
    _once_free(lambda: os.replace(fresh, path))


def read(path: Path) -> bytes:
    """Return what a file holds that others may be replacing. Raises ``OSError``."""
    return _once_free(path.read_bytes)


def _once_free(call: Callable[[], Value]) -> Value:
    """Do something with a file, and again if Windows refuses, since others have it open for a millisecond."""
    end = time.monotonic() + IN_USE_SECONDS
    while True:
        try:
            return call()
        except OSError as error:
            if getattr(error, "winerror", None) not in _IN_USE or time.monotonic() > end:
                raise
        time.sleep(TRY_EVERY)


def what_is_no_database(path: Path) -> str | None:
    """
    Return what a file is, such as ``"a SQLite database"``, or ``None`` if it may be a DuckDB database.

    A file that this process has open already is not looked into: closing any handle of it would drop the lock that
    DuckDB has on it. Two that open it at the same moment must have a lock of their own.

    Raises:
        OSError: it cannot be read.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        return _KINDS.get(stat.S_IFMT(found.st_mode), "no file")
    handles = open_files()
    # Where nobody can tell: Windows alone leaves the locks of other handles as they are.
    if (found.st_dev, found.st_ino) in handles if handles is not None else os.name != "nt":
        return None
    with path.open("rb") as file:
        head = file.read(16)
    if head[8:12] == b"DUCK":
        return None
    if not head:
        return "empty"
    return next((what for start, what in _SIGNATURES.items() if head.startswith(start)), "no DuckDB database")


def open_files() -> frozenset[tuple[int, int]] | None:
    """Return device and inode of each file that this process has open, or ``None`` if the system cannot tell."""
    try:
        handles = os.listdir("/dev/fd")
    except OSError:
        return None
    found = (_stat_of(handle) for handle in handles)
    return frozenset((each.st_dev, each.st_ino) for each in found if each)


def _stat_of(handle: str) -> os.stat_result | None:
    try:
        return os.fstat(int(handle))
    except (OSError, ValueError):
        return None


def shown(path: Path) -> str:
    """Return a path that is safe to print: file names may contain terminal control sequences."""
    return safe_text(str(path))
