"""A person who is forgotten: gone from every table of a file, and left out of what is exported later."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import pytest

import mpnb
from mpnb.sandbox import Fault, Sandbox
from tests._helpers import PATIENCE, day, event, people, query

JANE, DEVICE = "jane@x.example", "$device:d-jane"
LINES = [
    event("Visit", distinct_id=DEVICE, **{"$device_id": "d-jane"}),
    event("Sign Up", distinct_id=JANE, plan="pro", **{"$device_id": "d-jane", "$user_id": JANE}),
    event("Visit", distinct_id="other", **{"$user_id": JANE}),
    event("Visit", distinct_id="max", plan="free", n=1),
    event("Visit", distinct_id="Jane@x.example", friend="somebody"),
    json.dumps({"event": "Visit", "properties": {"time": 1767225600, "distinct_id": JANE}, "more": 1}).encode(),
    json.dumps({"event": 5, "properties": {"time": 1767225600, "distinct_id": JANE}}).encode(),
    json.dumps({"event": 6, "properties": {"time": 1767225600, "distinct_id": "max"}}).encode(),
]
HERS, OTHERS = 4, {("Visit", "max"), ("Visit", "Jane@x.example")}


@pytest.fixture
def mp(sandbox) -> Sandbox:
    """Serve Jane, whose id differs from another's by case, and Max."""
    return sandbox(lambda d: LINES if d == day(1) else [], profiles=people(JANE, "max", "Jane@x.example", "Z"))


def naming(database: Path, text: str) -> list[str]:
    """Name the tables of a file that have a text anywhere."""
    with duckdb.connect(str(database)) as con:
        tables = con.execute("SELECT schema_name || '.' || table_name FROM duckdb_tables() ORDER BY 1").fetchall()
        return [
            name
            for (name,) in tables
            if con.execute(f"SELECT count(*) FROM {name} AS t WHERE contains(t::VARCHAR, '{text}')").fetchall()
            != [(0,)]
        ]


def events_of(result: mpnb.ExportResult) -> set[tuple[Any, ...]]:
    """Return whose events a result has."""
    return set(result.events.project("event_name, distinct_id").fetchall())


def test_a_person_is_gone_from_every_table(mp: Sandbox, export, fetch, database: Path) -> None:
    """By all ids that events link: rows, typed tables, profiles, rejected lines; nobody else loses a row."""
    with export(mp) as result:
        result.event("Visit").fetchall()
        result.for_analysis().fetchall()
        result.catalog().fetchall()
    fetch(mp).close()
    assert len(naming(database, "d-jane")) > 2
    assert mpnb.forget_person(DEVICE, database=database) == {"events": HERS, "profiles": 1}
    assert naming(database, JANE) == naming(database, "d-jane") == []
    with mpnb.open(database) as db:
        assert events_of(db) == OTHERS
        assert db.total_rows == len(OTHERS)
        assert set(db.event("Visit").project("distinct_id").fetchall()) == {("max",), ("Jane@x.example",)}
        assert dict(db.identities().fetchall()) == {}
        check = db.check()
        assert check.ok
        assert "5 were left out, of a person who was forgotten" in str(check)
        assert [line for *_, line, _, _ in db.rejected.fetchall() if line] == [LINES[7]]
        assert not db.has_failures
    with fetch(mp) as profiles:
        assert profiles.successful_batches == 0
        assert profiles.check().ok
        assert {i for i, *_ in profiles.profiles.fetchall()} == {"max", "Jane@x.example", "Z"}


def test_a_later_export_of_the_same_days_leaves_the_person_out(mp: Sandbox, export, fetch, database: Path) -> None:
    """Refreshed, each of the person's records is counted as one that was left out, and says why; so are profiles."""
    export(mp).close()
    mpnb.forget_person([DEVICE], database=database)
    with export(mp, mode="refresh") as result:
        assert events_of(result) == OTHERS
        assert result.rejected_lines == HERS + 2
        assert "6 lines are not in the table" in repr(result)
        why = [reason for _, _, _, reason, *_ in result.rejected.fetchall()]
        assert why.count("of a person who was forgotten") == HERS
        assert result.check().ok
        assert not [t for t in naming(database, JANE) if t != "main.mpnb_rejected"]
        assert [line for *_, line, _, _ in result.rejected.fetchall() if line] == [LINES[6], LINES[7]]
    with fetch(mp, page_size=2) as profiles:
        assert profiles.total_rows == 3
        assert [(page, why) for page, _, why, *_ in profiles.rejected.fetchall()] == [
            (0, "of a person who was forgotten")
        ]
        assert profiles.check().ok
        assert not profiles.has_failures
    with fetch(mp, table="again", mode="refresh") as profiles:
        assert profiles.total_rows == 3


