"""Names and content from outside are data: quoted where SQL is, escaped where HTML is, written out in a terminal."""

from __future__ import annotations

import contextlib
import io
import json
import random
from collections.abc import Iterator
from datetime import date
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import duckdb
import pytest

import mpnb
import mpnb._fetching.fetcher
from mpnb._base.sql import quoted
from mpnb._showing.progress import PipeLines
from mpnb._storing import ledger
from mpnb._storing.database import COLUMNS, FORGOTTEN, LEDGER, META, PAGES, REJECTED, SNAPSHOTS
from mpnb.sandbox import BAD_LINES, Fault, Sandbox, serve
from tests.campaign._clients import QUOTA

OURS = (COLUMNS, FORGOTTEN, LEDGER, META, PAGES, REJECTED, SNAPSHOTS)
FIRST, LAST = "2026-01-01", "2026-01-02"
NAMES = [
    'events"; DROP TABLE mpnb_batches; --', "it's", "'; DELETE FROM mpnb_batches; --", "a.b", "main.events", "select",
    "Table", "two words", " lead and trail ", "ünï ✓ 東京", "\u202egnp.exe", "\x1b[31mred", "line\nbreak", "tab\there",
    "%s %d {} {0}", "$1", "?", ":name", "/* comment", "-- comment", "<script>alert(1)</script>", "x" * 1000, '"', '""',
    "\\", "information_schema.tables", "duckdb_tables()", "`backtick`", "[bracket]", "a;b", "events\u200b",
    "NULL", "1", "*",
]  # fmt: skip
ALPHABET = "\"'`;.-/*\\%$?:{}()[]<>&\n\t\x1b\u202e\u2028 aZ0é東"
FILES = [
    "it's.duckdb", 'qu"ote.duckdb', "semi;colon.duckdb", "two words.duckdb", "%41.duckdb", "?x=1&y", "#hash", "--flag",
    "ünï 東京.duckdb", "\u202egnp.duckdb", "\x1b[31mred.duckdb", "line\nbreak", "${HOME}", "~", "a.csv", "<b>.duckdb",
    "ATTACH",
]  # fmt: skip
SCRIPT = "<script>alert(1)</script></table><img src=x onerror=alert(1)>"
HOSTILE = f"{SCRIPT}\x1b[31mred\x1b]0;title\x07\u202egnp\u2066.exe\r\n\x00\x9b1m"
TAGS = {"div", "table", "tr", "th", "td", "ul", "li", "b", "details", "summary", "code"}


@pytest.fixture(scope="module")
def server() -> Iterator[Sandbox]:
    """Serve a few sound events a day."""
    with serve(events_per_day=5) as server:
        yield server


def export(server: Sandbox, database: Any, **more: Any) -> mpnb.ExportResult:
    """Export two days in one batch."""
    options = {"credentials": server.credentials, "quota": QUOTA, "on_batch": lambda _: None}
    return mpnb.export(FIRST, LAST, database=database, **{**options, **more})


def check_table(server: Sandbox, con: duckdb.DuckDBPyConnection, table: str) -> None:
    """Do all that a result can do with a table of that name, and see that no other was touched."""
    tables = "SELECT table_name FROM duckdb_tables() ORDER BY ALL"
    before = con.execute(tables).fetchall()
    wanted = server.count(date(2026, 1, 1), date(2026, 1, 2))
    with export(server, con, table=table) as result:
        assert result.total_rows == wanted
        assert result.events.count("*").fetchall() == [(wanted,)]
        assert result.deduplicated().columns == result.events.columns
        assert sum(n for _, n, *_ in result.event_names().fetchall()) == wanted
        assert (result.failures.fetchall(), result.rejected.fetchall()) == ([], [])
        assert result.check().ok
        shown(result)
        export(server, con, table=table, mode="refresh").close()
        assert result.total_rows == wanted
        result.retry(on_batch=lambda _: None).close()
    with mpnb.open(con, table=table) as db:
        assert (db.table, db.total_rows) == (table, wanted)
    assert con.execute(f"SELECT count(*) FROM {quoted(table)}").fetchall() == [(wanted,)]
    after = {name for (name,) in con.execute(tables).fetchall()}
    assert after - {name for (name,) in before} <= {table, *OURS}
    assert {name for (name,) in before} <= after


def test_any_table_name_is_a_name(server: Sandbox) -> None:
    """One database takes a table of each hostile name, one after the other, and none harms another."""
    with contextlib.closing(duckdb.connect()) as con:
        for table in NAMES:
            check_table(server, con, table)
        assert len(con.execute("SELECT table_name FROM duckdb_tables()").fetchall()) == len(NAMES) + len(OURS)


def test_made_up_table_names_are_names(server: Sandbox) -> None:
    """The same for names drawn from the letters that SQL, HTML, terminals and Python's formats give a meaning."""
    rng = random.Random(0)
    names = {f"t{''.join(rng.choices(ALPHABET, k=rng.randint(1, 30)))}".lower() for _ in range(8)}
    with contextlib.closing(duckdb.connect()) as con:
        for table in sorted(names):
            check_table(server, con, table)


@pytest.mark.parametrize("table", ["", "  ", "a\0b", "mpnb_batches", "MPNB_rejected", None, 5, b"events"])
def test_names_that_no_table_may_have_are_refused(table: Any, server: Sandbox) -> None:
    """Nothing, NUL, and mpnb's own names."""
    with pytest.raises(mpnb.TableError):
        export(server, ":memory:", table=table)


@pytest.mark.parametrize("name", FILES)
def test_any_file_name_is_a_name(name: str, server: Sandbox, tmp_path: Path) -> None:
    """The database is the file that was asked for, and no other."""
    path = tmp_path / name
    with export(server, path) as result:
        wanted = result.total_rows
        shown(result)
    assert [each.name for each in tmp_path.iterdir() if each.name != "state"] == [name]
    with mpnb.open(path) as db:
        assert db.total_rows == wanted > 0


