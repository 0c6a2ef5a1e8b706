"""What a pair selection is: which responses of a prompt are trained on, by what the judge says of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Ranked(NamedTuple):
    """A prompt's K responses, ranked by the judge."""

    win: NDArray[np.float64]
    """P(y_i > pi_t | x), shape (K,)."""
    scores: NDArray[np.float64]
    """Mean logits (`sppo.algorithm.probability.mean_logits`), shape (K,)."""
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
        """The responses to train on; None where the prompt teaches nothing.

        The best one's probability or mean logit is above the worst one's.
        """
        ...


def select(selection: Selection, ranked: Ranked, settings: Settings) -> Selected | None:
    """What a selection selects, or None where it is nothing, or its pair is nearer than `minimum_margin`."""
    selected = selection.select(ranked, settings)
    if selected is None or abs(ranked.win[selected.best] - ranked.win[selected.worst]) < settings.minimum_margin:
        return None
    return selected


def first_and_last(ranked: Ranked, order: NDArray[np.float64]) -> tuple[int, int] | None:
    """Indices of the first response of the highest value and the first of the lowest.

    Args:
        ranked: the responses.
        order: a value of each, shape (K,).

    Returns:
        None where all are equally preferred: such a prompt teaches nothing.
    """
    first, last = int(np.argmax(order)), int(np.argmin(order))
    # Mean logits of equally preferred responses may differ by rounding; their probabilities do not.
    if order[first] == order[last] or ranked.win.max() == ranked.win.min():
        return None
    return first, last


def different(ranked: Ranked, pair: tuple[int, int]) -> list[int]:
    """Indices of the responses of another text than the pair's; of equal ones only the first."""
    taken = {ranked.texts[index] for index in pair}
    return [i for i, text in enumerate(ranked.texts) if text not in taken and text not in ranked.texts[:i]]
