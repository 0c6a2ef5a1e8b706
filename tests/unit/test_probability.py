import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sppo.probability import ESTIMATORS, intransitive_triads, probabilities, win_probabilities

LOGITS = st.integers(2, 6).flatmap(
    lambda k: arrays(np.float64, (k, k), elements=st.floats(-50, 50)).map(lambda m: m * (1 - np.eye(k)))
)
TEMPERATURES = st.floats(0.1, 10)
ESTIMATOR = st.sampled_from(sorted(ESTIMATORS))


def distinct(count: int) -> list[str]:
    return [f"response {i}" for i in range(count)]


@given(LOGITS, ESTIMATOR, TEMPERATURES)
def test_the_two_sides_of_a_comparison_add_up_to_one(logits, estimator, temperature):
    pairwise = probabilities(logits, distinct(len(logits)), estimator, temperature)
    np.testing.assert_allclose(pairwise + pairwise.T, 1, atol=1e-12)
    np.testing.assert_array_equal(pairwise.diagonal(), 0.5)


@given(LOGITS, ESTIMATOR, TEMPERATURES)
def test_a_response_meets_itself_with_one_half(logits, estimator, temperature):
    """Including the self term keeps P(y > pi) within [1/2K, 1 - 1/2K]."""
    k = len(logits)
    win = win_probabilities(probabilities(logits, distinct(k), estimator, temperature))
    assert (win >= 1 / (2 * k) - 1e-12).all() and (win <= 1 - 1 / (2 * k) + 1e-12).all()
    assert win.mean() == pytest.approx(0.5)


@given(LOGITS, ESTIMATOR, st.data())
def test_the_order_of_the_responses_does_not_matter(logits, estimator, data):
    order = data.draw(st.permutations(range(len(logits))))
    texts = distinct(len(logits))
    win = win_probabilities(probabilities(logits, texts, estimator, 1.0))
    shuffled = probabilities(logits[np.ix_(order, order)], [texts[i] for i in order], estimator, 1.0)
    np.testing.assert_allclose(win_probabilities(shuffled), win[order], atol=1e-12)


@given(LOGITS, ESTIMATOR)
def test_equal_texts_tie_whatever_the_logits_say(logits, estimator):
    texts = ["same"] * (len(logits) - 1) + ["other"]
    pairwise = probabilities(logits, texts, estimator, 1.0)
    assert (pairwise[:-1, :-1] == 0.5).all()


@pytest.mark.parametrize("estimator", sorted(ESTIMATORS))
@pytest.mark.parametrize("size", [1e3, 1e30, 1e300])
def test_large_logits_saturate_without_overflow(estimator, size):
    logits = np.array([[0, size], [-size, 0]])
    with np.errstate(over="raise", invalid="raise"):
        np.testing.assert_allclose(probabilities(logits, distinct(2), estimator, 1.0), [[0.5, 1], [0, 0.5]])


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_a_logit_that_is_not_finite_is_refused(wrong):
    with pytest.raises(ValueError, match="not finite"):
        probabilities(np.array([[0, wrong], [0, 0]]), distinct(2), "paper", 1.0)


def test_the_paper_averages_both_orders():
    """M_12 = 3 (the first shown wins), M_21 = 1 (so does the first shown): position bias cancels, 2/2 = 1 remains."""
    logits = np.array([[0, 3.0], [1.0, 0]])
    p = 1 / (1 + math.exp(-1))
    np.testing.assert_allclose(probabilities(logits, distinct(2), "paper", 1.0), [[0.5, p], [1 - p, 0.5]])
    halved = probabilities(logits, distinct(2), "paper", 2.0)[0, 1]
    assert halved == pytest.approx(1 / (1 + math.exp(-0.5)))


def test_the_released_code_sums_both_orders_into_one_score_a_response():
    """By hand: scores ((2 + 4)/3, (-2 + 0)/3, (-4 + 0)/3) = (2, -2/3, -4/3), then Bradley-Terry."""
    logits = np.array([[0, 1.5, 3.0], [-0.5, 0, 0.25], [-1.0, 0.25, 0]])
    scores = [2, -2 / 3, -4 / 3]
    expected = [[1 / (1 + math.exp(b - a)) for b in scores] for a in scores]
    np.testing.assert_allclose(probabilities(logits, distinct(3), "official", 1.0), expected)


@given(LOGITS, TEMPERATURES)
def test_collapsed_probabilities_are_always_transitive(logits, temperature):
    pairwise = probabilities(logits, distinct(len(logits)), "official", temperature)
    assert intransitive_triads(pairwise)[0] == 0


def test_rock_paper_scissors_is_a_cycle_that_only_pairwise_probabilities_keep():
    beats = np.array([[0, -2.0, 2.0], [2.0, 0, -2.0], [-2.0, 2.0, 0]])
    paper = probabilities(beats, distinct(3), "paper", 1.0)
    assert intransitive_triads(paper) == (1, 1)
    np.testing.assert_allclose(win_probabilities(paper), 0.5)
    np.testing.assert_allclose(probabilities(beats, distinct(3), "official", 1.0), 0.5)


def test_triads_with_a_tie_are_not_counted():
    ordered = np.array([[0.5, 0.9, 0.9, 0.9], [0.1, 0.5, 0.8, 0.5], [0.1, 0.2, 0.5, 0.7], [0.1, 0.5, 0.3, 0.5]])
    assert intransitive_triads(ordered) == (0, 2)  # of four triples, the two with both 1 and 3 hold a tie
    assert intransitive_triads(np.full((4, 4), 0.5)) == (0, 0)
