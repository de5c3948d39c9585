"""Who asks Mixpanel, for which project, and where: a service account and its region."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from mpnb._errors import CredentialsError

# Hosts per region: https://developer.mixpanel.com/reference/raw-event-export
HOSTS = {
    "us": "https://data.mixpanel.com",
    "eu": "https://data-eu.mixpanel.com",
    "in": "https://data-in.mixpanel.com",
}
REQUIRED_VARIABLES = ("MP_USERNAME", "MP_SECRET", "MP_PROJECT_ID")
LOOPBACK = {"localhost", "127.0.0.1", "::1"}


@dataclass(frozen=True, slots=True)
class Credentials:
    """
    Name a service account of a Mixpanel project.

    Args:
        username: name of the service account, ``"….mp-service-account"``.
        secret: its secret. Never part of a repr.
        project_id: number of the project, as text or integer.
        region: ``"us"``, ``"eu"`` or ``"in"``: where the project's data lives.
        base_url: scheme and host that stand in for the region's, for proxies and the sandbox.
            Plain ``http`` is for loopback only.

    Raises:
        CredentialsError: a part is empty, or cannot be meant.

    Service accounts: https://developer.mixpanel.com/reference/service-accounts
    """

    username: str
    secret: str = field(repr=False)
    project_id: str
    region: str = "us"
    base_url: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "project_id", str(self.project_id).strip())
        object.__setattr__(self, "region", self.region.strip().lower())
        for name in ("username", "secret"):
            value = getattr(self, name)
            # A control character would end the header, or fold into it.
            if not isinstance(value, str) or not value.strip() or re.search(r"[\x00-\x1f\x7f]", value):
                raise CredentialsError(f"{name} is empty or holds control characters")
        if ":" in self.username:
            raise CredentialsError("username holds a colon, which HTTP Basic cannot carry")
        if not self.project_id.isascii() or not self.project_id.isdigit():
            raise CredentialsError(f"project_id is the number of the project, not {self.project_id!r}")
        if self.region not in HOSTS:
            raise CredentialsError(f"region {self.region!r} is none of {', '.join(HOSTS)}")
        if self.base_url is not None:
            _check_base_url(self.base_url)

    @property
    def host(self) -> str:
        """Give the scheme and host that requests go to, without a slash at the end."""
        return (self.base_url or HOSTS[self.region]).rstrip("/")

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Credentials:
        """
        Read ``MP_USERNAME``, ``MP_SECRET``, ``MP_PROJECT_ID``, and if set ``MP_REGION`` and ``MP_API_BASE_URL``.

        Raises:
            CredentialsError: one of the first three is missing; the message names each.
        """
        env = os.environ if environ is None else environ
        if missing := missing_variables(env):
            raise CredentialsError(
                f"no credentials: set {', '.join(missing)} in the environment, or pass "
                "credentials=mpnb.Credentials(username, secret, project_id)"
            )
        username, secret, project_id = (env[name].strip() for name in REQUIRED_VARIABLES)
        return cls(
            username,
            secret,
            project_id,
            region=env.get("MP_REGION", "").strip() or "us",
            base_url=env.get("MP_API_BASE_URL", "").strip() or None,
        )


def missing_variables(environ: Mapping[str, str] | None = None) -> list[str]:
    """Name the variables that credentials need and the environment does not have."""
    env = os.environ if environ is None else environ
    return [name for name in REQUIRED_VARIABLES if not env.get(name, "").strip()]


def _check_base_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError as error:
        raise CredentialsError(f"base_url {url!r} is no address: {error}") from None
    if parts.username or parts.password:
        raise CredentialsError("base_url must not hold a user name or password")
    if parts.scheme not in ("http", "https") or not host or parts.path.strip("/") or parts.query or parts.fragment:
        raise CredentialsError(f"base_url is a scheme and a host such as 'https://data.mixpanel.com', not {url!r}")
    if parts.scheme == "http" and host not in LOOPBACK:
        raise CredentialsError(f"base_url {url!r} would send the secret in clear: plain http is for loopback only")
