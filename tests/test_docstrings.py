"""Examples in docstrings: each of them runs."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

import mpnb
from mpnb.sandbox import Sandbox
from mpnb.sandbox.__main__ import environment

PACKAGE = Path(__file__).parents[1] / "mpnb"


def examples() -> Iterator[tuple[str, str]]:
    """Give the indented blocks of all docstrings that Python can read, each with its place; others are drawings."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                continue
            for block in re.findall(r"\n\n((?: {4}.*\n?|\n(?= {4}))+)", ast.get_docstring(node) or ""):
                code = textwrap.dedent(block)
                try:
                    ast.parse(code)
                except SyntaxError:
                    continue
                yield f"{path.relative_to(PACKAGE)} {getattr(node, 'name', '')}".strip(), code


EXAMPLES = dict(examples())


def test_there_are_examples() -> None:
    """In the three modules that a user imports."""
    assert list(EXAMPLES) == ["__init__.py", "analysis/__init__.py", "sandbox/__init__.py"]


@pytest.mark.parametrize("place", EXAMPLES)
def test_it_runs(place: str, tmp_path: Path, sandbox: Callable[..., Sandbox], monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands, in a folder and with a project of its own, after an export where it speaks of a result."""
    mp = sandbox(events_per_day=100)
    monkeypatch.chdir(tmp_path)
    for name, value in environment(mp).items():
        monkeypatch.setenv(name, value)
    names: dict[str, object] = {"mpnb": mpnb, "timedelta": timedelta}
    if "result = " not in EXAMPLES[place]:
        names["result"] = mpnb.export("2026-01-01", "2026-01-07", table="before", database="before.duckdb")
    exec(compile(EXAMPLES[place], place, "exec"), names)
    result = names["result"]
    assert isinstance(result, mpnb.ExportResult)
    assert result.total_rows > 0
    result.close()
