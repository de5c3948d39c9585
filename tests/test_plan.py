"""From days to batches: what is asked for, what is there, and what of the quota it takes."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mpnb
from mpnb._planning.batches import Batch, HeldBatch, Lateness, make_batches
from mpnb._planning.dates import parse_date
from mpnb._planning.plan import make_plan, plan_again
from mpnb.sandbox import Fault
from tests._helpers import START, WIDE, day, days_of, query

# --- dates ---------------------------------------------------------------------------------------------------------

NOW = date(2026, 3, 1)


@pytest.mark.parametrize(
    ("value", "is_day"),
    [
        (date(2026, 1, 2), date(2026, 1, 2)),
        ("2026-01-02", date(2026, 1, 2)),
        (" 2026-01-02\n", date(2026, 1, 2)),
        ("today", NOW),
        ("Yesterday", date(2026, 2, 28)),
        ("1 day ago", date(2026, 2, 28)),
        ("30 days ago", date(2026, 1, 30)),
        ("0 days ago", NOW),
    ],
)
def test_a_day_can_be_said_in_several_ways(value: date | str, is_day: date) -> None:
    """Dates, ISO texts and words, all in UTC."""
    assert parse_date(value, now=NOW) == is_day


@pytest.mark.parametrize(
    "value",
    ["", "2026-1-2", "20260102", "2026-02-30", "2026-13-01", "tomorrow", "-1 days ago", "1e3 days ago", "２026-01-02",
     "2026-01-02T00:00", 20260102, None, 1.5, datetime(2026, 1, 2, 12)],
)  # fmt: skip
def test_what_is_no_day_is_refused(value: object) -> None:
    """The message repeats what was passed, or for a moment says which day to pass."""
    with pytest.raises(mpnb.PlanError) as error:
        parse_date(value, name="from_date")  # type: ignore[arg-type]
    assert "from_date" in str(error.value)
    assert (repr(value) if not isinstance(value, datetime) else "'2026-01-02'") in str(error.value)


@pytest.mark.parametrize(
    "value",
    [datetime(2026, 1, 2), datetime(2026, 1, 2, tzinfo=UTC), pandas.Timestamp("2026-01-02"),
     pandas.Timestamp("2026-01-02", tz="UTC"), numpy.datetime64("2026-01-02"), numpy.datetime64("2026-01-02", "ns"),
     numpy.str_("2026-01-02")],
    ids=repr,
)  # fmt: skip
def test_a_moment_at_midnight_is_a_day(value: Any) -> None:
    """As the columns of a frame have them: in UTC, or without a zone."""
    read = parse_date(value, now=NOW)
    assert (read, type(read)) == (date(2026, 1, 2), date)


@pytest.mark.parametrize(
    "value",
    [datetime(2026, 1, 2, 0, 0, 0, 1), pandas.Timestamp("2026-01-02 00:00:00.000000001"),
     pandas.Timestamp("2026-01-02", tz="Asia/Tokyo"), numpy.datetime64("2026-01-02T12")],
    ids=repr,
)  # fmt: skip
def test_any_other_moment_is_no_day(value: Any) -> None:
    """Midnight elsewhere is none in UTC; the message has the day to pass."""
    with pytest.raises(mpnb.PlanError, match="to_date must be a day, not a moment: pass '2026-01-02'"):
        parse_date(value, name="to_date", now=NOW)


@pytest.mark.parametrize("value", [pandas.NaT, numpy.datetime64("NaT")], ids=repr)
def test_no_time_is_no_day(value: Any) -> None:
    """What a frame has where a date is missing is refused, as ``None`` is."""
    with pytest.raises(mpnb.PlanError, match=r"to_date must be a date, .* not .*NaT"):
        parse_date(value, name="to_date", now=NOW)


def test_numbers_and_days_of_a_frame_are_taken_wherever_python_s_are(sandbox, tmp_path: Path) -> None:
    """Each argument of each public function: what numpy and pandas give does what ``int`` and ``date`` do."""
    n, t = numpy.int64, pandas.Timestamp
    fault = Fault("status", day=t("2026-01-02"), status=n(418), times=n(1))
    mp = sandbox(
        seed=n(1), events_per_day=n(5), today=t("2026-02-01"), project_id=n(77), gzip_members=n(2), faults=[fault]
    )
    assert mpnb.split_date_range(t("2026-01-01"), t("2026-01-08"), n(7)) == mpnb.split_date_range(day(1), day(8), 7)
    asked: dict[str, Any] = {
        "from_date": t("2026-01-01"), "to_date": numpy.datetime64("2026-01-03"), "workers": n(2), "chunk_days": n(1),
        "late_days": n(4), "quota": mpnb.Quota(n(10**6), n(1000), n(9)), "spool": mpnb.Spool(tmp_path, n(10**8)),
        "credentials": replace(mp.credentials, project_id=n(77)), "database": tmp_path / "a.duckdb", "memory": n(10**9),
    }  # fmt: skip
    assert mpnb.plan(**asked).requests == 3
    with mpnb.export(**asked) as first, first.retry(workers=n(1)) as result:
        assert (first.successful_batches, first.failed_batches) == (2, 1)
        assert result.total_rows == mp.count(t("2026-01-01"), t("2026-01-03"))
        assert mp.lines(t("2026-01-01")) == mp.lines(day(1))
        assert repr(result.check(late_days=n(5))) == repr(result.check())
    with mpnb.start(**{**asked, "mode": "refresh"}, on_batch=lambda _: None).result(n(60)) as again:
        assert again.successful_batches == 3


@pytest.mark.parametrize("value", [numpy.bool_(True), numpy.float64(7), numpy.array([7]), "7"], ids=repr)
def test_what_is_no_whole_number_of_numpy_s_is_refused(value: Any) -> None:
    """As Python's own bools, floats and lists are."""
    with pytest.raises(mpnb.PlanError, match="chunk_days must be a whole number"):
        mpnb.split_date_range(day(1), day(2), value)
    with pytest.raises(ValueError, match="per_hour must be a whole number"):
        mpnb.Quota(per_hour=value)
    with pytest.raises(mpnb.PlanError, match="max_bytes must be a whole number"):
        mpnb.Spool(max_bytes=value)


