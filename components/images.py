"""The container image of each stage, and what all components share."""

from __future__ import annotations

REGISTRY = "ghcr.io/sppo-kubeflow"
VERSION = "0.1.0"


def image(stage: str) -> str:
    """The image of a stage."""
    return f"{REGISTRY}/sppo-{stage}:{VERSION}"
