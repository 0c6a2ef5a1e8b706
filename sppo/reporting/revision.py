"""Which commit this software is of."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

_ROOT = Path(__file__).parents[2]


def source_revision() -> str:
    """The commit that an image was built from, or that is checked out here; "-dirty" where the files differ from it.

    Returns:
        "unknown" where neither is known.
    """
    built = os.environ.get("SPPO_REVISION")
    if built:
        return built
    if shutil.which("git") is None or not (_ROOT / ".git").exists():
        return "unknown"
    command = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    found = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True)
    return found.stdout.strip() or "unknown"
