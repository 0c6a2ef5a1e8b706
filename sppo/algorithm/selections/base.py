"""What a pair selection is: which responses of a prompt are trained on, by their win probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Ranked(NamedTuple):
    """A prompt's K responses, ranked by the judge."""

    win: NDArray[np.float64]
    """P(y_i > pi_t | x), shape (K,)."""
    texts: Sequence[str]
    lengths: Sequence[int]
    """In tokens."""
    seed: int
    """Of random choices."""


class Selected(NamedTuple):
    """What a prompt trains on, as indices of its responses."""

    best: int
    worst: int
    others: list[int]
    """Further responses, of which there may be none."""


class Settings(Protocol):
    """The section `rank`, as far as selections read it."""

    @property
    def minimum_margin(self) -> float:
        """Least difference of the pair's probabilities."""
        ...

    @property
    def length_tolerance(self) -> float:
        """Largest difference in tokens, as a share of the longer response's."""
        ...


class Selection(Protocol):
    """A module of this folder."""

    def select(self, ranked: Ranked, settings: Settings) -> Selected | None:
        """The responses to train on, the best of which wins over the worst; None where the prompt teaches nothing."""
        ...


def select(selection: Selection, ranked: Ranked, settings: Settings) -> Selected | None:
    """What a selection selects, or None where it is nothing, or its pair is nearer than `minimum_margin`."""
    selected = selection.select(ranked, settings)
    if selected is None or ranked.win[selected.best] - ranked.win[selected.worst] < settings.minimum_margin:
        return None
    return selected


def different(ranked: Ranked, pair: tuple[int, int]) -> list[int]:
    """Indices of the responses of another text than the pair's; of equal ones only the first."""
    taken = {ranked.texts[index] for index in pair}
    return [i for i, text in enumerate(ranked.texts) if text not in taken and text not in ranked.texts[:i]]
