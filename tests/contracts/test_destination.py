"""What every place where batches land must do: whole or not at all, noted, and free for the next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import mpnb
from mpnb._fetching.fetched import Fetched, Lost, Task
from mpnb._fetching.verify import Body
from mpnb._mixpanel.failures import failure
from mpnb._planning.batches import Batch
from mpnb._storing.destination import Destination, WriteError
from mpnb._storing.running import running
from tests.contracts._places import PLACES, REPLACING, Place

Make = Callable[..., Fetched]
NO = failure("http", "no")
replacing = pytest.mark.parametrize("place", REPLACING, indirect=True)


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Make a new place."""
    before = set(running)
    with PLACES[request.param](tmp_path, lambda: str(request.getfixturevalue("bucket"))) as place:
        yield place
    running.intersection_update(before)  # whatever a test has not left


@pytest.fixture
def fetched(place: Place, tmp_path: Path) -> Make:
    """Make spool files, as if they had just been verified: so many records of a batch of the place, and more lines."""

    def make(task: Task, records: int, number: int = 1, more: Sequence[bytes] = ()) -> Fetched:
        lines = [*place.records.lines(records, number), *more]
        text = b"".join(line + b"\n" for line in lines)
        path = tmp_path / f"{task.batch_id}.jsonl"
        path.write_bytes(text)
        task.attempts = 1
        envelope = place.records.envelope if task.batch.key == place.records.large.key else None
        return Fetched(task, path, Body(False, len(text), len(text), len(lines), envelope))

    return make


def admitted(destination: Destination, *batches: Batch) -> list[Task]:
    """Enter batches that are to be fetched."""
    with destination.admission():
        ids = destination.admit(batches, [])
    return [Task(i, batch_id, batch) for i, (batch_id, batch) in enumerate(zip(ids, batches, strict=True))]


def test_what_lands_is_held(place: Place, fetched: Make) -> None:
    """As many records as lines, those that are no records counted apart; an empty one is held as well."""
    destination = place.destination()
    one, two, _ = tasks = admitted(destination, *place.records.batches)
    assert [each.status for each in destination.land([fetched(two, 0)])] == ["empty"]
    [landed] = destination.land([fetched(one, 3, more=[b"[1]"])])
    assert (landed.status, landed.rows, landed.rejected) == ("done", 3, 1)
    assert place.rows() == {one.batch_id: 3}
    assert [(h.batch_id, h.rows) for h in destination.held()] == [(one.batch_id, 3), (two.batch_id, 0)]
    assert destination.lost is None
    assert [label for label, _ in place.states()] == [task.batch.label for task in tasks]
    assert sorted(status for _, status in place.states()) == ["done", "empty", "queued"]


def test_several_land_all_or_none(place: Place, fetched: Make) -> None:
    """Where one cannot be written, the other is not there either, and both can be noted."""
    destination = place.destination()
    one, two = admitted(destination, *place.records.batches[:2])
    items = [fetched(one, 3), fetched(two, 3, 2)]
    items[1].path.write_bytes(b"")
    with pytest.raises(WriteError) as raised:
        destination.land(items)
    assert raised.value.failure.kind == "decode"
    assert place.rows() == {}
    assert [destination.note(Lost(task, NO)) for task in (one, two)] == [True, True]
    assert [status for _, status in place.states()] == ["failed", "failed"]


def test_joined_ones_land_all_or_are_left(place: Place, fetched: Make) -> None:
    """Each has its own records; where one needs a look, none is there, and ``land`` takes them one by one."""
    destination = place.destination()
    one, two, three = admitted(destination, *place.records.batches)
    plain = [fetched(one, 3), fetched(two, 4, 2)]
    assert all(destination.can_join(item) for item in plain)
    joined = destination.land_joined(plain)
    assert joined is None or [each.rows for each in joined] == [3, 4]
    if joined is None:
        assert [each.rows for item in plain for each in destination.land([item])] == [3, 4]
    odd = fetched(three, 1, 3, more=[b"{}"])
    before = place.rows()
    assert before == {one.batch_id: 3, two.batch_id: 4}
    assert destination.land_joined([odd]) is None
    assert place.rows() == before


@replacing
def test_what_is_replaced_goes_when_the_new_one_is_there(place: Place, fetched: Make) -> None:
    """Not before: a landing that fails leaves it as it was."""
    destination = place.destination()
    batch = place.records.batches[0]
    [old] = admitted(destination, batch)
    destination.land([fetched(old, 3)])
    destination.leave()
    destination = place.destination("f")
    [new] = admitted(destination, replace(batch, replaces=(old.batch_id,)))
    item = fetched(new, 5)
    whole = item.path.read_bytes()
    item.path.write_bytes(whole[:-20])
    with pytest.raises(WriteError):
        destination.land([item])
    assert place.rows() == {old.batch_id: 3}
    item.path.write_bytes(whole)
    destination.land([item])
    assert place.rows() == {new.batch_id: 5}
    assert [h.batch_id for h in destination.held()] == [new.batch_id]


