"""What the rank and evaluate stages ask of a preference model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np


class PreferenceModel(Protocol):
    """Judges pairs of responses to one prompt."""

    name: str
    """Identity for reports and caches: where the model comes from and a digest of its files."""

    def logits(self, prompts: Sequence[str], responses: Sequence[Sequence[str]]) -> list[np.ndarray]:
        """Raw pairwise logits, in both orders.

        Args:
            prompts: N prompts, the plain user text without a chat template.
            responses: N lists of responses; their lengths K may differ.

        Returns:
            N float32 matrices M of shape (K, K): M[a, b] is the logit that response a, shown first, beats response b,
            shown second. M is not antisymmetric: M[a, b] + M[b, a] is the position bias. The diagonal and the
            entries of identical texts are 0. A prompt's matrix does not depend on the other prompts.
        """
        ...


Comparison = tuple[int, int, int]
"""(prompt index, index of the response shown first, index of the response shown second)"""


def comparisons(responses: Sequence[Sequence[str]]) -> list[tuple[Comparison, list[Comparison]]]:
    """The comparisons that need a forward pass, each with all entries that share its result.

    Responses of a prompt with equal text are judged once, and never against each other.
    """
    needed = []
    for i, texts in enumerate(responses):
        copies: dict[str, list[int]] = {}
        for k, text in enumerate(texts):
            copies.setdefault(text, []).append(k)
        for first in copies.values():
            for second in copies.values():
                if first is not second:
                    entries = [(i, a, b) for a in first for b in second]
                    needed.append((entries[0], entries))
    return needed


def zero_matrices(responses: Sequence[Sequence[str]]) -> list[np.ndarray]:
    """One (K, K) float32 matrix of zeros for each prompt."""
    return [np.zeros((len(texts), len(texts)), np.float32) for texts in responses]
