"""Windows and macOS, as far as that can be seen from here: what the system would do is done in its place."""

from __future__ import annotations

import math
import os
import re
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mpnb
from mpnb._base import paths
from mpnb._base.interrupt import wait_in_turns
from mpnb._base.paths import local_path
from mpnb._base.shell import Shell, assignment, command_line, users_shell
from mpnb._fetching.history import History, Times
from mpnb._planning.address import is_url
from mpnb._storing.database import check_database
from mpnb.sandbox import Fault
from tests._helpers import day

# --- files that somebody has open -----------------------------------------------------------------------------------


class InUse:
    """Refuse a call some times, as Windows does while somebody has a file open."""

    def __init__(self, call: Any, times: float, winerror: int = 32) -> None:
        self._call, self._winerror = call, winerror
        self.left = times

    def __call__(self, *args: Any, **options: Any) -> Any:
        if self.left > 0:
            self.left -= 1
            error = PermissionError(
                13, "The process cannot access the file because it is being used by another process"
            )
            error.winerror = self._winerror
            raise error
        return self._call(*args, **options)


@pytest.mark.parametrize("winerror", [5, 32])
def test_request_times_are_saved_while_another_process_reads_them(winerror: int, monkeypatch) -> None:
    """The quota holds across processes on Windows, too, where a file that is open cannot be replaced."""
    history = History("https://data.mixpanel.com", "1")
    refused = InUse(os.replace, 3, winerror)
    monkeypatch.setattr(os, "replace", refused)
    with history.exclusive():
        history.write(Times((1.0, 2.0)))
    assert refused.left == 0
    assert history.read().starts == (1.0, 2.0)


def test_request_times_are_read_while_another_process_replaces_them(monkeypatch) -> None:
    """The other way round."""
    history = History("https://data.mixpanel.com", "1")
    with history.exclusive():
        history.write(Times((1.0,)))
    refused = InUse(Path.read_bytes, 2)
    monkeypatch.setattr(Path, "read_bytes", lambda path: refused(path))
    assert history.read().starts == (1.0,)


def test_a_file_that_stays_in_use_is_given_up(tmp_path: Path, monkeypatch) -> None:
    """In half a second; nothing of the new one is left, and what was there stays."""
    monkeypatch.setenv("MPNB_STATE_DIR", str(tmp_path))
    monkeypatch.setattr(paths, "IN_USE_SECONDS", 0.02)
    history = History("https://data.mixpanel.com", "1")
    with history.exclusive():
        history.write(Times((1.0,)))
    before = sorted(path.name for path in tmp_path.iterdir())
    monkeypatch.setattr(os, "replace", InUse(os.replace, math.inf))
    history.write(Times((1.0, 2.0)))
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert history.read().starts == (1.0,)


def test_another_error_is_not_waited_for(tmp_path: Path) -> None:
    """A folder that is not there does not come."""
    (tmp_path / "fresh").write_text("")
    with pytest.raises(FileNotFoundError):
        paths.replace(tmp_path / "fresh", tmp_path / "none" / "there")
    assert (tmp_path / "fresh").exists()


# --- waits ----------------------------------------------------------------------------------------------------------


def test_the_result_of_a_job_is_waited_for_in_turns(sandbox, start, monkeypatch) -> None:
    """A wait without an end cannot be ended by Ctrl-C on Windows; between two turns it is heard."""
    turns: list[float | None] = []
    wait = threading.Condition.wait

    def waited(self: threading.Condition, timeout: float | None = None) -> bool:
        if threading.current_thread() is threading.main_thread():
            turns.append(timeout)
            if len(turns) == 3 or timeout is None or timeout > 0.2:
                raise KeyboardInterrupt
        return wait(self, timeout)

    job = start(sandbox(faults=[Fault("hang", day(2), times=None)]))
    try:
        with monkeypatch.context() as patched:
            patched.setattr(threading.Condition, "wait", waited)
            with pytest.raises(KeyboardInterrupt):
                job.result(None)
        assert len(turns) == 3
        assert all(seconds is not None and seconds <= 0.2 for seconds in turns)
    finally:
        job.cancel()
        job.outcome(10).close()


def test_a_wait_in_turns_ends_with_its_time_or_its_event() -> None:
    """No sooner, and no later than one turn."""
    asked: list[float] = []
    wait_in_turns(asked.append, lambda: len(asked) == 4)
    assert asked == [0.2] * 4
    event = threading.Event()
    wait_in_turns(event.wait, event.is_set, 0.01)
    assert not event.is_set()


# --- quoting --------------------------------------------------------------------------------------------------------

HARD = [
    "export",
    "last",
    "Sign Up",
    'properties["$os"] == "iOS"',
    "it's",
    "C:\\My Files\\",
    'a\\"b',
    "a&b|c>d^e",
    "",
    "ü",
]


