"""Workflows of the pipeline, as Argo 4 tells them and Kubeflow Pipelines 2.17 hands them on.

Names, types and phases are those that these make: Kubeflow's backend/src/v2/compiler/argocompiler/{dag,container}.go
(each task after a driver; a task that is a pod is a group with an `executor`; a loop is `iteration-iterations(i:i)`),
Argo's workflow/controller/{dag,operator}.go (what is in a group is named after it with a dot, what has a retry strategy
is a Retry with attempts `(0)`, `(1)`), workflow/util/pod_name.go and workflow/packer/packer.go. Kubeflow's ConfigMap
(manifests/kustomize/third-party/argo/base/workflow-controller-configmap-patch.yaml) gives everything a retry strategy.
What an exit handler plays is named after the task that it handles, without its attempt (Argo's GenerateOnExitNodeName).
"""

import base64
import gzip
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

NAME = "sppo-x7k2p"
NAMESPACE = "team"
HOUR = datetime(2026, 1, 1, tzinfo=UTC)
RUN = ("root", "run")
"""The groups that everything is in."""
TEMPLATE = "metadata-0-1-retry-system-container-impl"
"""Of a pod with a label and retries."""
RUNNING, BAD = {"Running", "Pending"}, {"Failed", "Error"}


class Task(NamedTuple):
    """A task that is a pod: the groups that it is in and its name, how it stands, and its attempts' pods.

    `kind` is also Driver, which stands for the driver before the task, and Skipped.
    """

    path: tuple[str, ...]
    phase: str
    start: int
    end: int
    messages: tuple[str, ...]
    kind: str = "Pod"


def task(
    name: str,
    phase: str = "Succeeded",
    start: int = 0,
    end: int = 0,
    iteration: int = 0,
    shard: int | None = None,
    messages: Sequence[str] = ("",),
) -> Task:
    """A task of the pipeline.

    Args:
        name: its name there, such as generate.
        phase: Argo's word for its state; with `messages` for several attempts, that of the last one.
        start: seconds after the hour.
        end: the same; 0 before its end.
        iteration: which iteration it is of.
        shard: which shard.
        messages: what Argo says of each attempt.
    """
    groups = list(RUN)
    if iteration:
        later = [f"continue-after-{number}" for number in range(1, iteration)]
        groups += ["iterations", *later, f"self-play-{iteration}"]
    elif name == "bench":
        groups.append("benchmarks")
    elif name == "finish":
        groups.append("onExit")
    if shard is not None:
        groups += ["shards", f"iteration-iterations({shard}:{shard})", "iteration-item"]
    return Task((*groups, name), phase, start, end, tuple(messages))


def driver(*path: str, message: str) -> Task:
    """A driver that failed."""
    return Task(path, "Failed", 0, 1, (message,), "Driver")


def skipped(*path: str) -> Task:
    """A group that is not played."""
    return Task(path, "Skipped", 0, 0, ("when 'false != false' evaluated false",), "Skipped")


def gate(passed: bool, start: int = 0, end: int = 0) -> tuple[Task, ...]:
    """The two branches that a run ends in, one of which is played, and then the exit task."""
    taken, other = ("gate-passed", "gate-failed") if passed else ("gate-failed", "gate-passed")
    kept = Task((*RUN, taken, "keep"), "Succeeded", start, end, ("",))
    return kept, skipped(*RUN, other), task("finish", start=end, end=end + 1)


def manifest(
    *tasks: Task,
    compressed: bool = False,
    retried: bool = True,
    terminated: bool = False,
    message: str = "",
    padding: int = 0,
    pod_names: str = "v2",
) -> dict[str, Any]:
    """A workflow.

    Args:
        tasks: what it has played until now.
        compressed: whether its nodes are, as in a workflow above 1 MiB.
        retried: whether everything has a retry strategy, as with Kubeflow's own ConfigMap.
        terminated: whether somebody ended it.
        message: what Argo says of it as a whole.
        padding: bytes of inputs that every pod has besides.
        pod_names: Argo's version of them.
    """
    nodes = _Nodes(retried, padding)
    for each in tasks:
        nodes.add(each)
    by_id = {node["id"]: node for node in nodes.all()}
    text = json.dumps(by_id)
    packed = {"compressedNodes": base64.b64encode(gzip.compress(text.encode())).decode()}
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "metadata": {
            "name": NAME,
            "namespace": NAMESPACE,
            "creationTimestamp": _time(0),
            "annotations": {"workflows.argoproj.io/pod-name-format": pod_names},
        },
        "spec": {"entrypoint": "entrypoint", **({"activeDeadlineSeconds": 0} if terminated else {})},
        "status": {
            "phase": _phase(node["phase"] for node in by_id.values()),
            "message": message,
            **(packed if compressed else {"nodes": by_id}),
        },
    }


def node_id(name: str) -> str:
    """The id of a node (pkg/apis/workflow/v1alpha1/workflow_types.go, NodeID): a hash of its name, FNV-1a."""
    value = 0x811C9DC5
    for byte in name.encode():
        value = (value ^ byte) * 0x01000193 % 2**32
    return f"{NAME}-{value}"


def pod_name(each: Task, attempt: int = 0) -> str:
    """The name of a task's pod."""
    name, template = _pod(each)
    return f"{NAME}-{template}-{node_id(f'{name}({attempt})').rpartition('-')[2]}"


