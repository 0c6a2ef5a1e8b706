"""Compiled packages: the pipeline's specification and what it asks of Kubernetes."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tests.backend.values import BackendError
from tests.conftest import documents

Spec = Mapping[str, Any]
"""A part of the intermediate representation, as protobuf's JSON has it."""


class Package(NamedTuple):
    """The documents of a package."""

    spec: Spec
    platform: Spec

    @property
    def root(self) -> Spec:
        return self.spec["root"]

    def component(self, task: Spec) -> Spec:
        """The component of a task: argocompiler/dag.go:229-233."""
        name = task["componentRef"]["name"]
        if name not in self.spec["components"]:
            raise BackendError(f'component spec for "{name}" not found')
        return self.spec["components"][name]

    def container(self, component: Spec) -> Spec:
        """The container of a component: argocompiler/dag.go:282-288."""
        label = component["executorLabel"]
        executors = self.spec["deploymentSpec"]["executors"]
        if label not in executors:
            raise BackendError(f'executor with label "{label}" not found')
        return executors[label]["container"]

    def on_kubernetes(self, component: Spec) -> Spec:
        """What a component asks of Kubernetes; nothing if it has no entry. argocompiler/spec_patch.go:30-55."""
        platforms = self.platform.get("platforms", {})
        executors = platforms.get("kubernetes", {}).get("deploymentSpec", {}).get("executors", {})
        return executors.get(component["executorLabel"], {})


def load(path: Path) -> Package:
    """Read a package as the API server does: apiserver/template/v2_template.go:199-269.

    Raises:
        BackendError: if it has no pipeline or two, of another schema or without a name.
    """
    held = [document for document in documents(path.read_text()) if document]
    specs = [document for document in held if "pipelineInfo" in document]
    platforms = [document for document in held if "kubernetes" in document.get("platforms", {})]
    for found, what in ((specs, "pipeline"), (platforms, "platform")):
        if len(found) > 1:
            raise BackendError(f"multiple {what} specs provided")
    if not specs:
        raise BackendError("no pipeline spec is provided")
    spec = specs[0]
    if spec.get("schemaVersion") != "2.1.0":
        raise BackendError(
            f"KFP only supports schema version 2.1.0, but the pipeline spec has version {spec.get('schemaVersion')}"
        )
    if not spec["pipelineInfo"].get("name"):
        raise BackendError("invalid v2 pipeline spec: name is empty")
    return Package(spec, platforms[0] if platforms else {})


def dependencies(task: Spec, tasks: Mapping[str, Spec]) -> list[str]:
    """The tasks that a task waits for, also those that it only takes an output of: argocompiler/dag.go:655-706."""
    inputs = task.get("inputs", {})
    sources = [spec.get("taskOutputParameter") for spec in inputs.get("parameters", {}).values()]
    sources += [spec.get("taskOutputArtifact") for spec in inputs.get("artifacts", {}).values()]
    implicit = {source["producerTask"] for source in sources if source}
    unknown = sorted(implicit - set(tasks))
    if unknown:
        raise BackendError(f'failed to add implicit deps: unknown producer task "{unknown[0]}" in DAG')
    return sorted({*task.get("dependentTasks", []), *implicit})


def is_exit_task(task: Spec) -> bool:
    """Whether a task runs after all others, however they end: argocompiler/dag.go:72."""
    return task.get("triggerPolicy", {}).get("strategy") == "ALL_UPSTREAM_TASKS_COMPLETED"


def stage(component: Spec) -> str:
    """The component's name as it was written: the compiler numbers its copies (`exec-keep-2`)."""
    return re.sub(r"^exec-|(-\d+)+$", "", component["executorLabel"])
