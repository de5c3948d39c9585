"""
What happens around an export: the disk fills and has room again, spool files vanish or shrink, the clock is set,
threads and handles run out, somebody presses Ctrl-C.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import signal
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import psutil

import mpnb
from mpnb._fetching.history import LOCKS
from tests.campaign._case import KINDS, draw, generator, hand
from tests.campaign._clients import Said, real
from tests.campaign._figures import Figures
from tests.campaign._oracle import Oracle
from tests.campaign._pace import patient, quick
from tests.campaign._shim import CALLS, ERRORS, FOR_EVER, failing, shift
from tests.campaign._stage import FILE, Stage, stage
from tests.campaign._tables import Table, served

STEPS = ("export", "export", "refresh", "retry", "reopen")
HOUR = 3600.0
Surrounding = Callable[[Path, random.Random], AbstractContextManager[object]]


# --- what surrounds: each holds for a block, given the folder of the run ----------------------------------------------


@contextlib.contextmanager
def _full_for_all(folder: Path, rng: random.Random) -> Iterator[None]:
    database = folder / FILE
    size = database.stat().st_size if database.exists() else 0
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (rng.choice((4096, size + 4096, size + rng.randrange(1 << 20))), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _full(part: str, but: str = "") -> Surrounding:
    """Let a part of the files have no room."""

    def full(folder: Path, rng: random.Random) -> AbstractContextManager[object]:
        calls = sum(CALLS.values())
        return failing(f"{folder}/{part}", calls, ERRORS["full"], rng.choice((1, 1, 2, 5)), FOR_EVER, but=but)

    return full


@contextlib.contextmanager
def _spool_deleted(folder: Path, rng: random.Random) -> Iterator[None]:
    shutil.rmtree(folder / "spool", ignore_errors=True)
    yield


@contextlib.contextmanager
def _spool_cut(folder: Path, rng: random.Random) -> Iterator[None]:
    """Shorten files that wait, or some that still come: to nothing, at a line's end, anywhere; or add a line again."""
    for path in (folder / "spool").rglob("*.jsonl*"):
        with contextlib.suppress(OSError), path.open("r+b") as file:
            there = file.read()
            cut = rng.choice((0, there.rfind(b"\n", 0, len(there) // 2) + 1, rng.randint(0, len(there))))
            if rng.random() < 0.25 and b"\n" in there:
                file.write(there[: there.index(b"\n") + 1])
            else:
                file.truncate(cut)
    yield


@contextlib.contextmanager
def _clock(folder: Path, rng: random.Random) -> Iterator[None]:
    shift(rng.choice((1, -1)) * rng.choice((30.0, HOUR, 3 * HOUR, 49 * HOUR)))
    try:
        yield
    finally:
        shift(0.0)


@contextlib.contextmanager
def _no_threads(folder: Path, rng: random.Random) -> Iterator[None]:
    """Let no thread of mpnb's begin, from the nth on."""
    start, left = threading.Thread.start, rng.choice((0, 0, 1, 2, 3, 5))

    def starts(self: threading.Thread) -> None:
        nonlocal left
        if self.name.startswith("mpnb-") and "sandbox" not in self.name:
            left -= 1
            if left < 0:
                raise RuntimeError("can't start new thread")
        start(self)

    threading.Thread.start = starts  # type: ignore[method-assign]
    try:
        yield
    finally:
        threading.Thread.start = start  # type: ignore[method-assign]


@contextlib.contextmanager
def _few_handles(folder: Path, rng: random.Random) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max((each.fd for each in psutil.Process().open_files()), default=0)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(most, psutil.Process().num_fds()) + rng.randint(0, 12), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def _state_broken(folder: Path, rng: random.Random) -> Iterator[None]:
    """Spoil the file of the quota, or put a file where its folder should be."""
    state = folder / "state"
    shutil.rmtree(state, ignore_errors=True)
    if rng.random() < 0.3:
        state.write_text("no folder")
    else:
        state.mkdir()
        for name in (*(f"quota.{n}.lock" for n in range(LOCKS)), f"quota-{rng.randrange(10**6)}-0.json"):
            (state / name).write_bytes(rng.choice((b"", b"[", rng.randbytes(100))))
    try:
        yield
    finally:
        if state.is_file():
            state.unlink()


@contextlib.contextmanager
def _interrupted(folder: Path, rng: random.Random) -> Iterator[None]:
    """Press Ctrl-C some time later, once or more often."""
    over = threading.Event()
    waits = [rng.uniform(0, 0.3) for _ in range(rng.choice((1, 1, 2, 5)))]

    def press() -> None:
        for seconds in waits:
            if over.wait(seconds):
                return
            os.kill(os.getpid(), signal.SIGINT)

    finger = threading.Thread(target=press, name="campaign-finger")
    finger.start()
    try:
        yield
    finally:
        # What comes now is for the campaign.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        over.set()
        finger.join()
        signal.signal(signal.SIGINT, before)


SURROUNDINGS: dict[str, Surrounding] = {
    "disk full": _full_for_all,
    "database full": _full(FILE, but="/spool/"),
    "log full": _full(f"{FILE}.wal"),
    "spool full": _full("spool/"),
    "spool deleted": _spool_deleted,
    "spool cut": _spool_cut,
    "clock set": _clock,
    "no threads": _no_threads,
    "few handles": _few_handles,
    "state broken": _state_broken,
    "interrupted": _interrupted,
}


# --- runs -------------------------------------------------------------------------------------------------------------


class Moments:
    """Let something surround an export from one change of a batch on, to a later one or the end."""

    def __init__(self, make: Callable[[], AbstractContextManager[object]], begin: int, end: int) -> None:
        self._make = make
        self._begin, self._end = begin, end
        self._seen = 0
        self._stack = contextlib.ExitStack()
        self.begun = False

    def __call__(self, progress: mpnb.BatchProgress | None = None) -> None:
        """Take the next change."""
        if self._seen == self._begin:
            self.begun = True
            self._stack.enter_context(self._make())
        elif self._seen == self._end:
            self.close()
        self._seen += 1

    def close(self) -> None:
        """End it."""
        self._stack.close()


def run(
    seed: int, number: int, figures: Figures, *, faults: int = 1, kinds: Collection[str] = tuple(SURROUNDINGS)
) -> None:
    """Do one run: steps that something surrounds, and one that nothing does."""
    rng = generator("surroundings", seed, number)
    case = draw(rng, hand(seed, number, faults, KINDS))
    with (
        stage(f"surroundings {seed}/{number}", figures) as here,
        quick(rng.choice((0.0, 0.25)), checkpoints=rng.random() < 0.5),
        served(case, here.folder / FILE) as table,
    ):
        oracle = Oracle(table.database, [table], figures, here.name)
        names = hand(seed, number, 3, kinds)
        for step, name in zip(("export", *rng.choices(STEPS, k=2)), names, strict=True):
            table.change(step)
            _step(here, step, name, table, oracle, rng)
            if rng.random() < 0.3:
                _whole(here, table, oracle)
        table.server.clear_faults()
        with patient():
            _whole(here, table, oracle)
        figures.faults += table.server.injected


def _step(here: Stage, step: str, name: str, table: Table, oracle: Oracle, rng: random.Random) -> None:
    """Export while something surrounds it, and judge."""
    begin = rng.choice((0, 0, *range(1, 16)))
    moments = Moments(lambda: SURROUNDINGS[name](here.folder, rng), begin, begin + rng.choice((5, 20, 10**6)))
    what = f"{step} with {name} from change {begin}"
    said = Said()
    with here.step(what):
        try:
            moments()
            said = real(step, table.case, table.server.credentials, table.database, moments)
        except KeyboardInterrupt:
            pass  # it came before the call
        finally:
            moments.close()
        here.heard(what, said, may_refuse=moments.begun or step == "reopen")
    here.figures.surroundings[name] += moments.begun
    oracle.judge(what, said={table.name: said}, crashed="full" in name)


def _whole(here: Stage, table: Table, oracle: Oracle) -> None:
    """Export with nothing in the way but faults that are left: without any, the table is complete."""
    faults = table.server.injected
    with here.step("retry"):
        said = real("retry", table.case, table.server.credentials, table.database)
    unhurt = table.server.injected == faults
    here.heard("retry", said, may_refuse=not unhurt)
    oracle.judge("retry", said={table.name: said}, complete=unhurt)
