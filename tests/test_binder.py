"""What Binder is told: it installs, builds and starts so that nothing has to be typed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

from tests import _kernels

ROOT = Path(__file__).parents[1]
BINDER = ROOT / "binder"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def run(script: str, *words: str, env: dict[str, str]) -> str:
    """Run one of its scripts as Binder does, from the checkout, and end what it leaves running."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.Popen(
        [BINDER / script, *words],
        cwd=ROOT,
        env={**env, "PATH": path},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.wait(60) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
    assert process.stdout
    with process.stdout as out:
        return out.read()


def test_it_installs_an_extra_that_there_is_on_a_python_that_is_supported() -> None:
    """From the checkout, with JupyterLab and all that the notebooks import."""
    [line] = (BINDER / "requirements.txt").read_text().splitlines()
    extra = re.fullmatch(r"-e \.\[(\w+)\]", line)
    assert extra
    names = {re.match(r"[\w-]+", each)[0] for each in PROJECT["optional-dependencies"][extra[1]]}  # type: ignore[index]
    assert {"jupyterlab", "matplotlib"} <= names
    python = re.fullmatch(r"python-3\.(\d+)", (BINDER / "runtime.txt").read_text().strip())
    assert python
    assert f"Programming Language :: Python :: 3.{python[1]}" in PROJECT["classifiers"]


def test_its_build_lets_every_jupyter_open_the_quickstart(tmp_path: Path) -> None:
    """By a file of settings for each, that names a notebook which is there."""
    assert "\nset -e\n" in (BINDER / "postBuild").read_text()
    run("postBuild", env={**os.environ, "NB_PYTHON_PREFIX": str(tmp_path)})
    files = list(tmp_path.glob("etc/jupyter/jupyter_*_config.json"))
    assert len(files) == 3
    for file in files:
        [settings] = json.loads(file.read_text()).values()
        assert (ROOT / settings["default_url"].removeprefix("/lab/tree/")).exists()


def test_what_it_starts_has_a_sandbox_to_export_from(tmp_path: Path) -> None:
    """Without credentials or anything else that would have to be typed; and then it is what was asked for."""
    assert (BINDER / "start").read_text().endswith('\nexec "$@"\n')
    code = "import mpnb; print(mpnb.export('2026-01-01', '2026-01-07', database=':memory:', on_batch=id).total_rows)"
    told = run("start", sys.executable, "-c", code, env=_kernels.environment(tmp_path))
    assert int(told) > 5000
