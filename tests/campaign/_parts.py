"""The parts of the campaign, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.campaign import _beside, _images, _io, _kills, _people, _proxies, _surroundings, _wire


@dataclass(frozen=True, slots=True)
class Part:
    """Hold a part: ``run`` takes a seed, the number of a run, figures to add to, and options of its own."""

    run: Callable[..., None]
    needs_shim: bool = False


PARTS = {
    "wire": Part(_wire.run),
    "beside": Part(_beside.run),
    "surroundings": Part(_surroundings.run, needs_shim=True),
    "proxies": Part(_proxies.run),
    "kills": Part(_kills.run),
    "images": Part(_images.run, needs_shim=True),
    "people": Part(_people.run),
    "io": Part(_io.run, needs_shim=True),
}
