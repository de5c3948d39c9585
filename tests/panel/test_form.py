"""The fields, the errors beside them, and the call that they stand for."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import pytest

import mpnb
from mpnb._base.clock import today
from mpnb._notebook.panel._code import code_of
from mpnb._notebook.panel._form import Form, preset_range
from mpnb._notebook.panel._kinds import EVENTS, PROFILES, planned
from mpnb._notebook.panel._labels import place_of
from mpnb.sandbox import Sandbox
from tests._odd import try_all

SECRET = "never-to-be-seen"  # pragma: allowlist secret


def form(**given: Any) -> Form:
    """Make a form that nobody listens to."""
    return Form(given, lambda message: None)


@pytest.mark.parametrize(
    ("preset", "now", "first", "last"),
    [
        ("7", date(2026, 3, 10), date(2026, 3, 3), date(2026, 3, 9)),
        ("30", date(2026, 3, 10), date(2026, 2, 8), date(2026, 3, 9)),
        ("90", date(2026, 3, 10), date(2025, 12, 10), date(2026, 3, 9)),
        ("quarter", date(2026, 3, 10), date(2026, 1, 1), date(2026, 3, 9)),
        ("quarter", date(2026, 4, 1), date(2026, 4, 1), date(2026, 4, 1)),
    ],
)
def test_presets_are_full_days(preset: str, now: date, first: date, last: date) -> None:
    """A preset ends yesterday; a quarter that began today is today."""
    assert preset_range(preset, now) == (first, last)


def test_arguments_fill_the_form_in() -> None:
    """What the panel is called with stands in its fields, and comes out of them as it was."""
    given = {
        "from_date": "2026-01-01", "to_date": "2026-01-31", "events": ["Sign Up", "a, b"], "where": "true",
        "database": "x.duckdb", "table": "t", "workers": 3, "chunk_days": "auto", "mode": "refresh",
    }  # fmt: skip
    assert form(**given).asked() == (EVENTS, given, {})


def test_an_empty_form_is_the_last_thirty_days() -> None:
    """Without arguments the form asks for what ``export`` would do by itself, for the last 30 days."""
    first, last = preset_range("30", today())
    _, asked, _ = form().asked()
    assert (asked["from_date"], asked["to_date"]) == (first.isoformat(), last.isoformat())
    assert code_of(asked, from_environment=True) == f'import mpnb\n\nresult = mpnb.export("{first}", "{last}")'


def test_an_open_connection_is_passed_on() -> None:
    """A connection cannot be typed: the field names it, and the form gives it back."""
    with duckdb.connect() as con:
        filled = form(database=con)
        assert filled.asked()[1]["database"] is con
        assert filled.fields.info["fixed"] == ["database"]


def test_a_range_that_ends_after_today_is_cut_without_a_warning() -> None:
    """A warning of a background thread would land in whichever cell runs next: the form cuts the range itself."""
    _, asked, _ = form(from_date="yesterday", to_date=date(2999, 1, 1)).asked()
    assert asked["to_date"] == today().isoformat()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"first": ""}, {"dates": "choose the first day"}),
        ({"last": ""}, {"dates": "choose the last day"}),
        (
            {"first": "0202-01-01"},
            {"dates": "First day 0202-01-01 is before 2009, when Mixpanel began"},
        ),
        ({"last": "2025-01-01"}, {"dates": "First day 2026-01-01 is after Last day 2025-01-01"}),
        ({"workers": "ten"}, {"workers": "Workers must be a whole number from 1 to 100, not 'ten'"}),
        ({"chunk_days": ""}, {"chunk_days": "Days a batch must be a whole number from 1 to 100, or 'auto', not ''"}),
        ({"database": ""}, {"database": "Database must be a path, ':memory:' or a DuckDB connection, not ''"}),
        (
            {"first": "", "workers": "0", "chunk_days": "soon", "table": "mpnb_x"},
            {
                "dates": "choose the first day",
                "workers": "Workers must be a whole number from 1 to 100, not 0",
                "chunk_days": "Days a batch must be a whole number from 1 to 100, or 'auto', not 'soon'",
                "table": "Table 'mpnb_x': names that begin with mpnb_ are mpnb's own",
            },
        ),
    ],
)
def test_each_field_that_is_wrong_says_so(fields: dict[str, object], said: dict[str, str], tmp_path: Path) -> None:
    """Whatever is wrong is said at once, beside its field and in the words of the labels, and nothing is planned."""
    filled = form(from_date="2026-01-01", to_date="2026-01-02", database=tmp_path / "x.duckdb")
    filled.fields.values = {**filled.fields.values, **fields}
    assert planned(*filled.asked()) == (None, said)


@pytest.mark.parametrize("given", [{"mode": "x"}, {"from_date": "soon"}, {"credentials": ("name", "secret")}])
def test_what_no_field_can_hold_is_refused(given: dict[str, Any]) -> None:
    """An argument that no field could show raises at once."""
    with pytest.raises(mpnb.PlanError, match=next(iter(given))):
        mpnb.panel(**given)


@pytest.mark.parametrize("name", [each for each in inspect.signature(mpnb.start).parameters if each != "executor"])
def test_whatever_is_passed_shows_in_a_field_or_is_refused(name: str) -> None:
    """In one line, before it is shown as code: the pump's thread, which would meet it there, has nobody to tell."""

    def show(value: object) -> None:
        if name in (
            "late_days",
            "on_batch",
            "credentials",
            "quota",
            "spool",
            "memory",
            "destination",
        ):  # which have no field
            mpnb.panel(**{name: value})
        _, asked, _ = form(**({} if value is None else {name: value})).asked()
        code_of({name: value, **asked}, from_environment=True)

    try_all(show)


