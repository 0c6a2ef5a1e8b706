"""Argo: which tasks of a workflow run, in which order, and the nodes that it keeps of them."""

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from tests.backend.values import BackendError


@dataclass(frozen=True, eq=False)
class Node:
    """One entry of a workflow's status.

    Attributes:
        name: with those of the nodes around it.
        kind: Pod, DAG, Retry, TaskGroup or Skipped.
        phase: Succeeded, or of what did not run, Skipped or Omitted.
        after: the nodes that it is a child of.
        round: when it was made.
        role: of a pod, "driver" or the name of its stage.
    """

    name: str
    kind: str
    phase: str
    after: tuple["Node", ...]
    round: int
    role: str = ""


class Step(NamedTuple):
    """A template that is a pod: its role, what happens in it, and the rounds that this takes."""

    role: str
    work: Callable[[], None]
    rounds: int = 1


class Dag(NamedTuple):
    """A template that is a DAG, whose tasks are known when it starts."""

    tasks: Callable[[], list["Task"]]


class Task(NamedTuple):
    """A task of a DAG.

    Attributes:
        name: within the DAG.
        template: what it runs; of a sequence, what the item of that number runs.
        depends: tasks that must have succeeded: argocompiler/dag.go:713-726.
        when: whether it runs, asked when it would start.
        count: the length of its sequence; None for a task that is none.
        on_exit: what runs when it has ended.
    """

    name: str
    template: Any
    depends: Iterable[str] = ()
    when: Callable[[], bool] | None = None
    count: Callable[[], int] | None = None
    on_exit: Dag | None = None


class Ended(NamedTuple):
    """How a task ended, and the nodes that what depends on it are children of."""

    succeeded: bool
    outbound: list[Node]


Play = Generator[None, None, Ended]
"""Something that runs; each step of it is one round, in which all that runs beside it makes a step too."""


class Workflow:
    """The nodes of a workflow that runs on Kubeflow's own configuration of Argo."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._round = 0

    def run(self, name: str, entrypoint: Dag) -> None:
        """Run it to its end."""
        for _ in self.execute(name, entrypoint):
            self._round += 1

    def _add(self, name: str, kind: str, after: Iterable[Node], phase: str = "Succeeded", role: str = "") -> Node:
        node = Node(name, kind, phase, tuple(after), self._round, role)
        self.nodes.append(node)
        return node

    def execute(self, name: str, template: Step | Dag, after: Iterable[Node] = ()) -> Play:
        """Run a template: argo/operator.go:2106-2480.

        Kubeflow's templateDefaults give every template a retryStrategy, DAGs too (:4481-4524), and what has one is a
        Retry node with a child for each attempt (:2327-2396).
        """
        retry = self._add(name, "Retry", after)
        name = f"{name}(0)"
        if isinstance(template, Step):
            pod = self._add(name, "Pod", [retry], role=template.role)
            for _ in range(template.rounds):
                yield
            try:
                template.work()
            except BackendError as error:
                raise BackendError(f"{name}: {error}") from error
            return Ended(True, [pod])
        dag = self._add(name, "DAG", [retry])
        return (yield from self._dag(name, template.tasks(), [dag]))

    def _dag(self, name: str, tasks: list[Task], after: list[Node]) -> Play:
        """Run the tasks of a DAG; it succeeds though some are skipped or omitted: argo/dag.go:139-245,467-714."""
        ended: dict[str, Ended] = {}
        running: dict[str, Play] = {}
        while True:
            for task in tasks:
                if task.name not in {*running, *ended} and all(each in ended for each in task.depends):
                    before = [ended[each] for each in task.depends]
                    parents = [node for each in before for node in each.outbound] or after
                    skipped = self._skipped(f"{name}.{task.name}", task, before, parents)
                    if skipped is not None:
                        ended[task.name] = skipped
                    else:
                        running[task.name] = self._task(name, task, parents)
            for each, play in list(running.items()):
                try:
                    next(play)
                except StopIteration as end:
                    ended[each] = end.value
                    del running[each]
            if len(ended) == len(tasks):
                break
            yield
        leaves = {task.name for task in tasks} - {each for task in tasks for each in task.depends}
        return Ended(True, [node for each in sorted(leaves) for node in ended[each].outbound])

    def _skipped(self, name: str, task: Task, before: list[Ended], parents: list[Node]) -> Ended | None:
        """The node of a task that does not run.

        It is omitted if a task did not succeed that it depends on (argo/dag.go:595-600), and skipped if `when` is
        false (:654-662) or its sequence is empty (:633-638).
        """
        if not all(each.succeeded for each in before):
            phase = "Omitted"
        elif (task.when is not None and not task.when()) or (task.count is not None and not task.count()):
            phase = "Skipped"
        else:
            return None
        return Ended(False, [self._add(name, "Skipped", parents, phase)])

    def _task(self, dag: str, task: Task, parents: list[Node]) -> Play:
        """Run a task: a sequence is a TaskGroup with its items below it (argo/dag.go:630-713)."""
        name = f"{dag}.{task.name}"
        if task.count is None:
            ended = yield from self.execute(name, task.template, parents)
        else:
            group = self._add(name, "TaskGroup", parents)
            items = [Task(f"{task.name}({index}:{index})", task.template(index)) for index in range(task.count())]
            ended = yield from self._dag(dag, items, [group])
        if task.on_exit is not None:  # argo/dag.go:693-697
            yield from self.execute(f"{name}.onExit", task.on_exit, ended.outbound)
        return ended
