"""The tables that flow between stages: Parquet, each schema declared here once and checked on write and on read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sppo.errors import ConfigError

_IDS = pa.list_(pa.int32())
_STRINGS = pa.list_(pa.string())
_FLOATS = pa.list_(pa.float32())
_MATRIX = pa.list_(_FLOATS)


def _schema(**columns: pa.DataType) -> pa.Schema:
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns.items()])


PROMPTS = _schema(prompt_id=pa.string(), prompt=pa.string(), prompt_ids=_IDS)
"""One row a prompt; `prompt_ids` are the tokens the policy sees, chat template included."""

RESPONSES = _schema(
    prompt_id=pa.string(),
    prompt=pa.string(),
    prompt_ids=_IDS,
    response_index=pa.int32(),
    text=pa.string(),
    token_ids=_IDS,
    logprobs=_FLOATS,
    finish_reason=pa.string(),
)
"""One row a response; `logprobs` are log pi_t of each token, in nats, before temperature and top-p."""

PREFERENCES = _schema(
    prompt_id=pa.string(),
    responses=pa.int32(),
    logits=_FLOATS,
    probabilities=_FLOATS,
    win_probabilities=_FLOATS,
)
"""One row a prompt: the raw K x K logits and probabilities, row-major, and each response's P(y_i > pi_t)."""

PAIRS = _schema(
    prompt_id=pa.string(),
    prompt=pa.string(),
    prompt_ids=_IDS,
    chosen=pa.string(),
    rejected=pa.string(),
    chosen_index=pa.int32(),
    rejected_index=pa.int32(),
    p_chosen=pa.float32(),
    p_rejected=pa.float32(),
    chosen_ids=_IDS,
    rejected_ids=_IDS,
    chosen_logprobs=_FLOATS,
    rejected_logprobs=_FLOATS,
    other_indices=_IDS,
    p_others=_FLOATS,
    other_ids=pa.list_(_IDS),
    other_logprobs=_MATRIX,
)
"""One row a prompt: a preferred and a dispreferred response with their win probabilities over pi_t, and the further
responses that are trained on, of which there may be none."""

BASE_LOGPROBS = _schema(prompt_id=pa.string(), logprobs=pa.list_(pa.float64()))
"""One row a pair: log mu of its chosen, its rejected and its further responses, in nats, mu being the base model."""

JUDGEMENTS = _schema(
    prompt=pa.string(),
    responses=pa.list_(pa.string()),
    logits=_MATRIX,
    probabilities=_MATRIX,
    win_probabilities=_FLOATS,
    best=pa.int32(),
)
"""One row a prompt of `sppo judge`: the raw K x K logits, P(y_i > y_j), each response's mean P, and the best one."""

ANSWERS = _schema(prompt_id=pa.string(), prompt=pa.string(), sample=pa.int32(), text=pa.string(), tokens=pa.int32())
"""One row a held-out answer of one model."""

INSTRUCTIONS = _schema(
    prompt_id=pa.string(),
    prompt=pa.string(),
    prompt_ids=_IDS,
    instruction_ids=_STRINGS,
    kwargs=_STRINGS,
    trained=pa.bool_(),
)
"""One row a prompt with verifiable instructions; `kwargs` holds each instruction's values as JSON, and `trained` is
whether prompts with every one of its kinds of instruction are there to train on."""

INSTRUCTION_ANSWERS = _schema(
    prompt_id=pa.string(),
    prompt=pa.string(),
    text=pa.string(),
    tokens=pa.int32(),
    instruction_ids=_STRINGS,
    followed=pa.list_(pa.bool_()),
    unchecked=pa.int32(),
)
"""One row a greedy answer of one model; `followed` has a verdict for each instruction, `unchecked` counts the
checkers that failed on it."""

COMPARISONS = _schema(prompt_id=pa.string(), opponent=pa.string(), win_rate=pa.float32(), probability=pa.float32())
"""One row a held-out prompt and opponent: share of answer pairs won, and the mean probability of winning."""


def write(path: Path, schema: pa.Schema, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as Parquet.

    Raises:
        ConfigError: naming the row that lacks a column or holds a value of another type.
    """
    listed = list(rows)
    try:
        table = pa.Table.from_pylist(listed, schema=schema)
    except (ValueError, TypeError, OverflowError):
        raise ConfigError(f"{path}: {_misfit(listed, schema)}") from None
    table = _checked(path, table)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="zstd")


def read(path: Path, schema: pa.Schema) -> list[dict[str, Any]]:
    """Read a table that a stage wrote.

    Raises:
        ConfigError: naming the file, the column and the row that do not fit the schema.
    """
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, FileNotFoundError) as error:
        raise ConfigError(f"{path}: not a readable Parquet table ({str(error).splitlines()[0]})") from error
    for field in schema:
        if field.name not in table.column_names:
            raise ConfigError(f"{path}: column {field.name!r} is missing; it has {', '.join(table.column_names)}")
        if table.schema.field(field.name).type != field.type:
            raise ConfigError(
                f"{path}: column {field.name!r} is {table.schema.field(field.name).type}, expected {field.type}"
            )
    return _checked(path, table).select(schema.names).to_pylist()


def _checked(path: Path, table: pa.Table) -> pa.Table:
    for name in table.column_names:
        column = table.column(name)
        if column.null_count:
            row = next(i for i, value in enumerate(column) if not value.is_valid)
            raise ConfigError(f"{path}: column {name!r} has no value in row {row}")
        inner = column
        while pa.types.is_list(inner.type):
            inner = pc.list_flatten(inner)
            if inner.null_count:
                row = next(i for i, value in enumerate(column) if _has_gap(value.as_py()))
                raise ConfigError(f"{path}: column {name!r} has a list with a missing value in row {row}")
    return table


def _has_gap(value: Any) -> bool:
    return value is None or (isinstance(value, list) and any(map(_has_gap, value)))


def _misfit(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> str:
    """The first value that is not of its column's type, in words."""
    for number, row in enumerate(rows):
        for field in schema:
            try:
                pa.array([row.get(field.name)], field.type)
            except (ValueError, TypeError, OverflowError) as error:
                return f"column {field.name!r} is not {field.type} in row {number} ({error})"
    raise AssertionError("every value fits its column")
