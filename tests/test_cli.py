"""The command ``mpnb``: what it takes, what it says, and the status it ends with."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest

import mpnb
from mpnb._command import options as _options
from mpnb._command.cli import EXPORT_EXAMPLES, PLAN_EXAMPLES
from mpnb.sandbox import Fault, Sandbox
from mpnb.sandbox.__main__ import environment
from tests._helpers import Run, as_served, as_stored, child, day, days_of, query, terminal, until

FIRST, LAST = day(1), day(6)
DAYS = [FIRST.isoformat(), LAST.isoformat()]
# Three batches, without waiting for a quota.
WIDE = ["--per-hour", "1000000", "--per-second", "1000", "--chunk-days", "2"]


@contextlib.contextmanager
def running(folder: Path, *words: str, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """Run ``mpnb`` in a process of its own, with pipes, and end it at last."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with child(
        [sys.executable, "-m", "mpnb", *words], cwd=folder, env={**os.environ, **(env or {})}, **pipes
    ) as process:
        yield process


def retry_command(output: str) -> list[str]:
    """Take the words after the program's name out of the line that says how to retry."""
    [line] = re.findall(r"^  to retry  (.*)$", output, re.M)
    words = shlex.split(line)
    return words[words.index("export") :]


# --- what it takes -------------------------------------------------------------------------------------------------


def parsed(*words: str) -> dict[str, object]:
    parser = argparse.ArgumentParser()
    _options.add_export_options(parser)
    return _options.export_arguments(parser.parse_args(words))


def test_every_argument_of_export_has_an_option_of_its_name() -> None:
    """All but a callback, which no shell can carry, and a secret, which none should."""
    words = ["2026-01-01", "2026-01-06", "-e", "A", "--events", "B", "--where", "w", "--database", "d", "--table", "t"]
    words += ["--workers", "3", "--chunk-days", "auto", "--mode", "new", "--late-days", "0", "--per-hour", "1"]
    words += ["--per-second", "2", "--concurrent", "4", "--spool-folder", "s", "--spool-bytes", "9", "--memory", "2GB"]
    words += ["--destination", "f"]
    assert parsed(*words) == {
        "from_date": "2026-01-01",
        "to_date": "2026-01-06",
        "events": ["A", "B"],
        "where": "w",
        "database": "d",
        "table": "t",
        "workers": 3,
        "chunk_days": "auto",
        "mode": "new",
        "late_days": 0,
        "quota": mpnb.Quota(per_hour=1, per_second=2, concurrent=4),
        "spool": mpnb.Spool("s", 9),
        "memory": "2GB",
        "destination": "f",
    }
    assert set(parsed(*words)) == set(_options.PARAMETERS) - {"on_batch", "executor", "credentials"}


def test_what_is_not_typed_is_left_to_export() -> None:
    """So that its defaults are those of the command, and a quota of another call is not touched."""
    assert set(parsed(*DAYS)) == {"from_date", "to_date"}
    assert parsed(*DAYS, "--per-hour", "90")["quota"] == mpnb.Quota(per_hour=90)


@pytest.mark.parametrize("command", ["export", "plan"])
def test_help_states_each_default(command: str, mpnb_command: Run) -> None:
    """With the value that export has, for each argument that has one."""
    status, out, _ = mpnb_command(command, "--help")
    text = " ".join(out.split())
    assert status == 0
    for name, parameter in _options.PARAMETERS.items():
        if name not in _options.NOT_OPTIONS and parameter.default is not None:
            option = "--" + name.replace("_", "-")
            assert re.search(rf"{option} [^-]*(?:-(?!-)[^-]*)*\(default: {parameter.default}\)", text), option


def test_help_ends_with_examples_that_can_be_typed() -> None:
    """Each example of --help is parsed as it stands, and comes to days that are in order."""
    lines = re.findall(r"^  mpnb (?:export|plan) (.*)$", f"{EXPORT_EXAMPLES}\n{PLAN_EXAMPLES}", re.M)
    assert len(lines) == 6
    for line in lines:
        arguments = parsed(*shlex.split(line))
        assert mpnb.plan(**{**arguments, "database": ":memory:"}).requests > 0


