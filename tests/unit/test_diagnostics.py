import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sppo.algorithm.probability import probabilities
from sppo.judging.diagnostics import BINS, add, count, distribution, figures


@st.composite
def judged(draw):
    """Logits, probabilities, texts of which some are equal, and lengths of a prompt's responses."""
    k = draw(st.integers(2, 5))
    texts = draw(st.lists(st.sampled_from("abcdef"), min_size=k, max_size=k))
    logits = draw(arrays(np.float64, (k, k), elements=st.floats(-9, 9)))
    lengths = draw(st.lists(st.integers(0, 9), min_size=k, max_size=k))
    return logits, probabilities(logits, texts, "paper", 1.0), texts, lengths


@given(judged(), st.data())
def test_the_order_of_the_responses_does_not_matter(drawn, data):
    logits, p, texts, lengths = drawn
    order = data.draw(st.permutations(range(len(texts))))
    place = np.ix_(order, order)
    shuffled = count(logits[place], p[place], [texts[i] for i in order], [lengths[i] for i in order])
    assert shuffled == pytest.approx(count(*drawn), abs=1e-9)


@given(st.lists(judged(), min_size=1, max_size=4))
def test_figures_are_shares_and_the_distribution_is_symmetric(prompts):
    total = add(count(*each) for each in prompts)
    found = figures(total)
    bias = found.pop("rank/position_bias")
    assert -9 <= bias <= 9 and all(0 <= value <= 1 for value in found.values())
    bins = distribution(total)
    assert len(bins) == BINS and bins == bins[::-1]
    assert sum(bins) == total["different"]


def test_verdicts_worked_out_by_hand():
    """a beats b in both orders by 3 and 1; a and c: whichever is first wins; b and c: 0 and -2; c is said twice.

    Lengths 5, 3, 9, 9. P: a over b sigmoid(2) = 0.88; a and c tie, (2 - 2)/2; b over c sigmoid(1) = 0.73.
    """
    logits = np.array([[0, 3.0, 2.0, 2.0], [-1.0, 0, 0, 0], [2.0, -2.0, 0, 0], [2.0, -2.0, 0, 0]])
    texts = ["a", "b", "c", "c"]
    total = count(logits, probabilities(logits, texts, "paper", 1.0), texts, [5, 3, 9, 9])
    found = figures(total)
    assert found["rank/order_agreement"] == pytest.approx(3 / 5)
    assert found["rank/position_bias"] == pytest.approx((1 + 2 + 2 - 1 - 1) / 5)
    assert found["rank/longer_preferred"] == pytest.approx(1 / 3)
    assert found["rank/duplicate_fraction"] == 1 / 4
    margin = [1 / (1 + np.exp(-2)) - 0.5, 1 / (1 + np.exp(-1)) - 0.5]
    assert found["rank/saturation"] == pytest.approx(2 * np.sqrt(2 * (margin[0] ** 2 + 2 * margin[1] ** 2) / 12))
    expected = dict.fromkeys((2, 17), 0.5) | dict.fromkeys((5, 14), 1.0) | dict.fromkeys((9, 10), 1.0)
    assert {place: value for place, value in enumerate(distribution(total)) if value} == expected


def test_nothing_compared_gives_figures_all_the_same():
    total = count(np.zeros((2, 2)), np.full((2, 2), 0.5), ["same", "same"], [1, 1])
    assert figures(total) == {
        "rank/saturation": 0,
        "rank/duplicate_fraction": 0.5,
        "rank/intransitive_fraction": 0,
        "rank/order_agreement": 0,
        "rank/position_bias": 0,
        "rank/longer_preferred": 0,
    }
    assert distribution(total) == [0] * BINS
