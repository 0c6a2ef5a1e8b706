"""The two responses of like length whose win probabilities differ most."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sppo.algorithm.selections.base import Ranked, Selected, Settings


def select(ranked: Ranked, settings: Settings) -> Selected | None:
    """See `Selection.select`."""
    pair = length_matched(ranked.win, ranked.lengths, settings.length_tolerance)
    return Selected(*pair, []) if pair else None


def length_matched(win: NDArray[np.float64], lengths: Sequence[int], tolerance: float) -> tuple[int, int] | None:
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
