"""Messages that each face completes: Python, a shell and the panel name arguments, and what to do next, differently."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Argument:
    """
    An argument of a public call, by its name in Python.

    Attributes:
        name: of the argument.
        value: what to pass, ``""`` where that is up to the caller; ``None`` where the argument is only named.
    """

    name: str
    value: str | None = None

    def __str__(self) -> str:
        """Return it as Python has it: ``table``, ``table=`` or ``mode='resume'``."""
        return self.name if self.value is None else f"{self.name}={self.value and repr(self.value)}"


@dataclass(frozen=True, slots=True)
class Phrase:
    """
    What else a face may say in words of its own.

    Attributes:
        key: what faces know it by.
        python: how it reads in Python.
    """

    key: str
    python: str

    def __str__(self) -> str:
        """Return it as Python has it."""
        return self.python


SAME_CALL = Phrase("the same call", "the same call")
# Where a face can wait for somebody else to let go of a file.
WAIT = Phrase("wait", "")

Word = Argument | Phrase
Face = Callable[[Word], str]


class Message(str):
    """
    A text in Python's words, which keeps its parts so that ``said()`` can put it in others.

    Args:
        parts: text, which every face shows verbatim, whatever names of the user's are in it, and words.
    """

    parts: tuple[str | Word, ...]

    def __new__(cls, *parts: object) -> Message:
        """Join the parts, and those of messages among them."""
        flat = tuple(each for part in parts for each in _words(part))
        made = super().__new__(cls, "".join(map(str, flat)))
        made.parts = flat
        return made

    @property
    def subject(self) -> str | None:
        """Return the name of the argument that it begins with, ``None`` where it begins otherwise."""
        first = self.parts[0] if self.parts else None
        return first.name if isinstance(first, Argument) else None


def _words(part: object) -> tuple[str | Word, ...]:
    if isinstance(part, Message):
        return part.parts
    return (part,) if isinstance(part, Argument | Phrase) else (str(part),)


def said(what: str | BaseException, face: Face) -> str:
    """Return a text, or what an exception or a warning says, in the words of a face."""
    if isinstance(what, BaseException):
        what = what.args[0] if what.args and isinstance(what.args[0], Message) else str(what)
    if not isinstance(what, Message):
        return what
    return "".join(part if isinstance(part, str) else face(part) for part in what.parts)
