"""What Kubernetes does with a pod: the merge of a patch into it, and what the API server refuses."""

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from tests.backend.values import BackendError

MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "volumeMounts": "mountPath",
}
"""Lists of a pod whose items are merged, and by which key; others are replaced. core/v1/types.go of k8s.io/api."""
_SUFFIXES = {
    **{f"{prefix}i": Fraction(1024) ** power for power, prefix in enumerate("KMGTPE", start=1)},
    **{prefix: Fraction(1000) ** power for power, prefix in enumerate("kMGTPE", start=1)},
    **{"n": Fraction(1, 10**9), "u": Fraction(1, 10**6), "m": Fraction(1, 1000), "": Fraction(1)},
}
_QUANTITY = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:([eE][+-]?\d+)|([numkMGTPE]?|[KMGTPE]i))")


def merge(original: Any, patch: Any, name: str = "") -> Any:
    """A strategic merge of a patch: apimachinery/util/strategicpatch/patch.go:1495-1636.

    Two items of the patch with the same key merge with one another too.
    """
    if isinstance(original, dict) and isinstance(patch, dict):
        both = {key: merge(original[key], patch[key], key) for key in original.keys() & patch.keys()}
        return {**original, **patch, **both}
    if name not in MERGE_KEYS or not isinstance(original, list):
        return patch
    key = MERGE_KEYS[name]
    known = {item[key]: item for item in original}
    patched: dict[str, Any] = {}
    for item in patch:
        patched[item[key]] = merge(patched.get(item[key], known.get(item[key], {})), item)
    return [patched.get(each, known.get(each)) for each in _ordered([*known], [*patched])]


def _ordered(original: list[str], patch: list[str]) -> list[str]:
    """The order of merged items: apimachinery/util/strategicpatch/patch.go:404-468.

    What only the original has stands before the items of the patch that it stood before, else at the end.
    """
    left, right, merged = [each for each in original if each not in patch], [*patch], []
    while left and right:
        first = right[0] in original and original.index(left[0]) < original.index(right[0])
        merged.append((left if first else right).pop(0))
    return [*merged, *left, *right]


def quantity(text: str) -> Fraction:
    """The number of a quantity: apimachinery/api/resource/quantity.go:277-360.

    Raises:
        BackendError: if it is none, as the empty text.
    """
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise BackendError(
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
        )
    return Fraction(match[1] + (match[2] or "")) * _SUFFIXES[match[3] or ""]


def validate(pod: str, spec: Mapping[str, Any]) -> None:
    """Refuse a pod as the API server does, for its main container's environment and resources.

    Raises:
        BackendError: with the first thing that is wrong.
    """
    for number, container in enumerate(spec["containers"]):
        try:
            for index, variable in enumerate(container.get("env", [])):
                _check_variable(f"spec.containers[{number}].env[{index}]", variable)
            _check_resources(f"spec.containers[{number}].resources", container.get("resources", {}))
        except BackendError as error:
            raise BackendError(f'Pod "{pod}" is invalid: {error}') from None


def _check_variable(path: str, variable: Mapping[str, Any]) -> None:
    """kubernetes/apis/core/validation/validation.go:2686-2782."""
    sources = variable.get("valueFrom")
    if sources is None:
        return
    if variable.get("value"):
        raise BackendError(f'{path}.valueFrom: Invalid value: "": may not be specified when `value` is not empty')
    if len(sources) > 1:
        raise BackendError(f'{path}.valueFrom: Invalid value: "": may not have more than one field specified at a time')


def _check_resources(path: str, resources: Mapping[str, Mapping[str, str]]) -> None:
    """kubernetes/apis/core/validation/validation.go:7521-7588 and :7808-7817."""
    limits, requests = resources.get("limits", {}), resources.get("requests", {})
    for where, name, text in [
        *(("limits", name, text) for name, text in limits.items()),
        *(("requests", name, text) for name, text in requests.items()),
    ]:
        if quantity(text) < 0:
            raise BackendError(f'{path}.{where}[{name}]: Invalid value: "{text}": must be greater than or equal to 0')
        if "/" in name and quantity(text).denominator != 1:
            raise BackendError(f'{path}.{where}[{name}]: Invalid value: "{text}": must be an integer')
    for name, text in requests.items():
        if name in limits and quantity(text) > quantity(limits[name]):
            raise BackendError(
                f'{path}.requests: Invalid value: "{text}": must be less than or equal to {name} limit of '
                f"{limits[name]}"
            )
