"""Win rates with the length of the answers taken out: the length-controlled one of AlpacaEval 2, and a slice of pairs.

The length-controlled win rate (Dubois et al., arXiv 2404.04475, section 3) comes from a logistic regression of the
preference on three terms: the model, tanh of the standardised length gap, and the instruction's difficulty times the
model's own slope on it. Its mean prediction at a gap of 0 is the win rate that answers of equal length would have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sppo.algorithm.probability import sigmoid

Values = NDArray[np.float64]

ALPACA_EVAL_STRENGTHS = tuple(np.logspace(-4, 4, 10).tolist())
"""Inverse strengths of the L1 penalty that alpaca_eval 0.6.6 cross-validates (scikit-learn's ten)."""
PLAIN = (100.0,)
"""What it fits with where it does not cross-validate."""
FOLDS = 5
ANCHOR_WEIGHT = 0.2 / 2
"""Weight of an anchor's row (alpaca_eval 0.6.6: 0.2, halved because the baseline was judged in two disguises)."""
STEPS = 40


@dataclass(frozen=True)
class Anchor:
    """AlpacaEval's regularising set: the baseline against itself told to be terse or verbose.

    Its rows have no model term, so they say how much length alone moves the judge. All are of shape (M,).
    """

    win_rates: Values
    gaps: Values
    """In standard deviations already, signed as those of the model."""
    difficulty: Values


def length_controlled_win_rate(
    win_rates: Values,
    length_gaps: Values,
    difficulty: Values | None = None,
    anchor: Anchor | None = None,
    strengths: Sequence[float] = PLAIN,
    weights: Values | None = None,
) -> Values:
    """The win rate that answers of equal length would have.

    AlpacaEval's figure needs its difficulties, its anchor and `ALPACA_EVAL_STRENGTHS`. Without them the regression has
    the model and the length term, and a weak penalty keeps the slope finite where lengths separate wins from losses; a
    cross-validated one would draw small samples to 1/2. Where one model's answers are longer to nearly every prompt, a
    gap of 0 is an extrapolation, and only the interval tells how far.

    Args:
        win_rates: share of wins a prompt, shape (N,).
        length_gaps: our length less theirs a prompt, in any unit, shape (N,).
        difficulty: of each prompt, shape (N,).
        anchor: the regularising set; goes with `difficulty`.
        strengths: inverse strengths of the penalty; of several, five-fold cross-validation takes one.
        weights: how often each prompt counts, shape (..., N), for resampling; once each if None.

    Returns:
        Shape (...): one rate for each row of weights.
    """
    spread = length_gaps.std(ddof=1)
    length = np.tanh(length_gaps / spread) if spread > 0 else np.zeros_like(length_gaps)
    terms = [np.ones_like(length)] if difficulty is None else [np.ones_like(length), difficulty]
    features, targets = np.stack([length, *terms], axis=1), win_rates
    counts = np.ones_like(win_rates) if weights is None else weights
    fitted = counts
    if anchor is not None:
        disguised = np.stack([np.tanh(anchor.gaps), np.zeros_like(anchor.gaps), anchor.difficulty], axis=1)
        features, targets = np.concatenate([disguised, features]), np.concatenate([anchor.win_rates, targets])
        fitted = np.concatenate([np.full((*counts.shape[:-1], len(disguised)), ANCHOR_WEIGHT), counts], axis=-1)
    strength = strengths[0] if len(strengths) == 1 else _cross_validate(features, targets, fitted, strengths)
    at_no_gap = sigmoid(_fit(features, targets, fitted, strength)[..., 1:] @ np.stack(terms))
    result: Values = (counts * at_no_gap).sum(axis=-1) / counts.sum(axis=-1)
    return result


def length_matched(outcomes: Values, ours: Values, theirs: Values, tolerance: float) -> Values:
    """The win rates over only those pairs of answers whose lengths are alike, of the prompts that have such a pair.

    Args:
        outcomes: of each pair, shape (N, A, B).
        ours: lengths of our A answers, shape (N, A).
        theirs: lengths of their B answers, shape (N, B).
        tolerance: largest difference, as a share of the longer one's length.

    Returns:
        Shape (prompts with such a pair,).
    """
    a, b = ours[:, :, None], theirs[:, None, :]
    alike = np.abs(a - b) <= tolerance * np.maximum(a, b)
    counts = alike.sum(axis=(1, 2))
    some = counts > 0
    result: Values = (outcomes * alike).sum(axis=(1, 2))[some] / counts[some]
    return result


def _cross_validate(features: Values, targets: Values, weights: Values, strengths: Sequence[float]) -> float:
    """The strength with the least held-out log loss, averaged over folds that take every fifth row."""
    held_out = np.arange(len(targets)) % FOLDS == np.arange(FOLDS)[:, None]
    losses = []
    for strength in strengths:
        logits = _fit(features, targets, weights * ~held_out, strength) @ features.T
        loss = weights * (np.logaddexp(0, logits) - targets * logits)
        losses.append(float(((loss * held_out).sum(axis=1) / held_out.sum(axis=1)).mean()))
    return strengths[int(np.argmin(losses))]


def _fit(features: Values, targets: Values, weights: Values, strength: float) -> Values:
    """The theta that minimise |theta|_1 + strength * (weighted log loss), shape (..., k), for weights (..., n).

    Newton's method on all rows of weights at once; |theta| is sqrt(theta^2 + eps^2) with an eps that halves each step.
    """
    products = (features[:, :, None] * features[:, None, :]).reshape(len(features), -1)
    size = features.shape[1]
    theta = np.zeros((*weights.shape[:-1], size))
    for step in range(STEPS):
        predicted = sigmoid(theta @ features.T)
        penalty = 1 / (strength * np.sqrt(theta**2 + 0.25**step))
        gradient = (weights * (predicted - targets)) @ features + penalty * theta
        curvature = ((weights * predicted * (1 - predicted)) @ products).reshape(*theta.shape, size)
        curvature += penalty[..., None] * np.eye(size)
        theta = theta - np.clip(np.linalg.solve(curvature, gradient[..., None])[..., 0], -1, 1)
    return theta
