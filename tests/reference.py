"""
Write the API reference from the public docstrings: ``python -m tests.reference FOLDER``.

It is pdoc's, with what pdoc leaves out: ``mpnb.open``, which is not in ``mpnb.__all__`` since ``from mpnb import *``
would shadow Python's own, and what public classes inherit from private ones, which counts as theirs.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from unittest import mock

import pdoc
import pdoc.doc
import pdoc.render

import mpnb


def write(folder: Path) -> None:
    """Write a page for each public module."""
    pdoc.render.configure(docformat="google")
    with contextlib.ExitStack() as patches:
        patches.enter_context(mock.patch.object(mpnb, "__all__", sorted([*mpnb.__all__, "open"])))
        for each in map(vars(mpnb).get, mpnb.__all__):
            if isinstance(each, type) and (private := [base for base in each.__mro__[1:] if is_private(base)]):
                patches.enter_context(mock.patch.object(each, "__orig_bases__", (object,), create=True))
                for name, member in [item for base in private for item in vars(base).items()]:
                    if not name.startswith("_") and name not in vars(each):
                        patches.enter_context(mock.patch.object(each, name, member))
        pdoc.pdoc("mpnb", "mpnb.sandbox", output_directory=folder)


def is_private(kind: type) -> bool:
    """Whether a class is ours, and not in the public API."""
    return kind.__module__.startswith("mpnb.") and vars(mpnb).get(kind.__name__) is not kind


if __name__ == "__main__":
    write(Path(sys.argv[1]))
