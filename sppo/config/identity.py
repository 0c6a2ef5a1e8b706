"""What tells one piece of work from another: a digest of the values that it reads and of what it is made from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from sppo.config.sections.section import Free, FreeIf, Readers, Section, Stage

PARTS: Mapping[Stage, tuple[Stage, ...]] = {"evaluate": ("answers", "instructions")}
"""Stages that read what their parts read, too."""


def readers(section: type[Section], prefix: str = "") -> dict[str, Readers]:
    """Who reads each value of a configuration, by dotted key."""
    found: dict[str, Readers] = {}
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            found |= readers(kind, f"{prefix}{name}.")
        else:
            found[prefix + name] = section.READ_BY[name]
    return found


def values_read(config: Section, *stages: Stage) -> dict[str, Any]:
    """The values, by dotted key, that stages read and that can change what they make.

    Args:
        config: a configuration.
        stages: whose.
    """
    return dict(_read(config, {*stages, *(part for stage in stages for part in PARTS.get(stage, ()))}, ""))


def _read(section: Section, stages: set[Stage], prefix: str) -> Iterator[tuple[str, Any]]:
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from _read(value, stages, f"{prefix}{name}.")
            continue
        by = type(section).READ_BY[name]
        if isinstance(by, FreeIf):
            by = Free(by.why) if by.free(section) else by.stages
        if not isinstance(by, Free) and stages & {*by}:
            yield prefix + name, _plain(value)


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return [_plain(each) for each in value] if isinstance(value, tuple) else value


def redone(by: Readers) -> str:
    """What another value of somebody's reading redoes, in words."""
    if isinstance(by, Free):
        return f"nothing: {by.why}"
    if isinstance(by, FreeIf):
        return f"{redone(by.stages)}; nothing where {by.why}"
    first = next((stage for stage in _FIRST if stage in by), None)
    if first is not None:
        return f"{first} and what follows"
    return "evaluate, publish" if {*by} & {"evaluate", *PARTS["evaluate"]} else by[0]


_FIRST: tuple[Stage, ...] = ("prepare", "generate", "rank", "train")


def digest_of(values: Mapping[str, Any], **made_from: Any) -> str:
    """SHA-256 of values by dotted key, and of what something is made from by name; both as JSON has them."""
    return sha256_of([values, made_from])


def sha256_of(value: Any) -> str:
    """SHA-256 of a value that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
