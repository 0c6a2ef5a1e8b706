"""Whatever bytes a file has, it is read as it is meant, or told in one line."""

import csv
import gzip
import io
import json
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sppo.config.sections.prepare import PrepareConfig
from sppo.errors import ConfigError
from sppo.judging.instruction_checks import checkers_for, read_instructions
from sppo.judging.labelled_pairs import read_pairs, split
from sppo.judging.own_files import read_questions
from sppo.preparing.prompts import read_prompts

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=5)
BOM = b"\xef\xbb\xbf"
ANY_TEXT = st.text(st.characters())  # with halves of surrogate pairs
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=8,
)


def as_lines(texts):
    return "".join(json.dumps({"n": 1, "prompt": text}, ensure_ascii=False) + "\n" for text in texts).encode()


def as_array(texts):
    return json.dumps([{"n": 1, "prompt": text} for text in texts], indent=1).encode()


def as_csv(texts):
    file = io.StringIO(newline="")
    csv.writer(file).writerows([["n", "prompt"], *([1, text] for text in texts)])
    return file.getvalue().encode()


def as_parquet(texts):
    file = io.BytesIO()
    pq.write_table(pa.table({"n": [1] * len(texts), "prompt": pa.array(texts, pa.string())}), file)
    return file.getvalue()


def read(name, data, reader):
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).write_bytes(data)
        return reader(str(Path(folder) / name))


def prompts(path):
    return [row.text for row in read_prompts(path, PrepareConfig())]


@given(TEXTS)
def test_the_same_texts_are_read_whatever_they_are_written_as(texts):
    lines, array, cells = as_lines(texts), as_array(texts), as_csv(texts)
    for name, data in [
        ("a.jsonl", lines),
        ("a.JSONL", BOM + lines),
        ("a.jsonl", lines.replace(b"\n", b"\r\n \n")),
        ("a.jsonl.gz", gzip.compress(BOM + lines)),
        ("a.json", b"\n" + lines),
        ("a.json", array),
        ("a.Json", BOM + b"\r\n" + array.replace(b"\n", b"\r\n")),
        ("a.JSON.GZ", gzip.compress(array)),
        ("a.csv", cells),
        ("a.Csv", BOM + cells),
        ("a.csv.gz", gzip.compress(cells)),
        ("a.PARQUET", as_parquet(texts)),
    ]:
        assert read(name, data, prompts) == texts, name


def spoiled(data: bytes):
    """Strategy for a file that was good but for some bytes, or was cut off."""
    places = st.integers(0, len(data))
    return st.builds(lambda a, b, junk: data[:a] + junk + data[max(a, b) :], places, places, st.binary(max_size=4))


def files(*good: bytes):
    """Strategy for the bytes of a file: any, spoiled ones, and either compressed."""
    plain = st.binary() | st.one_of(map(spoiled, good))
    packed = st.one_of([spoiled(gzip.compress(data, mtime=0)) for data in good])
    return plain | st.builds(gzip.compress, plain) | packed


def read_or_told(name, data, reader):
    try:
        return read(name, data, reader)
    except ConfigError as error:
        assert "\n" not in str(error) and f"/{name}" in str(error)
        str(error).encode()
        return None


PROMPTS = ['Why, "you"?', "Zeile 1\r\nZeile 2", "x" * 60, ""]
PAIRS = [{"prompt": "p", "chosen": "c", "rejected": "r", "group": 3}, {"prompt": "q", "chosen": "", "rejected": "s"}]
QUESTIONS = [{"prompt": "p", "responses": ["a", "b"]}]
INSTRUCTIONS = [{"prompt": "p", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{"a": None}]}]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".jsonl.gz", ".json.gz", ".csv.gz"])
@given(files(as_lines(PROMPTS), as_array(PROMPTS), as_csv(PROMPTS)))
def test_any_bytes_are_prompts_or_one_line(suffix, data):
    read_or_told(f"a{suffix}", data, prompts)


@given(spoiled(as_parquet(PROMPTS)) | st.builds(lambda data: b"PAR1" + data + b"PAR1", st.binary()))
def test_any_bytes_as_parquet_are_prompts_or_one_line(data):
    read_or_told("a.parquet", data, prompts)


def pairs(path):
    return split(read_pairs(path), 0.5, 0)


def instructions(path):
    for _, row in read_instructions(Path(path), path):
        try:
            checkers_for(row.prompt, row.instruction_id_list, row.values)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error


READERS = [(pairs, PAIRS), (read_questions, QUESTIONS), (instructions, INSTRUCTIONS)]


@pytest.mark.parametrize(("reader", "good"), READERS)
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".jsonl.gz"])
@given(st.data())
def test_any_bytes_of_a_judges_file_are_rows_or_one_line(reader, good, suffix, data):
    drawn = data.draw(files("".join(json.dumps(row) + "\n" for row in good).encode(), json.dumps(good).encode()))
    read_or_told(f"a{suffix}", drawn, reader)


@pytest.mark.parametrize(("reader", "good"), READERS)
@given(st.data())
def test_any_value_of_any_column_is_taken_or_told_in_one_line(reader, good, data):
    value = JSON | st.lists(st.dictionaries(ANY_TEXT, JSON, max_size=1), min_size=1, max_size=1)
    row = good[0] | data.draw(st.dictionaries(st.sampled_from(sorted(good[0])), value, max_size=2))
    read_or_told("a.jsonl", json.dumps(row).encode(), reader)
