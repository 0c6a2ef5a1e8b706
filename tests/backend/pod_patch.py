"""The patch of a pod that a container's driver writes: image, arguments, environment, resources."""

import re
from collections.abc import Mapping
from typing import Any

from tests.backend.kubernetes import quantity
from tests.backend.package import Spec
from tests.backend.resolve import Inputs
from tests.backend.values import BackendError, NotPlayedError, as_argument, kind

FIELDS = (
    "RESOURCES",
    "ENV",
    "KUBERNETES_AFFINITY",
    "KUBERNETES_TOLERATIONS",
    "KUBERNETES_NODE_SELECTOR",
    "KUBERNETES_VOLUMES",
)
_CHANNEL = re.compile(r"\$.inputs.parameters\['(.+?)'\]")
_PLACEHOLDER = re.compile(r"\{\{\$\.inputs\.parameters\['(.+?)']}}")


class Patch:
    """A pod's patch in the making, and beside it the task's configuration that the container itself is told.

    Which fields go where is in the component: driver/driver.go:207-242.
    """

    def __init__(self, component: Spec) -> None:
        passed = {each["field"]: each.get("applyToTask", False) for each in component.get("taskConfigPassthroughs", [])}
        self._in_config = set(passed)
        self._on_pod = {name for name in FIELDS if passed.get(name, True)}
        self.main: dict[str, Any] = {"name": "main"}
        self.spec: dict[str, Any] = {"containers": [self.main]}
        # driver/driver.go:114-122; Go writes what is empty as null.
        self.task_config: dict[str, Any] = {
            **dict.fromkeys(("affinity", "tolerations", "nodeSelector", "env", "volumes", "volumeMounts")),
            "resources": {},
        }

    def set(self, passthrough: str, field: str, value: Any) -> None:
        """Set a field of the pod, or of its main container, where it goes."""
        target = self.main if field in {"env", "resources"} else self.spec
        for wanted, place in ((self._on_pod, target), (self._in_config, self.task_config)):
            if passthrough in wanted:
                place[field] = value

    def add(self, passthrough: str, field: str, value: Any) -> None:
        """Append to a list of the pod, or of its main container, where it goes."""
        target = self.spec if field == "volumes" else self.main
        for wanted, place in ((self._on_pod, target), (self._in_config, self.task_config)):
            if passthrough in wanted:
                place[field] = [*(place.get(field) or []), value]

    def always(self, field: str, value: Any) -> None:
        """Append to a list that is never passed through: driver/k8s.go:590-592,620-622."""
        target = self.spec if field == "volumes" else self.main
        target[field] = [*target.get(field, []), value]


def make_patch(component: Spec, container: Spec, inputs: Inputs, plugin_env: list[Mapping[str, Any]]) -> Patch:
    """The patch as it begins, without what is asked of Kubernetes in particular: driver/driver.go:248-510.

    Args:
        component: of the task.
        container: of the component.
        inputs: of the task.
        plugin_env: variables of a plugin for the user's container.

    Raises:
        BackendError: for a quantity that is none, and for an input that is missing.
    """
    patch = Patch(component)
    patch.main["image"] = _runtime_value(container["image"], inputs)
    patch.main["args"] = [_filled(text, inputs) for text in (*container.get("command", []), *container.get("args", []))]
    patch.set("ENV", "env", [*({**variable} for variable in container.get("env", [])), *plugin_env])
    try:
        patch.set("RESOURCES", "resources", _resources(container.get("resources", {}), inputs))
    except BackendError as error:
        raise BackendError(f"failed to init podSpecPatch: {error}") from None
    return patch


def _runtime_value(text: str, inputs: Inputs) -> str:
    """A field of the pod that may name a parameter. A parameter that is no string is read as "".

    driver/resolve.go:818-831; the function that reads it is protobuf's GetStringValue.
    """
    match = _CHANNEL.search(text)
    if match is None:
        return text
    if match[1] not in inputs.parameters:
        raise BackendError("executorInput did not contain container Image input parameter")
    value = inputs.parameters[match[1]]
    return value if kind(value) == "string" else ""


def _resources(asked: Spec, inputs: Inputs) -> dict[str, dict[str, str]]:
    """Limits and requests: driver/driver.go:175-199,350-439.

    The text wins over the number. An accelerator whose type or count is "" is left out, and nothing is said.
    """
    found: dict[str, dict[str, str]] = {"limits": {}, "requests": {}}
    for name, unit in (("memory", "G"), ("cpu", "")):
        for where in ("Limit", "Request"):
            text = asked.get(f"resource{name.title()}{where}", "")
            number = asked.get(f"{name}{where}", 0)
            if text or number:
                value = _runtime_value(text, inputs) if text else f"{number:g}{unit}"
                quantity(value)
                found[f"{where.lower()}s"][name] = value
    accelerator = asked.get("accelerator")
    if accelerator is not None:
        resource = _runtime_value(accelerator.get("resourceType", ""), inputs) or accelerator.get("type", "")
        count = accelerator.get("resourceCount", "")
        number = int(accelerator.get("count", 0))
        count = _runtime_value(count, inputs) if count else str(number) if number > 0 else ""
        if resource and count:
            quantity(count)
            found["limits"][resource] = count
    return {where: values for where, values in found.items() if values}


def _filled(text: str, inputs: Inputs) -> str:
    """An argument with its parameters filled in: driver/util.go:138-205,263-288."""
    if "$.outputs" in text:
        return text
    if text.strip().startswith('{"IfPresent":'):
        raise NotPlayedError("an argument with IfPresent")

    def value(match: re.Match[str]) -> str:
        if match[1] not in inputs.parameters:
            raise BackendError(f'parameter "{match[1]}" not found in executor input')
        return as_argument(inputs.parameters[match[1]])

    return _PLACEHOLDER.sub(value, text)