def test_a_panel_takes_no_executor() -> None:
    """It is for code alone, and says so."""
    with pytest.raises(TypeError, match="panel\\(\\) has no argument 'executor'"):
        mpnb.panel(executor=None)


@pytest.mark.parametrize("given", [{"workers": "many"}, {"chunk_days": 1.5}, {"table": 5}, {"events": 5}, {"where": 5}])
def test_what_a_field_can_hold_stands_in_it(given: dict[str, Any]) -> None:
    """An argument of another type is shown as it is, for a person to put right."""
    [(name, value)] = given.items()
    assert form(**given).fields.values[name] == str(value)


@pytest.mark.parametrize(
    ("asked", "place"),
    [
        ({"workers": 0}, "workers"),
        ({"chunk_days": 0}, "chunk_days"),
        ({"from_date": "2999-01-01", "to_date": "2999-01-02"}, "dates"),
        ({"table": "mpnb_x"}, "table"),
        ({"database": "no/such/folder/x.duckdb"}, "database"),
        ({"events": [""]}, "events"),
        ({"where": " "}, "where"),
        ({"mode": "x"}, "mode"),
        ({"credentials": "x"}, "login"),
    ],
)
def test_errors_of_the_plan_have_a_place(asked: dict[str, Any], place: str) -> None:
    """Each error that a plan raises belongs beside one field."""
    with pytest.raises(mpnb.PlanError) as caught:
        mpnb.plan(**{"from_date": "2026-01-01", "to_date": "2026-01-02", "database": ":memory:", **asked})
    assert place_of(caught.value) == place


def test_code_says_what_differs_and_no_secret(tmp_path: Path) -> None:
    """The code is Python, names what differs from the defaults, and reads the secret from the environment."""
    credentials = mpnb.Credentials("me", SECRET, "42", region="eu")
    _, asked, _ = form(from_date="2026-01-01", to_date="2026-01-31", where='"a" == "ü"', chunk_days=3).asked()
    asked |= {
        "credentials": credentials,
        "quota": mpnb.Quota(per_hour=100),
        "spool": mpnb.Spool(tmp_path),
    }
    code = code_of(asked, from_environment=False)
    ast.parse(code)
    assert SECRET not in code
    call = next(node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call))
    assert [ast.literal_eval(arg) for arg in call.args] == ["2026-01-01", "2026-01-31"]
    assert [word.arg for word in call.keywords] == ["where", "chunk_days", "credentials", "quota", "spool"]
    assert 'mpnb.Credentials("me", os.environ["MP_SECRET"], "42", region="eu")' in code


