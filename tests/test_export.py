"""Every event of the range is in the table exactly as it was served, and no line is lost."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta
from typing import Any

import polars
import pyarrow
import pytest

import mpnb
from mpnb.sandbox import BAD_LINES, Fault, Sandbox, serve
from tests._helpers import (
    WIDE,
    WallClock,
    all_or_nothing,
    as_served,
    as_stored,
    canonical,
    day,
    days_of,
    event,
    moved,
    query,
    statuses,
    until,
)

COLUMNS = ["event_name", "time", "distinct_id", "device_id", "user_id", "insert_id", "properties", "batch_id"]

# --- a quarter -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def quarter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Sandbox, mpnb.ExportResult]]:
    """Export ninety days in thirteen batches by ten workers, in gzip of three members."""
    with (
        serve(events_per_day=200, gzip_members=3) as mp,
        mpnb.export(
            day(1), day(90), credentials=mp.credentials, quota=WIDE, database=tmp_path_factory.mktemp("q") / "q.duckdb"
        ) as result,
    ):
        yield mp, result


def test_ninety_days_are_thirteen_requests(quarter) -> None:
    """One request a batch, seven days each but the last, and all of them done."""
    mp, result = quarter
    assert sorted((r.from_date, r.to_date) for r in mp.requests) == mpnb.split_date_range(day(1), day(90))
    assert (result.successful_batches, result.failed_batches, result.skipped_batches) == (13, 0, 0)
    assert statuses(result) == {"done": 13}
    assert not result.has_failures
    assert result.failed_date_ranges == []


def test_every_event_is_in_the_table_as_served(quarter) -> None:
    """Names and properties are the same JSON, as often as they were served, and nothing else is there."""
    mp, result = quarter
    served = as_served(mp, days_of(day(1), day(90)))
    assert served.total() > 17_000
    assert as_stored(result.events.select("event_name, properties").fetchall()) == served
    assert result.total_rows == result.fetched_rows == served.total() == mp.count(day(1), day(90))
    all_or_nothing(result, mp)


def test_the_columns_are_what_the_properties_say(quarter) -> None:
    """Five columns repeat a property, or are null where the event has none."""
    _, result = quarter
    for time, *ids, properties in result.events.select(
        "time, distinct_id, device_id, user_id, insert_id, properties"
    ).fetchall():
        p = json.loads(properties)
        assert ids == [p.get(name) for name in ("distinct_id", "$device_id", "$user_id", "$insert_id")]
        seconds = p["time"] / 1000 if p["time"] > 1e11 else p["time"]
        assert (time - datetime(1970, 1, 1)).total_seconds() == pytest.approx(seconds, abs=1e-5)


def test_all_forms_of_the_events_agree(quarter) -> None:
    """The relation, pandas, polars, Arrow and the Arrow stream hold the same rows in the same columns."""
    _, result = quarter
    rows = Counter(result.events.fetchall())
    assert result.events.columns == COLUMNS
    arrow, stream = result.arrow(), pyarrow.table(result)
    for table in (arrow, stream, result.pl().to_arrow(), pyarrow.Table.from_pandas(result.df(), preserve_index=False)):
        assert table.column_names == COLUMNS
        assert Counter(zip(*table.to_pydict().values(), strict=True)) == rows
    assert isinstance(arrow, pyarrow.Table)
    assert isinstance(polars.from_arrow(stream), polars.DataFrame)


def test_sql_and_the_connection_read_the_same_table(quarter) -> None:
    """The table has the name it was exported to, for sql(), for the connection, and for a variable in a query."""
    _, result = quarter
    events = result.events
    assert result.sql("SELECT count(*) FROM events").fetchall() == [(result.total_rows,)]
    assert result.con.execute("SELECT count(*) FROM events").fetchall() == [(result.total_rows,)]
    assert events.aggregate("count(*)").fetchall() == [(result.total_rows,)]
    assert result.con is result.con


def test_event_names_are_counted(quarter) -> None:
    """Most frequent first, with users and the span of time."""
    mp, result = quarter
    names = Counter(json.loads(line)["event"] for d in days_of(day(1), day(90)) for line in mp.lines(d))
    found = result.event_names().fetchall()
    assert {row[0]: row[1] for row in found} == names
    assert [row[1] for row in found] == sorted(names.values(), reverse=True)


def test_the_database_is_a_file_that_any_duckdb_reads(quarter) -> None:
    """A connection of the user's own sees what the result shows, with the ledger beside it."""
    _, result = quarter
    [(file,)] = result.sql("SELECT path FROM duckdb_databases() WHERE path IS NOT NULL").fetchall()
    assert query(file, "SELECT count(*) FROM events") == [(result.total_rows,)]
    assert query(file, "SELECT sum(rows) FROM mpnb_batches") == [(result.total_rows,)]


