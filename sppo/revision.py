"""Which state of this software runs."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]


def source_revision() -> str:
    """The commit that an image was built from, or that is checked out here; "-dirty" where the files differ from it.

    Returns:
        "unknown" where neither is known.
    """
    built = os.environ.get("SPPO_REVISION")
    if built:
        return built
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        return "unknown"
    command = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return found.stdout.strip() or "unknown"
