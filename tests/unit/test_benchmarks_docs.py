"""docs/benchmarks.md: its commands are real, its keys exist, and every figure that it names is given."""

import re

import pytest

from sppo.config.run import all_keys
from sppo.config.sections.bench import BENCHMARKS

from .real_commands import ROOT, check, commands

PAGE = (ROOT / "docs" / "benchmarks.md").read_text()
COMMANDS = [
    words for words in commands("".join(re.findall(r"^    (.*\n)", PAGE, re.MULTILINE))) if words[0] != "export"
]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words[:3]))
def test_a_command_of_the_page_exists(words: list[str]) -> None:
    check(words)


def test_every_benchmark_and_only_real_keys_are_on_the_page() -> None:
    assert {words[1] for words in COMMANDS} == {"bench", "run", "submit"}
    assert all(re.search(rf"^\| `{name}` \|", PAGE, re.MULTILINE) for name in BENCHMARKS)
    named = set(re.findall(r"`?\b((?:bench|judge|generate)\.[a-z_.]*[a-z])\b", PAGE))
    assert named - {"judge.llm"} <= set(all_keys())
