"""Profiles in the panel, as a person uses it."""

from __future__ import annotations

import re
from collections.abc import Callable

from playwright.sync_api import expect

from mpnb.sandbox import Fault, serve
from tests.browser._lab import Notebook
from tests.browser.test_access import violations
from tests.browser.test_panel import button, known, states

Open = Callable[..., Notebook]


def test_profiles_by_keyboard_alone(notebook: Open) -> None:
    """From the choice to the picture that stays, with no violation on the way; pages are cells with names."""
    with serve(profiles=60, faults=[Fault("status", status=400, page=3)]) as mp:
        book = notebook([known(mp), "panel = mpnb.panel()\npanel", "panel.result.total_rows"])
        book.run(0)
        book.run(1)
        output, keys, found = book.output(1), book.page.keyboard, {}
        expect(output.get_by_role("gridcell", name="queued").first).to_be_visible()
        output.get_by_role("radio", name="Events").focus()
        keys.press("ArrowRight")
        expect(output.get_by_role("radio", name="Profiles")).to_be_checked()
        expect(output.get_by_label("Days", exact=True)).to_have_count(0)
        expect(output.get_by_role("gridcell", name="page 0: queued")).to_be_visible()
        output.get_by_label("Profiles a page").focus()
        keys.press("Control+a")
        keys.type("none")
        expect(output.get_by_role("alert")).to_contain_text("Profiles a page")
        found["an error"] = violations(book, 1)
        output.get_by_label("Profiles a page").focus()
        keys.press("Control+a")
        keys.type("10")
        expect(button(output, "Start")).to_be_enabled()
        button(output, "Start").focus()
        keys.press("Enter")
        expect(button(output, "Retry failed (1)")).to_be_enabled()
        assert states(output) == ["done"] * 3 + ["failed"] + ["done"] * 2
        expect(output.locator(".mpnb-failure")).to_contain_text("1 × http")
        output.get_by_role("gridcell", name="page 0: done").focus()
        for _ in range(3):
            keys.press("ArrowRight")
        expect(output.locator(".mpnb-detail")).to_contain_text(re.compile("page 3.*HTTP 400"))
        keys.press("Enter")
        expect(button(output, "Retry this batch")).to_have_count(0)
        found["failed"] = violations(book, 1)
        button(output, "Retry failed").focus()
        keys.press("Enter")
        expect(output.locator(".mpnb-phase")).to_have_text("Done")
        expect(output.get_by_role("gridcell", name="page 0 again: done")).to_be_visible()
        found["done"] = violations(book, 1)
        button(output, "Close").focus()
        keys.press("Enter")
        expect(output.get_by_role("img", name="Pages: 7 done")).to_be_visible()
        expect(output).to_contain_text("60 in table")
        found["what stays"] = violations(book, 1)
        book.run(2)
        expect(book.output(2)).to_contain_text("60")
        assert {state: each for state, each in found.items() if each} == {}
