"""What a judge's verdicts look like: sums over prompts, so that shards can be added up, and the figures of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

import numpy as np

from sppo.algorithm.probability import Matrix, intransitive_triads

BINS = 20
"""Bins of equal width of the distribution of P over [0, 1]."""


def count(logits: Matrix, pairwise: Matrix, texts: Sequence[str], lengths: Sequence[int]) -> dict[str, float]:
    """What the verdicts on one prompt add to the sums.

    Args:
        logits: the judge's raw logits M, shape (K, K).
        pairwise: P(y_i > y_j | x), shape (K, K).
        texts: the K responses.
        lengths: their lengths, in any unit.
    """
    size = len(texts)
    cycles, triads = intransitive_triads(pairwise)
    # Equal responses are no question to a judge.
    different = np.array([(i, j) for i, j in combinations(range(size), 2) if texts[i] != texts[j]], int).reshape(-1, 2)
    i, j = different.T
    forth, back, p = logits[i, j], logits[j, i], pairwise[i, j]
    longer = np.sign(np.asarray(lengths)[i] - np.asarray(lengths)[j])
    decided = (p != 0.5) & (longer != 0)
    total = {
        "responses": size,
        "duplicates": size - len(set(texts)),
        "cycles": cycles,
        "triads": triads,
        "squared_margin": ((pairwise - 0.5) ** 2).sum(),
        "entries": size * (size - 1),
        "different": len(different),
        "orders_agree": (forth * back <= 0).sum(),
        "bias": ((forth + back) / 2).sum(),
        "decided": decided.sum(),
        "longer": (decided & ((p > 0.5) == (longer > 0))).sum(),
    }
    # Each pair of responses counts one half as P and one half as 1 - P: their order has no meaning.
    histogram = np.histogram(p, BINS, (0, 1))[0]
    total |= dict(zip(_BIN_NAMES, (histogram + histogram[::-1]) / 2, strict=True))
    return {name: float(value) for name, value in total.items()}


def add(sums: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Sums of several prompts, or shards, as one."""
    total: Counter[str] = Counter()
    for each in sums:
        total.update(each)
    return dict(total)


def figures(total: Mapping[str, float]) -> dict[str, float]:
    """The figures of verdicts from their sums; docs/metrics.md says what each means."""
    return {
        "rank/saturation": 2 * float(np.sqrt(total["squared_margin"] / max(total["entries"], 1.0))),
        "rank/duplicate_fraction": total["duplicates"] / max(total["responses"], 1.0),
        "rank/intransitive_fraction": total["cycles"] / max(total["triads"], 1.0),
        "rank/order_agreement": total["orders_agree"] / max(total["different"], 1.0),
        "rank/position_bias": total["bias"] / max(total["different"], 1.0),
        "rank/longer_preferred": total["longer"] / max(total["decided"], 1.0),
    }


def distribution(total: Mapping[str, float]) -> list[float]:
    """How many pairs of different responses have their P in each of the `BINS`."""
    return [total[name] for name in _BIN_NAMES]


_BIN_NAMES = [f"p_bin_{index:02}" for index in range(BINS)]
