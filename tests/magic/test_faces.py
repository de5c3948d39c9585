"""One message in four faces: each names arguments in its own words, and shows the user's own names as they are."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
from IPython.core.error import UsageError
from IPython.utils.capture import capture_output

import mpnb
from mpnb._base.clock import today
from mpnb._command import cli
from mpnb._command.options import in_shell
from mpnb._message import SAME_CALL, Argument, Message, Phrase, said
from mpnb._mixpanel.failures import HINTS, SPOOL_ELSEWHERE, known_hint
from mpnb._notebook.panel._form import Form
from mpnb._notebook.panel._kinds import planned
from mpnb._notebook.panel._labels import in_labels
from mpnb.sandbox import Sandbox, serve
from mpnb.sandbox.__main__ import environment
from tests._helpers import WIDE, day
from tests.magic.conftest import Shell

DAYS = ("2026-01-01", "2026-01-07")
# What a user may call a table, a file, an event: each is a word of ours in some face.
NAMES = (
    "from_date_exports", "workers=", "mode='resume'", "chunk_days", "the same call", "max_bytes is", "base_url x",
    "result.failures lists the rest", "spool=mpnb.Spool(folder)", "pass another table=", "to_date is 2030", "{workers}",
)  # fmt: skip
PLACES = ("database", "table", "events", "where", "spool")
Say = Callable[[dict[str, Any]], str]


def python(asked: dict[str, Any]) -> str:
    """Return what a call raises."""
    with pytest.raises(mpnb.MpnbError) as caught:
        mpnb.export(*DAYS, **asked)
    return str(caught.value)


def words(asked: dict[str, Any]) -> list[str]:
    """Return arguments as words of a command."""
    made = [*DAYS]
    for name, value in asked.items():
        option = "--spool-folder" if name == "spool" else f"--{name.replace('_', '-')}"
        given = value.folder if isinstance(value, mpnb.Spool) else value
        made += [option, str(given[0] if isinstance(given, list) else given)]
    return made


def command(asked: dict[str, Any]) -> str:
    """Return what the command line says."""
    with capture_output() as captured:
        assert cli.main(["export", *words(asked)]) == 2
    return str(captured.stderr)


@pytest.fixture
def magic(shell: Shell) -> Say:
    """Return what the magic says."""

    def say(asked: dict[str, Any]) -> str:
        shell.ip.user_ns["typed"] = typed = words(asked)
        ran = shell.run("%mpexport " + " ".join(f"{{typed[{n}]}}" for n in range(len(typed))))
        assert isinstance(ran.error, mpnb.MpnbError | UsageError)
        return ran.out + ran.err

    return say


def panel(asked: dict[str, Any]) -> str:
    """Return what the panel says beside its fields, or below the form."""
    form = Form({"from_date": DAYS[0], "to_date": DAYS[1], **asked}, lambda: None)
    _, fields, _ = form.asked()
    try:
        mpnb.export(**{**asked, **fields})
    except mpnb.MpnbError as error:
        return said(error, in_labels)
    raise AssertionError


@pytest.fixture
def faces(magic: Say) -> dict[str, Say]:
    """Return the four."""
    return {"python": python, "command": command, "magic": magic, "panel": panel}


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Sandbox, Path]]:
    """Serve a project, and fetch one event of it into a table of each name, where others cannot come then."""
    path = tmp_path_factory.mktemp("there") / "there.duckdb"
    with serve(events_per_day=30) as mp, duckdb.connect(str(path)) as con:
        ask = {"database": con, "credentials": mp.credentials, "quota": WIDE, "on_batch": lambda _: None}
        for table in ("events", *NAMES):
            mpnb.export(day(1), day(1), events="Search", table=table, **ask).close()
        con.close()
        yield mp, path


@pytest.fixture
def refused(
    there: tuple[Sandbox, Path], mp: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, str], dict[str, Any]]:
    """Return arguments that cannot work, with a user's name in that place, which the message must show."""

    def made(place: str, name: str) -> dict[str, Any]:
        if place == "database":
            (tmp_path / name).mkdir()
            return {"database": name}
        if place == "spool":
            (tmp_path / name).write_text("no folder")
            return {"spool": mpnb.Spool(f"{name}/inner"), "database": str(tmp_path / "other.duckdb")}
        served, path = there
        for variable, value in environment(served).items():
            monkeypatch.setenv(variable, value)
        here = {"database": str(path), "table": name if place == "table" else "events"}
        return here | ({"events": [name]} if place == "events" else {"where": name} if place == "where" else {})

    return made


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("place", PLACES)
def test_the_users_own_names_show_verbatim(
    place: str, name: str, faces: dict[str, Say], refused: Callable[[str, str], dict[str, Any]]
) -> None:
    """In every face, whatever words of ours a name of theirs holds."""
    asked = refused(place, name)
    for face, say in faces.items():
        text = say(asked)
        assert name in text or repr(name) in text, f"{face}: {text}"


