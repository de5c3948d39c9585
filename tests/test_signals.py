"""How commands end when they are told to, by signals, closed pipes and terminals that are gone; in real processes."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pexpect
import pytest

import mpnb
from mpnb._base.interrupt import interrupts_later
from mpnb._command.stopping import stopping
from mpnb._command.streams import is_reader_gone
from mpnb.sandbox import Fault, Sandbox
from mpnb.sandbox.__main__ import environment
from tests._helpers import child, day, query, terminal, until

DAYS = ("2026-01-03", "2026-01-05", "--chunk-days", "1")
WIDE = ("--per-hour", "1000000", "--per-second", "1000")
MPNB = [sys.executable, "-m", "mpnb"]
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


@contextmanager
def command(folder: Path, *words: str, mp: Sandbox, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a command in a folder, with the credentials of a sandbox."""
    env = {**os.environ, **environment(mp), **options.pop("env", {})}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    with child([*MPNB, *words], cwd=folder, env=env, **pipes) as process:
        yield process


@pytest.mark.parametrize("number", STATUS, ids=lambda number: number.name)
def test_a_signal_stops_an_export_tidily(number: signal.Signals, tmp_path: Path, sandbox) -> None:
    """As Ctrl-C does: what is done is kept, one line says so, nothing is left, and the status is the signal's."""
    mp = sandbox(faults=[Fault("hang", day=day(5), times=None)])
    with command(tmp_path, "export", *DAYS, *WIDE, mp=mp) as process:
        lines = [process.stderr.readline() for _ in range(2)]
        until(lambda: mp.injected["hang"], 30)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert all(" done: " in line for line in lines)
    assert (process.returncode, out) == (STATUS[number], "")
    said = "cancelled: 2 of 3 batches are in mixpanel.duckdb; run the same command again to fetch the rest"
    assert err.splitlines()[-1] == f"mpnb export: {said}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mixpanel.duckdb"]
    by_status = "SELECT status, count(*) FROM mpnb_batches GROUP BY ALL ORDER BY ALL"
    assert query(tmp_path / "mixpanel.duckdb", by_status) == [("cancelled", 1), ("done", 2)]


@pytest.mark.parametrize("words", [("profiles", *WIDE), ("sync", "mpnb.toml")], ids=lambda words: words[0])
def test_sigterm_stops_other_commands_tidily(words: tuple[str, ...], tmp_path: Path, sandbox) -> None:
    """Profiles, and a sync in the middle of a table: status 143, one line that says what is kept."""
    mp = sandbox(faults=[Fault("hang", times=None)])
    (tmp_path / "mpnb.toml").write_text('[[events]]\ndays = "2026-01-03 2026-01-05"\n')
    with command(tmp_path, *words, mp=mp) as process:
        until(lambda: mp.injected["hang"], 30)
        process.terminate()
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (143, "")
    assert re.match(rf"mpnb {words[0]}: cancelled: ", err.splitlines()[-1])
    assert {path.name for path in tmp_path.iterdir()} - {"state"} == {"mixpanel.duckdb", "mpnb.toml"}


def test_sigterm_ends_a_wait_for_a_database(tmp_path: Path, sandbox) -> None:
    """What was said to be waited for is waited for no more; nothing was begun, and there is nothing to keep."""
    holder = "import duckdb, sys; con = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.read()"
    held = [sys.executable, "-c", holder, str(tmp_path / "mixpanel.duckdb")]
    with child(held, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with command(tmp_path, "export", *DAYS, "--wait", "10m", mp=sandbox()) as process:
            told = process.stderr.readline()
            process.terminate()
            _, err = process.communicate(timeout=30)
    assert re.search(
        r"mixpanel.duckdb is open in another process .*waiting for it, until \d\d:\d\d:\d\d at the latest", told
    )
    assert (process.returncode, err) == (143, "mpnb export: terminated\n")


def test_a_query_ends_with_sigterm(tmp_path: Path, sandbox) -> None:
    """Within DuckDB, which takes minutes for it."""
    with mpnb.export(day(1), day(1), database=tmp_path / "mixpanel.duckdb", credentials=(mp := sandbox()).credentials):
        pass
    slow = "SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE hash(a.range + b.range) = 1"
    with command(tmp_path, "sql", slow, mp=mp) as process:
        until(lambda: (tmp_path / "mixpanel.duckdb.wal").exists() or holds(process.pid, "mixpanel.duckdb"), 30)
        process.terminate()
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (143, "mpnb sql: terminated\n")


def holds(pid: int, name: str) -> bool:
    """Whether a process has a file open."""
    import psutil

    return any(Path(each.path).name == name for each in psutil.Process(pid).open_files())


def test_a_signal_that_is_ignored_stays_so(tmp_path: Path, sandbox) -> None:
    """As nohup leaves SIGHUP: the export goes on when the terminal is closed."""
    mp = sandbox(latency=0.5)
    with command(
        tmp_path, "export", *DAYS, *WIDE, mp=mp, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)
    ) as process:
        until(lambda: mp.requests, 30)
        process.send_signal(signal.SIGHUP)
        out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "3 fetched" in out


