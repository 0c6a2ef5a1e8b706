import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sppo.winrate import bootstrap_interval, contest, length_controlled_win_rate

ANSWERS = st.lists(st.text("ab", max_size=6), min_size=1, max_size=3)


class LongerWins:
    """A judge whose verdicts anyone can predict: the difference in length, plus a bias to the first shown."""

    name = "longer wins"

    def logits(self, prompts, responses):
        return [np.array([[(len(a) - len(b) + 0.5) * (a != b) for b in group] for a in group]) for group in responses]


def test_the_longer_answers_win():
    result = contest(LongerWins(), ["p", "q"], [["aaa", "a"], ["a"]], [["aa"], ["aaaa"]], 1.0)
    np.testing.assert_allclose(result.win_rates, [0.5, 0.0])
    p = 1 / (1 + np.exp(-np.array([1.0, -1.0, -3.0])))
    np.testing.assert_allclose(result.probabilities, [p[:2].mean(), p[2]])


@given(st.lists(st.tuples(ANSWERS, ANSWERS), min_size=1, max_size=4), st.floats(0.2, 5))
def test_what_one_wins_the_other_loses(answers, temperature):
    ours, theirs = ([pair[side] for pair in answers] for side in (0, 1))
    prompts = ["p"] * len(answers)
    there = contest(LongerWins(), prompts, ours, theirs, temperature)
    back = contest(LongerWins(), prompts, theirs, ours, temperature)
    np.testing.assert_allclose(there.win_rates + back.win_rates, 1)
    np.testing.assert_allclose(there.probabilities + back.probabilities, 1)


def test_equal_answers_tie():
    result = contest(LongerWins(), ["p"], [["same", "same"]], [["same"]], 1.0)
    assert result.win_rates.tolist() == result.probabilities.tolist() == [0.5]


@given(st.lists(st.floats(0, 1), min_size=2, max_size=50), st.integers(0, 1000))
def test_an_interval_holds_its_estimate_and_is_a_function_of_its_seed(values, seed):
    interval = bootstrap_interval(np.array(values), 500, seed)
    assert min(values) - 1e-9 <= interval.low <= interval.high <= max(values) + 1e-9
    assert interval.value == pytest.approx(np.mean(values))
    assert interval == bootstrap_interval(np.array(values), 500, seed)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    generator = np.random.default_rng(0)
    hits = 0
    for trial in range(300):
        interval = bootstrap_interval((generator.random(64) < 0.6).astype(float), 400, trial)
        hits += interval.low <= 0.6 <= interval.high
    assert 0.90 < hits / 300 < 0.985


def test_more_prompts_make_the_interval_narrower():
    values = np.tile([0.0, 1.0], 32)
    few, many = (bootstrap_interval(np.tile(values, n), 1000, 0) for n in (1, 16))
    assert (many.high - many.low) == pytest.approx((few.high - few.low) / 4, rel=0.25)


def logistic(count: int, intercept: float, slope: float):
    generator = np.random.default_rng(1)
    gaps = generator.normal(size=count)
    p = 1 / (1 + np.exp(-(intercept + slope * np.tanh(gaps / gaps.std()))))
    return (generator.random(count) < p).astype(float), gaps


def test_length_control_finds_no_win_where_length_explains_it():
    """Longer answers win, and ours are longer: 0.5 + log-odds of length only."""
    wins, gaps = logistic(4000, 0.0, 3.0)
    longer = gaps > 0
    raw = wins[longer].mean()
    assert raw > 0.8
    assert length_controlled_win_rate(wins, gaps) == pytest.approx(0.5, abs=0.03)


def test_length_control_keeps_a_win_that_length_does_not_explain():
    wins, gaps = logistic(4000, 1.0, 2.0)
    assert length_controlled_win_rate(wins, gaps) == pytest.approx(1 / (1 + np.exp(-1)), abs=0.03)


def test_length_control_of_equal_lengths_is_the_win_rate():
    assert length_controlled_win_rate(np.array([1.0, 0.5, 0.0, 1.0]), np.zeros(4)) == 0.625


@pytest.mark.parametrize("wins", [np.ones(8), np.zeros(8), np.repeat([0.0, 1.0], 4)])
def test_length_control_stays_finite_where_lengths_separate(wins):
    value = length_controlled_win_rate(wins, np.arange(8) - 3.5)
    assert 0 <= value <= 1
