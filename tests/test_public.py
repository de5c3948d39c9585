"""The public surface: its names, what it costs to import, and its one tree of errors."""

from __future__ import annotations

import inspect
import json
import pickle
import subprocess
import sys

import pytest

import mpnb
import mpnb._errors
import mpnb.sandbox

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
        "on_batch", "credentials", "quota", "spool",
    ]  # fmt: skip


def test_the_calls_for_profiles_share_one_signature() -> None:
    """What is true of one call is true of all three."""
    calls = (mpnb.export_profiles, mpnb.start_profiles, mpnb.plan_profiles)
    signatures = [inspect.signature(call).parameters for call in calls]
    assert signatures[0] == signatures[1] == signatures[2]
    assert list(signatures[0]) == [
        "where", "properties", "cohort", "group", "database", "table", "workers", "page_size", "workspace", "mode",
        "max_age", "history", "on_batch", "credentials", "quota", "spool",
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
    assert pickle.loads(pickle.dumps(own)) == own


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
    own = mpnb.Credentials.from_environment(environ)
    assert own == mpnb.Credentials("me", "s", "12", region="eu", base_url="http://localhost:1")
