import gzip
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sppo.errors import ConfigError
from sppo.judging.instruction_checks import follows

IFEVAL = Path(__file__).parents[3] / "shared" / "data" / "ifeval"

CASES = [
    ("punctuation:no_comma", {}, "No commas here.", "One, two."),
    ("length_constraints:number_words", {"num_words": 3, "relation": "less than"}, "Two words.", "Three words now."),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": "at least"},
        "Dr. No sat. I ran.",
        "Dr. No.",
    ),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "One.\n***\nTwo.", "One.\n\nTwo."),
    ("keywords:existence", {"keywords": ["heron", "pond"]}, "A heron by the pond.", "A heron."),
    ("keywords:forbidden_words", {"forbidden_words": ["very"]}, "Every day.", "A very good day."),
    ("keywords:frequency", {"keyword": "tea", "frequency": 2, "relation": "at least"}, "Tea and tea.", "Tea."),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* one\n* two", "* one\n* two\n* three"),
    ("detectable_format:json_format", {}, '```json\n{"a": 1}\n```', "a: 1"),
    ("detectable_format:title", {}, "<<A walk>>\nIt rained.", "A walk\nIt rained."),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye.\nP.S. Write soon.", "Bye."),
    ("startend:end_checker", {"end_phrase": "That is all."}, "Hello. That is all.", "That is all. Bye."),
    ("startend:quotation", {}, '"Quoted."', "Not quoted."),
    ("change_case:english_lowercase", {}, "all of this is in small letters.", "This is not."),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 1, "capital_relation": "at least"},
        "STOP now.",
        "Stop.",
    ),
    ("language:response_language", {"language": "de"}, "Das ist ein kurzer deutscher Satz.", "This is an English one."),
]


@pytest.mark.parametrize(("name", "values", "good", "bad"), CASES, ids=[case[0] for case in CASES])
def test_a_checker_tells_a_response_that_follows_from_one_that_does_not(
    name: str, values: dict[str, Any], good: str, bad: str
) -> None:
    assert follows("Say something.", good, [name], [values]) == [True]
    assert follows("Say something.", bad, [name], [values]) == [False]


EVERY = {
    **{name: values for name, values, _, _ in CASES},
    "keywords:letter_frequency": {"letter": "a", "let_frequency": 2, "let_relation": "at least"},
    "length_constraints:nth_paragraph_first_word": {"num_paragraphs": 2, "nth_paragraph": 1, "first_word": "tea"},
    "detectable_content:number_placeholders": {"num_placeholders": 1},
    "detectable_format:constrained_response": {},
    "detectable_format:number_highlighted_sections": {"num_highlights": 1},
    "detectable_format:multiple_sections": {"section_spliter": "Section", "num_sections": 2},
    "combination:two_responses": {},
    "combination:repeat_prompt": {"prompt_to_repeat": "Say something."},
    "change_case:english_capital": {},
}
ODD = [
    *(
        "12345",
        "!!! ??? ...",
        "🙂🙂",
        "\u200b",
        "\ufeff",
        "\x00",
        "\ud800",
        "\u202e",
        "½⅓",
        "、。",
        "١٢٣",
        "Ⅷ",
        "\t\n\r",
        "-",
        "***",
    ),
    *(
        "[" * 4_000,
        "{" * 4_000,
        '{"a":' * 4_000,
        "```json\n" + "[" * 4_000,
        "NaN",
        "1" * 10_000,
        "<<>>",
        "<<",
        '"',
        "'",
    ),
    *(
        "# " * 500,
        "* \n" * 500,
        "a" * 50_000,
        "word " * 5_000,
        ". " * 5_000,
        "\n\n" * 500,
        "P.S.",
        "Section 1",
        "******",
        "[]",
    ),
    *("The answer is yes.", "ÀÉÎ", "ß", "ﬁ", "🏴" * 100),
]


def test_every_instruction_that_lm_eval_knows_is_tried():
    from lm_eval.tasks.ifeval.instructions_registry import INSTRUCTION_DICT

    assert set(EVERY) == set(INSTRUCTION_DICT) and (len(EVERY), len(ODD)) == (25, 40)