def test_a_terminal_that_is_closed_stops_an_export_tidily(tmp_path: Path, sandbox) -> None:
    """Nothing can be written to it any more, and that is no error: what is done is kept, and nothing is left."""
    mp = sandbox(faults=[Fault("hang", day=day(5), times=None)])
    words = [*MPNB, "export", *DAYS, *WIDE]
    with terminal(words, cwd=tmp_path, env={**os.environ, **environment(mp)}) as (process, screen):
        screen.expect("2/3 batches")
        until(lambda: mp.injected["hang"], 30)
        process.send_signal(signal.SIGHUP)  # as the system does to the session of a terminal
        screen.close()
        assert process.wait(30) == 129
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mixpanel.duckdb"]
    assert query(tmp_path / "mixpanel.duckdb", "SELECT count(*) FROM mpnb_batches WHERE status = 'done'") == [(2,)]


def test_handlers_are_as_before_at_the_end() -> None:
    """Of a command that is run within another program; handlers of that program's own are left alone."""
    mine: Callable[..., None] = lambda *_: None  # noqa: E731
    before = signal.signal(signal.SIGHUP, mine)
    try:
        with stopping():
            assert signal.getsignal(signal.SIGHUP) is mine
            assert callable(signal.getsignal(signal.SIGTERM))
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGHUP) is mine
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_waits_while_an_export_begins_or_ends(number: signal.Signals) -> None:
    """Half a start would leave threads that nobody ends."""
    done = []

    def start() -> None:
        with interrupts_later():
            signal.raise_signal(number)
            done.append("the whole start")

    with stopping() as stop, pytest.raises(KeyboardInterrupt):
        start()
    assert done == ["the whole start"]
    assert stop.status == STATUS[number]


# --- pipes and terminals -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words", ["plan --help", "check", "sql FROM~range(100000)"], ids=lambda words: words.split()[0]
)
def test_a_reader_may_leave_any_command(words: str, tmp_path: Path, sandbox) -> None:
    """As head does: no traceback, and a status that is no answer to what was asked, such as that days are missing."""
    mp = sandbox()
    mpnb.export(day(1), day(1), database=tmp_path / "mixpanel.duckdb", credentials=mp.credentials).close()
    read, write = os.pipe()
    os.close(read)
    typed = [word.replace("~", " ") for word in words.split()]
    with command(tmp_path, *typed, mp=mp, stdout=write) as process:
        os.close(write)
        _, err = process.communicate(timeout=30)
    assert err == ""
    # argparse itself takes no notice of who reads its help.
    assert process.returncode == 141 or (process.returncode, words) == (0, "plan --help")


def test_messages_that_nobody_reads_change_no_status(tmp_path: Path, sandbox) -> None:
    """Standard error may be gone as well; the status says what happened all the same."""
    read, write = os.pipe()
    os.close(read)
    with command(tmp_path, "check", mp=sandbox(), stderr=write) as process:
        os.close(write)
        out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (2, "")


def test_windows_says_of_a_pipe_without_a_reader_that_the_argument_is_invalid(monkeypatch: pytest.MonkeyPatch) -> None:
    """There EINVAL is the same; elsewhere it is an error as any other."""
    unread, invalid = OSError(errno.EPIPE, "Broken pipe"), OSError(errno.EINVAL, "Invalid argument")
    assert (is_reader_gone(unread), is_reader_gone(invalid)) == (True, False)
    monkeypatch.setattr(os, "name", "nt")
    assert (is_reader_gone(unread), is_reader_gone(invalid), is_reader_gone(OSError(errno.ENOSPC, ""))) == (
        True,
        True,
        False,
    )


def test_a_dumb_terminal_gets_a_line_a_batch(tmp_path: Path, sandbox) -> None:
    """Nothing is redrawn, and there is no escape sequence."""
    env = {**os.environ, **environment(sandbox()), "TERM": "dumb"}
    with terminal([*MPNB, "export", *DAYS, *WIDE], cwd=tmp_path, env=env) as (process, screen):
        screen.expect(pexpect.EOF)
        assert process.wait(30) == 0
    assert screen.before.count(" done: ") == 3
    assert "\x1b" not in screen.before
    assert "\r" not in screen.before.replace("\r\n", "\n")


def test_there_are_no_colours(tmp_path: Path, sandbox) -> None:
    """On a terminal, whatever is run, with NO_COLOR and without; only the progress line is redrawn."""
    env = {**os.environ, **environment(sandbox()), "TERM": "xterm-256color"}
    env.pop("NO_COLOR", None)
    for words in (["export", *DAYS, *WIDE], ["check"], ["sql", "FROM mpnb_batches"]):
        with terminal([*MPNB, *words], cwd=tmp_path, env=env) as (process, screen):
            screen.expect(pexpect.EOF)
            assert process.wait(30) == 0, screen.before
        assert not re.search(r"\x1b\[[0-9;]*m", screen.before)
