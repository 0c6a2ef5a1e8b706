import io
import json
import random
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sppo.config.sections.prepare import PrepareConfig
from sppo.errors import ConfigError
from sppo.preparing.prompts import Counts, clean, divide, read_prompts

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), max_size=30)
PROMPTS = ["Why is the sky blue?", "Zeile 1\nZeile 2, „ok“", 'quote " and, comma', ""]


def prompts(count: int):
    return clean([f"prompt {i}" for i in range(count)], Counts())


def write(path, texts: list[str]):
    match path.suffix:
        case ".jsonl":
            path.write_text("\n".join(json.dumps({"prompt": text, "n": 1}) for text in texts) + "\n\n")
        case ".csv":
            import csv

            with path.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([["n", "prompt"], *([i, text] for i, text in enumerate(texts))])
        case ".parquet":
            pq.write_table(pa.table({"prompt": texts}), path)
    return path


def parquet(old: bytes, new: bytes, columns=("prompt",)) -> bytes:
    """A Parquet file of ten prompts, with some of its bytes replaced."""
    file = io.BytesIO()
    table = pa.table([[f"{name} {i}" for i in range(10)] for name in columns], names=columns)
    pq.write_table(table, file, compression="none", use_dictionary=False, write_statistics=False)
    assert old in file.getvalue()
    return file.getvalue().replace(old, new)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
@pytest.mark.parametrize("scheme", ["", "file://"])
def test_every_format_gives_the_same_prompts(tmp_path, suffix, scheme):
    path = write(tmp_path / f"prompts{suffix}", PROMPTS)
    assert read_prompts(f"{scheme}{path}", PrepareConfig()) == PROMPTS


def test_the_byte_order_mark_of_a_spreadsheet_is_no_part_of_a_column(tmp_path):
    path = tmp_path / "prompts.csv"
    path.write_bytes("prompt\nhello\n".encode("utf-8-sig"))
    assert read_prompts(str(path), PrepareConfig()) == ["hello"]


def test_the_built_in_prompts_are_distinct():
    counts = Counts()
    kept = clean(read_prompts("package:sppo", PrepareConfig()), counts)
    assert len(kept) == counts.read >= 3 * 64 + 64


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"prompt": "x"}\n{oops}\n', "line 2: not JSON in UTF-8 (Expecting"),
        ("a.jsonl", b'{"prompt": "x"}\n["y"]\n', "line 2: not a JSON object"),
        ("a.jsonl", b'{"prompt": "\xff"}\n', "line 1: not JSON in UTF-8"),
        ("a.jsonl", b'{"prompt": "\\ud800"}\n', "row 1: column 'prompt' is not Unicode"),
        (
            "a.jsonl",
            b'{"prompt": "x"}\n{"text": "y", "z": 1}\n',
            "row 2 has no column 'prompt' (it has text, z); set prep",
        ),
        ("a.jsonl", b'{"prompt": 3}\n', "row 1: column 'prompt' is not text; prepare.format=text reads such as 'Why"),
        ("a.csv", b"prompt\nx\n\xff\n", "line 3: not CSV in UTF-8"),
        ("a.csv", b"text\nx\n", "has no column 'prompt' (it has text); set prepare.prompt_column"),
        ("a.csv", b'"te\nxt"\n' + b'"y' * 300, "has no column 'prompt' (it has te\\nxt)"),
        ("a.csv", b"prompt,n,prompt\n", "column 'prompt' is there 2 times; rename all but one"),
        ("a.csv", b"n,prompt\n1\n", "row 1: column 'prompt' is not text"),
        (
            "a.csv",
            b"prompt\n\nok\nHello, world\n",
            "row 2 (line 4): more cells than the header; quote a cell that holds",
        ),
        ("a.csv", b'prompt\n"a"\n"b\n"c"\n', "row 2 (line 3): not CSV (',' expected after"),
        ("a.csv", b'prompt\n"a', "row 1 (line 2): not CSV (unexpected end of data); close every quote"),
        ("a.csv.gz", b"prompt\na\n", "not readable as gzip (Not a gzipped file"),
        (
            "a.json",
            b'[{"prompt": "x"},\n{"prompt" "y"}]',
            "not JSON in UTF-8 (Expecting ':' delimiter at character 11 of",
        ),
        ("a.parquet", b"text", "damaged, or not a Parquet file ("),
        ("a.parquet", b"PAR1" + b"\xff" * 40 + b"\x20\0\0\0PAR1", "damaged, or not a Parquet file ("),
        ("a.parquet", parquet(b"prompt 7", b"prompt\xff7"), "damaged, or not a Parquet file ('utf-8' codec"),
        ("a.parquet", parquet(b"PAR1\x15", b"PAR1\x0f"), "damaged, or not a Parquet file ("),
        ("a.parquet", parquet(b"", b"", ["n", "n"]), "has no column 'prompt' (it has n, n); set prepare"),
        ("a.parquet", parquet(b"", b"", ["prompt"] * 2), "column 'prompt' is there 2 times"),
        ("a.txt", b"x", "unknown format .txt; give a .jsonl, .json, .csv or .parquet file"),
        ("a", b"x", "unknown format (no suffix)"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(str(path))) as caught:
        read_prompts(str(path), PrepareConfig())
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(
        ConfigError, match=re.escape("prompts: /none.jsonl: no such file; give a .jsonl, .json, .csv or")
    ):
        read_prompts("/none.jsonl", PrepareConfig())


