import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sppo.config.sections.judge import JudgeConfig
from sppo.judging.cache import JudgementCache
from sppo.judging.judge import Judge
from sppo.judging.load import load_judge
from sppo.judging.preference_model import Comparison

TEXTS = st.lists(st.text("ab\ud800é", max_size=3), min_size=1, max_size=4)


class Counting:
    """A model that shows what it was asked: longer wins, and the first shown has the edge."""

    name = "counting"

    def __init__(self):
        self.asked = []

    def compare(self, comparisons):
        self.asked += comparisons
        return np.array([len(first) - len(second) + 0.5 for _, first, second in comparisons], np.float32)

    def figures(self):
        return {"calls": 1.0}

    def save(self, folder):
        (folder / "transcript").write_text("x")


@given(st.lists(st.tuples(st.text("pq", max_size=2), TEXTS), max_size=4))
def test_matrices_hold_every_ordered_pair_and_equal_texts_meet_at_zero(groups):
    prompts, responses = [g[0] for g in groups], [g[1] for g in groups]
    judge = Judge(Counting())
    for matrix, texts in zip(judge.logits(prompts, responses), responses, strict=True):
        expected = [[0.0 if a == b else len(a) - len(b) + 0.5 for b in texts] for a in texts]
        np.testing.assert_array_equal(matrix, np.array(expected, np.float32))
    asked = judge.model.asked
    assert len(asked) == len(set(asked)), "nothing is asked twice"
    assert all(first != second for _, first, second in asked)


@given(st.lists(st.builds(Comparison, st.text(max_size=3), TEXTS.map(str), st.text("ab", max_size=2)), max_size=8))
def test_what_one_process_judged_the_next_knows(tmp_path_factory, comparisons):
    folder = tmp_path_factory.mktemp("cache")
    first = Judge(Counting(), JudgementCache(folder))
    second = Judge(Counting(), JudgementCache(folder))  # started before the first judged: it has to ask
    third_values = first.compare(comparisons)
    np.testing.assert_array_equal(second.compare(comparisons), third_values)
    third = Judge(Counting(), JudgementCache(folder))
    np.testing.assert_array_equal(third.compare(comparisons), third_values)
    assert third.model.asked == []
    assert third.figures()["cached"] == first.figures()["asked"] == len(set(first.model.asked))


def test_a_record_that_a_kill_cut_off_is_asked_again(tmp_path):
    wanted = [Comparison("p", "aa", "b"), Comparison("p", "b", "aa")]
    Judge(Counting(), JudgementCache(tmp_path)).compare(wanted)
    (path,) = tmp_path.glob("*.bin")
    path.write_bytes(path.read_bytes()[:-1])
    again = Judge(Counting(), JudgementCache(tmp_path))
    np.testing.assert_array_equal(again.compare(wanted), [1.5, -0.5])
    assert again.model.asked == wanted[1:]


def test_a_logit_that_is_not_finite_is_not_kept(tmp_path):
    wanted = [Comparison("p", "a", "b"), Comparison("p", "b", "a")]
    cache = JudgementCache(tmp_path)
    cache.put(wanted, np.array([np.nan, 2.0], np.float32))
    np.testing.assert_array_equal(JudgementCache(tmp_path).get(wanted), [np.nan, 2.0])


def test_texts_are_not_confused_with_one_another(tmp_path):
    cache = JudgementCache(tmp_path)
    cache.put([Comparison("ab", "c", "d")], np.ones(1, np.float32))
    assert np.isnan(cache.get([Comparison("a", "bc", "d"), Comparison("ab", "d", "c")])).all()


def test_another_judge_or_other_arithmetic_has_a_cache_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("SPPO_CACHE", str(tmp_path))
    pair = ["Bread needs flour, water and yeast.", "No."]
    for asked, settings in ((2, JudgeConfig()), (0, JudgeConfig()), (2, JudgeConfig(dtype="bfloat16"))):
        judge = load_judge("package:sppo", settings)
        judge.logits(["How is bread made?"], [pair])
        assert judge.figures()["asked"] == asked
    assert load_judge("package:sppo", JudgeConfig(cache=False)).cache is None


@pytest.mark.parametrize("comparisons", [[], [Comparison("p", "same", "same")]])
def test_where_nothing_is_to_be_judged_nothing_is_asked(comparisons):
    judge = Judge(Counting())
    np.testing.assert_array_equal(judge.compare(comparisons), np.zeros(len(comparisons)))
    assert judge.model.asked == []


def test_weights_are_loaded_when_a_judgement_is_unknown(tmp_path, monkeypatch):
    """The second time, everything is known: what would load the weights is not called, the name is the same."""
    monkeypatch.setenv("SPPO_CACHE", str(tmp_path))
    pair = ["Bread needs flour, water and yeast.", "No."]
    first = load_judge("package:sppo")
    (logits,) = first.logits(["How is bread made?"], [pair])
    assert first.name == load_judge("package:sppo", JudgeConfig(cache=False)).model.name

    def fail(*_):
        raise AssertionError("loaded")

    monkeypatch.setattr("sppo.judging.kinds.encoder.Encoder.load", fail)
    again = load_judge("package:sppo")
    np.testing.assert_array_equal(again.logits(["How is bread made?"], [pair])[0], logits)
    assert again.name == first.name and again.tracked()["judge/cached"] == 2
    again.save(tmp_path)
    with pytest.raises(AssertionError, match="loaded"):
        again.logits(["Why?"], [pair])
