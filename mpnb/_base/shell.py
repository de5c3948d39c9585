"""What a person is to type in a shell, quoted for the one that they have: POSIX's, PowerShell or cmd."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Literal

Shell = Literal["posix", "powershell", "windows powershell", "cmd"]

# What both shells of Windows take as it is.
_PLAIN = re.compile(r"[A-Za-z0-9_+=:./\\-]+")


def users_shell(environ: Mapping[str, str] = os.environ, system: str = os.name) -> Shell:
    """
    Return the shell that this process was probably started from.

    On Windows, cmd alone sets ``PROMPT``, and PowerShell from version 6 on has a folder of modules of its own.
    """
    if system != "nt":
        return "posix"
    if "PROMPT" in environ:
        return "cmd"
    modules = environ.get("PSModulePath", "").replace("/", "\\").lower()
    return "powershell" if "\\powershell\\" in modules else "windows powershell"


def command_line(words: Iterable[str], shell: Shell | None = None) -> str:
    """
    Return words as one line of a shell, by default of the user's.

    cmd replaces ``%NAME%`` also within quotes, against which nothing helps at its prompt.
    """
    shell = shell or users_shell()
    return shlex.join(words) if shell == "posix" else " ".join(_quoted(word, shell) for word in words)


def assignment(name: str, value: str, shell: Shell | None = None) -> str:
    """Return the line that sets a variable of the environment in a shell, by default in the user's."""
    shell = shell or users_shell()
    if shell == "posix":
        return f"export {name}={shlex.quote(value)}"
    return f'set "{name}={value}"' if shell == "cmd" else f"$env:{name} = {_single(value)}"


def _quoted(word: str, shell: Shell) -> str:
    if _PLAIN.fullmatch(word):
        return word
    if shell == "powershell":  # from 7.3 on, programs get a word as it is
        return _single(word)
    # Programs take their line apart by the rules of Microsoft's C library: backslashes count before a quote alone, and
    # two quotes within quotes are one. So cmd sees quotes as well, of which it counts each.
    quote = r'\1\1""' if shell == "cmd" else r'\1\1\\"'
    escaped = re.sub(r'(\\*)"', quote, word)
    if shell == "cmd" or re.search(r"\s", word):
        escaped = re.sub(r"(\\+)$", r"\1\1", escaped)
    if shell == "cmd":
        return f'"{escaped}"'
    # Windows PowerShell puts words with blanks into double quotes, escapes nothing within, and drops empty words.
    return _single(escaped) if word else "'\"\"'"


def _single(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
