"""The control panel, as a person uses it."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import nbformat
import pytest
from nbconvert import HTMLExporter
from playwright.sync_api import Browser, Locator, expect

from mpnb.sandbox import Fault, Sandbox, serve
from tests.browser._lab import Notebook
from tests.browser._marimo import marimo

Open = Callable[..., Notebook]
QUOTA = "quota=mpnb.Quota(per_hour=100_000, per_second=1000)"
COLLECT_STATES = """root => {
    window.seen = new Set();
    const add = (cell) => window.seen.add(cell.className.split('mpnb-').at(-1));
    const look = () => root.querySelectorAll('.mpnb-cell').forEach(add);
    new MutationObserver(look).observe(root, {subtree: true, childList: true, attributes: true});
    look();
}"""


def known(mp: Sandbox) -> str:
    """Write a cell that puts a sandbox's credentials into the environment."""
    c = mp.credentials
    return (
        "import os, mpnb\n"
        f"os.environ.update(MP_USERNAME={c.username!r}, MP_SECRET={c.secret!r}, MP_PROJECT_ID={c.project_id!r},"
        f" MP_API_BASE_URL={c.base_url!r})"
    )


def button(output: Locator, name: str) -> Locator:
    """Find a button by its name."""
    return output.get_by_role("button", name=re.compile("^" + re.escape(name)))


def states(output: Locator) -> list[str]:
    """Give the state of each cell, in order."""
    return [
        str(c).split("mpnb-")[-1]
        for c in output.get_by_role("gridcell").evaluate_all("all => all.map(c => c.className)")
    ]


@pytest.fixture
def slow() -> Iterator[Sandbox]:
    """Serve batches that take their time: nothing ends by itself while a test looks."""
    with serve(events_per_day=20, latency=60) as mp:
        yield mp


def started(notebook: Open, mp: Sandbox, options: str, *more: str, host: str = "lab") -> tuple[Notebook, Locator]:
    """Open a panel and press Start."""
    book = notebook([known(mp), f"panel = mpnb.panel({options}, {QUOTA})\npanel", *more], host)
    book.run(0)
    book.run(1)
    output = book.output(1)
    expect(button(output, "Start")).to_be_enabled()
    button(output, "Start").click()
    return book, output


@pytest.mark.parametrize("host", ["lab", "notebook"])
def test_from_the_form_to_a_query(notebook: Open, host: str) -> None:
    """The form is filled in, cells pass through their states, two fail, a retry brings them, the next cell queries."""
    faults = [Fault("status", day=day, status=400) for day in ("2026-01-03", "2026-01-08")]
    with serve(events_per_day=50, latency=0.4, faults=faults) as mp:
        cells = [known(mp), f"panel = mpnb.panel({QUOTA})\npanel", "len(panel.result.events.fetchall())"]
        book = notebook(cells, host)
        book.run(0)
        book.run(1)
        output = book.output(1)
        output.get_by_label("Days", exact=True).select_option("From – to")
        output.get_by_label("First day").fill("2026-01-01")
        output.get_by_label("Last day").fill("2026-01-12")
        output.get_by_label("Days a batch").fill("1")
        output.get_by_label("Workers").fill("3")
        output.get_by_label("Database").fill("made-up.duckdb")
        expect(output.get_by_role("gridcell")).to_have_count(12)
        assert set(states(output)) == {"queued"}
        assert mp.requests == ()

        output.locator(".mpnb").evaluate(COLLECT_STATES)
        button(output, "Start").click()
        expect(button(output, "Retry failed (2)")).to_be_enabled()
        assert {"queued", "fetching", "done", "failed"} <= set(book.page.evaluate("[...window.seen]"))
        assert [i for i, state in enumerate(states(output)) if state == "failed"] == [2, 7]
        expect(output.locator(".mpnb-failure")).to_contain_text("2 × http")
        output.get_by_role("gridcell", name="2026-01-03: failed").hover()
        expect(output.locator(".mpnb-detail")).to_contain_text("HTTP 400: Bad Request")
        output.get_by_role("gridcell", name="2026-01-04: done").hover()
        expect(output.locator(".mpnb-detail")).to_contain_text(re.compile(r"events \d+.*took"))

        button(output, "Retry failed").click()
        expect(output.locator(".mpnb-phase")).to_have_text("Done")
        assert states(output) == ["done"] * 12
        book.run(2)
        expect(book.output(2)).to_contain_text(str(mp.count(date(2026, 1, 1), date(2026, 1, 12))))


