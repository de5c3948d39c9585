"""
The README as a package index shows it, made when a wheel or sdist is built.

There, a path of the repository leads nowhere. It becomes an absolute link where pyproject.toml names the project's
``Source`` among its ``urls``, of which no address is known yet; until then the text alone stays, without pictures.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

# A fenced block, which stays as it is, or a link or picture whose target has no scheme.
LINK = re.compile(r"^```.*?^```$|(!?)\[([^\]\n]+)\]\((?![a-z]+:)([^)\s]+)\)", re.MULTILINE | re.DOTALL)


class Readme(MetadataHookInterface):
    """Called by hatchling."""

    PLUGIN_NAME = "custom"

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the description."""
        source = metadata.get("urls", {}).get("Source", "")
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": portable(text, source)}


def portable(text: str, source: str) -> str:
    """Return a README whose links do not depend on where it is shown."""

    def link(found: re.Match[str]) -> str:
        picture, label, target = found.groups()
        if target is None:
            return found[0]
        if not source:
            return "" if picture else label
        place = f"README.md{target}" if target.startswith("#") else target
        return f"{picture}[{label}]({source}/{'raw' if picture else 'blob'}/main/{place})"

    return LINK.sub(link, text)
