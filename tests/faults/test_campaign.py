"""The campaign: at least 100 runs and 1,000 faults of every kind, and clients that it must catch."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from typing import Any

import httpx
import pytest

import mpnb._client
import mpnb._ledger
import mpnb._writer
from mpnb._verify import Body, Verifier
from mpnb.sandbox._faults import KINDS
from tests.campaign._clients import naive
from tests.campaign._figures import Figures
from tests.campaign._kills import kills
from tests.campaign._runs import campaign
from tests.campaign._victim import PHASES

SCALE = float(os.environ.get("MPNB_CAMPAIGN_SCALE", "1"))
RUNS, KILLS = max(1, round(100 * SCALE)), max(1, round(50 * SCALE))
SEED = 20260101


@pytest.fixture(scope="module")
def faults(tell: Callable[[str], None]) -> Figures:
    """Do the campaign once for the tests below."""
    figures = campaign(RUNS, SEED)
    tell(f"fault campaign, seed {SEED}: {figures}")
    return figures


@pytest.fixture(scope="module")
def killed(tell: Callable[[str], None]) -> Figures:
    """Do the kills once for the tests below."""
    figures = kills(KILLS, SEED)
    tell(f"kills, seed {SEED}: {figures}")
    return figures


@pytest.mark.timeout(900)
def test_whatever_breaks_each_day_is_whole_or_absent(faults: Figures) -> None:
    """After every export each day has exactly the served events or a failure row, and nothing else is left."""
    assert faults.violations == []
    assert faults.lost == faults.duplicated == 0
    assert faults.rows_compared > 300 * faults.runs


@pytest.mark.timeout(900)
def test_every_kind_of_fault_was_provoked(faults: Figures) -> None:
    """The claim above rests on ten faults a run, and on each kind that the sandbox knows, 20 times in 100 runs."""
    assert faults.runs == RUNS
    assert faults.faults.total() >= 10 * RUNS
    if SCALE >= 1:
        assert {kind: faults.faults[kind] for kind in KINDS if faults.faults[kind] < 20} == {}


@pytest.mark.timeout(900)
def test_a_killed_export_leaves_whole_batches_and_goes_on(killed: Figures) -> None:
    """Wherever SIGKILL hits, no batch is partial or done without its rows; the next export completes the table."""
    assert killed.violations == []
    assert killed.lost == killed.duplicated == 0
    assert killed.kills.total() == KILLS
    assert killed.rows_compared > 0


@pytest.mark.timeout(900)
def test_kills_hit_every_phase(killed: Figures) -> None:
    """The claim above rests on deaths while fetching, writing, committing and checkpointing."""
    assert set(killed.kills) <= set(PHASES)
    if SCALE >= 1:
        assert {phase: killed.kills[phase] for phase in PHASES if killed.kills[phase] < 4} == {}


@pytest.mark.parametrize("seed", range(3))
def test_the_campaign_catches_a_naive_client(seed: int) -> None:
    """A client that takes each answer for whole, and keeps what parses, loses events in every run."""
    figures = campaign(1, seed, client=naive)
    assert figures.lost > 0


def test_the_campaign_catches_the_naive_client_for_its_faults() -> None:
    """Without faults the same client passes: it is caught for what it does about them, not for its form."""
    figures = campaign(1, 1, client=naive, faults=0)
    assert figures.violations == []
    assert figures.rows_compared > 0


def _believe_every_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take a body for whole wherever it ends."""
    whole = httpx.Response.iter_raw

    def iter_raw(self: httpx.Response, chunk_size: int | None = None) -> Iterator[bytes]:
        try:
            yield from whole(self, chunk_size)
        except httpx.RemoteProtocolError:
            return

    monkeypatch.setattr(httpx.Response, "iter_raw", iter_raw)
    monkeypatch.setattr(Verifier, "finish", lambda self: Body(self._gzip, self._size, self._json_size, self._newlines))


def _drop_what_is_no_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave lines out without a word."""
    insert = mpnb._writer.insert_lines

    def insert_lines(cursor: Any, table: str, batch_id: int, lines: Any) -> tuple[int, int]:
        rows, _ = insert(cursor, table, batch_id, lines)
        cursor.execute("DELETE FROM mpnb_rejected WHERE batch_id = ?", [batch_id]).fetchall()
        return rows, 0

    monkeypatch.setattr(mpnb._writer, "insert_lines", insert_lines)


def _keep_what_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add a refreshed batch to the old one."""
    monkeypatch.setattr(mpnb._ledger, "forget", lambda *_: None)


def _commit_in_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commit the rows of a batch before its ledger row."""
    landed: Any = mpnb._ledger.landed

    def landed_apart(cursor: Any, table: str, arrivals: Any) -> Any:
        mpnb._writer.run(cursor, "COMMIT")
        mpnb._writer.run(cursor, "BEGIN")
        if any(arrival.rows % 7 == 3 for arrival in arrivals):
            raise mpnb._writer.duckdb.IOException("made up")
        return landed(cursor, table, arrivals)

    monkeypatch.setattr(mpnb._ledger, "landed", landed_apart)


@pytest.mark.parametrize(
    ("mutate", "kinds"),
    [
        (_believe_every_end, KINDS),
        (_drop_what_is_no_event, {"bad_lines"}),
        (_keep_what_is_replaced, KINDS),
        (_commit_in_two, KINDS),
    ],
)
def test_the_campaign_catches_a_mutant(
    mutate: Callable[[pytest.MonkeyPatch], None], kinds: Collection[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one of mpnb's own precautions taken out, one of the first twelve runs notices."""
    mutate(monkeypatch)
    assert any(campaign(1, seed, kinds=kinds).violations for seed in range(12))
