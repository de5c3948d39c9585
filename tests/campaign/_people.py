"""
Profiles: faults on the wire and in pages, stops and kills, and a judge of the snapshot after each step.

The table has the people of one version, all of them, or stays as it was; what is staged is as the ledger says; a
history that was begun has the snapshot as its latest versions.
"""

from __future__ import annotations

import json
import random
import signal
import traceback
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb

import mpnb
from mpnb.sandbox import Sandbox, serve
from mpnb.sandbox._faults import KINDS as EVERY_KIND
from mpnb.sandbox._faults import LINES, PAGES
from tests._helpers import canonical
from tests.campaign._case import FIRST_DAY, LINGERS, draw_fault, generator, hand
from tests.campaign._clients import QUOTA
from tests.campaign._figures import Figures
from tests.campaign._kills import ABORTS, SPANS
from tests.campaign._pace import patient, quick
from tests.campaign._stage import FILE, Stage, copied, stage, victim
from tests.campaign._victim import PEOPLE_PHASES

# Of pages: what lies in lines alone, or in days, no page can have.
KINDS = EVERY_KIND - LINES - {"too_large"}
FAULTS = 6
STEPS = ("refresh", "refresh", "resume", "resume", "cancel", "kill", "kill")
# No JSON for DuckDB: it stays among the rejected, whole.
NO_JSON = b'{"$distinct_id":"lone","$properties":{"t":"\\ud800"}}'
VALUES = ("free", "ü\u2028", 2**63 - 1, -(10**18) - 7, 1.5, None, True, [1, "x"], {"a": {"b": []}}, "nul\0", "")
CHANGED = ("profile_deleted", "profile_swapped")
Content = dict[str, str]


@dataclass(slots=True)
class Crowd:
    """
    The people who are served, by version.

    Attributes:
        version: that is served now.
    """

    seed: int
    size: int
    has_no_json: bool
    version: int = 0
    _made: dict[int, list[bytes]] = field(default_factory=dict)

    def served(self, version: int | None = None) -> list[bytes]:
        """Return the profiles of a version, by default of the one that is served now."""
        version = self.version if version is None else version
        if version not in self._made:
            rng = random.Random(f"{self.seed}/{version}")
            ids = rng.sample(range(2 * self.size), self.size)
            self._made[version] = [
                json.dumps(
                    {"$distinct_id": f"p{n}", "$properties": {"v": version, "x": rng.choice(VALUES)}},
                    ensure_ascii=rng.random() < 0.5,
                ).encode()
                for n in ids
            ] + ([NO_JSON] if self.has_no_json else [])
        return self._made[version]

    def content(self, version: int) -> Content:
        """Return what the table has of a version."""
        profiles = [json.loads(each) for each in self.served(version) if each != NO_JSON]
        return {each["$distinct_id"]: canonical(json.dumps(each["$properties"])) for each in profiles}


@dataclass(frozen=True, slots=True)
class Call:
    """What calls of a run have in common."""

    database: Path
    page_size: int
    workers: int
    history: bool
    cancel_after: int


