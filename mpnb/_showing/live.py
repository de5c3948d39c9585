"""What shows an export while it runs, and the notebook that registers itself here where there is one."""

from __future__ import annotations

from typing import Any, Protocol

from mpnb._planning.states import BatchProgress, JobProgress


class Progress(Protocol):
    """Show an export while it runs. One thread."""

    def begin(self, job: Any) -> None:
        """Take the ``ExportJob``, which has just started."""

    def on_batch(self, progress: BatchProgress) -> None:
        """Take one change of state."""

    def tick(self, progress: JobProgress) -> None:
        """Take the whole as it is now, some times a second."""

    def close(self) -> None:
        """Leave the screen as it should stay. A second call does nothing."""


class Notebook(Protocol):
    """Show exports by widgets."""

    def progress(self) -> Progress | None:
        """Return what shows an export in the running cell, ``None`` where no front end could show it."""

    def panel(self, job: Any) -> Any:
        """Return the panel of an ``ExportJob``."""


_notebooks: list[Notebook] = []


def register(notebook: Notebook) -> None:
    """Let a notebook show exports from now on."""
    _notebooks[:] = [notebook]


def notebook_progress() -> Progress | None:
    """Return what shows an export in a running cell, ``None`` where this is no notebook."""
    return next((shown for notebook in _notebooks if (shown := notebook.progress()) is not None), None)


def panel_of(job: Any) -> Any:
    """Return the panel of an ``ExportJob``. Raises ``RuntimeError`` where no notebook has registered."""
    for notebook in _notebooks:
        return notebook.panel(job)
    raise RuntimeError("nothing here shows widgets")
