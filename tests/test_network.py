"""What lies between here and Mixpanel: the environment, proxies, certificates, connections; and what never shows."""

from __future__ import annotations

import io
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any

import pytest
from IPython.core.ultratb import VerboseTB
from rich.console import Console
from rich.traceback import Traceback

import mpnb

SECRET = "made-up/secret+hunter2"  # pragma: allowlist secret

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
    "secret": {"secret": f"{SECRET}\n"},
    "url": {"base_url": "http://example.com"},
    "no url": {"base_url": 5},
    "port": {"base_url": "https://example.com:abc"},
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
    assert all("_credentials.py" in text for text in texts)


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
