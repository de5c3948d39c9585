"""marimo on loopback, with one notebook in it."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from mpnb import Credentials
from tests._kernels import environment

START_SECONDS = 60


@contextlib.contextmanager
def marimo(root: Path, cells: Sequence[str], credentials: Credentials) -> Iterator[str]:
    """Run a notebook of these cells, none of which shares a name with another, and give its address."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    body = "".join(f"@app.cell\ndef _():\n{_indented(cell)}\n    return\n\n" for cell in cells)
    notebook = root / "notebook.py"
    notebook.write_text(f"import marimo\n\napp = marimo.App()\n\n{body}")
    # "run" shows the outputs alone, and runs the cells by itself.
    command = [
        *(sys.executable, "-m", "marimo", "-q", "run", str(notebook), "--headless", "--no-token"),
        *("--host", "127.0.0.1", "--port", str(port)),
    ]  # fmt: skip
    env = environment(root / ".home") | {
        "MP_USERNAME": credentials.username, "MP_SECRET": credentials.secret, "MP_PROJECT_ID": credentials.project_id,
        "MP_API_BASE_URL": credentials.base_url or "", "MARIMO_SKIP_UPDATE_CHECK": "1",
    }  # fmt: skip
    log = root / "marimo.log"
    with log.open("w") as out:
        process = subprocess.Popen(command, cwd=root, env=env, stdout=out, stderr=subprocess.STDOUT)
        try:
            url = f"http://127.0.0.1:{port}"
            end = time.monotonic() + START_SECONDS
            while True:
                assert process.poll() is None, log.read_text()[-2000:]
                with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=5):
                    break
                assert time.monotonic() < end, log.read_text()[-2000:]
                time.sleep(0.2)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)


def _indented(cell: str) -> str:
    return "".join(f"    {line}\n" for line in cell.splitlines())