# --- filters -------------------------------------------------------------------------------------------------------


def test_events_and_where_are_sent_as_mixpanel_wants_them(sandbox, export) -> None:
    """``events`` goes as a JSON array in text, ``where`` as it is, and the table holds what they let through."""
    mp = sandbox(events_per_day=200)
    names = Counter(json.loads(line)["event"] for d in days_of(day(1), day(3)) for line in mp.lines(d))
    (first, _), (second, _) = names.most_common(2)
    where = 'properties["made_up"] == true'
    result = export(mp, events=[first, second, first], where=where)
    assert {r.params["event"] for r in mp.requests} == {json.dumps([first, second])}
    assert {r.params["where"] for r in mp.requests} == {where}
    assert dict(result.event_names().select("event_name, events").fetchall()) == {
        first: names[first],
        second: names[second],
    }


def test_one_event_may_be_a_text(sandbox, export) -> None:
    """A name with quotes and letters of other alphabets is still one name."""
    name = 'Tab "Ü" 你好'
    mp = sandbox(lines=lambda d: [moved(event(name), d), moved(event("other"), d)])
    assert export(mp, events=name).total_rows == 3
    assert json.loads(mp.requests[0].params["event"]) == [name]


# --- odd events ----------------------------------------------------------------------------------------------------

# What each line becomes: the columns that differ from null. All of its properties are there in any case.
ODD: list[tuple[str, bytes, dict[str, Any]]] = [
    ("nothing", b'{"event":"a","properties":{}}', {"event_name": "a"}),
    ("no name", b'{"event":"","properties":{}}', {"event_name": ""}),
    ("other order", b'{"properties":{"distinct_id":"x"},"event":"a"}', {"event_name": "a", "distinct_id": "x"}),
    ("spaces", b' \t{ "event" : "a" , "properties" : { "b" : [ 1 , 2 ] } } ', {"event_name": "a"}),
    ("escaped keys", b'{"\\u0065vent":"a","\\u0070roperties":{}}', {"event_name": "a"}),
    ("null distinct_id", b'{"event":"a","properties":{"distinct_id":null}}', {"event_name": "a"}),
    ("empty distinct_id", b'{"event":"a","properties":{"distinct_id":""}}', {"event_name": "a", "distinct_id": ""}),
    (
        "ids of all types",
        b'{"event":"a","properties":{"distinct_id":9223372036854775808,"$device_id":true,"$user_id":[1],'
        b'"$insert_id":{"a":1.5}}}',
        {
            "event_name": "a",
            "distinct_id": "9223372036854775808",
            "device_id": "true",
            "user_id": "[1]",
            "insert_id": '{"a":1.5}',
        },
    ),
    ("time in s", b'{"event":"a","properties":{"time":1767225600}}', {"event_name": "a", "time": datetime(2026, 1, 1)}),
    (
        "time in ms",
        b'{"event":"a","properties":{"time":1767225600123}}',
        {"event_name": "a", "time": datetime(2026, 1, 1, 0, 0, 0, 123000)},
    ),
    (
        "time as text",
        b'{"event":"a","properties":{"time":"1767225600"}}',
        {"event_name": "a", "time": datetime(2026, 1, 1)},
    ),
    (
        "time with a fraction",
        b'{"event":"a","properties":{"time":1767225600.25}}',
        {"event_name": "a", "time": datetime(2026, 1, 1, 0, 0, 0, 250000)},
    ),
    ("time before 1970", b'{"event":"a","properties":{"time":-1}}',
     {"event_name": "a", "time": datetime(1969, 12, 31, 23, 59, 59)}),
    ("time is no number", b'{"event":"a","properties":{"time":"soon"}}', {"event_name": "a"}),
    ("time is null", b'{"event":"a","properties":{"time":null}}', {"event_name": "a"}),
    ("time is endless", b'{"event":"a","properties":{"time":1e300}}', {"event_name": "a"}),
    ("time is true", b'{"event":"a","properties":{"time":true}}', {"event_name": "a"}),
    ("19 digits", b'{"event":"a","properties":{"id":9007199254740993123,"neg":-9223372036854775808}}',
     {"event_name": "a"}),
    ("40 digits", b'{"event":"a","properties":{"id":1234567890123456789012345678901234567890}}', {"event_name": "a"}),
    ("floats", b'{"event":"a","properties":{"f":[1.10,1e20,-0.0,1E-7,0.1,123456789.125]}}', {"event_name": "a"}),
    ("case", b'{"event":"a","properties":{"plan":1,"Plan":2,"PLAN":3}}', {"event_name": "a"}),
    (
        "names of columns",
        b'{"event":"a","properties":{"event":1,"event_name":2,"properties":{"x":1},"insert_id":3,"batch_id":4}}',
        {"event_name": "a"},
    ),
    ("names like paths", b'{"event":"a","properties":{"a.b":1,"/time":2,"~0":3,"$":4,"":5,"[0]":6}}',
     {"event_name": "a"}),
    (
        "line separators",
        '{"event":"a\u2028b","properties":{"x":"\u2028\u2029\u0085\u00a0\ufeff"}}'.encode(),
        {"event_name": "a\u2028b"},
    ),
    (
        "escaped controls",
        b'{"event":"a","properties":{"x":"\\u000b\\f\\u001c\\u001d\\u001e\\n\\r\\t\\u007f"}}',
        {"event_name": "a"},
    ),
    (
        "NUL",
        b'{"event":"a\\u0000b","properties":{"x":"c\\u0000d","distinct_id":"e\\u0000","\\u0000":1}}',
        {"event_name": "a\0b", "distinct_id": "e\0"},
    ),
    ("emoji", '{"event":"😀","properties":{"😀":"\\ud83d\\ude00"}}'.encode(), {"event_name": "😀"}),
    ("quotes", b'{"event":"\\"\\\\\\/","properties":{"\'; DROP TABLE events":"\\""}}', {"event_name": '"\\/'}),
    ("deep", b'{"event":"a","properties":{"x":' + b"[" * 200 + b"]" * 200 + b"}}", {"event_name": "a"}),
    ("large", b'{"event":"a","properties":{"x":"' + b"y" * 3_000_000 + b'"}}', {"event_name": "a"}),
    ("many names", json.dumps({"event": "a", "properties": {f"p{n}": n for n in range(5000)}}).encode(),
     {"event_name": "a"}),
]  # fmt: skip


