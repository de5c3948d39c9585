"""Names of events as callers pass them, and suggestions for misspelled ones."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from functools import partial

from mpnb._base.scalars import brief, each_of, is_text
from mpnb._errors import PlanError
from mpnb._message import Argument, Message

# What names of events must be as an argument, for messages.
EVENTS = Message(Argument("events"), " must be a list of names of events, or None for all")
NAME = Message(Argument("name"), " must be the name of an event, or a list of them")


def event_names(given: object, wanted: Message) -> list[str]:
    """
    Return names as a list: from one name, or from a list, set, generator, array or Series of names.

    Args:
        wanted: what is wanted, to begin the message with: ``EVENTS`` or ``NAME``.

    Raises:
        PlanError: there is none, or something is no name.
    """
    names = [given] if isinstance(given, str) else each_of(given)
    if not names:
        raise PlanError(wanted, f", not {brief(given)}")
    for name in names:
        if not isinstance(name, str) or not is_text(name):
            raise PlanError(wanted, f", and {brief(name)} is not a name")
    return list(dict.fromkeys(map(str, names)))


def closest(name: str, names: Iterable[str]) -> str:
    """Return a "did you mean …?" for the end of a message, or nothing if no known name is similar."""
    folded: dict[str, list[str]] = {}
    for each in names:
        folded.setdefault(each.casefold(), []).append(each)
    # Case is what people get wrong first: it does not matter for who is close, but for who comes first.
    matches = difflib.get_close_matches(name.casefold(), folded, n=3, cutoff=0.5)
    close = [each for match in matches for each in sorted(folded[match], key=partial(_unlike, name)) if each != name]
    return f"; did you mean {' or '.join(map(repr, close[:3]))}?" if close else ""


def _unlike(name: str, other: str) -> float:
    return -difflib.SequenceMatcher(None, name, other).ratio()
