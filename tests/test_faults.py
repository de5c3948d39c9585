"""Whatever goes wrong, a batch is complete or is in the failure table with none of its rows in the table."""

from __future__ import annotations

import base64
import json
import logging
import re
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any
from urllib.parse import urlencode

import pytest

import mpnb
import mpnb._fetching.client
import mpnb._fetching.fetcher
import mpnb._fetching.verify
from mpnb._mixpanel.failures import KINDS, Failure, from_answer
from mpnb.sandbox import Fault
from mpnb.sandbox._faults import KINDS as FAULTS
from mpnb.sandbox._faults import PAGES
from tests._helpers import WIDE, Recorded, all_or_nothing, day, days_of, event, statuses, until

RETRIED = 4  # attempts at most

# What each fault makes of a batch that it strikes again and again: the kind of failure and the attempts it took.
SPOILED: dict[str, tuple[Fault, str, int]] = {
    "reset": (Fault("reset"), "connection", RETRIED),
    "reset at once": (Fault("reset", at=0.0), "connection", RETRIED),
    "reset at the end": (Fault("reset", at=1.0), "connection", RETRIED),
    "reset_headers": (Fault("reset_headers"), "connection", RETRIED),
    "disconnect": (Fault("disconnect"), "connection", RETRIED),
    "cut_chunked": (Fault("cut_chunked"), "truncated", RETRIED),
    "cut_chunked at once": (Fault("cut_chunked", at=0.0), "truncated", RETRIED),
    "cut_chunked at the end": (Fault("cut_chunked", at=1.0), "truncated", RETRIED),
    "cut_length": (Fault("cut_length", at=1.0), "truncated", RETRIED),
    "cut_close": (Fault("cut_close"), "truncated", RETRIED),
    "unframed": (Fault("unframed"), "truncated", RETRIED),
    "gzip_cut": (Fault("gzip_cut"), "truncated", RETRIED),
    "gzip_cut in the trailer": (Fault("gzip_cut", at=1.0), "truncated", RETRIED),
    "gzip_crc": (Fault("gzip_crc"), "decode", RETRIED),
    "gzip_size": (Fault("gzip_size"), "decode", RETRIED),
    "gzip_garbage": (Fault("gzip_garbage"), "decode", RETRIED),
    "gzip_header": (Fault("gzip_header"), "decode", RETRIED),
    "gzip_nothing": (Fault("gzip_nothing"), "truncated", RETRIED),
    "terminated": (Fault("terminated"), "truncated", RETRIED),
    "terminated at the end": (Fault("terminated", at=1.0), "truncated", RETRIED),
    "export_terminated": (Fault("export_terminated"), "truncated", RETRIED),
    "terminated_inside": (Fault("terminated_inside"), "truncated", RETRIED),
    "terminated_inside at once": (Fault("terminated_inside", at=0.0), "truncated", RETRIED),
    "terminated_only": (Fault("terminated_only"), "truncated", RETRIED),
    "half_line": (Fault("half_line"), "truncated", RETRIED),
    "half_line at the end": (Fault("half_line", at=1.0), "truncated", RETRIED),
    "error_line": (Fault("error_line"), "truncated", RETRIED),
    "error_inside": (Fault("error_inside"), "truncated", RETRIED),
    "error_inside at the end": (Fault("error_inside", at=1.0), "truncated", RETRIED),
    "sign_in": (Fault("sign_in"), "http", 1),
    "hang": (Fault("hang"), "timeout", RETRIED),
    "hang_start": (Fault("hang_start"), "timeout", RETRIED),
    "bomb": (Fault("bomb"), "decode", RETRIED),
    "long_line": (Fault("long_line"), "decode", RETRIED),
    "encoding_br": (Fault("encoding_br"), "decode", 1),
    "encoding_zstd": (Fault("encoding_zstd"), "decode", 1),
    "unlabelled": (Fault("unlabelled"), "decode", 1),
    "drip": (Fault("drip"), "timeout", RETRIED),
    "drip at the end": (Fault("drip", at=1.0), "timeout", RETRIED),
    "too_many_504": (Fault("too_many_504"), "rate_limit", RETRIED),
    "429": (Fault("status", status=429), "rate_limit", RETRIED),
    **{str(code): (Fault("status", status=code), "http", RETRIED) for code in (204, 500, 599)},
    **{str(code): (Fault("status", status=code), "http", 1) for code in (302, 304, 400, 413)},
    "redirect": (Fault("redirect"), "http", 1),
}
HARMLESS = {
    "plain": Fault("plain"),
    "twice": Fault("twice"),
    "gzip_fields": Fault("gzip_fields"),
    "charset": Fault("charset"),
    "redirect_same": Fault("redirect_same"),
    "stall": Fault("stall", seconds=0.05),
    "slow_start": Fault("slow_start", seconds=0.05),
}
# They have tests of their own, further down or among the lines that are no events.
ELSEWHERE = {"too_large", "bad_lines", "other_days"}