def row_of(line: bytes, columns: dict[str, Any]) -> tuple[Any, ...]:
    properties = canonical(json.dumps(json.loads(line)["properties"]))
    return (*(columns.get(name) for name in COLUMNS[:6]), properties)


def rows_in(result: mpnb.ExportResult, batch_id: int | None = None) -> Counter[tuple[Any, ...]]:
    mine = result.events.filter("true" if batch_id is None else f"batch_id = {batch_id}")
    rows = mine.select(", ".join(COLUMNS[:7])).fetchall()
    return Counter((*row[:6], canonical(row[6])) for row in rows)


def test_an_odd_event_survives_alone(sandbox, export) -> None:
    """In a batch of its own it is one row, its properties parse to the same JSON, and nothing of it is rejected."""
    odd = {day(n): case for n, case in enumerate(ODD, 1)}
    result = export(sandbox(lines=lambda d: [moved(odd[d][1], d)]), day(1), day(len(ODD)))
    batches = {d: batch_id for d, batch_id in result.batches.select("from_date, batch_id").fetchall()}
    for d, (name, line, columns) in odd.items():
        when = {"time": columns["time"] + (d - day(1))} if columns.get("time", datetime.min).year == 2026 else {}
        assert rows_in(result, batches[d]) == Counter([row_of(moved(line, d), columns | when)]), name
    assert result.rejected.fetchall() == []
    assert result.rejected_lines == 0


@pytest.mark.parametrize("how", [{"gzip_members": 1}, {"gzip_members": 4}, {"faults": [Fault("plain", times=None)]}])
def test_odd_events_survive_together(sandbox, export, how: dict[str, Any]) -> None:
    """In one body, in gzip of one or more members or in none, four times each: the same rows."""
    result = export(sandbox(lines=lambda d: [line for _, line, _ in ODD] * 4, **how), day(1), day(1))
    assert rows_in(result) == Counter([row_of(line, columns) for _, line, columns in ODD] * 4)
    assert result.rejected.fetchall() == []


