"""
One look at the rows of some events: which properties they have, the kinds of their values, and figures of these.

Rows are staged by some hundred thousand, of all events at once, so that the JSON of the table is unpacked once and
memory does not grow with it. Each value of a stage is taken once, with its name: the cost is that of the values,
however many names there are.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from duckdb import DuckDBPyConnection

from mpnb._base.sql import exact, in_batches, literal, quoted, run
from mpnb._reading.properties import KIND, MAX_DEPTH, NAMED, REPEATED, Path, Seen, makes_struct, pointers

STAGE, VALUES, FOUND = "temp.mpnb_stage", "temp.mpnb_values", "temp.mpnb_found"
NESTED, CHOSEN, INSIDE = "temp.mpnb_nested", "temp.mpnb_chosen", "temp.mpnb_inside"
# Of JSON, at 1 kB a row.
STAGED_ROWS = 125_000
# The batches of the nth event of a look have ids from n times this.
EVENT = 1 << 40
# The most frequent values of a property in a stage, for examples, and about how many of those that occur once are seen.
KEPT = 20
SAMPLED = 50_000
# A property with fewer values than these in a stage is counted whole.
FEW = 1_000
# Of numbers, at most so many ranges; the nth power of two is their width, n between these.
MOST_RANGES, MOST_WIDTH = 16, 1000
# Distinct values are estimated from which cells of a table were hit: a value hits one row at random, and the nth column
# of it once in 2^n times.
CELL_ROWS, CELL_COLUMNS = 64, 32
_CELL = f"(hash(v) & {CELL_ROWS - 1}) * {CELL_COLUMNS} + least({CELL_COLUMNS - 1}, bit_count(xor(h, h - 1)) - 1)"

Number = int | float


@dataclass(slots=True)
class Figures:
    """What the values of one property are: bounds by kind, an estimate of the distinct ones, and frequent ones."""

    texts: dict[str, tuple[str, str]] = field(default_factory=dict)
    numbers: dict[str, tuple[Number, Number]] = field(default_factory=dict)
    cells: int = 0
    examples: Counter[str] = field(default_factory=Counter)
    parts: int = 0  # stages of which not every value is among the examples
    parts_of: Counter[str] = field(default_factory=Counter)  # in how many of these an example was
    is_counted: bool = True  # whether the examples of each stage were all counted
    width: int = -MOST_WIDTH  # of the ranges, as a power of two
    ranges: Counter[int] = field(default_factory=Counter)  # by their place: the first from 0 on is 0

    def frequent(self) -> dict[str, int]:
        """Return the values of which it is known how many events have each."""
        if not self.is_counted:
            return {}
        return {value: n for value, n in self.examples.items() if self.parts_of[value] == self.parts}

    def add_ranges(self, width: int, counts: Mapping[int, int]) -> None:
        """Add how many values each range has. Of two widths, the narrower ranges are halves, quarters of the others."""
        wider = max(self.width, width)
        both: Counter[int] = Counter()
        for mine, some in ((self.width, self.ranges), (width, counts)):
            for place, n in some.items():
                both[place >> (wider - mine)] += n
        while both and max(both) - min(both) >= MOST_RANGES:
            wider += 1
            halves, both = both, Counter()
            for place, n in halves.items():
                both[place >> 1] += n
        self.width, self.ranges = wider, both

    @property
    def distinct(self) -> int:
        """Return about how many distinct values there are, nulls not among them; one standard error is a tenth."""
        hit = self.cells.bit_count()
        low, high = 0.0, 2.0**50
        while high - low > 0.01 * max(1.0, low):
            middle = (low + high) / 2
            low, high = (middle, high) if _expected(middle) < hit else (low, middle)
        return round(high)


def _expected(values: float) -> float:
    """Return how many cells some number of distinct values hit, on average."""
    return sum(CELL_ROWS * -math.expm1(-values / CELL_ROWS / 2**column) for column in range(1, CELL_COLUMNS + 1))


Found = dict[tuple[str, str], Figures]


def look(
    cursor: DuckDBPyConnection,
    table: str,
    wanted: Mapping[str, Mapping[int, int]],
    *,
    only: Callable[[str], bool] | None = None,
    rows: str = "true",
    figures: Found | None = None,
    ticked: Callable[[int], object] = lambda rows: None,
) -> dict[str, list[Seen]]:
    """
    Look at the rows of some batches of events, and return what was seen, by event.

    Args:
        wanted: the batches by event, with the number of all their rows.
        only: says whether a property matters; of the others, the name alone is noted.
        rows: condition for the rows that count.
        figures: where to add figures, by event and property.
        ticked: called with the number of rows looked at, after each stage.
    """
    names = list(wanted)
    seen: dict[str, list[Seen]] = {name: [] for name in names}
    for some in groups({b: n for batches in wanted.values() for b, n in batches.items()}):
        _stage(cursor, table, {name: some.keys() & batches.keys() for name, batches in wanted.items()}, rows)
        for each in _seen(cursor, only, figures is not None):
            event, batch_id = divmod(each.batch_id, EVENT)
            seen[names[event]].append(each._replace(batch_id=batch_id))
        if figures is not None:
            _add_figures(cursor, names, figures)
        for ours in (STAGE, VALUES, FOUND, NESTED, CHOSEN, INSIDE):
            run(cursor, f"DROP TABLE IF EXISTS {ours}")
        ticked(sum(some.values()))
    return seen


def groups(batches: Mapping[int, int]) -> Iterator[dict[int, int]]:
    """Group batches to the size of a stage, so that memory does not grow with the size of the table."""
    some: dict[int, int] = {}
    for batch_id in sorted(batches):
        if some and sum(some.values()) + batches[batch_id] > STAGED_ROWS:
            yield some
            some = {}
        some[batch_id] = batches[batch_id]
    if some:
        yield some


def _stage(cursor: DuckDBPyConnection, table: str, wanted: Mapping[str, Iterable[int]], rows: str) -> None:
    name = exact("event_name")
    alike: dict[str, list[str]] = defaultdict(list)
    for event, batches in wanted.items():
        alike[in_batches(batches, "batch_id")].append(literal(event))
    which = " OR ".join(f"{name} IN ({', '.join(events)}) AND {batches}" for batches, events in alike.items())
    number = f"list_position([{', '.join(map(literal, wanted))}], {name}) - 1"
    run(
        cursor,
        f"CREATE OR REPLACE TEMP TABLE {STAGE} AS SELECT ({number}) * {EVENT} + batch_id AS batch_id, properties"
        f" FROM {quoted(table)} WHERE ({which}) AND ({rows})",
    )


# --- what is there -----------------------------------------------------------------------------------------------


def _seen(cursor: DuckDBPyConnection, only: Callable[[str], bool] | None, figures: bool) -> Iterator[Seen]:
    """Return what is in the stage, and leave the values' kinds in ``FOUND``."""
    twice: dict[str, list[int]] = defaultdict(list)
    asked: dict[str, list[int]] = defaultdict(list)
    for batch_id, name, events, repeated in run(cursor, _NAMES):
        if only is not None and not only(name):
            yield Seen(batch_id, (name,), NAMED, None, events)
            continue
        asked[name].append(batch_id)
        if repeated:
            twice[name].append(batch_id)
            yield Seen(batch_id, (name,), REPEATED, None, repeated)
    for batch_id, events in run(cursor, f"SELECT batch_id, count(*) FROM {STAGE} GROUP BY batch_id"):
        yield Seen(batch_id, (), REPEATED, None, events)
    values = _values_of(twice if only is None else asked)
    if only is None:
        values = f"{_every_value(twice)} UNION ALL {values}" if twice else _every_value(twice)
    if figures:
        # Most values are there many times, and to count them costs less than to look at each.
        counted = f"SELECT batch_id, name, v, count(*) AS n FROM ({values}) GROUP BY batch_id, name, v"
        run(cursor, f"CREATE OR REPLACE TEMP TABLE {VALUES} AS SELECT *, {KIND} AS kind FROM ({counted})")
    run(cursor, f"CREATE OR REPLACE TEMP TABLE {FOUND} AS {_figures() if figures else _counted(values)}")
    yield from _kinds(cursor, figures)


