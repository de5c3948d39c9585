"""Why Mixpanel could not be reached: what failed before a request left this machine, and what to do about it."""

from __future__ import annotations

import errno
import socket
import ssl
from dataclasses import replace
from urllib.parse import urlsplit

import httpcore

from mpnb._base.text import safe_text
from mpnb._fetching.route import Route
from mpnb._fetching.wire import Wire
from mpnb._mixpanel.credentials import HOSTS, QUERY_HOSTS
from mpnb._mixpanel.failures import TOO_MANY_FILES, Failure, failure

ADDRESS_HINT = "Check MP_API_BASE_URL, or base_url of the credentials, then retry."
MIXPANEL = {urlsplit(url).hostname for url in (*HOSTS.values(), *QUERY_HOSTS.values())}
NETWORK_HINT = "Check the network, and whether a proxy is needed (HTTPS_PROXY), then retry."
# Python's names for answers that are not TLS, by OpenSSL's version.
NOT_TLS = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL"}
# https://docs.openssl.org/3.0/man3/X509_STORE_CTX_get_error/
NOT_YET_VALID, EXPIRED, OTHER_NAME = 9, 10, 62


def unreached(error: Exception, wire: Wire, route: Route, *, connect_seconds: float) -> Failure:
    """
    Return the failure for what kept a request from being sent.

    Args:
        error: what httpcore raised.
        wire: how far it had come, and what the system said.
        connect_seconds: what it had for a connection.
    """
    cause = wire.obstacle or error
    if isinstance(cause, TimeoutError | httpcore.TimeoutException):
        seconds = wire.proxy_seconds if wire.step == "proxy" else connect_seconds
        message = f"no connection to {_who(wire, route)} within {seconds:.0f} s"
        return replace(failure("timeout", message, hint=_hint(wire, route, NETWORK_HINT)), unreached=True)
    judge = {"connect": _connecting, "tls": _agreeing, "proxy": _asking}.get(wire.step, _otherwise)
    return replace(judge(cause, wire, route), unreached=True)


def _who(wire: Wire, route: Route) -> str:
    """Return who was contacted, and for a proxy the variable that names it."""
    proxy = route.proxy
    if proxy and (wire.step == "proxy" or wire.peer == proxy.host):
        return f"the proxy {proxy.host}:{proxy.port} of {proxy.variable}"
    return route.host if route.port == 443 else f"{route.host}:{route.port}"


def _hint(wire: Wire, route: Route, hint: str) -> str:
    """Return what to do. A proxy on the way is suspected first; Mixpanel's own address is known to be right."""
    if route.proxy and (wire.step == "proxy" or wire.peer == route.proxy.host):
        return f"Check {route.proxy.variable}, then retry."
    return NETWORK_HINT if hint == ADDRESS_HINT and route.host in MIXPANEL else hint


def _connecting(cause: BaseException, wire: Wire, route: Route) -> Failure:
    who = _who(wire, route)
    number = getattr(cause, "errno", None)
    if isinstance(cause, socket.gaierror):
        needed = ": offline, or a proxy is needed (HTTPS_PROXY)" if who.startswith(route.host) else ""
        return failure("connection", f"{who} cannot be found{needed}", hint=_hint(wire, route, NETWORK_HINT))
    if number == errno.ECONNREFUSED:
        hint = _hint(wire, route, ADDRESS_HINT)
        message = f"{who} refuses connections: no server is listening there, or a firewall blocks it"
        return failure("connection", message, hint=hint)
    if number in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN):
        message = f"there is no route to {who}: offline, or a proxy is needed (HTTPS_PROXY)"
        return failure("connection", message, hint=_hint(wire, route, NETWORK_HINT))
    if number in (errno.EACCES, errno.EPERM):
        hint = "Allow this Python in the firewall, then retry."
        return failure("connection", f"this machine does not let Python connect to {who}", hint=hint)
    if number in (errno.EMFILE, errno.ENFILE):
        return failure("connection", f"no connection to {who}: too many files are open", hint=TOO_MANY_FILES)
    return _otherwise(cause, wire, route)


def _agreeing(cause: BaseException, wire: Wire, route: Route) -> Failure:
    """Return the failure for an error of the TLS handshake."""
    who = _who(wire, route)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return _distrusted(cause, wire, route)
    reason = getattr(cause, "reason", None) or ""
    if isinstance(cause, ssl.SSLError) and reason in NOT_TLS:
        hint = _hint(wire, route, ADDRESS_HINT)
        if "proxy" in who and route.proxy:
            hint = f"Most proxies use plain HTTP: begin {route.proxy.variable} with http://, then retry."
        return failure("connection", f"{who} does not speak TLS", retryable=False, hint=hint)
    if isinstance(cause, ssl.SSLError) and "ALERT" in reason:
        alert = safe_text(reason.rpartition("ALERT_")[2].replace("_", " ").lower())
        return failure("connection", f"{who} refuses the TLS handshake: {alert}", hint=_hint(wire, route, NETWORK_HINT))
    if isinstance(cause, ssl.SSLEOFError | ConnectionError):
        message = f"{who} cut the TLS handshake off, as a firewall or a company's proxy may do"
        return failure("connection", message, hint=_hint(wire, route, NETWORK_HINT))
    return _otherwise(cause, wire, route)


def _distrusted(cause: ssl.SSLCertVerificationError, wire: Wire, route: Route) -> Failure:
    who, why = _who(wire, route), safe_text(cause.verify_message)
    if cause.verify_code in (NOT_YET_VALID, EXPIRED):
        message = f"the certificate of {who} is not valid today ({why})"
        hint = "Check this machine's clock, then retry."
    elif cause.verify_code == OTHER_NAME or why.startswith(("Hostname mismatch", "IP address mismatch")):
        message = f"another server answers for {who} ({why})"
        hint = "Sign in to the network if it requires that, or check MP_API_BASE_URL, then retry."
    elif route.trust:
        message = f"the certificate of {who} is not signed by those that {route.trust} names ({why})"
        hint = f"Set {route.trust} to the right certificates, or unset it, then retry."
    else:
        message = f"this Python does not trust the certificate of {who} ({why}): a company's proxy?"
        hint = "Ask for the company's certificates and set SSL_CERT_FILE to their file, then retry."
    return failure("connection", message, retryable=False, hint=hint)


def _asking(cause: BaseException, wire: Wire, route: Route) -> Failure:
    """Return the failure for a proxy that refused or did not answer."""
    assert route.proxy is not None
    who, variable = _who(wire, route), route.proxy.variable
    text = safe_text(str(cause))
    hint = f"Check {variable}, then retry."
    if not isinstance(cause, httpcore.ProxyError):
        return failure("connection", f"{who} closed the connection: {text or type(cause).__name__}", hint=hint)
    if text.startswith("407") or "password" in text or "USERNAME" in text:
        hint = f"Write user:password@ before the host in {variable}, with special characters as %40 for @, then retry."
        return failure("connection", f"the proxy requires a login: {who} says {text!r}", retryable=False, hint=hint)
    passes = not text.startswith("4")  # 502, 503, 504: it did not get through itself
    verb = "could not connect to" if passes else "does not allow connections to"
    return failure("connection", f"{who} {verb} {route.host} ({text})", retryable=passes, hint=hint)


def _otherwise(cause: BaseException, wire: Wire, route: Route) -> Failure:
    text = safe_text(str(cause)) or type(cause).__name__
    return failure("connection", f"no connection to {_who(wire, route)}: {text}", hint=_hint(wire, route, NETWORK_HINT))
