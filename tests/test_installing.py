"""What tests need and a machine may lack: real programs on a path of its own install it, or one line says why not."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests._installing import NotInstalled, apt_get, run
from tests.campaign import _shim

Program = Callable[[str, str], Path]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Put programs on a path where there are no others; for themselves they have the path that was."""
    path = shlex.quote(os.environ["PATH"])
    monkeypatch.setenv("PATH", str(tmp_path))

    def put(name: str, script: str) -> Path:
        file = tmp_path / name
        file.write_text(f"#!/bin/sh\nPATH={path}\ncd {shlex.quote(str(tmp_path))}\n{script}\n")
        file.chmod(0o755)
        return file

    return put


def test_apt_get_is_for_root(program: Program, tmp_path: Path) -> None:
    """Which it asks for the lists, then for the packages; for others it is not called."""
    program("apt-get", 'echo "$1" >>told; for last; do :; done; echo "$last" >>told')
    said: list[str] = []
    if os.geteuid() == 0:
        apt_get("one", "two", say=said.append)
        assert (tmp_path / "told").read_text().split() == ["update", "-qq", "install", "two"]
        assert said == ["apt-get install one two"]
    else:
        with pytest.raises(NotInstalled, match="needs root"):
            apt_get("one", "two", say=said.append)
        assert not (tmp_path / "told").exists()
        assert said == []


def test_a_failure_is_the_line_about_the_error(program: Program) -> None:
    """Of all that a program prints; else its last line, else its status."""
    for script, line in (
        ("echo Reading; echo E: no such package >&2; echo done; exit 100", "E: no such package"),
        ("echo first; echo last; exit 1", "last"),
        ("exit 3", "status 3"),
    ):
        with pytest.raises(NotInstalled) as caught:
            run([str(program("fails", script))], 60)
        assert str(caught.value) == line


def test_a_program_that_takes_too_long_is_ended_with_all_it_started(program: Program) -> None:
    """And is not waited for, whoever else holds its output open."""
    with pytest.raises(NotInstalled, match="took longer than 1 s"):
        run([str(program("hangs", "sleep 65432 & sleep 65432"))], 1)
    assert not [p for p in psutil.process_iter(["cmdline"]) if "65432" in (p.info["cmdline"] or ())]


def test_a_compiler_is_installed_where_there_is_none(program: Program, tmp_path: Path) -> None:
    """For the campaign, where apt-get may; elsewhere one line says what to install."""
    program("apt-get", '[ "$1" = update ] || ln -s "$(command -v ls)" gcc')
    if os.geteuid() == 0:
        assert _shim._compiler() == str(tmp_path / "gcc")
    else:
        with pytest.raises(_shim.NoCompiler, match=r"install gcc .*needs root"):
            _shim._compiler()


def test_without_a_compiler_one_line_says_what_to_install(program: Program) -> None:
    """With what was tried."""
    program("apt-get", "echo E: nothing is reached; exit 100")
    with pytest.raises(_shim.NoCompiler) as caught:
        _shim._compiler()
    why = "E: nothing is reached" if os.geteuid() == 0 else "needs root, on Debian or Ubuntu"
    assert str(caught.value) == (
        "the campaign needs a C compiler, for disks and clocks that fail: install gcc"
        f" (tried: none of cc, gcc, clang on the path; apt-get: {why})"
    )
