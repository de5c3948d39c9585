"""
The errors of mpnb, one tree:

    MpnbError
    ├── PlanError            (also ValueError)  an argument that cannot work; nothing was sent
    │   ├── CredentialsError                    no credentials, or some that cannot be meant
    │   ├── DatabaseError                       the database cannot be opened or written
    │   │   └── DatabaseBusyError               another process has it open
    │   └── TableError                          the table is not ours, or holds another source
    ├── ExportError                             no batch is done, empty or skipped; carries the result
    ├── ExportCancelled                         the job was cancelled; carries the result
    ├── ClosedError                             the result was closed and is read again
    └── MissingPackageError  (also ImportError) the call needs a package that is not installed

``PlanError`` and what is below it are raised before the first request.
"""

from __future__ import annotations

from typing import TypeVar

from mpnb._message import Message


class MpnbError(Exception):
    """Base class of all errors that mpnb raises on purpose."""

    def __init__(self, *parts: object) -> None:
        super().__init__(Message(*parts))


class PlanError(MpnbError, ValueError):
    """
    An argument is invalid. Raised before the first request.

    Attributes:
        argument: the name of the argument at fault, such as ``"workers"``; ``None`` where it is none.
    """

    argument: str | None = None

    def __init__(self, *parts: object, argument: str | None = None) -> None:
        super().__init__(*parts)
        if (name := argument or Message(*parts).subject) is not None:
            self.argument = name


class CredentialsError(PlanError):
    """Credentials are missing or invalid. Raised before the first request."""

    argument: str | None = "credentials"


class DatabaseError(PlanError):
    """The database cannot be opened or written. Raised before the first request."""

    argument: str | None = "database"


class DatabaseBusyError(DatabaseError):
    """Another process has the database open. Raised before the first request; wait for it, or end it."""


class TableError(PlanError):
    """The table was not made by mpnb, is in use, or holds events of another source. Raised before the first request."""

    argument: str | None = "table"


class ClosedError(MpnbError):
    """The result was closed, and with it its connection and its relations."""


class MissingPackageError(MpnbError, ImportError):
    """The call needs a package that is not installed, such as pandas; the message says which."""


Raised = TypeVar("Raised", bound=BaseException)


def in_one_line(error: Raised, text: str) -> Raised:
    """Return an exception that IPython shows as one line, without a traceback. It stays what it is."""
    vars(error)["_render_traceback_"] = lambda: [text]
    return error
