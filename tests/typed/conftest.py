"""What the tests of typed events share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.typed._values import Exporter


@pytest.fixture(scope="module")
def exported() -> Iterator[Exporter]:
    """Serve a sandbox for one module."""
    exporter = Exporter()
    with exporter.mp:
        yield exporter
