"""The options of the magic: those of ``mpnb.export``, and what is said of wrong ones."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from IPython.core.error import UsageError

import mpnb
from mpnb import _api as api
from mpnb._base.clock import today
from mpnb._command import options as _options
from mpnb._notebook.magic._command import PARSER
from mpnb._notebook.magic._manual import manual
from mpnb.sandbox import Sandbox
from tests._helpers import day, query
from tests.magic.conftest import Shell

SIGNATURE = inspect.signature(mpnb.export)
# What code alone can pass, or as a name.
OF_CODE = {"on_batch", "credentials", "executor"}
# What is no argument of export().
OWN = {"name", "bg", "strict", "plan", "status", "cancel", "retry", "help"}
ALL = """
    2026-01-01 2026-01-31 -e "Sign Up" --events Purchase --where 'properties["$os"] == "iOS"' --database x.duckdb
    --table t --workers 3 --chunk-days auto --mode refresh --late-days 2 --per-hour 100 --per-second 7 --concurrent 50
    --spool-folder s --spool-bytes 1000000 --memory 2GB --destination lake
"""
ARGUMENTS = {
    "from_date": "2026-01-01",
    "to_date": "2026-01-31",
    "events": ["Sign Up", "Purchase"],
    "where": 'properties["$os"] == "iOS"',
    "database": "x.duckdb",
    "table": "t",
    "workers": 3,
    "chunk_days": "auto",
    "mode": "refresh",
    "late_days": 2,
    "quota": mpnb.Quota(per_hour=100, per_second=7, concurrent=50),
    "spool": mpnb.Spool(folder="s", max_bytes=1000000),
    "memory": "2GB",
    "destination": "lake",
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Note what ``export`` is called with, and let no export happen."""
    calls: list[dict[str, Any]] = []

    def note(*args: Any, **arguments: Any) -> None:
        bound = SIGNATURE.bind(*args, **arguments)
        calls.append(bound.arguments)
        raise mpnb.ClosedError("noted")

    monkeypatch.setattr(api, "export", note)
    return calls


def test_every_argument_of_export_has_its_option() -> None:
    """
    All but what only code can pass, or as the fields of ``Quota`` and ``Spool``; accounts are given by their names.
    """
    options = {action.dest for action in PARSER._actions} - OWN - {"days", "project"}
    parts = {name: set(part[1]) for name, part in _options.PARTS.items()}
    wanted = SIGNATURE.parameters.keys() - {"from_date", "to_date"} - OF_CODE
    assert parts.keys() <= wanted
    assert options == (wanted - parts.keys()).union(*parts.values())
    for name, kind in (("quota", mpnb.Quota), ("spool", mpnb.Spool)):
        assert {field.name for field in dataclasses.fields(kind)} == set(_options.PARTS[name][1].values())
    for name in wanted - parts.keys():
        assert any(f"--{name.replace('_', '-')}" in action.option_strings for action in PARSER._actions)


def test_options_arrive_as_the_arguments_that_they_are_named_after(shell: Shell, asked: list[dict[str, Any]]) -> None:
    """Each of them, whatever its type; the test names every argument that there is."""
    shell.run("%mpexport " + " ".join(ALL.split("\n")))
    assert asked == [ARGUMENTS]
    assert ARGUMENTS.keys() == SIGNATURE.parameters.keys() - OF_CODE


def test_defaults_are_those_of_export(shell: Shell, asked: list[dict[str, Any]]) -> None:
    """What is not typed is not passed on, and the manual names the defaults of ``export`` itself."""
    shell.run("%mpexport 2026-01-01 2026-01-31")
    assert asked == [{"from_date": "2026-01-01", "to_date": "2026-01-31"}]
    for name in ("database", "table", "workers", "mode", "late_days"):
        default = SIGNATURE.parameters[name].default
        [action] = [action for action in PARSER._actions if action.dest == name]
        assert str(action.help).endswith(f"(default: {default})")


@pytest.mark.parametrize(
    ("typed", "first", "last"),
    [
        ("2026-01-01 2026-01-31", "2026-01-01", "2026-01-31"),
        ("'30 days ago' today", "30 days ago", "today"),
        ("30 days ago yesterday", "30 days ago", "yesterday"),
        ("last 30 days", "30 days ago", "yesterday"),
        ("last 1 day", "1 days ago", "yesterday"),
        ("$first {first.replace(day=31)}", "2026-01-01", "2026-01-31"),
    ],
)
def test_days_are_typed_as_everywhere(
    shell: Shell, asked: list[dict[str, Any]], typed: str, first: str, last: str
) -> None:
    """As ``export`` takes them, and ``last N days``, quoted or not."""
    shell.ip.user_ns["first"] = date(2026, 1, 1)
    shell.run(f"%mpexport {typed}")
    assert asked == [{"from_date": first, "to_date": last}]


