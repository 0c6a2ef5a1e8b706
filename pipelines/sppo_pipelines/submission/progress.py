"""Where a run stands: its tasks with iteration and shard, its stages, its gate, and what failed, from its workflow."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from sppo_pipelines.names import GATE_FAILED, GATE_PASSED
from sppo_pipelines.profile import STAGES
from sppo_pipelines.submission.workflow import Node, Workflow

ENDED = {"SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"}
"""States that a run does not leave by itself."""
PLAYED = tuple(name for name in STAGES if name not in {"keep", "finish"})
"""The stages that are shown, in the order of the loop: keep returns its input, and finish tells MLflow the end."""
_STAGES = {**{name: name for name in PLAYED}, "launch": "train"}
"""Which stage a task plays, by its name: over several nodes, training is launched."""
_AT_THE_END = {"publish", "bench"}
_STATES = {"Pending": "PENDING", "Running": "RUNNING", "Succeeded": "SUCCEEDED", "Failed": "FAILED", "Error": "FAILED"}
"""Kubeflow's word for a phase of Argo's; a task that is skipped or omitted is none."""
_ITERATION = re.compile(r"self-play-(\d+)")
_ITEM = re.compile(r"iteration-iterations\((\d+):.*\)")
"""An item of a loop (backend/src/v2/compiler/argocompiler/dag.go, iteratorTask)."""
_OF_A_LOOP = re.compile(r"iteration(-|$)")
"""What a loop is made of, and is named by no person."""
_EXECUTOR, _DRIVER = "executor", "-driver"
"""Inside a task the pod that does the work, and before it the pod that prepares it (dag.go, container.go)."""


class TaskKey(NamedTuple):
    """Which task of the run something is: of an iteration or of the whole run (0), of a shard or of all (None)."""

    name: str
    iteration: int
    shard: int | None

    @property
    def title(self) -> str:
        """Its name, and which iteration's and shard's it is."""
        shard = f", shard {self.shard}" if self.shard is not None else ""
        return f"{_title(self.iteration, self.name)}{shard}"

    @property
    def flags(self) -> str:
        """How `sppo logs` is told to take it."""
        iteration = f" --iteration {self.iteration}" if self.iteration else ""
        shard = f" --shard {self.shard}" if self.shard is not None else ""
        return f"{self.name}{iteration}{shard}"


class Task(NamedTuple):
    """A stage's work on one shard, or on the whole; its pods are the attempts at it."""

    key: TaskKey
    state: str
    started: datetime | None
    ended: datetime | None
    pods: tuple[Node, ...]


class Stage(NamedTuple):
    """One stage of an iteration, or of the whole run (iteration 0), with all its shards."""

    iteration: int
    name: str
    tasks: tuple[Task, ...]

    @property
    def state(self) -> str:
        """The state that needs most attention among the shards."""
        states = {task.state for task in self.tasks}
        return next((s for s in ("FAILED", "CANCELED", "RUNNING", "PENDING") if s in states), self.tasks[0].state)

    @property
    def done(self) -> int:
        """Shards that succeeded."""
        return sum(task.state == "SUCCEEDED" for task in self.tasks)

    @property
    def seconds(self) -> float:
        """From the first shard's start to the last one's end, or to now; 0 before the start."""
        started = [task.started for task in self.tasks if task.started]
        if not started:
            return 0.0
        last = max(task.ended or datetime.now(UTC) for task in self.tasks)
        return max(0.0, (last - min(started)).total_seconds())

    @property
    def title(self) -> str:
        """Its name, and which iteration's it is."""
        return _title(self.iteration, self.name)


def key_of(path: tuple[str, ...]) -> TaskKey:
    """Which task the node at a path belongs to, under the stage's name if it plays one."""
    *groups, name = path[:-1] if path[-1] == _EXECUTOR else path
    iterations = [match for match in map(_ITERATION.fullmatch, groups) if match]
    items = [match for match in map(_ITEM.fullmatch, groups) if match]
    iteration = int(iterations[-1][1]) if iterations else 0
    return TaskKey(_STAGES.get(name, name), iteration, int(items[-1][1]) if items else None)


def tasks(workflow: Workflow) -> list[Task]:
    """The tasks of stages that have begun, in the order of the loop."""
    newest = {node.path: node for node in workflow.nodes if node.first and node.path and node.path[-1] in _STAGES}
    pods: dict[tuple[str, ...], list[Node]] = {}
    for node in workflow.nodes:
        if node.kind == "Pod":
            pods.setdefault(node.path, []).append(node)
    begun = (node for node in newest.values() if node.phase in _STATES)
    found = [_task(node, pods.get((*node.path, _EXECUTOR), []), workflow.terminated) for node in begun]
    return sorted(found, key=lambda task: _order(task.key))


def stages(workflow: Workflow) -> list[Stage]:
    """The stages that have begun, in the order of the loop."""
    found: dict[tuple[int, str], list[Task]] = {}
    for task in tasks(workflow):
        found.setdefault((task.key.iteration, task.key.name), []).append(task)
    return [Stage(iteration, name, tuple(each)) for (iteration, name), each in found.items()]


def gate(workflow: Workflow) -> bool | None:
    """Whether the gate is passed; None as long as the run has not told."""
    ended = {node.path[-1] for node in workflow.nodes if node.first and node.path and node.phase == "Succeeded"}
    told = ended & {GATE_PASSED, GATE_FAILED}
    return told == {GATE_PASSED} if told else None


def failed_pods(workflow: Workflow) -> list[Node]:
    """The pods that a run failed with, one of each task that has no attempt left, in the order in which they ended."""
    pods = [node for node in workflow.nodes if node.kind == "Pod" and node.phase in {"Failed", "Error"}]
    final = [pod for pod in pods if _is_final(workflow, pod)]
    last = {pod.path: pod for pod in final}  # of several attempts the last
    return sorted(last.values(), key=lambda pod: pod.ended or datetime.now(UTC))


def waiting_pods(workflow: Workflow) -> list[Node]:
    """The pods that are to start and have not, also those that prepare a task."""
    return [node for node in workflow.nodes if node.kind == "Pod" and node.phase == "Pending"]


def named(pod: Node) -> str:
    """What a pod does, as people call it."""
    key = key_of(pod.path)
    if not key.name.endswith(_DRIVER):
        return key.title
    prepared = (*pod.path[:-1], key.name.removesuffix(_DRIVER))
    *_, name = (part for part in prepared if not _OF_A_LOOP.match(part))
    return f"the driver of {key._replace(name=name).title}"


def _is_final(workflow: Workflow, pod: Node) -> bool:
    """Whether nothing that the pod is part of was tried again with success, or is now."""
    around = (workflow.at(pod.path[:end]) for end in range(1, len(pod.path) + 1))
    return all(node is None or node.phase in {"Failed", "Error"} for node in around)


def _task(node: Node, pods: Sequence[Node], terminated: bool) -> Task:
    state = _STATES[node.phase]
    if state == "RUNNING" and pods and pods[-1].phase == "Pending":
        state = "PENDING"
    if state == "FAILED" and terminated:
        state = "CANCELED"
    return Task(key_of(node.path), state, node.started, node.ended, tuple(pods))


def _order(key: TaskKey) -> tuple[bool, int, int, int]:
    return key.name in _AT_THE_END, key.iteration, PLAYED.index(key.name), key.shard or 0


def _title(iteration: int, name: str) -> str:
    return f"self-play {iteration} {name}" if iteration else name
