"""What lies between here and Mixpanel: the environment, proxies, certificates, connections; and what never shows."""

from __future__ import annotations

import base64
import contextlib
import errno
import gc
import io
import json
import logging
import os
import re
import socket
import ssl
import struct
import time
import traceback
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any
from urllib.parse import quote, quote_plus

import httpcore
import psutil
import pytest
from IPython.core.ultratb import VerboseTB
from rich.console import Console
from rich.traceback import Traceback

import mpnb
import mpnb._fetching.client
import mpnb._fetching.fetcher
import mpnb._fetching.wire
from mpnb._base.text import safe_text
from mpnb._command.cli import main
from mpnb._fetching.belongs import is_for_other_days
from mpnb._fetching.client import HTTP_ERRORS, _from_httpcore
from mpnb._fetching.limiter import RateLimiter, limiter_for
from mpnb._fetching.reach import unreached
from mpnb._fetching.route import Proxy as Named
from mpnb._fetching.route import route_to
from mpnb._fetching.wire import TooSlow, Wire
from mpnb._mixpanel.credentials import forms_of
from mpnb._mixpanel.failures import from_answer
from mpnb._storing.running import running
from mpnb.sandbox import Fault, Sandbox
from tests._helpers import WIDE, all_or_nothing, day, statuses, until, zipped
from tests._network import CA, LOOPBACK, Proxy, Server, head_of, nobody, tls_settings, tls_to

SECRET = "made-up/secret+hunter2"  # pragma: allowlist secret
MIXPANEL = "https://data.mixpanel.com"
PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
TRUST_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


