"""Where bodies wait: plain copies for as long as there is room for them, and folders that go with their owner."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import mpnb
import mpnb._fetching.spool
from mpnb._fetching.spool import COPY_SHARE, PlainCopy, SpoolFolder
from mpnb._planning.options import Spool
from mpnb.sandbox import Fault
from tests._helpers import PATIENCE, child, day, side_by_side, until

BODY = b"as it was received"


@pytest.fixture
def make(tmp_path: Path) -> Iterator[list[SpoolFolder]]:
    """Close the folders that a test adds."""
    folders: list[SpoolFolder] = []
    yield folders
    for folder in folders:
        folder.close()


def spooled(folder: SpoolFolder) -> Path:
    """Keep a body as received."""
    path = folder.path / "1.jsonl"
    with folder.new_file(path) as file:
        folder.grow(path, len(BODY), lambda: False)
        file.write(BODY)
    return path


def test_a_copy_that_is_kept_stays(make: list[SpoolFolder], tmp_path: Path) -> None:
    """It holds what it was given, its bytes are charged, and only its owner can read it."""
    folder = SpoolFolder(Spool(tmp_path), None, "a")
    make.append(folder)
    path = spooled(folder)
    with PlainCopy(folder, folder.path / "plain") as copy:
        copy.write(b"plain ")
        copy.write(b"bytes")
        assert folder.bytes() == len(BODY) + 11
        assert copy.keep()
    assert copy.path.read_bytes() == b"plain bytes"
    assert stat.S_IMODE(copy.path.stat().st_mode) == 0o600
    folder.remove(path)
    assert folder.bytes() == 11
    assert sorted(each.name for each in folder.path.iterdir()) == ["owner.lock", "plain"]


@pytest.mark.parametrize("blocks", [[11], [10, 1]])
def test_a_copy_without_room_leaves_the_original(make: list[SpoolFolder], tmp_path: Path, blocks: list[int]) -> None:
    """It takes no more than its share of the budget, and gives back what it took."""
    folder = SpoolFolder(Spool(tmp_path, max_bytes=10 * COPY_SHARE), None, "a")
    make.append(folder)
    path = spooled(folder)
    with PlainCopy(folder, folder.path / "plain") as copy:
        for size in blocks:
            copy.write(b"x" * size)
        copy.write(b"x")
        assert not copy.keep()
    assert path.read_bytes() == BODY
    assert folder.bytes() == len(BODY)
    assert sorted(each.name for each in folder.path.iterdir()) == ["1.jsonl", "owner.lock"]


def test_a_copy_leaves_half_of_the_budget_to_what_is_received(make: list[SpoolFolder], tmp_path: Path) -> None:
    """It goes on while half is free, is given up beyond, and its bytes are free again."""
    folder = SpoolFolder(Spool(tmp_path, max_bytes=1000 * COPY_SHARE), None, "a")
    make.append(folder)
    path = spooled(folder)
    folder.grow(path, 500 * COPY_SHARE - len(BODY) - 10, lambda: False)
    received = folder.bytes()
    with PlainCopy(folder, folder.path / "plain") as copy:
        copy.write(b"x" * 10)
        assert folder.bytes() == received + 10 == folder.max_bytes // 2
        copy.write(b"x")
        assert folder.bytes() == received
        assert not copy.keep()


@pytest.mark.parametrize("size", [100, 100_000])
def test_a_copy_on_a_full_disk_leaves_the_original(make: list[SpoolFolder], tmp_path: Path, size: int) -> None:
    """Whether the disk is full at a write, or only when the last bytes are written at the end."""
    folder = SpoolFolder(Spool(tmp_path), None, "a")
    make.append(folder)
    path = spooled(folder)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with PlainCopy(folder, folder.path / "plain") as copy:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50, before[1]))
        try:
            copy.write(b"x" * size)
            assert not copy.keep()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes() == BODY
    assert folder.bytes() == len(BODY)
    assert sorted(each.name for each in folder.path.iterdir()) == ["1.jsonl", "owner.lock"]


@pytest.mark.parametrize(("free", "budget"), [(3 * 10**9, 1_500_000_000), (10**12, 10**10), (1, 1)])
def test_the_budget_is_half_of_what_is_free(
    make: list[SpoolFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, budget: int
) -> None:
    """At most 10 GB, and never nothing: one batch passes whatever is free."""
    usage = shutil.disk_usage(tmp_path)._replace(free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    make.append(SpoolFolder(Spool(tmp_path), None, "a"))
    make.append(SpoolFolder(Spool(tmp_path, max_bytes=7), None, "b"))
    assert [folder.max_bytes for folder in make] == [budget, 7]


# --- folders of the dead -------------------------------------------------------------------------------------------


@pytest.fixture
def planted(tmp_path: Path) -> Iterator[Path]:
    """Give a folder that may hold spools at the end of the test."""
    folder = tmp_path / "shared"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


def dead_spool(parent: Path, name: str = "dead") -> Path:
    """Leave what a process that was killed leaves: a folder whose lock nobody holds."""
    folder = parent / f"mpnb-spool-{name}-0"
    folder.mkdir(mode=0o700)
    (folder / "owner.lock").touch(0o600)
    (folder / "1.jsonl").write_bytes(BODY)
    return folder


def clean(parent: Path) -> None:
    """Do what every export does first."""
    SpoolFolder(Spool(parent), None, "cleaner").close()


def test_the_spool_of_a_dead_process_is_deleted(tmp_path: Path) -> None:
    """Also one whose process died before it had a lock, or while it deleted; and nothing is left of the cleaner."""
    dead_spool(tmp_path)
    (tmp_path / "mpnb-spool-young-0").mkdir()
    (dead_spool(tmp_path, "old") / "1.jsonl").unlink()
    clean(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["link to a folder", "lock that is a link", "lock that is a folder", "lock of a fifo"])
def test_no_link_is_followed(kind: str, planted: Path) -> None:
    """Neither a folder nor a lock that is a link, wherever it leads: what is there stays as it is."""
    (planted / "elsewhere").mkdir()
    own = dead_spool(planted / "elsewhere", "own")
    (own / "notes.txt").write_text("mine")
    trap = planted / "mpnb-spool-trap-0"
    if kind == "link to a folder":
        trap.symlink_to(own)
    else:
        trap.mkdir()
        lock = trap / "owner.lock"
        if kind == "lock that is a link":
            lock.symlink_to(own / "notes.txt")
        elif kind == "lock that is a folder":
            lock.mkdir()
        else:
            os.mkfifo(lock)
        (trap / "1.jsonl").write_bytes(BODY)
    clean(planted)
    assert (own / "notes.txt").read_text() == "mine"
    assert (own / "1.jsonl").read_bytes() == BODY
    assert (trap / "1.jsonl").read_bytes() == BODY


def test_a_link_within_a_dead_spool_goes_and_what_it_names_stays(tmp_path: Path) -> None:
    """Files and folders that a dead spool links to are not its own."""
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "notes.txt").write_text("mine")
    folder = dead_spool(tmp_path)
    (folder / "folder").symlink_to(tmp_path / "kept")
    (folder / "file").symlink_to(tmp_path / "kept" / "notes.txt")
    (folder / "deep" / "er").mkdir(parents=True)
    clean(tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("theirs", ["folder", "lock"])
def test_what_is_another_users_stays(theirs: str, planted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders in a shared place may be anybody's, and one's own may hold what somebody else put there."""
    folder = dead_spool(planted)
    own = os.getuid()
    looks = iter([own + 1] if theirs == "folder" else [own, own + 1])
    monkeypatch.setattr(os, "getuid", lambda: next(looks))
    mpnb._fetching.spool._remove_dead(planted)
    assert (folder / "1.jsonl").read_bytes() == BODY
    assert list(looks) == []


