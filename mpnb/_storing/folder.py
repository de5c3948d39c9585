"""A lake in a folder of this machine: files of their owner alone, written beside and renamed."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from duckdb import DuckDBPyConnection
from filelock import FileLock, Timeout

from mpnb._base.paths import replace, shown
from mpnb._base.text import safe_text
from mpnb._message import SAME_CALL
from mpnb._mixpanel.failures import hint_of
from mpnb._storing.objects import Found, ObjectsError, Over, Taken

OWN = "_mpnb"
# A rename takes a moment, and there are not many who wait for it.
PUT_SECONDS = 60.0
_MEND = hint_of(
    "Free some disk space or fix the folder, then run ", SAME_CALL, " again: all finished batches are in it."
)


class Folder:
    """
    The files of a folder: ``Objects``. ``put`` compares and renames, one at a time of all that write to the folder.

    Args:
        root: absolute; made with the first file.
        label: its name as it was passed.
    """

    def __init__(self, root: Path, label: str) -> None:
        self._root = root
        self.label = label

    def found(self, prefix: str) -> list[Found]:
        """Return the files whose keys begin with a folder's name."""
        with self._said("cannot be read"):
            files = (Path(folder, name) for folder, _, names in os.walk(self._root / prefix) for name in names)
            made = (self._found(path) for path in files)
            return sorted((each for each in made if each), key=lambda each: each.key)

    def _found(self, path: Path) -> Found | None:
        with contextlib.suppress(FileNotFoundError):
            stat = path.stat()
            key = path.relative_to(self._root).as_posix()
            return Found(key, f"{stat.st_mtime_ns}-{stat.st_size}-{stat.st_ino}")
        return None

    def look(self, key: str) -> Found | None:
        """Return a file if it is there."""
        with self._said("cannot be read"):
            return self._found(self._root / key)

    def read(self, key: str) -> bytes | None:
        """Return the content of a file, ``None`` if it is not there."""
        with self._said("cannot be read"), contextlib.suppress(FileNotFoundError):
            return (self._root / key).read_bytes()
        return None

    def footers(self, keys: Iterable[str], scratch: Path) -> list[Path]:
        """Return the files themselves."""
        return [self._root / key for key in keys]

    def put(self, key: str, content: Path | bytes, over: Over | None) -> str:
        """Rename a file of a ``scratch`` folder, or one with these bytes, to its place. Raises ``Taken``."""
        path = self._root / key
        with self._said("cannot be written"):
            self._make(path.parent)
            self._make(self._root / OWN)
            fresh = content if isinstance(content, Path) else self._with(content)
            try:
                fresh.chmod(0o600)
                _sync_file(fresh)
                with FileLock(self._root / OWN / "put.lock", timeout=PUT_SECONDS, mode=0o600, thread_local=False):
                    there = self._found(path)
                    if over is not None and over.etag != (there.etag if there else None):
                        raise Taken(key)
                    replace(fresh, path)
            except BaseException:
                fresh.unlink(missing_ok=True)
                raise
            _sync_folder(path.parent)
            made = self._found(path)
        assert made is not None
        return made.etag

    def _with(self, content: bytes) -> Path:
        self._make(self._root / OWN)
        handle, name = tempfile.mkstemp(prefix=".new-", dir=self._root / OWN)
        with open(handle, "wb") as file:
            file.write(content)
        return Path(name)

    def _make(self, folder: Path) -> None:
        for each in (*reversed(folder.relative_to(self._root).parents), folder.relative_to(self._root)):
            with contextlib.suppress(FileExistsError):
                (self._root / each).mkdir(mode=0o700)

    def delete(self, key: str) -> None:
        """Delete a file, and its folder if that is empty then."""
        path = self._root / key
        with self._said("cannot be written"):
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                path.parent.rmdir()

    def hold(self, name: str) -> Callable[[], None] | None:
        """Lock a file, which ends with the process; delete what a process left that died while it held the name."""
        with self._said("cannot be written"):
            self._make(self._root / OWN)
            lock = FileLock(self._root / OWN / f"{name}.lock", timeout=0, mode=0o600, thread_local=False)
            try:
                lock.acquire()
            except Timeout:
                return None
            for left in (self._root / OWN).glob(f".scratch-{name}-*"):
                shutil.rmtree(left, ignore_errors=True)
        return lock.release

    def scratch(self, name: str, within: Path | None = None) -> Path:
        """Return a new folder in this one: a file is renamed only within its file system."""
        with self._said("cannot be written"):
            self._make(self._root / OWN)
            return Path(tempfile.mkdtemp(prefix=f".scratch-{name}-", dir=self._root / OWN))

    def address(self, key: str) -> str:
        """Return the path of a file."""
        return f"{self._root.as_posix()}/{key}"

    def register(self, cursor: DuckDBPyConnection) -> None:
        """Do nothing: DuckDB reads files."""

    @contextlib.contextmanager
    def _said(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            message = f"{shown(self._root)} {what}: {safe_text(error.strerror or str(error))}"
            raise ObjectsError(message, _MEND) from None


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Keep a new name across a power cut, where a system has that."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
