"""README, CONTRIBUTING and CHANGELOG: what they say can be typed, and is so."""

from __future__ import annotations

import argparse
import ast
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import mpnb
from mpnb._command import options as _options
from mpnb._fetching import client as _client
from mpnb._fetching import fetcher as _fetcher
from mpnb._fetching import limiter as _limiter
from mpnb._fetching import spool as _spool
from mpnb._fetching import verify as _verify
from mpnb._mixpanel.credentials import Credentials
from mpnb._mixpanel.failures import KINDS
from mpnb._planning.options import LEAST_MEMORY
from mpnb._storing import settings as _settings
from mpnb.sandbox import Sandbox, serve
from mpnb.sandbox.__main__ import environment
from tests import core
from tests._helpers import day
from tests.benchmarks import others
from tests.benchmarks.__main__ import main as measure

ROOT = Path(__file__).parent.parent
README, CONTRIBUTING, CHANGELOG = (
    (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
)
CI = (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    """Give the code blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def table(text: str, head: str) -> list[list[str]]:
    """Give the rows of the table whose head begins so."""
    rows = text[text.index(f"\n{head}") :].strip().split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row[1:-1].split(" |")] for row in rows]


def ticked(cell: str) -> list[str]:
    """Give what stands in backticks."""
    return re.findall(r"`([^`]+)`", cell)


def bash(script: str, folder: Path, env: dict[str, str], **more: str) -> subprocess.CompletedProcess[str]:
    """Run a script as a user of an activated environment would."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={**os.environ, **env, "PATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        **more,
    )


# --- the two commands ------------------------------------------------------------------------------------------------


def test_two_commands_are_all_that_a_newcomer_needs() -> None:
    """Each makes .venv or uses the one there is; .ci/run runs the second as written, test_demo.py what the first is."""
    demo, tests = blocks(README, "sh")[:2]
    start = "python3 -m venv .venv && .venv/bin/python -m pip install -q -e "
    assert demo == f"{start}. && .venv/bin/mpnb demo\n"
    assert tests == f'{start}".[test]" && .venv/bin/python -m pytest\n'


def test_ci_runs_the_test_command_of_the_readme() -> None:
    """By its own extraction, which is run here."""
    [line] = re.findall(r"^test_command=.*$", CI, re.M)
    taken = bash(f'{line}\nprintf "%s\\n" "$test_command"', ROOT, {})
    assert taken.stdout == blocks(README, "sh")[1]
    assert 'bash -euo pipefail -c "$test_command"' in CI


def test_ci_runs_what_contributing_tells_to_type() -> None:
    """Every command of it, but for the set-up, which is the README's."""
    setup, *others = blocks(CONTRIBUTING, "sh")
    assert setup == blocks(README, "sh")[1]
    commands = [line for block in others for line in block.splitlines()]
    assert len(commands) == 7
    for command in commands:
        assert re.search(rf"^ *{re.escape(command)}( >/dev/null)?$", CI, re.M), command


# --- what can be typed -----------------------------------------------------------------------------------------------


def test_the_commands_of_the_readme_run(tmp_path: Path, sandbox: Callable[..., Sandbox]) -> None:
    """The variables, then a first export, as they stand."""
    mp = sandbox()
    credentials, first = blocks(README, "sh")[2:4]
    show = "python -c 'import mpnb; print(mpnb.Credentials.from_environment())'"
    told = bash(f"{credentials}\n{show}", tmp_path, {}, input="typed\n")
    assert told.stdout.strip() == repr(
        Credentials("reader.a1b2c3.mp-service-account", "typed", "1234567", region="us")
    ), told.stderr
    ran = bash(first, tmp_path, environment(mp))
    assert ran.returncode == 0, ran.stderr
    assert "requests  5 of 60 left this hour" in ran.stdout
    assert "5 fetched" in ran.stdout
    assert len(mp.requests) == 5


def test_the_measurement_of_the_readme_runs() -> None:
    """Its command as it stands, but for fewer events, two scenarios, and without an environment of other exporters."""
    [block] = [each for each in blocks(README, "sh") if "tests.benchmarks" in each]
    peers, measure = block.splitlines()
    assert peers.startswith("python3 -m venv .peers && ")
    options = re.fullmatch(r"\.venv/bin/python -m tests\.benchmarks (.+) --peers \.peers/bin/python", measure)
    assert options
    few = "--scenario floor instant --events 1300 --slow-events 90 --rounds 1"
    ran = bash(f"python -m tests.benchmarks {options[1]} {few}", ROOT, {})
    assert ran.returncode == 0, ran.stderr
    rows = table(ran.stdout, "| case | events |")
    assert [row[0] for row in rows] == ["floor", "mpnb", "executemany"]
    assert rows[0][1] == rows[1][1] != "0"
    assert "instant, summary: " in ran.stdout


@pytest.mark.parametrize(
    "option",
    ["--rounds 0", "--rounds -1", "--events x", "--slow-events 0", "--json no/such/folder/x", "--peers no/such"],
)
def test_a_wrong_measurement_is_told_at_once(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Not after half an hour, and not by a traceback."""
    with pytest.raises(SystemExit, match="2"):
        measure(option.split())
    assert option.split()[1].removesuffix("/x") in capsys.readouterr().err.splitlines()[-1]


def test_the_python_of_the_readme_runs(
    tmp_path: Path, sandbox: Callable[..., Sandbox], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Block after block in one session, as in a notebook."""
    mp = sandbox()
    monkeypatch.chdir(tmp_path)
    for prefix, server in {"MP_": mp, "MP_EU_": sandbox(), "MP_US_": sandbox()}.items():
        for name, value in environment(server).items():
            monkeypatch.setenv(name.replace("MP_", prefix, 1), value)
    names: dict[str, object] = {}
    for number, block in enumerate(blocks(README, "python")):
        exec(compile(block, f"README.md, Python block {number}", "exec"), names)
    result, older, frame, plan = names["result"], names["older"], names["frame"], names["plan"]
    assert isinstance(result, mpnb.ExportResult)
    assert isinstance(older, mpnb.ExportResult)
    assert isinstance(plan, mpnb.ExportPlan)
    assert len(frame) == result.total_rows > 0  # type: ignore[arg-type]
    assert older.total_rows > 0
    assert len(plan.days_held) + sum(batch.days for batch in plan.batches) >= 90
    for each in (result, older, names["both"]):
        each.close()


def test_the_magic_of_the_readme_runs(tmp_path: Path, sandbox: Callable[..., Sandbox]) -> None:
    """In IPython, where it puts the events of one kind into a table of their own."""
    mp = sandbox(events_per_day=300)
    [block] = blocks(README, "ipython")
    (tmp_path / "cell.ipy").write_text(f"{block}\nprint(march.table, march.event_names().fetchall(), march.close())\n")
    ran = bash("ipython cell.ipy", tmp_path, environment(mp))
    assert "purchases [('Purchase', " in ran.stdout, ran.stdout + ran.stderr
    assert ran.returncode == 0


def test_every_name_of_the_readme_exists() -> None:
    """``mpnb.…``, ``result.…`` and ``job.…``, the API table, and the files that it points to."""
    for name in re.findall(r"`mpnb\.(\w+)", README):
        __import__("mpnb.sandbox")
        assert hasattr(mpnb, name), name
    for name in re.findall(r"`result\.(\w+)", README):
        assert hasattr(mpnb.ExportResult, name), name
    for name in re.findall(r"`job\.(\w+)", README):
        assert hasattr(mpnb.ExportJob, name), name
    members = {row[0]: row[1] for row in table(README, "| | |\n|---|---|\n| `mpnb.export")}
    for owner in (mpnb.ExportResult, mpnb.ExportJob, mpnb.ProfilesResult):
        for name in ticked(members[f"`{owner.__name__}`"]):
            assert name == "await" or hasattr(owner, name.removesuffix("()")), name
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README + CONTRIBUTING):
        assert (ROOT / target).exists(), target


# --- what is said ----------------------------------------------------------------------------------------------------


def test_the_readme_lists_every_option() -> None:
    """With the argument of export that it is, and its default."""
    parser = argparse.ArgumentParser(add_help=False)
    _options.add_export_options(parser)
    real = {name for action in parser._actions for name in action.option_strings}
    rows = table(README, "| in a shell |")
    told = {name.split()[0].rstrip(",") for row in rows for name in ticked(row[0]) if name.startswith("-")}
    assert told == real
    arguments = {name.partition("=")[0] for row in rows for name in ticked(row[1])}
    assert arguments == set(_options.PARAMETERS) - {"on_batch", "executor"}
    for row in rows:
        default = _options.PARAMETERS[ticked(row[1])[0].partition("=")[0]].default
        if default is not None and row[1] != "`from_date`, `to_date`":
            assert str(default) in row[2], row


def test_what_shows_a_promise_is_there() -> None:
    """Each promise names a file of tests, or a test in it, that there is."""
    rows = table(README, "| whatever happens |")
    assert len(rows) > 15
    for _, _, shown in rows:
        assert ticked(shown)
        file = ""
        for place in ticked(shown):
            named, _, name = place.partition("::")
            file = file if named == "…" else named  # the same one again
            assert f"def {name or 'test_'}" in (ROOT / file).read_text(), place


FIGURES = {
    "3 requests a second and 60 an hour": (mpnb.Quota().per_second, mpnb.Quota().per_hour) == (3, 60),
    "60 requests an hour, 3 a second and 100 at once": mpnb.Quota() == mpnb.Quota(60, 3, 100),
    "up to four times a batch": _fetcher.MAX_ATTEMPTS == 4,
    "no connection in 10 seconds": _client.CONNECT_SECONDS == 10,
    "nothing for 5 minutes": _client.IDLE_SECONDS == 5 * 60,
    "fewer than 100 bytes a second for 10": (_client.LEAST_SPEED, 2 * _client.IDLE_SECONDS) == (100, 600),
    "A line longer than 15 MiB": _verify.MAX_LINE == 15 << 20,
    "half of what is free, at most 10 GB": _spool.MAX_BYTES == 10 * 10**9,
    "with 210 MB for each": _settings.LIMIT_A_THREAD == 210 * 10**6,
    "under 600 MB, or what `memory=` says, on a machine of up to 4 GB": (
        (_settings.USUAL_MEMORY, _settings.LARGE_MACHINE) == (600 * 10**6, 4 * 10**9)
    ),
    "at least 300 MB": LEAST_MEMORY == 300 * 10**6,
}


@pytest.mark.parametrize("words", FIGURES)
def test_the_figures_of_the_readme_are_those_of_the_code(words: str) -> None:
    """What a reader plans with is what is done; that it is done, other tests show."""
    assert words in " ".join(README.split())
    assert FIGURES[words]


def test_the_readme_says_what_comes_of_each_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the comparison with others, the column of mpnb's own: so many events, or the error."""
    # A 429 says that the hour is full, whose next place comes in a minute: how long that takes is not what is told.
    monkeypatch.setattr(_fetcher, "HOUR", 60.0)
    monkeypatch.setattr(_limiter, "HOUR", 60.0)
    monkeypatch.setattr(_limiter, "HOUR_WINDOW", 61.0)
    rows = table(README, "| the server | mpnb |")
    assert len(rows) == len(others.FAULTS)
    for (_, told, *_), faults in zip(rows, others.FAULTS.values(), strict=True):
        with serve(faults=faults) as mp:
            events, ended = others.ours(mp)
        assert told == (f"{events:,}" if events else f"none, `{ended.split()[0]}` says why")
        assert events in (0, mp.count(others.FIRST, others.LAST))


def test_the_readme_explains_every_kind_of_failure() -> None:
    """What it means and what to type."""
    rows = table(README, "| you see |")
    told = {ticked(row[0])[0] for row in rows}
    assert told >= set(KINDS)
    assert all(len(row) == 3 and all(row) for row in rows)
    assert {name for name in told - set(KINDS)} <= set(mpnb.__all__)


def test_the_readme_shows_the_columns_that_there_are(
    export: Callable[..., mpnb.ExportResult], sandbox: Callable[..., Sandbox]
) -> None:
    """Of the events and of the failure table, in their order."""
    result = export(sandbox(), day(1), day(1))
    tables = re.findall(r"^\| column \| \|\n.*?(?=\n\n)", README, re.M | re.S)
    told = [[name for row in text.splitlines()[2:] for name in ticked(row.split(" | ")[0])] for text in tables]
    assert told == [result.events.columns, result.failures.columns]


def test_the_map_of_modules_is_complete() -> None:
    """Each module of each room has its line in CONTRIBUTING, and each line its module."""
    told: set[str] = set()
    room = ""
    for row in table(CONTRIBUTING, "| room |"):
        room = next(iter(ticked(row[0])), room)
        told |= {f"{room}{name}" for name in ticked(row[2])} if row[2] else {room}
    package = ROOT / "mpnb"
    real = {path.stem for path in package.glob("*.py")} - {"__init__", "__main__", "_version"}
    real |= {"analysis/", "sandbox/"}
    for path in package.glob("_*/*"):
        if path.suffix == ".py" and path.stem != "__init__":
            real.add(f"{path.parent.name}/{path.stem}")
        elif (path / "__init__.py").exists():
            real.add(f"{path.parent.name}/{path.name}/")
    assert told == real


def test_docstrings_say_what_is_returned_and_what_a_class_is() -> None:
    """None in the package begins with "Give" or "Say" for a value, or with "Hold" for a class that has some."""
    begun = re.compile(r"(Give|Say|Hold)s?\b")
    docstrings = [
        (f"{path.relative_to(ROOT)} {getattr(node, 'name', '')}", text)
        for path in sorted((ROOT / "mpnb").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and (text := ast.get_docstring(node))
    ]
    assert len(docstrings) > 900
    assert [place for place, text in docstrings if begun.match(text)] == []


def test_the_changelog_has_the_version() -> None:
    """Its newest section is the package's version."""
    assert re.findall(r"^## \[(.+?)\]", CHANGELOG, re.M)[0] == mpnb.__version__


def test_the_core_of_the_readme_is_what_the_package_requires() -> None:
    """But for what notebooks and frames need; ``.ci/run`` installs just that, and tries it."""
    [block] = [each for each in blocks(README, "console") if "--no-deps" in each]
    words = shlex.split(block.replace("\\\n", "").splitlines()[1].removeprefix("$ "))
    assert words[: words.index("install") + 1] == [".venv/bin/python", "-m", "pip", "install"]
    assert words[words.index("install") + 1 :] == core.requirements()
