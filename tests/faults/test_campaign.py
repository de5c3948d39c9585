"""The campaign, small: every part of it, what it has to provoke, and clients and mutants that it must catch."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from mpnb.sandbox._faults import PAGES
from tests.campaign._case import KINDS
from tests.campaign._figures import Figures
from tests.campaign._mutants import MUTANTS, PEOPLE
from tests.campaign._parts import PARTS
from tests.campaign._shim import NoCompiler, library
from tests.campaign._supervisor import campaign
from tests.campaign._surroundings import SURROUNDINGS
from tests.campaign._victim import PHASES

SCALE = float(os.environ.get("MPNB_CAMPAIGN_SCALE", "1"))
SEED = 20260101
# Some three minutes of CPU in all, on a quiet machine.
RUNS = {"wire": 30, "proxies": 10, "beside": 8, "surroundings": 16, "io": 18, "kills": 7, "images": 3, "people": 9}
OPTIONS = {"images": {"images": 28}}
# So many processes that are stuck are enough to see.
PATIENCE = 2
_done: dict[str, Figures] = {}

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def found(tell: Callable[[str], None]) -> Callable[[str], Figures]:
    """Do a part of the campaign once for all tests, and return what it found."""

    def find(part: str) -> Figures:
        if part not in _done:
            if PARTS[part].needs_shim:
                try:
                    library()
                except NoCompiler as error:
                    pytest.fail(str(error), pytrace=False)
            runs = max(1, round(RUNS[part] * SCALE))
            _done[part] = campaign(part, runs, SEED, patience=PATIENCE, **OPTIONS.get(part, {}))
            tell(f"campaign, {part}, seed {SEED}: {_done[part]}")
        return _done[part]

    return find


def _assert_kept(figures: Figures, rows_a_run: int) -> None:
    assert figures.violations == []
    assert figures.lost == figures.duplicated == figures.stuck == 0
    assert figures.rows_compared > rows_a_run * figures.runs


def test_whatever_breaks_each_day_is_whole_or_absent(found: Callable[[str], Figures]) -> None:
    """After every export each day has exactly the served events or a failure row, and nothing else is left."""
    _assert_kept(found("wire"), 200)


def test_every_kind_of_fault_was_provoked(found: Callable[[str], Figures]) -> None:
    """The claim above rests on ten faults a run, and on each kind that the sandbox knows."""
    figures = found("wire")
    assert figures.faults.total() >= 10 * figures.runs
    if SCALE >= 1:
        assert {kind: figures.faults[kind] for kind in KINDS if figures.faults[kind] < 5} == {}


@pytest.mark.parametrize("part", ["proxies", "beside", "surroundings", "io", "images"])
def test_nothing_is_lost_or_doubled_or_stuck(part: str, found: Callable[[str], Figures]) -> None:
    """
    Whatever surrounds exports, each day is whole or absent, which the export says, and the next one completes it.

    An image of a crash opens with whole batches, or is refused where the disk lost what it had said it had.
    """
    _assert_kept(found(part), 100)


def test_what_surrounds_exports_was_provoked(found: Callable[[str], Figures]) -> None:
    """The claim above rests on every surrounding, failing calls, and images that opened."""
    if SCALE >= 1:
        surroundings, calls, images = found("surroundings").surroundings, found("io").calls, found("images").images
        assert {name for name in SURROUNDINGS if not surroundings[name]} == set()
        assert calls.total() > 10
        assert images["whole, opened"] > 50
        assert images["torn, opened"] > 50


def test_a_killed_export_leaves_whole_batches_and_goes_on(found: Callable[[str], Figures]) -> None:
    """Wherever SIGKILL hits, no batch is partial or done without its rows; the next export completes the table."""
    _assert_kept(found("kills"), 50)


def test_kills_hit_every_phase(found: Callable[[str], Figures]) -> None:
    """The claim above rests on deaths while fetching, writing, committing and checkpointing."""
    kills = found("kills").kills
    assert set(kills) <= set(PHASES)
    if SCALE >= 1:
        assert {phase: kills[phase] for phase in PHASES if not kills[phase]} == {}


def test_a_snapshot_of_profiles_is_whole_or_the_one_before(found: Callable[[str], Figures]) -> None:
    """Whatever breaks on the wire, in pages, or by a stop or kill: what is there was proven, and its history fits."""
    figures = found("people")
    _assert_kept(figures, 20)
    if SCALE >= 1:
        assert figures.kills.total() > 2
        assert len({kind for kind in PAGES if figures.faults[kind]}) > 5


@pytest.mark.parametrize("mutant", sorted(PEOPLE))
def test_the_campaign_catches_a_mutant_of_profiles(mutant: str) -> None:
    """With the proof of pages taken out, or pages of two sessions in one place, one of the first runs notices."""
    assert campaign("people", 12, 0, mutant=mutant, kinds=sorted(PAGES), until_violated=True).violations


def test_the_campaign_catches_a_naive_client() -> None:
    """A client that takes each answer for whole, and keeps what parses, loses events."""
    assert campaign("wire", 2, 0, client="naive").lost > 0


def test_the_campaign_catches_the_naive_client_for_its_faults() -> None:
    """Without faults the same client passes: it is caught for what it does about them, not for its form."""
    figures = campaign("wire", 1, 1, first=8, client="naive", faults=0)
    assert figures.violations == []
    assert figures.rows_compared > 0


@pytest.mark.parametrize("mutant", sorted(MUTANTS.keys() - PEOPLE.keys()))
def test_the_campaign_catches_a_mutant(mutant: str) -> None:
    """With one of mpnb's own precautions taken out, one of the first twelve runs notices."""
    kinds = ["bad_lines"] if mutant == "drop_what_is_no_event" else sorted(KINDS)
    assert campaign("wire", 12, 0, mutant=mutant, kinds=kinds, until_violated=True).violations
