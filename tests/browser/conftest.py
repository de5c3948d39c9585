"""A real JupyterLab in a real Chromium. A browser that is missing is a failure."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Playwright, expect, sync_playwright

from tests.browser._lab import Lab, Notebook, jupyterlab

CHROMIUM = os.environ.get("MPNB_CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
WAIT_MS = 30_000
expect.set_options(timeout=WAIT_MS)


@pytest.fixture(scope="package")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Run one JupyterLab for all tests."""
    with jupyterlab(tmp_path_factory.mktemp("lab")) as running:
        yield running


@pytest.fixture(scope="package")
def playwright() -> Iterator[Playwright]:
    """Run Playwright's driver, no longer than these tests: while it runs, this thread has an event loop already."""
    with sync_playwright() as driver:
        yield driver


@pytest.fixture(scope="package")
def browser(playwright: Playwright) -> Iterator[Browser]:
    """Run Debian's Chromium."""
    assert Path(CHROMIUM).exists(), "these tests want Chromium: apt-get install chromium, or name one in MPNB_CHROMIUM"
    chromium = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=ARGUMENTS)
    yield chromium
    chromium.close()


@pytest.fixture(scope="package")
def context(browser: Browser) -> Iterator[BrowserContext]:
    """Keep one profile for all notebooks, so that JupyterLab comes out of its cache."""
    profile = browser.new_context(viewport={"width": 1280, "height": 1000})
    yield profile
    profile.close()


@pytest.fixture
def notebook(lab: Lab, context: BrowserContext, request: pytest.FixtureRequest) -> Iterator[Callable[..., Notebook]]:
    """Open a notebook with the given cells; at the end, its page's console has no errors, and its kernel goes."""
    opened: list[Notebook] = []

    def make(cells: Sequence[str]) -> Notebook:
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        folder = lab.root / f"{request.node.name}-{len(opened)}"
        folder.mkdir()
        book = Notebook(lab, page, folder / "test.ipynb")
        book.listen()
        book.write(cells)
        book.open()
        opened.append(book)
        return book

    yield make
    for book in opened:
        book.page.close()
    lab.end_kernels()
    assert [error for book in opened for error in book.errors] == []
