"""
Lines that say which batch they are of, so that a file of several batches can be read as one.

A framed file begins with a line that names the columns, for DuckDB, which takes them from there: it is no record.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

_BEFORE = b'{"line":'


def first_line(keys: Sequence[str]) -> bytes:
    """Return the line that a file begins with, whose records have these keys."""
    return json.dumps({"line": dict.fromkeys(keys), "batch_id": 0}).encode() + b"\n"


class Frame:
    """
    What stands around each line of a batch.

    Attributes:
        before, after: on both sides; the line's end is part of ``after``.
        between: two lines.
    """

    def __init__(self, batch_id: int) -> None:
        self.before = _BEFORE
        # Behind the line, whose own end may be no comma then.
        self.after = b',"batch_id":%d}\n' % batch_id
        self.between = self.after + self.before

    def bare(self, line: bytes) -> bytes:
        """Return a line without its frame, given with its end."""
        return line.removeprefix(self.before).removesuffix(self.after)
