"""The panel in a kernel: what goes over the wire, and what happens when nobody is there to see it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path

import duckdb
import nbformat
import pytest
from nbclient import NotebookClient
from nbconvert import HTMLExporter

from mpnb._planning.states import STATUSES
from mpnb.sandbox import Fault, Sandbox, serve
from tests._kernels import KERNEL_PATH, KERNEL_VERSION, environment
from tests.panel._kernel import Kernel
from tests.panel.conftest import Gate

Known = Callable[[Sandbox], str]
DONE, FETCHING = STATUSES.index("done"), STATUSES.index("fetching")


def statuses(state: bytes) -> list[int]:
    """Give the places of the statuses of a grid's batches."""
    return [byte & 15 for byte in state]


# An export whose engine does nothing but change the state of 1,000 batches five times each, evenly over 30 seconds.
PACED = """
import threading, time
from datetime import date, timedelta
from mpnb._storing import tables as layout
from mpnb._exporting.board import BatchBoard
from mpnb._exporting.callbacks import Callbacks
from mpnb._exporting import handles
from mpnb._planning.plan import Batch
from mpnb._exporting.run import Run
from mpnb._planning.states import outcome_of
from mpnb._reading.reader import Reader
from mpnb._reading.selection import Selection
from mpnb._storing.database import Store

COUNT, SECONDS = 1000, 30.0
CHANGES = ("waiting", "fetching", "writing", "failed", "done")
FIRST = date(2020, 1, 1)
days = [FIRST + timedelta(days=i) for i in range(COUNT)]
board = BatchBoard(lambda progress: None)
board.add([(Batch(day, day), "queued", 0) for day in days])
store = Store(":memory:")
layout.create(store.cursor(), "events")

class Paced:
    cancelled, halted_by, quota_left = False, None, 60
    def start(self):
        pass
    def run(self):
        pause, began = threading.Event(), time.monotonic()
        for number in range(COUNT * len(CHANGES)):
            wave, index = divmod(number, COUNT)
            pause.wait(max(0.0, began + number * SECONDS / (COUNT * len(CHANGES)) - time.monotonic()))
            board.set(index, CHANGES[wave], rows=number)
        board.finish()

def make_result():
    outcome = outcome_of({"done": COUNT}, rows=0, rejected=0, size=0, seconds=SECONDS)
    return handles.make_result(Reader(store, Selection("events", (days[0], days[-1]))), outcome, None, call="result")

run = Run(engine=Paced(), board=board, callbacks=Callbacks(None), store=store, make_result=make_result,
          on_end=lambda: None, in_background=False, memory=None)
job = handles.make_job(run)
run.start()
run.begin()
job.panel()
"""


def test_the_kernel_is_the_one_that_was_asked_for(kernel: Kernel) -> None:
    """``MPNB_KERNEL_PATH`` decides which ipykernel these tests run on, and ``MPNB_KERNEL_VERSION`` says which it is."""
    said = kernel.run("import ipykernel; print(ipykernel.__version__, ipykernel.__file__)")
    print(f"ipykernel {said}")
    version, place = said.split(maxsplit=1)
    assert Path(place).is_relative_to(Path(KERNEL_PATH).absolute() if KERNEL_PATH else sys.prefix)
    assert f"{version}.".startswith(f"{KERNEL_VERSION}." if KERNEL_VERSION else "")


def test_a_thousand_batches_in_four_hundred_messages(kernel: Kernel) -> None:
    """1,000 batches that change five times each in 30 s take at most 400 messages and 1 MB, and end right."""
    assert kernel.run(PACED) == ""
    [grid] = kernel.comms("Grid")
    kernel.until(lambda: kernel.state(grid)["info"]["phase"] == "done")
    kernel.until(lambda: kernel.state(grid)["info"]["keep"])
    for _ in range(20):  # what comes once more, three seconds later
        kernel.listen(0.25)
    comms = [size for m, size in zip(kernel.messages, kernel.sizes, strict=True) if m["msg_type"].startswith("comm")]
    print(f"1,000 batches that change five times each in 30 s: {len(comms)} messages, {sum(comms):,} bytes")
    assert len(comms) <= 400
    assert sum(comms) <= 10**6
    assert statuses(kernel.state(grid)["state"]) == [DONE] * 1000


def test_the_pump_takes_three_percent(kernel: Kernel, known: Known) -> None:
    """The thread that touches the widgets takes at most 3 % of the CPU of an export, and stays under its messages."""
    with serve(events_per_day=300, latency=0.2) as mp:
        kernel.run(known(mp))
        used = kernel.run(
            "import json, time; from mpnb._notebook.panel._pump import pump; before = time.process_time()\n"
            "r = mpnb.export('2024-01-01', '2024-10-26', chunk_days=1, quota=WIDE)\n"
            "print(json.dumps([pump.cpu_seconds, time.process_time() - before, r.duration_seconds, r.total_rows]))"
        )
        pump, process, seconds, rows = json.loads(used)
        print(f"pump: {pump:.3f} s of {process:.2f} s of CPU, {pump / process:.2%}")
        assert rows == mp.count(date(2024, 1, 1), date(2024, 10, 26))
        assert 0 < pump <= 0.03 * process
        comms = [m for m in kernel.messages if m["msg_type"].startswith("comm")]
        assert 10 < len(comms) <= 10 * seconds + 20