def test_cancel_by_mouse(notebook: Open, slow: Sandbox) -> None:
    """A click on Cancel ends the export, and Close leaves what stays."""
    _, output = started(notebook, slow, 'from_date="2026-01-01", to_date="2026-01-20", chunk_days=1')
    expect(output.locator(".mpnb-cell.mpnb-fetching")).to_have_count(10)
    button(output, "Cancel").click()
    expect(output.locator(".mpnb-phase")).to_have_text("Cancelled")
    assert set(states(output)) == {"cancelled"}
    expect(button(output, "Cancel")).to_be_disabled()
    button(output, "Close").click()
    expect(output.get_by_role("img", name="Batches: 20 cancelled")).to_be_visible()


def test_keyboard_alone(notebook: Open, slow: Sandbox) -> None:
    """Tab reaches the grid as one stop, arrows, Home and End go about in it, and Cancel hears Enter."""
    book, output = started(notebook, slow, 'from_date="2026-01-01", to_date="2026-04-10", chunk_days=1')
    keys = book.page.keyboard
    expect(output.locator(".mpnb-cell.mpnb-fetching")).to_have_count(10)
    assert output.locator('[role="gridcell"][tabindex="0"]').count() == 1
    columns = output.locator('[role="row"]').first.get_by_role("gridcell").count()
    button(output, "Copy as code").focus()
    keys.press("Tab")
    for key, at in (
        ("ArrowRight", 1), ("ArrowDown", 1 + columns), ("End", 2 * columns - 1), ("Home", columns),
        ("ArrowLeft", columns - 1), ("Control+End", 99), ("ArrowRight", 99), ("Control+Home", 0), ("ArrowUp", 0),
    ):  # fmt: skip
        keys.press(key)
        expect(output.get_by_role("gridcell").nth(at)).to_be_focused()
    expect(output.locator(".mpnb-detail")).to_contain_text("2026-01-01")
    button(output, "Start").focus()
    keys.press("Tab")
    expect(button(output, "Cancel")).to_be_focused()
    keys.press("Enter")
    expect(output.locator(".mpnb-phase")).to_have_text("Cancelled")


def test_reload_in_mid_run(notebook: Open) -> None:
    """A page that is loaded anew shows how far the export is, to its end."""
    gate = threading.Event()
    held = date(2026, 1, 30)

    def lines(day: date) -> None:
        """Keep one day back until the gate opens."""
        if day == held:
            gate.wait(60)

    with serve(events_per_day=5, lines=lines) as mp:
        book, output = started(notebook, mp, 'from_date="2026-01-01", to_date="2026-03-01", chunk_days=1')
        expect(output.locator(".mpnb-cell.mpnb-done")).to_have_count(59)
        book.save()
        book.page.reload()
        expect(output.locator(".mpnb-phase")).to_have_text("Exporting")
        assert states(output) == ["fetching" if number == 29 else "done" for number in range(60)]
        gate.set()
        expect(output.locator(".mpnb-phase")).to_have_text("Done")
        expect(output.locator(".mpnb-cell.mpnb-done")).to_have_count(60)
        expect(output.locator(".mpnb-notes")).to_contain_text("show panel.result in a cell")


def test_reopened_without_a_kernel(notebook: Open) -> None:
    """A notebook that was saved shows the results of an export and of a panel without a kernel, and no dead widget."""
    with serve(events_per_day=20, faults=[Fault("status", day="2026-01-02", status=400, times=None)]) as mp:
        export = f'result = mpnb.export("2026-01-01", "2026-01-09", chunk_days=1, {QUOTA})'
        panel = f'panel = mpnb.panel(from_date="2026-01-01", to_date="2026-01-09", chunk_days=1, {QUOTA})\npanel'
        job = f'job = mpnb.start("2026-01-01", "2026-01-02", chunk_days=1, {QUOTA}, table="other")\njob'
        book = notebook([known(mp), export, panel, panel, job])
        for number in range(5):
            book.run(number)
        of_export, of_panel, of_closed, of_job = (book.output(number) for number in range(1, 5))
        for output in (of_panel, of_closed):
            expect(button(output, "Start")).to_be_enabled()
            button(output, "Start").click()
            expect(button(output, "Retry failed (1)")).to_be_enabled()
        expect(button(of_job, "Retry failed (1)")).to_be_enabled()
        # What is live and what stays stand side by side, and only one of them can be seen.
        for output in (of_panel, of_job):
            expect(output.get_by_role("img")).to_be_hidden()
        button(of_closed, "Close").click()
        expect(of_closed.get_by_role("img")).to_be_visible()
        expect(of_closed.get_by_role("grid")).to_have_count(0)
        html, _ = HTMLExporter(template_name="basic").from_notebook_node(nbformat.reads(book.save(), as_version=4))
        assert html.count("Batches: 8 done, 1 failed") == 1
        assert html.count("Batches: 8 skipped, 1 failed") == 2
        assert html.count("Batches: 1 done, 1 failed") == 1
        assert "live where a notebook shows widgets" not in html
        book.lab.end_kernels()
        book.page.goto("about:blank")
        book.open(kernel=False)
        expect(of_export.get_by_role("img", name="Batches: 8 done, 1 failed")).to_be_visible()
        expect(of_export).to_contain_text("result = result.retry()")
        expect(of_panel.get_by_role("img", name="Batches: 8 skipped, 1 failed")).to_be_visible()
        expect(of_closed.get_by_role("img", name="Batches: 8 skipped, 1 failed")).to_be_visible()
        expect(of_closed).to_contain_text("result = panel.result.retry()")
        expect(of_job.get_by_role("img", name="Batches: 1 done, 1 failed")).to_be_visible()
        expect(book.page.get_by_text("model not found").filter(visible=True)).to_have_count(0)


