"""
The library of ``shim.c``, built once a machine by its C compiler: what files and the time of day do to this process.

A process has it where it was started with ``preloaded()``. Orders are for the whole process; any thread may give them.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests._installing import NotInstalled, apt_get

COMPILERS = ("cc", "gcc", "clang")
SOURCE = Path(__file__).with_name("shim.c")
# As in shim.c. A disk that is full fails all of the first five; to delete still works.
WRITE, SYNC, TRUNCATE, RENAME, OPEN, UNLINK, MARK, LINK = (1 << n for n in range(8))
CALLS = {"write": WRITE, "sync": SYNC, "truncate": TRUNCATE, "rename": RENAME | LINK, "open": OPEN}
ERRORS = {"full": errno.ENOSPC, "broken": errno.EIO}
FOR_EVER = -1


class NoCompiler(Exception):
    """There is no C compiler, or it does not take the source; the message is one line."""


@functools.cache
def library() -> Path:
    """Return the built library. Raises ``NoCompiler``."""
    source = SOURCE.read_bytes()
    built = Path(tempfile.gettempdir()) / f"mpnb-shim-{os.getuid()}-{hashlib.sha256(source).hexdigest()[:16]}.so"
    if built.exists() and built.stat().st_uid == os.getuid():
        return built
    compiler = _compiler()
    with tempfile.TemporaryDirectory(dir=built.parent) as folder:
        fresh = Path(folder) / built.name
        command = [compiler, "-O1", "-Wall", "-shared", "-fPIC", "-o", str(fresh), str(SOURCE), "-ldl", "-lpthread"]
        told = subprocess.run(command, capture_output=True, text=True, check=False)
        if told.returncode:
            raise NoCompiler(f"{compiler} does not take {SOURCE.name}: {' '.join(told.stderr.split())[:300]}")
        fresh.replace(built)
    return built


def _compiler() -> str:
    """Return a C compiler, which is installed where there is none and that is allowed."""
    if (found := _on_path()) is None:
        try:
            apt_get("gcc", "libc6-dev")
        except (NotInstalled, OSError) as reason:
            raise NoCompiler(
                "the campaign needs a C compiler, for disks and clocks that fail: install gcc (tried:"
                f" none of {', '.join(COMPILERS)} on the path; apt-get: {reason})"
            ) from None
        found = _on_path()
        if found is None:
            raise NoCompiler("the campaign needs a C compiler on the path: gcc was installed elsewhere")
    return found


def _on_path() -> str | None:
    return next((found for name in COMPILERS if (found := shutil.which(name))), None)


def preloaded() -> dict[str, str]:
    """Return the environment of a process that has the library. Raises ``NoCompiler``."""
    return {**os.environ, "LD_PRELOAD": str(library())}


@functools.cache
def _orders() -> ctypes.CDLL:
    shim = ctypes.CDLL(None)
    if not hasattr(shim, "shim_fail"):
        raise AssertionError("this process was not started with preloaded()")
    shim.shim_shift.argtypes = [ctypes.c_double]
    shim.shim_fail.argtypes = [ctypes.c_uint, ctypes.c_int, ctypes.c_long, ctypes.c_long]
    shim.shim_mark.argtypes = [ctypes.c_long]
    for name in ("shim_seen", "shim_failed"):
        getattr(shim, name).restype = ctypes.c_long
    return shim


def _watch(part: Path | str, but: str) -> ctypes.CDLL:
    shim = _orders()
    shim.shim_watch(os.fsencode(part), os.fsencode(but))
    return shim


@dataclass(slots=True)
class Calls:
    """Count the calls that could have failed, and those that did."""

    seen: int = 0
    failed: int = 0


@contextlib.contextmanager
def failing(part: Path | str, calls: int, error: int, nth: int, times: int, *, but: str = "") -> Iterator[Calls]:
    """
    Let calls for files whose path has a part fail within the block, from the nth on, so many times.

    Args:
        calls: which, such as ``WRITE | SYNC``.
        error: the errno. Of a write that meets ``ENOSPC`` first, one half is written.
        times: ``FOR_EVER`` for all to the end of the block.
        but: leaves out what has this in its path.
    """
    shim, count = _watch(part, but), Calls()
    shim.shim_fail(calls, error, nth, times)
    try:
        yield count
    finally:
        shim.shim_stop()
        count.seen, count.failed = shim.shim_seen(), shim.shim_failed()


@contextlib.contextmanager
def recorded(part: Path | str, log: Path, *, but: str = "") -> Iterator[None]:
    """Write all changes of files whose path has a part to a log, which ``_images.read()`` reads."""
    shim = _watch(part, but)
    with log.open("wb", 0) as file:
        shim.shim_record(file.fileno())
        try:
            yield
        finally:
            shim.shim_record(-1)


def mark(number: int) -> None:
    """Write a number between the changes that are recorded."""
    _orders().shim_mark(number)


def shift(seconds: float) -> None:
    """Let the time of day be so much later, or earlier, than it is."""
    _orders().shim_shift(seconds)
