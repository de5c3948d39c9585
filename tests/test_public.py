"""The public surface: its names, what it costs to import, and its one tree of errors."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import subprocess
import sys
from dataclasses import asdict, replace
from typing import Any

import pytest

import mpnb
import mpnb._errors
import mpnb.sandbox
from mpnb._fetching.client import FetchError
from mpnb._fetching.verify import BodyError, NoExport
from mpnb._mixpanel.failures import failure
from mpnb._storing.destination import Unfit, WriteError

NAMES = [
    "Batch",
    "BatchProgress",
    "Calendar",
    "CalendarDay",
    "Check",
    "ClosedError",
    "Credentials",
    "CredentialsError",
    "DatabaseBusyError",
    "DatabaseError",
    "ExportCancelled",
    "ExportError",
    "ExportJob",
    "ExportPlan",
    "ExportResult",
    "Finding",
    "HeldBatch",
    "JobProgress",
    "MissingPackageError",
    "MpnbError",
    "PlanError",
    "ProfilesCancelled",
    "ProfilesError",
    "ProfilesJob",
    "ProfilesPlan",
    "ProfilesResult",
    "Quota",
    "Spool",
    "Status",
    "Sync",
    "Synced",
    "TableError",
    "TableStatus",
    "__version__",
    "analysis",
    "check",
    "drop",
    "explore",
    "export",
    "export_profiles",
    "forget_person",
    "panel",
    "plan",
    "plan_profiles",
    "set_zone",
    "split_date_range",
    "start",
    "start_profiles",
    "status",
    "sync",
]


def test_the_names_are_these() -> None:
    """Sorted, and each is there; ``open`` too, which is left out since it would shadow Python's own."""
    assert mpnb.__all__ == NAMES == sorted(NAMES)
    assert all(hasattr(mpnb, name) for name in NAMES)
    assert callable(mpnb.open)
    assert mpnb.sandbox.__all__ == sorted(mpnb.sandbox.__all__)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "__version__"] + ["open"])
def test_each_name_is_documented(name: str) -> None:
    """A docstring that begins on its own line with one imperative sentence."""
    doc = getattr(mpnb, name).__doc__
    assert doc
    first = inspect.cleandoc(doc).splitlines()[0]
    assert first.endswith((".", ":")), first


def test_export_start_and_plan_share_one_signature() -> None:
    """What is true of one call is true of all three."""
    signatures = [inspect.signature(call).parameters for call in (mpnb.export, mpnb.start, mpnb.plan)]
    assert signatures[0] == signatures[1] == signatures[2]
    assert list(signatures[0]) == [
        "from_date", "to_date", "events", "where", "database", "table", "workers", "chunk_days", "mode", "late_days",
        "destination", "executor", "on_batch", "credentials", "quota", "spool", "memory",
    ]  # fmt: skip


def test_the_calls_for_profiles_share_one_signature() -> None:
    """What is true of one call is true of all three."""
    calls = (mpnb.export_profiles, mpnb.start_profiles, mpnb.plan_profiles)
    signatures = [inspect.signature(call).parameters for call in calls]
    assert signatures[0] == signatures[1] == signatures[2]
    assert list(signatures[0]) == [
        "where", "properties", "cohort", "group", "database", "table", "workers", "page_size", "workspace", "mode",
        "max_age", "history", "on_batch", "credentials", "quota", "spool", "memory",
    ]  # fmt: skip


def test_an_argument_that_does_not_exist_is_a_type_error() -> None:
    """Misspelt options are not swallowed."""
    with pytest.raises(TypeError, match="chunk_day"):
        mpnb.plan("2026-01-01", "2026-01-02", chunk_day=3)  # type: ignore[call-arg]


def test_the_errors_are_one_tree() -> None:
    """As drawn at the top of their module, and none is left out of the public names."""
    errors = [
        each for _, each in inspect.getmembers(mpnb._errors, inspect.isclass) if each.__module__ == "mpnb._errors"
    ]
    public = [each for each in errors if not each.__name__.startswith("_")]
    assert {each.__name__ for each in public} <= set(NAMES)
    assert all(issubclass(each, mpnb.MpnbError) for each in public)
    below_plan = {each for each in public if issubclass(each, mpnb.PlanError)}
    assert below_plan == {
        *(mpnb.PlanError, mpnb.CredentialsError, mpnb.TableError),
        *(mpnb.DatabaseError, mpnb.DatabaseBusyError),
    }
    assert issubclass(mpnb.PlanError, ValueError)


