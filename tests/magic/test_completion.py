"""What Tab offers behind ``%mpexport``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

import mpnb
from mpnb._notebook.magic._command import PARSER
from mpnb._notebook.magic._words import expanded
from mpnb.sandbox import Sandbox
from tests._helpers import WIDE, day, event
from tests.magic.conftest import Shell

NAMES = ["$identify", "Purchase", "Sign Up", "Sign out", 'say "hi"', "{braces}"]


@pytest.fixture
def filled(shell: Shell, sandbox: Callable[..., Sandbox]) -> Shell:
    """Give a shell beside a database with two tables of events, which nobody has open."""
    made = sandbox(lines=lambda _: [event(name) for name in NAMES])
    for table in ("events", "funnel"):
        mpnb.export(day(1), day(1), table=table, credentials=made.credentials, quota=WIDE).close()
    return shell


@pytest.mark.parametrize("magic", ["%mpexport", "%%mpexport", "jan = %mpexport", "a, b = %mpexport"])
def test_options_are_completed(shell: Shell, magic: str) -> None:
    """Those that begin so, all of them behind a blank, wherever the magic may stand; and nothing else."""
    options = [name for action in PARSER._actions for name in action.option_strings]
    assert shell.complete(f"{magic} last 30 days --wh") == [f"{magic} last 30 days --where"]
    assert shell.complete(f"{magic} last 30 days --s") == [
        f"{magic} last 30 days {name}" for name in options if name.startswith("--s")
    ]
    assert sorted(shell.complete(f"{magic} last 30 days ")) == sorted(f"{magic} last 30 days {n}" for n in options)


def test_values_of_an_option_are_completed(shell: Shell) -> None:
    """Where it has a choice of them."""
    assert shell.complete("%mpexport last 3 days --mode re") == [
        f"%mpexport last 3 days --mode {mode}" for mode in ("resume", "refresh")
    ]


@pytest.mark.parametrize(
    ("typed", "after", "completed"),
    [
        ("-e P", "", ["-e Purchase"]),
        ("--events p", "", ["--events Purchase"]),
        ("-e Purchase -e Si", "", ['-e Purchase -e "Sign Up"', '-e Purchase -e "Sign out"']),
        ('-e "Sign U', "", ['-e "Sign Up"']),
        ('-e "Sign U', '"', ['-e "Sign Up"']),
        ("-e 'Sign U", "' --bg", ["-e 'Sign Up' --bg"]),
        ("-e say", "", [r'-e "say \"hi\""']),
        ("-e 'say", "", ["""-e 'say "hi"'"""]),
        ("-e $", "", ['-e "$identify"']),
        ("-e {", "", ['-e "{braces}"']),
        ("--table funnel -e Pu", "", ["--table funnel -e Purchase"]),
        ("--table nowhere -e Pu", "", []),
        ("--table f", "", ["--table funnel"]),
        ("--database mixpanel.duckdb --table f", "", ["--database mixpanel.duckdb --table funnel"]),
        ("--database $database --table f", "", ["--database $database --table funnel"]),
    ],
)
def test_events_and_tables_of_the_database_are_completed(
    filled: Shell, typed: str, after: str, completed: list[str]
) -> None:
    """In the quotes that were begun, or in some where they need them; nothing is sent and no credentials needed."""
    filled.ip.user_ns["database"] = Path("mixpanel.duckdb").absolute()
    assert filled.complete(f"%mpexport last 3 days {typed}", after, ours=not completed) == [
        f"%mpexport last 3 days {each}" for each in completed
    ]


def test_what_is_completed_is_read_as_the_name(filled: Shell) -> None:
    """Each name of an event arrives as itself."""
    lines = filled.complete("%mpexport last 3 days -e ")
    assert len(lines) == len(NAMES)
    planned = [PARSER.parse_args(expanded(line.removeprefix("%mpexport "), {})).events for line in lines]
    assert sorted(planned) == sorted([name] for name in NAMES)


def test_completion_makes_and_changes_nothing(shell: Shell, mp: Sandbox) -> None:
    """Without a database there are no names, and none is made; one that is no export's is left as it is."""
    assert shell.complete("%mpexport last 3 days -e S", ours=True) == []
    assert not Path("mixpanel.duckdb").exists()
    duckdb.connect("mixpanel.duckdb").close()
    before = Path("mixpanel.duckdb").read_bytes()
    assert shell.complete("%mpexport last 3 days -e S", ours=True) == []
    assert Path("mixpanel.duckdb").read_bytes() == before
    assert not mp.requests


def test_completion_reads_beside_an_open_result(filled: Shell) -> None:
    """And beside a connection with settings of its own it gives nothing rather than an error."""
    with mpnb.open("mixpanel.duckdb", table="events"):
        assert filled.complete("%mpexport last 3 days -e P") == ["%mpexport last 3 days -e Purchase"]
    with duckdb.connect("mixpanel.duckdb", read_only=True):
        assert filled.complete("%mpexport last 3 days -e P", ours=True) == []


def test_other_lines_are_completed_as_ever(filled: Shell) -> None:
    """The SQL of a cell, Python, another magic, and the name of a file."""
    filled("a_long_name = 1")
    assert filled.complete("a_long_n") == ["a_long_name"]
    assert filled.complete("%mpexp") == ["%mpexport", "%%mpexport"]
    assert filled.complete("print(a_long_n") == ["print(a_long_name"]
    assert "%mpexport last 3 days --database mixpanel.duckdb" in filled.complete(
        "%mpexport last 3 days --database mixp"
    )
