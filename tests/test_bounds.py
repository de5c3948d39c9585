"""No test waits for ever, whatever breaks."""

from __future__ import annotations

import ast
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests._helpers import child

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


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """Run them all at once, with a limit of some seconds."""
    command = [sys.executable, "-m", "pytest", "-p", "tests._bounds", "-p", "no:cacheprovider", "--timeout=5"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with contextlib.ExitStack() as stack:
        running = {}
        for name, (hanging, _) in HANGS.items():
            tests = tmp_path_factory.mktemp("hanging") / "test_hanging.py"
            tests.write_text(f"{BEGIN}\n{hanging}\n\ndef test_after():\n    pass\n")
            running[name] = stack.enter_context(child([*command, tests], cwd=ROOT, seconds=120, **pipes))
        yield running


@pytest.mark.parametrize("name", HANGS)
def test_whatever_hangs_the_run_ends(name: str, runs: dict[str, subprocess.Popen[str]]) -> None:
    """It ends as failed and shows who waits for what; where that can be, the other tests run."""
    said, _ = runs[name].communicate(timeout=120)
    assert runs[name].returncode == 1
    assert HANGS[name][1] in said
    assert "in wait" in said


# What waits until somebody else does something, unless it is told for how long. ``str.join`` and ``dict.get`` have an
# argument in any case.
WAITS = {"acquire", "communicate", "get", "join", "outcome", "result", "wait"}
RUNS = {"call", "check_call", "check_output", "run"}


def unbounded(tree: ast.AST) -> Iterator[int]:
    """Name the lines of calls that may wait for ever."""
    bounded = {id(call) for call in ended_by_their_block(tree)}
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute) or id(call) in bounded:
            continue
        of, name = call.func.value, call.func.attr
        if isinstance(of, ast.Name) and of.id == "subprocess":
            waits = name in RUNS and "timeout" not in [each.arg for each in call.keywords]
        else:
            waits = name in WAITS and not call.args and not call.keywords
        if waits:
            yield call.lineno


def ended_by_their_block(tree: ast.AST) -> Iterator[ast.AST]:
    """Find what stands in the block of a process that ``child`` kills in time."""
    for block in ast.walk(tree):
        if isinstance(block, ast.With) and any("child(" in ast.unparse(each) for each in block.items):
            yield from ast.walk(block)


def test_every_wait_has_a_bound() -> None:
    """Of a thread, a process, a job, a queue, an event or a lock: how long a test waits for it is said there."""
    found = []
    for path in sorted(ROOT.glob("tests/**/*.py")):
        if path.parent.name not in ("campaign", "benchmarks"):  # which run in processes that are supervised
            tree = ast.parse(path.read_text())
            found += [f"{path.relative_to(ROOT)}:{line}" for line in unbounded(tree)]
    assert found == []
