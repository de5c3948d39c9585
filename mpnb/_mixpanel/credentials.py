"""Credentials for Mixpanel: a service account, its project and the region of the project's data."""

from __future__ import annotations

import html
import json
import os
import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import quote, quote_plus, urlsplit

from mpnb._base.scalars import as_int, brief, either, is_text
from mpnb._base.text import safe_text
from mpnb._errors import CredentialsError
from mpnb._message import Argument, Message, Phrase, Word, said

# Hosts per region: https://developer.mixpanel.com/reference/raw-event-export
HOSTS = {
    "us": "https://data.mixpanel.com",
    "eu": "https://data-eu.mixpanel.com",
    "in": "https://data-in.mixpanel.com",
}
# Of the query API: https://developer.mixpanel.com/reference/engage-query
QUERY_HOSTS = {
    "us": "https://mixpanel.com",
    "eu": "https://eu.mixpanel.com",
    "in": "https://in.mixpanel.com",
}
# Where the environment has what the arguments are.
VARIABLES = {
    "username": "MP_USERNAME",
    "secret": "MP_SECRET",
    "project_id": "MP_PROJECT_ID",
    "region": "MP_REGION",
    "base_url": "MP_API_BASE_URL",
}
REQUIRED = ("username", "secret", "project_id")
PASS_THEM = Phrase("pass credentials", ", or pass credentials=mpnb.Credentials(username, secret, project_id)")
LOOPBACK = {"localhost", "127.0.0.1", "::1"}


class _Named:
    """The name in the environment that credentials were read under, ``""`` for the usual variables; else ``None``."""

    # No field of theirs: it says where they are from, not what they are.
    __slots__ = ("_read_as",)
    _read_as: str | None


