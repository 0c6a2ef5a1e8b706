"""From a preference model's raw logits to win probabilities (paper, sections 3 and 5.1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
Similarities = Callable[[Sequence[str]], Matrix]
"""How alike each two of K texts are, in [0, 1]; shape (K, K)."""

GRAM = 3
"""Characters of the n-grams by which two responses are compared."""
SIMILAR_FROM = 0.8
"""Similarity above which `soften_duplicates` begins to pull a probability towards 1/2."""


def pairwise_probabilities(logits: Matrix, temperature: float) -> Matrix:
    """P(y_i > y_j | x) = sigmoid((M_ij - M_ji) / 2 tau): the mean of both orders, kept pairwise.

    Args:
        logits: raw logits M of shape (K, K); M_ij is the logit that i, shown first, beats j.
        temperature: tau.

    Returns:
        Shape (K, K), with P + P^T = 1 and 1/2 on the diagonal. Preferences may be intransitive.
    """
    return sigmoid((logits - logits.T) / (2 * temperature))


def collapsed_probabilities(logits: Matrix, temperature: float) -> Matrix:
    """What the authors' released code computes: one score a response, then Bradley-Terry between the scores.

    The score is s_i = mean over j of (M_ij - M_ji), the *sum* of both orders, and P_ij = sigmoid((s_i - s_j) / tau).
    Intransitive preferences cannot be expressed. (github.com/uclaml/SPPO, scripts/compute_prob.py; the score is
    LLM-Blender's `rank(return_scores=True)`.)
    """
    scores = (logits - logits.T).mean(axis=1)
    return sigmoid((scores[:, None] - scores[None, :]) / temperature)


ESTIMATORS: dict[str, Callable[[Matrix, float], Matrix]] = {
    "paper": pairwise_probabilities,
    "official": collapsed_probabilities,
}


def trigrams(texts: Sequence[str]) -> Matrix:
    """The `similarity` of each two of K texts, shape (K, K)."""
    alike = np.eye(len(texts))
    for i in range(len(texts)):
        for j in range(i):
            alike[i, j] = alike[j, i] = similarity(texts[i], texts[j])
    return alike


def probabilities(
    logits: Matrix,
    texts: Sequence[str],
    estimator: str,
    temperature: float,
    soft_duplicates: bool = False,
    similarities: Similarities = trigrams,
) -> Matrix:
    """P of shape (K, K) by the named estimator; equal responses get exactly 1/2 against each other.

    Args:
        logits: raw, or with the part removed that length explains; shape (K, K).
        texts: the K responses.
        estimator: a name of `ESTIMATORS`.
        temperature: tau.
        soft_duplicates: whether nearly equal responses are treated by `soften_duplicates`.
        similarities: how alike they are.

    Raises:
        ValueError: if a logit is not finite.
    """
    if not np.isfinite(logits).all():
        raise ValueError("the preference model gave a logit that is not finite")
    estimate = ESTIMATORS[estimator](np.asarray(logits, dtype=np.float64), temperature)
    if soft_duplicates:
        estimate = soften_duplicates(estimate, similarities(texts))
    same = np.array([[a == b for b in texts] for a in texts])
    return np.where(same, 0.5, estimate)


def without_length(logits: Sequence[Matrix], lengths: Sequence[Sequence[int]]) -> list[Matrix]:
    """Logits of several prompts without the part that a difference in length explains.

    The margins d_ij = (M_ij - M_ji) / 2 of all prompts are regressed on the differences of length l_i - l_j by least
    squares through the origin (two responses of one length say nothing about length), and the fitted part is
    subtracted. What is left is uncorrelated with the difference of length; the position bias M_ij + M_ji stays.

    Args:
        logits: matrices of shape (K, K); K may differ.
        lengths: tokens of the responses, K for each matrix.

    Returns:
        Corrected logits; as they were where no lengths differ.
    """
    margins = [(np.asarray(m, np.float64) - np.asarray(m, np.float64).T) / 2 for m in logits]
    gaps = [np.subtract.outer(each, each).astype(np.float64) for each in map(np.asarray, lengths)]
    explained = sum(float((margin * gap).sum()) for margin, gap in zip(margins, gaps, strict=True))
    squares = sum(float((gap**2).sum()) for gap in gaps)
    slope = explained / squares if squares else 0.0
    return [matrix - slope * gap for matrix, gap in zip(logits, gaps, strict=True)]


def soften_duplicates(pairwise: Matrix, alike: Matrix) -> Matrix:
    """Pull P towards 1/2 where two responses nearly say the same.

    A judge that is sure of its verdict between two responses that nobody can tell apart sends the policy after noise
    (S-SPPO, arXiv 2606.01561, which compares meanings). The weight of P - 1/2 falls from 1 at a similarity of
    `SIMILAR_FROM` to 0 at 1 along 1 - (3 t^2 - 2 t^3), which is flat at both ends.

    Args:
        pairwise: P, shape (K, K).
        alike: similarities of the responses, in [0, 1], shape (K, K).
    """
    t = np.clip((alike - SIMILAR_FROM) / (1 - SIMILAR_FROM), 0, 1)
    result: Matrix = 0.5 + (1 - t**2 * (3 - 2 * t)) * (pairwise - 0.5)
    return result


def similarity(first: str, second: str) -> float:
    """Share of the character trigrams of two texts that they have in common (Jaccard, with multiplicity), in [0, 1].

    1 for equal texts; a text shorter than `GRAM` is one gram by itself.
    """
    one, other = _grams(first), _grams(second)
    return (one & other).total() / (one | other).total()


def _grams(text: str) -> Counter[str]:
    return Counter(text[i : i + GRAM] for i in range(max(1, len(text) - GRAM + 1)))


def win_probabilities(pairwise: Matrix) -> NDArray[np.float64]:
    """P(y_i > pi_t | x): the mean over the K samples of pi_t, the response itself included as 1/2. Shape (K,)."""
    result: NDArray[np.float64] = pairwise.mean(axis=1)
    return result


def mean_logits(logits: Matrix) -> NDArray[np.float64]:
    """How far a response is ahead of the K samples of pi_t, both orders averaged: ((M - M^T) / 2).mean(1). Shape (K,).

    The paper chooses a prompt's pair by it (section 5.1). With intransitive preferences it need not order responses as
    `win_probabilities` does: one clear win outweighs several narrow defeats.

    Args:
        logits: raw, or with the part removed that length explains; shape (K, K).
    """
    margins = np.asarray(logits, dtype=np.float64)
    result: NDArray[np.float64] = ((margins - margins.T) / 2).mean(axis=1)
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


def sigmoid(x: Matrix) -> Matrix:
    """1 / (1 + exp(-x)), element by element."""
    # exp of a negative number only, so that a large logit cannot overflow.
    small = np.exp(-np.abs(x))
    result: Matrix = np.where(x >= 0, 1.0, small) / (1.0 + small)
    return result