def test_reopened_after_a_good_end_and_a_cancelled_one(notebook: Open) -> None:
    """The picture of a panel that is done or was cancelled, and of a job, shows without a kernel and in HTML."""
    held = date(2026, 2, 1)
    released = threading.Event()
    with serve(events_per_day=5, lines=lambda day: released.wait(60) and None if day >= held else None) as mp:
        cells = [
            f'panel = mpnb.panel(from_date="2026-01-01", to_date="2026-01-04", chunk_days=1, {QUOTA})\npanel',
            f'other = mpnb.panel(from_date="2026-02-01", to_date="2026-02-03", chunk_days=1, {QUOTA})\nother',
            f'job = mpnb.start("2026-02-01", "2026-02-02", chunk_days=1, table="mine", {QUOTA})\njob',
        ]
        book = notebook([known(mp), *cells])
        for number in range(3):
            book.run(number)
        done, cancelled, of_job = (book.output(number) for number in (1, 2, 3))
        for output, phase in ((done, "Done"), (cancelled, "Exporting")):
            expect(button(output, "Start")).to_be_enabled()
            button(output, "Start").click()
            expect(output.locator(".mpnb-phase")).to_have_text(phase)
        book.run(3)
        for output in (cancelled, of_job):
            button(output, "Cancel").click()
            expect(output.locator(".mpnb-phase")).to_have_text("Cancelled")
        released.set()
        html, _ = HTMLExporter(template_name="basic").from_notebook_node(nbformat.reads(book.save(), as_version=4))
        book.lab.end_kernels()
        book.page.goto("about:blank")
        book.open(kernel=False)
        names = ("Batches: 4 done", "Batches: 3 cancelled", "Batches: 2 cancelled")
        for output, name in zip((done, cancelled, of_job), names, strict=True):
            assert html.count(f'"{name}"') == 1
            expect(output.get_by_role("img", name=name)).to_be_visible()
        expect(book.page.get_by_text("model not found").filter(visible=True)).to_have_count(0)


def test_failed_days_lead_to_their_cells(notebook: Open) -> None:
    """A failed day's name goes to its cell, which stays picked while the pointer passes others, and can be retried."""
    faults = [Fault("status", day=f"2026-01-{n:02}", status=400, times=None) for n in range(1, 29, 2)]
    with serve(events_per_day=5, faults=faults) as mp:
        options = 'from_date="2026-01-01", to_date="2026-06-29", chunk_days=1, workers=50'
        book, output = started(notebook, mp, options)
        expect(button(output, "Retry failed (14)")).to_be_enabled()
        row = output.locator(".mpnb-places")
        expect(row.get_by_role("button")).to_have_text([*(f"2026-01-{n:02}" for n in range(1, 12, 2)), "and 8 more"])
        row.get_by_role("button", name="and 8 more").press("Enter")
        expect(row.get_by_role("button")).to_have_count(14)
        row.get_by_role("button", name="2026-01-27").press("Enter")
        cell = output.get_by_role("gridcell", name="2026-01-27: failed")
        expect(cell).to_be_focused()
        detail = output.locator(".mpnb-detail")
        output.get_by_role("gridcell", name="2026-02-01: done").hover()
        expect(detail).to_contain_text("2026-01-27")
        expect(detail).to_contain_text("HTTP 400: Bad Request")
        button(output, "Copy as code").last.click()
        expect(output.locator(".mpnb-code")).to_contain_text('"2026-01-27"')
        mp.clear_faults()
        button(output, "Retry this batch").click()
        expect(button(output, "Retry failed (13)")).to_be_enabled()
        expect(detail).to_contain_text("2026-01-27done")
        output.get_by_role("gridcell", name="2026-02-01: done").click()
        expect(detail).to_contain_text("2026-02-01")
        book.page.keyboard.press("Escape")
        book.page.mouse.move(0, 0)
        expect(button(output, "Retry this batch")).to_have_count(0)