def test_a_panel_from_login_to_result(kernel: Kernel, known: Known) -> None:
    """Messages of a browser log in, start, retry and close; a cell gets the result; the secret is never published."""
    with serve(events_per_day=20, faults=[Fault("status", day="2026-01-02", status=400)]) as mp:
        own = mp.credentials
        kernel.run(f"import os, mpnb\nos.environ['MP_API_BASE_URL'] = {own.base_url!r}")
        kernel.run("panel = mpnb.panel(from_date='2026-01-01', to_date='2026-01-04', chunk_days=1,"
                   " quota=mpnb.Quota(per_second=1000))\npanel")  # fmt: skip
        [grid], [login] = kernel.comms("Grid"), kernel.comms("Login")
        kernel.until(lambda: kernel.state(grid)["info"].get("title"))
        assert "start" not in kernel.enabled(grid)
        assert "quota left" not in dict(kernel.state(grid)["info"]["facts"])
        assert "nothing was exported yet" in kernel.run("panel.result")
        kernel.say(
            login,
            {"type": "login", "username": own.username, "secret": own.secret, "project_id": own.project_id,
             "region": "us"},
        )  # fmt: skip
        kernel.until(lambda: "start" in kernel.enabled(grid))
        kernel.say(grid, {"type": "start"})
        kernel.until(lambda: "retry" in kernel.enabled(grid))
        state = kernel.state(grid)
        assert [STATUSES[byte & 15] for byte in state["state"]] == ["done", "failed", "done", "done"]
        assert state["info"]["failures"][0]["kind"] == "http"
        kernel.say(grid, {"type": "retry"})
        swapped = lambda: [m for m in kernel.messages if m["msg_type"] == "update_display_data"]  # noqa: E731
        kernel.until(swapped)
        kernel.until(lambda: "Batches: 4 done" in swapped()[-1]["content"]["data"]["text/html"])
        served = sum(len(mp.lines(day)) for day in {r.from_date for r in mp.requests})
        assert kernel.run("print(len(panel.result.events.fetchall()))") == str(served)
        assert own.secret not in json.dumps(kernel.messages, default=str)


CALL = "mpnb.export('2026-01-01', '2026-01-03', chunk_days=1, quota=WIDE)"
MAGIC = "%mpexport 2026-01-01 2026-01-03 --chunk-days 1 --per-second 1000"
START = CALL.replace("export", "start")


@pytest.mark.parametrize(
    ("cell", "hint"),
    [
        (f"jan = {CALL}", "jan = jan.retry()"),
        (f"from mpnb import export\njan: object = {CALL.removeprefix('mpnb.')}", "jan = jan.retry()"),
        (f"jan = {MAGIC}", "%mpexport --retry"),
        (f"{MAGIC} --as jan", "%mpexport --retry"),
        (f"jan = {MAGIC}; # twice", "%mpexport --retry"),
        (f"job = {START}\njob.panel()", "result = job.outcome().retry()"),
        (f"{MAGIC} --bg", "%mpexport --retry"),
    ],
)
def test_the_hint_to_retry_works_as_it_is_typed(kernel: Kernel, known: Known, cell: str, hint: str) -> None:
    """What the display of an export says one should type, in a cell of its own, fetches what is missing."""
    with serve(events_per_day=20, faults=[Fault("status", day="2026-01-02", status=400)]) as mp:
        kernel.run(known(mp) + "\n%load_ext mpnb")
        assert "Error" not in kernel.run(cell)
        ended = lambda: [m for m in kernel.messages if m["msg_type"] == "update_display_data"]  # noqa: E731
        kernel.until(ended)
        [typed] = re.findall("Retry them with <code>(.*?)</code>", ended()[0]["content"]["data"]["text/html"])
        assert typed == hint
        assert "Error" not in kernel.run(typed)
        assert kernel.run("print(mpnb.open().total_rows)") == str(mp.count(date(2026, 1, 1), date(2026, 1, 3)))


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        (CALL, "To retry them, run the same call again"),
        (f"{START}.panel()", "To retry them, call retry() on this result"),
        (f"a = {CALL}; b = {CALL}", "To retry them, run the same call again"),
        ("jan = mpnb.export('2026-01-02', '2026-01-02', quota=WIDE)", "To retry them, run the same call again"),
    ],
    ids=["unassigned", "job unassigned", "two of them", "nothing returned"],
)
def test_no_hint_names_a_variable_that_is_not_there(kernel: Kernel, known: Known, cell: str, words: str) -> None:
    """Where it is not known what holds the result, or nothing was returned, words say what to do."""
    with serve(events_per_day=20, faults=[Fault("status", day="2026-01-02", status=400)]) as mp:
        kernel.run(known(mp))
        kernel.run(cell)
        ended = lambda: [m for m in kernel.messages if m["msg_type"] == "update_display_data"]  # noqa: E731
        kernel.until(ended)
        html = ended()[0]["content"]["data"]["text/html"]
        assert words in html
        assert ".retry()" not in html


