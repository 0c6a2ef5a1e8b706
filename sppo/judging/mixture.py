"""Several preference models as one: a weighted mean of their calibrated logits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sppo.algorithm.probability import sigmoid
from sppo.config.sections.judge import MixtureMember
from sppo.judging.preference_model import Comparison, PreferenceModel


class Mixture:
    """Preference models that vote; implements `PreferenceModel`."""

    def __init__(self, members: Sequence[MixtureMember], models: Sequence[PreferenceModel]) -> None:
        """Mix models that are loaded.

        Args:
            members: weight and temperature of each.
            models: the models, in the same order.
        """
        self.models = models
        self.temperatures = np.array([member.temperature for member in members])
        weights = np.array([member.weight for member in members])
        self.shares = weights / weights.sum()
        self.name = "mixture of " + ", ".join(
            f"{share:.2f} {model.name}" for share, model in zip(self.shares, models, strict=True)
        )
        self._sums = dict.fromkeys(("compared", "disagreements", "deviation"), 0.0)

    def compare(self, comparisons: Sequence[Comparison]) -> np.ndarray:
        """See `PreferenceModel.compare`: M = sum of w_k M_k / temperature_k, the weights w summing to 1."""
        logits = np.stack([model.compare(comparisons).astype(np.float64) for model in self.models])
        logits /= self.temperatures[:, None]
        mixed: np.ndarray = self.shares @ logits
        self._sums["compared"] += len(comparisons)
        self._sums["disagreements"] += float(np.sum((logits > 0).any(axis=0) & (logits < 0).any(axis=0)))
        deviations = np.abs(sigmoid(logits) - sigmoid(mixed))
        self._sums["deviation"] += float((self.shares @ deviations).sum())
        return mixed.astype(np.float32)

    def figures(self) -> dict[str, float]:
        """See `PreferenceModel.figures`; those of member k, counted from 1, begin with `member_k_`.

        Returns:
            compared: comparisons; what the following are to be divided by.
            disagreements: comparisons in which one member prefers the first response and another the second.
            deviation: the sum of the members' weighted mean |P_k - P|, P being the probability of the mixture.
        """
        own = {
            f"member_{number}_{name}": value
            for number, model in enumerate(self.models, start=1)
            for name, value in model.figures().items()
        }
        return {**self._sums, **own}

    def save(self, folder: Path) -> None:
        """See `PreferenceModel.save`; each member writes into a folder of its own, `member_k`."""
        for number, model in enumerate(self.models, start=1):
            place = folder / f"member_{number}"
            place.mkdir()
            model.save(place)
            if not any(place.iterdir()):
                place.rmdir()
