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


def distinct(texts: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """The different texts in order of appearance, and (K,) where each text is among them.

    A matrix D over the different texts becomes the full one as D[np.ix_(where, where)]: equal texts share one judgement
    and meet on D's zero diagonal.
    """
    index: dict[str, int] = {}
    where = [index.setdefault(text, len(index)) for text in texts]
    return list(index), np.array(where, np.int64)
