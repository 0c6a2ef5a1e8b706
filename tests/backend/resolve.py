"""What a driver resolves for its task: parameters and artifacts, of a DAG, an iteration or a container."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from tests.backend import expression, upstream
from tests.backend.metadata import Artifact, Execution, Metadata
from tests.backend.package import Spec
from tests.backend.values import ABSENT, CONVERTED, BackendError, NotPlayedError, as_text, check_literals, items, kind


class NullParameterError(BackendError):
    """An input that is an optional parameter of the pipeline without a value: driver/resolve.go:35."""


class RunNames(NamedTuple):
    """What a run is called: driver/driver.go:42,62-65."""

    id: str = "5f1e8a6e-6f0a-4f38-9d3c-0d8c5a0f7f3b"
    name: str = "sppo-x7k2p"
    display_name: str = "sppo"


class Options(NamedTuple):
    """What a driver is started with: driver/driver.go:38-111.

    Attributes:
        name: the task's name, of an iteration its loop's.
        task: its specification.
        component: that of its component.
        parent: the execution of the DAG that holds it.
        index: of an iteration.
        run: the run's names.
    """

    name: str
    task: Spec
    component: Spec
    parent: Execution
    index: int | None = None
    run: RunNames = RunNames()

    @property
    def inputs(self) -> Mapping[str, Spec]:
        """The parameters that the component takes."""
        return self.component.get("inputDefinitions", {}).get("parameters", {})


class Inputs(NamedTuple):
    """What a task gets."""

    parameters: dict[str, Any]
    artifacts: dict[str, list[Artifact]]


def resolve_inputs(store: Metadata, options: Options) -> Inputs:
    """The inputs of a task: driver/resolve.go:102-369.

    Raises:
        BackendError: for an input that its DAG does not have, that no task put out, or of another type.
    """
    try:
        null: set[str] = set()
        if options.index is not None:
            inputs = _of_iteration(store, options)
        else:
            inputs, null = _of_task(store, options)
        _select(options.task, inputs.parameters)
        _convert(options, inputs.parameters, null)
    except BackendError as error:
        raise BackendError(f"failed to resolve inputs: {error}") from error
    return inputs


def _of_iteration(store: Metadata, options: Options) -> Inputs:
    """An iteration gets what its loop got, but in place of the list the item: driver/resolve.go:268-303."""
    parameters = dict(options.parent.inputs)
    iterator = options.task["parameterIterator"]
    looped_over = iterator["items"].get("inputParameter") or iterator["itemInput"]
    values = items(parameters.get(looped_over, ABSENT))
    if options.index is None or options.index >= len(values):
        raise BackendError(f"bug: {len(values)} items found, but getting index {options.index}")
    del parameters[looped_over]
    parameters[iterator["itemInput"]] = values[options.index]
    return Inputs(parameters, store.input_artifacts(options.parent))


def _of_task(store: Metadata, options: Options) -> tuple[Inputs, set[str]]:
    """The inputs of a DAG or a container, and which the driver set to null: driver/resolve.go:304-368."""
    parameters: dict[str, Any] = {}
    null: set[str] = set()
    given = options.task.get("inputs", {}).get("parameters", {})
    if "dag" in options.component:
        for name, spec in options.inputs.items():
            if name not in given and spec.get("isOptional"):
                parameters[name] = spec.get("defaultValue")
                if "defaultValue" not in spec:
                    null.add(name)
    for name, spec in given.items():
        declared = options.inputs.get(name)
        if declared is not None and declared["parameterType"] == "TASK_CONFIG":
            continue
        try:
            value = resolve_parameter(store, options, spec)
        except NullParameterError:
            if declared is not None and declared.get("isOptional"):
                continue
            raise
        if declared is not None:
            try:
                check_literals(name, value, declared.get("literals", []))
            except BackendError as error:
                raise BackendError(f'validating parameter "{name}": {error}') from None
        parameters[name] = value
    artifacts = {
        name: _artifacts(store, options, name, spec)
        for name, spec in options.task.get("inputs", {}).get("artifacts", {}).items()
    }
    return Inputs(parameters, artifacts), null


def resolve_parameter(store: Metadata, options: Options, spec: Spec) -> Any:
    """The value of one input: driver/resolve.go:375-497.

    Raises:
        NullParameterError: if it is the DAG's input and null.
        BackendError: if there is no value.
    """
    if "componentInputParameter" in spec:
        name = spec["componentInputParameter"]
        if name not in options.parent.inputs:
            raise _unresolved(spec, f"parent DAG does not have input parameter {name}")
        if options.parent.inputs[name] is None:
            raise NullParameterError(f"the resolved input parameter is null: {name}")
        return options.parent.inputs[name]
    if "taskOutputParameter" in spec:
        try:
            return upstream.parameter(store, options.parent, spec["taskOutputParameter"])
        except BackendError as error:
            raise _unresolved(spec, str(error)) from None
    if "runtimeValue" in spec:
        return _constant(options, spec["runtimeValue"]["constant"])
    if "taskFinalStatus" in spec:
        return _final_status(store, options)
    raise NotPlayedError(f"an input of the kind {', '.join(spec)}")


def _unresolved(spec: Spec, reason: str) -> BackendError:
    ((what, value),) = [(name, value) for name, value in spec.items() if name != "parameterExpressionSelector"]
    return BackendError(f"resolving input parameter with spec {what}:{value}: {reason}")


def _constant(options: Options, value: Any) -> Any:
    """A constant, or what stands for something of the run: driver/resolve.go:422-454."""
    named = {
        "{{$.pipeline_job_name}}": options.run.display_name,
        "{{$.pipeline_job_resource_name}}": options.run.name,
        "{{$.pipeline_job_uuid}}": options.run.id,
        "{{$.pipeline_task_name}}": options.name,
        "{{$.pipeline_task_uuid}}": str(options.parent.id),
    }
    if not isinstance(value, str):
        return value
    if "{{$.workspace_path}}" in value or "_time_utc}}" in value:
        raise NotPlayedError(f"the placeholder {value}")
    return named.get(value, value)


def _final_status(store: Metadata, options: Options) -> dict[str, Any]:
    """How the tasks before an exit task ended, as ML Metadata knows it: driver/resolve.go:458-493."""
    name = options.task["dependentTasks"][0]
    producer = store.all_tasks(options.parent).get(f"{name}_{options.parent.id}")
    if producer is None:
        raise BackendError(f"producer task, {name}, not in tasks")
    return {
        "state": producer.state,
        "pipelineTaskName": producer.name,
        "pipelineJobResourceName": options.run.name,
        "error": {},
    }


def _artifacts(store: Metadata, options: Options, name: str, spec: Spec) -> list[Artifact]:
    """An input artifact, of the DAG around or of another task: driver/resolve.go:528-571."""
    try:
        if "taskOutputArtifact" in spec:
            return upstream.artifacts(store, options.parent, spec["taskOutputArtifact"])
        given = store.input_artifacts(options.parent)
        if spec["componentInputArtifact"] not in given:
            raise BackendError(f"parent DAG does not have input artifact {spec['componentInputArtifact']}")
        return given[spec["componentInputArtifact"]]
    except BackendError as error:
        raise BackendError(f"failed to resolve input artifact {name} with spec {dict(spec)}: {error}") from None


def _select(task: Spec, parameters: dict[str, Any]) -> None:
    """Take parts of values, as of a loop's item that is a struct: driver/resolve.go:145-165."""
    for name, spec in task.get("inputs", {}).get("parameters", {}).items():
        selector = spec.get("parameterExpressionSelector")
        if selector and name not in parameters:
            raise BackendError(f'resolving parameter "{name}": value not found in inputs')
        if selector:
            parameters[name] = expression.select(parameters[name], selector)


def _convert(options: Options, parameters: dict[str, Any], null: set[str]) -> None:
    """Check the types that the component takes, and turn what is no text into text for a STRING.

    driver/resolve.go:169-256.
    """
    iterator = options.task.get("parameterIterator")
    for name, spec in options.inputs.items():
        if iterator is not None:
            of_iteration, of_loop = iterator["items"].get("inputParameter"), iterator["itemInput"]
            if name == (of_loop if options.index is None else of_iteration):
                continue
        value = parameters.get(name, ABSENT)
        if value is ABSENT and spec.get("isOptional"):
            continue
        if value is ABSENT and "defaultValue" not in spec:
            raise BackendError(f'neither value nor default value provided for non-optional parameter "{name}"')
        if name in null and value is None:
            continue
        wanted = spec["parameterType"]
        if wanted == "STRING":
            parameters[name] = as_text(value)
        elif value is None:
            raise BackendError(f'got null for input parameter "{name}"')
        elif value is ABSENT:
            raise BackendError(f"parameter {name} has unknown protobuf.Value type: <nil>")
        elif wanted not in CONVERTED[kind(value)]:
            raise BackendError(f'input parameter "{name}" type mismatch: expect {wanted}, got {kind(value)}')
