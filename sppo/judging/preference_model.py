"""What a preference model is asked: single comparisons, each in one order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from sppo.errors import SppoError


class Comparison(NamedTuple):
    """Two different responses to a prompt, in the order in which they are shown."""

    prompt: str
    """The plain text of the user, without a chat template."""
    first: str
    second: str


class PreferenceModel(Protocol):
    """One kind of preference model, loaded; `sppo.judging.judge.Judge` is what the stages hold."""

    name: str
    """Identity for reports: where the model comes from and a digest of its files."""

    def compare(self, comparisons: Sequence[Comparison]) -> np.ndarray:
        """The logits with which the response shown first beats the one shown second.

        Args:
            comparisons: N comparisons. What concerns one prompt lies together, so that work on its texts can be shared.

        Returns:
            Float32, shape (N,), raw: the logits of both orders of a pair need not be each other's opposite, their sum
            is the position bias. A logit does not depend on the other comparisons, but for rounding.

        Raises:
            IncompleteError: if it failed after some comparisons whose logits were not for free.
        """
        ...

    def figures(self) -> dict[str, float]:
        """What its comparisons cost and showed so far, by name; sums, so that shards can be added up."""
        ...

    def save(self, folder: Path) -> None:
        """Write what a reader of its verdicts may want to check, such as a transcript, if there is anything."""
        ...


class IncompleteError(Exception):
    """A preference model failed on the way; its `Judge` keeps what it had judged until then and raises the cause."""

    def __init__(self, logits: np.ndarray, cause: SppoError) -> None:
        """Keep what is known.

        Args:
            logits: as `PreferenceModel.compare` returns them, NaN where there is none.
            cause: the failure.
        """
        super().__init__(str(cause))
        self.logits, self.cause = logits, cause
