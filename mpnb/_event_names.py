"""Names of events as people pass them, and the ones that they may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from mpnb._errors import PlanError
from mpnb._scalars import brief, each_of, is_text


def event_names(given: object, argument: str, *, or_all: bool = False) -> list[str]:
    """
    Return names as a list: of one name, or of whatever gives some, such as a list, set, generator, array or Series.

    Args:
        argument: what they were passed as, for the message.
        or_all: whether ``None`` could have been passed as well, for the message.

    Raises:
        PlanError: there is none, or something is no name.
    """
    names = [given] if isinstance(given, str) else each_of(given)
    wanted = f"{argument} is a list of names of events, or one name{', or None for all' if or_all else ''}"
    if not names:
        raise PlanError(f"{wanted}, not {brief(given)}")
    for name in names:
        if not isinstance(name, str) or not is_text(name):
            raise PlanError(f"{wanted}, and {brief(name)} is none")
    return list(dict.fromkeys(map(str, names)))


def closest(name: str, names: Iterable[str]) -> str:
    """Ask, at the end of a message, whether some name that is there was meant."""
    # Case is what people get wrong first, and counts as much as any other letter would.
    folded: dict[str, list[str]] = {}
    for each in names:
        folded.setdefault(each.casefold(), []).append(each)
    matches = difflib.get_close_matches(name.casefold(), folded, n=3, cutoff=0.5)
    close = [each for match in matches for each in folded[match] if each != name]
    return f": is it {' or '.join(map(repr, close[:3]))}?" if close else ""
