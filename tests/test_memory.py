"""How much memory and how many threads an export takes: by what the process may use, and by what the caller says."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

import mpnb
from mpnb._base import machine
from mpnb._planning.options import memory_of
from mpnb._storing.settings import share_of, usual_memory
from mpnb.sandbox import Fault
from tests._helpers import WIDE, day

GB = 10**9


# --- what the process may use ------------------------------------------------------------------------------------


def groups(root: Path, own: str, **files: str) -> Path:
    """Write what Linux shows of the control groups of a process; ``__`` stands for a slash, ``DOT`` for a dot."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(own)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/").replace("DOT", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MEMORY: dict[str, tuple[str, dict[str, str], int]] = {
    "version 2, its own group": ("0::/a/b\n", {"a__b__memoryDOTmax": "900\n"}, 900),
    "version 2, a group above": ("0::/a/b\n", {"a__b__memoryDOTmax": "max\n", "a__memoryDOTmax": "800\n"}, 800),
    "version 2, the least of all": ("0::/a/b\n", {"a__b__memoryDOTmax": "900\n", "a__memoryDOTmax": "800\n"}, 800),
    "version 2, a path of the host's": ("0::/of/the/host\n", {"memoryDOTmax": "700\n"}, 700),
    "version 1": ("7:cpu:/\n4:memory:/a\n0::/\n", {"memory__a__memoryDOTlimit_in_bytes": "600\n"}, 600),
    "version 1, a path of the host's": ("4:memory:/x/y\n", {"memory__memoryDOTlimit_in_bytes": "500\n"}, 500),
}


@pytest.mark.parametrize("case", MEMORY)
def test_memory_is_no_more_than_the_control_groups_allow(case: str, tmp_path: Path) -> None:
    """Of both versions, and in a container that shows its own top alone."""
    own, files, expected = MEMORY[case]
    assert machine.memory(groups(tmp_path, own, **files)) == expected


@pytest.mark.parametrize("text", ["max\n", "9223372036854771712\n", ""])
def test_without_a_limit_memory_is_the_machines(text: str, tmp_path: Path) -> None:
    """Version 1 writes a number beyond any machine for none; an empty file says nothing."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert machine.memory(groups(tmp_path, "0::/\n", memoryDOTmax=text)) == physical
    assert machine.memory(tmp_path / "no such system") == physical


CORES: dict[str, tuple[str, dict[str, str], int]] = {
    "version 2, a core and a half": ("0::/a\n", {"a__cpuDOTmax": "150000 100000\n"}, 2),
    "version 2, half a core": ("0::/a\n", {"a__cpuDOTmax": "50000 100000\n"}, 1),
    "version 2, no limit": ("0::/a\n", {"a__cpuDOTmax": "max 100000\n"}, 8),
    "version 2, more than there are": ("0::/\n", {"cpuDOTmax": "1600000 100000\n"}, 8),
    "version 1": (
        "2:cpu,cpuacct:/a\n",
        {"cpu__a__cpuDOTcfs_quota_us": "300000\n", "cpu__a__cpuDOTcfs_period_us": "100000\n"},
        3,
    ),
    "version 1, no limit": (
        "2:cpu:/a\n", {"cpu__a__cpuDOTcfs_quota_us": "-1\n", "cpu__a__cpuDOTcfs_period_us": "100000\n"}, 8,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CORES)
def test_cores_are_no_more_than_the_control_groups_grant(case: str, tmp_path: Path, monkeypatch) -> None:
    """Of those that the process may run on, 8 here, with any part of one counted as one."""
    own, files, expected = CORES[case]
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert machine.cores(groups(tmp_path, own, **files)) == expected


def test_where_there_is_no_affinity_cores_are_those_of_the_machine(tmp_path: Path, monkeypatch) -> None:
    """As on macOS and Windows; at least 1, even where the system cannot tell."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert machine.cores(tmp_path) == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert machine.cores(tmp_path) == 1


def test_windows_tells_its_memory(monkeypatch) -> None:
    """By a structure that begins with its own length: of 64 bytes, the third field is what the machine has."""

    def ask(pointer: Any) -> int:
        fields = ctypes.cast(pointer, ctypes.POINTER(ctypes.c_uint32))
        assert fields[0] == 64
        ctypes.cast(pointer, ctypes.POINTER(ctypes.c_uint64))[1] = 17 * GB
        return 1

    assert machine._windows_memory(ask) == 17 * GB
    assert machine._windows_memory(lambda pointer: 0) is None


# --- what comes of it --------------------------------------------------------------------------------------------


def settings_table() -> list[str]:
    """Return the table of what DuckDB gets on machines of different sizes, as README has it."""
    sizes = (1, 4, 16, 64)

    def cell(cores: int, size: int) -> str:
        share = share_of(usual_memory(size * GB), cores, takes_twice=False)
        limit = share.memory_limit // 10**6
        return f"{share.threads} threads, {limit if limit < 1000 else f'{limit:,}'} MB"

    head = "| | " + " | ".join(f"{size} GB" for size in sizes) + " |"
    rows = [
        f"| {n} core{'s' * (n > 1)} | " + " | ".join(cell(n, size) for size in sizes) + " |" for n in (1, 2, 4, 8, 16)
    ]
    return [head, "|---|" + "---|" * len(sizes), *rows]


def test_the_table_of_the_readme_is_what_is_chosen() -> None:
    """Threads and limit of DuckDB for each number of cores and each size of memory."""
    table = "\n".join(settings_table())
    assert table in (Path(__file__).parents[1] / "README.md").read_text(), table


@pytest.mark.parametrize("available", [None, 0, 1 * GB, 2 * GB, 4 * GB])
def test_up_to_4_gb_an_export_takes_600_mb(available: int | None) -> None:
    """On Binder, in a small container, and where nobody can tell; two threads, as many cores as there are."""
    assert usual_memory(available) == 600 * 10**6
    for cores in (1, 2, 64):
        share = share_of(usual_memory(available), cores, takes_twice=False)
        assert (share.threads, share.memory_limit) == (2, 420 * 10**6)


@pytest.mark.parametrize("takes_twice", [False, True])
@pytest.mark.parametrize("cores", [1, 2, 8, 128])
def test_threads_and_limit_stay_within_the_memory(cores: int, takes_twice: bool) -> None:
    """However much of either there is, each thread has what it needs, and all of it fits; more is never less."""
    before = 0
    for memory in range(300 * 10**6, 20 * GB, 100 * 10**6):
        share = share_of(memory, cores, takes_twice=takes_twice)
        assert 1 <= share.threads <= max(2, cores)
        assert share.memory_limit * (2 if takes_twice else 1) < memory
        assert share.memory_limit / share.threads >= 100 * 10**6
        assert share.threads >= before
        before = share.threads


# --- what the caller says ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, None),
        (300 * 10**6, 300 * 10**6),
        ("300MB", 300 * 10**6),
        ("2GB", 2 * GB),
        (" 2 gb ", 2 * GB),
        ("1.5G", 1_500_000_000),
        ("2GiB", 2 << 30),
        ("600000000", 600 * 10**6),
    ],
)
def test_memory_is_a_number_of_bytes_or_a_size(given: int | str | None, expected: int | None) -> None:
    """As people write them."""
    assert memory_of(given) == expected