def fault_of(name: str, number: int, times: int | None) -> Fault:
    """Give a fault for one day."""
    like = SPOILED[name][0] if name in SPOILED else HARMLESS[name]
    fields = {field: getattr(like, field) for field in ("kind", "at", "status", "seconds")}
    return Fault(**fields, day=day(number), times=times)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take a third of a second of silence for a dead connection, and a few megabytes for a bomb."""
    monkeypatch.setattr(mpnb._fetching.client, "IDLE_SECONDS", 0.33)
    monkeypatch.setattr(mpnb._fetching.verify, "BOMB_BYTES", 8 << 20)


def test_every_fault_of_the_sandbox_is_tried() -> None:
    """None is forgotten, and every kind of failure that a server can cause comes up."""
    assert {fault.kind for fault, _, _ in SPOILED.values()} | {*HARMLESS} | ELSEWHERE == FAULTS - PAGES
    assert {kind for _, kind, _ in SPOILED.values()} == set(KINDS) - {"auth", "write", "cancelled", "inconsistent"}


@pytest.mark.parametrize("name", [name for name, (_, _, attempts) in SPOILED.items() if attempts > 1])
def test_a_fault_that_passes_leaves_no_trace(sandbox, export, impatient, name: str) -> None:
    """At each position, once, twice or three times in a row: each batch is complete and says how often it was tried."""
    times = [1, 2, 3, 1, 2]
    mp = sandbox(faults=[fault_of(name, n, t) for n, t in enumerate(times, 1)])
    result = export(mp, day(1), day(5))
    assert mp.injected.total() == sum(times)
    assert statuses(result) == {"done": 5}
    assert result.batches.select("attempts").fetchall() == [(t + 1,) for t in times]
    assert result.failures.fetchall() == []
    assert result.total_rows == mp.count(day(1), day(5))
    all_or_nothing(result, mp)


@pytest.mark.parametrize(
    ("name", "struck"),
    [(name, (1, 3, 5)) for name in SPOILED] + [(name, (2, 4)) for name in ("reset", "gzip_crc", "half_line", "500")],
)
def test_a_fault_that_stays_fails_its_batch_alone(sandbox, export, impatient, name: str, struck: tuple[int]) -> None:
    """At whatever position: the batch is listed with the right kind and has no row, and a retry alone mends it."""
    _, kind, attempts = SPOILED[name]
    mp = sandbox(faults=[fault_of(name, n, None) for n in struck])
    result = export(mp, day(1), day(5))
    assert statuses(result) == {"failed": len(struck), "done": 5 - len(struck)}
    failures = result.failures.select("from_date, to_date, status, kind, attempts, retryable").fetchall()
    assert failures == [(day(n), day(n), "failed", kind, attempts, attempts > 1) for n in struck]
    assert result.failed_date_ranges == [(day(n), day(n)) for n in struck]
    assert all(hint and message for hint, message in result.failures.select("hint, message").fetchall())
    assert (result.failed_batches, result.has_failures) == (len(struck), True)
    all_or_nothing(result, mp)

    mp.clear_faults()
    sent = len(mp.requests)
    with result.retry() as again:
        assert len(mp.requests) == sent + len(struck)
        assert statuses(again) == {"done": 5}
        assert not again.has_failures
        assert not result.has_failures
        assert again.total_rows == result.total_rows == mp.count(day(1), day(5))
        all_or_nothing(again, mp)


@pytest.mark.parametrize("last", [Fault("half_line", day(2), times=3), Fault("status", day(2), status=400)])
def test_a_batch_that_fails_counts_what_it_has_received(sandbox, export, last: Fault) -> None:
    """The ledger and the callback say how many bytes its last attempt brought, though none of them was kept."""
    mp = sandbox(faults=[Fault("half_line", day(2)), last])
    seen: dict[Any, mpnb.BatchProgress] = {}
    result = export(mp, on_batch=lambda p: seen.update({p.from_date: p}))
    *_, sent = (request.bytes for request in mp.requests if request.from_date == day(2))
    received = sent if last.kind == "half_line" else 0
    assert sent > 0
    assert result.sql("SELECT bytes FROM mpnb_batches WHERE status = 'failed'").fetchall() == [(received,)]
    assert (seen[day(2)].status, seen[day(2)].bytes) == ("failed", received)


@pytest.mark.parametrize("name", HARMLESS)
def test_what_only_looks_like_a_fault_is_none(sandbox, export, impatient, name: str) -> None:
    """It strikes every request, and every batch is complete at its first attempt."""
    mp = sandbox(faults=[fault_of(name, n, None) for n in (1, 2, 3)])
    result = export(mp)
    assert mp.injected[name] == 3
    assert result.batches.select("status, attempts").distinct().fetchall() == [("done", 1)]
    all_or_nothing(result, mp)


@pytest.mark.parametrize("name", ["reset", "half_line", "gzip_crc", "hang", "500", "429", "302"])
def test_when_every_batch_fails_the_error_says_so_in_a_line(sandbox, export, impatient, name: str) -> None:
    """``ExportError`` carries the result, names kind and count, and the table of events is there and empty."""
    _, kind, _ = SPOILED[name]
    mp = sandbox(faults=[fault_of(name, n, None) for n in (1, 2, 3)])
    with pytest.raises(mpnb.ExportError) as error:
        export(mp)
    with error.value.result as result:
        assert re.match(rf"3 batches failed, 3 of them by {kind}: .*result\.failures", str(error.value))
        assert "\n" not in str(error.value)
        assert (result.failed_batches, result.total_rows, result.events.fetchall()) == (3, 0, [])


def judge(status: int, body: str = "", where: str | None = None) -> Failure:
    return from_answer(status, body.encode(), None, where=where, asks_for_today=False, now=0.0)


def test_every_status_is_judged() -> None:
    """Each has a kind, a hint and a message; only what may pass by itself is worth another attempt."""
    for status in sorted({*range(100, 600)} - {200}):
        why = judge(status)
        assert why.kind == {401: "auth", 403: "auth", 429: "rate_limit"}.get(status, "http")
        assert why.retryable == (status >= 500 or 200 <= status < 300 or status in (408, 425, 429))
        assert why.hits_all == (status in (401, 402, 403, 404))
        assert why.too_large == (status == 413)
        assert why.hint
        assert str(why) == f"HTTP {status}: no message"


@pytest.mark.parametrize(
    ("status", "body", "where", "expected"),
    [
        (504, "Too many requests", None, {"kind": "rate_limit", "retryable": True}),
        (400, '{"error": "Unable to authenticate request"}', None, {"kind": "auth", "hits_all": True}),
        (400, "Your data export may be TOO LARGE", None, {"kind": "http", "too_large": True, "hits_all": False}),
        (400, "Unable to parse selector", "x", {"kind": "http", "hits_all": True}),
        (400, "Unable to parse selector", None, {"kind": "http", "hits_all": False}),
        (400, "from_date must be a date", "x", {"kind": "http", "hits_all": False}),
        (429, "61/60 queries running in the last hour", None, {"queries_over": 2}),
        (429, "59/60 queries running in the last hour and 4/3 in the last second", None, {"queries_over": 0}),
        (500, "<html><head><title>Oh</title></head><body>no</body></html>", None, {"message": "Oh no"}),
        (500, '{"error": {"nested": 1}}', None, {"message": '{"error": {"nested": 1}}'}),
        (500, "[" * 100_000, None, {"kind": "http"}),
        (200, '{"error": "61/60 queries running in the last hour"}', None, {"kind": "rate_limit", "queries_over": 2}),
        (200, "rate limit reached", None, {"kind": "rate_limit", "retryable": True, "once_more": True}),
        (200, "Service Unavailable", None, {"kind": "http", "retryable": True, "once_more": True}),
        (200, '{"error": "Unauthorized"}', None, {"kind": "auth", "hits_all": True}),
        (200, "Unauthorized", None, {"kind": "http", "retryable": False, "stranger": True}),
        (200, "<p>rate limit</p>", None, {"kind": "http", "retryable": False, "stranger": True}),
        (200, '{"error": "invalid expression"}', "x", {"kind": "http", "hits_all": True, "stranger": False}),
        (200, '{"message": "hello"}', None, {"kind": "http", "stranger": True}),
        (500, "x" * 9999, None, {"message": "x" * 499 + "…"}),
    ],
)
def test_the_body_of_an_answer_counts(status: int, body: str, where: str | None, expected: dict[str, Any]) -> None:
    """Mixpanel says the same with several statuses, and several things with one."""
    why = judge(status, body, where)
    assert {name: getattr(why, name) for name in expected} == expected


STYLED = (
    "<!DOCTYPE html><html><head><title>502</title><style type='text/css'>body > p { color: red } /* 1 < 2 */</style>"
    "<SCRIPT src=x>if (a < b) { document.write('<p>no</p>') }</SCRIPT ></head><body><!-- <b>hidden</b> -->"
    f"<svg><path d='{'M0 0 ' * 200}'/></svg><h1>Bad&nbsp;gateway</h1><p>Ray&#58; 1 &lt; 2 &amp; on</p></body></html>"
)


@pytest.mark.parametrize(
    ("page", "message"),
    [
        (STYLED, "502 Bad gateway Ray: 1 < 2 & on"),
        (f"\ufeff\r\n {STYLED}", "502 Bad gateway Ray: 1 < 2 & on"),
        (json.dumps({"error": STYLED}), "502 Bad gateway Ray: 1 < 2 & on"),
        ("<html><title>Oh</title><style>body { margin: 0", "Oh"),
        ("<html><title>Oh</title><script>document", "Oh"),
        ("<html><title>Oh</title><!-- a comment", "Oh"),
        ("<html><title>Oh</title><img src='data:" + "x" * 900, "Oh"),
        ("<html><style>p {}</style></html>", "no message"),
        ("<html><b>style</b> <i>matters</i></html>", "style matters"),
        ("<title>\x1b[31m&#27;[0m &#x202e;</title>", r"\x1b[31m[0m \u202e"),
        ("a < b, and <style> is a word", "a < b, and <style> is a word"),
        ("<style>" * 500 + "<!--" * 500, "no message"),
    ],
)
def test_a_page_says_what_it_shows(page: str, message: str) -> None:
    """Of a proxy's page, cut anywhere, the words that a browser would show: no styles, no scripts, no comments."""
    assert judge(502, page).message == message


