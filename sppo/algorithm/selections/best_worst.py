"""The responses of highest and lowest mean logit (paper, section 5.1)."""

from __future__ import annotations

from sppo.algorithm.selections.base import Ranked, Selected, Settings, first_and_last


def select(ranked: Ranked, settings: Settings) -> Selected | None:
    """See `Selection.select`."""
    pair = first_and_last(ranked, ranked.scores)
    return Selected(*pair, []) if pair else None
