"""Lakes in folders and in an object store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mpnb
from mpnb.sandbox import Sandbox
from tests._helpers import WIDE, day

FIRST, LAST = day(1), day(3)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """Give the path of a lake that is not there yet."""
    return str(tmp_path / "lake")


@pytest.fixture(params=["folder", "bucket"])
def lake(request: pytest.FixtureRequest) -> str:
    """Give the address of a lake that is not there yet."""
    address: str = request.getfixturevalue(request.param)
    return address if request.param == "folder" else f"{address}/mixpanel"


@pytest.fixture
def fill() -> Callable[..., mpnb.ExportResult]:
    """Export three days of a sandbox into a lake, if not said otherwise."""

    def run(mp: Sandbox, lake: str, first: Any = FIRST, last: Any = LAST, **options: Any) -> mpnb.ExportResult:
        options = {"credentials": mp.credentials, "quota": WIDE, "on_batch": lambda _: None, **options}
        return mpnb.export(first, last, destination=lake, **options)

    return run
