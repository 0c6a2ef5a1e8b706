import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from sppo.errors import ConfigError
from sppo.preparing.jsonl import read_jsonl, read_rows


class Number(BaseModel, strict=True):
    n: int


def rows(source):
    return [row for _, row in read_jsonl(source, "file")]


@given(st.lists(st.dictionaries(st.text(), st.text(), max_size=3)), st.sampled_from("\n \r"))
def test_what_is_written_is_read_whatever_its_line_ends_and_empty_lines(objects, empty):
    lines = [json.dumps(each, ensure_ascii=False) for each in objects]
    assert rows("\n".join(lines).encode()) == objects
    assert rows("".join(f"{line}\r\n{empty}\n" for line in lines).encode()) == objects


@pytest.mark.parametrize("within", ["\u2028", "\u2029", "\x85"])
def test_a_newline_alone_ends_a_line(within):
    assert rows(f'{{"a": "x{within}y"}}\n'.encode()) == [{"a": f"x{within}y"}]


@pytest.mark.parametrize("first", [b"", b"\n"])
def test_a_byte_order_mark_is_no_part_of_the_first_line(first):
    assert rows(b"\xef\xbb\xbf" + first + b'{"a": 1}\n') == [{"a": 1}]


def test_a_file_is_read_as_its_bytes_are_compressed_or_not(tmp_path):
    data = b'{"n": 1}\n\n{"n": 2}'
    (tmp_path / "a.jsonl").write_bytes(data)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(data))
    expected = [("file: line 1", {"n": 1}), ("file: line 3", {"n": 2})]
    for source in (data, tmp_path / "a.jsonl", tmp_path / "a.jsonl.gz"):
        assert list(read_jsonl(source, "file")) == expected
    assert list(read_rows(tmp_path / "a.jsonl", "file", Number)) == [(where, Number(**row)) for where, row in expected]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{oops}", r"not JSON in UTF-8 \(Expecting property name"),
        (b'{"a": "\xff"}', r"not JSON in UTF-8 \('utf-8' codec"),
        (b'{"a": 1} {"b": 2}', r"not JSON in UTF-8 \(Extra data"),
        (b"[1]", "not a JSON object$"),
        (b"null", "not a JSON object$"),
        (b"0", "not a JSON object$"),
        (b'{"a": -' + b"1" * 5000 + b"}", r"a number is too long \(Exceeds the limit \(4300 digits\)"),
        (b'{"a": ' + b"[" * 100_000, "brackets lie more than 100 deep in each other; flatten them$"),
        (b'{"a": ' + b'{"b": ' * 100 + b"1" + b"}" * 101, "brackets lie more than 100 deep"),
    ],
)
def test_a_wrong_line_is_named(line, message):
    with pytest.raises(ConfigError, match=rf"^setting: a\.jsonl: line 3: {message}"):
        list(read_jsonl(b'{"a": 1}\n\n' + line + b"\n", "setting: a.jsonl"))


def test_a_wrong_field_is_named_with_the_form_that_is_wanted(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"n": 1}\n{"n": "2"}\n')
    with pytest.raises(ConfigError, match=r"^a: line 2: n: input should be a valid integer; write n$"):
        list(read_rows(tmp_path / "a.jsonl", "a", Number, "; write n"))


DATA = gzip.compress(b'{"n": 1}\n' * 1000, mtime=0)


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"not gzip", 0),
        (DATA[:-20], r"\d+"),
        (DATA[:12] + b"\xff" * 20 + DATA[32:], 0),
        (gzip.compress(b'{"n": 1}\n' * 3) + DATA[:12], 3),
    ],
    ids=["other", "short", "changed", "second"],
)
@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json.gz"])
def test_a_damaged_compressed_file_is_named(tmp_path, name, data, line):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ConfigError, match=rf"^a: not readable as gzip \(.*\) after line {line}; copy or compress it"):
        list(read_jsonl(tmp_path / name, "a"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'[{"a": 1},\n3]', "row 2: not a JSON object"),
        (b'[{"a": 1},\n{"a": "\xff"}]', r"line 2: not JSON in UTF-8 \('utf-8' codec"),
        (b'[{"a": 1},\n{"a" 1}]', r"not JSON in UTF-8 \(Expecting ':' delimiter at character 6 of line 2\)"),
        (b'{\n"a": 1\n}', r"line 1: not JSON in UTF-8 \(.* at character 2\); write one object a line, or a .json file"),
        (b'[{"a": ' + b"1" * 5000 + b"}]", "a number is too long"),
        (b"[" * 100_000, "brackets lie more than 100 deep"),
    ],
    ids=["number", "latin", "colon", "object", "long", "deep"],
)
def test_a_wrong_array_is_named(tmp_path, data, message):
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(ConfigError, match=rf"^a: {message}"):
        list(read_jsonl(tmp_path / "a.json", "a"))