@pytest.fixture(autouse=True)
def _no_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing of this machine's network in, and ask no name server."""
    for name in (*PROXY_VARIABLES, *TRUST_VARIABLES):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    real = socket.getaddrinfo

    def on_loopback(host: Any, *args: Any, **more: Any) -> Any:
        if str(host) not in (LOOPBACK, "localhost", "::1"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(host, *args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", on_loopback)


def account(url: str = MIXPANEL) -> mpnb.Credentials:
    """Make an account that a sandbox does not know."""
    return mpnb.Credentials("me", SECRET, "1", base_url=url)


def at(mp: Sandbox, url: str) -> mpnb.Credentials:
    """Give a sandbox's account for another address of it."""
    own = mp.credentials
    return mpnb.Credentials(own.username, own.secret, own.project_id, base_url=url)


def port_of(mp: Sandbox) -> int:
    """Give a sandbox's port."""
    return int(mp.url.rpartition(":")[2])


def failed(result_of: Callable[..., Any], *args: Any, **more: Any) -> tuple[str, list[tuple[Any, ...]]]:
    """Run what brings nothing, and give its message and the kinds, messages, attempts and retryables of its batches."""
    with pytest.raises(mpnb.ExportError) as raised:
        result_of(*args, **{"on_batch": lambda progress: None, **more})
    with raised.value.result as result:
        rows = result.failures.select("kind, message, attempts, retryable").fetchall()
    return str(raised.value), rows


# --- what the environment says of proxies and certificates ------------------------------------------------------------

UNUSABLE: dict[str, tuple[dict[str, str], str]] = {
    "SOCKS": ({"ALL_PROXY": "socks5://127.0.0.1:1080"}, r'ALL_PROXY.*pip install "httpx\[socks\]"'),
    "SOCKS of a desktop": ({"all_proxy": "socks://127.0.0.1:1080/"}, r"all_proxy.*socks"),
    "SOCKS for https": ({"HTTPS_PROXY": "socks5h://127.0.0.1"}, r"HTTPS_PROXY.*socks"),
    "SOCKS 4": ({"HTTPS_PROXY": "socks4://127.0.0.1:1"}, r"HTTPS_PROXY begins with socks4://.*socks5://host:port"),
    "FTP": ({"HTTPS_PROXY": "ftp://127.0.0.1:21"}, r"HTTPS_PROXY begins with ftp://"),
    "small letters": ({"https_proxy": "ftp://127.0.0.1:21"}, r"https_proxy begins with"),
    "mixed letters": ({"Https_Proxy": "ftp://127.0.0.1:21"}, r"Https_Proxy begins with"),
    "in quotes": ({"HTTPS_PROXY": '"http://127.0.0.1:21"'}, r"HTTPS_PROXY begins with something that is not"),
    "# in the password": ({"HTTPS_PROXY": "http://me:hunter#2@127.0.0.1:1"}, r"HTTPS_PROXY.*write %23 for #"),
    "# after digits": ({"HTTPS_PROXY": "http://me:12#hunter@127.0.0.1:1"}, r"HTTPS_PROXY.*%23"),
    "/ in the password": ({"HTTPS_PROXY": "http://me:hunter/2@127.0.0.1:1"}, r"HTTPS_PROXY.*%2F for /"),
    "? in the password": ({"HTTPS_PROXY": "me:hunter?2@127.0.0.1:1"}, r"HTTPS_PROXY.*%3F for \?"),
    "letters for a port": ({"HTTPS_PROXY": "http://127.0.0.1:abc"}, r"HTTPS_PROXY cannot be read.*host:port"),
    "port 0": ({"HTTPS_PROXY": "http://127.0.0.1:0"}, r"HTTPS_PROXY.*1 to 65535"),
    "port too high": ({"HTTPS_PROXY": "http://127.0.0.1:65536"}, r"HTTPS_PROXY.*port 65536"),
    "no host": ({"HTTPS_PROXY": "http://:3128"}, r"HTTPS_PROXY cannot be read"),
    "nothing": ({"HTTPS_PROXY": "http://"}, r"HTTPS_PROXY cannot be read"),
    "half a bracket": ({"HTTPS_PROXY": "http://[::1:3128"}, r"HTTPS_PROXY cannot be read"),
    "IPv6 without brackets": ({"HTTPS_PROXY": "http://::1:3128"}, r"HTTPS_PROXY cannot be read"),
    "a blank in the host": ({"HTTPS_PROXY": "http://pro xy:3128"}, r"HTTPS_PROXY.*host"),
    "no name": ({"HTTPS_PROXY": "http://a..b:3128"}, r"HTTPS_PROXY.*host"),
    "no file": ({"SSL_CERT_FILE": "/no/such.pem"}, r"SSL_CERT_FILE names /no/such.pem, which is missing"),
    "a folder": ({"SSL_CERT_FILE": "/"}, r"SSL_CERT_FILE names /, which is a folder"),
    "garbage": ({"SSL_CERT_FILE": __file__}, r"SSL_CERT_FILE names .*holds no certificates in PEM form"),
    "no folder": ({"SSL_CERT_DIR": "/no/such"}, r"SSL_CERT_DIR names /no/such, which is not a folder"),
    "a file for a folder": ({"SSL_CERT_DIR": __file__}, r"SSL_CERT_DIR.*not a folder"),
    "no bundle": ({"REQUESTS_CA_BUNDLE": "/no/such.pem"}, r"REQUESTS_CA_BUNDLE.*missing"),
    "no log": ({"SSLKEYLOGFILE": "/no/such/keys"}, r"SSLKEYLOGFILE names /no/such/keys.*unset it"),
    "no bundle of curl's": ({"CURL_CA_BUNDLE": __file__}, r"CURL_CA_BUNDLE.*no certificates"),
}


@pytest.mark.parametrize(("variables", "message"), UNUSABLE.values(), ids=UNUSABLE)
def test_what_the_environment_names_and_nobody_can_use_is_one_error(
    database, monkeypatch, variables: dict[str, str], message: str
) -> None:
    """Before anything is sent, written or registered; it names the variable; and with it gone the same call works."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for call in (mpnb.export, mpnb.start, mpnb.plan):
        with pytest.raises(mpnb.PlanError, match=message) as raised:
            call(day(1), day(1), database=database, credentials=account())
        assert "hunter" not in "".join([str(raised.value), *shown(raised.value)])
    assert not running
    assert not database.exists()
    for name in variables:
        monkeypatch.delenv(name)
    assert mpnb.plan(day(1), day(1), database=database, credentials=account()).requests == 1


def test_a_server_on_this_machine_needs_no_environment(sandbox, database, monkeypatch) -> None:
    """What is wrong with proxies and certificates is none of a loopback server's business."""
    mp = sandbox()
    for variables, _ in UNUSABLE.values():
        with monkeypatch.context() as environment:
            for name, value in variables.items():
                environment.setenv(name, value)
            mpnb.plan(day(1), day(3), database=database, credentials=mp.credentials)
    for name in (*PROXY_VARIABLES, *TRUST_VARIABLES):
        monkeypatch.setenv(name, "ftp://nothing:x#y")
    with mpnb.export(day(1), day(3), database=database, credentials=mp.credentials, quota=WIDE) as result:
        assert result.total_rows == mp.count(day(1), day(3))


def test_the_command_says_it_in_one_line(monkeypatch, capsys, tmp_path) -> None:
    """``mpnb export`` and ``mpnb plan`` end with status 2 and no traceback."""
    monkeypatch.chdir(tmp_path)
    for name, value in {"MP_USERNAME": "me", "MP_SECRET": SECRET, "MP_PROJECT_ID": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SSL_CERT_FILE", "/no/such.pem")
    for command in ("export", "plan"):
        assert main([command, "2026-01-01", "2026-01-02"]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert len(err.splitlines()) == 1
        assert "SSL_CERT_FILE" in err


USABLE = {
    "http://proxy.test:3128": ("http", "proxy.test", 3128, None),
    "proxy.test:3128": ("http", "proxy.test", 3128, None),
    " http://proxy.test:3128/ ": ("http", "proxy.test", 3128, None),
    "HTTP://Proxy.Test": ("http", "proxy.test", 80, None),
    "https://proxy.test": ("https", "proxy.test", 443, None),
    "http://[::1]:3128": ("http", "::1", 3128, None),
    "http://my_proxy:8080": ("http", "my_proxy", 8080, None),
    "http://me:p@ss@proxy.test:1": ("http", "proxy.test", 1, ("me", "p@ss")),
    # pragma: allowlist nextline secret
    "http://me:p%40%23%2Fss@proxy.test:1": ("http", "proxy.test", 1, ("me", "p@#/ss")),
    # pragma: allowlist nextline secret
    "http://DOMAIN\\me:pass@proxy.test:1": ("http", "proxy.test", 1, ("DOMAIN\\me", "pass")),
    "http://me@proxy.test:1": ("http", "proxy.test", 1, ("me", "")),
    "http://me:a:b@proxy.test:1": ("http", "proxy.test", 1, ("me", "a:b")),
    "http://pröxy.test:1": ("http", "xn--prxy-6qa.test", 1, None),
}


@pytest.mark.parametrize(("value", "expected"), USABLE.items(), ids=USABLE)
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
def test_a_proxy_is_read_as_other_tools_read_it(monkeypatch, variable: str, value: str, expected: Any) -> None:
    """In capitals or not, with a scheme or not, and with whatever a password holds."""
    monkeypatch.setenv(variable, value)
    assert route_to(MIXPANEL).proxy == Named(variable, *expected)


def test_one_proxy_counts(monkeypatch) -> None:
    """That of https before that of all, and none of http: what others say is not even looked at."""
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.test:1")
    monkeypatch.setenv("ALL_PROXY", "socks4://nobody.test:x")
    monkeypatch.setenv("HTTP_PROXY", "http://me:pa#ss@nobody.test:x")
    proxy = route_to(MIXPANEL).proxy
    assert proxy is not None
    assert (proxy.variable, proxy.host) == ("HTTPS_PROXY", "proxy.test")


EXEMPT = {
    MIXPANEL: [
        "*", "data.mixpanel.com", "DATA.Mixpanel.com", "mixpanel.com", ".mixpanel.com", "*.mixpanel.com",
        "*mixpanel.com", "com", "a.test,mixpanel.com", "a.test mixpanel.com", "a.test,\tmixpanel.com ,",
        "data.mixpanel.com:443", "https://data.mixpanel.com", "mixpanel.com.", "[::1],fe80::/10,mixpanel.com",
        "%,mixpanel.com",
    ],
    "https://10.1.2.3:8443": ["10.1.2.3", "10.0.0.0/8", "10.1.2.3:8443", "10.1.2.3/8", "x,10.0.0.0/8", "*"],
    "https://[2001:db8::5]": ["2001:db8::5", "[2001:db8::5]", "2001:db8::/32", "[2001:db8::5]:443", "[2001:db8::]/32"],
}  # fmt: skip
NOT_EXEMPT = {
    MIXPANEL: [
        "", ",", "[::1]", "fe80::/10", "::1", "10.0.0.0/8", "panel.com", "xdata.mixpanel.com", "data.mixpanel.com:80",
        "/", "mixpanel.com/x", "http://", "a:b:c", "[", "]", "[::1", "999.1.1.1/99", "*.", "<local>", "\x00",
    ],
    "https://10.1.2.3:8443": ["10.1.2.4", "11.0.0.0/8", "10.1.2.3:443", "::/0", "3", "2.3", "fe80::%1/10"],
    "https://[2001:db8::5]": ["2001:db8::6", "[2001:db8::5]:80", "0.0.0.0/0", "::1"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("url", "exempt", "goes_direct"),
    [(url, each, True) for url, entries in EXEMPT.items() for each in entries]
    + [(url, each, False) for url, entries in NOT_EXEMPT.items() for each in entries if "\x00" not in each],
)
@pytest.mark.parametrize("variable", ["NO_PROXY", "no_proxy"])
def test_no_proxy_is_read_whatever_is_in_it(monkeypatch, variable: str, url: str, exempt: str, goes_direct) -> None:
    """Names, suffixes, ports, addresses and networks, IPv6 with brackets or without: it never stops an export."""
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.test:3128")
    monkeypatch.setenv(variable, exempt)
    assert (route_to(url).proxy is None) == goes_direct


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.8.8", "[::1]", "x.localhost", "LOCALHOST"])
def test_this_machine_is_never_asked_by_a_proxy(monkeypatch, host: str) -> None:
    """Whatever its name."""
    monkeypatch.setenv("ALL_PROXY", "http://proxy.test:3128")
    assert route_to(f"https://{host}:1").proxy is None


@pytest.mark.parametrize("host", ["a..b", "a b", "a" * 64 + ".test", "a/b", "ü" * 70, "", "%00"])
def test_a_host_that_cannot_be_one_is_an_error_at_once(host: str) -> None:
    """Before the first request, and not one for each batch."""
    with pytest.raises(mpnb.PlanError):
        mpnb.plan(day(1), day(1), credentials=account(f"https://{host}"))


@pytest.mark.parametrize("variable", TRUST_VARIABLES)
def test_certificates_are_found_by_each_variable(sandbox, export, monkeypatch, tmp_path, variable: str) -> None:
    """A server whose certificate only a file or a folder of the user's own vouches for is trusted by it."""
    folder = tmp_path / "folder"
    folder.mkdir()
    # OpenSSL looks for the issuer by a hash of its name.
    (folder / "80ced4b1.0").write_bytes(CA.read_bytes())
    mp = sandbox()
    with tls_to(port_of(mp)) as front:
        url = f"https://localhost:{front.port}"
        monkeypatch.setenv(variable, str(folder if variable == "SSL_CERT_DIR" else CA))
        assert export(mp, credentials=at(mp, url)).total_rows == mp.count(day(1), day(3))


@pytest.mark.parametrize(
    ("first", "others"),
    [
        (("SSL_CERT_FILE",), ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")),
        (("REQUESTS_CA_BUNDLE",), ("CURL_CA_BUNDLE",)),
    ],
)
def test_certificates_have_an_order(monkeypatch, first: tuple[str, ...], others: tuple[str, ...]) -> None:
    """The variable that comes first counts, and those after it are not even looked at."""
    for name in first:
        monkeypatch.setenv(name, str(CA))
    for name in others:
        monkeypatch.setenv(name, "/no/such.pem")
    route = route_to(MIXPANEL)
    assert route.trust == " and ".join(first)
    assert route.tls.cert_store_stats()["x509_ca"] == 1


def test_certificates_of_certifi_otherwise() -> None:
    """With no variable set, and an empty one is none."""
    route = route_to(MIXPANEL)
    assert (route.trust, route.proxy) == ("", None)
    assert route.tls.cert_store_stats()["x509_ca"] > 50
    assert route.tls.verify_mode is ssl.CERT_REQUIRED
    assert route.tls.check_hostname


def test_certificates_are_loaded_anew_when_their_file_changes(monkeypatch, tmp_path) -> None:
    """They are loaded once for all exports of a process, which takes a tenth of a second, and while they are true."""
    file = tmp_path / "ca.pem"
    file.write_bytes(CA.read_bytes())
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    first = route_to(MIXPANEL).tls
    assert route_to(MIXPANEL).tls is first
    file.write_text("no more")
    os.utime(file, (1, 1))
    with pytest.raises(mpnb.PlanError, match="SSL_CERT_FILE"):
        route_to(MIXPANEL)


# --- proxies that are asked ------------------------------------------------------------------------------------------

# Nobody but a proxy finds it.
FAR = "https://mixpanel.test"


@pytest.fixture
def trusted(monkeypatch) -> None:
    """Trust the certificates of ``tests/tls``."""
    monkeypatch.setenv("SSL_CERT_FILE", str(CA))


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "all_proxy"])
def test_an_export_goes_by_a_proxy(sandbox, export, monkeypatch, trusted, variable: str, private: bool) -> None:
    """In clear or by TLS, with a login that has every special character, and TLS with Mixpanel within."""
    mp = sandbox()
    with tls_to(port_of(mp)) as front, Proxy(front.port, private=private) as proxy:
        scheme = "https" if private else "http"
        monkeypatch.setenv(variable, f"{scheme}://me:p%40%23:%2Fss@{LOOPBACK}:{proxy.port}")
        result = export(mp, credentials=at(mp, FAR))
        assert result.total_rows == mp.count(day(1), day(3))
        login = base64.b64encode(b"me:p@#:/ss").decode()
        assert len(proxy.heads) == 3
        for head in proxy.heads:
            assert head.startswith("CONNECT mixpanel.test:443 HTTP/1.1")
            assert f"Proxy-Authorization: Basic {login}" in head
            assert mp.credentials.secret not in head
    assert result.batches.select("attempts").distinct().fetchall() == [(1,)]


def test_a_proxy_that_does_not_get_through_at_first_is_asked_again(sandbox, export, monkeypatch, trusted) -> None:
    """A 502 or 503 to CONNECT may pass, and costs nothing of the hour."""
    mp = sandbox()
    with tls_to(port_of(mp)) as front, Proxy(front.port, ("502 Bad Gateway", "503 No", "504 Slow")) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://{LOOPBACK}:{proxy.port}")
        result = export(mp, day(1), day(1), credentials=at(mp, FAR), quota=mpnb.Quota())
        assert result.total_rows == mp.count(day(1), day(1))
        assert result.batches.select("attempts").fetchall() == [(4,)]
    assert left(at(mp, FAR)) == (59, 59)


def left(credentials: mpnb.Credentials) -> tuple[int, int]:
    """Count what the hour of a project still has, as this process and as the file that all share know it."""
    mine = limiter_for(credentials.host, credentials.project_id, None)
    history = mpnb._fetching.limiter.History(credentials.host, credentials.project_id)
    return mine.left(), RateLimiter(mpnb.Quota(), history=history).left()


# --- requests that do not leave this machine --------------------------------------------------------------------------


@contextlib.contextmanager
def refused(mp: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Nobody listens."""
    with nobody() as port:
        yield f"http://{LOOPBACK}:{port}"


@contextlib.contextmanager
def unknown(mp: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """No name server knows the host."""
    yield "https://nowhere.invalid"


@contextlib.contextmanager
def untrusted(mp: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A certificate that nobody vouches for."""
    with tls_to(port_of(mp)) as front:
        yield f"https://localhost:{front.port}"


@contextlib.contextmanager
def vouched_for_by_others(mp: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The user's own certificates are for somebody else."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", mpnb._fetching.route.certifi.where())
    with tls_to(port_of(mp)) as front:
        yield f"https://localhost:{front.port}"


@contextlib.contextmanager
def expired(mp: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A certificate of long ago."""
    monkeypatch.setenv("SSL_CERT_FILE", str(CA))
    with tls_to(port_of(mp), "expired") as front:
        yield f"https://localhost:{front.port}"


@contextlib.contextmanager
def of_another(mp: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A certificate for another host."""
    monkeypatch.setenv("SSL_CERT_FILE", str(CA))
    with tls_to(port_of(mp), "other") as front:
        yield f"https://localhost:{front.port}"


@contextlib.contextmanager
def in_clear(mp: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """TLS is spoken to a server that knows none."""
    yield f"https://localhost:{port_of(mp)}"


@contextlib.contextmanager
def of_other_ciphers(mp: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The handshake ends with an alert: there is no cipher that both know."""
    settings = tls_settings("server")
    settings.maximum_version = ssl.TLSVersion.TLSv1_2
    settings.set_ciphers("ECDHE-RSA-AES256-GCM-SHA384")
    with tls_to(port_of(mp), settings=settings) as front:
        yield f"https://localhost:{front.port}"


@contextlib.contextmanager
def cut_off(mp: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The handshake is cut."""
    with Server(lambda connection: connection.recv(100)) as server:
        yield f"https://localhost:{server.port}"


@contextlib.contextmanager
def silent_tls(mp: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Nothing comes after the connection."""
    monkeypatch.setattr(mpnb._fetching.client, "CONNECT_SECONDS", 0.2)
    with Server(lambda connection: connection.recv(1) and connection.recv(1 << 20) and connection.recv(1)) as server:
        yield f"https://localhost:{server.port}"


def by_proxy(answer: str) -> Callable[[Sandbox, pytest.MonkeyPatch], Any]:
    """A proxy that answers so to CONNECT."""

    @contextlib.contextmanager
    def way(mp: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
        with Proxy(port_of(mp), (answer,) * 100) as proxy:
            # pragma: allowlist nextline secret
            monkeypatch.setenv("HTTPS_PROXY", f"http://me:hunter2hunter2@{LOOPBACK}:{proxy.port}")
            yield FAR

    return way


def by_server(serve: Callable[[socket.socket], object]) -> Callable[[Sandbox, pytest.MonkeyPatch], Any]:
    """A proxy that is none."""

    @contextlib.contextmanager
    def way(mp: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
        monkeypatch.setattr(mpnb._fetching.client, "PROXY_SECONDS", 0.2)
        with Server(serve) as server:
            monkeypatch.setenv("ALL_PROXY", f"http://{LOOPBACK}:{server.port}")
            yield FAR

    return way


def by_address(value: str) -> Callable[[Sandbox, pytest.MonkeyPatch], Any]:
    """A proxy at an address."""

    @contextlib.contextmanager
    def way(mp: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
        with nobody() as port:
            monkeypatch.setenv("HTTPS_PROXY", value.format(port=port, mp=port_of(mp)))
            yield FAR

    return way


def says(answer: bytes) -> Callable[[socket.socket], object]:
    """Answer to whatever comes first."""
    return lambda connection: (head_of(connection), connection.sendall(answer))


def waits(connection: socket.socket) -> None:
    """Answer nothing."""
    while connection.recv(1 << 16):
        pass


# Each with what the error says, its kind, and whether the same request may succeed later.
UNREACHED: dict[str, tuple[Callable[..., Any], str, str, bool]] = {
    "refused": (refused, r"refuses connections: no server is listening there.*MP_API_BASE_URL", "connection", True),
    "DNS": (
        unknown,
        r"nowhere\.invalid cannot be found: offline, or a proxy is needed \(HTTPS_PROXY\)",
        "connection",
        True,
    ),
    "untrusted": (
        untrusted,
        r"this Python does not trust the certificate of localhost:\d+ \(.*\): a company's proxy\?.*set SSL_CERT_FILE",
        "connection",
        False,
    ),
    "vouched for by others": (
        vouched_for_by_others,
        r"certificate of localhost:\d+ is not signed by those that REQUESTS_CA_BUNDLE names",
        "connection",
        False,
    ),
    "expired": (expired, r"certificate of localhost.* is not valid today.*clock", "connection", False),
    "of another": (of_another, r"another server answers for localhost", "connection", False),
    "in clear": (in_clear, r"localhost:\d+ does not speak TLS.*MP_API_BASE_URL", "connection", False),
    "alert": (of_other_ciphers, r"localhost:\d+ refuses the TLS handshake: handshake failure", "connection", True),
    "cut off": (cut_off, r"localhost:\d+ cut the TLS handshake off, as a firewall", "connection", True),
    "silent": (silent_tls, r"no connection to localhost:\d+ within 0 s", "timeout", True),
    "proxy: 407": (
        by_proxy("407 Proxy Authentication Required"),
        r"the proxy requires a login: .* of HTTPS_PROXY says '407.*user:password@ before the host in HTTPS_PROXY",
        "connection",
        False,
    ),
    "proxy: 403": (
        by_proxy("403 Forbidden"),
        r"the proxy 127.0.0.1:\d+ of HTTPS_PROXY does not allow connections to mixpanel.test \(403 Forbidden\)",
        "connection",
        False,
    ),
    "proxy: 502": (
        by_proxy("502 Bad Gateway"),
        r"the proxy 127.0.0.1:\d+ of HTTPS_PROXY could not connect to mixpanel.test \(502 Bad Gateway\)",
        "connection",
        True,
    ),
    "proxy: closes": (by_server(head_of), r"proxy .* of ALL_PROXY closed the connection", "connection", True),
    "proxy: garbage": (by_server(says(b"x" * 99 + b"\r\n\r\n")), r"proxy .* closed the connection", "connection", True),
    "proxy: silent": (by_server(waits), r"no connection to the proxy .* within 0 s", "timeout", True),
    "proxy: not after all": (
        by_server(says(b"HTTP/1.1 200 OK\r\n\r\n")),
        r"mixpanel.test cut the TLS handshake off",
        "connection",
        True,
    ),
    "proxy: refused": (
        by_address("http://127.0.0.1:{port}"),
        r"the proxy 127.0.0.1:\d+ of HTTPS_PROXY refuses connections.*Check HTTPS_PROXY",
        "connection",
        True,
    ),
    "proxy: DNS": (
        by_address("http://proxy.invalid:1"),
        r"the proxy proxy.invalid:1 of HTTPS_PROXY cannot be found\. Check HTTPS_PROXY",
        "connection",
        True,
    ),
    "proxy: in clear": (
        by_address("https://127.0.0.1:{mp}"),
        r"the proxy 127.0.0.1:\d+ of HTTPS_PROXY does not speak TLS.*begin HTTPS_PROXY with http://",
        "connection",
        False,
    ),
}


@pytest.mark.parametrize(("way", "message", "kind", "passes"), UNREACHED.values(), ids=UNREACHED)
def test_what_keeps_every_request_here_ends_the_export(
    sandbox, database, monkeypatch, way: Any, message: str, kind: str, passes: bool
) -> None:
    """After two batches met it, with a message that names the cause, and with the hour as it was."""
    mp = sandbox()
    with way(mp, monkeypatch) as url:
        credentials = at(mp, url)
        said, rows = failed(mpnb.export, day(1), day(90), chunk_days=1, credentials=credentials, database=database)
        until(lambda: left(credentials) == (60, 60))  # some may still connect
    assert re.search(f"the export stopped because every batch would fail: .*{message}", said), said
    assert "hunter2" not in said
    assert len(rows) == 90
    assert {row[0] for row in rows} == {kind}
    assert {row[3] for row in rows} == {passes}
    # Those that were under way with the first two, and no others.
    assert 2 <= sum(attempts for _, _, attempts, _ in rows) <= 20
    assert all(each.status == 400 for each in mp.requests)  # what speaks TLS to it


def test_a_connection_that_was_reset_before_tls_is_closed() -> None:
    """Its socket does not stay open, of which a warning would tell, and the error is that of a connection."""
    with socket.create_server((LOOPBACK, 0)) as server:
        wire = Wire()
        stream = wire.connect_tcp(LOOPBACK, server.getsockname()[1], 5.0)
        plain = stream.get_extra_info("socket")
        peer, _ = server.accept()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()  # with RST

        def is_reset() -> bool:
            try:
                plain.getpeername()
            except OSError:
                return True
            return False

        until(is_reset)
        with pytest.raises(httpcore.ConnectError):
            stream.start_tls(ssl.create_default_context(), "localhost", 5.0)
        assert isinstance(wire.obstacle, ConnectionResetError)
    del wire, stream
    gc.collect()


@pytest.mark.parametrize(("name", "attempts"), [("untrusted", 1), ("proxy: 407", 1), ("refused", 4), ("DNS", 4)])
def test_a_single_batch_is_tried_as_often_as_that_may_help(sandbox, database, monkeypatch, name, attempts) -> None:
    """A network may come back, a certificate will not."""
    way, message, kind, passes = UNREACHED[name]
    mp = sandbox()
    with way(mp, monkeypatch) as url:
        said, rows = failed(mpnb.export, day(1), day(1), credentials=at(mp, url), database=database)
        assert left(at(mp, url)) == (60, 60)
    assert re.search(message, said)
    assert [(row[0], row[2], row[3]) for row in rows] == [(kind, attempts, passes)]


def test_a_network_that_comes_back_is_enough(sandbox, export, monkeypatch) -> None:
    """One batch that is refused waits for its next attempt, and the server is there by then."""
    mp = sandbox()
    with nobody() as port:
        pass
    found: list[Server] = []

    def bring(progress: mpnb.BatchProgress) -> None:
        if progress.status == "waiting" and not found:
            server = Server(lambda connection: join(connection), port=port)
            found.append(server)

    def join(connection: socket.socket) -> None:
        with socket.create_connection((LOOPBACK, port_of(mp))) as inner, found[0].keeping(inner):
            found[0].join(connection, inner)

    monkeypatch.setattr(mpnb._fetching.fetcher, "BACKOFF_SECONDS", 0.3)
    credentials = at(mp, f"http://{LOOPBACK}:{port}")
    result = export(mp, day(1), day(1), credentials=credentials, on_batch=bring, quota=mpnb.Quota())
    with found[0]:
        assert result.total_rows == mp.count(day(1), day(1))
        assert result.batches.select("attempts").fetchall() == [(2,)]
    assert left(credentials) == (59, 59)


def test_a_network_that_stutters_ends_no_export(sandbox, export, monkeypatch, trusted) -> None:
    """Once requests got through, two batches that do not get through at first are tried again as others are."""
    monkeypatch.setattr(mpnb._fetching.fetcher, "BACKOFF_SECONDS", 0.5)
    mp = sandbox()
    with tls_to(port_of(mp)) as front, Proxy(front.port, ("200", "200", "502 No", "502 No")) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://{LOOPBACK}:{proxy.port}")
        result = export(mp, day(1), day(6), credentials=at(mp, FAR), workers=2)
    assert statuses(result) == {"done": 6}
    assert sorted(result.batches.select("attempts").fetchall()) == [(1,)] * 4 + [(2,)] * 2
    all_or_nothing(result, mp)


def test_what_is_under_way_comes_to_its_end(sandbox, export, monkeypatch, trusted) -> None:
    """Where one request got through and others do not, it is not cut off: its batch is done, the others have failed."""
    mp = sandbox(bytes_per_second=20_000, events_per_day=200)
    with tls_to(port_of(mp)) as front, Proxy(front.port, ("200 OK", *["403 Forbidden"] * 99)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://{LOOPBACK}:{proxy.port}")
        result = export(mp, day(1), day(40), credentials=at(mp, FAR), workers=3)
        assert statuses(result) == {"done": 1, "failed": 39}
        assert len(proxy.heads) < 10
    all_or_nothing(result, mp)


def test_a_stop_while_it_connects_charges_nothing(sandbox, start, monkeypatch) -> None:
    """A request that was cancelled before it left is no request."""
    mp = sandbox()
    with Server(waits) as server:
        credentials = at(mp, f"https://localhost:{server.port}")
        job = start(mp, day(1), day(5), credentials=credentials, quota=mpnb.Quota(per_second=100))
        until(lambda: server.connections >= 5)
        job.cancel()
        job.outcome(10).close()
    until(lambda: left(credentials) == (60, 60))


# The system's own errors, which cannot be had on request: what each says.
ERRORS: dict[str, tuple[Exception, str, str, bool]] = {
    "no network": (
        OSError(errno.ENETUNREACH, "x"),
        "there is no route to data.mixpanel.com: offline",
        "connection",
        True,
    ),
    "no host": (
        OSError(errno.EHOSTUNREACH, "x"),
        "there is no route to data.mixpanel.com: offline",
        "connection",
        True,
    ),
    "network down": (
        OSError(errno.ENETDOWN, "x"),
        "there is no route to data.mixpanel.com: offline",
        "connection",
        True,
    ),
    "firewall": (PermissionError(errno.EPERM, "x"), "does not let Python connect to data.mix", "connection", True),
    "firewall too": (PermissionError(errno.EACCES, "x"), "does not let Python connect", "connection", True),
    "handles": (OSError(errno.EMFILE, "x"), "too many files are open", "connection", True),
    "all handles": (OSError(errno.ENFILE, "x"), "too many files are open", "connection", True),
    "name server": (socket.gaierror(socket.EAI_AGAIN, "x"), "data.mixpanel.com cannot be found", "connection", True),
    "no port": (OSError(errno.EADDRNOTAVAIL, "no address"), "no connection to .*: .*no address", "connection", True),
    "refused": (ConnectionRefusedError(errno.ECONNREFUSED, "x"), "refuses connections", "connection", True),
    "slow": (TimeoutError("timed out"), "no connection to data.mixpanel.com within 10 s", "timeout", True),
    "odd": (ValueError("odd"), "no connection to data.mixpanel.com: odd", "connection", True),
    "silent": (ValueError(), "no connection to data.mixpanel.com: ValueError", "connection", True),
}


@pytest.mark.parametrize(("error", "message", "kind", "passes"), ERRORS.values(), ids=ERRORS)
def test_every_error_of_the_system_has_words(error: Exception, message: str, kind: str, passes: bool) -> None:
    """Each says what happened and what to do, and that no request left."""
    wire = Wire()
    wire.obstacle = error
    raised = httpcore.ConnectError("what httpcore makes of it")
    why = unreached(raised, wire, route_to(MIXPANEL), connect_seconds=10)
    assert re.search(message, why.message)
    assert (why.kind, why.retryable, why.unreached, bool(why.hint)) == (kind, passes, True, True)
    assert "MP_API_BASE_URL" not in why.hint  # the address is Mixpanel's own


def all_of_httpcore() -> list[type[Exception]]:
    """List the exceptions that httpcore names."""
    named = [getattr(httpcore, name) for name in httpcore.__all__]
    return [each for each in named if isinstance(each, type) and issubclass(each, Exception)]


@pytest.mark.parametrize("kind", all_of_httpcore())
def test_no_error_of_httpcore_is_forgotten(kind: type[Exception]) -> None:
    """Before and after a request left, each is a failure with a kind, words and a hint."""
    assert issubclass(kind, HTTP_ERRORS)
    wire = Wire()
    for why in (_from_httpcore(kind()), unreached(kind(), wire, route_to(MIXPANEL), connect_seconds=10)):
        assert why.kind in ("timeout", "connection")
        assert (why.kind == "timeout") == issubclass(kind, httpcore.TimeoutException)
        assert why.message
        assert why.hint


# --- what an answer says of itself ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["encoding_br", "encoding_zstd", "unlabelled"])
def test_what_was_not_asked_for_is_not_asked_for_again(sandbox, export, kind: str) -> None:
    """An encoding that something in between chose would be the same again: one request, and the others go on."""
    mp = sandbox(faults=[Fault(kind, day(2), times=None)])
    result = export(mp)
    assert result.failures.select("from_date, kind, attempts, retryable").fetchall() == [(day(2), "decode", 1, False)]
    assert statuses(result) == {"done": 2, "failed": 1}
    assert mp.injected[kind] == 1
    all_or_nothing(result, mp)


def test_a_wrong_region_is_one_error(sandbox, database) -> None:
    """Mixpanel's answer to it ends the export at once, is about the credentials, and names the variable."""
    body = {"error": "request failed with error: invalid project id for cluster."}
    mp = sandbox(faults=[Fault("status", status=400, body=body, times=None)])
    options = {"credentials": mp.credentials, "database": database, "where": 'properties["a"] == 1', "workers": 3}
    said, rows = failed(mpnb.export, day(1), day(90), **options)
    assert "MP_REGION" in said
    assert "where" not in said
    assert {row[0] for row in rows} == {"auth"}
    assert len(mp.requests) <= 3


@pytest.mark.parametrize("status", [407, 511])
def test_a_network_that_wants_a_login_is_named(status: int) -> None:
    """It is not Mixpanel that says so."""
    why = from_answer(status, b"Network Authentication Required", None, where=None, asks_for_today=False, now=0.0)
    assert "HTTPS_PROXY" in why.hint


BLAMED = [
    "Unable to parse selector: 'x' at character 3",
    "Invalid where clause",
    "syntax error near '='",
    "Bad expression: unknown operator",
    'cannot evaluate properties["$os"] == 1',
]
NOT_BLAMED = [
    "Bad Request: invalid arguments",
    "from_date must be a date in the format yyyy-mm-dd",
    "project_id is a required parameter when using a service account",
    "failed: /api/2.0/export?from_date=2026-01-01&where=properties",
    "somewhere, nowhere, elsewhere",
    "",
]


@pytest.mark.parametrize(
    ("message", "is_blamed"), [(each, True) for each in BLAMED] + [(each, False) for each in NOT_BLAMED]
)
def test_a_filter_is_blamed_only_where_the_message_speaks_of_it(message: str, is_blamed: bool) -> None:
    """Only then would every batch be refused alike; and without a filter there is none to blame."""
    where = 'properties["$os"] == 1'
    given: Any = {"asks_for_today": False, "now": 0.0}
    why = from_answer(400, json.dumps({"error": message}).encode(), None, where=where, **given)
    assert (why.hits_all, "where" in why.hint) == (is_blamed, is_blamed)
    assert (why.kind, why.retryable) == ("http", False)
    assert not from_answer(400, message.encode(), None, where=None, **given).hits_all


# --- answers of other requests ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 4])
def test_an_answer_that_comes_twice_is_taken_once(sandbox, export, workers: int) -> None:
    """What follows on its connection is nobody's answer: each day is what was served of it."""
    mp = sandbox(faults=[Fault("twice", times=None)])
    result = export(mp, day(1), day(12), workers=workers)
    assert result.batches.select("status, attempts").distinct().fetchall() == [("done", 1)]
    all_or_nothing(result, mp)


def test_what_comes_later_on_a_connection_is_nobodys(sandbox, export) -> None:
    """A server that answers the next request of a connection before it is asked finds nobody who asks there again."""
    mp = sandbox()

    def serve(connection: socket.socket) -> None:
        head = head_of(connection)
        with socket.create_connection((LOOPBACK, port_of(mp))) as inner, server.keeping(inner):
            inner.sendall(head.replace(b"GET ", b"GET ", 1))
            answer = b""
            while not answer.endswith((b"0\r\n\r\n", b"}}\n")):
                answer += inner.recv(1 << 16)
        connection.sendall(answer)
        connection.sendall(answer)

    with Server(serve) as server:
        result = export(mp, day(1), day(6), workers=1, credentials=at(mp, f"http://{LOOPBACK}:{server.port}"))
        assert server.connections == 6
    all_or_nothing(result, mp)


def test_each_request_has_a_connection_of_its_own_which_is_closed(sandbox, start) -> None:
    """Whatever was answered: none is kept for the next request, nor open until the export ends."""
    faults = [Fault("status", day(2), status=500), Fault("redirect_same", day(3)), Fault("half_line", day(4))]
    mp = sandbox(faults=[*faults, Fault("status", day(5), status=400), Fault("hang", day(6), times=None)])

    def serve(connection: socket.socket) -> None:
        with socket.create_connection((LOOPBACK, port_of(mp))) as inner, server.keeping(inner):
            server.join(connection, inner)

    def ours() -> list[str]:
        sockets = psutil.Process().net_connections("tcp")
        return [each.status for each in sockets if each.raddr and each.raddr.port == server.port]

    with Server(serve) as server:
        job = start(mp, day(1), day(6), workers=1, credentials=at(mp, f"http://{LOOPBACK}:{server.port}"))
        until(lambda: mp.injected["hang"])
        assert ours() == [psutil.CONN_ESTABLISHED]
        assert server.connections == len(mp.requests) == 9
        job.cancel()
        job.outcome(10).close()
        assert ours() == []
    assert mp.injected == {"status": 2, "redirect_same": 1, "half_line": 1, "hang": 1}


@pytest.mark.parametrize("spool", [None, mpnb.Spool(max_bytes=1)], ids=["plain copy", "as received"])
@pytest.mark.parametrize("chunk_days", [1, 7])
def test_an_answer_for_other_days_is_asked_for_once_more(sandbox, export, chunk_days: int, spool: Any) -> None:
    """A batch that gets another's events is tried again; the one that gets them again has failed, and no other."""
    faults = [Fault("other_days", day(1), times=1), Fault("other_days", day(8), times=None)]
    mp = sandbox(faults=faults)
    result = export(mp, day(1), day(21), chunk_days=chunk_days, spool=spool)
    found = result.batches.select("from_date, status, attempts").filter("attempts > 1").order("from_date").fetchall()
    assert found == [(day(1), "done", 2), (day(8), "failed", 2)]
    assert result.failures.select("kind, message, retryable").fetchall() == [
        ("decode", "the answer is for other days", True)
    ]
    all_or_nothing(result, mp)


def test_other_faults_beside_it_are_tried_as_often_as_ever(sandbox, export) -> None:
    """Only its own kind counts against it."""
    mp = sandbox(faults=[Fault("reset"), Fault("other_days"), Fault("gzip_crc")])
    result = export(mp, day(1), day(1))
    assert result.batches.select("status, attempts").fetchall() == [("done", 4)]


ASKED = ("2026-01-10", "2026-01-11")
NOW = 1_768_003_200  # 2026-01-10
DAY_SECONDS = 86_400
SERVED: dict[str, tuple[list[object], bool]] = {
    "nothing": ([], False),
    "the first moment": ([NOW], False),
    "the last moment": ([NOW + 2 * DAY_SECONDS - 1], False),
    "14 hours before": ([NOW - 14 * 3600] * 3, False),
    "14 hours after": ([NOW + 2 * DAY_SECONDS + 14 * 3600 - 1] * 3, False),
    "days before": ([NOW - 2 * DAY_SECONDS] * 3, True),
    "days after": ([NOW + 4 * DAY_SECONDS] * 3, True),
    "years before": ([NOW - 2000 * DAY_SECONDS], True),
    "milliseconds": ([NOW * 1000], False),
    "milliseconds of other days": ([(NOW - 9 * DAY_SECONDS) * 1000], True),
    "text": ([str(NOW)], False),
    "text of other days": ([str(NOW - 9 * DAY_SECONDS)], True),
    "a fraction": ([NOW + 0.5], False),
    "no time": ([None, "soon", [], {}, True, 0, -1, 1e300, "nan", NOW * 10**6], False),
    "no time, and other days": ([None, NOW - 9 * DAY_SECONDS, "soon"], True),
    "the last one is late": ([NOW, NOW + 9 * DAY_SECONDS], False),
    "the first one is early": ([NOW - 9 * DAY_SECONDS, NOW], False),
    "one among others": ([NOW - 9 * DAY_SECONDS, NOW, NOW - 8 * DAY_SECONDS], False),
    "no time at the end": ([NOW - 9 * DAY_SECONDS, NOW, None], False),
}


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(("times", "is_other"), SERVED.values(), ids=SERVED)
def test_which_days_an_answer_is_for(tmp_path, times: list[object], is_other: bool, compressed: bool) -> None:
    """For others, where all usable times are more than a day off: time zones and single strays are not."""
    lines = [json.dumps({"event": "a", "properties": {"time": each}}).encode() for each in times]
    lines += [b"no event at all", b'{"event":"b","properties":{}}'] if times else []
    lines = [lines[-2], *lines[:-2]] if times else []
    path = tmp_path / "body"
    body = b"".join(line + b"\n" for line in lines)
    path.write_bytes(zipped(body[:40], body[40:]) if compressed else body)
    last = lines[-1] if lines else b""
    assert is_for_other_days(path, last, *ASKED, gzip=compressed, is_cancelled=lambda: False) == is_other


def test_an_ordinary_answer_is_not_read_for_its_days(tmp_path) -> None:
    """The last event tells: the file is not even opened."""
    last = json.dumps({"event": "a", "properties": {"time": NOW}}).encode()
    assert not is_for_other_days(tmp_path / "nothing", last, *ASKED, gzip=True, is_cancelled=lambda: False)


def test_a_stop_does_not_wait_for_it(tmp_path) -> None:
    """To look through a long answer ends when the export does."""
    line = json.dumps({"event": "a", "properties": {"time": NOW - 9 * DAY_SECONDS}}).encode()
    (tmp_path / "body").write_bytes((line + b"\n") * 10)
    looks = iter([False] * 5)
    with pytest.raises(mpnb._base.clock.Cancelled):
        is_for_other_days(tmp_path / "body", line, *ASKED, gzip=False, is_cancelled=lambda: next(looks, True))


# --- a drip -----------------------------------------------------------------------------------------------------------


class Drops(httpcore.NetworkStream):
    """Hand out so many bytes after so many seconds, by a clock of its own."""

    def __init__(self, *drops: tuple[float, int]) -> None:
        self.now = 0.0
        self._drops = list(drops)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        seconds, size = self._drops.pop(0)
        self.now += seconds
        return b"x" * size

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Take a request."""


def drink(drops: Drops, count: int, between: float = 0.0) -> None:
    """Read so often from a wire that wants 10 bytes a second over 100 seconds."""
    wire = Wire(clock=lambda: drops.now)
    wire.begin(proxy_seconds=1, least=10, window=100)
    wire.write(drops, b"GET / HTTP/1.1", None)
    for _ in range(count):
        wire.read(drops, 1 << 16, None)
        drops.now += between


@pytest.mark.parametrize(
    ("drops", "between"),
    [
        ([(1000, 1), *[(10, 100)] * 50], 0),  # long before the first byte
        ([(1, 1), (99, 1), (1, 1000), (99, 1), (1, 1000)], 0),  # in bursts
        ([(1, 1)] * 50, 1000),  # it is us who are slow
        ([(0.1, 1)] * 900, 0),  # too little, and not for long enough
    ],
)
def test_who_has_a_reason_may_be_slow(drops: list[tuple[float, int]], between: float) -> None:
    """What counts is the mean over the whole window, of the time that is spent waiting, from the first byte on."""
    drink(Drops(*drops), len(drops), between)


@pytest.mark.parametrize("drop", [(1, 1), (10, 99), (0.001, 0), (99, 900)])
def test_a_drip_is_given_up(drop: tuple[float, int]) -> None:
    """Whatever its rhythm: once the window is full of it, and however much came before."""
    before = [(1.0, 10**9), (100.0, 10**9)]
    needed = int(100 / drop[0]) + 2
    drops = Drops(*before, *[drop] * needed)
    with pytest.raises(TooSlow, match="fewer than 10 bytes a second"):
        drink(drops, len(before) + needed)


def headers_for_ever(connection: socket.socket) -> None:
    """Send headers and no end of them."""
    head_of(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    for _ in iter(lambda: connection.send(b"X: y\r\n"), 0):
        time.sleep(0.02)


def refusal_for_ever(connection: socket.socket) -> None:
    """Send a refusal that does not end."""
    head_of(connection)
    connection.sendall(b"HTTP/1.1 400 No\r\nContent-Length: 60000\r\n\r\n")
    for _ in iter(lambda: connection.send(b"x"), 0):
        time.sleep(0.02)


def patience_for_ever(connection: socket.socket) -> None:
    """Say again and again that an answer will come."""
    head_of(connection)
    for _ in iter(lambda: connection.send(b"HTTP/1.1 102 Processing\r\n\r\n"), 0):
        time.sleep(0.2)


@pytest.mark.parametrize(
    ("serve", "kind"),
    [(headers_for_ever, "timeout"), (patience_for_ever, "timeout"), (refusal_for_ever, "http")],
)
def test_no_part_of_an_answer_may_drip(sandbox, database, monkeypatch, serve: Any, kind: str) -> None:
    """Headers and what stands in for them are given up; of a refusal, what came of it is enough."""
    monkeypatch.setattr(mpnb._fetching.client, "IDLE_SECONDS", 0.3)
    monkeypatch.setattr(mpnb._fetching.client, "LEAST_SPEED", 1000.0)
    with Server(serve) as server:
        _, rows = failed(
            mpnb.export, day(1), day(1), database=database, credentials=account(f"http://{LOOPBACK}:{server.port}")
        )
    assert [row[0] for row in rows] == [kind]


def test_a_drip_says_so(sandbox, export, monkeypatch) -> None:
    """The message names the speed and how long it was waited for."""
    monkeypatch.setattr(mpnb._fetching.client, "IDLE_SECONDS", 0.2)
    mp = sandbox(faults=[Fault("drip", day(2), times=None)])
    result = export(mp)
    [(kind, message)] = result.failures.select("kind, message").fetchall()
    assert kind == "timeout"
    assert re.fullmatch(r"fewer than 100 bytes a second arrived for \d s", message)
    assert statuses(result) == {"done": 2, "failed": 1}


# --- what never shows -------------------------------------------------------------------------------------------------


def said_back() -> dict[str, str]:
    """Give the forms in which a text may hold the secret of ``account()``."""
    both = f"me:{SECRET}"
    forms = {
        "as it is": SECRET,
        "in a header": f"Authorization: Basic {base64.b64encode(both.encode()).decode()}",
        "Base64": base64.b64encode(SECRET.encode()).decode(),
        "Base64 for addresses": base64.urlsafe_b64encode(both.encode()).decode(),
        "percent": quote(SECRET, safe=""),
        "percent in small letters": quote(SECRET, safe="").replace("%2F", "%2f").replace("%2B", "%2b"),
        "plus": quote_plus(SECRET),
        "JSON": json.dumps({"secret": SECRET}).replace("/", "\\/"),
        "hex": SECRET.encode().hex(),
        "half": SECRET[: len(SECRET) // 2],
        "other half": SECRET[len(SECRET) // 2 :],
        "across lines": base64.encodebytes(both.encode() * 3).decode(),
    }
    return forms


@pytest.mark.parametrize("form", said_back().values(), ids=said_back())
def test_no_form_of_the_secret_is_said(form: str) -> None:
    """Whole, in half, or encoded, nothing of eight characters or more is left of it."""
    text = safe_text(f"Bad request: {form} was refused", forms_of("me", SECRET))
    assert "***" in text
    left_over = text.replace("Bad request: ", "").replace(" was refused", "").replace("Authorization: Basic ", "")
    for known in forms_of("me", SECRET):
        assert not any(left_over[i : i + 8] in known for i in range(len(left_over) - 7))
    assert text.startswith("Bad request: ")
    assert text.endswith("was refused")


def test_what_is_no_secret_stays() -> None:
    """Texts that hold none of it are as they were."""
    for text in ("Bad request", "made-up events", "", "x" * 100, "hunter"):
        assert safe_text(text, forms_of("me", SECRET)) == text


def echo(status: str, more: str = "") -> Callable[[socket.socket], object]:
    """Answer with what was sent, as a proxy that is debugged does."""

    def serve(connection: socket.socket) -> None:
        said = head_of(connection)
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(said)}\r\n{more}\r\n".encode()
        connection.sendall(head + said)

    return serve


def echo_in_headers(name: str) -> Callable[[socket.socket], object]:
    """Answer with what was sent in a header."""

    def serve(connection: socket.socket) -> None:
        [login] = [line for line in head_of(connection).split(b"\r\n") if line.lower().startswith(b"authorization")]
        status = b"302 Found" if name == "Location" else b"200 OK"
        connection.sendall(b"HTTP/1.1 %s\r\n%s: %s\r\nContent-Length: 0\r\n\r\n" % (status, name.encode(), login))

    return serve


def echo_garbage(connection: socket.socket) -> None:
    """Answer with what was sent and no HTTP."""
    connection.sendall(head_of(connection))


ECHOES: dict[str, Callable[[socket.socket], object]] = {
    "200": echo("200 OK"),
    "200 as gzip": echo("200 OK", "Content-Encoding: gzip\r\n"),
    "200 without an end": lambda connection: connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + head_of(connection)),
    "400": echo("400 Bad"),
    "401": echo("401 No"),
    "500": echo("500 Oh"),
    "an encoding": echo_in_headers("Content-Encoding"),
    "a redirect": echo_in_headers("Location"),
    "garbage": echo_garbage,
}


@pytest.mark.parametrize("serve", ECHOES.values(), ids=ECHOES)
def test_a_server_that_says_all_back_is_not_repeated(tmp_path, serve: Any, caplog) -> None:
    """Neither the ledger, nor any other file, nor an error, log or traceback has the secret, in any form."""
    words = [word for word in forms_of("me", SECRET) if len(word) > 8]
    caplog.set_level(logging.DEBUG, "mpnb")
    with Server(serve) as server:
        with pytest.raises(mpnb.ExportError) as raised:
            mpnb.export(
                day(1), day(2), chunk_days=1, database=tmp_path / "a.duckdb", on_batch=lambda progress: None,
                credentials=account(f"http://{LOOPBACK}:{server.port}"), quota=WIDE,
            )  # fmt: skip
        assert server.connections >= 1  # the first refusal of credentials ends all
    with raised.value.result as result:
        texts = [str(raised.value), caplog.text, *shown(raised.value), str(result.batches.fetchall()), repr(result)]
    texts += [file.read_bytes().decode("latin-1") for file in tmp_path.rglob("*") if file.is_file()]
    assert [(word, text[:300]) for text in texts for word in words if word in text] == []


def test_a_proxys_password_is_not_repeated(tmp_path, monkeypatch) -> None:
    """Nor is what a proxy says back of its own login."""
    login = base64.b64encode(b"me:hunter2hunter2").decode()
    with Proxy(1, (f"407 {login} is no login, nor is hunter2hunter2",) * 9) as proxy:
        # pragma: allowlist nextline secret
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:hunter2hunter2@{LOOPBACK}:{proxy.port}")
        with pytest.raises(mpnb.ExportError) as raised:
            mpnb.export(
                day(1), day(2), database=tmp_path / "a.duckdb", credentials=account(FAR), on_batch=lambda _: None
            )
    with raised.value.result as result:
        texts = [str(raised.value), *shown(raised.value), str(result.batches.fetchall())]
    assert [text for text in texts if "hunter2hunter2" in text or login in text] == []
    assert "the proxy requires a login" in texts[0]


def test_what_nobody_expected_shows_no_secret(sandbox, export, monkeypatch, caplog) -> None:
    """An error in the middle of a request is logged with its traceback, and none of its frames has the secret."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError("made up")

    monkeypatch.setattr(mpnb._fetching.client, "_keep_lines", broken)
    mp = sandbox()
    with pytest.raises(mpnb.ExportError, match="made up") as raised:
        export(mp, day(1), day(1))
    raised.value.result.close()
    errors = [record.exc_info[1] for record in caplog.records if record.exc_info and record.exc_info[1]]
    assert errors
    forms = forms_of(mp.credentials.username, mp.credentials.secret)
    for error in errors:
        assert [form for text in shown(error) for form in forms if form in text] == []


# --- tracebacks ------------------------------------------------------------------------------------------------------


def below_here(error: BaseException) -> TracebackType | None:
    """Return the part of a traceback that is not of this file: who calls may hold the secret, and does."""
    trace = error.__traceback__
    while trace and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return trace


def shown(error: BaseException) -> list[str]:
    """Show an error with the variables of its frames, as Python, IPython's verbose mode and rich do."""
    trace = below_here(error)
    console = Console(file=io.StringIO(), width=500)
    console.print(Traceback.from_exception(type(error), error, trace, show_locals=True, locals_max_string=None))
    return [
        "".join(traceback.TracebackException(type(error), error, trace, capture_locals=True).format()),
        VerboseTB().text(type(error), error, trace),
        console.file.getvalue(),
    ]


WRONG: dict[str, dict[str, Any]] = {
    "region": {"region": "moon"},
    "no region": {"region": None},
    "project": {"project_id": "x"},
    "username": {"username": "me:too"},
    "secret": {"secret": f"{SECRET}\nmore"},
    "url": {"base_url": "http://example.com"},
    "no url": {"base_url": 5},
    "port": {"base_url": "https://example.com:abc"},
    # pragma: allowlist nextline secret
    "password in the url": {"base_url": "https://me:hunter2@example.com"},
    "password in half a url": {"base_url": "me:hunter2@[example.com:abc"},
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_wrong_credentials_show_no_secret(wrong: dict[str, Any]) -> None:
    """Whatever argument is wrong, no frame of the traceback shows the secret."""
    usual = {"username": "me", "secret": SECRET, "project_id": "1"}
    with pytest.raises(mpnb.CredentialsError) as raised:
        mpnb.Credentials(**{**usual, **wrong})
    texts = shown(raised.value)
    assert [text for text in texts if "hunter2" in text] == []
    assert all("credentials.py" in text for text in texts)


@pytest.mark.parametrize(
    "call",
    [
        mpnb.Credentials.from_environment,
        lambda: mpnb.export("2026-01-01", "2026-01-02", database=":memory:"),
        lambda: mpnb.start("2026-01-01", "2026-01-02", database=":memory:"),
        lambda: mpnb.plan("2026-01-01", "2026-01-02", database=":memory:"),
    ],
)
@pytest.mark.parametrize("name", ["MP_REGION", "MP_PROJECT_ID", "MP_API_BASE_URL", "MP_USERNAME"])
def test_a_wrong_environment_shows_neither_secret_nor_environment(
    call: Callable[[], Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable that is wrong or missing: no frame shows the secret, or the variables that are somebody else's."""
    monkeypatch.setenv("SOMEBODY_ELSES", "their-own-password")
    good = {"MP_USERNAME": "me", "MP_SECRET": SECRET, "MP_PROJECT_ID": "1"}
    for each, value in {**good, name: "http://me:too"}.items():
        monkeypatch.setenv(each, value)
    with pytest.raises(mpnb.CredentialsError) as raised:
        call()
    assert [text for text in shown(raised.value) if "hunter2" in text or "their-own-password" in text] == []
