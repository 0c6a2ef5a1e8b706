"""Compiling the pipeline into a package that a cluster can run."""

from __future__ import annotations

from pathlib import Path

from pipelines.profile import load_profile
from sppo.errors import ConfigError


def compile_pipeline(output: Path, max_iterations: int, profile: str) -> None:
    """Write the package.

    Args:
        output: a .yaml file.
        max_iterations: the most iterations that it can play.
        profile: name or file of the hardware defaults.

    Raises:
        ConfigError: for a wrong file name, number or profile.
    """
    if output.suffix not in {".yaml", ".yml"}:
        raise ConfigError(f"output: {output} must end in .yaml")
    if max_iterations < 1:
        raise ConfigError(f"max_iterations: {max_iterations} is less than 1")
    loaded = load_profile(profile)
    from kfp import compiler

    from pipelines.sppo import make_pipeline

    output.parent.mkdir(parents=True, exist_ok=True)
    compiler.Compiler().compile(make_pipeline(max_iterations, loaded), str(output))
