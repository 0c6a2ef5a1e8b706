"""The built-in prompts: enough of them, of every category, varied, and free of chat markup."""

import json
import re
from collections import Counter
from importlib.resources import files
from itertools import combinations

import pytest

CATEGORIES = {"facts", "writing", "code", "reasoning", "advice", "rewriting", "planning", "dialogue"}
SPECIAL_TOKENS = ("<|", "|>", "<s>", "</s>", "[INST]", "[/INST]", "<<SYS>>", "<pad>", "<unk>", "<bos>", "<eos>")


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    text = (files("sppo") / "preparing" / "bundled" / "prompts.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def prompts(rows: list[dict[str, str]]) -> list[str]:
    return [row["prompt"] for row in rows]


def normalise(prompt: str) -> str:
    return " ".join(prompt.casefold().split())


def words(prompt: str) -> list[str]:
    return re.findall(r"[\w']+", prompt.casefold())


def test_every_row_has_a_prompt_and_a_category_and_two_in_three_are_held_out(rows: list[dict[str, str]]) -> None:
    assert all({"prompt", "category"} <= set(row) <= {"prompt", "category", "part"} for row in rows)
    assert [row.get("part", "") for row in rows] == ["" if n % 3 == 0 else "held-out" for n in range(len(rows))]


def test_there_are_enough_prompts_of_every_category(rows: list[dict[str, str]]) -> None:
    counts = Counter(row["category"] for row in rows)
    assert set(counts) == CATEGORIES
    assert min(counts.values()) == max(counts.values())
    assert len(rows) >= 240


def test_readme_states_the_count_of_each_category(rows: list[dict[str, str]]) -> None:
    readme = (files("sppo") / "preparing" / "bundled" / "README.md").read_text(encoding="utf-8")
    stated = {name: int(count) for name, count in re.findall(r"^\| (\w+) +\| +(\d+) \|", readme, flags=re.MULTILINE)}
    assert stated == Counter(row["category"] for row in rows)
    assert f"holds {len(rows)} " in readme


def test_prompts_are_unique_after_normalisation(prompts: list[str]) -> None:
    repeated = [prompt for prompt, count in Counter(map(normalise, prompts)).items() if count > 1]
    assert repeated == []


def test_no_two_prompts_share_most_of_their_words(prompts: list[str]) -> None:
    sets = [(prompt, set(words(prompt))) for prompt in prompts]
    close = [(p, q) for (p, a), (q, b) in combinations(sets, 2) if len(a & b) > 0.6 * len(a | b)]
    assert close == []


def test_no_opening_of_four_words_is_overused(prompts: list[str]) -> None:
    openings = Counter(tuple(words(prompt)[:4]) for prompt in prompts)
    assert {opening: count for opening, count in openings.items() if count > 4} == {}


def test_lengths_are_within_bounds_and_mostly_short(prompts: list[str]) -> None:
    lengths = [len(prompt.split()) for prompt in prompts]
    assert min(lengths) >= 8
    assert max(lengths) <= 80
    assert sum(10 <= length <= 35 for length in lengths) > len(lengths) / 2


def test_prompts_are_trimmed_and_hold_no_special_token_or_address(prompts: list[str]) -> None:
    assert [prompt for prompt in prompts if prompt != prompt.strip()] == []
    assert [prompt for prompt in prompts if any(token in prompt for token in SPECIAL_TOKENS)] == []
    assert [prompt for prompt in prompts if re.search(r"https?:|www\.|\S@\S", prompt)] == []
