"""What ``help()``, completion and the API reference show: what users need, and nothing of the inside."""

from __future__ import annotations

import html
import inspect
import pydoc
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mpnb
from mpnb._planning.options import CHUNK_DAYS

ROOT = Path(__file__).parents[1]

CALLS = ("export", "start", "plan")
# Classes and arguments of the inside, which calls hand each other.
INSIDE = re.compile(
    r"\b(Reader|Store|Selection|Outcome|Retry|RetryOptions|Engine|Board|relate|mend|halted_by)\b|\b_[a-z]\w+"
)
RETURNED = (mpnb.ExportResult, mpnb.ExportJob, mpnb.Check, mpnb.Calendar)


def helped(thing: object) -> str:
    """Return what ``help()`` shows, without where things are."""
    text = pydoc.plain(pydoc.render_doc(thing))
    return re.sub(r"\bmpnb(\._?\w+)+\.(\w+)", r"\2", text).partition("\n\n")[2]


@pytest.mark.parametrize("kind", RETURNED)
def test_help_of_what_calls_return_has_no_inside(kind: type) -> None:
    """No argument of a constructor that only mpnb calls, and no private attribute."""
    found = {match[0] for match in INSIDE.finditer(helped(kind)) if not match[0].startswith("__")}
    assert found <= {"_name", "_id"}


@pytest.mark.parametrize("kind", RETURNED)
def test_only_calls_make_one(kind: type) -> None:
    """The constructor says which."""
    with pytest.raises(TypeError, match=rf"\(\) returns an? {kind.__name__}"):
        kind()


def test_help_of_a_result_begins_with_what_a_user_does() -> None:
    """Its events, its failures and ``retry()`` come before anything about how it works."""
    lines = [line.strip(" |") for line in helped(mpnb.ExportResult).splitlines()]
    about = "\n".join(line for line in lines[1:] if line)
    assert about.startswith("ExportResult()")
    told = about.split("\n", 1)[1]
    assert told.startswith("The result of an export: its events, its failures, and ``retry()``.")
    for each in ("``events``", "``failures``", "``df()``", "``sql()``"):
        assert told.index(each) < told.index("DuckDB relations")


@pytest.mark.parametrize("name", CALLS)
def test_help_of_a_call_shows_every_argument_and_its_default(name: str) -> None:
    """Of all three, in the order of ``export``, with the values of the defaults."""
    shown = helped(getattr(mpnb, name)).splitlines()[0]
    at = [shown.index(f"{each}:") for each in inspect.signature(mpnb.export).parameters]
    assert at == sorted(at)
    for default in ("= 'mixpanel.duckdb'", "= 'events'", ": 'int' = 10", "= None", "= 'resume'", ": 'int' = 5"):
        assert default in shown


def test_help_of_open_is_that_of_open() -> None:
    """Under the name that users type."""
    assert mpnb.open.__name__ == "open"
    assert helped(mpnb.open).startswith("open(place:")
    assert "open" in dir(mpnb)
    assert "open" not in mpnb.__all__


def test_each_default_stands_once() -> None:
    """``drop`` and ``check`` have those of ``export``, and ``split_date_range`` what an export into a table has."""
    defaults = {name: each.default for name, each in inspect.signature(mpnb.export).parameters.items()}
    for call, name in ((mpnb.drop, "database"), (mpnb.check, "database")):
        assert inspect.signature(call).parameters[name].default == defaults[name]
    assert defaults["chunk_days"] is None
    assert inspect.signature(mpnb.split_date_range).parameters["chunk_days"].default == CHUNK_DAYS


# --- the API reference -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Write the reference, and return the source of its pages by name."""
    folder = tmp_path_factory.mktemp("reference")
    # In a process of its own: pdoc changes what it looks at.
    subprocess.run([sys.executable, "-m", "tests.reference", folder], cwd=ROOT, check=True, timeout=100)
    return {path.stem: path.read_text("utf-8") for path in folder.glob("*/**/*.html")}


def text_of(page: str) -> str:
    """Return what a page shows, without the source code that it unfolds."""
    page = re.sub(r'<div class="pdoc-code.*?</div>', "", page, flags=re.DOTALL)
    return html.unescape(re.sub(r"<[^>]+>", "", page))


def test_the_reference_has_a_page_for_each_public_module(pages: dict[str, str]) -> None:
    """And none for another."""
    assert {"mpnb", "analysis", "sandbox"} <= pages.keys()
    assert not [name for name in pages if name.startswith("_")]


def test_the_index_of_the_reference_tells_where_to_begin(pages: dict[str, str]) -> None:
    """By a link to each call that is named there."""
    index = pages["index"]
    for name in re.findall(r'href="mpnb\.html#([^"]+)"', index):
        assert f'id="{name}"' in pages["mpnb"], name
    assert f"<h1>mpnb {mpnb.__version__}</h1>" in index


def test_the_reference_shows_nothing_of_the_inside(pages: dict[str, str]) -> None:
    """No private module, and none of the classes that only mpnb uses."""
    for name in ("mpnb", "analysis", "sandbox"):
        assert (
            re.findall(r"mpnb\._\w+[\w.]*|\b(?:Reader|Store|Outcome|RetryOptions|Engine)\b", text_of(pages[name])) == []
        )


def test_the_reference_has_open_with_its_signature(pages: dict[str, str]) -> None:
    """Which ``__all__`` leaves out."""
    shown = " ".join(text_of(pages["mpnb"]).split())
    assert re.search(r"def open\( place: .*? = None, /, \*, database: .*? = None, table: str \| None = None", shown)
    spool, memory = r"spool: Spool \| None = None", r"memory: int \| str \| None = None"
    assert re.search(rf"def start\( from_date: .*? {spool}, {memory} ?\) -> ExportJob", shown)


@pytest.mark.parametrize("kind", [getattr(mpnb, name) for name in mpnb.__all__ if name[0].isupper()])
def test_the_reference_has_every_public_method(kind: type, pages: dict[str, str]) -> None:
    """Those that come from a private base as well."""
    public = {
        name
        for base in kind.__mro__
        if base.__module__.startswith("mpnb")
        for name, each in vars(base).items()
        if not name.startswith("_") and (callable(each) or isinstance(each, property | staticmethod | classmethod))
    }
    missing = [name for name in public if f'id="{kind.__name__}.{name}"' not in pages["mpnb"]]
    # What errors have of each other stands at the one that has it.
    assert [name for name in missing if name != "argument"] == []
