"""Where things show: whether a kernel runs this code, and how an output is put there and swapped later."""

from __future__ import annotations

import itertools
import os
import sys
from typing import Any

Bundle = dict[str, Any]
_numbers = itertools.count(1)


def has_kernel() -> bool:
    """Return whether a Jupyter kernel runs this code, so that a front end may be there. Imports nothing."""
    if "ipykernel" not in sys.modules or "IPython" not in sys.modules:
        return False
    from IPython.core.getipython import get_ipython

    return getattr(get_ipython(), "kernel", None) is not None


def show(bundle: Bundle) -> str:
    """Put an output into the running cell, and give the id under which it can be swapped."""
    from IPython.display import display

    display_id = f"mpnb-{os.getpid()}-{next(_numbers)}"
    display(bundle, raw=True, display_id=display_id)  # type: ignore[no-untyped-call]
    return display_id


def swap(display_id: str, bundle: Bundle) -> None:
    """Put another output in place of one that ``show`` put there. Any thread."""
    from IPython.display import update_display

    update_display(bundle, raw=True, display_id=display_id)  # type: ignore[no-untyped-call]
