"""Wrong calls of every interface: whatever is passed, one clear line says what is right, or it works."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import pytest

import mpnb
from mpnb._command.cli import main
from mpnb.sandbox import Fault, Sandbox, serve
from mpnb.sandbox.__main__ import environment
from tests._helpers import WIDE
from tests._odd import ODD, one_line, try_all

SECRET = "hunter2hunter2hunter2"  # pragma: allowlist secret


@pytest.fixture(autouse=True)
def _in_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let what works leave its files in the test's own folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def mp() -> Iterator[Sandbox]:
    """Serve a few events."""
    with serve(events_per_day=3) as served:
        yield served


# What each argument takes of the odd ones.
TAKEN: dict[str, set[str]] = {
    "from_date": {"a date"},
    "to_date": {"a date"},
    "events": {
        "None", "a word", "in capitals", "NUL", "an escape sequence", "100,000 letters", "another script",
        "digits of another script", "a tuple of texts", "a blank",
    },
    "where": {
        "None", "a word", "in capitals", "NUL", "an escape sequence", "100,000 letters", "another script",
        "digits of another script",
    },
    "database": {"a word", "in capitals", "an escape sequence", "another script", "digits of another script"},
    "table": {
        "a word", "in capitals", "an escape sequence", "100,000 letters", "another script", "digits of another script",
    },
    "workers": set(),
    "chunk_days": {"None"},
    "mode": set(),
    "late_days": {"zero"},
    "on_batch": {"None", "a function", "a type"},
    "credentials": {"None"},
    "quota": {"None", "a quota"},
    "spool": {"None", "a spool"},
    "memory": {"None"},
    "destination": {"None", "a word", "in capitals", "another script", "digits of another script"},
}  # fmt: skip
NO_ERRORS_OF_ITS_OWN = {"database": mpnb.DatabaseError, "table": mpnb.TableError, "credentials": mpnb.CredentialsError}


@pytest.mark.parametrize("name", TAKEN)
def test_each_argument_of_a_plan_is_taken_or_refused_in_one_line(name: str, mp: Sandbox, tmp_path: Path) -> None:
    """The line begins with the argument's name, and ``export`` and ``start`` refuse the same."""
    usual: dict[str, Any] = {"from_date": "2026-01-01", "to_date": "2026-01-02", "credentials": mp.credentials}
    if name != "destination":
        usual["database"] = ":memory:"
    refused = try_all(lambda value: mpnb.plan(**{**usual, name: value}))
    assert set(ODD) - refused.keys() == TAKEN[name]
    # What a plan does without, and what only a folder can tell.
    assert {what: text for what, text in refused.items() if not text.startswith(name)} == {}
    for call in (mpnb.export, mpnb.start):
        for what in refused:
            with pytest.raises(NO_ERRORS_OF_ITS_OWN.get(name, mpnb.PlanError)):
                call(**{**usual, "quota": WIDE, name: ODD[what]})
    assert mp.requests == ()
    assert list(tmp_path.glob("*.duckdb*")) == []


@pytest.mark.parametrize("name", ["database", "table", "credentials"])
def test_each_argument_of_open_is_taken_or_refused_in_one_line(name: str, mp: Sandbox) -> None:
    """What it does not have is refused as well."""
    with contextlib.closing(duckdb.connect()) as con:
        options = {"credentials": mp.credentials, "quota": WIDE, "on_batch": len}
        with pytest.warns(RuntimeWarning, match="on_batch raised"):
            mpnb.export("2026-01-01", "2026-01-01", database=con, **options).close()
        taken = {"None"} if name != "database" else set()
        assert set(ODD) - try_all(lambda value: mpnb.open(**{"database": con, name: value})).keys() == taken


@pytest.mark.parametrize("name", ["workers", "on_batch", "credentials", "quota", "spool", "memory"])
def test_each_option_of_a_retry_is_taken_or_refused_in_one_line(name: str, mp: Sandbox) -> None:
    """Where nothing failed, too: what is wrong today is wrong on the day on which it is needed."""
    options = {"credentials": mp.credentials, "quota": WIDE, "on_batch": lambda _: None}
    with mpnb.export("2026-01-01", "2026-01-01", database=":memory:", **options) as result:
        refused = try_all(lambda value: result.retry(**{"on_batch": lambda _: None, name: value}))
        assert set(ODD) - refused.keys() == TAKEN[name] | {"None"}
        assert result.total_rows > 0