@pytest.mark.parametrize("ending", [b"\r", b"\n", b"\n\n \t\r"])
def test_line_ends_and_blank_lines_add_nothing(sandbox, export, ending: bytes) -> None:
    """CRLF and blank lines between and after the events are neither events nor rejected."""
    result = export(sandbox(lines=lambda d: [event(n=1) + ending, event(n=2) + ending]), day(1), day(2))
    assert result.total_rows == 4
    assert result.rejected_lines == 0


def test_a_charset_in_the_header_changes_nothing(sandbox, export) -> None:
    """Whatever the header says, the body is UTF-8."""
    mp = sandbox(lines=lambda d: [moved(event("ü", x="你好"), d)], faults=[Fault("charset", times=None)])
    result = export(mp)
    assert mp.injected["charset"] == 3
    all_or_nothing(result, mp)


@pytest.mark.parametrize("chunk_days", [1, 3])
def test_duplicates_are_kept_as_served_and_merged_on_request(sandbox, export, chunk_days: int) -> None:
    """The table merges nothing; ``deduplicated()`` is Mixpanel's rule: the newest of the same four, others apart."""
    same = {"$insert_id": "i"}
    lines = [
        event("a", **same, mp_processing_time_ms=1, v="old"),
        event("a", **same, mp_processing_time_ms=3, v="new"),
        event("a", **same, v="no time"),
        event("b", **same, v="other name"),
        event("a", **{**same, "distinct_id": "c"}, v="other person"),
        event("a", **{**same, "time": 1767225601}, v="other time"),
        event("a", v="no insert_id"),
        event("a", v="no insert_id"),
    ]
    result = export(sandbox(lines=lambda d: lines if d == day(2) else []), chunk_days=chunk_days)
    assert result.total_rows == 8
    values = sorted(v for (v,) in result.deduplicated().select("properties->>'v'").fetchall())
    assert values == ["new", "no insert_id", "no insert_id", "other name", "other person", "other time"]


# --- nothing to fetch ----------------------------------------------------------------------------------------------


def test_days_without_events_are_empty_and_the_table_is_there(sandbox, export) -> None:
    """Empty is a success with a status of its own, and every form of the events has its columns."""
    result = export(sandbox(lines=lambda d: []))
    assert statuses(result) == {"empty": 3}
    assert (result.successful_batches, result.total_rows, result.has_failures) == (3, 0, False)
    described = result.sql("DESCRIBE events").fetchall()
    assert {name: kind for name, kind, *_ in described} == {
        "event_name": "VARCHAR",
        "time": "TIMESTAMP",
        "distinct_id": "VARCHAR",
        "device_id": "VARCHAR",
        "user_id": "VARCHAR",
        "insert_id": "VARCHAR",
        "properties": "JSON",
        "batch_id": "BIGINT",
    }
    assert list(result.df().columns) == result.pl().columns == result.arrow().column_names == COLUMNS


@pytest.mark.parametrize("blank", [[b""], [b"", b" ", b"\t"]])
def test_a_body_of_blank_lines_is_empty(sandbox, export, blank: list[bytes]) -> None:
    """Line ends alone are no events."""
    result = export(sandbox(lines=lambda d: blank))
    assert statuses(result) == {"empty": 3}


def test_some_days_without_events_among_others(sandbox, export) -> None:
    """Each batch has its own status."""
    mp = sandbox(lines=lambda d: [event()] if d == day(2) else [])
    assert statuses(export(mp)) == {"empty": 2, "done": 1}


# --- lines that are no events --------------------------------------------------------------------------------------

REASONS = [
    "no valid JSON",
    "no valid JSON",
    "no valid UTF-8",
    "no valid JSON",
    "no JSON object",
    "no JSON object",
    "event is missing or no text",
    "event is missing or no text",
    "properties is missing or no object",
]