@pytest.mark.parametrize(
    ("asked", "argument", "told"),
    [
        (
            {"workers": 0},
            "workers",
            ("workers must be", "--workers must be", "--workers must be", "Workers must be"),
        ),
        (
            {"chunk_days": 0},
            "chunk_days",
            ("chunk_days must be", "--chunk-days must be", "--chunk-days must be", "Days a batch must be"),
        ),
        ({"where": " "}, "where", ("where must be", "--where must be", "--where must be", None)),
        ({"table": "mpnb_x"}, "table", ("table 'mpnb_x'", "--table 'mpnb_x'", "--table 'mpnb_x'", "Table 'mpnb_x'")),
        (
            {"database": "s3://x"},
            "database",
            ("database 's3://x'", "--database 's3://x'", "--database 's3://x'", None),
        ),
    ],
)
def test_each_face_names_the_argument_as_it_is_typed(
    asked: dict[str, Any], argument: str, told: tuple[str | None, ...], faces: dict[str, Say], mp: Sandbox
) -> None:
    """The exception keeps its name in Python; ``None`` stands for what a field cannot hold."""
    with pytest.raises(mpnb.PlanError) as caught:
        mpnb.export(*DAYS, **asked)
    assert caught.value.argument == argument
    for (face, say), begins in zip(faces.items(), told, strict=True):
        if begins is not None:
            assert begins in say(asked), face


def test_a_table_of_another_source_tells_each_face_what_to_type_next(
    faces: dict[str, Say], refused: Callable[[str, str], dict[str, Any]]
) -> None:
    """Arguments in Python, options in a shell, labels in the panel."""
    asked = refused("where", "x")
    ends = {face: say(asked).strip().rpartition("this ")[2] for face, say in faces.items()}
    assert ends["python"].endswith("call asks for " + ends["python"].split("call asks for ")[1])
    assert ends["python"].endswith(": pass another table= or another database=")
    assert ends["command"].endswith(": pass another --table or another --database")
    assert ends["magic"].endswith(": pass another --table or another --database")
    assert ends["panel"].endswith(": pass another Table or another Database")
    assert [end.split()[0] for end in ends.values()] == ["call", "command", "command", "export"]


@pytest.mark.parametrize(
    ("message", "python_says", "shell_says"),
    [
        (
            Message("pass another ", Argument("table", ""), ", or ", Argument("mode", "resume")),
            "pass another table=, or mode='resume'",
            "pass another --table, or --mode resume",
        ),
        (Message("pass ", SPOOL_ELSEWHERE), "pass spool=mpnb.Spool(folder)", "pass --spool-folder FOLDER"),
        (
            Message("a larger ", Argument("chunk_days"), ", or ", Argument("chunk_days", "auto")),
            "a larger chunk_days, or chunk_days='auto'",
            "a larger --chunk-days, or --chunk-days auto",
        ),
        (Message(Argument("to_date"), " x"), "to_date x", "TO x"),
        (Message(Argument("max_bytes"), " x"), "max_bytes x", "--spool-bytes x"),
        (Message(Argument("per_hour"), " x"), "per_hour x", "--per-hour x"),
        (Message(SAME_CALL, " again"), "the same call again", "the same command again"),
        (Message(Phrase("the rest", "; db.failures lists the rest")), "; db.failures lists the rest", ""),
        ("the same call of workers=", "the same call of workers=", "the same call of workers="),
        (Message("workers= of the user's ", 5), "workers= of the user's 5", "workers= of the user's 5"),
    ],
)
def test_words_are_said_and_text_stays(message: str, python_says: str, shell_says: str) -> None:
    """As text a message is Python's; what is no word of ours no face touches."""
    assert message == python_says
    assert said(message, in_shell) == shell_says
    assert said(mpnb.PlanError(message), in_shell) == shell_says
    assert said(UserWarning(message), in_shell) == shell_says
    assert said(KeyboardInterrupt(message), in_shell) == shell_says


def test_copies_of_an_error_keep_its_words() -> None:
    """Pickled, as from another process, and copied."""
    error = mpnb.TableError(Argument("table"), " is odd: pass another ", Argument("database", ""))
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (str(again), again.argument) == ("table is odd: pass another database=", "table")
        assert said(again, in_shell) == "--table is odd: pass another --database"


