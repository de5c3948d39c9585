"""
Write the licences of what an installed mpnb needs: ``python -m tests.licences``, into LICENCES.md.

They are those that the packages of this environment state of themselves.
"""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
FILE = ROOT / "LICENCES.md"
HEAD = """\
# Licences of what mpnb needs

mpnb itself is under the MIT License. These packages come with `pip install mpnb`, or are needed by one that does, with
the licence that each states of itself; notebooks in JupyterLab, tests and development need more.
`python -m tests.licences` writes this list.

| package | licence | needed by |
|---|---|---|
"""


def needed() -> dict[str, set[str]]:
    """Return the packages that mpnb needs, directly or not, and for each of them by which."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    found: dict[str, set[str]] = {}
    to_do = [("mpnb", line) for line in project["dependencies"]]
    while to_do:
        by, line = to_do.pop()
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        name = canonicalize_name(requirement.name)
        if name not in found:
            to_do += [(name, each) for each in distribution(name).requires or ()]
        found.setdefault(name, set()).add(by)
    return found


def licence_of(name: str) -> str:
    """Return what a package says of its licence: an expression, else its classifiers, else the first line of a text."""
    said = distribution(name).metadata
    classifiers = [
        each.rpartition(" :: ")[2] for each in said.get_all("Classifier", []) if each.startswith("License ::")
    ]
    text = next((line for line in (said.get("License") or "").splitlines() if line.strip()), "")
    licence = (
        said.get("License-Expression") or ", ".join(each for each in classifiers if each != "OSI Approved") or text
    )
    return re.sub(r"\s+", " ", licence).strip() or "not stated"


def text() -> str:
    """Return the file."""
    rows = (f"| {name} | {licence_of(name)} | {', '.join(sorted(by))} |" for name, by in sorted(needed().items()))
    return HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
