"""Compiling the pipeline into a package that a cluster can run."""

from __future__ import annotations

import itertools
from pathlib import Path

from sppo.config.limits import Limits
from sppo.errors import ConfigError
from sppo_pipelines.profile import STAGES, with_images


def compile_pipeline(output: Path, max_iterations: int, profile: str, images: Path | None = None) -> Limits:
    """Write the package.

    Args:
        output: a .yaml file.
        max_iterations: the most iterations that it can play.
        profile: name or file of the hardware defaults.
        images: a YAML file of images by stage, in the place of the profile's.

    Returns:
        What it can play, which is written into it too.

    Raises:
        ConfigError: for a wrong file name, number or profile.
    """
    if output.suffix not in {".yaml", ".yml"}:
        raise ConfigError(f"output: {output} must end in .yaml")
    if max_iterations < 1:
        raise ConfigError(f"max_iterations: {max_iterations} is less than 1")
    loaded = with_images(profile, images)
    from kfp import compiler

    from sppo_pipelines.size import shard_iterations
    from sppo_pipelines.sppo import limit_shards, make_pipeline

    pipeline = make_pipeline(max_iterations, loaded)
    most = shard_iterations(pipeline, loaded.workflow_bytes)
    limit_shards(pipeline, most)
    output.parent.mkdir(parents=True, exist_ok=True)
    compiler.Compiler().compile(pipeline, str(output))
    # The compiler begins the file with comments that show default values in an order that changes from process to
    # process. They say nothing that the package does not say, and without them the same input gives the same bytes.
    lines = output.read_text(encoding="utf-8").splitlines(keepends=True)
    output.write_text("".join(itertools.dropwhile(lambda line: line.startswith("#"), lines)), encoding="utf-8")
    return Limits(max_iterations, loaded.training.nodes > 1, most)


def tell_unpublished(profile: str, images: Path | None) -> None:
    """Say that a package asks for images that nobody can pull yet, unless it names others for all of its tasks."""
    from sppo_components.images import PUBLISHED, REGISTRY

    from sppo_pipelines.placement import image_of

    loaded = with_images(profile, images)
    if not PUBLISHED and any(image_of(stage, loaded).startswith(f"{REGISTRY}/") for stage in STAGES):
        print("its images are not published yet: build them with `make images`, and name them with --images FILE")
