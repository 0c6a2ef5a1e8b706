"""From a preference model's raw logits to win probabilities (paper, sections 3 and 5.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


def pairwise_probabilities(logits: Matrix, temperature: float) -> Matrix:
    """P(y_i > y_j | x) = sigmoid((M_ij - M_ji) / 2 tau): the mean of both orders, kept pairwise.

    Args:
        logits: raw logits M of shape (K, K); M_ij is the logit that i, shown first, beats j.
        temperature: tau.

    Returns:
        Shape (K, K), with P + P^T = 1 and 1/2 on the diagonal. Preferences may be intransitive.
    """
    return _sigmoid((logits - logits.T) / (2 * temperature))


def collapsed_probabilities(logits: Matrix, temperature: float) -> Matrix:
    """What the authors' released code computes: one score a response, then Bradley-Terry between the scores.

    The score is s_i = mean over j of (M_ij - M_ji), the *sum* of both orders, and P_ij = sigmoid((s_i - s_j) / tau).
    Intransitive preferences cannot be expressed. (github.com/uclaml/SPPO, scripts/compute_prob.py; the score is
    LLM-Blender's `rank(return_scores=True)`.)
    """
    scores = (logits - logits.T).mean(axis=1)
    return _sigmoid((scores[:, None] - scores[None, :]) / temperature)


ESTIMATORS: dict[str, Callable[[Matrix, float], Matrix]] = {
    "paper": pairwise_probabilities,
    "official": collapsed_probabilities,
}


def probabilities(logits: Matrix, texts: Sequence[str], estimator: str, temperature: float) -> Matrix:
    """P of shape (K, K) by the named estimator; equal responses get exactly 1/2 against each other.

    Raises:
        ValueError: if a logit is not finite.
    """
    if not np.isfinite(logits).all():
        raise ValueError("the preference model gave a logit that is not finite")
    estimate = ESTIMATORS[estimator](np.asarray(logits, dtype=np.float64), temperature)
    same = np.array([[a == b for b in texts] for a in texts])
    return np.where(same, 0.5, estimate)


def win_probabilities(pairwise: Matrix) -> NDArray[np.float64]:
    """P(y_i > pi_t | x): the mean over the K samples of pi_t, the response itself included as 1/2. Shape (K,)."""
    result: NDArray[np.float64] = pairwise.mean(axis=1)
    return result


def intransitive_triads(pairwise: Matrix) -> tuple[int, int]:
    """How many of the triples of responses form a cycle, and how many triples without a tie there are."""
    beats = (pairwise > 0.5).astype(int)
    count = len(pairwise)
    cycles = total = 0
    for a in range(count):
        for b in range(a + 1, count):
            for c in range(b + 1, count):
                wins = [beats[a, b] + beats[a, c], beats[b, a] + beats[b, c], beats[c, a] + beats[c, b]]
                if sum(wins) == 3:
                    total += 1
                    cycles += wins == [1, 1, 1]
    return cycles, total


def _sigmoid(x: Matrix) -> Matrix:
    # exp of a negative number only, so that a large logit cannot overflow.
    small = np.exp(-np.abs(x))
    result: Matrix = np.where(x >= 0, 1.0, small) / (1.0 + small)
    return result