# The names of the properties in each batch, how many events have each, and how many have it twice or more. Most events
# have the same names in the same order as many others: those are counted first.
_NAMES = f"""
    WITH mpnb_alike AS (
        SELECT batch_id, any_value(names) AS names, count(*) AS events, row_number() OVER () AS number
        FROM (SELECT batch_id, json_keys(properties) AS names FROM {STAGE}) GROUP BY batch_id, hash(names)
    ), mpnb_each AS (
        SELECT batch_id, any_value(events) AS events, name, count(*) AS times
        FROM (SELECT batch_id, events, number, {exact("unnest(names)")} AS name FROM mpnb_alike)
        GROUP BY batch_id, number, name
    )
    SELECT batch_id, name, sum(events)::BIGINT, coalesce(sum(events) FILTER (times > 1), 0)::BIGINT
    FROM mpnb_each GROUP BY batch_id, name"""


_VALUES = "unnest(properties->'$.*')::VARCHAR"


def _every_value(besides: Mapping[str, Sequence[int]]) -> str:
    """Return the query for all values with their names, but for those that an event has twice: its first one counts."""
    values = f"SELECT batch_id, {exact('unnest(json_keys(properties))')} AS name, {exact(_VALUES)} AS v FROM {STAGE}"
    if not besides:
        return values
    some = " OR ".join(f"name = {literal(name)} AND {in_batches(ids, 'batch_id')}" for name, ids in besides.items())
    return f"SELECT * FROM ({values}) WHERE NOT ({some})"


