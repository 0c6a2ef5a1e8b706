import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sppo.errors import ConfigError
from sppo.store import tables

SCHEMAS = ["PROMPTS", "RESPONSES", "PREFERENCES", "PAIRS", "JUDGEMENTS", "ANSWERS", "COMPARISONS"]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
INT32 = st.integers(-(2**31), 2**31 - 1)
FLOAT32 = st.floats(width=32, allow_nan=False)
VALUES = {pa.string(): TEXT, pa.int32(): INT32, pa.float32(): FLOAT32}


def values_of(kind: pa.DataType) -> st.SearchStrategy:
    return st.lists(values_of(kind.value_type), max_size=4) if pa.types.is_list(kind) else VALUES[kind]


def rows_of(schema: pa.Schema) -> st.SearchStrategy[list[dict]]:
    return st.lists(st.fixed_dictionaries({field.name: values_of(field.type) for field in schema}), max_size=6)


def answer(**changes) -> dict:
    return {"prompt_id": "p", "prompt": "Why?", "sample": 0, "text": "So.", "tokens": 2, **changes}


@pytest.mark.parametrize("name", SCHEMAS)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_is_written_is_read(tmp_path, name, data):
    schema = getattr(tables, name)
    rows = data.draw(rows_of(schema))
    path = tmp_path / "new" / "table.parquet"
    tables.write(path, schema, rows)
    assert tables.read(path, schema) == rows


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([answer(), {"prompt_id": "p"}], "column 'prompt' has no value in row 1"),
        ([answer(), answer(text=None)], "column 'text' has no value in row 1"),
        ([answer(), answer(), answer(tokens="many")], "column 'tokens' is not int32 in row 2"),
        ([answer(tokens=2**31)], "column 'tokens' is not int32 in row 0"),
        ([answer(tokens=2**70)], "column 'tokens' is not int32 in row 0"),
        ([answer(prompt=7)], "column 'prompt' is not string in row 0"),
    ],
)
def test_a_row_that_does_not_fit_is_not_written(tmp_path, rows, message):
    path = tmp_path / "answers.parquet"
    with pytest.raises(ConfigError, match=re.escape(f"{path}: {message}")):
        tables.write(path, tables.ANSWERS, rows)
    assert not path.exists()


def test_a_gap_in_a_list_is_not_written(tmp_path):
    rows = [{"prompt_id": "p", "prompt": "Why?", "prompt_ids": ids} for ids in ([1, 2], [], [3, None])]
    with pytest.raises(ConfigError, match="'prompt_ids' has a list with a missing value in row 2"):
        tables.write(tmp_path / "prompts.parquet", tables.PROMPTS, rows)


@pytest.mark.parametrize("gap", [[[1.0], None], [[1.0], [None]], [[None, 0.5]]])
def test_a_gap_in_a_list_of_lists_is_neither_written_nor_read(tmp_path, gap):
    good = {"prompt": "?", "responses": ["a"], "probabilities": [[0.5]], "win_probabilities": [0.5], "best": 0}
    rows = [good | {"logits": values} for values in ([[0.0]], [], gap)]
    path = tmp_path / "judged.parquet"
    with pytest.raises(ConfigError, match="'logits' has a list with a missing value in row 2"):
        tables.write(path, tables.JUDGEMENTS, rows)
    pq.write_table(pa.Table.from_pylist(rows, schema=tables.JUDGEMENTS), path)
    with pytest.raises(ConfigError, match="'logits' has a list with a missing value in row 2"):
        tables.read(path, tables.JUDGEMENTS)


def parquet(path: Path, **columns: pa.Array) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


GOOD = {"prompt_id": pa.array(["p"]), "prompt": pa.array(["Why?"]), "prompt_ids": pa.array([[1]], pa.list_(pa.int32()))}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"prompt": None}, "column 'prompt' is missing; it has prompt_id, prompt_ids"),
        ({"prompt": pa.array([3])}, "column 'prompt' is int64, expected string"),
        ({"prompt_ids": pa.array([[1]])}, "column 'prompt_ids' is list<element: int64>, expected list<item: int32>"),
        ({"prompt": pa.array([None], pa.string())}, "column 'prompt' has no value in row 0"),
    ],
)
def test_a_table_of_another_shape_is_refused(tmp_path, changed, message):
    columns = {name: column for name, column in {**GOOD, **changed}.items() if column is not None}
    path = parquet(tmp_path / "prompts.parquet", **columns)
    with pytest.raises(ConfigError, match=re.escape(f"{path}: {message}")):
        tables.read(path, tables.PROMPTS)


def test_further_columns_are_left_out(tmp_path):
    path = parquet(tmp_path / "prompts.parquet", **GOOD, note=pa.array(["x"]))
    assert tables.read(path, tables.PROMPTS) == [{"prompt_id": "p", "prompt": "Why?", "prompt_ids": [1]}]


@pytest.mark.parametrize("content", [None, b"", b"PAR1 but no table"])
def test_what_is_no_table_is_refused_by_name(tmp_path, content):
    path = tmp_path / "prompts.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(f"{path}: not a readable Parquet table")):
        tables.read(path, tables.PROMPTS)


def test_a_truncated_table_is_refused(tmp_path):
    path = parquet(tmp_path / "prompts.parquet", **GOOD)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ConfigError, match="not a readable Parquet table"):
        tables.read(path, tables.PROMPTS)
