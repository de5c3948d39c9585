"""``mpnb profiles``: options as arguments, what it prints, and its exit status."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mpnb._command.cli import main
from mpnb.sandbox import Fault, Sandbox
from mpnb.sandbox.__main__ import environment
from tests._helpers import query, terminal


@pytest.fixture
def mp(sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Sandbox:
    """Serve 25 people to commands that run in a folder of their own."""
    mp = sandbox(profiles=25)
    for name, value in environment(mp).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return mp


def test_profiles_are_fetched_and_counted(mp: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    """Into the file and table that are named; the same command again sends nothing."""
    words = ["profiles", "--page-size", "10", "--table", "people", "--database", "x.duckdb", "--per-second", "1000"]
    assert main(words) == 0
    told = capsys.readouterr()
    assert "25 in table 'people' of x.duckdb" in told.out
    assert "mpnb: page 0 again done: 10 profiles" in told.err
    assert query(Path("x.duckdb"), "SELECT count(*) FROM people") == [(25,)]
    sent = len(mp.requests)
    assert main([*words, "--plan"]) == 0
    assert "this is young enough" in capsys.readouterr().out
    assert main(words) == 0
    assert "none fetched: the profiles were there already" in capsys.readouterr().out
    assert len(mp.requests) == sent
    assert main([*words, "--max-age", "0"]) == 0
    assert len(mp.requests) == sent + 4


def test_options_are_arguments(mp: Sandbox) -> None:
    """Each in Mixpanel's form on the request."""
    words = ["--where", 'properties["seats"] < 9', "--properties", "plan", "--properties", "seats", "--workspace", "3"]
    assert main(["profiles", *words, "--workers", "2", "--per-second", "1000"]) == 0
    [first, _] = mp.requests
    assert first.params["where"] == 'properties["seats"] < 9'
    assert first.params["output_properties"] == '["plan", "seats"]'
    assert first.params["workspace_id"] == "3"


def test_what_could_not_be_fetched_whole_says_so(mp: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    """With the failure table, in the words of a shell, and status 2."""
    mp.add_fault(Fault("page_size", times=None))
    assert main(["profiles", "--page-size", "10"]) == 2
    told = capsys.readouterr()
    assert "Pass another --page-size, or --page-size auto." in told.err
    assert "table 'profiles' has no profiles yet" in told.err
    assert "page  kind  HTTP  attempts  message" in told.out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--workers", "0"], "--workers must be a whole number from 1 to 100"),
        (["--group", "x"], "--group must be a number"),
        (["--max-age", "-1"], "--max-age must be"),
        (["--max-age", "nan"], "--max-age must be a number of hours"),
        (["--database", ":memory:"], "--database must be a file"),
        (["--cohort", "1", "--group", "2"], "--group and --cohort cannot be asked for together"),
    ],
)
def test_what_cannot_be_is_refused(
    mp: Sandbox, capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    """In one line that names the option, with status 2, before anything is sent."""
    assert main(["profiles", *words]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert says in line
    assert mp.requests == ()


def test_a_drop_of_profiles_asks_and_says_how_many(mp: Sandbox, tmp_path: Path) -> None:
    """In the word for what they are, on a terminal; after yes they are gone."""
    assert main(["profiles", "--per-second", "1000"]) == 0
    words = [sys.executable, "-m", "mpnb", "drop", "profiles"]
    with terminal(words, cwd=tmp_path) as (process, screen):
        screen.expect_exact("25 profiles in table 'profiles' of mixpanel.duckdb. Delete them for good? [y/N] ")
        screen.send("y\n")
        screen.expect_exact("is gone, with 25 profiles")
        assert process.wait(30) == 0
    assert query(Path("mixpanel.duckdb"), "SELECT count(*) FROM mpnb_snapshots") == [(0,)]