@pytest.mark.parametrize(
    ("words", "days"),
    [
        (["2026-01-01", "2026-01-06"], ("2026-01-01", "2026-01-06")),
        (["last", "30", "days"], ("30 days ago", "yesterday")),
        (["last 1 day"], ("1 days ago", "yesterday")),
        (["30 days ago", "yesterday"], ("30 days ago", "yesterday")),
        (["30", "days", "ago", "1", "day", "ago"], ("30 days ago", "1 day ago")),
        (["2026-01-01", "2", "Days", "ago"], ("2026-01-01", "2 Days ago")),
    ],
)
def test_a_range_of_days_can_be_said_in_several_ways(words: list[str], days: tuple[str, str]) -> None:
    """With and without the quotes that a shell takes away."""
    assert _options.parse_range(words) == days


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("exprot", "invalid choice: 'exprot' (choose from"),
        ("export", "mpnb export: days must be FROM TO, such as 2026-01-01 2026-01-31, or: last 30 days"),
        ("export 2026-01-01", "or: last 30 days, not '2026-01-01'"),
        ("export last 0 days", "or: last 30 days, not 'last 0 days'"),
        ("export 2026-01-01 2026-02-30", "TO '2026-02-30' is not a valid date"),
        ("export 2026-02-01 2026-01-01", "FROM 2026-02-01 is after TO 2026-01-01"),
        ("export 1.1.2026 2026-02-01", "FROM must be a date, 'YYYY-MM-DD', 'today', 'yesterday' or 'N days ago', not"),
        (
            "export last 3 days --chunk 3",
            "mpnb export: unknown option --chunk; did you mean --chunk-days? (mpnb export",
        ),
        ("export last 3 days --secret=x", "mpnb export: unknown option --secret (mpnb export --help"),
        ("export 2026-01-01 -e X 2026-01-02", "2026-01-02 is out of place: put the words before the options"),
        ("status events", "mpnb status: events is out of place: there are options only (mpnb status"),
        ("profiles my.duckdb", "my.duckdb is out of place: there are options only; did you mean --database my.duckdb?"),
        ("export last 3 days --workers 0", "--workers must be a whole number from 1 to 100, not 0"),
        ("export last 3 days --workers ten", "argument --workers: invalid int value: 'ten'"),
        (
            "export last 3 days --chunk-days 101",
            "--chunk-days must be a whole number from 1 to 100, or 'auto'",
        ),
        ("export last 3 days --chunk-days all", "argument --chunk-days: a number of days or auto, not 'all'"),
        ("export last 3 days --mode append", "argument --mode: invalid choice: 'append'"),
        ("export last 3 days --late-days -1", "--late-days must be a whole number from 0 to 36,500, not -1"),
        ("export last 3 days --per-hour 0", "--per-hour must be a whole number of at least 1, not 0"),
        ("export last 3 days --spool-bytes 0", "--spool-bytes must be a whole number of at least 1, not 0"),
        ("export last 3 days --table mpnb_x", "table 'mpnb_x': names that begin with mpnb_ are mpnb's own"),
        ("export last 3 days", "no credentials: set MP_USERNAME, MP_SECRET, MP_PROJECT_ID in the environment"),
        ("plan last 3 days --database nowhere/a.duckdb", "mpnb plan: there is no folder"),
        ("demo --database .", "mpnb demo: . exists already: the demo keeps its made-up events in a new file"),
    ],
)
def test_what_cannot_work_is_told_in_one_line(words: str, says: str, mpnb_command: Run, tmp_path: Path) -> None:
    """Status 2, one line on standard error that says what to type instead, and nothing was made."""
    status, out, err = mpnb_command(*words.split())
    assert (status, out) == (2, "")
    [line] = err.splitlines()
    assert says in line
    assert not list(tmp_path.glob("*.duckdb"))


def test_without_a_word_it_shows_what_there_is(mpnb_command: Run) -> None:
    """On standard error and with status 2: a script that forgot the command has not done what it was meant to do."""
    status, out, err = mpnb_command()
    assert (status, out) == (2, "")
    assert err == mpnb_command("--help")[1]


