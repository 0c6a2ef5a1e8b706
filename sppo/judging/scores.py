"""Preference models that score each response by itself: a comparison is the difference of two scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from sppo.judging.preference_model import Comparison

Scored = tuple[str, str]
"""A prompt and a response to it."""


def differences(
    comparisons: Sequence[Comparison], score: Callable[[Sequence[Scored]], Sequence[float] | np.ndarray]
) -> np.ndarray:
    """M_ij = s_i - s_j, float32, shape (N,): the Bradley-Terry model's logit, the same in both orders.

    Args:
        comparisons: N comparisons.
        score: gives the score of every prompt with its response, in logits; called once, with each once.
    """
    place: dict[Scored, int] = {}
    first = [place.setdefault((prompt, text), len(place)) for prompt, text, _ in comparisons]
    second = [place.setdefault((prompt, text), len(place)) for prompt, _, text in comparisons]
    scores = np.asarray(score(list(place)), np.float64)
    return (scores[first] - scores[second]).astype(np.float32)
