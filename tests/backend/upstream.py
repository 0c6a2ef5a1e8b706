"""Where an input comes from that another task put out: through nested pipelines, branches and loops."""

from typing import Any

from tests.backend.metadata import Artifact, Execution, Metadata
from tests.backend.package import Spec
from tests.backend.values import ABSENT, BackendError

ENDED = {"COMPLETE", "CACHED"}


def parameter(store: Metadata, dag: Execution, source: Spec) -> Any:
    """The value of an output parameter of a task in a DAG: driver/resolve.go:577-694.

    Args:
        store: of the run.
        dag: the DAG of the task that asks.
        source: `taskOutputParameter` of the input.
    """
    key = source["outputParameterKey"]
    tasks, name = store.all_tasks(dag), _indexed(f"{source['producerTask']}_{dag.id}", dag)
    if name not in tasks:
        raise BackendError(f"producer task, {name}, not in tasks")
    while not tasks[name].container:
        current = tasks[name]
        if not _outputs(current, "parameters"):
            raise BackendError(f"task, {current.name}, does not have a parameter_producer_task custom property")
        if _iterations(current):
            return [task.outputs.get(key, ABSENT) for task, key in _collect(name, tasks, key, "parameters")]
        name, key = _producer(current, tasks, name, key, "parameters")
        if name not in tasks:
            raise BackendError(f"subTaskName, {name}, not in tasks")
    return tasks[name].outputs.get(key, ABSENT)


def artifacts(store: Metadata, dag: Execution, source: Spec) -> list[Artifact]:
    """The output artifacts of a task in a DAG: one of a container, one an iteration of a loop.

    driver/resolve.go:700-805.

    Args:
        store: of the run.
        dag: the DAG of the task that asks.
        source: `taskOutputArtifact` of the input.
    """
    key = source["outputArtifactKey"]
    tasks, name = store.all_tasks(dag), _indexed(f"{source['producerTask']}_{dag.id}", dag)
    if name not in tasks:
        raise BackendError(f'cannot find producer task "{name}"')
    while not tasks[name].container:
        if _iterations(tasks[name]):
            return [_output(task, key) for task, key in _collect(name, tasks, key, "artifacts")]
        found = _producer(tasks[name], tasks, name, key, "artifacts")
        if found == (name, key):
            raise BackendError(f"task, {name}, has no output artifacts, and the driver looks for {key} for ever")
        name, key = found
        if name not in tasks:
            raise BackendError(f"subTaskName, {name}, not in tasks")
    return [_output(tasks[name], key)]


def _output(task: Execution, key: str) -> Artifact:
    if key not in task.output_artifacts:
        raise BackendError(f'cannot find output artifact key "{key}" in producer task "{task.name}"')
    return task.output_artifacts[key]


def _outputs(dag: Execution, what: str) -> Spec:
    return dag.producers.get(what, {})


def _indexed(name: str, dag: Execution) -> str:
    """The name of a task of an iteration, which holds the iteration's index: driver/resolve.go:1158-1168."""
    return name if dag.index is None else f"{name}_idx_{dag.index}"


def _iterations(dag: Execution) -> int:
    """The iterations of a loop, or of the loop that a DAG is an iteration of: driver/resolve.go:1171-1180."""
    if dag.count is None and dag.parent is not None:
        return dag.parent.count or 0
    return dag.count or 0


def _producer(dag: Execution, tasks: dict[str, Execution], name: str, key: str, what: str) -> tuple[str, str]:
    """The task in a DAG that an output of the DAG comes from, and the output's name there.

    Of several (`OneOf`) it is the first whose state in ML Metadata is COMPLETE or CACHED. A DAG without outputs gives
    back what was asked. driver/resolve.go:1036-1155.
    """
    outputs = _outputs(dag, what)
    if not outputs:
        return name, key
    if key not in outputs:
        raise BackendError(f'{what} output key "{key}" not found in parent task "{dag.name}" (dag ID {dag.id})')
    spec = outputs[key]
    if what == "artifacts":
        selectors, output = spec.get("artifactSelectors", []), "outputArtifactKey"
        one_of = len(selectors) > 1
    else:
        one_of, output = "valueFromOneof" in spec, "outputParameterKey"
        selectors = spec["valueFromOneof"]["parameterSelectors"] if one_of else [spec["valueFromParameter"]]
    if not one_of:
        return f"{selectors[0]['producerSubtask']}_{dag.id}", selectors[0][output]
    for selector in selectors:
        task = tasks.get(f"{selector['producerSubtask']}_{dag.id}")
        if task is not None and task.state in ENDED:
            return f"{selector['producerSubtask']}_{dag.id}", selector[output]
    raise BackendError(
        f'processing OneOf: No successful task found for output key "{key}" in parent task "{dag.name}" '
        f"(dag ID {dag.id})"
    )


def _collect(loop: str, tasks: dict[str, Execution], key: str, what: str) -> list[tuple[Execution, str]]:
    """The containers that an output of a loop comes from, one an iteration, and its name there.

    A walk in breadth with one key for all that lie beside one another: driver/resolve.go:869-996.
    """
    found: list[tuple[Execution, str]] = []
    queue, subtask, previous_key, previous_name = [loop], "", key, tasks[loop].name
    while queue:
        name = queue.pop(0)
        if name not in tasks:
            raise BackendError(f"task {name} of the loop {loop} has no execution")
        current = tasks[name]
        if current.name == previous_name:
            key = previous_key
        previous_name, previous_key = current.name, key
        subtask, key = _producer(current, tasks, subtask, key, what)
        if current.container:
            found.append((current, key))
        elif current.count is not None:
            queue += [f"{current.name}_{current.id}_idx_{index}" for index in range(current.count)]
        else:
            queue.append(_indexed(subtask, current))
    return found
