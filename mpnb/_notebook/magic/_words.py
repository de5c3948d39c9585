"""
The words of a magic's line: quotes, comments, and values of the notebook.

IPython's own expansion would turn Mixpanel's ``$os`` into the notebook's ``os`` module wherever it stands, and a
shell's rules would take the backslashes out of a Windows path.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

# What may stand behind the last word: the semicolon that hides a display, and a comment.
_TAIL = r"\s*;?\s*(?:(?<!\S)\#.*)?$"
_AFTER = rf"(?=\s|{_TAIL})"
# In double quotes a backslash escapes a quote and itself, outside of quotes a quote and a blank; else it is a letter.
_PART = rf"""'(?P<single>[^']*)'|"(?P<double>(?:[^"\\]|\\.)*)"|\\(?P<escaped>[\s'"])|(?!;{_TAIL})(?P<plain>[^\s'"])"""
_PARTS = re.compile(_PART, re.DOTALL)
_WORD = re.compile("(?:" + re.sub(r"\?P<\w+>", "?:", _PART) + ")+", re.DOTALL)
_NAME = re.compile(rf"\$([^\W\d]\w*){_AFTER}")
_BRACE = re.compile(rf"\}}{_AFTER}")
_OPTION = re.compile(r"""--[a-z-]+=|-[a-z](?=['"])""")
_END = re.compile(_TAIL)
_SPACE = re.compile(r"\s*")


class WordError(ValueError):
    """A line cannot be divided into words, or a word cannot be expanded."""


class Value(str):
    """A word that stands for a value of the notebook, found in its ``value``."""

    value: object

    def __new__(cls, value: object) -> Value:
        """Return a ``Value``; its text is the value's ``str``."""
        word = super().__new__(cls, value)
        word.value = value
        return word


@dataclass(frozen=True, slots=True)
class Word:
    """
    One word of a line.

    Attributes:
        start, end: where it stands.
        text: the word without its quotes.
        code: the Python expression that it stands for, where it is ``$name`` or ``{expression}`` as a whole.
        is_open: whether a quote or brace was not closed, so that it goes to the end of the line.
    """

    start: int
    end: int
    text: str
    code: str | None = None
    is_open: bool = False


def words(line: str) -> Iterator[Word]:
    """Split a line into words, without the semicolon and the comment at its end."""
    at = 0
    while True:
        at = _SPACE.match(line, at).end()  # type: ignore[union-attr]  # it always matches
        if _END.match(line, at):
            return
        start, prefix = at, ""
        if option := _OPTION.match(line, at):
            at, prefix = option.end(), option[0]
        if name := _NAME.match(line, at):
            text, code, at = name[0], name[1], name.end()
        elif line.startswith("{", at) and (braces := [each.end() for each in _BRACE.finditer(line, at)]):
            # It may hold braces, quotes and blanks of its own: it ends where it is whole.
            end = next((end for end in braces if _is_expression(line[at + 1 : end - 1])), None)
            if end is None:
                yield Word(start, len(line), line[start:], is_open=True)
                return
            text, code, at = line[at:end], line[at + 1 : end - 1].strip(), end
        else:
            word = _WORD.match(line, at)
            end = word.end() if word else at
            if end < len(line) and line[end] in "'\"":
                yield Word(start, len(line), prefix + line[at:], is_open=True)
                return
            text, code, at = _unquoted(line[at:end]), None, end
        if prefix and code:
            # Two words to the parser of options, as a blank in place of the sign would make them.
            yield Word(start, start + len(prefix), prefix.rstrip("="))
            yield Word(start + len(prefix), at, text, code)
        else:
            yield Word(start, at, prefix + text, code)


def expanded(line: str, names: Mapping[str, Any]) -> list[str]:
    """
    Return the words of a line, with a ``Value`` for each that names a value of the notebook.

    Args:
        names: what expressions may use.

    Raises:
        WordError: a quote or brace is not closed, or an expression cannot be evaluated.
    """
    return [_value(word, names) for word in words(line)]


def is_silent(line: str) -> bool:
    """Whether a line ends in a semicolon, which hides what a cell would display."""
    end = max((word.end for word in words(line)), default=0)
    return line[end:].lstrip().startswith(";")


def quoted(text: str, quote: str = "") -> str:
    """
    Return a word quoted so that it is read back unchanged.

    Args:
        quote: the quote to put it in; none for where it needs one.
    """
    if not quote and re.fullmatch(r"[\w./:-]+", text):
        return text
    if quote == "'" and "'" not in text:
        return f"'{text}'"
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'


def _unquoted(word: str) -> str:
    """Remove quotes around a whole word; quotes within it, as in properties["$os"], are part of it."""
    parts = list(_PARTS.finditer(word))
    if not all(part.lastgroup in ("single", "double") for part in parts):
        return "".join(part["escaped"] or part[0] for part in parts)
    inner = [(part[0][1:-1], part.lastgroup) for part in parts]
    return "".join(re.sub(r'\\(["\\])', r"\1", text) if kind == "double" else text for text, kind in inner)


def _is_expression(code: str) -> bool:
    try:
        ast.parse(code.strip(), mode="eval")
    except (SyntaxError, ValueError):
        return False
    return True


def _value(word: Word, names: Mapping[str, Any]) -> str:
    if word.is_open:
        what = "is not a Python {expression}" if word.text.startswith("{") else "has a quote that is not closed"
        raise WordError(f"{word.text} {what}")
    if word.code is None:
        return word.text
    try:
        # What a cell of the same notebook may evaluate, its magic may as well.
        return Value(eval(word.code, dict(names)))  # noqa: S307
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        raise WordError(f"{word.text} cannot be expanded ({why}); in quotes it is meant as typed") from None
