"""Kernels for the tests of the panel, each in a folder of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import pytest

from mpnb.sandbox import Sandbox
from tests.panel._kernel import Kernel
from tests.panel._kernel import kernel as run_kernel


class Gate:
    """Keep a sandbox's answers back until it opens: at the end of its block at the latest."""

    def __init__(self) -> None:
        self.opened = threading.Event()

    def lines(self, day: date) -> None:
        """Wait, and leave the lines of the day to the sandbox."""
        self.opened.wait(60)

    def __enter__(self) -> None:
        """Begin the block."""

    def __exit__(self, *error: object) -> None:
        """Open."""
        self.opened.set()


@pytest.fixture
def gate() -> Gate:
    """Give a gate that is shut."""
    return Gate()


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    """Run a kernel."""
    with run_kernel(tmp_path) as running:
        yield running


@pytest.fixture
def known() -> Callable[[Sandbox], str]:
    """Write code that puts a sandbox's credentials into the environment."""

    def code(mp: Sandbox) -> str:
        c = mp.credentials
        names = {
            "MP_USERNAME": c.username,
            "MP_SECRET": c.secret,
            "MP_PROJECT_ID": c.project_id,
            "MP_API_BASE_URL": c.host,
        }
        return f"import os, mpnb\nos.environ.update({names!r})\nWIDE = mpnb.Quota(per_hour=10**6, per_second=1000)\n"

    return code
