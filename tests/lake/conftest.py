"""An object store on loopback, which speaks as S3 does, and lakes in it and in folders."""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import mpnb
from mpnb.sandbox import Sandbox
from tests._helpers import PATIENCE, WIDE, child, day

KEYS = {"AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": "hunter2hunter2hunter2", "AWS_REGION": "us-east-1"}

FIRST, LAST = day(1), day(3)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[int]:
    """Run moto's server, and give its port."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with child(command, seconds=1500, **quiet) as server:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if server.poll() is not None or time.monotonic() > end:
                    pytest.fail("moto's server did not start: pip install 'moto[server]'", pytrace=False)
                time.sleep(0.05)
        yield port


@pytest.fixture
def bucket(s3_server: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make an empty bucket, with its keys in the environment, and give its URL."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{s3_server}")
    name = f"b{tmp_path.parent.name[-20:]}-{tmp_path.name}".lower().replace("_", "-")[:60].strip("-")
    with closing(http.client.HTTPConnection("127.0.0.1", s3_server, timeout=PATIENCE)) as connection:
        connection.request("PUT", f"/{name}")
        assert connection.getresponse().status == 200
    return f"s3://{name}"


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """Give the path of a lake that is not there yet."""
    return str(tmp_path / "lake")


@pytest.fixture(params=["folder", "bucket"])
def lake(request: pytest.FixtureRequest) -> str:
    """Give the address of a lake that is not there yet."""
    address: str = request.getfixturevalue(request.param)
    return address if request.param == "folder" else f"{address}/mixpanel"


@pytest.fixture
def fill() -> Callable[..., mpnb.ExportResult]:
    """Export three days of a sandbox into a lake, if not said otherwise."""

    def run(mp: Sandbox, lake: str, first: Any = FIRST, last: Any = LAST, **options: Any) -> mpnb.ExportResult:
        options = {"credentials": mp.credentials, "quota": WIDE, "on_batch": lambda _: None, **options}
        return mpnb.export(first, last, destination=lake, **options)

    return run
