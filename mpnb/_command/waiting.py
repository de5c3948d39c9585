"""``--wait``: how long to wait for a database that another process has open."""

from __future__ import annotations

import argparse
import re
from datetime import timedelta

from mpnb._base.patience import NONE
from mpnb._base.scalars import brief

UNITS = {"s": "seconds", "m": "minutes", "h": "hours"}


def add_wait(parser: argparse.ArgumentParser) -> None:
    """Add ``--wait`` to a parser."""
    parser.add_argument(
        "--wait",
        type=_span,
        default=NONE,
        metavar="TIME",
        help="how long to wait for a database that another process has open, such as 30s, 10m or 1h (default: not)",
    )


def _span(text: str) -> timedelta:
    match = re.fullmatch(r"(\d{1,6})([smh])", text.strip().lower())
    if not match:
        raise argparse.ArgumentTypeError(f"a time such as 30s, 10m or 1h, not {brief(text)}")
    return timedelta(**{UNITS[match[2]]: int(match[1])})
