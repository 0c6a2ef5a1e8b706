import json
import os
import re
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sppo.config.sections.judge import JudgeConfig
from sppo.errors import ConfigError
from sppo.judging.load import check_judge, judge_digest, load_judge
from sppo.judging.preference_model import Comparison
from sppo.judging.rules import FOLLOWED
from sppo.judging.scores import differences

SETTINGS = JudgeConfig(cache=False)
COMPARISONS = st.lists(st.builds(Comparison, *[st.sampled_from("abc")] * 3), max_size=6)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module with a name of its own, which can be imported and is allowed."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("SPPO_RULES", raising=False)

    def write(name, text):
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.setenv("SPPO_RULES", f"{os.environ.get('SPPO_RULES', '')},{name}")
        return name

    return write


@given(COMPARISONS)
def test_a_comparison_is_a_difference_of_scores_each_computed_once(comparisons):
    asked = []

    def score(texts):
        asked.extend(texts)
        return [len(prompt) + 2.5 * ord(response) for prompt, response in texts]

    expected = [2.5 * (ord(each.first) - ord(each.second)) for each in comparisons]
    np.testing.assert_allclose(differences(comparisons, score), np.array(expected, np.float32))
    assert len(asked) == len(set(asked))


def test_a_function_judges(module):
    module("counting_rules", "calls = []\ndef score(prompt, response):\n    return response.count(prompt)\n")
    judge = load_judge("rules:counting_rules:score", SETTINGS)
    (matrix,) = judge.logits(["a"], [["aaaa", "b", "ba"]])
    np.testing.assert_array_equal(matrix, [[0, 4, 3], [-4, 0, -1], [-3, 1, 0]])
    assert judge.figures()["scored"] == 3


@pytest.mark.parametrize("value", ["None", "'4'", "float('nan')", "float('inf')", "1j", "[1.0]"])
def test_a_result_that_is_no_finite_number_is_named(module, value):
    name = module(f"bad_rules_{abs(hash(value))}", f"def score(prompt, response):\n    return {value}\n")
    with pytest.raises(ConfigError, match=r"returned .* for the prompt 'why\?'; return a finite number"):
        load_judge(f"rules:{name}:score", SETTINGS).compare([Comparison("why?", "a", "b")])


def test_problems_of_the_import_are_named(module, tmp_path, monkeypatch):
    module("broken_rules", "def score(:\n")
    module("needy_rules", "import no_such_package_anywhere\n")
    module("empty_rules", "score = 3\n")
    module("raising_rules", "\n{}['key']\n")
    (tmp_path / "raising_package").mkdir()
    (tmp_path / "raising_package" / "__init__.py").write_text("1 / 0\n")
    monkeypatch.setenv("SPPO_RULES", f"{os.environ['SPPO_RULES']},absent_rules,absent.rules,raising_package.rules")
    for entry, message in {
        "rules:absent_rules:score": "no module absent_rules",
        "rules:absent.rules:score": "No module named 'absent'",
        "rules:broken_rules:score": "cannot be imported .SyntaxError",
        "rules:needy_rules:score": "no_such_package_anywhere",
        "rules:raising_rules:score": r"cannot be imported .KeyError: 'key', raising_rules\.py line 2",
        "rules:raising_package.rules:score": "cannot be imported .ZeroDivisionError",
        "rules:empty_rules:score": "has no function score",
        "rules:empty_rules:other": "has no function other",
        "rules:empty_rules": "write rules:MODULE:FUNCTION",
        "rules:../x:score": "write rules:MODULE:FUNCTION",
    }.items():
        with pytest.raises(ConfigError, match=message):
            check_judge(entry, SETTINGS)


def test_an_error_in_the_function_is_a_line_that_names_it(module):
    module("failing_rules", "def score(prompt, response):\n    return 1 / 0\n")
    message = r"^rules:failing_rules:score: fails for the prompt 'p' \(ZeroDivisionError: division by zero, .*line 2\)"
    with pytest.raises(ConfigError, match=message):
        load_judge("rules:failing_rules:score", SETTINGS).compare([Comparison("p", "a", "b")])


CONSTANT = "def score(prompt, response):\n    return 1.0\n"