def test_a_quote_that_is_not_closed_loses_no_rows_in_silence(tmp_path):
    path = write(tmp_path / "prompts.csv", [f'prompt {i}, "quoted"' for i in range(40)])
    whole = path.read_text()
    path.write_text(whole.replace('"prompt 13, ""quoted"""', '"prompt 13, ""quoted""'))
    assert path.read_text() != whole
    with pytest.raises(ConfigError, match=r"row 14 \(line 15\): not CSV"):
        read_prompts(str(path), PrepareConfig())


def test_a_column_that_is_not_asked_for_is_not_read(tmp_path):
    path = tmp_path / "prompts.parquet"
    path.write_bytes(parquet(b"other 7", b"other\xff7", ["prompt", "other"]))
    assert read_prompts(str(path), PrepareConfig()) == [f"prompt {i}" for i in range(10)]
    with pytest.raises(ConfigError, match="'utf-8' codec"):
        read_prompts(str(path), PrepareConfig(prompt_column="other"))


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_a_prompt_may_be_a_long_document(tmp_path, suffix):
    texts = ["x" * 200_000, "y"]
    assert read_prompts(str(write(tmp_path / f"prompts{suffix}", texts)), PrepareConfig()) == texts


CODE = "    if a:\n\tb()\n"


@pytest.mark.parametrize(
    ("text", "kept"),
    [(CODE, CODE.rstrip()), (f"\n \r\n{CODE}\n \n", CODE.rstrip()), ("\xa0\t x", "\t x"), ("\n\nx ", "x")],
)
def test_the_indentation_of_a_prompt_is_kept(text, kept):
    counts = Counts()
    (prompt,) = clean([text, kept, text.strip(), " \n"], counts)
    assert prompt.text == kept and (counts.duplicate, counts.empty) == (2, 1)
    assert (prompt.prompt_id == clean([text.strip()], Counts())[0].prompt_id) == (kept == text.strip())


@given(TEXTS)
def test_every_prompt_read_is_kept_or_counted(texts):
    counts = Counts()
    kept = clean(texts, counts)
    assert counts.read == len(texts) == len(kept) + counts.empty + counts.duplicate
    assert [p.text.strip() for p in kept] == list(dict.fromkeys(t.strip() for t in texts if t.strip()))
    assert len({p.prompt_id for p in kept}) == len(kept)


@given(TEXTS)
def test_cleaning_twice_changes_nothing(texts):
    once = clean(texts, Counts())
    assert clean([p.text for p in once], Counts()) == once


@given(st.integers(4, 60), st.integers(1, 4), st.integers(0, 4), st.integers(0, 5), st.randoms(use_true_random=False))
def test_parts_are_disjoint_and_do_not_depend_on_the_files_order(
    total, iterations, held_out, each, shuffler: random.Random
):
    given_prompts = prompts(total)
    if held_out + iterations * max(each, 1) > total:
        with pytest.raises(ConfigError, match="usable prompts"):
            divide(given_prompts, iterations, held_out, each)
        return
    parts = divide(given_prompts, iterations, held_out, each)
    everything = [p for part in [parts.held_out, *parts.iterations] for p in part]
    assert len(everything) == len(set(everything)) and set(everything) <= set(given_prompts)
    assert len(parts.held_out) == held_out
    assert {len(part) for part in parts.iterations} == {each or (total - held_out) // iterations}
    shuffler.shuffle(given_prompts)
    assert divide(given_prompts, iterations, held_out, each) == parts


@given(st.integers(1, 5), st.integers(1, 5))
def test_more_iterations_leave_the_earlier_parts_alone(few, more):
    small, large = (divide(prompts(60), count, 5, 4) for count in (few, few + more))
    assert large.held_out == small.held_out
    assert large.iterations[:few] == small.iterations


def test_too_few_prompts_say_what_is_needed():
    expected = "prompts: 9 usable prompts, but 4 held out and 3 iterations of 2 need 10; give more prompts, or lower"
    with pytest.raises(ConfigError, match=re.escape(expected)):
        divide(prompts(9), 3, 4, 2)