# --- split_date_range ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("days", "chunk", "sizes"),
    [
        (8, 7, [7, 1]),
        (90, 7, [7] * 12 + [6]),
        (3, 7, [3]),
        (1, 1, [1]),
        (7, 7, [7]),
        (14, 7, [7, 7]),
        (100, 100, [100]),
    ],
)
def test_a_range_is_split_as_documented(days: int, chunk: int, sizes: list[int]) -> None:
    """8 days are 7 + 1, 90 days are 13 chunks, a range shorter than a chunk is one."""
    chunks = mpnb.split_date_range(day(1), day(days), chunk)
    assert [(last - first).days + 1 for first, last in chunks] == sizes


@given(st.dates(), st.integers(0, 3000), st.integers(1, 100))
def test_chunks_have_no_gaps_and_no_overlaps(first: date, length: int, chunk: int) -> None:
    """Every day of the range is in just one chunk, in order, and only the last chunk is shorter than asked."""
    last = first + min(timedelta(days=length), date.max - first)
    chunks = mpnb.split_date_range(first, last, chunk)
    assert [d for a, b in chunks for d in days_of(a, b)] == days_of(first, last)
    *full, end = [(b - a).days + 1 for a, b in chunks]
    assert all(size == chunk for size in full)
    assert 1 <= end <= chunk


@pytest.mark.parametrize("chunk", [0, -1, 101, 1.0, True, "7", None])
def test_a_chunk_has_1_to_100_days(chunk: object) -> None:
    """Nothing else is taken for a number of days."""
    with pytest.raises(mpnb.PlanError, match="chunk_days must be a whole number from 1 to 100"):
        mpnb.split_date_range(day(1), day(2), chunk)  # type: ignore[arg-type]


def test_a_range_runs_forwards() -> None:
    """The message names both days."""
    with pytest.raises(mpnb.PlanError, match="from_date 2026-01-02 is after to_date 2026-01-01"):
        mpnb.split_date_range(day(2), day(1))