# --- faults that would hit every batch ------------------------------------------------------------------------------

AT_ONCE: dict[str, tuple[Fault, str | None, str]] = {
    "401": (Fault("status", status=401, times=None), None, "auth"),
    "403": (Fault("status", status=403, times=None), None, "auth"),
    "400 that means 401": (
        Fault("status", status=400, body={"error": "Unable to authenticate request"}, times=None),
        None,
        "auth",
    ),
    "402": (Fault("status", status=402, times=None), None, "http"),
    "404": (Fault("status", status=404, times=None), None, "http"),
    "where": (Fault("plain"), 'properties["$os"', "http"),
}


@pytest.mark.parametrize(("fault", "where", "kind"), AT_ONCE.values(), ids=AT_ONCE)
def test_a_fault_of_all_batches_stops_at_once(sandbox, export, fault: Fault, where: str | None, kind: str) -> None:
    """One error and not thirteen: no request beyond those that were under way, and every batch is listed."""
    mp = sandbox(faults=[fault])
    with pytest.raises(mpnb.ExportError, match="the export stopped because every batch would fail") as error:
        export(mp, day(1), day(90), workers=3, where=where)
    assert len(mp.requests) <= 3
    with error.value.result as result:
        assert result.failures.aggregate("kind, count(*)").fetchall() == [(kind, 90)]
        assert result.failed_batches == 90
        all_or_nothing(result, mp)


