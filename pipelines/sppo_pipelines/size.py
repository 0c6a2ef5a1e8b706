"""How large a run can be: Argo keeps all of a workflow in one object of Kubernetes, and gives up at 1 MiB.

What counts is the workflow's specification and the compressed status of its nodes (`workflow/packer/packer.go` of Argo
4.0.8). Kubeflow Pipelines makes the specification of a package, and a node of each template that it plays.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from google.protobuf.json_format import MessageToDict

from sppo.errors import ConfigError

TEMPLATE = 2
"""Nodes of a template that is played: an attempt and the retries around it, which Kubeflow's ConfigMap asks for."""
NODE_BYTES = 900
"""Bytes of a node, compressed and in base64: 833 were seen, of 135 nodes, with a little to spare."""
SPECIFICATION = 1.75
"""Size of a workflow's specification, as a multiple of the package's as compact JSON: 1.68 was seen, of 97 KB."""

Json = dict[str, Any]


class Nodes(NamedTuple):
    """Nodes of Argo in a run that takes every branch."""

    fixed: int
    """Whatever the number of shards."""
    shard: int = 0
    """More for each shard, in all iterations together."""
    loops: int = 0
    """Iterations that have shards."""


def nodes(specification: Json) -> Nodes:
    """How many nodes a run has (`backend/src/v2/compiler/argocompiler/dag.go`).

    Args:
        specification: a pipeline's specification, as in a package.
    """
    fixed, shard, loops = _of_dag(specification, specification["root"])
    return Nodes(fixed + 2 * TEMPLATE, shard, loops)  # the entrypoint, and the driver of the root


def _of_dag(specification: Json, component: Json) -> Nodes:
    fixed, shard, loops = TEMPLATE, 0, 0
    for task in component["dag"]["tasks"].values():
        inner = specification["components"][task["componentRef"]["name"]]
        # Behind its driver stands what it drives: a pipeline, or the executor's template around the pod's.
        below = _of_dag(specification, inner) if "dag" in inner else Nodes(2 * TEMPLATE)
        if task.get("triggerPolicy", {}).get("strategy") == "ALL_UPSTREAM_TASKS_COMPLETED":
            fixed += TEMPLATE  # an exit task has a template of its own around it
        if "parameterIterator" in task:
            # The loop, its driver, and the group of its items; an item is a template around driver and driven.
            fixed, shard, loops = fixed + 2 * TEMPLATE + 1, shard + 2 * TEMPLATE + below.fixed, loops + 1
        else:
            fixed, shard, loops = fixed + TEMPLATE + below.fixed, shard + below.shard, loops + below.loops
    return Nodes(fixed, shard, loops)


def shard_iterations(pipeline: Any, limit: int) -> int:
    """How many shards times iterations fit into one workflow.

    Args:
        pipeline: the pipeline, as `make_pipeline` gives it.
        limit: bytes that Argo lets a workflow have.

    Raises:
        ConfigError: if not even one shard fits.
    """
    parts = MessageToDict(pipeline.pipeline_spec), MessageToDict(pipeline.platform_spec)
    compact = sum(len(json.dumps(part, separators=(",", ":"))) for part in parts)
    fixed, shard, loops = nodes(parts[0])
    left = limit - int(SPECIFICATION * compact) - fixed * NODE_BYTES
    most = left * loops // (shard * NODE_BYTES)
    if most < loops:
        raise ConfigError(
            f"max_iterations: a workflow of {loops} iterations is larger than the {limit} bytes that Argo lets it "
            "have; compile fewer, or raise Argo's limit and workflow_bytes in the profile"
        )
    return most