@pytest.mark.parametrize(("name", "values"), EVERY.items(), ids=EVERY)
def test_no_answer_ends_a_run(name: str, values: dict[str, Any]) -> None:
    for answer in ODD:
        (verdict,) = follows("Say something.", answer, [name], [values])
        assert verdict in {True, False, None}


def test_a_checker_that_fails_counts_as_not_followed_and_is_told() -> None:
    assert follows("Say something.", "12345", ["language:response_language"], [{"language": "de"}]) == [None]
    assert follows("Write JSON.", "[" * 4_000, ["detectable_format:json_format"], [{}]) == [None]


def test_every_instruction_of_a_prompt_gets_its_verdict() -> None:
    ids = ["punctuation:no_comma", "startend:quotation", "detectable_format:title"]
    assert follows("Write.", '"<<A title>>, and more"', ids, [{}, {"unused": None}, {}]) == [False, True, True]


def test_a_response_without_text_follows_nothing() -> None:
    assert follows("Write.", " \n", ["punctuation:no_comma"], [{}]) == [False]


@pytest.mark.parametrize(
    ("ids", "values", "message"),
    [
        (
            ["punctuation:no_coma"],
            [{}],
            "unknown instruction 'punctuation:no_coma'; did you mean 'punctuation:no_comma'",
        ),
        (["poetry:rhyme"], [{}], "unknown instruction 'poetry:rhyme'; known are .*startend:quotation"),
        (["punctuation:no_comma"], [{"num_words": 3}], "punctuation:no_comma does not take"),
        (["length_constraints:number_words"], [{"num_words": 3, "relation": "about"}], "number_words does not take"),
        (["length_constraints:number_words"], [{"num_words": "3"}], "number_words does not take"),
    ],
)
def test_a_wrong_instruction_is_named(ids: list[str], values: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        follows("Write.", "Text.", ids, values)


@given(st.text(max_size=40), st.integers(0, 10))
def test_what_a_checker_draws_depends_on_the_prompt_alone(response: str, seed: int) -> None:
    ids = ["length_constraints:number_sentences", "keywords:letter_frequency", "startend:end_checker"]
    random.seed(seed)
    state = random.getstate()
    verdicts = follows("Open.", response, ids, [{}, {}, {}])
    assert random.getstate() == state
    random.seed(seed + 1)
    assert follows("Open.", response, ids, [{}, {}, {}]) == verdicts


def test_sentences_are_split_without_a_download(tmp_path: Path) -> None:
    code = """
import socket
def refuse(*_): raise AssertionError("the network was asked")
socket.getaddrinfo = socket.socket.connect = refuse
from sppo.judging.instruction_checks import follows
values = {"capital_frequency": 3, "capital_relation": "at least"}
print(follows("", "ALL OF IT.", ["change_case:capital_word_frequency"], [values]))
"""
    environment = {**os.environ, "SPPO_CACHE": str(tmp_path / "cache"), "NLTK_DATA": "", "HOME": str(tmp_path)}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (ran.returncode, ran.stdout.split()[-1:]) == (0, ["[True]"]), ran.stderr
    assert "punkt" not in ran.stderr


@pytest.mark.skipif(not IFEVAL.is_dir(), reason="IFEval's prompts and published responses are not in ../shared/data")
def test_published_accuracies_are_reproduced() -> None:
    # Of Mistral-7B-Instruct-v0.3.
    prompts = [json.loads(line) for line in (IFEVAL / "ifeval_541.jsonl").open()]
    with gzip.open(IFEVAL / "responses_mistralai__Mistral-7B-Instruct-v0.3.jsonl.gz", "rt") as lines:
        responses = [json.loads(line)["response"] for line in lines]
    verdicts = [
        follows(row["prompt"], response, row["instruction_id_list"], row["kwargs"])
        for row, response in zip(prompts, responses, strict=True)
    ]
    flat = [verdict for row in verdicts for verdict in row]
    assert len(verdicts) == 541
    assert 100 * sum(map(all, verdicts)) / len(verdicts) == pytest.approx(47.13, abs=0.5)
    assert 100 * sum(flat) / len(flat) == pytest.approx(58.99, abs=0.5)
