"""What the tests of faults share: figures that show at the end of the run, and a state folder of their own."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from mpnb.sandbox import Sandbox
from tests._helpers import child

PIPES: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
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


def asked(server: Sandbox, database: Path, first: str, last: str, **more: Any) -> str:
    """Write what ``tests.faults._exporter`` is to do."""
    quota = more.pop("quota", {"per_hour": 10**6, "per_second": 1000})
    return json.dumps(
        {
            "from_date": first,
            "to_date": last,
            "database": str(database),
            "credentials": asdict(server.credentials),
            "quota": quota,
            "chunk_days": 1,
            **more,
        }
    )


def answers_of(*arguments: str) -> list[dict[str, Any]]:
    """Export in processes of their own, side by side, and return what they say."""
    with contextlib.ExitStack() as stack:
        command = [sys.executable, "-m", "tests.faults._exporter"]
        exports = [stack.enter_context(child([*command, each], seconds=120, **PIPES)) for each in arguments]
        return [end(each) for each in exports]


def answer_of(argument: str) -> dict[str, Any]:
    """Export in a process of its own, and return what it says."""
    [answer] = answers_of(argument)
    return answer


def end(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for the end of an export and return what it says."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "Traceback" not in err, err
    answer: dict[str, Any] = json.loads(out)
    return answer