def test_values_of_the_notebook_stand_for_arguments(shell: Shell, asked: list[dict[str, Any]], tmp_path: Path) -> None:
    """A list of events, a path, a number; within a function its own names."""
    shell(f"from pathlib import Path\nnames = ['Sign Up', '-odd']\nfolder = Path({str(tmp_path)!r})\nfrom_here = 'x'")
    shell.run("%mpexport last 2 days -e $names -e Purchase --database {folder / 'a b.duckdb'} --workers {2 + 3}")
    shell.run("def f(from_here):\n    %mpexport last 2 days --table $from_here\nf('inner')")
    assert asked[0]["events"] == ["Sign Up", "-odd", "Purchase"]
    assert asked[0]["database"] == str(tmp_path / "a b.duckdb")
    assert asked[0]["workers"] == 5
    assert asked[1]["table"] == "inner"


def test_dollar_os_stays_as_typed_below_import_os(shell: Shell, mp: Sandbox) -> None:
    """In quotes and without, and the sandbox is asked for just that; as a whole word it is the notebook's."""
    shell("import os")
    for table, where in (("a", '\'properties["$os"] == "iOS"\''), ("b", 'properties["$os"]=="iOS"')):
        result = shell(f"%mpexport {day(1)} {day(1)} --table {table} --where {where}")
        assert mp.requests[-1].params["where"] == where.strip("'")
        assert 0 < result.total_rows < len(mp.lines(day(1)))
    shell(f"%mpexport {day(1)} {day(1)} --table c -e $os")
    assert "<module 'os'" in mp.requests[-1].params["event"]
    shell(f"%mpexport {day(1)} {day(1)} --table d -e '$os'")
    assert mp.requests[-1].params["event"] == '["$os"]'


def test_an_open_connection_is_a_database(shell: Shell, mp: Sandbox) -> None:
    """``--database $con`` exports into it."""
    shell("import duckdb; con = duckdb.connect()")
    shell(f"%mpexport {day(1)} {day(2)} --database $con;")
    [(rows,)] = shell["con"].execute("SELECT count(*) FROM events").fetchall()
    assert rows == mp.count(day(1), day(2)) > 0
    shell["con"].close()


# --- wrong ones ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("last 3 days --evnts x", "unknown option --evnts; did you mean --events?"),
        ("last 3 days --wokers 3", "unknown option --wokers; did you mean --workers?"),
        ("last 3 days --xyzzy", "unknown option --xyzzy"),
        ("last 3 days --mode resum", "argument --mode: invalid choice: 'resum' (choose from"),
        ("last 3 days --workers many", "argument --workers: invalid int value: 'many'"),
        ("last 3 days --workers 0", "--workers must be a whole number from 1 to 100, not 0"),
        ("last 3 days --chunk-days 101", "--chunk-days must be a whole number from 1 to 100, or 'auto', not 101"),
        ("last 3 days --per-second 0", "--per-second"),
        ("last 3 days -e", "argument -e/--events: expected one argument"),
        ("last 3 days --table t oops", "oops is out of place"),
        ("", "days must be FROM TO, such as 2026-01-01 2026-01-31, or: last 30 days"),
        ("2026-01-01", "days must be FROM TO"),
        ("2026-01-31 2026-01-01", "FROM 2026-01-31 is after TO 2026-01-01"),
        ("2026-02-30 2026-03-01", "FROM '2026-02-30' is not a valid date"),
        ("last 3 days --where 'a", "'a has a quote that is not closed"),
        ("last 3 days -e $nobody", "$nobody cannot be expanded"),
        ("last 3 days --as 3x", "--as must be a Python name, not '3x'"),
        ("last 3 days --as class", "--as must be a Python name, not 'class'"),
        ("last 3 days --plan --bg", "--plan cannot be combined with --bg"),
        ("last 3 days --bg --strict", "--strict cannot be combined with --bg"),
        ("last 3 days --status", "--status cannot be combined with FROM TO"),
        ("--retry --table t", "--retry cannot be combined with --table"),
        ("--status --cancel", "argument --cancel: not allowed with argument --status"),
        ("--retry", "%mpexport has exported nothing in this kernel yet"),
        ("--status", "%mpexport has exported nothing in this kernel yet"),
    ],
)
def test_wrong_arguments_are_one_line(shell: Shell, mp: Sandbox, typed: str, message: str) -> None:
    """A ``UsageError`` that names what is wrong, in words that can be typed; nothing is sent and no file made."""
    ran = shell.run(f"%mpexport {typed}")
    assert type(ran.error) is UsageError
    assert message in str(ran.error)
    assert ran.err == f"UsageError: {ran.error}\n"
    assert ran.err.count("\n") == 1
    assert ran.out == ""
    assert not mp.requests
    assert not list(Path().glob("*.duckdb"))