def test_code_says_what_to_set_and_works_then(sandbox: Callable[..., Sandbox], tmp_path: Path) -> None:
    """Typed credentials, a connection and a callback: once what the comments name is set, the code exports."""
    mp = sandbox()
    with duckdb.connect() as connection:
        _, asked, _ = form(from_date="2026-01-01", to_date="2026-01-02", database=connection).asked()
        seen: list[object] = []
        asked |= {"credentials": mp.credentials, "on_batch": lambda progress: seen.append(progress)}
        code = code_of(asked, from_environment=False)
        comments = [line for line in code.splitlines() if line.startswith("# ")]
        assert comments == [
            "# Set con to what you passed to the panel as database first.",
            f'# Set MP_SECRET in the environment to the secret of "{mp.credentials.username}" first:',
            '# os.environ["MP_SECRET"] = …',
            "# Set on_batch to what you passed to the panel as on_batch first.",
        ]
        names: dict[str, Any] = {"con": connection, "on_batch": asked["on_batch"]}
        with pytest.raises(KeyError, match="MP_SECRET"):
            exec(code, dict(names))
        set_it = "import os\n" + comments[2].removeprefix("# ").replace("…", repr(mp.credentials.secret))
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("MP_SECRET", "")
            exec(f"{set_it}\n{code}", names)
        with names["result"] as result:
            assert result.total_rows == mp.count(date(2026, 1, 1), date(2026, 1, 2))
        assert seen


def test_code_names_the_variable_that_the_notebook_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that a variable of the session holds goes by its name, and nothing is to be set."""
    with duckdb.connect() as connection:
        monkeypatch.setattr("__main__.warehouse", connection, raising=False)
        _, asked, _ = form(from_date="2026-01-01", to_date="2026-01-02", database=connection).asked()
        code = code_of(asked, from_environment=True)
    assert "database=warehouse" in code
    assert "#" not in code


def test_code_of_the_panel_gives_the_same_plan(tmp_path: Path) -> None:
    """Run as it is, with ``plan`` for ``export``, the code asks for what the form asks for."""
    _, asked, _ = form(
        from_date="2026-01-01", to_date="2026-01-31", database=tmp_path / "x.duckdb", chunk_days=10, events=["a"]
    ).asked()
    code = code_of(asked, from_environment=True).replace("mpnb.export", "mpnb.plan")
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["result"] == mpnb.plan(**asked)


def test_an_unknown_argument_is_a_helpful_type_error() -> None:
    """An argument that does not exist is a TypeError that names the closest one."""
    with pytest.raises(TypeError, match="panel\\(\\) has no argument 'form_date': did you mean 'from_date'"):
        mpnb.panel(form_date="2026-01-01")
    with pytest.raises(TypeError, match="it takes from_date, to_date, events"):
        mpnb.panel(xyzzy=1)


PEOPLE = {
    "people_properties": "plan\n$email", "people_where": 'properties["a"] == 1', "people_cohort": "7",
    "people_workspace": "5", "people_mode": "refresh", "people_max_age": "1.5", "people_history": "yes",
    "people_table": "people", "people_workers": "3", "people_page_size": "500",
}  # fmt: skip


def of_profiles(**typed: str) -> Form:
    """Make a form that asks for profiles."""
    chosen = form(database="x.duckdb")
    chosen.fields.values = {**chosen.fields.values, "kind": "profiles", **typed}
    return chosen


def test_the_same_form_asks_for_profiles() -> None:
    """Its fields are the arguments of that call; what nobody has touched is what that call does by itself."""
    usual = inspect.signature(mpnb.export_profiles).parameters
    kind, asked, wrong = of_profiles().asked()
    assert (kind, wrong, asked.pop("database")) == (PROFILES, {}, "x.duckdb")
    assert asked == {name: usual[name].default for name in asked}
    _, asked, _ = of_profiles(**PEOPLE).asked()
    code = code_of(asked, from_environment=True, kind=PROFILES)
    assert code.startswith("from datetime import timedelta\nimport mpnb\n\npeople = mpnb.export_profiles(")
    called = code.replace("people = mpnb.export_profiles", "given = dict")
    names: dict[str, Any] = {}
    exec(called, names)
    assert names["given"] | {"group": None} == asked
    assert PROFILES.summed_up(asked) == "profiles of cohort 7 · 2 properties · where … · table people"
    assert mpnb.plan_profiles(**asked).pages is None


@pytest.mark.parametrize(
    ("field", "typed"),
    [
        ("cohort", "x"), ("group", "1.5"), ("workspace", "a"), ("workers", "0"), ("page_size", "none"),
        ("max_age", "-1"), ("max_age", "soon"), ("table", ""), ("where", "\ud800"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_fields_of_profiles_shows_beside_them(field: str, typed: str) -> None:
    """And beside them only: the field of the same name that events have stays as it is."""
    chosen = of_profiles(**{f"people_{field}": typed, "people_workers": "x"} | {f"people_{field}": typed})
    plan, errors = planned(*chosen.asked())
    assert plan is None
    assert errors.keys() == {field, "workers"}
    chosen.paint(errors, PROFILES)
    assert chosen.fields.info["errors"].keys() == {f"people_{field}", "people_workers"}