@pytest.mark.parametrize("gzip_members", [1, 3])
@pytest.mark.parametrize("at", [0.0, 0.5])
def test_lines_that_are_no_events_are_kept_whole_beside_the_others(sandbox, export, gzip_members, at) -> None:
    """Byte for byte, with place and reason; all good lines of the batch are in the table, and all is counted."""
    mp = sandbox(gzip_members=gzip_members, faults=[Fault("bad_lines", day(2), at=at)])
    result = export(mp)
    all_or_nothing(result, mp)
    rejected = result.rejected.fetchall()
    before = int(at * len(mp.lines(day(2))))
    assert [(r[0], r[1]) for r in rejected] == [(day(2), day(2))] * 9
    assert [r[2] for r in rejected] == list(range(before + 1, before + 10))
    assert [(r[3], r[4]) for r in rejected] == list(zip(REASONS, BAD_LINES, strict=True))
    assert not any(r[5] for r in rejected)
    assert result.rejected_lines == 9
    ledger = "SELECT rows, rejected FROM mpnb_batches WHERE from_date = DATE '2026-01-02'"
    assert result.sql(ledger).fetchall() == [(mp.count(day(2), day(2)), 9)]
    assert "9 lines are not in the table" in repr(result)


BAD = [
    b"{}",
    b"null",
    b'"event"',
    b"{",
    b'{"event":"a"}',
    b'{"event":5,"properties":{}}',
    b'{"event":null,"properties":{}}',
    b'{"event":"a","properties":null}',
    b'{"event":"a","properties":"{}"}',
    b'{"event":"a","properties":[]}',
    b'{"Event":"a","Properties":{}}',
    b'{"event":"a","properties":{}}{"event":"b","properties":{}}',
    b'{"event":"a","properties":{}}\r{"event":"b","properties":{}}',
    b'{"event":"a","properties":{}} // comment',
    b"{'event':'a','properties':{}}",
    b'{"event":"a","properties":{"x":"\x01"}}',
    b'{"event":"a","properties":{"x":"\xff"}}',
    b'{"event":"\xed\xa0\x80","properties":{}}',
    b'{"event":"a","properties":{"x":"\\udc00"}}',
    b'{"event":"a","properties":{"x":1',
    b"\0",
    b"x" * 1_000_000,
]


@pytest.mark.parametrize("before", [[], [event()]], ids=["first", "second"])
@pytest.mark.parametrize("beside", [[], [b""], [b"", b" "]], ids=["", "one blank", "two blank"])
def test_each_kind_of_bad_line_is_rejected_whole(sandbox, export, before: list[bytes], beside: list[bytes]) -> None:
    """One line in, one line among the rejected, however the counts of rows and lines may add up."""
    bad = {day(n): line for n, line in enumerate(BAD, 1)}

    def lines(d: date) -> list[bytes]:
        return [*(moved(line, d) for line in before), bad[d], *beside, moved(event(), d)]

    result = export(sandbox(lines=lines), day(1), day(len(BAD)))
    rejected = result.rejected.select("from_date, line_number, line, in_events").fetchall()
    assert rejected == [(d, len(before) + 1, line, False) for d, line in bad.items()]
    rows = len(before) + 1
    assert result.batches.select("rows, rejected").distinct().fetchall() == [(rows, 1)]
    assert (result.total_rows, result.rejected_lines) == (rows * len(BAD), len(BAD))


WIDER = [
    b'{"event":"a","properties":{"x":1},"more":2}',
    b'{"event":"a","properties":{"x":1},"":0}',
    b'{"event":"a","properties":{"x":1e20,"y":1e20},"more":{}}',
    b'{"event":"a","properties":{"x":1e5,"y":1e5,"z":1e5,"w":1e5},"m":1}',
    b'{"event":"a","properties":{"x":12e30,"y":12e30,"z":12e30,"w":12e30},"":1}',
    b'{"x":{},"event":"a","properties":{}}',
    b'{"properties":{},"event":"a","x":{}}',
    b'{"event":"a","properties":{"x":1},"properties":{"x":2}}',
    b'{"event":"a","event":"b","properties":{"x":1}}',
    b'{"event":"a","properties":{},"Properties":{"x":1}}',
    b'{"event":"a","properties":{},"\\u0065vent":1}',
    # Names that the query has uses of its own for.
    *(
        b'{"event":"a","properties":{},"%s":"1"}' % name
        for name in (b"filename", b"batch_id", b"p", b"t", b"json", b"*")
    ),
]


