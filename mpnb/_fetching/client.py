"""HTTP requests to Mixpanel, each into one verified spool file."""

from __future__ import annotations

import contextlib
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from io import DEFAULT_BUFFER_SIZE
from pathlib import Path
from urllib.parse import quote, urljoin, urlsplit

import httpcore
from isal import isal_zlib

from mpnb._base.clock import Cancelled, epoch_seconds
from mpnb._base.machine import cores
from mpnb._fetching.belongs import is_for_other_days
from mpnb._fetching.fetched import Stored
from mpnb._fetching.reach import unreached
from mpnb._fetching.route import Route
from mpnb._fetching.spool import PlainCopy, SpoolFolder
from mpnb._fetching.verify import GZIP_ERROR, GZIP_MAGIC, Body, BodyError, NoExport, Unpacker, Verifier
from mpnb._fetching.wire import TooSlow, Wire
from mpnb._mixpanel.credentials import Credentials, forms_of
from mpnb._mixpanel.failures import Failure, failure, from_os_error
from mpnb._planning.resource import Request
from mpnb._version import __version__

CONNECT_SECONDS = 10.0
# A proxy may have to find the server first.
PROXY_SECONDS = 30.0
# Between two reads, not for the whole: minutes can pass before Mixpanel's first byte, and silent gaps occur.
IDLE_SECONDS = 300.0
# Bytes a second, over twice that: a drip would hold a worker for ever. Ten workers share a line of a thousand bytes a
# second with it, and a silence as long as is allowed is made up for by the hundred bytes a second of the other half.
LEAST_SPEED = 100.0
MAX_REDIRECTS = 3
REDIRECTS = (301, 302, 303, 307, 308)
DEFAULT_PORTS = {"http": 80, "https": 443}
MAX_HOST = 253
# What the target of a request may hold as it is, %-sequences included.
TARGET = "/?&=%+:;,@!$'()*~[]"
# All that httpcore raises.
HTTP_ERRORS = (
    httpcore.TimeoutException,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    httpcore.UnsupportedProtocol,
    httpcore.ConnectionNotAvailable,
)
MAX_ERROR_BODY = 64 << 10
# Compressed bytes that are verified and written at once. What arrives comes in pieces of 16 kB (TLS) to 64 kB, and ten
# threads that take turns for each of them cost a quarter more CPU than the same work in such blocks.
BLOCK = 512 << 10
# More threads than cores would only push each other out of the caches, and end all at the same time: with two cores
# and ten workers a twentieth more CPU, and the writer begins later.
_unpacking = threading.Semaphore(cores())


UNFRAMED = "the answer has neither a length nor chunks: it is unknown whether it is whole"


class FetchError(Exception):
    """
    A request did not bring a whole body; ``failure`` says why.

    ``is_final`` says that it did, but that the batch could not be stored where it was fetched: no other attempt helps.
    """

    def __init__(self, failure: Failure, *, is_final: bool = False) -> None:
        super().__init__(str(failure))
        self.failure = failure
        self.is_final = is_final


@dataclass(frozen=True, slots=True)
class Answer:
    """
    An answer whose body has not been read yet.

    Attributes:
        headers: by their names in small letters.
    """

    status_code: int
    headers: dict[str, str]
    iter_raw: Callable[[], Iterator[bytes]]


