"""The route to Mixpanel that the environment sets: the proxy, and the trusted certificates."""

from __future__ import annotations

import ipaddress
import os
import re
import ssl
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import certifi
import httpcore

from mpnb._base.text import safe_text
from mpnb._errors import PlanError

# What a proxy may be asked by, and the port where none is named. Desktops write socks:// for SOCKS 5.
PROXY_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080, "socks": 1080}
# Each names a file of certificates, or a folder. The first that is set counts, but for SSL_CERT_FILE and SSL_CERT_DIR,
# which OpenSSL reads together.
OPENSSL_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
BUNDLE_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


@dataclass(frozen=True, slots=True)
class Proxy:
    """
    A proxy.

    Attributes:
        variable: of the environment, which names it.
        scheme: of ``PROXY_PORTS``, but for ``"socks"``.
        auth: user name and password, ``None`` where it wants none. Never part of a repr.
    """

    variable: str
    scheme: str
    host: str
    port: int
    auth: tuple[str, str] | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Route:
    """
    How a server is reached.

    Attributes:
        scheme, host, port: of the server.
        tls: the settings that all connections share. Never used on plain http, where it trusts nobody.
        trust: the variables that name the trusted certificates, empty for those that come with certifi.
        proxy: that stands in between, ``None`` for none.
    """

    scheme: str
    host: str
    port: int
    tls: ssl.SSLContext = field(repr=False)
    trust: str
    proxy: Proxy | None

    def pool(self, backend: httpcore.NetworkBackend) -> httpcore.ConnectionPool:
        """Return a pool that makes one connection at a time, each for one request."""
        # What follows an answer on its connection would be read as the answer to the next request.
        one: Any = {"max_connections": 1, "max_keepalive_connections": 0, "network_backend": backend}
        proxy = self.proxy
        if proxy is None:
            return httpcore.ConnectionPool(ssl_context=self.tls, **one)
        url = httpcore.URL(scheme=proxy.scheme, host=proxy.host, port=proxy.port, target="")
        auth = (proxy.auth[0].encode(), proxy.auth[1].encode()) if proxy.auth else None
        if proxy.scheme.startswith("socks"):
            return httpcore.SOCKSProxy(url, auth, ssl_context=self.tls, **one)
        proxy_tls = self.tls if proxy.scheme == "https" else None
        return httpcore.HTTPProxy(url, auth, ssl_context=self.tls, proxy_ssl_context=proxy_tls, **one)


def route_to(url: str) -> Route:
    """
    Find the route to a server. Called in the caller's thread before anything else, since every request will take it.

    The proxy is that of ``HTTPS_PROXY``, else of ``ALL_PROXY``, in capitals or not, else the system's, but for hosts
    that ``NO_PROXY`` names and for this machine. The certificates are those of ``SSL_CERT_FILE`` and ``SSL_CERT_DIR``,
    else of ``REQUESTS_CA_BUNDLE``, else of ``CURL_CA_BUNDLE``, else certifi's.

    Args:
        url: scheme, host and port, as ``Credentials.host`` has it.

    Raises:
        PlanError: a variable names what cannot be used. The message names the variable and what to do.
    """
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    try:
        host = _host(parts.hostname or "")
        route = Route(parts.scheme, host, port, *_trusted(parts.scheme), _proxy(parts.scheme, host, port))
        route.pool(httpcore.SyncBackend()).close()
    except PlanError as error:
        fault = str(error)
    except (ValueError, RuntimeError, OSError) as error:
        fault = f"{url} cannot be reached with the settings of the environment: {safe_text(str(error))}"
    else:
        return route
    # Raised here, and not where it was found: frames down there hold what the environment says, passwords included.
    raise PlanError(fault)


def is_loopback(host: str) -> bool:
    """Whether a host is this machine."""
    address = _address(host)
    return address.is_loopback if address else host == "localhost" or host.endswith(".localhost")


# --- the proxy -------------------------------------------------------------------------------------------------------


def _proxy(scheme: str, host: str, port: int) -> Proxy | None:
    # No proxy has a way to a server on this machine.
    if is_loopback(host):
        return None
    proxies = getproxies()
    name = scheme if proxies.get(scheme) else "all"
    exempt = proxies.get("no")
    if not proxies.get(name) or (_is_exempt(host, port, exempt) if exempt else proxy_bypass(host)):
        return None
    return _parse_proxy(_spelled(f"{name}_proxy"), proxies[name])


def _spelled(name: str) -> str:
    """Return a variable's name in the case that the environment uses, or words for the system's own setting."""
    spelled = [name] if name in os.environ else [each for each in os.environ if each.lower() == name]
    return spelled[0] if spelled else "the system's proxy setting"


