"""JSON Lines: one JSON object a line, in UTF-8; a line ends at a newline and at no other character."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from sppo.errors import ConfigError

Row = TypeVar("Row", bound=BaseModel)


def read_jsonl(source: Path | bytes, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a file, each after the name and its line, for messages; empty lines are left out.

    Args:
        source: the file, compressed where its name ends in .gz, or what is in one.
        name: what messages call it: the setting, where there is one, and the file.

    Raises:
        ConfigError: naming the line that is not a JSON object in UTF-8, or the damaged compressed file.
    """
    try:
        with _open(source) as file:
            for number, line in enumerate(file, start=1):
                where = f"{name}: line {number}"
                try:
                    text = line.decode("utf-8-sig")  # what Windows writes begins with a byte order mark
                    row = json.loads(text) if text.strip() else None
                except ValueError as error:
                    raise ConfigError(f"{where}: not JSON in UTF-8 ({error})") from error
                if isinstance(row, dict):
                    yield where, row
                elif text.strip():
                    raise ConfigError(f"{where}: not a JSON object")
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ConfigError(f"{name}: not readable as gzip ({error})") from error


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
            field = ".".join(map(str, first["loc"]))
            raise ConfigError(f"{where}: {field}: {first['msg'].lower()}{form}") from None
        yield where, checked


def _open(source: Path | bytes) -> io.BufferedIOBase:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    return gzip.open(source) if source.suffix == ".gz" else source.open("rb")