# --- what comes of it ----------------------------------------------------------------------------------------------


def test_an_export_ends_with_0_and_every_event(mpnb_command: Run, sandbox: Callable[..., Sandbox]) -> None:
    """The result is on standard output, a line a batch on standard error, the events in mixpanel.duckdb."""
    mp = sandbox()
    status, out, err = mpnb_command("export", *DAYS, *WIDE, mp=mp)
    rows = query("mixpanel.duckdb", "SELECT event_name, properties FROM events")
    assert status == 0
    assert as_stored(rows) == as_served(mp, days_of(FIRST, LAST))
    assert f"events    {len(rows):,} in table 'events' of mixpanel.duckdb" in out
    assert "to retry" not in out
    assert re.fullmatch(r"(mpnb: 2026-01-0\d – 2026-01-0\d done: \d+ events, .*\n){3}", err)


def test_the_filters_reach_mixpanel(mpnb_command: Run, sandbox: Callable[..., Sandbox]) -> None:
    """As they were typed, dollar and quotes included."""
    mp = sandbox()
    where = 'properties["$os"] == "iOS"'
    mpnb_command("export", *DAYS, *WIDE, "-e", "Sign Up", "-e", "Purchase", "--where", where, mp=mp)
    for request in mp.requests:
        assert json.loads(request.params["event"]) == ["Sign Up", "Purchase"]
        assert request.params["where"] == where


def test_failures_end_with_1_and_the_command_that_mends_them(
    mpnb_command: Run, sandbox: Callable[..., Sandbox]
) -> None:
    """A table with days, kind, status and message, a hint, and a command that fetches that batch alone."""
    mp = sandbox(faults=[Fault("terminated", day=day(3), times=None)])
    status, out, _ = mpnb_command("export", *DAYS, *WIDE, "--database", "with space.duckdb", mp=mp)
    assert status == 1
    assert "1 truncated   The answer was cut short" in out
    [row] = re.findall(r"^  2026-01-03 – 2026-01-04  (.*)$", out, re.M)
    assert re.fullmatch(r"truncated  200   4         Mixpanel ended the export early: 'terminated early'", row)

    mp.clear_faults()
    asked = len(mp.requests)
    status, out, _ = mpnb_command(*retry_command(out))
    assert (status, len(mp.requests) - asked) == (0, 1)
    rows = query("with space.duckdb", "SELECT event_name, properties FROM events")
    assert as_stored(rows) == as_served(mp, days_of(FIRST, LAST))


def test_the_retry_of_a_new_table_resumes(mpnb_command: Run, sandbox: Callable[..., Sandbox]) -> None:
    """Since the table is not empty any more, the same command would be refused."""
    mp = sandbox(faults=[Fault("gzip_crc", day=day(1), times=None)])
    status, out, _ = mpnb_command("export", *DAYS, *WIDE, "--mode=new", mp=mp)
    assert status == 1
    mp.clear_faults()
    assert mpnb_command(*retry_command(out))[0] == 0


def test_the_retry_of_a_refresh_fetches_what_failed(mpnb_command: Run, sandbox: Callable[..., Sandbox]) -> None:
    """And not all once more."""
    mp = sandbox()
    mpnb_command("export", *DAYS, *WIDE, mp=mp)
    mp.add_fault(Fault("gzip_crc", day=day(1), times=None))
    status, out, _ = mpnb_command("export", *DAYS, *WIDE, "--mode", "refresh")
    assert status == 1
    mp.clear_faults()
    before = len(mp.requests)
    assert mpnb_command(*retry_command(out))[0] == 0
    assert len(mp.requests) == before + 1


def test_a_refresh_that_failed_is_not_forgotten(mpnb_command: Run, sandbox: Callable[..., Sandbox]) -> None:
    """The old rows stay, and the next resume fetches the newer ones, though the table holds these days."""
    mp = sandbox()
    mpnb_command("export", *DAYS, *WIDE, mp=mp)
    mp.add_fault(Fault("gzip_crc", day=day(1), times=None))
    assert mpnb_command("export", *DAYS, *WIDE, "--mode", "refresh")[0] == 1
    mp.clear_faults()
    before = len(mp.requests)
    assert mpnb_command("export", *DAYS, *WIDE)[0] == 0
    assert len(mp.requests) == before + 1
    assert mpnb_command("export", *DAYS, *WIDE)[0] == 0
    assert len(mp.requests) == before + 1


