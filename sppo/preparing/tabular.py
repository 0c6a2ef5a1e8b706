"""CSV and Parquet: rows of cells under named columns."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from sppo.errors import ConfigError
from sppo.preparing.files import decode, read_lines, shown


def read_csv(path: Path, name: str, column: str, optional: str) -> Iterator[dict[str, Any]]:
    """The rows of a CSV file under its header; empty lines are left out, and a cell that is not there is None.

    Args:
        path: the file, compressed where its name ends in .gz.
        name: what messages call it.
        column: one that must be there.
        optional: one that may be there.

    Raises:
        ConfigError: naming the row with a quote out of place or more cells than the header, or the line that is not
            UTF-8; if the column is not there, or one of them is there twice.
    """
    records = _records(decode(b"".join(read_lines(path, name)), name, "CSV"), name)
    _, header = next(records, ("", None))
    if header is None:
        return
    _check_columns(header, (column, optional), name)
    for where, cells in records:
        if any(cells[len(header) :]):
            raise ConfigError(f"{where}: more cells than the header; quote a cell that holds a comma")
        missing = [None] * (len(header) - len(cells))
        yield dict(zip(header, [*cells, *missing], strict=False))  # empty cells beyond the header are nothing


def read_parquet(path: Path, name: str, column: str, *optional: str) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file, of which the columns named are read and no other.

    Args:
        path: the file.
        name: what messages call it.
        column: one that must be there.
        optional: others that may be there.

    Raises:
        ConfigError: if the column is not there, or one of them is there twice, or the file is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            _check_columns(names, (column, *optional), name)
            for batch in file.iter_batches(columns=[each for each in names if each in {column, *optional}]):
                yield from batch.to_pylist()
    except ConfigError:
        raise
    except (pa.ArrowException, ValueError, OverflowError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # from the file system, not from pyarrow
            raise
        reason = " ".join(str(error).split())
        raise ConfigError(f"{name}: damaged, or not a Parquet file ({reason}); write it again") from error


def no_column(where: str, column: str, have: Iterable[str]) -> ConfigError:
    """The error that says which columns there are in the place of one that is missing."""
    return ConfigError(f"{where} has no column {column!r} (it has {shown(', '.join(have))}); set prepare.prompt_column")


def _check_columns(have: list[str], wanted: tuple[str, ...], name: str) -> None:
    """Refuse rows without the first column that is wanted, or in which one of them is there twice."""
    if wanted[0] not in have:
        raise no_column(name, wanted[0], have)
    for each in wanted:
        if have.count(each) > 1:
            raise ConfigError(f"{name}: column {each!r} is there {have.count(each)} times; rename all but one")


def _records(text: str, name: str) -> Iterator[tuple[str, list[str]]]:
    """The records of CSV, each after its place; the header, row 0, comes first."""
    csv.field_size_limit(sys.maxsize)  # of the whole process: Python's own limit would refuse a long document
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    number = 0
    while True:
        where = f"{name}: row {number} (line {reader.line_num + 1})"
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise ConfigError(f"{where}: not CSV ({error}); close every quote, and double one within a cell") from error
        if cells is None:
            return
        if cells:
            yield where, cells
            number += 1
