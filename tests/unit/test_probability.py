import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sppo.algorithm.probability import (
    ESTIMATORS,
    SIMILAR_FROM,
    intransitive_triads,
    probabilities,
    similarity,
    soften_duplicates,
    trigrams,
    win_probabilities,
    without_length,
)

LOGITS = st.integers(2, 6).flatmap(
    lambda k: arrays(np.float64, (k, k), elements=st.floats(-50, 50)).map(lambda m: m * (1 - np.eye(k)))
)
TEMPERATURES = st.floats(0.1, 10)
ESTIMATOR = st.sampled_from(sorted(ESTIMATORS))
SOFT = st.booleans()
WORDS = st.lists(st.sampled_from(["a long word", "another", "is", "is not"]), max_size=30).map(" ".join)


@st.composite
def chunk(draw):
    """Logits of a few prompts and the lengths of their responses."""
    logits = draw(st.lists(LOGITS, min_size=1, max_size=4))
    return logits, [draw(st.lists(st.integers(0, 1000), min_size=len(m), max_size=len(m))) for m in logits]


def distinct(count: int) -> list[str]:
    return [f"response {i}" for i in range(count)]


@given(LOGITS, ESTIMATOR, TEMPERATURES, SOFT)
def test_the_two_sides_of_a_comparison_add_up_to_one(logits, estimator, temperature, soft):
    pairwise = probabilities(logits, distinct(len(logits)), estimator, temperature, soft)
    np.testing.assert_allclose(pairwise + pairwise.T, 1, atol=1e-12)
    np.testing.assert_array_equal(pairwise.diagonal(), 0.5)


@given(LOGITS, ESTIMATOR, TEMPERATURES, SOFT)
def test_a_response_meets_itself_with_one_half(logits, estimator, temperature, soft):
    """Including the self term keeps P(y > pi) within [1/2K, 1 - 1/2K]."""
    k = len(logits)
    win = win_probabilities(probabilities(logits, distinct(k), estimator, temperature, soft))
    assert (win >= 1 / (2 * k) - 1e-12).all() and (win <= 1 - 1 / (2 * k) + 1e-12).all()
    assert win.mean() == pytest.approx(0.5)


@given(LOGITS, ESTIMATOR, SOFT, st.data())
def test_the_order_of_the_responses_does_not_matter(logits, estimator, soft, data):
    k = len(logits)
    order = data.draw(st.permutations(range(k)))
    texts = data.draw(st.lists(WORDS, min_size=k, max_size=k))
    pairwise = probabilities(logits, texts, estimator, 1.0, soft)
    shuffled = probabilities(logits[np.ix_(order, order)], [texts[i] for i in order], estimator, 1.0, soft)
    np.testing.assert_allclose(shuffled, pairwise[np.ix_(order, order)], atol=1e-12)


@given(LOGITS, ESTIMATOR, SOFT)
def test_equal_texts_tie_whatever_the_logits_say(logits, estimator, soft):
    texts = ["same"] * (len(logits) - 1) + ["other"]
    pairwise = probabilities(logits, texts, estimator, 1.0, soft)
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


def margins(logits):
    return [(matrix - matrix.T) / 2 for matrix in logits]


def gaps(lengths):
    return [np.subtract.outer(each, each) for each in map(np.array, lengths)]


@given(chunk())
def test_what_is_left_without_length_is_uncorrelated_with_it(drawn):
    logits, lengths = drawn
    left = np.concatenate([m.ravel() for m in margins(without_length(logits, lengths))])
    gap = np.concatenate([g.ravel() for g in gaps(lengths)])
    size = np.abs(np.concatenate([m.ravel() for m in margins(logits)])).max() + 1
    assert abs(left @ gap) <= 1e-9 * size * (np.abs(gap).sum() + 1)
    assert left.mean() == pytest.approx(0, abs=1e-9 * size) and gap.mean() == pytest.approx(0, abs=1e-9)


