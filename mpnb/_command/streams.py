"""Standard output and error of a command: closed, read by nobody, or on a terminal that is gone."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import TextIO


def fill_streams() -> None:
    """
    Open closed standard streams, as after ``2>&-``, on the null device.

    Else the database would get such a number, and what a library prints would be written into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # which gets the lowest number that is free


def streams() -> list[TextIO]:
    """Return standard output and error, where they exist: a process without a terminal may have neither."""
    return [stream for stream in (sys.stdout, sys.stderr) if stream is not None]


def is_reader_gone(error: OSError) -> bool:
    """Whether an error of writing means that nobody reads any more, as after ``| head``; Windows says EINVAL then."""
    return isinstance(error, BrokenPipeError) or (os.name == "nt" and error.errno == errno.EINVAL)


def let_go() -> bool:
    """
    Write what is still buffered, and drop it where it cannot be written: Python would complain of it at the end.

    Returns:
        Whether all of it was written to standard output.
    """
    is_read = True
    for stream in streams():
        try:
            stream.flush()
        except (OSError, ValueError):
            is_read = is_read and stream is not sys.stdout
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return is_read
