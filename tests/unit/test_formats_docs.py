"""docs/formats.md: its columns are those of the code, its examples are read by it, and every key of a run is there."""

import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from sppo.config.sections.prepare import PrepareConfig
from sppo.judging.instruction_checks import checkers_for, read_instructions
from sppo.judging.labelled_pairs import read_pairs
from sppo.judging.own_files import read_questions
from sppo.preparing.prompts import read_prompts
from sppo.store import keys, tables

from .real_commands import ROOT

PAGE = (ROOT / "docs" / "formats.md").read_text()
SCHEMAS = {name: value for name, value in vars(tables).items() if isinstance(value, pa.Schema)}
DIGEST = "0123456789abcdef"
PATHS = {name: value for name, value in vars(keys).items() if inspect.isfunction(value) and name != "short"}


def section(title: str) -> str:
    """What the page says under a heading."""
    assert f"\n### {title}\n" in PAGE, f"docs/formats.md: no section {title}"
    return PAGE.partition(f"\n### {title}\n")[2].partition("\n##")[0]


def fenced(text: str, language: str) -> str:
    (block,) = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    return block


def in_words(kind: pa.DataType) -> str:
    return f"list of {in_words(kind.value_type)}" if pa.types.is_list(kind) else str(kind)


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_columns_of_a_table_are_those_of_its_schema(name: str) -> None:
    text = section(name.replace("_", " ").capitalize())
    columns = re.findall(r"^\| `(\w+)` \| ([\w ]+) \| .+ \|$", text, re.MULTILINE)
    assert columns == [(field.name, in_words(field.type)) for field in SCHEMAS[name]]


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_example_of_a_table_is_a_row_of_it(name: str) -> None:
    row = json.loads(fenced(section(name.replace("_", " ").capitalize()), "json"))
    assert list(row) == SCHEMAS[name].names
    assert pa.Table.from_pylist([row], schema=SCHEMAS[name]).num_rows == 1


def test_every_table_of_the_page_is_one_of_the_code() -> None:
    part = PAGE.partition("\n## Tables\n")[2].partition("\n## ")[0]
    assert len(re.findall(r"^### ", part, re.MULTILINE)) == len(SCHEMAS) >= 10


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_a_key_of_a_run_is_on_the_page(path: Callable[..., str]) -> None:
    samples = {"iteration": 1, "shard": 0, "shards": 1, "chunk": 0, "name": "NAME"}
    values = [samples.get(name, DIGEST) for name in inspect.signature(path).parameters]
    pattern = re.escape(path(*values)).replace(DIGEST, "[0-9a-f]{16}").replace(keys.short(DIGEST), "[0-9a-f]{8}")
    pattern = pattern.replace("iteration\\-1", "iteration\\-[12]")  # the first has no log-probabilities of the base
    assert re.search(rf"[\s`/]{pattern}", PAGE), f"docs/formats.md does not show {path(*values)}"


@pytest.mark.parametrize("name", [value for key, value in vars(keys).items() if key.endswith("_FILE")])
def test_a_file_of_a_run_is_on_the_page(name: str) -> None:
    assert name in PAGE


def test_the_examples_of_what_is_read_are_read(tmp_path: Path) -> None:
    def file(title: str, language: str = "jsonl") -> Path:
        path = tmp_path / f"{title}.{language}"
        path.write_text(fenced(section(title), language))
        return path

    lines = read_prompts(str(file("Files of prompts")), PrepareConfig())
    assert [row.part for row in lines] == ["", "held-out"]
    cells = read_prompts(str(file("Files of prompts", "csv")), PrepareConfig())
    assert [row.part for row in cells] == ["", "train"] and 'the "flower beds".' in cells[1].text
    assert [pair.group for pair in read_pairs(str(file("Preference pairs")))][1] == "pumpkins"
    assert len(read_questions(str(file("Responses to judge")))[0].responses) == 3
    for _, row in read_instructions(file("Prompts with verifiable instructions"), "the page"):
        assert checkers_for(row.prompt, row.instruction_id_list, row.values)
