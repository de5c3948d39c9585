"""A shell of IPython's own in this process, and cells in a real kernel."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from nbclient import NotebookClient
from traitlets.config import Config

import mpnb
from mpnb.sandbox import Sandbox
from mpnb.sandbox.__main__ import environment
from tests import _kernels


@dataclass(frozen=True)
class Ran:
    """Keep what came of a cell: its value as displayed, its error, and what it printed."""

    value: Any
    error: BaseException | None
    out: str
    err: str


class Shell:
    """Run cells as a notebook does."""

    def __init__(self, ip: InteractiveShell) -> None:
        self.ip = ip

    def run(self, cell: str) -> Ran:
        with capture_output() as captured:
            ran = self.ip.run_cell(cell, store_history=True)
        return Ran(ran.result, ran.error_before_exec or ran.error_in_exec, captured.stdout, captured.stderr)

    def __call__(self, cell: str) -> Any:
        """Run a cell that must not fail, and give what it displays."""
        ran = self.run(cell)
        assert ran.error is None, ran.error
        return ran.value

    def __getitem__(self, name: str) -> Any:
        return self.ip.user_ns[name]

    def complete(self, line: str, after: str = "", *, ours: bool = False) -> list[str]:
        """Give what the line would be with each of the completions that Tab offers at its end, or only with ours."""
        with provisionalcompleter():
            offered = list(self.ip.Completer.completions(line + after, len(line)))
        offered = [each for each in offered if each.type == "param" or not ours]
        return [line[: each.start] + each.text + (line + after)[each.end :] for each in offered]


@pytest.fixture(autouse=True)
def _in_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let the default database be the test's own."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def mp(sandbox: Callable[..., Sandbox], monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """Serve a sandbox that the environment names."""
    served = sandbox()
    for name, value in environment(served).items():
        monkeypatch.setenv(name, value)
    return served


@pytest.fixture
def bare(_own_home: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    """Give a shell without the extension. What it leaves open is closed, and nothing of a job goes on."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    config = Config({"HistoryManager": {"enabled": False}, "IPCompleter": {"use_jedi": False}})
    ip = InteractiveShell.instance(config=config)
    yield Shell(ip)
    for value in [*ip.user_ns.values(), *ip.user_ns["Out"].values()]:
        if isinstance(value, mpnb.ExportJob):
            value.cancel()
            value.outcome(30).close()
        elif isinstance(value, mpnb.ExportResult):
            value.close()
    ip.reset(new_session=False)
    InteractiveShell.clear_instance()


@pytest.fixture
def shell(bare: Shell) -> Shell:
    """Give a shell with the extension."""
    bare("%load_ext mpnb")
    return bare


@pytest.fixture
def kernels(_own_home: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Give an environment whose kernels keep everything in the test's folder, and make it that of this process."""
    for name, text in _kernels.environment(tmp_path / "kernel").items():
        monkeypatch.setenv(name, text)
    return dict(os.environ)


class InKernel:
    """
    Run cells in a kernel of their own, as nbclient and Run All do.

    Attributes:
        outputs: of each cell of the last run, also where it raised.
    """

    outputs: list[list[dict[str, Any]]]

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, *cells: str, allow_errors: bool = False) -> list[list[dict[str, Any]]]:
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        where = {"metadata": {"path": str(self._folder)}}
        try:
            NotebookClient(
                notebook, kernel_name="python3", timeout=60, allow_errors=allow_errors, resources=where
            ).execute()
        finally:
            self.outputs = [cell.outputs for cell in notebook.cells]
        return self.outputs


@pytest.fixture
def in_kernel(mp: Sandbox, kernels: dict[str, str], tmp_path: Path) -> InKernel:
    """Run cells where the environment names the sandbox."""
    return InKernel(tmp_path)


def printed(outputs: list[dict[str, Any]], name: str = "stdout") -> str:
    """Join what a cell printed."""
    return "".join(each["text"] for each in outputs if each["output_type"] == "stream" and each["name"] == name)


def value(outputs: list[dict[str, Any]]) -> str:
    """Give the value that a cell displayed, as text."""
    [text] = [each["data"]["text/plain"] for each in outputs if each["output_type"] == "execute_result"]
    return str(text)
