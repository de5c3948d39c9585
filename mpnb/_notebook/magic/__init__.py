"""
``%mpexport`` and ``%mpprofiles``: an export in one line of a notebook. Works in IPython only.

    _words       a line to words: quotes, comments, ``$name`` and ``{expression}``
    _manual      the options, and what ``--help`` shows of them
    _command     what ``%mpexport`` does
    _people      ``%mpprofiles``
    _completion  what Tab offers
"""

from __future__ import annotations

import ast
import contextlib
import re

from IPython.core.interactiveshell import InteractiveShell

from mpnb._notebook.magic._command import Command
from mpnb._notebook.magic._manual import NAME
from mpnb._notebook.magic._people import NAME as PEOPLE
from mpnb._notebook.magic._people import PeopleCommand
from mpnb._notebook.magic._words import is_silent

# What IPython makes of a line with the magic, see hide_display().
_CALL = re.compile(rf"get_ipython\(\)\.run_(line|cell)_magic\('({NAME}|{PEOPLE})', .*\)$")


def load(shell: InteractiveShell) -> None:
    """Register the magics with a shell."""
    shell.magics_manager.register_function(Command(shell).mpexport, "line_cell", NAME)
    shell.magics_manager.register_function(PeopleCommand(shell).mpprofiles, "line_cell", PEOPLE)
    shell.input_transformers_post.append(hide_display)
    with contextlib.suppress(ImportError):  # IPython before 8.6 knows no such matchers: all works but Tab
        from mpnb._notebook.magic._completion import Completion

        shell.Completer.custom_matchers.append(Completion(shell).matches)


def unload(shell: InteractiveShell) -> None:
    """Remove the magics, and all that ``load`` registered, from a shell. Results and running exports stay."""
    for name in (NAME, PEOPLE):
        for kind in ("line", "cell"):
            shell.magics_manager.magics[kind].pop(name, None)
        with contextlib.suppress(AttributeError):
            delattr(shell.magics_manager.user_magics, name)
    shell.input_transformers_post[:] = [each for each in shell.input_transformers_post if each is not hide_display]
    matchers = shell.Completer.custom_matchers
    matchers[:] = [each for each in matchers if not getattr(each, "__module__", "").startswith(__name__)]


def hide_display(lines: list[str]) -> list[str]:
    """
    Let a semicolon at the end of the magic's line hide its display, as Python's lines do.

    The line is an argument by then, so that IPython does not see the semicolon; a magic that gave ``None`` in its
    place would leave an assignment empty.
    """
    return [_hide(line) for line in lines]


def _hide(line: str) -> str:
    code = line.rstrip()
    if found := _CALL.search(code):
        # It may stand in a text over several lines.
        with contextlib.suppress(SyntaxError):
            call = ast.parse(found[0], mode="eval").body
            if isinstance(call, ast.Call) and is_silent(ast.literal_eval(call.args[1])):
                return code + ";" + line[len(code) :]
    return line
