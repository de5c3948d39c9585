"""Pages that are written together: lines that say which batch they are of, and pages that wait for each other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import pytest

import mpnb
import mpnb._storing.writer as _writer
from mpnb._fetching.document import Splitter
from mpnb._fetching.framed import Frame
from mpnb._fetching.verify import Body
from mpnb._mixpanel.engage_api import COLUMNS, KEYS
from mpnb._planning.profiles import Profiles, ProfileSource
from mpnb._storing import insert as _insert
from mpnb._storing.database import REJECTED, REJECTED_COLUMNS
from mpnb._storing.insert import NotAllRecords, blocks, insert_files, insert_lines, table_of
from mpnb.sandbox import serve

PEOPLE = Profiles(ProfileSource("7"))
INTO = table_of("profiles")
THIRD_KEY = b'{"$distinct_id":"p1","$properties":{},"batch_id":8}'
CONTROL = b'{"$distinct_id":"p1","$properties":{"c":"\x01"}}'
TWICE = b'{"$distinct_id":"p1","$distinct_id":"p2","$properties":{}}'


@pytest.fixture
def con() -> Any:
    """Open a database with a table of profiles."""
    with duckdb.connect() as con:
        for name, columns in (("profiles", COLUMNS), (REJECTED, REJECTED_COLUMNS)):
            con.execute(f"CREATE TABLE {name} ({', '.join(f'{c} {kind}' for c, kind in columns)})").fetchall()
        yield con


@pytest.fixture
def page(tmp_path: Path) -> Callable[..., Any]:
    """Make the spool file of a page, as a worker does."""

    def make(batch_id: int, *items: bytes) -> Any:
        path = tmp_path / f"{batch_id}.jsonl"
        with path.open("wb") as file:
            splitter = Splitter(file.write, KEYS, Frame(batch_id))
            splitter.feed(b'{"results":[%b]}' % b",".join(items))
            splitter.finish()
        body = Body(False, 1, splitter.size, splitter.lines, framed=True)
        return SimpleNamespace(path=path, body=body, task=SimpleNamespace(batch_id=batch_id))

    return make


def profile(name: str) -> bytes:
    """Make a profile as it is served."""
    return b'{"$distinct_id":"%b","$properties":{"t":"a\\nb"}}' % name.encode()


@pytest.mark.parametrize("small", [4 << 20, 1], ids=["joined", "each by itself"])
def test_rows_of_pages_that_are_written_together_have_their_own_batch(
    con: Any, page: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, small: int
) -> None:
    """Whether their files are joined or read one by one."""
    monkeypatch.setattr(_insert, "SMALL_BYTES", small)
    insert_files(con, INTO, PEOPLE, [page(8, profile("a"), profile("b")), page(9, profile("c"))])
    found = con.execute("SELECT distinct_id, batch_id, properties->>'t' FROM profiles ORDER BY ALL").fetchall()
    assert found == [("a", 8, "a\nb"), ("b", 8, "a\nb"), ("c", 9, "a\nb")]


@pytest.mark.parametrize("small", [4 << 20, 1], ids=["joined", "each by itself"])
@pytest.mark.parametrize("odd", [THIRD_KEY, TWICE, b'{"$distinct_id":"p1"}', b"7", CONTROL])
def test_an_odd_line_of_a_page_is_never_taken_for_a_profile(
    con: Any, page: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, small: int, odd: bytes
) -> None:
    """It is looked at by itself, and kept as it was served, with its number; the others are rows."""
    monkeypatch.setattr(_insert, "SMALL_BYTES", small)
    files = [page(8, profile("a")), page(9, profile("b"), odd)]
    con.execute("BEGIN").fetchall()
    with pytest.raises(NotAllRecords):
        insert_files(con, INTO, PEOPLE, files)
    con.execute("ROLLBACK").fetchall()
    file = page(9, profile("b"), odd, profile("c"))
    for block in blocks(file):
        insert_lines(con, INTO, "profiles", PEOPLE, 9, block)
    ids = con.execute("SELECT distinct_id FROM profiles WHERE distinct_id NOT LIKE 'p%' ORDER BY ALL").fetchall()
    assert ids == [("b",), ("c",)]
    assert con.execute(f"SELECT line_number, line FROM {REJECTED}").fetchall() == [(2, odd)]


def test_pages_wait_for_each_other_while_they_come_fast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can read them before the last one: so many as fill a row group in time land in one transaction."""
    monkeypatch.setattr(_writer, "LINGER_SECONDS", 0.0)
    monkeypatch.setattr(_writer, "HIDDEN_LINGER_SECONDS", 60.0)
    monkeypatch.setattr(_writer, "ROW_GROUP", 20)
    with serve(profiles=lambda: [profile(f"p{n}") for n in range(21)], latency=0.05) as mp:
        quota = mpnb.Quota(per_hour=10**6, per_second=1000)
        with mpnb.export_profiles(
            credentials=mp.credentials,
            quota=quota,
            database=tmp_path / "x.duckdb",
            page_size=1,
            on_batch=lambda _: None,
        ) as result:
            assert result.total_rows == 21
            landed = result.sql("SELECT count(*) FROM mpnb_batches GROUP BY finished_at ORDER BY ALL").fetchall()
    assert landed == [(1,), (1,), (20,)]
