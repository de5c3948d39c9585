"""The notebooks: each runs from top to bottom and shows what it was saved with."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from tests import _kernels

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    """Give each of them."""
    assert isinstance(request.param, Path)
    return request.param


def test_it_runs_and_shows_what_was_saved(path: Path, tmp_path: Path) -> None:
    """
    Under nbval, in a home of its own.

    nbval does not follow an output that gives way to another, as the grid's does: the outputs of cells that show one
    are tagged to be left out, and the cells behind them compare what came of it.
    """
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval", path],
        env=_kernels.environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert ran.returncode == 0, ran.stdout


def test_its_outputs_are_those_of_one_run_and_tell_nothing_of_a_machine(path: Path) -> None:
    """Numbered from 1 without a gap, with no error, no path, no secret and no state of widgets."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = str([cell.outputs for cell in cells])
    assert "'error'" not in outputs
    assert "widget-view" not in outputs
    assert "widgets" not in notebook.metadata
    assert not re.search(r"(?<![<\w])/(tmp|home|root|work|usr|Users|private)\b|[A-Z]:\\\\", outputs)
    assert not re.search(r"mp-service-account|127\.0\.0\.1|localhost", outputs)
