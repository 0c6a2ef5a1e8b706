"""A preference model that is loaded when it is asked: where every judgement is known, its weights are not needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from sppo.judging.preference_model import Comparison, PreferenceModel


class OnDemand:
    """A preference model that may never be loaded; implements `PreferenceModel`."""

    def __init__(self, name: str, load: Callable[[], PreferenceModel]) -> None:
        """Keep how it is loaded.

        Args:
            name: that the loaded model would have.
            load: loads it; what this raises, the first comparison raises.
        """
        self.name = name
        self._load = load
        self._model: PreferenceModel | None = None

    def compare(self, comparisons: Sequence[Comparison]) -> np.ndarray:
        """See `PreferenceModel.compare`."""
        if self._model is None:
            self._model = self._load()
        return self._model.compare(comparisons)

    def figures(self) -> dict[str, float]:
        """See `PreferenceModel.figures`: nothing where it was not asked."""
        return self._model.figures() if self._model else {}

    def save(self, folder: Path) -> None:
        """See `PreferenceModel.save`."""
        if self._model:
            self._model.save(folder)
