"""What the API server does with a run's parameters before anything runs."""

from collections.abc import Mapping
from typing import Any

from tests.backend.package import Package
from tests.backend.values import BackendError, check_literals, kind

WORDS = {
    "NUMBER_DOUBLE": ("number", "double or integer"),
    "NUMBER_INTEGER": ("number", "double or integer"),
    "STRING": ("string", "string"),
    "BOOLEAN": ("bool", "bool"),
    "LIST": ("list", "list"),
    "STRUCT": ("struct", "struct"),
}
"""Of each type of parameter: the kind that a value must have, and what the refusal calls the type."""


def root_inputs(package: Package, given: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs of the whole pipeline: what a run gives, and defaults.

    The checks are those of apiserver/template/v2_template.go:449-538; no value is converted. Defaults come from
    argocompiler/argo.go:102-113: an optional parameter without one is null.

    Raises:
        BackendError: for a parameter that is missing, unknown, of another type or none of its literals.
    """
    declared = package.root.get("inputDefinitions", {}).get("parameters", {})
    for name, parameter in declared.items():
        if name not in given:
            if not parameter.get("isOptional") and "defaultValue" not in parameter:
                raise BackendError(
                    f"parameter {name} is not optional, yet has neither default value nor user provided value"
                )
            continue
        if parameter["parameterType"] not in WORDS:
            raise BackendError(f"input parameter {name} requires type {parameter['parameterType']}")
        wanted, word = WORDS[parameter["parameterType"]]
        if kind(given[name]) != wanted:
            raise BackendError(
                f"input parameter {name} requires type {word}, but the input parameter is not of {wanted} value type"
            )
        check_literals(name, given[name], parameter.get("literals", []))
    extra = sorted(set(given) - set(declared))
    if extra:
        raise BackendError(f"parameter(s) provided are not required by pipeline: {', '.join(extra)}")
    optional = {name: parameter.get("defaultValue") for name, parameter in declared.items() if name not in given}
    return {**given, **optional}
