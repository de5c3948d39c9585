"""The result of an export of several projects: each has a table of its own, and relations are of all of them."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import duckdb
from duckdb import DuckDBPyConnection, DuckDBPyRelation

from mpnb._base.scalars import brief
from mpnb._base.sql import exact, run
from mpnb._errors import PlanError
from mpnb._exporting.handles import ExportResult, Retry, export_call, make_result, variable_of
from mpnb._planning.options import TABLE
from mpnb._planning.states import Outcome
from mpnb._reading import frames, rules
from mpnb._reading.calendar import Calendar, calendar, combined
from mpnb._reading.check import Check
from mpnb._reading.check import combined as combined_checks
from mpnb._reading.reader import Reader, relation_over
from mpnb._showing import summary
from mpnb._storing.ledger import ended_exports

# The other columns than the one that is put before them: the rows of a lake, and of the ledger, have it as well.
OTHERS = "* NOT LIKE 'project_id'"


@dataclass(frozen=True, slots=True)
class Part:
    """What the result of one project is made of, see ``make_result``."""

    reader: Reader
    outcome: Outcome
    retry: Retry
    call: str
    late_days: int


class ProjectsResult(ExportResult):
    """
    The result of an export of several projects, see ``ExportResult``.

    Its relations and counts are unions over the tables of the projects. Whatever is asked of one table goes through
    ``_reader``, which says where to ask for it.
    """

    def _hold_all(self, table: str, parts: Mapping[str, Part], outcome: Outcome, retry: Retry) -> ProjectsResult:
        first = next(iter(parts.values()))
        self._parts = parts
        self._results = _Results(self, parts)
        self._connect(first.reader.store)
        self._late_days = first.late_days
        self.table = table
        self.from_date, self.to_date = first.reader.selection.days or (None, None)
        self._counted: dict[tuple[str, str], int] = {
            ("unmet", project_id): part.outcome.failed_batches + part.outcome.cancelled_batches
            for project_id, part in parts.items()
        }
        self._did(outcome, retry, first.call)
        _ = self.total_rows, self.rows_outside, self.has_failures
        return self

    @property
    def projects(self) -> Mapping[str, ExportResult]:
        """Return the result of each project by its number. Raises ``ClosedError`` if this one was closed."""
        self._check_open()
        return self._results

    @property
    def _reader(self) -> Reader:
        name, first = self._name or self._call, next(iter(self._parts))
        raise PlanError(
            f"this is asked of one project: {name}.projects[{first!r}] is the result of that one, and there are"
            f" {len(self._parts):,}"
        )

    def _readers(self) -> Sequence[Reader]:
        return [part.reader for part in self._parts.values()]

    # --- counts that follow the database ----------------------------------------------------------------------------

    @property
    def total_rows(self) -> int:
        """Return the number of ``events``, including those that were in the tables before."""
        return sum(self._count("total", _COUNTS["total"]).values())

    @property
    def rows_outside(self) -> int:
        """Return the number of rows in ``batches`` that ``events`` leaves out."""
        return sum(self._count("outside", _COUNTS["outside"]).values())

    @property
    def has_failures(self) -> bool:
        """Whether a day of this call is missing of any project."""
        return any(self._count("unmet", _unmet).values())

    @property
    def failed_date_ranges(self) -> list[tuple[date, date]]:
        """Return the missing days as ``(first, last)``, both inclusive, by project and failed batch."""
        with self._store.reading() as cursor:
            return [days for reader in self._readers() for days in reader.selection.unmet_ranges(cursor)]

    def _count(self, name: str, query: Callable[[Reader, DuckDBPyConnection], str]) -> dict[str, int]:
        """Return a count of each project, or after ``close()`` the last one that was read."""
        for project_id, part in self._parts.items():
            if self._store.closed:
                break
            with self._store.reading() as cursor:
                try:
                    found = run(cursor, query(part.reader, cursor))[0][0]
                except duckdb.CatalogException:  # somebody has dropped the table
                    found = 0
            self._counted[name, project_id] = found
        return {project_id: self._counted.get((name, project_id), 0) for project_id in self._parts}

    # --- relations ---------------------------------------------------------------------------------------------------

    @property
    def events(self) -> DuckDBPyRelation:
        """Return the events of all projects, with ``project_id`` before the other columns."""
        return self._all(lambda reader: reader.selection.events)

    @property
    def failures(self) -> DuckDBPyRelation:
        """Return one row per failed or cancelled batch, by project and in date order."""
        return self._all(Reader.failures, "from_date ASC, to_date ASC, batch_id ASC")

    @property
    def batches(self) -> DuckDBPyRelation:
        """Return the ledger rows of all batches, by project and in date order."""
        return self._all(Reader.batches, "from_date ASC, to_date ASC, batch_id ASC")

    @property
    def rejected(self) -> DuckDBPyRelation:
        """Return the lines that are not events, by project and in order."""
        return self._all(Reader.rejected, "from_date ASC, line_number ASC NULLS LAST")

    def deduplicated(self) -> DuckDBPyRelation:
        """Return the events without duplicates, by Mixpanel's own rule within each project."""
        return self._all(rules.deduplicated_query)

    def duplicates(self) -> DuckDBPyRelation:
        """Return how many rows ``deduplicated()`` leaves out, by project and event name."""
        return self._all(rules.duplicates_query, f"duplicates DESC, {exact('event_name')} ASC")

    def event_names(self) -> DuckDBPyRelation:
        """Return one row per project and event name, the most frequent of each project first."""
        return self._all(rules.event_names_query, f"events DESC, {exact('event_name')} ASC")

    def local_time(self, zone: str, *, project_timezone: str | None = None) -> DuckDBPyRelation:
        """Return the events with ``utc_time`` and ``local_time``. ``project_timezone`` is that of all projects."""
        return self._all(lambda reader: rules.local_time_query(reader, zone, project_timezone))

    def _all(self, query: Callable[[Reader], str], order: str = "", columns: str = OTHERS) -> DuckDBPyRelation:
        return relation_over(self._readers(), self._union(query, order, columns))

    def _union(self, query: Callable[[Reader], str], order: str = "", columns: str = OTHERS) -> str:
        each = (
            f"SELECT '{project_id}' AS project_id, {n} AS mpnb_place, {columns} FROM ({query(part.reader)})"
            for n, (project_id, part) in enumerate(self._parts.items())
        )
        by = f" ORDER BY mpnb_place ASC, {order}" if order else ""
        return f"SELECT * EXCLUDE (mpnb_place) FROM ({' UNION ALL '.join(each)}){by}"

    def _framed(self, events: frames.Events, options: frames.Options) -> tuple[Reader, frames.Events, frames.Options]:
        if events is None and options.columns is None:
            query = rules.deduplicated_query if options.deduplicated else lambda reader: reader.selection.events
            events = frames.Query(self._union(query))
        elif not isinstance(events, DuckDBPyRelation):
            return self._reader, events, options
        return self._readers()[0], events, options

    # --- the whole ---------------------------------------------------------------------------------------------------

    def calendar(self, *, late_days: int | None = None) -> Calendar:
        """Show the days of all projects: each has the events of all, and the state of the project that is worst off."""
        late = self._late(late_days)
        wanted: list[date] = []

        def mend(days: Sequence[date], failed: bool) -> str:
            wanted.extend(days)
            return ""

        with self._store.reading() as cursor:
            each = [
                calendar(cursor, selection=reader.selection, late_days=late, mend=mend, relate=reader.relation)
                for reader in self._readers()
            ]
        return combined(each, self._call_for(wanted))

    def check(self, *, late_days: int | None = None) -> Check:
        """Check the table of each project, see ``ExportResult.check``; it is ``ok`` if all are."""
        self._check_open()
        checks = {
            part.reader.table: self._results[each].check(late_days=late_days) for each, part in self._parts.items()
        }
        return combined_checks(checks, self._readers()[0].relation)

    def _call_for(self, days: Sequence[date]) -> str:
        name = self._name or variable_of(self)
        retry = f"{name} = {name}.retry()" if name else self._retry_by
        if not days or (retry and self.has_failures):
            return retry if days else ""
        call = export_call(self._readers()[0], min(days), max(days))
        table = "" if self.table == TABLE else f', table="{self.table}"'
        return re.sub(r"(, table=.*)?\)$", f"{table}, credentials=credentials)", call) if call else ""

    def _summary(self) -> summary.Summary:
        name = self._name or variable_of(self)
        totals, outside = (self._count(which, query) for which, query in _COUNTS.items())
        each = {
            project_id: summary.gather(
                part.reader,
                part.outcome,
                f"{name or self._call}.projects[{project_id!r}]",
                retry="",
                total_rows=totals[project_id],
                rows_outside=outside[project_id],
            )
            for project_id, part in self._parts.items()
        }
        return summary.combined(
            each,
            self._outcome,
            retry=f"{name} = {name}.retry()" if name else self._retry_by,
            total_rows=sum(totals.values()),
            where=f"in {len(self._parts):,} tables of {self._store.label}",
        )

    def close(self) -> None:
        """Close the database and every relation, and the results of the projects."""
        self._results.close()
        super().close()


