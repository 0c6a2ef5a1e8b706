"""What a run costs Argo on the cluster: its nodes, its size, and the drivers in a row between two stages."""

import base64
import gzip
from functools import cache
from typing import Any, NamedTuple

from sppo_pipelines.submission.progress import key_of
from sppo_pipelines.submission.workflow import Node, Workflow

from tests.backend.values import as_json

Json = dict[str, Any]


class Size(NamedTuple):
    """Bytes of a workflow, as Argo counts them (Argo 4.0.8, workflow/packer/packer.go).

    Attributes:
        nodes: how many there are; each further attempt at one is one more.
        again: how many of them are further attempts.
        specification: bytes without the nodes.
        plain: bytes of the nodes.
        packed: bytes of the nodes compressed.
    """

    nodes: int
    again: int
    specification: int
    plain: int
    packed: int

    @property
    def whole(self) -> int:
        """Bytes that must be within Argo's limit: with compressed nodes, as it has them once they are too many."""
        return self.specification + self.packed


def size_of(workflow: Workflow) -> Size:
    """The size of a run's workflow."""
    nodes = workflow.manifest["status"]["nodes"]
    status = {name: value for name, value in workflow.manifest["status"].items() if name != "nodes"}
    text = as_json(nodes).encode()
    return Size(
        len(nodes),
        sum(not node.first and not node_name(nodes, node).endswith("(0)") for node in workflow.nodes),
        len(as_json({**workflow.manifest, "status": status}).encode()),
        len(text),
        len(base64.b64encode(gzip.compress(text))),
    )


def node_name(nodes: Json, node: Node) -> str:
    """A node's name, with the number of the attempt."""
    return str(nodes[node.id]["name"])


def drivers_between(workflow: Workflow, earlier: str, later: str) -> int:
    """The drivers in a row for which a stage waits after another one has ended; the most that a pod of it waits for.

    Argo notes what began because of a node as its `children`: what is in a group, and what comes after it. What comes
    after a group waits for the stage in it that ends last.

    Args:
        workflow: of a run that was played.
        earlier: name of a task.
        later: name of a task.

    Raises:
        ValueError: if no pod of the later one waits for one of the earlier one.
    """
    nodes = {node.id: node for node in workflow.nodes}
    told = workflow.manifest["status"]["nodes"]
    names = {key: str(each["name"]) for key, each in told.items()}
    parents: dict[str, list[str]] = {}
    for each in told.values():
        for child in each.get("children") or []:
            parents.setdefault(child, []).append(each["id"])
    stages = sorted((node for node in nodes.values() if _is_stage(node) and node.ended), key=lambda node: node.ended)

    def last_stage(group: str) -> str:
        inside = [node for node in stages if node.id == group or names[node.id].startswith(f"{names[group]}.")]
        return key_of(inside[-1].path).name if inside else ""

    @cache
    def longest(node: str) -> int | None:
        """Drivers from the end of an earlier stage to a node's beginning; None if none leads there."""
        rows = []
        for parent in parents.get(node, []):
            is_driver = _is_driver(nodes[parent])
            if is_driver or names[node].startswith((f"{names[parent]}.", f"{names[parent]}(")):
                row = longest(parent)
                rows += [] if row is None else [row + is_driver]
            elif last_stage(parent) == earlier:
                rows.append(0)
        return max(rows, default=None)

    found = [longest(node.id) for node in stages if key_of(node.path).name == later]
    rows = [row for row in found if row is not None]
    if not rows:
        raise ValueError(f"no {later} waits for a {earlier}")
    return max(rows)


def _is_stage(node: Node) -> bool:
    return node.kind == "Pod" and node.path[-1] == "executor"


def _is_driver(node: Node) -> bool:
    return node.kind == "Pod" and node.path[-1].endswith("-driver")
