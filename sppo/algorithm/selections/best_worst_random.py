"""The responses of highest and lowest mean logit, and one more of another text, drawn at random."""

from __future__ import annotations

import random

from sppo.algorithm.selections.base import Ranked, Selected, Settings, different, first_and_last


def select(ranked: Ranked, settings: Settings) -> Selected | None:
    """See `Selection.select`."""
    pair = first_and_last(ranked, ranked.scores)
    if pair is None:
        return None
    others = different(ranked, pair)
    return Selected(*pair, [random.Random(ranked.seed).choice(others)] if others else [])
