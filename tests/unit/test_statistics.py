import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import bootstrap

from sppo.evaluation.statistics import bca_interval, mean_interval

SHARES = st.lists(st.integers(0, 9).map(lambda wins: wins / 9), min_size=2, max_size=40)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50), st.integers(0, 1000))
def test_an_interval_lies_within_the_values_and_is_a_function_of_its_seed(values, seed):
    interval = mean_interval(np.array(values), 500, seed)
    assert min(values) - 1e-9 <= interval.low <= interval.high <= max(values) + 1e-9
    assert interval.value == pytest.approx(np.mean(values))
    assert interval == mean_interval(np.array(values), 500, seed)


@given(SHARES)
def test_the_interval_of_what_is_lost_is_the_mirror_of_what_is_won(values):
    won, lost = mean_interval(np.array(values), 500, 0), mean_interval(1 - np.array(values), 500, 0)
    np.testing.assert_allclose([1 - lost.high, 1 - lost.low], [won.low, won.high], atol=1e-9)


@pytest.mark.parametrize("value", [0.0, 1 / 3, 0.7, 1.0])
def test_equal_values_give_a_point(value):
    interval = mean_interval(np.full(9, value), 500, 0)
    assert [interval.value, interval.low, interval.high] == pytest.approx([value] * 3, abs=1e-12)


@pytest.mark.parametrize("shape", [0.3, 1.0, 3.0])
def test_intervals_are_those_of_scipy(shape):
    """Skewed values, so that bias and acceleration count; scipy's own are as random as ours."""
    values = np.random.default_rng(0).gamma(shape, size=40)
    ours = mean_interval(values, 50_000, 0)
    found = bootstrap((values,), np.mean, n_resamples=50_000, method="BCa", rng=np.random.default_rng(1))
    low, high = found.confidence_interval
    np.testing.assert_allclose([ours.low, ours.high], [low, high], atol=0.03 * (high - low))


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    generator = np.random.default_rng(0)
    hits = 0
    for trial in range(300):
        interval = mean_interval((generator.random(64) < 0.6).astype(float), 400, trial)
        hits += interval.low <= 0.6 <= interval.high
    assert 0.90 < hits / 300 < 0.985


def test_more_prompts_make_the_interval_narrower():
    values = np.tile([0.0, 1.0], 32)
    few, many = (mean_interval(np.tile(values, n), 1000, 0) for n in (1, 16))
    assert (many.high - many.low) == pytest.approx((few.high - few.low) / 4, rel=0.25)


def test_any_statistic_of_weighted_prompts_has_an_interval():
    values = np.random.default_rng(0).normal(3, 1, 200)
    interval = bca_interval(lambda w: (w @ values**2 / w.sum(axis=-1)) ** 0.5, len(values), 500, 0)
    assert interval.value == pytest.approx((values**2).mean() ** 0.5)
    assert interval.low < interval.value < interval.high
    assert interval.figures("x") == {"x": interval.value, "x_low": interval.low, "x_high": interval.high}
