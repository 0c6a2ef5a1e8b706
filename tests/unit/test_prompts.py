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
from sppo.preparing.prompts import Counts, Prompt, Row, clean, clean_all, divide, read_prompts

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), max_size=30)
PROMPTS = ["Why is the sky blue?", "Zeile 1\nZeile 2, „ok“", 'quote " and, comma', ""]


def prompts(count: int, part=""):
    return clean([Row(f"prompt {i} {part}", part) for i in range(count)], Counts())


def texts_of(uri, **settings) -> list[str]:
    return [row.text for row in read_prompts(uri, PrepareConfig(**settings))]


def cleaned(texts: list[str], counts: Counts) -> list[Prompt]:
    return clean([Row(text) for text in texts], counts)


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
    assert texts_of(f"{scheme}{path}") == PROMPTS


def test_the_byte_order_mark_of_a_spreadsheet_is_no_part_of_a_column(tmp_path):
    path = tmp_path / "prompts.csv"
    path.write_bytes("prompt\nhello\n".encode("utf-8-sig"))
    assert texts_of(str(path)) == ["hello"]


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
    assert texts_of(str(path)) == [f"prompt {i}" for i in range(10)]
    with pytest.raises(ConfigError, match="'utf-8' codec"):
        texts_of(str(path), prompt_column="other")


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_a_prompt_may_be_a_long_document(tmp_path, suffix):
    texts = ["x" * 200_000, "y"]
    assert texts_of(str(write(tmp_path / f"prompts{suffix}", texts))) == texts


CODE = "    if a:\n\tb()\n"


@pytest.mark.parametrize(
    ("text", "kept"),
    [(CODE, CODE.rstrip()), (f"\n \r\n{CODE}\n \n", CODE.rstrip()), ("\xa0\t x", "\t x"), ("\n\nx ", "x")],
)
def test_the_indentation_of_a_prompt_is_kept(text, kept):
    counts = Counts()
    (prompt,) = cleaned([text, kept, text.strip(), " \n"], counts)
    assert prompt.text == kept and (counts.duplicate, counts.empty) == (2, 1)
    assert (prompt.prompt_id == cleaned([text.strip()], Counts())[0].prompt_id) == (kept == text.strip())


@given(TEXTS)
def test_every_prompt_read_is_kept_or_counted(texts):
    counts = Counts()
    kept = cleaned(texts, counts)
    assert counts.read == len(texts) == len(kept) + counts.empty + counts.duplicate
    assert [p.text.strip() for p in kept] == list(dict.fromkeys(t.strip() for t in texts if t.strip()))
    assert len({p.prompt_id for p in kept}) == len(kept)


@given(TEXTS)
def test_cleaning_twice_changes_nothing(texts):
    once = cleaned(texts, Counts())
    assert cleaned([p.text for p in once], Counts()) == once


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


@pytest.mark.parametrize(
    ("given_prompts", "have", "needed"),
    [
        (prompts(9), "9 usable prompts", "10"),
        (
            prompts(9, "train") + prompts(3, "held-out"),
            "12 usable prompts, 3 that may be held out and 9 then left to train on",
            "4 and 6",
        ),
        (
            prompts(5, "train") + prompts(9, "held-out"),
            "14 usable prompts, 9 that may be held out and 5 then left to train on",
            "4 and 6",
        ),
    ],
)
def test_too_few_prompts_say_what_is_needed(given_prompts, have, needed):
    expected = f"prompts: {have}, but 4 held out and 3 iterations of 2 need {needed}; give more prompts, or lower"
    with pytest.raises(ConfigError, match=re.escape(expected)):
        divide(given_prompts, 3, 4, 2)


# The column `part`


@given(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), st.integers(0, 12), st.integers(0, 3), st.randoms())
def test_a_part_is_kept_to_and_the_rest_is_divided_by_content(train, held, free, held_out, each, shuffler):
    rows = prompts(train, "train") + prompts(held, "held-out") + prompts(free)
    shuffler.shuffle(rows)
    try:
        parts = divide(rows, 2, held_out, each)
    except ConfigError:
        assert held + free < held_out or train + max(free - held_out, 0) < 2 * max(each, 1)
        return
    played = [prompt for part in parts.iterations for prompt in part]
    assert len(parts.held_out) == held_out and not {*parts.held_out} & {*played}
    assert "train" not in {prompt.part for prompt in parts.held_out}
    assert "held-out" not in {prompt.part for prompt in played}
    assert parts.held_out == sorted(parts.held_out, key=lambda prompt: prompt.prompt_id)
    shuffler.shuffle(rows)
    assert divide(rows, 2, held_out, each) == parts


