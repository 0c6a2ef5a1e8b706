"""Files that people hand over: their bytes, compressed or not, the characters that these are, and how to show them."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from importlib.resources import as_file, files
from pathlib import Path

from sppo.errors import ConfigError

_COMPRESSED = ".gz"
_SHOWN = 200
"""Characters of a file's content in a message."""


def bundled(name: str) -> AbstractContextManager[Path]:
    """A file of `sppo/preparing/bundled`, which comes with the package, while it is read."""
    return as_file(files("sppo") / "preparing" / "bundled" / name)


def suffix_of(path: Path) -> str:
    """What a file's name says that it holds: `.jsonl` for `A.JSONL` and for `a.jsonl.gz`."""
    name = Path(path.name.lower().removesuffix(_COMPRESSED))
    return name.suffix


def read_lines(source: Path | bytes, name: str) -> Iterator[bytes]:
    """The lines of a file, each with its newline.

    Args:
        source: the file, compressed where its name ends in .gz, or what is in one.
        name: what messages call it.

    Raises:
        ConfigError: naming the last whole line of a damaged compressed file.
    """
    number = 0
    try:
        with _open(source) as file:
            for line in file:
                number += 1
                yield line
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ConfigError(
            f"{name}: not readable as gzip ({error}) after line {number}; copy or compress it again"
        ) from error


def decode(data: bytes, name: str, form: str, line: int = 1) -> str:
    """The text of bytes in UTF-8, without the byte order mark that Windows and spreadsheets begin a file with.

    Args:
        data: the bytes.
        name: what messages call their file.
        form: what the text is, for messages.
        line: the line in which they begin.

    Raises:
        ConfigError: naming the line that is not UTF-8.
    """
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line += data.count(b"\n", 0, error.start)
        raise ConfigError(f"{name}: line {line}: not {form} in UTF-8 ({error}); save it as UTF-8") from error


def shown(text: object) -> str:
    """What a file holds as a message may show it: cut, on one line, and without halves of surrogate pairs."""
    line = repr(str(text))[1:-1]
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]} …"


def _open(source: Path | bytes) -> io.BufferedIOBase:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    return gzip.open(source) if source.suffix.lower() == _COMPRESSED else source.open("rb")
