"""The address of a lake: a folder on this machine, or a URL of an object store."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from mpnb._base.paths import local_path, shown
from mpnb._base.scalars import brief, is_text
from mpnb._base.text import safe_text
from mpnb._errors import PlanError
from mpnb._message import Argument

SCHEMES = ("s3", "gs", "az")
# What people call databases and files, and no folder of a lake.
_OF_FILES = re.compile(r"\.(duckdb|ddb|db|sqlite3?|parquet|csv|tsv|jsonl?|ndjson)", re.IGNORECASE)
_ADVICE = "pass a folder, or a URL such as s3://bucket/mixpanel, gs://… or az://…"


@dataclass(frozen=True, slots=True)
class Address:
    """
    Where a lake is.

    Attributes:
        text: the folder or URL as it was passed, without a slash at its end.
        path: the folder, absolute; ``None`` for a URL.
    """

    text: str
    path: Path | None = None

    @property
    def whole(self) -> str:
        """Return it as it is told from every other one, from whatever folder."""
        return self.text if self.path is None else str(self.path.resolve())

    @property
    def label(self) -> str:
        """Return the address, safe to print. It has no secret: such addresses are refused."""
        return safe_text(self.text)


def is_url(value: object) -> bool:
    """Whether a value is the URL of an object store."""
    return isinstance(value, str) and value.lower().startswith(tuple(f"{scheme}://" for scheme in SCHEMES))


def address_of(value: str | os.PathLike[str], argument: str = "destination") -> Address:
    """
    Return the address of a lake, which need not be there yet.

    Raises:
        PlanError: it is neither a folder nor such a URL, or has credentials in it, which the message does not show.
    """
    is_elsewhere = isinstance(value, str) and "://" in value and not value.lower().startswith("file:")
    return _of_url(str(value), argument) if is_elsewhere else _of_folder(value, argument)


def _of_url(text: str, argument: str) -> Address:
    try:
        parts = urlsplit(text)
    except ValueError:
        raise PlanError(Argument(argument), f" is no URL that can be read: {_ADVICE}") from None
    scheme = parts.scheme.lower()
    if parts.query or parts.fragment or "@" in parts.netloc:
        variables = "AWS_…, GOOGLE_… or AZURE_STORAGE_…"
        raise PlanError(
            Argument(argument),
            f" must have no credentials and no options in it: set them in the environment, as {variables}",
        )
    if scheme not in SCHEMES:
        raise PlanError(Argument(argument), f" {brief(scheme + '://')} is nothing that mpnb can write to: {_ADVICE}")
    names = parts.path.strip("/").split("/")
    if not parts.netloc or not is_text(text) or "\0" in text or any(name in (".", "..") for name in names):
        raise PlanError(
            Argument(argument), f" {brief(text)} must name a bucket, and may name a folder in it: {_ADVICE}"
        )
    _check_letters(text, argument)
    if parts.path.strip("/"):  # a bucket may be called so
        _check_name(text, argument)
    return Address("/".join([f"{scheme}://{parts.netloc}", *(name for name in names if name)]))


def _of_folder(value: object, argument: str) -> Address:
    what = "a folder or a URL such as s3://bucket/mixpanel"
    path = local_path(value, argument, _ADVICE, what=what).absolute()
    _check_letters(str(path), argument)
    if path.exists() and not path.is_dir():
        raise PlanError(
            Argument(argument), f" {brief(str(value))} is a file: pass a folder, which is made if it is missing"
        )
    if not path.exists():
        _check_name(str(value), argument)
    if not path.exists() and not path.parent.is_dir():
        raise PlanError(Argument(argument), f": there is no folder {shown(path.parent)}: create it first")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise PlanError(
            Argument(argument), f" {shown(path)} cannot be written: change its permissions, or pass another"
        )
    return Address(str(value), path)


def _check_name(text: str, argument: str) -> None:
    """Refuse what is named like a file: a lake is a folder, and a database was meant."""
    if _OF_FILES.fullmatch(os.path.splitext(text.rstrip("/"))[1]):
        instead: Iterable[object] = (
            (" or, for a database, ", Argument("database", "")) if argument == "destination" else ()
        )
        raise PlanError(Argument(argument), f" {brief(text)} is named like a file: {_ADVICE}", *instead)


def _check_letters(text: str, argument: str) -> None:
    """Refuse what stands for other letters in the names of files that engines read."""
    if found := re.search(r"[*?\[\]{}]", text):
        raise PlanError(
            Argument(argument), f" {brief(text)} has a {found[0]} in it, which engines take for a pattern: {_ADVICE}"
        )
