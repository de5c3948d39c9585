"""
See that an installed mpnb has all that it needs: ``python -I tests/installed.py``, with the Python that it is for.

Run by ``.ci/run`` for the wheel and for the sdist; it needs nothing that mpnb itself does not depend on.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from importlib.metadata import entry_points, metadata, version
from importlib.resources import files
from pathlib import Path

import mpnb
from mpnb._command.demo import notebooks
from mpnb.sandbox import serve

HERE = Path(__file__).parents[1]
package = files("mpnb")
PANEL = ("_notebook", "panel")

assert Path(sys.prefix) in Path(mpnb.__file__).parents, f"this is not what was installed: {mpnb.__file__}"
assert version("mpnb") == mpnb.__version__
assert package.joinpath("py.typed").is_file(), "type checkers would take it for untyped"
for name in ("grid.js", "grid.css", "login.js"):
    assert package.joinpath(*PANEL, name).read_bytes() == HERE.joinpath("mpnb", *PANEL, name).read_bytes(), name
assert {path.name for path in notebooks().glob("*.ipynb")} == {path.name for path in HERE.glob("notebooks/*.ipynb")}
assert notebooks().parent == Path(mpnb.__file__).parent, "the notebooks are those of the checkout"

description = str(metadata("mpnb").get_payload())
assert description.startswith("# mpnb"), description[:80]
# A path of the repository leads nowhere on the pages of a package index; blocks of code are not links.
text = re.sub(r"^```.*?^```$", "", description, flags=re.MULTILINE | re.DOTALL)
assert (found := re.findall(r"\]\((?!https://)[^)]*\)", text)) == [], found

[script] = [each for each in entry_points(group="console_scripts") if each.name == "mpnb"]
assert callable(script.load())
command = Path(sys.executable).with_name("mpnb")
said = subprocess.run([command, "--version"], capture_output=True, text=True, timeout=60, check=True)
assert said.stdout == f"mpnb {mpnb.__version__}\n"

with tempfile.TemporaryDirectory() as folder, serve(events_per_day=50) as mp:
    database = Path(folder) / "mixpanel.duckdb"
    options = {"database": database, "credentials": mp.credentials}
    with mpnb.export("2026-01-01", "2026-01-03", on_batch=id, **options) as result:
        assert len(result.df()) == len(result.pl()) == result.total_rows > 0
    mpnb.panel(**options)

print(f"mpnb {mpnb.__version__} in {sys.prefix} is complete")