@pytest.mark.filterwarnings("ignore:no event .* was on")
def test_event_names_and_filters_reach_the_server_as_they_are(server: Sandbox) -> None:
    """What goes into the query string and the ledger comes out as it was."""
    with export(server, ":memory:", events=[*NAMES, HOSTILE], where='properties["a"] == "it\'s \\" & <b>"') as result:
        request = server.requests[-1]
        assert request.params["where"] == 'properties["a"] == "it\'s \\" & <b>"'
        assert ledger.source_of(result.con, "events").events == tuple(sorted({*NAMES, HOSTILE}))


class Tags(HTMLParser):
    """Collect the tags and attributes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag."""
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def shown(*values: Any) -> list[str]:
    """Show values as a notebook and a terminal would, and see that nothing of theirs has a meaning there."""
    texts = []
    for value in values:
        bundle = value._repr_mimebundle_() if hasattr(value, "_repr_mimebundle_") else {}
        texts += [repr(value), str(value), *bundle.values()]
        if "text/html" in bundle:
            page = Tags()
            page.feed(bundle["text/html"])
            assert page.tags <= TAGS
            assert page.attributes <= {"class", "style", "scope"}
    for text in texts:
        assert [c for c in text if not c.isprintable() and c != "\n"] == []
    return texts


def test_hostile_content_shows_as_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts, escape sequences and direction marks in messages, events and names neither run nor vanish."""
    monkeypatch.setattr(mpnb._fetching.fetcher, "BACKOFF_SECONDS", 0.01)
    stream = io.StringIO()
    lines = PipeLines(stream)
    faults = [
        Fault("status", day="2026-01-01", status=400, body=HOSTILE.replace("\r\n", " "), times=None),
        Fault("status", day="2026-01-02", status=418, body={"error": f"Bad: {HOSTILE}"}, times=None),
        Fault("bad_lines", day="2026-01-03", lines=[HOSTILE.replace("\r\n", " ").encode(), *BAD_LINES]),
        Fault("redirect", day="2026-01-04", headers={"Location": "http://xn--a<b>/\u202e".encode().decode("latin-1")}),
        Fault("half_line", day="2026-01-05", times=None),
    ]

    def events(day: date) -> list[bytes]:
        own = {"time": 1767225600 + 86400 * (day.day - 1), HOSTILE: HOSTILE}
        return [json.dumps({"event": HOSTILE, "properties": own}).encode()] * 40

    with (
        serve(lines=events, faults=faults) as server,
        mpnb.export(
            "2026-01-01",
            "2026-01-06",
            chunk_days=1,
            table=SCRIPT,
            database=tmp_path / "a\x1b[31m<b>.duckdb",
            credentials=server.credentials,
            quota=QUOTA,
            on_batch=lines.on_batch,
        ) as result,
    ):
        assert result.failed_batches >= 3
        plan = mpnb.plan("2026-01-01", "2026-01-03", database=tmp_path / "b\x1b.duckdb", credentials=server.credentials)
        texts = shown(result, plan, result.check())
        with pytest.raises(mpnb.ExportError) as raised:
            result.raise_for_failures()
        texts += [str(raised.value), stream.getvalue()]
        names = [name for (name,) in result.sql(f"SELECT DISTINCT event_name FROM {quoted(SCRIPT)}").fetchall()]
        assert names == [HOSTILE]
        messages = [message for (message,) in result.failures.select("message").fetchall()]
    assert any("<script>" in message and "\\x1b[31mred" in message for message in messages)
    for text in [*texts, *messages]:
        assert [c for c in text if not c.isprintable() and c != "\n"] == []
    assert any("&lt;script&gt;" in text for text in texts)


OBEYED = HOSTILE + "\x7f\x85\u2028\u200f\u061c"
EMOJI = "👩\u200d💻 ok"


def test_relations_show_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever is in names of events, in properties, their names and their headings; joined emoji stay joined."""

    def events(day: date) -> list[bytes]:
        own = {"time": 1767225600, "distinct_id": OBEYED, f"p{OBEYED}": OBEYED, "list": [OBEYED], "object": {OBEYED: 1}}
        return [json.dumps({"event": name, "properties": own}).encode() for name in (OBEYED, "\x9b2J", EMOJI)]

    with serve(lines=events) as server, export(server, ":memory:", events=[OBEYED, "\x9b2J", EMOJI]) as result:
        relations = {
            "events": result.events,
            "batches": result.batches,
            "names": result.event_names(),
            "duplicates": result.duplicates(),
            "catalog": result.catalog(),
            "typed": result.event(OBEYED),
            "several": result.event([OBEYED, EMOJI]),
            "column": result.event_names().select("event_name"),
            "sql": result.sql('SELECT event_name AS "\x1b[31m\u202e" FROM events'),
            "segments": mpnb.analysis.segmentation(result.events, OBEYED, by="event_name"),
            "check": result.check().relation,
        }
        for name, relation in relations.items():
            relation.show(max_width=10_000, max_col_width=1000)
            bundle = relation._repr_mimebundle_() if hasattr(relation, "_repr_mimebundle_") else {}
            for text in (str(relation), capsys.readouterr().out, *bundle.values()):
                assert text, name
                assert [c for c in text if not c.isprintable() and c not in "\n\u200d"] == [], name
        for name in ("names", "catalog", "several"):
            assert EMOJI in str(relations[name]), name
        assert relations["names"].select("event_name").fetchall() == [
            (name,) for name in sorted((OBEYED, "\x9b2J", EMOJI))
        ]
