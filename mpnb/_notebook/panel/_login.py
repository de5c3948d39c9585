"""Credentials in the panel: from the environment, passed in, or typed without being stored."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import anywidget
from traitlets import Dict

from mpnb._errors import CredentialsError
from mpnb._message import said
from mpnb._mixpanel.credentials import HOSTS, Credentials
from mpnb._notebook.panel._frontend import STYLE, module
from mpnb._notebook.panel._labels import in_labels


class Login(anywidget.AnyWidget):
    """
    The part of the panel that shows whose credentials are used, or asks for some.

    What is typed comes as one message, ``{"type": "login", "username": …, "secret": …}``, and is no trait: a trait
    would be kept in the saved notebook. Only the pump's thread writes ``info``.
    """

    _esm = module("login.js")
    _css = STYLE
    info = Dict().tag(sync=True)

    def __init__(self, info: dict[str, Any], on_message: Callable[[dict[str, Any]], object]) -> None:
        super().__init__(info=info)
        self.on_msg(lambda _widget, content, _buffers: on_message(content))

    def __repr__(self) -> str:
        """Return a text without an address and without what was typed."""
        return "Login()"


def found(given: Credentials | None) -> tuple[Credentials | None, dict[str, Any]]:
    """Return the credentials passed in or found in the environment, and a text about them."""
    try:
        credentials = given or Credentials.from_environment()
    except CredentialsError as error:
        missing = all(not os.environ.get(name) for name in ("MP_USERNAME", "MP_SECRET", "MP_PROJECT_ID"))
        return None, shown(None, "", error="" if missing else said(error, in_labels))
    return credentials, shown(credentials, "passed in" if given else "from the environment")


def typed(message: dict[str, Any]) -> tuple[Credentials | None, dict[str, Any]]:
    """Return the credentials that were typed, or what is wrong with them."""
    try:
        credentials = Credentials(
            str(message.get("username", "")).strip(),
            str(message.get("secret", "")),
            str(message.get("project_id", "")),
            region=str(message.get("region", "us")),
            base_url=os.environ.get("MP_API_BASE_URL", "").strip() or None,
        )
    except CredentialsError as error:
        return None, shown(None, "", error=said(error, in_labels))
    return credentials, shown(credentials, "typed here")


def refused(info: dict[str, Any]) -> dict[str, Any]:
    """Show that Mixpanel refused the credentials, and open the fields for others."""
    return info | {"open": True, "error": "Mixpanel refuses these: type others here, then press Retry failed"}


def shown(credentials: Credentials | None, source: str, error: str = "") -> dict[str, Any]:
    """Return whose credentials they are, without the secret."""
    if credentials is None:
        text = "No credentials yet: a service account of the project is needed"
    else:
        where = f"at {credentials.base_url}" if credentials.base_url else f"region {credentials.region}"
        text = f"Project {credentials.project_id}, {where}, {source}"
    region = os.environ.get("MP_REGION", "").strip().lower()
    return {
        "found": credentials is not None,
        "open": credentials is None,
        "hidden": False,
        "text": text,
        "error": error,
        "regions": list(HOSTS),
        "region": region if region in HOSTS else "us",
    }