@pytest.mark.parametrize("name", ["per_hour", "per_second", "concurrent"])
def test_a_quota_is_of_whole_numbers(name: str) -> None:
    """Of at least 1, however many."""
    refused = try_all(lambda value: mpnb.Quota(**{name: value}))
    assert set(ODD) - refused.keys() == {"31 digits", "5001 digits"}
    assert {text.split(", not ")[0] for text in refused.values()} == {f"{name} must be a whole number of at least 1"}


def test_a_spool_is_a_folder_and_a_whole_number() -> None:
    """Both are checked at once, not when the first batch is to be written."""
    assert set(ODD) - try_all(lambda value: mpnb.Spool(max_bytes=value)).keys() == {"None", "31 digits", "5001 digits"}
    folders = {"None", "a word", "in capitals", "an escape sequence", "another script", "digits of another script"}
    assert set(ODD) - try_all(mpnb.Spool).keys() == folders


@pytest.mark.parametrize(
    ("name", "taken"),
    [("from_date", {"a date"}), ("to_date", {"a date"}), ("chunk_days", set[str]())],
)
def test_a_range_is_split_by_days(name: str, taken: set[str]) -> None:
    """The argument that is wrong is named."""
    usual = {"from_date": "2026-01-01", "to_date": "2026-01-09", "chunk_days": 7}
    refused = try_all(lambda value: mpnb.split_date_range(**{**usual, name: value}))
    assert set(ODD) - refused.keys() == taken
    assert all(text.startswith(name) for text in refused.values())


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("username", {"a word", "in capitals", "100,000 letters", "another script", "digits of another script"}),
        ("secret", {"a word", "in capitals", "100,000 letters", "another script", "digits of another script"}),
        ("project_id", {"zero"}),
        ("region", set[str]()),
        ("base_url", {"None"}),
    ],
)
def test_each_part_of_credentials_is_taken_or_refused_in_one_line(name: str, taken: set[str]) -> None:
    """The line begins with the part's name, and no other part shows in it."""
    usual = {"username": "me", "secret": SECRET, "project_id": "1"}
    refused = try_all(lambda value: mpnb.Credentials(**{**usual, name: value}))
    assert set(ODD) - refused.keys() == taken
    assert all(text.startswith(name) and SECRET not in text for text in refused.values())


@pytest.mark.parametrize("place", [0, 2, 3, 4])
def test_a_secret_in_the_place_of_another_part_is_not_shown(place: int) -> None:
    """Who mixes up the order has it in no message: it would be saved with the notebook."""
    parts = ["me", "an other one", "1", "us", "https://example.com"]
    parts[place] = SECRET
    if place == 0:
        parts[0] += "\n" + parts[0]
    with pytest.raises(mpnb.CredentialsError) as error:
        mpnb.Credentials(*parts)
    assert SECRET not in str(error.value) or place == 4


def test_blanks_around_what_is_pasted_are_left_out() -> None:
    """No part has any, and what is copied from a page or a file often does; blanks within stay."""
    pasted = mpnb.Credentials(" me\n", f"\t{SECRET} \r\n", " 12 ", " EU ", " https://example.com/ ")
    assert pasted == mpnb.Credentials("me", SECRET, 12, "eu", "https://example.com/")
    assert pasted.secret == SECRET
    # pragma: allowlist nextline secret
    assert mpnb.Credentials("me", "two words", "1").secret == "two words"


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:abc", "http://127.0.0.1:99999", "https://x y", "https://a\tb", "https://\x1b[31m", "//host",
        "https://", "https://\u2100.example", 5, True, b"https://example.com",
    ],
)  # fmt: skip
def test_an_address_that_cannot_be_asked_is_refused(url: Any) -> None:
    """At once, in one line, and not when the first request is sent."""
    with pytest.raises(mpnb.CredentialsError, match=r"^base_url") as error:
        mpnb.Credentials("me", SECRET, "1", base_url=url)
    one_line(error.value)


def test_an_environment_is_a_mapping() -> None:
    """Values that are no text, as of a file of settings, are read as text."""
    calls = (mpnb.Credentials.from_environment, lambda value: mpnb.Credentials.from_environment(environ=value))
    assert [set(ODD) - try_all(call).keys() for call in calls] == [set(), set()]
    settings: Any = {"MP_USERNAME": "me", "MP_SECRET": SECRET, "MP_PROJECT_ID": 12, "MP_REGION": None}
    assert mpnb.Credentials.from_environment(environ=settings) == mpnb.Credentials("me", SECRET, 12)


# --- results, jobs, analysis ---------------------------------------------------------------------------------------

