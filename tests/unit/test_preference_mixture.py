import json
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sppo.config.run import resolve
from sppo.config.sections.judge import JudgeConfig, MixtureMember
from sppo.errors import ConfigError
from sppo.judging.load import check_judge, judge_digest, load_judge
from sppo.judging.mixture import Mixture
from sppo.judging.preference_model import Comparison

NUMBERS = st.floats(0.1, 5)
LOGITS = st.lists(st.floats(-9, 9, width=32), min_size=3, max_size=3)
WANTED = [Comparison("p", "a", text) for text in "xyz"]


class Fixed:
    """A model with given logits."""

    def __init__(self, logits, name="fixed"):
        self.logits, self.name = np.array(logits, np.float32), name

    def compare(self, comparisons):
        return self.logits

    def figures(self):
        return {"scored": 2.0}

    def save(self, folder):
        if self.name == "writes":
            (folder / "transcript.jsonl").write_text("x")


def member(weight=1.0, temperature=1.0):
    return MixtureMember(model="x", weight=weight, temperature=temperature)


@given(LOGITS, LOGITS, NUMBERS, NUMBERS, NUMBERS, NUMBERS)
def test_logits_are_the_weighted_mean_of_calibrated_ones(first, second, w, v, tau, rho):
    members, models = [member(w, tau), member(v, rho)], [Fixed(first), Fixed(second)]
    expected = [(w * a / tau + v * b / rho) / (w + v) for a, b in zip(first, second, strict=True)]
    mixed = Mixture(members, models).compare(WANTED)
    np.testing.assert_allclose(mixed, expected, rtol=1e-5, atol=1e-5)
    scaled = [member(3 * w, tau), member(3 * v, rho)]
    np.testing.assert_allclose(Mixture(scaled, models).compare(WANTED), mixed, rtol=1e-5, atol=1e-5)
    assert Mixture([member(v, tau)], [Fixed(first)]).compare(WANTED) == pytest.approx(np.array(first) / tau, rel=1e-5)


def test_disagreement_is_counted_and_measured():
    mixture = Mixture([member(1.0), member(3.0)], [Fixed([2, -1, 0]), Fixed([-2, -1, 1])])  # mixed: -1, -1, 0.75
    for _ in range(2):
        mixture.compare(WANTED)
    figures = mixture.figures()
    assert figures["compared"] == 6 and figures["disagreements"] == 2
    first = 0.25 * (sigmoid(2) - sigmoid(-1)) + 0.75 * (sigmoid(-1) - sigmoid(-2))
    last = 0.25 * (sigmoid(0.75) - sigmoid(0)) + 0.75 * (sigmoid(1) - sigmoid(0.75))
    assert figures["deviation"] == pytest.approx(2 * (first + last))
    assert figures["member_1_scored"] == figures["member_2_scored"] == 2


def sigmoid(logit):
    return 1 / (1 + np.exp(-logit))


def test_without_instructions_the_other_members_decide(monkeypatch, tmp_path):
    (tmp_path / "counting_words.py").write_text("def score(prompt, response):\n    return len(response.split())\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("SPPO_RULES", "counting_words")
    row = {"prompt": "Quote.", "instruction_id_list": ["startend:quotation"], "kwargs": [{}]}
    (tmp_path / "file.jsonl").write_text(json.dumps(row))
    models = ({"model": "rules:counting_words:score"}, {"model": f"instructions:{tmp_path / 'file.jsonl'}"})
    judge = load_judge("mixture", JudgeConfig(cache=False, mixture=models))
    asked, free = judge.logits(["Quote.", "Talk."], [['"one"', "one two three"]] * 2)
    np.testing.assert_allclose([asked[0, 1], free[0, 1]], [(4 - 2) / 2, -2 / 2])
    assert judge.figures()["member_2_without_instructions"] == 2


def test_members_write_into_folders_of_their_own(tmp_path):
    Mixture([member(), member()], [Fixed([1]), Fixed([1], "writes")]).save(tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == [
        "member_2",
        "member_2/transcript.jsonl",
    ]


@pytest.fixture
def rules(tmp_path, monkeypatch):
    """A module with two opinions, and a cache of its own."""
    (tmp_path / "opinions.py").write_text(
        "asked = []\ndef length(p, r):\n    asked.append(r)\n    return len(r)\ndef vowels(p, r):\n"
        "    return -float(sum(map(r.count, 'aeiou')))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("SPPO_RULES", "opinions")
    monkeypatch.delitem(sys.modules, "opinions", raising=False)  # that of an earlier test, whose folder is gone
    monkeypatch.setenv("SPPO_CACHE", str(tmp_path / "cache"))


def settings(*members):
    return JudgeConfig(mixture=members)


LENGTH = {"model": "rules:opinions:length"}
VOWELS = {"model": "rules:opinions:vowels", "weight": 3.0, "temperature": 0.5}


def test_a_mixture_is_configured_like_any_value(rules):
    members = json.dumps([LENGTH, VOWELS])
    config = resolve({"preference_model": "mixture", "judge.mixture": json.loads(members)})
    judge = load_judge(config.preference_model, config.judge)
    (matrix,) = judge.logits(["p"], [["tree", "oak"]])
    np.testing.assert_allclose(matrix[0, 1], (1 * 1 + 3 * 0 / 0.5) / 4)
    assert "0.25 rules:opinions:length" in judge.name


def test_other_weights_ask_no_member_again(rules):
    import opinions

    opinions.asked.clear()
    for weight in (1.0, 2.0):
        judge = load_judge("mixture", settings(LENGTH | {"weight": weight}, VOWELS))
        judge.logits(["p"], [["tree", "oak"]])
        assert judge.figures()["asked"] == 2
        assert judge.figures()["member_1_asked"] == (2 if weight == 1 else 0)
    assert opinions.asked == ["tree", "oak"]


def test_the_digest_is_of_the_members_their_weights_and_temperatures(rules):
    variants = [
        (LENGTH, VOWELS),
        (LENGTH,),
        (LENGTH, VOWELS | {"weight": 2.0}),
        (LENGTH | {"temperature": 2.0}, VOWELS),
    ]
    assert len({judge_digest("mixture", settings(*members)) for members in variants}) == len(variants)


def test_wrong_mixtures_are_configuration_errors(rules):
    for members, message in {
        (): "a mixture needs members",
        ("mixture",): "cannot be a member of itself",
        ("rules:opinions:none",): "no function none",
        ("no/such/folder",): "no such model folder",
    }.items():
        with pytest.raises(ConfigError, match=message):
            check_judge("mixture", settings(*({"model": member} for member in members)))
    with pytest.raises(ConfigError, match="weight"):
        resolve({"judge.mixture": [{"model": "x", "weight": 0}]})
