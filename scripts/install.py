"""Install pinned requirements into the environment that runs this, with uv, from where pip would take them.

    .venv/bin/python scripts/install.py requirements.txt

uv unpacks and compiles on all cores, pip on one. But it reads nothing of pip's configuration
(docs.astral.sh/uv, "Compatibility with pip"), where organisations name their mirror of PyPI: this hands it on.

The requirements are installed without dependency resolution and name no CUDA library, which is right for the CPU build
of PyTorch. PyPI's Linux wheel of the same version is a CUDA build that cannot be imported without the libraries its
metadata names: they are added here.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import requires
from pathlib import Path

CUDA_PREFIXES = ("nvidia-", "cuda-")
SECTIONS = ("global", "install", ":env:")
"""Of pip's configuration; a later one's value takes the place of an earlier one's."""
SETTINGS = {
    "index-url": ("UV_DEFAULT_INDEX", " "),
    "extra-index-url": ("UV_INDEX", " "),
    "find-links": ("UV_FIND_LINKS", ","),
    "trusted-host": ("UV_INSECURE_HOST", " "),
    "timeout": ("UV_HTTP_TIMEOUT", " "),
    "default-timeout": ("UV_HTTP_TIMEOUT", " "),
    "cert": ("SSL_CERT_FILE", " "),
    "proxy": ("ALL_PROXY", " "),
}
"""The variable of uv for each of pip's options that say where packages come from, and what is between its values."""
PATHS = {"find-links", "cert"}
"""Which of them may be paths."""
LIKE_PIP = {
    "UV_INDEX_STRATEGY": "unsafe-best-match",  # the best version of all indexes, not what the first of them has
    "UV_COMPILE_BYTECODE": "1",
    "UV_HTTP_RETRIES": "5",
}


def of_pip(listed: str) -> dict[str, str]:
    """The options that pip's files and variables set, by name.

    Args:
        listed: what `pip config list` prints, a line an option.
    """
    said = dict(line.partition("=")[::2] for line in listed.splitlines())
    return {
        name.removeprefix(f"{section}."): str(ast.literal_eval(value))
        for section in SECTIONS
        for name, value in said.items()
        if name.startswith(f"{section}.")
    }


def for_uv(options: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Pip's options as variables of uv's, and as arguments where uv reads no variable."""
    variables = {
        variable: between.join(_places(options[option].split()) if option in PATHS else options[option].split())
        for option, (variable, between) in SETTINGS.items()
        if option in options
    }
    without = options.get("no-index", "").lower() in {"1", "true", "yes", "on", "y", "t"}
    return variables, ["--no-index"] * without


def _places(written: Sequence[str]) -> list[str]:
    """URLs, and paths that are there: pip goes on without the others, uv does not."""
    return [
        each if "://" in each else str(Path(each).absolute())
        for each in written
        if "://" in each or Path(each).exists()
    ]


def cuda_requirements(declared: list[str]) -> list[str]:
    """Pick the CUDA libraries among a distribution's requirements.

    Args:
        declared: Requirement strings (PEP 508), as in a distribution's `Requires-Dist`.

    Returns:
        Those that apply on this machine, without their markers, in the order declared.
    """
    from packaging.requirements import Requirement  # which is there once the requirements are

    chosen = []
    for requirement in map(Requirement, declared):
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if requirement.name.startswith(CUDA_PREFIXES) and applies:
            requirement.marker = None
            chosen.append(str(requirement))
    return chosen


def install(arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    """Have uv install into the environment that runs this.

    Not in this folder: its pyproject.toml tells uv which libraries are left out of the lock.
    """
    uv = str(Path(sys.executable).with_name("uv"))
    command = [uv, "pip", "install", "--python", sys.executable, *arguments]
    code = subprocess.run(command, cwd=Path(sys.executable).anchor, env=environment, check=False).returncode
    if code:
        sys.exit(code)  # uv has said why


def main() -> None:
    """Install the requirements of the file that is named, then what the installed PyTorch loads."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    variables, arguments = for_uv(of_pip(listed))
    environment = {**LIKE_PIP, **variables, **os.environ}  # what is set for uv itself holds
    install([*arguments, "--no-deps", "--requirement", str(Path(sys.argv[1]).absolute())], environment)
    libraries = cuda_requirements(requires("torch") or [])
    if libraries:
        print(f"This PyTorch is a CUDA build: adding the libraries it loads ({', '.join(libraries)}).", flush=True)
        install([*arguments, *libraries], environment)


if __name__ == "__main__":
    main()
