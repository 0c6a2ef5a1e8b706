"""The built-in prompts with a part and verifiable instructions: varied, kept apart, and each says what is checked."""

import hashlib
import json
import re
from collections import Counter
from importlib.resources import files
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest

from sppo.config.sections.judge import JudgeConfig
from sppo.config.sections.prepare import PrepareConfig
from sppo.judging.instruction_checks import follows
from sppo.judging.load import load_judge
from sppo.judging.rules import FOLLOWED
from sppo.preparing.prompts import Counts, clean, divide, read_prompts

from .instructed_answers import BROKEN, following
from .test_prompt_set import SPECIAL_TOKENS, normalise, words

BUNDLED = files("sppo") / "preparing" / "bundled"
IFEVAL = Path(__file__).parents[3] / "shared" / "data" / "ifeval" / "ifeval_541.jsonl"
NUMBERS = ("zero", "one", "two", "three", "four", "five")


def read(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def asked(row: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The instructions of a row with their values."""
    return dict(zip(row["instruction_id_list"], row["kwargs"], strict=True))


ROWS = read((BUNDLED / "verifiable.jsonl").read_text(encoding="utf-8"))
OTHERS = [row["prompt"] for row in read((BUNDLED / "prompts.jsonl").read_text(encoding="utf-8"))]
TRAINED = {name for row in ROWS if row["part"] == "train" for name in asked(row)}
NEVER_TRAINED = {name for row in ROWS for name in asked(row)} - TRAINED


# What there is


def test_every_row_is_in_ifevals_form_and_has_a_part() -> None:
    assert all(list(row) == ["prompt", "part", "instruction_id_list", "kwargs"] for row in ROWS)
    assert {row["part"] for row in ROWS} == {"train", "held-out"}
    assert all(1 <= len(asked(row)) == len(row["kwargs"]) <= 2 for row in ROWS)


def test_half_of_the_kinds_are_never_trained_on_and_never_asked_for_beside_the_others() -> None:
    assert len(TRAINED) == len(NEVER_TRAINED) >= 8
    assert not [row for row in ROWS if TRAINED & {*asked(row)} and NEVER_TRAINED & {*asked(row)}]
    counts = Counter((row["part"], {*asked(row)} <= TRAINED) for row in ROWS)
    assert counts["train", True] >= 270 and counts["held-out", True] >= 250 and counts["held-out", False] >= 100
    each = Counter(name for row in ROWS if row["part"] == "held-out" for name in asked(row))
    assert min(each[name] for name in TRAINED) >= 25 and min(each[name] for name in NEVER_TRAINED) >= 10


def test_the_readme_counts_the_kinds() -> None:
    readme = (BUNDLED / "README.md").read_text(encoding="utf-8")
    stated = {
        (name, part): int(count)
        for name, *counts in re.findall(r"^\| `(\w+:\w+)` +\| +(\d+) \| +(\d+) \|", readme, re.MULTILINE)
        for part, count in zip(("train", "held-out"), counts, strict=True)
        if int(count)
    }
    assert stated == Counter((name, row["part"]) for row in ROWS for name in asked(row))
    parts = Counter(row["part"] for row in ROWS)
    assert f"holds {len(ROWS)} prompts: {parts['train']} to train on and {parts['held-out']} to hold out" in readme


def test_neither_parts_nor_kinds_go_with_the_digests_by_which_prompts_are_divided() -> None:
    digests = [hashlib.sha256(row["prompt"].encode()).hexdigest() for row in ROWS]
    assert digests == sorted(digests)
    quarter = len(ROWS) // 4
    for start in range(0, 4 * quarter, quarter):
        rows = ROWS[start : start + quarter]
        assert 0.3 < sum(row["part"] == "train" for row in rows) / quarter < 0.55
        assert {name for row in rows for name in asked(row)} == TRAINED | NEVER_TRAINED


# Variety


def test_no_two_prompts_share_most_of_their_words() -> None:
    sets = [(row["prompt"], set(words(row["prompt"]))) for row in ROWS]
    others = [(prompt, set(words(prompt))) for prompt in OTHERS]
    pairs = [*combinations(sets, 2), *product(sets, others)]
    assert [(p, q) for (p, a), (q, b) in pairs if len(a & b) > 0.6 * len(a | b)] == []


@pytest.mark.skipif(not IFEVAL.is_file(), reason="IFEval's prompts are not in ../shared/data")
def test_no_prompt_is_one_of_ifevals() -> None:
    published = [(row["prompt"], set(words(row["prompt"]))) for row in read(IFEVAL.read_text(encoding="utf-8"))]
    assert len(published) == 541
    sets = [(row["prompt"], set(words(row["prompt"]))) for row in ROWS]
    assert [(p, q) for (p, a), (q, b) in product(sets, published) if len(a & b) > 0.6 * len(a | b)] == []


def test_prompts_are_unique_short_and_begin_in_many_ways() -> None:
    prompts = [row["prompt"] for row in ROWS]
    assert len({normalise(prompt) for prompt in [*prompts, *OTHERS]}) == len(prompts) + len(OTHERS)
    assert all(8 <= len(prompt.split()) <= 40 for prompt in prompts)
    openings = Counter(tuple(words(prompt)[:4]) for prompt in prompts)
    assert {opening: count for opening, count in openings.items() if count > 4} == {}
    assert [prompt for prompt in prompts if prompt != prompt.strip()] == []
    assert [prompt for prompt in prompts if any(token in prompt for token in SPECIAL_TOKENS)] == []


# What is asked is what is checked


def says_number(prompt: str, values: dict[str, Any]) -> bool:
    """Whether a prompt says the bound that its values set."""
    count = next(value for value in values.values() if isinstance(value, int))
    relation = next((value for value in values.values() if value in {"less than", "at least"}), "")

    def found(number: int) -> bool:
        names = [str(number), *NUMBERS[number : number + 1], *{1: ["once"], 2: ["twice"]}.get(number, [])]
        return any(re.search(rf"\b{name}\b", prompt.casefold()) for name in names)

    def has(phrases: str) -> bool:
        return re.search(phrases, prompt, re.IGNORECASE) is not None

    if relation == "less than":
        below = found(count) and has("fewer than|less than|under|below|shorter than|must not reach|is too long")
        return below or (found(count - 1) and has("at most|or fewer|or less|no more|one more|up to|maximum|go over"))
    if relation == "at least":
        reached = found(count) and has("at least|or more|no fewer|minimum|the very least|not write less")
        return reached or (found(count - 1) and has("more than"))
    return found(count)


def test_a_prompt_states_the_values_that_are_checked() -> None:
    silent = []
    for row in ROWS:
        prompt = row["prompt"]
        for name, values in asked(row).items():
            keywords = [*values.get("keywords", []), *values.get("forbidden_words", []), values.get("keyword")]
            literal = [f'"{word}"' for word in keywords if word]
            literal += [values[key] for key in ("end_phrase", "postscript_marker") if key in values]
            literal += [f"letter {values['letter']}"] if values.get("let_relation") == "less than" else []
            never = name == "keywords:letter_frequency" and values["let_frequency"] == 1 and "Do not use" in prompt
            counted = any(isinstance(value, int) for value in values.values())
            if not all(each in prompt for each in literal) or not (never or not counted or says_number(prompt, values)):
                silent.append((prompt, name, values))
    assert silent == []


@pytest.mark.parametrize("name", sorted(TRAINED | NEVER_TRAINED))
def test_an_answer_that_follows_passes_and_one_that_breaks_an_instruction_fails(name: str) -> None:
    rows = [row for row in ROWS if name in asked(row)]
    for row in rows:
        answer = following(asked(row))
        assert follows(row["prompt"], answer, row["instruction_id_list"], row["kwargs"]) == [True] * len(row["kwargs"])
        broken = BROKEN[name](asked(row)[name])
        assert follows(row["prompt"], broken, [name], [asked(row)[name]]) == [False], (broken, row)


def test_the_packaged_judge_knows_every_prompt_and_lets_the_others_tie() -> None:
    judge = load_judge("instructions:package:sppo", JudgeConfig(cache=False))
    rows = [*ROWS[:20], *({"prompt": prompt} for prompt in OTHERS[:5])]
    answers = [[following(asked(row)), " "] for row in rows[:20]] + [["One.", " "]] * 5
    logits = [matrix[0, 1] for matrix in judge.logits([row["prompt"] for row in rows], answers)]
    assert logits == [FOLLOWED] * 20 + [0.0] * 5
    assert judge.figures()["scored"] == 50 and judge.figures()["without_instructions"] == 10


def test_a_run_of_them_trains_on_no_prompt_and_no_kind_that_is_to_be_held_out() -> None:
    kinds = {row["prompt"]: {*asked(row)} for row in ROWS}
    rows = read_prompts(str(BUNDLED / "verifiable.jsonl"), PrepareConfig())
    parts = divide(clean(rows, Counts()), 3, 350, 90)
    assert {prompt.part for prompt in parts.held_out} == {"held-out"}
    played = [prompt for part in parts.iterations for prompt in part]
    assert {prompt.part for prompt in played} == {"train"} and len(played) == 270
    assert set().union(*(kinds[prompt.text] for prompt in played)) <= TRAINED
