"""The judge of a run: a preference model that is never asked the same twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import permutations
from pathlib import Path

import numpy as np

from sppo.judging.cache import JudgementCache
from sppo.judging.preference_model import Comparison, OneByOne, PreferenceModel


class Judge:
    """A preference model as the stages ask it: whole matrices of responses.

    Attributes:
        name: identity for reports.
    """

    def __init__(self, model: PreferenceModel, cache: JudgementCache | None = None) -> None:
        self.model, self.cache = model, cache
        self.name = model.name
        self._asked = self._found = 0

    def logits(self, prompts: Sequence[str], responses: Sequence[Sequence[str]]) -> list[np.ndarray]:
        """Raw pairwise logits, in both orders.

        Args:
            prompts: N prompts, the plain user text without a chat template.
            responses: N lists of responses; their lengths K may differ.

        Returns:
            N float32 matrices M of shape (K, K): M[a, b] is the logit that response a, shown first, beats response b,
            shown second. M is not antisymmetric: M[a, b] + M[b, a] is the position bias. The diagonal and the entries
            of identical texts are 0.
        """
        wanted = [
            Comparison(prompt, first, second)
            for prompt, texts in zip(prompts, responses, strict=True)
            for first, second in permutations(texts, 2)
        ]
        values = iter(self.compare(wanted))
        return [_matrix(len(texts), values) for texts in responses]

    def compare(self, comparisons: Sequence[Comparison]) -> np.ndarray:
        """The logit of every comparison, float32, shape (N,).

        Identical responses get 0 unasked, a repeated comparison is asked once, one in the cache not at all.
        """
        index: dict[Comparison, int] = {}
        where = [index.setdefault(each, len(index)) if each.first != each.second else -1 for each in comparisons]
        different = list(index)
        known = self.cache.get(different) if self.cache else np.full(len(different), np.nan, np.float32)
        missing = [row for row in range(len(different)) if np.isnan(known[row])]
        if missing:
            known[missing] = self._ask([different[row] for row in missing])
        self._asked += len(missing)
        self._found += len(different) - len(missing)
        return np.append(known, np.float32(0))[where] if where else known

    def _ask(self, comparisons: Sequence[Comparison]) -> np.ndarray:
        if self.cache is None:
            return self.model.compare(comparisons)
        if not isinstance(self.model, OneByOne):
            logits = self.model.compare(comparisons)
            self.cache.put(comparisons, logits)
            return logits
        logits = np.full(len(comparisons), np.nan, np.float32)
        for row, logit in self.model.one_by_one(comparisons):
            logits[row] = logit
            self.cache.put([comparisons[row]], logits[row : row + 1])
        return logits

    def figures(self) -> dict[str, float]:
        """Sums over all calls: the model's own, and how many comparisons it was asked and the cache knew."""
        return {**self.model.figures(), "asked": float(self._asked), "cached": float(self._found)}

    def tracked(self) -> dict[str, float]:
        """`figures` under the names by which they are tracked."""
        return {f"judge/{name}": value for name, value in self.figures().items()}

    def save(self, folder: Path) -> None:
        """See `PreferenceModel.save`."""
        self.model.save(folder)


def _matrix(size: int, values: Iterator[np.float32]) -> np.ndarray:
    matrix = np.zeros((size, size), np.float32)
    for place in permutations(range(size), 2):
        matrix[place] = next(values)
    return matrix
