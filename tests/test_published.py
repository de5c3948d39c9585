"""What is published beside the code: the description, licences, a citation, the index of the reference."""

from __future__ import annotations

import importlib.util
import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

import mpnb
from tests import licences, reference

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Load the hook of the build, for which hatchling is there only while something is built."""
    names = ["hatchling", "hatchling.metadata", "hatchling.metadata.plugin", "hatchling.metadata.plugin.interface"]
    for name in names:
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules[names[-1]].MetadataHookInterface = object  # type: ignore[attr-defined]
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec
    assert spec.loader
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def links(text: str) -> list[tuple[str, str, str]]:
    """Return the links of a text in Markdown: what is before the bracket, the label, and the target."""
    return re.findall(r"(!?)\[([^\]\n]+)\]\(([^)\s]+)\)", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))


def test_links_of_the_description_do_not_depend_on_where_it_is_shown(hook: ModuleType) -> None:
    """With an address of the project each leads there, pictures to the picture itself, and to a file that there is."""
    shown = hook.portable(README, "https://code.example/mpnb")
    assert len(links(shown)) == len(links(README)) > 20
    assert [target for _, _, target in links(shown) if not target.startswith("https://")] == []
    for picture, _, target in links(shown):
        if target.startswith("https://code.example/"):
            kind, path = re.fullmatch(r"https://code\.example/mpnb/(raw|blob)/main/([^#]+)(?:#.+)?", target).groups()
            assert kind == ("raw" if picture else "blob")
            assert (ROOT / path).exists(), path


def test_without_an_address_what_would_lead_nowhere_is_text(hook: ModuleType) -> None:
    """Labels stay, pictures do not, and blocks of code are as they were."""
    shown = hook.portable(README, "")
    assert [target for _, _, target in links(shown) if not target.startswith("https://")] == []
    assert "| 01_quickstart | an export, what failed" in shown
    assert re.findall(r"^```.*?^```$", shown, re.M | re.S) == re.findall(r"^```.*?^```$", README, re.M | re.S)


def test_the_licences_are_those_of_what_is_needed() -> None:
    """Of every package that is needed, as it states it itself: ``python -m tests.licences`` writes the list anew."""
    assert licences.FILE.read_text("utf-8") == licences.text()
    assert "not stated" not in licences.text()


def test_the_citation_is_of_this_version() -> None:
    """And says what pyproject.toml says."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lines = dict(
        line.split(": ", 1) for line in (ROOT / "CITATION.cff").read_text("utf-8").splitlines() if ": " in line
    )
    assert (lines["version"], lines["title"], lines["license"]) == (
        mpnb.__version__,
        project["name"],
        project["license"],
    )
    assert lines["keywords"] == f"[{', '.join(project['keywords'])}]"


def test_every_python_and_system_of_the_classifiers_is_tried() -> None:
    """By the matrix of the workflow, or here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    workflow = (ROOT / ".github/workflows/tests.yml").read_text("utf-8")
    pythons = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    assert re.findall(r'"(3\.\d+)"', workflow.partition("matrix:")[2].partition("runs-on")[0]) == pythons
    systems = {"MacOS": "macos-latest", "Microsoft :: Windows": "windows-latest", "POSIX :: Linux": "ubuntu-latest"}
    told = {each.partition("Operating System :: ")[2] for each in project["classifiers"] if "Operating System" in each}
    assert told == set(systems)
    assert all(name in workflow for name in systems.values())


def test_the_index_of_the_reference_leads_to_what_is_there() -> None:
    """Each name where to begin is public, and each page is written."""
    for name in " ".join(reference.BEGIN.values()).split():
        owner, _, member = name.partition(".")
        assert owner in (*mpnb.__all__, "open"), name
        assert not member or hasattr(getattr(mpnb, owner), member), name