# --- batches, beside what the ledger holds -------------------------------------------------------------------------

LATER = datetime(2027, 1, 1)
LONG = 60  # days that the properties below play on


def held(batch_id: int, first: int, last: int, requested_at: datetime = LATER) -> HeldBatch:
    return HeldBatch(batch_id, day(first), day(last), 10, requested_at)


@st.composite
def ledgers(draw: st.DrawFn) -> list[HeldBatch]:
    """Draw batches that do not overlap each other, as those of a ledger."""
    borders = sorted(draw(st.sets(st.integers(1, LONG), max_size=16)))
    pairs = list(zip(borders[::2], borders[1::2], strict=False))
    return [held(n, first, last) for n, (first, last) in enumerate(pairs, 1)]


def check_batches(batches: list[Batch], kept: list[HeldBatch], there: list[HeldBatch]) -> None:
    """See that no day is fetched twice, and that a batch of the ledger is replaced whole, by one batch alone."""
    days = [d for b in batches for d in days_of(b.from_date, b.to_date)]
    assert days == sorted(set(days))
    assert not set(days) & {d for h in kept for d in days_of(h.from_date, h.to_date)}
    replaced = [batch_id for b in batches for batch_id in b.replaces]
    assert len(replaced) == len(set(replaced))
    assert not set(replaced) & {h.batch_id for h in kept}
    by_id = {h.batch_id: h for h in there}
    for b in batches:
        inside = set(days_of(b.from_date, b.to_date))
        for h in by_id.values():
            shared = inside & set(days_of(h.from_date, h.to_date))
            assert bool(shared) == (h.batch_id in b.replaces)
            assert not shared or shared == set(days_of(h.from_date, h.to_date))


@given(ledgers(), st.integers(1, LONG), st.integers(1, LONG), st.integers(1, 20), st.sets(st.integers(1, 8)))
def test_every_day_that_is_asked_for_is_fetched_or_held(
    there: list[HeldBatch], first: int, last: int, chunk: int, stale: set[int]
) -> None:
    """Whatever the ledger holds: each day once, nothing replaced by halves, batches no longer than they must be."""
    first, last = min(first, last), max(first, last)
    batches, kept = make_batches([(day(first), day(last))], there, lambda h: h.batch_id in stale, chunk)
    check_batches(batches, kept, there)
    covered = {d for b in batches for d in days_of(b.from_date, b.to_date)}
    covered |= {d for h in kept for d in days_of(h.from_date, h.to_date)}
    assert set(days_of(day(first), day(last))) <= covered
    assert all(h.batch_id not in stale for h in kept)
    assert all(b.days <= chunk or len(b.replaces) == 1 for b in batches)


@given(ledgers(), st.sets(st.integers(1, LONG), max_size=16))
def test_what_failed_is_planned_again_and_nothing_else(there: list[HeldBatch], borders: set[int]) -> None:
    """Each day that failed is fetched once, with the batches that were to be replaced, and no other."""
    pairs = list(zip(sorted(borders)[::2], sorted(borders)[1::2], strict=False))
    unmet = [(day(first), day(last)) for first, last in pairs]
    batches, kept = plan_again(unmet, there)
    check_batches(batches, kept, there)
    assert kept == []
    wanted = {d for first, last in unmet for d in days_of(first, last)}
    fetched = {d for b in batches for d in days_of(b.from_date, b.to_date)}
    widened = {d for h in there for b in batches if h.batch_id in b.replaces for d in days_of(h.from_date, h.to_date)}
    assert wanted <= fetched <= wanted | widened


def test_days_that_failed_outside_the_range_are_for_whoever_asks_for_them() -> None:
    """A batch is not fetched again for a day of it that failed and that this range does not ask for."""
    assert spans(plan_of(1, 3, [held(1, 1, 7)], unmet=[(day(7), day(9))])) == []
    assert spans(plan_of(1, 7, [held(1, 1, 7)], unmet=[(day(7), day(9))])) == [(1, 7)]


