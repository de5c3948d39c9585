"""Packages that only some calls need, so that a server that fetches can do without them."""

from __future__ import annotations

import importlib.util

from mpnb._errors import MissingPackageError


def is_there(package: str) -> bool:
    """Whether a package is installed. Imports nothing."""
    return importlib.util.find_spec(package) is not None


def need(package: str, what: str) -> None:
    """
    Raise ``MissingPackageError`` unless a package is installed.

    Args:
        package: its name, which is what one imports and what one installs.
        what: the call that needs it, such as ``"df()"``.
    """
    if not is_there(package):
        raise MissingPackageError(f"{what} needs {package}, which is not installed: pip install {package.lower()}")
