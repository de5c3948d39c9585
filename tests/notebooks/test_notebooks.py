"""The notebooks: each runs from top to bottom and shows what it was saved with, and what was saved reopens anywhere."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

from tests import _kernels

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# What an export that goes on behind its cell shows at the end of the cell depends on the machine; and nbval runs cells
# without a history, in which IPython looks for the semicolon that hides a display.
NOT_COMPARED = {("02_magic", "magic-19"), ("02_magic", "magic-22"), ("05_large_exports", "large-09")}
# A user would stop believing at a minute; a machine that runs all of them at once, and more beside them, takes longer.
SECONDS = 170


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Path, tuple[subprocess.Popen[bytes], Path]]]:
    """Start nbval on all of them at once, since they wait most of the time, each in a home of its own."""
    # Its first import may say that it makes a cache.
    subprocess.run([sys.executable, "-c", "import matplotlib.font_manager"], check=True, timeout=SECONDS)
    running = {}
    for path in NOTEBOOKS:
        home = tmp_path_factory.mktemp(path.stem)
        command = [
            *(sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider"),
            *("-p", "tests.notebooks._swapped"),
            *("--nbval", f"--nbval-sanitize-with={ROOT}/tests/notebooks/sanitize.cfg", path),
        ]
        told = home / "told"
        with told.open("wb") as out:
            env = _kernels.environment(home)
            running[path] = subprocess.Popen(command, cwd=ROOT, env=env, stdout=out, stderr=out), told
    yield running
    for process, _ in running.values():
        process.kill()
        process.wait(10)


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    """Give each of them."""
    assert isinstance(request.param, Path)
    return request.param


@pytest.fixture
def notebook(path: Path) -> NotebookNode:
    """Give what is saved."""
    return nbformat.read(path, as_version=4)


def code(notebook: NotebookNode) -> list[NotebookNode]:
    """Give its cells of code."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_there_are_those_of_the_story() -> None:
    """In their order, so that none gets lost."""
    assert [path.stem for path in NOTEBOOKS] == [
        "01_quickstart", "02_magic", "03_failures_and_retries", "04_events_to_dataframes", "05_large_exports",
        "06_people",
    ]  # fmt: skip


def test_it_runs_and_shows_what_was_saved(path: Path, runs: dict[Path, tuple[subprocess.Popen[bytes], Path]]) -> None:
    """Under nbval, cell by cell, with what stays of a grid, and with errors where they are shown."""
    process, told = runs[path]
    status = process.wait(SECONDS)
    text = told.read_text()
    assert status == 0, text
    assert re.search(rf"^{len(code(nbformat.read(path, as_version=4)))} passed", text, re.M), text


def test_all_of_it_is_compared(path: Path, notebook: NotebookNode) -> None:
    """All cells but three, whose results the next cell shows; and none is skipped."""
    tags = {(path.stem, cell.id): set(cell.metadata.get("tags", ())) for cell in code(notebook)}
    assert {place for place, its in tags.items() if its - {"raises-exception"}} <= NOT_COMPARED
    assert all(its <= {"raises-exception", "nbval-ignore-output"} for its in tags.values())
    assert not re.search("NBVAL_|PYTEST_VALIDATE", str(notebook.cells))


def test_its_outputs_are_those_of_one_run(notebook: NotebookNode) -> None:
    """Numbered from 1 without a gap, with an error where a cell is to show one, and nowhere else."""
    nbformat.validate(notebook)
    cells = code(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert sum(bool(cell.outputs) for cell in cells) > len(cells) / 2
    for cell in cells:
        wrong = [out for out in cell.outputs if out.output_type == "error" or "Error: " in out.get("text", "")]
        assert bool(wrong) == ("raises-exception" in cell.metadata.get("tags", ())), cell.source


def test_it_reopens_without_a_kernel(notebook: NotebookNode) -> None:
    """No output is a widget, which would be an error then, and no picture is elsewhere."""
    assert "widgets" not in notebook.metadata
    for cell in code(notebook):
        for output in cell.outputs:
            assert set(output.get("data", {})) <= {"text/plain", "text/html", "image/png"}
            assert not re.search(r"<script|(src|href)=.?https?:", output.get("data", {}).get("text/html", ""))
    for cell in notebook.cells:
        for target in re.findall(r"!\[[^]]*\]\(([^)]+)\)", cell.source):
            assert target.removeprefix("attachment:") in cell.attachments


def test_it_tells_nothing_of_a_machine(notebook: NotebookNode) -> None:
    """No path, no address, no secret, neither in what is written nor in what is shown."""
    text = "\n".join(
        [cell.source for cell in notebook.cells]
        + [str({**out, "data": {**out.get("data", {}), "image/png": ""}}) for c in code(notebook) for out in c.outputs]
    )
    assert not re.search(r"(?<![<\w])/(tmp|home|root|work|usr|opt|var|Users|private)\b|\b[A-Z]:\\", text)
    assert not re.search(r"mp-service-account|127\.0\.0\.1|localhost|0x[0-9a-f]{6,}", text)


def test_its_links_lead_somewhere(path: Path, notebook: NotebookNode) -> None:
    """To the other notebooks."""
    for cell in notebook.cells:
        for target in re.findall(r"(?<!!)\[[^]]+\]\((?!https?:)([^)]+)\)", cell.source):
            assert (path.parent / target).exists()