def test_an_export_without_anything_ends_with_2(mpnb_command: Run, sandbox: Callable[..., Sandbox]) -> None:
    """The failure table on standard output, the reason in one line at the end of standard error."""
    mp = sandbox(faults=[Fault("status", status=401, times=None)])
    status, out, err = mpnb_command("export", *DAYS, *WIDE, mp=mp)
    assert status == 2
    assert out.count("Invalid service account credentials") == 3
    assert err.splitlines()[-1] == (
        "mpnb export: the export stopped because every batch would fail: HTTP 401: Invalid service account credentials."
        " Mixpanel refused the credentials: check the service account, its project and MP_REGION."
    )


def test_lines_that_are_no_events_are_told(mpnb_command: Run, sandbox: Callable[..., Sandbox]) -> None:
    """With the table that holds them whole; they are no failure."""
    mp = sandbox(faults=[Fault("bad_lines", day=day(1), lines=[b"no JSON", b"42"])])
    status, out, _ = mpnb_command("export", *DAYS, *WIDE, mp=mp)
    assert status == 0
    assert "rejected  2 lines are not in the table: the table mpnb_rejected says why" in out
    assert query("mixpanel.duckdb", "SELECT line FROM mpnb_rejected") == [(b"no JSON",), (b"42",)]


def test_a_server_cannot_write_to_the_terminal(mpnb_command: Run, sandbox: Callable[..., Sandbox]) -> None:
    """Escape sequences in its messages show as text."""
    mp = sandbox(faults=[Fault("status", day=day(1), status=400, body="\x1b[2Jgone\u202e")])
    _, out, err = mpnb_command("export", *DAYS, *WIDE, mp=mp)
    assert "\x1b" not in out + err
    assert "\u202e" not in out + err
    assert r"\x1b[2Jgone\u202e" in out


def test_the_secret_is_never_shown(mpnb_command: Run, sandbox: Callable[..., Sandbox]) -> None:
    """Not by an export that goes well, nor by a server that repeats it."""
    mp = sandbox()
    mp.add_fault(Fault("status", day=day(1), status=400, body=f"bad secret {mp.credentials.secret}"))
    _, out, err = mpnb_command("export", *DAYS, *WIDE, mp=mp)
    assert "bad secret ***" in out
    assert mp.credentials.secret not in out + err


def test_a_plan_sends_nothing_and_makes_nothing(
    mpnb_command: Run, sandbox: Callable[..., Sandbox], tmp_path: Path
) -> None:
    """It needs no credentials either; what it says of arguments is in terms of options."""
    mp = sandbox()
    status, out, err = mpnb_command("plan", "2026-01-01", "2026-03-31", mp=mp)
    assert (status, err) == (0, "")
    assert "batches   13 of 7 days (the shortest 6)\nrequests  13 of 60 left this hour" in out
    assert mpnb_command("plan", *DAYS, "--chunk-days", "1", "--per-hour", "4")[1].endswith(
        "about 1 hour; a larger --chunk-days, or --chunk-days auto, takes fewer\n"
    )
    assert not mp.requests
    assert not list(tmp_path.glob("*.duckdb"))


def test_a_day_in_the_future_is_told_in_one_line(mpnb_command: Run, sandbox: Callable[..., Sandbox]) -> None:
    """Without the path and line of code that a Python warning has; a plan says it once, in its notes."""
    _, _, err = mpnb_command("export", "today", "2999-12-31", *WIDE, mp=sandbox())
    assert re.match(r"mpnb: TO 2999-12-31 is after today: using \d{4}-\d\d-\d\d\n", err)
    _, out, err = mpnb_command("plan", "today", "2999-12-31")
    assert (out.count("is after today"), err) == (1, "")


# --- in a process of its own ---------------------------------------------------------------------------------------


