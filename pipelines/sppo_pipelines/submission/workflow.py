"""The workflow behind a run, as Argo Workflows tells it: every node, with its place, its state and its reason.

Kubeflow's own list of a run's tasks names no parents and no reasons, and ends where Argo compresses the nodes (Kubeflow
Pipelines 2.17, backend/src/apiserver/server/report_server.go:53). The manifest always has all of them.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import zlib
from datetime import UTC, datetime
from typing import NamedTuple

from sppo.errors import InfrastructureError
from sppo_pipelines.submission.client import Json

LARGEST = 1_572_864
"""Bytes of an object that etcd takes: its default, 1.5 MiB."""
_ATTEMPT = re.compile(r"\(\d+\)$")
"""What Argo appends to the name of each attempt at a node; an item of a loop has `(index:item)`."""
_NEVER = datetime.max.replace(tzinfo=UTC)
_KEPT = {"Succeeded", "Skipped"}
_REOPENED = {"Failed", "Error", "Omitted"}


class Node(NamedTuple):
    """One node: a group of tasks, all attempts at a task, or one pod.

    `path` names what the node is in, from the outside, and ends with its own name; all attempts have the same. `first`
    is false for an attempt, whose attempts together are a node of their own.
    """

    id: str
    path: tuple[str, ...]
    first: bool
    kind: str
    phase: str
    message: str
    started: datetime | None
    ended: datetime | None
    pod: str


class Workflow(NamedTuple):
    """A workflow, its nodes in the order in which they began; empty before Argo has taken it up.

    `pipeline` is the name of what it plays, and `terminated` says whether somebody ended it.
    """

    name: str = ""
    pipeline: str = ""
    namespace: str = ""
    created: str = ""
    terminated: bool = False
    message: str = ""
    nodes: tuple[Node, ...] = ()
    manifest: Json = {}  # noqa: RUF012

    def at(self, path: tuple[str, ...]) -> Node | None:
        """The node at a path, with all attempts at it; the newest where a group around it was tried again."""
        return next((node for node in reversed(self.nodes) if node.first and node.path == path), None)

    def can_be_retried(self) -> bool:
        """Whether Kubeflow can write what it writes to retry it: its nodes uncompressed, without the tasks that failed.

        backend/src/common/util/workflow.go, GenerateRetryExecution. Where it cannot, it answers 500, every time
        (https://github.com/kubeflow/pipelines/issues/13738).
        """
        status = self.manifest.get("status", {})
        kept = {
            key: node
            for key, node in status.get("nodes", {}).items()
            if (node.get("phase") in _KEPT or (node.get("phase") in _REOPENED and node["type"] == "DAG"))
            and not node["name"].startswith(f"{self.name}.onExit")
        }
        written = {**self.manifest, "status": {**status, "nodes": kept}}
        size = len(json.dumps(written, separators=(",", ":"), ensure_ascii=False).encode())
        return size <= LARGEST


def read(text: str) -> Workflow:
    """The workflow of a manifest, whose nodes are plain or compressed (Argo 4, workflow/packer/packer.go).

    Raises:
        InfrastructureError: if it is no such manifest.
    """
    if not text:
        return Workflow()
    try:
        manifest = json.loads(text)
        metadata, status = manifest["metadata"], manifest.setdefault("status", {})
        specification = manifest.get("spec", {})
        packed = status.pop("compressedNodes", "")
        if packed:
            status["nodes"] = json.loads(gzip.decompress(base64.b64decode(packed)))
        nodes = [_node(node, metadata) for node in status.setdefault("nodes", {}).values()]
        return Workflow(
            metadata["name"],
            # Kubeflow has a workflow named after its pipeline (backend/src/v2/compiler/argocompiler/argo.go:162).
            metadata.get("generateName", "").removesuffix("-"),
            metadata.get("namespace", ""),
            metadata.get("creationTimestamp") or "",
            # Kubeflow terminates a run by a deadline of 0, which a retry takes away (IsTerminating and
            # GenerateRetryExecution in backend/src/common/util/workflow.go); `argo stop` sets how to shut down.
            specification.get("activeDeadlineSeconds") == 0 or bool(specification.get("shutdown")),
            status.get("message", ""),
            tuple(sorted(nodes, key=lambda node: (node.started or _NEVER, len(node.path)))),
            manifest,
        )
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, OSError, zlib.error) as error:
        raise InfrastructureError(f"the run's workflow manifest cannot be read ({type(error).__name__})") from None


def _node(node: Json, metadata: Json) -> Node:
    # The workflow's own name comes first, and then what each node is in.
    _, *parts = node["name"].removeprefix(metadata["name"]).split(".")
    path = tuple(_ATTEMPT.sub("", part) for part in parts)
    return Node(
        node["id"],
        path,
        not parts or parts[-1] == path[-1],
        node["type"],
        node.get("phase", ""),
        node.get("message", ""),
        _time(node.get("startedAt")),
        _time(node.get("finishedAt")),
        _pod_name(node, metadata),
    )


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _pod_name(node: Json, metadata: Json) -> str:
    """The name of a node's pod (Argo 4, workflow/util/pod_name.go)."""
    annotations = metadata.get("annotations") or {}
    if annotations.get("workflows.argoproj.io/pod-name-format") == "v1":
        return str(node["id"])
    prefix = "-".join(filter(None, (metadata["name"], node.get("templateName"))))
    return f"{prefix[:242]}-{node['id'].rpartition('-')[2]}"