def test_after_an_interrupt_the_same_call_is_the_hint(kernel: Kernel, known: Known, gate: Gate) -> None:
    """A cell that was stopped has assigned nothing: its display says what does go on."""
    with serve(events_per_day=20, lines=gate.lines) as mp, gate:
        kernel.run(known(mp))
        cell = kernel.begin(f"jan = {CALL}")
        fetching = STATUSES.index("fetching")
        kernel.until(lambda: any(fetching in kernel.state(grid).get("state", b"") for grid in kernel.comms("Grid")))
        kernel.manager.interrupt_kernel()
        assert "KeyboardInterrupt" in kernel.finish(cell)
        ended = lambda: [m for m in kernel.messages if m["msg_type"] == "update_display_data"]  # noqa: E731
        kernel.until(ended)
        html = ended()[0]["content"]["data"]["text/html"]
        assert "To retry them, run the same call again" in html
        assert ".retry()" not in html


def test_a_click_starts_what_the_fields_say_then(kernel: Kernel, known: Known) -> None:
    """A field that changes at the moment of the click counts: it is planned once more before the start."""
    with serve(events_per_day=5) as mp:
        kernel.run(known(mp))
        kernel.run("panel = mpnb.panel(from_date='2026-01-01', to_date='2026-01-04', chunk_days=1, quota=WIDE)\npanel")
        [grid] = kernel.comms("Grid")
        kernel.until(lambda: len(kernel.state(grid)["state"]) == 4)
        [fields] = kernel.comms("Fields")
        # The plan that follows the click cannot be made before the field has changed.
        kernel.run("import threading; there = threading.Event(); panel._worker.submit(there.wait)")
        kernel.say(grid, {"type": "start"})
        kernel.until(lambda: kernel.state(grid)["info"]["phase"] == "starting")
        kernel.set(fields, values={**kernel.state(fields)["values"], "chunk_days": "2"})
        kernel.run("there.set()")
        kernel.until(lambda: kernel.state(grid)["info"]["phase"] == "done")
        assert [STATUSES[byte & 15] for byte in kernel.state(grid)["state"]] == ["done", "done"]
        assert len(mp.requests) == 2


def test_a_cell_is_asked_for_and_told(kernel: Kernel, known: Known, gate: Gate) -> None:
    """A view that asks for a cell gets its details, and nothing for a cell that is not there."""
    with serve(lines=gate.lines) as mp, gate:
        kernel.run(known(mp))
        kernel.run("job = mpnb.start('2026-01-01', '2026-01-02', chunk_days=1, quota=WIDE)\njob.panel()")
        [grid] = kernel.comms("Grid")
        kernel.until(lambda: kernel.state(grid)["state"] == bytes([FETCHING] * 2))
        for index in (99, "x", None, 1):
            kernel.say(grid, {"type": "cell", "index": index})
        kernel.until(lambda: kernel.heard(grid))
        assert [answer["index"] for answer in kernel.heard(grid)] == [1]
        assert ["attempt", "1"] in kernel.heard(grid)[0]["facts"]
        kernel.say(grid, {"type": "cancel"})
        kernel.until(lambda: kernel.state(grid)["info"]["phase"] == "cancelled")
        assert "ExportCancelled" in kernel.run("job.result()")


def test_a_locked_database_is_tried_again(kernel: Kernel, known: Known) -> None:
    """A database that another process holds says so beside its field; once that lets go, Start starts."""
    with serve(events_per_day=5) as mp:
        kernel.run(known(mp))
        place = kernel.run("import os; print(os.path.abspath('x.duckdb'))")
        with duckdb.connect(place):
            kernel.run("panel = mpnb.panel(from_date='2026-01-01', to_date='2026-01-02', database='x.duckdb')\npanel")
            [grid] = kernel.comms("Grid")
            [fields] = kernel.comms("Fields")
            said = lambda: kernel.state(fields)["info"]["errors"].get("database", "")  # noqa: E731
            kernel.until(lambda: "x.duckdb is open in another process" in said())
            kernel.until(lambda: "start" in kernel.enabled(grid))
        kernel.say(grid, {"type": "start"})
        kernel.until(lambda: kernel.state(grid)["info"]["phase"] == "done")
        assert kernel.run("print(panel.result.total_rows)") == str(mp.count(date(2026, 1, 1), date(2026, 1, 2)))