# What odd values each call takes; names of events and columns that there are not are refused like all else.
READ: dict[str, tuple[Callable[[mpnb.ExportResult, Any], Any], set[str]]] = {
    "event": (lambda r, v: r.event(v), set()),
    "event columns": (lambda r, v: r.event("Page View", columns=v), {"None", "no list"}),
    "event deduplicated": (lambda r, v: r.event("Page View", deduplicated=v), {"True"}),
    "event materialize": (lambda r, v: r.event("Page View", materialize=v), {"True"}),
    "catalog": (lambda r, v: r.catalog(v), {"None"}),
    "catalog materialize": (lambda r, v: r.catalog("Page View", materialize=v), {"True"}),
    "df deduplicated": (lambda r, v: r.df(deduplicated=v), {"True"}),
    "df": (lambda r, v: r.df(v), {"None"}),
    "pl columns": (lambda r, v: r.pl(columns=v), {"None", "no list"}),
    "arrow": (lambda r, v: r.arrow(v), {"None"}),
    "to_parquet": (
        lambda r, v: r.to_parquet(v),
        {"a word", "in capitals", "an escape sequence", "another script", "digits of another script"},
    ),
    "to_parquet events": (lambda r, v: r.to_parquet("out", v), {"None"}),
    "to_parquet partition_by": (lambda r, v: r.to_parquet("parts", partition_by=v), {"None", "no list"}),
    "local_time": (lambda r, v: r.local_time(v), set()),
    "local_time project_timezone": (lambda r, v: r.local_time("UTC", project_timezone=v), {"None"}),
    "check": (lambda r, v: r.check(late_days=v), {"None", "zero"}),
}


@pytest.fixture
def result(mp: Sandbox) -> Iterator[mpnb.ExportResult]:
    """Export two days into memory."""
    options = {"credentials": mp.credentials, "quota": WIDE, "on_batch": lambda _: None}
    with mpnb.export("2026-01-01", "2026-01-02", database=":memory:", **options) as made:
        yield made


@pytest.mark.parametrize("name", READ)
def test_each_argument_of_a_result_is_taken_or_refused_in_one_line(name: str, result: mpnb.ExportResult) -> None:
    """And a folder that was to be written is not there where it was refused."""
    call, taken = READ[name]

    def read(value: Any) -> None:
        for folder in ("out", "parts"):
            shutil.rmtree(folder, ignore_errors=True)
        call(result, value)

    assert set(ODD) - try_all(read).keys() == taken


WEEK = timedelta(days=7)
TWICE = ["Page View", "Page View"]
ANALYSED: dict[str, tuple[Callable[[duckdb.DuckDBPyRelation, Any], duckdb.DuckDBPyRelation], set[str]]] = {
    "funnel events": (lambda e, v: mpnb.analysis.funnel(v, ["Page View", "Purchase"], WEEK), set()),
    "funnel steps": (lambda e, v: mpnb.analysis.funnel(e, v, WEEK), set()),
    "funnel window": (lambda e, v: mpnb.analysis.funnel(e, TWICE, v), {"a time span"}),
    "funnel grace": (lambda e, v: mpnb.analysis.funnel(e, TWICE, grace=v), {"a time span"}),
    "funnel reentry": (lambda e, v: mpnb.analysis.funnel(e, TWICE, reentry=v), {"True"}),
    "funnel order": (lambda e, v: mpnb.analysis.funnel(e, TWICE, order=v), set()),
    "funnel counting": (lambda e, v: mpnb.analysis.funnel(e, TWICE, counting=v), set()),
    "funnel exclude": (lambda e, v: mpnb.analysis.funnel(e, TWICE, exclude=v), {"None", "no list"}),
    "funnel by": (lambda e, v: mpnb.analysis.funnel(e, TWICE, by=v), {"None"}),
    "funnel holding_constant": (lambda e, v: mpnb.analysis.funnel(e, TWICE, holding_constant=v), {"None", "no list"}),
    "funnel user": (lambda e, v: mpnb.analysis.funnel(e, TWICE, WEEK, user=v), {"None"}),
    "retention events": (lambda e, v: mpnb.analysis.retention(v, "Page View", "Page View"), set()),
    "retention born": (lambda e, v: mpnb.analysis.retention(e, v, "Page View"), set()),
    "retention returned": (lambda e, v: mpnb.analysis.retention(e, "Page View", v), {"None"}),
    "retention unit": (lambda e, v: mpnb.analysis.retention(e, "Page View", "Page View", unit=v), set()),
    "retention brackets": (lambda e, v: mpnb.analysis.retention(e, "Page View", brackets=v), {"None", "a numpy array"}),
    "retention zone": (lambda e, v: mpnb.analysis.retention(e, "Page View", zone=v), {"None"}),
    "segmentation events": (lambda e, v: mpnb.analysis.segmentation(v, "Page View"), set()),
    "segmentation event": (lambda e, v: mpnb.analysis.segmentation(e, v), {"None"}),
    "segmentation by": (lambda e, v: mpnb.analysis.segmentation(e, "Page View", by=v), {"None", "no list"}),
    "segmentation unit": (lambda e, v: mpnb.analysis.segmentation(e, "Page View", unit=v), set()),
    "segmentation measure": (lambda e, v: mpnb.analysis.segmentation(e, "Page View", measure=v), set()),
    "segmentation top": (lambda e, v: mpnb.analysis.segmentation(e, "Page View", by="time", top=v), {"None"}),
    "segmentation user": (lambda e, v: mpnb.analysis.segmentation(e, "Page View", user=v), {"None"}),
    "sessions timeout": (lambda e, v: mpnb.analysis.sessions(e, v), {"a time span"}),
}