@given(chunk())
def test_correcting_the_length_keeps_the_position_bias_and_corrects_once(drawn):
    logits, lengths = drawn
    corrected = without_length(logits, lengths)
    for before, after, again in zip(logits, corrected, without_length(corrected, lengths), strict=True):
        np.testing.assert_allclose(after + after.T, before + before.T, atol=1e-9)
        np.testing.assert_allclose(again, after, atol=1e-9)


@given(st.lists(LOGITS, min_size=1, max_size=3), st.integers(0, 1000))
def test_equal_lengths_leave_the_logits_alone(logits, length):
    for before, after in zip(logits, without_length(logits, [[length] * len(m) for m in logits]), strict=True):
        np.testing.assert_array_equal(after, before)


@given(chunk(), st.data())
def test_correcting_the_length_does_not_depend_on_the_order_of_the_responses(drawn, data):
    logits, lengths = drawn
    orders = [data.draw(st.permutations(range(len(m)))) for m in logits]
    shuffled = without_length(
        [m[np.ix_(o, o)] for m, o in zip(logits, orders, strict=True)],
        [[each[i] for i in o] for each, o in zip(lengths, orders, strict=True)],
    )
    for after, order, expected in zip(shuffled, orders, without_length(logits, lengths), strict=True):
        np.testing.assert_allclose(after, expected[np.ix_(order, order)], atol=1e-9)


def test_a_judge_of_length_alone_is_left_without_an_opinion():
    """By hand: 0.1 logits a token, in two prompts; what a third one adds beside it stays."""
    lengths = [[3, 10, 20], [5, 8]]
    logits = [0.1 * gap for gap in gaps(lengths)]
    for corrected in without_length(logits, lengths):
        np.testing.assert_allclose(corrected, 0, atol=1e-12)
    opinion = np.array([[0, 2.0], [-2.0, 0]])
    corrected = without_length([*logits, opinion], [*lengths, [7, 7]])
    np.testing.assert_allclose(corrected[2], opinion)
    np.testing.assert_allclose(corrected[0], 0, atol=1e-12)


@given(WORDS, WORDS)
def test_similarity_is_symmetric_within_bounds_and_one_for_equal_texts(a, b):
    assert similarity(a, b) == similarity(b, a)
    assert 0 <= similarity(a, b) <= 1
    assert similarity(a, a) == 1


def test_similarity_counts_common_trigrams():
    """abcd: abc, bcd; abce: abc, bce. One of three is common. A repeated trigram counts as often as both have it."""
    assert similarity("abcd", "abce") == pytest.approx(1 / 3)
    assert similarity("aaaa", "aaaaaa") == pytest.approx(2 / 4)
    assert similarity("", "a") == 0 and similarity("", "") == 1
    assert similarity("x" * 50 + "y", "x" * 50 + "z") > SIMILAR_FROM


@given(LOGITS, ESTIMATOR, st.data())
def test_softening_only_pulls_towards_one_half(logits, estimator, data):
    texts = data.draw(st.lists(WORDS, min_size=len(logits), max_size=len(logits)))
    before = probabilities(logits, texts, estimator, 1.0)
    after = soften_duplicates(before, trigrams(texts))
    assert (np.abs(after - 0.5) <= np.abs(before - 0.5)).all()
    assert ((after - 0.5) * (before - 0.5) >= 0).all()
    for i, j in np.ndindex(before.shape):
        if i != j and similarity(texts[i], texts[j]) <= SIMILAR_FROM:
            assert after[i, j] == pytest.approx(before[i, j], abs=1e-15)


def test_softening_grows_smoothly_from_the_threshold_to_equality():
    long = "".join(chr(97 + i % 26) + str(i) for i in range(200))
    sure = np.array([[0.5, 1.0], [0.0, 0.5]])
    cut = [len(long) - n for n in range(0, 200, 4)]
    alike = [similarity(long, long[:n]) for n in cut]
    pulled = [soften_duplicates(sure, trigrams([long, long[:n]]))[0, 1] for n in cut]
    assert pulled[0] == 0.5 and pulled[-1] == 1 and alike[-1] < SIMILAR_FROM
    assert pulled == sorted(pulled)
    assert np.diff(pulled).max() < 0.1, "no jump"