def _unmet(reader: Reader, cursor: DuckDBPyConnection) -> str:
    return f"SELECT count(*) FROM ({reader.selection.unmet(ended_exports(cursor, reader.table))})"


_COUNTS: dict[str, Callable[[Reader, DuckDBPyConnection], str]] = {
    "total": lambda reader, cursor: reader.selection.count(cursor),
    "outside": lambda reader, cursor: reader.selection.count_outside(cursor),
}


class _Results(Mapping[str, ExportResult]):
    """The result of each project, made when it is asked for. Any thread may call any method."""

    def __init__(self, whole: ProjectsResult, parts: Mapping[str, Part]) -> None:
        self._whole = whole
        self._parts = parts
        self._made: dict[str, ExportResult] = {}
        self._lock = threading.Lock()

    def __getitem__(self, project_id: str) -> ExportResult:
        """Return the result of a project. Raises ``KeyError`` if it was not asked for."""
        part = self._parts.get(str(project_id))
        if part is None:
            raise KeyError(f"there is no project {brief(project_id)}, but {', '.join(self._parts)}")
        with self._lock:
            self._whole._check_open()
            if str(project_id) not in self._made:
                # It can be closed by itself.
                reader = Reader(part.reader.store.share(), part.reader.selection)
                made = make_result(reader, part.outcome, part.retry, call=part.call, late_days=part.late_days)
                self._made[str(project_id)] = made
            return self._made[str(project_id)]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the numbers of the projects, in the order in which they were asked for."""
        return iter(self._parts)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._parts)

    def __repr__(self) -> str:
        """Return the numbers of the projects."""
        return f"<results of projects {', '.join(self._parts)}>"

    def close(self) -> None:
        """Close those that were made."""
        with self._lock:
            for result in self._made.values():
                result.close()


def make_projects_result(table: str, parts: Mapping[str, Part], outcome: Outcome, retry: Retry) -> ExportResult:
    """
    Return the result of what became of an export of several projects.

    Args:
        table: what the names of their tables begin with.
        parts: of each project.
        outcome: of all together.
    """
    return ProjectsResult.__new__(ProjectsResult)._hold_all(table, parts, outcome, retry)
