"""Install the CUDA libraries that the installed PyTorch loads at import, if it is a CUDA build.

`requirements.txt` is installed without dependency resolution and names no CUDA library, which is right for the CPU
build of PyTorch. PyPI's Linux wheel of the same version is a CUDA build that cannot be imported without the libraries
its metadata names; this step has pip install them. With the CPU build there is nothing to do.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import requires

from packaging.requirements import Requirement

CUDA_PREFIXES = ("nvidia-", "cuda-")


def cuda_requirements(declared: list[str]) -> list[str]:
    """Pick the CUDA libraries among a distribution's requirements.

    Args:
        declared: Requirement strings (PEP 508), as in a distribution's `Requires-Dist`.

    Returns:
        Those that apply on this machine, without their markers, in the order declared.
    """
    chosen = []
    for requirement in map(Requirement, declared):
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if requirement.name.startswith(CUDA_PREFIXES) and applies:
            requirement.marker = None
            chosen.append(str(requirement))
    return chosen


def main() -> None:
    """Complete the installation of PyTorch in the environment that runs this script."""
    libraries = cuda_requirements(requires("torch") or [])
    if libraries:
        print(f"This PyTorch is a CUDA build: adding the libraries it loads ({', '.join(libraries)}).", flush=True)
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--no-warn-conflicts", *libraries], check=True
        )


if __name__ == "__main__":
    main()