def at_each_line(functions: set[str], number: int, do: Callable[[], object]) -> Callable[[FrameType, str, Any], Any]:
    """Make a trace function that does something once, before the nth line of these functions."""
    left = [number]

    def trace(frame: FrameType, what: str, _: Any) -> Any:
        if frame.f_code.co_filename != mpnb._fetching.spool.__file__ or frame.f_code.co_name not in functions:
            return None
        if what == "line":
            left[0] -= 1
            if left[0] == 0:
                do()
        return trace

    return trace


def traced(function: Callable[[], object], trace: Any) -> None:
    """Run a function in a thread of its own, under a trace function."""

    def run() -> None:
        sys.settrace(trace)
        try:
            function()
        finally:
            sys.settrace(None)

    side_by_side(run)


def test_whenever_cleaners_come_a_claimed_folder_stays(tmp_path: Path) -> None:
    """One cleaner before each line of a claim, and a second before each line of that one: whoever claimed, keeps it."""
    claiming, cleaning = {"_claim", "_locked"}, {"_remove_dead", "_locked", "_delete"}
    runs = 0
    for first in range(1, 18):
        for second in range(1, 40, 1 if first > 3 else 20):
            parent = tmp_path / f"{first}-{second}"
            parent.mkdir()
            other = at_each_line(cleaning, second, lambda parent=parent: mpnb._fetching.spool._remove_dead(parent))
            one = lambda parent=parent, other=other: traced(lambda: mpnb._fetching.spool._remove_dead(parent), other)  # noqa: E731
            claimed: list[SpoolFolder] = []
            traced(
                lambda parent=parent, claimed=claimed: claimed.append(SpoolFolder(Spool(parent), None, "a")),
                at_each_line(claiming, first, one),
            )
            [folder] = claimed
            path = spooled(folder)
            mpnb._fetching.spool._remove_dead(parent)
            assert path.read_bytes() == BODY, (first, second)
            assert (folder.path / "owner.lock").exists()
            assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
            folder.close()
            mpnb._fetching.spool._remove_dead(parent)
            assert list(parent.iterdir()) == [], (first, second)
            runs += 1
    assert runs > 500


