"""``%mpprofiles``: what it does with an export of profiles, what it refuses, and what Tab offers."""

from __future__ import annotations

import duckdb
import pytest
from IPython.core.error import UsageError

import mpnb
from mpnb.sandbox import Fault, Sandbox
from mpnb.sandbox.__main__ import environment
from tests.magic.conftest import Shell

USUAL = "--per-second 1000 --page-size 10"


@pytest.fixture
def mp(sandbox, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """Serve 25 people."""
    served = sandbox(profiles=25)
    for name, value in environment(served).items():
        monkeypatch.setenv(name, value)
    return served


def test_it_gives_the_profiles_when_all_are_there(shell: Shell, mp: Sandbox) -> None:
    """Assigned, displayed, under the name after ``--as``; a semicolon hides the display alone."""
    result = shell(f"people = %mpprofiles {USUAL}\npeople")
    assert isinstance(result, mpnb.ProfilesResult)
    assert result is shell["people"]
    assert result.total_rows == 25
    sent = len(mp.requests)
    assert shell(f"%mpprofiles {USUAL} --as again;") is None
    assert shell["again"].total_rows == 25
    assert len(mp.requests) == sent
    plan = shell(f"%mpprofiles {USUAL} --plan")
    assert isinstance(plan, mpnb.ProfilesPlan)
    assert plan.is_held


def test_values_of_the_notebook_are_arguments(shell: Shell, mp: Sandbox) -> None:
    """A list of properties, and an open connection."""
    shell("import duckdb\ncon = duckdb.connect()\nnames = ['plan', 'seats']")
    with shell(f"%mpprofiles {USUAL} --database $con --properties $names --table few") as few:
        assert set(few.catalog().project("property").fetchall()) <= {("plan",), ("seats",), ("$last_seen",)}
    assert mp.requests[0].params["output_properties"] == '["plan", "seats"]'
    assert shell("con.sql('SELECT count(*) FROM few').fetchall()") == [(25,)]


def test_sql_below_it_runs_on_the_profiles(shell: Shell, mp: Sandbox) -> None:
    """The cell shows the relation, and can name a frame of the notebook."""
    shell("import pandas\nlimits = pandas.DataFrame({'n': [3]})")
    relation = shell(f"%%mpprofiles {USUAL} --as p\nSELECT count(*) AS people, max(n) FROM profiles, limits")
    assert isinstance(relation, duckdb.DuckDBPyRelation)
    assert relation.fetchall() == [(25, 3)]
    assert shell["p"].total_rows == 25


def test_what_could_not_be_fetched_whole_is_an_error_of_one_line(shell: Shell, mp: Sandbox) -> None:
    """In the words of the magic; ``--retry`` goes on with the pages that are there."""
    mp.add_fault(Fault("status", status=500, page=2, times=4))
    ran = shell.run(f"%mpprofiles {USUAL}")
    assert isinstance(ran.error, mpnb.ProfilesError)
    [line] = [line for line in ran.out.splitlines() if line.startswith("ProfilesError: ")]
    assert line.endswith("%mpprofiles --retry goes on")
    assert "Traceback" not in ran.out + ran.err
    sent = len(mp.requests)
    result = shell("%mpprofiles --retry --per-second 1000 --as whole")
    assert result is shell["whole"]
    assert result.check().ok
    assert [request.page for request in mp.requests[sent:]] == [2, 0]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--retry", "has fetched nothing in this kernel yet"),
        ("--retry --table x", "--retry cannot be combined with --table"),
        ("--wher x", r"unknown option --wher; did you mean --where\? \(%mpprofiles --help"),
        ("--as 5x", "--as must be a Python name"),
        ("--workers 0", "--workers must be a whole number from 1 to 100"),
        ("last 7 days", "last is out of place"),
        ("--plan\nSELECT 1", "leave --plan out"),
    ],
)
def test_what_cannot_be_is_a_usage_error(shell: Shell, mp: Sandbox, words: str, says: str) -> None:
    """Before anything is sent, in one line that names the option."""
    ran = shell.run(f"%{'%' if 'SELECT' in words else ''}mpprofiles {words}")
    assert isinstance(ran.error, UsageError)
    with pytest.raises(UsageError, match=says):
        raise ran.error
    assert mp.requests == ()


def test_its_manual_and_what_tab_offers(shell: Shell, mp: Sandbox) -> None:
    """Options of its own, and tables of profiles alone."""
    help = shell.run("%mpprofiles --help").out
    assert "%mpprofiles --retry" in help
    assert "--history" in help
    assert "--chunk-days" not in help
    assert max(map(len, help.splitlines())) <= 100
    shell(f"%mpprofiles {USUAL} --table friends;")
    assert shell.complete("%mpprofiles --his", ours=True) == ["%mpprofiles --history"]
    assert shell.complete("%mpprofiles --table f", ours=True) == ["%mpprofiles --table friends"]
    assert shell.complete("%mpexport --table f", ours=True) == []


def test_it_is_gone_with_the_extension(shell: Shell) -> None:
    """As the other magic is."""
    shell("%unload_ext mpnb")
    assert "UsageError" in shell.run("%mpprofiles").err