@pytest.mark.parametrize("allowed", [None, "", " , ", "own_rules:other", "own_rules.score", "own", "own_rules.below"])
def test_a_function_that_the_environment_does_not_allow_is_not_even_imported(module, monkeypatch, allowed):
    module("own_rules", "raise SystemExit('imported')\n")
    monkeypatch.delenv("SPPO_RULES")
    entry = "own_rules:score"
    if allowed is not None:
        monkeypatch.setenv("SPPO_RULES", allowed)
        entry = ",".join(filter(None, [allowed.strip(" ,"), entry]))
    told = f"here: export SPPO_RULES={entry}; on a cluster: the key SPPO_RULES of the ConfigMap sppo-settings"
    for ask in (check_judge, judge_digest, load_judge):
        with pytest.raises(ConfigError, match=f"^rules:own_rules:score: not among .*{re.escape(told)}$"):
            ask("rules:own_rules:score", SETTINGS)


def test_a_misspelt_function_is_told_which_allowed_one_may_be_meant(monkeypatch):
    monkeypatch.setenv("SPPO_RULES", "own_rules:score")
    with pytest.raises(
        ConfigError, match=r"allows; did you mean rules:own_rules:score\? To allow this one too, here: "
    ):
        check_judge("rules:own_rules:scoer", SETTINGS)


@pytest.mark.parametrize("allowed", ["own_rules:score", "own_rules", " other , own_rules:score ,"])
def test_the_export_that_a_refusal_prints_is_enough(module, monkeypatch, allowed):
    module("own_rules", CONSTANT)
    monkeypatch.setenv("SPPO_RULES", allowed)
    sys.modules.pop("own_rules", None)
    check_judge("rules:own_rules:score", SETTINGS)


@pytest.mark.parametrize("entry", ["timeit:timeit", "os.path:join", "builtins:eval", "subprocess:run", "_thread:exit"])
def test_the_standard_library_never_judges(monkeypatch, entry):
    """`timeit` would execute what it is given as a prompt and a response."""
    monkeypatch.setenv("SPPO_RULES", f"{entry},{entry.partition(':')[0]}")
    with pytest.raises(ConfigError, match=f"^rules:{entry}: is of Python's standard library, which never judges"):
        check_judge(f"rules:{entry}", SETTINGS)


def test_an_allowed_module_does_not_allow_what_it_imports(module, monkeypatch):
    module("lending_rules", CONSTANT)
    module("borrowing_rules", "from timeit import timeit\nfrom lending_rules import score\nprint = print\n")
    for name in ("timeit", "print"):
        for allowed in ("borrowing_rules", f"borrowing_rules:{name}"):
            monkeypatch.setenv("SPPO_RULES", allowed)
            with pytest.raises(ConfigError, match="standard library"):
                check_judge(f"rules:borrowing_rules:{name}", SETTINGS)
    monkeypatch.setenv("SPPO_RULES", "borrowing_rules")
    with pytest.raises(ConfigError, match=r"has it from lending_rules; .* allow borrowing_rules:score by name"):
        check_judge("rules:borrowing_rules:score", SETTINGS)
    monkeypatch.setenv("SPPO_RULES", "borrowing_rules:score")
    check_judge("rules:borrowing_rules:score", SETTINGS)


def test_a_wrong_entry_of_the_environment_is_named(module, monkeypatch):
    module("own_rules", CONSTANT)
    monkeypatch.setenv("SPPO_RULES", "own_rules, ../x:score")
    with pytest.raises(ConfigError, match=r"^SPPO_RULES: '\.\./x:score' is neither MODULE:FUNCTION nor MODULE"):
        check_judge("rules:own_rules:score", SETTINGS)


def test_the_digest_follows_the_source(module):
    module("changing_rules", "def score(prompt, response):\n    return 1.0\n")
    before = judge_digest("rules:changing_rules:score", SETTINGS)
    assert judge_digest("rules:changing_rules:score", SETTINGS) == before
    module("changing_rules", "def score(prompt, response):\n    return 2.0\n")
    assert judge_digest("rules:changing_rules:score", SETTINGS) != before


ROW = {"prompt": " Say it without commas. ", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{"x": None}]}


