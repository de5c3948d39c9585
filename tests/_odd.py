"""What nobody should pass: values to try on every argument, and what must come of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd

import mpnb
from mpnb.sandbox import Fault


class Nameless:
    """Something that cannot even show itself."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    def __str__(self) -> str:
        raise RuntimeError("no str")


# What people pass by mistake, and what nobody passes on purpose.
ODD: dict[str, Any] = {
    "None": None,
    "True": True,
    "zero": 0,
    "minus one": -1,
    "one and a half": 1.5,
    "nan": math.nan,
    "inf": math.inf,
    "31 digits": 10**30,
    "5001 digits": 10**5000,
    "nothing": "",
    "a blank": " ",
    "a word": "abc",
    "in capitals": "RESUME",
    "NUL": "a\0b",
    "an escape sequence": "\x1b[31mred",
    "half a surrogate pair": "\ud800",
    "100,000 letters": "x" * 100_000,
    "another script": "東京",
    "digits of another script": "١٢٣",
    "bytes": b"x",
    "no list": [],
    "a list of numbers": [1],
    "a tuple of texts": ("a", "b"),
    "a mapping": {"a": 1},
    "a set": {1, 2},
    "an object": object(),
    "what has no repr": Nameless(),
    "a date": date(2026, 1, 1),
    "a moment": datetime(2026, 1, 1, 12),
    "a time span": timedelta(days=1),
    "a numpy float": np.float64(3.5),
    "a numpy array": np.array([[1, 2], [3, 4]]),
    "a data frame": pd.DataFrame({"a": [1]}),
    "a series of numbers": pd.Series([1]),
    "a function": len,
    "a type": int,
    "a quota": mpnb.Quota(),
    "a spool": mpnb.Spool(),
    "a fault": Fault("reset"),
}


def one_line(error: mpnb.MpnbError) -> str:
    """See that an error is one line of some words, which a terminal shows as it is."""
    text = str(error)
    assert 10 < len(text) < 700
    assert [c for c in text if not c.isprintable()] == []
    return text


def try_all(
    call: Callable[[Any], Any],
    kinds: type[Exception] | tuple[type[Exception], ...] = (),
    values: Mapping[str, Any] = ODD,
) -> dict[str, str]:
    """
    Make a call with each odd value, and give the texts of what is refused.

    Args:
        kinds: other errors that are right, such as that a wait was too short.
    """
    refused: dict[str, str] = {}
    for what, value in values.items():
        try:
            made = call(value)
        except mpnb.PlanError as error:
            refused[what] = one_line(error)
        except kinds:
            pass
        except Exception as error:
            raise AssertionError(f"{what}: {type(error).__name__}") from error
        else:
            if hasattr(made, "close"):
                made.close()
    return refused
