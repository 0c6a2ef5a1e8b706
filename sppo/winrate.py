"""Win rates on held-out prompts: which model's answers a preference model prefers, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sppo.probability import pairwise_probabilities

if TYPE_CHECKING:
    from sppo.preference.judge import Judge

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Contest:
    """The outcome of one model's answers against another's, prompt by prompt."""

    win_rates: Values
    """Share of a prompt's answer pairs that the first model wins; a tie counts 1/2. Shape (prompts,)."""
    probabilities: Values
    """Mean probability with which the first model's answer is preferred. Shape (prompts,)."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float


def contest(
    judge: Judge,
    prompts: Sequence[str],
    ours: Sequence[Sequence[str]],
    theirs: Sequence[Sequence[str]],
    temperature: float,
) -> Contest:
    """Judge every answer of one model against every answer of another to the same prompt, in both orders.

    Args:
        judge: the preference model.
        prompts: N prompts.
        ours: N lists of answers.
        theirs: N lists of answers.
        temperature: tau of the probabilities.
    """
    matrices = judge.logits(prompts, [[*a, *b] for a, b in zip(ours, theirs, strict=True)])
    win_rates, means = [], []
    for matrix, answers in zip(matrices, ours, strict=True):
        pairwise = pairwise_probabilities(np.asarray(matrix, dtype=np.float64), temperature)
        cross = pairwise[: len(answers), len(answers) :]
        win_rates.append(float(np.mean((cross > 0.5) + 0.5 * (cross == 0.5))))
        means.append(float(cross.mean()))
    return Contest(np.array(win_rates), np.array(means))


def bootstrap_interval(values: Values, resamples: int, seed: int) -> Interval:
    """The mean of per-prompt values with a 95 % percentile bootstrap interval over prompts.

    Prompts are resampled, not answers: answers to one prompt are not independent.
    """
    generator = np.random.default_rng(seed)
    means = values[generator.integers(0, len(values), (resamples, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(values.mean()), float(low), float(high))


def length_controlled_win_rate(win_rates: Values, length_gaps: Values) -> float:
    """The win rate that answers of equal length would have.

    A logistic regression of the win rate on tanh(gap / its standard deviation), read at a gap of 0: the length term of
    AlpacaEval 2's length-controlled win rate (Dubois et al., arXiv 2404.04475, section 3), without its instruction
    difficulty. A weak ridge keeps the slope finite when the lengths separate wins from losses.

    Args:
        win_rates: share of wins a prompt, shape (prompts,).
        length_gaps: mean length of our answers less theirs, in tokens, shape (prompts,).
    """
    from scipy.optimize import minimize

    spread = float(length_gaps.std())
    if spread == 0:
        return float(win_rates.mean())
    feature = np.tanh(length_gaps / spread)

    def negative_log_likelihood(theta: Values) -> float:
        logit = theta[0] + theta[1] * feature
        return float(np.sum(np.logaddexp(0, logit) - win_rates * logit) + 0.5e-3 * theta @ theta)

    intercept = minimize(negative_log_likelihood, np.zeros(2), method="BFGS").x[0]
    return float(1 / (1 + np.exp(-intercept)))
