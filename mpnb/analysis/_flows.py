"""Flows: what people did next, or before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from duckdb import DuckDBPyRelation

from mpnb._base.names import event_names
from mpnb._base.scalars import brief, check_flags, whole_number
from mpnb._base.sql import literal
from mpnb._errors import PlanError
from mpnb._message import Argument, Message
from mpnb.analysis._events import MOST_TOP, NAME, REST, Step, asked, check_relation, is_of, one_of, pair, text_of
from mpnb.analysis._reports import pictured

DIRECTIONS = ("after", "before")
COUNTING = ("uniques", "totals")
MOST_STEPS = 20
HIDE = Message(Argument("hide"), " must be the name of an event, or a list of them")


@pictured
def flows(
    events: DuckDBPyRelation,
    start: Step,
    steps: int = 3,
    direction: str = "after",
    *,
    expand: Mapping[str, str] | None = None,
    hide: str | Sequence[str] | None = None,
    top: int | None = None,
    paths: bool = False,
    counting: str = "uniques",
    user: str | None = None,
) -> DuckDBPyRelation:
    """
    Count what people did after an event, or before it, step by step, as Mixpanel's flows do.

    Each event ``start`` is an entry, and the events of that person after it are its steps, whatever they are. A flow
    that has fewer events ends there: https://docs.mixpanel.com/docs/reports/flows

    Not here, because Mixpanel's documentation does not say how they count: flows through several chosen events, and a
    conversion window. Filter ``events`` for a breakdown.

    Args:
        events: see the module.
        start: an event name, or a pair ``(name, condition)``.
        steps: how many events to follow, from 1 to 20.
        direction: ``"after"`` or ``"before"`` the start.
        expand: events to be told apart by a column, property or SQL expression, such as ``{"Page View": "url"}``: they
            are called ``Page View: /home``.
        hide: names of events that are no steps.
        top: of each step, how many events to keep, the most frequent; the others are one, ``$other``. Default: all.
        paths: whether to count whole paths and not the links between two steps.
        counting: ``"uniques"``: users who took a link at least once come first; ``"totals"``: flows do.
        user: the column that identifies people; default: ``person`` if there is one, else ``distinct_id``.

    Returns:
        The links of a Sankey: ``step`` (from 1), ``event_name`` and ``next_event`` (null where the flow ends; with
        ``"before"``, what came before it), ``users``, ``entries``, ``share`` (DOUBLE, of all users or entries that have
        the start). By step, the largest first.

        With ``paths``, one row per path: ``path`` (a list of VARCHAR, from the start on), ``users``, ``entries``,
        ``share``. The largest first.

    Raises:
        PlanError: an argument is none of these, a column is missing, the table has no event of a name, or a condition
            is not valid SQL.
    """
    check_relation(events)
    count = whole_number("steps", steps, 1, MOST_STEPS)
    one_of("direction", direction, DIRECTIONS)
    one_of("counting", counting, COUNTING)
    check_flags(paths=paths)
    kept = None if top is None else whole_number("top", top, 1, MOST_TOP)
    first = pair(start)
    hidden = [] if hide is None else event_names(hide, HIDE)
    if expand is not None and not isinstance(expand, Mapping):
        raise PlanError(Argument("expand"), f" must be a mapping from events to properties, not {brief(expand)}")
    ask = asked(events, [first[0], *hidden, *map(str, expand or {})], user=user)
    label = NAME
    for name, given in (expand or {}).items():
        value = f"coalesce(': ' || {text_of(ask, given, 'expand')}, '')"
        label = f"CASE WHEN {NAME} = {literal(str(name))} THEN {NAME} || {value} ELSE {label} END"
    shown = f"{NAME} NOT IN ({', '.join(map(literal, hidden))})" if hidden else "true"
    order = "time ASC, label ASC" if direction == "after" else "time DESC, label DESC"
    labels = ["label", *(f"lead(label, {number}) OVER mpnb_w" for number in range(1, count + 1))]
    tables = f"""WITH mpnb_people AS ({ask.people()}),
        mpnb_seen AS (SELECT mpnb_person AS person, time, {label} AS label, {is_of(first)} AS is_start
            FROM mpnb_people WHERE {NAME} IS NOT NULL AND ({is_of(first)} OR {shown})),
        mpnb_flows AS (SELECT person, path FROM (SELECT person, is_start, [{", ".join(labels)}] AS path FROM mpnb_seen
            WINDOW mpnb_w AS (PARTITION BY person ORDER BY {order})) WHERE is_start),
        mpnb_all AS (SELECT count(*) AS all_entries, count(DISTINCT person) AS all_users FROM mpnb_flows)"""
    weight = "users" if counting == "uniques" else "entries"
    figures = f'users AS "users", entries AS "entries", {weight}::DOUBLE / all_{weight} AS "share"'
    if paths:
        return ask.relation(
            f"""{tables}, mpnb_paths AS (SELECT list_filter(path, lambda mpnb_x: mpnb_x IS NOT NULL) AS path, person
                FROM mpnb_flows)
            SELECT path AS "path", {figures} FROM (SELECT path, count(DISTINCT person) AS users, count(*) AS entries
            FROM mpnb_paths GROUP BY path), mpnb_all ORDER BY {weight} DESC, users DESC, entries DESC, path ASC"""
        )
    links = " UNION ALL ".join(
        f"SELECT {number} AS step, path[{number}] AS event_name, path[{number + 1}] AS next_event, person"
        f" FROM mpnb_flows WHERE path[{number}] IS NOT NULL"
        for number in range(1, count + 1)
    )
    tables += f", mpnb_links AS ({links})"
    rows = "mpnb_links"
    if kept is not None:
        # An event has the same name as the end of a link and as the beginning of the next.
        tables += f""", mpnb_best AS (SELECT step, next_event, true AS kept FROM (SELECT step, next_event, count(*) AS n
                FROM mpnb_links WHERE next_event IS NOT NULL GROUP BY ALL)
                QUALIFY row_number() OVER (PARTITION BY step ORDER BY n DESC, next_event ASC) <= {kept}),
            mpnb_named AS (SELECT l.step, l.person,
                CASE WHEN l.step = 1 OR a.kept THEN l.event_name ELSE {literal(REST)} END AS event_name,
                CASE WHEN l.next_event IS NULL OR b.kept THEN l.next_event ELSE {literal(REST)} END AS next_event
                FROM mpnb_links AS l LEFT JOIN mpnb_best AS a ON a.step = l.step - 1 AND a.next_event = l.event_name
                LEFT JOIN mpnb_best AS b ON b.step = l.step AND b.next_event = l.next_event)"""
        rows = "mpnb_named"
    return ask.relation(
        f"""{tables} SELECT step AS "step", event_name AS "event_name", next_event AS "next_event", {figures}
        FROM (SELECT step, event_name, next_event, count(DISTINCT person) AS users, count(*) AS entries FROM {rows}
        GROUP BY ALL), mpnb_all ORDER BY step ASC, {weight} DESC, users DESC, entries DESC, event_name ASC,
        next_event ASC NULLS LAST"""
    )
