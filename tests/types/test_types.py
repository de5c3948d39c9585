"""The types of the public API, as mypy and pyright see them in a user's script."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import mpnb
import mpnb.analysis
import mpnb.sandbox

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SCRIPTS = (HERE / "every_name.py", HERE / "wrong_calls.py")
SECONDS = 170


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a checker of this environment on this checkout."""
    # pyright does not find a package that is installed in place, as this one is.
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def test_mypy_passes_in_strict_mode(tmp_path: Path) -> None:
    """A script that uses every public name passes, and each wrong call is an error."""
    done = run("mypy", "--config-file", ROOT / "pyproject.toml", "--cache-dir", tmp_path, *SCRIPTS)
    assert done.returncode == 0, done.stdout


def test_pyright_passes_in_strict_mode(tmp_path: Path) -> None:
    """A script that uses every public name passes, and each wrong call is an error."""
    config = {
        "extraPaths": [str(ROOT)],
        "typeCheckingMode": "strict",
        "enableTypeIgnoreComments": False,
        "reportUnnecessaryTypeIgnoreComment": True,
    }
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(config))
    for script in SCRIPTS:  # it takes only files below its configuration
        shutil.copy(script, tmp_path)
    done = run("pyright", "--pythonpath", sys.executable, "--project", tmp_path, "--outputjson")
    report = json.loads(done.stdout)
    told = [f"{each['range']['start']['line'] + 1}: {each['message']}" for each in report["generalDiagnostics"]]
    assert told == []
    assert report["summary"]["filesAnalyzed"] == len(SCRIPTS)


def test_the_types_of_the_public_api_are_complete() -> None:
    """As ``pyright --verifytypes`` counts: 98 % or more."""
    done = run("pyright", "--pythonpath", sys.executable, "--verifytypes", "mpnb", "--ignoreexternal", "--outputjson")
    report = json.loads(done.stdout)["typeCompleteness"]
    assert Path(report["packageRootDirectory"]) == ROOT / "mpnb"
    unknown = [each["name"] for each in report["symbols"] if each["isExported"] and not each["isTypeKnown"]]
    assert report["completenessScore"] >= 0.98, unknown


PUBLIC = [
    (f"{module.__name__}.{name}", getattr(module, name))
    for module, names in (
        (mpnb, [*mpnb.__all__, "open", "load_ipython_extension", "unload_ipython_extension"]),
        (mpnb.analysis, mpnb.analysis.__all__),
        (mpnb.sandbox, mpnb.sandbox.__all__),
    )
    for name in names
]


@pytest.mark.parametrize(("name", "value"), PUBLIC, ids=[name for name, _ in PUBLIC])
def test_the_script_uses_it(name: str, value: object) -> None:
    """A new name, and a new attribute of a public class, must be added to the script."""
    script = SCRIPTS[0].read_text()
    assert isinstance(value, ModuleType) or re.search(rf"\b{name.rpartition('.')[2]}\b", script)
    if isinstance(value, type) and name.count(".") == 1:
        missing = [each for each in attributes(value) if f".{each}" not in script]
        assert missing == []


def attributes(kind: type) -> set[str]:
    """Return the public attributes and methods that a class of ours has, and those of its objects."""
    ours = [each for each in kind.__mro__ if each.__module__.startswith("mpnb")]
    found = {name for each in ours for name in vars(each)}
    found |= {name for each in ours for name in re.findall(r"\bself\.(\w+)(?:: [^=\n]+)? = ", inspect.getsource(each))}
    if dataclasses.is_dataclass(kind):
        found |= {field.name for field in dataclasses.fields(kind)}
    return {name for name in found if not name.startswith("_")}


@pytest.mark.parametrize("kind", [mpnb.ExportResult, mpnb.Quota, mpnb.PlanError])
def test_attributes_are_found(kind: type) -> None:
    """Those of bases, of dataclasses, and those that a method makes."""
    known = {"events", "retry", "fetched_rows", "table", "per_hour", "argument"}
    assert attributes(kind) & known
