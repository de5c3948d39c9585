"""The one relation to analyse: who is a person, what is a duplicate, which days, and what its columns hold."""

from __future__ import annotations

import json
import logging
import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mpnb
from mpnb._reading.identities import MOVED, ORIGINAL, SIMPLIFIED, Link, resolved
from mpnb.analysis import funnel, retention, segmentation
from mpnb.sandbox import Sandbox, serve
from tests._helpers import WIDE, day

NOON = 1767225600 + 43200  # 1 January 2026


class Project:
    """A project whose events are what a test says, by day of January 2026."""

    def __init__(self) -> None:
        self.days: dict[int, list[dict[str, Any]]] = {}
        self.people: dict[str, dict[str, Any]] = {}
        self.mp: Sandbox = serve(lines=self._lines, profiles=self._profiles)

    def _lines(self, when: date) -> list[bytes]:
        rows = self.days.get(when.day, []) if (when.year, when.month) == (2026, 1) else []
        return [json.dumps(row).encode() for row in rows]

    def _profiles(self) -> list[bytes]:
        return [json.dumps({"$distinct_id": i, "$properties": p}).encode() for i, p in self.people.items()]

    def export_profiles(self, database: Any, **options: Any) -> None:
        """Export the profiles beside the events."""
        options |= {"database": database, "credentials": self.mp.credentials, "quota": WIDE, "max_age": timedelta(0)}
        mpnb.export_profiles(on_batch=lambda _: None, **options)

    def add(self, number: int, name: str, distinct_id: str | None, **properties: Any) -> None:
        """Add an event on some day, at noon and some seconds if ``at`` says so."""
        time = NOON + (number - 1) * 86400 + properties.pop("at", 0)
        named = {f"${key[1:]}" if key.startswith("_") else key: value for key, value in properties.items()}
        row = {"event": name, "properties": {"time": time, "distinct_id": distinct_id, **named}}
        self.days.setdefault(number, []).append(row)

    def export(self, first: int, last: int, database: Any = ":memory:", **options: Any) -> mpnb.ExportResult:
        """Export some days, a batch each."""
        return mpnb.export(
            day(first),
            day(last),
            database=database,
            credentials=self.mp.credentials,
            quota=WIDE,
            chunk_days=1,
            on_batch=lambda _: None,
            **options,
        )


@pytest.fixture
def project() -> Iterator[Project]:
    """Return a project without events."""
    made = Project()
    with made.mp:
        yield made


