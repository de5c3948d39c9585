"""
The core alone: what a server needs, without pandas, polars, pyarrow, IPython and widgets.

`python -I tests/core.py` prints the requirements of the core, from pyproject.toml, and `python -I tests/core.py oldest`
the oldest version that is allowed of everything that mpnb requires; `python -I tests/core.py run`, where only the core
and mpnb are installed, tries what must work there.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path

# What is for notebooks and frames.
MORE = ("anywidget", "ipywidgets", "pandas", "polars", "pyarrow")


def requirements() -> list[str]:
    """Return what the core requires, as pyproject.toml has it."""
    return [each for each in dependencies() if re.split(r"\W", each)[0] not in MORE]


def oldest() -> list[str]:
    """Return the oldest version that is allowed of each requirement that names one, as constraints of pip's."""
    bounds = [re.match(r"([\w-]+)>=([\w.]+)", each) for each in dependencies()]
    return [f"{bound[1]}=={bound[2]}" for bound in bounds if bound]


def dependencies() -> list[str]:
    """Return all that mpnb requires, as pyproject.toml has it."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    return list(project["dependencies"])


def run(folder: Path) -> None:
    """Export events, good and bad, and profiles; look at them in each way that needs no other package."""
    import mpnb
    from mpnb.sandbox import Fault, serve

    assert not any(importlib.util.find_spec(name) for name in (*MORE, "IPython"))
    bad = [b"\xff\xfe", b"{}", b'{"event": "A"}', b"[1]"]
    with serve(events_per_day=40, faults=[Fault("bad_lines", lines=bad, times=None)]) as mp:
        wide = {"credentials": mp.credentials, "quota": mpnb.Quota(10**6, 1000), "on_batch": lambda _: None}
        database = folder / "core.duckdb"
        with mpnb.export("2026-01-01", "2026-01-04", chunk_days=1, database=database, **wide) as result:
            assert result.total_rows == mp.count("2026-01-01", "2026-01-04") > 0
            assert result.rejected_lines == 4 * len(bad)
            assert result.check().ok
            names = [name for name, *_ in result.event_names().fetchall()]
            assert result.event(names[0]).count("*").fetchall()[0][0] > 0
            found = result.catalog().fetchall()
            assert {row[0] for row in found} == set(names)
            result.to_parquet(folder / "parquet")
            assert mpnb.analysis.segmentation(result.events, names[0]).fetchall()
            for call, package in [("df", "pandas"), ("pl", "polars"), ("arrow", "pyarrow")]:
                line = said_by(getattr(result, call))
                assert line == f"{call}() needs {package}, which is not installed: pip install {package}", line
        with mpnb.export_profiles(database=database, **wide) as people:
            assert people.check().ok
            assert people.typed().fetchall()
            assert people.catalog().fetchall()
        assert mpnb.check("2026-01-01", "2026-01-04", database=database, table="events").ok
        assert len(mpnb.status(database).tables) == 2
    line = said_by(mpnb.panel)
    assert line == "panel() needs IPython, which is not installed: pip install ipython", line


def said_by(call: Callable[[], object]) -> str:
    """Return what a call says that needs a package."""
    try:
        call()
    except ImportError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    if sys.argv[1:] == ["run"]:
        with tempfile.TemporaryDirectory() as folder:
            run(Path(folder))
        subprocess.run([sys.executable, "-I", "-m", "mpnb", "demo"], check=True, stdout=subprocess.DEVNULL, timeout=120)
        size = sum(f.stat().st_size for f in Path(sys.prefix).rglob("*") if f.is_file() and not f.is_symlink())
        assert size < 150e6, size
        print(f"the core alone works, in {size / 1e6:.0f} MB")
    else:
        print(*(oldest() if sys.argv[1:] == ["oldest"] else requirements()), sep="\n")
