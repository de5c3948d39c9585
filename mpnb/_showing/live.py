"""Live displays of an export, and the hook by which a notebook registers its own."""

from __future__ import annotations

from typing import Any, Protocol

from mpnb._planning.states import BatchProgress, JobProgress


class Progress(Protocol):
    """A live display of an export. One thread."""

    def begin(self, job: Any) -> None:
        """Called with the ``ExportJob`` that has just started."""

    def on_batch(self, progress: BatchProgress) -> None:
        """Called with one change of state."""

    def tick(self, progress: JobProgress) -> None:
        """Called with the totals as they are now, several times a second."""

    def close(self) -> None:
        """Leave the display in its final form. A second call does nothing."""


class Notebook(Protocol):
    """A notebook's live displays."""

    def progress(self) -> Progress | None:
        """Return a live display for the running cell, or ``None`` if no front end could show it."""

    def panel(self, job: Any) -> Any:
        """Return the panel of an ``ExportJob``."""

    def show(self, job: Any) -> bool:
        """Show an ``ExportJob`` in the running cell, once in a cell; ``False`` if no front end could show it."""

    def has_shown(self, thing: object) -> bool:
        """Whether the running cell shows a result, or a job, already."""

    def changed(self) -> None:
        """Called when an export of this process has started or ended. Any thread."""


_notebooks: list[Notebook] = []


def register(notebook: Notebook) -> None:
    """Let a notebook show exports from now on."""
    _notebooks[:] = [notebook]


def notebook_progress() -> Progress | None:
    """Return a live display for the running cell, or ``None`` outside a notebook."""
    return next((shown for notebook in _notebooks if (shown := notebook.progress()) is not None), None)


def show_job(job: Any) -> None:
    """
    Show an ``ExportJob`` live in the running cell.

    Raises:
        NotImplementedError: no front end could show it. IPython shows its ``repr`` then.
    """
    if not any(notebook.show(job) for notebook in _notebooks):
        raise NotImplementedError


def show_result_once(result: object) -> None:
    """
    Do nothing if the running cell shows a picture of a result already.

    Raises:
        NotImplementedError: it does not. IPython shows the result as it shows any object then.
    """
    if not has_shown(result):
        raise NotImplementedError


def has_shown(result: object) -> bool:
    """Whether the running cell shows a picture of a result already. ``False`` outside a notebook."""
    return any(notebook.has_shown(result) for notebook in _notebooks)


def exports_changed() -> None:
    """Tell notebooks that an export of this process has started or ended. Any thread."""
    for notebook in _notebooks:
        notebook.changed()


def in_notebook() -> bool:
    """Whether a notebook has registered, whose cells show what is printed while they run."""
    return bool(_notebooks)


def panel_of(job: Any) -> Any:
    """Return the panel of an ``ExportJob``. Raises ``RuntimeError`` where no notebook has registered."""
    for notebook in _notebooks:
        return notebook.panel(job)
    raise RuntimeError("there is no front end here that shows widgets")