def test_a_secret_that_is_refused_is_asked_for_again(kernel: Kernel) -> None:
    """Where Mixpanel refuses a secret, the panel says so where it is typed, and a retry takes another one."""
    with serve(events_per_day=5) as mp:
        own = mp.credentials
        kernel.run(f"import os, mpnb\nos.environ['MP_API_BASE_URL'] = {own.base_url!r}")
        kernel.run("panel = mpnb.panel(from_date='2026-01-01', to_date='2026-01-02')\npanel")
        [grid], [login] = kernel.comms("Grid"), kernel.comms("Login")
        typed = {"type": "login", "username": own.username, "project_id": own.project_id, "region": "us"}
        kernel.say(login, {**typed, "secret": "of another account"})  # pragma: allowlist secret
        kernel.until(lambda: "start" in kernel.enabled(grid))
        kernel.say(grid, {"type": "start"})
        kernel.until(lambda: kernel.state(grid)["info"].get("failures"))
        assert kernel.state(grid)["info"]["failures"][0]["kind"] == "auth"
        kernel.until(lambda: "Mixpanel refuses these" in kernel.state(login)["info"]["error"])
        assert "retry" not in kernel.enabled(grid)
        kernel.say(login, {**typed, "secret": own.secret})
        kernel.until(lambda: "retry" in kernel.enabled(grid))
        assert not kernel.state(login)["info"]["error"]
        kernel.say(grid, {"type": "retry"})
        kernel.until(lambda: kernel.state(grid)["info"]["phase"] == "done")


def test_a_panel_that_was_run_again_shows_what_the_first_started(kernel: Kernel, known: Known, gate: Gate) -> None:
    """A cell that is run again in mid-run offers to show the export that is running, and cancels that."""
    cell = "panel = mpnb.panel(from_date='2026-01-01', to_date='2026-01-04', chunk_days=1, quota=WIDE)\npanel"
    with serve(lines=gate.lines) as mp, gate:
        kernel.run(known(mp))
        kernel.run(cell)
        [first] = kernel.comms("Grid")
        kernel.until(lambda: "start" in kernel.enabled(first))
        kernel.say(first, {"type": "start"})
        kernel.until(lambda: "cancel" in kernel.enabled(first))
        kernel.run(cell)
        _, second = kernel.comms("Grid")
        kernel.until(lambda: "show" in kernel.enabled(second))
        assert "start" not in kernel.enabled(second)
        kernel.say(second, {"type": "show"})
        kernel.until(lambda: kernel.state(second)["state"] == bytes([FETCHING] * 4))
        kernel.say(second, {"type": "cancel"})
        for grid in (first, second):
            kernel.until(lambda grid=grid: kernel.state(grid)["info"]["phase"] == "cancelled")
        assert "ExportCancelled" in kernel.run("panel.job.result()")


def test_the_last_state_is_sent_once_more(kernel: Kernel, known: Known) -> None:
    """A server that drops messages over its rate limit may have dropped the one that counts: it comes a second time."""
    with serve(events_per_day=5) as mp:
        kernel.run(known(mp))
        kernel.run("job = mpnb.start('2026-01-01', '2026-01-03', chunk_days=1, quota=WIDE)\njob.panel()")
        [grid] = kernel.comms("Grid")

        def states() -> list[bytes]:
            datas = [m["content"]["data"] for m in kernel.messages if m["content"].get("comm_id") == grid]
            buffers = [m["buffers"] for m in kernel.messages if m["content"].get("comm_id") == grid]
            return [
                bytes(buffer)
                for data, some in zip(datas, buffers, strict=True)
                for path, buffer in zip(data.get("buffer_paths", []), some, strict=True)
                if path == ["state"]
            ]

        kernel.until(lambda: [statuses(state) for state in states()[-2:]] == [[DONE] * 3] * 2, 20)


def test_an_export_in_a_thread_shows_its_grid(kernel: Kernel, known: Known) -> None:
    """``mpnb.export()`` in a thread of a cell's own shows the grid and leaves what stays, as in a cell."""
    with serve(events_per_day=5) as mp:
        kernel.run(known(mp))
        kernel.run(
            "import threading\nargs = ('2026-01-01', '2026-01-02')\n"
            "thread = threading.Thread(target=mpnb.export, args=args, kwargs={'quota': WIDE})\n"
            "thread.start(); thread.join()"
        )
        [grid] = kernel.comms("Grid")
        assert kernel.state(grid)["info"]["phase"] == "done"
        swapped = [m for m in kernel.messages if m["msg_type"] == "update_display_data"]
        assert "Batches: 1 done" in swapped[0]["content"]["data"]["text/html"]


def test_await_a_job_while_its_panel_shows_it(kernel: Kernel, known: Known) -> None:
    """``await job`` in a cell lets the panel work, and gives the result."""
    with serve(events_per_day=20, latency=0.3) as mp:
        kernel.run(known(mp))
        kernel.run("job = mpnb.start('2026-01-01', '2026-01-06', chunk_days=1, workers=2, quota=WIDE)\njob.panel()")
        assert kernel.run("print((await job).successful_batches)") == "6"
        [grid] = kernel.comms("Grid")
        kernel.until(lambda: kernel.state(grid)["info"]["phase"] == "done")
        assert statuses(kernel.state(grid)["state"]) == [DONE] * 6


