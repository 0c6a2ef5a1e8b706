"""Logits that are the same in both orders.

The difference of two scores, the skew-symmetric product of two embeddings, or the mean of a comparison's two orders.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from sppo.judging.preference_model import Comparison

if TYPE_CHECKING:
    import torch

Values = TypeVar("Values", np.ndarray, "torch.Tensor")

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
    first, second = _each_once(comparisons, score)
    return (first - second).astype(np.float32)


def skew_products(comparisons: Sequence[Comparison], embed: Callable[[Sequence[Scored]], np.ndarray]) -> np.ndarray:
    """M_ij = `skew`(e_i, e_j), float32, shape (N,): exactly -M_ji, and the K responses to a prompt are embedded once.

    Args:
        comparisons: N comparisons.
        embed: gives the embedding, shape (2m,), of every prompt with its response; called once, with each once.
    """
    return skew(*_each_once(comparisons, embed)).astype(np.float32)


def skew(first: Values, second: Values) -> Values:
    """The sum over planes of a_2k b_2k+1 - a_2k+1 b_2k: its sign turns with the order, and it can run in a circle.

    Score of the General Preference Model (Zhang et al., arXiv 2410.02197), the scales taken into the embeddings.

    Args:
        first: embeddings of the responses shown first, (…, 2m).
        second: of those shown second, (…, 2m).

    Returns:
        (…), the logits that the first wins.
    """
    turned = first[..., ::2] * second[..., 1::2] - first[..., 1::2] * second[..., ::2]
    return turned.sum(-1)


def _each_once(
    comparisons: Sequence[Comparison], values: Callable[[Sequence[Scored]], Sequence[float] | np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """The values of the responses shown first, and of those shown second; float64."""
    place: dict[Scored, int] = {}
    first = [place.setdefault((prompt, text), len(place)) for prompt, text, _ in comparisons]
    second = [place.setdefault((prompt, text), len(place)) for prompt, _, text in comparisons]
    found = np.asarray(values(list(place)), np.float64)
    return found[first], found[second]


def both_orders(
    comparisons: Sequence[Comparison], logit: Callable[[Sequence[Comparison]], Sequence[float] | np.ndarray]
) -> np.ndarray:
    """M_ab = (f(a, b) - f(b, a)) / 2, float32, shape (N,): exactly -M_ba, so the place of a response has no effect.

    Args:
        comparisons: N comparisons.
        logit: gives f of every comparison; called once, with each order of each comparison once.
    """
    place: dict[Comparison, int] = {}
    forth = [place.setdefault(each, len(place)) for each in comparisons]
    back = [place.setdefault(Comparison(each.prompt, each.second, each.first), len(place)) for each in comparisons]
    logits = np.asarray(logit(list(place)), np.float64)
    return ((logits[forth] - logits[back]) / 2).astype(np.float32)
