"""One request to one verified spool file."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from isal import isal_zlib

from mpnb._clock import epoch_seconds, today
from mpnb._credentials import LOOPBACK, Credentials
from mpnb._failures import Failure, failure, from_answer, from_os_error, safe_text
from mpnb._limits import Cancelled
from mpnb._spool import PlainCopy, SpoolFolder
from mpnb._verify import GZIP_ERROR, Body, BodyError, Verifier
from mpnb._version import __version__

CONNECT_SECONDS = 10.0
# Between two reads, not for the whole: minutes can pass before Mixpanel's first byte, and silent gaps occur.
IDLE_SECONDS = 300.0
MAX_REDIRECTS = 3
MAX_ERROR_BODY = 64 << 10
# Compressed bytes that are verified and written at once. What arrives comes in pieces of 16 kB (TLS) to 64 kB, and ten
# threads that take turns for each of them cost a quarter more CPU than the same work in such blocks.
BLOCK = 512 << 10
# More threads than cores would only push each other out of the caches, and end all at the same time: with two cores
# and ten workers a twentieth more CPU, and the writer begins later.
_unpacking = threading.Semaphore(os.cpu_count() or 1)


class FetchError(Exception):
    """A request did not bring a whole body; ``failure`` says how."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(str(failure))
        self.failure = failure


@dataclass(frozen=True, slots=True)
class Request:
    """Ask for one date range: the query parameters of ``GET /api/2.0/export``."""

    from_date: str
    to_date: str
    project_id: str
    events: tuple[str, ...] | None
    where: str | None

    def params(self) -> dict[str, str]:
        """Give the parameters as Mixpanel wants them: ``event`` is a JSON array in text."""
        params = {"from_date": self.from_date, "to_date": self.to_date, "project_id": self.project_id}
        if self.events is not None:
            params["event"] = json.dumps(list(self.events))
        if self.where is not None:
            params["where"] = self.where
        return params