def test_after_a_mistake_the_form_comes_back(notebook: Open) -> None:
    """A wrong filter is corrected by keyboard: Edit opens the form that was folded, and Start takes what that says."""
    bad = Fault("status", status=400, times=None, body="unable to parse 'where'")
    with serve(events_per_day=5, faults=[bad]) as mp:
        options = 'from_date="2026-01-01", to_date="2026-01-04", chunk_days=1, where="wrong"'
        book, output = started(notebook, mp, options)
        expect(button(output, "Edit")).to_have_class(re.compile("mpnb-primary"))
        expect(button(output, "Retry failed")).to_be_disabled()
        expect(output.locator(".mpnb-folded")).to_have_text(
            "4 days, 2026-01-01 – 2026-01-04 · all events · where … · table events"
        )
        expect(output.get_by_label("Where", exact=True)).to_be_hidden()
        mp.clear_faults()
        button(output, "Edit").press("Enter")
        # The button is gone, and its focus is still in the panel: the notebook must not hear what is typed.
        expect(output.locator(".mpnb-phase")).to_be_focused()
        output.get_by_label("Where", exact=True).fill("")
        output.get_by_label("Table", exact=True).fill("another")
        expect(button(output, "Start")).to_be_enabled()
        button(output, "Start").press("Enter")
        expect(output.locator(".mpnb-phase")).to_have_text("Done")
        expect(button(output, "Explore")).to_have_class(re.compile("mpnb-primary"))
        button(output, "Explore").press("Enter")
        expect(output.locator(".mpnb-figure")).to_contain_text("Any event, each day")
        expect(button(output, "New export")).to_have_class(re.compile("mpnb-primary"))
        button(output, "New export").press("Enter")
        expect(output.get_by_label("Where", exact=True)).to_have_value("wrong")
        button(output, "Back").press("Enter")
        expect(output.locator(".mpnb-phase")).to_have_text("Done")
        assert len(book.cells.all()) == 2


def test_events_are_suggested(notebook: Open) -> None:
    """The field for events suggests names of the table, with their numbers, by mouse and by keyboard."""
    with serve(events_per_day=50) as mp:
        export = f'mpnb.export("2026-01-01", "2026-01-03", {QUOTA});'
        book = notebook([known(mp), export, f"mpnb.panel({QUOTA})"])
        for number in range(3):
            book.run(number)
        output, keys = book.output(2), book.page.keyboard
        events = output.get_by_label("Events", exact=True)
        options = output.get_by_role("listbox").get_by_role("option")
        events.focus()
        expect(options.first).to_be_visible()
        count = len(options.all())
        keys.type("u")
        expect(options).not_to_have_count(count)
        first = options.first
        expect(first).to_have_text(re.compile(r"^\D*u\D*\d+$", re.IGNORECASE))
        name = first.locator("span").first.inner_text()
        keys.press("ArrowDown")
        expect(first).to_have_attribute("aria-selected", "true")
        keys.press("Enter")
        expect(events).to_have_value(f"{name}\n")
        second = options.first
        other = second.locator("span").first.inner_text()
        assert other != name
        second.click()
        expect(events).to_have_value(f"{name}\n{other}\n")
        keys.press("Escape")
        expect(options).to_have_count(0)


def test_a_cell_shows_one_picture_and_an_open_panel_plans_again(notebook: Open) -> None:
    """An export that is not assigned shows once, a job as its grid, and the form above knows the days that came."""
    with serve(events_per_day=20) as mp:
        panel = f'mpnb.panel(from_date="2026-01-01", to_date="2026-01-09", chunk_days=1, {QUOTA})'
        export = f'mpnb.export("2026-01-01", "2026-01-05", chunk_days=1, {QUOTA})'
        job = f'job = mpnb.start("2026-01-06", "2026-01-07", chunk_days=1, {QUOTA})\njob'
        book = notebook([known(mp), panel, export, job])
        book.run(0)
        book.run(1)
        facts = book.output(1).locator(".mpnb-facts")
        expect(facts).to_contain_text("days there already0")
        book.run(2)
        expect(book.output(2).locator(".mpnb-result")).to_have_count(1)
        expect(book.output(2).get_by_role("img", name="Batches: 5 done")).to_be_visible()
        expect(facts).to_contain_text("days there already5")
        book.run(3)
        expect(book.output(3).get_by_role("img", name="Batches: 2 done")).to_be_visible()
        expect(book.output(3).locator(".mpnb-result")).to_have_count(1)
        expect(facts).to_contain_text("days there already7")