def test_an_admission_that_fails_leaves_nothing(place: Place, fetched: Make) -> None:
    """No batch, and the next may begin."""
    destination = place.destination()
    one, two, _ = place.records.batches
    kept, _ = admitted(destination, one, two)
    destination.land([fetched(kept, 2)])
    destination.settle([], "cancelled", failure("cancelled", "stopped"))
    destination.leave()
    before = place.states()
    failing = place.destination("f")

    def fail() -> None:
        with failing.admission():
            failing.admit([two], [])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    failing.leave()
    assert place.states() == before
    assert admitted(place.destination("g"), two)[0].batch_id > kept.batch_id


def test_one_export_at_a_time(place: Place) -> None:
    """Another one is refused until the first has left."""
    first = place.destination()
    one = place.records.batches[0]
    admitted(first, one)
    with pytest.raises(mpnb.TableError), place.destination("f").admission():
        pass
    first.settle([], "cancelled", failure("cancelled", "stopped"))
    first.leave()
    admitted(place.destination("g"), one)


def test_what_cannot_be_split_has_no_parts(place: Place) -> None:
    """And stays as it is."""
    destination = place.destination()
    one = place.records.batches[0]
    [task] = admitted(destination, one)
    assert destination.split(task) == ([], None)
    assert place.states() == [(one.label, "queued")]


def test_parts_stand_in_for_what_is_split(place: Place, fetched: Make) -> None:
    """Each with an id of its own, which none had before; one by one where nothing is replaced."""
    destination = place.destination()
    [task] = admitted(destination, place.records.large)
    parts, group = destination.split(task)
    assert group is None
    assert tuple(batch.label for batch, _ in parts) == place.records.parts
    assert len({task.batch_id, *(batch_id for _, batch_id in parts)}) == len(parts) + 1
    assert place.states() == [(name, "queued") for name in place.records.parts]
    destination.land([fetched(Task(0, parts[0][1], parts[0][0]), 2)])
    assert place.rows() == {parts[0][1]: 2}


@replacing
def test_parts_of_what_is_held_are_a_group(place: Place, fetched: Make) -> None:
    """They replace it together."""
    destination = place.destination()
    large = place.records.large
    [old] = admitted(destination, large)
    destination.land([fetched(old, 3)])
    destination.leave()
    destination = place.destination("f")
    [again] = admitted(destination, replace(large, replaces=(old.batch_id,)))
    parts, group = destination.split(again)
    assert group is not None
    assert group.size == len(parts) == len(place.records.parts)
    tasks = [Task(i, batch_id, batch, group) for i, (batch, batch_id) in enumerate(parts)]
    destination.land([fetched(task, 1, n) for n, task in enumerate(tasks, 1)])
    assert place.rows() == {task.batch_id: 1 for task in tasks}


def test_the_end_settles_every_batch(place: Place, fetched: Make) -> None:
    """Those that were tried by themselves, the others at once; what has landed after all is told."""
    destination = place.destination()
    one, two, _ = admitted(destination, *place.records.batches)
    destination.land([fetched(one, 2)])
    why = failure("cancelled", "stopped")
    landed = destination.settle([("failed", Lost(one, NO)), ("failed", Lost(two, NO))], "cancelled", why)
    assert {index: (each.status, each.rows) for index, each in landed.items()} == {0: ("done", 2)}
    assert [status for _, status in place.states()] == ["done", "failed", "cancelled"]
    destination.finish(fold=True)
    assert destination.lost is None
    assert place.rows() == {one.batch_id: 2}


def test_what_is_interrupted_is_not_there(place: Place, fetched: Make) -> None:
    """Nothing begins after it, and that is no failure of the batch."""
    destination = place.destination()
    [task] = admitted(destination, place.records.batches[0])
    destination.interrupt()
    with pytest.raises(WriteError) as raised:
        destination.land([fetched(task, 2)])
    assert raised.value.failure.kind == "cancelled"
    assert place.rows() == {}
    destination.release()


def test_others_read_the_same_afterwards(place: Place, fetched: Make) -> None:
    """Once it is let go, all that landed is there for whoever opens the place."""
    destination = place.destination()
    [task] = admitted(destination, place.records.batches[0])
    destination.land([fetched(task, 2)])
    destination.release()
    destination.finish(fold=False)
    assert place.rows_afterwards() == 2