@pytest.mark.parametrize("at", [0, 1], ids=["first", "second"])
@pytest.mark.parametrize("chunk_days", [1, 7])
def test_keys_that_have_no_column_are_kept_with_the_whole_line(sandbox, export, at: int, chunk_days: int) -> None:
    """The event is in the table, and its line among the rejected, marked as being in both."""
    wider = {day(n): line for n, line in enumerate(WIDER, 1)}

    def lines(d: date) -> list[bytes]:
        return [moved(event("b"), d)] * at + [wider[d], moved(event("b"), d)]

    result = export(sandbox(lines=lines), day(1), day(len(WIDER)), chunk_days=chunk_days)
    names = dict(result.event_names().select("event_name, events").fetchall())
    assert names == {"a": len(WIDER), "b": len(WIDER) * (1 + at)}
    rejected = result.rejected.select("line, in_events").fetchall()
    assert sorted(rejected) == sorted((line, True) for line in WIDER)
    assert result.rejected_lines == 0


def test_a_batch_of_bad_lines_alone_is_done(sandbox, export) -> None:
    """With an event at its end, as a whole body has; the rest is kept."""
    result = export(sandbox(lines=lambda d: [*BAD_LINES, event()]), day(1), day(1))
    assert (result.total_rows, result.rejected_lines) == (1, 9)


def test_many_bad_lines_are_kept_block_by_block(sandbox, export) -> None:
    """More lines than are read at once, good and bad in turn: none is lost or told twice."""
    lines = [event(n=n) if n % 2 else b"bad %d" % n for n in range(50_001)] + [event()]
    result = export(sandbox(lines=lambda d: lines), day(1), day(1), chunk_days=7)
    assert (result.total_rows, result.rejected_lines) == (25_001, 25_001)
    assert result.rejected.select("line_number, line").fetchall() == [
        (n + 1, b"bad %d" % n) for n in range(0, 50_001, 2)
    ]
    assert result.sql("SELECT count(DISTINCT properties->>'/n') FROM events").fetchall() == [(25_000,)]


# --- again ---------------------------------------------------------------------------------------------------------


def test_the_same_call_again_fetches_nothing(sandbox, export) -> None:
    """What the ledger holds is skipped, and counts as what was asked for."""
    mp = sandbox()
    first = export(mp)
    second = export(mp)
    assert len(mp.requests) == 3
    assert (second.successful_batches, second.skipped_batches, second.fetched_rows) == (0, 3, 0)
    assert second.total_rows == first.total_rows == mp.count(day(1), day(3))


def test_an_export_goes_on_where_another_range_ended(sandbox, export) -> None:
    """Overlapping calls with batches of other lengths leave each day once."""
    mp = sandbox()
    export(mp, day(3), day(9), chunk_days=3)
    export(mp, day(1), day(12), chunk_days=5)
    result = export(mp, day(1), day(20), chunk_days=7)
    all_or_nothing(result, mp)
    assert result.total_rows == mp.count(day(1), day(20))


class Changing:
    """Serve other events of a day each time it is told to."""

    def __init__(self) -> None:
        self.version = 0

    def __call__(self, of: date) -> list[bytes]:
        return [moved(event(version=self.version, n=n), of) for n in range(self.version + 1)]


def versions(result: mpnb.ExportResult) -> list[tuple[Any, ...]]:
    return sorted(
        result.sql(
            "SELECT from_date, (properties->>'/version')::INT, count(*) FROM events JOIN mpnb_batches USING (batch_id)"
            " GROUP BY ALL"
        ).fetchall()
    )


def test_refresh_replaces_the_days_that_are_asked_for(sandbox, export) -> None:
    """The old rows go with the transaction that brings the new ones; other days stay as they are."""
    lines = Changing()
    mp = sandbox(lines=lines)
    export(mp, day(1), day(5))
    lines.version = 1
    result = export(mp, day(2), day(3), mode="refresh")
    assert versions(result) == [(day(n), 1, 2) if n in (2, 3) else (day(n), 0, 1) for n in range(1, 6)]
    assert (result.fetched_rows, result.total_rows) == (4, 4)
    assert len(mp.requests) == 7


def test_a_refresh_that_fails_leaves_the_old_rows(sandbox, export) -> None:
    """There is no moment at which a day is gone: without the new rows the old ones stay, and the day is retried."""
    lines = Changing()
    mp = sandbox(lines=lines)
    export(mp)
    lines.version = 1
    mp.add_fault(Fault("half_line", day(2), times=None))
    result = export(mp, mode="refresh")
    assert versions(result) == [(day(1), 1, 2), (day(2), 0, 1), (day(3), 1, 2)]
    assert result.failed_date_ranges == [(day(2), day(2))]
    assert result.total_rows == 5
    mp.clear_faults()
    again = result.retry()
    assert versions(again) == [(day(n), 1, 2) for n in (1, 2, 3)]
    assert not again.has_failures
    again.close()