# --- the plan ------------------------------------------------------------------------------------------------------


def plan_of(first: int, last: int, there: list[HeldBatch] = [], **how: Any) -> mpnb.ExportPlan:  # noqa: B006
    usual = {"mode": "resume", "chunk_days": 7, "quota_left": 60, "per_hour": 60}
    lateness = Lateness(LATER, how.pop("late_days", 5))
    return make_plan(day(first), day(last), there, **{**usual, "lateness": lateness, **how})


def spans(plan: mpnb.ExportPlan) -> list[tuple[int, int]]:
    return [((b.from_date - START).days + 1, (b.to_date - START).days + 1) for b in plan.batches]


def test_an_empty_ledger_leaves_all_to_fetch() -> None:
    """Ninety days by seven are thirteen requests."""
    plan = plan_of(1, 90)
    assert [(b.from_date, b.to_date) for b in plan.batches] == mpnb.split_date_range(day(1), day(90))
    assert (plan.requests, plan.days_held, plan.widened, plan.hours_waiting) == (13, (), (), 0)


def test_resume_fetches_what_the_ledger_does_not_hold() -> None:
    """Days that are held split the rest, and are counted only within the range."""
    plan = plan_of(5, 30, [held(1, 1, 7), held(2, 15, 20)])
    assert spans(plan) == [(8, 14), (21, 27), (28, 30)]
    assert plan.days_held == (*days_of(day(5), day(7)), *days_of(day(15), day(20)))
    assert [h.batch_id for h in plan.held] == [1, 2]


def test_refresh_fetches_all_and_widens_to_whole_batches() -> None:
    """A batch of the ledger goes whole: its days outside the range are fetched too, and shown."""
    plan = plan_of(5, 10, [held(1, 1, 7)], mode="refresh")
    assert spans(plan) == [(1, 7), (8, 10)]
    assert plan.batches[0].replaces == (1,)
    assert plan.widened == tuple(days_of(day(1), day(4)))
    assert plan.days_held == ()


@pytest.mark.parametrize(
    ("late_days", "days_after_the_end", "is_fetched"), [(5, 5, True), (5, 6, False), (0, 0, True), (0, 1, False)]
)
def test_a_day_is_provisional_for_late_days(late_days: int, days_after_the_end: int, is_fetched: bool) -> None:
    """Fetched too few days after its end, it is fetched once more when they are over; after that, it is settled."""
    end = datetime.combine(day(7), datetime.min.time()) + timedelta(days=days_after_the_end)
    plan = plan_of(1, 7, [held(1, 1, 7, end)], late_days=late_days)
    assert bool(plan.batches) == is_fetched


def test_only_the_days_that_need_not_be_fetched_count_as_widened() -> None:
    """Of a batch whose last days are provisional, the settled ones come along."""
    fetched = datetime.combine(day(9), datetime.min.time())
    plan = plan_of(1, 7, [held(1, 1, 7, fetched)], late_days=5)
    assert spans(plan) == [(1, 7)]
    assert plan.widened == tuple(days_of(day(1), day(3)))


@pytest.mark.parametrize(
    ("days", "left", "chunk"), [(90, 60, 2), (60, 60, 1), (61, 60, 2), (90, 1, 90), (300, 2, 100), (90, 0, 2)]
)
def test_auto_takes_the_smallest_chunk_that_fits(days: int, left: int, chunk: int) -> None:
    """What is left of the hour decides, or a whole hour where nothing is left, and 100 days where nothing fits."""
    plan = plan_of(1, days, chunk_days="auto", quota_left=left)
    assert plan.batches[0].days == chunk


@pytest.mark.parametrize(("left", "hours"), [(60, 0), (13, 0), (12, 1), (0, 1)])
def test_a_plan_says_how_long_the_quota_makes_it_wait(left: int, hours: int) -> None:
    """Full hours, and the text says what would take fewer requests."""
    plan = plan_of(1, 90, quota_left=left)
    assert plan.hours_waiting == hours
    assert ("chunk_days='auto'" in str(plan)) == (hours > 0)


