"""What every place where batches land must do: whole or not at all, noted, and free for the next."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

import mpnb
from mpnb._fetching.fetched import Fetched, Lost, Task
from mpnb._fetching.verify import Body
from mpnb._mixpanel.failures import failure
from mpnb._planning.batches import Batch
from mpnb._planning.request import Source
from mpnb._planning.resource import Events
from mpnb._storing.database import Store
from mpnb._storing.destination import Destination, WriteError
from mpnb._storing.running import running
from mpnb._storing.table import Table
from tests._helpers import day, query

EVENTS = Events(Source("7"))


class Place(Protocol):
    """One implementation, and a look at what it holds by other ways than its own."""

    def destination(self, export_id: str = "e") -> Destination:
        """Make a destination for one more export into the same place."""

    def rows(self) -> dict[int, int]:
        """Count the records by batch."""

    def states(self) -> list[tuple[str, str]]:
        """Return label and status of every batch that is known, in order."""


@dataclass
class InDuckDB:
    """A table of a file."""

    store: Store
    path: Path

    def destination(self, export_id: str = "e") -> Destination:
        """Make a destination for one more export into the same table."""
        return Table(self.store, "events", EVENTS, export_id)

    def rows(self) -> dict[int, int]:
        """Count the records by batch."""
        with self.store.reading() as cursor:
            return dict(cursor.execute("SELECT batch_id, count(*) FROM events GROUP BY ALL").fetchall())

    def states(self) -> list[tuple[str, str]]:
        """Return days and status of every row of the ledger."""
        with self.store.reading() as cursor:
            rows = cursor.execute("SELECT from_date, to_date, status FROM mpnb_batches ORDER BY ALL").fetchall()
        return [(Batch(first, last).label, status) for first, last, status in rows]


@pytest.fixture(params=["duckdb"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Make a new place."""
    assert request.param == "duckdb"
    before = set(running)
    with contextlib.closing(Store(tmp_path / "x.duckdb")) as store:
        yield InDuckDB(store, tmp_path / "x.duckdb")
    running.intersection_update(before)  # whatever a test has not left


@pytest.fixture
def fetched(tmp_path: Path) -> Callable[..., Fetched]:
    """Make spool files, as if they had just been verified."""

    def make(task: Task, lines: Sequence[bytes]) -> Fetched:
        text = b"".join(line + b"\n" for line in lines)
        path = tmp_path / f"{task.batch_id}.jsonl"
        path.write_bytes(text)
        task.attempts = 1
        return Fetched(task, path, Body(False, len(text), len(text), len(lines)))

    return make


def events(count: int, number: int = 1) -> list[bytes]:
    """Make lines of events of a day of January."""
    time = 1767225600 + 86400 * (number - 1)
    return [json.dumps({"event": "E", "properties": {"time": time + n}}).encode() for n in range(count)]


def admitted(destination: Destination, *batches: Batch, forget: Sequence[int] = ()) -> list[Task]:
    """Enter batches that are to be fetched."""
    with destination.admission():
        ids = destination.admit(batches, forget)
    return [Task(i, batch_id, batch) for i, (batch_id, batch) in enumerate(zip(ids, batches, strict=True))]


ONE, TWO, WEEK = Batch(day(1), day(1)), Batch(day(2), day(2)), Batch(day(1), day(7))
NO = failure("http", "no")


def test_what_lands_is_held(place: Any, fetched: Any) -> None:
    """As many records as lines, those that are no records counted apart; an empty one is held as well."""
    destination = place.destination()
    tasks = admitted(destination, ONE, TWO)
    assert [each.status for each in destination.land([fetched(tasks[1], [])])] == ["empty"]
    [landed] = destination.land([fetched(tasks[0], [*events(3), b"[1]"])])
    assert (landed.status, landed.rows, landed.rejected) == ("done", 3, 1)
    assert place.rows() == {tasks[0].batch_id: 3}
    assert [(h.batch_id, h.rows) for h in destination.held()] == [(tasks[0].batch_id, 3), (tasks[1].batch_id, 0)]
    assert destination.lost is None


def test_several_land_all_or_none(place: Any, fetched: Any) -> None:
    """Where one cannot be written, the other is not there either, and both can be noted."""
    destination = place.destination()
    tasks = admitted(destination, ONE, TWO)
    items = [fetched(tasks[0], events(3)), fetched(tasks[1], events(3, 2))]
    items[1].path.write_bytes(b"")
    with pytest.raises(WriteError) as raised:
        destination.land(items)
    assert raised.value.failure.kind == "decode"
    assert place.rows() == {}
    assert [destination.note(Lost(task, NO)) for task in tasks] == [True, True]
    assert [status for _, status in place.states()] == ["failed", "failed"]


def test_joined_ones_land_all_or_are_left(place: Any, fetched: Any) -> None:
    """Each has its own records; where one needs a look, none is there, and ``land`` takes them one by one."""
    destination = place.destination()
    tasks = admitted(destination, ONE, TWO, Batch(day(3), day(3)))
    plain = [fetched(tasks[0], events(3)), fetched(tasks[1], events(4, 2))]
    assert all(destination.can_join(item) for item in plain)
    joined = destination.land_joined(plain)
    assert joined is None or [each.rows for each in joined] == [3, 4]
    if joined is None:
        assert [each.rows for item in plain for each in destination.land([item])] == [3, 4]
    odd = fetched(tasks[2], [*events(1, 3), b"{}"])
    before = place.rows()
    assert before == {tasks[0].batch_id: 3, tasks[1].batch_id: 4}
    assert destination.land_joined([odd]) is None
    assert place.rows() == before


