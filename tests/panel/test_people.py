"""Profiles in the live grid: their pages are its cells."""

from __future__ import annotations

from collections.abc import Callable

from mpnb._planning.states import STATUSES
from mpnb.sandbox import Fault, Sandbox, serve
from tests.panel._kernel import Kernel

Known = Callable[[Sandbox], str]
AGAIN = 1 << 31


def cells(kernel: Kernel, grid: str) -> list[tuple[int, str]]:
    """Return page and status of each cell of a grid."""
    state = kernel.state(grid)
    days = state["days"]
    pages = [int.from_bytes(days[at : at + 4], "little") for at in range(0, len(days), 4)]
    return [(page, STATUSES[byte & 15]) for page, byte in zip(pages, state["state"], strict=True)]


def picture(kernel: Kernel) -> str:
    """Return the HTML of the last picture in the output that was made last: an earlier one is sent once more later."""
    swaps: dict[str, str] = {}
    for message in kernel.messages:
        display_id = message["content"].get("transient", {}).get("display_id", "")
        if message["msg_type"] == "display_data" and display_id:
            swaps[display_id] = ""
        elif message["msg_type"] == "update_display_data" and message["content"]["data"]["text/plain"]:
            swaps[display_id] = message["content"]["data"]["text/html"]
    return next(html for html in reversed(swaps.values()) if html)


def test_a_job_shows_its_pages_and_a_retry_goes_on(kernel: Kernel, known: Known) -> None:
    """Each page is a cell, the first once more at the end; the ones that came stay when the others are retried."""
    with serve(profiles=60, faults=[Fault("status", status=400, page=3)]) as mp:
        kernel.run(known(mp) + "job = mpnb.start_profiles(page_size=10, quota=WIDE)\njob")
        [grid] = kernel.comms("Grid")
        kernel.until(lambda: kernel.state(grid)["info"]["phase"] == "failed")
        done = [(page, "done") for page in range(6)]
        kernel.until(lambda: "retry" in kernel.enabled(grid))
        assert cells(kernel, grid) == [*done[:3], (3, "failed"), *done[4:]]
        info = kernel.state(grid)["info"]
        assert (info["title"], info["terms"]["batch"]) == ("profiles", "page")
        assert dict(info["facts"])["pages"] == "5 of 6"
        assert [f["kind"] for f in info["failures"]] == ["http"]
        kernel.say(grid, {"type": "cell", "index": 3})
        kernel.until(lambda: any(m["type"] == "cell" for m in kernel.heard(grid)))
        assert not kernel.heard(grid)[-1]["retry"]
        assert "Nothing was changed" in picture(kernel)
        assert "result = job.outcome().retry()" in picture(kernel)
        kernel.say(grid, {"type": "retry"})
        kernel.until(lambda: kernel.state(grid)["info"]["phase"] == "done")
        assert cells(kernel, grid) == [*done, (AGAIN, "done")]
        kernel.until(lambda: "60 in table" in picture(kernel))
        assert 'title="page 0 – page 0 again: done, 7 pages"' in picture(kernel)
        assert len([r for r in mp.requests if r.params["page"] == "1"]) == 1


def test_a_call_that_blocks_its_cell_shows_the_grid(kernel: Kernel, known: Known) -> None:
    """It ends as a picture of the result, which the cell does not show twice; what raises says what to run again."""
    with serve(profiles=25) as mp:
        kernel.run(known(mp))
        began = len(kernel.messages)
        kernel.run("people = mpnb.export_profiles(page_size=10, quota=WIDE)\npeople")
        types = [m["msg_type"] for m in kernel.messages[began:]]
        assert types.count("execute_result") == 0
        assert "25 in table" in picture(kernel)
        assert 'title="page 0 – page 0 again: done, 4 pages"' in picture(kernel)
        mp.add_fault(Fault("status", status=402, times=None))
        said = kernel.run("people = mpnb.export_profiles(page_size=10, quota=WIDE, mode='refresh')")
        assert "ProfilesError" in said
        assert "run the same call again" in picture(kernel)
        kernel.run("%load_ext mpnb\nagain = %mpprofiles --page-size 10 --per-second 1000")
        assert "none fetched: the profiles were there already" in picture(kernel)


def test_cancel_is_heard_while_a_cell_blocks(kernel: Kernel, known: Known) -> None:
    """It comes on the control channel, as with events; the snapshot that was there stays."""
    with serve(profiles=30, faults=[Fault("hang", page=2)]) as mp:
        cell = kernel.begin(known(mp) + "people = mpnb.export_profiles(page_size=10, quota=WIDE)")
        kernel.until(lambda: bool(kernel.comms("Grid")))
        [grid] = kernel.comms("Grid")
        kernel.until(lambda: (2, "fetching") in cells(kernel, grid))
        press = {"type": "cancel", "press": "p", "grid": kernel.state(grid)["key"]}
        kernel.client.control_channel.send(kernel.client.session.msg("mpnb_press", press))
        assert "ProfilesCancelled" in kernel.finish(cell)
        kernel.until(lambda: "cancelled" in [status for _, status in cells(kernel, grid)])


def test_the_panel_exports_profiles(kernel: Kernel, known: Known) -> None:
    """Another choice in the same form: planned, started, shown and kept as events are; and back to events."""
    with serve(profiles=25) as mp:
        kernel.run(known(mp) + "panel = mpnb.panel()\npanel")
        [grid], [fields] = kernel.comms("Grid"), kernel.comms("Fields")
        kernel.until(lambda: "start" in kernel.enabled(grid))
        assert kernel.state(grid)["info"]["terms"]["batch"] == "batch"
        values = kernel.state(fields)["values"]
        kernel.set(fields, values={**values, "kind": "profiles", "people_page_size": "10"})
        kernel.until(lambda: kernel.state(grid)["info"].get("title") == "profiles" and "start" in kernel.enabled(grid))
        assert cells(kernel, grid) == [(0, "queued")]
        assert "people = mpnb.export_profiles(page_size=10)" in kernel.state(grid)["info"]["code"]
        kernel.say(grid, {"type": "start"})
        kernel.until(lambda: kernel.state(grid)["info"]["phase"] == "done")
        assert cells(kernel, grid) == [(0, "done"), (1, "done"), (2, "done"), (AGAIN, "done")]
        kernel.until(lambda: "new" in kernel.enabled(grid))
        assert "explore" not in kernel.enabled(grid)
        assert kernel.state(fields)["info"]["folded"] == "all profiles · table profiles"
        assert kernel.run("print(panel.result.total_rows, len(panel.result.typed().columns) > 1)") == "25 True"
        kernel.say(grid, {"type": "edit"})
        kernel.until(lambda: kernel.state(grid)["info"]["phase"] == "idle")
        assert {status for _, status in cells(kernel, grid)} == {"skipped"}
        kernel.set(fields, values={**values, "kind": "events"})
        kernel.until(lambda: "days there already" in dict(kernel.state(grid)["info"].get("facts", [])))
        assert kernel.state(grid)["info"]["terms"]["batch"] == "batch"