@dataclass(frozen=True, slots=True, init=False)
class Credentials(_Named):
    """
    A service account of a Mixpanel project.

    White space around any of the values is removed, since pasted text often has some.

    Credentials from the environment pickle as the name under which they stand there, and are read again in the process
    that unpickles them. Others refuse to be pickled, since their secret would go along in clear.

    Args:
        username: name of the service account, ``"….mp-service-account"``.
        secret: secret of the service account. Never part of a repr.
        project_id: number of the project, as text or integer.
        region: ``"us"``, ``"eu"`` or ``"in"``: where the project's data is stored.
        base_url: scheme and host to use instead of all of the region's, for proxies and the sandbox.
            Plain ``http`` is allowed for loopback only.
        may_travel: whether they may be pickled with their secret, as for a process on another machine.

    Raises:
        CredentialsError: a value is empty or invalid.
        TypeError: they are pickled, have a secret of their own, and may not travel.

    Service accounts: https://developer.mixpanel.com/reference/service-accounts
    """

    username: str
    secret: str = field(repr=False)
    project_id: str
    region: str = "us"
    base_url: str | None = None
    may_travel: bool = field(default=False, repr=False, compare=False)

    def __init__(
        self,
        username: str,
        secret: str,
        project_id: str | int,
        region: str = "us",
        base_url: str | None = None,
        *,
        may_travel: bool = False,
    ) -> None:
        number = as_int(project_id)
        is_whole = number is not None and 0 <= number < 10**20
        object.__setattr__(self, "username", _stripped(username))
        object.__setattr__(self, "secret", _stripped(secret))
        object.__setattr__(self, "project_id", str(number) if is_whole else _stripped(project_id))
        object.__setattr__(self, "region", _stripped(region).lower() if isinstance(region, str) else region)
        object.__setattr__(self, "base_url", _stripped(base_url))
        object.__setattr__(self, "may_travel", may_travel)
        object.__setattr__(self, "_read_as", None)
        fault = _fault_of(self)
        # Many tools show the variables of every frame in a traceback. This frame, unlike one that a dataclass would
        # generate, can drop them before it raises: the secret may be any of them, where their order was mixed up.
        del self, username, secret, project_id, region, base_url
        if fault:
            raise CredentialsError(fault)

    @property
    def host(self) -> str:
        """Return the scheme and host that requests go to, without a trailing slash."""
        return (self.base_url or HOSTS[self.region]).rstrip("/")

    @property
    def query_host(self) -> str:
        """Return the scheme and host that queries go to, as for profiles, without a trailing slash."""
        return (self.base_url or QUERY_HOSTS[self.region]).rstrip("/")

    @classmethod
    def from_environment(cls, name: str | None = None, *, environ: Mapping[str, str] | None = None) -> Credentials:
        """
        Return credentials from ``MP_USERNAME``, ``MP_SECRET``, ``MP_PROJECT_ID`` and, if set, ``MP_REGION`` and
        ``MP_API_BASE_URL``.

        Args:
            name: of one service account among several. With ``"EU"``, the variables are ``MP_EU_USERNAME``,
                ``MP_EU_SECRET``, ``MP_EU_PROJECT_ID``, ``MP_EU_REGION`` and ``MP_EU_API_BASE_URL``.
            environ: a mapping to read in place of ``os.environ``.

        Raises:
            CredentialsError: one of the first three is missing, or one is invalid; the message names each of them.
        """
        if name is not None and (not isinstance(name, str) or not re.fullmatch("[A-Za-z0-9_]{1,64}", name)):
            # It may be what the call took in this place once, the environment.
            kind = f"{_no_secret(name)}" if isinstance(name, str) else f"a {type(name).__name__}"
            del environ, name
            raise CredentialsError(
                Argument("name"),
                f" must be up to 64 letters, digits and underscores, as 'EU' for MP_EU_USERNAME, not {kind}",
            )
        if environ is not None and not isinstance(environ, Mapping):
            kind = type(environ).__name__
            del environ
            raise CredentialsError(Argument("environ"), f" must be a mapping such as os.environ, not a {kind}")
        names = variables_of(name)
        missing, fault, argument = missing_variables(environ, name), "", None
        if not missing:
            try:
                made = cls(**_arguments(names, environ))
            except CredentialsError as error:
                fault, argument = said(error, partial(_by_variable, names)), error.argument
            else:
                if environ is None:
                    object.__setattr__(made, "_read_as", name or "")
                return made
        # Raised here, with the environment gone from this frame: a traceback may show the variables of every frame.
        del environ
        if fault:
            raise CredentialsError(fault, argument=argument)
        raise CredentialsError(f"no credentials: set {', '.join(missing)} in the environment", PASS_THEM)

    def __copy__(self) -> Credentials:
        """Return the same object: it never changes."""
        return self

    def __deepcopy__(self, memo: object) -> Credentials:
        """Return the same object: it never changes."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how to make them again in another process, without the secret wherever that is possible."""
        if self._read_as is not None:
            return Credentials.from_environment, (self._read_as or None,)
        if self.may_travel:
            values = (self.username, self.secret, self.project_id, self.region, self.base_url)
            return partial(Credentials, may_travel=True), values
        raise TypeError(
            "credentials with a secret of their own are not pickled, since the secret would go along in clear: use"
            " mpnb.Credentials.from_environment('EU'), which reads MP_EU_USERNAME and so on again where it arrives, or"
            " pass may_travel=True to mpnb.Credentials"
        )


def forms_of(username: str, secret: str) -> list[str]:
    """Return the encoded forms in which a server's text may repeat a secret."""
    both = f"{username}:{secret}".encode()
    raw = secret.encode()
    encoded = [encode(each).decode().rstrip("=") for each in (raw, both) for encode in (b64encode, urlsafe_b64encode)]
    percent = [quote(secret), quote(secret, safe=""), quote_plus(secret)]
    percent += [re.sub("%..", lambda code: code[0].lower(), form) for form in percent]
    escaped = [json.dumps(secret)[1:-1], html.escape(secret), repr(raw)[2:-1], repr(secret)[1:-1]]
    escaped += [form.replace("/", "\\/") for form in (secret, json.dumps(secret)[1:-1], *encoded)]
    return list(dict.fromkeys([secret, *encoded, *percent, *escaped, raw.hex(), raw.hex().upper()]))


