"""JupyterLab on loopback, and one notebook in it as a person sees it."""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
from playwright.sync_api import Locator, Page, expect

from tests._kernels import environment

START_SECONDS = 60
PLUGIN = "@jupyter-widgets/jupyterlab-manager:plugin"
NEEDED = ("anywidget", "@jupyter-widgets/jupyterlab-manager", "@jupyter-notebook/lab-extension")
IDLE = "() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"


@dataclass(frozen=True)
class Lab:
    """Hold a running JupyterLab."""

    root: Path
    url: str
    token: str

    def ask(self, method: str, path: str) -> Any:
        """Call the server's REST API."""
        request = urllib.request.Request(
            f"{self.url}/api/{path}", method=method, headers={"Authorization": f"token {self.token}"}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            body = answer.read()
        return json.loads(body) if body else None

    def end_kernels(self) -> None:
        """Shut down every kernel."""
        for session in self.ask("GET", "sessions"):
            self.ask("DELETE", f"sessions/{session['id']}")


@contextlib.contextmanager
def jupyterlab(root: Path) -> Iterator[Lab]:
    """Run JupyterLab with all that it keeps inside ``root``, and widgets' state saved with the notebook."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    token, home = secrets.token_urlsafe(16), root / ".home"
    overrides = home / "app" / "overrides.json"
    overrides.parent.mkdir(parents=True)
    quiet = {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True}
    overrides.write_text(
        json.dumps({"@jupyterlab/apputils-extension:notification": quiet, PLUGIN: {"saveState": True}})
    )
    # Whatever else is installed beside JupyterLab is not what is tested here.
    extensions = Path(sys.prefix) / "share" / "jupyter" / "labextensions"
    found = {str(file.parent.relative_to(extensions)) for file in extensions.glob("**/package.json")}
    switches = home / "config" / "labconfig" / "page_config.json"
    switches.parent.mkdir(parents=True)
    switches.write_text(json.dumps({"disabledExtensions": dict.fromkeys(found - set(NEEDED), True)}))
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}"),
        *("--ServerApp.port_retries=0", f"--ServerApp.root_dir={root}"),
        f"--LabServerApp.app_settings_dir={overrides.parent}",
        *("--LabApp.expose_app_in_browser=True", "--LabApp.news_url=None", "--LabApp.extension_manager=readonly"),
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        # Notebook 7 is served beside JupyterLab.
        "--JupyterNotebookApp.expose_app_in_browser=True",
    ]  # fmt: skip
    log = root / ".home" / "jupyter.log"
    with log.open("w") as out:
        # The token goes by the environment: a command line is for everyone to see.
        env = environment(home) | {"JUPYTER_TOKEN": token}
        process = subprocess.Popen(command, cwd=root, env=env, stdout=out, stderr=subprocess.STDOUT)
        lab = Lab(root, f"http://127.0.0.1:{port}", token)
        try:
            _wait_for(lab, process, log)
            yield lab
        finally:
            with contextlib.suppress(OSError):
                lab.end_kernels()
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)


def _wait_for(lab: Lab, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while True:
        assert process.poll() is None, log.read_text()[-2000:]
        with contextlib.suppress(OSError):
            lab.ask("GET", "status")
            return
        assert time.monotonic() < end, log.read_text()[-2000:]
        time.sleep(0.2)


@dataclass
class Notebook:
    """Hold a notebook in a page of its own."""

    lab: Lab
    page: Page
    path: Path
    errors: list[str] = field(default_factory=list)

    def listen(self) -> None:
        """Collect what the browser's console says is wrong."""
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(error.stack or str(error)))

    def write(self, cells: Sequence[str]) -> None:
        """Make the file."""
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        book.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(book, self.path)

    def open(self, *, kernel: bool = True, host: str = "lab") -> None:
        """Open the file in the page and wait until it is there, and its kernel with it."""
        place = self.path.relative_to(self.lab.root)
        where = f"lab/workspaces/w{secrets.token_hex(4)}/tree" if host == "lab" else "notebooks"
        self.page.goto(f"{self.lab.url}/{where}/{place}?token={self.lab.token}&reset")
        self.cells.first.wait_for()
        if kernel:
            self.page.wait_for_function(IDLE)

    @property
    def cells(self) -> Locator:
        """Give the code cells."""
        return self.page.locator(".jp-Notebook .jp-CodeCell")

    def output(self, number: int) -> Locator:
        """Give the output area of a cell, counted from 0."""
        return self.cells.nth(number).locator(".jp-Cell-outputArea")

    def command(self, name: str) -> None:
        """Run a command of JupyterLab's. Its promise is not awaited: a dialog would hold it for ever."""
        self.page.evaluate("name => { void window.jupyterapp.commands.execute(name); }", name)

    def select(self, number: int) -> None:
        """Make a cell the active one."""
        self.page.evaluate("n => { window.jupyterapp.shell.currentWidget.content.activeCellIndex = n; }", number)

    def run(self, number: int, *, wait: bool = True) -> None:
        """Run a cell, and wait until it has run."""
        self.select(number)
        self.command("notebook:run-cell")
        if wait:
            expect(self.cells.nth(number).locator(".jp-InputPrompt")).to_have_text("[" + str(self._next()) + "]:")

    def _next(self) -> int:
        self._count = getattr(self, "_count", 0) + 1
        return self._count

    def save(self) -> str:
        """Save, and give what the file then holds."""
        # The server writes the file in place: it is whole only when the answer is there.
        self.page.evaluate(
            "() => { window.saved = false;"
            " void window.jupyterapp.shell.currentWidget.context.save().then(() => { window.saved = true; }); }"
        )
        self.page.wait_for_function("window.saved")
        return self.path.read_text()

    def restart_kernel(self) -> None:
        """Restart the kernel, without the dialog that asks whether one is sure."""
        self.page.evaluate(
            "() => { window.restarted = false;"
            " void window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()"
            ".then(() => { window.restarted = true; }); }"
        )
        self.page.wait_for_function("window.restarted")
        self.page.wait_for_function(IDLE)
        self._count = 0