class Connection:
    """
    The requests of one worker, one at a time, each over a connection of its own.

    A connection that is used again costs less, by half a millisecond on loopback; but what an odd server or proxy sends
    after an answer would be taken for the next one, and no check can be sure to see it first.

    All methods are the worker's, but for ``abort`` and the properties, which any thread may call.
    """

    def __init__(self, credentials: Credentials, route: Route) -> None:
        self._credentials = credentials
        self._route = route
        self._wire = Wire()
        self._pool = route.pool(self._wire)

    @property
    def connecting(self) -> bool:
        """Whether a connection is being made; nothing can interrupt that."""
        return self._wire.connecting

    @property
    def sent(self) -> bool:
        """Whether any byte of the latest request left this machine."""
        return self._wire.sent

    @property
    def stored(self) -> Stored | None:
        """Return ``None``: what arrives is written by the writer."""
        return None

    def abort(self) -> None:
        """Abort the connection, and let no new one be made. Any thread may call it."""
        self._wire.abort()

    def prepare(self) -> None:
        """Do nothing: a request can be sent at once."""

    def close(self) -> None:
        """Close the connection. Called by its worker, or by any thread once the worker has ended."""
        self._pool.close()

    def _headers(self, request: Request) -> list[tuple[bytes, bytes]]:
        login = b64encode(f"{self._credentials.username}:{self._credentials.secret}".encode())
        form = [(b"Content-Type", b"application/x-www-form-urlencoded")] if request.content else []
        return [
            (b"Host", _host_of(self._route)),
            (b"Accept", b"*/*"),
            (b"Accept-Encoding", b"gzip"),
            (b"Cache-Control", b"no-cache"),  # days change, and some caches do not look at a query
            (b"User-Agent", f"mpnb/{__version__}".encode()),
            (b"Authorization", b"Basic " + login),
            *form,
        ]

    @contextlib.contextmanager
    def _answer(self, request: Request) -> Iterator[Answer]:
        """Send the request, and follow redirects that stay on the same scheme, host and port."""
        target = request.target
        for _ in range(MAX_REDIRECTS + 1):
            with self._send(request, target) as answer:
                location = answer.headers.get("location")
                if answer.status_code not in REDIRECTS or location is None:
                    yield answer
                    return
                target = self._redirected(target, location, answer.status_code)
        raise FetchError(failure("http", "too many redirects", http_status=answer.status_code, retryable=False))

    @contextlib.contextmanager
    def _send(self, request: Request, target: str) -> Iterator[Answer]:
        route = self._route
        times = {"connect": CONNECT_SECONDS, "read": IDLE_SECONDS, "write": IDLE_SECONDS, "pool": CONNECT_SECONDS}
        url = httpcore.URL(scheme=route.scheme, host=route.host, port=route.port, target=target)
        content, extensions = request.content or None, {"timeout": times}
        # The headers are in no variable: a traceback may show those of every frame.
        with self._pool.stream(
            request.method, url, headers=self._headers(request), content=content, extensions=extensions
        ) as response:
            headers: dict[str, str] = {}
            for name, value in response.headers:
                key, text = name.decode("latin-1").lower(), value.decode("latin-1")
                headers[key] = f"{headers[key]}, {text}" if key in headers else text
            yield Answer(response.status, headers, response.iter_stream)

    def _redirected(self, target: str, location: str, status: int) -> str:
        """Return the target of a redirect, which must be on the same server."""
        route = self._route
        try:
            to = urlsplit(urljoin(f"{route.scheme}://{route.host}:{route.port}{target}", location))
            port = to.port or DEFAULT_PORTS[to.scheme]
            if not to.hostname or len(to.hostname) > MAX_HOST or not location.isprintable():
                raise ValueError(location)
        except (ValueError, KeyError):
            message = f"redirected to an invalid URL: {location}"
            raise FetchError(failure("connection", message, http_status=status, retryable=False)) from None
        if (to.scheme, to.hostname, port) != (route.scheme, route.host, route.port):
            hint = "Something redirects requests: check for a proxy, and MP_API_BASE_URL."
            message = f"redirected to {to.scheme}://{to.hostname}, where no request was sent"
            raise FetchError(failure("http", message, http_status=status, retryable=False, hint=hint))
        return quote(f"{to.path or '/'}?{to.query}" if to.query else to.path or "/", safe=TARGET)

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
        Send a request and write its body to a spool file.

        Args:
            spool: takes the body.
            path: of its file there as received, made anew; that of a document has the batch's id for its name.
            on_answer: told the HTTP status when the headers are there.
            on_bytes: told how many bytes have arrived so far.

        Returns:
            The file, which is a plain copy of what was received where there was room for one, and what the body is,
            once it is known to be whole.

        Raises:
            FetchError: there is no whole body. What ``path`` holds is of no use then.
            Cancelled: the export ended first.
        """
        self._wire.begin(proxy_seconds=PROXY_SECONDS, least=LEAST_SPEED, window=2 * IDLE_SECONDS)
        try:
            with self._answer(request) as answer:
                on_answer(answer.status_code)
                if answer.status_code != 200:
                    raise FetchError(_refusal(answer, request))
                try:
                    if request.keys is None:
                        return _keep_lines(answer, request, spool, path, is_cancelled, on_bytes)
                    return _keep_document(answer, request.keys, spool, path, is_cancelled, on_bytes)
                except NoExport as error:
                    raise FetchError(_judged_words(answer, error.words, request)) from None
        except Cancelled:
            raise
        except Exception as error:
            if is_cancelled():
                raise Cancelled from None
            why = self._judged(error)
        # Out of the handler: what was met there has the request in its frames, and with it the secret.
        raise FetchError(why.without(self._hidden()))

    def _hidden(self) -> list[str]:
        """Return all texts that must never be shown: the secret, and the proxy's password."""
        logins = [(self._credentials.username, self._credentials.secret)]
        if self._route.proxy and self._route.proxy.auth:
            logins.append(self._route.proxy.auth)
        return [form for login in logins for form in forms_of(*login)]

    def _judged(self, error: Exception) -> Failure:
        """Return the failure for an exception of a request. Raises it again if network and disk did not cause it."""
        if isinstance(error, FetchError):
            return error.failure
        if not self._wire.sent:
            return unreached(error, self._wire, self._route, connect_seconds=CONNECT_SECONDS)
        if isinstance(error, BodyError):
            return failure(error.kind, str(error), http_status=200)
        if isinstance(error, HTTP_ERRORS):
            return _from_httpcore(error)
        if isinstance(error, OSError):
            return from_os_error(error)
        raise error


