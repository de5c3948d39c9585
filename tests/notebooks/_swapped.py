"""
A plugin for pytest that lets nbval follow an output that gives way to another, as the grid's does at the end.

nbval compares what a cell showed first; a front end, and the notebook that it saves, have what it showed last.
"""

from __future__ import annotations

from typing import Any

from nbval.plugin import IPyNbCell, IPyNbFile

_get_message, _compare = IPyNbFile.get_kernel_message, IPyNbCell.compare_outputs
_latest: dict[str, Any] = {}


def get_kernel_message(self: IPyNbFile, *args: Any, **options: Any) -> Any:
    """Note under its id what is shown, and hand the id on where nbval keeps it but compares nothing."""
    message = _get_message(self, *args, **options)
    content = message["content"]
    display_id = (content.get("transient") or {}).get("display_id")
    if display_id and "data" in content:
        _latest[display_id] = content["data"]
        content["metadata"]["display_id"] = display_id
    return message


def compare_outputs(self: IPyNbCell, test: Any, ref: Any, *args: Any, **options: Any) -> Any:
    """Compare what the cell shows now."""
    for output in test:
        display_id = output.get("metadata", {}).get("display_id")
        if display_id in _latest:
            output["data"] = _latest[display_id]
    return _compare(self, test, ref, *args, **options)


IPyNbFile.get_kernel_message, IPyNbCell.compare_outputs = get_kernel_message, compare_outputs
