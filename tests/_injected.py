"""
Exports in which one call of one function of ours raises: ``python -m tests._injected OWNER``.

It wraps every function that runs in a thread of the engine, lets the nth call of one at a time raise what nobody
expects, and prints a line for each export that hung, lost something, or left something behind. A process of its own:
what hangs is ended with it.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mpnb
from mpnb._base import handover as _handover
from mpnb._exporting import board as _board
from mpnb._exporting import callbacks as _callbacks
from mpnb._exporting import engine as _engine
from mpnb._exporting import run as _run
from mpnb._fetching import client as _client
from mpnb._fetching import fetcher as _fetcher
from mpnb._fetching import limiter as _limits
from mpnb._fetching import spool as _spool
from mpnb._fetching import verify as _verify
from mpnb._storing import database as _store
from mpnb._storing import insert as _insert
from mpnb._storing import ledger as _ledger
from mpnb._storing import table as _table
from mpnb._storing import tables as _layout
from mpnb._storing import writer
from mpnb._storing.running import running
from mpnb.sandbox import Fault, Sandbox, serve
from tests._helpers import WIDE, all_or_nothing, day

_OWNERS: tuple[Any, ...] = (
    _engine.Engine,
    writer.Writer,
    _table.Table,
    _board.BatchBoard,
    _spool.SpoolFolder,
    _spool.PlainCopy,
    _limits.RateLimiter,
    _fetcher.Fetcher,
    _client.Connection,
    _client,
    _verify.Verifier,
    _handover.Handover,
    _store.Store,
    _ledger,
    _insert,
    _layout,
    _callbacks.Callbacks,
    _run.Run,
)
OWNERS = {owner.__name__: owner for owner in _OWNERS}
# To let go of the spool and of the table are last resorts, of which the first leaves a folder for the next process.
LEFT_OUT = {(_spool.SpoolFolder, "close"), (_spool, "_delete"), (_table.Table, "leave")}
LEFT_OUT |= {(_run.Run, "abandon"), (_run.Run, "_coordinate")}  # the same, and a thread's first step
OURS = ("mpnb-writer", "mpnb-worker", "mpnb-coordinator", "mpnb-callbacks")
SECONDS = 30.0


class Odd(BaseException):
    """What no ``except Exception`` hears."""


def functions(owner: Any) -> Iterator[str]:
    """Name the functions of a class or module of ours that an export may call."""
    module = owner if inspect.ismodule(owner) else inspect.getmodule(owner)
    for name, value in vars(owner).items():
        ours = inspect.isfunction(value) and inspect.getmodule(value) is module
        if ours and not name.startswith("__") and (owner, name) not in LEFT_OUT:
            yield name


@contextlib.contextmanager
def raising(owner: Any, name: str, nth: int, error: BaseException) -> Iterator[list[int]]:
    """Let the nth call raise, wherever the function is known by its name, and count the calls."""
    real: Callable[..., Any] = getattr(owner, name)
    calls = [0]
    lock = threading.Lock()

    @functools.wraps(real)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        with lock:
            calls[0] += 1
            now = calls[0] == nth
        if now:
            raise error
        return real(*arguments, **options)

    places = [(owner, name)]
    if inspect.ismodule(owner):
        for key, module in list(sys.modules.items()):
            if key.startswith("mpnb") and vars(module).get(name) is real and module is not owner:
                places.append((module, name))
    for place, attribute in places:
        setattr(place, attribute, wrapped)
    try:
        yield calls
    finally:
        for place, attribute in places:
            setattr(place, attribute, real)


@contextlib.contextmanager
def stage() -> Iterator[tuple[Sandbox, dict[str, Any]]]:
    """Serve days with faults, and say how they are asked for."""
    faults = [
        Fault("too_large", times=2),
        Fault("status", status=400, day=day(2), times=1),
        Fault("bad_lines", day=day(3)),
        Fault("reset", day=day(5)),
    ]
    with tempfile.TemporaryDirectory() as folder, serve(events_per_day=5, faults=faults) as mp:
        yield mp, {
            "database": Path(folder) / "x.duckdb", "credentials": mp.credentials, "quota": WIDE, "workers": 2,
            "chunk_days": 2,
        }  # fmt: skip


def counted(owner: Any) -> dict[str, int]:
    """Export without a fault of ours, and count the calls of each function."""
    with stage() as (_, ask), contextlib.ExitStack() as stack:
        calls = {name: stack.enter_context(raising(owner, name, 0, Odd())) for name in functions(owner)}
        mpnb.export(day(1), day(6), on_batch=lambda _: None, **ask).close()
    return {name: count for name, [count] in calls.items()}


def run(owner: Any, name: str, nth: int, error: BaseException) -> tuple[str, bool]:
    """Export once with the fault and once without, and return what is wrong, and whether the fault came at all."""
    with stage() as (mp, ask):
        results: list[mpnb.ExportResult] = []
        before = set(threading.enumerate())
        came = False

        def export() -> None:
            with contextlib.suppress(mpnb.MpnbError, RuntimeError, Odd):
                try:
                    results.append(mpnb.export(day(1), day(6), on_batch=lambda _: None, **ask))
                except mpnb.ExportError as error:
                    results.append(error.result)
                    raise

        with raising(owner, name, nth, error) as calls:
            thread = threading.Thread(target=export, daemon=True)
            thread.start()
            thread.join(SECONDS)
            came = calls[0] >= nth
            if thread.is_alive():
                return "hangs", came
        for result in results:
            result.close()
        if running:
            return "is running for ever", came
        end = time.monotonic() + 5
        while others := [t.name for t in threading.enumerate() if t not in before and t.name.startswith(OURS)]:
            if time.monotonic() > end:
                return f"leaves threads: {others}", came
            time.sleep(0.01)
        mp.clear_faults()
        try:
            with mpnb.export(day(1), day(6), on_batch=lambda _: None, **ask) as after:
                if after.has_failures or after.total_rows != mp.count(day(1), day(6)):
                    return f"stays incomplete: {after.total_rows} of {mp.count(day(1), day(6))}", came
                all_or_nothing(after, mp)
        except Exception as unexpected:
            return f"cannot go on: {type(unexpected).__name__}: {unexpected}", came
        left = [path.name for path in ask["database"].parent.iterdir() if path != ask["database"]]
        return f"leaves files: {left}" if left else "", came


def main() -> int:
    """Try every function of an owner, at its first and at a later call, and print what went wrong."""
    logging.disable()
    os.environ["MPNB_STATE_DIR"] = tempfile.mkdtemp()
    threading.excepthook = lambda _: None
    _fetcher.BACKOFF_SECONDS = 0.01
    owner = OWNERS[sys.argv[1]]
    tried = wrong = 0
    for name, calls in counted(owner).items():
        for nth, error in ((1, RuntimeError("injected")), (4, Odd("injected"))):
            if 2 * calls < nth:  # how many there are may vary with the order of threads, but not so much
                continue
            said, came = run(owner, name, nth, error)
            tried += came
            if said:
                wrong += 1
                print(f"{name}, call {nth}: {said}", flush=True)
            if said == "hangs":
                os._exit(1)
    print(f"{tried} exports met their fault, {wrong} went wrong", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