def test_marimo(browser: Browser, tmp_path: Path) -> None:
    """In marimo, a cell that ends with a panel or a job shows it, live, and its buttons work."""
    faults = [Fault("status", day="2026-01-03", status=400, times=2)]
    options = "chunk_days=1, quota=_mpnb.Quota(per_hour=100_000, per_second=1000)"
    days = 'from_date="2026-01-01", to_date="2026-01-09"'
    cells = [
        f'import mpnb as _mpnb\npanel = _mpnb.panel({days}, database="mine.duckdb", {options})\npanel',
        f"import mpnb as _mpnb\njob = _mpnb.start({days}, {options})\njob",
    ]
    with serve(events_per_day=20, faults=faults) as mp, marimo(tmp_path, cells, mp.credentials) as url:
        context = browser.new_context(viewport={"width": 1280, "height": 1400})
        page = context.new_page()
        page.set_default_timeout(30_000)
        errors: list[str] = []
        page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        page.goto(url)
        retry = page.get_by_role("button", name="Retry failed (1)")
        expect(retry).to_be_enabled()  # of the job, which has begun by itself
        page.get_by_role("button", name="Start").click()
        expect(retry).to_have_count(2)
        for done in range(2):
            retry.first.click()
            expect(page.get_by_text("Done", exact=True)).to_have_count(done + 1)
        page.get_by_role("button", name="Edit").click()
        page.get_by_label("Workers").fill("0")
        expect(page.get_by_text("Workers must be a whole number from 1 to 100, not 0")).to_be_visible()
        assert errors == []
        context.close()


def test_restart_in_mid_run(notebook: Open, slow: Sandbox) -> None:
    """A panel whose kernel was restarted says so and stops its clock; the cell that is run again has a live one."""
    book, output = started(notebook, slow, 'from_date="2026-01-01", to_date="2026-01-20", chunk_days=1')
    expect(output.locator(".mpnb-cell.mpnb-fetching")).to_have_count(10)
    book.restart_kernel()
    expect(output.locator(".mpnb-phase")).to_have_text("Disconnected")
    expect(output.locator(".mpnb-notes")).to_contain_text("run the cell again")
    expect(button(output, "Cancel")).to_be_disabled()
    output.get_by_role("gridcell").nth(3).hover()
    expect(output.locator(".mpnb-detail")).to_contain_text("2026-01-04")
    book.run(0)
    book.run(1)
    expect(button(output, "Start")).to_be_enabled()


def test_export_shows_the_grid_while_it_blocks(notebook: Open, slow: Sandbox) -> None:
    """``mpnb.export()`` shows its batches while its cell runs; an interrupt ends it, and what stays says so."""
    cell = f'mpnb.export("2026-01-01", "2026-01-09", chunk_days=1, {QUOTA})'
    book = notebook([known(slow), cell])
    book.run(0)
    book.run(1, wait=False)
    output = book.output(1)
    expect(output.locator(".mpnb-cell.mpnb-fetching")).to_have_count(9)
    book.command("notebook:interrupt-kernel")
    error = output.locator('[data-mime-type="application/vnd.jupyter.error"], [data-mime-type*="stderr"]')
    expect(error).to_contain_text("KeyboardInterrupt: cancelled: 0 of 9 batches are in mixpanel.duckdb")
    assert len(error.inner_text().strip().splitlines()) == 1  # no frame of ours
    expect(output.get_by_role("img", name="Batches: 9 cancelled")).to_be_visible()


def test_a_hint_can_be_typed_as_it_stands(notebook: Open) -> None:
    """The magic's picture names what retries in the next cell, and that then has every day."""
    bad = Fault("status", day="2026-01-02", status=400, times=None)
    with serve(events_per_day=5, faults=[bad]) as mp:
        days = "2026-01-01 2026-01-03 --chunk-days 1"
        book = notebook([known(mp), f"%load_ext mpnb\njan = %mpexport {days}", "%mpexport --retry"])
        book.run(0)
        book.run(1)
        expect(book.output(1)).to_contain_text("%mpexport --retry")
        expect(book.output(1)).not_to_contain_text("retry()")
        mp.clear_faults()
        book.run(2)
        expect(book.output(2).get_by_role("img", name="Batches: 1 done")).to_be_visible()


@pytest.mark.parametrize(
    "cell",
    [
        f'mpnb.export("2026-01-01", "2026-01-09", chunk_days=1, {QUOTA})',
        "%load_ext mpnb\n%mpexport 2026-01-01 2026-01-09 --chunk-days 1",
    ],
    ids=["call", "magic"],
)
def test_cancel_of_a_blocking_export(notebook: Open, slow: Sandbox, cell: str) -> None:
    """A click on Cancel is heard within two seconds by an export that blocks its cell, and ends it."""
    book = notebook([known(slow), cell])
    book.run(0)
    book.run(1, wait=False)
    output = book.output(1)
    expect(output.locator(".mpnb-cell.mpnb-fetching").nth(2)).to_be_visible()
    button(output, "Cancel").click()
    expect(output.get_by_text("Cancelling").or_(output.get_by_text("ExportCancelled")).first).to_be_visible(
        timeout=2000
    )
    expect(output).to_contain_text("ExportCancelled: cancelled: 0 of 9 batches are in mixpanel.duckdb")
    expect(output.get_by_role("img", name="Batches: 9 cancelled")).to_be_visible()