def test_a_plan_shows_as_text_and_html() -> None:
    """The same facts in both; what comes from elsewhere is escaped."""
    plan = plan_of(5, 10, [held(1, 1, 7)], mode="refresh", notes=("<b>note</b>",))
    shown = plan._repr_mimebundle_()
    assert shown["text/plain"] == str(plan)
    assert "2 of 7 days (the shortest 3)" in str(plan)
    assert "2 of 60 left this hour" in str(plan)
    assert "4 more days" in str(plan)
    assert "&lt;b&gt;note" in shown["text/html"]
    assert "<b>note" not in shown["text/html"]


# --- mpnb.plan() ---------------------------------------------------------------------------------------------------


def test_a_plan_sends_nothing_and_makes_no_file(sandbox, database: Path, tmp_path: Path) -> None:
    """It needs no database, and leaves none."""
    mp = sandbox()
    plan = mpnb.plan(day(1), day(90), credentials=mp.credentials, database=database)
    assert (plan.requests, plan.quota_left) == (13, 60)
    assert not mp.requests
    assert not list(tmp_path.iterdir())


def test_a_plan_needs_no_credentials(database: Path) -> None:
    """Without any, the hour counts as whole."""
    assert mpnb.plan(day(1), day(90), database=database).quota_left == 60


def test_a_plan_is_what_the_export_then_does(sandbox, export, database: Path) -> None:
    """The same call exports just the batches of the plan, which changes nothing in the database."""
    mp = sandbox()
    export(mp, day(3), day(4)).close()
    before = query(database, "FROM mpnb_batches")
    plan = mpnb.plan(day(1), day(6), credentials=mp.credentials, database=database, chunk_days=1)
    assert query(database, "FROM mpnb_batches") == before
    assert plan.quota_left == WIDE.per_hour - 2
    sent = len(mp.requests)
    result = export(mp, day(1), day(6))
    asked = sorted((r.from_date, r.to_date) for r in mp.requests[sent:])
    assert asked == [(b.from_date, b.to_date) for b in plan.batches]
    assert (result.successful_batches, result.skipped_batches) == (4, 2)


def test_a_to_date_after_today_is_cut_with_a_warning(database: Path) -> None:
    """The last batch ends today, and the warning points at the caller's own line."""
    today = datetime.now(UTC).date()
    with pytest.warns(UserWarning, match=f"using {today}") as caught:
        plan = mpnb.plan("2 days ago", today + timedelta(days=10), database=database)
    assert caught[0].filename == __file__
    assert plan.to_date == plan.batches[-1].to_date == today
    assert "using" in str(plan)


# --- arguments -----------------------------------------------------------------------------------------------------

WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"from_date": "soon"}, mpnb.PlanError, "from_date must be a date, 'YYYY-MM-DD'"),
    ({"to_date": None}, mpnb.PlanError, "to_date must be a date"),
    ({"from_date": "0001-01-01"}, mpnb.PlanError, "from_date 0001-01-01 is before 2009, when Mixpanel began"),
    ({"from_date": "9999 days ago"}, mpnb.PlanError, "before 2009, when Mixpanel began: it has no earlier events"),
    ({"from_date": "2026-01-09"}, mpnb.PlanError, "from_date 2026-01-09 is after to_date 2026-01-03"),
    ({"from_date": "2999-01-01", "to_date": "2999-01-02"}, mpnb.PlanError, "from_date 2999-01-01 is after today"),
    ({"workers": 0}, mpnb.PlanError, "workers must be a whole number from 1 to 100, not 0"),
    ({"workers": 101}, mpnb.PlanError, "workers must be a whole number from 1 to 100, not 101"),
    ({"workers": "10"}, mpnb.PlanError, "workers must be a whole number from 1 to 100, not '10'"),
    ({"workers": True}, mpnb.PlanError, "workers must be a whole number from 1 to 100, not True"),
    ({"chunk_days": 0}, mpnb.PlanError, "chunk_days must be a whole number from 1 to 100, or 'auto', not 0"),
    ({"chunk_days": 101}, mpnb.PlanError, "chunk_days must be a whole number from 1 to 100, or 'auto', not 101"),
    ({"chunk_days": "Auto"}, mpnb.PlanError, "chunk_days must be a whole number from 1 to 100, or 'auto', not 'Auto'"),
    ({"late_days": -1}, mpnb.PlanError, "late_days must be a whole number from 0"),
    ({"mode": "append"}, mpnb.PlanError, "mode must be 'resume', 'refresh' or 'new', not 'append'"),
    ({"on_batch": 5}, mpnb.PlanError, "on_batch must be a function of a BatchProgress, not 5"),
    ({"quota": 60}, mpnb.PlanError, "quota must be an mpnb.Quota, not 60"),
    ({"spool": "/tmp"}, mpnb.PlanError, "spool must be an mpnb.Spool, not '/tmp'"),
    ({"where": " "}, mpnb.PlanError, "where must be a filter expression"),
    ({"where": 5}, mpnb.PlanError, "where must be a filter expression"),
    ({"events": []}, mpnb.PlanError, "events must be a list of names"),
    ({"events": ["a", ""]}, mpnb.PlanError, "events must be a list of names"),
    ({"events": ["a", 5]}, mpnb.PlanError, "events must be a list of names"),
    ({"events": 5}, mpnb.PlanError, "events must be a list of names"),
    ({"table": ""}, mpnb.TableError, "table must be the name of a table"),
    ({"table": 5}, mpnb.TableError, "table must be the name of a table"),
    ({"table": "a\0b"}, mpnb.TableError, "table must be the name of a table"),
    ({"table": "MPNB_batches"}, mpnb.TableError, "names that begin with mpnb_ are mpnb's own"),
    ({"database": ""}, mpnb.DatabaseError, "database must be a path, ':memory:' or a DuckDB connection"),
    ({"database": 5}, mpnb.DatabaseError, "database must be a path, ':memory:' or a DuckDB connection"),
    ({"database": "a\0b"}, mpnb.DatabaseError, "database must be a path, ':memory:' or a DuckDB connection"),
    ({"database": b"x"}, mpnb.DatabaseError, "database must be a path, ':memory:' or a DuckDB connection"),
    ({"database": None}, mpnb.DatabaseError, "database must be a path, ':memory:' or a DuckDB connection"),
    ({"credentials": "secret"}, mpnb.CredentialsError, "credentials must be an mpnb.Credentials"),
]


@pytest.mark.parametrize("call", [mpnb.plan, mpnb.export, mpnb.start], ids=["plan", "export", "start"])
@pytest.mark.parametrize(("wrong", "kind", "message"), WRONG, ids=lambda value: str(value)[:40])
def test_an_argument_that_cannot_work_is_refused_before_the_first_request(
    sandbox, tmp_path: Path, call: Any, wrong: dict[str, Any], kind: type[Exception], message: str
) -> None:
    """The message says what is wanted and what was passed; nothing is sent, and no file is made."""
    mp = sandbox()
    usual = {"from_date": day(1), "to_date": day(3), "credentials": mp.credentials, "database": tmp_path / "a.duckdb"}
    with pytest.raises(kind, match=re.escape(message)) as error:
        call(**{**usual, **wrong})
    assert isinstance(error.value, mpnb.PlanError)
    assert "secret" not in str(error.value)
    assert not mp.requests
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("call", [mpnb.export, mpnb.start], ids=["export", "start"])
def test_without_credentials_the_message_names_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, call: Any
) -> None:
    """The environment is looked at, and no file is made."""
    monkeypatch.setenv("MP_USERNAME", "someone")
    with pytest.raises(mpnb.CredentialsError, match="set MP_SECRET, MP_PROJECT_ID in the environment"):
        call(day(1), day(3), database=tmp_path / "a.duckdb")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "9"])
def test_a_spool_has_room_for_a_byte_at_least(value: object) -> None:
    """A budget must be a whole number of bytes."""
    with pytest.raises(mpnb.PlanError, match="max_bytes must be a whole number"):
        mpnb.Spool(max_bytes=value)  # type: ignore[arg-type]