def _values_of(names: Mapping[str, Sequence[int]]) -> str:
    """Return the query for the values of some properties, each of some batches."""
    if not names:
        return f"SELECT batch_id, '' AS name, '' AS v FROM {STAGE} WHERE false"
    alike: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for name, batches in names.items():
        alike[tuple(sorted(batches))].append(name)
    values = (
        f"SELECT batch_id, unnest([{', '.join(map(literal, some))}]) AS name,"
        f" {exact(f'unnest(properties->{pointers(some)})::VARCHAR')} AS v"
        f" FROM {STAGE} WHERE {in_batches(batches, 'batch_id')}"
        for batches, some in alike.items()
    )
    return f"SELECT * FROM ({' UNION ALL '.join(values)}) WHERE v IS NOT NULL"


def _counted(values: str) -> str:
    """Return the query that counts values by kind."""
    kinds = f"SELECT batch_id, name, {KIND} AS kind FROM ({values})"
    return f"SELECT batch_id, name, kind, count(*) AS events FROM ({kinds}) GROUP BY batch_id, name, kind"


def _figures() -> str:
    """Return the query that counts the values in ``VALUES`` by kind, with their bounds and the cells that they hit."""
    plain = "CASE WHEN contains(v, '\\') THEN v->>'$' ELSE substr(v, 2, length(v) - 2) END"
    text = exact(f"(CASE ascii(v) WHEN 34 THEN {plain} ELSE v END)")
    hashed = "((hash(v) >> 6) | (1::UBIGINT << 50))::BIGINT"
    return (
        "SELECT batch_id, name, kind, sum(n)::BIGINT AS events, min(t) AS least_text, max(t) AS most_text,"
        " min(d) AS least_number, max(d) AS most_number, min(b) AS least_integer, max(b) AS most_integer,"
        f" bitstring_agg(cell::INTEGER, 0, {CELL_ROWS * CELL_COLUMNS - 1}) AS cells"
        f" FROM (SELECT batch_id, name, kind, n, CASE WHEN kind IN ('text', 'timestamp', 'boolean') THEN {text} END"
        " AS t, CASE WHEN kind IN ('float', 'int11', 'int15') THEN v::DOUBLE END AS d,"
        " CASE WHEN kind IN ('int64', 'int38') THEN v::HUGEINT END AS b,"
        f" CASE WHEN kind <> 'null' THEN {_CELL} END AS cell"
        f" FROM (SELECT *, {hashed} AS h FROM {VALUES})) GROUP BY batch_id, name, kind"
    )


# Kinds by batch, with the number of values of each.
Batches = dict[int, dict[str, int]]


def _kinds(cursor: DuckDBPyConnection, figures: bool) -> Iterator[Seen]:
    """
    Return the kinds of all values in ``FOUND``, and of what is in lists and objects.

    It goes down level by level, all properties at once: a query for each of thousands would take minutes.
    """
    counts: dict[Path, Batches] = defaultdict(lambda: defaultdict(dict))
    for batch_id, name, kind, events in run(cursor, f"SELECT batch_id, name, kind, events FROM {FOUND}"):
        counts[name,][batch_id][kind] = events
    nested = {
        str(name): [batch_id for batch_id, kinds in batches.items() if kinds.keys() & INNER]
        for (name,), batches in counts.items()
    }
    if any(nested.values()):
        inside = f"SELECT batch_id, name, v, kind FROM {VALUES} WHERE kind IN ('list', 'object')"
        if not figures:
            values = _values_of({name: batches for name, batches in nested.items() if batches})
            inside = f"SELECT batch_id, name, v, {KIND} AS kind FROM ({values})"
        run(cursor, f"CREATE OR REPLACE TEMP TABLE {NESTED} AS SELECT 0 AS place, name AS key, * FROM ({inside})")
    places = {path: (0, str(path[0])) for path in counts}
    for depth in range(MAX_DEPTH, 0, -1):
        chosen: list[tuple[Path, str, int]] = []
        for path, batches in counts.items():
            for batch_id, kinds in batches.items():
                only = kinds.keys() - {"null"}
                if depth > 1 and only in ({"list"}, {"object"}):
                    chosen.append((path, next(iter(only)), batch_id))
                elif only & INNER:
                    kinds["other"] = sum(kinds.pop(kind, 0) for kind in (*INNER, "other"))
                yield from (Seen(batch_id, path, kind, None, n) for kind, n in kinds.items() if kind != "object")
        if not chosen:
            return
        counts, places = yield from _one_level_down(cursor, counts, places, chosen)