# A cell that runs until somebody writes into the file.
BLOCKED = "with open('gate') as gate: gate.read()"
# A kernel that hears nothing beside its cells, and a front end that sends nothing there.
UNHEARD = "get_ipython().kernel.control_handlers.pop('mpnb_press')\n"
NO_SUBSHELLS = """() => {
    window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.commsOverSubshells = "disabled"; }"""


def test_cancel_beside_a_cell_that_runs(notebook: Open, slow: Sandbox) -> None:
    """A click on a panel's Cancel is heard within two seconds while another cell runs."""
    options = 'from_date="2026-01-01", to_date="2026-01-20", chunk_days=1'
    book, output = started(notebook, slow, options, BLOCKED)
    os.mkfifo(book.path.parent / "gate")
    expect(output.locator(".mpnb-cell.mpnb-fetching")).to_have_count(10)
    book.run(2, wait=False)
    expect(book.cells.nth(2).locator(".jp-InputPrompt")).to_have_text("[*]:")
    button(output, "Cancel").click()
    expect(output.locator(".mpnb-phase")).to_have_text(re.compile("Cancel(ling|led)"), timeout=2000)
    expect(output.locator(".mpnb-phase")).to_have_text("Cancelled")
    expect(output.locator(".mpnb-notes")).not_to_contain_text("busy")
    expect(book.cells.nth(2).locator(".jp-InputPrompt")).to_have_text("[*]:")
    (book.path.parent / "gate").write_text("")


def test_cancel_that_cannot_be_heard(notebook: Open) -> None:
    """Where a busy kernel cannot hear Cancel, a note says what to press, and stays until the kernel has heard it."""
    released = threading.Event()

    def lines(day: date) -> None:
        """Keep all but the first days back."""
        if day.month > 1:
            released.wait(60)

    with serve(events_per_day=5, lines=lines, latency=0.3) as mp:
        options = 'from_date="2026-01-01", to_date="2026-03-01", chunk_days=1, workers=2'
        book, output = started(notebook, mp, options, UNHEARD + BLOCKED)
        os.mkfifo(book.path.parent / "gate")
        book.page.evaluate(NO_SUBSHELLS)
        book.run(2, wait=False)
        expect(book.cells.nth(2).locator(".jp-InputPrompt")).to_have_text("[*]:")
        done, note = output.locator(".mpnb-cell.mpnb-done"), output.locator(".mpnb-notes")
        button(output, "Cancel").click()
        before = done.count()
        expect(note).to_contain_text("Cancel asked; the kernel is busy, press ■", timeout=2500)
        for more in range(1, 4):
            expect(done.nth(before + 2 * more)).to_be_visible()
            expect(note).to_contain_text("Cancel asked", timeout=1)
        (book.path.parent / "gate").write_text("")
        expect(output.locator(".mpnb-phase")).to_have_text(re.compile("Cancel(ling|led)"))
        expect(note).not_to_contain_text("Cancel asked")
        released.set()


def test_panels_of_one_job_agree(notebook: Open) -> None:
    """Two panels of one job, and two displays of one, show the same to the end."""
    with serve(events_per_day=20, latency=0.5) as mp:
        start = (
            f'job = mpnb.start("2026-01-01", "2026-01-20", chunk_days=1, workers=2, {QUOTA})\none = job.panel()\none'
        )
        book = notebook([known(mp), start, "one", "job.panel()"])
        for number in range(4):
            book.run(number)
        outputs = [book.output(number) for number in (1, 2, 3)]
        for output in outputs:
            expect(output.locator(".mpnb-cell.mpnb-done").nth(3)).to_be_visible()
        for output in outputs:
            expect(output.get_by_role("img", name="Batches: 20 done")).to_be_visible()


