"""Accessibility of the panel and of what stays of it, by axe-core, and that nothing leaves this machine."""

from __future__ import annotations

from collections.abc import Callable

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from mpnb.sandbox import Fault, serve
from tests.browser._lab import Notebook
from tests.browser.test_panel import QUOTA, button, known

THEMES = (("JupyterLab Dark", "#111"), ("JupyterLab Light", "white"))


def violations(book: Notebook, number: int) -> list[str]:
    """Say what axe-core finds wrong with the outputs of a cell, in both of JupyterLab's themes."""
    found = []
    for theme, background in THEMES:
        book.page.evaluate(
            "name => { void window.jupyterapp.commands.execute('apputils:change-theme', {theme: name}); }", theme
        )
        book.page.wait_for_function(
            "wanted => getComputedStyle(document.body).getPropertyValue('--jp-layout-color0').startsWith(wanted)",
            arg=background,
        )
        result = Axe().run(book.page, context=f".jp-Notebook .jp-CodeCell:nth-child({number + 1}) .jp-Cell-outputArea")
        found += [f"{theme}: {each['id']}: {each['nodes'][0]['html'][:200]}" for each in result.response["violations"]]
    return found


def test_no_violation_in_any_state(notebook: Callable[..., Notebook]) -> None:
    """The form with an error and suggestions, an export that runs, one that failed, a picked cell, and the end."""
    faults = [Fault("status", day=day, status=400) for day in ("2026-01-03", "2026-01-20")]
    with serve(events_per_day=20, faults=faults, latency=0.1) as mp:
        job = f'job = mpnb.start("2026-01-01", "2026-01-02", {QUOTA})\njob.result();'
        options = f'from_date="2026-01-01", to_date="2026-02-09", chunk_days=1, workers=2, {QUOTA}'
        book = notebook([known(mp), job, f"panel = mpnb.panel({options})\npanel", "panel.result", "job"])
        requests: list[str] = []
        book.page.on("request", lambda request: requests.append(request.url))
        for number in range(3):
            book.run(number)
        output, found = book.output(2), {}
        expect(button(output, "Start")).to_be_enabled()
        output.get_by_label("Workers").fill("0")
        expect(output.get_by_role("alert")).to_contain_text("from 1 to 100")
        found["an error"] = violations(book, 2)
        output.get_by_label("Workers").fill("2")
        output.get_by_label("Events", exact=True).focus()
        expect(output.get_by_role("listbox").get_by_role("option").first).to_be_visible()
        found["suggestions"] = violations(book, 2)
        button(output, "Start").click()
        expect(output.locator(".mpnb-phase")).to_have_text("Exporting")
        found["running"] = violations(book, 2)
        expect(button(output, "Retry failed (2)")).to_be_enabled()
        output.locator(".mpnb-day").first.click()
        expect(button(output, "Retry this batch")).to_be_visible()
        found["failed"] = violations(book, 2)
        button(output, "Retry failed").click()
        expect(output.locator(".mpnb-phase")).to_have_text("Done")
        found["done"] = violations(book, 2)
        button(output, "Close").click()
        book.run(3)
        book.run(4)
        for number in (2, 3, 4):
            found[f"what stays, {number}"] = violations(book, number)
        assert {state: each for state, each in found.items() if each} == {}
        assert [url for url in requests if "//127.0.0.1" not in url and not url.startswith(("data:", "blob:"))] == []