@contextmanager
def said(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """Collect what is said meanwhile."""
    caplog.clear()
    texts: list[str] = []
    with caplog.at_level(logging.WARNING, "mpnb"):
        yield texts
    texts += [record.getMessage() for record in caplog.records]


def persons(relation: duckdb.DuckDBPyRelation) -> dict[str, set[str]]:
    """Return the distinct_ids of each person."""
    found: dict[str, set[str]] = defaultdict(set)
    for person, distinct_id in relation.project("person, distinct_id").fetchall():
        found[person].add(distinct_id)
    return found


# --- identities ------------------------------------------------------------------------------------------------------


def components(edges: list[tuple[str, str]]) -> list[set[str]]:
    """Return what is connected, slowly: sets that have something in common are made one until none have."""
    sets = [set(edge) for edge in edges]
    while True:
        for one in sets:
            if common := next((other for other in sets if other is not one and one & other), None):
                one |= common
                sets.remove(common)
                break
        else:
            return sets


IDS = st.sampled_from([f"id{n}" for n in range(9)])


@given(st.lists(st.tuples(IDS, IDS, st.sampled_from([SIMPLIFIED, ORIGINAL, MOVED])), max_size=14))
@settings(max_examples=200, deadline=None)
def test_persons_are_what_links_connect(edges: list[tuple[str, str, str]]) -> None:
    """Chains, cycles and repetitions alike, in each system, whose own links and those of moved events alone count."""
    links = [Link(system, one, other, other, 1, n) for n, (one, other, system) in enumerate(edges)]
    for system in (SIMPLIFIED, ORIGINAL):
        mapping = resolved(links, system)
        wanted = components([(a, b) for a, b, s in edges if s in (system, MOVED)])
        found = defaultdict(set)
        for each in {each for some in wanted for each in some}:
            found[mapping.get(each, each)].add(each)
        assert sorted(map(sorted, found.values())) == sorted(map(sorted, wanted))
        assert all(name in some for name, some in found.items())
        if system == SIMPLIFIED:
            users = {b for _, b, s in edges if s == SIMPLIFIED}
            assert all(name in users for name, some in found.items() if some & users)
        assert not mapping.keys() & mapping.values()


def test_a_chain_of_links_is_one_person_however_long() -> None:
    """100,000 of them, without a limit of depth."""
    links = [Link(ORIGINAL, f"id{n}", f"id{n + 1}", f"id{n}", 1, n) for n in range(100_000)]
    random.Random(1).shuffle(links)
    assert set(resolved(links, ORIGINAL).values()) == {"id99999"}


def test_a_device_is_its_user_s_before_and_after_the_link(project: Project) -> None:
    """Mixpanel's flow of a sign-up: events 1 and 2 of a device, event 3 of the device with a user."""
    project.add(1, "A", "$device:D1", _device_id="D1")
    project.add(2, "B", "$device:D1", _device_id="D1")
    project.add(3, "C", "U1", _device_id="D1", _user_id="U1")
    project.add(3, "C", "$device:D2", _device_id="D2")
    with project.export(1, 3) as result:
        assert persons(result.for_analysis()) == {"U1": {"$device:D1", "U1"}, "$device:D2": {"$device:D2"}}
        assert result.identities().fetchall() == [("$device:D1", "U1")]
        assert persons(result.for_analysis(identities="exported"))["$device:D1"] == {"$device:D1"}
        assert persons(result.for_analysis(identities="original"))["$device:D1"] == {"$device:D1"}


def test_an_event_of_nobody_has_no_person(project: Project) -> None:
    """Without an id, or with an empty one."""
    project.add(1, "A", "")
    project.add(1, "A", None)
    with project.export(1, 1) as result:
        for identities in ("merged", "exported"):
            assert result.for_analysis(identities=identities).project("person").fetchall() == [(None,), (None,)]


def test_a_device_with_two_users_makes_them_one_person(project: Project) -> None:
    """All ids of a cluster are one; it has the name of the user who was linked first."""
    for number, user in ((2, "U2"), (1, "U1")):
        project.add(number, "A", user, _device_id="D1", _user_id=user)
    with project.export(1, 2) as result:
        assert persons(result.for_analysis()) == {"U1": {"U1", "U2"}}


def test_the_original_system_follows_its_events(project: Project, caplog: pytest.LogCaptureFixture) -> None:
    """$identify, $create_alias and $merge make chains; refused ones link nothing; devices and users link nothing."""
    project.add(1, "$identify", "b", _identified_id="b", _anon_id="a")
    project.add(1, "$create_alias", "b", alias="c")
    project.add(2, "$merge", "c", _distinct_ids=["c", "d"])
    project.add(2, "$merge", "c", _distinct_ids=["c", "x"], _failure_reason="too many ids")
    project.add(2, "$identify", "y", _identified_id="y", _anon_id="c", _identity_failure_reason="no")
    for name in ("a", "b", "c", "d", "x", "y"):
        project.add(2, "A", name, _device_id="D", _user_id="z")
    with project.export(1, 2) as result:
        with said(caplog) as texts:
            found = persons(result.for_analysis("A"))
        assert sorted(map(sorted, found.values())) == [["a", "b", "c", "d"], ["x"], ["y"]]
        assert texts == ["identities: original ID merge, by $identify, $create_alias, $merge"]
        assert next(name for name, some in found.items() if "a" in some) == "c"  # as the last of them was exported
        assert len(persons(result.for_analysis("A", identities="simplified"))) == 1 + 5


def test_an_event_that_was_moved_links_its_two_ids(project: Project) -> None:
    """Where one batch was exported before the merge and another after."""
    project.add(1, "A", "$device:D1")
    project.add(2, "B", "U1", _distinct_id_before_identity="$device:D1")
    with project.export(1, 2) as result:
        for system in ("simplified", "original"):
            assert persons(result.for_analysis(identities=system)) == {"U1": {"$device:D1", "U1"}}


def test_a_link_that_arrives_later_moves_old_rows(project: Project, tmp_path: Any) -> None:
    """Also where the result has the old days alone."""
    project.add(1, "A", "$device:D1", _device_id="D1")
    database = tmp_path / "late.duckdb"
    with project.export(1, 1, database) as result:
        assert set(persons(result.for_analysis())) == {"$device:D1"}
    project.add(2, "B", "U1", _device_id="D1", _user_id="U1")
    project.export(1, 2, database).close()
    with project.export(1, 1, database) as result:
        assert set(persons(result.for_analysis())) == {"U1"}


def test_where_the_table_leaves_linking_events_out_it_warns(project: Project) -> None:
    """They may be there, and are not in the table."""
    project.add(1, "A", "a")
    with project.export(1, 1, events=["A"]) as result:
        for ask in (result.for_analysis, result.identities):
            with pytest.warns(
                UserWarning, match=r"no \$identify, \$create_alias, \$merge, as it holds some events only"
            ):
                ask()
        result.for_analysis(identities="simplified")
        with pytest.raises(mpnb.PlanError, match="identities must be 'merged', 'exported', 'simplified' or 'original'"):
            result.for_analysis(identities="none")


@pytest.mark.parametrize("system", ["simplified", "original"])
def test_a_month_of_merges_counts_the_true_users(project: Project, system: str) -> None:
    """Everybody has some devices and merges them on some day; each day counts who was there, as does the month."""
    r = random.Random(system)
    truth: dict[int, set[int]] = defaultdict(set)
    devices = {who: [f"{who}-{n}" for n in range(r.randint(1, 3))] for who in range(30)}
    merges = {device: r.randint(1, 31) for mine in devices.values() for device in mine}
    for number in range(1, 32):
        for who, mine in devices.items():
            for device in r.sample(mine, r.randint(0, len(mine))):
                truth[number].add(who)
                merged = number >= merges[device] and r.random() < 0.5
                if system == "simplified":
                    user = {"_user_id": f"u{who}"} if merged else {}
                    project.add(number, "A", f"u{who}" if merged else f"$device:{device}", _device_id=device, **user)
                else:
                    project.add(number, "A", f"u{who}" if merged else device)
        for who, mine in devices.items():
            for device in (device for device in mine if merges[device] == number):
                if system == "simplified":
                    truth[number].add(who)
                    project.add(number, "Log In", f"u{who}", _device_id=device, _user_id=f"u{who}")
                else:
                    project.add(number, "$identify", f"u{who}", _identified_id=f"u{who}", _anon_id=device)
    with project.export(1, 31) as result:
        events = result.for_analysis().filter("event_name <> '$identify'")
        by_day = segmentation(events, measure="users", zone="UTC").project("day(period), users").fetchall()
        assert by_day == [(number, len(truth[number])) for number in sorted(truth)]
        [(users,)] = events.aggregate("count(DISTINCT person)").fetchall()
        assert users == len(set().union(*truth.values()))
        [(exported,)] = result.events.aggregate("count(DISTINCT distinct_id)").fetchall()
        assert exported > users


# --- rows ------------------------------------------------------------------------------------------------------------


def test_it_has_the_rows_of_deduplicated(project: Project, tmp_path: Any) -> None:
    """Of the days asked for; of two the one with the later processing time; kept up when batches come and go."""
    database = tmp_path / "rows.duckdb"
    r = random.Random(3)
    for number in range(1, 5):
        for n in range(20):
            for copy in range(r.choice([1, 1, 1, 2, 3])):
                moment = {"mp_processing_time_ms": r.choice([None, 10 + copy, "later"]), "copy": copy}
                project.add(number, r.choice("AB"), f"u{n % 7}", at=n, _insert_id=f"i{number}-{n}", **moment)
            project.add(number, "A", "u1", at=n, copy=0)  # without an id, so that none is a duplicate
    for first, last, mode in ((1, 2, "resume"), (1, 4, "resume"), (2, 3, "refresh")):
        with project.export(first, last, database, mode=mode) as result:
            wanted = "event_name, epoch(time), distinct_id, insert_id"
            copies = "(properties->>'copy')::BIGINT"
            expected = sorted(result.deduplicated().project(f"{wanted}, {copies}").fetchall(), key=str)
            for materialized in (True, False):
                if not materialized:
                    result.forget_typed()
                found = result.for_analysis(properties="copy", identities="exported")
                assert sorted(found.project(f"{wanted}, copy").fetchall(), key=str) == expected
        project.days[2] = project.days[2][:10]


@pytest.mark.filterwarnings("ignore:values of several types:UserWarning")
def test_types_widen_when_a_later_batch_needs_it(project: Project, tmp_path: Any) -> None:
    """No value is lost, and a name that is taken gets a number."""
    database = tmp_path / "types.duckdb"
    values = [[1, 2], [2.5], ["x"], [{"a": 1}, None]]
    types = ["BIGINT", "DOUBLE", "JSON", "JSON"]
    for number, (mine, kind) in enumerate(zip(values, types, strict=True), 1):
        for value in mine:
            project.add(number, "A", "u", amount=value, person="p", when="2026-01-05T10:00:00", flag=True)
        with project.export(1, number, database) as result:
            found = result.for_analysis("A", ["amount", "person", "when", "flag"])
            assert found.columns[-4:] == ["amount", "person_2", "when", "flag"]
            assert [str(each) for each in found.types[-4:]] == [kind, "VARCHAR", "TIMESTAMP", "BOOLEAN"]
            got = [row[0] for row in found.project("amount").fetchall()]
            got = [json.loads(each) if kind == "JSON" and each is not None else each for each in got]
            sent = [value for some in values[:number] for value in some]
            assert len(got) == len(sent)
            assert all(value in got for value in sent)


def test_what_is_not_there_is_refused(project: Project) -> None:
    """With the closest; and there is nothing to see once a batch is fetched again."""
    project.add(1, "Purchase", "u", amount=1)
    with project.export(1, 1) as result:
        with pytest.raises(mpnb.PlanError, match=r"there is no event 'Purchas' in .*; did you mean 'Purchase'"):
            result.for_analysis("Purchas")
        with pytest.raises(mpnb.PlanError, match="none of these events has a property 'amuont'; did you mean 'amount'"):
            result.for_analysis("Purchase", ["amuont"])
        with pytest.raises(mpnb.PlanError, match="there is no time zone 'Mars'"):
            result.for_analysis(zone="Mars")
        with pytest.raises(mpnb.PlanError, match="there is no event 'Sign Up'"):
            funnel(result.for_analysis(), ["Purchase", "Sign Up"])
        events = result.for_analysis()
        project.export(1, 1, result.con, mode="refresh")
        with pytest.raises(duckdb.Error, match="fetched again since"):
            events.fetchall()


def test_the_same_rows_where_nothing_can_be_written(project: Project, tmp_path: Any) -> None:
    """Out of the JSON, as while an export runs."""
    for number in (1, 2):
        for copy in (1, 2):
            project.add(
                number, "A", "$device:D", _device_id="D", _insert_id="i", amount=copy, mp_processing_time_ms=copy
            )
        project.add(number, "A", "U", _device_id="D", _user_id="U", amount=None)
    database = tmp_path / "read.duckdb"
    columns = "epoch(time), person, amount"
    with project.export(1, 2, database) as result:
        wanted = sorted(result.for_analysis("A", ["amount"]).project(columns).fetchall(), key=str)
        result.forget_typed()
    assert [row[1:] for row in wanted] == [("U", 2), ("U", None)] * 2
    with duckdb.connect(database, read_only=True) as con, mpnb.open(con) as result:
        assert sorted(result.for_analysis("A", ["amount"]).project(columns).fetchall(), key=str) == wanted
        assert result.identities().fetchall() == [("$device:D", "U")]


# --- people -------------------------------------------------------------------------------------------------------


def test_what_a_person_s_profile_has_is_a_column(project: Project) -> None:
    """Of whoever the events are of in the end, with the type of its values; who has no profile has nulls."""
    project.people = {"U": {"plan": "pro", "$age": 30}, "V": {"plan": "free", "$age": 31.5}, "W": {"Plan": "x"}}
    project.add(1, "View", "$device:D", _device_id="D")
    project.add(1, "Buy", "U", _device_id="D", _user_id="U", at=9)
    for person in ("V", "W", "nobody"):
        project.add(1, "View", person, plan="of the event")
    project.add(1, "Buy", "V", at=9)
    with project.export(1, 1) as result:
        with pytest.raises(mpnb.PlanError, match=r"no profiles of this project: export_profiles\(\) fetches them"):
            result.for_analysis(properties="profile.plan")
        project.export_profiles(result.con)
        events = result.for_analysis(properties=["plan", "profile.plan", "profile.$age", "profile.Plan"])
        assert events.columns[-4:] == ["plan", "profile.plan_2", "profile.$age", "profile.Plan"]
        events = result.for_analysis(properties=["plan", "profile.plan", "profile.$age"])
        assert [str(kind) for kind in events.types[-2:]] == ["VARCHAR", "DOUBLE"]
        rows = events.project('event_name, person, plan, "profile.plan", "profile.$age"').fetchall()
        assert sorted(rows, key=str) == [
            ("Buy", "U", None, "pro", 30.0),
            ("Buy", "V", None, "free", 31.5),
            ("View", "U", None, "pro", 30.0),
            ("View", "V", "of the event", "free", 31.5),
            ("View", "W", "of the event", None, None),
            ("View", "nobody", "of the event", None, None),
        ]
        steps = funnel(events, ["View", "Buy"], by="profile.plan").project("segment, step, users").fetchall()
        assert sorted(steps, key=str) == sorted(
            [("pro", 1, 1), ("pro", 2, 1), ("free", 1, 1), ("free", 2, 1), (None, 1, 2), (None, 2, 0)], key=str
        )
        with pytest.raises(mpnb.PlanError, match="no profile in 'profiles' has a property 'pla'; did you mean 'plan'"):
            result.for_analysis(properties="profile.pla")


def test_profiles_are_those_of_the_latest_snapshot(project: Project) -> None:
    """Of several tables, one with all properties comes first, then the youngest; groups are nobody."""
    project.people = {"U": {"plan": "old"}, "V": {"plan": "some"}}
    project.add(1, "A", "U")
    project.add(1, "A", "V")
    with project.export(1, 1) as result:

        def plans() -> list[Any]:
            rows = result.for_analysis(properties="profile.plan").project('person, "profile.plan"')
            return sorted(rows.fetchall())

        project.export_profiles(result.con, table="few", properties=["plan"])
        assert plans() == [("U", "old"), ("V", "some")]
        project.people = {"U": {"plan": "new"}}
        project.export_profiles(result.con)
        project.people = {"U": {"plan": "last"}}
        project.export_profiles(result.con, table="few", properties=["plan"])
        assert plans() == [("U", "new"), ("V", None)]
        project.export_profiles(result.con)
        assert plans() == [("U", "last"), ("V", None)]


# --- days ------------------------------------------------------------------------------------------------------------


def test_days_are_those_of_the_zone(project: Project, caplog: pytest.LogCaptureFixture, tmp_path: Any) -> None:
    """That is passed, or that is stored for the table; else of UTC, and each report says so."""
    project.add(1, "A", "u", at=11 * 3600 + 1800, mp_processing_time_ms=(NOON + 41400) * 1000)  # 23:30 in UTC
    project.add(1, "A", "u", mp_processing_time_ms=NOON * 1000)
    with project.export(1, 1, tmp_path / "zone.duckdb") as result:
        con = result.con
        reports: list[Callable[[Any], Any]] = [
            segmentation,
            lambda e: retention(e, "A"),
            mpnb.analysis.sessions,
            mpnb.analysis.lifecycle,
            lambda e: funnel(e, ["A", "A"], counting="sessions"),
        ]
        for events in (result.for_analysis(), result.events):
            for report in reports:
                with said(caplog) as texts:
                    report(events)
                assert texts == ["days in UTC: pass zone= to compare with Mixpanel"]
            assert segmentation(events).project("day(period), events").fetchall() == [(1, 2)]
            assert segmentation(events, zone="Europe/Berlin").project("day(period)").fetchall() == [(1,), (2,)]
        with said(caplog) as texts:
            assert segmentation(result.for_analysis(zone="Europe/Berlin")).project("events").fetchall() == [(1,), (1,)]
            mpnb.set_zone("EVENTS", "Europe/Berlin", database=con)
            for events in (result.for_analysis(), result.events):
                assert segmentation(events).project("events").fetchall() == [(1,), (1,)]
                assert segmentation(events, zone="UTC").project("events").fetchall() == [(2,)]
        assert [text for text in texts if "UTC" in text] == []
        mpnb.set_zone("events", None, database=con)
        assert "local_time" not in result.for_analysis().columns
        for zone in ("Mars", 5, ""):
            with pytest.raises(mpnb.PlanError, match="there is no time zone"):
                mpnb.set_zone("events", zone, database=con)  # type: ignore[arg-type]
        with pytest.raises(mpnb.TableError, match="has no table 'other'"):
            mpnb.set_zone("other", "UTC", database=con)


def test_what_is_stored_goes_with_the_table(project: Project, tmp_path: Any) -> None:
    """And is there when the file is opened again."""
    database = tmp_path / "dropped.duckdb"
    project.add(1, "A", "u")
    project.export(1, 1, database).close()
    mpnb.set_zone("events", "Asia/Tokyo", database=database)
    with mpnb.open(database) as result, pytest.warns(UserWarning, match="do not show whether their time is UTC"):
        assert "local_time" in result.for_analysis().columns
    mpnb.drop("events", database=database)
    with duckdb.connect(database) as con:
        assert con.sql("SELECT * FROM mpnb_meta WHERE name <> 'layout'").fetchall() == []
        assert con.sql("SELECT * FROM duckdb_tables() WHERE schema_name = 'mpnb_analysis'").fetchall() == []


def test_local_time_is_not_shifted_twice() -> None:
    """In a project made before 2023 the exported time is that of its zone: so are its days, and time becomes UTC."""
    usual: dict[str, Any] = {"database": ":memory:", "quota": WIDE, "on_batch": lambda _: None}
    with serve(events_per_day=300, legacy_timezone="America/New_York") as mp:
        result = mpnb.export(day(1), day(3), credentials=mp.credentials, **usual)
    with result:
        events = result.for_analysis(zone="America/New_York")
        ends = events.aggregate("min(time - local_time), max(time - local_time)").fetchall()
        assert ends == [(timedelta(hours=5), timedelta(hours=5))]
        wanted = result.deduplicated().aggregate("time::DATE AS day, count(*)").order("day").fetchall()
        for each in (events, result.for_analysis()):
            assert segmentation(each).project("period::DATE, events").fetchall() == wanted
        raw = segmentation(result.deduplicated(), zone="America/New_York")
        assert raw.project("period::DATE, events").fetchall() == wanted
