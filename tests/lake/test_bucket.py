"""Object stores that refuse, break off or are written to by others: one line says so, and nothing is lost or mixed."""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import polars
import pytest

import mpnb
import mpnb._storing.bucket
from mpnb._fetching.fetched import Fetched, Task
from mpnb._fetching.verify import Body
from mpnb._planning.address import address_of
from mpnb._planning.batches import Batch
from mpnb._planning.request import Source
from mpnb._planning.resource import Events
from mpnb._storing.destination import WriteError
from mpnb._storing.lake import Lake
from mpnb._storing.mirror import mirror_store, object_key, objects_at, table_for
from mpnb._storing.running import running
from mpnb._storing.table import Table
from tests._helpers import PATIENCE, WIDE, as_served, as_stored, day, days_of, event
from tests._s3 import KEYS

Fill = Callable[..., mpnb.ExportResult]
Refuse = Callable[[str, str], tuple[int, str] | None]
THREE = days_of(day(1), day(3))


def said(code: str, message: str) -> str:
    """Make an error as S3 does, which says back what it was sent."""
    secrets = "".join(f"<Sent>{value}</Sent>" for value in KEYS.values())
    return f"<Error><Code>{code}</Code><Message>{message}</Message>{secrets}</Error>"


class Front:
    """A server in front of the object store. ``refuse`` says which requests get another answer."""

    def __init__(self, port: int) -> None:
        self.refuse: Refuse = lambda method, path: None
        self.lose: Callable[[str, str], bool] = lambda method, path: False  # the answer to what the store has done
        front = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                refused = front.refuse(self.command, self.path)
                if refused is not None:
                    self.answer(refused[0], {"Content-Type": "application/xml"}, refused[1].encode())
                    return
                with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)) as store:
                    store.request(self.command, self.path, body, dict(self.headers))
                    answer = store.getresponse()
                    content = answer.read()
                if front.lose(self.command, self.path):
                    self.answer(503, {}, said("SlowDown", "please reduce your request rate").encode())
                else:
                    self.answer(answer.status, dict(answer.getheaders()), content)

            def answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    if name.lower() not in ("content-length", "connection", "transfer-encoding", "date", "server"):
                        self.send_header(name, value)
                length = headers.get("content-length") or headers.get("Content-Length")
                self.send_header("Content-Length", str(len(content)) if self.command != "HEAD" else length or "0")
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = handle_any

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True


@pytest.fixture
def front(bucket: str, s3_server: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Front]:
    """Put a server in front of the object store."""
    made = Front(s3_server)
    thread = threading.Thread(target=made.server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{made.server.server_address[1]}")
    monkeypatch.setattr(mpnb._storing.bucket, "RETRIES", 2)
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join(PATIENCE)


def stored(lake: str) -> Any:
    """Count the events of a lake."""
    with mpnb.open(lake) as opened:
        return as_stored(opened.events.project("event_name, properties").fetchall())


def is_day(path: str, number: int = 0) -> bool:
    """Whether a request is for the object of a day."""
    return "events.parquet" in path and (not number or str(day(number)) in path)


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (403, "InvalidAccessKeyId", "refuses the credentials (InvalidAccessKeyId: no such key)"),
        (403, "SignatureDoesNotMatch", "refuses the credentials"),
        (400, "ExpiredToken", "refuses the token, which has expired"),
        (404, "NoSuchBucket", "there is no bucket s3://"),
        (503, "SlowDown", "cannot be reached, or does not answer as it should (SlowDown: no such key)"),
    ],
)
def test_a_store_that_refuses_is_one_line_before_any_request(
    front: Front, bucket: str, sandbox: Any, fill: Fill, status: int, code: str, words: str
) -> None:
    """In all three calls, without a secret, and with what to do."""
    mp = sandbox()
    front.refuse = lambda method, path: (status, said(code, "no such key"))
    calls = (
        lambda: fill(mp, f"{bucket}/x"),
        lambda: mpnb.plan(day(1), day(1), destination=bucket, credentials=mp.credentials),
        lambda: mpnb.open(bucket),
    )
    for call in calls:
        with pytest.raises(mpnb.PlanError) as raised:
            call()
        line = str(raised.value)
        assert words in line
        assert "\n" not in line
        assert line.endswith(".")
        assert not [value for value in KEYS.values() if value in line and value != KEYS["AWS_REGION"]]
        assert raised.value.argument == "destination"
    assert not mp.requests


