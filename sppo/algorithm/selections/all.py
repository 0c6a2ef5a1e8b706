"""Every response of another text, those of highest and lowest mean logit first."""

from __future__ import annotations

from sppo.algorithm.selections.base import Ranked, Selected, Settings, different, first_and_last


def select(ranked: Ranked, settings: Settings) -> Selected | None:
    """See `Selection.select`."""
    pair = first_and_last(ranked, ranked.scores)
    return Selected(*pair, different(ranked, pair)) if pair else None