def pod_id(each: Task) -> str:
    """The id of the node of a task's first pod."""
    return node_id(f"{_pod(each)[0]}(0)")


def _pod(each: Task) -> tuple[str, str]:
    """The name of the node that holds all attempts at a task's pod, and their template."""
    *groups, last = each.path
    around = f"{NAME}(0)"
    for part in groups:
        around = f"{_within(around, part)}(0)"
    if each.kind == "Driver":
        return f"{_within(around, last)}-driver", "system-dag-driver"
    return f"{_within(around, last)}(0).executor", TEMPLATE


def _within(group: str, part: str) -> str:
    return f"{group.removesuffix('(0)') if part == 'onExit' else group}.{part}"


class _Nodes:
    """Nodes by name, with the groups that they are in."""

    def __init__(self, retried: bool, padding: int) -> None:
        self.retried, self.padding = retried, padding
        self.nodes: dict[str, dict[str, Any]] = {}
        self.groups: list[str] = []
        self._group(NAME, 0)

    def all(self) -> list[dict[str, Any]]:
        """The nodes; a group stands as what is in it does."""
        for name in reversed(self.groups):
            inside = [node for other, node in self.nodes.items() if other.startswith((f"{name}.", f"{name}("))]
            phase = _phase(node["phase"] for node in inside)
            ended = max((node["finishedAt"] for node in inside if node["finishedAt"]), default=None)
            self.nodes[name] |= {"phase": phase, "finishedAt": None if phase in RUNNING else ended}
        return list(self.nodes.values())

    def add(self, each: Task) -> None:
        """A task, and the groups and drivers before it that are not there yet."""
        name = self._inside(NAME)
        for number, part in enumerate(each.path):
            last = number == len(each.path) - 1
            if last and each.kind == "Driver":
                self._pods(*_pod(each), each.phase, each.start, each.end, each.messages)
                return
            name = _within(name, part)
            if not part.startswith(("iteration-iterations", "shards", "onExit")):
                self._pods(f"{name}-driver", "system-container-driver", "Succeeded", each.start, each.start)
            if last and each.kind == "Skipped":
                self._node(name, "Skipped", "", each.phase, each.start, each.start, each.messages[0])
                return
            self._group(name, each.start)
            name = self._inside(name)
        self._pods(f"{name}.executor", TEMPLATE, each.phase, each.start, each.end, each.messages)

    def _inside(self, group: str) -> str:
        return f"{group}(0)" if self.retried else group

    def _group(self, name: str, start: int) -> None:
        if name in self.nodes:
            return
        for each, kind in [(name, "Retry"), (f"{name}(0)", "DAG")] if self.retried else [(name, "DAG")]:
            self._node(each, kind, "", "Running", start, 0)
            self.groups.append(each)

    def _pods(
        self, name: str, template: str, phase: str, start: int, end: int, messages: Sequence[str] = ("",)
    ) -> None:
        if name in self.nodes:
            return
        if not self.retried:
            self._node(name, "Pod", template, phase, start, end, messages[-1])
            return
        self._node(name, "Retry", template, "Running" if phase == "Pending" else phase, start, end, messages[-1])
        for attempt, message in enumerate(messages):
            last = attempt == len(messages) - 1
            self._node(
                f"{name}({attempt})",
                "Pod",
                template,
                phase if last else "Failed",
                start + attempt,
                end if last else start + attempt,
                message,
            )

    def _node(self, name: str, kind: str, template: str, phase: str, start: int, end: int, message: str = "") -> None:
        self.nodes[name] = {
            "id": NAME if name == NAME else node_id(name),
            "name": name,
            "displayName": name.rpartition(".")[2],
            "type": kind,
            **({"templateName": template} if template else {}),
            "phase": phase,
            **({"message": message} if message else {}),
            "startedAt": _time(start),
            "finishedAt": _time(end) if end else None,
            **(
                {"inputs": {"parameters": [{"name": "component", "value": "x" * self.padding}]}}
                if kind == "Pod"
                else {}
            ),
        }


def _phase(phases: Any) -> str:
    found = set(phases)
    return "Running" if found & RUNNING else "Failed" if found & BAD else "Succeeded"


def _time(seconds: int) -> str:
    return f"{HOUR + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%SZ}"


def stage_log(*lines: str, code: int) -> str:
    """The log of a stage's pod: the launcher's words (glog), the stage's own, and how the launcher and Argo end it.

    backend/src/v2/component/launcher_v2.go (execute, Execute) and cmd/launcher-v2/main.go;
    cmd/argoexec/commands/emissary.go of Argo.
    """
    when = "0101 00:00:09.000001      31"
    begun, published = (
        f"I{when} main.go:139] Setting log level to: '1'",
        f"I{when} launcher_v2.go:206] publish success.",
    )
    if not code:
        return "\n".join([begun, *lines, published, ""])
    ended = [
        f"E{when} launcher_v2.go:449] Component failed to execute successfully: exit status {code}",
        published,
        f"F{when} main.go:91] failed to execute component: exit status {code}",
        'time=2026-01-01T00:00:09.100Z level=INFO msg="sub-process exited" argo=true error="exit status 1"',
    ]
    return "\n".join([begun, *lines, *ended, ""])
