"""What tests need and a machine may lack, installed where that is allowed, by programs that end in time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import filelock
import psutil

# Downloads of 60 to 200 MB, over a slow line.
INSTALL_SECONDS = 300


class NotInstalled(Exception):
    """Something is not here and did not come; the message is one line that says why."""


def run(command: list[str], seconds: float, folder: Path | None = None, **environment: str) -> None:
    """
    Run a program, and leave no process of it behind.

    Raises:
        NotInstalled: It failed, or took longer; with its first line about an error, else its last.
    """
    # Not a pipe: a grandchild that goes on would hold it open.
    with tempfile.TemporaryFile("w+", errors="replace") as told:
        process = psutil.Popen(
            command, cwd=folder, env={**os.environ, **environment}, stdin=subprocess.DEVNULL, stdout=told, stderr=told
        )
        try:
            status = process.wait(seconds)
        except BaseException as error:
            everyone = [*process.children(recursive=True), process]
            for one in everyone:
                one.kill()
            psutil.wait_procs(everyone, 10)
            if isinstance(error, psutil.TimeoutExpired):
                raise NotInstalled(f"took longer than {seconds:.0f} s") from None
            raise
        told.seek(0)
        lines = [line.strip() for line in told if line.strip()]
    if status:
        errors = [line for line in lines if "error" in line.lower() or line.startswith("E: ")]
        raise NotInstalled([*errors, *lines[-1:], f"status {status}"][0][:200])


def apt_get(*packages: str, say: Callable[[str], None] = lambda text: None) -> None:
    """
    Install packages of Debian's or Ubuntu's, as root, and say so before, since it takes time.

    Processes that want some at the same time take turns: apt-get itself would fail.

    Raises:
        NotInstalled: This is no such machine, the user is not root, or apt-get says no.
    """
    if sys.platform != "linux" or os.geteuid() != 0 or not (program := shutil.which("apt-get")):
        raise NotInstalled("needs root, on Debian or Ubuntu")
    say(f"apt-get install {' '.join(packages)}")
    options = ["-qq", "-y", "--no-install-recommends", f"-oDPkg::Lock::Timeout={INSTALL_SECONDS // 2}"]
    with filelock.FileLock(Path(tempfile.gettempdir()) / "mpnb-apt-get.lock", timeout=2 * INSTALL_SECONDS):
        run([program, "update", "-qq"], INSTALL_SECONDS)
        run([program, "install", *options, *packages], INSTALL_SECONDS, DEBIAN_FRONTEND="noninteractive")
