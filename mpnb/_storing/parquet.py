"""Parquet files of events: how they are written, and what they say of themselves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime
from pathlib import Path

from duckdb import DuckDBPyConnection

from mpnb._base.sql import literal, quoted, run
from mpnb._mixpanel.export_api import COLUMNS

# The key under which a file has its note.
KEY = "mpnb"
NAMES = [name for name, _ in COLUMNS[:-1]]
# As text: polars takes Parquet's own kind of JSON for bytes.
_SELECTED = ", ".join(
    f"{quoted(name)}{'::VARCHAR' * (kind == 'JSON')} AS {quoted(name)}" for name, kind in COLUMNS[:-1]
)


@dataclass(frozen=True, slots=True)
class Note:
    """
    What the file of a day says of the batch that brought it.

    Attributes:
        fetch: the batch, told from every other one, also of other exports.
        from_date, to_date: its days, of which the file has one.
        requested_at: when its request began, in UTC: events that arrived at Mixpanel later are not in it.
        written_at: in UTC.
        rows: number of rows of the file.
        rejected: number of the batch's lines that are not events.
        kept_lines: number of its lines that are kept in an object beside, rejected ones and copies.
        attempts, size: of the batch, requests and compressed bytes.
    """

    fetch: str
    from_date: date
    to_date: date
    requested_at: datetime
    written_at: datetime
    rows: int
    rejected: int = 0
    kept_lines: int = 0
    attempts: int = 0
    size: int = 0

    def as_text(self) -> str:
        """Return it as JSON."""
        return json.dumps(asdict(self), default=lambda value: value.isoformat())

    @staticmethod
    def from_text(text: bytes) -> Note:
        """Read it again. Raises ``ValueError`` where it is none."""
        try:
            values = json.loads(text)
            for name in ("from_date", "to_date"):
                values[name] = date.fromisoformat(values[name])
            for name in ("requested_at", "written_at"):
                values[name] = datetime.fromisoformat(values[name])
            return Note(**{name: values[name] for name in Note.__slots__ if name in values})
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(str(error)) from None


def copy_of_events(rows: str, path: Path, note: Note) -> str:
    """
    Return the statement that writes events to a file, sorted by person and time: two thirds of the size of others.

    Args:
        rows: a query for the columns of an events table, in order.
    """
    names = ", ".join(quoted(name) for name, _ in COLUMNS)
    query = f"SELECT {_SELECTED} FROM ({rows}) AS mpnb_rows({names}) ORDER BY distinct_id ASC, time ASC"
    return copy_of(query, path, f", KV_METADATA {{{KEY}: {literal(note.as_text())}}}")


def copy_of(query: str, path: Path, more: str = "") -> str:
    """Return the statement that writes the rows of a query to a file."""
    return f"COPY ({query}) TO {literal(str(path))} (FORMAT parquet, COMPRESSION zstd{more})"


def notes_of(cursor: DuckDBPyConnection, paths: Sequence[Path]) -> list[Note | None]:
    """Return the note of each file, ``None`` for a Parquet file without one. Raises ``duckdb.Error`` for others."""
    if not paths:
        return []
    query = "SELECT file_name, value FROM parquet_kv_metadata($paths) WHERE key = $key"
    found = dict(run(cursor, query, {"paths": [str(path) for path in paths], "key": KEY.encode()}))
    notes: list[Note | None] = []
    for path in paths:
        try:
            notes.append(Note.from_text(found[str(path)]))
        except (KeyError, ValueError):
            notes.append(None)
    return notes