INNER = frozenset({"list", "object"})


def _one_level_down(
    cursor: DuckDBPyConnection,
    counts: Mapping[Path, Batches],
    places: Mapping[Path, tuple[int, str]],
    chosen: Sequence[tuple[Path, str, int]],
) -> Generator[Seen, None, tuple[dict[Path, Batches], dict[Path, tuple[int, str]]]]:
    """
    Return the objects that are alike, and count the kinds of what is in these and in lists; ``NESTED`` has that then.

    Args:
        places: where the values of each path are in ``NESTED``.
        chosen: paths whose values, in a batch, are all lists or all objects, and which.
    """
    numbers = {each: n for n, each in enumerate(dict.fromkeys((path, kind) for path, kind, _ in chosen))}
    numbered = list(numbers)
    rows = [(batch_id, *places[path], numbers[path, kind]) for path, kind, batch_id in chosen]
    columns = [list(column) for column in zip(*rows, strict=True)]
    parts = "unnest(?::BIGINT[]) AS batch_id, unnest(?::BIGINT[]) AS place, unnest(?::VARCHAR[]) AS key"
    run(cursor, f"CREATE OR REPLACE TEMP TABLE {CHOSEN} AS SELECT {parts}, unnest(?::BIGINT[]) AS number", columns)
    joined = f"{NESTED} AS n JOIN {CHOSEN} AS c ON n.batch_id = c.batch_id AND n.place = c.place"
    joined += f" AND {exact('n.key')} = {exact('c.key')}"
    in_order = exact("to_json(list_sort(json_keys(v), 'ASC', 'NULLS LAST'))::VARCHAR")
    regular = set()
    for batch_id, number, least, most in run(
        cursor,
        f"SELECT batch_id, number, min(keys), max(keys) FROM (SELECT n.batch_id, number, {in_order} AS keys"
        f" FROM {joined} WHERE kind = 'object') GROUP BY batch_id, number",
    ):
        path, _ = numbered[number]
        rows_there = counts[path][batch_id]["object"]
        if least == most and makes_struct(json.loads(least)):
            regular.add((batch_id, number))
            yield Seen(batch_id, path, "object", least, rows_there)
        else:
            yield Seen(batch_id, path, "other", None, rows_there)
    irregular = [(b, n) for b, _, _, n in rows if numbered[n][1] == "object" and (b, n) not in regular]
    gone = f"DELETE FROM {CHOSEN} WHERE (batch_id, number) IN (SELECT unnest(?::BIGINT[]), unnest(?::BIGINT[]))"
    run(cursor, gone, [[b for b, _ in irregular], [n for _, n in irregular]])
    items = f"SELECT n.batch_id, number, '' AS key, unnest(v::JSON->'$[*]')::VARCHAR AS v FROM {joined}"
    fields = (
        f"SELECT n.batch_id, number, unnest(json_keys(v)) AS key, unnest(v::JSON->'$.*')::VARCHAR AS v FROM {joined}"
    )
    inner = f"{items} WHERE kind = 'list' UNION ALL {fields} WHERE kind = 'object'"
    run(
        cursor,
        f"CREATE OR REPLACE TEMP TABLE {INSIDE} AS SELECT batch_id, number AS place, key, v, {KIND} AS kind"
        f" FROM (SELECT batch_id, number, {exact('key')} AS key, {exact('v')} AS v FROM ({inner}))",
    )
    run(cursor, f"CREATE OR REPLACE TEMP TABLE {NESTED} AS SELECT * FROM {INSIDE}")
    below: dict[Path, Batches] = defaultdict(lambda: defaultdict(dict))
    there: dict[Path, tuple[int, str]] = {}
    counted = f"SELECT batch_id, place, key, kind, count(*) FROM {NESTED} GROUP BY batch_id, place, key, kind"
    for batch_id, place, key, kind, n in run(cursor, counted):
        path, outer = numbered[place]
        inner_path = (*path, 0 if outer == "list" else key)
        below[inner_path][batch_id][kind] = n
        there[inner_path] = (place, key)
    return below, there


# --- figures -----------------------------------------------------------------------------------------------------


