"""An object store on loopback, which speaks as S3 does: fixtures, for every folder of tests."""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests._helpers import PATIENCE, child

KEYS = {"AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": "hunter2hunter2hunter2", "AWS_REGION": "us-east-1"}


@contextmanager
def moto(seconds: float) -> Iterator[int]:
    """Run moto's server for so long at most, and give its port."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with child(command, seconds=seconds, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if server.poll() is not None or time.monotonic() > end:
                    raise RuntimeError("moto's server did not start: pip install 'moto[server]'") from None
                time.sleep(0.05)
        yield port


def settings(port: int) -> dict[str, str]:
    """Give the variables by which obstore finds a server."""
    return {**KEYS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}


def make_bucket(port: int, name: str) -> str:
    """Make an empty bucket, and give its URL."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)) as connection:
        connection.request("PUT", f"/{name}")
        assert connection.getresponse().status == 200
    return f"s3://{name}"


@pytest.fixture(scope="session")
def s3_server() -> Iterator[int]:
    """Run moto's server, and give its port."""
    with moto(1500) as port:
        yield port


@pytest.fixture
def bucket(s3_server: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make an empty bucket, with its keys in the environment, and give its URL."""
    for name, value in settings(s3_server).items():
        monkeypatch.setenv(name, value)
    name = f"b{tmp_path.parent.name[-20:]}-{tmp_path.name}".lower().replace("_", "-")[:60].strip("-")
    return make_bucket(s3_server, name)
