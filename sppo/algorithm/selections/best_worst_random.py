"""The most and the least preferred response, and one more of another text, drawn at random."""

from __future__ import annotations

import random

from sppo.algorithm.selections.base import Ranked, Selected, Settings, different
from sppo.algorithm.selections.best_worst import best_and_worst


def select(ranked: Ranked, settings: Settings) -> Selected | None:
    """See `Selection.select`."""
    pair = best_and_worst(ranked.win)
    if pair is None:
        return None
    others = different(ranked, pair)
    return Selected(*pair, [random.Random(ranked.seed).choice(others)] if others else [])
