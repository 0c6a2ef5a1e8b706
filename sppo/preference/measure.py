"""How well, how consistently and how confidently a preference model agrees with labelled pairs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sppo.preference.base import Comparison, PreferenceModel
from sppo.preference.pairs import Pair


def logits_of_pairs(model: PreferenceModel, pairs: Sequence[Pair]) -> np.ndarray:
    """(N, 2) float64: M[chosen, rejected] and M[rejected, chosen]."""
    comparisons = [
        Comparison(pair.prompt, *texts)
        for pair in pairs
        for texts in ((pair.chosen, pair.rejected), (pair.rejected, pair.chosen))
    ]
    return model.compare(comparisons).astype(np.float64).reshape(-1, 2)


def agreement(pairs: Sequence[Pair], logits: np.ndarray) -> dict[str, float]:
    """Figures of a model's `logits_of_pairs`.

    Returns:
        pairs: how many.
        accuracy: share where the mean of both orders prefers the chosen response; ties count 1/2.
        standard_error: of the accuracy, binomial.
        longer_wins: accuracy of preferring the response with more characters; ties count 1/2.
        order_disagreement: share where the two orders prefer different responses (position bias).
        order_correlation: correlation of M[chosen, rejected] with -M[rejected, chosen].
        spread: root mean square of P - 1/2.
        nll: mean -log P(chosen beats rejected), in nats.
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
        "order_disagreement": float(np.mean(forth * back > 0)),
        "order_correlation": _correlation(forth, -back),
        "spread": float(np.sqrt(np.mean((1 / (1 + np.exp(-margin)) - 0.5) ** 2))),
        "nll": mean_nll(margin),
    }


def mean_nll(margin: np.ndarray) -> float:
    """Mean -log sigmoid(margin), in nats."""
    return float(np.mean(np.logaddexp(0, -margin)))


def calibrate(logits: np.ndarray) -> float:
    """The temperature that minimises the mean -log P of the chosen responses, within 1/8 to 8 (arXiv 1706.04599)."""
    margin = (logits[:, 0] - logits[:, 1]) / 2
    temperatures = np.geomspace(1 / 8, 8, 385)
    return float(temperatures[np.argmin([mean_nll(margin / temperature) for temperature in temperatures])])


def _wins(margin: np.ndarray) -> float:
    return float(np.mean((margin > 0) + 0.5 * (margin == 0)))


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's correlation; 0 where one side does not vary."""
    return float(np.corrcoef(x, y)[0, 1]) if x.std() > 0 and y.std() > 0 else 0.0