def test_wrong_credentials_are_one_error(sandbox, export) -> None:
    """A secret that the server does not know; the message does not hold it."""
    mp = sandbox()
    mine = mp.credentials
    wrong = mpnb.Credentials(mine.username, "not the right one", mine.project_id, base_url=mine.base_url)
    with pytest.raises(mpnb.ExportError, match="Invalid service account credentials") as error:
        export(mp, day(1), day(90), credentials=wrong)
    error.value.result.close()
    assert "not the right one" not in str(error.value)
    assert {request.status for request in mp.requests} == {401}


def test_a_fault_of_all_batches_after_successes_gives_the_result(sandbox, export) -> None:
    """What is done is kept and given back; the rest failed without a request, and a retry goes on."""
    mp = sandbox(faults=[Fault("status", day(4), status=401, times=None)])
    result = export(mp, day(1), day(10), workers=1)
    assert len(mp.requests) == 4
    assert statuses(result) == {"done": 3, "failed": 7}
    assert result.failures.select("kind, attempts").fetchall() == [("auth", 1)] + [("auth", 0)] * 6
    mp.clear_faults()
    with result.retry() as again:
        assert statuses(again) == {"done": 10}
        all_or_nothing(again, mp)


def test_a_400_that_is_about_one_batch_stops_no_other(sandbox, export) -> None:
    """Without a filter to blame it is that request's own."""
    mp = sandbox(faults=[Fault("status", day(2), status=400, times=None)])
    result = export(mp, workers=1)
    assert statuses(result) == {"done": 2, "failed": 1}


