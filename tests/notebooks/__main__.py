"""
Run the notebooks and save what they show: ``python -m tests.notebooks [NAME …]``, all if none is named.

What would differ between two runs or two machines, or not reopen without a kernel, is left out.
"""

from __future__ import annotations

import contextlib
import queue
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionComplete
from nbformat import NotebookNode

from tests import _kernels

FOLDER = Path(__file__).parents[2] / "notebooks"
# A grid says once more how it ended, three seconds after it did.
SETTLE_SECONDS = 4
WIDGET = "application/vnd.jupyter.widget-view+json"


class Client(NotebookClient):
    """Run a notebook, and let an output give way to another whichever cell runs then, as JupyterLab does."""

    async def _async_poll_output_msg(self, parent_msg_id: str, cell: NotebookNode, cell_index: int) -> None:
        while True:
            message = await self.kc.iopub_channel.get_msg(timeout=None)
            if message["parent_header"].get("msg_id") == parent_msg_id or message["msg_type"] == "update_display_data":
                try:
                    self.process_message(message, cell, cell_index)
                except CellExecutionComplete:
                    return

    async def async_execute_cell(self, cell: NotebookNode, *args: Any, **options: Any) -> NotebookNode:
        """Run a cell; after the last one, take what still comes until nothing does."""
        executed = await super().async_execute_cell(cell, *args, **options)
        if cell is self.nb.cells[-1]:
            with contextlib.suppress(queue.Empty):
                while True:
                    message = await self.kc.iopub_channel.get_msg(timeout=SETTLE_SECONDS)
                    if message["msg_type"] == "update_display_data":
                        self.process_message(message, cell, len(self.nb.cells) - 1)
        return executed


def run(path: Path, home: Path) -> NotebookNode:
    """Run a notebook from top to bottom in a fresh kernel, and give it with its outputs, fit to be saved."""
    notebook = nbformat.read(path, as_version=4)
    with mock.patch.dict("os.environ", _kernels.environment(home), clear=True):
        Client(notebook, timeout=120, resources={"metadata": {"path": path.parent}}).execute()
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            # A widget without its kernel reopens as an error, although what it shows stands beside it.
            output.get("data", {}).pop(WIDGET, None)
    return notebook


def main() -> None:
    """Run and save those that are named."""
    paths = [path for path in sorted(FOLDER.glob("*.ipynb")) if not sys.argv[1:] or path.stem in sys.argv[1:]]
    for path in paths:
        with tempfile.TemporaryDirectory() as home:
            begin = time.monotonic()
            nbformat.write(run(path, Path(home)), path)
            print(f"{path.name}: {time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    main()