def test_what_is_replaced_goes_when_the_new_one_is_there(place: Any, fetched: Any) -> None:
    """Not before: a landing that fails leaves it as it was."""
    destination = place.destination()
    [old] = admitted(destination, ONE)
    destination.land([fetched(old, events(3))])
    destination.leave()
    destination = place.destination("f")
    [new] = admitted(destination, Batch(day(1), day(1), replaces=(old.batch_id,)))
    item = fetched(new, events(5))
    whole = item.path.read_bytes()
    item.path.write_bytes(whole[:-20])
    with pytest.raises(WriteError):
        destination.land([item])
    assert place.rows() == {old.batch_id: 3}
    item.path.write_bytes(whole)
    destination.land([item])
    assert place.rows() == {new.batch_id: 5}
    assert [h.batch_id for h in destination.held()] == [new.batch_id]


def test_an_admission_that_fails_leaves_nothing(place: Any, fetched: Any) -> None:
    """No batch, and the next may begin."""
    destination = place.destination()
    [kept] = admitted(destination, ONE)
    destination.land([fetched(kept, events(2))])
    destination.leave()
    before = place.states()
    failing = place.destination("f")

    def fail() -> None:
        with failing.admission():
            failing.admit([TWO], [])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    failing.leave()
    assert place.states() == before
    assert admitted(place.destination("g"), TWO)[0].batch_id > kept.batch_id


def test_one_export_at_a_time(place: Any) -> None:
    """Another one is refused until the first has left."""
    first = place.destination()
    admitted(first, ONE)
    with pytest.raises(mpnb.TableError), place.destination("f").admission():
        pass
    first.settle([], "cancelled", failure("cancelled", "stopped"))
    first.leave()
    admitted(place.destination("g"), ONE)


def test_what_cannot_be_split_has_no_parts(place: Any) -> None:
    """And stays as it is."""
    destination = place.destination()
    [task] = admitted(destination, ONE)
    assert destination.split(task) == ([], None)
    assert place.states() == [(ONE.label, "queued")]


def test_parts_stand_in_for_what_is_split(place: Any, fetched: Any) -> None:
    """Each with an id of its own, which none had before; one by one where nothing is replaced."""
    destination = place.destination()
    [task] = admitted(destination, WEEK)
    parts, group = destination.split(task)
    assert group is None
    assert [batch.label for batch, _ in parts] == [str(day(n)) for n in range(1, 8)]
    assert len({task.batch_id, *(batch_id for _, batch_id in parts)}) == 8
    assert place.states() == [(str(day(n)), "queued") for n in range(1, 8)]
    destination.land([fetched(Task(0, parts[0][1], parts[0][0]), events(2))])
    assert place.rows() == {parts[0][1]: 2}


def test_parts_of_what_is_held_are_a_group(place: Any, fetched: Any) -> None:
    """They replace it together."""
    destination = place.destination()
    [old] = admitted(destination, WEEK)
    destination.land([fetched(old, events(3))])
    destination.leave()
    destination = place.destination("f")
    [again] = admitted(destination, Batch(WEEK.from_date, WEEK.to_date, replaces=(old.batch_id,)))
    parts, group = destination.split(again)
    assert group is not None
    assert group.size == len(parts) == 7
    tasks = [Task(i, batch_id, batch, group) for i, (batch, batch_id) in enumerate(parts)]
    destination.land([fetched(task, events(1, n)) for n, task in enumerate(tasks, 1)])
    assert place.rows() == {task.batch_id: 1 for task in tasks}


def test_the_end_settles_every_batch(place: Any, fetched: Any) -> None:
    """Those that were tried by themselves, the others at once; what has landed after all is told."""
    destination = place.destination()
    tasks = admitted(destination, ONE, TWO, Batch(day(3), day(3)))
    destination.land([fetched(tasks[0], events(2))])
    why = failure("cancelled", "stopped")
    landed = destination.settle([("failed", Lost(tasks[0], NO)), ("failed", Lost(tasks[1], NO))], "cancelled", why)
    assert {index: (each.status, each.rows) for index, each in landed.items()} == {0: ("done", 2)}
    assert [status for _, status in place.states()] == ["done", "failed", "cancelled"]
    destination.finish(fold=True)
    assert destination.lost is None
    assert place.rows() == {tasks[0].batch_id: 2}


def test_what_is_interrupted_is_not_there(place: Any, fetched: Any) -> None:
    """Nothing begins after it, and that is no failure of the batch."""
    destination = place.destination()
    [task] = admitted(destination, ONE)
    destination.interrupt()
    with pytest.raises(WriteError) as raised:
        destination.land([fetched(task, events(2))])
    assert raised.value.failure.kind == "cancelled"
    assert place.rows() == {}
    destination.release()


def test_it_is_all_in_the_file(place: Any, fetched: Any) -> None:
    """Once it is let go, another connection reads the same."""
    destination = place.destination()
    [task] = admitted(destination, ONE)
    destination.land([fetched(task, events(2))])
    destination.release()
    destination.finish(fold=False)
    if isinstance(place, InDuckDB):
        place.store.close()
        assert query(place.path, "SELECT count(*) FROM events") == [(2,)]
