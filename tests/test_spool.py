"""What is kept of a body beside what was received: a plain copy, for as long as there is room for it."""

from __future__ import annotations

import resource
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpnb._spool import COPY_SHARE, PlainCopy, Spool, SpoolFolder

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
