"""Placement: which nodes a task runs on, and what happens when it fails."""

from __future__ import annotations

from typing import Any, NamedTuple

from kfp import kubernetes
from kfp.dsl import PipelineTask

from pipelines.profile import Profile


class Placement(NamedTuple):
    """A pool's runtime parameters, as channels of the pipeline."""

    node_selector: Any
    tolerations: Any
    gpus: Any


def place(task: PipelineTask, placement: Placement) -> None:
    """Put a task on a pool's nodes, chosen when the run is submitted."""
    kubernetes.add_node_selector_json(task, placement.node_selector)
    kubernetes.add_toleration_json(task, placement.tolerations)
    task.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(placement.gpus)


def harden(task: PipelineTask, profile: Profile) -> None:
    """Time limit, retries and caching of a task.

    Caching is off: a stage finds its own committed outputs in the store, checks them, and returns in seconds, while
    KFP's cache would return a URI without asking whether the weights behind it still exist.
    """
    task.set_caching_options(False)
    kubernetes.set_timeout(task, profile.timeout_hours * 3600)
    if profile.retries:
        # Argo counts the limit from the first attempt's start, so it must cover every attempt.
        budget = profile.timeout_hours * (profile.retries + 1)
        task.set_retry(profile.retries, backoff_duration="30s", backoff_factor=2, backoff_max_duration=f"{budget}h")