def test_a_refresh_takes_the_lines_that_were_no_events(sandbox, export, database) -> None:
    """They go with the batch that brought them, and leave those of other batches: none is anybody's any more."""
    mp = sandbox(faults=[Fault("bad_lines", day(1)), Fault("bad_lines", day(2))])
    assert export(mp).rejected_lines == 2 * len(BAD_LINES)
    export(mp, day(2), day(3), mode="refresh").close()
    left = "SELECT b.from_date, count(*) FROM mpnb_rejected LEFT JOIN mpnb_batches AS b USING (batch_id) GROUP BY ALL"
    assert query(database, left) == [(day(1), len(BAD_LINES))]


def test_readers_never_see_a_day_gone_while_it_is_replaced(sandbox, export, start, database) -> None:
    """While a refresh runs, every query sees each day with its old rows or its new ones."""
    lines = Changing()
    mp = sandbox(lines=lines)
    held = export(mp, day(1), day(10))
    lines.version = 1
    job = start(mp, day(1), day(10), mode="refresh")
    seen = []
    until(lambda: seen.append(versions(held)) or job.done(), 60)
    for rows in seen:
        assert [row[0] for row in rows] == days_of(day(1), day(10))
        assert all(row[1:] in ((0, 1), (1, 2)) for row in rows)
    assert versions(held) == [(d, 1, 2) for d in days_of(day(1), day(10))]


def test_days_that_are_provisional_are_fetched_again(sandbox, export, clock: WallClock) -> None:
    """Yesterday's events may still come: once they have, the same call fetches the day anew; what is settled stays."""
    lines = Changing()
    mp = sandbox(lines=lines)
    first, last = clock.now.date() - timedelta(days=20), clock.now.date() - timedelta(days=1)
    export(mp, first, last)
    lines.version = 1
    assert export(mp, first, last).skipped_batches == 20
    clock.now += timedelta(days=5)
    result = export(mp, first, last)
    assert (result.skipped_batches, result.successful_batches) == (15, 5)
    assert result.total_rows == 15 + 10
    assert export(mp, first, last, late_days=0).skipped_batches == 20


@pytest.mark.parametrize("chunk_days", [1, 7, "auto", 100])
@pytest.mark.parametrize("workers", [1, 3, 100])
def test_any_number_of_workers_and_days_brings_the_same(sandbox, export, workers: int, chunk_days: Any) -> None:
    """One worker or a hundred, small batches or large."""
    mp = sandbox(events_per_day=5)
    result = export(mp, day(1), day(20), workers=workers, chunk_days=chunk_days)
    all_or_nothing(result, mp)
    assert result.total_rows == mp.count(day(1), day(20))


def test_a_spool_of_a_byte_passes_one_batch_at_a_time(sandbox, export, tmp_path) -> None:
    """A budget smaller than any batch slows the export and stops nothing."""
    mp = sandbox(events_per_day=200)
    result = export(mp, day(1), day(10), spool=mpnb.Spool(tmp_path / "spool", max_bytes=1))
    all_or_nothing(result, mp)
    assert result.successful_batches == 10


def test_events_may_be_large(sandbox, export) -> None:
    """Twenty kilobytes each, and more in a batch than the memory limit of an export has room for."""
    lines = [event(n=n, pad=f"{n:05}" * 4_000) for n in range(2_500)]
    result = export(sandbox(lines=lambda d: lines), day(1), day(1))
    assert result.sql("SELECT count(DISTINCT properties->>'/pad'), min(length(properties)) FROM events").fetchall() == [
        (2_500, len(json.dumps(json.loads(lines[0])["properties"], separators=(",", ":"))))
    ]


@pytest.mark.parametrize("make", [list, tuple, iter], ids=["list", "tuple", "iterator"])
def test_the_order_of_events_is_no_part_of_the_source(sandbox, export, make: Callable[..., Any]) -> None:
    """The same names in another order, or twice, are the same filter."""
    mp = sandbox(lines=lambda d: [moved(event("a"), d), moved(event("b"), d)])
    export(mp, events=["a", "b"])
    assert export(mp, events=make(["b", "a", "b"])).skipped_batches == 3
