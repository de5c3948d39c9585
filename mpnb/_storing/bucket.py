"""A lake in an object store: S3, Google Cloud Storage or Azure, by obstore, and whatever speaks like them."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
from duckdb import DuckDBPyConnection

from mpnb._base.optional import need
from mpnb._base.text import safe_text
from mpnb._message import SAME_CALL
from mpnb._mixpanel.failures import hint_of
from mpnb._storing.objects import Found, ObjectsError, Over, Taken

# A PUT is tried again after errors of the server and of the network, for no longer than the second.
RETRIES = 4
RETRY_SECONDS = 60
# A PUT may have gigabytes to send.
TIMEOUT_SECONDS = 900
CONNECT_SECONDS = 10
# Has most footers whole. One of 10,000,000 events takes 200 kB.
TAIL_BYTES = 64 << 10
READERS = 16

_AGAIN = hint_of("Run ", SAME_CALL, " again later: all finished batches are there.")
_KEYS = "Check the credentials of the object store in the environment, then run the same call again."
_LOOPBACK = re.compile(r"http://(localhost|127\.0\.0\.1|\[::1\])(:|/|$)")
# What says that it is allowed, and what may be secret, in the environment.
_HTTP_ALLOWED = ("AWS_ALLOW_HTTP", "AZURE_ALLOW_HTTP", "GOOGLE_ALLOW_HTTP")
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AZURE_STORAGE_ENDPOINT")
_SECRET = re.compile(r"(AWS|AZURE|GOOGLE)\w*(KEY|SECRET|TOKEN|PASSWORD)\w*", re.IGNORECASE)


class Bucket:
    """
    The objects below a URL: ``Objects``.

    Args:
        url: scheme, bucket and perhaps a folder, without a slash at the end.

    Raises:
        MissingPackageError: obstore or fsspec is not installed.
        ObjectsError: the environment lacks what a store needs.
    """

    def __init__(self, url: str) -> None:
        for package in ("obstore", "fsspec"):
            need(package, f"a lake at {url.partition(':')[0]}://")
        # The package first, and whole: where another thread is importing it, the module alone may be there already.
        import obstore  # noqa: F401
        from obstore.store import from_url

        self.label = safe_text(url)
        self._url = url
        self._bucket = "/".join(url.split("/")[:3])
        self._options = _options()
        with self._said():
            self._store: Any = from_url(url, **self._options)

    def found(self, prefix: str) -> list[Found]:
        """Return the objects whose keys begin with a folder's name."""
        with self._said():
            listed = self._store.list(prefix.rstrip("/")).collect()
        return sorted((Found(each["path"], each["e_tag"]) for each in listed), key=lambda each: each.key)

    def look(self, key: str) -> Found | None:
        """Return an object if it is there."""
        with self._said(), contextlib.suppress(FileNotFoundError):
            return Found(key, self._store.head(key)["e_tag"])
        return None

    def read(self, key: str) -> bytes | None:
        """Return the content of an object, ``None`` if it is not there."""
        with self._said(), contextlib.suppress(FileNotFoundError):
            return bytes(self._store.get(key).bytes())
        return None

    def footers(self, keys: Iterable[str], scratch: Path) -> list[Path]:
        """Fetch the footers side by side, as files of nothing else, which DuckDB takes for whole ones."""
        some = list(keys)
        paths = [scratch / f"{number}.footer" for number in range(len(some))]
        with ThreadPoolExecutor(READERS, thread_name_prefix="mpnb-footers") as pool:
            for path, footer in zip(paths, pool.map(self._footer, some), strict=True):
                path.write_bytes(b"PAR1" + footer)
        return paths

    def _footer(self, key: str) -> bytes:
        with self._said():
            tail = self._tail(key, TAIL_BYTES)
            # The last bytes are the length of the footer, and PAR1: https://parquet.apache.org/docs/file-format/
            size = int.from_bytes(tail[-8:-4], "little") + 8
            return (tail if size <= len(tail) else self._tail(key, size))[-size:]

    def _tail(self, key: str, size: int) -> bytes:
        return bytes(self._store.get(key, options={"range": {"suffix": size}}).bytes())

    def put(self, key: str, content: Path | bytes, over: Over | None) -> str:
        """Write an object with one PUT, which the store takes whole or not at all. Raises ``Taken``."""
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        mode: Any = "overwrite" if over is None else "create" if over.etag is None else {"e_tag": over.etag}
        with self._said():
            try:
                made = self._store.put(key, content, mode=mode, use_multipart=False)
            except (AlreadyExistsError, PreconditionError):
                raise Taken(key) from None
        etag: str = made["e_tag"]
        return etag

    def delete(self, key: str) -> None:
        """Delete an object, if it is there."""
        with self._said(), contextlib.suppress(FileNotFoundError):
            self._store.delete(key)

    def hold(self, name: str) -> Callable[[], None] | None:
        """Return what does nothing: each PUT says by itself what it may replace."""
        return lambda: None

    def scratch(self, name: str, within: Path | None = None) -> Path:
        """Return a new folder of this machine."""
        return Path(tempfile.mkdtemp(prefix=f"mpnb-lake-{name}-", dir=within))

    def address(self, key: str) -> str:
        """Return the URL of an object."""
        return f"{self._url}/{key}"

    def register(self, cursor: DuckDBPyConnection) -> None:
        """Let DuckDB read the objects by obstore: it needs no extension, and no second set of credentials."""
        from obstore.fsspec import FsspecStore

        scheme: Any = self._url.partition(":")[0]
        with contextlib.suppress(duckdb.InvalidInputException):  # it is registered already
            cursor.register_filesystem(FsspecStore(scheme, **self._options))

    @contextlib.contextmanager
    def _said(self) -> Iterator[None]:
        """Raise ``ObjectsError`` for what a store has refused, in one line."""
        from obstore.exceptions import BaseError

        try:
            yield
        except FileNotFoundError as error:
            if not re.search("NoSuchBucket|ContainerNotFound|bucket does not exist", str(error)):
                raise
            raise self._error(str(error)) from None
        except (BaseError, OSError, ValueError) as error:
            raise self._error(str(error)) from None

    def _error(self, text: str) -> ObjectsError:
        said = _words(text)
        if re.search("NoSuchBucket|ContainerNotFound|bucket does not exist", text):
            return ObjectsError(f"there is no bucket {safe_text(self._bucket)}", "Create it, or pass another URL.")
        if "ExpiredToken" in text or "token has expired" in text:
            return ObjectsError(f"{self.label} refuses the token, which has expired{said}", _KEYS)
        if re.search(r"\b(401|403) |AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|credential", text):
            return ObjectsError(f"{self.label} refuses the credentials{said}", _KEYS)
        if "must be specified" in text or "Missing" in text:
            return ObjectsError(f"{self.label} needs more than the environment has{said}", _KEYS)
        return ObjectsError(f"{self.label} cannot be reached, or does not answer as it should{said}", _AGAIN)


def _options() -> dict[str, Any]:
    client = {"timeout": f"{TIMEOUT_SECONDS}s", "connect_timeout": f"{CONNECT_SECONDS}s"}
    is_allowed = any(os.environ.get(name, "").lower() in ("1", "true") for name in _HTTP_ALLOWED)
    if is_allowed or any(_LOOPBACK.match(os.environ.get(name, "")) for name in _ENDPOINTS):
        client["allow_http"] = "true"
    seconds = timedelta(seconds=RETRY_SECONDS)
    return {"client_options": client, "retry_config": {"max_retries": RETRIES, "retry_timeout": seconds}}


def _words(text: str) -> str:
    """Return what a store says in its own words, without addresses, which may be signed, and without secrets."""
    text = text.partition("\n\nDebug source")[0]
    found = [found[1] for tag in ("Code", "Message") if (found := re.search(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL))]
    if not found:
        found = [re.sub(r"\s*\b\w+://\S+", "", re.split(r" in [\d.]+.?s\b[^-]*- |: Error performing ", text)[-1])]
    secrets = [value for name, value in os.environ.items() if value and _SECRET.fullmatch(name)]
    return f" ({safe_text(': '.join(found), secrets)})"
