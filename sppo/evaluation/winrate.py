"""Contests on held-out prompts: which model's answers a preference model prefers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sppo.algorithm.probability import sigmoid
from sppo.errors import RunFailedError
from sppo.judging.preference_model import Comparison

if TYPE_CHECKING:
    from sppo.judging.judge import Judge

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Contest:
    """The outcome of one model's A answers against another's B, on N prompts."""

    outcomes: Values
    """1 where our answer is preferred, 0 where theirs, 1/2 in a tie. Shape (N, A, B)."""
    probabilities: Values
    """With which our answer is preferred, P(a > b) as `rank` has it. Shape (N, A, B)."""

    @property
    def win_rates(self) -> Values:
        """Share of each prompt's answer pairs that we win, shape (N,)."""
        result: Values = self.outcomes.mean(axis=(1, 2))
        return result

    @property
    def mean_probabilities(self) -> Values:
        """Mean of each prompt's probabilities, shape (N,)."""
        result: Values = self.probabilities.mean(axis=(1, 2))
        return result


def contest(
    judge: Judge,
    prompts: Sequence[str],
    ours: Sequence[Sequence[str]],
    theirs: Sequence[Sequence[str]],
    temperature: float,
) -> Contest:
    """Judge every answer of one model against every answer of another to the same prompt, in both orders.

    A pair is tied where the two orders' logits cancel exactly, as those of equal texts do. In bfloat16 that happens to
    close pairs too.

    Args:
        judge: the preference model.
        prompts: N prompts.
        ours: N lists of A answers.
        theirs: N lists of B answers.
        temperature: tau of the probabilities.

    Raises:
        RunFailedError: if a logit is not finite.
    """
    pairs = [(x, a, b) for x, left, right in zip(prompts, ours, theirs, strict=True) for a, b in product(left, right)]
    # Both orders of a pair lie together, and so do the pairs of a prompt.
    asked = [Comparison(x, *order) for x, a, b in pairs for order in ((a, b), (b, a))]
    logits = judge.compare(asked).astype(np.float64)
    if not np.isfinite(logits).all():
        prompt = asked[int(np.argmin(np.isfinite(logits)))].prompt
        raise RunFailedError(
            f"{judge.name}: a logit is not finite for the prompt {prompt[:60]!r}; try judge.dtype=float32"
        )
    margins = (logits[0::2] - logits[1::2]).reshape(len(prompts), len(ours[0]), len(theirs[0]))
    return Contest((1 + np.sign(margins)) / 2, sigmoid(margins / (2 * temperature)))


def disagreement(first: Sequence[Contest], second: Sequence[Contest]) -> float:
    """Share of the answer pairs of some contests on which two judges differ; a tie differs from a win."""
    differs = [(a.outcomes != b.outcomes).ravel() for a, b in zip(first, second, strict=True)]
    return float(np.concatenate(differs).mean())
