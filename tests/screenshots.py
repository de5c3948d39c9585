"""
Make the pictures of the README, of made-up events, in a real JupyterLab: ``python -m tests.screenshots``.

They go to ``notebooks/``, beside the notebooks that people open first.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

from mpnb.sandbox import Fault, serve
from tests.browser._finder import FOLDER, find, launch
from tests.browser._lab import Notebook, jupyterlab
from tests.browser.test_panel import QUOTA, known

TO = Path(__file__).parents[1] / "notebooks"
SIZE = {"width": 1240, "height": 1100}
WAIT_MS = 60_000


def main() -> None:
    """Make the calendar and the explorer."""
    expect.set_options(timeout=WAIT_MS)
    faults = [Fault("status", day="2026-01-20", status=400, times=None)]
    with (
        tempfile.TemporaryDirectory() as home,
        serve(events_per_day=400, faults=faults) as mp,
        jupyterlab(Path(home)) as lab,
        sync_playwright() as driver,
    ):
        browser = launch(driver, find(FOLDER, print).path)
        page = browser.new_page(viewport=SIZE, device_scale_factor=2)
        page.set_default_timeout(WAIT_MS)
        book = Notebook(lab, page, lab.root / "pictures.ipynb")
        export = f'result = mpnb.export("2026-01-01", "2026-03-31", chunk_days=3, {QUOTA});'
        book.write([known(mp), export, "result.calendar()", 'mpnb.explore(result, "Purchase")'])
        book.open()
        for number in range(4):
            book.run(number)
        book.output(2).locator(".mpnb-pic").screenshot(path=TO / "calendar.png")
        explorer = book.output(3)
        explorer.get_by_label("Report", exact=True).select_option("funnel")
        explorer.get_by_role("combobox", name="Event").fill("Search")
        page.keyboard.press("Enter")
        explorer.get_by_role("combobox", name="Then").fill("Purchase")
        page.keyboard.press("Enter")
        explorer.get_by_label("Split by", exact=True).select_option("$os")
        expect(explorer.locator(".mpnb-figure")).to_contain_text("Funnel: Search → Purchase by $os")
        explorer.locator(".mpnb-explorer").screenshot(path=TO / "explorer.png")
        browser.close()


if __name__ == "__main__":
    main()