def _refusal(answer: Answer, request: Request) -> Failure:
    body = b""
    with contextlib.suppress(*HTTP_ERRORS):
        for chunk in answer.iter_raw():
            body += chunk
            if len(body) >= MAX_ERROR_BODY:
                break
    if answer.headers.get("content-encoding", "").lower() == "gzip":
        with contextlib.suppress(GZIP_ERROR):
            body = isal_zlib.decompressobj(wbits=31).decompress(body, MAX_ERROR_BODY)
    return _judged_words(answer, body, request)


def _judged_words(answer: Answer, words: bytes, request: Request) -> Failure:
    retry_after = answer.headers.get("retry-after")
    return request.refused(answer.status_code, words[:MAX_ERROR_BODY], retry_after, now=epoch_seconds())


def _host_of(route: Route) -> bytes:
    """Return a server as the header names it: without a port that goes without saying."""
    host = f"[{route.host}]" if ":" in route.host else route.host
    return (host if route.port == DEFAULT_PORTS[route.scheme] else f"{host}:{route.port}").encode("idna")


def _is_gzip(answer: Answer) -> bool:
    """
    Whether a body is compressed.

    Raises:
        FetchError: it is in another way than was asked for.
    """
    encoding = answer.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("gzip", "x-gzip", "identity", ""):
        raise FetchError(_unasked(f"as {encoding!r}, which was not asked for"))
    return "gzip" in encoding


def _keep_document(
    answer: Answer,
    keys: Sequence[str],
    spool: SpoolFolder,
    path: Path,
    is_cancelled: Callable[[], bool],
    on_bytes: Callable[[int], object],
) -> tuple[Path, Body]:
    """Keep the records of a JSON document as framed lines, not compressed."""
    # Most exports meet no document: msgspec would be a twentieth of what it takes to import mpnb.
    from mpnb._fetching.document import Splitter
    from mpnb._fetching.framed import Frame

    gzip = _is_gzip(answer)
    if _is_unframed(answer):
        raise BodyError("truncated", UNFRAMED)
    with spool.new_file(path, DEFAULT_BUFFER_SIZE) as file:

        def write(lines: bytes) -> None:
            spool.grow(path, len(lines), is_cancelled)
            file.write(lines)

        splitter = Splitter(write, keys, Frame(int(path.stem)))
        unpacker = Unpacker(splitter.feed, gzip=gzip)
        for block in _blocks(answer, is_cancelled, on_bytes):
            with _unpacking:
                unpacker.feed(block)
        unpacker.finish()
        with _unpacking:
            envelope = splitter.finish()
    return path, Body(False, unpacker.size, splitter.size, splitter.lines, envelope, framed=True)


