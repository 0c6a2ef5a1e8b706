"""JSON Lines: one JSON object a line, in UTF-8; a line ends at a newline and at no other character.

A .json file may hold one array of objects instead.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from sppo.errors import ConfigError
from sppo.preparing.files import decode, read_lines, shown, suffix_of

Row = TypeVar("Row", bound=BaseModel)

SUFFIXES = (".jsonl", ".json")
"""What `sppo.preparing.files.suffix_of` gives for the files that this module reads."""
_DEEPEST = 100
"""Brackets within brackets: Python gives up on a thousand, at a number that depends on who calls."""


def read_jsonl(source: Path | bytes, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a file, each after the name and its line, for messages; empty lines are left out.

    Args:
        source: the file, compressed where its name ends in .gz, or the lines that are in one.
        name: what messages call it: the setting, where there is one, and the file.

    Raises:
        ConfigError: naming the line or row that is not a JSON object in UTF-8, or the damaged compressed file.
    """
    if isinstance(source, Path) and suffix_of(source) == ".json":
        source = b"".join(read_lines(source, name))
        if source.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"["):
            yield from _objects(_of_array(source, name))
            return
    yield from _objects(_of_lines(source, name))


def read_rows(path: Path, name: str, kind: type[Row], form: str = "") -> Iterator[tuple[str, Row]]:
    """The objects of a file as `read_jsonl`, each checked.

    Args:
        path: the file.
        name: what messages call it.
        kind: what each object must be.
        form: the end of the message about one that is not.

    Raises:
        ConfigError: also naming the first field that is wrong.
    """
    for where, row in read_jsonl(path, name):
        try:
            checked = kind.model_validate(row)
        except ValidationError as error:
            first = error.errors()[0]
            field = shown(".".join(map(str, first["loc"])))
            raise ConfigError(f"{where}: {field}: {first['msg'].lower()}{form}") from None
        yield where, checked


def _objects(values: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for where, value in values:
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: not a JSON object")
        yield where, value


def _of_lines(source: Path | bytes, name: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(read_lines(source, name), start=1):
        text, where = decode(line, name, "JSON", number).rstrip(), f"{name}: line {number}"
        if text:
            yield where, _parse(text, where)


def _of_array(data: bytes, name: str) -> Iterator[tuple[str, Any]]:
    for number, value in enumerate(_parse(decode(data, name, "JSON"), name), start=1):
        yield f"{name}: row {number}", value


def _parse(text: str, where: str) -> Any:
    try:
        value = json.loads(text)
        if text.count("[") + text.count("{") > _DEEPEST and _is_deep(value):
            raise RecursionError
    except json.JSONDecodeError as error:
        place = f"character {error.colno}" + (f" of line {error.lineno}" if error.lineno > 1 else "")
        mend = "write one object a line, or a .json file with one array of them"
        raise ConfigError(f"{where}: not JSON in UTF-8 ({error.msg} at {place}); {mend}") from None
    except ValueError as error:  # what Python says of an integer of thousands of digits
        raise ConfigError(f"{where}: a number is too long ({str(error).partition(';')[0]}); shorten it") from None
    except RecursionError:
        raise ConfigError(f"{where}: brackets lie more than {_DEEPEST} deep in each other; flatten them") from None
    return value


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_DEEPEST):
        level = [inner for each in level for inner in _within(each)]
    return bool(level)


def _within(value: Any) -> Collection[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