def test_a_hint_that_a_ledger_kept_is_said_in_the_words_of_a_shell() -> None:
    """By its whole text: one in other words, as of another version, stays as it is."""
    kept = str(HINTS["truncated"])
    assert said(known_hint(kept), in_shell) == kept.replace("chunk_days", "--chunk-days")
    assert said(known_hint("a smaller chunk_days"), in_shell) == "a smaller chunk_days"


@pytest.mark.parametrize("name", NAMES)
def test_what_an_export_tells_of_itself_shows_names_verbatim(name: str, mp: Sandbox, tmp_path: Path) -> None:
    """Summary, plan and warnings of a command: its table, its database and an event that never came."""
    (tmp_path / name).mkdir()
    to = today() + timedelta(days=1)
    with capture_output() as captured:
        status = cli.main(
            [
                "export",
                "yesterday",
                str(to),
                "--table",
                name,
                "--database",
                f"{name}/x.duckdb",
                "-e",
                name,
                "-e",
                "Search",
            ]
        )
    assert status == 0
    assert f"in table {name!r} of {name}/x.duckdb" in captured.stdout
    assert f"no event {name!r} was on any day" in captured.stdout
    assert f"mpnb: TO {to} is after today" in captured.stderr
    assert f"mpnb: no event {name!r} was on any day" in captured.stderr


def test_credentials_of_the_environment_are_named_by_their_variables(
    faces: dict[str, Say], mp: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every face, since nobody passed an argument of that name."""
    monkeypatch.setenv("MP_REGION", "moon")
    for face, say in faces.items():
        assert "MP_REGION must be 'us', 'eu' or 'in', not 'moon'" in say({}), face
    with pytest.raises(mpnb.CredentialsError, match="region must be") as caught:
        mpnb.Credentials("me", "secret", 1, region="moon")
    assert caught.value.argument == "region"


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: mpnb.Quota(0), "per_hour"),
        (lambda: mpnb.Quota(per_second="3"), "per_second"),  # type: ignore[arg-type]
        (lambda: mpnb.Quota(concurrent=0), "concurrent"),
        (lambda: mpnb.Spool(5), "folder"),  # type: ignore[arg-type]
        (lambda: mpnb.Spool("s3://x"), "folder"),
        (lambda: mpnb.Spool(max_bytes=0), "max_bytes"),
        (lambda: mpnb.Credentials("", "s", 1), "username"),
        (lambda: mpnb.Credentials("a", None, 1), "secret"),  # type: ignore[arg-type]
        (lambda: mpnb.Credentials("a", "s", "x"), "project_id"),
        (lambda: mpnb.Credentials("a", "s", 1, base_url="x"), "base_url"),
        (lambda: mpnb.Credentials.from_environment(environ=5), "environ"),  # type: ignore[arg-type]
        (lambda: mpnb.Credentials.from_environment(5), "name"),  # type: ignore[arg-type]
        (lambda: mpnb.split_date_range("x", "2026-01-01"), "from_date"),
        (lambda: mpnb.split_date_range("2026-01-01", "x"), "to_date"),
        (lambda: mpnb.split_date_range("2026-01-02", "2026-01-01"), "from_date"),
        (lambda: mpnb.split_date_range("2026-01-01", "2026-01-02", 0), "chunk_days"),
        (lambda: mpnb.drop("mpnb_x"), "table"),
        (lambda: mpnb.open("https://x"), "database"),
        (lambda: mpnb.open("x.duckdb", table=5), "table"),  # type: ignore[arg-type]
        (lambda: mpnb.open("x.duckdb", credentials=5), "credentials"),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_argument_is_a_plan_error_that_names_it(make: Callable[[], object], argument: str) -> None:
    """Of every public constructor and call: within ``MpnbError``, with the argument on the exception."""
    with warnings.catch_warnings(), pytest.raises(mpnb.PlanError) as caught:
        make()
    assert caught.value.argument == argument


def test_the_panel_says_each_in_its_labels(tmp_path: Path) -> None:
    """Beside the field, whatever the path is called."""
    (tmp_path / "from_date_exports").mkdir()
    form = Form({"from_date": "2026-01-01", "to_date": "2026-01-02", "database": "from_date_exports"}, lambda: None)
    plan, errors = planned(*form.asked())
    assert plan is None
    assert errors["database"].startswith(f"{tmp_path}/from_date_exports is a folder: ")
