import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sppo.errors import RunFailedError
from sppo.evaluation.winrate import Contest, contest, disagreement
from sppo.judging.judge import Judge

TEXTS = st.text("ab", max_size=6)


class LongerWins:
    """A preference model that anyone can predict: the difference in length, and the first shown has the edge."""

    name = "longer wins"

    def __init__(self, unit=1.0):
        self.unit, self.asked = unit, []

    def compare(self, comparisons):
        self.asked += comparisons
        return np.array([self.unit * (len(a) - len(b)) + 0.5 for _, a, b in comparisons], np.float32)

    def figures(self):
        return {}

    def save(self, folder):
        raise NotImplementedError


@st.composite
def answers(draw):
    """Two models' answers to some prompts, a fixed number of each."""
    sizes = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    prompts = draw(st.integers(1, 4))
    return [draw(st.lists(st.lists(TEXTS, min_size=n, max_size=n), min_size=prompts, max_size=prompts)) for n in sizes]


def test_the_longer_answers_win():
    result = contest(Judge(LongerWins()), ["p", "q"], [["aaa", "a"], ["a", "aa"]], [["aa"], ["aaaa"]], 1.0)
    np.testing.assert_array_equal(result.outcomes, [[[1], [0]], [[0], [0]]])
    np.testing.assert_allclose(result.win_rates, [0.5, 0.0])
    p = 1 / (1 + np.exp(-np.array([1.0, -1.0, -3.0, -2.0])))
    np.testing.assert_allclose(result.probabilities.ravel(), p)
    np.testing.assert_allclose(result.mean_probabilities, [p[:2].mean(), p[2:].mean()])


@given(answers(), st.floats(0.2, 5))
def test_what_one_wins_the_other_loses(both, temperature):
    ours, theirs = both
    prompts = ["p"] * len(ours)
    there = contest(Judge(LongerWins()), prompts, ours, theirs, temperature)
    back = contest(Judge(LongerWins()), prompts, theirs, ours, temperature)
    np.testing.assert_allclose(there.win_rates + back.win_rates, 1)
    np.testing.assert_allclose(there.probabilities + back.probabilities.transpose(0, 2, 1), 1)


@given(answers())
def test_only_answers_of_different_models_are_compared_in_both_orders_and_once(both):
    ours, theirs = both
    model = LongerWins()
    contest(Judge(model), [str(i) for i in range(len(ours))], ours, theirs, 1.0)
    cross = {
        (str(i), *order)
        for i, (left, right) in enumerate(zip(ours, theirs, strict=True))
        for a in left
        for b in right
        for order in ((a, b), (b, a))
        if a != b
    }
    assert sorted(model.asked) == sorted(cross)


@pytest.mark.parametrize("theirs", ["same", "emas"])
def test_answers_that_the_judge_cannot_tell_apart_tie(theirs):
    result = contest(Judge(LongerWins()), ["p"], [["same", "same"]], [[theirs]], 1.0)
    assert result.win_rates.tolist() == result.mean_probabilities.tolist() == [0.5]


def test_margins_beyond_all_measure_are_certain():
    result = contest(Judge(LongerWins(1e30)), ["p"], [["aa"]], [["a"]], 1.0)
    assert result.probabilities.item() == 1.0


def test_a_logit_that_is_not_finite_names_its_prompt():
    with pytest.raises(RunFailedError, match="longer wins: a logit is not finite for the prompt 'q'"):
        contest(Judge(LongerWins(np.nan)), ["p", "q"], [["a"], ["aa"]], [["a"], ["a"]], 1.0)


def test_judges_differ_where_their_outcomes_do():
    probabilities = np.full((2, 2, 1), 0.5)
    first = Contest(np.array([[[1.0], [0.0]], [[0.5], [0.0]]]), probabilities)
    second = Contest(np.array([[[1.0], [1.0]], [[1.0], [0.0]]]), probabilities)
    assert disagreement([first], [second]) == 0.5
    assert disagreement([first, second], [first, first]) == 0.25