def test_errors_stand_beside_their_fields(notebook: Open) -> None:
    """What is wrong stands in words beside its field, Start waits for it, and the days that are there are shown."""
    with serve(events_per_day=5) as mp:
        before = f'mpnb.export("2026-01-01", "2026-01-05", {QUOTA}, on_batch=lambda p: None)'
        panel = f'mpnb.panel(from_date="2026-01-01", to_date="2026-01-09", chunk_days=2, {QUOTA})'
        book = notebook([known(mp), before, panel])
        for number in range(3):
            book.run(number)
        output = book.output(2)
        expect(output.locator(".mpnb-facts")).to_contain_text("days there already5")
        assert states(output) == ["skipped", "queued", "queued"]
        for label, wrong, right, said in (
            ("Workers", "0", "5", "Workers must be a whole number from 1 to 100, not 0"),
            (
                "Days a batch",
                "soon",
                "auto",
                "Days a batch must be a whole number from 1 to 100, or 'auto', not 'soon'",
            ),
            ("Table", "mpnb_batches", "events", "names that begin with mpnb_ are mpnb's own"),
            ("Database", "no/such/folder.duckdb", "mixpanel.duckdb", "there is no folder"),
            ("Last day", "2025-12-31", "2026-01-09", "First day 2026-01-01 is after Last day 2025-12-31"),
            ("First day", "", "2026-01-01", "choose the first day"),
            ("Where", "1 == 1", "", "table"),
        ):
            field = output.get_by_label(label, exact=True)
            field.fill(wrong)
            place = output.locator(".mpnb-place", has=book.page.get_by_label(label, exact=True)).get_by_role("alert")
            if label == "Where":
                place = output.locator(".mpnb-field-table").get_by_role("alert")
            expect(place).to_contain_text(said)
            if label not in ("Database", "Table", "Where"):  # what may be right without a change of the form
                expect(button(output, "Start")).to_be_disabled()
            field.fill(right)
            expect(output.get_by_role("alert").filter(has_text=said)).to_have_count(0)
        expect(button(output, "Start")).to_be_enabled()
        output.get_by_label("Days", exact=True).select_option("Last 7 days")
        expect(output.locator(".mpnb-title")).to_have_text(re.compile(r"^\d{4}-\d\d-\d\d – \d{4}-\d\d-\d\d$"))


def test_secret_stays_out_of_the_file(notebook: Open) -> None:
    """A secret that was typed into the panel works, and is not in the notebook that is saved with widgets' state."""
    with serve(events_per_day=5) as mp:
        own = mp.credentials
        setup = f"import os, mpnb\nos.environ['MP_API_BASE_URL'] = {own.base_url!r}"
        panel = f'panel = mpnb.panel(from_date="2026-01-01", to_date="2026-01-02", {QUOTA})\npanel'
        book = notebook([setup, panel])
        book.run(0)
        book.run(1)
        output = book.output(1)
        expect(output.get_by_text("No credentials yet")).to_be_visible()
        expect(button(output, "Start")).to_be_disabled()
        output.get_by_label("Service account").fill("a:b")
        output.get_by_label("Secret").fill(own.secret)
        output.get_by_label("Project id").fill(own.project_id)
        button(output, "Use these").click()
        expect(output.get_by_role("alert").filter(has_text="colon")).to_be_visible()
        output.get_by_label("Service account").fill(own.username)
        output.get_by_label("Secret").fill(own.secret)
        button(output, "Use these").click()
        expect(button(output, "Start")).to_be_enabled()
        saved = book.save()
        assert "application/vnd.jupyter.widget-state+json" in saved
        assert own.username in saved or own.project_id in saved
        assert own.secret not in saved
        button(output, "Copy as code").click()
        expect(output.locator(".mpnb-code")).to_contain_text(f'the secret of "{own.username}" first')
        assert own.secret not in book.page.content()
        button(output, "Start").click()
        expect(output.locator(".mpnb-phase")).to_have_text("Done")
        assert own.secret not in book.save()


CONTROLS = "button, input, select, textarea, summary, [tabindex='0']"
# What JupyterLab does at these: delete a cell, insert one, go to another, edit one, run one.
CELL_KEYS = ("d", "d", "b", "a", "ArrowDown", "ArrowUp", "Enter", "Shift+Enter", "Control+Enter")
CELLS = """() => { const book = window.jupyterapp.shell.currentWidget.content;
    return [book.widgets.map(cell => [cell.model.id, cell.model.executionCount]), book.activeCellIndex]; }"""


def type_into_each(book: Notebook, output: Locator) -> list[str]:
    """Press every key of a notebook's at each control in sight, and name the controls whose keys it heard."""
    controls = [one for one in output.locator(CONTROLS).element_handles() if one.is_visible()]
    heard = []
    for control in controls:
        if not control.is_visible():  # what was typed before made the plan impossible
            assert output.is_visible()
            continue
        book.select(1)
        # A cell that becomes the active one takes the focus, a moment later.
        book.page.evaluate("() => new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))")
        control.focus()
        assert control.evaluate("one => document.activeElement === one")
        before = book.page.evaluate(CELLS)
        for key in CELL_KEYS:
            book.page.keyboard.press(key)
            if book.page.evaluate(CELLS) != before:
                heard.append(f"{key} at {control.evaluate('one => one.outerHTML')}")
                break
    assert controls
    return heard


