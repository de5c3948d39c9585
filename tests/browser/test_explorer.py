"""Pictures and the explorer, as a person uses them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbconvert import HTMLExporter
from playwright.sync_api import Browser, Locator, expect

from mpnb.sandbox import Fault, serve
from tests.browser._lab import Notebook
from tests.browser._marimo import marimo
from tests.browser.test_access import violations
from tests.browser.test_panel import QUOTA, button, known

Open = Callable[..., Notebook]
EXPORTED = f'result = mpnb.export("2026-01-01", "2026-01-20", chunk_days=5, {QUOTA});'


def title(output: Locator) -> Locator:
    """Find what the picture of the explorer is of."""
    return output.locator(".mpnb-figure .mpnb-pic > div").first


# Of each report: what shows that it is there, what an arrow reads, and where Tab stops besides.
REPORTS = {
    "Lines": (".mpnb-svg circle", "events, ", ["Measure", "Split by", "Each"]),
    "Bars": (".mpnb-svg rect", "1 Jan 2026: ", ["Split by", "Each"]),
    "Table": ("details[open]", "", ["Measure", "Split by", "Each"]),
    "Funnel": ("[aria-label^='Funnel: Purchase']", "Purchase: ", ["Then", "Split by"]),
    "Retention": ("[aria-label^='Retention: Purchase']", "average, 0: ", ["Then", "Split by", "Each"]),
    "Flows": ("[aria-label^='Flows after Purchase']", "start, Purchase: ", []),
    "Hours of the week": ("[aria-label*='by hour of the week']", "Mon, 0: ", []),
}
FOCUSED = "() => { const a = document.activeElement; return a.ariaLabel ?? a.labels?.[0]?.textContent ?? ''; }"


def use_every_report(book: Notebook, output: Locator) -> None:
    """Choose one after the other by arrow, go on by Tab to the picture, and let it be read: no other key."""
    keys, figure = book.page.keyboard, output.locator(".mpnb-figure")
    for place, (name, (there, read, besides)) in enumerate(REPORTS.items()):
        report = output.get_by_label("Report", exact=True)
        report.focus()
        keys.press("ArrowDown" if place else "Home")
        expect(report.locator("option:checked")).to_have_text(name)
        expect(figure.locator(there).first).to_be_attached()
        stops: list[str] = []
        for _ in range(24):  # a date has several
            keys.press("Tab")
            focused = book.page.evaluate(FOCUSED)
            stops += [focused] if focused not in stops else []
            if focused.startswith("Picture: "):
                break
        assert stops[:-1] == ["Event", *besides, "Only where", "From", "To"], name
        if read:
            keys.press("ArrowRight")
            expect(output.get_by_role("status")).to_contain_text(read)
        else:
            expect(figure.get_by_role("table")).to_be_visible()


@pytest.mark.parametrize("host", ["lab", "notebook"])
def test_with_the_keyboard_alone(notebook: Open, host: str) -> None:
    """An event by its first letters, then every report; arrows read the picture; no key reaches the cells."""
    with serve(events_per_day=60) as mp:
        book = notebook([known(mp), EXPORTED, "mpnb.explore(result)", "result.calendar()"], host)
        requests: list[str] = []
        book.page.on("request", lambda request: requests.append(request.url))
        for number in range(4):
            book.run(number)
        output, keys = book.output(2), book.page.keyboard
        expect(title(output)).to_have_text("Any event, each day")
        output.get_by_role("combobox", name="Event").focus()
        keys.type("purc")
        keys.press("ArrowDown")
        keys.press("Enter")
        expect(title(output)).to_have_text("Purchase, each day")
        output.get_by_label("Report", exact=True).focus()
        keys.type("Fu")
        expect(title(output)).to_contain_text("Funnel: Purchase →")
        keys.press("Home")
        expect(title(output)).to_have_text("Purchase, each day")
        figure = output.get_by_role("group", name="Picture: arrow keys read its values")
        figure.focus()
        keys.press("ArrowRight")
        keys.press("ArrowRight")
        expect(output.get_by_role("status")).to_contain_text("events, 2 Jan 2026: ")
        use_every_report(book, output)
        output.get_by_label("Report", exact=True).focus()
        keys.press("Home")
        cells = book.cells.count()
        stops = [output.get_by_label(name, exact=True) for name in ("Report", "Split by", "Each", "From", "To")]
        for stop in [*stops, output.get_by_role("combobox", name="Event"), figure, figure.locator("summary")]:
            stop.focus()
            for key in ("d", "d", "Escape", "ArrowDown", "ArrowUp", "a", "x"):
                keys.press(key)
        calendar = book.output(3).locator("summary")
        calendar.focus()
        for key in ("d", "d", "ArrowDown", "Enter"):
            keys.press(key)
        expect(book.output(3).get_by_role("table")).to_be_visible()
        expect(book.cells).to_have_count(cells)
        button(output, "Copy as code").press("Enter")
        expect(output.locator(".mpnb-code pre")).to_contain_text("mpnb.analysis.segmentation(events")
        assert [url for url in requests if "//127.0.0.1" not in url and not url.startswith(("data:", "blob:"))] == []


def test_a_saved_notebook_keeps_the_last_picture(notebook: Open, browser: Browser) -> None:
    """What was chosen last shows without a kernel, and on a page that was made of the notebook, with the calendar."""
    with serve(events_per_day=60) as mp:
        cells = [known(mp), EXPORTED, "mpnb.explore(result)", "result.calendar()"]
        book = notebook([*cells, "mpnb.analysis.sessions(result.events)"])
        for number in range(5):
            book.run(number)
        output = book.output(2)
        expect(title(output)).to_have_text("Any event, each day")
        output.get_by_label("Report", exact=True).select_option("hours")
        expect(title(output)).to_have_text("Any event, by hour of the week")
        expect(output.locator(".mpnb-explored")).to_be_hidden()  # one of the two is enough
        saved = book.save()
    page, _ = HTMLExporter().from_notebook_node(nbformat.reads(saved, as_version=4))
    book.lab.end_kernels()
    book.page.goto("about:blank")
    book.open(kernel=False)
    for number, shown in ((2, "Any event, by hour of the week"), (3, "Mixpanel events, "), (4, "Length of sessions")):
        picture = book.output(number).get_by_role("img", name=shown)
        expect(picture).to_have_count(1)
        expect(picture).to_be_visible()
    html = book.path.with_suffix(".html")
    html.write_text(page)
    tab = browser.new_page()
    tab.goto(html.as_uri())
    expect(tab.locator(".mpnb-pic svg[role=img]:visible")).to_have_count(3)
    tab.close()


def test_no_violation_in_any_picture(notebook: Open) -> None:
    """axe-core finds nothing wrong with a calendar, a check, a report and the explorer, in light and dark."""
    fault = Fault("status", day="2026-01-03", status=400, times=None)
    with serve(events_per_day=60, faults=[fault]) as mp:
        reports = 'mpnb.analysis.retention(result.events, "Search", unit="week", zone="UTC")'
        book = notebook([known(mp), EXPORTED, "mpnb.explore(result)", "result.check()", reports])
        for number in range(5):
            book.run(number)
        output, found = book.output(2), {}
        expect(title(output)).to_have_text("Any event, each day")
        found["calendar"], found["retention"] = violations(book, 3), violations(book, 4)
        for report in ("table", "funnel", "flows"):
            output.get_by_label("Report", exact=True).select_option(report)
            expect(output.locator(".mpnb-explorer:not([data-busy])")).to_be_visible()
            found[report] = violations(book, 2)
        output.get_by_role("combobox", name="Event").focus()
        expect(output.get_by_role("listbox").get_by_role("option").first).to_be_visible()
        found["suggestions"] = violations(book, 2)
        assert {state: each for state, each in found.items() if each} == {}


def test_no_violation_while_it_counts_offers_columns_or_fails(notebook: Open) -> None:
    """axe-core finds nothing wrong with what turns, with the offer of columns and with an error, in light and dark."""
    waits = "import threading; gate = threading.Event(); explorer._worker.submit(gate.wait, 60);"
    offers = "from mpnb._notebook.panel import _asking; _asking.WORTH_TYPING = 1;"
    with serve(events_per_day=60) as mp:
        cells = [known(mp), EXPORTED, "explorer = mpnb.explore(result); explorer", waits, "gate.set();", offers]
        book = notebook([*cells, 'result.con.execute("DROP TABLE events").fetchall();'])
        for number in range(4):
            book.run(number)
        output, found = book.output(2), {}
        shown = output.locator(".mpnb-explorer")
        expect(title(output)).to_have_text("Any event, each day")
        output.get_by_label("Report", exact=True).select_option("funnel")
        expect(output.get_by_role("status")).to_have_text("Counting …")
        found["busy"] = violations(book, 2)
        book.run(4)
        expect(title(output)).to_contain_text("Funnel: ")
        expect(shown).not_to_have_attribute("data-busy", "yes")
        book.run(5)
        output.get_by_label("Split by", exact=True).select_option("$os")
        offer = output.get_by_role("button", name="Make columns of")
        expect(offer).to_be_visible()
        found["offer"] = violations(book, 2)
        size = book.page.viewport_size
        assert size
        book.page.set_viewport_size({"width": 620, "height": size["height"]})
        assert offer.evaluate("button => button.scrollHeight <= button.clientHeight")  # its words are all in it
        book.page.set_viewport_size(size)
        book.run(6)
        output.get_by_label("Split by", exact=True).select_option("")
        expect(output.get_by_role("alert")).to_contain_text("table 'events' is gone")
        expect(offer).to_be_hidden()
        found["error"] = violations(book, 2)
        assert {state: each for state, each in found.items() if each} == {}


def test_dragging_on_the_strip_chooses_days(notebook: Open) -> None:
    """With the mouse alone: the two fields have the days, and the picture too; a point is read where it is."""
    with serve(events_per_day=60) as mp:
        book = notebook([known(mp), EXPORTED, "mpnb.explore(result)"])
        for number in range(3):
            book.run(number)
        output, mouse = book.output(2), book.page.mouse
        expect(title(output)).to_have_text("Any event, each day")
        strip = output.locator(".mpnb-strip")
        strip.scroll_into_view_if_needed()
        box = strip.bounding_box()
        assert box
        for x, act in ((0.27, mouse.down), (0.48, mouse.up)):
            mouse.move(box["x"] + box["width"] * x, box["y"] + box["height"] / 2)
            act()
        expect(output.get_by_label("From", exact=True)).to_have_value("2026-01-06")
        expect(output.get_by_label("To", exact=True)).to_have_value("2026-01-10")
        expect(output.locator(".mpnb-figure")).to_contain_text("6 Jan 2026 to 10 Jan 2026")
        output.locator(".mpnb-figure circle").nth(2).hover()
        expect(output.get_by_role("status")).to_contain_text("8 Jan 2026: ")


def test_in_marimo(browser: Browser, tmp_path: Path) -> None:
    """A report is a picture, and the explorer works."""
    days = '"2026-01-01", "2026-01-05", database="mine.duckdb", quota=_mpnb.Quota(per_hour=100_000, per_second=1000)'
    cells = [
        f"import mpnb as _mpnb\nresult = _mpnb.export({days})\nexplorer = _mpnb.explore(result)\nexplorer",
        'import mpnb as _mpnb\n_mpnb.analysis.sessions(result.events, zone="UTC")',
    ]
    with serve(events_per_day=60) as mp, marimo(tmp_path, cells, mp.credentials) as url:
        page = browser.new_page(viewport={"width": 1280, "height": 1400})
        page.set_default_timeout(30_000)
        errors: list[str] = []
        page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        page.goto(url)
        expect(page.get_by_role("img", name="Length of sessions")).to_be_visible()
        page.get_by_label("Report", exact=True).select_option("hours")
        expect(page.get_by_role("img", name="Any event, by hour of the week")).to_be_visible()
        assert errors == []
        page.close()