# --- too large ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [Fault("too_large", times=None), Fault("status", day(3), status=413)])
def test_a_batch_that_is_too_large_is_split_by_days(sandbox, export, fault: Fault) -> None:
    """Its days are fetched one by one, each a batch of its own in the ledger."""
    mp = sandbox(faults=[fault])
    seen: list[mpnb.BatchProgress] = []
    result = export(mp, day(1), day(14), chunk_days=7, on_batch=seen.append)
    assert not result.has_failures
    singles = 14 if fault.kind == "too_large" else 7
    assert len(mp.requests) == singles + 2
    assert result.total_rows == mp.count(day(1), day(14))
    all_or_nothing(result, mp)
    last = {progress.index: progress for progress in seen}
    assert {progress.status for progress in last.values()} == {"done"}
    assert len(last) == last[0].total == singles + (14 - singles) // 7
    covered = sorted(d for p in last.values() for d in days_of(p.from_date, p.to_date))
    assert covered == days_of(day(1), day(14))


def test_a_batch_that_is_split_says_why(sandbox, start) -> None:
    """Its cell waits for the first of its days with what the server said; the next attempt begins from nothing."""
    mp = sandbox(faults=[Fault("too_large")])
    seen: list[mpnb.BatchProgress] = []
    job = start(mp, day(1), day(2), chunk_days=2, on_batch=seen.append)
    assert job.result(30).successful_batches == 2
    until(lambda: sum(p.status == "done" for p in seen) == 2)
    [split] = [p for p in seen if p.status == "queued" and p.index == 0 and p.error]
    assert "your data export may be too large" in split.error
    assert (split.from_date, split.to_date, split.attempt, split.bytes) == (day(1), day(1), 0, 0)


def test_a_single_day_that_is_too_large_fails_alone(sandbox, export) -> None:
    """There is nothing to split: it is listed with what to do, and not retried as it is."""
    mp = sandbox(faults=[Fault("status", day(3), status=413, times=None)])
    result = export(mp, day(1), day(7), chunk_days=7)
    assert statuses(result) == {"done": 6, "failed": 1}
    [(first, last, kind, status, retryable, hint)] = result.failures.select(
        "from_date, to_date, kind, http_status, retryable, hint"
    ).fetchall()
    assert (first, last, kind, status, retryable) == (day(3), day(3), "http", 413, False)
    assert "events= or where=" in hint
    all_or_nothing(result, mp)


@pytest.mark.parametrize("plain", [True, False], ids=["plain copies", "as received"])
def test_a_held_batch_that_became_too_large_is_replaced_by_its_days(sandbox, export, tmp_path, plain: bool) -> None:
    """Its days are fetched one by one and replace it in one transaction, with no room in the spool as well."""
    mp = sandbox()
    export(mp, day(1), day(4), chunk_days=4)
    export(mp, day(5), day(6))
    mp.add_fault(Fault("too_large", times=None))
    spool = None if plain else mpnb.Spool(tmp_path / "spool", 1)
    result = export(mp, day(1), day(6), chunk_days=6, mode="refresh", spool=spool)
    assert result.failed_date_ranges == []
    assert statuses(result) == {"done": 6}
    assert result.sql("SELECT max(to_date - from_date) FROM mpnb_batches").fetchall() == [(0,)]
    all_or_nothing(result, mp)


def test_a_held_batch_of_which_one_day_fails_stays(sandbox, export) -> None:
    """All of its days or none: the old rows stay, each day is in the failures, and a retry replaces them."""
    mp = sandbox()
    export(mp, day(1), day(3), chunk_days=3)
    mp.add_fault(Fault("too_large", times=None))
    mp.add_fault(Fault("status", status=400, day=day(2), times=None))
    with pytest.raises(mpnb.ExportError) as caught:
        export(mp, day(1), day(3), chunk_days=3, mode="refresh")
    with caught.value.result as result:
        assert statuses(result) == {"done": 1, "failed": 3}
        assert result.total_rows == mp.count(day(1), day(3))
        messages = dict(result.sql("SELECT from_date, message FROM mpnb_batches WHERE status = 'failed'").fetchall())
        assert "kept as it was" not in messages[day(2)]
        assert all(f"kept as it was, since {day(2)} failed" in messages[day(n)] for n in (1, 3))
        mp.clear_faults()
        with result.retry() as again:
            assert not again.has_failures
            all_or_nothing(again, mp)


