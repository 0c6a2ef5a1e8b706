"""Values as the backend holds them: protobuf's, where a number is a number however it looks as text."""

import json
from decimal import Decimal
from typing import Any


class BackendError(Exception):
    """What the API server, a driver, the launcher or Kubernetes refuses, in its own words."""


class NotPlayedError(Exception):
    """Something in a package that this player has no rule for."""


class Absent:
    """A value that was never set: Go's nil, not JSON's null."""


ABSENT = Absent()

CONVERTED = {
    "string": {"STRING"},
    "number": {"NUMBER_DOUBLE", "NUMBER_INTEGER"},
    "bool": {"BOOLEAN"},
    "list": {"LIST"},
    "struct": {"STRUCT", "TASK_FINAL_STATUS", "TASK_CONFIG"},
}
"""Types of parameters that a kind of value may have, driver/resolve.go:222-249."""


def kind(value: Any) -> str:
    """Which kind of protobuf Value this is."""
    kinds = {type(None): "null", bool: "bool", str: "string", int: "number", float: "number", list: "list"}
    return "absent" if value is ABSENT else kinds.get(type(value), "struct")


def as_text(value: Any) -> str:
    """What a value of another kind becomes where a STRING is asked for: metadata/converter.go:15-48."""
    if kind(value) in {"null", "absent"}:
        return ""
    if kind(value) == "string":
        return value
    if kind(value) == "bool":
        return str(value).lower()
    if kind(value) == "number":
        return str(int(value)) if float(value).is_integer() else format(Decimal(repr(value)), "f")
    return as_json(value)


def as_argument(value: Any) -> str:
    """A value within an argument of a container: driver/util.go:138-163."""
    return repr(value) if kind(value) == "number" and not float(value).is_integer() else as_text(value)


def as_json(value: Any) -> str:
    """A list or a struct as Go writes it: compact, keys in order, and HTML's signs escaped."""
    text = json.dumps(_plain(value), separators=(",", ":"), sort_keys=True, ensure_ascii=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def items(value: Any) -> list[Any]:
    """What a loop iterates over: a list, or a list as JSON. driver/util.go:118-131."""
    if kind(value) == "list":
        return value
    if kind(value) == "string":
        read = json.loads(value)
        return read if isinstance(read, list) else []
    raise BackendError(f"value of type {kind(value)} cannot be iterated")


def check_literals(name: str, value: Any, literals: list[Any]) -> None:
    """Refuse a value that is none of a parameter's literals: common/util/validate_literal.go:27-47."""
    if literals and not any(kind(value) == kind(each) and value == each for each in literals):
        raise BackendError(
            f'input parameter "{name}" value {as_text(value)} does not match any of the allowed literal values: '
            f"{as_json(literals)}"
        )