def test_ctrl_c_ends_with_130_and_keeps_what_is_done(tmp_path: Path, sandbox: Callable[..., Sandbox]) -> None:
    """One line says what is kept, and the same command goes on from there."""
    mp = sandbox(faults=[Fault("hang", day=day(5), times=None)])
    words = ["export", *DAYS, *WIDE]
    with running(tmp_path, *words, env=environment(mp)) as process:
        assert process.stderr
        lines = [process.stderr.readline() for _ in range(2)]  # two batches have landed, the third hangs
        until(lambda: mp.injected["hang"], 30)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert all(" done: " in line for line in lines)
    assert out == ""
    assert err.splitlines()[-1] == (
        "mpnb export: cancelled: 2 of 3 batches are in mixpanel.duckdb; run the same command again to fetch the rest"
    )
    mp.clear_faults()
    with running(tmp_path, *words, env=environment(mp)) as process:
        out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "1 fetched, 2 there already" in out


def test_ctrl_c_does_not_wait_for_a_connect(tmp_path: Path) -> None:
    """Where a server takes no connection, the prompt is back before the ten seconds that a connect may take."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):  # a full backlog: the system leaves further ones unanswered
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting.connect(server.getsockname())
        env = {"MP_USERNAME": "a", "MP_SECRET": "b", "MP_PROJECT_ID": "1"}
        env["MP_API_BASE_URL"] = f"http://127.0.0.1:{server.getsockname()[1]}"
        with running(tmp_path, "export", *DAYS, *WIDE, env=env) as process:
            until(lambda: list(tmp_path.glob("mpnb-spool-*")), 30)
            until(lambda: connecting(process.pid) == 3)
            before = time.monotonic()
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=30)
            took = time.monotonic() - before
    assert process.returncode == 130
    assert err.startswith("mpnb export: cancelled: 0 of 3 batches")
    assert took < 5


def connecting(pid: int) -> int:
    """Count the connections of a process that nobody has answered yet."""
    import psutil

    return sum(c.status == psutil.CONN_SYN_SENT for c in psutil.Process(pid).net_connections("tcp"))


def test_a_reader_may_leave(tmp_path: Path) -> None:
    """As head does: no traceback on standard error."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "mpnb", "plan", *DAYS]
    process = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, cwd=tmp_path, timeout=60)
    os.close(write)
    assert (process.returncode, process.stderr) == (141, "")


def test_a_terminal_gets_one_line_and_folded_messages(tmp_path: Path, sandbox: Callable[..., Sandbox]) -> None:
    """Progress redraws one line; a long message stays within the terminal, whole."""
    message = "the filter " + " ".join(f"word{n}" for n in range(30))
    mp = sandbox(faults=[Fault("status", day=day(1), status=400, body=message)])
    command = [sys.executable, "-m", "mpnb", "export", *DAYS, *WIDE]
    with terminal(command, cwd=tmp_path, env={**os.environ, **environment(mp)}) as (process, child):
        child.expect(pexpect.EOF)
        assert process.wait(30) == 1
    screen = [line.split("\r")[-1] for line in child.before.replace("\r\n", "\n").split("\n")]
    assert child.before.count("\r") > child.before.count("\r\n") + 3
    assert len([line for line in screen if line.startswith("3/3 batches |")]) == 1
    table = screen[next(i for i, line in enumerate(screen) if line.lstrip().startswith("days ")) :]
    assert all(len(line) <= 100 for line in table)
    assert message in " ".join(" ".join(table).split())


def test_the_sandbox_can_be_served_and_exported_from(mpnb_command: Run, tmp_path: Path) -> None:
    """It prints the variables that a shell needs, says that it is made up, and ends with 0 at Ctrl-C."""
    with running(tmp_path, "sandbox", "--events-per-day", "10") as process:
        assert process.stdout
        lines = iter(process.stdout.readline, "")
        assert "made-up Mixpanel data" in next(lines)
        exports = "".join(line for _, line in zip(range(6), lines, strict=False) if line.startswith("export "))
        command = f"{exports}\n{shlex.quote(sys.executable)} -m mpnb export {' '.join([*DAYS, *WIDE])}"
        asked = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert (asked.returncode, process.returncode) == (0, 0)
    assert "3 fetched" in asked.stdout