def _keep_lines(
    answer: Answer,
    request: Request,
    spool: SpoolFolder,
    path: Path,
    is_cancelled: Callable[[], bool],
    on_bytes: Callable[[int], object],
) -> tuple[Path, Body]:
    gzip = _is_gzip(answer)
    if _is_unframed(answer):
        raise _unframed(answer, Verifier(gzip=gzip))
    with PlainCopy(spool, path.with_name(path.name + ".plain")) as copy:
        verifier = Verifier(gzip=gzip, on_unpacked=copy.write)
        begun = False
        with spool.new_file(path) as file:
            for block in _blocks(answer, is_cancelled, on_bytes):
                if not begun and not gzip and block.startswith(GZIP_MAGIC):
                    raise FetchError(_unasked("as gzip, but its headers do not say so"))
                begun = True
                spool.grow(path, len(block), is_cancelled)
                with _unpacking:
                    verifier.feed(block)
                    file.write(block)
        body = verifier.finish()
        if request.days and is_for_other_days(
            path, verifier.last_line, *request.days, gzip=gzip, is_cancelled=is_cancelled
        ):
            hint = "A proxy or a cache seems to mix up answers: retry, and without it if this happens again."
            raise FetchError(
                failure("decode", "the answer is for other days", http_status=200, once_more=True, hint=hint)
            )
        if copy.keep():
            spool.remove(path)
            return copy.path, replace(body, gzip=False)
        return path, body


def _unasked(how: str) -> Failure:
    """Return the failure for a body in an encoding that was not asked for. The next one would be the same."""
    hint = "Something between here and Mixpanel, perhaps a proxy, changes the compression of answers: retry without it."
    return failure("decode", f"the body arrived {how}", http_status=200, retryable=False, hint=hint)


def _is_unframed(answer: Answer) -> bool:
    return "content-length" not in answer.headers and "transfer-encoding" not in answer.headers


def _unframed(answer: Answer, verifier: Verifier) -> Exception:
    """
    Return the failure for an answer with neither a length nor chunks, judged by how it begins.

    RFC 9112, 8: a body that just ends cannot be told from one that was cut, between two gzip members as between two
    lines. What is no export at all says so all the same.
    """
    size = 0
    with contextlib.suppress(*HTTP_ERRORS, BodyError):
        for piece in answer.iter_raw():
            verifier.feed(piece)
            size += len(piece)
            if size >= MAX_ERROR_BODY:
                break
    if verifier.words and verifier.words.strip():
        return NoExport(verifier.words)
    return BodyError("truncated", UNFRAMED)


def _blocks(answer: Answer, is_cancelled: Callable[[], bool], on_bytes: Callable[[int], object]) -> Iterator[bytes]:
    """Collect received bytes into blocks, and report each arrival at once."""
    pieces: list[bytes] = []
    size = told = 0
    for piece in answer.iter_raw():
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


def _from_httpcore(error: Exception) -> Failure:
    """Return the failure for any httpcore error after a request was sent."""
    text = str(error) or type(error).__name__
    if isinstance(error, TooSlow):
        return failure("timeout", text)
    if isinstance(error, httpcore.TimeoutException):
        return failure("timeout", f"nothing arrived for {IDLE_SECONDS:.0f} s")
    if isinstance(error, httpcore.RemoteProtocolError) and ("message body" in text or "chunked read" in text):
        return failure("truncated", f"the body ended early: {text}", http_status=200)
    return failure("connection", text)
