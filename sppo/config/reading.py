"""Values that people write: YAML, and KEY=VALUE, where the type of a key's field decides how its text is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from sppo.errors import ConfigError

_NUMBERS = (int, float, bool)
_CONTAINERS = (tuple, list, dict)


def parse_yaml(text: str | bytes, what: str) -> Any:
    """YAML that a person wrote.

    Args:
        text: the YAML.
        what: where it comes from, for the message.

    Raises:
        ConfigError: if it is not YAML, or a mapping in it has a key twice.
    """
    try:
        return yaml.load(text, _Loader)
    except _TwiceError as error:
        raise ConfigError(f"{what}: {error}") from None
    except RecursionError:
        raise ConfigError(f"{what}: not YAML that can be read: it is nested too deeply") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{what}: not YAML ({' '.join(str(error).split())})") from None


def read_mapping(text: str | bytes, what: str) -> dict[Any, Any]:
    """The values of a YAML file, whose keys are dotted, nested, or both.

    Raises:
        ConfigError: if it is no YAML mapping, or gives a value twice, in whichever way it writes the key.
    """
    values = parse_yaml(text, what)
    if not isinstance(values, dict):
        raise ConfigError(f"{what}: not a YAML mapping of keys to values")
    twice = [path for path, count in Counter(path for path, _ in _leaves(values)).items() if count > 1]
    if twice:
        raise ConfigError(f"{what}: {', '.join(twice)} is given twice; give it once")
    return values


def read_overrides(arguments: Sequence[str], kinds: Mapping[str, Any]) -> dict[str, Any]:
    """The values of KEY=VALUE arguments.

    Args:
        arguments: as written.
        kinds: the type of each key's field.

    Returns:
        Values by key, numbers and switches as such, sections by the keys of their values. What does not fit its field
        stays the text that it is.

    Raises:
        ConfigError: for an argument that is not KEY=VALUE, a key that is given twice, or lists and maps that are not
            YAML.
    """
    values: dict[str, Any] = {}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if not equals or not key:
            is_file = argument.endswith((".yaml", ".yml"))
            mend = f"give a file of values with --config {argument}" if is_file else "write such as train.eta=500"
            raise ConfigError(f"{argument!r} is not KEY=VALUE; {mend}")
        read = _read(text, kinds.get(key, str), key)
        found = [*_leaves(read, f"{key}.")] if _is_section(kinds.get(key)) and isinstance(read, dict) else [(key, read)]
        for path, value in found:
            if path in values:
                raise ConfigError(f"{path}: given twice on the command line; give it once")
            values[path] = value
    return values


def _read(text: str, kind: Any, key: str) -> Any:
    """The text of a value as its field takes it; the configuration as a whole tells what is wrong with it."""
    if kind in _NUMBERS:
        try:
            return TypeAdapter(kind).validate_python(text)
        except ValidationError:
            return text
    bare = text.strip()
    if get_origin(kind) in (Union, UnionType):  # a text or a list of texts
        listed = any(map(_holds_others, get_args(kind))) and bare.startswith("[") and bare.endswith("]")
    else:
        listed = _holds_others(kind) and bare.startswith(("[", "{"))
    return parse_yaml(text, key) if listed else text


def _holds_others(kind: Any) -> bool:
    return get_origin(kind) in _CONTAINERS or _is_section(kind)


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _leaves(values: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value with its dotted path."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


class _TwiceError(yaml.YAMLError):
    """A key that a mapping has twice, of which YAML libraries keep the last."""


class _Loader(yaml.SafeLoader):
    """YAML 1.1 without recursion; every mistake in it is a `YAMLError`."""

    def construct_document(self, node: yaml.Node) -> Any:
        """Build everything at once, so that a node that holds itself is refused."""
        return self.construct_object(node, deep=True)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Refuse a text that its tag does not fit, such as 2024-13-01, for which the constructors have no error."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError):
            tag = node.tag.rpartition(":")[2]
            raise yaml.constructor.ConstructorError(
                None, None, f"{node.value!r} is no {tag}", node.start_mark
            ) from None

    def construct_scalar(self, node: Any) -> Any:
        r"""Read the two halves of a character that JSON escapes, such as \\ud83d\\ude00, as that character."""
        text = super().construct_scalar(node)
        return text.encode("utf-16", "surrogatepass").decode("utf-16") if isinstance(text, str) else text

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Refuse a key that the mapping has already."""
        node = super().compose_mapping_node(anchor)
        counted = Counter((key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        twice = [(value, tag) for (tag, value), count in counted.items() if count > 1]
        if twice:
            line = max(key.start_mark.line for key, _ in node.value if (key.value, key.tag) == twice[0]) + 1
            raise _TwiceError(f"{twice[0][0]} is given twice, the second time in line {line}; give it once")
        return node