def test_today_that_has_not_begun_over_there_fails_by_itself(sandbox, export) -> None:
    """In a project whose day is behind UTC, today is refused: it is a batch of its own, and the other days come."""
    today = datetime.now(UTC).date()
    mp = sandbox(today=today - timedelta(days=1))
    result = export(mp, today - timedelta(days=3), today, chunk_days=7)
    assert statuses(result) == {"done": 1, "failed": 1}
    assert result.failed_date_ranges == [(today, today)]
    assert result.total_rows == mp.count(today - timedelta(days=3), today - timedelta(days=1))
    assert "time zone" in result.failures.select("hint").fetchall()[0][0]


def test_days_that_wait_for_one_that_fails_give_their_room_back(sandbox, export, start, tmp_path) -> None:
    """What has arrived of a batch that stays as it was is dropped from the spool: others wait for the room."""
    mp = sandbox()
    export(mp, day(1), day(3), chunk_days=3)
    mp.add_fault(Fault("too_large", times=None))
    mp.add_fault(Fault("status", status=400, day=day(2), times=None))
    job = start(mp, day(1), day(5), chunk_days=3, mode="refresh", workers=1, spool=mpnb.Spool(tmp_path / "spool", 1))
    with job.result(30) as result:
        assert result.failed_date_ranges == [(day(n), day(n)) for n in (1, 2, 3)]
        assert result.total_rows == mp.count(day(1), day(5))


# --- redirects and secrets ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["http://localhost:{port}", "//localhost:{port}", "HTTP://LOCALHOST:{port}"])
def test_a_redirect_to_another_host_is_not_followed(sandbox, export, scheme: str) -> None:
    """The other server is not even asked, so that nothing can leak; the batch fails with its name."""
    other = sandbox()
    target = scheme.format(port=other.url.rpartition(":")[2]) + "/api/2.0/export?from_date=2026-01-01"
    mp = sandbox(faults=[Fault("redirect", day(2), headers={"Location": target}, times=None)])
    result = export(mp)
    assert not other.requests
    [(message, status)] = result.failures.select("message, http_status").fetchall()
    assert "redirected to http://localhost" in message
    assert status == 302


@pytest.mark.parametrize(
    "target",
    [
        "https://{host}/",
        "http://{name}:1/",
        "http://user:pw@localhost:1/",  # pragma: allowlist secret
        "ftp://{host}/",
    ],
)
def test_nor_to_another_scheme_or_port(sandbox, export, target: str) -> None:
    """An origin is scheme, host and port, and all three stay what they were."""
    mp = sandbox()
    host = mp.url.removeprefix("http://")
    location = target.format(host=host, name=host.partition(":")[0])
    mp.add_fault(Fault("redirect", headers={"Location": location}, times=None))
    with pytest.raises(mpnb.ExportError, match="redirected to") as error:
        export(mp, day(1), day(1))
    error.value.result.close()
    assert "pw" not in str(error.value)
    assert len(mp.requests) == 1


def test_a_redirect_that_leads_on_to_another_host_ends_there(sandbox, export) -> None:
    """Each step is looked at, not only the first."""
    mp = sandbox(faults=[Fault("redirect_same"), Fault("redirect", times=None)])
    with pytest.raises(mpnb.ExportError, match="redirected to http://localhost"):
        export(mp, day(1), day(1))
    assert [request.status for request in mp.requests] == [307, 302]


@pytest.mark.parametrize("location", ["http://[::1", "http://a b:c/", "\x7f", "mailto:x", "http://" + "a" * 70_000])
def test_a_redirect_to_nowhere_is_a_refusal(sandbox, export, location: str) -> None:
    """A Location that cannot be read is the server's fault, and no crash."""
    mp = sandbox(faults=[Fault("redirect", day(2), headers={"Location": location}, times=None)])
    result = export(mp)
    assert result.failures.select("from_date, kind").fetchall() == [(day(2), "connection")]
    assert "invalid url" in result.failures.select("lower(message)").fetchall()[0][0]
    all_or_nothing(result, mp)


