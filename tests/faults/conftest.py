"""What the tests of faults share: figures that show at the end of the run, and a state folder of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

FIGURES = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Make room for the figures."""
    config.stash[FIGURES] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the figures, whether the tests passed or not."""
    for text in config.stash[FIGURES]:
        terminalreporter.write_line("")
        terminalreporter.write_line(text)


@pytest.fixture(scope="session")
def tell(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Print a text at the end of the run."""
    return pytestconfig.stash[FIGURES].append


@pytest.fixture(autouse=True)
def _own_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep the quota's file of this machine out of it."""
    monkeypatch.setenv("MPNB_STATE_DIR", str(tmp_path / "state"))