def test_a_panel_lets_go_of_its_result(kernel: Kernel, known: Known) -> None:
    """Once nobody holds a result, its database is closed: the widgets, which stay, hold on to nothing of it."""
    with serve(events_per_day=5) as mp:
        kernel.run(known(mp))
        kernel.run("mpnb.export('2026-01-01', '2026-01-02', quota=WIDE, database='x.duckdb').total_rows")
        kernel.run(
            "job = mpnb.start('2026-01-03', '2026-01-04', quota=WIDE, database='x.duckdb')\ndisplay(job.panel())"
        )
        kernel.run("job.result().total_rows; del job")
        count = "import gc; gc.collect(); print(sum(isinstance(o, mpnb.ExportJob) for o in gc.get_objects()))"
        kernel.until(lambda: kernel.run(count) == "0")
        kernel.run("import subprocess, sys")
        opened = kernel.run(
            "print(subprocess.run([sys.executable, '-c', 'import duckdb; duckdb.connect(\"x.duckdb\")']).returncode)"
        )
        assert opened == "0"


def test_a_display_that_fails_never_fails_the_export(kernel: Kernel, known: Known) -> None:
    """Where the grid cannot be made or swapped, the export goes on to its end."""
    with serve(events_per_day=5) as mp:
        kernel.run(known(mp))
        export = "print(mpnb.export('2026-01-01', '2026-01-02', chunk_days=1, quota=WIDE, database={!r}).fetched_rows)"
        rows = str(mp.count(date(2026, 1, 1), date(2026, 1, 2)))
        kernel.run(
            "from mpnb._notebook.panel import _live, _frontend\ndef broken(*a, **k): raise RuntimeError('no screen')"
        )
        kernel.run("grid, _live.Grid = _live.Grid, broken")
        assert kernel.run(export.format("a.duckdb")) == rows
        kernel.run("_live.Grid, _frontend.swap, _live.SWAP_SECONDS = grid, broken, 0.5")
        assert kernel.run(export.format("b.duckdb")) == rows


def notebook(*cells: str) -> nbformat.NotebookNode:
    """Make a notebook."""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    book.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return book


@pytest.fixture
def execute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run a notebook with nbclient, as papermill does, and give the file that it leaves, widgets' state included."""
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)

    def run(*cells: str) -> str:
        book = notebook(*cells)
        client = NotebookClient(book, timeout=60, resources={"metadata": {"path": str(tmp_path)}})
        client.create_kernel_manager().kernel_spec_manager.kernel_dirs = [str(tmp_path / "data" / "kernels")]
        client.execute()
        return nbformat.writes(book)

    return run


def test_nobody_there_to_see_it(execute: Callable[..., str], known: Known) -> None:
    """Without a front end, under nbclient, the cell holds the static result and no widget, and nbconvert shows it."""
    with serve(events_per_day=10, faults=[Fault("status", day="2026-01-02", status=400)]) as mp:
        cell = "result = mpnb.export('2026-01-01', '2026-01-03', chunk_days=1, quota=WIDE)"
        saved = execute(known(mp), cell)
    [output] = json.loads(saved)["cells"][1]["outputs"]
    assert sorted(output["data"]) == ["text/html", "text/plain"]
    html, _ = HTMLExporter(template_name="basic").from_notebook_node(nbformat.reads(saved, as_version=4))
    assert 'aria-label="Batches: 2 done, 1 failed"' in html
    assert "result = result.retry()" in html


def test_the_secret_is_in_no_saved_notebook(execute: Callable[..., str]) -> None:
    """A secret that was typed is in no notebook that nbclient saves, whatever cells show of the panel and its parts."""
    with serve(events_per_day=5) as mp:
        own = mp.credentials
        typed = {"type": "login", "username": own.username, "project_id": own.project_id, "region": "us"}
        # In two halves, so that the code itself does not hold it.
        half = len(own.secret) // 2
        saved = execute(
            f"import os, mpnb\nos.environ['MP_API_BASE_URL'] = {own.base_url!r}\n"
            f"secret = {own.secret[:half]!r} + {own.secret[half:]!r}\n"
            "panel = mpnb.panel(from_date='2026-01-01', to_date='2026-01-02')\npanel",
            f"panel._login._handle_custom_msg({typed!r} | {{'secret': secret}}, [])\n"
            "from tests._helpers import until\n"
            "until(lambda: panel._screen.grid.info['actions'][0]['enabled'], 60)\npanel",
            "panel._screen.grid._handle_custom_msg({'type': 'start'}, [])\n"
            "until(lambda: panel.job and panel.job.done(), 60)\nprint(panel.result.total_rows, panel.job)",
            "panel._credentials, panel._asked",
            "panel",
        )
    assert str(mp.count(date(2026, 1, 1), date(2026, 1, 2))) in saved
    assert "application/vnd.jupyter.widget-state+json" in saved
    assert own.username in saved
    assert own.secret not in saved


