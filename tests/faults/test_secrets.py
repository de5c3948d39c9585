"""The secret goes to Mixpanel and nowhere else."""

from __future__ import annotations

import base64
import io
import logging
import ssl
import subprocess
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
from ipywidgets.widgets import widget

import mpnb
import mpnb._fetching.fetcher
from mpnb._fetching.route import route_to
from mpnb.sandbox import Fault, serve
from tests.campaign._clients import QUOTA

FIRST, LAST = "2026-01-01", "2026-01-06"


def forms(credentials: mpnb.Credentials) -> list[str]:
    """Give the secret in every form that it could leak in."""
    both = f"{credentials.username}:{credentials.secret}"
    secret = credentials.secret
    return [
        secret,
        quote(secret),
        *(base64.b64encode(each.encode()).decode().rstrip("=") for each in (secret, both)),
        *(base64.urlsafe_b64encode(each.encode()).decode().rstrip("=") for each in (secret, both)),
        secret.encode().hex(),
    ]


@contextmanager
def all_logs() -> Iterator[io.StringIO]:
    """Catch what every logger says, at the lowest level."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    root = logging.getLogger()
    names = ("", "httpcore", "mpnb", "filelock")
    before = {name: logging.getLogger(name).level for name in names}
    root.addHandler(handler)
    try:
        for name in names:
            logging.getLogger(name).setLevel(1)
        yield stream
    finally:
        root.removeHandler(handler)
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


def files_with(words: list[str], folder: Path) -> list[str]:
    """Name the files in which one of the words is. Another process looks, for this one holds the database."""
    patterns = [argument for word in words for argument in ("-e", word)]
    return subprocess.run(
        ["grep", "-rlaF", *patterns, str(folder)], capture_output=True, text=True, timeout=60, check=False
    ).stdout.splitlines()


def texts_of(result: mpnb.ExportResult) -> list[str]:
    """Show a result in every way."""
    bundle = result._repr_mimebundle_()
    tables = [str(each.fetchall()) for each in (result.batches, result.failures, result.rejected)]
    return [repr(result), *bundle.values(), *tables, repr(result.check())]


def test_the_secret_is_found_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a server that says it back, and all logs on, it is in no text, log, traceback, widget or file."""
    monkeypatch.setattr(mpnb._fetching.fetcher, "BACKOFF_SECONDS", 0.01)
    found: list[str] = []
    texts: list[str] = []
    with serve(events_per_day=500) as server, all_logs() as logs:
        words = forms(server.credentials)
        basic = base64.b64encode(f"{server.credentials.username}:{server.credentials.secret}".encode()).decode()
        spoken = f"{server.credentials.secret} Authorization: Basic {basic}"
        for number, fault in enumerate(
            [
                Fault("status", status=400, body=f"Bad Request: {spoken}", times=1),
                Fault("status", status=500, body={"error": f"{spoken} failed"}, times=None),
                Fault("redirect", headers={"Location": "http://other.example/"}),
                Fault("status", status=401, body={"error": spoken}),
            ],
            1,
        ):
            # The last one ends the export, and so comes last.
            server.add_fault(Fault(**{**_fields(fault), "day": f"2026-01-0{number + 1}"}))

        def on_batch(progress: mpnb.BatchProgress) -> None:
            texts.append(repr(progress))
            found.extend(files_with(words, tmp_path))

        job = mpnb.start(
            FIRST,
            LAST,
            chunk_days=1,
            workers=1,
            credentials=server.credentials,
            database=tmp_path / "a.duckdb",
            quota=mpnb.Quota(per_hour=900, per_second=100),
            on_batch=on_batch,
        )
        panel = job.panel()
        texts.append(repr(job))
        with job.result(120) as result:
            texts += texts_of(result)
            assert result.failed_batches == 5
            with pytest.raises(mpnb.ExportError) as raised:
                result.raise_for_failures()
        widgets = list(widget._instances.values())
        assert widgets
        texts += [repr(panel), *(str(each.get_state()) for each in widgets)]
        texts += [str(vars(job._run.engine)), repr(server.credentials), str(server.credentials)]
        texts.append(str(raised.value))
        texts += [repr(mpnb.plan(FIRST, LAST, credentials=server.credentials, database=tmp_path / "a.duckdb"))]
        texts.append(logs.getvalue())
    found += files_with(words, tmp_path)
    assert found == []
    assert [(word, text) for text in texts for word in words if word in text] == []
    # The greps can find: what is to be there is.
    assert "send_request_headers" in logs.getvalue()
    assert files_with([server.project_id], tmp_path)
    assert sum("•••" in text or "***" in text for text in texts) > 3


def _fields(fault: Fault) -> dict[str, object]:
    return {name: getattr(fault, name) for name in fault.__dataclass_fields__}


def test_a_traceback_with_locals_has_no_secret(tmp_path: Path) -> None:
    """Where every batch fails, the error that is raised has it neither in its text nor in its frames' variables."""
    with serve() as server:
        server.add_fault(Fault("status", status=401, body="no", times=None))
        with pytest.raises(mpnb.ExportError) as raised:
            mpnb.export(
                FIRST, LAST, credentials=server.credentials, database=":memory:", quota=QUOTA, on_batch=lambda _: None
            )
        raised.value.result.close()
        text = "".join(traceback.TracebackException.from_exception(raised.value, capture_locals=True).format())
        frames = [line for line in text.splitlines() if "test_secrets.py" not in line]
    assert [line for line in frames if server.credentials.secret in line] == []
    assert "mpnb/_api.py" in text


def test_another_host_gets_no_request() -> None:
    """A redirect to another origin is not followed, with credentials or without."""
    with serve() as other, serve() as server:
        server.add_fault(Fault("redirect", headers={"Location": f"{other.url}/api/2.0/export"}, times=None))
        with pytest.raises(mpnb.ExportError, match="redirected to"):
            mpnb.export(
                FIRST, FIRST, credentials=server.credentials, database=":memory:", quota=QUOTA, on_batch=lambda _: None
            )
        assert other.requests == ()


def test_tls_is_verified() -> None:
    """Requests over https check the certificate and its name, against certifi's roots."""
    context = route_to(mpnb.Credentials("user", "made-up", "1").host).tls
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.cert_store_stats()["x509_ca"] > 0


def test_an_untrusted_server_gets_nothing() -> None:
    """On plain http the TLS settings trust nobody: a scheme that changed would fail, not fall back."""
    context = route_to("http://127.0.0.1:9").tls
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.cert_store_stats()["x509_ca"] == 0
