"""
Do runs, one after the other, and write what each found as a line: ``python -m tests.campaign._child JSON``.

It is made by ``_supervisor``, which tells what became of it where it does not come to its end.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys

from tests.campaign._figures import Figures
from tests.campaign._mutants import MUTANTS
from tests.campaign._parts import PARTS

LINE = "run: "


def main() -> None:
    """Do the runs of the argument."""
    faulthandler.enable()
    asked = json.loads(sys.argv[1])
    if asked["mutant"]:
        MUTANTS[asked["mutant"]]()
    for number in range(asked["first"], asked["first"] + asked["runs"]):
        figures = Figures()
        PARTS[asked["part"]].run(asked["seed"], number, figures, **asked["options"])
        print(f"{LINE}{figures.json()}", flush=True)
    # What is left has been told; a thread of it shall not keep this process.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