def test_outputs_are_the_same_each_time(execute: Callable[..., str], known: Known) -> None:
    """No output holds an address or a number that another run would change, so that nbval can compare."""
    with serve(events_per_day=5) as mp:
        cells = (
            known(mp),
            "panel = mpnb.panel(from_date='2026-01-01', to_date='2026-01-02')\npanel",
            "panel._screen.grid",
        )
        first, second = (json.loads(execute(*cells))["cells"] for _ in range(2))
    plain = [[o["data"]["text/plain"] for c in cells for o in c["outputs"]] for cells in (first, second)]
    assert plain[0] == plain[1]
    assert not re.search("0x[0-9a-f]{6}", str(plain))


def test_a_terminal_gets_text(tmp_path: Path, known: Known) -> None:
    """In IPython without a kernel the export prints lines, and the panel and a job say what to do instead."""
    with serve(events_per_day=5) as mp:
        code = known(mp) + (
            "r = mpnb.export('2026-01-01', '2026-01-02', chunk_days=1, quota=WIDE)\n"
            "from IPython.display import display\n"
            "display(mpnb.panel())\n"
            "job = mpnb.start('2026-01-01', '2026-01-02', quota=WIDE)\n"
            "job.result(30)\n"
            "display(job.panel())\n"
        )
        command = [sys.executable, "-m", "IPython", "--colors=NoColor", "-c", code]
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment(tmp_path), cwd=tmp_path, timeout=60
        )
    assert done.returncode == 0, done.stderr
    assert "mpnb: 2026-01-01 done" in done.stderr
    assert "The panel needs a notebook" in done.stdout
    assert "<JobPanel of <ExportJob done: 2 of 2 batches" in done.stdout