@pytest.mark.parametrize("name", ANALYSED)
def test_each_argument_of_an_analysis_is_taken_or_refused_in_one_line(name: str, result: mpnb.ExportResult) -> None:
    """Before the relation is made, not when it is read."""
    call, taken = ANALYSED[name]
    assert set(ODD) - try_all(lambda value: call(result.events, value).fetchall()).keys() == taken


def test_a_job_is_waited_for_some_seconds(mp: Sandbox) -> None:
    """Any number from 0 on, however large; and who waited in vain is told for how long."""
    mp.add_fault(Fault("hang_start", times=None))
    options = {"credentials": mp.credentials, "quota": WIDE, "database": ":memory:", "on_batch": lambda _: None}
    job = mpnb.start("2026-01-01", "2026-01-01", **options)
    large = {"None", "inf", "31 digits", "5001 digits"}  # which would wait
    waited = {name: value for name, value in ODD.items() if name not in large}
    refused = try_all(job.result, TimeoutError, waited)
    assert set(waited) - refused.keys() == {"zero", "one and a half", "a numpy float"}
    with pytest.raises(TimeoutError, match="has not ended within 0 s: it goes on"):
        job.result(0)
    job.cancel()
    for name in large:
        with pytest.raises(mpnb.ExportCancelled):
            job.result(ODD[name])
    job.outcome(30).close()


def test_what_is_dropped_is_a_table(result: mpnb.ExportResult) -> None:
    """Whatever else is passed, nothing is dropped."""
    con = result.con
    assert try_all(lambda value: mpnb.drop(value, database=con)).keys() == set(ODD)
    assert try_all(lambda value: mpnb.drop("events", database=value)).keys() == set(ODD)
    assert result.total_rows > 0


SERVED: dict[str, set[str]] = {
    "seed": {"zero", "minus one"},
    "events_per_day": {"zero"},
    "today": {"None", "a date"},
    "quota": {"None", "a quota"},
    "retry_after": {"None"},
    "latency": {"zero", "one and a half", "a numpy float"},
    "bytes_per_second": {"None", "one and a half", "a numpy float"},
    "gzip_members": set(),
    "faults": {"nothing", "no list"},
    "lines": {"None", "a function", "a type"},
    "port": {"zero"},
    "project_id": {"None", "zero"},
    "legacy_timezone": {"None"},
}


@pytest.mark.parametrize("name", SERVED)
def test_each_argument_of_the_sandbox_is_taken_or_refused_in_one_line(name: str) -> None:
    """And what is refused leaves no socket and no thread."""
    assert set(ODD) - try_all(lambda value: serve(**{name: value})).keys() == SERVED[name]