def _parse_proxy(variable: str, value: str) -> Proxy:
    """Parse the value of a proxy variable. No message repeats the value: it may contain a password."""
    scheme, colon, rest = value.strip().partition("://")
    scheme, rest = (scheme.lower(), rest) if colon else ("http", scheme)
    if scheme not in PROXY_PORTS:
        kind = f"{scheme}://" if scheme.isalnum() else "something that is not a proxy's address"
        raise PlanError(
            f"{variable} begins with {kind}: a proxy is named as http://host:port, https://host:port or "
            "socks5://host:port"
        )
    if scheme.startswith("socks") and find_spec("socksio") is None:
        raise PlanError(f'{variable} names a SOCKS proxy, which requires another package: pip install "httpx[socks]"')
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    if "@" in rest[len(authority) :]:
        raise PlanError(
            f"{variable} cannot be read: in the proxy's user name and password, write %23 for #, %2F for / and %3F for"
            " ?"
        )
    login, _, place = authority.rpartition("@")
    found = re.fullmatch(r"(\[[^\[\]]+\]|[^:\[\]]+)(?::(\d*))?", place)
    if not found:
        # pragma: allowlist nextline secret
        raise PlanError(f"{variable} cannot be read: a proxy is named as {scheme}://user:password@host:port")
    port = int(found[2] or PROXY_PORTS[scheme])
    if not 1 <= port <= 65535:
        raise PlanError(f"{variable} names a proxy at port {port}, but ports are 1 to 65535")
    try:
        host = _host(found[1].strip("[]"))
    except PlanError:
        raise PlanError(f"{variable} names a proxy with an invalid host") from None
    user, _, password = login.partition(":")
    auth = (unquote(user), unquote(password)) if login else None
    return Proxy(variable, "socks5" if scheme == "socks" else scheme, host, port, auth)


def _is_exempt(host: str, port: int, exempt: str) -> bool:
    """
    Whether ``NO_PROXY`` excludes a host.

    Tools differ in what they read there. All of it counts here: ``*``, a host with or without its domain's dot or star,
    a port, an address, a network, IPv6 in brackets or without. What nobody can read names no host.
    """
    return any(_names(entry, host, port) for entry in re.split(r"[\s,]+", exempt.lower()) if entry)


def _names(entry: str, host: str, port: int) -> bool:
    entry = entry.rpartition("://")[2]
    with_port = re.fullmatch(r"(\[.*\]|[^:]*):(\d+)", entry)
    if with_port:
        if int(with_port[2]) != port:
            return False
        entry = with_port[1]
    entry = entry.strip("[]")
    address = _address(host)
    if address:
        with suppress(ValueError):
            return address in ipaddress.ip_network(entry.replace("]", ""), strict=False)
        return entry in ("*", host)
    name = entry.lstrip("*").strip(".")
    return entry == "*" or (bool(name) and (host == name or host.endswith(f".{name}")))


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _host(name: str) -> str:
    """Return a host name in ASCII letters (IDNA), as name servers know it."""
    try:
        host = name.rstrip(".").encode("idna").decode().lower()
    except UnicodeError:
        host = ""
    if not re.fullmatch(r"[a-z0-9._:-]+", host):
        raise PlanError(f"{name!r} is not a valid host name")
    return host


# --- certificates ----------------------------------------------------------------------------------------------------


def _trusted(scheme: str) -> tuple[ssl.SSLContext, str]:
    """Return the TLS settings, and the variables that name the certificates."""
    if scheme == "http":
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ""
    named = {name: os.environ[name] for name in OPENSSL_VARIABLES if os.environ.get(name)}
    for name in BUNDLE_VARIABLES:
        if not named and os.environ.get(name):
            named = {name: os.environ[name]}
    file = folder = None
    for name, value in named.items():
        path = os.path.expanduser(value)
        if name == "SSL_CERT_DIR" or (name in BUNDLE_VARIABLES and os.path.isdir(path)):
            folder = _folders(name, path)
        else:
            file = _file(name, path)
    if not named:
        file = certifi.where()
    trust = " and ".join(named)
    try:
        changed = Path(file).stat().st_mtime_ns if file else 0
        return _context(file, folder, changed, os.environ.get("SSLKEYLOGFILE")), trust
    except OSError as error:  # as are the errors of OpenSSL
        raise PlanError(_unusable(error, trust, file or folder)) from None


def _unusable(error: OSError, trust: str, path: str | None) -> str:
    """Return the variable that is at fault if the TLS settings cannot be made."""
    keys = os.environ.get("SSLKEYLOGFILE")
    if keys and error.filename == keys:
        return f"SSLKEYLOGFILE names {keys}, which cannot be written: {error.strerror}: unset it"
    if isinstance(error, ssl.SSLError):
        why = "holds no certificates in PEM form, which is text with BEGIN CERTIFICATE"
    else:
        why = f"cannot be read: {error.strerror}"
    return f"{trust or 'certifi'} names {path}, which {why}: set it to the right file, or unset it"


def _file(variable: str, path: str) -> str:
    if not os.path.isfile(path):
        what = "is a folder" if os.path.isdir(path) else "is missing"
        raise PlanError(f"{variable} names {path}, which {what}: set it to a file of certificates, or unset it")
    return path


def _folders(variable: str, path: str) -> str:
    """Return folders, which OpenSSL separates as PATH does. OpenSSL does not report a missing one."""
    if not any(map(os.path.isdir, path.split(os.pathsep))):
        raise PlanError(f"{variable} names {path}, which is not a folder: set it to one with certificates, or unset it")
    return path


@lru_cache(maxsize=4)
def _context(file: str | None, folder: str | None, changed: int, keys: str | None) -> ssl.SSLContext:
    """
    Load certificates. It takes tenths of a second, so all exports share the result until other files are named.

    Args:
        changed: when the file changed.
        keys: the file that Python writes keys to, which it takes from the environment itself.
    """
    return ssl.create_default_context(cafile=file, capath=folder)