def variables_of(name: str | None = None) -> dict[str, str]:
    """Return the name of the variable for each argument, for a service account of that name in the environment."""
    return {key: each if not name else f"MP_{name.upper()}_{each[3:]}" for key, each in VARIABLES.items()}


def missing_variables(environ: Mapping[str, str] | None = None, name: str | None = None) -> list[str]:
    """Return the names of the variables that credentials need and the environment lacks."""
    env, names = os.environ if environ is None else environ, variables_of(name)
    return [names[key] for key in REQUIRED if not _word(env, names[key])]


def _arguments(names: Mapping[str, str], environ: Mapping[str, str] | None) -> dict[str, Any]:
    """Return the arguments of ``Credentials`` that the environment sets."""
    env = os.environ if environ is None else environ
    values = {key: _word(env, name) for key, name in names.items()}
    return {**values, "region": values["region"] or "us", "base_url": values["base_url"] or None}


def _word(env: Mapping[str, Any], name: str) -> str:
    value = env.get(name)
    return "" if value is None else str(value).strip()


def _by_variable(names: Mapping[str, str], word: Word) -> str:
    """Name an argument by the variable that it came from."""
    return names.get(word.name, word.name) if isinstance(word, Argument) else str(word)


def _fault_of(credentials: Credentials) -> Message | None:
    """Return what is wrong with credentials, or ``None``. Never raises: a traceback would show the frame's secrets."""
    for name in ("username", "secret"):
        value = getattr(credentials, name)
        if not isinstance(value, str):
            kind = "None" if value is None else f"a {type(value).__name__}"
            return Message(Argument(name), f" must be a text, not {kind}")
        if not value:
            return Message(Argument(name), " is empty")
        # A control character would end the header, or fold into it.
        if re.search(r"[\x00-\x1f\x7f]", value) or not is_text(value):
            return Message(Argument(name), " contains a line break or another invalid character: copy it once more")
    if ":" in credentials.username:
        return Message(Argument("username"), " holds a colon, which HTTP Basic cannot carry")
    project_id, region, base_url = credentials.project_id, credentials.region, credentials.base_url
    if not isinstance(project_id, str) or not re.fullmatch("[0-9]{1,20}", project_id):
        return Message(Argument("project_id"), f" must be the number of the project, not {_no_secret(project_id)}")
    if not isinstance(region, str) or region not in HOSTS:
        return Message(Argument("region"), f" must be {either(HOSTS)}, not {_no_secret(region)}")
    wrong = _fault_of_base_url(base_url) if base_url is not None else ""
    return Message(Argument("base_url"), wrong) if wrong else None


def _stripped(value: Any) -> Any:
    return value.strip() if isinstance(value, str) else value


def _no_secret(value: object) -> str:
    """Return a value for a message, but hide long text: it may be a secret passed as the wrong argument."""
    is_long = isinstance(value, str) and len(value) > 16
    return f"a text of {len(str(value)):,} characters" if is_long else brief(value)


def _fault_of_base_url(url: object) -> str:
    if not isinstance(url, str):
        return f" must be a scheme and a host such as 'https://data.mixpanel.com', not {brief(url)}"
    if "@" in url:  # before any message that quotes it
        return " must not hold a user name or password"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        return f" {brief(url)} is no address: {safe_text(str(error))}"
    is_more = parts.path.strip("/") or parts.query or parts.fragment or re.search(r"[\s\x00-\x1f\x7f]", url)
    if parts.scheme not in ("http", "https") or not host or is_more or not is_text(url):
        return f" must be a scheme and a host such as 'https://data.mixpanel.com', not {brief(url)}"
    if parts.scheme == "http" and host not in LOOPBACK:
        return f" {brief(url)} would send the secret in clear: plain http is for loopback only"
    return ""