LOOK = """
import json, sys, time
began = time.process_time()
import mpnb
took = time.process_time() - began
heavy = ["ipywidgets", "anywidget", "IPython", "pandas", "polars", "pyarrow", "tqdm", "numpy", "traitlets"]
print(json.dumps([took, [name for name in heavy if name in sys.modules]]))
"""


def test_the_import_is_light() -> None:
    """None of the large libraries, and under half a second of CPU: the machine may be busy."""
    looks = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, check=True, timeout=60)
        took, heavy = json.loads(done.stdout)
        assert heavy == []
        assert done.stderr == ""
        looks.append(took)
    assert min(looks) < 0.5


# --- credentials ---------------------------------------------------------------------------------------------------


def test_a_repr_never_shows_the_secret() -> None:
    """Nor does a traceback that prints it, or an error about it."""
    own = mpnb.Credentials("me", "hunter2hunter2", 1234567)
    assert "hunter2" not in repr(own) + str(own) + f"{own!r:>5}"
    assert own.project_id == "1234567"
    assert own.host == "https://data.mixpanel.com"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"username": ""}, "username is empty"),
        ({"secret": " "}, "secret is empty"),
        ({"secret": "a\nb"}, "secret contains a line break or another invalid character"),  # pragma: allowlist secret
        ({"username": "a:b"}, "username holds a colon"),
        ({"project_id": "abc"}, "project_id must be the number of the project, not 'abc'"),
        ({"project_id": "١٢٣"}, "project_id must be the number of the project"),
        ({"project_id": ""}, "project_id must be the number of the project"),
        ({"region": "moon"}, "region must be 'us', 'eu' or 'in', not 'moon'"),
        ({"base_url": "http://example.com"}, "plain http is for loopback only"),
        ({"base_url": "http://127.0.0.1.example.com"}, "plain http is for loopback only"),
        (
            {"base_url": "https://user:pass@example.com"},  # pragma: allowlist secret
            "must not hold a user name or password",
        ),
        ({"base_url": "https://example.com/path"}, "must be a scheme and a host"),
        ({"base_url": "https://example.com?x=1"}, "must be a scheme and a host"),
        ({"base_url": "ftp://example.com"}, "must be a scheme and a host"),
        ({"base_url": "example.com"}, "must be a scheme and a host"),
        ({"base_url": "https://[::1"}, "is no address"),
    ],
)
def test_credentials_that_cannot_be_meant_are_refused(wrong: dict[str, str], message: str) -> None:
    """Before anything is sent anywhere, and without repeating the secret."""
    usual = {"username": "me", "secret": "hunter2hunter2", "project_id": "1"}  # pragma: allowlist secret
    with pytest.raises(mpnb.CredentialsError, match=message) as error:
        mpnb.Credentials(**{**usual, **wrong})
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    ("region", "host"),
    [
        ("us", "https://data.mixpanel.com"),
        ("EU", "https://data-eu.mixpanel.com"),
        (" in ", "https://data-in.mixpanel.com"),
    ],
)
def test_a_region_has_a_host(region: str, host: str) -> None:
    """Where the project's data lives, or what stands in for it."""
    assert mpnb.Credentials("me", "s", "1", region=region).host == host
    assert mpnb.Credentials("me", "s", "1", region=region, base_url="https://x.example/").host == "https://x.example"


def test_the_environment_is_read() -> None:
    """All five variables, without the spaces around them."""
    environ = {
        "MP_USERNAME": " me ",
        "MP_SECRET": "s\n",  # pragma: allowlist secret
        "MP_PROJECT_ID": "12",
        "MP_REGION": "eu",
        "MP_API_BASE_URL": "http://localhost:1",
    }
    own = mpnb.Credentials.from_environment(environ=environ)
    assert own == mpnb.Credentials("me", "s", "12", region="eu", base_url="http://localhost:1")


NAMED = {"MP_EU_USERNAME": "me", "MP_EU_SECRET": "s", "MP_EU_PROJECT_ID": "7", "MP_EU_REGION": "eu"}


@pytest.mark.parametrize("name", ["EU", "eu"])
def test_a_service_account_has_a_name_in_the_environment(name: str) -> None:
    """One of several; what the usual variables have is not taken for it."""
    environ = {**NAMED, "MP_API_BASE_URL": "http://localhost:1", "MP_PROJECT_ID": "12"}
    assert mpnb.Credentials.from_environment(name, environ=environ) == mpnb.Credentials("me", "s", "7", region="eu")