PARTS = [Row("a", "train"), Row("b", "held-out"), Row("c")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b'{"prompt":"a","part":"train"}\n{"part":"held-out","prompt":"b"}\n{"prompt":"c"}\n'),
        ("b.jsonl", b'{"prompt":"a","part":"train"}\n{"part":"held-out","prompt":"b"}\n{"prompt":"c","part":null}\n'),
        ("a.csv", b"prompt,part\na,train\nb,held-out\nc\n"),
        ("b.csv", b"part,prompt\ntrain,a\nheld-out,b\n,c\n"),
        ("a.parquet", pa.table({"n": [1, 2, 3], "part": ["train", "held-out", None], "prompt": ["a", "b", "c"]})),
    ],
)
def test_the_part_of_a_row_is_read(tmp_path, name, content):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        pq.write_table(content, path)
    assert read_prompts(str(path), PrepareConfig()) == PARTS
    assert [prompt.part for prompt in clean(PARTS, Counts())] == ["train", "held-out", ""]


@pytest.mark.parametrize("part", ["test", "Train", 1, ["train"], {"train": 1}])
def test_another_part_is_named(tmp_path, part):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"prompt": "a"}) + "\n" + json.dumps({"prompt": "b", "part": part}) + "\n")
    message = f"row 2: column 'part' is '{part}'; write train, held-out or nothing, or rename the column"
    with pytest.raises(ConfigError, match=re.escape(message)):
        read_prompts(str(path), PrepareConfig())


def test_a_column_part_may_be_the_message(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"part\nWhy is the sky blue?\n")
    assert read_prompts(str(path), PrepareConfig(prompt_column="part")) == [Row("Why is the sky blue?")]


@pytest.mark.parametrize("parts", [("train", ""), ("", "train"), ("train", "train")])
def test_of_two_rows_that_are_one_prompt_the_part_counts(parts):
    assert [prompt.part for prompt in clean([Row("a ", parts[0]), Row("a", parts[1])], Counts())] == ["train"]


def test_a_prompt_cannot_be_trained_on_and_held_out():
    with pytest.raises(ConfigError, match="'a b' is there with the part train and with held-out; drop one"):
        clean([Row("a b", "train"), Row("c", "train"), Row(" a b", "held-out")], Counts())


def test_of_several_sources_each_iteration_has_its_own_and_the_first_is_held_out_of():
    counts = Counts()
    sets = [[Row(f"{name} {i}") for i in range(10)] for name in "abc"]
    sets[1] += [Row("a 3"), Row(" a 4 ")]
    found = clean_all(sets, counts)
    assert (counts.read, counts.duplicate) == (32, 2)
    parts = divide(found, 3, 4, 0, 3)
    assert {prompt.text[0] for prompt in parts.held_out} == {"a"}
    assert [{prompt.text[0] for prompt in part} for part in parts.iterations] == [{"a"}, {"b"}, {"c"}]
    assert [len(part) for part in parts.iterations] == [6, 10, 10], "0: all that a source has"
    assert not {*parts.held_out} & {*parts.iterations[0]}
    assert divide(found[::-1], 3, 4, 0, 3) == parts
    fewer = divide(found, 3, 4, 2, 3)
    assert [part[:2] for part in parts.iterations] == fewer.iterations and fewer.held_out == parts.held_out


@pytest.mark.parametrize(
    ("held_out", "each", "message"),
    [
        (
            11,
            1,
            "the first has 10 that may be held out, of which 11 are needed; the one for iteration 1 has 0",
        ),
        (4, 7, "the one for iteration 1 has 6; the one for iteration 2 has 3; each needs 7"),
    ],
)
def test_a_source_with_too_few_prompts_is_named(held_out, each, message):
    found = clean_all([[Row(f"{name} {i}") for i in range(count)] for name, count in (("a", 10), ("b", 3))], Counts())
    with pytest.raises(ConfigError, match=message):
        divide(found, 2, held_out, each, 2)


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_a_column_that_may_belong_to_the_prompt_is_told(tmp_path, capsys, suffix):
    rows = [{"instruction": "Shorten.", "input": text} for text in ("A long text.", "Another.", " ")]
    path = tmp_path / f"alpaca.{suffix}"
    if suffix == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif suffix == "csv":
        path.write_text("instruction,input\n" + "".join(f"{row['instruction']},{row['input']}\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    read_prompts(str(path), PrepareConfig(prompt_column="instruction"))
    told = f"warning: prompts: {path}: 2 rows have a column 'input' too, which is not read; if it belongs to the prompt"
    assert told in capsys.readouterr().out
    read_prompts(str(path), PrepareConfig(prompt_column="input"))
    assert "warning" not in capsys.readouterr().out
