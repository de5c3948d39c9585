"""
A process that exports and kills itself at a drawn moment: ``python -m tests.campaign._victim JSON``.

It writes the phase that it died in to its standard output. The moment is the nth time that a phase begins, and some
microseconds later: DuckDB runs without Python's lock, so that a second thread kills in mid-statement.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NoReturn

import mpnb
import mpnb._base.sql
import mpnb._fetching.client
import mpnb._storing.database
import mpnb._storing.insert
import mpnb._storing.settings
import mpnb._storing.snapshot
import mpnb._storing.table
import mpnb._storing.versions
import mpnb._storing.writer
from mpnb._fetching.spool import SpoolFolder

PHASES = ("fetching", "writing", "committing", "checkpointing")
# Of profiles, whose staged pages take the place of a table.
PEOPLE_PHASES = (*PHASES, "publishing")
STATEMENTS = {
    "INSERT INTO": "writing",
    "ALTER TABLE": "publishing",
    "COMMIT": "committing",
    "CHECKPOINT": "checkpointing",
}


class Death:
    """Come at the nth beginning of a phase."""

    def __init__(self, phase: str, nth: int, delay: float, abort: str | None) -> None:
        self._when = (phase, nth)
        self._delay = delay
        self._abort = abort
        self._begun: Counter[str] = Counter()
        self._statement = ""  # of the one writer

    def come(self) -> NoReturn:
        """Die now, without a word to anybody but the campaign."""
        os.write(1, (self._statement or "fetching").encode())
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("survived SIGKILL")

    def begin(self, phase: str) -> bool:
        """Note that a phase begins, and say whether it is the last one."""
        self._begun[phase] += 1
        if (phase, self._begun[phase]) != self._when:
            return False
        threading.Thread(target=self._later, daemon=True).start()
        return True

    def _later(self) -> None:
        time.sleep(self._delay)
        self.come()

    def running(self, run: Callable[..., Any]) -> Callable[..., Any]:
        """Watch the statements of the writer."""

        @functools.wraps(run)
        def watched(cursor: Any, query: str, *parameters: Any) -> Any:
            phase = next((name for start, name in STATEMENTS.items() if query.startswith(start)), "")
            if not phase:
                return run(cursor, query, *parameters)
            self._statement = phase
            if phase == "checkpointing" and self._abort:
                run(cursor, f"SET GLOBAL debug_checkpoint_abort = '{self._abort}'")
                try:
                    return run(cursor, query, *parameters)
                finally:
                    self.come()
            self.begin(phase)
            try:
                return run(cursor, query, *parameters)
            finally:
                self._statement = ""

        return watched


def main() -> None:
    """Export what the argument says, and die on the way."""
    asked = json.loads(sys.argv[1])
    death = Death(asked["phase"], asked["nth"], asked["delay"], asked["abort"])
    mpnb._storing.writer.LINGER_SECONDS = asked["linger"]
    mpnb._storing.settings.SETTINGS["checkpoint_threshold"] = asked["threshold"]
    watched = death.running(mpnb._base.sql.run)
    for module in (
        mpnb._storing.table,
        mpnb._storing.insert,
        mpnb._storing.database,
        mpnb._storing.snapshot,
        mpnb._storing.versions,
    ):
        module.run = watched  # type: ignore[attr-defined]
    grow = SpoolFolder.grow

    def growing(self: SpoolFolder, *arguments: Any) -> None:
        death.begin("fetching")
        grow(self, *arguments)

    SpoolFolder.grow = growing  # type: ignore[method-assign]
    usual: dict[str, Any] = {
        "credentials": mpnb.Credentials(**asked["credentials"]),
        "database": asked["database"],
        "spool": mpnb.Spool(asked["spool"]),
        "quota": mpnb.Quota(per_hour=10**6, per_second=1000),
        "on_batch": lambda progress: None,
    }
    if "people" in asked:
        mpnb.export_profiles(**usual, **asked["people"], max_age=timedelta(0)).close()
        return
    mpnb.export(
        asked["from_date"],
        asked["to_date"],
        events=asked["events"],
        chunk_days=asked["chunk_days"],
        workers=asked["workers"],
        mode=asked["mode"],
        **usual,
    ).close()


if __name__ == "__main__":
    main()