TEXTS = {
    "nothing", "a blank", "a word", "in capitals", "NUL", "an escape sequence", "half a surrogate pair",
    "100,000 letters", "another script", "digits of another script",
}  # fmt: skip
FAULTS: dict[str, set[str]] = {
    "kind": set(),
    "day": {"None", "a date"},
    "times": {"None", "31 digits", "5001 digits"},
    "at": {"zero", "31 digits", "5001 digits"},
    "status": set(),
    "body": {"None", "a mapping"} | TEXTS,
    "seconds": {"None", "zero", "one and a half", "a numpy float"},
    "lines": {"None", "no list"},
    "headers": {"None"},
    "size": {"None", "31 digits", "5001 digits"},
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_argument_of_a_fault_is_taken_or_refused_in_one_line(name: str) -> None:
    """Before it strikes, in the middle of an answer, where nobody would hear of it."""
    refused = try_all(lambda value: Fault(**{"kind": "status", "status": 500, name: value}))
    assert set(ODD) - refused.keys() == FAULTS[name]


def test_the_sandbox_is_asked_for_days_and_given_faults(mp: Sandbox) -> None:
    """Its other calls refuse what is neither."""
    for call in (mp.lines, mp.bad_lines, lambda value: mp.count(value, value)):
        assert set(ODD) - try_all(call).keys() == {"a date"}
    assert set(ODD) - try_all(mp.add_fault).keys() == {"a fault"}
    mp.clear_faults()


# --- the command line ----------------------------------------------------------------------------------------------

WORDS = [
    "", " ", "0", "-1", "1.5", "nan", "1e3", "²", "9" * 5000, "abc", "ABC", "a\x1b[31m", "\udcff", "x" * 3000, "東京",
    "--", "-x", "a folder", "text.txt", "/nonexistent/x", "~nobody-of-this-name/x", "s3://bucket/x",
]  # fmt: skip
OPTIONS = [
    "--events", "--database", "--table", "--workers", "--chunk-days", "--mode", "--late-days", "--per-hour",
    "--per-second", "--concurrent", "--spool-folder", "--spool-bytes", "--memory",
]  # fmt: skip
DAYS = [
    [], ["2026-01-01"], ["a", "b", "c"], ["last"], ["last", "0", "days"], ["last", "9999999999", "days"],
    ["today", "yesterday"], ["2026-13-01", "2026-13-02"], ["0001-01-01", "2026-01-01"], ["a\x1b[31m", "b"],
    ["99999 days ago", "today"], ["9" * 5000 + " days ago", "today"], ["2026-1-1", "2026-1-2"], ["", ""],
    ["\udcff", "today"], ["last", "١", "days"],
]  # fmt: skip


@pytest.fixture
def command(
    mp: Sandbox, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., SimpleNamespace]:
    """Run ``mpnb`` beside a folder and a text file, and see that what it refuses is one line."""
    for name, value in environment(mp).items():
        monkeypatch.setenv(name, value)
    Path("a folder").mkdir()
    Path("text.txt").write_text("no database")

    def run(*words: str) -> SimpleNamespace:
        try:
            status = main(words)
        except SystemExit as end:
            status = int(end.code or 0)
        out, err = capsys.readouterr()
        assert status in (0, 2), (words, err)
        assert [c for c in out + err if not c.isprintable() and c != "\n"] == [], words
        if status == 2:
            assert out == ""
            assert err.count("\n") == 1, (words, err)
            assert err.startswith(("mpnb: ", f"mpnb {words[0]}: ")), (words, err)
            assert len(err) < 700
        return SimpleNamespace(status=status, err=err)

    return run


@pytest.mark.parametrize("option", OPTIONS)
def test_each_option_is_taken_or_refused_in_one_line(option: str, command: Callable[..., SimpleNamespace]) -> None:
    """With status 2, and without a traceback, whatever stands behind it."""
    statuses = [command("plan", "2026-01-01", "2026-01-02", option, word).status for word in WORDS]
    assert 2 in statuses


@pytest.mark.parametrize("days", DAYS, ids=lambda days: " ".join(days)[:20].encode("unicode_escape").decode() or "-")
def test_days_that_are_none_are_refused_in_one_line(days: list[str], command: Callable[..., SimpleNamespace]) -> None:
    """As are words that are out of place."""
    assert command("plan", *days).status == 2


@pytest.mark.parametrize(
    ("variable", "values"),
    [
        ("MP_REGION", ["moon"]),
        ("MP_PROJECT_ID", ["abc", "1" * 400]),
        ("MP_API_BASE_URL", ["x", "http://127.0.0.1:abc", "ftp://x", "http://example.com", "https://u:p@x"]),
        ("MP_SECRET", ["a\nb"]),
        ("MP_USERNAME", ["a:b"]),
    ],
)
def test_a_wrong_environment_is_told_by_its_variable(
    variable: str, values: list[str], command: Callable[..., SimpleNamespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command has no other words for them."""
    for value in values:
        monkeypatch.setenv(variable, value)
        assert command("export", "2026-01-01", "2026-01-01").err.startswith(f"mpnb export: {variable} ")


def test_the_limit_of_digits_is_pythons_own() -> None:
    """What the values above rely on: Python does not write an integer of so many digits."""
    assert sys.get_int_max_str_digits() < 5001
    with pytest.raises(ValueError, match="limit"):
        str(ODD["5001 digits"])