CLAIM = """
import sys
from mpnb._fetching.spool import Spool, SpoolFolder
folders = []
for number in range(60):
    folders.append(SpoolFolder(Spool(sys.argv[1]), None, f"{sys.argv[2]}x{number}"))
    folders[-1].new_file(folders[-1].path / "1.jsonl").close()
print(sum((each.path / "1.jsonl").exists() and (each.path / "owner.lock").exists() for each in folders), flush=True)
sys.stdin.read()
print(sum((each.path / "1.jsonl").exists() and (each.path / "owner.lock").exists() for each in folders))
for each in folders:
    each.close()
"""


@pytest.mark.parametrize("again", range(2))
def test_folders_that_are_claimed_side_by_side_stay(again: int, tmp_path: Path, make: list[SpoolFolder]) -> None:
    """Of 8 threads that claim 60 folders each, which clean before each claim, none loses one."""
    gate = threading.Barrier(8)
    failed: list[BaseException] = []

    def claim(thread: int) -> None:
        gate.wait(PATIENCE)
        for number in range(60):
            try:
                folder = SpoolFolder(Spool(tmp_path), None, f"{thread}x{number}")
                make.append(folder)
                spooled(folder)
            except BaseException as error:
                failed.append(error)

    side_by_side(*(partial(claim, number) for number in range(8)))
    assert failed == []
    assert len(make) == 480
    assert [each.path for each in make if not (each.path / "1.jsonl").exists()] == []


def test_folders_that_processes_claim_side_by_side_stay(tmp_path: Path) -> None:
    """The same for 8 processes."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    commands = [[sys.executable, "-c", CLAIM, str(tmp_path), str(number)] for number in range(8)]
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(child(command, **pipes)) for command in commands]
        counts = [each.stdout.readline().strip() for each in processes]
        counts += [each.communicate("")[0].strip() for each in processes]
    assert counts == ["60"] * 16
    assert list(tmp_path.glob("mpnb-spool-*")) == []


# --- the budget ----------------------------------------------------------------------------------------------------


def test_the_next_attempt_has_the_room_of_the_last_one(sandbox, start, tmp_path) -> None:
    """What a failed attempt has left in the spool is given back before the same batch waits for room."""
    mp = sandbox(faults=[Fault("half_line", day(2), times=2)])
    job = start(mp, workers=1, spool=mpnb.Spool(tmp_path / "spool", 1))
    assert job.result(30).successful_batches == 3
    assert mp.injected == {"half_line": 2}


def test_one_file_at_a_time_goes_over_the_budget(make: list[SpoolFolder], tmp_path: Path) -> None:
    """A second one that does not fit waits until the first is done, and goes over it then itself."""
    folder = SpoolFolder(Spool(tmp_path, max_bytes=10), None, "a")
    make.append(folder)
    first, second = folder.path / "1.jsonl", folder.path / "2.jsonl"
    for path in (first, second):
        folder.new_file(path).close()
    folder.grow(first, 11, lambda: False)
    waits, grown = threading.Event(), threading.Event()

    def grow() -> None:
        folder.grow(second, 5, lambda: bool(waits.set()))
        grown.set()

    threading.Thread(target=grow, daemon=True).start()
    until(lambda: waits.is_set() or grown.is_set())
    assert not grown.is_set()
    assert folder.bytes() == 11
    folder.finish(first)
    assert grown.wait(5)
    assert folder.bytes() == 16
