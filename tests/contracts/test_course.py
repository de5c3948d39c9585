"""What a place where batches land does with a course: further batches, a proof, a beginning anew, all or nothing."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from mpnb._fetching.fetched import Fetched, Lost, Task
from mpnb._fetching.verify import Body
from mpnb._mixpanel.failures import failure
from mpnb._planning.profiles import Profiles, ProfileSource, first_page, page_of
from mpnb._storing.database import Store
from mpnb._storing.destination import Destination, WriteError
from mpnb._storing.running import running
from mpnb._storing.snapshot import Publishing, staging
from mpnb._storing.table import Table
from tests._helpers import day

PEOPLE = Profiles(ProfileSource("7"))
FIRST = first_page(day(1), 2)
NO = failure("http", "no")
Land = Callable[[Task, Sequence[str]], tuple[Task, ...]]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Open a new database."""
    before = set(running)
    with contextlib.closing(Store(tmp_path / "x.duckdb")) as store:
        yield store
    running.intersection_update(before)  # whatever a test has not left


@pytest.fixture
def destination(store: Store) -> Destination:
    """Make a place whose course is that of a snapshot."""
    course = Publishing("profiles", PEOPLE, "e", "e", FIRST)
    return Table(store, staging("profiles"), PEOPLE, "e", course, shown="profiles")


@pytest.fixture
def land(destination: Destination, tmp_path: Path) -> Land:
    """Land a page of some ids, of five in all, and return the batches that it calls for."""

    def landed(task: Task, ids: Sequence[str]) -> tuple[Task, ...]:
        lines = [json.dumps({"$distinct_id": each, "$properties": {}}).encode() + b"\n" for each in ids]
        path = tmp_path / f"{task.batch_id}.jsonl"
        path.write_bytes(b"".join(lines))
        size = path.stat().st_size
        envelope = {"page": page_of(task.batch).number, "page_size": 2, "session_id": "s", "total": 5, "status": "ok"}
        task.attempts = 1
        [done] = destination.land([Fetched(task, path, Body(False, size, size, len(lines), envelope))])
        return tasks(done.further)

    return landed


def tasks(batches: Sequence[tuple[object, int]]) -> tuple[Task, ...]:
    """Make a task of each batch with its id."""
    return tuple(Task(n, batch_id, batch) for n, (batch, batch_id) in enumerate(batches, 1))  # type: ignore[arg-type]


def begun(destination: Destination) -> Task:
    """Admit the first page."""
    with destination.admission():
        [batch_id] = destination.admit([FIRST], [])
    return Task(0, batch_id, FIRST)


def states(store: Store) -> list[tuple[str, str, int]]:
    """Return table, status and rows of every batch, in order."""
    with store.reading() as cursor:
        query = "SELECT table_name, status, rows FROM mpnb_batches ORDER BY batch_id"
        return cursor.execute(query).fetchall()


def content(store: Store, table: str) -> list[str]:
    """Return the ids that a table has."""
    with store.reading() as cursor:
        return sorted(i for (i,) in cursor.execute(f"SELECT distinct_id FROM {table}").fetchall())


STAGED = staging("profiles")


def test_what_a_batch_calls_for_is_admitted_with_it(store: Store, destination: Destination, land: Land) -> None:
    """In the same transaction, with ids that none had before; what cannot land calls for nothing."""
    first = begun(destination)
    further = land(first, ["a", "b"])
    assert [page_of(each.batch).number for each in further] == [1, 2]
    assert states(store) == [(STAGED, "done", 2), (STAGED, "queued", 0), (STAGED, "queued", 0)]
    assert len({first.batch_id, *(each.batch_id for each in further)}) == 3
    destination.interrupt()
    with pytest.raises(WriteError):
        land(further[0], ["c", "d"])
    assert states(store)[1:] == [(STAGED, "queued", 0), (STAGED, "queued", 0)]


def test_the_last_one_publishes_what_was_proven(store: Store, destination: Destination, land: Land) -> None:
    """The staged table takes the name that was asked for, with its batches; nothing is staged any more."""
    one, two = land(begun(destination), ["a", "b"])
    assert land(two, ["e"]) == ()
    [again] = land(one, ["c", "d"])
    assert page_of(again.batch).is_again
    assert land(again, ["a", "b"]) == ()
    assert content(store, "profiles") == ["a", "b", "c", "d", "e"]
    assert {table for table, *_ in states(store)} == {"profiles"}
    with store.reading() as cursor:
        tables = "SELECT count(*) FROM duckdb_tables() WHERE table_name = ?"
        assert cursor.execute(tables, [STAGED]).fetchall() == [(0,)]


@pytest.mark.parametrize(
    ("last", "says"),
    [(["a", "x"], "first page had other profiles"), (["a"], "first page had other profiles"), ([], "other profiles")],
)
def test_what_is_unfit_is_not_kept(
    store: Store, destination: Destination, land: Land, last: list[str], says: str
) -> None:
    """Not even the batch that showed it; the reason says that it may begin anew, which it may once."""
    one, two = land(begun(destination), ["a", "b"])
    land(two, ["e"])
    [again] = land(one, ["c", "d"])
    before = states(store)
    with pytest.raises(WriteError, match=says) as raised:
        land(again, last)
    assert raised.value.failure.begins_anew
    assert states(store) == before
    [anew] = tasks(destination.begin_anew(again))
    assert page_of(anew.batch).session is None
    assert content(store, STAGED) == []
    assert states(store) == [(STAGED, "queued", 0)]
    assert destination.begin_anew(anew) == []
    assert states(store) == [(STAGED, "queued", 0)]


def test_the_end_settles_what_was_called_for(store: Store, destination: Destination, land: Land) -> None:
    """What landed stays, to be gone on with."""
    one, _ = land(begun(destination), ["a", "b"])
    destination.settle([("failed", Lost(one, NO))], "cancelled", failure("cancelled", "stopped"))
    assert [status for _, status, _ in states(store)] == ["done", "failed", "cancelled"]
    assert content(store, STAGED) == ["a", "b"]
