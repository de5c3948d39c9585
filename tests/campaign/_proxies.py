"""Proxies that break answers, and machines whose settings of proxies and certificates lead nowhere."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

import mpnb
from tests.campaign._case import draw, generator, hand
from tests.campaign._clients import real
from tests.campaign._figures import Figures
from tests.campaign._oracle import Oracle
from tests.campaign._pace import patient, quick
from tests.campaign._proxy import CONNECTS, HOST, PEM, TRICKS, Proxy
from tests.campaign._stage import FILE, Stage, stage
from tests.campaign._tables import Table, served

STEPS = ("export", "export", "refresh", "retry", "reopen", "cancel")
VARIABLES = (
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
)


@dataclass(frozen=True, slots=True)
class Machine:
    """
    Hold the settings of a machine. ``{proxy}`` stands for the proxy's address, ``{pem}`` for its certificate.

    Attributes:
        works: whether an export must get through.
    """

    variables: dict[str, str]
    connect: str = ""
    host: str = HOST
    works: bool = False


def _machine(works: bool = False, connect: str = "", host: str = HOST, **variables: str) -> Machine:
    return Machine({"HTTPS_PROXY": "{proxy}", "SSL_CERT_FILE": "{pem}", **variables}, connect, host, works)


MACHINES = {
    "a proxy": _machine(works=True),
    "a proxy, and odd names without one": _machine(works=True, NO_PROXY="localhost,127.0.0.1,.local"),
    "a proxy, and [::1] without one": _machine(NO_PROXY="[::1]"),
    "a proxy, and fe80::/10 without one": _machine(NO_PROXY="fe80::/10"),
    "nobody listens": _machine(HTTPS_PROXY="http://127.0.0.1:1"),
    "socks": _machine(HTTPS_PROXY="socks5://127.0.0.1:1080"),
    "ftp": _machine(HTTPS_PROXY="ftp://127.0.0.1:2121"),
    "a port that is none": _machine(HTTPS_PROXY="http://127.0.0.1:abc"),
    "a password with #": _machine(HTTPS_PROXY="http://me:p#ss@127.0.0.1:3128"),
    "no name": _machine(HTTPS_PROXY="http://"),
    "no certificate": _machine(SSL_CERT_FILE=""),
    "a certificate that is missing": _machine(SSL_CERT_FILE="/none/here.pem"),
    "a certificate that is none": _machine(SSL_CERT_FILE="/etc/hostname"),
    "a certificate of another": _machine(host="other.invalid"),
    "no proxy, and no such host": Machine({"SSL_CERT_FILE": "{pem}"}),
    **{name: _machine(connect=name) for name in CONNECTS if name},
}


def run(seed: int, number: int, figures: Figures, *, tricks: int = 6) -> None:
    """Do one run: a machine, then steps through a proxy that plays tricks, then one with nothing in the way."""
    rng = generator("proxies", seed, number)
    case = draw(rng)
    with (
        stage(f"proxies {seed}/{number}", figures) as here,
        quick(rng.choice((0.0, 0.25))),
        served(case, here.folder / FILE) as table,
        Proxy(table.server.url, rng) as proxy,
    ):
        oracle = Oracle(table.database, [table], figures, here.name)
        for name in hand(seed, number, 2, MACHINES):
            _on(here, name, proxy, table, oracle)
        names = hand(seed, number, tricks, TRICKS)
        for step in ("export", *rng.choices(STEPS, k=2)):
            proxy.play({rng.randrange(12): name for name in names})
            table.change(step)
            through = replace(table.server.credentials, base_url=proxy.url)
            _step(here, step, f"{step} with {', '.join(names)}", through, table, oracle)
        figures.faults += proxy.played
        with patient():
            _step(here, "retry", "retry", table.server.credentials, table, oracle, complete=True)


def _on(here: Stage, name: str, proxy: Proxy, table: Table, oracle: Oracle) -> None:
    """Export on a machine."""
    machine = MACHINES[name]
    values = {n: v.format(proxy=proxy.url, pem=PEM) for n, v in machine.variables.items()}
    credentials = replace(table.server.credentials, base_url=f"https://{machine.host}")
    proxy.connect = machine.connect
    here.figures.surroundings[name] += 1
    table.change("refresh")
    with _environment(values):
        _step(here, "refresh", f"refresh on a machine with {name}", credentials, table, oracle,
              may_refuse=not machine.works, complete=machine.works)  # fmt: skip


def _step(
    here: Stage,
    step: str,
    what: str,
    credentials: mpnb.Credentials,
    table: Table,
    oracle: Oracle,
    *,
    may_refuse: bool = False,
    complete: bool = False,
) -> None:
    with here.step(what):
        said = here.heard(what, real(step, table.case, credentials, table.database), may_refuse=may_refuse)
    oracle.judge(what, said={table.name: said}, complete=complete)


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Have these variables alone, of those that speak of proxies and certificates; an empty value is none."""
    names = [name for each in VARIABLES for name in (each, each.lower())]
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    os.environ.update({name: value for name, value in values.items() if value})
    try:
        yield
    finally:
        for name in names:
            os.environ.pop(name, None)
        os.environ.update(before)
