"""Serve made-up events until Ctrl-C: ``python -m mpnb.sandbox``."""

from __future__ import annotations

import argparse
import functools
import json
import re
import signal
import sys
import textwrap
import threading
from collections.abc import Sequence
from datetime import date
from typing import NoReturn

import mpnb.sandbox
from mpnb._base.interrupt import wait_in_turns
from mpnb._base.shell import assignment
from mpnb._base.text import safe_text
from mpnb._errors import PlanError
from mpnb._message import Argument, Word, said
from mpnb._mixpanel.quota import Quota
from mpnb.sandbox._days import checked_day
from mpnb.sandbox._faults import KINDS, Fault
from mpnb.sandbox._sandbox import Sandbox, serve


def main(argv: Sequence[str] | None = None, *, prog: str = "python -m mpnb.sandbox") -> int:
    """
    Run the sandbox from the command line.

    Args:
        argv: options; default: those of the process.
        prog: the name of the command, for ``--help``.

    Returns:
        The exit status: 0 after Ctrl-C, SIGTERM, or the end of its terminal.
    """
    parser = _parser(prog)
    options = parser.parse_args(argv)
    try:
        mp = _serve(options)
    except PlanError as error:
        parser.error(said(error, _in_shell))
    except OSError as error:
        parser.error(f"port {options.port} cannot be had: {error.strerror}")
    with mp:
        stop = threading.Event()
        for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), lambda *_: stop.set())
        print(_json(mp) if options.json else _greeting(mp), flush=True)
        wait_in_turns(stop.wait, stop.is_set)
    return 0


def _serve(options: argparse.Namespace) -> Sandbox:
    return serve(
        seed=options.seed,
        events_per_day=options.events_per_day,
        today=options.today,
        quota=Quota() if options.quota else None,
        retry_after=options.retry_after,
        latency=options.latency,
        bytes_per_second=options.bytes_per_second,
        gzip_members=options.gzip_members,
        faults=options.fault,
        port=options.port,
        project_id=options.project_id,
        legacy_timezone=options.legacy_timezone,
    )


def environment(mp: Sandbox) -> dict[str, str]:
    """Return the environment variables that make mpnb use this sandbox."""
    return {
        "MP_USERNAME": mp.credentials.username,
        "MP_SECRET": mp.credentials.secret,
        "MP_PROJECT_ID": mp.project_id,
        "MP_API_BASE_URL": mp.url,
    }


def _in_shell(word: Word) -> str:
    """Name an argument of ``serve`` by its option."""
    return f"--{word.name.replace('_', '-')}" if isinstance(word, Argument) else str(word)


def _json(mp: Sandbox) -> str:
    return json.dumps(environment(mp) | {"made_up": True})


def _greeting(mp: Sandbox) -> str:
    exports = [assignment(name, value) for name, value in environment(mp).items()]
    return "\n".join(
        [
            f"mpnb sandbox: made-up Mixpanel data at {mp.url}, for project {mp.project_id}, until Ctrl-C.",
            "Nothing in it is real. To export from it, set in another shell:",
            "",
            *exports,
        ]
    )


def fault(text: str) -> Fault:
    """
    Parse a fault: ``KIND``, ``KIND:DAY``, or a status instead of the kind, such as ``503:2026-01-02``.

    Raises:
        argparse.ArgumentTypeError: with what is wrong about it.
    """
    kind, colon, day = text.partition(":")
    try:
        if re.fullmatch("[0-9]{1,9}", kind):
            return Fault("status", day if colon else None, status=int(kind))
        return Fault(kind, day if colon else None)
    except PlanError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _day(text: str) -> date:
    try:
        return checked_day("a day", text)
    except PlanError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _kinds() -> str:
    """Return the package's table of fault kinds without markup; from here, faults strike halfway."""
    places = {"up to *at*": "up to the middle", ", *at*": "", "*at*": "halfway", "`": ""}
    rows = re.findall(r"^\| (\w+) +\| (.+?) *\|$", mpnb.sandbox.__doc__ or "", re.MULTILINE)[1:]
    told = {
        kind: functools.reduce(lambda text, place: text.replace(*place), places.items(), what) for kind, what in rows
    }
    lines = [
        textwrap.fill(f"  {kind:<18} {told.get(kind, '')}", 100, subsequent_indent=" " * 21).rstrip()
        for kind in told or sorted(KINDS)
    ]
    return "\n".join(["kinds of --fault, each for a request of any day or of that DAY alone:", *lines])


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Print one line and exit with status 2."""
        self.exit(2, f"{self.prog}: {safe_text(message)} ({self.prog} --help shows what there is)\n")


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=prog,
        description="Serve made-up events as Mixpanel's raw export API does, on loopback, until Ctrl-C.",
        epilog=_kinds(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--port", type=int, default=0, help="TCP port on 127.0.0.1 (default: any free one)")
    add("--seed", type=int, default=0, help="the same seed makes the same events (default: 0)")
    add("--events-per-day", type=int, default=1000, metavar="N", help="on an average day (default: 1000)")
    add("--today", type=_day, metavar="DAY", help="last day that may be asked for (default: today, UTC)")
    add("--retry-after", choices=("seconds", "date"), help="send Retry-After with refusals (default: no)")
    add("--latency", type=float, default=0.0, metavar="SECONDS", help="before the first byte (default: 0)")
    add("--bytes-per-second", type=float, metavar="N", help="pace of each connection (default: no limit)")
    add("--gzip-members", type=int, default=1, metavar="N", help="gzip members of each answer (default: 1)")
    add("--project-id", metavar="N", help="number of the project (default: a new one)")
    add("--legacy-timezone", metavar="ZONE", help="zone of times and days, as in projects made before 2023")
    add("--quota", action=argparse.BooleanOptionalAction, default=True, help="enforce Mixpanel's limits (default: yes)")
    add(
        "--fault",
        action="append",
        type=fault,
        default=[],
        metavar="KIND[:DAY]",
        help="what goes wrong once: a kind of those below, or a status such as 503; repeatable",
    )
    add("--json", action="store_true", help="print the environment variables as one line of JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