@pytest.mark.parametrize("given", [299_999_999, "299MB", "2 bananas", "-2GB", "2GBs", "1e9", "", 600.0, True, "9" * 40])
@pytest.mark.parametrize("call", [mpnb.plan, mpnb.plan_profiles])
def test_any_other_memory_is_refused(call: Callable[..., object], given: Any) -> None:
    """In one line, with what to pass, before anything is sent."""
    days = ("2026-01-01", "2026-01-02") if call is mpnb.plan else ()
    with pytest.raises(mpnb.PlanError, match=r"^memory must be 300 MB or more, in bytes or as '600MB' or '2GB', not "):
        call(*days, memory=given)


def silent(_: object) -> None:
    """Show nothing."""


def seen_by(con: duckdb.DuckDBPyConnection, seen: list[str]) -> Callable[[object], None]:
    """Return a callback that notes DuckDB's limit while an export runs."""

    def note(_: object) -> None:
        seen.append(con.execute("SELECT current_setting('memory_limit')").fetchall()[0][0])

    return note


def limit_of(memory: int) -> str:
    """Return the limit for a memory as DuckDB shows it."""
    with contextlib.closing(duckdb.connect()) as con:
        con.execute(f"SET memory_limit = '{share_of(memory, machine.cores()).memory_limit}B'")
        return str(con.execute("SELECT current_setting('memory_limit')").fetchall()[0][0])


def test_an_export_takes_the_memory_that_the_caller_says(sandbox, database) -> None:
    """A retry takes the same, or what it is told itself; a later call is as free as the first."""
    mp = sandbox(faults=[Fault("status", day(n), status=400, times=n - 1) for n in (2, 3)])
    asked = {"database": database, "credentials": mp.credentials, "quota": WIDE, "chunk_days": 1}
    with mpnb.export(day(9), day(9), **asked, on_batch=silent) as first:
        seen: list[str] = []
        note = seen_by(first.con, seen)
        with mpnb.export(day(1), day(3), **asked, memory="8GB", on_batch=note) as result:
            assert limit_of(8 * GB) in seen
            seen.clear()
            with result.retry() as again:
                assert limit_of(8 * GB) in seen
                seen.clear()
                with again.retry(memory=9 * GB) as last:
                    assert limit_of(9 * GB) in seen
                    assert (again.failed_batches, last.failed_batches) == (1, 0)
                with pytest.raises(mpnb.PlanError, match="memory must be 300 MB or more"):
                    again.retry(memory="1MB")
        seen.clear()
        mpnb.export(day(1), day(3), **asked, mode="refresh", on_batch=note).close()
        assert limit_of(usual_memory(machine.memory())) in seen


def test_profiles_take_the_memory_that_the_caller_says(sandbox, database) -> None:
    """As events do."""
    mp = sandbox()
    asked = {"database": database, "credentials": mp.credentials}
    with mpnb.export_profiles(**asked, on_batch=silent) as first:
        seen: list[str] = []
        mpnb.export_profiles(**asked, mode="refresh", memory="8GB", on_batch=seen_by(first.con, seen)).close()
    assert limit_of(8 * GB) in seen
