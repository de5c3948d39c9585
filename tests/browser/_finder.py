"""
A browser for the tests: one that is there, else one that is installed, and in either case one that starts.

``python -m tests.browser._finder PATH`` says whether a browser starts, which is how it is tried: in a process of its
own, that can be ended if it hangs.
"""

from __future__ import annotations

import os
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import filelock
import platformdirs
import playwright
from playwright.sync_api import Browser, Error, Playwright, sync_playwright

from tests._installing import INSTALL_SECONDS, NotInstalled, apt_get, run

ROOT = Path(__file__).parents[2]
# For all checkouts of a user, as Playwright's own are.
FOLDER = platformdirs.user_cache_path("mpnb-tests") / "browser"
VARIABLE = "MPNB_CHROMIUM"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "msedge", "microsoft-edge")
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
START_SECONDS = 30
LOCK_SECONDS = 4 * INSTALL_SECONDS
# A Chromium for Linux on x86-64, its files compressed by brotli, which Playwright's node has and Python's library not.
NPM_PACKAGE = "@sparticuz/chromium@147"
NPM_FILES = ("chromium", "al2023.tar", "fonts.tar")
UNPACK = """
const { createReadStream, createWriteStream } = require("fs"), { pipeline } = require("stream/promises");
const { createBrotliDecompress } = require("zlib");
Promise.all(process.argv.slice(1).map(name =>
    pipeline(createReadStream(`package/bin/${name}.br`), createBrotliDecompress(), createWriteStream(`made/${name}`))));
"""
# The libraries and fonts that it brings, for a machine that lacks them.
START_SCRIPT = """#!/bin/sh
here=${0%/*}
export LD_LIBRARY_PATH="$here/al2023/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" FONTCONFIG_FILE="$here/fonts.conf"
exec "$here/chromium" "$@"
"""
FONTS = """<?xml version="1.0"?>
<fontconfig>
<include ignore_missing="yes">/etc/fonts/fonts.conf</include>
<dir prefix="relative">fonts</dir>
<cachedir prefix="xdg">fontconfig</cachedir>
</fontconfig>
"""


class NoBrowser(Exception):
    """No browser was found or installed; the message is one line that says what to do."""


@dataclass(frozen=True)
class Found:
    """A browser that starts: where it is (None: where Playwright keeps its own) and what was passed over for it."""

    path: Path | None
    passed_over: tuple[str, ...]

    def __str__(self) -> str:
        """Name it, and every reason why it is no other one."""
        return "; ".join((str(self.path or "Playwright's own Chromium"), *self.passed_over))


def launch(driver: Playwright, path: Path | None) -> Browser:
    """Start a browser without a window; without a path Playwright's own, the full one or that without windows."""
    full = Path(driver.chromium.executable_path)
    chosen = path or (full if full.exists() else None)
    return driver.chromium.launch(executable_path=chosen, headless=True, args=ARGUMENTS, timeout=START_SECONDS * 1000)


def find(folder: Path, say: Callable[[str], None] = lambda text: None) -> Found:
    """
    Return the first browser that starts; install one if there is none.

    Args:
        folder: Where a browser from npm is kept for the next time. Beside it lies a lock: of processes that look at the
            same time, one installs and the others find what it installed.
        say: Is told what is about to be installed, since that takes time.

    Raises:
        NoBrowser: With one line that says what was tried and what to do.
    """
    ways: dict[str, Callable[[], Iterator[Path | None]]] = {
        VARIABLE: _named,
        "the path": _on_path,
        "Playwright": lambda: iter([None]),
        "npm, before": lambda: _kept(folder),
        "playwright install": lambda: _by_playwright(say),
        "apt-get": lambda: _by_apt(say),
        "npm": lambda: _from_npm(folder, say),
    }
    passed_over: list[str] = []
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(f"{folder}.lock", timeout=LOCK_SECONDS):
            for name, way in ways.items():
                try:
                    for path in way():
                        if reason := _why_not(path):
                            passed_over.append(f"{path or name} does not start: {reason}")
                        else:
                            return Found(path, tuple(passed_over))
                except (NotInstalled, OSError) as error:
                    passed_over.append(f"{name}: {error}")
    except filelock.Timeout:
        passed_over.append(f"another process held {folder}.lock for {LOCK_SECONDS} s")
    raise NoBrowser(
        f"the tests in a browser need Chromium, Chrome or Edge: install one, or set {VARIABLE} to the path of one"
        f" (tried: {'; '.join(passed_over)})"
    )


# --- the ways, in their order ----------------------------------------------------------------------------------------


def _named() -> Iterator[Path]:
    if path := os.environ.get(VARIABLE):
        yield Path(path)


def _on_path() -> Iterator[Path]:
    found = [path for name in NAMES if (path := shutil.which(name))]
    yield from map(Path, found)
    if not found:
        raise NotInstalled(f"none of {', '.join(NAMES)}")


def _kept(folder: Path) -> Iterator[Path]:
    if (folder / "start").exists():
        yield folder / "start"


def _by_playwright(say: Callable[[str], None]) -> Iterator[None]:
    say("playwright install chromium-headless-shell")
    run([sys.executable, "-m", "playwright", "install", "chromium-headless-shell"], INSTALL_SECONDS)
    yield None


def _by_apt(say: Callable[[str], None]) -> Iterator[Path]:
    apt_get("chromium", say=say)
    yield from _on_path()


def _from_npm(folder: Path, say: Callable[[str], None]) -> Iterator[Path]:
    if sys.platform != "linux" or not (npm := shutil.which("npm")):
        raise NotInstalled("needs npm, on Linux")
    say(f"npm pack {NPM_PACKAGE}")
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        new = Path(scratch)
        run([npm, "pack", "--silent", NPM_PACKAGE], INSTALL_SECONDS, new)
        _extract(next(new.glob("*.tgz"), new / "package.tgz"), new)
        made = new / "made"
        made.mkdir()
        node = Path(playwright.__file__).parent / "driver" / "node"
        run([str(node), "-e", UNPACK, *NPM_FILES], INSTALL_SECONDS, new)
        _extract(made / "al2023.tar", made / "al2023")
        _extract(made / "fonts.tar", made)
        (made / "fonts.conf").write_text(FONTS)
        (made / "start").write_text(START_SCRIPT)
        for program in ("chromium", "start"):
            (made / program).chmod(0o755)
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)  # last: a folder of this name is whole
    yield folder / "start"


# --- programs that end in time ---------------------------------------------------------------------------------------


def _why_not(path: Path | None) -> str | None:
    """Return why a browser does not start, or None if it does and shows a page."""
    try:
        run([sys.executable, "-m", "tests.browser._finder", *([str(path)] if path else [])], 2 * START_SECONDS, ROOT)
    except NotInstalled as reason:
        return str(reason)
    return None


def _extract(archive: Path, folder: Path) -> None:
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
    except (OSError, tarfile.TarError) as error:
        raise NotInstalled(f"{NPM_PACKAGE} cannot be unpacked: {error}") from None


def main(path: Path | None) -> None:
    """Start a browser and show a page in it, or exit with one line."""
    with sync_playwright() as driver:
        try:
            browser = launch(driver, path)
        except Error as error:
            sys.exit(error.message.splitlines()[0])
        page = browser.new_page()
        page.set_content("<p>ready</p>")
        assert page.inner_text("p") == "ready"
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else None)