def test_importing_mpnb_loads_no_widgets() -> None:
    """``import mpnb`` loads neither ipywidgets nor IPython, and an export without a kernel does not either."""
    heavy = "('ipywidgets', 'anywidget', 'traitlets', 'IPython', 'pandas', 'polars')"
    with serve(events_per_day=5) as mp:
        c = mp.credentials
        code = (
            "import sys, mpnb\n"
            f"found = [name for name in {heavy} if name in sys.modules]\n"
            f"mpnb.export('2026-01-01', '2026-01-01', database=':memory:', credentials=mpnb.Credentials({c.username!r},"
            f" {c.secret!r}, {c.project_id!r}, base_url={c.base_url!r}))\n"
            f"print(found, [name for name in {heavy} if name in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[] []"


def outputs_of(kernel: Kernel, cell: str) -> list[str]:
    """Run a cell to its end, and give what its outputs show then, those of widgets that are still live left out."""
    code = kernel.begin(cell)
    said = kernel.finish(code)
    shown: dict[str, str] = {}
    for message in kernel.messages:
        content = message["content"]
        if message["msg_type"] in ("display_data", "update_display_data"):
            if message["parent_header"].get("msg_id") == code or content["transient"].get("display_id") in shown:
                shown[content["transient"].get("display_id", f"d{len(shown)}")] = content["data"].get("text/html", "")
        elif message["parent_header"].get("msg_id") == code and message["msg_type"] in ("execute_result", "stream"):
            shown[f"o{len(shown)}"] = str(content.get("data", content.get("text")))
    assert "Error" not in said
    return [text for text in shown.values() if text and 'class="mpnb-none"' not in text]


@pytest.mark.parametrize(
    "cell",
    [
        CALL,
        f"jan = {CALL}\njan",
        MAGIC,
        f"{MAGIC} --as jan",
        f"jan = {MAGIC}",
    ],
)
def test_an_export_in_a_cell_shows_one_picture(kernel: Kernel, known: Known, cell: str) -> None:
    """The grid ends as a picture of the result, and neither the result nor a line on standard error says it again."""
    with serve(events_per_day=20, faults=[Fault("status", day="2026-01-02", status=400)]) as mp:
        kernel.run(known(mp) + "\n%load_ext mpnb")
        [picture] = outputs_of(kernel, cell)
        assert "Batches: 2 done, 1 failed" in picture


def test_a_result_shows_itself_in_every_other_cell(kernel: Kernel, known: Known) -> None:
    """One picture a cell is not one for ever: a later cell shows the result as ever."""
    with serve(events_per_day=20) as mp:
        kernel.run(known(mp))
        outputs_of(kernel, f"jan = {CALL}")
        [result] = outputs_of(kernel, "jan")
        assert "3 fetched" in result


@pytest.mark.parametrize(
    "cell",
    [
        f"job = {START}\njob",
        f"{MAGIC} --bg",
        f"job = {START}\ndisplay(job.panel())\njob",
    ],
)
def test_a_job_shows_its_grid_once(kernel: Kernel, known: Known, gate: Gate, cell: str) -> None:
    """A cell that ends with a job shows it live, with Cancel, then its picture; beside its panel it shows nothing."""
    with serve(events_per_day=20, lines=gate.lines) as mp, gate:
        kernel.run(known(mp) + "\n%load_ext mpnb")
        assert len(outputs_of(kernel, cell)) == 1
        [grid] = kernel.comms("Grid")
        kernel.until(lambda: kernel.enabled(grid) == ["cancel"])
        gate.opened.set()
        kernel.until(lambda: kernel.state(grid)["info"]["phase"] == "done")
        pictures = lambda: [m for m in kernel.messages if m["msg_type"] == "update_display_data"]  # noqa: E731
        kernel.until(lambda: any("Batches: 3 done" in m["content"]["data"]["text/html"] for m in pictures()))


def test_a_job_that_failed_retries_in_its_display(kernel: Kernel, known: Known) -> None:
    """Its buttons stay after the end, a retry shows in all of its displays, and the last picture stays."""
    with serve(events_per_day=20, faults=[Fault("status", day="2026-01-02", status=400)]) as mp:
        kernel.run(known(mp))
        kernel.run(f"job = {START}\njob")
        kernel.run("job.panel()")
        one, two = kernel.comms("Grid")
        for grid in (one, two):
            kernel.until(lambda grid=grid: kernel.enabled(grid) == ["retry"])
        kernel.say(two, {"type": "retry"})
        for grid in (one, two):
            kernel.until(lambda grid=grid: kernel.state(grid)["info"]["phase"] == "done")
        pictures = lambda: [m for m in kernel.messages if m["msg_type"] == "update_display_data"]  # noqa: E731
        kernel.until(lambda: sum("Batches: 3 done" in m["content"]["data"]["text/html"] for m in pictures()) >= 2)
        assert kernel.run("print(job.result().total_rows)") == str(mp.count(date(2026, 1, 1), date(2026, 1, 3)))


def test_one_batch_is_retried(kernel: Kernel, known: Known) -> None:
    """A cell of the grid offers to fetch its batch again, and only that, as far as that makes sense; and its code."""
    faults = [Fault("status", day=f"2026-01-0{n}", status=400) for n in (1, 3)]
    with serve(events_per_day=20, faults=faults) as mp:
        kernel.run(known(mp))
        kernel.run("panel = mpnb.panel(from_date='2026-01-01', to_date='2026-01-04', chunk_days=1, quota=WIDE)\npanel")
        [grid] = kernel.comms("Grid")
        kernel.until(lambda: "start" in kernel.enabled(grid))
        kernel.say(grid, {"type": "start"})
        kernel.until(lambda: "retry" in kernel.enabled(grid))
        assert kernel.state(grid)["info"]["failures"][0]["cells"] == [0, 2]
        for index in (1, 2):
            kernel.say(grid, {"type": "cell", "index": index})
        kernel.until(lambda: len(kernel.heard(grid)) >= 2)
        done, failed = (answer for answer in kernel.heard(grid) if answer["type"] == "cell")
        assert (done["retry"], failed["retry"]) == (False, True)
        assert '"2026-01-03",\n    "2026-01-03",\n    chunk_days=1,' in failed["code"]
        before = len(mp.requests)
        kernel.say(grid, {"type": "retry_batch", "index": 2})
        kernel.until(lambda: [byte & 15 for byte in kernel.state(grid)["state"]].count(DONE) == 3)
        kernel.until(lambda: "retry" in kernel.enabled(grid))
        assert [r.from_date for r in mp.requests[before:]] == [date(2026, 1, 3)]
        assert kernel.state(grid)["info"]["failures"][0]["cells"] == [0]
        assert kernel.run("print(panel.result.failures.fetchall()[0][0])") == "2026-01-01"


def test_what_cannot_come_is_not_retried(kernel: Kernel, known: Known) -> None:
    """After a wrong filter, Edit is what one does next: it opens the form, and Start exports what that says then."""
    bad = Fault("status", status=400, times=None, body="unable to parse 'where'")
    with serve(events_per_day=20, faults=[bad]) as mp:
        kernel.run(known(mp))
        kernel.run(
            "panel = mpnb.panel(from_date='2026-01-01', to_date='2026-01-02', chunk_days=1, quota=WIDE,"
            " where='wrong')\npanel"
        )
        [grid], [fields] = kernel.comms("Grid"), kernel.comms("Fields")
        kernel.until(lambda: "start" in kernel.enabled(grid))
        kernel.say(grid, {"type": "start"})
        kernel.until(lambda: "edit" in kernel.enabled(grid))
        assert "retry" not in kernel.enabled(grid)
        primary = [a["id"] for a in kernel.state(grid)["info"]["actions"] if a.get("look") == "primary"]
        assert primary == ["edit"]
        assert (
            kernel.state(fields)["info"]["folded"]
            == "2 days, 2026-01-01 – 2026-01-02 · all events · where … · table events"
        )
        kernel.say(grid, {"type": "edit"})
        kernel.until(lambda: kernel.enabled(grid) == ["start", "back", "copy"])
        assert kernel.state(fields)["info"]["folded"] == ""
        values = kernel.state(fields)["values"]
        kernel.set(fields, values={**values, "kind": "profiles"})
        kernel.until(lambda: kernel.state(grid)["info"].get("title") == "profiles")
        kernel.say(grid, {"type": "back"})
        kernel.until(lambda: "edit" in kernel.enabled(grid))
        assert kernel.state(grid)["info"]["failures"]
        # What is told is of the export that shows, whatever the fields say by now.
        assert kernel.state(fields)["info"]["folded"].startswith("2 days, 2026-01-01 – 2026-01-02 · all events")
        assert "result = mpnb.export(" in kernel.state(grid)["info"]["code"]
        kernel.say(grid, {"type": "edit"})
        mp.clear_faults()
        kernel.set(fields, values={**values, "where": "", "table": "other"})
        kernel.until(lambda: "start" in kernel.enabled(grid))
        kernel.say(grid, {"type": "start"})
        kernel.until(lambda: kernel.state(grid)["info"]["phase"] == "done")
        primary = [a["id"] for a in kernel.state(grid)["info"]["actions"] if a.get("look") == "primary"]
        assert primary == ["explore"]
        kernel.say(grid, {"type": "explore"})
        kernel.until(lambda: "explore" not in kernel.enabled(grid))
        primary = [a["id"] for a in kernel.state(grid)["info"]["actions"] if a.get("look") == "primary"]
        assert primary == ["new"]
        [controls] = kernel.comms("Controls")
        kernel.until(lambda: kernel.state(controls)["answer"].get("html"))
        assert "Any event, each day" in kernel.state(controls)["answer"]["html"]
        kernel.say(grid, {"type": "new"})
        kernel.until(lambda: [m for m in kernel.heard(fields) if m["type"] == "reset"])
        assert kernel.heard(fields)[-1]["values"]["where"] == "wrong"


def test_an_idle_panel_plans_again_when_a_cell_has_exported(kernel: Kernel, known: Known, gate: Gate) -> None:
    """It says that an export is running while one is, and which days are there once it has ended."""
    with serve(events_per_day=20, lines=gate.lines) as mp, gate:
        kernel.run(known(mp))
        kernel.run("panel = mpnb.panel(from_date='2026-01-01', to_date='2026-01-03', chunk_days=1, quota=WIDE)\npanel")
        [grid] = kernel.comms("Grid")
        kernel.until(lambda: "start" in kernel.enabled(grid))
        kernel.run(f"job = {START}")
        kernel.until(lambda: any("is running" in note for note in kernel.state(grid)["info"]["notes"]))
        gate.opened.set()
        kernel.run("job.result()")
        there = lambda: dict(kernel.state(grid)["info"]["facts"]).get("days there already")  # noqa: E731
        kernel.until(lambda: there() == "3")
        assert not any("is running" in note for note in kernel.state(grid)["info"]["notes"])


def test_events_are_suggested_with_their_numbers(kernel: Kernel, known: Known) -> None:
    """The names that the table has, the most frequent first; none, and no error, where there is no table yet."""
    with serve(events_per_day=20) as mp:
        kernel.run(known(mp))
        kernel.run("panel = mpnb.panel(from_date='2026-01-01', to_date='2026-01-03', chunk_days=1, quota=WIDE)\npanel")
        [fields] = kernel.comms("Fields")
        names = lambda: kernel.state(fields)["info"]["names"]  # noqa: E731
        kernel.say(fields, {"type": "names"})
        kernel.until(lambda: names() == [])
        kernel.run(f"jan = {CALL}")
        kernel.say(fields, {"type": "names"})
        kernel.until(names)
        query = "SELECT event_name, count(*) n FROM events GROUP BY 1 ORDER BY n DESC, 1"
        assert str([tuple(each) for each in names()]) == kernel.run(f"print(jan.sql({query!r}).fetchall())")


def test_an_interrupt_is_one_line(kernel: Kernel, known: Known, gate: Gate) -> None:
    """Stopped by ■, a cell says what is kept, without frames of code that is not the user's."""
    with serve(events_per_day=20, lines=gate.lines) as mp, gate:
        kernel.run(known(mp))
        cell = kernel.begin(CALL)
        kernel.until(lambda: any(FETCHING in kernel.state(grid).get("state", b"") for grid in kernel.comms("Grid")))
        kernel.manager.interrupt_kernel()
        kernel.finish(cell)
        [error] = [m["content"] for m in kernel.messages if m["msg_type"] == "error"]
        assert error["ename"] == "KeyboardInterrupt"
        assert error["traceback"] == [f"KeyboardInterrupt: {error['evalue']}"]