@pytest.mark.parametrize("host", ["lab", "notebook"])
def test_keys_stay_in_the_form(notebook: Open, host: str) -> None:
    """No key that is pressed at a control of the form, of the login or of the plan does anything to a cell."""
    panel = 'panel = mpnb.panel(from_date="2026-01-01", to_date="2026-01-09", chunk_days=1)\npanel'
    book = notebook(["import mpnb", panel, "'below'"], host)
    book.run(0)
    book.run(1)
    output = book.output(1)
    output.get_by_label("Days", exact=True).select_option("From – to")
    expect(output.get_by_label("Last day")).to_be_visible()
    expect(output.get_by_role("gridcell")).to_have_count(9)
    assert type_into_each(book, output) == []


@pytest.mark.parametrize(
    ("shown", "host"),
    [
        ("job.panel()", "lab"), ("job.panel().grid", "lab"), ("mpnb.panel(job)", "lab"), ("job", "lab"),
        ("job", "notebook"), ("job.panel().grid", "notebook"),
    ],
)  # fmt: skip
def test_keys_stay_in_a_grid(notebook: Open, slow: Sandbox, shown: str, host: str) -> None:
    """No key that is pressed at a control of a job's grid does anything to a cell, and its buttons hear Enter."""
    start = f'job = mpnb.start("2026-01-01", "2026-01-09", chunk_days=1, {QUOTA})\n{shown}'
    book = notebook([known(slow), start, "'below'"], host)
    book.run(0)
    book.run(1)
    output = book.output(1)
    expect(output.locator(".mpnb-cell.mpnb-fetching")).to_have_count(9)
    output.get_by_role("gridcell").first.focus()
    book.page.keyboard.press("ArrowRight")
    expect(output.get_by_role("gridcell").nth(1)).to_be_focused()
    expect(output.locator(".mpnb-detail")).to_contain_text("2026-01-02")
    # Among them Enter on Cancel.
    assert type_into_each(book, output) == []
    expect(output.locator(".mpnb-phase")).to_have_text("Cancelled")


def test_save_by_keyboard_from_the_panel(notebook: Open) -> None:
    """Control and S at a control of the panel save the notebook."""
    book = notebook(["import mpnb", "mpnb.panel()", "'below'"])
    book.run(0)
    book.run(1)
    output = book.output(1)
    expect(output.get_by_label("Workers")).to_be_visible()
    button(output, "Start").focus()
    with book.page.expect_request(lambda one: one.method == "PUT" and "/api/contents/" in one.url):
        book.page.keyboard.press("Control+s")


def test_labels_are_of_their_own_panel(notebook: Open) -> None:
    """A click on a label reaches the field below it, in each of two panels and two displays of one; ids are unique."""
    book = notebook(["import mpnb\none = mpnb.panel()\none", "mpnb.panel()", "one"])
    for number in range(3):
        book.run(number)
    for number in range(3):
        output = book.output(number)
        for label in ("Service account", "Secret", "Project id", "Region", "Workers", "Events"):
            output.locator("label[for]").filter(has_text=re.compile(f"^{label}$")).click()
            expect(output.get_by_label(label, exact=True)).to_be_focused()
    twice = "all => all.map(one => one.id).filter((id, at, ids) => ids.indexOf(id) !== at)"
    assert book.page.locator(".jp-OutputArea [id]").evaluate_all(twice) == []


def test_no_date_is_cut_off_where_it_is_narrow(notebook: Open) -> None:
    """In a panel of 270 pixels the fields for days are as wide as what they show, and do not stick out."""
    panel = 'panel = mpnb.panel(from_date="2026-01-01", to_date="2026-01-09")\npanel'
    book = notebook(["import mpnb", panel])
    book.run(0)
    book.run(1)
    output = book.output(1)
    expect(output.get_by_label("Last day")).to_be_visible()
    output.locator(".mpnb-panel").evaluate("panel => { panel.style.width = '270px'; }")
    for label in ("First day", "Last day"):
        field = output.get_by_label(label)
        # Wider than the text that it holds, its button and its padding.
        needed = field.evaluate("""one => {
            const other = one.cloneNode();
            other.style.cssText = "width: auto !important; flex: none; position: absolute";
            one.parentElement.append(other);
            const width = other.getBoundingClientRect().width;
            other.remove();
            return width; }""")
        assert field.bounding_box()["width"] >= needed
        inside = "one => one.getBoundingClientRect().right <= one.closest('.mpnb-panel').getBoundingClientRect().right"
        assert field.evaluate(inside)
