"""ML Metadata: the executions of a run, what they took in and put out, and their states."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.backend.package import Spec
from tests.backend.values import BackendError


@dataclass(frozen=True)
class Artifact:
    """Something that a container put out."""

    id: int
    uri: str


@dataclass
class Execution:
    """A DAG or a container of a run: metadata/client.go:638-776.

    Attributes:
        name: of its task, empty for the root.
        path: its place in the run, as `self-play/for-loop-1/[0]/generate`.
        container: whether it is a container; else it is a DAG.
        state: RUNNING, COMPLETE, or CANCELED, which is a condition that did not hold (:659-665).
        inputs: parameters.
        input_artifacts: ids by name.
        producers: of a DAG, the tasks that its output parameters and artifacts come from.
        tasks: of a DAG, how many it holds; None for the root (root_dag.go does not count them).
        index: of an iteration.
        count: of a loop, its iterations.
    """

    id: int
    name: str
    path: str
    parent: "Execution | None"
    container: bool = False
    state: str = "RUNNING"
    inputs: dict[str, Any] = field(default_factory=dict)
    input_artifacts: dict[str, list[int]] = field(default_factory=dict)
    outputs: dict[str, Any] = field(default_factory=dict)
    output_artifacts: dict[str, Artifact] = field(default_factory=dict)
    producers: Spec = field(default_factory=dict)
    tasks: int | None = None
    index: int | None = None
    count: int | None = None


class Metadata:
    """The executions of one run."""

    def __init__(self) -> None:
        self.executions: list[Execution] = []
        self._artifacts: dict[int, Artifact] = {}
        self._children: dict[int, list[Execution]] = defaultdict(list)

    def create(self, name: str, parent: Execution | None, index: int | None = None, **more: Any) -> Execution:
        """Put an execution into the store."""
        if parent is None:
            path = ""
        elif index is not None:  # an iteration is a child of its loop, and has its task's name
            path = f"{parent.path}/[{index}]"
        else:
            path = f"{parent.path}/{name}".removeprefix("/")
        execution = Execution(len(self.executions) + 1, name, path, parent, index=index, **more)
        self.executions.append(execution)
        if parent is not None:
            self._children[parent.id].append(execution)
        return execution

    def add_artifact(self, uri: str) -> Artifact:
        """Put an artifact into the store."""
        artifact = Artifact(len(self._artifacts) + 1, uri)
        self._artifacts[artifact.id] = artifact
        return artifact

    def input_artifacts(self, execution: Execution) -> dict[str, list[Artifact]]:
        """The artifacts that a DAG was given: metadata/client.go:1150-1192.

        A name has one artifact, the last of a list, and an artifact has one name, the last it came under.
        """
        names = {each: name for name, ids in execution.input_artifacts.items() for each in ids}
        return {name: [self._artifacts[each]] for each, name in names.items()}

    def tasks(self, dag: Execution) -> dict[str, Execution]:
        """The executions in a DAG by unique names: metadata/client.go:983-1076."""
        found: dict[str, Execution] = {}
        for child in self._children[dag.id]:
            name = f"{child.name}_{dag.id}"
            index = child.index if child.index is not None else dag.index
            name = name if index is None else f"{name}_idx_{index}"
            if name in found:
                raise BackendError(f'two tasks have the same task name "{name}", id1={found[name].id} id2={child.id}')
            found[name] = child
        return found

    def all_tasks(self, dag: Execution) -> dict[str, Execution]:
        """The executions in a DAG and in all below it, by unique names: driver/resolve.go:62-100."""
        found = self.tasks(dag)
        for child in [child for child in found.values() if not child.container]:
            found = {**found, **self.all_tasks(child)}
        return found

    def update_states(self, dag: Execution) -> None:
        """Complete a DAG when as many of its tasks have ended as it holds, and so upwards: metadata/client.go:800-878.

        Only a container that ends has this asked (component/launcher_v2.go:220-230), so a DAG whose last event is a
        condition that does not hold, or that holds a task which was never started, stays RUNNING.
        """
        expected = dag.count if dag.count is not None else dag.tasks
        if expected is None:
            return
        ended = [task for task in self.tasks(dag).values() if task.state in {"COMPLETE", "CACHED", "CANCELED"}]
        if len(ended) == expected:
            dag.state = "COMPLETE"
            if dag.parent is not None:
                self.update_states(dag.parent)


def groups(executions: list[Execution]) -> Mapping[str, str]:
    """The state of each DAG that the UI shows as a group, by path."""
    return {each.path: each.state for each in executions if not each.container and each.parent is not None}
