"""The panel's export as Python code, to be copied into a cell."""

from __future__ import annotations

import json
import os
from datetime import timedelta
from typing import Any

from mpnb._base.scalars import as_int
from mpnb._exporting.handles import variable_of
from mpnb._mixpanel.credentials import Credentials
from mpnb._mixpanel.quota import Quota
from mpnb._notebook.panel._kinds import EVENTS, Kind
from mpnb._planning.options import Spool


def code_of(asked: dict[str, Any], *, from_environment: bool, kind: Kind = EVENTS) -> str:
    """
    Return a call that exports, with all arguments that differ from their defaults.

    It never holds a secret: comments say which variables it reads that the reader has to set.

    Args:
        asked: arguments of the call.
        from_environment: whether the call finds the credentials by itself.
    """
    lines, to_set = ["import mpnb"], []
    defaults = kind.defaults
    words = [_word(name, value) for name, value in asked.items() if name not in defaults]
    for name, value in asked.items():
        if name not in defaults or value == defaults[name] or value is None:
            continue
        if name == "credentials" and from_environment:
            continue
        words.append(f"{name}={_word(name, value)}")
        if isinstance(value, timedelta):
            lines.insert(0, "from datetime import timedelta")
        if isinstance(value, Credentials):
            lines.insert(0, "import os")
            to_set.append(f"# Set MP_SECRET in the environment to the secret of {_word('', value.username)} first:")
            to_set.append('# os.environ["MP_SECRET"] = …')
        elif not _is_known(value):
            to_set.append(f"# Set {_word(name, value)} to what you passed to the panel as {name} first.")
    begin = f"{kind.variable} = mpnb.{kind.export.__name__}("
    call = f"{begin}{', '.join(words)})"
    if len(call) > 100:
        call = begin + "\n" + "".join(f"    {word},\n" for word in words) + ")"
    return "\n".join([*lines, "", *to_set, call])


def _is_known(value: object) -> bool:
    """Whether the word for a value can be read without what only the notebook has."""
    is_plain = (
        isinstance(value, bool | Quota | Spool | timedelta | os.PathLike | str | list | tuple)
        or as_int(value) is not None
    )
    return is_plain or variable_of(value) != ""


def _word(name: str, value: object) -> str:
    if isinstance(value, Credentials):
        words = [_word("", value.username), 'os.environ["MP_SECRET"]', _word("", value.project_id)]
        words += [f"region={_word('', value.region)}"] if value.region != "us" else []
        words += [f"base_url={_word('', value.base_url)}"] if value.base_url else []
        return f"mpnb.Credentials({', '.join(words)})"
    if isinstance(value, Quota):
        return f"mpnb.{value!r}"
    if isinstance(value, Spool):
        folder = None if value.folder is None else _word("", os.fspath(value.folder))
        return f"mpnb.Spool({folder}, {value.max_bytes})"
    if isinstance(value, timedelta):
        return f"timedelta(hours={value / timedelta(hours=1):g})"
    if isinstance(value, os.PathLike):
        return _word(name, os.fspath(value))
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list | tuple):
        return f"[{', '.join(_word(name, each) for each in value)}]"
    if isinstance(value, bool):
        return repr(value)
    if (number := as_int(value)) is not None:
        return repr(number)
    return variable_of(value) or ("con" if name == "database" else name)
