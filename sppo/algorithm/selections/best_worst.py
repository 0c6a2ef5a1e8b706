"""The most and the least preferred response (paper, section 5.1)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sppo.algorithm.selections.base import Ranked, Selected, Settings


def select(ranked: Ranked, settings: Settings) -> Selected | None:
    """See `Selection.select`."""
    pair = best_and_worst(ranked.win)
    return Selected(*pair, []) if pair else None


def best_and_worst(win: NDArray[np.float64]) -> tuple[int, int] | None:
    """Indices of the most and the least preferred response; ties go to the first.

    Returns:
        None where all are equally preferred: such a prompt teaches nothing.
    """
    best, worst = int(np.argmax(win)), int(np.argmin(win))
    return None if win[best] == win[worst] else (best, worst)