def by_microsofts_rules(line: str) -> list[str]:
    """
    Take a line apart as programs on Windows do.

    Backslashes stand for themselves, but before a quote, where each pair is one, and one that is left makes the quote a
    letter; so do two quotes within quotes.
    """
    words, word, quoted, begun, slashes, at = [], "", False, False, 0, 0
    while at <= len(line):
        letter = (line + " ")[at]
        at += 1
        if letter == "\\":
            slashes += 1
            continue
        word += "\\" * (slashes // 2 if letter == '"' else slashes)
        begun = begun or slashes > 0 or letter != " "
        if letter == '"' and slashes % 2 == 0:
            if quoted and line[at : at + 1] == '"':
                word, at = word + letter, at + 1
            else:
                quoted = not quoted
        elif letter != " " or quoted:
            word += letter
        elif begun:
            words.append(word)
            word, begun = "", False
        slashes = 0
    return words


def by_powershell(line: str) -> list[str]:
    """Take a line apart as PowerShell does, where it has plain words and single quotes alone."""
    return [bare or quoted.replace("''", "'") for bare, quoted in re.findall(r"([^\s']+)|'((?:[^']|'')*)'", line)]


def passed_by_windows_powershell(words: list[str]) -> str:
    """Return the line that Windows PowerShell hands to a program: quotes around words with blanks, and nothing more."""
    return " ".join(f'"{word}"' if " " in word else word for word in words if word)


WORDS = st.lists(st.text(st.sampled_from("ab \\\"'&|>$[]=:/é"), max_size=8), min_size=1, max_size=4)


@given(WORDS)
def test_cmd_gets_words_that_come_apart_as_they_were(words: list[str]) -> None:
    """Quotes, backslashes before them and at the end; and nothing that cmd itself takes for a pipe or a file."""
    line = command_line(words, "cmd")
    assert by_microsofts_rules(line) == words
    assert not re.search("[&|<>^]", "".join(line.split('"')[::2]))  # cmd counts each quote, whatever is before it


@given(WORDS)
def test_powershell_gets_words_that_come_apart_as_they_were(words: list[str]) -> None:
    """It expands nothing within single quotes."""
    assert by_powershell(command_line(words, "powershell")) == words


@given(WORDS)
def test_windows_powershell_passes_words_on(words: list[str]) -> None:
    """It does not escape the quotes within them by itself, nor backslashes at the end, and drops what is empty."""
    given_to_powershell = by_powershell(command_line(words, "windows powershell"))
    assert by_microsofts_rules(passed_by_windows_powershell(given_to_powershell)) == words


@pytest.mark.parametrize(
    ("system", "environ", "shell"),
    [
        ("posix", {"PROMPT": "%"}, "posix"),
        ("nt", {"PROMPT": "$P$G", "PSModulePath": "C:\\Windows\\WindowsPowerShell\\v1.0\\Modules"}, "cmd"),
        ("nt", {"PSModulePath": "C:\\Program Files\\PowerShell\\7\\Modules;C:\\x\\WindowsPowerShell"}, "powershell"),
        ("nt", {"PSModulePath": "C:\\Windows\\system32\\WindowsPowerShell\\v1.0\\Modules"}, "windows powershell"),
        ("nt", {}, "windows powershell"),
    ],
)
def test_the_users_shell_is_told_by_what_it_sets(system: str, environ: dict[str, str], shell: str) -> None:
    """On Windows; elsewhere quoting is that of POSIX."""
    assert users_shell(environ, system) == shell


def test_posix_gets_words_that_come_apart_as_they_were() -> None:
    """By the shell itself."""
    script = f"printf '%s\\n' {command_line(HARD, 'posix')}"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.split("\n")[:-1] == HARD


@pytest.mark.parametrize(
    ("shell", "line"),
    [
        ("posix", "export MP_USERNAME='a b'"),
        ("cmd", 'set "MP_USERNAME=a b"'),
        ("powershell", "$env:MP_USERNAME = 'a b'"),
        ("windows powershell", "$env:MP_USERNAME = 'a b'"),
    ],
)
def test_each_shell_has_its_own_way_to_set_a_variable(shell: Shell, line: str) -> None:
    """As the sandbox and the demo show it."""
    assert assignment("MP_USERNAME", "a b", shell) == line


# --- paths ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["C:\\x.duckdb", "c:x.duckdb", "D:/data/x.duckdb", "\\\\server\\share\\x.duckdb"])
def test_a_drive_is_no_scheme(path: str) -> None:
    """One letter and a colon is a place on this machine, as is a share."""
    assert str(local_path(path, "database", "")) == path
    assert check_database(path) == path
    assert not is_url(path)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("file:///C:/x.duckdb", "C:/x.duckdb"),
        ("file:///home/x.duckdb", "/home/x.duckdb"),
        ("file:x.duckdb", "x.duckdb"),
    ],
)
def test_the_path_of_a_url_is_named_as_the_system_has_it(url: str, path: str) -> None:
    """Windows has no slash before the letter of a drive."""
    with pytest.raises(mpnb.PlanError, match=re.escape(f"pass the path alone, {path!r}")):
        local_path(url, "database", "")