def test_redirects_in_a_circle_end(sandbox, export) -> None:
    """After a few rounds it is a failure of its own."""
    mp = sandbox()
    query = urlencode({"from_date": day(1), "to_date": day(1), "project_id": mp.project_id})
    mp.add_fault(Fault("redirect", headers={"Location": f"/api/2.0/export?{query}"}, times=None))
    with pytest.raises(mpnb.ExportError, match="too many redirects") as error:
        export(mp, day(1), day(1))
    error.value.result.close()
    assert len(mp.requests) == 4


@pytest.mark.parametrize("status", [400, 401, 413, 429, 500])
def test_no_secret_is_ever_repeated(sandbox, export, capfd, caplog, status: int) -> None:
    """A server that answers with what it was sent gets the secret neither into the ledger nor onto the screen."""
    mp = sandbox()
    own = mp.credentials
    basic = base64.b64encode(f"{own.username}:{own.secret}".encode()).decode()
    body = f"{own.secret} Authorization: Basic {basic}"
    mp.add_fault(Fault("status", status=status, body=body, times=None))
    caplog.set_level(logging.DEBUG)
    with pytest.raises(mpnb.ExportError) as error:
        export(mp)
    with error.value.result as result:
        shown = [
            repr(result),
            result._repr_mimebundle_()["text/html"],
            str(error.value),
            caplog.text,
            *capfd.readouterr(),
        ]
        shown += [str(row) for row in result.batches.fetchall()]
    assert own.secret not in "".join(shown)
    assert basic not in "".join(shown)
    assert "***" in "".join(shown)


def test_a_message_cannot_write_on_the_terminal(sandbox, export, capfd) -> None:
    """Control and direction characters of a server's message are written out, and it is one short line."""
    body = "\x1b[31mred\x07\r\nline two \u202etxet" + "long " * 500
    mp = sandbox(faults=[Fault("status", day(2), status=400, body=body, times=None)])
    result = export(mp)
    [(message,)] = result.failures.select("message").fetchall()
    shown = message + "".join(capfd.readouterr())
    assert not {"\x1b", "\x07", "\r", "\u202e"} & set(shown)
    assert message.startswith("\\x1b[31mred\\x07 line two \\u202etxet")
    assert len(message) <= 500


# --- how long it waits ----------------------------------------------------------------------------------------------

COUNTS = {"error": "Query rate limit exceeded for project_id: 1. 1/100 queries running concurrently and {}/60 queries "
          "running in the last hour."}  # fmt: skip


