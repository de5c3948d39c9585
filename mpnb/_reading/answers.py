"""The methods by which a result reads its table: counts, relations over some of its days, frames, checks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
from duckdb import DuckDBPyConnection, DuckDBPyRelation

from mpnb._base.scalars import whole_number
from mpnb._base.sql import run
from mpnb._planning.options import MAX_LATE_DAYS
from mpnb._reading import events, frames, rules
from mpnb._reading.analysed import for_analysis, identities
from mpnb._reading.calendar import Calendar, calendar
from mpnb._reading.catalog import catalog
from mpnb._reading.check import Check, check
from mpnb._reading.connected import Connected
from mpnb._reading.declared import misfits
from mpnb._reading.drop import drop_made
from mpnb._reading.reader import Reader
from mpnb._reading.selection import Selection
from mpnb._reading.views import create_views
from mpnb._storing.ledger import ended_exports

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow


class Answers(Connected):
    """
    The events of some days of a table, and the methods that read them.

    Its relations are DuckDB relations. Each read runs the query again; relations can be combined with each other, and
    reading one does not affect another. Any thread may call any method and read any relation, except those that
    ``sql()`` made in a thread that uses ``con``.

    Attributes:
        table: name of the events table.
        from_date, to_date: the days that were asked for, both inclusive; ``None`` for all days of the table.
    """

    def _read_by(self, reader: Reader, *, late_days: int, unmet: int) -> None:
        self._only = reader
        self._connect(reader.store)
        self._late_days = late_days
        self.table: str = reader.table
        self.from_date: date | None
        self.to_date: date | None
        self.from_date, self.to_date = reader.selection.days or (None, None)
        # What is said where there never was a database to ask.
        self._last = {"total": 0, "outside": 0, "unmet": unmet}
        _ = self.total_rows, self.rows_outside, self.has_failures

    @property
    def _reader(self) -> Reader:
        return self._only

    @property
    def _selection(self) -> Selection:
        return self._reader.selection

    # --- counts that follow the database ----------------------------------------------------------------------------

    @property
    def total_rows(self) -> int:
        """Return the number of ``events``, including those that were in the table before."""
        return self._known("total", self._selection.count)

    @property
    def rows_outside(self) -> int:
        """
        Return the number of rows in ``batches`` that ``events`` leaves out.

        A batch is fetched as a whole, even if only some of its days were asked for. From such a batch, ``events`` has
        the rows whose ``time`` falls on the days that were asked for, and none without a ``time``.
        """
        return self._known("outside", self._selection.count_outside)

    @property
    def has_failures(self) -> bool:
        """
        Whether a day of this call is missing: its batch failed or was cancelled, and no other batch brought it.

        Days to be fetched again, such as all days with ``mode="refresh"``, count as missing until they are, although
        the table keeps their old rows. For ``mpnb.open()``, days are missing that failed and were not fetched since.
        """
        return self._known("unmet", lambda cursor: f"SELECT count(*) FROM ({self._unmet(cursor)})") > 0

    @property
    def failed_date_ranges(self) -> list[tuple[date, date]]:
        """Return the missing days as ``(first, last)``, both inclusive, by failed batch, in date order."""
        with self._store.reading() as cursor:
            return self._selection.unmet_ranges(cursor)

    # --- relations -------------------------------------------------------------------------------------------------

    @property
    def events(self) -> DuckDBPyRelation:
        """
        Return the events of the days that were asked for, as they were exported, duplicates included.

        From batches with no other days, these are all rows, whatever their ``time``: in projects older than 2023 it may
        lie outside the batch's days. From batches with other days as well, which the table had before, these are the
        rows whose ``time`` falls on the days that were asked for; ``rows_outside`` counts the others.

        Columns: ``event_name``, ``time`` (TIMESTAMP, as exported), ``distinct_id``, ``device_id``, ``user_id``,
        ``insert_id`` (VARCHAR, null if the event has none), ``properties`` (JSON, all of them), ``batch_id``.
        In ``properties``, integers can have any length; a decimal is stored as the nearest double, in its shortest
        form.

        Raises:
            ClosedError: the result was closed.
        """
        return self._reader.events(self._selection.events)

    @property
    def failures(self) -> DuckDBPyRelation:
        """
        Return one row per failed or cancelled batch of which a day is missing, in date order.

        Columns: ``from_date``, ``to_date``, ``status``, ``kind`` (``rate_limit``, ``timeout``, ``connection``,
        ``truncated``, ``http``, ``decode``, ``write``, ``auth``, ``cancelled``), ``http_status``, ``message``,
        ``attempts``, ``retryable`` (whether the same request may succeed later), ``hint``, ``started_at``
        (when its last request began), ``finished_at`` (both in UTC), ``batch_id``.

        Raises:
            ClosedError: the result was closed.
        """
        return self._reader.relation(self._reader.failures())

    @property
    def batches(self) -> DuckDBPyRelation:
        """
        Return the ledger rows of all batches with a day that was asked for, in date order.

        Raises:
            ClosedError: the result was closed.
        """
        return self._reader.relation(self._reader.batches())

    @property
    def rejected(self) -> DuckDBPyRelation:
        """
        Return the lines of ``batches`` that are not events, unchanged, in order. They cannot be selected by ``time``.

        Events that were left out, of people who were forgotten, are among them without their content.

        Columns: ``from_date``, ``to_date``, ``line_number`` (from 1, in the body of the batch), ``reason``, ``line``
        (BLOB), ``in_events`` (true if the line is an event in ``events`` too, but has keys without a column there),
        ``batch_id``.

        Raises:
            ClosedError: the result was closed.
        """
        return self._reader.relation(self._reader.rejected())

    def deduplicated(self) -> DuckDBPyRelation:
        """
        Return the events without duplicates, by Mixpanel's own rule. ``duplicates()`` counts what it leaves out.

        Of events with the same name, ``distinct_id``, ``time`` and ``insert_id``, the newest by
        ``mp_processing_time_ms`` stays; events without ``insert_id`` are never merged:
        https://docs.mixpanel.com/docs/data-structure/events-and-properties#event-deduplication

        Raises:
            ClosedError: the result was closed.
        """
        return rules.deduplicated(self._reader)

    def duplicates(self) -> DuckDBPyRelation:
        """
        Return how many rows ``deduplicated()`` leaves out: one row per event name, most duplicates first.

        Columns: ``event_name``, ``events`` (as exported), ``duplicates`` (left out of these).

        Raises:
            ClosedError: the result was closed.
        """
        return rules.duplicates(self._reader)

    def event_names(self) -> DuckDBPyRelation:
        """
        Return one row per event name, most frequent first.

        Columns: ``event_name``, ``events``, ``users`` (distinct ``distinct_id``; null and ``""`` do not count),
        ``first``, ``last`` (of ``time``).

        Raises:
            ClosedError: the result was closed.
        """
        return rules.event_names(self._reader)

    def local_time(self, zone: str, *, project_timezone: str | None = None) -> DuckDBPyRelation:
        """
        Return the events with two more columns: ``utc_time`` and ``local_time``, both TIMESTAMP.

        ``time`` stays as it is. Both columns are null if ``time`` is missing or outside the years 1 to 9999.

        ``time`` is UTC in projects created since 2023, and the project's local time in older ones; Mixpanel's answer
        does not say which. The time at which events arrived (``$mp_api_timestamp_ms`` or ``mp_processing_time_ms``) is
        UTC in both. If ``time`` differs from it by whole quarter-hours, or if it is missing, ``project_timezone`` is
        required; ``check()`` shows the finding under ``time offset``. The hour that local time repeats in autumn is
        ambiguous.

        Args:
            zone: the zone of ``local_time``, such as ``"Europe/Berlin"``.
            project_timezone: the zone of a project created before 2023; ``"UTC"`` for a newer one, which skips the
                check of the data.

        Raises:
            PlanError: there is no such zone; or ``project_timezone`` is not given, and ``time`` looks like local time
                or it is unknown what it is.
            ClosedError: the result was closed.
        """
        return rules.local_time(self._reader, zone, project_timezone=project_timezone)

    def event(
        self,
        name: str | Iterable[str],
        *,
        columns: Iterable[str] | None = None,
        types: Mapping[str, str | None] | None = None,
        deduplicated: bool = False,
        materialize: bool = True,
    ) -> DuckDBPyRelation:
        """
        Return the events of one name, or of several, with a typed column for each property.

        Columns: ``time``, ``distinct_id``, ``device_id``, ``user_id``, ``insert_id``, then one per property. Its type
        fits all values of the property in the table: BOOLEAN, BIGINT, HUGEINT (to 38 digits), DOUBLE, TIMESTAMP (if all
        are date-times as Mixpanel writes them, ``2026-01-31T09:00:00``), VARCHAR, LIST and STRUCT (if all have the same
        shape), else JSON, which holds anything. No value is rounded, truncated or made null; a JSON null is NULL, as is
        a property that an event lacks. Property names that differ only in case, or are taken, get a number appended;
        ``catalog()`` shows the column of each property. A name once given stays with its property: one that comes
        later gets the number. ``user_id`` is Mixpanel's ``$user_id``; a ``user_id`` of the project's own is
        ``user_id_2``.

        A column whose values are of several types is JSON, which compares them as text: ``pid = '7'`` does not find 7.
        The first use warns of it. ``types={"amount": "DOUBLE", "pid": "VARCHAR"}`` declares types once for the table:
        from then on these properties have them in all of its events, and in ``for_analysis()``, whatever comes later.
        A value fits a type if it is the same there, also if it is a text: ``"7.5"`` fits DOUBLE, and everything fits
        VARCHAR. Numbers are written as in JSON; an integer that a DOUBLE would round does not fit it. Date-times are
        ``2026-01-31``, or with a time, up to microseconds, and perhaps ``Z``. What does not fit is null in the column
        and stays in ``properties``: a warning counts it, and ``misfits()`` lists it.

        The first call creates a table for the event in the database, in the schema ``mpnb_typed``, with the columns
        that are asked for; later calls update it with what exports have changed, and add columns. While an export is
        writing the events, or if the database is read-only, the relation reads JSON instead: the same rows, more
        slowly.

        The relation has the rows of the batches that the result has at this moment. Once one of them is fetched again,
        reading the relation raises; call ``event()`` again.

        Args:
            name: the event name; several, as a list, set, array or Series, return the rows of all, with ``event_name``
                first and the columns of all, one per property.
            columns: names of properties or columns to return besides the first five; default: all.
            types: types by property or column, to be declared for the table: ``"BOOLEAN"``, ``"BIGINT"``,
                ``"HUGEINT"``, ``"DOUBLE"``, ``"TIMESTAMP"``, ``"VARCHAR"`` or ``"JSON"``; ``None`` takes one back.
            deduplicated: whether to leave out duplicates, as ``deduplicated()`` does; ``duplicates()`` counts them.
            materialize: whether tables may be written; if false, what has no table yet is read from JSON, and ``types``
                are for this relation alone.

        Raises:
            PlanError: there is no such event, column, property or type, or more than 2,000 columns are asked for: a
                table of so many, most of them empty, takes minutes to fill. Name those that you need.
            ClosedError: the result was closed.
        """
        return events.event(
            self._reader, name, columns=columns, types=types, deduplicated=deduplicated, materialize=materialize
        )

    def misfits(self, events: str | Iterable[str] | None = None) -> DuckDBPyRelation:
        """
        Return the values that do not fit the types that ``event(types=…)`` declared: one row per value, in order.

        Columns: ``event_name``, ``property``, ``type`` (as declared), ``value`` (JSON), ``events`` (how many have it),
        ``first``, ``last`` (of ``time``). By event and property, the most frequent first.

        Args:
            events: one event name, or several; default: all.

        Raises:
            PlanError: something is no name.
            ClosedError: the result was closed.
        """
        return misfits(self._reader, events)

    def create_views(self, schema: str = "typed") -> DuckDBPyRelation:
        """
        Create a view for each event, such as ``typed."Purchase"``, for dbt, Metabase and whatever else reads the file.

        A view has the columns of ``event()`` and all rows of the table, duplicates included, whatever days this result
        has. It is kept up with the typed tables. Batches that were exported since are read from JSON, more slowly;
        their new events and properties, and types that widen, come with the next call, until which a value that does
        not fit raises. Names that differ only in case, or are taken in the schema, get a number appended, and stay.
        The view of an event with more than 2,000 properties has those that ``event(columns=…)`` asked for, which a
        warning says. ``forget_typed()``, ``mpnb.forget_person()`` and ``mpnb.drop()`` drop the views.

        Args:
            schema: where the views are; it is created if it is not there.

        Returns:
            One row per view: ``event_name``, ``view_name`` (as SQL names it).

        Raises:
            PlanError: ``schema`` is no name of a schema of your own.
            TableError: an export is writing these events, or the table is gone.
            DatabaseError: the database cannot be written.
            ClosedError: the result was closed.
        """
        return create_views(self._reader, schema)

    def for_analysis(
        self,
        events: str | Iterable[str] | None = None,
        properties: str | Iterable[str] | None = None,
        *,
        identities: str = "merged",
        zone: str | None = None,
    ) -> DuckDBPyRelation:
        """
        Return the events to analyse: without duplicates, of the days that were asked for, by person.

        Columns: ``event_name``, ``time`` (TIMESTAMP, UTC), ``local_time`` (TIMESTAMP, only if the zone is known),
        ``person`` (null for nobody), ``distinct_id``, ``device_id``, ``user_id``, ``insert_id`` (VARCHAR), then one per
        property: BOOLEAN, BIGINT, DOUBLE, TIMESTAMP or VARCHAR if that fits all of its values, else JSON. A name that
        is taken gets a number appended.

        The first call creates tables in the database, in the schema ``mpnb_analysis``; later calls update them with
        what exports have changed. While an export is writing the events, or if the database is read-only, the relation
        reads JSON instead: the same rows, more slowly. It has the rows of the batches that the result has now, and
        reading it raises once one of them is fetched again.

        Args:
            events: names of events; default: all.
            properties: names of properties that become columns; default: none. ``"profile.plan"`` is the property
                ``plan`` of the person's profile, as ``mpnb.export_profiles()`` fetched it last into this database: as
                in Mixpanel's reports, what it is now, not what it was at the time of the event.
            identities: who is a person. ``"exported"`` takes ``distinct_id``; ``"simplified"`` follows Mixpanel's
                Simplified ID Merge, by events with ``$device_id`` and ``$user_id``; ``"original"`` follows the events
                ``$identify``, ``$create_alias`` and ``$merge``; ``"merged"`` is the latter if the table has such
                events, else the former, and says which. Links of the whole table count, whenever they arrived.
            zone: the time zone of the project's settings, for days and hours; default: that of ``mpnb.set_zone()``.
                In projects made before 2023 ``time`` is exported as local time, and is not shifted twice.

        Raises:
            PlanError: there is no such event, property, zone, or kind of identities.
            ClosedError: the result was closed.
        """
        return for_analysis(self._reader, events, properties, identities=identities, zone=zone)

    def identities(self, system: str = "merged") -> DuckDBPyRelation:
        """
        Return which ids belong to a person that has another id: one row per id, in order.

        Columns: ``distinct_id``, ``resolved_distinct_id``. An id that is not there is its own. In the simplified system
        a person has the id of the user; in the original, where Mixpanel chooses, that by which the last export of a
        linking event names the person. Where the database has profiles of the project, an id that has one comes first:
        it is Mixpanel's choice. Mixpanel's own screen may show a merge up to 24 hours later.

        Args:
            system: ``"merged"``, ``"simplified"``, ``"original"`` or ``"exported"``, as in ``for_analysis()``.

        Raises:
            PlanError: there is no such system.
            ClosedError: the result was closed.
        """
        return identities(self._reader, system)

    def catalog(self, events: str | Iterable[str] | None = None, *, materialize: bool = True) -> DuckDBPyRelation:
        """
        Return one row per property of an event: the most frequent events first, properties in the order of ``event()``.

        Columns: ``event_name``, ``property``, ``column_name`` (in ``event()``), ``type`` (of the column, for all values
        in the table), ``share`` (of the result's events that have the property, nulls included), ``nulls`` (how many of
        them are a JSON null), ``distinct_values`` (approximate), ``minimum``, ``maximum`` (as text; null for JSON,
        lists and structs), ``examples`` (a list of texts, the most frequent values), ``drift`` (for JSON columns, why
        no other type fits), ``repeated`` (how many events have the key twice or more: the column has the first value,
        ``properties`` all), ``first_seen``, ``last_seen`` (MAP of types, such as ``{BIGINT: 2026-01-01}``, to the first
        and the last day with a value of that type, of all that the table holds: a column's type widens when another one
        comes), ``note`` (where the type was declared, and how many values do not fit it; where the column of that name
        is Mixpanel's own and null, as ``user_id`` may be), ``distribution`` (MAP of values to how many events have
        each; of many numbers, of up to 16 ranges such as ``16 – 32``, from the first to below the second; of many other
        values, of the five most frequent and ``$other``; empty where the most frequent is rarer than one in a hundred).

        A notebook shows it as a picture, which ``mpnb.analysis.picture()`` returns anywhere.

        The catalog is computed at once, from the JSON of all events that it is about; it creates no typed tables. A
        terminal shows its progress, and so does a notebook. Of values that occur once, ``examples`` has a few.

        Args:
            events: one event name, or several; default: all.
            materialize: whether what is found may be kept in the database: names of columns, and kinds of values.

        Raises:
            PlanError: there is no such event.
            ClosedError: the result was closed.
        """
        return catalog(self._reader, events, materialize=materialize, ticked=self._rows_ticked("catalog"))

    def forget_typed(self) -> None:
        """
        Drop the typed tables of this table's events with their views, and those of ``for_analysis()``. They are created
        again when they are needed, the views by ``create_views()``.

        Raises:
            TableError: an export is writing these events.
            DatabaseError: the database cannot be written.
            ClosedError: the result was closed.
        """
        drop_made(self._reader)

    # --- the events in other forms -----------------------------------------------------------------------------------

    def df(
        self,
        events: str | Iterable[str] | DuckDBPyRelation | None = None,
        *,
        columns: Iterable[str] | None = None,
        deduplicated: bool = False,
        materialize: bool = True,
    ) -> pandas.DataFrame:
        """
        Return events as a pandas DataFrame, all in memory.

        Integers and booleans with nulls get pandas' nullable types. HUGEINT becomes Python integers if some need more
        than 64 bits (DuckDB's ``relation.df()`` rounds them). Lists and structs become Python objects, JSON becomes
        text.

        Args:
            events: one or several event names, for typed events as of ``event()``; or any relation; default: all events
                as exported.
            columns: names of properties or columns to return besides the first five; default: all. Without ``events``,
                they are typed as those of ``event()`` with several names.
            deduplicated: whether to leave out duplicates, as ``deduplicated()`` does.
            materialize: whether tables may be written; if false, what has no table yet is read from JSON.

        Raises:
            PlanError: there is no such event or column.
            TypeError: an option is given with a relation.
            ClosedError: the result was closed.
        """
        return frames.df(*self._framed(events, frames.Options(columns, deduplicated, materialize)))

    def pl(
        self,
        events: str | Iterable[str] | DuckDBPyRelation | None = None,
        *,
        columns: Iterable[str] | None = None,
        deduplicated: bool = False,
        materialize: bool = True,
    ) -> polars.DataFrame:
        """
        Return events as a polars DataFrame, all in memory, with HUGEINT as ``Int128``.

        Args:
            events: one or several event names, for typed events as of ``event()``; or any relation; default: all events
                as exported.
            columns: names of properties or columns to return besides the first five; default: all. Without ``events``,
                they are typed as those of ``event()`` with several names.
            deduplicated: whether to leave out duplicates, as ``deduplicated()`` does.
            materialize: whether tables may be written; if false, what has no table yet is read from JSON.

        Raises:
            PlanError: there is no such event or column.
            TypeError: an option is given with a relation.
            ClosedError: the result was closed.
        """
        return frames.pl(*self._framed(events, frames.Options(columns, deduplicated, materialize)))

    def arrow(
        self,
        events: str | Iterable[str] | DuckDBPyRelation | None = None,
        *,
        columns: Iterable[str] | None = None,
        deduplicated: bool = False,
        materialize: bool = True,
    ) -> pyarrow.Table:
        """
        Return events as an Arrow table, all in memory.

        Args:
            events: one or several event names, for typed events as of ``event()``; or any relation; default: all events
                as exported.
            columns: names of properties or columns to return besides the first five; default: all. Without ``events``,
                they are typed as those of ``event()`` with several names.
            deduplicated: whether to leave out duplicates, as ``deduplicated()`` does.
            materialize: whether tables may be written; if false, what has no table yet is read from JSON.

        Returns:
            A table with HUGEINT as ``decimal128(38, 0)``, JSON as text, and all other types as DuckDB returns them.

        Raises:
            PlanError: there is no such event or column.
            TypeError: an option is given with a relation.
            ClosedError: the result was closed.
        """
        return frames.arrow(*self._framed(events, frames.Options(columns, deduplicated, materialize)))

    def to_parquet(
        self,
        folder: str | os.PathLike[str],
        events: str | Iterable[str] | None = None,
        *,
        partition_by: str | Sequence[str] | None = None,
        columns: Iterable[str] | None = None,
        deduplicated: bool = False,
        materialize: bool = True,
    ) -> Path:
        """
        Write events as Parquet files into a folder. pandas, polars and DuckDB read the same values from them.

        Args:
            folder: a new or empty folder on this machine; ``~`` is the home folder. A new folder and all files in it
                are readable by their owner only.
            events: one or several event names, for typed events as of ``event()``; default: all events as exported.
            partition_by: columns by which rows are divided, with one file per combination of values. The values are in
                the files, not in folder names, whose types each reader guesses in its own way.
            columns: names of properties or columns to return besides the first five; default: all. Without ``events``,
                they are typed as those of ``event()`` with several names.
            deduplicated: whether to leave out duplicates, as ``deduplicated()`` does.
            materialize: whether tables may be written; if false, what has no table yet is read from JSON.

        Returns:
            The path of the folder. In the files, HUGEINT is ``DECIMAL(38, 0)`` and JSON is text.

        Raises:
            PlanError: there is no such event or column, or the folder is not empty.
            ClosedError: the result was closed.
        """
        reader, what, options = self._framed(events, frames.Options(columns, deduplicated, materialize))
        return frames.to_parquet(reader, folder, what, partition_by=partition_by, options=options)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Stream the events to any reader of Arrow's C interface: ``polars.DataFrame(…)``, ``pyarrow.table(…)``."""
        return self.events.to_arrow_reader().__arrow_c_stream__(requested_schema)

    # --- the whole ---------------------------------------------------------------------------------------------------

    def calendar(self, *, late_days: int | None = None) -> Calendar:
        """
        Show which days are there, which failed, are missing or provisional, and how many events each has.

        In a notebook it is a picture: weeks across, and above them a bar for each day. An unusual day is more than 30 %
        off the median of its weekday, and more than six times as far as the days of that weekday usually are.

        Args:
            late_days: as for ``check()``.

        Returns:
            A calendar. ``.days`` has every day, ``.relation`` the same as rows, ``.words`` says what is missing,
            ``.call`` is the code that fetches it. Its counts are those of ``events`` by ``time::DATE``.

        Raises:
            PlanError: ``late_days`` is not a whole number of 0 or more.
            ClosedError: the result was closed.
        """
        with self._store.reading() as cursor:
            return self._calendar(cursor, self._late(late_days))

    def check(self, *, late_days: int | None = None) -> Check:
        """
        Check the table against its ledger: days, duplicates, rejected lines, counts, times. Reads all events.

        Args:
            late_days: for how many days after a day its events may still arrive; days that were requested earlier than
                that are provisional. Default: the value of the call that made this result, or 5 for ``mpnb.open()``.

        Returns:
            A report. Its repr is a short text, ``.relation`` has one row per check, and ``.ok`` is true if no check
            found a problem. A notebook shows it below the calendar.

        Raises:
            PlanError: ``late_days`` is not a whole number of 0 or more.
            ClosedError: the result was closed.
        """
        late = self._late(late_days)
        with self._store.reading() as cursor:
            return check(
                cursor,
                selection=self._selection,
                late_days=late,
                relate=self._reader.relation,
                calendar=self._calendar(cursor, late),
            )

    # --- within ----------------------------------------------------------------------------------------------------

    def _framed(self, events: frames.Events, options: frames.Options) -> tuple[Reader, frames.Events, frames.Options]:
        """Return what the functions of ``frames`` take for the arguments of a method."""
        return self._reader, events, options

    def _late(self, given: int | None) -> int:
        return whole_number("late_days", self._late_days if given is None else given, 0, MAX_LATE_DAYS)

    def _calendar(self, cursor: DuckDBPyConnection, late_days: int) -> Calendar:
        return calendar(
            cursor, selection=self._selection, late_days=late_days, mend=self._mend, relate=self._reader.relation
        )

    def _mend(self, days: Sequence[date], failed: bool) -> str:
        """Return code that fetches some days; ``failed`` is whether their batches failed. Empty for none."""
        return ""

    def _rows_ticked(self, what: str) -> Callable[[int, int], object] | None:
        """Return what is told how many rows were looked at, and of how many; ``None`` for nobody."""
        return None

    def _unmet(self, cursor: DuckDBPyConnection) -> str:
        return self._selection.unmet(ended_exports(cursor, self.table))

    def _known(self, name: str, query: Callable[[DuckDBPyConnection], str]) -> int:
        """Return a count, or after ``close()`` the last one that was read."""
        if not self._store.closed:
            with self._store.reading() as cursor:
                try:
                    self._last[name] = run(cursor, query(cursor))[0][0]
                except duckdb.CatalogException:  # somebody has dropped the table
                    self._last[name] = 0
        return self._last[name]
