"""Install the CUDA libraries that the installed PyTorch loads at import, if it is a CUDA build.

`requirements.txt` is installed without dependency resolution and names no CUDA library, which is right for the CPU
build of PyTorch. PyPI's Linux wheel of the same version is a CUDA build: its metadata names the libraries it loads,
and this step installs those that are missing. With the CPU build there is nothing to do.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

CUDA_PREFIXES = ("nvidia-", "cuda-")


def missing_cuda_requirements(declared: list[str]) -> list[str]:
    """Pick the CUDA libraries that apply on this machine and are not installed as declared.

    Args:
        declared: Requirement strings (PEP 508), as in a distribution's `Requires-Dist`.

    Returns:
        The requirements to install, markers stripped, in the order declared.
    """
    missing = []
    for requirement in map(Requirement, declared):
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if requirement.name.startswith(CUDA_PREFIXES) and applies and not is_installed(requirement):
            requirement.marker = None
            missing.append(str(requirement))
    return missing


def is_installed(requirement: Requirement) -> bool:
    """Tell whether a version that satisfies `requirement` is installed."""
    try:
        return requirement.specifier.contains(version(requirement.name), prereleases=True)
    except PackageNotFoundError:
        return False


def main() -> None:
    """Complete the installation of PyTorch in the environment that runs this script."""
    missing = missing_cuda_requirements(requires("torch") or [])
    if missing:
        print(f"This PyTorch is a CUDA build: installing the {len(missing)} libraries it names.", flush=True)
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *missing], check=True)


if __name__ == "__main__":
    main()
