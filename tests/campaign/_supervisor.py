"""
A campaign: runs of a part in processes of their own, so that neither what hangs nor what dies ends it.

A run that does not end, or takes its process with it, is a violation with all stacks of that process; the next run goes
on in a new one.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from tests.campaign._child import LINE
from tests.campaign._figures import Figures
from tests.campaign._parts import PARTS
from tests.campaign._shim import preloaded

ROOT = Path(__file__).parents[2]
MOST_SHOWN = 2000


def campaign(
    part: str,
    runs: int,
    seed: int,
    *,
    first: int = 0,
    mutant: str | None = None,
    until_violated: bool = False,
    patience: int = 20,
    report: Callable[[Figures], object] | None = None,
    **options: Any,
) -> Figures:
    """
    Do so many runs of a part, and return what they found.

    Args:
        part: one of ``PARTS``.
        first: number of the first run.
        mutant: name of the precaution of mpnb's that is taken out.
        until_violated: ends with the first run that finds something.
        patience: ends when so many processes were stuck or died.
        report: called with the figures so far after each run.
        options: of the part, as JSON.

    Raises:
        NoCompiler: the part needs one.
    """
    figures = Figures()
    environment = preloaded() if PARTS[part].needs_shim else dict(os.environ)
    number = first
    while number < first + runs:
        asked = {
            "part": part,
            "seed": seed,
            "first": number,
            "runs": first + runs - number,
            "mutant": mutant,
            "options": options,
        }
        command = [sys.executable, "-m", "tests.campaign._child", json.dumps(asked)]
        with (
            tempfile.TemporaryFile("w+") as errors,
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment, cwd=ROOT
            ) as child,
        ):
            assert child.stdout is not None
            try:
                for line in child.stdout:
                    if not line.startswith(LINE):
                        continue
                    figures.add(Figures.of_json(line.removeprefix(LINE)))
                    number += 1
                    if report:
                        report(figures)
                    if until_violated and figures.violations:
                        return figures
                child.wait()
            finally:
                child.kill()
            if child.returncode or number < first + runs:
                figures.stuck += 1
                figures.runs += 1
                figures.violations.append(_end_of(child.returncode, errors))
                number += 1
                patience -= 1
                if until_violated or not patience:
                    break
    return figures


def _end_of(status: int, errors: IO[str]) -> str:
    """Say how a process ended: the step that it was in, and where each of its threads was."""
    errors.seek(0)
    _, _, last = f"\n{errors.read()}".rpartition("\nstep: ")
    what, _, stacks = last.partition("\n")
    if "Timeout" not in stacks:
        return f"{what}: its process ended with status {status}\n{stacks[-MOST_SHOWN:]}"
    threads = (re.findall(r'mpnb/(\S+\.py)", line (\d+) in (\w+)', each) for each in re.split(r"\n\n", stacks))
    where = {" < ".join(f"{file}:{line} {name}" for file, line, name in frames) for frames in threads if frames}
    return f"{what}: did not end\n" + "\n".join(f"    {each}" for each in sorted(where))
