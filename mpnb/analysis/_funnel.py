"""Funnels: how many went through some steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from duckdb import DuckDBPyRelation

from mpnb._base.scalars import brief, each_of, whole_number
from mpnb._base.sql import literal
from mpnb._errors import PlanError
from mpnb._message import Argument
from mpnb.analysis._events import (
    MOST_TOP,
    NAME,
    Asked,
    Step,
    asked,
    check_relation,
    is_of,
    mapping_or_list,
    microseconds,
    one_of,
    pair,
    properties,
    text_of,
    with_rest,
)
from mpnb.analysis._reports import pictured
from mpnb.analysis._sessions import TIMEOUT, numbered

WINDOW = timedelta(days=7)
MOST_DAYS = 366
GRACE = timedelta(seconds=2)
SEGMENTS = 200
MOST_CONSTANT = 3
# The column of what is counted.
COUNTED = {"uniques": "users", "totals": "totals", "sessions": "sessions"}

Exclusions = Step | Sequence[Step] | Mapping[Step, tuple[int, int] | None]


@pictured
def funnel(
    events: DuckDBPyRelation,
    steps: Sequence[Step],
    window: timedelta = WINDOW,
    *,
    reentry: bool | str = False,
    order: str = "specific",
    anchored: Sequence[int] = (),
    holding_constant: str | Sequence[str] | None = None,
    exclude: Exclusions | None = None,
    by: str | None = None,
    by_step: int = 1,
    top: int | None = SEGMENTS,
    counting: str = "uniques",
    grace: timedelta = GRACE,
    user: str | None = None,
    zone: str | None = None,
) -> DuckDBPyRelation:
    """
    Count who went through some steps in order, as Mixpanel's funnels do.

    An entry begins with an event of the first step. Each further step is reached by its first event after the one
    before, if that is at most ``window`` after the beginning. Other events may lie between, also of other steps:
    https://docs.mixpanel.com/docs/reports/funnels/funnels-advanced

    - Two steps that follow each other may be in either order if they are at most ``grace`` apart.
    - If two steps name the same event, the later one needs a later event: no event counts twice.
    - ``counting="uniques"``: a user enters once, with the first event of the first step. With ``by``, once per segment,
      after the attempt before has ended. ``"totals"``: a user enters again after the attempt before has ended: all
      steps were reached, the window has passed, or an event was excluded. ``"sessions"``: a user enters once per
      session (as of ``sessions()``), and all steps are in it.
    - ``reentry=True``, "optimized re-entry": every event of the first step is an entry. Where several come before the
      same event of a further step, the most recent has it. Uniques take the first entry that converts, or else one that
      got furthest.
    - ``reentry="furthest"``, a rule of mpnb and not of Mixpanel: as ``True``, but the earliest of the entries that got
      furthest counts, so that the times are from its first step.
    - ``order="any"``: the steps may come in any order, except those in ``anchored``, which have all given before them
      done before, and all given after them done after. Step *n* counts who did *n* of them.

    Not here, because an export does not have them: cohorts and custom events (use conditions), and global filters,
    which are a filter on the segments of ``by``. Not here, because Mixpanel computes them from other reports: property
    sums, significance, formulas. One funnel runs over the whole range; for a line chart by day, filter ``events``. Step
    times are exact, while Mixpanel's percentiles are approximate.

    Args:
        events: see the module.
        steps: two or more event names, or pairs ``(name, condition)`` such as ``("Purchase", "amount > 10")``.
        window: the longest time from the first step to the last, inclusive; more than 0. Mixpanel: at most 366 days.
        reentry: ``False``, ``True`` or ``"furthest"``, see above.
        order: ``"specific"`` or ``"any"``.
        anchored: with ``order="any"``, numbers of steps, from 1, that keep their place.
        holding_constant: up to 3 columns, properties or SQL expressions, of which all steps of an entry have the value
            of its first event. Uniques take the user's first event, totals that of each entry. Null equals nothing.
        exclude: events that end an entry if they come between its steps; the steps before count. One event, a list, or
            a mapping from each to the two steps between which it matters, such as ``{"Cancel": (2, 3)}``. An event that
            is no step may also lie up to ``grace`` before the step that it follows.
        by: a column, property or SQL expression to split by.
        by_step: number of the step whose event gives the segment, from 1. Null if the step was not reached.
        top: how many segments to keep, the most frequent; the others are one, ``$other``. ``None`` for all.
        counting: ``"uniques"``, ``"totals"`` or ``"sessions"``.
        grace: how far apart steps may be in reversed order; 0 or more.
        user: the column that identifies people; default: ``person`` if there is one, else ``distinct_id``.
        zone: with ``counting="sessions"``, the time zone of midnight; default: that of ``events``, else UTC.

    Returns:
        One row per step, and per segment with ``by``: ``segment`` (VARCHAR, only with ``by``), ``step`` (from 1),
        ``event_name``, ``users`` (with ``counting``: ``totals`` or ``sessions``), ``of_first`` and ``of_previous``
        (DOUBLE, shares; null if there is none to divide by), ``median_seconds`` and ``mean_seconds`` (DOUBLE, from the
        first step, of those that reached this one). In the order of segments, the largest first, and steps.

    Raises:
        PlanError: an argument is none of these, a column is missing, the table has no event of a name, or a condition
            is not valid SQL.
    """
    check_relation(events)
    given = each_of(steps) if isinstance(steps, Iterable) and not isinstance(steps, str) else None
    pairs = tuple(pair(step) for step in given or [])
    if len(pairs) < 2:
        raise PlanError("a funnel has two steps or more", argument="steps")
    span = microseconds("window", window, least=timedelta(microseconds=1), such_as="days=7")
    if span > MOST_DAYS * 86_400_000_000:
        span = min(span, 10**15)  # more years than a TIMESTAMP can be moved by
    slack = microseconds("grace", grace, least=timedelta(0), such_as="seconds=2")
    one_of("reentry", reentry, (False, True, "furthest"))
    one_of("order", order, ("specific", "any"))
    one_of("counting", counting, COUNTED)
    if reentry == "furthest" and counting == "totals":
        raise PlanError("reentry='furthest' takes one entry of each user: it is for counting='uniques' or 'sessions'")
    excluded = _excluded(exclude, len(pairs))
    names = [name for name, _ in [*pairs, *(each for each, *_ in excluded)]]
    ask = asked(events, names, user=user, zone=zone, days=counting == "sessions")
    held = properties("holding_constant", holding_constant, MOST_CONSTANT)
    made = _Funnel(
        ask=ask,
        steps=pairs,
        groups=_groups(pairs, order, anchored),
        window=span,
        grace=slack,
        reentry=reentry,
        counting=counting,
        held=tuple(text_of(ask, each, "holding_constant") for each in held),
        excluded=tuple(excluded),
        segment=None if by is None else text_of(ask, by, "by"),
        by_step=whole_number("by_step", by_step, 1, len(pairs)),
        top=None if top is None else whole_number("top", top, 1, MOST_TOP),
    )
    if made.segment and by_step > 1 and (by_step,) not in made.groups:
        raise PlanError("a step that can be at any place has no segments: by_step must be 1 or an anchored step")
    return ask.relation(_query(made))


def _groups(steps: Sequence[tuple[str, str]], order: str, anchored: object) -> tuple[tuple[int, ...], ...]:
    """Return the numbers of the steps in groups: those of a group may come in any order."""
    numbers = each_of(anchored)
    if numbers is None or (numbers and order == "specific"):
        raise PlanError(Argument("anchored"), f" must be a list of steps for order='any', not {brief(anchored)}")
    fixed = {whole_number("anchored", each, 1, len(steps)) for each in numbers}
    groups: list[tuple[int, ...]] = []
    for number in range(1, len(steps) + 1):
        if order == "any" and number not in fixed and groups and not fixed & set(groups[-1]):
            groups[-1] = (*groups[-1], number)
        else:
            groups.append((number,))
    for group in groups:
        if len({steps[number - 1][0] for number in group}) < len(group):
            raise PlanError("steps that can be in any order are of different events", argument="steps")
    return tuple(groups)


def _excluded(given: object, steps: int) -> list[tuple[tuple[str, str], int, int]]:
    """Return the excluded events, each with the first and the last step between which it matters."""
    found: list[tuple[tuple[str, str], int, int]] = []
    for event, between in mapping_or_list("exclude", given):
        pairs = [1, steps] if between is None else each_of(between)
        if pairs is None or len(pairs) != 2:
            raise PlanError(Argument("exclude"), f" is between two steps, such as (1, 2), not {brief(between)}")
        first = whole_number("exclude", pairs[0], 1, steps - 1)
        found.append((pair(event), first, whole_number("exclude", pairs[1], first + 1, steps)))
    return found


@dataclass(frozen=True, slots=True)
class _Funnel:
    """A funnel that was asked for, checked, with its parts as SQL; spans are in microseconds."""

    ask: Asked
    steps: tuple[tuple[str, str], ...]
    groups: tuple[tuple[int, ...], ...]
    window: int
    grace: int
    reentry: bool | str
    counting: str
    held: tuple[str, ...]
    excluded: tuple[tuple[tuple[str, str], int, int], ...]
    segment: str | None
    by_step: int
    top: int | None

    @property
    def who(self) -> list[str]:
        """Return the columns of whom or what enters on its own."""
        return ["person", "session"] if self.counting == "sessions" else ["person"]

    @property
    def keys(self) -> list[str]:
        """Return the columns that all steps of an entry have in common."""
        return [*self.who, *(f"h{number}" for number in range(1, len(self.held) + 1))]

    @property
    def is_chain(self) -> bool:
        """Whether an entry begins only after the one before has ended."""
        again = self.counting == "totals" or (self.counting == "uniques" and self.segment is not None)
        return again and self.reentry is False

    @property
    def most_recent_wins(self) -> bool:
        """
        Whether of entries with the same second step, the most recent gets as far as any of them.

        It has more time, and less before it; but a later step of the first one's event is bound by the entry.
        """
        first, *others = (name for name, _ in self.steps)
        return self.reentry is True and self.counting != "totals" and self.groups[0] == (1,) and first not in others

    @property
    def may_enter_once(self) -> bool:
        """Whether somebody whose entries have one segment, all of them, enters with the first of these alone."""
        return self.is_chain and self.counting == "uniques" and self.by_step == 1 and not self.held

    @property
    def enters_once(self) -> bool:
        """Whether the first event of the first step is the only entry."""
        return self.reentry is False and not self.is_chain


def _query(f: _Funnel) -> str:
    tables = [f"mpnb_people AS ({f.ask.people()})"]
    rows = "mpnb_people"
    if f.counting == "sessions":
        span = TIMEOUT // timedelta(microseconds=1)
        tables.append(f"mpnb_numbered AS ({numbered(rows, '*', span, True)})")
        rows = "mpnb_numbered"
    tables += _steps(f, rows)
    if f.may_enter_once:
        tables.append(_changing(f))
    tables.append(f"mpnb_way_0 AS ({_entries(f)})")
    for number in range(1, len(f.groups) + 1):
        tables.append(f"mpnb_way_{number} AS ({_reached(f, number)})")
    tables += _cut(f, f"mpnb_way_{len(f.groups)}")
    ways = "mpnb_cut"
    if f.is_chain:
        tables += _chain(f)
        ways = "mpnb_chained"
    tables.append(f"mpnb_best AS ({_best(f, ways)})")
    tables.append(f"mpnb_split AS ({with_rest('mpnb_best', ['segment'] if f.segment else [], f.top, 'count(t1)')})")
    return f"WITH {', '.join(tables)} {_counts(f)}"


def _steps(f: _Funnel, rows: str) -> list[str]:
    """Return the tables of the times of each step, and of what is excluded: the events are read once for all."""
    outs = [event for event, _, _ in f.excluded]
    names = ", ".join(dict.fromkeys(literal(name) for name, _ in [*f.steps, *outs]))
    values = ["mpnb_person AS person", *(["mpnb_session AS session"] if "session" in f.who else []), "time"]
    values += [f"{value} AS h{number}" for number, value in enumerate(f.held, 1)]
    values.append(f"{f.segment or 'NULL::VARCHAR'} AS segment")
    values += [f"{is_of(step)} AS step_{number}" for number, step in enumerate(f.steps, 1)]
    values += [f"{is_of(event)} AS out_{number}" for number, event in enumerate(outs, 1)]
    tables = [f"mpnb_seen AS MATERIALIZED (SELECT {', '.join(values)} FROM {rows} WHERE {NAME} IN ({names}))"]
    keys = ", ".join(f.keys)
    for number in range(1, len(f.steps) + 1):
        is_split = f.segment and (number == f.by_step or (f.by_step == 1 and number in f.groups[0]))
        grouped = f"min(segment) AS segment FROM mpnb_seen WHERE step_{number} GROUP BY {keys}, time"
        plain = f"NULL::VARCHAR AS segment FROM mpnb_seen WHERE step_{number}"
        tables.append(f"mpnb_step_{number} AS (SELECT {keys}, time, {grouped if is_split else plain})")
    for number in range(1, len(outs) + 1):
        tables.append(f"mpnb_out_{number} AS (SELECT {', '.join(f.who)}, time FROM mpnb_seen WHERE out_{number})")
    return tables


def _changing(f: _Funnel) -> str:
    """Return the table of who enters: the first time, a segment, and whether there are others."""
    who = ", ".join(f.who)
    return (
        f"mpnb_whose AS MATERIALIZED (SELECT {who}, min(time) AS t1, min(segment) AS segment,"
        " min(segment) IS DISTINCT FROM max(segment) OR count(segment) NOT IN (0, count(*)) AS is_changing"
        f" FROM mpnb_seen WHERE {_of_first(f)} GROUP BY {who})"
    )


def _of_first(f: _Funnel) -> str:
    return f"({' OR '.join(f'step_{number}' for number in f.groups[0])})"


def _entries(f: _Funnel) -> str:
    keys = ", ".join(f.keys)
    first = [f"SELECT {keys}, time, segment FROM mpnb_step_{number}" for number in f.groups[0]]
    entries = f"SELECT {keys}, time AS t1, min(segment) AS segment FROM ({' UNION ALL '.join(first)}) GROUP BY ALL"
    if f.enters_once and not f.held and not f.segment:
        entries = (
            f"SELECT {keys}, min(time) AS t1, min(segment) AS segment FROM ({' UNION ALL '.join(first)}) GROUP BY ALL"
        )
    elif f.enters_once:
        held = "".join(f", {each} ASC NULLS LAST" for each in f.keys[len(f.who) :])
        first_one = f"row_number() OVER (PARTITION BY {', '.join(f.who)} ORDER BY t1 ASC{held}) = 1"
        entries = f"SELECT * FROM ({entries}) QUALIFY {first_one}"
    alone = ""
    if f.may_enter_once:
        who = ", ".join(f.who)
        entries = (
            f"SELECT {who}, time AS t1, min(segment) AS segment FROM mpnb_seen SEMI JOIN"
            f" (SELECT {who} FROM mpnb_whose WHERE is_changing) AS c USING ({who})"
            f" WHERE {_of_first(f)} GROUP BY {who}, time"
        )
        alone = f" UNION ALL SELECT {who}, t1, segment, false AS is_late FROM mpnb_whose WHERE NOT is_changing"
    if not f.is_chain or not f.grace:
        return f"SELECT *, false AS is_late FROM ({entries}){alone}"
    # Twice where attempts follow each other: the second one does not look back to what the attempt before has used.
    # That differs only where there may be something to look back to.
    return (
        f"SELECT e.*, l.is_late FROM ({entries}) AS e, (VALUES (false), (true)) AS l(is_late)"
        f" WHERE NOT l.is_late OR {_moment_of(f, 't1')} IN ({_looked_back_to(f)}){alone}"
    )


def _looked_back_to(f: _Funnel) -> str:
    """Return the query for the moments, as ``_moment_of()``, that have an event within the grace before them."""
    later = [f"step_{number}" for number in range(1, len(f.steps) + 1) if number not in f.groups[0]]
    later += [f"out_{number}" for number in range(1, len(f.excluded) + 1)]
    moments = f"unnest([{_moment_of(f, 'time')}, {_moment_of(f, 'time', 1)}])"
    return f"SELECT {moments} FROM mpnb_seen WHERE {' OR '.join(later)}"


def _moment_of(f: _Funnel, time: str, after: int = 0) -> str:
    """Return a number for who does something, and when, in spans of the grace; that of others may be the same."""
    return f"hash({', '.join(f.who)}, epoch_us({time}) // {f.grace} + {after})"


def _reached(f: _Funnel, number: int) -> str:
    """Return the query for the ways with the times of one more group of steps."""
    group = f.groups[number - 1]
    done = f"d{number - 1}"
    if number == 1:
        first, least = "t1", "t1"
    else:
        first, least = (
            done,
            f"CASE WHEN is_late THEN greatest(t1, {done} - {_span(f.grace)}) ELSE {done} - {_span(f.grace)} END",
        )
    ways = f"SELECT w.*, {first} AS from_here FROM mpnb_way_{number - 1} AS w"
    if number == 1 and len(group) == 1:  # the entry itself
        return f"SELECT w.*, t1 AS s{group[0]}, t1 AS d1 FROM mpnb_way_0 AS w"
    for each in group:
        bound = least
        earlier = [n for g in f.groups[: number - 1] for n in g if f.steps[n - 1][0] == f.steps[each - 1][0]]
        for other in earlier:
            bound = f"greatest({bound}, s{other} + INTERVAL 1 MICROSECOND)"
        ways = _joined(
            f, ways, "from_here", bound, f"mpnb_step_{each}", f.keys, f"s{each}", f"found <= t1 + {_span(f.window)}"
        )
        if f.segment and each == f.by_step > 1:
            same = " AND ".join(f"w.{key} = j.{key}" for key in f.keys)
            ways = (
                f"SELECT w.* REPLACE (j.segment AS segment) FROM ({ways}) AS w LEFT JOIN mpnb_step_{each} AS j"
                f" ON {same} AND w.s{each} = j.time"
            )
    found = ", ".join(f"s{each}" for each in group)
    missing = " OR ".join(f"s{each} IS NULL" for each in group)
    reached = (
        f"SELECT * EXCLUDE (from_here), CASE WHEN NOT ({missing}) THEN greatest({found}) END AS d{number} FROM ({ways})"
    )
    if number == 2 and f.most_recent_wins:
        return (
            f"SELECT * EXCLUDE (t1, s1, d1), max(t1) AS t1, max(s1) AS s1, max(d1) AS d1 FROM ({reached}) GROUP BY ALL"
        )
    return reached


def _joined(
    f: _Funnel, ways: str, starts: str, least: str, table: str, keys: Sequence[str], name: str, condition: str
) -> str:
    """
    Return the query for ways with the first time in a table from some moment on.

    Args:
        starts: null where there is no such moment.
        least: the moment.
        condition: what the found time must be.
    """
    # By a window and not ASOF JOIN: where DuckDB takes the ways for few it loops over all pairs, and 1.5 loses the left
    # side where the right is empty. A missing step goes on at infinity, before nothing.
    listed = ", ".join(keys)
    held = "".join(f" AND {key} IS NOT NULL" for key in keys if key.startswith("h"))
    moments = (
        f"SELECT *, CASE WHEN {starts} IS NULL THEN TIMESTAMP 'infinity' ELSE {least} END AS moment, true AS is_way,"
        f" NULL::TIMESTAMP AS other FROM ({ways}) UNION ALL BY NAME"
        f" SELECT {listed}, time AS moment, false AS is_way, time AS other FROM {table} WHERE true{held}"
    )
    found = (
        f"min(other) OVER (PARTITION BY {listed} ORDER BY moment ASC RANGE BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING)"
    )
    return (
        f"SELECT * EXCLUDE (moment, is_way, other, found), CASE WHEN {condition} THEN found END AS {name}"
        f" FROM (SELECT *, {found} AS found FROM ({moments})) WHERE is_way"
    )


def _span(microseconds: int) -> str:
    return f"to_microseconds({microseconds})"


def _cut(f: _Funnel, ways: str) -> list[str]:
    """Return the tables that give the ways with ``t1`` and so on in order, cut where something is excluded."""
    count = len(f.steps)
    times: list[str] = []
    for group in f.groups:
        if len(group) == 1:
            times.append(f"s{group[0]}")
        else:
            found = f"list_filter([{', '.join(f's{n}' for n in group)}], lambda mpnb_t: mpnb_t IS NOT NULL)"
            ordered = f"list_sort({found}, 'ASC')"
            times += [f"{ordered}[{place}]" for place in range(1, len(group) + 1)]
    # In a later group nothing is reached before all of the one before.
    kept = ", ".join([*f.keys, "is_late", "segment"])
    listed = ", ".join(f"{time} AS t{number}" for number, time in enumerate(times, 1))
    tables = [f"mpnb_timed AS (SELECT {kept}, {listed} FROM {ways})"]
    outs: list[str] = []
    query = "SELECT * FROM mpnb_timed"
    own = {name for name, _ in f.steps}
    for place in range(1, count):
        mine = []
        for number, ((name, _), first, last) in enumerate(f.excluded, 1):
            if first <= place < last:
                least = f"t{place} - {_span(f.grace)}"
                if name in own:
                    least = f"t{place} + INTERVAL 1 MICROSECOND"
                least = f"CASE WHEN is_late THEN greatest(t1, {least}) ELSE {least} END"
                in_window = f"found <= t1 + {_span(f.window)}"
                ends = f"CASE WHEN t{place + 1} IS NULL THEN {in_window} ELSE found < t{place + 1} END"
                query = _joined(f, query, f"t{place}", least, f"mpnb_out_{number}", f.who, f"x{place}_{number}", ends)
                mine.append(f"x{place}_{number}")
        outs.append(f"least({', '.join(mine)})" if mine else "NULL::TIMESTAMP")
    tables.append(f"mpnb_watched AS ({query})")
    cuts = "".join(f" WHEN {out} IS NOT NULL THEN {place}" for place, out in enumerate(outs, 1))
    moment = "".join(f" WHEN {out} IS NOT NULL THEN {out}" for out in outs)
    tables.append(
        f"mpnb_outs AS (SELECT *, CASE{cuts} ELSE {count} END AS cut, CASE{moment} END AS out_at FROM mpnb_watched)"
    )
    reached = ", ".join(f"CASE WHEN cut >= {place} THEN t{place} END AS t{place}" for place in range(1, count + 1))
    segment = (
        "segment"
        if f.by_step == 1
        else f"CASE WHEN cut >= {f.by_step} AND t{f.by_step} IS NOT NULL THEN segment END AS segment"
    )
    tables.append(
        f"mpnb_cut AS (SELECT {', '.join([*f.keys, 'is_late', 'out_at'])}, {segment}, {reached} FROM mpnb_outs)"
    )
    return tables


def _chain(f: _Funnel) -> list[str]:
    """Return the tables that keep of all attempts those that begin after the one before has ended."""
    keys = ", ".join(f.keys)
    times = ", ".join(f"t{place}" for place in range(1, len(f.steps) + 1))
    ended = (
        f"CASE WHEN out_at IS NOT NULL THEN greatest(out_at, {times}) WHEN t{len(f.steps)} IS NOT NULL"
        f" THEN greatest({times}) ELSE t1 + {_span(f.window)} END"
    )
    early = f"{{'t': t1, 'e': max({ended}) FILTER (NOT is_late), 'l': max({ended}) FILTER (is_late)}}"
    reach = _span(f.grace * (len(f.steps) - 1))
    # Each entry's letter in a text, which DuckDB copies in less than half the time that a list of structs takes.
    never = "TIMESTAMP '0001-01-01'"
    step = (
        "lambda mpnb_a, mpnb_x: CASE WHEN mpnb_x.t <= mpnb_a.p THEN {'p': mpnb_a.p, 'k': mpnb_a.k || '-'}"
        f" WHEN mpnb_x.l IS NULL OR mpnb_a.p < mpnb_x.t - {reach} OR mpnb_a.p = {never}"
        " THEN {'p': mpnb_x.e, 'k': mpnb_a.k || 'e'} ELSE {'p': mpnb_x.l, 'k': mpnb_a.k || 'l'} END"
    )
    none = f"{{'p': {never}, 'k': ''}}"
    same = " AND ".join(f"w.{key} IS NOT DISTINCT FROM k.{key}" for key in f.keys)
    return [
        f"mpnb_nodes AS (SELECT {keys}, t1, {early} AS node FROM mpnb_cut GROUP BY {keys}, t1)",
        f"mpnb_ordered AS (SELECT {keys}, list_sort(list(node), 'ASC') AS nodes FROM mpnb_nodes GROUP BY {keys})",
        f"mpnb_kept AS (SELECT {keys}, unnest(nodes).t AS t, unnest(string_split(list_reduce(nodes, {step}, {none}).k,"
        " '')) AS letter FROM mpnb_ordered)",
        f"mpnb_chained AS (SELECT w.* FROM mpnb_cut AS w JOIN mpnb_kept AS k ON {same}"
        " AND w.t1 = k.t AND CASE WHEN w.is_late THEN 'l' ELSE 'e' END = k.letter)",
    ]


def _best(f: _Funnel, ways: str) -> str:
    """Return the query for the ways that count."""
    count = len(f.steps)
    if f.counting == "totals" and f.reentry is True:
        # An event of a further step is the most recent entry's.
        keys = ", ".join(f.keys)
        owned = [
            f"CASE WHEN t1 = max(t1) OVER (PARTITION BY {keys}, t{place}) THEN t{place} END AS t{place}"
            for place in range(2, count + 1)
        ]
        return f"SELECT segment, t1, {', '.join(owned)} FROM {ways}"
    if f.counting == "totals" or f.enters_once:
        return f"SELECT * FROM {ways}"
    depth = " + ".join(f"(t{place} IS NOT NULL)::INTEGER" for place in range(1, count + 1))
    order = {
        False: "t1 ASC",
        True: f"{depth} DESC, t2 ASC, CASE WHEN t2 IS NULL THEN -epoch_us(t1) ELSE epoch_us(t1) END DESC",
        "furthest": f"{depth} DESC, t1 ASC",
    }[f.reentry]
    whose = ", ".join([*f.who, *(["segment"] if f.segment else [])])
    held = "".join(f", {each} ASC NULLS LAST" for each in f.keys[len(f.who) :])
    return f"SELECT * FROM {ways} QUALIFY row_number() OVER (PARTITION BY {whose} ORDER BY {order}{held}) = 1"


def _counts(f: _Funnel) -> str:
    names: list[str] = []
    for group in f.groups:
        names += [" or ".join(f.steps[number - 1][0] for number in group)] * len(group)
    # By the grace a step may lie before the first.
    took = "CASE WHEN t{0} IS NOT NULL THEN greatest(epoch(t{0} - t1), 0) END"
    figures = ", ".join(
        f"{{'step': {place}, 'event_name': {literal(name)}, 'reached': count(t{place}),"
        f" 'median': median({took.format(place)})::DOUBLE, 'mean': avg({took.format(place)})::DOUBLE}}"
        for place, name in enumerate(names, 1)
    )
    grouped = "segment, is_rest" if f.segment else ""
    split = f"{grouped}, " if grouped else "NULL AS segment, false AS is_rest, "
    shown = 'segment AS "segment", ' if f.segment else ""
    whose = "OVER (PARTITION BY is_rest, segment ORDER BY step ASC)"
    ends = " GROUP BY segment, is_rest" if grouped else ""
    return (
        f'SELECT {shown}step AS "step", event_name AS "event_name", reached AS "{COUNTED[f.counting]}",'
        f' reached::DOUBLE / nullif(first_value(reached) {whose}, 0) AS "of_first",'
        f' reached::DOUBLE / nullif(lag(reached) {whose}, 0) AS "of_previous",'
        ' median AS "median_seconds", mean AS "mean_seconds"'
        f" FROM (SELECT segment, is_rest, unnest(figures, max_depth := 2) FROM"
        f" (SELECT {split}[{figures}] AS figures FROM mpnb_split{ends}))"
        " ORDER BY is_rest ASC, first_value(reached) OVER (PARTITION BY is_rest, segment ORDER BY step ASC) DESC,"
        " segment ASC NULLS LAST, step ASC"
    )
