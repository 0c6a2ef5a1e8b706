"""How sure a figure over prompts is: bootstrap intervals.

Prompts are resampled and counted, not answers: answers to one prompt are not independent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

FEWEST = 6
"""Prompts that must differ for a finding: of five, even a sign test that they all win has p = 2/32, above 0.05.

The interval of so few may be a single point.
"""


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float

    def figures(self, name: str) -> dict[str, float]:
        """As tracked: the estimate under its name, and the ends beside it."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


def mean_interval(values: Values, resamples: int, seed: int) -> Interval:
    """The mean of per-prompt values, shape (N,), with its BCa interval."""
    return bca_interval(lambda weights: weights @ values / weights.sum(axis=-1), len(values), resamples, seed)


def bca_interval(statistic: Callable[[Values], Values], count: int, resamples: int, seed: int) -> Interval:
    """A statistic over prompts with its 95 % bias-corrected and accelerated bootstrap interval.

    Efron, "Better Bootstrap Confidence Intervals" (1987), with the acceleration from the jackknife. The interval of a
    statistic that no resample changes, as of prompts that are all won, is a point: it says nothing of unseen prompts.

    Args:
        statistic: takes how often each prompt counts, shape (R, count), and gives the R values.
        count: prompts, at least 1.
        resamples: bootstrap resamples.
        seed: of the resamples.
    """
    from scipy.special import ndtr, ndtri

    value = float(statistic(np.ones((1, count)))[0])
    if count == 1:
        return Interval(value, value, value)
    generator = np.random.default_rng(seed)
    resampled = statistic(generator.multinomial(count, np.full(count, 1 / count), resamples).astype(np.float64))
    # Equal values count half: a share of a few prompts takes few values, and often exactly the estimate's.
    close = np.isclose(resampled, value, rtol=0, atol=1e-12)
    below = np.mean((resampled < value) & ~close) + 0.5 * np.mean(close)
    bias = ndtri(np.clip(below, 0.5 / resamples, 1 - 0.5 / resamples))
    jackknife = statistic(1 - np.eye(count))
    deviations = jackknife.mean() - jackknife
    squares = float((deviations**2).sum())
    # Rounding leaves a trace of deviation in a statistic that is constant.
    acceleration = float((deviations**3).sum()) / (6 * squares**1.5) if squares > 1e-24 else 0.0
    shifted = bias + ndtri([0.025, 0.975])
    low, high = np.quantile(resampled, ndtr(bias + shifted / (1 - acceleration * shifted)))
    return Interval(value, float(low), float(high))
