"""No test waits for ever, whatever breaks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BEGIN = """
import signal, threading
import pytest

never = threading.Event()

def test_before():
    pass

"""
# What hangs, and what pytest says of it all. A process that ended in mid-run sums nothing up.
HANGS = {
    "a test": ("def test_it():\n    never.wait()", "1 failed, 2 passed"),
    "a fixture after a failure": (
        "@pytest.fixture\ndef waiting():\n    yield\n    never.wait()\n\ndef test_it(waiting):\n    assert False",
        "1 failed, 2 passed, 1 error",
    ),
    "a thread that a failed test leaves": (
        "def test_it():\n    threading.Thread(target=never.wait).start()\n    assert False",
        "1 failed, 2 passed",
    ),
    "a test that hears no signal": (
        "def test_it():\n    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])\n    never.wait()",
        "test_hanging.py",
    ),
}


@pytest.mark.parametrize("name", HANGS)
def test_whatever_hangs_the_run_ends(name: str, tmp_path: Path) -> None:
    """It ends as failed and shows who waits for what; where that can be, the other tests run."""
    hanging, summary = HANGS[name]
    tests = tmp_path / "test_hanging.py"
    tests.write_text(f"{BEGIN}\n{hanging}\n\ndef test_after():\n    pass\n")
    command = [sys.executable, "-m", "pytest", "-p", "tests._bounds", "-p", "no:cacheprovider", "--timeout=1"]
    run = subprocess.run([*command, tests], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 1
    assert summary in run.stdout
    assert "in wait" in run.stdout + run.stderr