def test_instructions_are_found_by_their_prompt_and_take_no_nulls(tmp_path):
    path = tmp_path / "instructions.jsonl"
    path.write_text(json.dumps(ROW) + "\n\n" + json.dumps({**ROW, "prompt": "a\u2028b"}, ensure_ascii=False) + "\n")
    judge = load_judge(f"instructions:{path}", SETTINGS)
    for matrix in judge.logits(["Say it without commas.", "a\u2028b "], [["It", "It,"]] * 2):
        np.testing.assert_allclose(matrix, [[0, 4], [-4, 0]])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON in UTF-8"),
        ("[]", "not a JSON object"),
        (json.dumps({"prompt": "p"}), "instruction_id_list: field required; IFEval's form has"),
        (json.dumps({**ROW, "kwargs": []}), "1 ids but 0 kwargs; give one an id"),
        (json.dumps({**ROW, "kwargs": [3]}), r"kwargs\.0: input should be a valid dictionary"),
        (
            json.dumps({**ROW, "instruction_id_list": [], "kwargs": []}),
            "instruction_id_list: list should have at least 1",
        ),
    ],
)
def test_a_wrong_line_of_instructions_is_named(tmp_path, line, message):
    path = tmp_path / "instructions.jsonl"
    path.write_text(json.dumps(ROW) + "\n" + line + "\n")
    with pytest.raises(ConfigError, match=rf"instructions:.*instructions\.jsonl: line 2: {message}"):
        check_judge(f"instructions:{path}", SETTINGS)


def test_the_response_that_follows_more_instructions_wins(tmp_path):
    path = tmp_path / "instructions.jsonl"
    ids = ["punctuation:no_comma", "change_case:english_lowercase"]
    path.write_text(json.dumps({"prompt": "Name two rivers.", "instruction_id_list": ids, "kwargs": [{}, {}]}) + "\n")
    uri = f"instructions:{path}"
    check_judge(uri, SETTINGS)
    judge = load_judge(uri, SETTINGS)
    texts = ["the river rhine and the river elbe", "the river rhine, and the river elbe", "The Rhine, the Elbe"]
    (matrix,) = judge.logits(["Name two rivers. "], [texts])
    np.testing.assert_allclose(matrix, [[0, 2, 4], [-2, 0, 2], [-4, -2, 0]])
    (unknown,) = judge.logits(["Name one river."], [texts])
    np.testing.assert_array_equal(unknown, np.zeros((3, 3)))
    assert judge.figures()["scored"] == 6 and judge.figures()["without_instructions"] == 3
    before = judge_digest(uri, SETTINGS)
    path.write_text(json.dumps({"prompt": "p", "instruction_id_list": ids[:1], "kwargs": [{}]}) + "\n")
    assert judge_digest(uri, SETTINGS) != before


def test_a_missing_file_of_instructions_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no such file; give a \.jsonl file with prompt"):
        check_judge(f"instructions:{tmp_path / 'none.jsonl'}", SETTINGS)


@pytest.mark.parametrize(
    ("response", "whole"),
    [
        ("The end.", True),
        ("Is it?  \n", True),
        ("«Da»", True),
        ("```\nx = 1\n```", True),
        ("- **one**\n- **two**", True),
        ("没问题\u3002", True),
        ("\u300cそうです\uff01\u300d", True),
        ("यह सही है।", True),
        ("ما هذا؟", True),
        ("Great 😊", True),
        ("It works ✔️", True),
        ("| a | b |\n|---|---|\n| 1 | 2 |", True),
        ("好的\uff0c", False),
        ("没问题", False),
        ("And then the", False),
        ("1. First, 2", False),
        ("Here are three:", False),
        ("", False),
    ],
)
def test_a_response_that_ends_is_better_than_one_that_breaks_off(response, whole):
    judge = load_judge("unbroken", SETTINGS)
    other = "It is over!" if not whole else "It is not over and"
    logit = float(judge.compare([Comparison("p", response, other)])[0])
    assert logit == (FOLLOWED if whole else -FOLLOWED)


def test_the_judge_of_ends_takes_nothing_after_its_name():
    for ask in (check_judge, judge_digest, load_judge):
        with pytest.raises(ConfigError, match="write unbroken"):
            ask("unbroken:x", SETTINGS)