def in_http_date(seconds: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize("retry_after", [50, "50", "50.5", lambda: in_http_date(52), 10**9])
def test_retry_after_is_one_cool_down_for_all_workers(sandbox, export, monkeypatch, retry_after: Any) -> None:
    """In seconds or as a date: nobody starts before it; more than two hours is taken for two."""
    value = retry_after() if callable(retry_after) else retry_after
    mp = sandbox(faults=[Fault("status", day(4), status=429, retry_after=value)])
    limiter = Recorded.of(mp, monkeypatch)
    limiter.quota = WIDE
    result = export(mp, day(1), day(20), quota=None, workers=1)
    assert result.successful_batches == 20
    gaps = [b - a for a, b in zip(limiter.starts, limiter.starts[1:], strict=False)]
    assert max(range(20), key=gaps.__getitem__) == 3
    assert 50 <= gaps[3] <= (7200 if value == 10**9 else 52)
    assert limiter.starts[3] + 50 <= limiter.starts[4]


def test_the_last_429_of_a_batch_holds_the_others_as_well(sandbox, export, monkeypatch) -> None:
    """It has no attempt left, and what the server asks for is for all requests of the project."""
    mp = sandbox(faults=[Fault("status", day(1), status=429, retry_after=50, times=4)])
    limiter = Recorded.of(mp, monkeypatch)
    limiter.quota = WIDE
    result = export(mp, day(1), day(2), quota=None, workers=1)
    assert statuses(result) == {"failed": 1, "done": 1}
    gaps = [b - a for a, b in zip(limiter.starts, limiter.starts[1:], strict=False)]
    assert [gap >= 50 for gap in gaps] == [True] * 4


@pytest.mark.parametrize("retry_after", ["soon", "", "nan", "-5", "Thu, 99 Foo 2026", "0", "1e400", "inf"])
def test_a_retry_after_that_cannot_be_read_is_no_wait_for_ever(sandbox, export, monkeypatch, retry_after: str) -> None:
    """The backoff takes its place, or at most two hours."""
    mp = sandbox(faults=[Fault("status", day(2), status=429, body="slow down", retry_after=retry_after)])
    limiter = Recorded.of(mp, monkeypatch)
    assert export(mp, quota=None).successful_batches == 3
    assert limiter.starts[-1] - limiter.starts[0] <= 7210


@pytest.mark.parametrize(("count", "least"), [(60, 60), (61, 120), (70, 660)])
def test_the_counts_of_a_429_say_how_long_to_wait(sandbox, export, monkeypatch, count: int, least: float) -> None:
    """Without Retry-After: as many sixtieths of an hour as there are queries too many, and no worker comes earlier."""
    body = {"error": COUNTS["error"].format(count)}
    mp = sandbox(faults=[Fault("status", day(1), status=429, body=body)])
    limiter = Recorded.of(mp, monkeypatch)
    assert export(mp, day(1), day(5), quota=None, workers=1).successful_batches == 5
    assert least <= limiter.starts[1] - limiter.starts[0] <= least + 5


def test_a_full_hour_is_waited_out(sandbox, export, monkeypatch) -> None:
    """Three refusals in a row: the waits grow until the hour has surely passed, and the batch comes through."""
    mp = sandbox(faults=[Fault("status", status=429, body={"error": COUNTS["error"].format(61)}, times=3)])
    limiter = Recorded.of(mp, monkeypatch)
    assert export(mp, day(1), day(1), quota=None).successful_batches == 1
    assert limiter.starts[-1] - limiter.starts[0] >= 3600


@pytest.mark.parametrize("how", ["seconds", "date", None])
def test_a_server_that_counts_is_obeyed(sandbox, export, monkeypatch, how: str | None) -> None:
    """Against a real limit of two a second, refusals slow all workers down and every batch comes through."""
    monkeypatch.setattr(mpnb._fetching.fetcher, "BACKOFF_SECONDS", 0.5)
    mp = sandbox(quota=mpnb.Quota(per_hour=10**6, per_second=2), retry_after=how)
    result = export(mp, day(1), day(4), workers=2)
    assert result.successful_batches == 4
    assert 429 in {request.status for request in mp.requests}


def test_a_server_error_with_retry_after_waits_that_long(sandbox, export) -> None:
    """A 503 concerns its own batch: that one waits, the others go on."""
    mp = sandbox(faults=[Fault("status", day(1), status=503, retry_after=0.7)])
    result = export(mp, day(1), day(5), workers=2)
    assert result.successful_batches == 5
    at = {request.from_date: request.at for request in mp.requests}
    first = min(request.at for request in mp.requests)
    assert at[day(1)] - first >= 0.7
    assert all(at[day(n)] < at[day(1)] for n in range(2, 6))


# --- no server any more -----------------------------------------------------------------------------------------------


def test_a_server_that_goes_away_leaves_what_is_done(sandbox, export) -> None:
    """Batches before it are kept, the others fail, and a retry against nobody changes nothing."""
    mp = sandbox(faults=[Fault("hang_start", day(4))])

    def close_when_it_hangs(progress: mpnb.BatchProgress) -> None:
        if progress.index == 3 and progress.status == "fetching":
            until(lambda: mp.injected)
            mp.close()

    result = export(mp, day(1), day(6), workers=1, on_batch=close_when_it_hangs)
    assert statuses(result) == {"done": 3, "failed": 3}
    assert result.failures.select("kind").distinct().fetchall() == [("connection",)]
    with pytest.raises(mpnb.ExportError) as error:
        result.retry(on_batch=lambda progress: None)
    error.value.result.close()
    assert statuses(result) == {"done": 3, "failed": 3}
    all_or_nothing(result, mp)


def test_an_answer_that_is_no_http_is_a_broken_connection(sandbox, export) -> None:
    """Garbage in place of a status line."""
    mp = sandbox(faults=[Fault("status", day(2), status=200, headers={"X\r\n\r\nHTTP/1.1 999 Garbage\r\nY": "z"})])
    result = export(mp)
    assert result.successful_batches == 3
    all_or_nothing(result, mp)


def test_a_slow_body_is_no_silence(sandbox, export, impatient) -> None:
    """The time-out is of silence, not of the whole: a body that takes three times as long arrives."""
    mp = sandbox(lines=lambda d: [event(pad="x" * 100)] * 100, bytes_per_second=400)
    began = time.monotonic()
    result = export(mp, day(1), day(1))
    assert time.monotonic() - began > 0.33
    assert result.batches.select("attempts").fetchall() == [(1,)]
