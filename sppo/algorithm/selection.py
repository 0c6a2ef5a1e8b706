"""Which responses of a prompt are trained on, by their win probabilities."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Wins = NDArray[np.float64]


def best_and_worst(win: Wins) -> tuple[int, int] | None:
    """Indices of the most and the least preferred response (paper, section 5.1); ties go to the first.

    Returns:
        None where all are equally preferred: such a prompt teaches nothing.
    """
    best, worst = int(np.argmax(win)), int(np.argmin(win))
    return None if win[best] == win[worst] else (best, worst)


def length_matched(win: Wins, lengths: Sequence[int], tolerance: float) -> tuple[int, int] | None:
    """Indices of the two responses of like length whose win probabilities differ most; ties go to the first.

    Args:
        win: P(y_i > pi_t | x), shape (K,).
        lengths: tokens of the responses.
        tolerance: the largest difference in tokens, as a share of the longer one's.

    Returns:
        None where no two responses of like length differ.
    """
    size = np.asarray(lengths)
    alike = np.abs(np.subtract.outer(size, size)) <= tolerance * np.maximum.outer(size, size)
    gaps = np.where(alike, np.subtract.outer(win, win), 0.0)
    best, worst = divmod(int(gaps.argmax()), len(win))
    return (best, worst) if gaps[best, worst] > 0 else None


def select(
    win: Wins,
    texts: Sequence[str],
    lengths: Sequence[int],
    selection: str,
    *,
    minimum_margin: float,
    length_tolerance: float,
    seed: int,
) -> tuple[int, int, list[int]] | None:
    """What a prompt trains on.

    Args:
        win: P(y_i > pi_t | x), shape (K,).
        texts: the responses; of equal ones only the first is taken as a further response.
        lengths: their tokens.
        selection: as `rank.selection`.
        minimum_margin: least difference of the pair's probabilities.
        length_tolerance: see `length_matched`.
        seed: of the random third response.

    Returns:
        Indices of the chosen and the rejected response and of further ones, or None where the prompt is left out.
    """
    matched = selection == "length-matched"
    pair = length_matched(win, lengths, length_tolerance) if matched else best_and_worst(win)
    if pair is None or win[pair[0]] - win[pair[1]] < minimum_margin:
        return None
    taken = {texts[index] for index in pair}
    others = [i for i, text in enumerate(texts) if text not in taken and text not in texts[:i]]
    if selection == "all":
        return *pair, others
    if selection == "best-worst-random" and others:
        return *pair, [random.Random(seed).choice(others)]
    return *pair, []