def _add_figures(cursor: DuckDBPyConnection, names: Sequence[str], figures: Found) -> None:
    """Add what ``FOUND`` has, and examples from the stage."""
    event = f"batch_id // {EVENT}"
    totals: Counter[tuple[int, str]] = Counter()
    for number, name, kind, events, *bounds, cells in run(
        cursor,
        f"SELECT {event} AS event, name, kind, sum(events)::BIGINT, min(least_text), max(most_text),"
        " min(least_number), max(most_number),"
        f" min(least_integer), max(most_integer), bit_or(cells)::VARCHAR FROM {FOUND} GROUP BY event, name, kind",
    ):
        here = figures.setdefault((names[number], name), Figures())
        here.cells |= int(cells or "0", 2)
        totals[number, name] += events if kind != "null" else 0
        texts, numbers, integers = bounds[:2], bounds[2:4], bounds[4:]
        if texts[0] is not None:
            _widen(here.texts, kind, *texts)
        for least, most in (numbers, integers):
            if least is not None:
                _widen(here.numbers, kind, *((least, most) if kind == "float" else (int(least), int(most))))
    # Values that occur once are as good as each other: of many, some are enough.
    [(values,)] = run(cursor, f"SELECT count(*) FROM {VALUES}")
    some = "v <> 'null'"
    if (one_of := values // SAMPLED) > 1:
        few = f"SELECT {event}, name FROM {VALUES} GROUP BY ALL HAVING count(*) < {FEW}"
        some += f" AND (n > 1 OR hash(v) % {one_of} = 0 OR ({event}, name) IN ({few}))"
    counted = f"SELECT {event} AS event, name, v, sum(n)::BIGINT AS n FROM {VALUES} WHERE {some} GROUP BY ALL"
    most = (
        f"SELECT event, name, max_by(v, n, {KEPT}), max(n, {KEPT}), count(*), sum(n)::BIGINT FROM ({counted})"
        " GROUP BY event, name"
    )
    sums: Counter[tuple[int, str]] = Counter()
    for number, name, examples, times, distinct, some_of_it in run(cursor, most):
        here = figures.setdefault((names[number], name), Figures())
        here.examples.update(dict(zip(examples, times, strict=True)))
        sums[number, name] = some_of_it
        if distinct > len(examples):
            here.parts += 1
            here.parts_of.update(examples)
    for (number, name), total in totals.items():
        figures[names[number], name].is_counted &= sums[number, name] == total
    ranges: dict[tuple[str, str, int], dict[int, int]] = defaultdict(dict)
    for number, name, width, place, n in run(cursor, _RANGES):
        ranges[names[number], name, width][place] = n
    for (of, name, width), counts in ranges.items():
        figures.setdefault((of, name), Figures()).add_ranges(width, counts)


# How many numbers are in each range of those of a stage. Its width is a power of two, so that the place of a number is
# exact, and that ranges of two stages can be added.
_NUMERIC = "('float', 'int11', 'int15', 'int64', 'int38')"
_RANGES = f"""
    WITH mpnb_bounds AS (
        SELECT batch_id // {EVENT} AS event, name, least(min(least_number), min(least_integer)::DOUBLE) AS least,
            greatest(max(most_number), max(most_integer)::DOUBLE) AS most
        FROM {FOUND} WHERE kind IN {_NUMERIC} GROUP BY ALL
    ), mpnb_widths AS (
        SELECT event, name, greatest(most / {MOST_RANGES} - least / {MOST_RANGES},
            greatest(abs(least), abs(most)) / pow(2.0, 52)) AS width FROM mpnb_bounds
        WHERE isfinite(least) AND isfinite(most)
    ), mpnb_powers AS (
        SELECT event, name, CASE WHEN width > pow(2.0, -{MOST_WIDTH}) THEN ceil(log2(width))::INTEGER
            ELSE -{MOST_WIDTH} END AS power FROM mpnb_widths
    )
    SELECT event, name, power, floor(v::DOUBLE / pow(2.0, power))::BIGINT AS place, sum(n)::BIGINT
    FROM (SELECT batch_id // {EVENT} AS event, name, v, n FROM {VALUES} WHERE kind IN {_NUMERIC})
    JOIN mpnb_powers USING (event, name) GROUP BY event, name, power, place"""


def _widen(bounds: dict[str, Any], kind: str, least: Any, most: Any) -> None:
    low, high = bounds.get(kind, (least, most))
    bounds[kind] = min(low, least), max(high, most)


def shown(value: str) -> Any:
    """Return the value of a JSON text, and of a number that Python cannot have, the text."""
    try:
        return json.loads(value)
    except ValueError:
        return value