@pytest.mark.parametrize("gone", ["MP_EU_USERNAME", "MP_EU_SECRET", "MP_EU_PROJECT_ID"])
def test_a_missing_or_wrong_variable_is_told_by_the_name_that_was_asked_for(gone: str) -> None:
    """Not by the usual one."""
    with pytest.raises(mpnb.CredentialsError, match=f"set {gone} in the environment"):
        mpnb.Credentials.from_environment("EU", environ={**NAMED, gone: ""})
    with pytest.raises(mpnb.CredentialsError, match=r"^MP_EU_REGION must be"):
        mpnb.Credentials.from_environment("EU", environ={**NAMED, "MP_EU_REGION": "moon"})


@pytest.mark.parametrize("name", ["", "E U", "EU\n", "é", 5, NAMED])
def test_a_name_that_no_variable_can_have_is_refused(name: Any) -> None:
    """As is the environment in its place, which is not shown: it has the secret."""
    with pytest.raises(
        mpnb.CredentialsError, match=r"^name must be up to 64 letters, digits and underscores.*(not a \w+|not .{1,9})$"
    ):
        mpnb.Credentials.from_environment(name)


@pytest.mark.parametrize("name", [None, "EU"])
def test_credentials_of_the_environment_travel_as_their_name(name: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where they arrive they are read again: with the secret, and the project, of that environment."""
    prefix = f"MP_{name}_" if name else "MP_"
    for variable, value in zip(("USERNAME", "SECRET", "PROJECT_ID"), ("me", "hunter2", "7"), strict=True):
        monkeypatch.setenv(prefix + variable, value)
    sent = pickle.dumps(mpnb.Credentials.from_environment(name))
    assert b"hunter2" not in sent
    monkeypatch.setenv(f"{prefix}SECRET", "another")
    assert pickle.loads(sent) == mpnb.Credentials("me", "another", "7")
    assert pickle.dumps(pickle.loads(sent)) == sent
    monkeypatch.delenv(f"{prefix}SECRET")
    with pytest.raises(mpnb.CredentialsError, match=f"set {prefix}SECRET in the environment"):
        pickle.loads(sent)


def test_a_secret_travels_only_where_that_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """However it came into the object, and the refusal says what to do."""
    for variable, value in NAMED.items():
        monkeypatch.setenv(variable, value)
    own = mpnb.Credentials("me", "s", "7", region="eu")
    changed = replace(mpnb.Credentials.from_environment("EU"), region="us")
    for each in (own, changed, mpnb.Credentials.from_environment("EU", environ=NAMED)):
        with pytest.raises(TypeError, match=r"from_environment\('EU'\).* or pass may_travel=True"):
            pickle.dumps(each)
    free = mpnb.Credentials("me", "s", "7", region="eu", may_travel=True)
    arrived = pickle.loads(pickle.dumps(free))
    assert arrived == free == own
    assert pickle.loads(pickle.dumps(replace(arrived, region="in"))).region == "in"


def test_credentials_are_copied_as_before() -> None:
    """Alone or deep within something else, with their secret: a copy stays in this process."""
    own = mpnb.Credentials("me", "s", "7")
    assert copy.copy(own) == copy.deepcopy(own) == copy.deepcopy([own])[0] == own
    assert mpnb.Credentials(**asdict(own)) == own


@pytest.mark.parametrize("kind", [mpnb.ExportError, mpnb.ExportCancelled, mpnb.ProfilesError, mpnb.ProfilesCancelled])
def test_an_error_travels_without_its_result(kind: Any) -> None:
    """Its words arrive, as from a pool of processes; the result, which has a database open, stays and says so."""
    arrived = pickle.loads(pickle.dumps(kind("3 batches failed", object())))
    assert (type(arrived), str(arrived)) == (kind, "3 batches failed")
    with pytest.raises(mpnb.ClosedError, match="stayed in the process that raised this error"):
        _ = arrived.result


def test_what_a_fetch_raises_travels_whole() -> None:
    """With what it has besides its words."""
    cut = pickle.loads(pickle.dumps(BodyError("truncated", "it ends too early")))
    assert (cut.kind, str(cut)) == ("truncated", "it ends too early")
    assert pickle.loads(pickle.dumps(NoExport(b"<html>"))).words == b"<html>"
    why = failure("timeout", "too slow")
    for kind in (FetchError, WriteError, Unfit):
        assert pickle.loads(pickle.dumps(kind(why))).failure == why
