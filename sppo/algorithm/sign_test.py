"""The exact sign test: how likely a division into wins and losses so uneven is between equals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class SignTest:
    """How many pairs of values one side wins, loses and ties, and the p-value of that."""

    wins: int
    losses: int
    ties: int
    p_value: float


def sign_test(differences: NDArray[np.float64]) -> SignTest:
    """The exact two-sided sign test; of right and wrong answers it is McNemar's.

    Args:
        differences: one side's value less the other's for each of N pairs, shape (N,); 0 is a tie and left out.
    """
    from scipy.stats import binomtest

    wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
    p_value = float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0
    return SignTest(wins, losses, len(differences) - wins - losses, p_value)
