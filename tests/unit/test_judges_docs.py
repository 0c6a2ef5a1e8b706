"""docs/judges.md: its examples are real, and it has every kind of judge and every setting."""

import re

import pytest
import yaml

from sppo.config.run import all_keys, resolve
from sppo.config.sections.judge import JudgeConfig
from sppo.judging.instruction_checks import read_instructions
from sppo.judging.load import load_judge
from sppo.judging.registry import Kind, kinds
from sppo.judging.rules import FOLLOWED

from .real_commands import ROOT, commands_of_page

PAGE = (ROOT / "docs" / "judges.md").read_text()
FENCED = dict(re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL))
COMMANDS = commands_of_page(PAGE)


FORMS = re.findall(r"^\| (.+?) \|.*\|$", PAGE.partition("|---|")[2].partition("\n\n")[0], re.MULTILINE)


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: type(kind).__name__)
def test_every_kind_has_a_row(kind: Kind) -> None:
    beginnings = kind.schemes or [re.split("[ ,]", kind.example)[0]]
    missing = [word for word in beginnings if not any(re.search(f"`{re.escape(word)}[:`]", form) for form in FORMS)]
    assert not missing, f"docs/judges.md: its table has no row with {missing} for {type(kind).__module__}; add one"


def test_every_row_has_a_kind() -> None:
    for form in FORMS:
        named = re.findall(r"`(.+?)`", form)
        assert any(name in kind.example for kind in kinds() for name in named), f"docs/judges.md: {form}: no such kind"


def test_the_settings_on_the_page_are_those_there_are() -> None:
    assert len(COMMANDS) >= 5
    named = set(re.findall(r"(?<!/)\b(judge\.[a-z_.]*[a-z])\b", PAGE))
    keys = {key for key in all_keys() if key.startswith("judge.")}
    # The page names the ones that are explained; none of them may be invented, and none of the limits forgotten.
    assert named - {"judge.llm"} <= keys
    assert {key for key in keys if key.startswith("judge.llm.")} <= named


def test_the_example_of_a_mixture_is_one() -> None:
    config = resolve(yaml.safe_load(FENCED["yaml"]))
    assert [member.weight for member in config.judge.mixture] == [2.0, 1.0]


def test_the_example_of_a_rule_judges(tmp_path, monkeypatch) -> None:
    (tmp_path / "rules_of_the_page.py").write_text(FENCED["python"])
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("SPPO_RULES", "rules_of_the_page:score")
    judge = load_judge("rules:rules_of_the_page:score", JudgeConfig(cache=False))
    assert judge.logits(["p"], [["{}", "{"]])[0][0, 1] == FOLLOWED == 4.0


def test_the_example_of_instructions_is_one(tmp_path) -> None:
    (tmp_path / "file.jsonl").write_text(FENCED["json"])
    assert len(read_instructions(tmp_path / "file.jsonl", "the page")) == 1
