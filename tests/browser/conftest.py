"""A real JupyterLab in a real browser, found or installed before the first test; without one, these tests fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest
from playwright.sync_api import Browser, BrowserContext, Playwright, expect, sync_playwright

from tests.browser._finder import FOLDER, Found, NoBrowser, find, launch
from tests.browser._lab import Lab, Notebook, jupyterlab

WAIT_MS = 30_000
expect.set_options(timeout=WAIT_MS)
BROWSER = pytest.StashKey[Found | NoBrowser]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Find a browser once, and before the first test: to install one may take longer than a test may."""
    if session.config.option.collectonly or not any("found" in getattr(i, "fixturenames", ()) for i in session.items):
        return
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")

    def say(text: str) -> None:
        if reporter:
            reporter.write_line(f"browser: {text}")

    try:
        session.config.stash[BROWSER] = found = find(FOLDER, lambda text: say(f"{text} …"))
        say(str(found))
    except NoBrowser as error:
        session.config.stash[BROWSER] = error


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
def found(pytestconfig: pytest.Config) -> Found:
    """Return the browser that was found."""
    if isinstance(found := pytestconfig.stash[BROWSER], NoBrowser):
        pytest.fail(str(found), pytrace=False)
    return found


@pytest.fixture(scope="package")
def browser(found: Found, playwright: Playwright) -> Iterator[Browser]:
    """Run it."""
    running = launch(playwright, found.path)
    yield running
    running.close()


@pytest.fixture(scope="package")
def context(browser: Browser) -> Iterator[BrowserContext]:
    """Keep one profile for all notebooks, so that JupyterLab comes out of its cache."""
    profile = browser.new_context(viewport={"width": 1280, "height": 1000})
    yield profile
    profile.close()


@pytest.fixture
def notebook(lab: Lab, context: BrowserContext, request: pytest.FixtureRequest) -> Iterator[Callable[..., Notebook]]:
    """Open a notebook with these cells in JupyterLab or Notebook 7; in the end, no error is in its page's console."""
    opened: list[Notebook] = []

    def make(cells: Sequence[str], host: str = "lab") -> Notebook:
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        folder = lab.root / f"{request.node.name}-{len(opened)}"
        folder.mkdir()
        book = Notebook(lab, page, folder / "test.ipynb")
        book.listen()
        book.write(cells)
        book.open(host=host)
        opened.append(book)
        return book

    yield make
    for book in opened:
        book.page.close()
    lab.end_kernels()
    # Notebook 7 lacks plugins that JupyterLab has, and says so.
    errors = [error for book in opened for error in book.errors if "/static/notebook/notebook_core" not in error]
    assert errors == []
