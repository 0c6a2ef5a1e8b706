"""What a preference model is asked: single comparisons, each in one order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np


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
        """
        ...

    def figures(self) -> dict[str, float]:
        """What its comparisons cost and showed so far, by name; sums, so that shards can be added up."""
        ...

    def save(self, folder: Path) -> None:
        """Write what a reader of its verdicts may want to check, such as a transcript, if there is anything."""
        ...


@runtime_checkable
class OneByOne(Protocol):
    """A preference model whose judgements come one after the other and are paid for: each is kept as it comes."""

    def one_by_one(self, comparisons: Sequence[Comparison]) -> Iterator[tuple[int, float]]:
        """What `PreferenceModel.compare` returns: each comparison's number and its logit, in any order."""
        ...
