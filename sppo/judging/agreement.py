"""How well, how consistently and how confidently a preference model agrees with labelled pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sppo.algorithm.probability import sigmoid
from sppo.algorithm.sign_test import sign_test
from sppo.judging.labelled_pairs import Pair
from sppo.judging.preference_model import Comparison, PreferenceModel


def logits_of_pairs(model: PreferenceModel, pairs: Sequence[Pair]) -> np.ndarray:
    """(N, 2) float64: M[chosen, rejected] and M[rejected, chosen]."""
    comparisons = [
        Comparison(pair.prompt, *texts)
        for pair in pairs
        for texts in ((pair.chosen, pair.rejected), (pair.rejected, pair.chosen))
    ]
    return model.compare(comparisons).astype(np.float64).reshape(-1, 2)


def agreement(pairs: Sequence[Pair], logits: np.ndarray) -> dict[str, float]:
    """Figures of a model's `logits_of_pairs`; a share of no pairs is nan.

    Returns:
        pairs: how many.
        accuracy: share where the mean of both orders prefers the chosen response; ties count 1/2.
        standard_error: of the accuracy, binomial.
        longer_wins: accuracy of preferring the response with more characters; ties count 1/2.
        prefers_longer: share of the pairs of unequal length where the longer response is preferred; ties count 1/2.
        accuracy_longer: accuracy on the pairs whose chosen response is the longer one.
        accuracy_shorter: accuracy on the pairs whose chosen response is the shorter one.
        order_disagreement: share where the two orders prefer different responses.
        order_correlation: correlation of M[chosen, rejected] with -M[rejected, chosen].
        position_bias: mean of (M[a, b] + M[b, a]) / 2, the logit's edge of the response that is shown first.
        spread: root mean square of P - 1/2.
        nll: mean -log P(chosen beats rejected), in nats.
        calibration_error: see `calibration_error`.
    """
    forth, back = logits.T
    margin = (forth - back) / 2
    gap = np.array([len(pair.chosen) - len(pair.rejected) for pair in pairs])
    accuracy = _wins(margin)
    return {
        "pairs": len(pairs),
        "accuracy": accuracy,
        "standard_error": float(np.sqrt(accuracy * (1 - accuracy) / len(pairs))),
        "longer_wins": _wins(gap),
        "prefers_longer": _wins((margin * np.sign(gap))[gap != 0]),
        "accuracy_longer": _wins(margin[gap > 0]),
        "accuracy_shorter": _wins(margin[gap < 0]),
        "order_disagreement": float(np.mean(forth * back > 0)),
        "order_correlation": _correlation(forth, -back),
        "position_bias": float(np.mean((forth + back) / 2)),
        "spread": float(np.sqrt(np.mean((sigmoid(margin) - 0.5) ** 2))),
        "nll": mean_nll(margin),
        "calibration_error": calibration_error(reliability(logits)),
    }


class Bin(NamedTuple):
    """Pairs that a model is about equally sure of."""

    pairs: int
    confidence: float
    """Mean P of the response that the model prefers."""
    right: float
    """Share of the pairs where that is the chosen one; ties count 1/2."""


def reliability(logits: np.ndarray, bins: int = 10) -> list[Bin]:
    """The reliability curve: the pairs by P of the preferred response, in bins of as equal numbers as can be.

    Every pair would appear at P and at 1 - P, so the half from 1/2 to 1 says all.
    """
    margin = (logits[:, 0] - logits[:, 1]) / 2
    order = np.argsort(np.abs(margin), kind="stable")
    parts = [margin[rows] for rows in np.array_split(order, min(bins, len(order)))]
    return [Bin(len(part), float(np.mean(sigmoid(np.abs(part)))), _wins(part)) for part in parts]


def calibration_error(curve: Sequence[Bin]) -> float:
    """Expected calibration error: mean |confidence - right| of a pair's bin (Guo et al., arXiv 1706.04599, eq. 5)."""
    return sum(each.pairs * abs(each.confidence - each.right) for each in curve) / sum(each.pairs for each in curve)


def paired_test(old: np.ndarray, new: np.ndarray) -> dict[str, float]:
    """The exact McNemar test of whether two models differ in accuracy on the same pairs.

    Args:
        old: `logits_of_pairs` of one model.
        new: `logits_of_pairs` of the other, for the same pairs.

    Returns:
        pairs: how many.
        only_old: pairs that only the old model gets right; a tie is not right.
        only_new: pairs that only the new model gets right.
        p_value: of so uneven a division, either way, if both were right equally often (two-sided sign test).
    """
    old_right, new_right = ((logits[:, 0] > logits[:, 1]).astype(np.float64) for logits in (old, new))
    test = sign_test(new_right - old_right)
    return {"pairs": len(old), "only_old": test.losses, "only_new": test.wins, "p_value": test.p_value}


def mean_nll(margin: np.ndarray) -> float:
    """Mean -log sigmoid(margin), in nats."""
    return float(np.mean(np.logaddexp(0, -margin)))


def calibrate(logits: np.ndarray) -> float:
    """The temperature that minimises the mean -log P of the chosen responses, within 1/8 to 8 (arXiv 1706.04599)."""
    margin = (logits[:, 0] - logits[:, 1]) / 2
    temperatures = np.geomspace(1 / 8, 8, 385)
    return float(temperatures[np.argmin([mean_nll(margin / temperature) for temperature in temperatures])])


def _wins(margin: np.ndarray) -> float:
    """Share of positive margins, zeros as 1/2; nan of none."""
    return float(np.mean((margin > 0) + 0.5 * (margin == 0))) if len(margin) else float("nan")


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's correlation; 0 where one side does not vary."""
    return float(np.corrcoef(x, y)[0, 1]) if x.std() > 0 and y.std() > 0 else 0.0
