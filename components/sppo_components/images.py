"""The container image of each stage, and what all components share."""

from __future__ import annotations

REGISTRY = "ghcr.io/sppo-kubeflow"
VERSION = "0.2.0"
PUBLISHED = False
"""Whether the images and the package of this version can be had; what the README and the command line say of it."""
GUESTS = {"bench": "evaluate", "keep": "prepare", "finish": "prepare"}
"""Steps that run in the image of another."""


def image(name: str, registry: str = REGISTRY) -> str:
    """The image of a stage; `cpu` is the one that plays every stage without a GPU."""
    return f"{registry}/sppo-{name}:{VERSION}"
