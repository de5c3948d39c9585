"""
Write the API reference from the public docstrings: ``python -m tests.reference FOLDER``.

It is pdoc's, with what pdoc leaves out: ``mpnb.open``, which is not in ``mpnb.__all__`` since ``from mpnb import *``
would shadow Python's own, and what public classes inherit from private ones, which counts as theirs. Each version has a
folder of its own in FOLDER, whose index tells where to begin; the index of FOLDER names the versions that are there.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from pathlib import Path
from unittest import mock

import pdoc
import pdoc.doc
import pdoc.render
from packaging.version import Version

import mpnb

ROOT = Path(__file__).parents[1]


# Where to begin, by what somebody wants: what it is, and the names that do it.
BEGIN = {
    "Fetch events": "export start plan Credentials ExportResult ExportJob",
    "Go on with what is there": "open check status drop ExportResult.retry ExportResult.failures",
    "Look into them": "ExportResult.event ExportResult.catalog ExportResult.sql ExportResult.df ExportResult.calendar",
    "Fetch profiles": "export_profiles ProfilesResult",
    "Every morning": "sync",
    "In a notebook": "panel explore",
    "What can be raised": "MpnbError PlanError ExportError",
}
PICTURES = {"panel.png": "The panel during an export", "explorer.png": "The explorer", "calendar.png": "The calendar"}
PAGE = """\
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>
<style>body {{ max-width: 50rem; margin: 2rem auto; padding: 0 1rem; font: 1rem/1.5 system-ui, sans-serif; }}
img {{ max-width: 100%; }} td {{ padding: 0.2rem 1rem 0.2rem 0; vertical-align: top; }}</style></head>
<body><h1>{title}</h1>
{body}
</body></html>
"""


def write(folder: Path) -> None:
    """Write the pages of this version, and the index of all that are there."""
    own = folder / mpnb.__version__
    write_pages(own)
    for name in PICTURES:
        shutil.copy(ROOT / "notebooks" / name, own)
    (own / "index.html").write_text(PAGE.format(title=f"mpnb {mpnb.__version__}", body=beginning()), "utf-8")
    versions = sorted((path.parent.name for path in folder.glob("*/index.html")), key=Version, reverse=True)
    listed = "".join(f'<li><a href="{each}/index.html">{each}</a></li>' for each in versions)
    (folder / "index.html").write_text(PAGE.format(title="mpnb, by version", body=f"<ul>{listed}</ul>"), "utf-8")


def beginning() -> str:
    """Return what the index of a version says: what to read first, and the modules."""
    rows = "".join(
        f"<tr><td>{what}</td><td>"
        + ", ".join(f'<a href="mpnb.html#{name}"><code>{name}</code></a>' for name in names.split())
        + "</td></tr>"
        for what, names in BEGIN.items()
    )
    modules = {"mpnb": "all calls", "mpnb/analysis": "Mixpanel's reports", "mpnb/sandbox": "a server of made-up events"}
    more = "".join(
        f'<li><a href="{path}.html"><code>{path.replace("/", ".")}</code></a>: {what}</li>'
        for path, what in modules.items()
    )
    shown = "".join(f'<p><img src="{name}" alt="{what}"></p>' for name, what in PICTURES.items())
    return (
        "<p>Begin with <code>mpnb demo</code> in a shell, which needs no account, then with"
        ' <a href="mpnb.html#export"><code>mpnb.export</code></a>. The README explains the rest in words.</p>'
        f"<table>{rows}</table><h2>Modules</h2><ul>{more}</ul>{shown}"
    )


def write_pages(folder: Path) -> None:
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
