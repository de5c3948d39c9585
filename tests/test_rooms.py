"""The house in rooms: each imports only those below it, also for types and in functions, and in no circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mpnb"

# From the ground up; rooms of one line may not import each other.
ROOMS = (
    ("_message", "_version"),
    ("_errors",),
    ("_base",),
    ("_mixpanel",),
    ("analysis", "sandbox"),
    ("_planning",),
    ("_fetching",),
    ("_storing",),
    ("_reading",),
    ("_showing",),
    ("_exporting",),
    ("_api",),
    ("_sync",),
    ("_command",),
    ("_notebook",),
    ("__init__", "__main__"),
)
# What stands by itself within its room: it imports nothing of ours but its own modules.
ALONE = ("mpnb._base.pictures",)
FLOOR = {room: floor for floor, rooms in enumerate(ROOMS) for room in rooms}


def modules() -> dict[str, Path]:
    """Name every module of the package, and where it is."""
    return {name(path): path for path in PACKAGE.rglob("*.py")}


def name(path: Path) -> str:
    """Return the dotted name of a module."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


def imports(path: Path, known: set[str]) -> Iterator[str]:
    """Name the modules of ours that a module imports anywhere, once each time."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] == "mpnb")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            if node.module and node.module.partition(".")[0] == "mpnb":
                inner = [f"{node.module}.{alias.name}" for alias in node.names]
                found = [each for each in inner if each in known]
                # What is no module is a name of the package that the line names.
                yield from found or [node.module if node.module != "mpnb" else "mpnb.__init__"]


def room(module: str) -> str:
    """Return the room of a module."""
    return module.split(".")[1] if "." in module else "__init__"


GRAPH = {module: set(imports(path, set(modules()))) for module, path in modules().items()}


@pytest.mark.parametrize("module", sorted(GRAPH))
def test_a_module_imports_only_rooms_below_its_own(module: str) -> None:
    """Or modules of its own room; imports in functions and for types alone count."""
    mine = room(module)
    above = {other for other in GRAPH[module] if room(other) != mine and FLOOR[room(other)] >= FLOOR[mine]}
    assert not above


@pytest.mark.parametrize("package", ALONE)
def test_what_stands_by_itself_imports_nothing_else_of_ours(package: str) -> None:
    """So that any room may use it."""
    mine = {module for module in GRAPH if module == package or module.startswith(f"{package}.")}
    assert mine
    assert not {other for module in mine for other in GRAPH[module]} - mine


def test_nothing_imports_in_circles() -> None:
    """No module reaches itself, however long the way."""
    state: dict[str, str] = {}
    way: list[str] = []

    def visit(module: str) -> None:
        state[module] = "open"
        way.append(module)
        for other in sorted(GRAPH.get(module, ())):
            assert state.get(other) != "open", f"a circle: {' → '.join([*way[way.index(other) :], other])}"
            if other not in state:
                visit(other)
        way.pop()
        state[module] = "done"

    for module in sorted(GRAPH):
        if module not in state:
            visit(module)


def test_every_room_has_a_place() -> None:
    """A new one is entered here, and in the map of CONTRIBUTING."""
    rooms = {room(module) for module in GRAPH}
    assert rooms == set(FLOOR)
    told = (PACKAGE.parent / "CONTRIBUTING.md").read_text("utf-8")
    assert not [each for each in rooms - {"__init__", "__main__"} if f"`{each}" not in told]
