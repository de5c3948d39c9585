"""
Export raw events from Mixpanel into DuckDB, in parallel, and read them from SQL, pandas and polars.

    import mpnb
    result = mpnb.export("2026-01-01", "2026-03-31")
    result.events, result.failures, result.retry()
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpnb import analysis
from mpnb._api import check, export, export_profiles, plan, plan_profiles, start, start_profiles, status
from mpnb._api import open as open  # for type checkers: it is left out of __all__, see below
from mpnb._errors import (
    ClosedError,
    CredentialsError,
    DatabaseBusyError,
    DatabaseError,
    MissingPackageError,
    MpnbError,
    PlanError,
    TableError,
)
from mpnb._exporting.handles import ExportCancelled, ExportError, ExportJob, ExportResult
from mpnb._exporting.profiles import ProfilesCancelled, ProfilesError, ProfilesJob, ProfilesResult
from mpnb._mixpanel.credentials import Credentials
from mpnb._mixpanel.quota import Quota
from mpnb._notebook.formatters import register as _register
from mpnb._notebook.panel import explore, panel
from mpnb._planning.batches import Batch, HeldBatch, split_date_range
from mpnb._planning.options import Spool
from mpnb._planning.people import ProfilesPlan
from mpnb._planning.plan import ExportPlan
from mpnb._planning.states import BatchProgress, JobProgress
from mpnb._reading.calendar import Calendar, CalendarDay
from mpnb._reading.check import Check, Finding
from mpnb._reading.drop import drop
from mpnb._reading.forget import forget_person
from mpnb._reading.status import Status, TableStatus
from mpnb._reading.zone import set_zone
from mpnb._sync import Sync, Synced, sync
from mpnb._version import __version__

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

# open is left out: "from mpnb import *" would shadow Python's own.
__all__ = [
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


_register()


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Register ``%mpexport`` and ``%mpprofiles`` in a notebook: ``%load_ext mpnb``."""
    from mpnb._notebook.magic import load

    load(shell)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """Remove them again: ``%unload_ext mpnb``."""
    from mpnb._notebook.magic import unload

    unload(shell)
