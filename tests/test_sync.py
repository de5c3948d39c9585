"""``sync``: the tables that a file names, brought up to date morning by morning."""

from __future__ import annotations

import configparser
import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from datetime import date, datetime, timedelta
from pathlib import Path

import pytest
import yaml

import mpnb
import mpnb._sync
from mpnb.sandbox import Fault, Sandbox
from mpnb.sandbox.__main__ import environment
from tests._helpers import MORNING, WallClock, child, day, event, people, query, until

HOLD = "import duckdb, sys; con = duckdb.connect('mixpanel.duckdb'); print('open', flush=True); sys.stdin.readline()"
# A run of its own process, at the same moment.
ELSEWHERE = """
import sys, mpnb._base.clock
mpnb._base.clock.system = lambda: float(sys.argv[1])
from mpnb._command.cli import main
sys.exit(main(["sync", "mpnb.toml"]))
"""


def written(folder: Path, mp: Sandbox, text: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a file of one project, whose account is in the environment."""
    c = mp.credentials
    monkeypatch.setenv("SHOP_USERNAME", c.username)
    monkeypatch.setenv("SHOP_SECRET", c.secret)
    file = folder / "mpnb.toml"
    project = (
        f'[projects.shop]\nproject_id = {c.project_id}\nbase_url = "{c.base_url}"\nusername_env = "SHOP_USERNAME"\n'
        'secret_env = "SHOP_SECRET"\nper_hour = 100_000\nper_second = 1000\n'
    )
    file.write_text(f"{project}\n{text}")
    return file


def test_events_and_profiles(sandbox, mpnb_command, tmp_path, monkeypatch) -> None:
    """Each table has its arguments, one line says how it did, and paths are relative to the file."""
    mp = sandbox(lines=lambda d: [event("A", plan="pro"), event("B")], profiles=people("a", "b", "c"))
    text = """
        [[events]]
        project = "shop"
        days = "2026-01-01 2026-01-04"
        events = ["A"]
        chunk_days = 2

        [[events]]
        project = "shop"
        days = "2026-01-02 2026-01-03"
        table = "both"
        database = "other.duckdb"

        [[profiles]]
        project = "shop"
        """
    file = written(tmp_path, mp, text, monkeypatch)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    status, out, _ = mpnb_command("sync", str(file))
    lines = [line.rsplit(",", 1)[0] for line in out.splitlines()]
    assert (status, lines) == (
        0,
        [
            "events in mixpanel.duckdb: done, 4 events, 4 new",
            "both in other.duckdb: done, 4 events, 4 new",
            "profiles in mixpanel.duckdb: done, 3 profiles",
        ],
    )
    assert query(tmp_path / "mixpanel.duckdb", "SELECT DISTINCT event_name FROM events") == [("A",)]
    status, out, _ = mpnb_command("sync", str(file), "--json")
    assert (status, [row["new_rows"] for row in json.loads(out)]) == (0, [0, 0, 0])


def test_one_table_that_fails_does_not_stop_the_others(sandbox, mpnb_command, tmp_path, monkeypatch) -> None:
    """Whatever is wrong with it: some batches, all of them, its account, its database."""
    faults = [Fault("status", day(2), status=400, times=None), Fault("status", day(9), status=400, times=None)]
    mp = sandbox(faults=faults)
    text = "".join(
        f'[[events]]\nproject = "{project}"\ndays = "{days}"\ntable = "{table}"\ndatabase = "{base}"\nchunk_days = 1\n'
        for project, days, table, base in [
            ("shop", "2026-01-01 2026-01-03", "some", "a.duckdb"),
            ("shop", "2026-01-09 2026-01-09", "none", "a.duckdb"),
            ("other", "2026-01-01 2026-01-01", "unknown", "a.duckdb"),
            ("shop", "2026-01-01 2026-01-01", "nowhere", "no/such/folder.duckdb"),
            ("shop", "2026-01-04 2026-01-05", "good", "a.duckdb"),
        ]
    )
    file = written(tmp_path, mp, '[projects.other]\nproject_id = 1\nsecret_env = "NOT_SET"\n' + text, monkeypatch)
    done = mpnb.sync(file)
    assert [each.status for each in done.tables] == ["partial", "failed", "failed", "failed", "done"]
    assert not done.ok
    assert [each.rows for each in done.tables] == [
        mp.count(day(1), day(1)) + mp.count(day(3), day(3)),
        0,
        0,
        0,
        mp.count(day(4), day(5)),
    ]
    assert "HTTP 400" in done.tables[1].message
    assert done.tables[2].message == "no credentials: MP_USERNAME, NOT_SET not set in the environment"
    assert "there is no folder" in done.tables[3].message
    assert mpnb_command("sync", str(file))[0] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no table: write [[events]] or [[profiles]]"),
        ("[[events]]\n", "missing required field `days`"),
        ('[[events]]\ndays = "last 3 weeks"\n', "days must be FROM TO"),
        ('[[events]]\ndays = "last 3 days"\nworkerz = 3\n', "unknown field `workerz` - at `$.events[0]`"),
        ('[[events]]\ndays = "last 3 days"\nworkers = "many"\n', "Expected `int`, got `str`"),
        ('[[events]]\ndays = "last 3 days"\nproject = "shopp"\n', "there is no [projects.shopp]; did you mean 'shop'?"),
        ('[projects.a]\nsecret_env = "p4ss word!"\n[[profiles]]\n', "the name of a"),  # pragma: allowlist secret
        ('[projects.a]\nsecret = "hunter2"\n[[profiles]]\n', "unknown field `secret`"),  # pragma: allowlist secret
        ('[[events]]\ndays = "last 3 days"\n[[events]]\ndays = "yesterday"\n', "days of table 'events': days must be"),
        ('[[events]]\ndays = "last 3 days"\ndestination = "a"\ndatabase = "b"\n', "leave one of them out"),
        ('[[events]]\ndays = "last 3 days"\ndatabase = ":memory:"\n', "in memory is gone at the end: name a file"),
        ('[events]\ndays = "last 3 days"\n', "write [[events]], since there may be several"),
        ("[[events\n", "mpnb.toml: "),
        ("a = " + "[" * 9999, "nested too deeply"),
        ("\udcff", "save it as UTF-8"),
        (None, "mpnb.toml cannot be read: No such file"),
    ],
)
def test_a_wrong_file_is_one_line(sandbox, mpnb_command, tmp_path, monkeypatch, text: str | None, message: str) -> None:
    """It names the place, sends nothing, and repeats no secret."""
    mp = sandbox()
    file = written(tmp_path, mp, "", monkeypatch)
    file.write_text(file.read_text() + (text or ""), "utf-8", "surrogateescape")
    if text is None:
        file.unlink()
    status, out, err = mpnb_command("sync", "mpnb.toml")
    assert (status, out, err.count("\n"), mp.requests) == (2, "", 1, ())
    assert message in err
    assert "p4ss" not in err
    assert "hunter2" not in err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[profiles]]\nproject = "shop"\nmax_age_hours = nan\n', "max_age_hours must be a number of hours"),
        ('[[profiles]]\nproject = "shop"\nmax_age_hours = 1e300\n', "max_age_hours must be a number of hours"),
        ('[[events]]\nproject = "shop"\ndays = "2999-01-01 2999-01-02"\n', "days 2999-01-01 is after today"),
        ('[[events]]\nproject = "shop"\ndays = "last 3 days"\ndatabase = "~nobody-here/x"\n', "no such home folder"),
        ('[[events]]\nproject = "shop"\ndays = "last 3 days"\ndatabase = ""\n', "database must be a path"),
        (
            '[[events]]\nproject = "shop"\ndays = "last 3 days"\ndestination = "ftp://x"\n',
            "nothing that mpnb can write",
        ),
        (
            '[projects.moon]\nproject_id = 1\nregion = "moon"\nusername_env = "SHOP_USERNAME"\n'
            'secret_env = "SHOP_SECRET"\n[[profiles]]\nproject = "moon"\n',
            "region of [projects.moon] must be 'us', 'eu' or 'in', not 'moon'",
        ),
    ],
)
def test_what_a_table_cannot_have_is_said_in_the_words_of_the_file(
    sandbox, mpnb_command, tmp_path, monkeypatch, text: str, message: str
) -> None:
    """In the line of that table, and nothing is sent."""
    mp = sandbox()
    written(tmp_path, mp, text, monkeypatch)
    status, out, err = mpnb_command("sync", "mpnb.toml")
    assert (status, out.count("\n"), err, mp.requests) == (1, 1, "", ())
    assert message in out


def test_a_lake(sandbox, mpnb_command, tmp_path, monkeypatch) -> None:
    """Beside the file, as a database would be; saved by an editor that begins texts with a mark."""
    mp = sandbox()
    text = '[[events]]\nproject = "shop"\ndays = "2026-01-01 2026-01-02"\ndestination = "lake"\n'
    file = written(tmp_path, mp, text, monkeypatch)
    file.write_text(file.read_text(), "utf-8-sig")
    status, out, _ = mpnb_command("sync", str(file))
    events = mp.count(day(1), day(2))
    assert (status, out.rpartition(",")[0]) == (0, f"events in lake: done, {events} events, {events} new")
    assert mpnb_command("check", str(day(1)), str(day(2)), "--database", "lake")[0] == 0


def test_two_runs_of_a_file_do_not_meet(sandbox, mpnb_command, tmp_path, monkeypatch) -> None:
    """The later one ends with a status of its own, and has sent nothing."""
    mp = sandbox()
    file = written(tmp_path, mp, '[[events]]\nproject = "shop"\ndays = "2026-01-01 2026-01-01"\n', monkeypatch)
    inner: list[tuple[int, str, str]] = []
    mpnb.sync(file, on_table=lambda _: inner.append(mpnb_command("sync", str(file))))
    [(status, out, err)] = inner
    assert (status, out) == (75, "")
    assert "another sync of" in err
    assert "pass --wait 10m to wait for it, or let it end" in err
    assert len(mp.requests) == 1


def _killed(mp: Sandbox, folder: Path, clock: WallClock) -> int:
    """Kill a run while it fetches, and return how it ended."""
    asked = len(mp.requests)
    with child([sys.executable, "-c", ELSEWHERE, str(clock())], cwd=folder, env={**os.environ}) as other:
        until(lambda: len(mp.requests) > asked, 30)
        other.send_signal(signal.SIGKILL)
        return other.wait(10)


def test_every_morning_of_a_month(sandbox, mpnb_command, tmp_path, monkeypatch, clock: WallClock) -> None:
    """
    Events that arrive late, a morning on which Mixpanel fails, a database that a notebook has open, a killed run.

    ``mpnb check`` says each morning whether yesterday and the days before are in the table, and which is not; at the
    end every event is.
    """
    arrives = timedelta(days=2)

    def lines(of: date) -> list[bytes]:
        """Serve two events of a day at once, and a third two days later."""
        is_late_there = clock.now >= datetime.combine(of, MORNING.time()) + arrives + timedelta(days=1)
        return [event(f"E{n}", **{"$insert_id": f"{of}-{n}"}) for n in range(3 if is_late_there else 2)]

    first = day(1)
    mp = sandbox(lines=lines)
    text = '[[events]]\nproject = "shop"\ndays = "last 5 days"\nlate_days = 3\nchunk_days = 1\n'
    written(tmp_path, mp, text, monkeypatch)
    began: dict[int, tuple[int, int]] = {}
    for number in range(8, 36):
        today = first + timedelta(days=number)
        yesterday = today - timedelta(days=1)
        clock.now = datetime.combine(today, MORNING.time())
        with contextlib.ExitStack() as night:
            match number:
                case 15:
                    mp.add_fault(Fault("status", yesterday, status=400, times=None))
                case 20:
                    other = night.enter_context(
                        child([sys.executable, "-c", HOLD], cwd=tmp_path, stdin=-1, stdout=-1, text=True)
                    )
                    assert other.stdout.readline() == "open\n"
                case 25:
                    mp.add_fault(Fault("hang", yesterday, times=None))
            synced = _killed(mp, tmp_path, clock) if number == 25 else mpnb_command("sync", "mpnb.toml")[0]
            days = [today - timedelta(days=n) for n in range(5, 0, -1)]
            checked, told, _ = mpnb_command("check", str(days[0]), str(days[-1]))
        mp.clear_faults()
        began[number] = synced, checked
        if checked != 75:
            has = dict(query(tmp_path / "mixpanel.duckdb", "SELECT time::DATE, count(*) FROM events GROUP BY ALL"))
            assert (checked == 0) == all(has.get(each, 0) >= 2 for each in days)
            assert (checked == 1) == bool(re.search(rf"problem +days missing +1 +{yesterday}\n", told)), told
    assert began == {n: (0, 0) for n in began} | {15: (1, 1), 20: (75, 75), 25: (-signal.SIGKILL, 1)}
    # The days whose late events have all arrived, and were fetched once more when they had.
    whole = f"time::DATE BETWEEN '{first + timedelta(days=3)}' AND '{first + timedelta(days=30)}'"
    counts = query(tmp_path / "mixpanel.duckdb", f"SELECT count(*) FROM events WHERE {whole} GROUP BY time::DATE")
    assert counts == [(3,)] * 28


# --- recipes of the README ------------------------------------------------------------------------------------------

README = (Path(__file__).parents[1] / "README.md").read_text("utf-8")


def test_the_units_of_systemd_are_valid(tmp_path: Path) -> None:
    """As systemd itself reads them, where it is there; and the timer is of the service."""
    units = dict(re.findall(r"^```ini\n# (\S+)\n(.*?)^```$", README, re.M | re.S))
    assert list(units) == ["mpnb.service", "mpnb.timer"]
    program = tmp_path / "mpnb"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for name, text in units.items():
        (tmp_path / name).write_text(text.replace("%h/mixpanel/.venv/bin/mpnb", str(program)))
    read = configparser.RawConfigParser()
    read.read_string(units["mpnb.service"])
    assert read["Service"]["ExecStart"].split()[1:3] == ["sync", "mpnb.toml"]
    if verify := shutil.which("systemd-analyze"):
        command = [verify, "verify", "--user", *(str(tmp_path / name) for name in units)]
        env = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
        said = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
        assert (said.returncode, "mpnb" in said.stderr) == (0, False), said.stderr


def test_the_line_for_cron_runs(sandbox, tmp_path: Path) -> None:
    """In the shell and the environment that cron has, which are next to nothing: the secrets come from their file."""
    mp = sandbox()
    folder = tmp_path / "mixpanel"
    folder.mkdir()
    (folder / "mpnb.toml").write_text('[[events]]\ndays = "2026-01-01 2026-01-03"\n')
    lines = [f"{name}={shlex.quote(value)}" for name, value in environment(mp).items()]
    (folder / "secrets.env").write_text("\n".join(lines) + "\n")
    [line] = re.findall(r"^```crontab\n(.*?)\n```$", README, re.M | re.S)
    command = line.split(None, 5)[5]
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    env = {"HOME": str(tmp_path), "PATH": path, "LOGNAME": "x", "MPNB_STATE_DIR": str(tmp_path / "state")}
    env |= {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}  # the code that is tested
    done = subprocess.run(["/bin/sh", "-c", command], env=env, cwd="/", capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), (folder / "sync.log").read_text()
    assert re.search(r"events in mixpanel\.duckdb: done, [\d,]+ events", (folder / "sync.log").read_text())
    assert query(folder / "mixpanel.duckdb", "SELECT count(*) FROM events") == [(mp.count(day(1), day(3)),)]


def test_the_workflow_of_github_actions_runs(sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its commands as they stand, each with the secrets that its step names and no other; what fails ends the job."""
    mp = sandbox()
    written(tmp_path, mp, '[[events]]\nproject = "shop"\ndays = "last 30 days"\n', monkeypatch)
    secrets = {name: os.environ.pop(name) for name in ("SHOP_USERNAME", "SHOP_SECRET")}
    [text] = re.findall(r"^```yaml\n(# \.github/.*?)^```$", README, re.M | re.S)
    workflow = yaml.safe_load(text)
    [job] = workflow["jobs"].values()
    # A package that is there is not looked for elsewhere.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    machine = {**os.environ, "PATH": path, "PIP_NO_INDEX": "1", "MPNB_STATE_DIR": str(tmp_path / "state")}

    def statuses() -> list[int]:
        found = []
        for step in (each for each in job["steps"] if "run" in each):
            asked = {
                name: re.fullmatch(r"\$\{\{ secrets\.(\w+) \}\}", by)[1] for name, by in step.get("env", {}).items()
            }
            env = machine | {name: secrets[secret] for name, secret in asked.items()}
            command = ["bash", "-e", "-c", step["run"]]
            ran = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
            found.append(ran.returncode)
            if ran.returncode:
                break
        return found

    assert statuses() == [0, 0, 0]
    kept = [step["with"]["path"] for step in job["steps"] if "/cache/" in step.get("uses", "")]
    assert [query(tmp_path / name, "SELECT count(*) > 0 FROM events") for name in kept] == [[(True,)]] * 2
    (tmp_path / kept[0]).unlink()
    mp.add_fault(Fault("status", status=400, times=None))
    assert statuses() == [0, 1]


DAGSTER = """
import assets, dagster
print(dagster.materialize([assets.mixpanel], raise_on_error=False).success)
print(assets.definitions.resolve_schedule_def("morning").cron_schedule)
"""


def test_the_asset_of_dagster_runs(sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In Dagster itself: it fills the table and tells what came of it; it fails where a table is not up to date."""
    mp = sandbox()
    written(tmp_path, mp, '[[events]]\nproject = "shop"\ndays = "2026-01-01 2026-01-03"\n', monkeypatch)
    [block] = re.findall(r"^```py\n(.*?)^```$", README, re.M | re.S)
    (tmp_path / "assets.py").write_text(block)
    monkeypatch.setenv("DAGSTER_DISABLE_TELEMETRY", "1")

    def materialized() -> tuple[list[str], str]:
        command = [sys.executable, "-c", DAGSTER]
        ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout.splitlines(), ran.stderr

    ended, told = materialized()
    assert ended == ["True", "15 6 * * *"]
    rows = mp.count(day(1), day(3))
    assert f"events in mixpanel.duckdb: done, {rows} events, {rows} new" in told
    assert query(tmp_path / "mixpanel.duckdb", "SELECT count(*) FROM events") == [(rows,)]
    monkeypatch.delenv("SHOP_SECRET")
    ended, told = materialized()
    assert ended[0] == "False"
    assert "events in mixpanel.duckdb: failed" in told
    assert "SHOP_SECRET not set in the environment" in told
