"""What the tests of reports share."""

from __future__ import annotations

from typing import Any

import duckdb
import pytest


@pytest.fixture(scope="module")
def con() -> Any:
    """Return a connection with one thread: the data is small, the examples many."""
    with duckdb.connect(config={"threads": 1}) as con:
        yield con