@pytest.mark.parametrize("closed", ["2>&-", ">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_streams_may_be_closed(closed: str, tmp_path: Path, sandbox: Callable[..., Sandbox]) -> None:
    """As under cron or pythonw: what would be printed is not, nor into the database, and the status tells."""
    mp = sandbox(faults=[Fault("status", day=day(6), status=400, times=None)])
    env = {**os.environ, **environment(mp)}

    def mpnb_with(words: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", "-c", f"{shlex.quote(sys.executable)} -m mpnb {words} {closed}"]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)

    done = mpnb_with(f"export {' '.join([*DAYS, *WIDE])}")
    assert done.returncode == 1
    assert ("2 fetched, 1 failed" in done.stdout) == (">&-" not in closed.replace("2>&-", ""))
    assert (" done: " in done.stderr) == ("2>&-" not in closed)
    wrong = mpnb_with("export --nonsense")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert query(tmp_path / "mixpanel.duckdb", "SELECT count(*) > 0 FROM events") == [(True,)]


def test_the_command_is_installed() -> None:
    """The script beside the interpreter and ``python -m mpnb`` are the same."""
    for command in ([str(Path(sys.executable).parent / "mpnb")], [sys.executable, "-m", "mpnb"]):
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout) == (0, f"mpnb {mpnb.__version__}\n")


def test_a_database_in_memory_is_refused(mpnb_command: Run, sandbox: Callable[..., Sandbox]) -> None:
    """It would take the quota and end with the command."""
    mp = sandbox()
    status, out, err = mpnb_command("export", "last", "3", "days", "--database", ":memory:", mp=mp)
    assert (status, out) == (2, "")
    assert "--database must be a file" in err
    assert not mp.requests


# --- mpnb drop -----------------------------------------------------------------------------------------------------


def test_a_drop_wants_yes_where_nobody_can_answer(mpnb_command: Run, sandbox: Callable[..., Sandbox]) -> None:
    """Without it nothing is deleted; with it the number of events is told."""
    mp = sandbox()
    mpnb_command("export", *DAYS, *WIDE, "--table", "mine", mp=mp)
    assert mpnb_command("drop", "mine") == (
        2,
        "",
        "mpnb drop: it deletes a table for good, and there is no terminal to ask on: pass --yes\n",
    )
    count = mp.count(FIRST, LAST)
    assert query("mixpanel.duckdb", "SELECT count(*) FROM mine") == [(count,)]
    said = f"table 'mine' of mixpanel.duckdb is gone, with {count:,} events\n"
    assert mpnb_command("drop", "mine", "--yes") == (0, said, "")
    status, _, error = mpnb_command("drop", "mine", "--yes")
    assert (status, "has no events yet" in error) == (2, True)
    status, _, error = mpnb_command("drop", "mine", "--yes", "--database", "none.duckdb")
    assert (status, "there is no database at" in error) == (2, True)


@pytest.mark.parametrize(("answer", "status"), [("y", 0), ("yes", 0), ("n", 2), ("", 2), ("\x04", 2)])
def test_a_drop_asks_on_a_terminal(sandbox: Callable[..., Sandbox], tmp_path: Path, answer: str, status: int) -> None:
    """Only yes is yes; it says how many events would go."""
    mp = sandbox()
    path = tmp_path / "a.duckdb"
    mpnb.export(FIRST, LAST, credentials=mp.credentials, quota=mpnb.Quota(10**6, 1000), database=path).close()
    count = mp.count(FIRST, LAST)
    words = [sys.executable, "-m", "mpnb", "drop", "events", "--database", "a.duckdb"]
    with terminal(words, cwd=tmp_path) as (process, screen):
        screen.expect_exact(f"{count:,} events in table 'events' of a.duckdb. Delete them for good? [y/N] ")
        screen.send(answer if answer == "\x04" else f"{answer}\n")
        screen.expect_exact("is gone" if status == 0 else "nothing was deleted")
        assert process.wait(30) == status
    left = query(path, "SELECT count(*) FROM mpnb_batches")
    assert (left == [(0,)]) == (status == 0)
