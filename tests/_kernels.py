"""
Kernels as a user's machine has them, but for homes of their own.

``MPNB_KERNEL_PATH`` names a folder whose packages a kernel finds first: with an older ipykernel in it, the tests of
the panel run on that one, and ``MPNB_KERNEL_VERSION`` says which it must be. See CONTRIBUTING.md.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

KERNEL_PATH = os.environ.get("MPNB_KERNEL_PATH", "")
KERNEL_VERSION = os.environ.get("MPNB_KERNEL_VERSION", "")
OURS = ("MP_USERNAME", "MP_SECRET", "MP_PROJECT_ID", "MP_REGION", "MP_API_BASE_URL")


def environment(home: Path) -> dict[str, str]:
    """Give an environment in which Jupyter, IPython and mpnb keep everything within a folder, and know one kernel."""
    spec = home / "data" / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True, exist_ok=True)
    root = str(Path(__file__).parents[1])
    paths = [os.path.abspath(path) for path in (KERNEL_PATH, root) if path]
    spec.write_text(
        json.dumps(
            {
                "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
                "display_name": "Python 3",
                "language": "python",
                "env": {"PYTHONPATH": os.pathsep.join(paths)},
            }
        )
    )
    env = {name: value for name, value in os.environ.items() if name not in OURS}
    folders = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "IPYTHONDIR": "ipython",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "XDG_STATE_HOME": "state",
    }
    # In a virtual environment its own kernel would come before that of the data folder, but not before this.
    env["JUPYTER_PATH"] = str(home / "data")
    return env | {name: str(home / folder) for name, folder in folders.items()}