@pytest.mark.parametrize("name", ["MP_USERNAME", "MP_SECRET", "MP_PROJECT_ID"])
def test_a_variable_that_is_missing_is_named(
    shell: Shell, mp: Sandbox, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """In one line, as ``UsageError``."""
    monkeypatch.delenv(name)
    ran = shell.run("%mpexport last 3 days")
    assert ran.err == f"UsageError: no credentials: set {name} in the environment\n"
    assert type(ran.error) is UsageError


def test_sql_is_never_taken_for_options(shell: Shell, mp: Sandbox) -> None:
    """A body of words that look like options reaches DuckDB; what cannot go with a body is refused before a request."""
    ran = shell.run(f"%%mpexport {day(1)} {day(1)}\n--bg --table other\nSELECT 7 AS seven -- --strict")
    assert ran.value.fetchall() == [(7,)]
    for option in ("--bg", "--plan"):
        ran = shell.run(f"%%mpexport {day(2)} {day(2)} {option}\nSELECT 7")
        assert ran.err == f"UsageError: SQL runs on an export that is done: leave {option} out\n"
    assert len(mp.requests) == 1


def test_no_option_takes_a_secret() -> None:
    """No name of one says so, and none abbreviates to one."""
    names = [name for action in PARSER._actions for name in action.option_strings]
    assert not [name for name in names if any(word in name for word in ("secret", "pass", "cred", "user", "key"))]
    with pytest.raises(UsageError):
        PARSER.parse_args(["last", "3", "days", "--secret", "x"])


# --- the manual ------------------------------------------------------------------------------------------------------


def test_the_manual_has_every_option_and_examples(shell: Shell) -> None:
    """``--help``, ``-h`` and ``%mpexport?`` show the same."""
    text = manual(PARSER)
    assert shell.run("%mpexport --help").out == shell.run("%mpexport -h").out == text + "\n"
    assert text in shell.run("%mpexport?").out
    for action in PARSER._actions:
        assert all(name in text for name in action.option_strings)
    assert "Examples:\n" in text
    assert max(map(len, text.splitlines())) <= 100


def test_the_examples_of_the_manual_work(shell: Shell, mp: Sandbox) -> None:
    """Line for line, in one notebook."""
    shell("from datetime import date, timedelta\nfirst = date(2026, 2, 1)")
    text = manual(PARSER)
    lines = [line[2:] for line in text[text.index("Examples:\n") :].splitlines()[1:]]
    for cell in (*lines[: lines.index("")], "\n".join(lines[lines.index("") + 1 :])):
        value = shell(cell)
    assert shell["jan"].total_rows == mp.count(day(1), day(31))
    assert shell["recent"].to_date == today() - timedelta(days=1)
    assert isinstance(shell["_8"], mpnb.ExportPlan)
    assert "_7" not in shell.ip.user_ns, "the semicolon hides it"
    assert value.columns == ["event_name", "events"]


def test_the_readme_shows_the_manual() -> None:
    """Word for word."""
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert f"```text\n{manual(PARSER)}\n```\n" in readme


def test_the_manual_is_the_same_on_every_terminal() -> None:
    """Neither its width nor its colours matter: the README is compared with it."""
    magic = "mpnb._notebook.magic"
    code = f"from {magic}._command import PARSER\nfrom {magic}._manual import manual\nprint(manual(PARSER))"
    for env in ({"COLUMNS": "40"}, {"FORCE_COLOR": "1", "COLUMNS": "200"}):
        command = [sys.executable, "-c", code]
        told = subprocess.run(command, env={**env}, capture_output=True, text=True, timeout=60, check=True)
        assert told.stdout == manual(PARSER) + "\n"


def test_mode_new_is_refused_where_the_table_is_not_empty(shell: Shell, mp: Sandbox) -> None:
    """A table that is not as asked is a real error of one line: it is the notebook's state, not what was typed."""
    shell(f"%mpexport {day(1)} {day(1)};")
    ran = shell.run(f"%mpexport {day(1)} {day(1)} --mode new")
    assert isinstance(ran.error, mpnb.TableError)
    assert ran.out.startswith("TableError: table 'events' has ")
    assert "--mode resume" in ran.out
    assert ran.out.count("\n") == 1
    assert query("mixpanel.duckdb", "SELECT count(*) > 0 FROM events") == [(True,)]