def test_large_batches_leave_the_person_out_too(sandbox, export, database: Path) -> None:
    """However many rows land together, and whatever way they are written."""
    lines = [event("E", distinct_id=f"p{n % 50}", n=n) for n in range(3000)]
    mp = sandbox(lambda d: lines)
    export(mp, day(1), day(1), table="first").close()
    assert mpnb.forget_person("p7", database=database) == {"first": 60}
    with export(mp, day(1), day(5)) as result:
        assert result.total_rows == 5 * 2940
        assert result.rejected_lines == 5 * 60
        assert result.sql("SELECT count(*) FROM events WHERE distinct_id = 'p7'").fetchall() == [(0,)]
        assert result.check().ok


def test_only_the_ids_that_are_named(mp: Sandbox, export, database: Path) -> None:
    """With ``identities="exported"``; ids that nobody has are remembered all the same."""
    export(mp).close()
    assert mpnb.forget_person(["nobody", DEVICE], database=database, identities="exported") == {"events": 1}
    assert mpnb.forget_person("max", database=database) == {"events": 1}
    assert mpnb.forget_person("max", database=database) == {}
    assert query(database, "SELECT count(*) FROM mpnb_forgotten") == [(3,)]


def test_staged_pages_lose_the_person_and_go_on(mp: Sandbox, fetch, database: Path) -> None:
    """What is fetched of the snapshot later leaves the person out as well, and it proves to be whole."""
    mp.add_fault(Fault("status", status=500, page=2, times=4))
    with pytest.raises(mpnb.ProfilesError) as raised:
        fetch(mp, page_size=1)
    raised.value.result.close()
    assert mpnb.forget_person([JANE, "Z"], database=database) == {"profiles": 2}
    assert naming(database, JANE) == []
    with fetch(mp, page_size=1) as result:
        assert {i for i, *_ in result.profiles.fetchall()} == {"max", "Jane@x.example"}
        assert result.check().ok


def test_a_group_is_no_person(sandbox, fetch, database: Path) -> None:
    """Its profile stays, and comes again, although its id is a person's."""
    mp = sandbox(profiles=people("7", "8"), groups={"1": people("7")})
    fetch(mp).close()
    fetch(mp, group=1, table="groups").close()
    assert mpnb.forget_person(7, database=database) == {"profiles": 1}  # type: ignore[arg-type]
    assert fetch(mp, group=1, table="groups", mode="refresh").total_rows == 1


@pytest.mark.parametrize("who", ["o'brien", 'a"b', "ü\u2028", "nul\0", "back\\slash", "12"])
def test_any_id(sandbox, export, fetch, database: Path, who: str) -> None:
    """Whatever characters it has, in rows and in rejected lines."""
    bad = json.dumps({"event": 5, "properties": {"time": 1767225600, "distinct_id": who}}).encode()
    mp = sandbox(lambda d: [event("E", distinct_id=who), event("E", distinct_id="12x"), bad], profiles=people(who, "z"))
    export(mp, day(1), day(1)).close()
    fetch(mp).close()
    assert mpnb.forget_person(who, database=database) == {"events": 1, "profiles": 1}
    assert query(database, "SELECT count(*) FROM mpnb_rejected WHERE line <> ''::BLOB") == [(0,)]
    with export(mp, day(1), day(1), mode="refresh") as result:
        assert result.total_rows == 1
    assert fetch(mp, mode="refresh").total_rows == 1


def test_what_cannot_be(mp: Sandbox, export, tmp_path: Path, database: Path, start) -> None:
    """Is said before anything is deleted."""
    with pytest.raises(mpnb.DatabaseError, match="there is no database"):
        mpnb.forget_person("a", database=tmp_path / "none.duckdb")
    export(mp).close()
    for wrong in ([], "", None, [None], [""], 1.5, [True]):
        with pytest.raises(mpnb.PlanError, match="ids must be"):
            mpnb.forget_person(wrong, database=database)  # type: ignore[arg-type]
    with pytest.raises(mpnb.PlanError, match="identities must be"):
        mpnb.forget_person("a", database=database, identities="all")
    mp.add_fault(Fault("hang"))
    job = start(mp, mode="refresh")
    with pytest.raises(mpnb.TableError, match="an export into table 'events' is running"):
        mpnb.forget_person("max", database=database)
    job.cancel()
    job.outcome(PATIENCE).close()
    assert mpnb.forget_person("max", database=database)["events"] == 1
