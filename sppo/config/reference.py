"""The configuration's reference in Markdown, written from the fields: docs/configuration.md holds it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Literal, TypeGuard, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from sppo.config.identity import redone
from sppo.config.plugins import Plugins
from sppo.config.run import PRESETS, RunConfig, flatten, preset_values
from sppo.config.sections.section import Section

_WORDS = {str: "text", int: "whole number", float: "number", bool: "`true`, `false`"}
_LIMITS = {
    "ge": "≥ {}",
    "gt": "> {}",
    "le": "≤ {}",
    "lt": "< {}",
    "min_length": "length ≥ {}",
    "max_length": "length ≤ {}",
    "pattern": "matches `{}`",
}
"""How pydantic names a limit, and how the page does."""


def reference() -> str:
    """Every value of the configuration: its meaning, its range, what another one redoes, and each preset's.

    Returns:
        Markdown: a heading and a table for each section.
    """
    presets = [flatten(preset_values(name)) for name in PRESETS]
    return "\n".join(_section(RunConfig, "", presets))


def settings(section: type[Section], but: Collection[str] = ()) -> str:
    """The values of a command of its own, which no preset has: meaning, range and default.

    Args:
        section: of which values.
        but: those that the command has flags for.

    Returns:
        Markdown: a table.
    """
    rows = (
        f"| `{name}` | {field.description} | {range_of(field)} | {_value(field.default)} |"
        for name, field in section.model_fields.items()
        if name not in but
    )
    return "\n".join(["| key | meaning | range | default |", "|---|---|---|---|", *rows])


def _section(section: type[Section], path: str, presets: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A section's heading, what it is for, the table of its values, and the sections in it."""
    if path:
        yield from (f"\n{'#' * (3 + path.count('.'))} {path}\n", str(section.__doc__).strip(), "")
    else:
        yield "### The run itself\n"
    yield f"| key | meaning | range | another value redoes | {' | '.join(PRESETS)} |"
    yield "|---|---|---|---|" + "---|" * len(PRESETS)
    prefix = f"{path}." if path else ""
    inner: dict[str, type[Section]] = {}
    for name, field in section.model_fields.items():
        kind = field.annotation
        if _is_section(kind):
            inner[prefix + name] = kind
            continue
        yield _row(section, prefix, name, field, [_value(preset[prefix + name]) for preset in presets])
        if get_origin(kind) is tuple and _is_section(member := get_args(kind)[0]):
            for key, each in member.model_fields.items():
                default = "must be given" if each.is_required() else _value(each.default)
                yield _row(member, f"{prefix}{name}[].", key, each, [default] * len(PRESETS))
    for each_path, each_section in inner.items():
        yield from _section(each_section, each_path, presets)


def _row(section: type[Section], prefix: str, name: str, field: FieldInfo, values: Sequence[str]) -> str:
    cells = [
        f"`{prefix}{name}`",
        str(field.description).replace("|", "\\|"),
        range_of(field),
        redone(section.READ_BY[name]),
        *values,
    ]
    return f"| {' | '.join(cells)} |"


def _value(value: Any) -> str:
    """A value as it may be written after KEY=."""
    text = value if isinstance(value, str) else json.dumps(value)
    return f"`{text}`".replace("|", "\\|") if text else "empty"


def range_of(field: FieldInfo) -> str:
    """What a field takes: the names to choose from, or its type and bounds."""
    for each in field.metadata:
        if isinstance(each, Plugins):
            return _choice(each.names())
    limits = (
        words.format(getattr(each, name))
        for each in field.metadata
        for name, words in _LIMITS.items()
        if getattr(each, name, None) is not None
    )
    return ", ".join([_kind(field.annotation), *limits]).replace("|", "\\|")


def _kind(kind: Any) -> str:
    if get_origin(kind) is Annotated:
        return _kind(get_args(kind)[0])
    if get_origin(kind) is Literal:
        return _choice(get_args(kind))
    if get_origin(kind) in (Union, UnionType):
        return ", or ".join(map(_kind, get_args(kind)))
    if get_origin(kind) is tuple:
        return f"list: {_kind(get_args(kind)[0])}"
    return "map" if _is_section(kind) else _WORDS[kind]


def _choice(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _is_section(kind: Any) -> TypeGuard[type[Section]]:
    return isinstance(kind, type) and issubclass(kind, Section)
