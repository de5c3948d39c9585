"""
Crash images: the files as they would be found if the machine had stopped at a drawn write of an export.

The shim records every change of the database and its log in their order. A process that dies leaves all changes up to a
moment. A machine that loses power may besides have lost, in whole or in blocks, what was written since a file's last
sync, and the latest changes of names and lengths, which a file system keeps in order.
"""

from __future__ import annotations

import random
import struct
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import mpnb
from tests.campaign._case import draw, generator
from tests.campaign._clients import Said, real
from tests.campaign._figures import Figures
from tests.campaign._oracle import Oracle
from tests.campaign._pace import quick
from tests.campaign._shim import LINK, MARK, OPEN, RENAME, SYNC, TRUNCATE, UNLINK, WRITE, mark, recorded
from tests.campaign._stage import FILE, Stage, stage
from tests.campaign._tables import Table, served

HEAD = struct.Struct("=BHqQ")
# What a disk writes at once.
SECTOR = 512
STEPS = ("refresh", "refresh", "cancel", "retry")
# One image in so many goes on to be exported to.
GOES_ON = 12


@dataclass(frozen=True, slots=True)
class Change:
    """Hold one recorded call: which, of what path, where, and its bytes, or the new name."""

    call: int
    path: str
    offset: int
    data: bytes


def read(log: Path) -> list[Change]:
    """Read what the shim recorded."""
    changes = []
    with log.open("rb") as file:
        while head := file.read(HEAD.size):
            call, length, offset, size = HEAD.unpack(head)
            changes.append(Change(call, file.read(length).decode(), offset, file.read(size)))
    return changes


def image(base: dict[str, bytes], changes: Sequence[Change], rng: random.Random | None = None) -> dict[str, bytes]:
    """
    Return the files after some changes.

    Args:
        base: the files before.
        rng: loses some of what was not synced; without it, nothing is lost.
    """
    files = {path: bytearray(data) for path, data in base.items()}
    latest = {change.path: n for n, change in enumerate(changes) if change.call == SYNC}
    # What changes names and lengths is on the disk in order, and with any sync.
    known = rng.randint(max(latest.values(), default=-1), len(changes)) if rng else len(changes)
    # Those that come through: all, none, or each by chance.
    share = rng.choice((0.0, 0.5, 0.9)) if rng else 1.0
    for n, change in enumerate(changes):
        if change.call == WRITE:
            is_safe = rng is None or n < latest.get(change.path, -1)
            if change.path in files:
                _write(files[change.path], change, None if is_safe else rng, share)
        elif n <= known:
            _rename(files, change)
    return {path: bytes(data) for path, data in files.items()}


def _write(file: bytearray, change: Change, rng: random.Random | None, share: float) -> None:
    end = change.offset + len(change.data)
    file.extend(bytes(max(0, end - len(file))))
    at = change.offset
    while at < end:
        border = min(end, (at // SECTOR + 1) * SECTOR) if rng else end
        if rng is None or rng.random() < share:
            file[at:border] = change.data[at - change.offset : border - change.offset]
        at = border


def _rename(files: dict[str, bytearray], change: Change) -> None:
    if change.call == OPEN:
        files[change.path] = bytearray()
    elif change.call == TRUNCATE and change.path in files:
        file = files[change.path]
        file.extend(bytes(max(0, change.offset - len(file))))
        del file[change.offset :]
    elif change.call == RENAME and change.path in files:
        files[change.data.decode()] = files.pop(change.path)
    elif change.call == LINK and change.path in files:
        files[change.data.decode()] = files[change.path]
    elif change.call == UNLINK:
        files.pop(change.path, None)


def run(seed: int, number: int, figures: Figures, *, images: int = 40) -> None:
    """Do one run: record two exports into a file, judge so many images of each, and go on from some."""
    rng = generator("images", seed, number)
    case = draw(rng)
    with (
        stage(f"images {seed}/{number}", figures) as here,
        quick(rng.choice((0.0, 0.25)), checkpoints=rng.random() < 0.5),
        served(case, here.folder / FILE) as table,
    ):
        oracle = Oracle(table.database, [table], figures, here.name)
        for step in ("export", rng.choice(STEPS)):
            table.change(step)
            base = _files(here.folder)
            said, changes, days = _record(here, step, table)
            if image(base, changes) != _files(here.folder):
                raise AssertionError("the record is not what was written")
            for n in range(images if changes else 0):
                end = rng.randint(1, len(changes))
                done = [days[change.offset] for change in changes[:end] if change.call == MARK]
                files = image(base, changes[:end], rng if n % 2 else None)
                _judge(here, table, oracle, files, f"{'torn' if n % 2 else 'whole'} image {end} of {step}", done)
            oracle.judge(step, said={table.name: said}, complete=step == "export")


def _record(here: Stage, step: str, table: Table) -> tuple[Said, list[Change], list[date]]:
    """Export, and return what was said, every change, and the days that are done by the number of their mark."""
    days: list[date] = []

    def note(progress: mpnb.BatchProgress) -> None:
        if progress.status in ("done", "empty"):
            mark(len(days))
            days.append(progress.from_date)

    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with here.step(step), recorded(here.folder, log, but="/s"):
            said = real(step, table.case, table.server.credentials, table.database, note)
        return here.heard(step, said), read(log), days


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.glob(f"{FILE}*")}


def _judge(here: Stage, table: Table, oracle: Oracle, files: dict[str, bytes], what: str, done: list[date]) -> None:
    """Open an image, which after the mere death of a process must work, and go on from some."""
    kind, _, _ = what.partition(" ")
    with tempfile.TemporaryDirectory() as folder:
        for path, data in files.items():
            (Path(folder) / Path(path).name).write_bytes(data)
        path = Path(folder) / FILE
        if not path.exists():
            here.figures.images[f"{kind}, no file yet"] += 1
            return
        opened = oracle.at(path).judge_image(what, [(table.name, day) for day in done])
        here.figures.images[f"{kind}, {'opened' if opened else 'refused'}"] += 1
        if not opened and kind == "whole":
            here.violation(f"the {what} does not open")
        if opened and here.figures.images.total() % GOES_ON == 0:
            _go_on(here, table, oracle.at(path), path, what)


def _go_on(here: Stage, table: Table, oracle: Oracle, path: Path, what: str) -> None:
    """Complete the table from an image."""
    with here.step(f"retry from the {what}"):
        said = here.heard(what, real("retry", table.case, table.server.credentials, path))
    here.figures.images["went on"] += 1
    oracle.judge(f"retry from the {what}", said={table.name: said}, complete=True)
