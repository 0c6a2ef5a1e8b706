"""The drivers: pods that make the executions of a run and decide what is played."""

from collections.abc import Callable
from typing import Any, NamedTuple

from tests.backend import expression, pod_config
from tests.backend.metadata import Execution, Metadata
from tests.backend.package import Package, Spec
from tests.backend.plugin import MLflowPlugin
from tests.backend.pod_patch import Patch, make_patch
from tests.backend.resolve import Inputs, Options, resolve_inputs, resolve_parameter
from tests.backend.values import ABSENT, BackendError, items


class Driven(NamedTuple):
    """What a driver leaves.

    Attributes:
        execution: in ML Metadata.
        inputs: of the task.
        patch: of a container's pod.
    """

    execution: Execution
    inputs: Inputs
    patch: Patch | None = None

    @property
    def triggered(self) -> bool:
        return self.execution.state != "CANCELED"


def drive_root(store: Metadata, parameters: dict[str, Any]) -> Driven:
    """The execution of the whole pipeline: driver/root_dag.go:84-170."""
    return Driven(store.create("", None, inputs=parameters), Inputs(parameters, {}))


def drive_dag(store: Metadata, options: Options) -> Driven:
    """The execution of a nested pipeline, a branch, a loop or an iteration: driver/dag.go:43-218.

    Raises:
        BackendError: if its inputs cannot be resolved, its condition evaluated, or its list iterated over.
    """

    def drive() -> Driven:
        inputs = resolve_inputs(store, options)
        triggered = _triggered(options, inputs)
        dag = options.component["dag"]
        count = None
        if triggered and "parameterIterator" in options.task and options.index is None:
            count = len(_iterated(options.task["parameterIterator"], inputs))
        if "artifactIterator" in options.task:
            raise BackendError("ArtifactIterator is not implemented")
        more = {"producers": dag.get("outputs", {}), "tasks": len(dag["tasks"]), "count": count}
        return Driven(_execution(store, options, inputs, triggered, **more), inputs)

    return _told("DAG", options, drive)


def _iterated(iterator: Spec, inputs: Inputs) -> list[Any]:
    """What a loop iterates over; a list in the package itself becomes its input. driver/dag.go:163-203."""
    try:
        if "raw" in iterator["items"]:
            inputs.parameters[iterator["itemInput"]] = items(iterator["items"]["raw"])
            return inputs.parameters[iterator["itemInput"]]
        value = inputs.parameters.get(iterator["items"]["inputParameter"], ABSENT)
        if value is ABSENT:
            raise BackendError("cannot find input parameter")
        return items(value)
    except BackendError as error:
        raise BackendError(f'iterating on item input "{iterator["itemInput"]}" failed: {error}') from None


def drive_container(package: Package, store: Metadata, options: Options, plugin: MLflowPlugin | None) -> Driven:
    """The execution of a container and the patch of its pod: driver/container.go:47-343. Nothing is cached.

    Raises:
        BackendError: if its inputs cannot be resolved, or a field of its pod.
    """

    def drive() -> Driven:
        inputs = resolve_inputs(store, options)
        triggered = _triggered(options, inputs)
        execution = _execution(store, options, inputs, triggered, container=True)
        if not triggered:
            return Driven(execution, inputs)
        plugin_env = plugin.user_env(f"{execution.id:032x}") if plugin else []
        patch = make_patch(options.component, package.container(options.component), inputs, plugin_env)
        asked = package.on_kubernetes(options.component)
        pod_config.extend(patch, asked, lambda spec: resolve_parameter(store, options, spec))
        for name, spec in options.inputs.items():  # driver/container.go:285-335
            if spec["parameterType"] == "TASK_CONFIG":
                inputs.parameters[name] = patch.task_config
        return Driven(execution, inputs, patch)

    return _told("Container", options, drive)


def _triggered(options: Options, inputs: Inputs) -> bool:
    """Whether a task's condition holds: driver/dag.go:84-91, driver/container.go:88-95."""
    condition = options.task.get("triggerPolicy", {}).get("condition")
    return expression.condition(inputs.parameters, condition) if condition else True


def _execution(store: Metadata, options: Options, inputs: Inputs, triggered: bool, **more: Any) -> Execution:
    """Put the execution into ML Metadata: metadata/client.go:638-776,1434-1451."""
    return store.create(
        options.name,
        options.parent,
        options.index,
        state="RUNNING" if triggered else "CANCELED",
        inputs=inputs.parameters,
        input_artifacts={name: [artifact.id for artifact in several] for name, several in inputs.artifacts.items()},
        **more,
    )


def _told(driver: str, options: Options, drive: Callable[[], Driven]) -> Driven:
    """Say in an error which driver it was: driver/driver.go:125-152,710-730."""
    try:
        if not options.task.get("taskInfo", {}).get("name"):
            raise BackendError(f"invalid {driver} driver args: task spec is required")
        return drive()
    except BackendError as error:
        component = options.task["componentRef"]["name"]
        raise BackendError(
            f'driver.{driver}(taskName="{options.name}", component="{component}") failed: {error}'
        ) from error