def run(seed: int, number: int, figures: Figures, *, kinds: Collection[str] = KINDS) -> None:
    """Do some steps with faults, and a last one without any."""
    rng = generator("people", seed, number)
    crowd = Crowd(rng.getrandbits(32), rng.choice((0, 1, 7, 20, 40, 60)), rng.random() < 0.2)
    cards = hand(seed, number, FAULTS, kinds)
    linger = rng.choice(LINGERS)
    with (
        stage(f"people {seed}/{number}", figures) as here,
        quick(linger),
        serve(seed=crowd.seed, profiles=crowd.served, gzip_members=rng.choice((1, 2))) as server,
    ):
        call = Call(
            here.folder / FILE, rng.choice((1, 4, 7, 10, 100)), rng.choice((1, 2, 5)), rng.random() < 0.5,
            rng.randint(1, 30),
        )  # fmt: skip
        judge = Judge(call.database, crowd, figures, here)
        for step in ("refresh", *(rng.choice(STEPS) for _ in range(rng.randint(2, 4)))):
            # Of each step two kinds: with more of them hardly any snapshot comes to its end.
            # Those of a kill are of pages, which a process of its own meets as fast as this one.
            mine = [cards.pop() for _ in range(min(len(cards), 2))] if step != "kill" else [rng.choice(sorted(PAGES))]
            for kind in mine:
                pages = max(1, crowd.size // call.page_size)
                page = rng.randrange(pages + 1) if rng.random() < 0.7 else None
                fault = replace(draw_fault(rng, kind, [FIRST_DAY]), day=None, page=page)
                server.add_fault(fault)
            crowd.version += rng.random() < 0.7
            before = Counter(server.injected)
            mode = rng.choice(("refresh", "resume")) if step in ("kill", "cancel") else step
            if step == "kill":
                ended = _kill(here, rng, server, call, linger, mode)
            else:
                ended = _fetch(here, step, server, call, mode)
            struck = Counter(server.injected) - before
            figures.steps += 1
            figures.faults += struck
            judge.judge(f"{step}, {mode}", ended, mode, gone=sum(struck[kind] for kind in CHANGED))
            server.clear_faults()
        with patient():
            crowd.version += 1
            judge.judge("last", _fetch(here, "last", server, call, "refresh", may_fail=False), "refresh", gone=0)


def _fetch(here: Stage, step: str, server: Sandbox, call: Call, mode: str, *, may_fail: bool = True) -> str:
    """Fetch profiles, and return how that ended: ``there``, ``failed``, or ``stopped`` at an unknown point."""
    jobs: list[mpnb.ProfilesJob] = []
    seen = 0

    def on_batch(progress: mpnb.BatchProgress) -> None:
        nonlocal seen
        seen += 1
        if step == "cancel" and seen >= call.cancel_after and jobs:
            jobs[0].cancel()

    ask: dict[str, Any] = {
        "credentials": server.credentials, "database": call.database, "quota": QUOTA, "on_batch": on_batch,
        "page_size": call.page_size, "workers": call.workers, "history": call.history, "max_age": timedelta(0),
        "mode": mode, "spool": mpnb.Spool(here.folder / "spool"),
    }  # fmt: skip
    with here.step(step):
        try:
            if step == "cancel":
                jobs.append(mpnb.start_profiles(**ask))
                result = jobs[0].result()
            else:
                result = mpnb.export_profiles(**ask)
        except (mpnb.ProfilesError, mpnb.ProfilesCancelled) as error:
            with error.result as failed:
                if not failed.has_failures:
                    here.violation(f"{step}: failed and lacks nothing: {error}")
                if isinstance(error, mpnb.ProfilesError) and not failed.failures.fetchall():
                    here.violation(f"{step}: failed without a failure: {error}")
            if not may_fail:
                here.violation(f"{step}: failed without a fault: {error}")
            return "failed"
        except Exception:
            here.violation(f"{step}: raised {traceback.format_exc().strip().splitlines()[-1]}")
            return "stopped"
        with result:
            if result.has_failures or not result.check().ok:
                here.violation(f"{step}: succeeded, and {result.check()}")
        return "there"


def _kill(here: Stage, rng: random.Random, server: Sandbox, call: Call, linger: float, mode: str) -> str:
    """Fetch in a process that dies on its way, and return how that ended."""
    phase = rng.choice(PEOPLE_PHASES)
    asked = {
        "phase": phase,
        "nth": 1 if phase in ("checkpointing", "publishing") else rng.randint(1, 6),
        "linger": linger,
        "delay": rng.uniform(0, SPANS.get(phase, 0.002)),
        "abort": rng.choice((None, *ABORTS)),
        "threshold": rng.choice(("'64MB'", "'10KB'")),
        "credentials": asdict(server.credentials),
        "database": str(call.database),
        "spool": str(here.folder / "spool"),
        "people": {
            "page_size": call.page_size,
            "workers": call.workers,
            "history": call.history,
            "mode": mode,
        },
    }
    with here.step(f"kill {phase}"):
        ended = victim(asked)
    if ended.returncode == -signal.SIGKILL:
        here.figures.kills[ended.stdout] += 1
        return "stopped"
    if ended.returncode and "ProfilesError" not in ended.stderr:
        here.violation(f"the victim failed by itself: {ended.stderr.strip().splitlines()[-1]}")
    return "failed" if ended.returncode else "there"


class Judge:
    """Look at a file after each step. Everybody else has closed it."""

    def __init__(self, path: Path, crowd: Crowd, figures: Figures, here: Stage) -> None:
        self._path = path
        self._crowd = crowd
        self._figures = figures
        self._here = here
        self._there: Content | None = None  # what the table had after the step before
        self._begun: set[int] = set()  # versions that sessions were begun with which may go on

    def judge(self, step: str, ended: str, mode: str, *, gone: int) -> None:
        """
        Compare the table with what it may have.

        Args:
            ended: how the step did.
            gone: how many people a fault let go at most, of a session from its first page on.
        """
        if not self._path.exists():
            return
        with copied(self._path) as con:
            names = {name for (name,) in con.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
            now = self._content(con, step) if "profiles" in names else None
            self._begun = {self._crowd.version} | (self._begun if mode == "resume" else set())
            new = now is not None and any(self._is_new(now, each, gone) for each in self._begun)
            old = now == self._there
            if not (new if ended == "there" else old if ended == "failed" else new or old):
                self._figures.lost += 1
                self._violation(step, f"{ended}, and the table is neither the old nor the new snapshot it has to be")
            if now is not None:
                self._proven(con, step, len(now))
            self._staged(con, step, names)
            if "profiles_history" in names and now is not None:
                latest = con.execute("SELECT distinct_id, properties FROM profiles_history WHERE valid_to IS NULL")
                rows = [(i, canonical(p)) for i, p in latest.fetchall()]
                if dict(rows) != now or len(rows) != len(now):
                    self._violation(step, "the latest versions of the history are not the snapshot")
            if ended == "there" or (new and not old):
                self._begun.clear()
        self._there = now

    def _content(self, con: duckdb.DuckDBPyConnection, step: str) -> Content:
        rows = con.execute("SELECT distinct_id, properties FROM profiles").fetchall()
        self._figures.rows_compared += len(rows)
        found = {i: canonical(p) for i, p in rows}
        if len(found) != len(rows):
            self._figures.duplicated += len(rows) - len(found)
            self._violation(step, f"{len(rows) - len(found)} profiles are there twice")
        return found

    def _is_new(self, now: Content, version: int, gone: int) -> bool:
        served = self._crowd.content(version)
        come = {i: p for i, p in now.items() if served.get(i) != p}
        return len(served.keys() - now.keys()) <= gone and all('"made_up": true' in p for p in come.values())

    def _proven(self, con: duckdb.DuckDBPyConnection, step: str, rows: int) -> None:
        """See that what the file says of the snapshot is so."""
        found = con.execute(
            "SELECT rows, rejected, total FROM mpnb_snapshots"
            " WHERE published_at IS NOT NULL AND table_name = 'profiles'"
        ).fetchall()
        ledger = "SELECT sum(rows)::BIGINT, sum(rejected)::BIGINT FROM mpnb_batches WHERE table_name = 'profiles'"
        [(of_pages, rejected)] = con.execute(ledger).fetchall()
        lines = [bytes(line) for (line,) in con.execute(
            "SELECT line FROM mpnb_rejected WHERE table_name = 'profiles'"
        ).fetchall()]  # fmt: skip
        if found != [(rows, len(lines), rows + len(lines))] or (of_pages, rejected) != (rows, len(lines)):
            self._violation(step, f"{rows} profiles, {len(lines)} rejected; said: {found}, {of_pages}, {rejected}")
        if set(lines) - {NO_JSON}:
            self._violation(step, f"rejected: {lines[:2]}")

    def _staged(self, con: duckdb.DuckDBPyConnection, step: str, names: set[str]) -> None:
        """See that what is staged is what the ledger says, page by page."""
        there: Sequence[Any] = []
        if "mpnb_staged_profiles" in names:
            there = con.execute("SELECT batch_id, count(*) FROM mpnb_staged_profiles GROUP BY ALL").fetchall()
        said = con.execute(
            "SELECT batch_id, rows FROM mpnb_batches WHERE table_name = 'mpnb_staged_profiles' AND rows > 0"
        ).fetchall()
        if sorted(there) != sorted(said):
            self._violation(step, f"staged: {there[:3]}, and the ledger says {said[:3]}")

    def _violation(self, step: str, text: str) -> None:
        self._here.violation(f"{step}: {text}")