class Connection:
    """
    Send one worker's requests, one at a time, over one connection that is kept alive.

    All methods are the worker's, but for ``abort`` and ``connecting``, which any thread may call.
    """

    def __init__(self, credentials: Credentials, tls: ssl.SSLContext) -> None:
        self._url = f"{credentials.host}/api/2.0/export"
        basic = b64encode(f"{credentials.username}:{credentials.secret}".encode()).decode()
        self._secrets = (basic, credentials.secret)
        self.connecting = False
        self._aborted = False
        self._socket: socket.socket | None = None
        host = urlsplit(self._url).hostname
        self._client = httpx.Client(
            auth=(credentials.username, credentials.secret),
            headers={"Accept-Encoding": "gzip", "User-Agent": f"mpnb/{__version__}"},
            timeout=httpx.Timeout(IDLE_SECONDS, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=1, max_keepalive_connections=1),
            verify=tls,
            # A proxy of the environment has no way to a server on this machine.
            trust_env=host not in LOOPBACK,
            # Only ours decides where the credentials go: see _answer().
            follow_redirects=False,
        )

    def abort(self) -> None:
        """
        Wake a thread that waits for this connection, and let no new one be made. Any thread may call it.

        ``httpx.Client.close()`` does not wake a reader; shutting its socket down does. ``socket.socket.shutdown`` and
        not the TLS socket's own: that would take the session away from under the reader.
        """
        self._aborted = True
        if self._socket is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection. The worker's own, or anyone's when the worker has ended."""
        self._client.close()

    def _trace(self, event: str, info: Mapping[str, Any]) -> None:
        if event.endswith("connect_tcp.started"):
            self.connecting = True
        elif event.endswith(("connect_tcp.complete", "start_tls.complete")):
            self._socket = info["return_value"].get_extra_info("socket")
            self.connecting = False
            if self._aborted:
                self.abort()
        elif event.endswith("connect_tcp.failed"):
            self.connecting = False

    @contextlib.contextmanager
    def _answer(self, request: Request) -> Iterator[httpx.Response]:
        """Send the request, and follow redirects that stay on the same scheme, host and port: nobody else is asked."""
        url, params = httpx.URL(self._url), request.params()
        target = url.copy_merge_params(params)
        for _ in range(MAX_REDIRECTS + 1):
            with self._client.stream("GET", target, extensions={"trace": self._trace}) as response:
                if not response.has_redirect_location:
                    yield response
                    return
                target = target.join(response.headers["location"])
                if (target.scheme, target.host, target.port) != (url.scheme, url.host, url.port):
                    where = safe_text(f"{target.scheme}://{target.host}")
                    raise FetchError(
                        failure(
                            "http",
                            f"redirected to {where}, which was not asked",
                            http_status=response.status_code,
                            retryable=False,
                            hint="Something between here and Mixpanel redirects: a proxy, or a wrong MP_API_BASE_URL.",
                        )
                    )
        raise FetchError(failure("http", "redirected in a circle", http_status=response.status_code, retryable=False))

    def fetch(
        self,
        request: Request,
        spool: SpoolFolder,
        path: Path,
        *,
        is_cancelled: Callable[[], bool],
        on_answer: Callable[[int], object],
        on_bytes: Callable[[int], object],
    ) -> tuple[Path, Body]:
        """
        Send a request and keep its body in a spool file.

        Args:
            spool: takes the body.
            path: of its file there as received, made anew.
            on_answer: told the HTTP status when the headers are there.
            on_bytes: told how many bytes have arrived so far.

        Returns:
            The file, which is a plain copy of what was received where there was room for one, and what the body is,
            once it is known to be whole.

        Raises:
            FetchError: there is no whole body. What ``path`` holds is of no use then.
            Cancelled: the export ended first.
        """
        try:
            with self._answer(request) as response:
                on_answer(response.status_code)
                if response.status_code != 200:
                    raise FetchError(self._refusal(response, request))
                return _keep(response, spool, path, is_cancelled, on_bytes)
        except httpx.HTTPError as error:
            if is_cancelled():
                raise Cancelled from None
            raise FetchError(_from_httpx(error)) from None
        except httpx.InvalidURL as error:
            # No HTTPError: httpx reads the address of a redirect even where it is told not to follow it.
            raise FetchError(failure("connection", safe_text(f"redirected to an invalid URL: {error}"))) from None
        except BodyError as error:
            raise FetchError(failure(error.kind, safe_text(str(error)), http_status=200)) from None
        except OSError as error:
            raise FetchError(from_os_error(error)) from None

    def _refusal(self, response: httpx.Response, request: Request) -> Failure:
        body = b""
        with contextlib.suppress(httpx.HTTPError):
            for chunk in response.iter_raw():
                body += chunk
                if len(body) >= MAX_ERROR_BODY:
                    break
        if response.headers.get("content-encoding", "").lower() == "gzip":
            with contextlib.suppress(GZIP_ERROR):
                body = isal_zlib.decompressobj(wbits=31).decompress(body, MAX_ERROR_BODY)
        for secret in self._secrets:
            body = body.replace(secret.encode(), b"***")
        return from_answer(
            response.status_code,
            body[:MAX_ERROR_BODY],
            response.headers.get("retry-after"),
            where=request.where,
            asks_for_today=request.to_date >= today().isoformat(),
            now=epoch_seconds(),
        )


def _keep(
    response: httpx.Response,
    spool: SpoolFolder,
    path: Path,
    is_cancelled: Callable[[], bool],
    on_bytes: Callable[[int], object],
) -> tuple[Path, Body]:
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("gzip", "x-gzip", "identity", ""):
        raise BodyError("decode", f"the body comes as {encoding!r}, which was not asked for")
    if "content-length" not in response.headers and "transfer-encoding" not in response.headers:
        # RFC 9112, 8: a body that just ends cannot be told from one that was cut, between two gzip members as between
        # two lines.
        raise BodyError("truncated", "the answer has neither a length nor chunks: whether it is whole cannot be known")
    with PlainCopy(spool, path.with_name(path.name + ".plain")) as copy:
        verifier = Verifier(gzip="gzip" in encoding, on_unpacked=copy.write)
        with spool.new_file(path) as file:
            for block in _blocks(response, is_cancelled, on_bytes):
                spool.grow(path, len(block), is_cancelled)
                with _unpacking:
                    verifier.feed(block)
                    file.write(block)
        body = verifier.finish()
        if copy.keep():
            spool.remove(path)
            return copy.path, replace(body, gzip=False)
        return path, body


def _blocks(
    response: httpx.Response, is_cancelled: Callable[[], bool], on_bytes: Callable[[int], object]
) -> Iterator[bytes]:
    """Gather what arrives to blocks, and tell of it at once."""
    pieces: list[bytes] = []
    size = told = 0
    for piece in response.iter_raw():
        if is_cancelled():
            raise Cancelled
        pieces.append(piece)
        size += len(piece)
        told += len(piece)
        on_bytes(told)
        if size >= BLOCK:
            yield b"".join(pieces)
            pieces, size = [], 0
    if pieces:
        yield b"".join(pieces)


def _from_httpx(error: httpx.HTTPError) -> Failure:
    """Map every error of httpx to a kind of failure."""
    text = safe_text(str(error)) or type(error).__name__
    if isinstance(error, httpx.ConnectTimeout):
        return failure("timeout", f"no connection within {CONNECT_SECONDS:.0f} s")
    if isinstance(error, httpx.TimeoutException):
        return failure("timeout", f"nothing arrived for {IDLE_SECONDS:.0f} s")
    if isinstance(error, httpx.RemoteProtocolError) and "complete message body" in text:
        return failure("truncated", f"the body ended early: {text}", http_status=200)
    if isinstance(error, httpx.RemoteProtocolError) and "incomplete chunked read" in text:
        return failure("truncated", f"the body ended early: {text}", http_status=200)
    return failure("connection", text)


def tls_context(credentials: Credentials) -> ssl.SSLContext:
    """Make the TLS settings that all connections of an export share: loading the roots takes tens of milliseconds."""
    if credentials.host.startswith("https:"):
        return httpx.create_ssl_context()
    # Never used on plain http, where httpx would load the roots for every connection; it trusts nobody.
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
