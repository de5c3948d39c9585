"""What every test here gets: fast retries, a home of its own, and a look at what it leaves behind."""

from __future__ import annotations

import contextlib
import gc
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import psutil
import pytest

import mpnb
import mpnb._base.clock
import mpnb._fetching.fetcher
from mpnb._command.cli import main
from mpnb._showing import live
from mpnb.sandbox import Sandbox, serve
from mpnb.sandbox.__main__ import environment
from tests._helpers import WIDE, Run, WallClock, day, moved, until

pytest_plugins = ["tests._bounds", "tests._s3"]

FIRST, LAST = day(1), day(3)

# The same examples in every run, on a slow machine too: a failure that shows here shows everywhere.
hypothesis.settings.register_profile(
    "mpnb",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("mpnb")


def _ours() -> set[object]:
    """Name the threads and TCP sockets of this process."""
    connections = psutil.Process().net_connections("tcp")
    return {t for t in threading.enumerate() if t is not threading.main_thread()} | {c.fd for c in connections}


def _open_in(folder: Path) -> list[str]:
    """Name the files of a folder that this process has open."""
    return [file.path for file in psutil.Process().open_files() if folder in Path(file.path).parents]


# A shell starts what runs in its background without Ctrl-C, and Python would leave it so; nohup, without SIGHUP.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[None]:
    """See that a test leaves no thread, no socket, no open file and no spool folder."""
    if request.path.parent != Path(__file__).parent:
        yield  # tests in folders of their own have their own ways
        return
    before = _ours()
    # No test here is in a notebook: a panel of another test would look into the database after each export of this one.
    notebooks, live._notebooks[:] = live._notebooks[:], []
    yield
    live._notebooks[:] = notebooks
    until(lambda: not _ours() - before)
    if _open_in(tmp_path):
        gc.collect()  # a result that was not closed ends with the last who knows it
    assert not _open_in(tmp_path)
    assert not list(tmp_path.rglob("mpnb-spool-*"))


@pytest.fixture(autouse=True)
def _own_home(nothing_left: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let nothing of the machine in, and nothing out."""
    for name in ("MP_USERNAME", "MP_SECRET", "MP_PROJECT_ID", "MP_REGION", "MP_API_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(mpnb._fetching.fetcher, "BACKOFF_SECONDS", 0.01)


@pytest.fixture
def sandbox(nothing_left: None) -> Iterator[Callable[..., Sandbox]]:
    """Serve sandboxes with what ``serve`` takes, until the test ends. Events of ``event()`` are moved to their day."""

    def made(lines: Any = None, **options: Any) -> Sandbox:
        on_its_day = lines and (lambda d: (found := lines(d)) and [moved(line, d) for line in found])
        return stack.enter_context(serve(**{"events_per_day": 30, "lines": on_its_day, **options}))

    with contextlib.ExitStack() as stack:
        yield made


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> WallClock:
    """Give days and moments a clock that a test moves."""
    clock = WallClock()
    monkeypatch.setattr(mpnb._base.clock, "system", clock)
    return clock


@pytest.fixture
def mpnb_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run ``mpnb`` in this process, in a folder of its own, and give status, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str, mp: Sandbox | None = None) -> tuple[int, str, str]:
        for name, value in environment(mp).items() if mp else ():
            monkeypatch.setenv(name, value)
        capsys.readouterr()  # what the test itself has said
        try:
            status = main(words)
        except SystemExit as end:
            status = int(end.code or 0)
        return (status, *capsys.readouterr())

    return run


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Give the path of a database that is not there yet."""
    return tmp_path / "mixpanel.duckdb"


@pytest.fixture
def export(database: Path) -> Iterator[Callable[..., mpnb.ExportResult]]:
    """Export some days of a sandbox, 3 of 1 a batch if not said, without waiting for a quota; results are closed."""
    with contextlib.ExitStack() as stack:

        def run(mp: Sandbox, first: Any = FIRST, last: Any = LAST, **options: Any) -> Any:
            usual = {"credentials": mp.credentials, "quota": WIDE, "database": database, "chunk_days": 1}
            return stack.enter_context(mpnb.export(first, last, **{**usual, **options}))

        yield run


@pytest.fixture
def fetch(database: Path) -> Iterator[Callable[..., mpnb.ProfilesResult]]:
    """Fetch profiles without waiting for a quota; results are closed."""
    with contextlib.ExitStack() as stack:

        def run(mp: Sandbox, **options: Any) -> mpnb.ProfilesResult:
            usual = {"credentials": mp.credentials, "quota": WIDE, "database": database, "on_batch": lambda _: None}
            return stack.enter_context(mpnb.export_profiles(**{**usual, **options}))

        yield run


@pytest.fixture
def start(database: Path) -> Iterator[Callable[..., mpnb.ExportJob]]:
    """Start what ``export`` would run; a job that still runs is cancelled when the test ends."""
    jobs: list[mpnb.ExportJob] = []

    def run(mp: Sandbox, first: Any = FIRST, last: Any = LAST, **options: Any) -> mpnb.ExportJob:
        usual = {"credentials": mp.credentials, "quota": WIDE, "database": database, "chunk_days": 1}
        jobs.append(mpnb.start(first, last, **{**usual, **options}))
        return jobs[-1]

    yield run
    for job in jobs:
        job.cancel()
        job.outcome(30).close()
