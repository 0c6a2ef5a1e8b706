"""docs/benchmarks.md: its keys exist, and every figure that it names is given."""

import re

from sppo.config.run import all_keys
from sppo.config.sections.bench import BENCHMARKS

from .real_commands import ROOT, commands_of_page

PAGE = (ROOT / "docs" / "benchmarks.md").read_text()
COMMANDS = commands_of_page(PAGE)


def test_every_benchmark_and_only_real_keys_are_on_the_page() -> None:
    assert {words[1] for words in COMMANDS} == {"bench", "run", "submit"}
    assert all(re.search(rf"^\| `{name}` \|", PAGE, re.MULTILINE) for name in BENCHMARKS)
    named = set(re.findall(r"`?\b((?:bench|judge|generate)\.[a-z_.]*[a-z])\b", PAGE))
    assert named - {"judge.llm"} <= set(all_keys())