def test_a_store_that_is_not_there_is_one_line(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a bounded number of attempts."""
    monkeypatch.setattr(mpnb._storing.bucket, "RETRIES", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(mpnb.PlanError, match="cannot be reached, or does not answer as it should") as raised:
        mpnb.open(bucket)
    assert "127.0.0.1" not in str(raised.value)


def test_a_bucket_that_is_not_there_is_one_line(bucket: str, sandbox: Any, fill: Fill) -> None:
    """As the store itself says it; nothing is requested of Mixpanel."""
    mp = sandbox()
    for call in (lambda: fill(mp, f"{bucket}-no/x"), lambda: mpnb.open(f"{bucket}-no/x")):
        with pytest.raises(
            mpnb.PlanError, match=rf"^there is no bucket {bucket}-no: Create it, or pass another URL\.$"
        ):
            call()
    assert not mp.requests


def test_polars_reads_a_bucket_without_mpnb(bucket: str, sandbox: Any, fill: Fill) -> None:
    """By its URL: days and projects are columns, and a condition on them reads only those objects."""
    mp = sandbox()
    fill(mp, f"{bucket}/mixpanel").close()
    lazy = polars.scan_parquet(
        f"{bucket}/mixpanel/project_id=*/date=*/events.parquet",
        hive_partitioning=True,
        storage_options={"aws_allow_http": "true"},
    )
    counted = lazy.group_by("project_id", "date").len().sort("date").collect()
    assert counted.rows() == [(int(mp.project_id), each, len(mp.lines(each))) for each in THREE]
    second = lazy.filter(polars.col("date") == day(2)).select("properties").collect()
    assert len(second) == len(mp.lines(day(2)))


def test_a_refused_put_is_tried_again(front: Front, bucket: str, sandbox: Any, fill: Fill) -> None:
    """As are those whose answer got lost, whose object is there: it is the batch's own."""
    mp = sandbox()
    refused = {day(1): 1, day(2): 1}

    def once(number: int, method: str, path: str) -> bool:
        is_due = method == "PUT" and is_day(path, number) and refused[day(number)] > 0
        refused[day(number)] -= is_due
        return is_due

    front.refuse = lambda method, path: (503, said("SlowDown", "later")) if once(1, method, path) else None
    front.lose = lambda method, path: once(2, method, path)
    with fill(mp, bucket) as result:
        assert not result.has_failures
    assert not any(refused.values())
    assert stored(bucket) == as_served(mp, THREE)


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (503, "SlowDown", "(SlowDown: not now)"),
        (403, "AccessDenied", "(AccessDenied: not now)"),
        (400, "ExpiredToken", "refuses the token, which has expired (ExpiredToken: not now)"),
        (404, "NoSuchBucket", "there is no bucket s3://"),
    ],
)
def test_a_store_that_refuses_in_mid_run_keeps_what_is_there(
    front: Front, bucket: str, sandbox: Any, fill: Fill, status: int, code: str, words: str
) -> None:
    """The export ends, the failure says why, and the same call goes on."""
    mp = sandbox()
    front.refuse = lambda method, path: (
        (status, said(code, "not now")) if method == "PUT" and is_day(path) and not is_day(path, 1) else None
    )
    with fill(mp, bucket, workers=1) as result:
        assert result.successful_batches == 1
        messages = {message for (message,) in result.failures.project("message").fetchall()}
        assert [message for message in messages if words in message]
        assert not [message for message in messages if "\n" in message or KEYS["AWS_SECRET_ACCESS_KEY"] in message]
    with mpnb.open(bucket) as opened:
        assert opened.failed_date_ranges == [(day(2), day(3))] or opened.has_failures
    front.refuse = lambda method, path: None
    with fill(mp, bucket) as result:
        assert (result.skipped_batches, result.successful_batches) == (1, 2)
    assert stored(bucket) == as_served(mp, THREE)


def test_two_that_meet_mix_no_day(bucket: str, tmp_path: Path) -> None:
    """Both were planned when neither had stored: the later one says which day it met, and keeps the other's."""
    before = set(running)
    resource = Events(Source("7"))
    objects = objects_at(address_of(bucket))

    def one(name: str, rows: int, stack: contextlib.ExitStack) -> tuple[Table, list[Fetched]]:
        store = stack.enter_context(contextlib.closing(mirror_store(address_of(bucket), objects)))
        table = Table(store, table_for("7"), resource, name, rows=Lake(objects, resource, name))
        batches = [Batch(day(n), day(n)) for n in (1, 2)]
        with table.admission():
            ids = table.admit(batches, [])
        running.discard(name)  # as if it were in a process of its own
        items = []
        for batch, batch_id in zip(batches, ids, strict=True):
            text = event(name) * 0 + b"".join(event(name, time=1767225600) + b"\n" for _ in range(rows))
            path = tmp_path / f"{name}-{batch_id}"
            path.write_bytes(text)
            items.append(Fetched(Task(0, batch_id, batch, attempts=1), path, Body(False, len(text), len(text), rows)))
        return table, items

    with contextlib.ExitStack() as stack:
        (early, mine), (late, theirs) = one("a", 3, stack), one("b", 5, stack)
        early.land([mine[0]])
        with pytest.raises(WriteError) as raised:
            late.land([theirs[0]])
        assert str(day(1)) in raised.value.failure.message
        assert "another export has stored or deleted it, and that stays" in raised.value.failure.message
        assert raised.value.failure.retryable
        late.land([theirs[1]])
        with pytest.raises(WriteError):
            early.land([mine[1]])
        for table in (early, late):
            table.leave()
    counts = []
    for number in (1, 2):
        content = objects.read(object_key("7", day(number)))
        assert content is not None
        frame = polars.read_parquet(content)
        counts.append((frame["event_name"].unique().to_list(), len(frame)))
    assert counts == [(["a"], 3), (["b"], 5)]
    running.intersection_update(before)


def test_a_second_export_into_a_folder_is_refused(sandbox: Any, tmp_path: Path) -> None:
    """While the first runs; of another project it is not."""
    from mpnb.sandbox import Fault

    slow, other = sandbox(faults=[Fault("hang_start", times=1)]), sandbox()
    lake = str(tmp_path / "lake")
    options: dict[str, Any] = {"destination": lake, "quota": WIDE, "on_batch": lambda _: None}
    job = mpnb.start(day(1), day(1), credentials=slow.credentials, **options)
    try:
        with pytest.raises(mpnb.TableError, match=r"an export of project \d+ into .* is running: wait for it"):
            mpnb.export(day(1), day(1), credentials=slow.credentials, **options)
        mpnb.export(day(1), day(1), credentials=other.credentials, **options).close()
    finally:
        job.cancel()
        job.outcome(PATIENCE).close()
