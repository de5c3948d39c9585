"""The sandbox starts, stops, and leaves nothing behind; also from a command line."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import date

import httpx
import pytest

import mpnb.sandbox
from mpnb._mixpanel import credentials as _credentials
from mpnb.sandbox import Fault, serve
from mpnb.sandbox import _days as days_module
from mpnb.sandbox.__main__ import fault, main
from mpnb.sandbox._data import MadeUp
from mpnb.sandbox._days import Days
from tests._helpers import child, side_by_side, until

DAY = date(2026, 1, 6)
TODAY = date(2026, 2, 1)


def own_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("mpnb-sandbox")]


@pytest.mark.parametrize("kind", ["hang", "hang_start", "slow_start", "stall"])
def test_close_wakes_what_is_silent(connect, kind):
    """Closing takes no longer for a connection that waits, and ends it for the client."""
    mp = serve(today=TODAY, events_per_day=60, faults=[Fault(kind, seconds=60, times=None)])
    raws = [connect(mp) for _ in range(3)]
    for raw in raws:
        raw.send()
    idle = connect(mp)
    until(lambda: len(mp.requests) == 3)
    begun = time.monotonic()
    mp.close()
    assert time.monotonic() - begun < 0.5
    assert own_threads() == []
    assert {raw.read().end for raw in [*raws, idle]} <= {"fin", "rst"}


def test_close_stops_a_body_that_nobody_reads(connect):
    """A full socket does not hold the server."""
    mp = serve(today=TODAY, events_per_day=60, faults=[Fault("bomb", size=2**62)])
    raw = connect(mp)
    raw.send()
    until(lambda: mp.requests and mp.requests[0].bytes >= 500_000)
    mp.close()
    assert own_threads() == []


def test_close_again_does_nothing():
    """close() is safe to repeat, and the port is free after it."""
    with serve(events_per_day=1) as mp:
        mp.close()
    mp.close()
    with pytest.raises(httpx.ConnectError):
        httpx.get(mp.url, trust_env=False)


def test_a_client_that_leaves_is_no_event(connect):
    """Leaving in mid body raises nowhere, and the next client is served."""
    with serve(today=TODAY, events_per_day=60, faults=[Fault("bomb", size=2**62)]) as mp:
        raw = connect(mp)
        raw.send()
        raw.socket.recv(1000)
        raw.close()
        raw = connect(mp)
        raw.send()
        assert raw.read().lines == list(mp.lines(DAY))


def test_a_day_is_made_up_once_however_many_ask(connect):
    """Threads that ask for one day at the same time share one making."""

    class Counting:
        made = 0

        def blocks(self, day, milliseconds):
            self.made += 1
            return MadeUp(0, 500).blocks(day, milliseconds)

    made_up = Counting()
    days = Days(made_up)
    parts = []
    side_by_side(*[lambda: parts.append(days.part(DAY))] * 8)
    assert made_up.made == 1
    assert len(set(map(id, parts))) == 1


def test_the_cache_is_bounded(monkeypatch):
    """The least recently used day goes when the bytes are too many, and comes back the same."""
    days = Days(MadeUp(0, 100))
    first = days.part(DAY)
    monkeypatch.setattr(days_module, "CACHE_BYTES", len(first.deflated) * 3)
    for n in range(7, 28):
        days.part(date(2026, 1, n))
    again = days.part(DAY)
    assert again is not first
    assert again == first


def start(*options):
    command = [sys.executable, "-W", "error", "-m", "mpnb.sandbox", *options]
    return child(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_stopped(number):
    """--json gives the environment variables; the server they name works; a signal ends it with status 0."""
    with start("--json", "--today", "2026-02-01", "--events-per-day", "20", "--fault", "503:2026-01-06") as process:
        environment = json.loads(process.stdout.readline())
        assert environment.pop("made_up") is True
        own = _credentials.Credentials.from_environment(environ=environment)
        query = {"from_date": str(DAY), "to_date": str(DAY), "project_id": own.project_id}
        with httpx.Client(auth=(own.username, own.secret), trust_env=False) as client:
            statuses = [client.get(own.host + "/api/2.0/export", params=query).status_code for _ in range(2)]
        process.send_signal(number)
        _, errors = process.communicate(timeout=10)
    assert statuses == [503, 200]
    assert (process.returncode, errors) == (0, "")


def test_the_greeting_says_made_up_and_what_to_set():
    """Who starts it by hand can paste what it prints."""
    with start("--no-quota") as process:
        said = [process.stdout.readline() for _ in range(7)]
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=10)
    assert "made-up" in said[0]
    names = [line.removeprefix("export ").split("=")[0] for line in said[3:]]
    assert names == ["MP_USERNAME", "MP_SECRET", "MP_PROJECT_ID", "MP_API_BASE_URL"]


def test_faults_are_read_from_text():
    """KIND, KIND:DAY and STATUS:DAY."""
    assert fault("reset") == Fault("reset")
    assert fault("hang:2026-01-06") == Fault("hang", DAY)
    assert fault("503:2026-01-06") == Fault("status", DAY, status=503)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--fault rest", "no fault is called 'rest'; the closest is 'reset'"),
        ("--fault \u00b2", "no fault is called '\u00b2'"),
        ("--fault 700", "status must be a whole number from 200 to 599, not 700"),
        ("--fault status", "the fault 'status' wants status="),
        ("--fault reset:", "day must be a date or 'YYYY-MM-DD', not ''"),
        ("--fault reset:2026-02-30", "day must be a date or 'YYYY-MM-DD', not '2026-02-30'"),
        ("--events-per-day -1", "--events-per-day must be a whole number from 0 to 10,000,000, not -1"),
        ("--events-per-day 99999999999", "--events-per-day must be a whole number from 0 to 10,000,000"),
        ("--legacy-timezone Mars", "no time zone is called 'Mars'"),
        ("--legacy-timezone ../etc/passwd", "no time zone is called '../etc/passwd'"),
        ("--today soon", "'YYYY-MM-DD', not 'soon'"),
        ("--port 99999", "--port must be a whole number from 0 to 65,535, not 99999"),
        ("--port -1", "--port must be a whole number from 0 to 65,535, not -1"),
        ("--port x", "argument --port: invalid int value: 'x'"),
        ("--latency nan", "--latency must be a number from 0 to 86,400, not nan"),
        ("--bytes-per-second 0", "--bytes-per-second must be a number from 0.001"),
        ("--gzip-members 0", "--gzip-members must be a whole number from 1"),
        ("--project-id abc", "--project-id must be the number of the project, not 'abc'"),
        ("--prot 1", "unrecognized arguments: --prot 1"),
    ],
)
def test_a_wrong_option_is_told(options, words, capsys):
    """Exit status 2, and one line that says what is right."""
    with pytest.raises(SystemExit, match="2"):
        main(options.split(), prog="mpnb sandbox")
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("mpnb sandbox: ")
    assert words in err


def test_a_port_that_is_taken_is_told(capsys):
    """In one line that names it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit, match="2"):
            main(["--port", str(port)])
    assert f": port {port} cannot be had: " in capsys.readouterr().err


def test_the_kinds_of_faults_are_in_the_help(capsys):
    """Each with what it does, in words for those who cannot say where it strikes."""
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    told = capsys.readouterr().out.partition("kinds of --fault")[2]
    assert (
        re.findall(r"^  (\w+)  ", told, re.MULTILINE)
        == re.findall(r"^\| (\w+) ", mpnb.sandbox.__doc__, re.MULTILINE)[1:]
    )
    assert not set("*`|") & set(told)
    assert max(map(len, told.splitlines())) <= 100
